//! Which interfaces there are, and who hears when that changes.

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use once_cell::race::{OnceBox, OnceRef};
use rumpkern::{poll::Events, wait::WaitQueue};
use rumpuser::sync::Mutex;

use super::{Interface, loopback::Loopback, polling};
use crate::{
    device::{NetworkDevice, Upcalls},
    packet::Received,
};

/// How many interfaces there can be, the loopback included. They keep their places for ever, so that looking at
/// them takes no lock.
const PLACES: usize = if cfg!(any(test, feature = "host")) { 1024 } else { 256 };

static INTERFACES: [OnceBox<Arc<Interface>>; PLACES] = [const { OnceBox::new() }; PLACES];
static COUNT: AtomicUsize = AtomicUsize::new(0);
static ATTACHING: Mutex<()> = Mutex::new(());
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Told ([`Events::IN`]) whenever an interface comes, goes, or changes its state.
pub static CHANGES: WaitQueue = WaitQueue::new();

/// What is above the interfaces.
pub struct Protocols {
    /// Takes a received packet. Called in thread context with preemption disabled: must not sleep.
    pub input: fn(&Arc<Interface>, usize, Received),
    /// An interface came, went, or changed its state (on, carrier, MTU). Called in thread context; may sleep.
    pub changed: fn(&Arc<Interface>),
}

static PROTOCOLS: OnceRef<'static, Protocols> = OnceRef::new();

/// Connects the protocols. They hear of the interfaces that are there, and of later ones. Once.
pub fn set_protocols(protocols: &'static Protocols) {
    if PROTOCOLS.set(protocols).is_ok() {
        list().iter().for_each(protocols.changed);
    }
}

/// The protocols, once they are there.
pub(super) fn protocols() -> Option<&'static Protocols> {
    PROTOCOLS.get()
}

/// All interfaces, those included whose device is gone.
pub(super) fn all() -> impl Iterator<Item = &'static Arc<Interface>> {
    INTERFACES[..COUNT.load(Ordering::Acquire)].iter().filter_map(OnceBox::get)
}

/// The interfaces, the loopback first.
pub fn list() -> Vec<Arc<Interface>> {
    all().filter(|interface| !interface.is_gone()).cloned().collect()
}

/// The interface of that name.
pub fn by_name(name: &str) -> Option<Arc<Interface>> {
    all().find(|interface| interface.name() == name && !interface.is_gone()).cloned()
}

/// The interface of that number.
pub fn by_index(index: u32) -> Option<Arc<Interface>> {
    place(index).filter(|interface| !interface.is_gone()).cloned()
}

fn place(index: u32) -> Option<&'static Arc<Interface>> {
    INTERFACES.get((index as usize).checked_sub(1)?)?.get()
}

/// The loopback, made when it is first asked for.
pub fn loopback() -> Arc<Interface> {
    match place(1) {
        Some(interface) => interface.clone(),
        None => {
            let attaching = ATTACHING.lock();
            ensure_loopback();
            drop(attaching);
            loopback()
        }
    }
}

/// With [`ATTACHING`] held.
fn ensure_loopback() {
    if COUNT.load(Ordering::Acquire) == 0 {
        enter(String::from("lo"), Arc::new(Loopback::new()));
    }
}

/// The first of `eth0` and on that no interface has.
fn free_name() -> String {
    let mut names = (0..PLACES).map(|number| format!("eth{number}"));
    names.find(|name| by_name(name).is_none()).unwrap_or_default()
}

/// Takes a device into use: names it (`eth0` and on, in the order of attaching, which is that of PCI locations; the name of
/// one that is gone is free again), turns it on, and tells the protocols. May sleep. `None` if there are too many.
pub fn attach(device: Arc<dyn NetworkDevice>) -> Option<Arc<Interface>> {
    let interface = {
        let _attaching = ATTACHING.lock();
        ensure_loopback();
        let count = COUNT.load(Ordering::Acquire);
        if count >= PLACES {
            return None;
        }
        enter(free_name(), device)
    };
    changed(interface.index());
    Some(interface)
}

fn enter(name: String, device: Arc<dyn NetworkDevice>) -> Arc<Interface> {
    let count = COUNT.load(Ordering::Acquire);
    let interface = Arc::new(Interface::new(name, count as u32 + 1, device));
    polling::prepare();
    // Nobody else enters: the place is free.
    let _ = INTERFACES[count].set(Box::new(interface.clone()));
    COUNT.store(count + 1, Ordering::Release);
    interface.device.start(Box::new(InterfaceUpcalls { interface: interface.clone() }));
    interface.carrier.store(interface.device.link_up(), Ordering::SeqCst);
    polling::arm_all(&interface);
    interface
}

/// A number that changes with every change of an interface.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// Tells everybody who wants to know. May sleep.
pub(super) fn changed(index: u32) {
    GENERATION.fetch_add(1, Ordering::AcqRel);
    if let (Some(interface), Some(protocols)) = (place(index), protocols()) {
        (protocols.changed)(interface);
    }
    CHANGES.notify(Events::IN);
}

/// What a device tells its interface.
struct InterfaceUpcalls {
    interface: Arc<Interface>,
}

impl Upcalls for InterfaceUpcalls {
    fn interrupt(&self, queue: usize) {
        polling::interrupt(&self.interface, queue);
    }

    fn room(&self, queue: usize) {
        if let Some(place) = self.interface.queues.get(queue) {
            place.room.store(true, Ordering::SeqCst);
            polling::wake(queue);
        }
    }

    fn link_changed(&self) {
        self.interface.event.store(true, Ordering::SeqCst);
        polling::wake(0);
    }

    fn gone(&self) {
        self.interface.gone.store(true, Ordering::SeqCst);
        self.link_changed();
    }
}

/// Looks at an interface whose device said that something changed. Thread context.
pub(super) fn handle_event(interface: &Arc<Interface>) {
    if !interface.event.load(Ordering::Relaxed) || !interface.event.swap(false, Ordering::SeqCst) {
        return;
    }
    if interface.is_gone() {
        interface.device.stop();
        for queue in &interface.queues {
            queue.backlog.lock().clear();
            queue.backlog_length.store(0, Ordering::SeqCst);
        }
        changed(interface.index());
        return;
    }
    let carrier = interface.device.link_up();
    let moved = carrier && interface.device.wants_announcement();
    if moved {
        interface.moved.store(true, Ordering::SeqCst);
    }
    if interface.carrier.swap(carrier, Ordering::SeqCst) != carrier || moved {
        changed(interface.index());
    }
}
