//! Groups: which ones an interface takes packets of, and that routers hear of it.
//!
//! An interface is in a group as long as anybody wants it, from any sender; sockets that want only some senders, or
//! all but some, choose by themselves.

pub mod igmp;
pub mod mld;

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering},
};

use rumpkern::{Errno, Result};
use rumpuser::{NEVER, rumpuser_clock_monotonic, sync::SpinLock};

use crate::{
    interface::{self, Interface},
    link,
    neighbour::discovery::{self, ALL_NODES},
    random,
    service::{self, MILLISECOND, SECOND, Task},
};

/// The group of every IPv4 machine.
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// The most groups of an interface.
const LIMIT: usize = 1024;
/// How often a new member tells (RFC 3376 8.1), because reports get lost.
const ROBUSTNESS: u8 = 2;

/// Until when something holds.
#[derive(Default)]
struct Until(AtomicU64);

impl Until {
    fn set(&self, duration: u64) {
        self.0.store(rumpuser_clock_monotonic() + duration, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) > rumpuser_clock_monotonic()
    }
}

/// A group that an interface is in.
#[derive(Default)]
struct Member {
    /// How often it was joined.
    count: usize,
    /// How many reports are still to be sent, and when the next.
    reports: u8,
    due: u64,
    /// The first report says that it is new.
    is_new: bool,
}

/// The groups of an interface.
#[derive(Default)]
pub struct Groups {
    members: SpinLock<BTreeMap<IpAddr, Member>>,
    /// A router that only knows IGMPv2 is there.
    older4: Until,
    /// A router that only knows MLDv1 is there.
    older6: Until,
}

impl Groups {
    /// The groups, and how often each was joined.
    pub fn list(&self) -> Vec<(IpAddr, usize)> {
        self.members.lock().iter().map(|(&group, member)| (group, member.count)).collect()
    }
}

/// What a report says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// A router asked.
    Present,
    /// Joined just now.
    Joined,
    /// Left just now.
    Left,
}

impl News {
    /// The type of the record (RFC 3376 4.2.12, RFC 3810 5.2.12): all senders excluded but none, or none included.
    fn record(self) -> u8 {
        match self {
            News::Present => 2,
            News::Joined => 4,
            News::Left => 3,
        }
    }
}

/// Whether packets to a group are for this machine.
pub(crate) fn wants(interface: &Interface, group: IpAddr) -> bool {
    group == IpAddr::V4(ALL_HOSTS)
        || group == IpAddr::V6(ALL_NODES)
        || interface.groups.members.lock().contains_key(&group)
}

/// Takes packets of a group, until [`leave`] was called as often. May sleep. EINVAL if it is no group, ENOBUFS when
/// there are too many.
pub fn join(interface: &Arc<Interface>, group: IpAddr) -> Result<()> {
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let now = rumpuser_clock_monotonic();
    let first = {
        let mut members = interface.groups.members.lock();
        if members.len() >= LIMIT && !members.contains_key(&group) {
            return Err(Errno::ENOBUFS);
        }
        let member = members.entry(group).or_default();
        member.count += 1;
        let first = member.count == 1;
        if first {
            (member.reports, member.due, member.is_new) = (ROBUSTNESS, now, true);
        }
        first
    };
    if first && !interface.is_loopback() {
        interface.join(link::group_address(group));
        service::at(Task::Multicast, now);
    }
    Ok(())
}

/// Ends a [`join`]. May sleep. EADDRNOTAVAIL if there was none.
pub fn leave(interface: &Arc<Interface>, group: IpAddr) -> Result<()> {
    let last = {
        let mut members = interface.groups.members.lock();
        let member = members.get_mut(&group).ok_or(Errno::EADDRNOTAVAIL)?;
        member.count -= 1;
        let last = member.count == 0;
        if last {
            members.remove(&group);
        }
        last
    };
    if last && !interface.is_loopback() {
        interface.leave(link::group_address(group));
        tell(interface, group, News::Left);
        // It flushes.
        service::at(Task::Multicast, rumpuser_clock_monotonic());
    }
    Ok(())
}

fn tell(interface: &Arc<Interface>, group: IpAddr, news: News) {
    match group {
        IpAddr::V4(group) => igmp::tell(interface, group, news),
        IpAddr::V6(group) => mld::tell(interface, group, news),
    }
}

/// A router asks who is in a group, or all groups: answers at random times within the given one.
fn answer(interface: &Interface, version4: bool, asked: Option<IpAddr>, within: u64) {
    let now = rumpuser_clock_monotonic();
    let mut next = NEVER;
    for (&group, member) in interface.groups.members.lock().iter_mut() {
        if group.is_ipv4() != version4 || asked.is_some_and(|asked| asked != group) {
            continue;
        }
        let due = now + random::below(within.max(MILLISECOND));
        if member.reports == 0 || due < member.due {
            member.due = due;
        }
        member.reports = member.reports.max(1);
        next = next.min(member.due);
    }
    service::at(Task::Multicast, next);
}

/// Another machine has answered for a group: one answer is enough for older routers.
fn heard(interface: &Interface, group: IpAddr) {
    if let Some(member) = interface.groups.members.lock().get_mut(&group)
        && !member.is_new
    {
        member.reports = 0;
    }
}

/// Joins what everybody is in. The device doesn't pass it on by itself.
pub(crate) fn interface_attached(interface: &Arc<Interface>) {
    for group in [IpAddr::V4(ALL_HOSTS), IpAddr::V6(ALL_NODES)] {
        if !interface.groups.members.lock().contains_key(&group) {
            // There is room.
            let _ = join(interface, group);
        }
    }
}

/// Tells of all groups (again): the link came up.
pub(crate) fn report_all(interface: &Arc<Interface>) {
    let now = rumpuser_clock_monotonic();
    for member in interface.groups.members.lock().values_mut() {
        (member.reports, member.due, member.is_new) = (ROBUSTNESS, now, true);
    }
    service::at(Task::Multicast, now);
}

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
pub(crate) fn run_timers(now: u64) -> u64 {
    let mut next = NEVER;
    for interface in interface::list() {
        if interface.is_loopback() || !interface.is_running() {
            continue;
        }
        let mut due = Vec::new();
        for (&group, member) in interface.groups.members.lock().iter_mut() {
            if member.reports == 0 {
                continue;
            }
            if member.due <= now {
                member.reports -= 1;
                member.due = now + random::below(SECOND);
                due.push((group, if member.is_new { News::Joined } else { News::Present }));
                if member.reports == 0 {
                    member.is_new = false;
                    continue;
                }
            }
            next = next.min(member.due);
        }
        for (group, news) in due {
            tell(&interface, group, news);
        }
    }
    next
}
