//! What the user does: send, receive, close (RFC 9293, section 3.10), and what it may ask.

use rumpkern::{Errno, Result};

use super::{Bits, Changes, Network, State, Tcb};
use crate::{
    packet::Chain,
    tcp::{estimator::MILLISECOND, memory, tunables},
};

/// The least time over which the reader's speed is measured.
const TUNING: u64 = 5 * MILLISECOND;

impl Tcb {
    /// How many bytes may be queued for sending now. EPIPE after the end, or what ended the connection.
    pub fn room(&mut self) -> Result<usize> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        match self.state {
            State::Established | State::CloseWait if !self.has(Bits::FIN_QUEUED) => {}
            State::SynSent | State::SynReceived => return Err(Errno::EAGAIN),
            _ => return Err(Errno::EPIPE),
        }
        let room = (self.send_limit as usize).saturating_sub(self.queue.len());
        if room == 0 || memory::is_exhausted() && !self.queue.is_empty() {
            self.bits |= Bits::NO_SPACE;
            return Err(Errno::EAGAIN);
        }
        Ok(room)
    }

    /// Queues data and sends what may be sent. `more` announces that more follows at once; the last byte of
    /// `urgent` data is marked.
    pub fn push(&mut self, now: u64, data: Chain, more: bool, urgent: bool, network: &mut dyn Network) {
        self.queue.append(data);
        self.bits.set(Bits::MORE, more);
        if urgent {
            self.bits |= Bits::URGENT_OUT;
            self.urgent_out = self.queue_end();
        }
        self.output(now, network);
    }

    /// Sends what was held back, because a setting changed.
    pub fn push_held(&mut self, now: u64, network: &mut dyn Network) {
        self.bits -= Bits::MORE;
        self.output(now, network);
    }

    /// The first unread sequence number.
    fn unread(&self) -> super::Sequence {
        self.expected - self.receive.len() as u32 - u32::from(self.has(Bits::PEER_FIN))
    }

    /// Bytes that can be read at once.
    pub fn readable(&self) -> usize {
        let all = self.receive.len();
        if !self.has(Bits::URGENT_IN) {
            return all;
        }
        let before = self.urgent_in.0.wrapping_sub(self.unread().0) as usize;
        match before {
            0 if self.settings.urgent_inline || all == 0 => all,
            0 => all - 1,
            before => before.min(all),
        }
    }

    /// Why nothing can be read: EAGAIN, what ended the connection, or the end (`Ok`).
    pub fn nothing_to_read(&mut self) -> Result<()> {
        if self.is_read_shut() {
            return Ok(());
        }
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        match self.state {
            State::Closed | State::TimeWait => Ok(()),
            _ => Err(Errno::EAGAIN),
        }
    }

    /// Passes the urgent byte if it comes next: it is out of the stream.
    fn pass_mark(&mut self) {
        if self.has(Bits::URGENT_IN) && self.urgent_in == self.unread() && !self.receive.is_empty() {
            self.bits -= Bits::URGENT_IN;
            if !self.settings.urgent_inline {
                self.receive.advance(1);
            }
        }
    }

    /// Takes up to `limit` bytes to read, in at most so many pages as make a batch, and tells the peer of the room
    /// if that is worth it.
    pub fn take(&mut self, now: u64, limit: usize, network: &mut dyn Network) -> Chain {
        self.pass_mark();
        let limit = limit.min(self.readable());
        let chain = self.receive.take(limit);
        self.tune(now, chain.len() as u32);
        if self.window_update_due() {
            self.bits |= Bits::ACKNOWLEDGE_NOW;
            self.output(now, network);
        }
        chain
    }

    /// The same bytes, to look at from `offset` on.
    pub fn peek(&mut self, offset: usize, limit: usize) -> Chain {
        self.pass_mark();
        let limit = limit.min(self.readable().saturating_sub(offset));
        self.receive.slice(offset, limit, usize::MAX)
    }

    /// Puts back what could not be delivered.
    pub fn put_back(&mut self, chain: Chain) {
        self.receive.put_back(chain);
    }

    /// The receive buffer grows to twice what the user reads in a round trip.
    fn tune(&mut self, now: u64, count: u32) {
        self.tuning.0 = self.tuning.0.saturating_add(count);
        let round_trip = u64::from(self.estimator.round_trip().unwrap_or(0)) * 1000;
        if now.saturating_sub(self.tuning.1) < round_trip.max(TUNING) {
            return;
        }
        if self.settings.receive_buffer.is_none()
            && tunables::MODERATE_RECEIVE_BUFFER.is_on()
            && !memory::is_tight()
        {
            let wanted = self.tuning.0.saturating_mul(2).saturating_add(16 * u32::from(self.typical_segment));
            self.receive_limit =
                self.receive_limit.max(wanted.min(tunables::most(&tunables::RECEIVE_BUFFER)));
        }
        self.tuning = (0, now);
    }

    /// The urgent byte (MSG_OOB). EINVAL if there is none or it stays in the stream, EAGAIN if it is on its way.
    pub fn take_urgent(&mut self, peek: bool) -> Result<u8> {
        if self.settings.urgent_inline {
            return Err(Errno::EINVAL);
        }
        match self.urgent_byte {
            Some(byte) => {
                if !peek {
                    self.urgent_byte = None;
                }
                Ok(byte)
            }
            None if self.has(Bits::URGENT_IN) && self.urgent_in.is_after(self.expected - 1u32) => {
                Err(Errno::EAGAIN)
            }
            None => Err(Errno::EINVAL),
        }
    }

    /// Whether the next byte to read is at the urgent mark (SIOCATMARK).
    pub fn at_mark(&self) -> bool {
        self.has(Bits::URGENT_IN) && self.urgent_in == self.unread()
    }

    /// Whether an urgent byte can be read.
    pub fn has_urgent(&self) -> bool {
        self.urgent_byte.is_some() && !self.settings.urgent_inline
            || self.has(Bits::URGENT_IN) && self.settings.urgent_inline
    }

    /// Whether a send would find room.
    pub fn can_send(&self) -> bool {
        self.state.can_send() && !self.has(Bits::FIN_QUEUED) && self.is_writable()
    }

    /// Notes that somebody waits for room.
    pub fn want_room(&mut self) {
        self.bits |= Bits::NO_SPACE;
    }

    /// shutdown(SHUT_RD): reads find the end once everything was read.
    pub fn shut_read(&mut self) {
        self.bits |= Bits::READ_SHUT;
    }

    /// Whether reads end.
    pub fn is_read_shut(&self) -> bool {
        self.bits.intersects(Bits::READ_SHUT | Bits::PEER_FIN)
    }

    /// Whether the peer closed its side.
    pub fn peer_closed(&self) -> bool {
        self.has(Bits::PEER_FIN)
    }

    /// shutdown(SHUT_WR): a FIN follows what is queued.
    pub fn shut_write(&mut self, now: u64, network: &mut dyn Network) -> Changes {
        match self.state {
            State::SynSent => return self.finish(None),
            State::Established | State::SynReceived => self.state = State::FinWait1,
            State::CloseWait => self.state = State::LastAck,
            _ => return Changes::empty(),
        }
        self.bits |= Bits::FIN_QUEUED;
        self.bits -= Bits::MORE;
        self.output(now, network);
        Changes::WRITABLE
    }

    /// The user lets go. What is queued is still delivered; unread data or `reset` (SO_LINGER with 0 seconds) makes
    /// it a reset.
    pub fn close(&mut self, now: u64, reset: bool, network: &mut dyn Network) -> Changes {
        self.bits |= Bits::ORPHAN | Bits::READ_SHUT;
        let unread = !self.receive.is_empty();
        self.receive.clear();
        if self.state.is_synchronized() && self.state != State::TimeWait && (unread || reset) {
            self.send_reset(network);
            return self.finish(None);
        }
        match self.state {
            State::FinWait2 => {
                self.close_at = now + u64::from(self.settings.fin_timeout) * 1000 * MILLISECOND;
                Changes::empty()
            }
            _ => self.shut_write(now, network),
        }
    }

    /// Ends it at once with a reset.
    pub fn abort(&mut self, error: Option<Errno>, network: &mut dyn Network) -> Changes {
        if self.state.is_synchronized() && self.state != State::TimeWait {
            self.send_reset(network);
        }
        self.receive.clear();
        self.finish(error)
    }

    /// Whether nobody holds it any more.
    pub fn is_orphan(&self) -> bool {
        self.has(Bits::ORPHAN)
    }

    /// Whether the user's data was all acknowledged (SO_LINGER waits for it).
    pub fn is_drained(&self) -> bool {
        self.queue.is_empty() && !matches!(self.state, State::FinWait1 | State::Closing | State::LastAck)
    }

    /// Bytes queued and not acknowledged (SIOCOUTQ), and of those the ones never sent (SIOCOUTQNSD).
    pub fn unsent(&self) -> (usize, usize) {
        let unsent = self.queue_end().0.wrapping_sub(self.next.0) as i32;
        (self.queue.len(), unsent.max(0) as usize)
    }

    /// Bytes of packet memory in use.
    pub fn memory(&self) -> usize {
        self.queue.len() + self.receive.len() + self.reassembly.len()
    }

    /// The limits of the buffers: (send, receive).
    pub fn buffers(&self) -> (u32, u32) {
        (self.send_limit, self.receive_limit)
    }

    /// Takes new settings, with what follows from the difference.
    pub fn set(&mut self, now: u64, settings: super::Settings, network: &mut dyn Network) {
        let old = core::mem::replace(&mut self.settings, settings);
        if let Some(limit) = settings.send_buffer {
            self.send_limit = limit;
        }
        if let Some(limit) = settings.receive_buffer {
            self.receive_limit = limit;
        }
        if old.algorithm != settings.algorithm {
            self.congestion.algorithm = settings.algorithm;
        }
        if old.maximum_segment != settings.maximum_segment && self.state.is_synchronized() {
            self.agree_on_segment();
        }
        if (old.keep_alive, old.keep_idle) != (settings.keep_alive, settings.keep_idle) {
            self.arm_keep_alive(now);
        }
        if settings.quick_acknowledge && self.acknowledge_at != rumpuser::NEVER {
            self.bits |= Bits::ACKNOWLEDGE_NOW;
        }
        let released = (old.cork && !settings.cork) || (!old.no_delay && settings.no_delay);
        if released || self.has(Bits::ACKNOWLEDGE_NOW) {
            self.push_held(now, network);
        }
    }
}
