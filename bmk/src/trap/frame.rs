//! What the kernel's own interrupted state looks like on the stack.

/// Pushed by the entry code when the kernel was interrupted.
#[repr(C, align(16))]
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the fields are the registers of those names")]
pub struct KernelFrame {
    pub vectors: [u128; 16],
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}
