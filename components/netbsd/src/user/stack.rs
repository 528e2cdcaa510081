//! Running code on another stack, and leaving it for good.

use core::{arch::naked_asm, ffi::c_void};

use rumpuser::rumpuser_set_trap_stack;

/// Calls `function(argument)` on the stack that ends at `top`; the place to go back to is written to `back`, and what traps
/// or interrupts the function uses the present stack from there. Returns
/// when the function does, or when [`leave`] is called with `back`.
///
/// # Safety
/// `top` is a multiple of 16 and the end of memory that nobody else uses.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn call(
    _function: unsafe extern "C" fn(*mut c_void),
    _argument: *mut c_void,
    _top: usize,
    _back: *mut usize,
) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rcx], rsp",
        "mov rbx, rsp",
        "mov r12, rdi",
        "mov r13, rsi",
        "mov r14, rdx",
        "mov rdi, rsp",
        "sub rsp, 8",
        "call {traps}",
        "mov rsp, r14",
        "xor ebp, ebp",
        "mov rdi, r13",
        "call r12",
        "mov rsp, rbx",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        traps = sym traps,
    )
}

extern "sysv64" fn traps(top: usize) {
    rumpuser_set_trap_stack(top);
}

/// Goes back to where [`call`] was called.
///
/// # Safety
/// `back` is from a call that hasn't returned; nothing on the present stack is needed any more.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn leave(_back: usize) -> ! {
    naked_asm!("mov rsp, rdi", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp", "ret",)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Test {
        back: usize,
        ran: bool,
        leaves: bool,
    }

    unsafe extern "C" fn run(test: *mut c_void) {
        let test = test.cast::<Test>();
        // SAFETY: the test's own structure.
        unsafe {
            (*test).ran = true;
            if (*test).leaves {
                leave((*test).back);
            }
        }
    }

    #[test]
    fn code_runs_on_another_stack() {
        for leaves in [false, true] {
            let stack = vec![0u128; 4096];
            let mut test = Test { back: 0, ran: false, leaves };
            let place = &raw mut test;
            // SAFETY: the stack is the test's own and large enough for `run`.
            unsafe {
                call(run, place.cast(), stack.as_ptr_range().end as usize, &raw mut (*place).back);
                assert!((*place).ran);
            }
        }
    }
}
