//! The neighbours of one interface, a bounded number.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::net::IpAddr;

use rumpkern::{Errno, Result};
use rumpuser::sync::SpinLock;

use super::{Evidence, Neighbour, State, is_station};
use crate::{
    change::{self, Change},
    device::HardwareAddress,
    interface::Interface,
    route,
};

/// The most neighbours of an interface.
pub const LIMIT: usize = 4096;

/// A neighbour as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address, if known.
    pub hardware: Option<HardwareAddress>,
    /// What is known of it.
    pub state: State,
    /// Whether it says that it is a router.
    pub router: bool,
    /// When that was learnt, in monotonic nanoseconds.
    pub updated: u64,
}

/// The neighbours of an interface.
#[derive(Default)]
pub struct Table {
    entries: SpinLock<BTreeMap<IpAddr, Arc<Neighbour>>>,
}

impl Table {
    /// The neighbour with an address, known or not yet. ENOBUFS when there are too many.
    pub fn get(&self, address: IpAddr) -> Result<Arc<Neighbour>> {
        let mut entries = self.entries.lock();
        if let Some(neighbour) = entries.get(&address) {
            return Ok(neighbour.clone());
        }
        if entries.len() >= LIMIT {
            make_room(&mut entries);
        }
        if entries.len() >= LIMIT {
            return Err(Errno::ENOBUFS);
        }
        let neighbour = Arc::new(Neighbour::new(address));
        entries.insert(address, neighbour.clone());
        Ok(neighbour)
    }

    /// The neighbour with an address, if there is an entry.
    pub fn find(&self, address: IpAddr) -> Option<Arc<Neighbour>> {
        self.entries.lock().get(&address).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Neighbour>> {
        self.entries.lock().values().cloned().collect()
    }

    /// All of them.
    pub fn list(&self) -> Vec<Snapshot> {
        let snapshot = |neighbour: Arc<Neighbour>| {
            let inner = neighbour.inner.lock();
            Snapshot {
                address: neighbour.address,
                hardware: inner.hardware,
                state: inner.state,
                router: inner.router,
                updated: inner.updated,
            }
        };
        self.all().into_iter().map(snapshot).collect()
    }

    /// Fixes a neighbour's hardware address.
    pub fn fix(&self, interface: &Arc<Interface>, address: IpAddr, hardware: HardwareAddress) -> Result<()> {
        if !is_station(hardware) || address.is_multicast() || address.is_unspecified() {
            return Err(Errno::EINVAL);
        }
        let neighbour = self.get(address)?;
        neighbour.learn(
            interface,
            Some(hardware),
            Evidence { solicited: true, replaces: true, router: None },
        );
        {
            let mut inner = neighbour.inner.lock();
            inner.state = State::Permanent;
            inner.hardware = Some(hardware);
            neighbour.publish(&inner);
        }
        change::notify(&Change::Neighbour { interface: interface.index(), address, gone: false });
        Ok(())
    }

    /// Forgets a neighbour. ENOENT if there is none.
    pub fn remove(&self, interface: &Interface, address: IpAddr) -> Result<()> {
        let gone = self.entries.lock().remove(&address).ok_or(Errno::ENOENT)?;
        forget(&gone);
        route::invalidate();
        change::notify(&Change::Neighbour { interface: interface.index(), address, gone: true });
        Ok(())
    }

    /// Forgets all neighbours.
    pub fn clear(&self) {
        let gone = core::mem::take(&mut *self.entries.lock());
        gone.values().for_each(|neighbour| forget(neighbour));
        route::invalidate();
    }

    /// A message on the link told something about a neighbour; `create` it if it is new.
    pub(crate) fn learn(
        &self,
        interface: &Arc<Interface>,
        address: IpAddr,
        hardware: Option<HardwareAddress>,
        evidence: Evidence,
        create: bool,
    ) {
        let neighbour = if create { self.get(address).ok() } else { self.find(address) };
        if let Some(neighbour) = neighbour
            && neighbour.learn(interface, hardware, evidence)
        {
            change::notify(&Change::Neighbour { interface: interface.index(), address, gone: false });
        }
    }
}

/// Whoever still has it in a cached route finds it useless.
fn forget(neighbour: &Neighbour) {
    let mut inner = neighbour.inner.lock();
    inner.state = State::Failed;
    inner.hardware = None;
    inner.take_pending();
    neighbour.publish(&inner);
}

/// Drops neighbours that no route uses: those that aren't there first.
fn make_room(entries: &mut BTreeMap<IpAddr, Arc<Neighbour>>) {
    let keep = |neighbour: &Arc<Neighbour>, always: &[State]| {
        Arc::strong_count(neighbour) > 1 || always.contains(&neighbour.state())
    };
    entries.retain(|_, neighbour| {
        keep(neighbour, &[State::Permanent, State::Reachable, State::Stale, State::Delay, State::Probe])
    });
    if entries.len() >= LIMIT {
        let mut rest = LIMIT / 8;
        entries.retain(|_, neighbour| {
            let kept = rest == 0 || keep(neighbour, &[State::Permanent]);
            rest -= usize::from(!kept);
            kept
        });
    }
}
