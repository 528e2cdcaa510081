//! Open files on their way between processes: how many there are, and how they are dropped.
//!
//! A socket's queue may hold sockets whose queues hold sockets: dropping them inside each other would use the
//! stack up, so they are dropped from one list. Sockets that hold each other in a circle are never dropped; the
//! limit on open files in flight bounds what that can take.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rumpkern::{Errno, Result};
use rumpuser::sync::Mutex;

use crate::socket::Right;

/// Open files in flight at most.
const LIMIT: usize = 16 << 10;

static IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);
static DISCARDED: Mutex<Vec<Right>> = Mutex::new(Vec::new());
static DRAINING: AtomicBool = AtomicBool::new(false);

/// The open files of one message.
#[derive(Default)]
pub struct InFlight(Vec<Right>);

impl InFlight {
    /// Sends open files on their way. ETOOMANYREFS if too many are.
    pub fn new(rights: Vec<Right>) -> Result<Self> {
        let count = rights.len();
        if count > 0 && IN_FLIGHT.fetch_add(count, Ordering::Relaxed) + count > LIMIT {
            IN_FLIGHT.fetch_sub(count, Ordering::Relaxed);
            return Err(Errno::ETOOMANYREFS);
        }
        Ok(InFlight(rights))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// They arrived.
    pub fn take(&mut self) -> Vec<Right> {
        IN_FLIGHT.fetch_sub(self.0.len(), Ordering::Relaxed);
        core::mem::take(&mut self.0)
    }

    /// Copies of them, for a look at a message that stays.
    pub fn peek(&self) -> Vec<Right> {
        self.0.clone()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            let rights = self.take();
            discard(rights);
        }
    }
}

fn discard(rights: Vec<Right>) {
    DISCARDED.lock().extend(rights);
    while !DRAINING.swap(true, Ordering::SeqCst) {
        loop {
            let Some(right) = DISCARDED.lock().pop() else { break };
            drop(right);
        }
        DRAINING.store(false, Ordering::SeqCst);
        if DISCARDED.lock().is_empty() {
            break;
        }
    }
}
