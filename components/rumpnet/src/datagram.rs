//! Received datagrams that wait to be read: a bounded queue, the same for every kind of socket that has messages.

use alloc::collections::VecDeque;
use core::{
    net::IpAddr,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use rumpkern::{Errno, Result, uio::Sink};
use rumpuser::sync::SpinLock;

use crate::{
    packet::{Chain, Fragment},
    socket::{Address, MessageFlags},
};

/// What a datagram costs of the buffer besides its bytes.
const OVERHEAD: usize = 512;
/// The most datagrams that are joined to one, as on Linux.
const JOINED: usize = 64;
/// Payloads up to this size share pages.
const SMALL: usize = 1024;

/// What is known of a datagram besides its data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Whom it was sent to.
    pub destination: Option<IpAddr>,
    /// To which port.
    pub port: u16,
    /// The interface it came in on.
    pub interface: u32,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class.
    pub traffic_class: u8,
    /// Several datagrams in one: the size of all but the last.
    pub segment_size: u16,
    /// When it came, in nanoseconds since 1970; 0 if nobody asked.
    pub time: u64,
    /// Its length on the wire, if more than there is here.
    pub wire_length: usize,
    /// How many were lost before it.
    pub dropped: u32,
    /// `TP_STATUS_*` of packet(7).
    pub status: u32,
}

/// A received datagram.
#[derive(Clone)]
pub struct Datagram {
    /// Its data.
    pub data: Chain,
    /// Who sent it.
    pub source: Address,
    /// The rest.
    pub metadata: Metadata,
}

impl Datagram {
    fn cost(&self) -> usize {
        self.data.len() + OVERHEAD
    }

    /// Copies it to a sink; the length to report and the flags. EFAULT.
    pub fn deliver(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<(usize, MessageFlags)> {
        let wanted = self.data.len().min(sink.remaining());
        let done = self.data.copy_out(sink)?;
        if done < wanted {
            return Err(Errno::EFAULT);
        }
        let length = self.data.len().max(self.metadata.wire_length);
        let cut = if done < length { MessageFlags::TRUNCATED } else { MessageFlags::default() };
        Ok((if flags.contains(MessageFlags::TRUNCATED) { length } else { done }, cut))
    }
}

#[derive(Default)]
struct Waiting {
    datagrams: VecDeque<Datagram>,
    cost: usize,
    /// The page that small payloads are copied to, as far as it is used.
    page: Option<Fragment>,
}

impl Waiting {
    /// A payload that pins no page of its own, if it is small.
    fn pack(&mut self, data: Chain) -> Chain {
        let length = data.len();
        if length == 0 || length > SMALL || data.fragments().iter().all(|piece| piece.len() > SMALL) {
            return data;
        }
        if self.page.as_ref().is_none_or(|page| page.room() < length) {
            self.page = Fragment::new(0).ok();
        }
        let Some(page) = &mut self.page else { return data };
        let start = page.len();
        for piece in data.fragments() {
            page.append(piece.bytes());
        }
        let mut packed = Chain::new();
        packed.push(page.slice(start..page.len()));
        packed
    }
}

/// See the module.
#[derive(Default)]
pub struct DatagramQueue {
    waiting: SpinLock<Waiting>,
    count: AtomicUsize,
    dropped: AtomicU32,
}

impl DatagramQueue {
    /// Adds a datagram unless more than `limit` bytes would wait; false if it was dropped.
    pub fn push(&self, mut datagram: Datagram, limit: usize) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.cost > 0 && waiting.cost + datagram.cost() > limit {
            drop(waiting);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        datagram.data = waiting.pack(datagram.data);
        datagram.metadata.dropped = self.dropped.load(Ordering::Relaxed);
        waiting.cost += datagram.cost();
        waiting.datagrams.push_back(datagram);
        self.count.store(waiting.datagrams.len(), Ordering::Release);
        true
    }

    /// The first datagram; `peek` leaves it there.
    pub fn take(&self, peek: bool) -> Option<Datagram> {
        if self.is_empty() {
            return None;
        }
        let mut waiting = self.waiting.lock();
        if peek {
            return waiting.datagrams.front().cloned();
        }
        let datagram = waiting.datagrams.pop_front()?;
        waiting.cost -= datagram.cost();
        if waiting.datagrams.is_empty() {
            waiting.page = None;
        }
        self.count.store(waiting.datagrams.len(), Ordering::Release);
        Some(datagram)
    }

    /// Joins datagrams that follow `first` in its flow and have its size, the last perhaps less, to it, up to `most`
    /// bytes in all (UDP_GRO).
    pub fn join(&self, first: &mut Datagram, most: usize) {
        let size = first.data.len();
        let mut waiting = self.waiting.lock();
        for _ in 1..JOINED {
            let Some(next) = waiting.datagrams.front() else { break };
            let length = next.data.len();
            let (one, other) = (&first.metadata, &next.metadata);
            let same_flow = matches!((&first.source, &next.source), (Address::Internet(one), Address::Internet(other)) if one == other)
                && (one.destination, one.port, one.interface)
                    == (other.destination, other.port, other.interface)
                && (one.hop_limit, one.traffic_class) == (other.hop_limit, other.traffic_class);
            if !same_flow || length == 0 || length > size || first.data.len() + length > most.min(65_507) {
                break;
            }
            let Some(next) = waiting.datagrams.pop_front() else { break };
            waiting.cost -= next.cost();
            first.metadata.segment_size = size as u16;
            first.data.append(next.data);
            if length < size {
                break;
            }
        }
        self.count.store(waiting.datagrams.len(), Ordering::Release);
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// The length of the first datagram.
    pub fn first_length(&self) -> usize {
        self.waiting.lock().datagrams.front().map_or(0, |datagram| datagram.data.len())
    }

    /// Bytes of the buffer in use.
    pub fn used(&self) -> usize {
        self.waiting.lock().cost
    }

    /// Datagrams dropped for lack of room.
    pub fn dropped(&self) -> u32 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Drops those that `keep` doesn't want.
    pub fn retain(&self, keep: impl Fn(&Datagram) -> bool) {
        let mut waiting = self.waiting.lock();
        waiting.datagrams.retain(keep);
        waiting.cost = waiting.datagrams.iter().map(Datagram::cost).sum();
        self.count.store(waiting.datagrams.len(), Ordering::Release);
    }

    /// Drops everything.
    pub fn clear(&self) {
        let old = {
            let mut waiting = self.waiting.lock();
            self.count.store(0, Ordering::Release);
            core::mem::take(&mut *waiting)
        };
        drop(old);
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    fn datagram(bytes: &[u8]) -> Datagram {
        Datagram {
            data: Chain::copy_of(bytes).unwrap(),
            source: Address::Unnamed,
            metadata: Metadata::default(),
        }
    }

    #[test]
    fn datagrams_come_in_order_and_are_cut() {
        let queue = DatagramQueue::default();
        assert!(queue.push(datagram(b"first"), 10_000));
        assert!(queue.push(datagram(b""), 10_000));
        let mut small = [0; 3];
        let peeked = queue.take(true).unwrap();
        let delivered = peeked.deliver(&mut Sink::kernel(&mut small), MessageFlags::TRUNCATED);
        assert_eq!(delivered, Ok((5, MessageFlags::TRUNCATED)));
        assert_eq!((&small, queue.first_length()), (b"fir", 5));
        assert_eq!(queue.take(false).unwrap().data.first(), b"first");
        assert!(queue.take(false).unwrap().data.is_empty());
        assert!(queue.take(false).is_none() && queue.used() == 0);
    }

    #[test]
    fn datagrams_of_a_flow_are_joined() {
        let queue = DatagramQueue::default();
        let from = |port, bytes: &[u8]| Datagram {
            source: Address::Internet(core::net::SocketAddr::from(([10, 0, 0, 1], port))),
            ..datagram(bytes)
        };
        for (port, bytes) in [(1, b"aaa"), (1, b"bbb"), (1, b"ccc")] {
            assert!(queue.push(from(port, bytes), 100_000));
        }
        for (port, bytes) in [(1, &b"dd"[..]), (1, b"eee"), (2, b"fff"), (1, b"gggg")] {
            assert!(queue.push(from(port, bytes), 100_000));
        }
        let next = |most| {
            let mut first = queue.take(false).unwrap();
            queue.join(&mut first, most);
            let mut bytes = vec![0; first.data.len()];
            first.data.copy_to(0, &mut bytes);
            (bytes, first.metadata.segment_size)
        };
        assert_eq!(next(8), (b"aaabbb".to_vec(), 3));
        assert_eq!(next(1000), (b"cccdd".to_vec(), 3));
        assert_eq!(next(1000), (b"eee".to_vec(), 0));
        assert_eq!(next(1000), (b"fff".to_vec(), 0));
        assert_eq!(next(1000), (b"gggg".to_vec(), 0));
        assert!(queue.is_empty() && queue.used() == 0);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let queue = DatagramQueue::default();
        // One is taken however large it is.
        assert!(queue.push(datagram(&vec![1; 5000]), 2000));
        assert!(!queue.push(datagram(b"x"), 2000));
        assert_eq!(queue.dropped(), 1);
        queue.take(false).unwrap();
        assert!(queue.push(datagram(b"y"), 2000));
        assert_eq!(queue.take(false).unwrap().metadata.dropped, 1);
    }

    #[test]
    fn small_payloads_share_a_page() {
        let queue = DatagramQueue::default();
        (0..4).for_each(|byte| assert!(queue.push(datagram(&[byte; 100]), 100_000)));
        let taken: std::vec::Vec<_> = (0..4).map(|_| queue.take(false).unwrap()).collect();
        for (byte, datagram) in taken.iter().enumerate() {
            assert_eq!(datagram.data.first(), [byte as u8; 100]);
            assert_eq!(datagram.data.fragments()[0].frame(), taken[0].data.fragments()[0].frame());
        }
    }
}
