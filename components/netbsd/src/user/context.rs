//! Contexts of programs (`ucontext_t`): as handlers of signals see and change them, and as `getcontext` and its relatives
//! take, make and change to them.

use core::{
    arch::{asm, naked_asm},
    ffi::{c_int, c_void},
    mem::offset_of,
    sync::atomic::Ordering,
};

use rumpuser::{UserContext, rumpuser_resume, user::Registers};

use super::{
    lwp::{Lwp, current, failed},
    memory, process,
    signal::{self, SignalSet},
};
use crate::{errno::EINVAL, weak::alias};

/// `_UC_SIGMASK`, `_UC_STACK`, `_UC_CPU`, `_UC_FPU`: which parts are there.
pub const MASK: u32 = 1;
pub const STACK: u32 = 2;
pub const GENERAL: u32 = 4;
pub const FLOAT: u32 = 8;
/// Bytes of what `fxsave` stores.
pub const FLOAT_LENGTH: usize = 512;

/// What `fxsave` stores, where it can.
#[repr(C, align(16))]
pub struct FloatState(pub [u8; FLOAT_LENGTH]);

impl FloatState {
    /// That of the caller.
    pub fn here() -> Self {
        let mut state = FloatState([0; FLOAT_LENGTH]);
        // SAFETY: the place is aligned and of the right size.
        unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut state, options(nostack, preserves_flags)) };
        state
    }

    /// Makes it the caller's again.
    pub fn restore(&self) {
        // SAFETY: the processor stored it; the compiler is told of the registers.
        unsafe { asm!("fxrstor64 [{}]", in(reg) self, options(nostack, readonly), clobber_abi("sysv64")) };
    }

    /// Gives the caller the initial state.
    pub fn reset() {
        let standard = 0x1f80u32;
        // SAFETY: exceptions are masked, registers of x87 empty, as calls want it.
        unsafe { asm!("fninit", "ldmxcsr [{}]", in(reg) &raw const standard, options(nostack, readonly)) };
    }
}

/// `stack_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Stack {
    pub base: usize,
    pub size: usize,
    pub flags: c_int,
}

/// `mcontext_t` of amd64.
#[repr(C)]
#[derive(Clone)]
pub struct MachineContext {
    general: [u64; 26],
    pointer: u64,
    /// In the form of `fxsave`.
    pub float: [u8; FLOAT_LENGTH],
}

/// `ucontext_t`.
#[repr(C)]
#[derive(Clone)]
pub struct Context {
    pub flags: u32,
    pub link: *mut Context,
    pub mask: SignalSet,
    pub stack: Stack,
    pub machine: MachineContext,
}

const _: () = assert!(size_of::<Context>() == 784 && align_of::<Context>() == 8);

impl Default for Context {
    fn default() -> Self {
        Context {
            flags: 0,
            link: core::ptr::null_mut(),
            mask: SignalSet::default(),
            stack: Stack::default(),
            machine: MachineContext { general: [0; 26], pointer: 0, float: [0; FLOAT_LENGTH] },
        }
    }
}

/// Calls `$callback!` with the registers and their numbers (`_REG_RDI` and so on).
macro_rules! numbered {
    ($callback:ident) => {
        $callback! {
            rdi 0, rsi 1, rdx 2, rcx 3, r8 4, r9 5, r10 6, r11 7, r12 8, r13 9, r14 10, r15 11, rbp 12, rbx 13, rax 14,
            rip 21, rflags 23, rsp 24
        }
    };
}
/// `_REG_TRAPNO`, `_REG_ERR`, `_REG_CS`, `_REG_SS`.
const TRAP: usize = 19;
const ERROR: usize = 20;
const CODE_SEGMENT: usize = 22;
const STACK_SEGMENT: usize = 25;
/// The selectors that programs of NetBSD's see.
const USER_CODE: u64 = 0x47;
const USER_DATA: u64 = 0x3f;

impl MachineContext {
    /// Takes the registers.
    pub fn set_registers(&mut self, registers: &Registers) {
        macro_rules! set {
            ($($name:ident $number:literal),*) => { $(self.general[$number] = registers.$name;)* };
        }
        numbered!(set);
        (self.general[CODE_SEGMENT], self.general[STACK_SEGMENT]) = (USER_CODE, USER_DATA);
        self.pointer = crate::thread::control_block() as u64;
    }

    /// The registers.
    pub fn registers(&self) -> Registers {
        let mut registers = Registers::default();
        macro_rules! get {
            ($($name:ident $number:literal),*) => { $(registers.$name = self.general[$number];)* };
        }
        numbered!(get);
        registers
    }

    /// Notes the trap that led here.
    pub fn set_trap(&mut self, number: u64, error: u64) {
        (self.general[TRAP], self.general[ERROR]) = (number, error);
    }
}

/// Where a register is in a [`Context`].
const fn place(number: usize) -> usize {
    offset_of!(Context, machine) + offset_of!(MachineContext, general) + 8 * number
}

/// Writes to a context at rdi what a function keeps for its caller, and the caller, to whom 0 is returned.
macro_rules! capture {
    () => {
        "mov [rdi + {rbx}], rbx\nmov [rdi + {rbp}], rbp\nmov [rdi + {r12}], r12\nmov [rdi + {r13}], r13\n\
         mov [rdi + {r14}], r14\nmov [rdi + {r15}], r15\nmov qword ptr [rdi + {rax}], 0\n\
         mov rax, [rsp]\nmov [rdi + {rip}], rax\nlea rax, [rsp + 8]\nmov [rdi + {rsp}], rax\n\
         mov qword ptr [rdi + {rflags}], 0x202\n"
    };
}

macro_rules! capturing {
    ($function:path, $end:literal) => {
        naked_asm!(
            capture!(),
            $end,
            function = sym $function,
            rbx = const place(13), rbp = const place(12), r12 = const place(8), r13 = const place(9),
            r14 = const place(10), r15 = const place(11), rax = const place(14), rip = const place(21),
            rsp = const place(24), rflags = const place(23),
        )
    };
}

/// # Safety
/// `context` is a place for one.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn getcontext(_context: *mut Context) -> c_int {
    capturing!(complete, "jmp {function}")
}

/// # Safety
/// `old` is a place for a context, `new` one.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn swapcontext(_old: *mut Context, _new: *const Context) -> c_int {
    capturing!(swap, "jmp {function}")
}

/// Fills in what the caller's registers aren't.
unsafe extern "C" fn complete(context: *mut Context) -> c_int {
    // SAFETY: the caller of `getcontext` promises a place.
    let context = unsafe { &mut *context };
    context.flags = MASK | STACK | GENERAL | FLOAT;
    context.link = core::ptr::null_mut();
    context.machine.pointer = crate::thread::control_block() as u64;
    if let Some(lwp) = current() {
        context.mask = SignalSet::of(lwp.blocked[0].load(Ordering::SeqCst));
        context.stack = lwp.stack(context.machine.registers().rsp as usize);
    }
    context.machine.float = FloatState::here().0;
    0
}

unsafe extern "C" fn swap(old: *mut Context, new: *const Context) -> c_int {
    // SAFETY: as the caller of `swapcontext` promises. What the program links is kept.
    unsafe {
        let link = (*old).link;
        complete(old);
        (*old).link = link;
        _sys_setcontext(new)
    }
}

/// Goes on in a context.
///
/// # Safety
/// `context` is one.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn _sys_setcontext(context: *const Context) -> c_int {
    // SAFETY: the caller's promise.
    let Some(context) = (unsafe { context.as_ref() }) else { return failed(EINVAL) };
    if context.flags & GENERAL == 0 {
        return failed(EINVAL);
    }
    if context.flags & MASK != 0
        && let Some(lwp) = current()
    {
        lwp.hold(context.mask);
        signal::deliver(lwp);
    }
    let registers = UserContext { registers: context.machine.registers(), ..UserContext::default() };
    let float = if context.flags & FLOAT != 0 { &context.machine.float[..] } else { &[] };
    rumpuser_resume(&registers, float)
}

/// Has a context call `function` with `count` arguments, the first three at `first`, all others at `rest`.
unsafe extern "C" fn make(
    context: *mut Context,
    function: usize,
    count: c_int,
    first: *const u64,
    rest: *const u64,
) {
    // SAFETY: as the caller of `makecontext` promises.
    let context = unsafe { &mut *context };
    let count = usize::try_from(count).unwrap_or(0);
    let Stack { base, size, .. } = context.stack;
    // It can't fail: what lacks memory is supplied, or ends the program, at its first use.
    let _ = memory::touch(base..base.saturating_add(size));
    let own = core::ptr::from_mut(context) as u64;
    // Six arguments are in registers; the others stand above the address to return to, at a multiple of 16.
    let above = count.saturating_sub(6);
    let stack = ((base + size - 8 * above) & !15) - 8;
    let mut registers = Registers {
        rip: function as u64,
        rsp: stack as u64,
        rbx: own,
        rflags: 0x202,
        ..Registers::default()
    };
    // SAFETY: the arguments are the caller's; the stack is the context's own.
    unsafe {
        let argument = |index: usize| if index < 3 { *first.add(index) } else { *rest.add(index - 3) };
        let places = [
            &mut registers.rdi,
            &mut registers.rsi,
            &mut registers.rdx,
            &mut registers.rcx,
            &mut registers.r8,
            &mut registers.r9,
        ];
        for (index, place) in places.into_iter().enumerate().take(count) {
            *place = argument(index);
        }
        (stack as *mut u64).write(ended as *const () as u64);
        for index in 0..above {
            (stack as *mut u64).add(1 + index).write(argument(6 + index));
        }
    }
    context.machine.set_registers(&registers);
}

/// Where the function of a made context returns to; rbx still has the context.
#[unsafe(naked)]
unsafe extern "C" fn ended() {
    naked_asm!("mov rdi, rbx", "and rsp, -16", "call {}", "ud2", sym follow)
}

unsafe extern "C" fn follow(context: *const Context) -> ! {
    // SAFETY: the context that was made; the program keeps it and what it links.
    unsafe {
        let link = (*context).link;
        if !link.is_null() {
            _sys_setcontext(link);
        }
    }
    process::exit_program(0)
}

/// # Safety
/// `context` is one, with a stack of its own; `function` takes so many arguments.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn makecontext(_context: *mut Context, _function: *const c_void, _count: c_int) {
    // Of the arguments behind the count, three are in registers, the others on the stack.
    naked_asm!(
        "push r9",
        "push r8",
        "push rcx",
        "mov rcx, rsp",
        "lea r8, [rsp + 32]",
        "call {}",
        "add rsp, 24",
        "ret",
        sym make,
    )
}

alias! {
    setcontext = _sys_setcontext;
    _getcontext = getcontext;
    _swapcontext = swapcontext;
}

impl Lwp {
    /// Holds off the signals of a set.
    pub fn hold(&self, set: SignalSet) {
        self.blocked[0].store(set.bits() & !signal::UNSTOPPABLE, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_stand_where_programs_look() {
        let registers = Registers {
            rdi: 1,
            rcx: 4,
            r8: 5,
            rax: 15,
            rip: 22,
            rflags: 24,
            rsp: 25,
            ..Registers::default()
        };
        let mut machine = Context::default().machine;
        machine.general[21] = 7;
        assert_eq!(machine.registers().rip, 7);
        for (number, value) in [(0, 1), (3, 4), (4, 5), (14, 15), (21, 22), (23, 24), (24, 25)] {
            machine.general[number] = value;
        }
        assert_eq!(machine.registers(), registers);
    }
}
