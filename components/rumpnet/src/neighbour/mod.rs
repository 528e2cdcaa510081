//! Neighbours: the hardware addresses of the machines on a link, and whether they can be reached (RFC 4861
//! section 7.3, for ARP as well).

pub mod arp;
pub mod detection;
pub mod discovery;
mod table;

use alloc::{collections::VecDeque, sync::Arc};
use core::{
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use rumpkern::{Errno, Result};
use rumpuser::{NEVER, rumpuser_clock_monotonic, sync::SpinLock};

pub use self::table::{Snapshot, Table};
use crate::{
    device::HardwareAddress,
    interface::Interface,
    link,
    packet::Packet,
    random, route,
    service::{self, MILLISECOND, SECOND, Task},
};

/// Between two solicitations.
const RETRANSMIT: u64 = SECOND;
/// How often an unknown address is asked for, and a known one before it counts as gone.
const ATTEMPTS: u8 = 3;
/// From the first use of a stale address until it is probed.
const DELAY: u64 = 5 * SECOND;
/// The most packets that wait for one address, and, if more than [`PENDING_TOTAL`] wait for any, how many then.
const PENDING_LIMIT: usize = 64;
const PENDING_LEAST: usize = 2;
const PENDING_TOTAL: usize = 1024;

static WAITING: AtomicUsize = AtomicUsize::new(0);

/// What is known of a neighbour (RFC 4861 7.3.2), with Linux's `NUD_*` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum State {
    /// Nothing, and nobody has asked yet.
    None = 0,
    /// Asked, no answer yet.
    Incomplete = 0x01,
    /// It answered lately.
    Reachable = 0x02,
    /// It may have moved; nobody needed it lately.
    Stale = 0x04,
    /// In use again; waits for a sign of life from upper layers.
    Delay = 0x08,
    /// Asked whether it is still there.
    Probe = 0x10,
    /// It doesn't answer.
    Failed = 0x20,
    /// Fixed by hand, or by the kind of address.
    Permanent = 0x80,
}

/// In [`Neighbour::word`]: the address can be used without further ado.
const READY: u64 = 1 << 63;

/// A neighbour.
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// The hardware address in the lower 48 bits, and [`READY`].
    word: AtomicU64,
    /// Upper layers heard from it since the last look.
    confirmed: AtomicBool,
    inner: SpinLock<Inner>,
}

struct Inner {
    state: State,
    hardware: Option<HardwareAddress>,
    router: bool,
    attempts: u8,
    deadline: u64,
    updated: u64,
    pending: VecDeque<(Packet, u16, usize)>,
}

impl Inner {
    /// The packets that wait.
    fn take_pending(&mut self) -> VecDeque<(Packet, u16, usize)> {
        WAITING.fetch_sub(self.pending.len(), Ordering::Relaxed);
        core::mem::take(&mut self.pending)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.take_pending();
    }
}

/// What is to be sent after the lock was released.
enum Ask {
    Nobody,
    Everybody,
    Itself(HardwareAddress),
}

/// What a message says about a neighbour.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Evidence {
    /// It answers our question.
    pub solicited: bool,
    /// It replaces a different hardware address.
    pub replaces: bool,
    /// The sender is a router, or not, if it says so.
    pub router: Option<bool>,
}

fn pack(hardware: HardwareAddress) -> u64 {
    let [a, b, c, d, e, f] = hardware;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn unpack(word: u64) -> HardwareAddress {
    let [_, _, a, b, c, d, e, f] = word.to_be_bytes();
    [a, b, c, d, e, f]
}

/// Between half and one and a half of 30 seconds.
fn reachable_time() -> u64 {
    15 * SECOND + random::below(30_000) * MILLISECOND
}

impl Neighbour {
    fn new(address: IpAddr) -> Self {
        Neighbour {
            address,
            word: AtomicU64::new(0),
            confirmed: AtomicBool::new(false),
            inner: SpinLock::new(Inner {
                state: State::None,
                hardware: None,
                router: false,
                attempts: 0,
                deadline: NEVER,
                updated: rumpuser_clock_monotonic(),
                pending: VecDeque::new(),
            }),
        }
    }

    /// One whose hardware address follows from its kind: a group, everybody, this machine.
    pub(crate) fn fixed(address: IpAddr, hardware: HardwareAddress) -> Self {
        let neighbour = Neighbour::new(address);
        {
            let mut inner = neighbour.inner.lock();
            inner.state = State::Permanent;
            inner.hardware = Some(hardware);
        }
        neighbour.word.store(pack(hardware) | READY, Ordering::Release);
        neighbour
    }

    /// The hardware address, if it can be used at once.
    #[inline]
    pub fn ready(&self) -> Option<HardwareAddress> {
        let word = self.word.load(Ordering::Relaxed);
        (word & READY != 0).then(|| unpack(word))
    }

    /// An upper layer heard from it (a connection makes progress): it can be reached.
    #[inline]
    pub fn confirm(&self) {
        if !self.confirmed.load(Ordering::Relaxed) {
            self.confirmed.store(true, Ordering::Relaxed);
        }
    }

    /// What is known of it.
    pub fn state(&self) -> State {
        self.inner.lock().state
    }

    /// Sends a packet that has no link header yet, when [`Neighbour::ready`] had no address: at once if an
    /// older one is known, otherwise as soon as it is. EHOSTUNREACH is reported later, to the sender's protocol.
    pub(crate) fn output(
        &self,
        interface: &Arc<Interface>,
        queue: usize,
        kind: u16,
        packet: &mut Packet,
    ) -> Result<()> {
        let now = rumpuser_clock_monotonic();
        let mut ask = Ask::Nobody;
        let mut dropped = None;
        let known = {
            let mut inner = self.inner.lock();
            match (inner.state, inner.hardware) {
                (State::Stale, Some(hardware)) => {
                    inner.state = State::Delay;
                    inner.deadline = now + DELAY;
                    self.confirmed.store(false, Ordering::Relaxed);
                    self.word.store(pack(hardware) | READY, Ordering::Release);
                    Some(hardware)
                }
                (State::Reachable | State::Delay | State::Probe | State::Permanent, Some(hardware)) => {
                    Some(hardware)
                }
                _ => {
                    if inner.state != State::Incomplete {
                        inner.state = State::Incomplete;
                        inner.attempts = 1;
                        inner.deadline = now + RETRANSMIT;
                        ask = Ask::Everybody;
                    }
                    let many = WAITING.load(Ordering::Relaxed) >= PENDING_TOTAL;
                    if inner.pending.len() >= if many { PENDING_LEAST } else { PENDING_LIMIT } {
                        dropped = inner.pending.pop_front();
                    } else {
                        WAITING.fetch_add(1, Ordering::Relaxed);
                    }
                    inner.pending.push_back((core::mem::take(packet), kind, queue));
                    None
                }
            }
        };
        drop(dropped);
        match known {
            Some(hardware) => {
                service::at(Task::Neighbours, now + DELAY);
                link::output(interface, queue, hardware, kind, packet)
            }
            None => {
                service::at(Task::Neighbours, now + RETRANSMIT);
                self.ask(interface, ask);
                Ok(())
            }
        }
    }

    fn ask(&self, interface: &Arc<Interface>, ask: Ask) {
        let to = match ask {
            Ask::Nobody => return,
            Ask::Everybody => None,
            Ask::Itself(hardware) => Some(hardware),
        };
        match self.address {
            IpAddr::V4(address) => arp::ask(interface, address, to),
            IpAddr::V6(address) => discovery::ask(interface, address, to),
        }
    }

    /// Takes in what a message says; returns whether anything changed. Packets that waited are sent.
    pub(crate) fn learn(
        &self,
        interface: &Arc<Interface>,
        hardware: Option<HardwareAddress>,
        evidence: Evidence,
    ) -> bool {
        let now = rumpuser_clock_monotonic();
        let mut deadline = NEVER;
        let (changed, waiting) = {
            let mut inner = self.inner.lock();
            if inner.state == State::Permanent {
                return false;
            }
            let before = (inner.state, inner.hardware, inner.router);
            if let Some(router) = evidence.router {
                inner.router = router;
            }
            let known = inner.hardware.filter(|_| !matches!(inner.state, State::None | State::Failed));
            let differs = hardware.is_some() && hardware != known;
            match (known.is_some() && inner.state != State::Incomplete, differs) {
                // An answer without an address helps only those who know it.
                (false, _) if hardware.is_none() => return false,
                (true, true) if !evidence.replaces => {
                    if inner.state == State::Reachable {
                        inner.state = State::Stale;
                    }
                }
                (is_known, _) => {
                    if hardware.is_some() {
                        inner.hardware = hardware;
                    }
                    if evidence.solicited {
                        inner.state = State::Reachable;
                        deadline = now + reachable_time();
                        inner.deadline = deadline;
                        self.confirmed.store(false, Ordering::Relaxed);
                    } else if differs || !is_known {
                        inner.state = State::Stale;
                        inner.deadline = NEVER;
                    }
                }
            }
            inner.updated = now;
            self.publish(&inner);
            (before != (inner.state, inner.hardware, inner.router), inner.take_pending())
        };
        if deadline != NEVER {
            service::at(Task::Neighbours, deadline);
        }
        for (mut packet, kind, queue) in waiting {
            let _ = match self.ready() {
                Some(hardware) => link::output(interface, queue, hardware, kind, &mut packet),
                None => self.output(interface, queue, kind, &mut packet),
            };
        }
        changed
    }

    fn publish(&self, inner: &Inner) {
        let ready = matches!(inner.state, State::Reachable | State::Delay | State::Probe | State::Permanent);
        let word = inner.hardware.filter(|_| ready).map_or(0, |hardware| pack(hardware) | READY);
        self.word.store(word, Ordering::Release);
    }

    /// Does what is due; returns when the next is, and packets that can't be sent.
    fn run(&self, interface: &Arc<Interface>, now: u64) -> (u64, VecDeque<(Packet, u16, usize)>) {
        let mut ask = Ask::Nobody;
        let mut lost = VecDeque::new();
        let mut failed = false;
        let next = {
            let mut inner = self.inner.lock();
            if inner.deadline > now {
                return (inner.deadline, lost);
            }
            let confirmed = self.confirmed.swap(false, Ordering::Relaxed);
            inner.deadline = NEVER;
            match inner.state {
                State::Reachable | State::Delay | State::Probe if confirmed => {
                    inner.state = State::Reachable;
                    inner.deadline = now + reachable_time();
                    inner.updated = now;
                }
                State::Reachable => inner.state = State::Stale,
                State::Delay => {
                    inner.state = State::Probe;
                    inner.attempts = 1;
                    inner.deadline = now + RETRANSMIT;
                    ask = inner.hardware.map_or(Ask::Everybody, Ask::Itself);
                }
                State::Probe | State::Incomplete if inner.attempts < ATTEMPTS => {
                    inner.attempts += 1;
                    inner.deadline = now + RETRANSMIT;
                    ask = match (inner.state, inner.hardware) {
                        (State::Probe, Some(hardware)) => Ask::Itself(hardware),
                        _ => Ask::Everybody,
                    };
                }
                State::Probe | State::Incomplete => {
                    inner.state = State::Failed;
                    inner.hardware = None;
                    failed = true;
                    lost = inner.take_pending();
                }
                State::None | State::Stale | State::Failed | State::Permanent => {}
            }
            self.publish(&inner);
            inner.deadline
        };
        self.ask(interface, ask);
        if failed && route::is_gateway(self.address) {
            // There may be another one.
            route::invalidate();
        }
        (next, lost)
    }
}

/// Whether a hardware address can be that of one machine.
pub(crate) fn is_station(hardware: HardwareAddress) -> bool {
    hardware[0] & 1 == 0 && hardware != [0; 6]
}

/// Runs the timers of all neighbours; returns when to do it again.
pub(crate) fn run_timers(now: u64) -> u64 {
    let mut next = NEVER;
    for interface in crate::interface::list() {
        for neighbour in interface.neighbours.all() {
            let (deadline, lost) = neighbour.run(&interface, now);
            next = next.min(deadline);
            for (packet, ..) in lost {
                crate::ip::error::unsendable(&interface, &packet, Errno::EHOSTUNREACH);
            }
        }
    }
    next
}
