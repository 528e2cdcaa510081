//! The console's ring, and xenstore's messages, whose other side does what the input says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    platform_xen::fuzz::console(bytes);
    platform_xen::fuzz::store(bytes);
});
