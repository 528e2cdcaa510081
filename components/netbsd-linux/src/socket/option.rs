//! Options: those that both systems have go to NetBSD's kernel by its names, those of Linux alone are kept and answered
//! here.

use alloc::vec;
use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result};
use rumpnet::{
    base::name,
    option::{Value, int, int_or_byte, level, word},
    socket::{Domain, Style},
};

use super::{InternetSocket, state};
use crate::{
    call::{Caller, address_of, address_of_mut, int as argument, number},
    control::WISH_NANOSECONDS,
};

/// `SOL_SOCKET`, `IPPROTO_IPV6`, and options of these that are used elsewhere.
pub const SOCKET: i32 = 0xffff;
pub const IPV6: i32 = 41;
pub const SO_ERROR: i32 = 0x1007;
pub const IPV6_V6ONLY: i32 = 27;
/// `SO_ACCEPTCONN`, `TCP_INFO`.
const SO_ACCEPTCONN: i32 = 2;
const TCP_INFO: i32 = 9;

/// An `int` in Linux and in NetBSD.
struct Same {
    level: i32,
    name: i32,
    netbsd: i32,
}

const fn same(level: i32, name: i32, netbsd: i32) -> Same {
    Same { level, name, netbsd }
}

/// Options that are an `int` in both.
const SAME: &[Same] = &[
    same(level::SOCKET, name::DEBUG, 0x1),
    same(level::SOCKET, name::REUSEADDR, 0x4),
    same(level::SOCKET, name::KEEPALIVE, 0x8),
    same(level::SOCKET, name::DONTROUTE, 0x10),
    same(level::SOCKET, name::BROADCAST, 0x20),
    same(level::SOCKET, name::OOBINLINE, 0x100),
    same(level::SOCKET, name::REUSEPORT, 0x200),
    same(level::SOCKET, name::TIMESTAMP, 0x2000),
    same(level::SOCKET, name::TIMESTAMPNS, 0x2000),
    same(level::SOCKET, name::RCVLOWAT, 0x1004),
    // NODELAY, MAXSEG, KEEPIDLE, KEEPINTVL, KEEPCNT.
    same(level::TCP, 1, 1),
    same(level::TCP, 2, 2),
    same(level::TCP, 4, 3),
    same(level::TCP, 5, 5),
    same(level::TCP, 6, 6),
    // TOS, TTL, HDRINCL, RECVOPTS, PKTINFO, RECVTTL.
    same(level::IP, 1, 3),
    same(level::IP, 2, 4),
    same(level::IP, 3, 2),
    same(level::IP, 6, 5),
    same(level::IP, 8, 25),
    same(level::IP, 12, 23),
    // CHECKSUM, UNICAST_HOPS, MULTICAST_IF, MULTICAST_HOPS, MULTICAST_LOOP, V6ONLY.
    same(level::IPV6, 7, 26),
    same(level::IPV6, 16, 4),
    same(level::IPV6, 17, 9),
    same(level::IPV6, 18, 10),
    same(level::IPV6, 19, 11),
    same(level::IPV6, 26, IPV6_V6ONLY),
    // RECVPKTINFO, RECVHOPLIMIT, RECVTCLASS, TCLASS, DONTFRAG.
    same(level::IPV6, 49, 36),
    same(level::IPV6, 51, 37),
    same(level::IPV6, 66, 57),
    same(level::IPV6, 67, 61),
    same(level::IPV6, 62, 62),
];

/// Options of Linux that are kept and have no effect: level, name, value at first.
const KEPT: &[(i32, i32, i32)] = &[
    // CORK, SYNCNT, LINGER2, DEFER_ACCEPT, WINDOW_CLAMP, QUICKACK, THIN_*, USER_TIMEOUT, FASTOPEN, NOTSENT_LOWAT,
    // FASTOPEN_CONNECT, INQ.
    (level::TCP, 3, 0),
    (level::TCP, 7, 6),
    (level::TCP, 8, 60),
    (level::TCP, 9, 0),
    (level::TCP, 10, 0),
    (level::TCP, 12, 1),
    (level::TCP, 16, 0),
    (level::TCP, 17, 0),
    (level::TCP, 18, 0),
    (level::TCP, 23, 0),
    (level::TCP, 25, 0),
    (level::TCP, 30, 0),
    (level::TCP, 36, 0),
    // MTU_DISCOVER, RECVERR, RECVTOS, FREEBIND, BIND_ADDRESS_NO_PORT, MULTICAST_ALL.
    (level::IP, 10, 1),
    (level::IP, 11, 0),
    (level::IP, 13, 0),
    (level::IP, 15, 0),
    (level::IP, 24, 0),
    (level::IP, 49, 1),
    // MTU_DISCOVER, RECVERR, MULTICAST_ALL, FREEBIND.
    (level::IPV6, 23, 1),
    (level::IPV6, 25, 0),
    (level::IPV6, 29, 1),
    (level::IPV6, 78, 0),
];

/// What Linux's KEEPIDLE, KEEPINTVL and KEEPCNT are at first.
const KEEPALIVE: &[(i32, i32, i32)] = &[(level::TCP, 4, 7200), (level::TCP, 5, 75), (level::TCP, 6, 9)];

/// Linux's options of IPv4 groups: MULTICAST_IF, MULTICAST_TTL, MULTICAST_LOOP, ADD_MEMBERSHIP, DROP_MEMBERSHIP.
const MULTICAST_IF: i32 = 32;
const MULTICAST_TTL: i32 = 33;
const MULTICAST_LOOP: i32 = 34;
const ADD_MEMBERSHIP: i32 = 35;
const DROP_MEMBERSHIP: i32 = 36;
/// IPV6_ADD_MEMBERSHIP, IPV6_DROP_MEMBERSHIP.
const JOIN: i32 = 20;
const LEAVE: i32 = 21;
/// TCP_NODELAY, TCP_INFO, TCP_CONGESTION of Linux.
const NO_DELAY: i32 = 1;
const INFO: i32 = 11;
const CONGESTION: i32 = 13;
/// TCP_CONGCTL, and the longest name of a congestion control.
const CONGESTION_NETBSD: i32 = 0x20;
const CONGESTION_NAME: usize = 16;
/// Bytes of Linux's `struct tcp_info` that are filled in, of NetBSD's, and where that counts retransmissions.
const INFO_SIZE: usize = 104;
const INFO_NETBSD: usize = 256;
const INFO_RETRANSMITS: usize = 124;
/// Linux's numbers of the states of TCP, by NetBSD's.
const STATES: [u8; 11] = [7, 10, 2, 3, 1, 8, 4, 11, 9, 5, 6];

impl InternetSocket {
    fn set_bytes(&self, caller: &mut Caller, level: i32, name: i32, value: &[u8]) -> Result<()> {
        let arguments = &mut [
            argument(self.descriptor),
            argument(level),
            argument(name),
            address_of(value),
            value.len() as u64,
        ];
        caller.call(number::SETSOCKOPT, arguments).map(|_| ())
    }

    pub(super) fn set_int(&self, caller: &mut Caller, level: i32, name: i32, value: i32) -> Result<()> {
        self.set_bytes(caller, level, name, &value.to_ne_bytes())
    }

    /// An option's value; returns how many bytes it has.
    fn get_bytes(&self, caller: &mut Caller, level: i32, name: i32, value: &mut [u8]) -> Result<usize> {
        let mut length = value.len() as u32;
        let arguments = &mut [
            argument(self.descriptor),
            argument(level),
            argument(name),
            address_of_mut(value),
            address_of_mut(&mut length),
        ];
        caller.call(number::GETSOCKOPT, arguments)?;
        Ok((length as usize).min(value.len()))
    }

    pub(super) fn get_int(&self, caller: &mut Caller, level: i32, name: i32) -> Result<i32> {
        let mut value = [0; 4];
        match self.get_bytes(caller, level, name, &mut value)? {
            1 => Ok(i32::from(value[0])),
            _ => Ok(i32::from_ne_bytes(value)),
        }
    }

    fn kept(&self, level: i32, name: i32) -> Option<i32> {
        let default = KEPT.iter().find(|row| (row.0, row.1) == (level, name))?.2;
        let kept = self.kept.lock().iter().find(|row| (row.0, row.1) == (level, name)).map(|row| row.2);
        Some(kept.unwrap_or(default))
    }

    /// What an option of TCP was set to, or Linux's default.
    fn noted(&self, level: i32, name: i32) -> Option<i32> {
        let noted = self.kept.lock().iter().find(|row| (row.0, row.1) == (level, name)).map(|row| row.2);
        let default = || KEEPALIVE.iter().find(|row| (row.0, row.1) == (level, name)).map(|row| row.2);
        noted.or_else(default)
    }

    fn keep(&self, level: i32, name: i32, value: i32) {
        let mut kept = self.kept.lock();
        match kept.iter_mut().find(|row| (row.0, row.1) == (level, name)) {
            Some(row) => row.2 = value,
            None => kept.push((level, name, value)),
        }
    }

    /// ENOPROTOOPT (EOPNOTSUPP for other levels than the socket's) for options that the kind of socket hasn't.
    fn require_level(&self, level: i32) -> Result<()> {
        match level {
            level::SOCKET | level::IP => Ok(()),
            level::IPV6 if self.base.domain() == Domain::Inet6 => Ok(()),
            level::TCP if self.base.style() == Style::Stream => Ok(()),
            level::IPV6 => Err(Errno::ENOPROTOOPT),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    pub(super) fn value_of(&self, level: i32, name: i32) -> Result<Value> {
        self.require_level(level)?;
        if let Some(value) = self.kept(level, name) {
            return Ok(Value::int(value));
        }
        let mut caller = Caller::borrow()?;
        if level == level::SOCKET {
            return match name {
                name::ERROR => {
                    let error = self.get_int(&mut caller, SOCKET, SO_ERROR)?;
                    if error != 0 && self.state() == state::CONNECTING {
                        self.state.store(state::IDLE, Ordering::Release);
                    }
                    Ok(Value::int(if error == 0 { 0 } else { crate::errno::translate(error).code() }))
                }
                name::ACCEPTCONN => {
                    self.get_int(&mut caller, SOCKET, SO_ACCEPTCONN).map(|on| Value::switch(on != 0))
                }
                _ => self.base.option(name),
            };
        }
        match (level, name) {
            (level::TCP, INFO) => return self.information(&mut caller),
            (level::TCP, CONGESTION) => {
                let mut value = [0; CONGESTION_NAME];
                let length = self.get_bytes(&mut caller, level, CONGESTION_NETBSD, &mut value)?;
                return Ok(Value::bytes(&value[..length]));
            }
            (level::IP, MULTICAST_TTL) => return self.get_int(&mut caller, level, 10).map(Value::int),
            (level::IP, MULTICAST_LOOP) => return self.get_int(&mut caller, level, 11).map(Value::int),
            _ => {}
        }
        let known =
            SAME.iter().find(|same| (same.level, same.name) == (level, name)).ok_or(Errno::ENOPROTOOPT)?;
        let value = match (self.get_int(&mut caller, level, known.netbsd), self.noted(level, name)) {
            // Some can only be set.
            (Err(Errno::ENOPROTOOPT), Some(noted)) => noted,
            (value, _) => value?,
        };
        // NetBSD gives the bit by which it knows.
        Ok(if (level, name) == (level::TCP, NO_DELAY) {
            Value::switch(value != 0)
        } else {
            Value::int(value)
        })
    }

    /// `struct tcp_info`: NetBSD's is like Linux's where the two know the same.
    fn information(&self, caller: &mut Caller) -> Result<Value> {
        let mut value = vec![0; INFO_NETBSD];
        let length = self.get_bytes(caller, level::TCP, TCP_INFO, &mut value)?;
        let state = STATES.get(usize::from(value[0])).copied().unwrap_or(7);
        let retransmits = word(&value[..length], INFO_RETRANSMITS).unwrap_or(0);
        value[0] = state;
        value[INFO_SIZE - 4..INFO_SIZE].copy_from_slice(&retransmits.to_ne_bytes());
        Ok(Value::bytes(&value[..INFO_SIZE]))
    }

    pub(super) fn set_value(&self, level: i32, name: i32, value: &[u8]) -> Result<()> {
        self.require_level(level)?;
        if KEPT.iter().any(|row| (row.0, row.1) == (level, name)) {
            self.keep(level, name, int_or_byte(value)?);
            return Ok(());
        }
        let mut caller = Caller::borrow()?;
        let known = SAME.iter().find(|same| (same.level, same.name) == (level, name));
        if level == level::SOCKET {
            self.base.set_option(name, value)?;
            return match name {
                name::SNDBUF | name::SNDBUFFORCE => {
                    self.set_size(&mut caller, 0x1001, self.base.send_buffer())
                }
                name::RCVBUF | name::RCVBUFFORCE => {
                    self.set_size(&mut caller, 0x1002, self.base.receive_buffer())
                }
                // Nothing of it makes the kernel wait: its sockets never do.
                name::LINGER => self.set_bytes(&mut caller, SOCKET, 0x80, &value[..8]),
                name::TIMESTAMPNS | name::TIMESTAMP => {
                    let wish = if name == name::TIMESTAMPNS { WISH_NANOSECONDS } else { 0 };
                    self.wishes.store(wish, Ordering::Relaxed);
                    self.set_int(&mut caller, SOCKET, 0x2000, int(value)?)
                }
                _ => match known {
                    Some(known) => self.set_int(&mut caller, SOCKET, known.netbsd, int(value)?),
                    None => Ok(()),
                },
            };
        }
        match (level, name) {
            (level::TCP, CONGESTION) => {
                let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
                let mut text = [0; CONGESTION_NAME];
                let end = end.min(CONGESTION_NAME - 1);
                text[..end].copy_from_slice(&value[..end]);
                return self.set_bytes(&mut caller, level, CONGESTION_NETBSD, &text[..=end]);
            }
            (level::IP, MULTICAST_TTL) => {
                return self.set_bytes(&mut caller, level, 10, &[int_or_byte(value)? as u8]);
            }
            (level::IP, MULTICAST_LOOP) => {
                return self.set_bytes(&mut caller, level, 11, &[u8::from(int_or_byte(value)? != 0)]);
            }
            (level::IP, MULTICAST_IF | ADD_MEMBERSHIP | DROP_MEMBERSHIP) => {
                return self.set_group(&mut caller, name, value);
            }
            (level::IPV6, JOIN | LEAVE) => {
                let group = value.get(..20).ok_or(Errno::EINVAL)?;
                return self.set_bytes(&mut caller, level, if name == JOIN { 12 } else { 13 }, group);
            }
            _ => {}
        }
        let known = known.ok_or(Errno::ENOPROTOOPT)?;
        let value = int_or_byte(value)?;
        self.set_int(&mut caller, level, known.netbsd, value)?;
        if level == level::TCP {
            self.keep(level, name, value);
        }
        if (level, name) == (level::IPV6, 26) {
            self.version6_only.store(value != 0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Groups of IPv4: `struct ip_mreqn` has an interface's number behind the addresses, which NetBSD takes in the place
    /// of the address (as 0.0.0.N).
    fn set_group(&self, caller: &mut Caller, name: i32, value: &[u8]) -> Result<()> {
        let index = word(value, 8).unwrap_or(0);
        let by_index = (1..1 << 24).contains(&index).then(|| index.to_be_bytes());
        if name == MULTICAST_IF {
            let address = match value.len() {
                4..8 => &value[..4],
                _ => value.get(4..8).ok_or(Errno::EINVAL)?,
            };
            return self.set_bytes(caller, level::IP, 9, by_index.as_ref().map_or(address, |bytes| bytes));
        }
        let mut request = [0; 8];
        request.copy_from_slice(value.get(..8).ok_or(Errno::EINVAL)?);
        if let Some(bytes) = by_index {
            request[4..].copy_from_slice(&bytes);
        }
        self.set_bytes(caller, level::IP, if name == ADD_MEMBERSHIP { 12 } else { 13 }, &request)
    }

    /// Sizes of buffers: as near as the kernel lets.
    fn set_size(&self, caller: &mut Caller, name: i32, size: usize) -> Result<()> {
        let mut size = i32::try_from(size).unwrap_or(i32::MAX);
        loop {
            match self.set_int(caller, SOCKET, name, size) {
                Err(Errno::ENOBUFS) if size > 4096 => size /= 2,
                result => return result,
            }
        }
    }
}
