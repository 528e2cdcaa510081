//! How a domain ends: its status to xenstore, then the reason to the hypervisor (Xen, public/sched.h).

use core::sync::atomic::{AtomicBool, Ordering};

use image::machine::Status;
use rumpuser::Halt;

use crate::{
    hypercall::{self, Hypercall, Operation},
    store,
};

/// The node that takes the status, as a line of `image::machine` without its end.
const STATUS: &str = "data/status";
const POWER_OFF: u32 = 0;
const REBOOT: u32 = 1;
const SUSPEND: u32 = 2;
const CRASH: u32 = 3;

/// The next end is a restart: the toolstack asked for it.
static RESTARTS: AtomicBool = AtomicBool::new(false);

#[repr(C)]
struct Shutdown {
    reason: u32,
}

// SAFETY: `struct sched_shutdown` with SCHEDOP_shutdown.
unsafe impl Operation for Shutdown {
    const HYPERCALL: Hypercall = Hypercall::Schedule;
    const COMMAND: u64 = 2;
}

fn end(reason: u32) -> ! {
    let _ = hypercall::perform(&mut Shutdown { reason });
    bmk::machine::stop()
}

/// Has the domain saved, or moved; returns when it goes on: whether in a new domain, where only its memory and registers
/// are as they were.
pub fn suspend() -> bool {
    hypercall::perform(&mut Shutdown { reason: SUSPEND }) == Ok(0)
}

/// Tells the toolstack how the image is.
pub fn report(status: Status) {
    let mut buffer = [0; 16];
    let line = core::str::from_utf8(status.line(&mut buffer)).unwrap_or_default();
    store::write_at_end(STATUS, line.trim_end());
}

/// Makes the next power-off a restart.
pub fn restart_next() {
    RESTARTS.store(true, Ordering::SeqCst);
}

/// Ends the domain after a panic.
pub fn crash() -> ! {
    end(CRASH)
}

/// Ends the domain.
pub fn halt(how: Halt) -> ! {
    match how {
        Halt::PowerOff(status) => {
            report(Status::Exit(status));
            end(if RESTARTS.load(Ordering::SeqCst) { REBOOT } else { POWER_OFF })
        }
        Halt::Reboot => {
            report(Status::Reboot);
            end(REBOOT)
        }
    }
}
