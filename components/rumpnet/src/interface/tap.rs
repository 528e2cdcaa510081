//! Taps: those who see every packet of the interfaces (packet sockets, captures).

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering};

use rumpuser::sync::SpinLock;

use super::Interface;
use crate::packet::{Chain, Checksum, Packet, Received};

/// A packet as a tap sees it, from the link header on; on the loopback, too.
pub struct Seen<'a> {
    /// Where.
    pub interface: &'a Interface,
    /// Whether it came in.
    pub incoming: bool,
    /// The first bytes: the headers of a packet that is sent, nothing of one that was received.
    pub header: &'a [u8],
    /// The bytes behind them.
    pub rest: &'a Chain,
    /// What is known of the checksum.
    pub checksum: Checksum,
    /// The payload of each segment that the packet stands for; 0 if it is one.
    pub segment_size: u16,
}

/// Sees packets. Called with preemption disabled and locks held: it must only copy or keep references.
pub trait Tap: Send + Sync {
    /// See the trait.
    fn packet(&self, seen: &Seen<'_>);
}

static TAPS: SpinLock<Vec<Arc<dyn Tap>>> = SpinLock::new(Vec::new());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Adds a tap.
pub fn add(tap: Arc<dyn Tap>) {
    let mut taps = TAPS.lock();
    taps.push(tap);
    COUNT.store(taps.len(), Ordering::Release);
}

/// Removes a tap.
pub fn remove(tap: &Arc<dyn Tap>) {
    let mut taps = TAPS.lock();
    let position = taps.iter().position(|other| Arc::ptr_eq(other, tap));
    let removed = position.map(|position| taps.swap_remove(position));
    COUNT.store(taps.len(), Ordering::Release);
    drop(taps);
    drop(removed);
}

/// Whether there are taps.
#[inline]
pub(super) fn active() -> bool {
    COUNT.load(Ordering::Relaxed) > 0
}

#[cold]
pub(super) fn sent(interface: &Interface, packet: &Packet) {
    let segment_size = packet.segmentation.map_or(0, |segmentation| segmentation.size);
    tell(&Seen {
        interface,
        incoming: false,
        header: packet.header.bytes(),
        rest: &packet.payload,
        checksum: packet.checksum,
        segment_size,
    });
}

#[cold]
pub(super) fn received(interface: &Interface, packet: &Received) {
    tell(&Seen {
        interface,
        incoming: true,
        header: &[],
        rest: &packet.data,
        checksum: packet.checksum,
        segment_size: packet.segment_size,
    });
}

fn tell(seen: &Seen<'_>) {
    for tap in TAPS.lock().iter() {
        tap.packet(seen);
    }
}
