//! The hypercall interface: everything a component may ask of the platform below it.
//!
//! A platform (`bmk` in a guest, [`host`] in unit tests) implements [`Hypercalls`] and exports it
//! with [`provide!`]; the components call the functions below, which the linker binds directly, so a
//! hypercall costs a function call (and, with LTO, often less). The names follow rumpuser(3).
//!
//! Times are nanoseconds. Monotonic time starts at boot; [`NEVER`] as a deadline means "no timeout".
#![cfg_attr(not(feature = "host"), no_std)]
#![allow(unsafe_code, reason = "declares and exports the symbols that bind components to a platform")]

extern crate alloc;

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicI32, AtomicU32};

pub mod device;
#[cfg(feature = "host")]
pub mod host;
pub mod memory;
pub mod sync;
pub mod user;

pub use memory::{Frame, MemoryStatistics, Pmap, Protection};
pub use user::{MachineTrap, Trap, UserContext, VectorRegisters};

/// A deadline that never comes.
pub const NEVER: u64 = u64::MAX;

/// The platform has no memory left for what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory;

/// A set of CPUs, one bit each; CPU 0 is bit 0. The platform starts at most 64.
pub type CpuSet = u64;

/// How a new thread starts.
pub struct ThreadSpec {
    /// Shown in panics and by debuggers.
    pub name: String,
    /// The CPUs it may run on.
    pub affinity: CpuSet,
    /// What it runs; the thread ends when this returns.
    pub main: Box<dyn FnOnce() + Send>,
}

/// A reference to a thread of the platform. Threads are preemptive and run on any CPU of their set.
pub type Thread = Arc<dyn ThreadOperations>;

/// What one thread may do to another.
pub trait ThreadOperations: Send + Sync {
    /// A number unique among the threads since boot.
    fn id(&self) -> u64;
    /// Makes the thread's present or next [`rumpuser_park`] return. Safe in interrupt handlers.
    fn unpark(&self);
    /// Sets the thread's interrupt flag, unparks it, and makes its
    /// [`rumpuser_user_execute`] return [`Trap::Interrupted`] soon, on whichever CPU it runs.
    fn interrupt(&self);
    /// Restricts the thread to `set`; it moves at once if it runs elsewhere.
    fn set_affinity(&self, set: CpuSet);
    /// The CPUs the thread may run on.
    fn affinity(&self) -> CpuSet;
    /// Nice value, -20 (most CPU) to 19.
    fn set_nice(&self, nice: i8);
    /// CPU time used: (in user mode, in the kernel).
    fn cpu_time(&self) -> (u64, u64);
    /// The CPU that it runs on or last ran on.
    fn cpu(&self) -> usize;
}

/// Where a thread's CPU stands for those who can only read memory (NetBSD: `struct lwpctl`).
#[repr(C)]
#[derive(Default)]
pub struct Presence {
    /// The number of the CPU that it runs on; -1 while it runs on none.
    pub cpu: AtomicI32,
    /// The component's.
    pub switches: AtomicU32,
}

/// What a CPU did since boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStatistics {
    /// Nanoseconds for which the machine's host let it wait though it had work.
    pub stolen: u64,
    /// Switches from one thread to another.
    pub switches: u64,
    /// Threads that run or could run on it now.
    pub runnable: usize,
    /// Interrupts of its timer.
    pub timer_interrupts: u64,
    /// Interrupts by which other CPUs told it of work, or asked it to flush its TLB.
    pub wake_interrupts: u64,
    /// Interrupts of devices: (vector, count) of those that came.
    pub device_interrupts: Vec<(u8, u64)>,
}

/// How an image ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// Power off; the status (0 to 255) is handed to the launcher.
    PowerOff(u8),
    /// Restart the machine.
    Reboot,
}

/// Invokes `$callback!` with `$head` and the list of all hypercalls.
///
/// The list stands once; the trait, the imports and the exports are made from it, so the two sides of
/// the interface cannot disagree. The linker sees the names with `rust_` before them, since components in C have
/// hypercalls of the same names.
#[doc(hidden)]
#[macro_export]
macro_rules! with_hypercalls {
    ($callback:path, $($head:tt)*) => { $callback! { $($head)*;
        // ---- threads and CPUs
        /// Starts a thread.
        fn rumpuser_thread_create(spec: $crate::ThreadSpec) -> Result<$crate::Thread, $crate::OutOfMemory>;
        /// The calling thread.
        fn rumpuser_thread_current() -> $crate::Thread;
        /// Ends the calling thread without returning from its `main`; nothing on its stack is dropped.
        fn rumpuser_thread_exit() -> !;
        /// Sleeps until unparked or until the monotonic `deadline`. An unpark that came before makes it
        /// return at once; it may also return for no reason. Must not be called in an interrupt
        /// handler or with a spin lock held.
        fn rumpuser_park(deadline: u64);
        /// Lets other threads run.
        fn rumpuser_yield();
        /// The component's own pointer for this thread (NetBSD: the current LWP); null at first.
        fn rumpuser_curlwp() -> *mut ();
        /// Sets [`rumpuser_curlwp`] for the calling thread.
        fn rumpuser_set_curlwp(lwp: *mut ());
        /// Sets the calling thread's pointer register (FS base), which stays its own: for components in C, whose
        /// thread-local storage hangs on it. Such a thread keeps its whole floating-point state when it is preempted.
        fn rumpuser_set_thread_pointer(address: usize);
        /// Keeps `presence` true of the calling thread, until another or none is given. What the thread did before it
        /// stopped running is seen by whoever sees that it did.
        fn rumpuser_set_presence(presence: Option<alloc::sync::Arc<$crate::Presence>>);
        /// Whether the calling thread's interrupt flag is set.
        fn rumpuser_interrupted() -> bool;
        /// Clears the calling thread's interrupt flag.
        fn rumpuser_clear_interrupt();
        /// Keeps the calling thread on its CPU and running, until the matching enable. Nests.
        fn rumpuser_preempt_disable();
        /// Ends [`rumpuser_preempt_disable`]; a pending reschedule happens here.
        fn rumpuser_preempt_enable();
        /// Disables interrupts on this CPU; returns what [`rumpuser_interrupts_restore`] takes.
        fn rumpuser_interrupts_disable() -> usize;
        /// Restores the interrupt state.
        fn rumpuser_interrupts_restore(state: usize);
        /// The calling CPU's number, 0 to count - 1. Stable only with preemption disabled.
        fn rumpuser_cpu() -> usize;
        /// How many CPUs there may be: their numbers are below this, which doesn't change. Those that run now are
        /// [`rumpuser_cpu_online`].
        fn rumpuser_cpu_count() -> usize;
        /// The CPUs that run. A host may take some away, and give them; the first one always runs.
        fn rumpuser_cpu_online() -> $crate::CpuSet;
        /// Time the CPU spent (in user mode, in the kernel, idle).
        fn rumpuser_cpu_times(cpu: usize) -> (u64, u64, u64);
        /// What the CPU did.
        fn rumpuser_cpu_statistics(cpu: usize) -> $crate::CpuStatistics;
        /// The CPU's name and frequency in kHz, for /proc/cpuinfo.
        fn rumpuser_cpu_info() -> (alloc::string::String, u64);

        // ---- time
        /// Monotonic time since boot, which is at 1 s: programs take 0 s for no time at all.
        fn rumpuser_clock_monotonic() -> u64;
        /// Time since 1970-01-01 00:00 UTC.
        fn rumpuser_clock_realtime() -> u64;
        /// Sets the real-time clock (not the hardware's).
        fn rumpuser_clock_set_realtime(now: u64);
        /// What the vDSO needs to compute the clocks without a system call; see [`user::ClockPage`].
        fn rumpuser_clock_page() -> $crate::Frame;

        // ---- memory
        /// Allocates a zeroed 4 KiB frame with one reference.
        fn rumpuser_frame_alloc() -> Result<$crate::Frame, $crate::OutOfMemory>;
        /// Allocates a 4 KiB frame with one reference and undefined contents.
        fn rumpuser_frame_alloc_uninitialised() -> Result<$crate::Frame, $crate::OutOfMemory>;
        /// Allocates `1 << order` physically contiguous, naturally aligned, zeroed frames, each with one
        /// reference; they may be freed one by one.
        fn rumpuser_frames_alloc(order: u32) -> Result<$crate::Frame, $crate::OutOfMemory>;
        /// Adds a reference. A no-op for frames outside the allocator (the baked image, devices).
        fn rumpuser_frame_retain(frame: $crate::Frame);
        /// Drops a reference; the last one frees the frame.
        fn rumpuser_frame_release(frame: $crate::Frame);
        /// How many references the frame has; `u32::MAX` for frames outside the allocator.
        fn rumpuser_frame_references(frame: $crate::Frame) -> u32;
        /// Where the kernel sees the frame's 4096 bytes.
        fn rumpuser_frame_address(frame: $crate::Frame) -> *mut u8;
        /// The frame behind an address from [`rumpuser_frame_address`] or inside the baked image.
        fn rumpuser_frame_of(address: *const u8) -> $crate::Frame;
        /// How much memory there is and how much is free.
        fn rumpuser_memory_statistics() -> $crate::MemoryStatistics;
        /// A new, empty user address space.
        fn rumpuser_pmap_create() -> Result<alloc::sync::Arc<dyn $crate::Pmap>, $crate::OutOfMemory>;
        /// Makes `pmap` the calling thread's address space (none: kernel only).
        fn rumpuser_pmap_activate(pmap: Option<alloc::sync::Arc<dyn $crate::Pmap>>);

        // ---- user mode
        /// Runs user code from `context` in the calling thread's address space until it traps.
        fn rumpuser_user_execute(context: &mut $crate::UserContext) -> $crate::Trap;
        /// Makes system call `number` (0 to 255) of the calling thread return `value` at once, without
        /// [`rumpuser_user_execute`] returning; `None` ends that. For calls whose answer never changes.
        fn rumpuser_set_constant_call(number: usize, value: Option<u32>);
        /// Copies from user memory; returns how many bytes at the end were not copied.
        fn rumpuser_copyin(source: usize, destination: &mut [u8]) -> usize;
        /// Copies to user memory; returns how many bytes at the end were not copied.
        fn rumpuser_copyout(source: &[u8], destination: usize) -> usize;
        /// Atomically loads an aligned `u32` from user memory.
        fn rumpuser_user_load(address: usize) -> Result<u32, $crate::user::Fault>;
        /// Atomically replaces `old` by `new` at an aligned user address; returns what was there.
        fn rumpuser_user_compare_exchange(address: usize, old: u32, new: u32) -> Result<u32, $crate::user::Fault>;
        /// Sets what resolves page faults taken by the four calls above: gets the address and whether
        /// it was a write; returns whether to try again. Called in thread context, may sleep.
        fn rumpuser_set_fault_handler(handler: fn(address: usize, write: bool) -> bool);
        /// Writes the calling thread's extended state (XSAVE format, standard form) to `area`; returns
        /// its length. With `area` too small (or empty), nothing is written.
        fn rumpuser_extended_state_save(context: &mut $crate::UserContext, area: &mut [u8]) -> usize;
        /// Loads the extended state that `save` wrote; sanitises what the CPU would refuse. An empty
        /// `area` loads the initial state.
        fn rumpuser_extended_state_load(context: &mut $crate::UserContext, area: &[u8]);

        // ---- programs in the kernel's mode
        /// Sets who handles traps of threads that have a pointer register ([`rumpuser_set_thread_pointer`]), and interrupts
        /// of those whose interrupt flag is set while they run on other stacks ([`rumpuser_set_trap_stack`]). It runs on
        /// the thread's kernel stack, with interrupts as they were; it must not sleep if the code is to go on, and returns
        /// whether it is, with the context as it is then.
        fn rumpuser_set_trap_handler(handler: fn(trap: &mut $crate::MachineTrap) -> bool);
        /// While the calling thread runs on another stack than its own, traps and interrupts use its own below `top`, and
        /// write nothing to the other. 0: it leaves its stack no more.
        fn rumpuser_set_trap_stack(top: usize);
        /// Writes the extended state of the code that trapped to `area` (as [`rumpuser_extended_state_save`]), in the
        /// handler, and leaves the initial state; returns its length. With `area` too small (or empty), nothing is done.
        fn rumpuser_trap_state_save(context: &$crate::UserContext, area: &mut [u8]) -> usize;
        /// Goes on in the kernel's mode with these registers and extended state; sanitises what the CPU would refuse.
        fn rumpuser_resume(context: &$crate::UserContext, area: &[u8]) -> !;
        /// Copies `length` bytes from one address to another, of which either may be bad; returns how many bytes at the end
        /// were not copied.
        fn rumpuser_copy_guarded(source: usize, destination: usize, length: usize) -> usize;

        // ---- console, entropy, machine
        /// Writes to the console.
        fn rumpuser_console_write(bytes: &[u8]);
        /// Writes whole lines of a trace: beside the console where the launcher listens, otherwise to the console.
        fn rumpuser_trace_write(lines: &str);
        /// Sets who gets console input; called in thread context.
        fn rumpuser_console_set_input(handler: fn(bytes: &[u8]));
        /// Fills `bytes` from the platform's entropy source.
        fn rumpuser_getrandom(bytes: &mut [u8]);
        /// Sets who hears of an orderly stop (the power button); called in thread context.
        fn rumpuser_set_stop_handler(handler: fn());
        /// Ends the machine.
        fn rumpuser_halt(how: $crate::Halt) -> !;
    } };
}

macro_rules! declare {
    (; $( $(#[$attribute:meta])* fn $name:ident ( $($argument:ident : $kind:ty),* ) $(-> $result:ty)? ; )*) => {
        unsafe extern "Rust" {
            $( $(#[$attribute])* #[link_name = concat!("rust_", stringify!($name))] pub safe fn $name($($argument: $kind),*) $(-> $result)?; )*
        }

        /// What a platform implements.
        pub trait Hypercalls {
            $( $(#[$attribute])* fn $name($($argument: $kind),*) $(-> $result)?; )*
        }
    };
}
with_hypercalls!(declare,);

/// Exports an implementation of [`Hypercalls`] as the platform of this program: `provide!(Type);`.
#[macro_export]
macro_rules! provide {
    ($platform:ty) => {
        const _: () = {
            extern crate alloc;
            $crate::with_hypercalls!($crate::provide_symbols, $platform);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! provide_symbols {
    ($platform:ty; $( $(#[$attribute:meta])* fn $name:ident ( $($argument:ident : $kind:ty),* ) $(-> $result:ty)? ; )*) => {
        $(
            #[unsafe(export_name = concat!("rust_", stringify!($name)))]
            extern "Rust" fn $name($($argument: $kind),*) $(-> $result)? {
                <$platform as $crate::Hypercalls>::$name($($argument),*)
            }
        )*
    };
}
