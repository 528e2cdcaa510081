//! Access to user memory by the kernel: the only code that may take a page fault in the kernel.

use core::{
    arch::naked_asm,
    sync::atomic::{AtomicUsize, Ordering},
};

use rumpuser::{memory::USER_END, user::Fault};

use crate::trap::frame::KernelFrame;

/// Copies `length` bytes; returns how many were not copied. 64 bytes at a time, and bytewise around a fault,
/// so that the answer is exact.
#[unsafe(naked)]
unsafe extern "sysv64" fn copy(_destination: usize, _source: usize, _length: usize) -> usize {
    naked_asm!(
        ".globl bmk_access_start",
        "bmk_access_start:",
        "mov rcx, rdx",
        "2: cmp rcx, 64",
        "jb 3f",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + 32]",
        "movups xmm3, [rsi + 48]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + 32], xmm2",
        "movups [rdi + 48], xmm3",
        "add rsi, 64",
        "add rdi, 64",
        "sub rcx, 64",
        "jmp 2b",
        "3: cmp rcx, 8",
        "jb 4f",
        "mov rax, [rsi]",
        "mov [rdi], rax",
        "add rsi, 8",
        "add rdi, 8",
        "sub rcx, 8",
        "jmp 3b",
        ".globl bmk_access_bytes",
        "bmk_access_bytes:",
        "4: test rcx, rcx",
        "jz 5f",
        "mov al, [rsi]",
        "mov [rdi], al",
        "inc rsi",
        "inc rdi",
        "dec rcx",
        "jmp 4b",
        ".globl bmk_access_end",
        "bmk_access_end:",
        "5: mov rax, rcx",
        "ret",
    )
}

/// Loads a `u32`; the upper half of the result is not 0 if that failed.
#[unsafe(naked)]
unsafe extern "sysv64" fn load(_address: usize) -> u64 {
    naked_asm!(
        ".globl bmk_load_start",
        "bmk_load_start:",
        "mov eax, [rdi]",
        "ret",
        ".globl bmk_word_fault",
        "bmk_word_fault:",
        "mov rax, -1",
        "ret",
    )
}

/// Compare-and-exchange; result as `load`.
#[unsafe(naked)]
unsafe extern "sysv64" fn compare_exchange(_address: usize, _old: u32, _new: u32) -> u64 {
    naked_asm!(
        "mov eax, esi",
        ".globl bmk_exchange_start",
        "bmk_exchange_start:",
        "lock cmpxchg [rdi], edx",
        "mov eax, eax",
        "ret",
    )
}

unsafe extern "C" {
    static bmk_access_start: u8;
    static bmk_access_bytes: u8;
    static bmk_access_end: u8;
    static bmk_load_start: u8;
    static bmk_word_fault: u8;
    static bmk_exchange_start: u8;
}

fn no_handler(_address: usize, _write: bool) -> bool {
    false
}

static HANDLER: AtomicUsize = AtomicUsize::new(0);

/// Sets who resolves faults.
pub fn set_fault_handler(handler: fn(usize, bool) -> bool) {
    HANDLER.store(handler as usize, Ordering::Release);
}

/// Asks the fault handler. Thread context, interrupts enabled.
pub fn resolve(address: usize, write: bool) -> bool {
    let handler = HANDLER.load(Ordering::Acquire);
    if handler == 0 {
        return no_handler(address, write);
    }
    // SAFETY: only `set_fault_handler` stores here, a function of this type.
    let handler = unsafe { core::mem::transmute::<usize, fn(usize, bool) -> bool>(handler) };
    handler(address, write)
}

/// If the frame stopped in this module's code: where it goes on when the fault can't be resolved.
pub fn fixup(frame: &KernelFrame) -> Option<u64> {
    let at = |symbol: *const u8| symbol as u64;
    let (start, bytes, end) =
        (at(&raw const bmk_access_start), at(&raw const bmk_access_bytes), at(&raw const bmk_access_end));
    if (start..bytes).contains(&frame.rip) {
        Some(bytes)
    } else if (bytes..end).contains(&frame.rip) {
        Some(end)
    } else if frame.rip == at(&raw const bmk_load_start) || frame.rip == at(&raw const bmk_exchange_start) {
        Some(at(&raw const bmk_word_fault))
    } else {
        None
    }
}

fn in_user_half(address: usize, length: usize) -> bool {
    address.checked_add(length).is_some_and(|end| end <= USER_END)
}

/// See `rumpuser_copyin`.
pub fn copyin(source: usize, destination: &mut [u8]) -> usize {
    if !in_user_half(source, destination.len()) {
        return destination.len();
    }
    // SAFETY: the destination is a slice; faults on the source are resolved or end the copy.
    unsafe { copy(destination.as_mut_ptr() as usize, source, destination.len()) }
}

/// See `rumpuser_copyout`.
pub fn copyout(source: &[u8], destination: usize) -> usize {
    if !in_user_half(destination, source.len()) {
        return source.len();
    }
    // SAFETY: the source is a slice; faults on the destination are resolved or end the copy.
    unsafe { copy(destination, source.as_ptr() as usize, source.len()) }
}

/// See `rumpuser_copy_guarded`.
pub fn copy_guarded(source: usize, destination: usize, length: usize) -> usize {
    // SAFETY: faults end the copy; what may be written to is the caller's to know.
    unsafe { copy(destination, source, length) }
}

fn word(address: usize, access: impl FnOnce() -> u64) -> Result<u32, Fault> {
    if !in_user_half(address, 4) || !address.is_multiple_of(4) {
        return Err(Fault);
    }
    u32::try_from(access()).map_err(|_| Fault)
}

/// See `rumpuser_user_load`.
pub fn user_load(address: usize) -> Result<u32, Fault> {
    // SAFETY: a fault ends the access with an error.
    word(address, || unsafe { load(address) })
}

/// See `rumpuser_user_compare_exchange`.
pub fn user_compare_exchange(address: usize, old: u32, new: u32) -> Result<u32, Fault> {
    // SAFETY: a fault ends the access with an error; user memory is the user's to change.
    word(address, || unsafe { compare_exchange(address, old, new) })
}
