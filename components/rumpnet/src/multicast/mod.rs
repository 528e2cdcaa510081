//! Groups: which ones an interface takes packets of.

use alloc::{collections::BTreeMap, sync::Arc};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rumpkern::{Errno, Result};
use rumpuser::{NEVER, sync::SpinLock};

use crate::{
    interface::Interface,
    link,
    neighbour::discovery::{self, ALL_NODES},
};

/// The most groups of an interface.
const LIMIT: usize = 1024;

/// The groups of an interface, and how often each is wanted.
#[derive(Default)]
pub struct Groups {
    members: SpinLock<BTreeMap<IpAddr, usize>>,
}

impl Groups {
    /// The groups, and how often each was joined.
    pub fn list(&self) -> alloc::vec::Vec<(IpAddr, usize)> {
        self.members.lock().iter().map(|(&group, &count)| (group, count)).collect()
    }
}

/// Whether packets to a group are for this machine.
pub(crate) fn wants(interface: &Interface, group: IpAddr) -> bool {
    is_everybody(group) || interface.groups.members.lock().contains_key(&group)
}

/// The group that everybody is in.
fn is_everybody(group: IpAddr) -> bool {
    group == IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)) || group == IpAddr::V6(ALL_NODES)
}

/// Takes packets of a group, until [`leave`] was called as often. May sleep. EINVAL if it is no group, ENOBUFS when
/// there are too many.
pub fn join(interface: &Arc<Interface>, group: IpAddr) -> Result<()> {
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let first = {
        let mut members = interface.groups.members.lock();
        if members.len() >= LIMIT && !members.contains_key(&group) {
            return Err(Errno::ENOBUFS);
        }
        let count = members.entry(group).or_default();
        *count += 1;
        *count == 1
    };
    if first && !interface.is_loopback() {
        interface.join(link::group_address(group));
    }
    Ok(())
}

/// Ends a [`join`]. May sleep. EADDRNOTAVAIL if there was none.
pub fn leave(interface: &Arc<Interface>, group: IpAddr) -> Result<()> {
    let last = {
        let mut members = interface.groups.members.lock();
        let count = members.get_mut(&group).ok_or(Errno::EADDRNOTAVAIL)?;
        *count -= 1;
        let last = *count == 0;
        if last {
            members.remove(&group);
        }
        last
    };
    if last && !interface.is_loopback() {
        interface.leave(link::group_address(group));
    }
    Ok(())
}

/// Joins what everybody is in. The device doesn't pass it on by itself.
pub(crate) fn interface_attached(interface: &Arc<Interface>) {
    for group in [IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)), IpAddr::V6(ALL_NODES)] {
        if !interface.groups.members.lock().contains_key(&group) {
            let _ = join(interface, group);
        }
    }
}

/// Tells routers of all groups (again): the link came up.
pub(crate) fn report_all(_interface: &Arc<Interface>) {}

/// Joins the group in which an address is asked for.
pub(crate) fn join_solicited_node(interface: &Arc<Interface>, address: Ipv6Addr) {
    if !interface.is_loopback() {
        let _ = join(interface, discovery::solicited_node(address).into());
    }
}

/// Ends [`join_solicited_node`].
pub(crate) fn leave_solicited_node(interface: &Arc<Interface>, address: Ipv6Addr) {
    if !interface.is_loopback() {
        let _ = leave(interface, discovery::solicited_node(address).into());
    }
}

/// Does what is due; returns when the next is.
pub(crate) fn run_timers(_now: u64) -> u64 {
    NEVER
}
