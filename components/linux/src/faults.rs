//! Traps of user code that are no system calls: page faults and exceptions become memory or signals.

use core::sync::atomic::Ordering;

use rumpkern::Errno;

use crate::{
    oom,
    signal::{SignalInfo, deliver, frame::TrapDetails, number::*, send},
    space::FaultError,
    task::Task,
};

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRALN: i32 = 1;
const BUS_ADRERR: i32 = 2;
const FPE_INTDIV: i32 = 1;
const FPE_INTOVF: i32 = 2;
const ILL_ILLOPN: i32 = 2;
const TRAP_BRKPT: i32 = 1;
const TRAP_TRACE: i32 = 2;

const VECTOR_PAGE_FAULT: u8 = 14;

/// Serves a page fault. Returns whether the task goes on.
pub fn page_fault(task: &Task, address: usize, write: bool, execute: bool, present: bool) -> bool {
    let Some(space) = task.process().space() else { return false };
    let mut tries = 0;
    let error = loop {
        match space.fault(address, write, execute) {
            Ok(()) => {
                task.process().faults.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            Err(FaultError::OutOfMemory) if oom::relieve(task, &mut tries) => {}
            Err(FaultError::OutOfMemory) => return deliver::serve(task, None, TrapDetails::default()),
            Err(error) => break error,
        }
    };
    let (signal, code) = match error {
        FaultError::NotMapped => (SIGSEGV, SEGV_MAPERR),
        FaultError::Protection => (SIGSEGV, SEGV_ACCERR),
        _ => (SIGBUS, BUS_ADRERR),
    };
    // Bits of the CPU's error code: present, write, user, instruction fetch.
    let bits = u64::from(present) | u64::from(write) << 1 | 4 | u64::from(execute) << 4;
    let trap = TrapDetails { vector: u64::from(VECTOR_PAGE_FAULT), error: bits, address: address as u64 };
    send::force(task, SignalInfo::fault(signal, code, address));
    deliver::serve(task, None, trap)
}

/// Serves an exception. Returns whether the task goes on.
pub fn exception(task: &Task, vector: u8, error: u64) -> bool {
    let rip = task.with_context(|context| context.registers.rip) as usize;
    let info = match vector {
        0 => SignalInfo::fault(SIGFPE, FPE_INTDIV, rip),
        1 => SignalInfo::fault(SIGTRAP, TRAP_TRACE, rip),
        3 => SignalInfo { code: SignalInfo::SI_KERNEL, ..SignalInfo::fault(SIGTRAP, TRAP_BRKPT, 0) },
        4 => SignalInfo::fault(SIGFPE, FPE_INTOVF, rip),
        6 => SignalInfo::fault(SIGILL, ILL_ILLOPN, rip),
        16 | 19 => SignalInfo::fault(SIGFPE, floating_point_code(task, vector), rip),
        17 => SignalInfo::fault(SIGBUS, BUS_ADRALN, 0),
        // General protection and the rest: no address is known.
        _ => SignalInfo::kernel(SIGSEGV),
    };
    send::force(task, info);
    deliver::serve(task, None, TrapDetails { vector: u64::from(vector), error, address: 0 })
}

/// The `FPE_*` code of an x87 or SSE exception: the first unmasked flag, in Linux's order.
fn floating_point_code(task: &Task, vector: u8) -> i32 {
    let state = task.with_context(crate::signal::frame::extended_state);
    let word = |at: usize| state.get(at..at + 2).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let flags = if vector == 16 {
        // x87 control and status words.
        word(2) & !word(0)
    } else {
        // MXCSR: flags in bits 0 to 5, masks in bits 7 to 12.
        word(24) & !(word(24) >> 7)
    };
    match flags {
        flags if flags & 0x01 != 0 => 7,
        flags if flags & 0x04 != 0 => 3,
        flags if flags & 0x08 != 0 => 4,
        flags if flags & 0x12 != 0 => 5,
        flags if flags & 0x20 != 0 => 6,
        _ => 0,
    }
}

/// Behind `rumpuser_set_fault_handler`: a page fault in copyin or copyout. Returns whether to try again.
pub fn copy_fault(address: usize, write: bool) -> bool {
    Task::with_current(|task| {
        let Some(task) = task else { return false };
        let Some(space) = task.process().space() else { return false };
        let mut tries = 0;
        loop {
            match space.fault(address, write, false) {
                Ok(()) => return true,
                Err(FaultError::OutOfMemory) if oom::relieve(task, &mut tries) => {}
                Err(_) => return false,
            }
        }
    })
}

/// The errno of a fault, for calls that touch memory on the program's behalf.
pub fn errno(error: FaultError) -> Errno {
    match error {
        FaultError::OutOfMemory => Errno::ENOMEM,
        _ => Errno::EFAULT,
    }
}
