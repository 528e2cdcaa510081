//! Sending: the doorbells for what was put on rings, and the delivery of what is on the loopback.
//!
//! Whoever finds packets on a queue of the loopback delivers them, or leaves that to another CPU that is at it. But
//! what a call itself sent to this machine ([`Posted`]) has arrived when it returns, as on Linux: programs look without
//! waiting.

use alloc::sync::Arc;
use core::{ops::BitOrAssign, sync::atomic::Ordering};

use super::{
    Interface, loopback,
    polling::{self, BUDGET, poll_queue, poll_queue_in_turn},
    registry,
};

/// So many times [`BUDGET`] is all that a queue of the loopback holds: what the caller sent is among it.
const ROUNDS: usize = loopback::LIMIT.div_ceil(BUDGET) + 1;
/// How often a flush looks at what deliveries brought about, on other queues. The threads do the rest.
const PASSES: usize = 8;

/// Where a call has sent packets that are to leave, or to arrive, before it returns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Posted {
    /// Something was put on a ring.
    any: bool,
    /// The queues of the loopback, a bit for each.
    loopback: u64,
}

impl Posted {
    /// By a queue of an interface.
    #[inline]
    pub fn by(interface: &Interface, queue: usize) -> Posted {
        let loopback = if interface.is_loopback() { 1 << interface.place(queue) } else { 0 };
        Posted { any: true, loopback }
    }

    /// What others sent, who see to its delivery: it only is to leave.
    pub fn by_others(self) -> Posted {
        Posted { loopback: 0, ..self }
    }

    /// Flushes, and waits for CPUs that are delivering what was sent. With no locks held, and not from a delivery.
    #[inline]
    pub fn flush(self) {
        if self.loopback != 0 {
            self.deliver();
        }
        if self.any {
            flush();
        }
    }

    fn deliver(self) {
        let Some(interface) = registry::all().next() else { return };
        for (index, queue) in interface.queues.iter().enumerate() {
            if self.loopback & 1 << index != 0 {
                queue.dirty.swap(false, Ordering::SeqCst);
                deliver(interface, index, |interface, index| Some(poll_queue_in_turn(interface, index)));
            }
        }
    }
}

impl BitOrAssign for Posted {
    fn bitor_assign(&mut self, other: Posted) {
        self.any |= other.any;
        self.loopback |= other.loopback;
    }
}

/// Tells the devices about the packets on their rings, and delivers those on the loopback. With no locks held.
pub fn flush() {
    for _ in 0..PASSES {
        let mut delivered = false;
        for interface in registry::all() {
            for (index, queue) in interface.queues.iter().enumerate() {
                if queue.dirty.load(Ordering::Relaxed) && queue.dirty.swap(false, Ordering::SeqCst) {
                    if interface.is_loopback() {
                        delivered |= deliver(interface, index, poll_or_leave);
                    } else {
                        interface.device.flush(index);
                    }
                }
            }
        }
        // What is sent in answer may be on a queue that was passed already.
        if !delivered {
            return;
        }
    }
    let Some(interface) = registry::all().next() else { return };
    let dirty = |(_, queue): &(usize, &super::Queue)| queue.dirty.load(Ordering::Relaxed);
    interface.queues.iter().enumerate().filter(dirty).for_each(|(index, _)| polling::wake(index));
}

/// Polls a queue of the loopback unless somebody else is at it, who flushes afterwards.
fn poll_or_leave(interface: &Arc<Interface>, index: usize) -> Option<usize> {
    poll_queue(interface, index).or_else(|| {
        interface.queues[index].dirty.store(true, Ordering::SeqCst);
        // If he is through, we can.
        poll_queue(interface, index)
    })
}

/// Delivers what is on a queue of the loopback, and what is sent there in answer. False if `poll` left it to others.
fn deliver(
    interface: &Arc<Interface>,
    index: usize,
    poll: impl Fn(&Arc<Interface>, usize) -> Option<usize>,
) -> bool {
    for _ in 0..ROUNDS {
        if poll(interface, index).is_none() {
            return false;
        }
        if !interface.device.arm(index) {
            return true;
        }
    }
    polling::wake(index);
    true
}
