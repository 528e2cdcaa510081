//! The entry code: one stub per vector, the common paths behind them, `syscall`, and the way into user mode.
//!
//! From user mode, every entry stores the registers in the thread's `UserContext` and returns from
//! [`enter_user`], on the stack that called it. From kernel mode, an interrupt builds a frame on the stack of
//! the interrupted thread, below the red zone that `core` may use there: the CPU itself delivers interrupts on
//! a separate stack (IST), so nothing above is overwritten.

use core::{
    arch::{global_asm, naked_asm},
    mem::offset_of,
};

use rumpuser::{
    UserContext,
    user::{Registers, VectorRegisters},
};

use super::frame::KernelFrame;
use crate::{cpu, memory::stack, schedule::thread::Thread};

/// What [`enter_user`] returns for a system call; exceptions and interrupts return their vector.
pub const SYSTEM_CALL: u64 = 256;

macro_rules! registers {
    ($($name:ident $field:ident)*) => { $( const $name: usize = offset_of!(UserContext, registers) + offset_of!(Registers, $field); )* };
}
registers! {
    RAX rax RBX rbx RCX rcx RDX rdx RSI rsi RDI rdi RBP rbp RSP rsp R8 r8 R9 r9 R10 r10 R11 r11 R12 r12
    R13 r13 R14 r14 R15 r15 RIP rip RFLAGS rflags
}
const XMM: usize = offset_of!(UserContext, vectors) + offset_of!(VectorRegisters, 0);

// 256 stubs of 16 bytes. Vectors 8, 10-14, 17, 21, 29, 30 push an error code.
global_asm!(
    ".section .text.traps, \"ax\", @progbits",
    ".balign 16",
    ".globl bmk_trap_stubs",
    "bmk_trap_stubs:",
    ".set vector, 0",
    ".rept 32",
    ".balign 16, 0xcc",
    ".if ((0x60227d00 >> vector) & 1) == 0",
    "pushq $0",
    ".endif",
    "pushq $vector",
    "jmp {common}",
    ".set vector, vector + 1",
    ".endr",
    ".rept 224",
    ".balign 16, 0xcc",
    "pushq $0",
    "pushq $vector",
    "jmp {common}",
    ".set vector, vector + 1",
    ".endr",
    common = sym common,
    options(att_syntax)
);

/// Saves XMM0-15 at an offset of a register.
macro_rules! save_vectors {
    ($register:literal) => {
        concat!(
            "movaps [",
            $register,
            " + {xmm}], xmm0\n",
            "movaps [",
            $register,
            " + {xmm} + 16], xmm1\n",
            "movaps [",
            $register,
            " + {xmm} + 32], xmm2\n",
            "movaps [",
            $register,
            " + {xmm} + 48], xmm3\n",
            "movaps [",
            $register,
            " + {xmm} + 64], xmm4\n",
            "movaps [",
            $register,
            " + {xmm} + 80], xmm5\n",
            "movaps [",
            $register,
            " + {xmm} + 96], xmm6\n",
            "movaps [",
            $register,
            " + {xmm} + 112], xmm7\n",
            "movaps [",
            $register,
            " + {xmm} + 128], xmm8\n",
            "movaps [",
            $register,
            " + {xmm} + 144], xmm9\n",
            "movaps [",
            $register,
            " + {xmm} + 160], xmm10\n",
            "movaps [",
            $register,
            " + {xmm} + 176], xmm11\n",
            "movaps [",
            $register,
            " + {xmm} + 192], xmm12\n",
            "movaps [",
            $register,
            " + {xmm} + 208], xmm13\n",
            "movaps [",
            $register,
            " + {xmm} + 224], xmm14\n",
            "movaps [",
            $register,
            " + {xmm} + 240], xmm15\n",
        )
    };
}

/// Loads them.
macro_rules! load_vectors {
    ($register:literal) => {
        concat!(
            "movaps xmm0, [",
            $register,
            " + {xmm}]\n",
            "movaps xmm1, [",
            $register,
            " + {xmm} + 16]\n",
            "movaps xmm2, [",
            $register,
            " + {xmm} + 32]\n",
            "movaps xmm3, [",
            $register,
            " + {xmm} + 48]\n",
            "movaps xmm4, [",
            $register,
            " + {xmm} + 64]\n",
            "movaps xmm5, [",
            $register,
            " + {xmm} + 80]\n",
            "movaps xmm6, [",
            $register,
            " + {xmm} + 96]\n",
            "movaps xmm7, [",
            $register,
            " + {xmm} + 112]\n",
            "movaps xmm8, [",
            $register,
            " + {xmm} + 128]\n",
            "movaps xmm9, [",
            $register,
            " + {xmm} + 144]\n",
            "movaps xmm10, [",
            $register,
            " + {xmm} + 160]\n",
            "movaps xmm11, [",
            $register,
            " + {xmm} + 176]\n",
            "movaps xmm12, [",
            $register,
            " + {xmm} + 192]\n",
            "movaps xmm13, [",
            $register,
            " + {xmm} + 208]\n",
            "movaps xmm14, [",
            $register,
            " + {xmm} + 224]\n",
            "movaps xmm15, [",
            $register,
            " + {xmm} + 240]\n",
        )
    };
}

/// Behind the stubs. On the stack: vector, error, rip, cs, rflags, rsp, ss.
#[unsafe(naked)]
unsafe extern "C" fn common() {
    naked_asm!(
        "test byte ptr [rsp + 24], 3",
        "jz {kernel}",
        // From user mode. The vector's stack is needed only until the context is filled.
        "swapgs",
        "push rax",
        "mov rax, gs:[{context}]",
        "mov [rax + {rbx}], rbx",
        "mov [rax + {rcx}], rcx",
        "mov [rax + {rdx}], rdx",
        "mov [rax + {rsi}], rsi",
        "mov [rax + {rdi}], rdi",
        "mov [rax + {rbp}], rbp",
        "mov [rax + {r8}], r8",
        "mov [rax + {r9}], r9",
        "mov [rax + {r10}], r10",
        "mov [rax + {r11}], r11",
        "mov [rax + {r12}], r12",
        "mov [rax + {r13}], r13",
        "mov [rax + {r14}], r14",
        "mov [rax + {r15}], r15",
        "pop qword ptr [rax + {rax}]",
        "pop rcx",
        "pop rdx",
        "pop qword ptr [rax + {rip}]",
        "add rsp, 8",
        "pop qword ptr [rax + {rflags}]",
        "pop qword ptr [rax + {rsp}]",
        save_vectors!("rax"),
        "cld",
        "mov rax, rcx",
        "mov rsp, gs:[{stack}]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        kernel = sym common_kernel,
        context = const cpu::CONTEXT,
        stack = const cpu::KERNEL_STACK,
        rax = const RAX, rbx = const RBX, rcx = const RCX, rdx = const RDX, rsi = const RSI, rdi = const RDI,
        rbp = const RBP, rsp = const RSP, r8 = const R8, r9 = const R9, r10 = const R10, r11 = const R11,
        r12 = const R12, r13 = const R13, r14 = const R14, r15 = const R15, rip = const RIP, rflags = const RFLAGS,
        xmm = const XMM,
    )
}

/// The kernel was interrupted: builds a [`KernelFrame`] below the red zone of the interrupted stack.
#[unsafe(naked)]
unsafe extern "C" fn common_kernel() {
    naked_asm!(
        "cmp qword ptr [rsp], 32",
        "jb {exception}",
        "push rax",
        "push rcx",
        "mov rax, [rsp + 56]",
        // A thread that may be on another stack, and is, has a place on its own.
        "mov rcx, gs:[{current}]",
        "test rcx, rcx",
        "jz 2f",
        "mov rcx, [rcx + {trap_stack}]",
        "test rcx, rcx",
        "jz 2f",
        "xor rcx, rax",
        "cmp rcx, {slot}",
        "jb 2f",
        "xor rax, rcx",
        "2: sub rax, 128 + {size}",
        "and rax, -16",
        "mov rcx, [rsp + 64]", "mov [rax + {size} - 8], rcx",   // ss
        "mov rcx, [rsp + 56]", "mov [rax + {size} - 16], rcx",  // rsp
        "mov rcx, [rsp + 48]", "mov [rax + {size} - 24], rcx",  // rflags
        "mov rcx, [rsp + 40]", "mov [rax + {size} - 32], rcx",  // cs
        "mov rcx, [rsp + 32]", "mov [rax + {size} - 40], rcx",  // rip
        "mov rcx, [rsp + 24]", "mov [rax + {size} - 48], rcx",  // error
        "mov rcx, [rsp + 16]", "mov [rax + {size} - 56], rcx",  // vector
        "mov rcx, [rsp + 8]", "mov [rax + {size} - 64], rcx",   // rax
        "mov rcx, [rsp]", "mov [rax + {size} - 72], rcx",       // rcx
        "lea rsp, [rax + {size} - 72]",
        "push rdx",
        "push rbx",
        "push rbp",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 256",
        save_vectors!("rsp"),
        "cld",
        "mov rdi, rsp",
        "call {handler}",
        "jmp {restore}",
        exception = sym exception,
        restore = sym restore,
        current = const cpu::CURRENT,
        trap_stack = const offset_of!(Thread, trap_stack),
        slot = const stack::SLOT,
        size = const size_of::<KernelFrame>(),
        handler = sym super::kernel_trap,
        xmm = const 0,
    )
}

/// Goes on with the frame at rsp.
#[unsafe(naked)]
unsafe extern "C" fn restore() {
    naked_asm!(
        load_vectors!("rsp"),
        "add rsp, 256",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rbp",
        "pop rbx",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "add rsp, 16",
        "iretq",
        xmm = const 0,
    )
}

/// Goes on with a frame.
///
/// # Safety
/// Interrupts are disabled; the frame is one of kernel mode, whose registers are the caller's to choose.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn resume(_frame: *mut KernelFrame) -> ! {
    naked_asm!("mov rsp, rdi", "jmp {restore}", restore = sym restore)
}

/// #DB and NMI in the kernel; GS may still be the user's. A debug exception there is a leftover of user
/// single-stepping; an NMI is how a panic stops the other CPUs.
#[unsafe(naked)]
unsafe extern "C" fn nonmaskable() {
    naked_asm!(
        "cmp byte ptr [rip + {stopping}], 0",
        "jne 2f",
        "add rsp, 16",
        "iretq",
        "2: cli",
        "hlt",
        "jmp 2b",
        stopping = sym crate::panic::STOPPING,
    )
}

/// An exception in the kernel, on a stack of the CPU's: goes on where `kernel_exception` says.
#[unsafe(naked)]
unsafe extern "C" fn exception() {
    naked_asm!(
        "cmp qword ptr [rsp], 2",
        "je {nonmaskable}",
        "cmp qword ptr [rsp], 1",
        "je {nonmaskable}",
        "push rax",
        "push rcx",
        "push rdx",
        "push rbx",
        "push rbp",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 256",
        save_vectors!("rsp"),
        // #DF and #MC come anywhere: GS may be the user's.
        "cmp qword ptr [rsp + {vector}], 8",
        "je 2f",
        "cmp qword ptr [rsp + {vector}], 18",
        "jne 3f",
        "2: mov ecx, 0xc0000101",
        "rdmsr",
        "test edx, edx",
        "js 3f",
        "swapgs",
        "3: cld",
        "mov rdi, rsp",
        "call {choose}",
        "mov rsp, rax",
        "mov rdi, rax",
        "call {handler}",
        "jmp {restore}",
        nonmaskable = sym nonmaskable,
        choose = sym super::kernel_exception,
        handler = sym super::kernel_trap,
        restore = sym restore,
        vector = const offset_of!(KernelFrame, vector),
        xmm = const 0,
    )
}

/// Entry of the `syscall` instruction: interrupts are disabled, rsp is the user's, rcx the return address.
///
/// # Safety
/// Only the CPU may come here.
#[unsafe(naked)]
pub unsafe extern "C" fn system_call() {
    naked_asm!(
        "swapgs",
        "mov gs:[{scratch}], rsp",
        // A call with a fixed answer? The table holds it plus one. rcx is a user address that `sysretq` can take,
        // as the last page below the hole in the address space is never mapped.
        "cmp rax, {calls}",
        "jae 2f",
        "mov rsp, gs:[{constants}]",
        "mov esp, [rsp + rax * 4]",
        "test esp, esp",
        "jz 2f",
        "lea eax, [rsp - 1]",
        "mov rsp, gs:[{scratch}]",
        "swapgs",
        "sysretq",
        "2: mov rsp, gs:[{context}]",
        "mov [rsp + {rax}], rax",
        "mov [rsp + {rbx}], rbx",
        "mov [rsp + {rcx}], rcx",
        "mov [rsp + {rip}], rcx",
        "mov [rsp + {rdx}], rdx",
        "mov [rsp + {rsi}], rsi",
        "mov [rsp + {rdi}], rdi",
        "mov [rsp + {rbp}], rbp",
        "mov [rsp + {r8}], r8",
        "mov [rsp + {r9}], r9",
        "mov [rsp + {r10}], r10",
        "mov [rsp + {r11}], r11",
        "mov [rsp + {rflags}], r11",
        "mov [rsp + {r12}], r12",
        "mov [rsp + {r13}], r13",
        "mov [rsp + {r14}], r14",
        "mov [rsp + {r15}], r15",
        "mov rcx, gs:[{scratch}]",
        "mov [rsp + {rsp}], rcx",
        save_vectors!("rsp"),
        "mov eax, {number}",
        "mov rsp, gs:[{stack}]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        number = const SYSTEM_CALL,
        calls = const super::constant::CALLS,
        constants = const cpu::CONSTANTS,
        scratch = const cpu::SCRATCH,
        context = const cpu::CONTEXT,
        stack = const cpu::KERNEL_STACK,
        rax = const RAX, rbx = const RBX, rcx = const RCX, rdx = const RDX, rsi = const RSI, rdi = const RDI,
        rbp = const RBP, rsp = const RSP, r8 = const R8, r9 = const R9, r10 = const R10, r11 = const R11,
        r12 = const R12, r13 = const R13, r14 = const R14, r15 = const R15, rip = const RIP, rflags = const RFLAGS,
        xmm = const XMM,
    )
}

/// What [`enter_user`] returns.
#[repr(C)]
pub struct Entry {
    /// [`SYSTEM_CALL`] or a vector.
    pub vector: u64,
    /// The error code of an exception.
    pub error: u64,
}

/// Runs user code until it traps. By `sysretq` if the context looks like the end of a system call (rcx and r11
/// hold what that instruction puts there), else by `iretq`.
///
/// # Safety
/// Interrupts are disabled; the context's rip is canonical and its rflags are sanitised; the address space,
/// the extended state and the segment bases are loaded.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn enter_user(_context: *mut UserContext) -> Entry {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov gs:[{stack}], rsp",
        "mov gs:[{context}], rdi",
        load_vectors!("rdi"),
        "mov rbx, [rdi + {rbx}]",
        "mov rdx, [rdi + {rdx}]",
        "mov rsi, [rdi + {rsi}]",
        "mov rbp, [rdi + {rbp}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]",
        "mov r15, [rdi + {r15}]",
        "mov rcx, [rdi + {rip}]",
        "mov r11, [rdi + {rflags}]",
        "cmp rcx, [rdi + {rcx}]",
        "jne 2f",
        "cmp r11, [rdi + {r11}]",
        "jne 2f",
        "mov rax, [rdi + {rax}]",
        "mov rsp, [rdi + {rsp}]",
        "mov rdi, [rdi + {rdi}]",
        "swapgs",
        "sysretq",
        "2: push {data}",
        "push qword ptr [rdi + {rsp}]",
        "push r11",
        "push {code}",
        "push rcx",
        "mov rax, [rdi + {rax}]",
        "mov rcx, [rdi + {rcx}]",
        "mov r11, [rdi + {r11}]",
        "mov rdi, [rdi + {rdi}]",
        "swapgs",
        "iretq",
        context = const cpu::CONTEXT,
        stack = const cpu::KERNEL_STACK,
        data = const cpu::USER_DATA,
        code = const cpu::USER_CODE,
        rax = const RAX, rbx = const RBX, rcx = const RCX, rdx = const RDX, rsi = const RSI, rdi = const RDI,
        rbp = const RBP, rsp = const RSP, r8 = const R8, r9 = const R9, r10 = const R10, r11 = const R11,
        r12 = const R12, r13 = const R13, r14 = const R14, r15 = const R15, rip = const RIP, rflags = const RFLAGS,
        xmm = const XMM,
    )
}
