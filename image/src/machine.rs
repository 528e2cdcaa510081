//! How the launcher and the kernel talk while a machine runs: ports, names and formats that both sides use.

/// The fw_cfg file whose text the kernel appends to its command line (QEMU:
/// `-fw_cfg name=opt/rumprun/cmdline,string=...`). It works for every image format, ISO and raw disk included.
pub const COMMAND_LINE_FILE: &str = "opt/rumprun/cmdline";

/// The longest text of [`COMMAND_LINE_FILE`] that the kernel reads, in bytes.
pub const COMMAND_LINE_LIMIT: usize = 64 << 10;

/// The I/O port that takes the status lines, a byte per write. QEMU gives them to the launcher with
/// `-chardev file,id=status,path=... -device isa-debugcon,iobase=0x5f0,chardev=status`; where nothing listens, the
/// writes are lost. Reading the port gives [`STATUS_PRESENT`] where something listens.
pub const STATUS_PORT: u16 = 0x5f0;

/// The I/O port that takes traces, where a debug console listens; otherwise they go to the console. Distinct from the
/// console, so that a trace doesn't run into what the program prints.
pub const TRACE_PORT: u16 = 0x5f1;

/// What a read of [`STATUS_PORT`] or [`TRACE_PORT`] returns where a debug console listens (QEMU's `readback` default).
pub const STATUS_PRESENT: u8 = 0xe9;

/// What the kernel tells the launcher. Every message is one line of [`STATUS_PORT`], as [`Status::line`] gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `ready`: somebody reads the console's input. What is sent earlier may be lost, or taken by the firmware.
    Ready,
    /// `exit N`: the image ended in order, with this status.
    Exit(u8),
    /// `panic`: the kernel panicked; the console has the report.
    Panic,
    /// `reboot`: the image asked for a restart.
    Reboot,
}

impl Status {
    /// The line, newline included, as bytes in `buffer`.
    pub fn line(self, buffer: &mut [u8; 16]) -> &[u8] {
        match self {
            Status::Ready => b"ready\n",
            Status::Panic => b"panic\n",
            Status::Reboot => b"reboot\n",
            Status::Exit(status) => {
                let digits = [b'0' + status / 100, b'0' + status / 10 % 10, b'0' + status % 10];
                let skip = if status >= 100 {
                    0
                } else if status >= 10 {
                    1
                } else {
                    2
                };
                let line = b"exit ".iter().chain(&digits[skip..]).chain(b"\n");
                let mut length = 0;
                for (slot, byte) in buffer.iter_mut().zip(line) {
                    *slot = *byte;
                    length += 1;
                }
                &buffer[..length]
            }
        }
    }

    /// Reads a line, with or without its newline; `None` if it isn't one of ours.
    pub fn parse(line: &str) -> Option<Status> {
        match line.trim_end() {
            "ready" => Some(Status::Ready),
            "panic" => Some(Status::Panic),
            "reboot" => Some(Status::Reboot),
            other => other.strip_prefix("exit ")?.parse().ok().map(Status::Exit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn lines_read_back() {
        for status in (0..=255).map(Status::Exit).chain([Status::Ready, Status::Panic, Status::Reboot]) {
            let mut buffer = [0; 16];
            let line = core::str::from_utf8(status.line(&mut buffer)).expect("ASCII");
            assert!(line.ends_with('\n'));
            assert_eq!(Status::parse(line), Some(status));
        }
        assert_eq!(Status::parse("exit 256"), None);
        assert_eq!(Status::parse("exits 1"), None);
    }
}
