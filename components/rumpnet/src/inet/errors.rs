//! The error queue of a socket (ip(7), IP_RECVERR; MSG_ERRQUEUE): ICMP errors about what it sent, and
//! completions of sends without a copy.

use alloc::collections::VecDeque;
use core::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
};

use rumpkern::{Errno, Result, uio::Sink};
use rumpuser::sync::SpinLock;
use smallvec::SmallVec;

use super::present;
use crate::{
    option::level,
    packet::Chain,
    socket::{Address, Ancillary, Control, Domain, MessageFlags, Received},
};

/// Errors that wait; more are dropped.
const LIMIT: usize = 128;
const IP_RECVERR: i32 = 11;
const IPV6_RECVERR: i32 = 25;

/// Where an error comes from (`SO_EE_ORIGIN_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Origin {
    /// This machine.
    Local = 1,
    /// An ICMP message.
    Icmp = 2,
    /// An ICMPv6 message.
    Icmpv6 = 3,
    /// A send without a copy is complete.
    ZeroCopy = 5,
}

/// An entry (`struct sock_extended_err`).
#[derive(Clone)]
pub struct QueuedError {
    /// What it means; none for completions.
    pub errno: Option<Errno>,
    /// Who says so.
    pub origin: Origin,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The MTU; the first completed send.
    pub info: u32,
    /// The last completed send.
    pub data: u32,
    /// The machine that sent the ICMP message.
    pub offender: Option<IpAddr>,
    /// Whom the packet was sent to.
    pub destination: Option<SocketAddr>,
    /// What the packet carried, as far as the message tells.
    pub payload: Chain,
}

/// See the module.
#[derive(Default)]
pub struct ErrorQueue {
    entries: SpinLock<VecDeque<QueuedError>>,
    count: AtomicUsize,
}

impl ErrorQueue {
    /// Adds an entry.
    pub fn push(&self, error: QueuedError) {
        let mut entries = self.entries.lock();
        if entries.len() < LIMIT {
            entries.push_back(error);
            self.count.store(entries.len(), Ordering::Release);
        }
    }

    /// Tells that send number `number` is complete; joins it with the entry before if that fits. `copied`: the
    /// data was copied after all.
    pub fn complete(&self, number: u32, copied: bool) {
        let mut entries = self.entries.lock();
        let code = u8::from(copied);
        if let Some(last) = entries.back_mut()
            && last.origin == Origin::ZeroCopy
            && last.code == code
            && last.data.wrapping_add(1) == number
        {
            last.data = number;
            return;
        }
        drop(entries);
        self.push(QueuedError {
            errno: None,
            origin: Origin::ZeroCopy,
            kind: 0,
            code,
            info: number,
            data: number,
            offender: None,
            destination: None,
            payload: Chain::new(),
        });
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Drops everything.
    pub fn clear(&self) {
        let old = core::mem::take(&mut *self.entries.lock());
        self.count.store(0, Ordering::Release);
        drop(old);
    }

    fn take(&self) -> Option<QueuedError> {
        let mut entries = self.entries.lock();
        let error = entries.pop_front();
        self.count.store(entries.len(), Ordering::Release);
        error
    }

    /// recvmsg(2) with MSG_ERRQUEUE. EAGAIN if there is none.
    pub fn receive(&self, domain: Domain, sink: &mut Sink<'_>) -> Result<Received> {
        let error = self.take().ok_or(Errno::EAGAIN)?;
        let done = error.payload.copy_out(sink)?;
        let mut flags = MessageFlags::ERROR_QUEUE;
        if done < error.payload.len() {
            flags |= MessageFlags::TRUNCATED;
        }
        Ok(Received {
            length: done,
            source: error.destination.map(|address| Address::Internet(present(domain, address))),
            ancillary: Ancillary { controls: [error.control(domain)].into(), ..Ancillary::default() },
            flags,
        })
    }
}

impl QueuedError {
    fn control(&self, domain: Domain) -> Control {
        let mut data: SmallVec<[u8; 24]> = SmallVec::new();
        let number = self.errno.map_or(0, Errno::code);
        data.extend_from_slice(&number.to_ne_bytes());
        data.extend_from_slice(&[self.origin as u8, self.kind, self.code, 0]);
        data.extend_from_slice(&self.info.to_ne_bytes());
        data.extend_from_slice(&self.data.to_ne_bytes());
        let (level, kind) =
            if domain == Domain::Inet6 { (level::IPV6, IPV6_RECVERR) } else { (level::IP, IP_RECVERR) };
        let offender = self.offender.map(|address| present(domain, SocketAddr::new(address, 0)));
        match offender {
            Some(SocketAddr::V4(address)) => {
                data.extend_from_slice(&(Domain::Inet as u16).to_ne_bytes());
                data.extend_from_slice(&[0; 2]);
                data.extend_from_slice(&address.ip().octets());
                data.extend_from_slice(&[0; 8]);
            }
            Some(SocketAddr::V6(address)) => {
                data.extend_from_slice(&(Domain::Inet6 as u16).to_ne_bytes());
                data.extend_from_slice(&[0; 6]);
                data.extend_from_slice(&address.ip().octets());
                data.extend_from_slice(&[0; 4]);
            }
            // AF_UNSPEC.
            None => data.extend_from_slice(if domain == Domain::Inet6 { &[0; 28] } else { &[0; 16] }),
        }
        Control { level, kind, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_in_a_row_are_one_entry() {
        let queue = ErrorQueue::default();
        (5..8).for_each(|number| queue.complete(number, true));
        queue.complete(8, false);
        let mut nothing = [0; 1];
        let received = queue.receive(Domain::Inet, &mut Sink::kernel(&mut nothing)).unwrap();
        assert_eq!(received.length, 0);
        let control = &received.ancillary.controls[0];
        assert_eq!((control.level, control.kind, control.data.len()), (0, 11, 32));
        assert_eq!(control.data[4..16], [5, 0, 1, 0, 5, 0, 0, 0, 7, 0, 0, 0]);
        assert!(queue.receive(Domain::Inet, &mut Sink::kernel(&mut nothing)).is_ok());
        assert!(queue.is_empty());
        assert_eq!(queue.receive(Domain::Inet, &mut Sink::kernel(&mut nothing)).err(), Some(Errno::EAGAIN));
    }

    #[test]
    fn an_error_names_who_complains_and_about_what() {
        let queue = ErrorQueue::default();
        queue.push(QueuedError {
            errno: Some(Errno::ECONNREFUSED),
            origin: Origin::Icmp,
            kind: 3,
            code: 3,
            info: 0,
            data: 0,
            offender: Some("10.0.0.1".parse().unwrap()),
            destination: Some("10.0.0.9:53".parse().unwrap()),
            payload: Chain::copy_of(b"query").unwrap(),
        });
        let mut buffer = [0; 3];
        let received = queue.receive(Domain::Inet6, &mut Sink::kernel(&mut buffer)).unwrap();
        assert_eq!((received.length, &buffer), (3, b"que"));
        assert!(received.flags.contains(MessageFlags::TRUNCATED));
        let Some(Address::Internet(source)) = received.source else { panic!("no source") };
        assert_eq!(source, "[::ffff:10.0.0.9]:53".parse().unwrap());
        assert_eq!(received.ancillary.controls[0].data.len(), 16 + 28);
    }
}
