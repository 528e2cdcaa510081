//! The end when the kernel is wrong: stops the other CPUs, reports, ends the machine.

use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
};

use rumpuser::Halt;

use crate::{
    console::Console,
    cpu, machine,
    memory::layout,
    platform::{WAKE_VECTOR, platform},
    trap::frame::KernelFrame,
};

/// The status of a machine that panicked.
pub const STATUS: u8 = 255;

/// Set: every CPU that looks stops.
pub(crate) static STOPPING: AtomicBool = AtomicBool::new(false);
static SYMBOLS: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static SYMBOLS_LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Gives the panic the kernel's symbol table (`image::symbols`).
pub fn set_symbols(table: &'static [u8]) {
    SYMBOLS_LENGTH.store(table.len(), Ordering::Relaxed);
    SYMBOLS.store(table.as_ptr().cast_mut(), Ordering::Release);
}

fn symbols() -> &'static [u8] {
    let start = SYMBOLS.load(Ordering::Acquire);
    if start.is_null() {
        return &[];
    }
    // SAFETY: `set_symbols` stored the parts of a static slice.
    unsafe { core::slice::from_raw_parts(start, SYMBOLS_LENGTH.load(Ordering::Relaxed)) }
}

/// Stops this CPU if another panics.
pub fn stop_if_asked() {
    if STOPPING.load(Ordering::Relaxed) {
        machine::stop();
    }
}

/// A Rust panic.
pub fn rust(information: &core::panic::PanicInfo) -> ! {
    let frame: u64;
    // SAFETY: reads the frame pointer.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    match information.location() {
        Some(at) => {
            report(format_args!("{} ({}:{})", information.message(), at.file(), at.line()), None, frame)
        }
        None => report(format_args!("{}", information.message()), None, frame),
    }
}

/// A trap that the kernel can't handle.
pub fn trap(frame: &KernelFrame, what: fmt::Arguments) -> ! {
    report(what, Some(frame), frame.rbp)
}

fn report(what: fmt::Arguments, frame: Option<&KernelFrame>, base: u64) -> ! {
    machine::cli();
    if STOPPING.swap(true, Ordering::SeqCst) {
        // Another CPU reports, or the report itself failed.
        if cpu::number() == REPORTING.load(Ordering::Relaxed) {
            platform().console_write(b"\npanic while reporting a panic\n");
            platform().halt(Halt::PowerOff(STATUS));
        }
        machine::stop();
    }
    REPORTING.store(cpu::number(), Ordering::Relaxed);
    for other in cpu::all().filter(|other| other.number != cpu::number()) {
        platform().send_interrupt(other.hardware, WAKE_VECTOR);
    }
    let current = cpu::current().current.get();
    // SAFETY: null before the scheduler starts, else a live thread.
    let (name, number) =
        unsafe { current.as_ref() }.map_or(("boot", 0), |thread| (thread.name.as_str(), thread.number()));
    let mut out = Console;
    let _ = writeln!(out, "\nkernel panic: {what}");
    let _ = writeln!(out, "CPU {}, thread {number} \"{name}\"", cpu::number());
    if let Some(frame) = frame {
        registers(&mut out, frame);
        let _ = writeln!(out, "  at {}", Address(frame.rip));
    }
    backtrace(&mut out, base);
    platform().panicked();
    platform().halt(Halt::PowerOff(STATUS))
}

static REPORTING: AtomicUsize = AtomicUsize::new(usize::MAX);

fn registers(out: &mut Console, frame: &KernelFrame) {
    let _ = writeln!(
        out,
        "rip {:016x}  rsp {:016x}  rflags {:08x}\nrax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}\n\
         rsi {:016x}  rdi {:016x}  rbp {:016x}  r8  {:016x}\nr9  {:016x}  r10 {:016x}  r11 {:016x}  r12 {:016x}\n\
         r13 {:016x}  r14 {:016x}  r15 {:016x}  cr2 {:016x}",
        frame.rip,
        frame.rsp,
        frame.rflags,
        frame.rax,
        frame.rbx,
        frame.rcx,
        frame.rdx,
        frame.rsi,
        frame.rdi,
        frame.rbp,
        frame.r8,
        frame.r9,
        frame.r10,
        frame.r11,
        frame.r12,
        frame.r13,
        frame.r14,
        frame.r15,
        machine::cr2(),
    );
}

/// A code address with its symbol.
struct Address(u64);

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match image::symbols::find(symbols(), self.0) {
            Some((name, offset)) => write!(formatter, "{:016x} {name}+{offset:#x}", self.0),
            None => write!(formatter, "{:016x}", self.0),
        }
    }
}

/// Whether there is something at an address, in what the CPU has loaded: a stack of the kernel's or of a program's.
fn is_mapped(address: usize) -> bool {
    // SAFETY: the tables that the CPU has loaded.
    let mut current = unsafe { layout::table(machine::cr3()) };
    let canonical = (address << 16) as isize >> 16 == address as isize;
    for level in (0..4).rev() {
        let value = current[layout::index(address, level)].load(Ordering::Relaxed);
        if !canonical || value & layout::entry::PRESENT == 0 {
            return false;
        }
        if level == 0 || value & layout::entry::LARGE != 0 {
            break;
        }
        // SAFETY: as above.
        current = unsafe { layout::table(value) };
    }
    true
}

fn backtrace(out: &mut Console, mut base: u64) {
    for _ in 0..32 {
        let address = base as usize;
        if !address.is_multiple_of(16) || !is_mapped(address) {
            break;
        }
        // SAFETY: the address is mapped: the caller's frame pointer and the return address, if it is a frame pointer.
        let [next, back] = unsafe { *(address as *const [u64; 2]) };
        if !(layout::KERNEL_BASE as u64..u64::MAX).contains(&back) {
            break;
        }
        let _ = writeln!(out, "  by {}", Address(back - 1));
        if next <= base {
            break;
        }
        base = next;
    }
}
