//! The signal frame on the user stack, as Linux lays it out on x86-64 (arch/x86/include/uapi/asm/sigcontext.h,
//! ucontext.h), and the way back through rt_sigreturn.
//!
//! From low to high: return address, `ucontext`, `siginfo`, and the extended state (XSAVE format, 64-byte aligned)
//! with the magic words by which a program tells its size.

use alloc::{vec, vec::Vec};

use rumpkern::{Errno, Result};
use rumpuser::{
    UserContext, memory::USER_END, rumpuser_extended_state_load, rumpuser_extended_state_save,
    user::Registers,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Action, SignalInfo, SignalSet};
use crate::{task::AlternateStack, user};

/// Behind the 464th byte of the FXSAVE area: says that more follows.
const MAGIC1: u32 = 0x4650_5853;
/// Behind the extended state.
const MAGIC2: u32 = 0x4650_5845;
/// Bytes in the FXSAVE area.
const LEGACY: usize = 512;
/// Bytes in front of the extended components: FXSAVE area and XSAVE header.
const XSAVE_MINIMUM: usize = 576;
/// Where the software-reserved bytes of the FXSAVE area are.
const SOFTWARE: usize = 464;
/// UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS.
const UC_FLAGS: u64 = 7;
const USER_CS: u16 = 0x33;
const USER_SS: u16 = 0x2b;
/// What the ABI lets a function use below its stack pointer.
const RED_ZONE: usize = 128;

/// Flags that a program may set: carry, parity, auxiliary, zero, sign, trap, direction, overflow, alignment check.
const USER_FLAGS: u64 = 0x4_0dd5 | 0x100;
const FLAG_TRAP: u64 = 0x100;
const FLAG_DIRECTION: u64 = 0x400;
const FLAG_RESUME: u64 = 0x1_0000;
/// Always set: bit 1 and the interrupt flag.
const FIXED_FLAGS: u64 = 0x202;

/// SS_ONSTACK, SS_DISABLE, SS_AUTODISARM.
pub const SS_ONSTACK: i32 = 1;
/// See [`SS_ONSTACK`].
pub const SS_DISABLE: i32 = 2;
/// See [`SS_ONSTACK`].
pub const SS_AUTODISARM: i32 = i32::MIN;

/// `stack_t`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct StackT {
    /// Lowest address.
    pub base: usize,
    /// `SS_*`.
    pub flags: i32,
    /// Not used.
    pub padding: u32,
    /// Bytes.
    pub size: usize,
}

/// `struct sigcontext`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SigContext {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    rflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    error: u64,
    trap: u64,
    old_mask: u64,
    cr2: u64,
    fpstate: usize,
    reserved: [u64; 8],
}

/// `struct ucontext`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct UContext {
    flags: u64,
    link: usize,
    stack: StackT,
    context: SigContext,
    mask: SignalSet,
}

/// `struct rt_sigframe`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Frame {
    return_address: usize,
    ucontext: UContext,
    info: [u8; super::info::SIZE],
}

/// `struct _fpx_sw_bytes`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SoftwareBytes {
    magic1: u32,
    extended_size: u32,
    features: u64,
    state_size: u32,
    padding: [u32; 7],
}

/// What the last fault left for the frame: trap number, error code, CR2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrapDetails {
    /// The exception's vector.
    pub vector: u64,
    /// Its error code.
    pub error: u64,
    /// The address of a page fault.
    pub address: u64,
}

/// Whether `sp` is on the alternate stack.
fn on_stack(stack: &AlternateStack, sp: usize) -> bool {
    stack.flags & SS_AUTODISARM == 0 && sp > stack.base && sp - stack.base <= stack.size
}

/// The alternate stack as sigaltstack(2) and the frame report it.
pub fn report_stack(stack: &AlternateStack, sp: usize) -> StackT {
    let state = if stack.size == 0 {
        SS_DISABLE
    } else if on_stack(stack, sp) {
        SS_ONSTACK
    } else {
        0
    };
    StackT { base: stack.base, flags: state | stack.flags & SS_AUTODISARM, padding: 0, size: stack.size }
}

/// Whether the alternate stack is in use, so that it must not be changed.
pub fn stack_in_use(stack: &AlternateStack, sp: usize) -> bool {
    stack.size != 0 && on_stack(stack, sp)
}

/// Where the parts of a frame go.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    frame: usize,
    fpstate: usize,
}

/// Lays a frame out below `top`. `None` if it would wrap around.
fn layout(top: usize, state_size: usize) -> Option<Layout> {
    let fpstate = top.checked_sub(state_size + size_of::<u32>())? & !63;
    // The handler starts as if called: the stack is 16-byte aligned above the return address.
    let frame = (fpstate.checked_sub(size_of::<Frame>())? & !15).checked_sub(8)?;
    Some(Layout { frame, fpstate })
}

/// The extended state with the words that describe it, as it goes behind the frame.
fn describe(mut state: Vec<u8>) -> Vec<u8> {
    let size = state.len();
    if size < LEGACY {
        return state;
    }
    let features = if size >= XSAVE_MINIMUM {
        u64::from_le_bytes(state[LEGACY..LEGACY + 8].try_into().unwrap_or_default()) | 3
    } else {
        3
    };
    let software = SoftwareBytes {
        magic1: MAGIC1,
        extended_size: (size + size_of::<u32>()) as u32,
        features,
        state_size: size as u32,
        padding: [0; 7],
    };
    state[SOFTWARE..SOFTWARE + size_of::<SoftwareBytes>()].copy_from_slice(software.as_bytes());
    state.extend_from_slice(&MAGIC2.to_le_bytes());
    state
}

/// The calling thread's extended state in XSAVE format.
pub fn extended_state(context: &mut UserContext) -> Vec<u8> {
    let size = rumpuser_extended_state_save(context, &mut []);
    let mut state = vec![0; size];
    rumpuser_extended_state_save(context, &mut state);
    state
}

/// A signal to be handled by the program.
pub struct Delivery<'a> {
    /// What is told.
    pub info: &'a SignalInfo,
    /// How it is handled.
    pub action: &'a Action,
    /// The mask that the handler's return brings back.
    pub mask: SignalSet,
    /// The alternate stack.
    pub stack: &'a AlternateStack,
    /// The fault behind it.
    pub trap: TrapDetails,
}

/// Writes the frame and sets the registers to run the handler. On an error nothing has changed but memory.
pub fn enter(context: &mut UserContext, delivery: &Delivery<'_>) -> Result<()> {
    let Delivery { info, action, mask, stack, trap } = delivery;
    if action.flags & Action::RESTORER == 0 || action.handler >= USER_END {
        return Err(Errno::EFAULT);
    }
    let state = describe(extended_state(context));
    let state_size = state.len().saturating_sub(size_of::<u32>());
    let registers = &mut context.registers;
    let sp = registers.rsp as usize;
    let switches = action.flags & Action::ONSTACK != 0 && stack.size != 0 && !on_stack(stack, sp);
    let top = if switches {
        stack.base.checked_add(stack.size).ok_or(Errno::EFAULT)?
    } else {
        sp.checked_sub(RED_ZONE).ok_or(Errno::EFAULT)?
    };
    let Layout { frame: at, fpstate } = layout(top, state_size).ok_or(Errno::EFAULT)?;
    if (switches || on_stack(stack, sp)) && stack.size != 0 && at <= stack.base {
        return Err(Errno::EFAULT);
    }
    if !user::is_user_range(at, top.saturating_sub(at)) {
        return Err(Errno::EFAULT);
    }
    let frame = Frame {
        return_address: action.restorer,
        ucontext: UContext {
            flags: UC_FLAGS,
            link: 0,
            stack: report_stack(stack, sp),
            context: save(registers, trap, mask, fpstate),
            mask: *mask,
        },
        info: info.to_bytes(),
    };
    user::write_bytes(fpstate, &state)?;
    user::write_bytes(at, frame.as_bytes())?;
    registers.rdi = u64::from(info.signal);
    registers.rsi = (at + core::mem::offset_of!(Frame, info)) as u64;
    registers.rdx = (at + core::mem::offset_of!(Frame, ucontext)) as u64;
    registers.rax = 0;
    registers.rsp = at as u64;
    registers.rip = action.handler as u64;
    registers.rflags &= !(FLAG_DIRECTION | FLAG_RESUME | FLAG_TRAP);
    Ok(())
}

fn save(registers: &Registers, trap: &TrapDetails, mask: &SignalSet, fpstate: usize) -> SigContext {
    SigContext {
        r8: registers.r8,
        r9: registers.r9,
        r10: registers.r10,
        r11: registers.r11,
        r12: registers.r12,
        r13: registers.r13,
        r14: registers.r14,
        r15: registers.r15,
        rdi: registers.rdi,
        rsi: registers.rsi,
        rbp: registers.rbp,
        rbx: registers.rbx,
        rdx: registers.rdx,
        rax: registers.rax,
        rcx: registers.rcx,
        rsp: registers.rsp,
        rip: registers.rip,
        rflags: registers.rflags,
        cs: USER_CS,
        gs: 0,
        fs: 0,
        ss: USER_SS,
        error: trap.error,
        trap: trap.vector,
        old_mask: mask.0,
        cr2: trap.address,
        fpstate,
        reserved: [0; 8],
    }
}

/// Goes back to what the frame at the stack pointer describes: sets the registers, returns the mask and the
/// alternate stack to restore.
pub fn leave(context: &mut UserContext) -> Result<(SignalSet, StackT)> {
    let at = (context.registers.rsp as usize).checked_sub(8).ok_or(Errno::EFAULT)?;
    let ucontext =
        user::UserPtr::<UContext>::new(at.wrapping_add(core::mem::offset_of!(Frame, ucontext))).read()?;
    let from = &ucontext.context;
    let state = read_state(from.fpstate)?;
    if from.rip as usize >= USER_END {
        return Err(Errno::EFAULT);
    }
    let old = context.registers;
    context.registers = Registers {
        rax: from.rax,
        rbx: from.rbx,
        rcx: from.rcx,
        rdx: from.rdx,
        rsi: from.rsi,
        rdi: from.rdi,
        rbp: from.rbp,
        rsp: from.rsp,
        r8: from.r8,
        r9: from.r9,
        r10: from.r10,
        r11: from.r11,
        r12: from.r12,
        r13: from.r13,
        r14: from.r14,
        r15: from.r15,
        rip: from.rip,
        rflags: from.rflags & USER_FLAGS | FIXED_FLAGS,
        fs_base: old.fs_base,
        gs_base: old.gs_base,
    };
    rumpuser_extended_state_load(context, &state);
    Ok((ucontext.mask, ucontext.stack))
}

/// The extended state of a frame; empty for none. Without the magic words, only the FXSAVE part counts.
fn read_state(address: usize) -> Result<Vec<u8>> {
    if address == 0 {
        return Ok(Vec::new());
    }
    let mut state = vec![0; XSAVE_MINIMUM];
    user::read_bytes(address, &mut state[..LEGACY])?;
    let size = extended_size(&state[..LEGACY]).filter(|&size| {
        let magic = user::UserPtr::<u32>::new(address.wrapping_add(size)).read();
        magic == Ok(MAGIC2)
    });
    match size {
        Some(size) => {
            state.resize(size, 0);
            user::read_bytes(address, &mut state)?;
        }
        // The header says that x87 and SSE are there.
        None => state[LEGACY] = 3,
    }
    // The software bytes are no part of the format.
    state[SOFTWARE..LEGACY].fill(0);
    Ok(state)
}

/// The size that an FXSAVE area's software bytes tell, if they are in order.
fn extended_size(legacy: &[u8]) -> Option<usize> {
    let (software, _) = SoftwareBytes::read_from_prefix(legacy.get(SOFTWARE..)?).ok()?;
    let size = software.state_size as usize;
    let fits = (XSAVE_MINIMUM..=16 << 10).contains(&size) && software.extended_size as usize >= size;
    (software.magic1 == MAGIC1 && fits).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_linux_s() {
        assert_eq!(size_of::<SigContext>(), 256);
        assert_eq!(core::mem::offset_of!(SigContext, fpstate), 184);
        assert_eq!(size_of::<UContext>(), 304);
        assert_eq!(core::mem::offset_of!(UContext, context), 40);
        assert_eq!(core::mem::offset_of!(UContext, mask), 296);
        assert_eq!(size_of::<Frame>(), 440);
        assert_eq!(core::mem::offset_of!(Frame, info), 312);
        assert_eq!(size_of::<SoftwareBytes>(), 48);
        for top in 0x7000_0000..0x7000_0080 {
            let layout = layout(top, 832).expect("room");
            assert_eq!(layout.fpstate % 64, 0);
            assert_eq!((layout.frame + 8) % 16, 0);
            assert!(layout.frame + size_of::<Frame>() <= layout.fpstate);
            assert!(layout.fpstate + 836 <= top);
        }
        assert_eq!(layout(1000, 832), None);
    }

    #[test]
    fn a_handler_is_entered_and_left() {
        let mut stack = vec![0u8; 16 << 10];
        let top = stack.as_mut_ptr() as usize + stack.len();
        let mut context = UserContext::default();
        context.registers = Registers {
            rsp: top as u64,
            rip: 0x40_1000,
            rax: 7,
            rflags: 0x202 | FLAG_DIRECTION,
            ..context.registers
        };
        let before = context.registers;
        let action =
            Action { handler: 0x40_2000, flags: Action::RESTORER, restorer: 0x40_3000, ..Default::default() };
        let info = SignalInfo::user(10, SignalInfo::SI_USER, 5, 0);
        let mask = SignalSet(0x55);
        let delivery = Delivery {
            info: &info,
            action: &action,
            mask,
            stack: &AlternateStack::DISABLED,
            trap: TrapDetails::default(),
        };
        assert_eq!(enter(&mut context, &delivery), Ok(()));
        let registers = context.registers;
        assert_eq!((registers.rip, registers.rdi, registers.rflags), (0x40_2000, 10, 0x202));
        assert_eq!((registers.rsp + 8) % 16, 0);
        let told = user::UserPtr::<SignalInfo>::new(registers.rsi as usize).read();
        assert_eq!(told, Ok(info));
        let return_address = user::UserPtr::<usize>::new(registers.rsp as usize).read();
        assert_eq!(return_address, Ok(0x40_3000));
        // The handler's `ret` takes the return address off.
        context.registers.rsp += 8;
        let (restored, _) = leave(&mut context).expect("a good frame");
        assert_eq!(restored, mask);
        assert_eq!(context.registers, before);
    }

    #[test]
    fn a_frame_that_does_not_fit_is_an_error() {
        let mut context = UserContext::default();
        context.registers.rsp = 64;
        let action = Action { handler: 0x40_2000, flags: Action::RESTORER, ..Default::default() };
        let info = SignalInfo::kernel(11);
        let delivery = Delivery {
            info: &info,
            action: &action,
            mask: SignalSet::EMPTY,
            stack: &AlternateStack::DISABLED,
            trap: TrapDetails::default(),
        };
        assert_eq!(enter(&mut context, &delivery), Err(Errno::EFAULT));
    }

    #[test]
    fn the_software_bytes_are_checked() {
        let state = describe(vec![0; 832]);
        assert_eq!(state.len(), 836);
        assert_eq!(extended_size(&state[..LEGACY]), Some(832));
        assert_eq!(extended_size(&[0; LEGACY]), None);
        assert_eq!(extended_size(&[0xff; LEGACY]), None);
    }
}
