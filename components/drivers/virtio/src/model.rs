//! A virtio device in software, for tests: it walks the rings as a device does, checks that the driver keeps the
//! rules, and can be told to break them itself.
#![allow(unsafe_code, reason = "the device's side reads and writes the memory that the driver gave it")]

use alloc::vec::Vec;
use std::sync::Mutex;

use rumpuser::device::InterruptHandler;

use crate::{
    features::Features,
    queue::Segment,
    transport::{HandlerFactory, QueueAddresses, Status, Transport},
};

/// Reads memory as the device: on the host, physical addresses are addresses.
pub fn read<const LENGTH: usize>(address: u64) -> [u8; LENGTH] {
    // SAFETY: tests pass addresses inside memory that the driver allocated.
    unsafe { (address as *const [u8; LENGTH]).read_volatile() }
}

/// Writes memory as the device.
pub fn write(address: u64, bytes: &[u8]) {
    for (index, byte) in bytes.iter().enumerate() {
        // SAFETY: as in `read`.
        unsafe { ((address + index as u64) as *mut u8).write_volatile(*byte) }
    }
}

fn read16(address: u64) -> u16 {
    u16::from_le_bytes(read(address))
}

/// A chain that the driver made available.
pub struct Request {
    /// The queue, when it comes by [`Behaviour`].
    pub queue: u16,
    /// The head descriptor.
    pub head: u16,
    /// What the device may read.
    pub readable: Vec<Segment>,
    /// What the device may write.
    pub writable: Vec<Segment>,
}

/// The device's side of a queue.
#[derive(Default)]
pub struct DeviceQueue {
    addresses: Option<QueueAddresses>,
    seen: u16,
    used: u16,
}

impl DeviceQueue {
    /// For a queue at those addresses.
    pub fn new(addresses: QueueAddresses) -> Self {
        DeviceQueue { addresses: Some(addresses), seen: 0, used: 0 }
    }

    /// The next available chain.
    pub fn next(&mut self) -> Option<Request> {
        let at = self.addresses?;
        if read16(at.available + 2) == self.seen {
            return None;
        }
        let head = read16(at.available + 4 + 2 * u64::from(self.seen % at.size));
        self.seen = self.seen.wrapping_add(1);
        // Event index: tell me of the next one.
        write(at.used + 4 + 8 * u64::from(at.size), &self.seen.to_le_bytes());
        let mut request = Request { queue: 0, head, readable: Vec::new(), writable: Vec::new() };
        let (mut table, mut count, mut index) = (at.descriptors, u32::from(at.size), u32::from(head));
        loop {
            assert!(index < count, "the descriptor is inside its table");
            let descriptor = table + 16 * u64::from(index);
            let segment = (u64::from_le_bytes(read(descriptor)), u32::from_le_bytes(read(descriptor + 8)));
            let flags = read16(descriptor + 12);
            if flags & 4 != 0 {
                assert_eq!(flags, 4, "an indirect descriptor has no other flags");
                (table, count, index) = (segment.0, segment.1 / 16, 0);
                continue;
            }
            if flags & 2 != 0 {
                request.writable.push(segment);
            } else {
                assert!(request.writable.is_empty(), "what is read comes first");
                request.readable.push(segment);
            }
            if flags & 1 == 0 {
                return Some(request);
            }
            index = read16(descriptor + 14).into();
        }
    }

    /// Says that a chain is done.
    pub fn finish(&mut self, head: u32, written: u32) {
        let Some(at) = self.addresses else { return };
        let entry = at.used + 4 + 8 * u64::from(self.used % at.size);
        write(entry, &head.to_le_bytes());
        write(entry + 4, &written.to_le_bytes());
        self.used = self.used.wrapping_add(1);
        write(at.used + 2, &self.used.to_le_bytes());
    }

    /// Sets the used index to anything.
    pub fn set_used_index(&mut self, index: u16) {
        if let Some(at) = self.addresses {
            write(at.used + 2, &index.to_le_bytes());
        }
    }
}

/// What the device does with a request; returns how many bytes it wrote, or `None` to leave it unfinished.
pub type Behaviour = dyn Fn(&Request) -> Option<u32> + Send + Sync;

/// A device behind a transport. Requests are done in `notify`, and the interrupt handlers run there too.
pub struct Model {
    pub kind: u32,
    pub features: Features,
    pub queue_size: u16,
    pub config: Vec<u8>,
    pub behaviour: std::boxed::Box<Behaviour>,
    pub queues: Mutex<Vec<DeviceQueue>>,
    pub status: Mutex<Status>,
    pub handlers: Mutex<Vec<InterruptHandler>>,
    /// Which handler each queue interrupts by.
    pub vectors: Mutex<Vec<Option<u16>>>,
    pub config_handler: Mutex<Option<InterruptHandler>>,
}

impl Model {
    /// A device with that many queues.
    pub fn new(
        kind: u32,
        features: Features,
        queues: usize,
        config: Vec<u8>,
        behaviour: std::boxed::Box<Behaviour>,
    ) -> Self {
        let mut all = Vec::new();
        all.resize_with(queues, DeviceQueue::default);
        Model {
            kind,
            features: features | Features::VERSION_1,
            queue_size: 256,
            config,
            behaviour,
            queues: Mutex::new(all),
            status: Mutex::new(Status::empty()),
            handlers: Mutex::new(Vec::new()),
            vectors: Mutex::new(std::vec![None; queues]),
            config_handler: Mutex::new(None),
        }
    }
}

impl Model {
    /// Does the requests of a queue, as at a notification, without an interrupt.
    pub fn notify_quietly(&self, queue: u16) {
        let mut queues = self.queues.lock().expect("not poisoned");
        let place = &mut queues[usize::from(queue)];
        while let Some(mut request) = place.next() {
            request.queue = queue;
            if let Some(written) = (self.behaviour)(&request) {
                place.finish(request.head.into(), written);
            }
        }
    }

    /// Interrupts for a queue.
    pub fn interrupt(&self, queue: u16) {
        let vector = self.vectors.lock().expect("not poisoned")[usize::from(queue)];
        let handlers = self.handlers.lock().expect("not poisoned");
        if let Some(handler) = vector.and_then(|vector| handlers.get(usize::from(vector))) {
            handler();
        }
    }
}

impl Transport for Model {
    fn device_type(&self) -> u32 {
        self.kind
    }

    fn legacy(&self) -> bool {
        false
    }

    fn status(&self) -> Status {
        *self.status.lock().expect("not poisoned")
    }

    fn set_status(&self, status: Status) {
        *self.status.lock().expect("not poisoned") = status;
    }

    fn device_features(&self) -> u64 {
        self.features.bits()
    }

    fn set_driver_features(&self, features: u64) {
        assert_eq!(features & !self.features.bits(), 0, "only what is offered is taken");
    }

    fn queue_limit(&self, queue: u16) -> u16 {
        let queues = self.queues.lock().expect("not poisoned").len();
        if usize::from(queue) < queues { self.queue_size } else { 0 }
    }

    fn set_queue(&self, queue: u16, handler: Option<u16>, addresses: QueueAddresses) -> bool {
        self.vectors.lock().expect("not poisoned")[usize::from(queue)] = handler;
        self.queues.lock().expect("not poisoned")[usize::from(queue)] = DeviceQueue::new(addresses);
        true
    }

    fn notify(&self, queue: u16) {
        self.notify_quietly(queue);
        self.interrupt(queue);
    }

    fn establish_interrupts(
        &self,
        count: u16,
        handler: HandlerFactory<'_>,
        config: Option<InterruptHandler>,
    ) -> bool {
        *self.handlers.lock().expect("not poisoned") = (0..count).map(handler).collect();
        *self.config_handler.lock().expect("not poisoned") = config;
        true
    }

    fn location(&self) -> std::string::String {
        "model".into()
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = self.config.get(offset + index).copied().unwrap_or(0);
        }
    }

    fn config_generation(&self) -> u32 {
        0
    }
}
