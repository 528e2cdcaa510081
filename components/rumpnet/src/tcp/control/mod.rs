//! The state machine of a connection (RFC 9293, section 3.10), free of everything around it: time comes in as a number,
//! segments go out through [`Network`], and the caller tells the user what changed.

mod acknowledge;
mod input;
mod open;
mod output;
mod report;
mod timer;
mod user;

pub use open::{Agreement, Offer};

use rumpkern::Errno;
use rumpuser::NEVER;

use super::{
    congestion::{Algorithm, Congestion},
    estimator::{Estimator, SECOND},
    queue::ByteQueue,
    reassembly::Reassembly,
    scoreboard::Scoreboard,
    segment::{HEADER_LENGTH, Segment, TIMESTAMPS_LENGTH},
    sequence::Sequence,
    tunables,
};
use crate::packet::Chain;

/// Takes the segments that a connection sends.
pub trait Network {
    /// Sends a segment. With more payload than `segment_size`, it is cut into segments of that size on the way.
    fn send(&mut self, segment: &Segment, payload: Chain, segment_size: u16);
}

/// Connection states (RFC 9293, section 3.3.2), with Linux's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub enum State {
    Established = 1,
    SynSent = 2,
    SynReceived = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Closed = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
}

impl State {
    /// Whether both sides have agreed on sequence numbers.
    pub fn is_synchronized(self) -> bool {
        !matches!(self, State::SynSent | State::SynReceived | State::Listen | State::Closed)
    }

    /// Whether the peer may still send data.
    pub fn can_receive(self) -> bool {
        matches!(self, State::Established | State::FinWait1 | State::FinWait2)
    }

    /// Whether data may still be queued for sending.
    pub fn can_send(self) -> bool {
        matches!(self, State::Established | State::CloseWait)
    }
}

bitflags::bitflags! {
    /// What a call changed, for those who wait.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Changes: u8 {
        /// Data, or the end of it, can be read.
        const READABLE = 1;
        /// There is room to send again.
        const WRITABLE = 2;
        /// The connection is established.
        const CONNECTED = 4;
        /// The peer will send no more.
        const PEER_CLOSED = 8;
        /// It is over: closed, reset or given up.
        const CLOSED = 16;
        /// Urgent data is there.
        const URGENT = 32;
    }
}

/// What the user may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// TCP_NODELAY: small segments don't wait for acknowledgements.
    pub no_delay: bool,
    /// TCP_CORK: only full segments, for at most 200 ms.
    pub cork: bool,
    /// SO_KEEPALIVE.
    pub keep_alive: bool,
    /// SO_OOBINLINE: urgent data stays in the stream.
    pub urgent_inline: bool,
    /// TCP_QUICKACK: acknowledge at once.
    pub quick_acknowledge: bool,
    /// ECN is offered; accepted it is always.
    pub ecn: bool,
    /// TCP_KEEPIDLE, seconds.
    pub keep_idle: u32,
    /// TCP_KEEPINTVL, seconds.
    pub keep_interval: u32,
    /// TCP_KEEPCNT.
    pub keep_count: u8,
    /// TCP_SYNCNT: how often a SYN is sent again.
    pub syn_retries: u8,
    /// TCP_USER_TIMEOUT, milliseconds; 0 for the default (15 retransmissions).
    pub user_timeout: u32,
    /// TCP_MAXSEG; 0 for what the path allows.
    pub maximum_segment: u16,
    /// TCP_DEFER_ACCEPT of a listener: for so many SYN-ACKs a connection without data waits to be accepted.
    pub defer_accept: u8,
    /// TCP_LINGER2: seconds in FIN-WAIT-2 after close.
    pub fin_timeout: u32,
    /// TCP_WINDOW_CLAMP; 0 for none.
    pub window_clamp: u32,
    /// SO_SNDBUF in bytes, if it is not to be tuned.
    pub send_buffer: Option<u32>,
    /// SO_RCVBUF in bytes, if it is not to be tuned.
    pub receive_buffer: Option<u32>,
    /// TCP_CONGESTION.
    pub algorithm: Algorithm,
    /// TCP_NOTSENT_LOWAT: no more room is announced with that many bytes unsent.
    pub unsent_low_water: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            no_delay: false,
            cork: false,
            keep_alive: false,
            urgent_inline: false,
            quick_acknowledge: false,
            ecn: tunables::ECN.get() == 1,
            keep_idle: tunables::KEEP_IDLE.get(),
            keep_interval: tunables::KEEP_INTERVAL.get(),
            keep_count: tunables::KEEP_COUNT.get() as u8,
            syn_retries: tunables::SYN_RETRIES.get() as u8,
            user_timeout: 0,
            maximum_segment: 0,
            defer_accept: 0,
            fin_timeout: tunables::FIN_TIMEOUT.get(),
            window_clamp: 0,
            send_buffer: None,
            receive_buffer: None,
            algorithm: tunables::algorithm(),
            unsent_low_water: tunables::UNSENT_LOW_WATER.get(),
        }
    }
}

/// The shift of our windows, which are of up to 8 MiB then.
pub const WINDOW_SCALE: u8 = 7;
/// What a peer that doesn't say takes (RFC 9293, section 3.7.1).
pub const DEFAULT_SEGMENT: u16 = 536;
/// The least segment size that is believed, so that nobody makes us send a byte a packet.
pub const LEAST_SEGMENT: u16 = 88;

/// How the sender thinks the path does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Well.
    Open,
    /// Losses are repaired (fast recovery).
    Recovery,
    /// Nothing came back in time.
    Loss,
}

bitflags::bitflags! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    struct Bits: u32 {
        /// The peer understands window scaling.
        const SCALED = 1;
        /// Timestamps in every segment.
        const TIMESTAMPS = 2;
        /// SACK.
        const SACK = 4;
        /// ECN was agreed on.
        const ECN = 8;
        /// Congestion was experienced: ECE until the peer says CWR.
        const ECN_ECHO = 0x10;
        /// The window was reduced: the next new data says CWR.
        const ECN_REDUCED = 0x20;
        /// A FIN follows the last byte.
        const FIN_QUEUED = 0x40;
        /// An acknowledgement is to be sent at once.
        const ACKNOWLEDGE_NOW = 0x80;
        /// The user closed: nobody reads any more.
        const ORPHAN = 0x100;
        /// shutdown(SHUT_RD).
        const READ_SHUT = 0x200;
        /// The send buffer was full when the user wanted more.
        const NO_SPACE = 0x400;
        /// The peer sent its FIN, and it was taken.
        const PEER_FIN = 0x800;
        /// More data follows at once (MSG_MORE).
        const MORE = 0x1000;
        /// The last transmission was limited by the congestion window.
        const WINDOW_LIMITED = 0x2000;
        /// The retransmission timer is a loss probe (RFC 8985, section 7).
        const PROBE = 0x4000;
        /// A loss probe is out.
        const PROBED = 0x8000;
        /// The retransmission timer waits for reordered segments.
        const REORDER_WAIT = 0x1_0000;
        /// Urgent data is to be sent.
        const URGENT_OUT = 0x2_0000;
        /// An urgent pointer was received that is not yet read past.
        const URGENT_IN = 0x4_0000;
        /// The timer probes a window of zero.
        const PERSIST = 0x8_0000;
        /// Data goes back and forth: acknowledgements wait for answers.
        const INTERACTIVE = 0x10_0000;
    }
}

/// The transmission control block.
pub struct Tcb {
    /// The state.
    pub state: State,
    phase: Phase,
    bits: Bits,
    /// What the user chose.
    pub settings: Settings,

    // What is sent.
    initial: Sequence,
    /// SND.UNA.
    unacknowledged: Sequence,
    /// SND.NXT: the first that was never sent.
    next: Sequence,
    /// The first in the send queue.
    queue_start: Sequence,
    /// SND.WND in bytes.
    window: u32,
    /// SND.WL1 and SND.WL2.
    window_update: (Sequence, Sequence),
    /// The largest window the peer ever had.
    largest_window: u32,
    window_shift: u8,
    /// Duplicate acknowledgements in a row, for peers without SACK.
    duplicates: u8,
    /// Retransmissions or probes without an answer.
    attempts: u8,
    /// Recovery ends here.
    recover: Sequence,
    /// Bytes delivered and sent during recovery, and what was out when it began (RFC 6937).
    recovery: (u32, u32, u32),
    urgent_out: Sequence,
    queue: ByteQueue,
    scoreboard: Scoreboard,
    congestion: Congestion,
    estimator: Estimator,
    /// Payload bytes of a full segment.
    segment: u16,
    /// What the path carries, and what the peer's MSS option said: both without options.
    path_segment: u16,
    peer_segment: u16,
    /// Where the last short segment ended, for Nagle's algorithm.
    short_end: Sequence,
    send_limit: u32,

    // What is received.
    /// RCV.NXT.
    expected: Sequence,
    peer_initial: Sequence,
    /// The end of the window that was advertised.
    advertised: Sequence,
    /// The last acknowledgement sent.
    acknowledged: Sequence,
    receive: ByteQueue,
    reassembly: Reassembly,
    /// Where the peer's FIN is, when it came before data that is missing.
    peer_fin: Option<Sequence>,
    receive_limit: u32,
    /// The largest segment of late, for decisions about acknowledgements.
    typical_segment: u16,
    /// Full segments that are still acknowledged at once, so that a sender in slow start gets going.
    quick: u8,
    /// Bytes that the user read since the time that follows, to tune the buffer.
    tuning: (u32, u64),
    /// TS.Recent, and when it was taken in seconds.
    recent_timestamp: u32,
    recent_age: u32,
    timestamp_offset: u32,
    urgent_in: Sequence,
    urgent_byte: Option<u8>,
    /// Challenge acknowledgements of this second.
    challenges: (u32, u8),

    // Times, in nanoseconds; NEVER if not running.
    retransmit_at: u64,
    acknowledge_at: u64,
    keep_alive_at: u64,
    close_at: u64,
    /// When something was last received, and sent.
    received_at: u64,
    sent_at: u64,
    /// When what is unanswered was first sent.
    unanswered_since: u64,

    /// Why it is over.
    error: Option<Errno>,
    /// A passing trouble (an ICMP message) that explains a timeout.
    soft_error: Option<Errno>,
    /// Segments that were sent again.
    retransmissions: u32,
    /// Bytes sent and acknowledged, received in order.
    totals: (u64, u64),
}

impl Tcb {
    fn blank(settings: Settings, initial: Sequence, path_segment: u16, now: u64) -> Self {
        let segment = match settings.maximum_segment {
            0 => path_segment,
            limit => path_segment.min(limit),
        };
        Tcb {
            state: State::Closed,
            phase: Phase::Open,
            bits: Bits::empty(),
            settings,
            initial,
            unacknowledged: initial,
            next: initial,
            queue_start: initial + 1,
            window: 0,
            window_update: (Sequence(0), Sequence(0)),
            largest_window: 0,
            window_shift: 0,
            duplicates: 0,
            attempts: 0,
            recover: initial,
            recovery: (0, 0, 0),
            urgent_out: initial,
            queue: ByteQueue::new(),
            scoreboard: Scoreboard::new(initial),
            congestion: Congestion::new(settings.algorithm, u32::from(segment)),
            estimator: Estimator::default(),
            segment,
            path_segment: segment,
            peer_segment: DEFAULT_SEGMENT,
            short_end: initial,
            send_limit: settings.send_buffer.unwrap_or(tunables::first(&tunables::SEND_BUFFER)),
            expected: Sequence(0),
            peer_initial: Sequence(0),
            advertised: Sequence(0),
            acknowledged: Sequence(0),
            receive: ByteQueue::new(),
            reassembly: Reassembly::new(),
            peer_fin: None,
            receive_limit: settings.receive_buffer.unwrap_or(tunables::first(&tunables::RECEIVE_BUFFER)),
            typical_segment: DEFAULT_SEGMENT,
            quick: 16,
            tuning: (0, now),
            recent_timestamp: 0,
            recent_age: 0,
            timestamp_offset: 0,
            urgent_in: Sequence(0),
            urgent_byte: None,
            challenges: (0, 0),
            retransmit_at: NEVER,
            acknowledge_at: NEVER,
            keep_alive_at: NEVER,
            close_at: NEVER,
            received_at: now,
            sent_at: now,
            unanswered_since: NEVER,
            error: None,
            soft_error: None,
            retransmissions: 0,
            totals: (0, 0),
        }
    }

    /// When [`Tcb::timer`] wants to be called; [`NEVER`] if not at all.
    #[inline]
    pub fn deadline(&self) -> u64 {
        self.retransmit_at.min(self.acknowledge_at).min(self.keep_alive_at).min(self.close_at)
    }

    /// The end of what the user queued: where the FIN is or will be.
    fn queue_end(&self) -> Sequence {
        self.queue_start + self.queue.len() as u32
    }

    /// Sequence space that is on its way.
    fn outstanding(&self) -> u32 {
        self.next - self.unacknowledged
    }

    /// What the network still carries (RFC 6675: pipe).
    fn in_flight(&self) -> u32 {
        let gone = self.scoreboard.sacked() + self.scoreboard.lost();
        let flight = self.outstanding().saturating_sub(gone);
        // Without SACK, each duplicate acknowledgement says that a segment left.
        flight.saturating_sub(u32::from(self.duplicates) * u32::from(self.segment))
    }

    fn has(&self, bits: Bits) -> bool {
        self.bits.contains(bits)
    }

    /// The clock of our timestamps: about a millisecond.
    fn timestamp(&self, now: u64) -> u32 {
        ((now >> 20) as u32).wrapping_add(self.timestamp_offset)
    }

    /// What TIME-WAIT needs: SND.NXT, RCV.NXT, the window, (TS.Recent, what our timestamps are ahead).
    pub fn remains(&self) -> (Sequence, Sequence, u16, Option<(u32, u32)>) {
        let shift = if self.has(Bits::SCALED) { WINDOW_SCALE } else { 0 };
        let window = ((self.advertised - self.expected) >> shift).min(0xffff) as u16;
        let recent = self.has(Bits::TIMESTAMPS).then_some((self.recent_timestamp, self.timestamp_offset));
        (self.next, self.expected, window, recent)
    }

    /// It is over.
    fn finish(&mut self, error: Option<Errno>) -> Changes {
        self.state = State::Closed;
        self.error = self.error.or(error);
        self.retransmit_at = NEVER;
        self.acknowledge_at = NEVER;
        self.keep_alive_at = NEVER;
        self.close_at = NEVER;
        self.queue.clear();
        self.scoreboard = Scoreboard::new(self.next);
        self.reassembly.clear();
        Changes::CLOSED | Changes::READABLE | Changes::WRITABLE
    }

    /// The payload of a full segment when the link carries packets of `mtu` bytes with IP headers of `ip_header`.
    pub fn path_segment(mtu: usize, ip_header: usize) -> u16 {
        let size = mtu.saturating_sub(ip_header + HEADER_LENGTH);
        size.clamp(usize::from(LEAST_SEGMENT), 65_535 - HEADER_LENGTH - 40) as u16
    }

    /// The path carries segments of at most `path_segment` bytes now: the retransmission uses it (RFC 1191).
    pub fn set_path_segment(&mut self, now: u64, path_segment: u16, network: &mut dyn Network) {
        let old = self.segment;
        self.path_segment = path_segment;
        self.agree_on_segment();
        if self.segment < old && self.state.is_synchronized() && self.outstanding() > 0 {
            self.scoreboard.lose_all(false);
            self.output(now, network);
        }
    }

    /// The segment size that the user, the peer and the path allow, less the options of every segment.
    fn agree_on_segment(&mut self) {
        let mut segment = self.path_segment.min(self.peer_segment).max(LEAST_SEGMENT);
        if self.settings.maximum_segment > 0 {
            segment = segment.min(self.settings.maximum_segment.max(LEAST_SEGMENT));
        }
        if self.has(Bits::TIMESTAMPS) {
            segment -= TIMESTAMPS_LENGTH as u16;
        }
        self.segment = segment;
    }

    /// A trouble on the path (ICMP). It ends a connection that is not yet there; otherwise it is remembered.
    pub fn path_error(&mut self, error: Errno) -> Changes {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            return self.finish(Some(error));
        }
        self.soft_error = Some(error);
        Changes::empty()
    }

    /// Takes why it is over, if that is not yet known.
    pub fn take_error(&mut self) -> Option<Errno> {
        self.error.take()
    }

    /// Starts the keep-alive timer anew.
    fn arm_keep_alive(&mut self, now: u64) {
        self.keep_alive_at = if self.settings.keep_alive && self.state.is_synchronized() {
            now + u64::from(self.settings.keep_idle) * SECOND
        } else {
            NEVER
        };
    }
}
