//! What the platform tells the components without knowing them: console input, the request to stop, and
//! traps of programs that run in the kernel's mode.

use core::sync::atomic::{AtomicPtr, Ordering};

use rumpuser::MachineTrap;

static INPUT: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static STOP: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Behind `rumpuser_console_set_input`.
pub fn set_console_input(handler: fn(bytes: &[u8])) {
    INPUT.store(handler as *mut (), Ordering::Release);
    crate::console::registered();
    crate::platform::platform().console_listens();
}

/// Behind `rumpuser_set_stop_handler`.
pub fn set_stop_handler(handler: fn()) {
    STOP.store(handler as *mut (), Ordering::Release);
    crate::console::registered();
}

static TRAP: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Behind `rumpuser_set_trap_handler`.
pub fn set_trap_handler(handler: fn(&mut MachineTrap) -> bool) {
    TRAP.store(handler as *mut (), Ordering::Release);
}

/// Whether somebody handles traps of kernel code.
pub(crate) fn handles_traps() -> bool {
    !TRAP.load(Ordering::Acquire).is_null()
}

/// Asks the handler of traps, if there is one.
pub(crate) fn trap(trap: &mut MachineTrap) -> bool {
    let handler = TRAP.load(Ordering::Acquire);
    // SAFETY: only `set_trap_handler` stores here, and it stores a function of this type.
    !handler.is_null()
        && unsafe { core::mem::transmute::<*mut (), fn(&mut MachineTrap) -> bool>(handler)(trap) }
}

/// Whether anyone takes console input.
pub(crate) fn listens() -> bool {
    !INPUT.load(Ordering::Acquire).is_null()
}

/// Hands console input to the handler; lost if there is none yet. Thread context.
pub fn console_input(bytes: &[u8]) {
    let handler = INPUT.load(Ordering::Acquire);
    if !handler.is_null() {
        // SAFETY: only `set_console_input` stores here, and it stores a function of this type.
        unsafe { core::mem::transmute::<*mut (), fn(&[u8])>(handler)(bytes) }
    }
}

/// Asks for an orderly stop. Returns whether anyone listens. Thread context.
pub fn stop() -> bool {
    let handler = STOP.load(Ordering::Acquire);
    if handler.is_null() {
        return false;
    }
    // SAFETY: only `set_stop_handler` stores here, and it stores a function of this type.
    unsafe { core::mem::transmute::<*mut (), fn()>(handler)() };
    true
}
