//! User mode: the register context, why it stops, and the page that the vDSO reads.

use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

/// The general registers of a user thread. The platform relies on the order (`repr(C)`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the registers of those names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

/// XMM0-15, which the kernel's own code may use. Saved at every entry to the kernel.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct VectorRegisters(pub [u128; 16]);

/// A user thread's state while it is in the kernel. The rest of its extended state (x87, MXCSR, AVX and on)
/// stays in the CPU or in the platform's thread; see `rumpuser_extended_state_save`.
#[repr(C)]
#[derive(Clone)]
pub struct UserContext {
    /// General registers, instruction pointer, flags, segment bases.
    pub registers: Registers,
    /// XMM0-15.
    pub vectors: VectorRegisters,
}

impl Default for UserContext {
    fn default() -> Self {
        UserContext { registers: Registers::default(), vectors: VectorRegisters([0; 16]) }
    }
}

/// Why user code stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// The `syscall` instruction. Number in `rax`, arguments in `rdi rsi rdx r10 r8 r9`, `rip` behind the instruction.
    SystemCall,
    /// The thread's interrupt flag is set.
    Interrupted,
    /// A page fault at `address`.
    PageFault {
        /// The address accessed (CR2).
        address: usize,
        /// It was a write.
        write: bool,
        /// It was an instruction fetch.
        execute: bool,
        /// A page was present, but its protection forbade the access.
        present: bool,
    },
    /// Any other exception, by its vector (Intel SDM volume 3, table 6-1).
    Exception {
        /// 0 to 31.
        vector: u8,
        /// As pushed by the CPU; 0 where it pushes none.
        error: u64,
    },
}

/// A trap or an interrupt of code that runs in the kernel's mode, as its handler sees it
/// (`rumpuser_set_trap_handler`).
pub struct MachineTrap {
    /// The exception (Intel SDM volume 3, table 6-1), or an interrupt's vector (32 and on).
    pub vector: u8,
    /// As pushed by the CPU; 0 where it pushes none.
    pub error: u64,
    /// For page faults, the address accessed.
    pub address: usize,
    /// The access may fail: it is one of `rumpuser_copy_guarded` and its like.
    pub guarded: bool,
    /// The registers, with which the code goes on when the trap was handled.
    pub context: UserContext,
}

/// A user address could not be accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault;

/// What the vDSO (components/linux/vdso) needs: mapped read-only into every process. A seqlock: odd while it changes.
/// `monotonic = base_ns + ((tsc - base_tsc) * multiplier >> 32)`, `realtime = monotonic + offset`.
#[repr(C)]
pub struct ClockPage {
    /// Even: stable.
    pub sequence: AtomicU32,
    /// 1: the fields below are valid; 0: make the system call.
    pub usable: AtomicU32,
    /// TSC value at `base_ns`.
    pub base_tsc: AtomicU64,
    /// Monotonic nanoseconds at `base_tsc`.
    pub base_ns: AtomicU64,
    /// Nanoseconds per TSC tick, 32.32 fixed point.
    pub multiplier: AtomicU64,
    /// Realtime less monotonic, nanoseconds.
    pub realtime_offset: AtomicI64,
    /// 1: every CPU has RDTSCP, and IA32_TSC_AUX holds its number; 0: make the system call.
    pub tsc_aux_is_cpu: AtomicU32,
}
