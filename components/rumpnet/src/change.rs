//! Who wants to hear of changes to addresses, routes and neighbours (routing sockets, for one).

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use rumpuser::sync::SpinLock;

use crate::{address::Address, route};

/// What changed.
#[derive(Debug, Clone)]
pub enum Change {
    /// An interface's flags, or whether it is there.
    Link {
        /// Its index.
        interface: u32,
        /// Whether it is gone.
        gone: bool,
    },
    /// An address.
    Address {
        /// The interface's index.
        interface: u32,
        /// The address.
        address: Address,
        /// Whether it is gone.
        gone: bool,
    },
    /// A route.
    Route {
        /// The route.
        entry: route::Entry,
        /// Whether it is gone.
        gone: bool,
    },
    /// A neighbour's state.
    Neighbour {
        /// The interface's index.
        interface: u32,
        /// The neighbour.
        address: IpAddr,
        /// Whether it is gone.
        gone: bool,
    },
}

/// Hears of changes. Called in thread context, without spin locks of the internet layer, but perhaps with preemption
/// disabled: it must not sleep.
pub trait Listener: Send + Sync {
    /// See the trait.
    fn changed(&self, change: &Change);
}

static LISTENERS: SpinLock<Vec<Weak<dyn Listener>>> = SpinLock::new(Vec::new());
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// Enters a listener, for as long as it lives.
pub fn listen(listener: &Arc<dyn Listener>) {
    let mut listeners = LISTENERS.lock();
    listeners.retain(|listener| listener.strong_count() > 0);
    listeners.push(Arc::downgrade(listener));
}

/// A number that grows with every change.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// Tells of a change.
pub fn notify(change: &Change) {
    GENERATION.fetch_add(1, Ordering::AcqRel);
    let listeners: Vec<_> = LISTENERS.lock().iter().filter_map(Weak::upgrade).collect();
    for listener in listeners {
        listener.changed(change);
    }
}
