//! QEMU's control socket: the power button.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Presses the power button.
pub fn power_down(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    let mut answer = || answers.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
    // A greeting, then an answer for each command.
    answer()?;
    for command in ["qmp_capabilities", "system_powerdown"] {
        writeln!(stream, "{{\"execute\":\"{command}\"}}")?;
        let text = answer()?;
        if text.contains("\"error\"") {
            return Err(io::Error::other(text));
        }
    }
    Ok(())
}
