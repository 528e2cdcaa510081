//! The processor's traps of programs, as signals; and interrupts of programs, for which there are signals. What traps in the
//! kernel's components, or in the platform, is left to the platform, which panics.

use core::sync::atomic::Ordering;

use rumpuser::{MachineTrap, Protection, memory::USER_END, rumpuser_copy_guarded};

use super::{
    deliver::{self, Cause},
    lwp::{self, Lwp},
    memory::{self, Touch},
    process,
    signal::{self, DEFAULT, IGNORE},
};

/// `SIGILL`, `SIGTRAP`, `SIGFPE`, `SIGKILL`, `SIGBUS`, `SIGSEGV`.
const ILL: usize = 4;
const TRAP: usize = 5;
const FPE: usize = 8;
const KILL: usize = 9;
const BUS: usize = 10;
const SEGV: usize = 11;
/// Vectors (Intel SDM volume 3, table 6-1).
const BREAKPOINT: u8 = 3;
const PAGE_FAULT: u8 = 14;
const X87: u8 = 16;
const SIMD: u8 = 19;
const FIRST_INTERRUPT: u8 = 32;
/// Bits of a page fault's error: it was a write; an instruction was fetched.
const WRITE: u64 = 2;
const FETCH: u64 = 16;

core::arch::global_asm!(
    ".pushsection .data.rel.ro.weak, \"aw\", @progbits",
    ".balign 8",
    ".weak netbsd_user_start, netbsd_user_end, netbsd_memory_start, netbsd_memory_end",
    ".global netbsd_code",
    "netbsd_code: .quad netbsd_user_start, netbsd_user_end, netbsd_memory_start, netbsd_memory_end",
    ".popsection",
);

/// Whose code an address is in.
#[derive(PartialEq, Eq)]
enum Code {
    /// Programs' and their libraries'.
    Program,
    /// The functions of memory (`memcpy`), which all have in common; they call nothing.
    Common,
    /// The kernel's.
    Kernel,
}

fn code_at(address: u64) -> Code {
    unsafe extern "C" {
        static netbsd_code: [u64; 4];
    }
    // SAFETY: the words stand above, are filled in by the linker and never written.
    let [start, end, common_start, common_end] = unsafe { netbsd_code };
    if (start..end).contains(&address) || address < USER_END as u64 {
        Code::Program
    } else if (common_start..common_end).contains(&address) {
        Code::Common
    } else {
        Code::Kernel
    }
}

/// Whether a program runs there, and not the kernel on its behalf.
fn is_program(trap: &MachineTrap) -> bool {
    let registers = &trap.context.registers;
    let fetched = trap.vector == PAGE_FAULT && trap.error & FETCH != 0;
    match code_at(registers.rip) {
        Code::Program if !fetched => true,
        Code::Kernel if !fetched => false,
        // Who called has left its address.
        _ => {
            let mut caller = 0u64;
            let place = (&raw mut caller) as usize;
            rumpuser_copy_guarded(registers.rsp as usize, place, size_of::<u64>()) == 0
                && caller >= memory::FIRST as u64
                && code_at(caller) == Code::Program
        }
    }
}

/// The signal of a trap, as `<sys/siginfo.h>` and `<machine/trap.h>` have it: number, code, and the trap's number there.
fn signal_of(trap: &MachineTrap, present: bool) -> Option<(usize, i32, i32)> {
    Some(match trap.vector {
        // FPE_INTDIV
        0 => (FPE, 1, 8),
        // TRAP_BRKPT
        BREAKPOINT => (TRAP, 1, 1),
        // FPE_INTOVF, FPE_FLTSUB
        4 => (FPE, 2, 10),
        5 => (FPE, 8, 11),
        // ILL_ILLOPC
        6 => (ILL, 1, 0),
        // BUS_OBJERR, BUS_ADRERR
        10 => (BUS, 3, 15),
        11 => (BUS, 2, 16),
        12 => (BUS, 2, 17),
        // An address that is none, or an instruction that isn't for programs: SEGV_ACCERR.
        13 => (SEGV, 2, 4),
        // SEGV_ACCERR, SEGV_MAPERR
        PAGE_FAULT => (SEGV, if present { 2 } else { 1 }, 6),
        X87 => (FPE, 7, 2),
        // BUS_ADRALN
        17 => (BUS, 1, 7),
        SIMD => (FPE, 7, 19),
        _ => return None,
    })
}

/// What kind of exception floating-point arithmetic raised, from its flags: FPE_FLTINV, FPE_FLTDIV, FPE_FLTOVF, FPE_FLTUND,
/// FPE_FLTRES.
fn float_code(flags: u32) -> i32 {
    match flags {
        flags if flags & 1 != 0 => 7,
        flags if flags & 4 != 0 => 3,
        flags if flags & 8 != 0 => 4,
        flags if flags & 0x12 != 0 => 5,
        flags if flags & 0x20 != 0 => 6,
        _ => 7,
    }
}

/// The flags of exceptions that aren't masked, of x87 and of SSE; in the handler, whose registers they still are.
fn float_flags() -> (u32, u32) {
    let (mut status, mut control, mut mxcsr) = (0u16, 0u16, 0u32);
    // SAFETY: stores to the three places; nothing waits for x87.
    unsafe {
        core::arch::asm!("fnstsw [{}]", "fnstcw [{}]", "stmxcsr [{}]", in(reg) &raw mut status, in(reg) &raw mut control, in(reg) &raw mut mxcsr, options(nostack, preserves_flags));
    }
    (u32::from(status & !control) & 0x3f, mxcsr & !(mxcsr >> 7) & 0x3f)
}

/// The handler of traps (`rumpuser_set_trap_handler`).
pub fn handle(trap: &mut MachineTrap) -> bool {
    if trap.vector >= FIRST_INTERRUPT {
        return lwp::current().is_some_and(|lwp| interrupted(lwp, trap));
    }
    let mut memory = Touch::Absent;
    if trap.vector == PAGE_FAULT {
        let wanted = match trap.error {
            error if error & FETCH != 0 => Protection::EXECUTE,
            error if error & WRITE != 0 => Protection::WRITE,
            _ => Protection::READ,
        };
        memory = memory::fault(trap.address, wanted, trap.context.registers.rsp as usize);
        if memory == Touch::Done {
            return true;
        }
    }
    if trap.guarded || !is_program(trap) {
        return false;
    }
    let Some(lwp) = lwp::current() else { return false };
    if memory == Touch::NoMemory {
        process::end_by_trap(KILL as u8, "no memory for a page at its first use", trap);
    }
    let Some((number, mut code, kind)) = signal_of(trap, memory == Touch::Forbidden) else { return false };
    let (x87, simd) = float_flags();
    let address = match trap.vector {
        PAGE_FAULT => trap.address,
        _ => trap.context.registers.rip as usize,
    };
    match trap.vector {
        X87 => code = float_code(x87),
        SIMD => code = float_code(simd),
        _ => {}
    }
    let action = signal::action(number, true);
    let held = lwp.blocked[0].load(Ordering::SeqCst) & 1 << number != 0;
    let cause = Cause { number, code, address, kind, error: trap.error };
    if held || matches!(action.handler(), DEFAULT | IGNORE) || !deliver::enter(lwp, trap, &action, &cause) {
        process::end_by_trap(number as u8, name(number), trap);
    }
    true
}

fn name(number: usize) -> &'static str {
    match number {
        ILL => "illegal instruction",
        TRAP => "trace trap",
        FPE => "arithmetic exception",
        BUS => "bus error",
        _ => "memory fault",
    }
}

/// An interrupt of a thread for which there may be signals: a program gets them at once; in the kernel, they wait.
fn interrupted(lwp: &Lwp, trap: &mut MachineTrap) -> bool {
    if !is_program(trap) {
        return false;
    }
    rumpuser::rumpuser_clear_interrupt();
    let mut changed = false;
    while let Some(number) = signal::take_open(lwp) {
        let action = signal::action(number, true);
        if action.ignores(number) {
            continue;
        }
        let cause = signal::cause(lwp, number);
        if action.handler() == DEFAULT || !deliver::enter(lwp, trap, &action, &cause) {
            process::end_by_signal(number as u8);
        }
        changed = true;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_told_apart() {
        assert_eq!([1, 4, 8, 0x10, 2, 0x20, 0x24].map(float_code), [7, 3, 4, 5, 5, 6, 3]);
    }
}
