//! A kernel as cargo built it, which may as well be damaged in the cache.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = toolchain::boot_elf::Kernel::parse(bytes);
});
