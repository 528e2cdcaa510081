//! Interrupt lines: a vector per line, and every handler that shares it.

use alloc::{sync::Arc, vec::Vec};

use rumpuser::{device::InterruptHandler, sync::InterruptLock};

use crate::{
    guest,
    io_apic::{self, Signal},
    local_apic, machine,
};

/// A line that is routed, and who listens.
struct Line {
    interrupt: u32,
    handlers: Arc<InterruptLock<Vec<Arc<InterruptHandler>>>>,
}

static LINES: InterruptLock<Vec<Line>> = InterruptLock::new(Vec::new());

/// Connects a handler to a global system interrupt. Returns whether it worked.
pub fn establish(interrupt: u32, signal: Signal, handler: InterruptHandler) -> bool {
    let handler = Arc::new(handler);
    let mut lines = LINES.lock();
    if let Some(line) = lines.iter().find(|line| line.interrupt == interrupt) {
        line.handlers.lock().push(handler);
        return true;
    }
    let handlers = Arc::new(InterruptLock::new(Vec::from([handler])));
    let listeners = handlers.clone();
    let dispatch = move || {
        // One by one, so that a handler runs without the lock: it may wake threads.
        let mut index = 0;
        loop {
            let next = listeners.lock().get(index).cloned();
            let Some(handler) = next else { break };
            handler();
            index += 1;
        }
    };
    let Some(vector) = guest::allocate_vector(alloc::boxed::Box::new(dispatch)) else { return false };
    lines.push(Line { interrupt, handlers });
    drop(lines);
    io_apic::route(interrupt, signal, guest::target().unwrap_or_else(local_apic::identifier), vector)
}

/// Connects a handler to an ISA interrupt, by way of the machine's overrides.
pub fn establish_isa(irq: u8, handler: InterruptHandler) -> bool {
    let (interrupt, signal) = machine::isa_interrupt(irq);
    establish(interrupt, signal, handler)
}
