//! Starting the other CPUs.

use core::sync::atomic::{AtomicU64, Ordering};

use rumpuser::OutOfMemory;

use crate::{
    boot::{Image, loader::Loaded},
    clock,
    cpu::{self, Cpu},
    machine,
    memory::{kernel_map, layout, stack},
    message,
    platform::{CpuStart, HardwareCpu, platform},
    schedule, trap,
};

/// The words behind the trampoline's code, as kernel/src/boot.rs lays them out.
#[repr(C)]
pub struct TrampolineWords {
    far32: [u32; 2],
    far64: [u32; 2],
    gdtr: u64,
    cr3: u64,
    stack: u64,
    entry: u64,
    argument: u64,
}

/// How long a CPU may take to come up.
const PATIENCE: u64 = 2_000_000_000;
/// The number of the CPU that has come up last.
static ARRIVED: AtomicU64 = AtomicU64::new(0);

/// Turns on the features that every CPU should have: global pages, SMEP, no user access to FS and GS bases (so
/// that they change by system call only, and entries need not save them), the CPU's number for user code.
pub fn enable_features() {
    let mut value = machine::cr4() | 1 << 7;
    if machine::cpuid(0, 0)[0] >= 7 && machine::cpuid(7, 0)[1] & 1 << 7 != 0 {
        value |= 1 << 20;
    }
    // SAFETY: global pages are set up; user pages are never executed by the kernel.
    unsafe { machine::set_cr4(value & !(1 << 16)) };
    if machine::has_rdtscp() {
        // SAFETY: nothing but `rdtscp` looks at it.
        unsafe { machine::wrmsr(machine::MSR_TSC_AUX, cpu::number() as u64) };
    }
}

/// Starts the CPUs of `others`, one after the other.
pub fn start(image: &Image, loaded: &Loaded, others: &[HardwareCpu]) {
    if others.is_empty() {
        return;
    }
    let page = loaded.low_page().filter(|_| platform().starts_in_real_mode());
    if page.is_none() && platform().starts_in_real_mode() {
        message!("one CPU only: no memory below 640 KiB to start others from");
        return;
    }
    // The boot tables, which map low memory to itself, with the kernel's half as it is now.
    let tables = layout::physical(image.boot_tables);
    // SAFETY: both are top-level tables that live for ever; nobody uses the first any more.
    let (boot, kernel) = unsafe { (layout::table(tables), layout::table(kernel_map::root())) };
    for (boot, kernel) in boot.iter().zip(kernel).skip(256) {
        boot.store(kernel.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    cpu::set_possible(others.len() + 1);
    for (index, &hardware) in others.iter().take(cpu::MAXIMUM - 1).enumerate() {
        let number = index + 1;
        if !platform().cpu_wanted(hardware) {
            continue;
        }
        let started = prepare(number, hardware, tables, page).is_ok_and(|(new, start)| {
            if let Some(page) = page {
                write_trampoline(image, page, &start);
            }
            bring_up(new, &start)
        });
        if !started {
            message!("CPU {number} (number {hardware} to the hardware) doesn't start");
            cpu::set_possible(number);
            return;
        }
    }
}

/// What a CPU needs to start, or to start anew.
pub fn prepare(
    number: usize,
    hardware: HardwareCpu,
    tables: u64,
    page: Option<u64>,
) -> Result<(&'static Cpu, CpuStart), OutOfMemory> {
    let known = cpu::get(number);
    let stack = match known.and_then(schedule::idle_of) {
        Some(idle) => idle.stack_top,
        None => stack::allocate()?,
    };
    let cpu = known.unwrap_or_else(|| cpu::create(number, hardware));
    let entry = arrive as *const () as u64;
    Ok((
        cpu,
        CpuStart { page, tables, stack: stack as u64, entry, argument: core::ptr::from_ref(cpu) as u64 },
    ))
}

/// Starts a CPU; returns whether it came. One at a time.
pub fn bring_up(cpu: &Cpu, start: &CpuStart) -> bool {
    STACK.store(start.stack, Ordering::SeqCst);
    ARRIVED.store(0, Ordering::SeqCst);
    platform().start_cpu(cpu.hardware, start);
    let end = clock::now() + PATIENCE;
    while ARRIVED.load(Ordering::SeqCst) != cpu.number as u64 {
        if clock::now() > end {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Puts the real-mode code into its page, for one CPU.
fn write_trampoline(image: &Image, page: u64, start: &CpuStart) {
    let (code, words_at) = image.trampoline;
    let place = layout::direct(page);
    // SAFETY: the page is usable memory below 1 MiB, which the allocator doesn't own, in the direct map.
    let words = unsafe {
        core::ptr::copy_nonoverlapping(code.as_ptr(), place as *mut u8, code.len());
        &mut *((place + words_at) as *mut TrampolineWords)
    };
    words.far32[0] += page as u32;
    words.far64[0] += page as u32;
    // SAFETY: the offset of the pseudo-descriptor's base, inside the page.
    unsafe {
        let base = (place + words.gdtr as usize + 2) as *mut u32;
        base.write_unaligned(base.read_unaligned() + page as u32);
    }
    words.cr3 = start.tables;
    words.stack = start.stack;
    words.entry = start.entry;
    words.argument = start.argument;
}

/// The stack of the CPU that is coming up.
static STACK: AtomicU64 = AtomicU64::new(0);

/// The first Rust code of another CPU.
extern "sysv64" fn arrive(this: &'static Cpu) -> ! {
    // SAFETY: the kernel's tables map all that the trampoline's did, but the identity.
    unsafe {
        machine::set_cr3(kernel_map::root());
    }
    cpu::use_here(this);
    enable_features();
    let stack = STACK.load(Ordering::SeqCst) as usize;
    if cpu::initialise_tables(this).is_err() {
        machine::stop();
    }
    trap::extended::initialise();
    platform().initialise_cpu();
    schedule::adopt(this, stack);
    arrived(this);
    schedule::idle::run()
}

/// The calling CPU is up.
pub fn arrived(this: &Cpu) {
    // It may take part in changes of the kernel's mappings from here on, and holds none that are old.
    cpu::set_online(this);
    machine::flush_tlb_global();
    ARRIVED.store(this.number as u64, Ordering::SeqCst);
}
