//! The multicast groups that a socket joined, with the sources that it wants or doesn't want (ip(7), RFC 3678).

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rumpkern::{Errno, Result};
use rumpuser::sync::{Mutex, SpinLock};

use crate::{
    address, interface, multicast,
    option::{level, word},
    route,
    socket::Domain,
};

/// Groups of a socket (net.ipv4.igmp_max_memberships, with room for programs that want more).
const LIMIT: usize = 256;
/// Sources of a group (net.ipv4.igmp_max_msf).
const SOURCES: usize = 64;

const IP_ADD_MEMBERSHIP: i32 = 35;
const IP_DROP_MEMBERSHIP: i32 = 36;
const IP_UNBLOCK_SOURCE: i32 = 37;
const IP_BLOCK_SOURCE: i32 = 38;
const IP_ADD_SOURCE_MEMBERSHIP: i32 = 39;
const IP_DROP_SOURCE_MEMBERSHIP: i32 = 40;
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_BLOCK_SOURCE: i32 = 43;
const MCAST_UNBLOCK_SOURCE: i32 = 44;
const MCAST_LEAVE_GROUP: i32 = 45;
const MCAST_JOIN_SOURCE_GROUP: i32 = 46;
const MCAST_LEAVE_SOURCE_GROUP: i32 = 47;
const IPV6_ADD_MEMBERSHIP: i32 = 20;
const IPV6_DROP_MEMBERSHIP: i32 = 21;

struct Membership {
    group: IpAddr,
    interface: u32,
    /// Only these sources, instead of all but these.
    includes: bool,
    sources: Vec<IpAddr>,
}

/// See the module.
#[derive(Default)]
pub struct Memberships {
    /// Held while the list changes: joining and leaving may sleep.
    changing: Mutex<()>,
    /// Looked at for every packet to a group.
    list: SpinLock<Vec<Membership>>,
}

#[derive(Clone, Copy)]
enum Change {
    Join,
    Leave,
    Block,
    Unblock,
    JoinSource,
    LeaveSource,
}

struct Request {
    change: Change,
    group: IpAddr,
    interface: u32,
    source: Option<IpAddr>,
}

fn four(value: &[u8], offset: usize) -> Result<IpAddr> {
    let octets = value.get(offset..).and_then(|rest| rest.first_chunk::<4>()).ok_or(Errno::EINVAL)?;
    Ok(Ipv4Addr::from(*octets).into())
}

fn six(value: &[u8], offset: usize) -> Result<IpAddr> {
    let octets = value.get(offset..).and_then(|rest| rest.first_chunk::<16>()).ok_or(Errno::EINVAL)?;
    Ok(Ipv6Addr::from(*octets).into())
}

/// An address in a `struct sockaddr_storage`.
fn storage(value: &[u8], offset: usize) -> Result<IpAddr> {
    match word(value, offset).ok_or(Errno::EINVAL)? as u16 {
        family if family == Domain::Inet as u16 => four(value, offset + 4),
        family if family == Domain::Inet6 as u16 => six(value, offset + 8),
        _ => Err(Errno::EADDRNOTAVAIL),
    }
}

/// The interface that has an address; 0 for none in particular. ENODEV.
fn interface_of(address: IpAddr) -> Result<u32> {
    if address.is_unspecified() {
        return Ok(0);
    }
    address::owner(address).map(|interface| interface.index()).ok_or(Errno::ENODEV)
}

impl Request {
    fn read(level: i32, name: i32, value: &[u8]) -> Option<Result<Self>> {
        let old_source = |change| {
            // struct ip_mreq_source: group, interface, source.
            Ok(Request {
                change,
                group: four(value, 0)?,
                interface: interface_of(four(value, 4)?)?,
                source: Some(four(value, 8)?),
            })
        };
        // struct group_req, struct group_source_req: index, padding, addresses.
        let protocol_independent = |change, with_source: bool| {
            Ok(Request {
                change,
                group: storage(value, 8)?,
                interface: word(value, 0).ok_or(Errno::EINVAL)?,
                source: if with_source { Some(storage(value, 136)?) } else { None },
            })
        };
        Some(match (level, name) {
            (level::IP, IP_ADD_MEMBERSHIP | IP_DROP_MEMBERSHIP) => {
                let change = if name == IP_ADD_MEMBERSHIP { Change::Join } else { Change::Leave };
                Self::old_group(change, value)
            }
            (level::IP, IP_UNBLOCK_SOURCE) => old_source(Change::Unblock),
            (level::IP, IP_BLOCK_SOURCE) => old_source(Change::Block),
            (level::IP, IP_ADD_SOURCE_MEMBERSHIP) => old_source(Change::JoinSource),
            (level::IP, IP_DROP_SOURCE_MEMBERSHIP) => old_source(Change::LeaveSource),
            (level::IPV6, IPV6_ADD_MEMBERSHIP | IPV6_DROP_MEMBERSHIP) => {
                let change = if name == IPV6_ADD_MEMBERSHIP { Change::Join } else { Change::Leave };
                six(value, 0).and_then(|group| {
                    let interface = word(value, 16).ok_or(Errno::EINVAL)?;
                    Ok(Request { change, group, interface, source: None })
                })
            }
            (level::IP | level::IPV6, MCAST_JOIN_GROUP) => protocol_independent(Change::Join, false),
            (level::IP | level::IPV6, MCAST_LEAVE_GROUP) => protocol_independent(Change::Leave, false),
            (level::IP | level::IPV6, MCAST_BLOCK_SOURCE) => protocol_independent(Change::Block, true),
            (level::IP | level::IPV6, MCAST_UNBLOCK_SOURCE) => protocol_independent(Change::Unblock, true),
            (level::IP | level::IPV6, MCAST_JOIN_SOURCE_GROUP) => {
                protocol_independent(Change::JoinSource, true)
            }
            (level::IP | level::IPV6, MCAST_LEAVE_SOURCE_GROUP) => {
                protocol_independent(Change::LeaveSource, true)
            }
            _ => return None,
        })
    }

    /// `struct ip_mreqn` or `struct ip_mreq`.
    fn old_group(change: Change, value: &[u8]) -> Result<Self> {
        let interface = match word(value, 8) {
            Some(index) if index != 0 => index,
            _ => interface_of(four(value, 4)?)?,
        };
        Ok(Request { change, group: four(value, 0)?, interface, source: None })
    }
}

impl Memberships {
    /// Carries out an option that is about memberships; `None` for others.
    pub fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Option<Result<()>> {
        Some(Request::read(level, name, value)?.and_then(|request| self.change(request)))
    }

    fn change(&self, request: Request) -> Result<()> {
        if !request.group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        let _changing = self.changing.lock();
        let found = self.list.lock().iter().position(|membership| {
            membership.group == request.group
                && (request.interface == 0 || membership.interface == request.interface)
        });
        match (request.change, request.source) {
            (Change::Join, _) if found.is_some() => Err(Errno::EADDRINUSE),
            (Change::Join, _) => self.join(&request, None),
            (Change::Leave, _) => self.leave(found.ok_or(Errno::EADDRNOTAVAIL)?),
            (Change::JoinSource, Some(source)) => match found {
                Some(index) => self.with(index, true, |membership| add_source(membership, source)),
                None => self.join(&request, Some(source)),
            },
            (Change::LeaveSource, Some(source)) => {
                let index = found.ok_or(Errno::EINVAL)?;
                let is_last = self.with(index, true, |membership| {
                    remove_source(membership, source)?;
                    Ok(membership.sources.is_empty())
                })?;
                if is_last { self.leave(index) } else { Ok(()) }
            }
            (Change::Block, Some(source)) => {
                let index = found.ok_or(Errno::EINVAL)?;
                self.with(index, false, |membership| add_source(membership, source))
            }
            (Change::Unblock, Some(source)) => {
                let index = found.ok_or(Errno::EINVAL)?;
                self.with(index, false, |membership| remove_source(membership, source))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn with<T>(
        &self,
        index: usize,
        includes: bool,
        change: impl FnOnce(&mut Membership) -> Result<T>,
    ) -> Result<T> {
        let mut list = self.list.lock();
        match list.get_mut(index) {
            Some(membership) if membership.includes == includes => change(membership),
            _ => Err(Errno::EINVAL),
        }
    }

    fn join(&self, request: &Request, source: Option<IpAddr>) -> Result<()> {
        if self.list.lock().len() >= LIMIT {
            return Err(Errno::ENOBUFS);
        }
        let interface = match request.interface {
            0 => route::lookup(&route::Query::to(request.group)).map_err(|_| Errno::ENODEV)?.interface,
            index => interface::by_index(index).ok_or(Errno::ENODEV)?,
        };
        multicast::join(&interface, request.group)?;
        let membership = Membership {
            group: request.group,
            interface: interface.index(),
            includes: source.is_some(),
            sources: source.into_iter().collect(),
        };
        self.list.lock().push(membership);
        Ok(())
    }

    fn leave(&self, index: usize) -> Result<()> {
        let gone = {
            let mut list = self.list.lock();
            if index >= list.len() {
                return Err(Errno::EADDRNOTAVAIL);
            }
            list.swap_remove(index)
        };
        leave_group(&gone);
        Ok(())
    }

    /// Whether a packet to a group, from `source`, is wanted. `all`: those of groups that only others joined, too.
    pub fn wants(&self, group: IpAddr, interface: u32, source: IpAddr, all: bool) -> bool {
        let list = self.list.lock();
        let membership = list.iter().find(|membership| {
            membership.group == group && (membership.interface == interface || interface == 0)
        });
        membership.map_or(all, |membership| membership.sources.contains(&source) == membership.includes)
    }

    /// Leaves all groups.
    pub fn leave_all(&self) {
        let _changing = self.changing.lock();
        let gone = core::mem::take(&mut *self.list.lock());
        gone.iter().for_each(leave_group);
    }
}

fn leave_group(membership: &Membership) {
    if let Some(interface) = interface::by_index(membership.interface) {
        let _ = multicast::leave(&interface, membership.group);
    }
}

fn add_source(membership: &mut Membership, source: IpAddr) -> Result<()> {
    if membership.sources.contains(&source) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    if membership.sources.len() >= SOURCES {
        return Err(Errno::ENOBUFS);
    }
    membership.sources.push(source);
    Ok(())
}

fn remove_source(membership: &mut Membership, source: IpAddr) -> Result<()> {
    let index = membership.sources.iter().position(|&other| other == source).ok_or(Errno::EADDRNOTAVAIL)?;
    membership.sources.swap_remove(index);
    Ok(())
}
