//! How a disk and its backend find each other: at first, after the domain was restored, and when a backend has taken the
//! place of another.

use alloc::{boxed::Box, format, string::ToString, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rumpuser::{
    device::{XenbusDevice, xenbus_state},
    rumpuser_cpu_count,
};

use super::{Disk, MOST_SEGMENTS, SEGMENTS, pool::Pool, queue::Queue};
use crate::{Refused, offers};

/// Bits of the backend's `info`.
const READ_ONLY: u32 = 4;
/// Positions and lengths are counted in these, whatever the sector size.
const UNIT: u64 = 512;
/// The most queues.
const QUEUES: usize = 8;
/// A backend of which nothing is left.
const GONE: u32 = 0;

/// Takes a block device into use.
pub fn attach(device: &Arc<dyn XenbusDevice>) -> Result<(), Refused> {
    let disk = Arc::new(open(device)?);
    let (changing, resuming) = (Arc::downgrade(&disk), Arc::downgrade(&disk));
    device.set_state_handler(Box::new(move |state| {
        if let Some(disk) = changing.upgrade() {
            disk.backend_changed(state);
        }
    }));
    device.set_resume_handler(Box::new(move || resuming.upgrade().is_some_and(|disk| disk.reconnect())));
    rumpdev::block::register(disk);
    Ok(())
}

/// What a backend says of its disk.
struct Offer {
    used: usize,
    segments: usize,
    sectors: u64,
    block_size: usize,
    read_only: bool,
    can_flush: bool,
    can_discard: bool,
    persistent: bool,
}

fn number(device: &dyn XenbusDevice, name: &str) -> Option<u64> {
    device.backend_value(name)?.trim().parse().ok()
}

/// Shows the queues to a backend that waits for them.
fn negotiate(device: &dyn XenbusDevice, queues: &[Arc<Queue>]) -> Result<Offer, Refused> {
    if device.wait_for_backend(&[xenbus_state::INIT_WAIT]) != xenbus_state::INIT_WAIT {
        return Err(Refused);
    }
    let most = number(device, "multi-queue-max-queues").map_or(1, |most| most as usize);
    let used = most.clamp(1, queues.len());
    let mut values = Vec::new();
    for (index, queue) in queues.iter().take(used).enumerate() {
        let (reference, channel) = queue.open(index)?;
        let prefix = if used > 1 { format!("queue-{index}/") } else { Default::default() };
        values.push((format!("{prefix}ring-ref"), reference.to_string()));
        values.push((format!("{prefix}event-channel"), channel.to_string()));
    }
    if queues.len() > 1 {
        // The backend before may have had more.
        values.push(("multi-queue-num-queues".into(), used.to_string()));
    }
    values.push(("protocol".into(), "x86_64-abi".into()));
    // Whether the backend does, too, is not known before it is connected.
    values.push(("feature-persistent".into(), "1".into()));
    let values: Vec<_> = values.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let published = device.publish(&values);
    device.set_state(xenbus_state::INITIALISED);
    let ends = [xenbus_state::CONNECTED, xenbus_state::CLOSING, xenbus_state::CLOSED];
    let state = device.wait_for_backend(&ends);
    let block_size = number(device, "sector-size").unwrap_or(UNIT);
    let valid = block_size.is_power_of_two() && (512..=4096).contains(&block_size);
    let (true, xenbus_state::CONNECTED, Some(sectors), true) =
        (published, state, number(device, "sectors"), valid)
    else {
        return Err(Refused);
    };
    let segments = number(device, "feature-max-indirect-segments").unwrap_or(0);
    device.set_state(xenbus_state::CONNECTED);
    Ok(Offer {
        used,
        segments: (segments.min(MOST_SEGMENTS as u64) as usize).max(SEGMENTS),
        sectors,
        block_size: block_size as usize,
        read_only: number(device, "info").is_some_and(|info| info as u32 & READ_ONLY != 0),
        can_flush: offers(device, "feature-flush-cache"),
        can_discard: offers(device, "feature-discard"),
        persistent: offers(device, "feature-persistent"),
    })
}

pub fn open(device: &Arc<dyn XenbusDevice>) -> Result<Disk, Refused> {
    let count = rumpuser_cpu_count().clamp(1, QUEUES);
    let queues = (0..count).map(|_| Queue::new(device)).collect::<Result<Vec<_>, _>>()?;
    let offer = negotiate(&**device, &queues).inspect_err(|_| {
        queues.iter().for_each(|queue| queue.abandon());
    })?;
    let handle = device.frontend_value("virtual-device").and_then(|value| value.trim().parse().ok());
    let disk = Disk {
        device: device.clone(),
        queues,
        used: AtomicUsize::new(offer.used),
        segments: AtomicUsize::new(offer.segments),
        persistent: AtomicBool::new(offer.persistent),
        pool: Pool::new(device),
        handle: handle.unwrap_or(0),
        sectors: offer.sectors,
        block_size: offer.block_size,
        read_only: offer.read_only,
        can_flush: AtomicBool::new(offer.can_flush),
        can_discard: AtomicBool::new(offer.can_discard),
        closed: AtomicBool::new(false),
    };
    disk.start();
    Ok(disk)
}

impl Disk {
    fn start(&self) {
        if self.persistent.load(Ordering::SeqCst) {
            self.pool.reserve();
        }
        self.queues.iter().take(self.used.load(Ordering::SeqCst)).for_each(|queue| queue.start());
    }

    fn fail(&self) {
        self.queues.iter().for_each(|queue| queue.fail());
        // Once: later the place may be that of another device.
        if !self.closed.swap(true, Ordering::SeqCst) {
            self.device.set_state(xenbus_state::CLOSED);
        }
    }

    pub(super) fn backend_changed(&self, state: u32) {
        match state {
            xenbus_state::CLOSING => self.fail(),
            xenbus_state::CLOSED => {
                self.fail();
                // It has let go of all pages.
                self.queues.iter().for_each(|queue| queue.abandon());
                self.pool.renew();
                rumpdev::block::unregister(self);
            }
            // It did not take its leave: another may come.
            GONE => self.queues.iter().for_each(|queue| queue.leave(true)),
            _ => {}
        }
    }

    /// Goes on with another backend of the same disk.
    pub(super) fn reconnect(&self) -> bool {
        self.queues.iter().for_each(|queue| queue.leave(false));
        self.pool.renew();
        if self.pool.is_robbed() {
            self.fail();
            return true;
        }
        match negotiate(&*self.device, &self.queues) {
            Ok(offer) if (offer.sectors, offer.block_size) == (self.sectors, self.block_size) => {
                self.segments.store(offer.segments, Ordering::SeqCst);
                self.can_flush.store(offer.can_flush, Ordering::SeqCst);
                self.can_discard.store(offer.can_discard, Ordering::SeqCst);
                self.used.store(offer.used, Ordering::SeqCst);
                self.persistent.store(offer.persistent, Ordering::SeqCst);
                self.start();
            }
            Err(Refused) if self.device.backend_value("state").is_none() => {}
            _ => self.fail(),
        }
        true
    }
}
