//! The scheduler: a run queue per CPU, fair by virtual runtime, preemptive, tickless.
//!
//! A queue is locked with interrupts disabled. Whoever wakes a thread waits until the thread's last CPU has let
//! go of it; a CPU on its way through the scheduler takes no lock but the queues', so that is never long.

mod account;
pub mod idle;
pub mod queue;
pub mod switch;
pub mod thread;
mod wake;

use alloc::sync::Arc;
use core::{
    cell::Cell,
    ptr::null,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use rumpuser::{NEVER, OutOfMemory, ThreadSpec};

use account::account;
pub use account::{account_entry, account_trap, cpu_statistics, cpu_times, runtime_of};
use wake::kick;
pub use wake::{affinity_changed, enqueue, evacuate, kick_if_running, wake};

use crate::{
    clock,
    cpu::{self, Cpu},
    lock::{IrqLock, Spin},
    machine,
    memory::{space::AddressSpace, stack},
    platform::platform,
    trap::extended,
};
use queue::Sorted;
use thread::{Thread, state};

/// How long a thread runs while others wait.
const SLICE: u64 = 3_000_000;
/// Between looks at a thread that was asked for something where it can't hear it.
const LOOK: u64 = 1_000_000;
/// How far ahead of the first in the queue a thread may get before it yields to a newcomer.
const GRANULARITY: u64 = 500_000;
/// How far before the others a thread that slept may be placed.
const SLEEPER_BONUS: i64 = 3_000_000;
/// How far behind.
const LAG_LIMIT: i64 = 50_000_000;

/// The ready threads of a CPU.
struct RunQueue {
    ready: Sorted<&'static Thread>,
    /// A virtual runtime that only grows: where newcomers are placed.
    minimum: u64,
}

/// The scheduler's part of a CPU.
pub struct CpuScheduler {
    queue: Spin<RunQueue>,
    /// How many are in the queue, to look at without the lock.
    length: AtomicUsize,
    sleepers: Spin<Sorted<&'static Thread>>,
    idle: Cell<*const Thread>,
    /// The thread that is being switched from.
    pub previous: Cell<*const Thread>,
    /// The address space that CR3 points to; the CPU holds a reference.
    pub loaded: Cell<*const AddressSpace>,
    /// When the timer is set to fire.
    armed: Cell<u64>,
    slice_end: Cell<u64>,
    /// When the account was last brought up to date.
    accounted: AtomicU64,
    /// The running thread's virtual runtime then.
    virtual_runtime: AtomicU64,
    busy: AtomicU64,
    kernel: AtomicU64,
    idled: AtomicU64,
    /// Switches between threads; written by the CPU alone.
    switches: AtomicU64,
    /// How long to poll before the CPU halts.
    patience: Cell<u64>,
}

impl CpuScheduler {
    /// An idle one.
    pub const fn new() -> Self {
        CpuScheduler {
            queue: Spin::new(RunQueue { ready: Sorted::new(), minimum: 1 << 40 }),
            length: AtomicUsize::new(0),
            sleepers: Spin::new(Sorted::new()),
            idle: Cell::new(null()),
            previous: Cell::new(null()),
            loaded: Cell::new(null()),
            armed: Cell::new(NEVER),
            slice_end: Cell::new(NEVER),
            accounted: AtomicU64::new(0),
            virtual_runtime: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            kernel: AtomicU64::new(0),
            idled: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            patience: Cell::new(0),
        }
    }
}

impl Default for CpuScheduler {
    fn default() -> Self {
        Self::new()
    }
}

/// CPUs with nothing to do.
static IDLE: AtomicU64 = AtomicU64::new(0);
/// Those of them that watch their reschedule flag and need no interrupt.
static POLLING: AtomicU64 = AtomicU64::new(0);
static THREADS: AtomicUsize = AtomicUsize::new(0);
/// How many threads the queues have room for.
static CAPACITY: IrqLock<usize> = IrqLock::new(0);

/// Makes the calling code the CPU's idle thread, anew if the CPU has begun anew.
pub fn adopt(cpu: &'static Cpu, stack_top: usize) {
    let idle = idle_of(cpu).unwrap_or_else(|| Thread::idle(cpu.number, stack_top));
    cpu.scheduler.idle.set(idle);
    cpu.current.set(idle);
    restart_account(cpu);
    let capacity = CAPACITY.lock();
    let _ = cpu.scheduler.queue.lock().ready.reserve(*capacity);
    let _ = cpu.scheduler.sleepers.lock().reserve(*capacity);
}

/// The CPU's idle thread, if it has run.
pub fn idle_of(cpu: &Cpu) -> Option<&'static Thread> {
    // SAFETY: set by `adopt`, never freed.
    unsafe { cpu.scheduler.idle.get().as_ref() }
}

/// Begins the account of a CPU that did nothing until now.
pub fn restart_account(cpu: &Cpu) {
    cpu.scheduler.accounted.store(clock::now(), Ordering::Relaxed);
    cpu.scheduler.armed.set(NEVER);
    cpu.scheduler.slice_end.set(NEVER);
}

/// Makes room for one more thread in every queue.
pub fn reserve() -> Result<(), OutOfMemory> {
    let threads = THREADS.fetch_add(1, Ordering::Relaxed) + 1;
    let mut capacity = CAPACITY.lock();
    if threads <= *capacity {
        return Ok(());
    }
    let wanted = (threads * 2).max(32);
    for cpu in cpu::all() {
        let room = cpu.scheduler.queue.lock().ready.reserve(wanted);
        if room.is_err() || cpu.scheduler.sleepers.lock().reserve(wanted).is_err() {
            THREADS.fetch_sub(1, Ordering::Relaxed);
            return Err(OutOfMemory);
        }
    }
    *capacity = wanted;
    Ok(())
}

/// Starts a thread.
pub fn spawn(spec: ThreadSpec) -> Result<Arc<Thread>, OutOfMemory> {
    stack::trim();
    let thread = Thread::new(spec)?;
    let running: &'static Thread = {
        let pointer = Arc::into_raw(thread.clone());
        // SAFETY: the scheduler's reference, kept until the thread ends.
        unsafe { &*pointer }
    };
    running.state.store(state::READY, Ordering::Relaxed);
    running.cpu.store(cpu::number(), Ordering::Relaxed);
    // A new thread is no sleeper: it gets no bonus.
    running.parked_at.store(clock::now(), Ordering::Relaxed);
    let flags = machine::interrupts_disable();
    enqueue(running);
    interrupts_restore(flags);
    Ok(thread)
}

/// Whether a thread is a CPU's idle loop.
pub fn is_idle(thread: &Thread) -> bool {
    cpu::get(thread.cpu.load(Ordering::Relaxed))
        .is_some_and(|cpu| core::ptr::eq(cpu.scheduler.idle.get(), thread))
}

/// Makes a thread's virtual runtime relative, as it leaves a queue's CPU.
fn leave(thread: &Thread, minimum: u64, now: u64) {
    let lag = thread.virtual_runtime.load(Ordering::Relaxed).wrapping_sub(minimum);
    thread.virtual_runtime.store(lag, Ordering::Relaxed);
    thread.parked_at.store(now, Ordering::Relaxed);
}

/// Chooses who runs next, and switches. Interrupts are disabled, preemption is not.
pub fn reschedule() {
    pass(false);
}

fn pass(yielding: bool) {
    let cpu = cpu::current();
    let scheduler = &cpu.scheduler;
    let previous = cpu::current_thread();
    cpu.reschedule.store(0, Ordering::SeqCst);
    let now = account(cpu, previous);
    let idle = core::ptr::eq(scheduler.idle.get(), previous);
    let runs_on = !idle && previous.state.load(Ordering::SeqCst) == state::RUNNING;
    let may_stay = allowed_here(previous, cpu);
    let next = {
        let mut queue = scheduler.queue.lock();
        let runtime = previous.virtual_runtime.load(Ordering::Relaxed);
        let first = queue.ready.first_key();
        let lowest = if idle { first } else { Some(first.map_or(runtime, |first| first.min(runtime))) };
        queue.minimum = queue.minimum.max(lowest.unwrap_or(0));
        let stays = runs_on
            && may_stay
            && first.is_none_or(|first| {
                let head_start = if now < scheduler.slice_end.get() { GRANULARITY } else { 0 };
                !yielding && runtime <= first + head_start
            });
        if stays {
            Some(previous)
        } else {
            let next = queue.ready.pop();
            if runs_on && may_stay {
                previous.state.store(state::READY, Ordering::Relaxed);
                queue.ready.insert(runtime, previous.number(), previous);
            } else if !idle {
                leave(previous, queue.minimum, now);
            }
            scheduler.length.store(queue.ready.len(), Ordering::Relaxed);
            next
        }
    };
    let next = next.or_else(|| steal(cpu, now)).unwrap_or_else(|| {
        // SAFETY: set by `adopt`, never freed.
        unsafe { &*scheduler.idle.get() }
    });
    let waiting = scheduler.length.load(Ordering::Relaxed) > 0;
    let continues = core::ptr::eq(next, previous);
    if !continues || now >= scheduler.slice_end.get() || scheduler.slice_end.get() == NEVER {
        scheduler.slice_end.set(if waiting { now + SLICE } else { NEVER });
    }
    scheduler.virtual_runtime.store(next.virtual_runtime.load(Ordering::Relaxed), Ordering::Relaxed);
    arm(cpu, now);
    if !continues {
        switch::switch(cpu, previous, next);
    }
}

fn allowed_here(thread: &Thread, cpu: &Cpu) -> bool {
    let online = cpu::online();
    let affinity = thread.affinity.load(Ordering::SeqCst);
    online & 1 << cpu.number != 0 && (affinity & 1 << cpu.number != 0 || affinity & online == 0)
}

/// Takes a thread from another CPU's queue, the longest first.
fn steal(cpu: &Cpu, now: u64) -> Option<&'static Thread> {
    let mut tried = 1u64 << cpu.number;
    loop {
        let victim = cpu::all()
            .filter(|other| {
                tried & 1 << other.number == 0 && other.scheduler.length.load(Ordering::Relaxed) > 0
            })
            .max_by_key(|other| other.scheduler.length.load(Ordering::Relaxed))?;
        tried |= 1 << victim.number;
        let Some(mut queue) = victim.scheduler.queue.try_lock() else { continue };
        let taken =
            queue.ready.take(|thread| allowed_here(thread, cpu) && !thread.on_cpu.load(Ordering::Acquire));
        victim.scheduler.length.store(queue.ready.len(), Ordering::Relaxed);
        let minimum = queue.minimum;
        drop(queue);
        if let Some(thread) = taken {
            leave(thread, minimum, now);
            let lag = thread.virtual_runtime.load(Ordering::Relaxed) as i64;
            let here = cpu.scheduler.queue.lock().minimum;
            let placed = here.wrapping_add_signed(lag.clamp(-SLEEPER_BONUS, LAG_LIMIT));
            thread.virtual_runtime.store(placed, Ordering::Relaxed);
            return Some(thread);
        }
    }
}

/// Sets the timer for the next sleeper or the end of the slice, if it isn't set early enough.
fn arm(cpu: &Cpu, now: u64) {
    let scheduler = &cpu.scheduler;
    let sleeper = scheduler.sleepers.lock().first_key().unwrap_or(NEVER);
    // A slice that is over waits for the scheduler, which a spin lock may hold off: the timer has nothing to add.
    let slice = scheduler.slice_end.get();
    let deadline = sleeper.min(if slice > now { slice } else { NEVER });
    if deadline < scheduler.armed.get() {
        scheduler.armed.set(deadline);
        platform().set_timer(clock::tsc_at(deadline));
    }
}

/// Puts the timer off to the next sleeper: a slice that is over may have set it earlier. Worth it before a long halt.
fn put_off(cpu: &Cpu) {
    let scheduler = &cpu.scheduler;
    let sleeper = scheduler.sleepers.lock().first_key().unwrap_or(NEVER);
    if sleeper != NEVER && scheduler.armed.get() < sleeper {
        scheduler.armed.set(sleeper);
        platform().set_timer(clock::tsc_at(sleeper));
    }
}

/// The timer fired. Interrupts are disabled.
pub fn timer_interrupt() {
    let cpu = cpu::current();
    let scheduler = &cpu.scheduler;
    scheduler.armed.set(NEVER);
    let now = clock::now();
    loop {
        let mut sleepers = scheduler.sleepers.lock();
        let due = sleepers.first_key().is_some_and(|deadline| deadline <= now);
        let Some(thread) = due.then(|| sleepers.pop()).flatten() else { break };
        drop(sleepers);
        wake(thread);
    }
    if now >= scheduler.slice_end.get() {
        cpu.reschedule.store(1, Ordering::SeqCst);
        let idle = IDLE.load(Ordering::SeqCst);
        if scheduler.length.load(Ordering::Relaxed) > 0
            && let Some(other) = cpu::get(idle.trailing_zeros() as usize)
        {
            kick(other);
        }
    }
    arm(cpu, now);
}

/// At the end of an interrupt of kernel code. Interrupts are disabled.
pub fn preempt_from_interrupt() {
    let cpu = cpu::current();
    // The idle loop looks by itself.
    let idle = core::ptr::eq(cpu.scheduler.idle.get(), cpu.current.get());
    if cpu.reschedule.load(Ordering::Relaxed) != 0 && cpu.preempt_count.load(Ordering::Relaxed) == 0 && !idle
    {
        let thread = cpu::current_thread();
        // Code in C may be in the middle of a computation; where it calls us, it expects nothing to be kept.
        let computes = thread.thread_pointer.get() != 0;
        if computes {
            extended::save_preempted(thread);
        }
        reschedule();
        if computes {
            extended::load_preempted(thread);
        }
    }
}

/// Has the timer fire soon, for another look at the running thread. Interrupts are disabled.
pub fn look_again() {
    let (cpu, now) = (cpu::current(), clock::now());
    let slice_end = &cpu.scheduler.slice_end;
    slice_end.set(slice_end.get().min(now + LOOK));
    arm(cpu, now);
}

/// Whether the calling code may sleep.
pub fn may_sleep() -> bool {
    cpu::current().preempt_count.load(Ordering::Relaxed) == 0
}

/// See `rumpuser_park`.
pub fn park(deadline: u64) {
    let thread = cpu::current_thread();
    if thread.token.swap(false, Ordering::SeqCst) || deadline != NEVER && deadline <= clock::now() {
        return;
    }
    let flags = machine::interrupts_disable();
    let cpu = cpu::current();
    let preemptions = cpu.preempt_count.load(Ordering::Relaxed);
    assert!(preemptions == 0, "a thread parks while it holds {preemptions} spin locks");
    if deadline != NEVER {
        cpu.scheduler.sleepers.lock().insert(deadline, thread.number(), thread);
    }
    thread.state.store(state::PARKED, Ordering::SeqCst);
    // An unpark may have come in between: take it back, unless the waker already acts on it.
    let stays = thread.token.load(Ordering::SeqCst)
        && thread
            .state
            .compare_exchange(state::PARKED, state::RUNNING, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok();
    if !stays {
        reschedule();
    }
    thread.token.swap(false, Ordering::SeqCst);
    if deadline != NEVER {
        cpu.scheduler.sleepers.lock().remove(deadline, thread.number());
    }
    interrupts_restore(flags);
}

/// See `rumpuser_yield`.
pub fn yield_now() {
    let flags = machine::interrupts_disable();
    if cpu::current().preempt_count.load(Ordering::Relaxed) == 0 {
        pass(true);
    }
    interrupts_restore(flags);
}

/// Ends the calling thread.
pub fn exit() -> ! {
    set_pmap(None);
    THREADS.fetch_sub(1, Ordering::Relaxed);
    machine::cli();
    cpu::current_thread().state.store(state::DEAD, Ordering::SeqCst);
    reschedule();
    unreachable!("a dead thread runs")
}

/// Makes `pmap` the calling thread's address space.
pub fn set_pmap(pmap: Option<Arc<dyn rumpuser::Pmap>>) {
    let thread = cpu::current_thread();
    let space = pmap
        .as_ref()
        .and_then(|pmap| pmap.as_any().downcast_ref::<crate::memory::pmap::KernelPmap>())
        .map_or(null(), |pmap| Arc::as_ptr(pmap.space()));
    let flags = machine::interrupts_disable();
    thread.space.set(space);
    // SAFETY: `pmap` holds a reference, and is kept by the thread below.
    unsafe { switch::load_space(cpu::current(), space) };
    // SAFETY: the thread's own field.
    let before = core::mem::replace(unsafe { &mut *thread.pmap.get() }, pmap);
    interrupts_restore(flags);
    drop(before);
}

/// See `rumpuser_interrupts_restore`: a reschedule that came up meanwhile happens here.
#[inline]
pub fn interrupts_restore(flags: usize) {
    if flags as u64 & machine::FLAG_INTERRUPT != 0 {
        let cpu = cpu::current();
        if cpu.reschedule.load(Ordering::Relaxed) != 0 && cpu.preempt_count.load(Ordering::Relaxed) == 0 {
            reschedule();
        }
        machine::interrupts_enable();
    }
}

/// See `rumpuser_preempt_enable`, when the count has come to 0 and a reschedule waits.
#[cold]
pub fn preempt_pending() {
    if machine::interrupts_enabled() {
        machine::cli();
        interrupts_restore(machine::FLAG_INTERRUPT as usize);
    }
}
