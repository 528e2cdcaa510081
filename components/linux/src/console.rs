//! Messages of the personality on the console.

use alloc::string::String;
use core::fmt::{Arguments, Write};

/// Writes one line to the console.
pub fn message(text: Arguments<'_>) {
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = line.write_fmt(text);
    line.push_str("\r\n");
    rumpuser::rumpuser_console_write(line.as_bytes());
}
