//! The entropy device (virtio 1.2, section 5.4): hands random bytes to the platform's pool, without a thread.

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use rumpuser::{
    device::{DmaMemory, InterruptHandler},
    sync::InterruptLock,
};

use crate::{
    features::{self, Features, Refused},
    queue::Queue,
    transport::Transport,
};

const QUEUE: u16 = 0;
/// Bytes asked for at a time: two keys of the pool's generator.
const REQUEST: usize = 64;

struct Source {
    transport: Arc<dyn Transport>,
    state: InterruptLock<State>,
    buffer: DmaMemory,
    sink: fn(&[u8]),
}

struct State {
    queue: Queue,
    asked: bool,
}

static SOURCES: InterruptLock<Vec<Arc<Source>>> = InterruptLock::new(Vec::new());

impl Source {
    fn ask(&self) {
        let mut state = self.state.lock();
        if state.asked || !state.queue.add(&[], &[(self.buffer.physical(), REQUEST as u32)], 0) {
            return;
        }
        state.asked = true;
        let notify = state.queue.should_notify();
        drop(state);
        if notify {
            self.transport.notify(QUEUE);
        }
    }

    /// The interrupt handler.
    fn complete(&self) {
        let mut state = self.state.lock();
        let completion = state.queue.take();
        // One request at a time: another completion comes only after another request.
        state.queue.arm();
        let Some(completion) = completion else { return };
        state.asked = false;
        let mut bytes = [0; REQUEST];
        let count = (completion.written as usize).min(REQUEST);
        let window = self.buffer.registers();
        for (index, byte) in bytes[..count].iter_mut().enumerate() {
            *byte = window.read8(index);
        }
        drop(state);
        (self.sink)(&bytes[..count]);
    }
}

/// Takes an entropy device into use and asks it for the first bytes.
pub fn attach(transport: Arc<dyn Transport>, sink: fn(&[u8])) -> Result<(), Refused> {
    let features = features::negotiate(&*transport, Features::empty())?;
    let limit = transport.queue_limit(QUEUE);
    if limit == 0 {
        return Err(Refused);
    }
    let queue = Queue::new(limit, features).map_err(|_| Refused)?;
    let addresses = queue.addresses();
    let buffer = DmaMemory::new(REQUEST).map_err(|_| Refused)?;
    let state = InterruptLock::new(State { queue, asked: false });
    let source = Arc::new(Source { transport: transport.clone(), state, buffer, sink });
    let handler = source.clone();
    let handler = |_| -> InterruptHandler {
        let source = handler.clone();
        Box::new(move || source.complete())
    };
    let established = transport.establish_interrupts(1, &handler, None);
    if !established || !transport.set_queue(QUEUE, Some(0), addresses) {
        transport.reset();
        return Err(Refused);
    }
    source.state.lock().queue.arm();
    features::start(&*transport);
    source.ask();
    SOURCES.lock().push(source);
    Ok(())
}

/// Asks every device for more. Returns at once; the bytes come by interrupt.
pub fn refill() {
    let sources = SOURCES.lock().clone();
    for source in sources {
        source.ask();
    }
}
