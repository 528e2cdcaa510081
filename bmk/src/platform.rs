//! What `bmk` asks of a platform (PC, Xen): the one place where the platform is chosen.

use alloc::vec::Vec;

/// A CPU as the platform numbers it (PC: the APIC identifier).
pub type HardwareCpu = u32;

/// A platform. Registered once by the kernel's entry point; calls come in the order of the methods.
pub trait Platform: Sync {
    /// Writes to the console, from the first instruction on and in a panic: no allocation, no sleeping.
    fn console_write(&self, bytes: &[u8]);

    /// Writes lines of a trace beside the console; false if nobody listens there.
    fn trace_write(&self, _bytes: &[u8]) -> bool {
        false
    }

    /// Finds the machine's parts (ACPI tables, interrupt controllers) once memory works. On the boot CPU.
    fn discover(&self, boot: &BootInformation);

    /// Text that the launcher adds to the command line by a way of the platform's own; called after `discover`.
    fn command_line(&self) -> Option<alloc::string::String> {
        None
    }

    /// Frequency of the time-stamp counter in Hz, from the best source there is; called once, after `discover`.
    fn tsc_frequency(&self) -> u64;

    /// Time of day from the hardware, nanoseconds since 1970.
    fn realtime(&self) -> u64;

    /// The CPUs that the machine has or may get, the boot CPU first.
    fn cpus(&self) -> Vec<HardwareCpu>;

    /// Whether a CPU is to run now.
    fn cpu_wanted(&self, _cpu: HardwareCpu) -> bool {
        true
    }

    /// Sets up the calling CPU's interrupt controller and timer.
    fn initialise_cpu(&self);

    /// Starts another CPU. One that rests goes on where it was, if it still can; else it begins as told.
    fn start_cpu(&self, cpu: HardwareCpu, start: &CpuStart);

    /// Rests the calling CPU until it is started again. Interrupts are disabled.
    fn rest_cpu(&self) {
        crate::machine::wait_for_interrupt();
    }

    /// A last look before the calling CPU halts: whether something waits that an interrupt should have told of. Then it has been
    /// seen to. Interrupts are disabled.
    fn look_before_halt(&self) -> bool {
        false
    }

    /// The calling CPU waits for another one, in a loop: the host may let that run in its place. Safe with interrupts disabled.
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Whether a CPU rests, and runs no instruction any more.
    fn cpu_rests(&self, _cpu: HardwareCpu) -> bool {
        false
    }

    /// Whether CPUs start in real mode, so that there must be a page for them.
    fn starts_in_real_mode(&self) -> bool {
        true
    }

    /// How long the host let a CPU wait that had work, in nanoseconds.
    fn stolen_time(&self, _cpu: HardwareCpu) -> u64 {
        0
    }

    /// Sends an interrupt to a CPU. Safe with interrupts disabled.
    fn send_interrupt(&self, cpu: HardwareCpu, vector: u8);

    /// Ends the interrupt in service on this CPU.
    fn end_of_interrupt(&self);

    /// Arms this CPU's one-shot timer to raise [`crate::platform::TIMER_VECTOR`] at a TSC value (at once if it
    /// has passed); `u64::MAX` disarms it.
    fn set_timer(&self, tsc: u64);

    /// Starts drivers, once threads run. In a thread of its own.
    fn start_devices(&self);

    /// Somebody takes console input from now on: time to tell whoever sends it.
    fn console_listens(&self) {}

    /// There is room for console input again (see [`crate::console::room`]).
    fn console_room(&self) {}

    /// Entropy: fills as much as the platform has; returns how many bytes.
    fn entropy(&self, bytes: &mut [u8]) -> usize;

    /// Tells the launcher that the kernel panicked; [`Platform::halt`] follows. Any context, no allocation.
    fn panicked(&self) {}

    /// Ends the machine.
    fn halt(&self, how: rumpuser::Halt) -> !;
}

/// Where another CPU begins: in real mode, or in 64-bit mode with registers of its own.
#[derive(Debug, Clone, Copy)]
pub struct CpuStart {
    /// The physical address, below 640 KiB, of a page with the real-mode code that goes on to `entry`.
    pub page: Option<u64>,
    /// The physical address of the top-level page table.
    pub tables: u64,
    /// The end of the stack.
    pub stack: u64,
    /// The code.
    pub entry: u64,
    /// Its argument, in RDI.
    pub argument: u64,
}

/// The vector of the per-CPU timer.
pub const TIMER_VECTOR: u8 = 0xf0;
/// The vector of "look at your run queue and your pending TLB flushes".
pub const WAKE_VECTOR: u8 = 0xf1;
/// Spurious interrupts of the local APIC.
pub const SPURIOUS_VECTOR: u8 = 0xff;
/// Vectors that drivers get, first and last.
pub const DEVICE_VECTORS: core::ops::RangeInclusive<u8> = 0x30..=0xef;

/// What the boot loader said.
#[derive(Debug, Clone, Default)]
pub struct BootInformation {
    /// Usable memory: (physical start, bytes), as the boot map has it.
    pub memory: Vec<(u64, u64)>,
    /// Physical address of the ACPI RSDP, if the loader gave it.
    pub rsdp: Option<u64>,
    /// The command line.
    pub command_line: alloc::string::String,
}

struct Registered(core::cell::UnsafeCell<Option<&'static dyn Platform>>);

// SAFETY: written once, by the boot CPU before anything else runs; read afterwards.
unsafe impl Sync for Registered {}

static REGISTERED: Registered = Registered(core::cell::UnsafeCell::new(None));

/// Sets the platform: the first thing that the boot does.
pub(crate) fn register(platform: &'static dyn Platform) {
    // SAFETY: nothing else runs yet.
    unsafe { *REGISTERED.0.get() = Some(platform) };
}

/// The platform.
#[inline]
pub fn platform() -> &'static dyn Platform {
    // SAFETY: not written any more.
    match unsafe { *REGISTERED.0.get() } {
        Some(platform) => platform,
        None => crate::machine::stop(),
    }
}
