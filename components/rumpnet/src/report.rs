//! What the network says on the console.

use core::fmt;

use rumpuser::rumpuser_console_write;

/// Writes a line. For what whoever runs the machine must know; may sleep.
pub(crate) fn report(arguments: fmt::Arguments<'_>) {
    let line = alloc::format!("{arguments}\r\n");
    rumpuser_console_write(line.as_bytes());
}
