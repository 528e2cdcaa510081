//! Running user code: the loop around [`entry::enter_user`].

use core::sync::atomic::Ordering;

use rumpuser::{Trap, UserContext, memory::USER_END};

use super::{entry, extended};
use crate::{cpu, machine, schedule};

/// RFLAGS bits that belong to the user: CF PF AF ZF SF TF DF OF RF AC ID.
pub(super) const USER_FLAGS: u64 = 0x0025_0dd5;
/// Always set: reserved bit 1, and interrupts.
const FIXED_FLAGS: u64 = 0x202;
const PAGE_FAULT: u64 = 14;

/// The nearest canonical address: bit 47 extended upwards.
fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}

fn load_segment_bases(cpu: &cpu::Cpu, context: &UserContext) {
    let registers = &context.registers;
    if cpu.loaded_fs.get() != registers.fs_base {
        // SAFETY: the value is canonical; the kernel doesn't use FS.
        unsafe { machine::wrmsr(machine::MSR_FS_BASE, canonical(registers.fs_base)) };
        cpu.loaded_fs.set(registers.fs_base);
    }
    if cpu.loaded_gs.get() != registers.gs_base {
        // SAFETY: the value is canonical; `swapgs` exchanges it with the kernel's.
        unsafe { machine::wrmsr(machine::MSR_KERNEL_GS_BASE, canonical(registers.gs_base)) };
        cpu.loaded_gs.set(registers.gs_base);
    }
}

/// See `rumpuser_user_execute`.
pub fn execute(context: &mut UserContext) -> Trap {
    let thread = cpu::current_thread();
    if context.registers.rip >= 1 << 47 {
        // Entering there would fault in the kernel (not canonical) or at once in user mode.
        let address = context.registers.rip as usize;
        return Trap::PageFault { address, write: false, execute: true, present: address > USER_END };
    }
    schedule::account_entry(thread);
    machine::cli();
    loop {
        let cpu = cpu::current();
        if cpu.reschedule.load(Ordering::Relaxed) != 0 {
            schedule::reschedule();
            continue;
        }
        if thread.interrupted.load(Ordering::SeqCst) {
            machine::interrupts_enable();
            return Trap::Interrupted;
        }
        context.registers.rflags = context.registers.rflags & USER_FLAGS | FIXED_FLAGS;
        load_segment_bases(cpu, context);
        extended::load_for_user(cpu, thread);
        // SAFETY: interrupts are disabled, and the context was made safe above.
        let entry = unsafe { entry::enter_user(context) };
        match entry.vector {
            entry::SYSTEM_CALL => {
                machine::interrupts_enable();
                schedule::account_trap(thread);
                return Trap::SystemCall;
            }
            PAGE_FAULT => {
                let address = machine::cr2() as usize;
                machine::interrupts_enable();
                schedule::account_trap(thread);
                return Trap::PageFault {
                    address,
                    write: entry.error & 2 != 0,
                    execute: entry.error & 16 != 0,
                    present: entry.error & 1 != 0,
                };
            }
            // An NMI: only a panic elsewhere sends them.
            2 => crate::panic::stop_if_asked(),
            vector @ 32.. => {
                thread.in_user.store(true, Ordering::Relaxed);
                super::interrupt(vector as u8);
                thread.in_user.store(false, Ordering::Relaxed);
            }
            vector => {
                machine::interrupts_enable();
                schedule::account_trap(thread);
                return Trap::Exception { vector: vector as u8, error: entry.error };
            }
        }
    }
}
