//! Threads of the kernel, and what one may do to another.

use alloc::{boxed::Box, string::String, sync::Arc};
use core::{
    cell::{Cell, UnsafeCell},
    ptr::{null, null_mut},
    sync::atomic::{AtomicBool, AtomicI8, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering},
};

use rumpuser::{CpuSet, OutOfMemory, Pmap, Presence, ThreadOperations, ThreadSpec};

use super::queue;
use crate::{
    cpu,
    memory::{space::AddressSpace, stack},
    trap::{
        constant::Constants,
        extended::{Extended, FloatControl},
    },
};

/// What a thread is doing.
pub mod state {
    /// It runs, or would if its CPU weren't in the scheduler.
    pub const RUNNING: u8 = 0;
    /// It is on a run queue, or on its way there.
    pub const READY: u8 = 1;
    /// It sleeps.
    pub const PARKED: u8 = 2;
    /// It has ended.
    pub const DEAD: u8 = 3;
}

/// A thread. The scheduler holds a reference from creation to the end, so a thread that isn't dead can be used
/// by plain reference.
pub struct Thread {
    id: u64,
    /// For messages.
    pub name: String,
    /// The saved stack pointer while it doesn't run.
    pub stack_pointer: Cell<u64>,
    /// The top of its stack; 0 for the boot stack.
    pub stack_top: usize,
    /// One of [`state`].
    pub state: AtomicU8,
    /// A CPU has its registers.
    pub on_cpu: AtomicBool,
    /// An unpark that no park has used.
    pub token: AtomicBool,
    /// The interrupt flag.
    pub interrupted: AtomicBool,
    /// The CPU it runs or ran on.
    pub cpu: AtomicUsize,
    /// Where it may run.
    pub affinity: AtomicU64,
    nice: AtomicI8,
    /// Virtual runtime; relative to its queue's minimum while it sleeps.
    pub virtual_runtime: AtomicU64,
    /// When it went to sleep.
    pub parked_at: AtomicU64,
    /// CPU time used, up to the last switch or tick.
    pub runtime: AtomicU64,
    /// The part of it that was spent in the kernel, by samples.
    pub kernel_time: AtomicU64,
    /// It has run user code.
    pub has_user: AtomicBool,
    /// It was interrupted in user mode, for the account.
    pub in_user: AtomicBool,
    /// Traps since it began, for sampling.
    pub traps: Cell<u32>,
    /// Runtime at the start of the sampled trap.
    pub sample: Cell<u64>,
    /// The component's pointer.
    pub curlwp: AtomicPtr<()>,
    /// The FS base of a thread that runs components in C; 0 for all others.
    pub thread_pointer: Cell<u64>,
    /// Where traps and interrupts begin on its stack while it runs on another one; 0 for threads that don't.
    pub trap_stack: Cell<u64>,
    /// Floating-point control while it doesn't run, of a thread that runs components in C.
    pub float_control: Cell<FloatControl>,
    presence: UnsafeCell<Option<Arc<Presence>>>,
    /// Its address space as the component gave it.
    pub pmap: UnsafeCell<Option<Arc<dyn Pmap>>>,
    /// The hardware side of `pmap`.
    pub space: Cell<*const AddressSpace>,
    /// System calls with fixed answers.
    pub constants: Constants,
    /// Extended processor state.
    pub extended: Extended,
    main: UnsafeCell<Option<Box<dyn FnOnce() + Send>>>,
}

// SAFETY: the cells belong to the thread itself, or to the CPU that switches it, one at a time.
unsafe impl Sync for Thread {}
// SAFETY: as above; the raw pointers refer to things that aren't bound to a CPU.
unsafe impl Send for Thread {}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Thread {
    fn with(
        name: String,
        affinity: CpuSet,
        stack_top: usize,
        extended: Extended,
        main: Option<Box<dyn FnOnce() + Send>>,
    ) -> Thread {
        Thread {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name,
            stack_pointer: Cell::new(0),
            stack_top,
            state: AtomicU8::new(state::RUNNING),
            on_cpu: AtomicBool::new(false),
            token: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
            cpu: AtomicUsize::new(0),
            affinity: AtomicU64::new(affinity),
            nice: AtomicI8::new(0),
            virtual_runtime: AtomicU64::new(0),
            parked_at: AtomicU64::new(0),
            runtime: AtomicU64::new(0),
            kernel_time: AtomicU64::new(0),
            has_user: AtomicBool::new(false),
            in_user: AtomicBool::new(false),
            traps: Cell::new(0),
            sample: Cell::new(0),
            curlwp: AtomicPtr::new(null_mut()),
            thread_pointer: Cell::new(0),
            trap_stack: Cell::new(0),
            float_control: Cell::new(FloatControl::INITIAL),
            presence: UnsafeCell::new(None),
            pmap: UnsafeCell::new(None),
            space: Cell::new(null()),
            constants: Constants::new(),
            extended,
            main: UnsafeCell::new(main),
        }
    }

    /// The thread that a CPU runs already: its boot code, which becomes its idle loop.
    pub fn idle(cpu: usize, stack_top: usize) -> &'static Thread {
        let thread = Thread::with(alloc::format!("idle/{cpu}"), 1 << cpu, stack_top, Extended::none(), None);
        thread.on_cpu.store(true, Ordering::Relaxed);
        thread.cpu.store(cpu, Ordering::Relaxed);
        Box::leak(Box::new(thread))
    }

    /// A thread that is ready to be started.
    pub fn new(spec: ThreadSpec) -> Result<Arc<Thread>, OutOfMemory> {
        let extended = Extended::new()?;
        let top = stack::allocate()?;
        super::reserve().inspect_err(|_| stack::release(top))?;
        let thread = Thread::with(spec.name, spec.affinity, top, extended, Some(spec.main));
        // As `switch` leaves it: six registers, then where to go on; the rest aligns the stack.
        let words = [0, 0, 0, 0, 0, 0, super::switch::start as *const () as u64, 0, 0];
        let start = top - size_of_val(&words);
        // SAFETY: the top of a stack that nobody uses yet.
        unsafe { (start as *mut [u64; 9]).write(words) };
        thread.stack_pointer.set(start as u64);
        Ok(Arc::new(thread))
    }

    /// What it runs; once.
    pub fn take_main(&self) -> Option<Box<dyn FnOnce() + Send>> {
        // SAFETY: called by the thread itself, at its start.
        unsafe { (*self.main.get()).take() }
    }

    /// See `rumpuser_set_presence`. Called by the thread itself, with interrupts disabled.
    pub fn set_presence(&self, presence: Option<Arc<Presence>>) -> Option<Arc<Presence>> {
        // SAFETY: the thread and the CPU that switches it are the only users, and don't interrupt each other.
        let before = core::mem::replace(unsafe { &mut *self.presence.get() }, presence);
        self.tell_presence(self.cpu.load(Ordering::Relaxed) as i32);
        before
    }

    /// Notes the CPU that the thread runs on from here on, or -1. Interrupts are disabled.
    pub fn tell_presence(&self, cpu: i32) {
        // SAFETY: as above.
        if let Some(presence) = unsafe { &*self.presence.get() } {
            presence.cpu.store(cpu, Ordering::Release);
        }
    }

    /// The number.
    pub fn number(&self) -> u64 {
        self.id
    }

    /// Its share of the CPU.
    pub fn weight(&self) -> u64 {
        const WEIGHTS: [u64; 40] = {
            let mut weights = [0; 40];
            let mut index = 0;
            while index < 40 {
                weights[index] = queue::weight(index as i8 - 20);
                index += 1;
            }
            weights
        };
        WEIGHTS[(self.nice.load(Ordering::Relaxed) + 20) as usize]
    }
}

impl ThreadOperations for Thread {
    fn id(&self) -> u64 {
        self.id
    }

    fn unpark(&self) {
        if !self.token.swap(true, Ordering::SeqCst) {
            super::wake(self);
        }
    }

    fn interrupt(&self) {
        self.interrupted.store(true, Ordering::SeqCst);
        self.unpark();
        super::kick_if_running(self);
    }

    fn set_affinity(&self, set: CpuSet) {
        self.affinity.store(set, Ordering::SeqCst);
        super::affinity_changed(self);
    }

    fn affinity(&self) -> CpuSet {
        self.affinity.load(Ordering::Relaxed)
    }

    fn set_nice(&self, nice: i8) {
        self.nice.store(nice.clamp(-20, 19), Ordering::Relaxed);
    }

    fn cpu_time(&self) -> (u64, u64) {
        let total = super::runtime_of(self);
        if !self.has_user.load(Ordering::Relaxed) {
            return (0, total);
        }
        let kernel = self.kernel_time.load(Ordering::Relaxed).min(total);
        (total - kernel, kernel)
    }

    fn cpu(&self) -> usize {
        self.cpu.load(Ordering::Relaxed)
    }
}

/// The calling thread as others hold it.
pub fn current() -> Arc<Thread> {
    let thread = core::ptr::from_ref(cpu::current_thread());
    // SAFETY: threads other than the idle ones, which don't come here, are made by `Arc::new`; the scheduler's
    // reference keeps this one alive while the count goes up.
    unsafe {
        Arc::increment_strong_count(thread);
        Arc::from_raw(thread)
    }
}
