//! Per-CPU data, reached through the GS base while the kernel runs, and the CPU's own tables (GDT, TSS).

use alloc::boxed::Box;
use core::{
    arch::asm,
    cell::{Cell, UnsafeCell},
    mem::offset_of,
    ptr::{null, null_mut},
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use rumpuser::{CpuSet, OutOfMemory};

use crate::{
    machine,
    memory::{frames::FrameCache, heap::HeapCache, shootdown, stack},
    platform::HardwareCpu,
    schedule::{self, thread::Thread},
    trap,
};

/// The most CPUs there can be.
pub const MAXIMUM: usize = 64;

/// Kernel code. The selectors are those of Linux, as programs look at them; `syscall` and `sysret` want the order.
pub const KERNEL_CODE: u16 = 0x10;
/// Kernel data selector.
pub const KERNEL_DATA: u16 = 0x18;
/// What `sysret` counts from. Linux has 32-bit user code there; here it is a null descriptor.
pub const USER_BASE: u16 = 0x23;
/// User data selector.
pub const USER_DATA: u16 = 0x2b;
/// User code selector.
pub const USER_CODE: u16 = 0x33;
const TASK: u16 = 0x38;
const DESCRIPTORS: usize = 9;
/// Bytes for the report of a fault that the kernel doesn't survive.
const FATAL_STACK: u64 = 24 << 10;
/// Which of the interrupt stacks that is.
const FATAL_ENTRY: usize = 2;
/// Bytes for an entry.
const ENTRY_STACK: u64 = 2 << 10;
const _: () = assert!(FATAL_STACK + 4 * ENTRY_STACK <= stack::SIZE as u64);

/// The task state segment (SDM volume 3, section 8.7): only its stacks matter.
#[repr(C, packed(4))]
struct TaskState {
    reserved: u32,
    privilege_stacks: [u64; 3],
    reserved2: u64,
    interrupt_stacks: [u64; 7],
    reserved3: u64,
    reserved4: u16,
    io_map: u16,
}

/// A CPU. The assembly code uses the fields in front, by the offsets below.
#[repr(C, align(64))]
pub struct Cpu {
    this: Cell<*const Cpu>,
    /// The running thread's pointer for the component; code in C reads it here too.
    curlwp: AtomicPtr<()>,
    /// The running thread.
    pub current: Cell<*const Thread>,
    /// The kernel stack pointer to go back to on an entry from user mode.
    kernel_stack: Cell<u64>,
    /// The running thread's user context.
    context: Cell<u64>,
    /// A word for the entry code.
    scratch: Cell<u64>,
    /// The running thread's answers to constant calls; set before user mode is entered.
    pub constants: Cell<*const trap::constant::Table>,
    /// Not 0: the thread keeps the CPU.
    pub preempt_count: AtomicU32,
    /// Not 0: look at the run queue soon.
    pub reschedule: AtomicU32,
    /// Its number.
    pub number: usize,
    /// Its number to the platform.
    pub hardware: HardwareCpu,
    /// What FS and the user's GS base registers hold.
    pub loaded_fs: Cell<u64>,
    /// See `loaded_fs`.
    pub loaded_gs: Cell<u64>,
    /// Whose extended state the registers hold.
    pub extended_owner: Cell<*const Thread>,
    /// Frames kept.
    pub frame_cache: FrameCache,
    /// Heap objects kept.
    pub heap_cache: HeapCache,
    /// TLB shootdown requests.
    pub shootdown: shootdown::Slot,
    /// The scheduler's part.
    pub scheduler: schedule::CpuScheduler,
    /// Interrupts by vector; written by the CPU alone.
    pub interrupts: [AtomicU64; 256],
    gdt: UnsafeCell<[u64; DESCRIPTORS]>,
    task: UnsafeCell<TaskState>,
}

/// Offset of the component's pointer. NetBSD's components are built to find it here (RUMP_CURLWP_GS).
const CURLWP: usize = offset_of!(Cpu, curlwp);
const _: () = assert!(CURLWP == 8);
/// Offset of [`Cpu::current`].
pub const CURRENT: usize = offset_of!(Cpu, current);
/// Offset of the kernel stack pointer.
pub const KERNEL_STACK: usize = offset_of!(Cpu, kernel_stack);
/// Offset of the context pointer.
pub const CONTEXT: usize = offset_of!(Cpu, context);
/// Offset of the scratch word.
pub const SCRATCH: usize = offset_of!(Cpu, scratch);
/// Offset of the constant calls.
pub const CONSTANTS: usize = offset_of!(Cpu, constants);
/// Offset of the preemption count.
pub const PREEMPT_COUNT: usize = offset_of!(Cpu, preempt_count);
/// Offset of the reschedule flag.
pub const RESCHEDULE: usize = offset_of!(Cpu, reschedule);
const NUMBER: usize = offset_of!(Cpu, number);

// SAFETY: the cells are used by their own CPU only, with preemption or interrupts disabled.
unsafe impl Sync for Cpu {}

impl Cpu {
    /// The thread that is switched to. Interrupts are disabled.
    pub fn set_current(&self, thread: &Thread) {
        self.current.set(thread);
        self.curlwp.store(thread.curlwp.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    const fn new(number: usize, hardware: HardwareCpu) -> Self {
        Cpu {
            this: Cell::new(null()),
            curlwp: AtomicPtr::new(null_mut()),
            current: Cell::new(null()),
            kernel_stack: Cell::new(0),
            context: Cell::new(0),
            scratch: Cell::new(0),
            constants: Cell::new(null()),
            preempt_count: AtomicU32::new(0),
            reschedule: AtomicU32::new(0),
            number,
            hardware,
            loaded_fs: Cell::new(u64::MAX >> 1),
            loaded_gs: Cell::new(u64::MAX >> 1),
            extended_owner: Cell::new(null()),
            frame_cache: FrameCache::new(),
            heap_cache: HeapCache::new(),
            shootdown: shootdown::Slot::new(),
            scheduler: schedule::CpuScheduler::new(),
            interrupts: [const { AtomicU64::new(0) }; 256],
            gdt: UnsafeCell::new([
                0,
                0,
                0x00af_9b00_0000_ffff,
                0x00cf_9300_0000_ffff,
                0,
                0x00cf_f300_0000_ffff,
                0x00af_fb00_0000_ffff,
                0,
                0,
            ]),
            task: UnsafeCell::new(TaskState {
                reserved: 0,
                privilege_stacks: [0; 3],
                reserved2: 0,
                interrupt_stacks: [0; 7],
                reserved3: 0,
                reserved4: 0,
                io_map: size_of::<TaskState>() as u16,
            }),
        }
    }
}

static BOOT: Cpu = Cpu::new(0, 0);
static CPUS: [AtomicPtr<Cpu>; MAXIMUM] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAXIMUM];
static COUNT: AtomicUsize = AtomicUsize::new(1);
static POSSIBLE: AtomicUsize = AtomicUsize::new(1);
static ONLINE: AtomicU64 = AtomicU64::new(1);
static BOOT_HARDWARE: AtomicU32 = AtomicU32::new(0);

/// Gives the boot CPU its data: the first thing that happens.
pub fn initialise_boot() {
    register(&BOOT);
    use_here(&BOOT);
}

/// Notes the boot CPU's hardware number.
pub fn set_boot_hardware(hardware: HardwareCpu) {
    BOOT_HARDWARE.store(hardware, Ordering::Relaxed);
}

/// Notes how many CPUs there may be.
pub fn set_possible(count: usize) {
    POSSIBLE.store(count.clamp(1, MAXIMUM), Ordering::Relaxed);
}

/// How many CPUs there may be; their numbers are below this.
pub fn possible() -> usize {
    POSSIBLE.load(Ordering::Relaxed)
}

/// Makes the data of another CPU.
pub fn create(number: usize, hardware: HardwareCpu) -> &'static Cpu {
    let cpu = Box::leak(Box::new(Cpu::new(number, hardware)));
    register(cpu);
    cpu
}

fn register(cpu: &'static Cpu) {
    CPUS[cpu.number].store(core::ptr::from_ref(cpu).cast_mut(), Ordering::Release);
}

/// Points the calling CPU's GS at its data.
pub fn use_here(cpu: &'static Cpu) {
    cpu.this.set(cpu);
    // SAFETY: GS is the kernel's to use; the user's starts at 0.
    unsafe {
        machine::wrmsr(machine::MSR_GS_BASE, core::ptr::from_ref(cpu) as u64);
        machine::wrmsr(machine::MSR_KERNEL_GS_BASE, 0);
    }
}

/// The calling CPU. Meaningful only while the caller cannot move to another.
#[inline(always)]
pub fn current() -> &'static Cpu {
    let pointer: *const Cpu;
    // SAFETY: GS:0 holds the pointer that `use_here` put there, to data that is never freed.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) pointer, options(nostack, preserves_flags, readonly, pure));
        &*pointer
    }
}

/// The running thread; safe to ask at any time, as a thread sees itself wherever it runs.
#[inline(always)]
pub fn current_thread() -> &'static Thread {
    let pointer: *const Thread;
    // SAFETY: one instruction, so it cannot mix two CPUs; a running thread lives.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) pointer, const CURRENT, options(nostack, preserves_flags, readonly, pure));
        &*pointer
    }
}

/// The running thread's pointer for the component.
#[inline(always)]
pub fn curlwp() -> *mut () {
    let pointer;
    // SAFETY: as above.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) pointer, const CURLWP, options(nostack, preserves_flags, readonly, pure));
    }
    pointer
}

/// Sets [`curlwp`].
pub fn set_curlwp(pointer: *mut ()) {
    // First where the switch to a thread takes it from, since this one may be switched in between.
    current_thread().curlwp.store(pointer, Ordering::Relaxed);
    // SAFETY: one instruction, which writes a word that holds nothing else.
    unsafe { asm!("mov gs:[{}], {}", const CURLWP, in(reg) pointer, options(nostack, preserves_flags)) };
}

/// The number of the calling CPU.
#[inline(always)]
pub fn number() -> usize {
    let number;
    // SAFETY: reads a per-CPU word.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) number, const NUMBER, options(nostack, preserves_flags, readonly))
    };
    number
}

/// A CPU by its number.
#[inline]
pub fn get(number: usize) -> Option<&'static Cpu> {
    let pointer = CPUS.get(number)?.load(Ordering::Acquire);
    // SAFETY: registered CPUs are never freed.
    unsafe { pointer.as_ref() }
}

/// Every CPU that has data.
pub fn all() -> impl Iterator<Item = &'static Cpu> {
    (0..possible()).filter_map(get)
}

/// The platform's number of a CPU.
pub fn hardware_of(cpu: usize) -> HardwareCpu {
    if cpu == 0 { BOOT_HARDWARE.load(Ordering::Relaxed) } else { get(cpu).map_or(0, |cpu| cpu.hardware) }
}

/// How many CPUs run.
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// The CPUs that run.
pub fn online() -> CpuSet {
    ONLINE.load(Ordering::SeqCst)
}

/// Notes that a CPU runs.
pub fn set_online(cpu: &Cpu) {
    ONLINE.fetch_or(1 << cpu.number, Ordering::SeqCst);
    COUNT.fetch_add(1, Ordering::SeqCst);
}

/// Notes that a CPU is to run nothing any more.
pub fn set_offline(cpu: &Cpu) {
    ONLINE.fetch_and(!(1 << cpu.number), Ordering::SeqCst);
    COUNT.fetch_sub(1, Ordering::SeqCst);
}

/// Loads the calling CPU's tables and control registers; `cpu` is the caller. A CPU that lost them may do it again.
pub fn initialise_tables(cpu: &'static Cpu) -> Result<(), OutOfMemory> {
    let task = cpu.task.get();
    // SAFETY: the CPU sets up its own tables, with interrupts disabled; the stacks are never freed.
    unsafe {
        // One stack in parts: most for faults that the kernel may not survive, little for entries that only push a frame
        // and move on.
        let top = match (*task).interrupt_stacks[FATAL_ENTRY] {
            0 => stack::allocate()? as u64,
            top => top,
        };
        let small = |number| top - FATAL_STACK - number * ENTRY_STACK;
        (*task).privilege_stacks[0] = small(0);
        (*task).interrupt_stacks = [small(1), small(2), top, top, small(3), top, 0];
        let gdt = cpu.gdt.get();
        let base = task as u64;
        (*gdt)[7] = (size_of::<TaskState>() as u64 - 1)
            | (base & 0xff_ffff) << 16
            | 0x89 << 40
            | (base >> 24 & 0xff) << 56;
        (*gdt)[8] = base >> 32;
        let pointer =
            DescriptorTable { limit: (size_of::<[u64; DESCRIPTORS]>() - 1) as u16, base: gdt as u64 };
        asm!(
            "lgdt [{pointer}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "ltr {task:x}",
            pointer = in(reg) &raw const pointer,
            code = in(reg) u64::from(KERNEL_CODE),
            data = in(reg) u32::from(KERNEL_DATA),
            task = in(reg) TASK,
            scratch = out(reg) _,
        );
    }
    trap::load();
    Ok(())
}

/// What `lgdt` and `lidt` take.
#[repr(C, packed)]
pub struct DescriptorTable {
    /// Bytes less one.
    pub limit: u16,
    /// Linear address.
    pub base: u64,
}

/// Restores the interrupt state, without a look at the run queue.
#[inline]
pub fn restore_flags(state: usize) {
    if state as u64 & machine::FLAG_INTERRUPT != 0 {
        machine::interrupts_enable();
    }
}
