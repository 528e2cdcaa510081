//! A disk of Xen whose backend does what the input says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| xenfront::fuzz::block(bytes));
