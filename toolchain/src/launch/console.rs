//! Our standard input and output as the guest's console.

use std::{
    io::{self, IsTerminal, Read, Write},
    path::Path,
    process::{ChildStdin, ChildStdout},
    thread,
    time::{Duration, Instant},
};

use image::machine::Status;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// A guest that has said nothing for so long, says nothing at all.
const READY_LIMIT: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(5);
/// The end of input, to a terminal line discipline.
const END_OF_INPUT: u8 = 4;

/// Puts the terminal back as it was when dropped.
#[derive(Debug)]
pub struct Terminal {
    saved: Option<Termios>,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, saved);
        }
    }
}

/// Whether the guest has said anything in its `status` file: first of all it says that it reads its console.
pub fn is_ready(status: &Path) -> bool {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    text.lines().any(|line| Status::parse(line).is_some())
}

/// Waits until the guest says that it reads its console. Input that comes earlier is lost in the UART's start, or
/// taken for answers to the firmware.
fn wait_until_ready(is_ready: impl Fn() -> bool) {
    let start = Instant::now();
    while start.elapsed() < READY_LIMIT {
        if is_ready() {
            return;
        }
        thread::sleep(READY_POLL);
    }
}

/// Copies standard input to the guest once it is ready; byte by byte on a terminal,
/// because the guest echoes and edits.
pub fn forward(mut guest: ChildStdin, is_ready: impl Fn() -> bool + Send + 'static) -> Terminal {
    let mut terminal = Terminal { saved: None };
    if io::stdin().is_terminal()
        && let Ok(settings) = tcgetattr(io::stdin())
    {
        let mut raw = settings.clone();
        // Signals stay with us: they are forwarded as an orderly stop.
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        if tcsetattr(io::stdin(), OptionalActions::Now, &raw).is_ok() {
            terminal.saved = Some(settings);
        }
    }
    thread::spawn(move || {
        wait_until_ready(is_ready);
        let mut buffer = [0; 4096];
        let mut last = b'\n';
        loop {
            match io::stdin().lock().read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    last = buffer[length - 1];
                    if guest.write_all(&buffer[..length]).and_then(|()| guest.flush()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whoever shares our input with us made it so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(READY_POLL),
                Err(_) => break,
            }
        }
        // In the middle of a line the first one only completes the line.
        let ends: &[u8] = if last == b'\n' { &[END_OF_INPUT] } else { &[END_OF_INPUT; 2] };
        let _ = guest.write_all(ends);
        // The pipe stays open: QEMU treats its end as a hang-up of the console.
        std::mem::forget(guest);
    });
    terminal
}

/// Copies what the guest prints to standard output, at once. QEMU itself must not have our output: it would make the
/// terminal non-blocking for everybody. `lost` is called when nobody takes the output any more.
pub fn print(mut guest: ChildStdout, lost: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        let mut output = io::stdout().lock();
        loop {
            match guest.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if output.write_all(&buffer[..length]).and_then(|()| output.flush()).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
        lost();
        // The guest may print on while it stops.
        let _ = io::copy(&mut guest, &mut io::sink());
    })
}
