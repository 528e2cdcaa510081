//! Receiving: who polls the devices' queues, and when interrupts are wanted.
//!
//! Every CPU has a thread that polls its queues after an interrupt, until they are empty. But whoever is about to
//! sleep until the network brings something polls first, inline ([`poll`], [`Sleeper`]), and the interrupt wakes such
//! a sleeper instead of the thread: then a request costs no interrupt under load and one context switch otherwise.
//!
//! After an inline poll that found packets, interrupts stay off, because the poller comes back before it sleeps. In
//! case it computes for long, the CPU's thread watches: it looks again after [`WATCH`] (less often while others poll often), and
//! when nobody polled in that time, polls itself and wants interrupts again.

use alloc::{boxed::Box, format, sync::Arc};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use once_cell::race::OnceBox;
use rumpkern::wait::{WaitError, WaitQueue};
use rumpuser::{
    NEVER, Thread, ThreadSpec, rumpuser_clock_monotonic, rumpuser_cpu, rumpuser_cpu_count, rumpuser_park,
    rumpuser_thread_create, rumpuser_thread_current, rumpuser_yield,
    sync::{InterruptLock, SpinGuard},
};

use super::{Interface, coalesce::Coalescer, moderation::Moderation, posted::flush, registry, tap};

/// Packets that are taken from a queue in one go.
pub(super) const BUDGET: usize = 64;
/// How long a queue without interrupts may be left alone, in nanoseconds.
const WATCH: u64 = 2_000_000;
/// So many times as long at most, while others poll as often as that: then looking would find nothing, and costs a timer's interrupt.
const OFTEN: u32 = 8;
/// How long the thread leaves a queue to another CPU that polls it, in nanoseconds.
const CONTENTION: u64 = 50_000;
/// The platform starts at most that many CPUs.
const CPUS: usize = 64;
/// How often a thread that waits polls for others before it leaves that to the CPU's thread.
const SLEEPER_ROUNDS: usize = 4;
/// How often who waits for a queue that another CPU polls looks before he lets others run: for about as long as a batch
/// may take.
const SPINS: usize = 2000;

/// A CPU's part in polling.
#[repr(align(64))]
struct Poller {
    thread: OnceBox<Thread>,
    /// A thread that sleeps, and polls when it is woken.
    sleeper: InterruptLock<Option<Thread>>,
    /// A queue has packets, or something else is to be done.
    notified: AtomicBool,
    /// The thread looks at the queues from time to time.
    watching: AtomicBool,
    /// How often anybody polled this CPU's queues.
    polls: AtomicU32,
}

impl Poller {
    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

static POLLERS: [Poller; CPUS] = [const {
    Poller {
        thread: OnceBox::new(),
        sleeper: InterruptLock::new(None),
        notified: AtomicBool::new(false),
        watching: AtomicBool::new(false),
        polls: AtomicU32::new(0),
    }
}; CPUS];

fn cpus() -> usize {
    rumpuser_cpu_count().clamp(1, CPUS)
}

/// Starts the threads, the first time.
pub(super) fn prepare() {
    for (cpu, poller) in POLLERS.iter().enumerate().take(cpus()) {
        if poller.thread.get().is_some() {
            continue;
        }
        let main = Box::new(move || serve(cpu));
        let spec = ThreadSpec { name: format!("network/{cpu}"), affinity: 1 << cpu, main };
        // As nice as any other: a flood of packets must leave time to the programs.
        if let Ok(thread) = rumpuser_thread_create(spec) {
            let _ = poller.thread.set(Box::new(thread));
        }
    }
}

/// The CPU that a queue belongs to.
fn home(queue: usize) -> &'static Poller {
    &POLLERS[queue % cpus()]
}

/// Wakes the thread of a queue's CPU. Any context.
pub(super) fn wake(queue: usize) {
    let poller = home(queue);
    poller.notified.store(true, Ordering::SeqCst);
    poller.unpark();
}

/// A device's interrupt about received packets.
pub(super) fn interrupt(interface: &Interface, index: usize) {
    let Some(queue) = interface.queues.get(index) else { return };
    queue.armed.store(false, Ordering::SeqCst);
    interface.device.disarm(index);
    let poller = home(index);
    poller.notified.store(true, Ordering::SeqCst);
    let sleeper = poller.sleeper.lock().take();
    if let Some(thread) = sleeper.as_ref().or(poller.thread.get()) {
        thread.unpark();
    }
}

/// Takes packets from a queue and hands them up. `None` if somebody else is at it.
pub(super) fn poll_queue(interface: &Arc<Interface>, index: usize) -> Option<usize> {
    let moderation = interface.queues[index].poll.try_lock()?;
    Some(poll_held(interface, index, moderation))
}

/// As [`poll_queue`], but waits for whoever is at it. With no locks held: he may want them.
pub(super) fn poll_queue_in_turn(interface: &Arc<Interface>, index: usize) -> usize {
    let mut tries = 0;
    loop {
        if let Some(moderation) = interface.queues[index].poll.try_lock() {
            return poll_held(interface, index, moderation);
        }
        tries += 1;
        if tries < SPINS {
            core::hint::spin_loop();
        } else {
            rumpuser_yield();
        }
    }
}

fn poll_held(interface: &Arc<Interface>, index: usize, mut moderation: SpinGuard<'_, Moderation>) -> usize {
    let queue = &interface.queues[index];
    let input = registry::protocols().map(|protocols| protocols.input);
    let accepts = interface.accepts();
    let mut deliver = |packet| match input {
        Some(input) if accepts => input(interface, index, packet),
        _ => interface.count_receive_drop(index),
    };
    let joins = !interface.is_loopback();
    let mut coalescer = Coalescer::default();
    let mut bytes = 0;
    let count = interface.device.receive(index, BUDGET, &mut |packet| {
        bytes += packet.data.len();
        if tap::active() {
            tap::received(interface, &packet);
        }
        if joins {
            coalescer.take(packet, &mut deliver);
        } else {
            deliver(packet);
        }
    });
    coalescer.finish(&mut deliver);
    if count > 0 {
        queue.received.count(count, bytes);
        if moderation.record(count, bytes) {
            set_delay(interface, index, moderation.decide(rumpuser_clock_monotonic()));
        }
        let armed = queue.armed.load(Ordering::Relaxed);
        if armed && queue.armed.swap(false, Ordering::SeqCst) {
            interface.device.disarm(index);
        }
    }
    drop(moderation);
    // Who finds the queue held leaves the rest to us: what he did before must be seen from here on.
    fence(Ordering::SeqCst);
    count
}

/// Sets how long interrupts are apart: by the device, if it can.
#[cold]
fn set_delay(interface: &Interface, index: usize, delay: u64) {
    let queue = &interface.queues[index];
    if queue.wanted_delay.swap(delay, Ordering::Relaxed) != delay {
        let by_device = interface.device.set_moderation(index, (delay / 1_000) as u32);
        queue.delay.store(if by_device { 0 } else { delay }, Ordering::Relaxed);
    }
}

/// Wants an interrupt from a queue. True if there is something already. Who polls at the moment sees to it himself.
/// The loopback has no interrupts: flushes deliver what is on it, and count on whoever holds a queue to look again.
fn arm(interface: &Interface, index: usize) -> bool {
    let queue = &interface.queues[index];
    if interface.is_loopback() || queue.armed.load(Ordering::SeqCst) {
        return false;
    }
    let Some(_poll) = queue.poll.try_lock() else { return false };
    queue.armed.store(true, Ordering::SeqCst);
    let waits = interface.device.arm(index);
    if waits {
        queue.armed.store(false, Ordering::SeqCst);
    }
    waits
}

/// Arms all queues of a new interface.
pub(super) fn arm_all(interface: &Arc<Interface>) {
    for index in 0..interface.queues.len() {
        if arm(interface, index) {
            wake(index);
        }
    }
}

/// Calls `visit` for every queue of a CPU; with `shared`, also for one of each interface that has fewer queues than
/// there are CPUs.
fn for_each_queue(cpu: usize, shared: bool, mut visit: impl FnMut(&'static Arc<Interface>, usize)) {
    let cpus = cpus();
    for interface in registry::all() {
        let count = interface.queues.len();
        if cpu < count {
            for index in (cpu..count).step_by(cpus) {
                visit(interface, index);
            }
        } else if shared {
            visit(interface, cpu % count);
        }
    }
}

/// Polls a CPU's queues once, inline. Returns whether there was something.
fn poll_inline(cpu: usize) -> bool {
    let poller = &POLLERS[cpu % CPUS];
    if poller.notified.load(Ordering::Relaxed) {
        poller.notified.store(false, Ordering::SeqCst);
    }
    let mut found = false;
    for_each_queue(cpu, true, |interface, index| {
        // What is on the loopback is delivered by flushes.
        if interface.is_loopback() {
            return;
        }
        let home = home(index);
        match poll_queue(interface, index) {
            Some(count) => {
                found |= count > 0;
                home.polls.store(home.polls.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
                let off = !interface.queues[index].armed.load(Ordering::SeqCst);
                if off && !home.watching.load(Ordering::SeqCst) && !home.watching.swap(true, Ordering::SeqCst)
                {
                    home.unpark();
                }
            }
            // Another CPU is at it, and may have looked for the last time before what we were told of came.
            None if index % cpus() == cpu => wake(index),
            None => {}
        }
    });
    found
}

/// Takes what has arrived for this CPU and hands it to the protocols, then flushes. For a thread that is about to
/// sleep, or tries without waiting. Returns whether there was something. With no locks held.
pub fn poll() -> bool {
    let found = poll_inline(rumpuser_cpu());
    flush();
    found
}

/// A thread that waits for something that the network may bring. It polls instead of the CPU's own thread, and is
/// woken by the interrupt.
pub struct Sleeper {
    /// The CPU whose queues it looks after.
    cpu: usize,
    /// The thread, once it may have been registered.
    thread: Option<Thread>,
    /// The delay that moderation asks for was waited out, and nothing came.
    patient: bool,
    /// Interrupts are wanted, and none has come since the last poll.
    prepared: bool,
}

impl Default for Sleeper {
    fn default() -> Self {
        Self::new()
    }
}

impl Sleeper {
    /// For the calling thread.
    pub fn new() -> Self {
        Sleeper { cpu: rumpuser_cpu(), thread: None, patient: false, prepared: false }
    }

    /// Polls, as [`poll`]. Returns whether there was something: then look at the condition again.
    pub fn poll(&mut self) -> bool {
        self.prepared = false;
        let found = poll_inline(self.cpu);
        flush();
        self.patient &= !found;
        found
    }

    /// Polls, and prepares to sleep if nothing came and `prepare` says so. Returns whether to look at the condition again:
    /// not for ever, because a thread that waits must be able to be interrupted whatever comes for others.
    fn look(&mut self, prepare: bool, rounds: &mut usize) -> bool {
        if *rounds >= SLEEPER_ROUNDS {
            wake(self.cpu);
            return false;
        }
        *rounds += 1;
        self.poll() || prepare && self.prepare()
    }

    /// Whether there is nothing to do before the thread sleeps: [`Sleeper::prepare`] was called, and no interrupt
    /// came since.
    fn is_prepared(&self) -> bool {
        self.prepared && !POLLERS[self.cpu % CPUS].notified.load(Ordering::SeqCst)
    }

    /// Until when to sleep at most before [`Sleeper::poll`] again, because interrupts are not wanted yet;
    /// [`NEVER`] if [`Sleeper::prepare`] may be called.
    fn delay(&mut self) -> u64 {
        if core::mem::replace(&mut self.patient, true) {
            return NEVER;
        }
        let mut delay = 0;
        for_each_queue(self.cpu, true, |interface, index| delay = delay.max(interface.queues[index].delay()));
        if delay == 0 { NEVER } else { rumpuser_clock_monotonic().saturating_add(delay) }
    }

    /// Wants to be woken by an interrupt. True if there are packets already: then poll again instead of sleeping.
    pub fn prepare(&mut self) -> bool {
        let me = self.thread.get_or_insert_with(rumpuser_thread_current);
        let mut sleeper = POLLERS[self.cpu % CPUS].sleeper.lock();
        let before = match &*sleeper {
            Some(thread) if thread.id() == me.id() => None,
            _ => sleeper.replace(me.clone()),
        };
        drop(sleeper);
        drop(before);
        let mut waits = false;
        for_each_queue(self.cpu, true, |interface, index| waits |= arm(interface, index));
        self.prepared = !waits;
        waits
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let Some(me) = &self.thread else { return };
        let poller = &POLLERS[self.cpu % CPUS];
        let mut sleeper = poller.sleeper.lock();
        let ours = sleeper.as_ref().is_some_and(|thread| thread.id() == me.id());
        let removed = if ours { sleeper.take() } else { None };
        drop(sleeper);
        // If an interrupt took our place, its packets are ours to poll.
        if removed.is_none() && poller.notified.load(Ordering::SeqCst) {
            self.poll();
        }
    }
}

/// As [`WaitQueue::wait`], for something that the network may bring: polls before it sleeps. With no locks held;
/// `condition` may take those that receiving takes.
pub fn wait<T>(
    queue: &WaitQueue,
    deadline: u64,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T, WaitError> {
    let mut sleeper = Sleeper::new();
    let mut rounds = 0;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if sleeper.look(false, &mut rounds) {
            continue;
        }
        let delayed = sleeper.delay();
        if delayed == NEVER && rounds < SLEEPER_ROUNDS && sleeper.prepare() {
            continue;
        }
        let result = queue.wait(deadline.min(delayed), || {
            let mut rounds = 0;
            loop {
                if let Some(value) = condition() {
                    return Some(value);
                }
                if sleeper.is_prepared() || !sleeper.look(delayed == NEVER, &mut rounds) {
                    return None;
                }
            }
        });
        rounds = 0;
        match result {
            Err(WaitError::TimedOut) if delayed < deadline => {}
            result => return result,
        }
    }
}

/// The thread of a CPU.
fn serve(cpu: usize) {
    let poller = &POLLERS[cpu];
    let mut seen = poller.polls.load(Ordering::Relaxed);
    let mut watches = 1;
    loop {
        for_each_queue(cpu, false, |interface, index| {
            if index == 0 {
                registry::handle_event(interface);
            }
            let queue = &interface.queues[index];
            if queue.room.load(Ordering::Relaxed) && queue.room.swap(false, Ordering::SeqCst) {
                interface.send_backlog(index);
            }
        });
        let polls = poller.polls.load(Ordering::Relaxed);
        let notified = poller.notified.swap(false, Ordering::SeqCst);
        if !notified && polls != seen {
            // Others poll: only watch.
            let often = polls.wrapping_sub(seen) >= watches;
            watches = if often { OFTEN.min(watches * 2) } else { 1 };
            seen = polls;
            flush();
            rumpuser_park(rumpuser_clock_monotonic().saturating_add(WATCH * u64::from(watches)));
            continue;
        }
        (seen, watches) = (polls, 1);
        let (mut most, mut delay) = (0, 0);
        for_each_queue(cpu, false, |interface, index| {
            match poll_queue(interface, index) {
                Some(count) => most = most.max(count),
                // Another CPU is at it: look again.
                None => (most, delay) = (most.max(1), delay.max(CONTENTION)),
            }
            delay = delay.max(interface.queues[index].delay());
        });
        flush();
        if most >= BUDGET {
            poller.notified.store(true, Ordering::SeqCst);
            rumpuser_yield();
        } else if most > 0 && delay > 0 {
            poller.watching.store(true, Ordering::SeqCst);
            rumpuser_park(rumpuser_clock_monotonic().saturating_add(delay));
        } else {
            // In this order: whoever polls and leaves interrupts off from here on wakes us.
            poller.watching.store(false, Ordering::SeqCst);
            let mut waits = false;
            for_each_queue(cpu, false, |interface, index| waits |= arm(interface, index));
            if waits {
                poller.notified.store(true, Ordering::SeqCst);
            } else {
                rumpuser_park(NEVER);
            }
        }
    }
}
