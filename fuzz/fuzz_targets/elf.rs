//! Programs and libraries: the ELF reader, the loader's cache, the first line of scripts.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(found) = toolchain::elf::inspect(bytes) {
        assert!(found.needed.iter().all(|name| !name.is_empty()));
    }
    toolchain::follow::loader_cache::parse(bytes);
    toolchain::follow::parse_script(bytes);
});
