//! A TCP connection with segments, calls and time from the input.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rumpnet::tcp::fuzz::run(bytes));
