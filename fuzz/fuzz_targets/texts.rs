//! Texts: configuration files, commands, and the command line of a run, which must read back.
#![no_main]

use image::command_line::CommandLine;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let line = CommandLine::parse(bytes);
    assert_eq!(CommandLine::parse(line.render().as_bytes()), line);
    let _ = toolchain::programs::split(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = toolchain::configuration::parse_any(text);
        let _ = toolchain::size::parse(text, 20);
        let _ = image::machine::Status::parse(text);
    }
});
