//! The options of ip(7) and ipv6(7), the levels SOL_IP and SOL_IPV6.

use core::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use rumpkern::{Errno, Result};
use rumpuser::sync::SpinLock;
use smallvec::SmallVec;

use super::memberships::Memberships;
use crate::{
    base::SocketBase,
    interface,
    option::{self, Value, int, int_or_byte, level},
    socket::Domain,
};

bitflags::bitflags! {
    /// Options that are on or off.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct InetSwitches: u64 {
        /// IP_PKTINFO.
        const PACKET_INFO4 = 1;
        /// IP_RECVTTL.
        const RECEIVE_TTL = 1 << 1;
        /// IP_RECVTOS.
        const RECEIVE_TOS = 1 << 2;
        /// IP_RECVOPTS.
        const RECEIVE_OPTIONS = 1 << 3;
        /// IP_RETOPTS.
        const RETURN_OPTIONS = 1 << 4;
        /// IP_RECVORIGDSTADDR.
        const DESTINATION4 = 1 << 5;
        /// IP_RECVERR.
        const ERRORS4 = 1 << 6;
        /// IP_MULTICAST_LOOP.
        const MULTICAST_LOOP4 = 1 << 7;
        /// IP_MULTICAST_ALL.
        const MULTICAST_ALL4 = 1 << 8;
        /// IP_FREEBIND, IPV6_FREEBIND.
        const FREE_BIND = 1 << 9;
        /// IP_TRANSPARENT, IPV6_TRANSPARENT.
        const TRANSPARENT = 1 << 10;
        /// IP_HDRINCL.
        const HEADER_INCLUDED4 = 1 << 11;
        /// IP_BIND_ADDRESS_NO_PORT.
        const BIND_WITHOUT_PORT = 1 << 12;
        /// IP_NODEFRAG.
        const NO_REASSEMBLY = 1 << 13;
        /// IP_CHECKSUM.
        const CHECKSUM = 1 << 14;
        /// IP_PASSSEC.
        const SECURITY = 1 << 15;
        /// IP_RECVFRAGSIZE, IPV6_RECVFRAGSIZE.
        const FRAGMENT_SIZE = 1 << 16;
        /// IPV6_V6ONLY.
        const VERSION6_ONLY = 1 << 17;
        /// IPV6_RECVPKTINFO.
        const PACKET_INFO6 = 1 << 18;
        /// IPV6_RECVHOPLIMIT.
        const RECEIVE_HOPS = 1 << 19;
        /// IPV6_RECVTCLASS.
        const RECEIVE_CLASS = 1 << 20;
        /// IPV6_RECVERR.
        const ERRORS6 = 1 << 21;
        /// IPV6_MULTICAST_LOOP.
        const MULTICAST_LOOP6 = 1 << 22;
        /// IPV6_MULTICAST_ALL.
        const MULTICAST_ALL6 = 1 << 23;
        /// IPV6_RECVORIGDSTADDR.
        const DESTINATION6 = 1 << 24;
        /// IPV6_DONTFRAG.
        const DONT_FRAGMENT6 = 1 << 25;
        /// IPV6_AUTOFLOWLABEL.
        const FLOW_LABEL = 1 << 26;
        /// IPV6_RECVPATHMTU.
        const PATH_MTU = 1 << 27;
        /// IPV6_FLOWINFO.
        const FLOW_INFO = 1 << 28;
        /// IPV6_RECVHOPOPTS, IPV6_RECVRTHDR, IPV6_RECVDSTOPTS.
        const RECEIVE_HOP_OPTIONS = 1 << 29;
        /// IPV6_RECVRTHDR.
        const RECEIVE_ROUTING = 1 << 30;
        /// IPV6_RECVDSTOPTS.
        const RECEIVE_DESTINATION_OPTIONS = 1 << 31;
        /// IPV6_HDRINCL.
        const HEADER_INCLUDED6 = 1 << 32;
        /// IPV6_2292PKTINFO.
        const OLD_PACKET_INFO = 1 << 33;
        /// IPV6_2292HOPLIMIT.
        const OLD_HOPS = 1 << 34;
        /// IPV6_FLOWINFO_SEND.
        const SEND_FLOW_INFO = 1 << 35;
        /// IP_ROUTER_ALERT, IPV6_ROUTER_ALERT.
        const ROUTER_ALERT = 1 << 36;
        /// IP_RECVERR_RFC4884, IPV6_RECVERR_RFC4884.
        const ERRORS_EXTENDED = 1 << 37;
        /// IPV6_USE_MIN_MTU.
        const LEAST_MTU = 1 << 38;
        /// IPV6_ROUTER_ALERT_ISOLATE.
        const ROUTER_ALERT_ISOLATE = 1 << 39;
    }
}

impl InetSwitches {
    /// Those that have messages come with ancillary data.
    pub const ANCILLARY: InetSwitches = InetSwitches::PACKET_INFO4
        .union(InetSwitches::RECEIVE_TTL)
        .union(InetSwitches::RECEIVE_TOS)
        .union(InetSwitches::DESTINATION4)
        .union(InetSwitches::PACKET_INFO6)
        .union(InetSwitches::RECEIVE_HOPS)
        .union(InetSwitches::RECEIVE_CLASS)
        .union(InetSwitches::DESTINATION6)
        .union(InetSwitches::OLD_PACKET_INFO)
        .union(InetSwitches::OLD_HOPS);
}

/// Names of options at the level SOL_IP (linux/in.h).
pub mod name4 {
    #![allow(missing_docs, reason = "the names are Linux's, without IP_")]
    pub const TOS: i32 = 1;
    pub const TTL: i32 = 2;
    pub const OPTIONS: i32 = 4;
    pub const PKTINFO: i32 = 8;
    pub const MTU_DISCOVER: i32 = 10;
    pub const MTU: i32 = 14;
    pub const ORIGDSTADDR: i32 = 20;
    pub const MINTTL: i32 = 21;
    pub const MULTICAST_IF: i32 = 32;
    pub const MULTICAST_TTL: i32 = 33;
    pub const UNICAST_IF: i32 = 50;
    pub const LOCAL_PORT_RANGE: i32 = 51;
}

/// Names of options at the level SOL_IPV6 (linux/in6.h).
pub mod name6 {
    #![allow(missing_docs, reason = "the names are Linux's, without IPV6_")]
    pub const ADDRFORM: i32 = 1;
    pub const PKTINFO2292: i32 = 2;
    pub const HOPLIMIT2292: i32 = 8;
    pub const UNICAST_HOPS: i32 = 16;
    pub const MULTICAST_IF: i32 = 17;
    pub const MULTICAST_HOPS: i32 = 18;
    pub const MTU_DISCOVER: i32 = 23;
    pub const MTU: i32 = 24;
    pub const V6ONLY: i32 = 26;
    pub const JOIN_ANYCAST: i32 = 27;
    pub const LEAVE_ANYCAST: i32 = 28;
    pub const PKTINFO: i32 = 50;
    pub const HOPLIMIT: i32 = 52;
    pub const PATHMTU: i32 = 61;
    pub const DONTFRAG: i32 = 62;
    pub const TCLASS: i32 = 67;
    pub const ADDR_PREFERENCES: i32 = 72;
    pub const MINHOPCOUNT: i32 = 73;
    pub const ORIGDSTADDR: i32 = 74;
    pub const UNICAST_IF: i32 = 76;
}

fn switch_of(level: i32, name: i32) -> Option<InetSwitches> {
    use InetSwitches as S;
    Some(match (level, name) {
        (level::IP, 3) => S::HEADER_INCLUDED4,
        (level::IP, 5) => S::ROUTER_ALERT,
        (level::IP, 6) => S::RECEIVE_OPTIONS,
        (level::IP, 7) => S::RETURN_OPTIONS,
        (level::IP, name4::PKTINFO) => S::PACKET_INFO4,
        (level::IP, 11) => S::ERRORS4,
        (level::IP, 12) => S::RECEIVE_TTL,
        (level::IP, 13) => S::RECEIVE_TOS,
        (level::IP, 15) | (level::IPV6, 78) => S::FREE_BIND,
        (level::IP, 18) => S::SECURITY,
        (level::IP, 19) | (level::IPV6, 75) => S::TRANSPARENT,
        (level::IP, name4::ORIGDSTADDR) => S::DESTINATION4,
        (level::IP, 22) => S::NO_REASSEMBLY,
        (level::IP, 23) => S::CHECKSUM,
        (level::IP, 24) => S::BIND_WITHOUT_PORT,
        (level::IP, 25) | (level::IPV6, 77) => S::FRAGMENT_SIZE,
        (level::IP, 26) | (level::IPV6, 31) => S::ERRORS_EXTENDED,
        (level::IP, 34) => S::MULTICAST_LOOP4,
        (level::IP, 49) => S::MULTICAST_ALL4,
        (level::IPV6, name6::PKTINFO2292) => S::OLD_PACKET_INFO,
        (level::IPV6, name6::HOPLIMIT2292) => S::OLD_HOPS,
        (level::IPV6, 11) => S::FLOW_INFO,
        (level::IPV6, 19) => S::MULTICAST_LOOP6,
        (level::IPV6, 22) => S::ROUTER_ALERT,
        (level::IPV6, 25) => S::ERRORS6,
        (level::IPV6, name6::V6ONLY) => S::VERSION6_ONLY,
        (level::IPV6, 29) => S::MULTICAST_ALL6,
        (level::IPV6, 30) => S::ROUTER_ALERT_ISOLATE,
        (level::IPV6, 33) => S::SEND_FLOW_INFO,
        (level::IPV6, 36) => S::HEADER_INCLUDED6,
        (level::IPV6, 49) => S::PACKET_INFO6,
        (level::IPV6, 51) => S::RECEIVE_HOPS,
        (level::IPV6, 53) => S::RECEIVE_HOP_OPTIONS,
        (level::IPV6, 56) => S::RECEIVE_ROUTING,
        (level::IPV6, 58) => S::RECEIVE_DESTINATION_OPTIONS,
        (level::IPV6, 60) => S::PATH_MTU,
        (level::IPV6, name6::DONTFRAG) => S::DONT_FRAGMENT6,
        (level::IPV6, 63) => S::LEAST_MTU,
        (level::IPV6, 66) => S::RECEIVE_CLASS,
        (level::IPV6, 70) => S::FLOW_LABEL,
        (level::IPV6, name6::ORIGDSTADDR) => S::DESTINATION6,
        _ => return None,
    })
}

/// Path MTU discovery (`IP_PMTUDISC_*`).
pub mod discovery {
    /// Fragments where needed.
    pub const DONT: i32 = 0;
    /// As each protocol does by itself.
    pub const WANT: i32 = 1;
    /// Never fragments.
    pub const DO: i32 = 2;
    /// Never fragments, and doesn't mind the path MTU.
    pub const PROBE: i32 = 3;
    /// Fragments by the interface's MTU, without the flag.
    pub const OMIT: i32 = 5;
}

/// TTL and hop limit where none is set (net.ipv4.ip_default_ttl).
pub static DEFAULT_HOPS: AtomicI32 = AtomicI32::new(64);

/// See the module.
pub struct InetOptions {
    domain: Domain,
    switches: AtomicU64,
    /// -1: the default.
    hops4: AtomicI32,
    hops6: AtomicI32,
    multicast_hops4: AtomicI32,
    multicast_hops6: AtomicI32,
    class4: AtomicU8,
    class6: AtomicU8,
    discover4: AtomicI32,
    discover6: AtomicI32,
    multicast_interface: AtomicU32,
    unicast_interface: AtomicU32,
    least_hops: AtomicU8,
    preferences: AtomicI32,
    port_range: AtomicU32,
    /// IP_MULTICAST_IF by address.
    multicast_source: SpinLock<Option<Ipv4Addr>>,
    /// IP_OPTIONS.
    ip_options: SpinLock<SmallVec<[u8; 40]>>,
    /// The groups that it joined.
    pub memberships: Memberships,
}

fn int_between(value: &[u8], least: i32, most: i32) -> Result<i32> {
    let value = int_or_byte(value)?;
    if (least..=most).contains(&value) { Ok(value) } else { Err(Errno::EINVAL) }
}

impl InetOptions {
    /// As a new socket has them.
    pub fn new(domain: Domain) -> Self {
        let on = InetSwitches::MULTICAST_LOOP4
            | InetSwitches::MULTICAST_ALL4
            | InetSwitches::MULTICAST_LOOP6
            | InetSwitches::MULTICAST_ALL6
            | InetSwitches::FLOW_LABEL;
        InetOptions {
            domain,
            switches: AtomicU64::new(on.bits()),
            hops4: AtomicI32::new(-1),
            hops6: AtomicI32::new(-1),
            multicast_hops4: AtomicI32::new(1),
            multicast_hops6: AtomicI32::new(1),
            class4: AtomicU8::new(0),
            class6: AtomicU8::new(0),
            discover4: AtomicI32::new(discovery::WANT),
            discover6: AtomicI32::new(discovery::WANT),
            multicast_interface: AtomicU32::new(0),
            unicast_interface: AtomicU32::new(0),
            least_hops: AtomicU8::new(0),
            preferences: AtomicI32::new(0),
            port_range: AtomicU32::new(0),
            multicast_source: SpinLock::new(None),
            ip_options: SpinLock::new(SmallVec::new()),
            memberships: Memberships::default(),
        }
    }

    /// Takes over what a connection inherits of the socket that listens.
    pub fn inherit(&self, listener: &InetOptions) {
        self.switches.store(listener.switches.load(Relaxed), Relaxed);
        for (own, other) in [
            (&self.hops4, &listener.hops4),
            (&self.hops6, &listener.hops6),
            (&self.discover4, &listener.discover4),
            (&self.discover6, &listener.discover6),
        ] {
            own.store(other.load(Relaxed), Relaxed);
        }
        self.class4.store(listener.class4.load(Relaxed), Relaxed);
        self.class6.store(listener.class6.load(Relaxed), Relaxed);
        self.least_hops.store(listener.least_hops.load(Relaxed), Relaxed);
    }

    /// Whether all of `switches` are on.
    #[inline]
    pub fn is_on(&self, switches: InetSwitches) -> bool {
        InetSwitches::from_bits_retain(self.switches.load(Relaxed)).contains(switches)
    }

    /// Whether any of `switches` is on.
    #[inline]
    pub fn is_any_on(&self, switches: InetSwitches) -> bool {
        InetSwitches::from_bits_retain(self.switches.load(Relaxed)).intersects(switches)
    }

    /// Whether errors about packets to that address are queued.
    pub fn queues_errors(&self, address: IpAddr) -> bool {
        self.is_on(if address.is_ipv4() { InetSwitches::ERRORS4 } else { InetSwitches::ERRORS6 })
            || (self.domain == Domain::Inet6 && self.is_on(InetSwitches::ERRORS6))
    }

    /// TTL or hop limit for a destination.
    pub fn hop_limit(&self, destination: IpAddr) -> u8 {
        let hops = match (destination.is_multicast(), destination.is_ipv4()) {
            (true, true) => &self.multicast_hops4,
            (true, false) => &self.multicast_hops6,
            (false, true) => &self.hops4,
            (false, false) => &self.hops6,
        };
        let hops = hops.load(Relaxed);
        (if hops < 0 { DEFAULT_HOPS.load(Relaxed) } else { hops }) as u8
    }

    /// TOS or traffic class for a destination.
    pub fn traffic_class(&self, destination: IpAddr) -> u8 {
        if destination.is_ipv4() { self.class4.load(Relaxed) } else { self.class6.load(Relaxed) }
    }

    /// `IP_PMTUDISC_*` for a destination.
    pub fn discovery(&self, destination: IpAddr) -> i32 {
        if destination.is_ipv4() { self.discover4.load(Relaxed) } else { self.discover6.load(Relaxed) }
    }

    /// The least TTL or hop limit of what is received.
    pub fn least_hops(&self) -> u8 {
        self.least_hops.load(Relaxed)
    }

    /// The interface to send to a destination through; 0 is any.
    pub fn interface_to(&self, destination: IpAddr) -> u32 {
        let set =
            if destination.is_multicast() { &self.multicast_interface } else { &self.unicast_interface };
        set.load(Relaxed)
    }

    /// The address to send multicast from (IP_MULTICAST_IF).
    pub fn multicast_source(&self) -> Option<Ipv4Addr> {
        *self.multicast_source.lock()
    }

    /// IP_OPTIONS.
    pub fn ip_options(&self) -> SmallVec<[u8; 40]> {
        self.ip_options.lock().clone()
    }

    /// An option's value. `mtu`: the path's, on a connected socket.
    pub fn option(&self, level: i32, name: i32, mtu: Option<usize>) -> Result<Value> {
        if level == level::IPV6 && self.domain != Domain::Inet6 {
            return Err(Errno::ENOPROTOOPT);
        }
        if let Some(switch) = switch_of(level, name) {
            return Ok(Value::switch(self.is_on(switch)));
        }
        let class = |class: &AtomicU8| Value::int(i32::from(class.load(Relaxed)));
        let hops = |hops: &AtomicI32| match hops.load(Relaxed) {
            -1 => Value::int(DEFAULT_HOPS.load(Relaxed)),
            hops => Value::int(hops),
        };
        Ok(match (level, name) {
            (level::IP, name4::TOS) => class(&self.class4),
            (level::IP, name4::TTL) => hops(&self.hops4),
            (level::IP, name4::OPTIONS) => Value::bytes(&self.ip_options.lock()),
            (level::IP, name4::MTU_DISCOVER) => Value::int(self.discover4.load(Relaxed)),
            (level::IPV6, name6::MTU_DISCOVER) => Value::int(self.discover6.load(Relaxed)),
            (level::IP, name4::MTU) | (level::IPV6, name6::MTU) => Value::size(mtu.ok_or(Errno::ENOTCONN)?),
            (level::IPV6, name6::PATHMTU) => {
                let mut bytes = [0; 32];
                bytes[28..].copy_from_slice(&(mtu.ok_or(Errno::ENOTCONN)? as u32).to_ne_bytes());
                Value::bytes(&bytes)
            }
            (level::IP, name4::MINTTL) | (level::IPV6, name6::MINHOPCOUNT) => class(&self.least_hops),
            (level::IP, name4::MULTICAST_IF) => {
                Value::bytes(&self.multicast_source().unwrap_or(Ipv4Addr::UNSPECIFIED).octets())
            }
            (level::IP, name4::MULTICAST_TTL) => hops(&self.multicast_hops4),
            (level::IP | level::IPV6, name4::UNICAST_IF | name6::UNICAST_IF) => {
                Value::int(self.unicast_interface.load(Relaxed).to_be() as i32)
            }
            (level::IP, name4::LOCAL_PORT_RANGE) => Value::int(self.port_range.load(Relaxed) as i32),
            (level::IPV6, name6::ADDRFORM) => Value::int(self.domain as i32),
            (level::IPV6, name6::UNICAST_HOPS) => hops(&self.hops6),
            (level::IPV6, name6::MULTICAST_IF) => Value::int(self.multicast_interface.load(Relaxed) as i32),
            (level::IPV6, name6::MULTICAST_HOPS) => hops(&self.multicast_hops6),
            (level::IPV6, name6::TCLASS) => class(&self.class6),
            (level::IPV6, name6::ADDR_PREFERENCES) => Value::int(self.preferences.load(Relaxed)),
            _ => return Err(Errno::ENOPROTOOPT),
        })
    }

    /// Sets an option. `bound`: the socket has an address.
    pub fn set_option(&self, level: i32, name: i32, value: &[u8], bound: bool) -> Result<()> {
        if level == level::IPV6 && self.domain != Domain::Inet6 {
            return Err(Errno::ENOPROTOOPT);
        }
        if let Some(result) = self.memberships.set_option(level, name, value) {
            return result;
        }
        if let Some(switch) = switch_of(level, name) {
            if switch == InetSwitches::VERSION6_ONLY && bound {
                return Err(Errno::EINVAL);
            }
            return self.turn(switch, int_or_byte(value)? != 0);
        }
        match (level, name) {
            // The ECN bits belong to TCP.
            (level::IP, name4::TOS) => self.class4.store(int_or_byte(value)? as u8, Relaxed),
            (level::IP, name4::TTL) => {
                let hops = int_or_byte(value)?;
                if hops != -1 && !(1..=255).contains(&hops) {
                    return Err(Errno::EINVAL);
                }
                self.hops4.store(hops, Relaxed);
            }
            (level::IP, name4::OPTIONS) => {
                if value.len() > 40 {
                    return Err(Errno::EINVAL);
                }
                let mut options = SmallVec::from_slice(value);
                options.resize(value.len().next_multiple_of(4), 0);
                *self.ip_options.lock() = options;
            }
            (level::IP, name4::MTU_DISCOVER) => self.discover4.store(int_between(value, 0, 5)?, Relaxed),
            (level::IPV6, name6::MTU_DISCOVER) => self.discover6.store(int_between(value, 0, 5)?, Relaxed),
            (level::IPV6, name6::MTU) => {
                let mtu = int(value)?;
                if mtu != 0 && mtu < 1280 {
                    return Err(Errno::EINVAL);
                }
            }
            (level::IP, name4::MINTTL) | (level::IPV6, name6::MINHOPCOUNT) => {
                self.least_hops.store(int_between(value, 0, 255)? as u8, Relaxed);
            }
            (level::IP, name4::MULTICAST_TTL) => {
                let hops = int_between(value, -1, 255)?;
                self.multicast_hops4.store(if hops == -1 { 1 } else { hops }, Relaxed);
            }
            (level::IP, name4::MULTICAST_IF) => self.set_multicast_interface(value)?,
            (level::IPV6, name6::MULTICAST_IF) => {
                let index = int(value)? as u32;
                if index != 0 && interface::by_index(index).is_none() {
                    return Err(Errno::ENODEV);
                }
                self.multicast_interface.store(index, Relaxed);
            }
            (level::IP | level::IPV6, name4::UNICAST_IF | name6::UNICAST_IF) => {
                let index = u32::from_be(int(value)? as u32);
                if index != 0 && interface::by_index(index).is_none() {
                    return Err(Errno::EADDRNOTAVAIL);
                }
                self.unicast_interface.store(index, Relaxed);
            }
            (level::IP, name4::LOCAL_PORT_RANGE) => self.port_range.store(int(value)? as u32, Relaxed),
            (level::IPV6, name6::UNICAST_HOPS) => self.hops6.store(hops6(value)?, Relaxed),
            (level::IPV6, name6::MULTICAST_HOPS) => {
                let hops = hops6(value)?;
                self.multicast_hops6.store(if hops == -1 { 1 } else { hops }, Relaxed);
            }
            (level::IPV6, name6::TCLASS) => {
                let class = int(value)?;
                if !(-1..=255).contains(&class) {
                    return Err(Errno::EINVAL);
                }
                self.class6.store(class.max(0) as u8, Relaxed);
            }
            (level::IPV6, name6::ADDR_PREFERENCES) => self.preferences.store(int(value)?, Relaxed),
            (level::IPV6, name6::ADDRFORM | name6::JOIN_ANYCAST | name6::LEAVE_ANYCAST) => {
                return Err(Errno::EOPNOTSUPP);
            }
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn turn(&self, switch: InetSwitches, on: bool) -> Result<()> {
        if on {
            self.switches.fetch_or(switch.bits(), Relaxed);
        } else {
            self.switches.fetch_and(!switch.bits(), Relaxed);
        }
        Ok(())
    }

    /// IP_MULTICAST_IF: `struct ip_mreqn`, `struct ip_mreq`, or an address alone.
    fn set_multicast_interface(&self, value: &[u8]) -> Result<()> {
        let address_at = if value.len() >= 8 { 4 } else { 0 };
        let octets = value.get(address_at..).and_then(|rest| rest.first_chunk::<4>()).ok_or(Errno::EINVAL)?;
        let address = Ipv4Addr::from(*octets);
        let index = option::word(value, 8).unwrap_or(0);
        let found = if index != 0 {
            Some(interface::by_index(index).ok_or(Errno::EADDRNOTAVAIL)?)
        } else if address.is_unspecified() {
            None
        } else {
            Some(crate::address::owner(address.into()).ok_or(Errno::EADDRNOTAVAIL)?)
        };
        self.multicast_interface.store(found.map_or(0, |interface| interface.index()), Relaxed);
        *self.multicast_source.lock() = (!address.is_unspecified()).then_some(address);
        Ok(())
    }
}

fn hops6(value: &[u8]) -> Result<i32> {
    let hops = int(value)?;
    if (-1..=255).contains(&hops) { Ok(hops) } else { Err(Errno::EINVAL) }
}

/// SO_BINDTODEVICE and SO_BINDTOIFINDEX, for sockets of every family that has interfaces; `None` for other options.
pub fn set_interface(base: &SocketBase, name: i32, value: &[u8]) -> Option<Result<()>> {
    let index = match name {
        crate::base::name::BINDTODEVICE => {
            let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
            match core::str::from_utf8(&value[..end]) {
                Ok("") => Ok(0),
                Ok(name) => interface::by_name(name).map(|found| found.index()).ok_or(Errno::ENODEV),
                Err(_) => Err(Errno::ENODEV),
            }
        }
        crate::base::name::BINDTOIFINDEX => int(value).and_then(|index| match index {
            0 => Ok(0),
            index => interface::by_index(index as u32).map(|found| found.index()).ok_or(Errno::ENODEV),
        }),
        _ => return None,
    };
    Some(index.map(|index| base.set_interface(index)))
}

/// SO_BINDTODEVICE's value: the name, or nothing.
pub fn interface_name(base: &SocketBase) -> Value {
    match interface::by_index(base.interface()) {
        Some(interface) => {
            let mut bytes: SmallVec<[u8; 16]> = SmallVec::from_slice(interface.name().as_bytes());
            bytes.push(0);
            Value::bytes(&bytes)
        }
        None => Value::bytes(&[]),
    }
}
