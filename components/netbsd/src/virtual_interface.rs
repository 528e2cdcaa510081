//! Network devices that the tree has no driver for, as the rump kernel's interfaces `virt0` and on: the hypercalls of the
//! tree's component virtif.

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::{
    ffi::{CStr, c_char, c_int, c_ulong, c_void},
    ptr::null_mut,
    sync::atomic::{AtomicBool, AtomicPtr, Ordering},
};

use rumpnet::{
    device::{NetworkDevice, TransmitError, Upcalls},
    packet::{Fragment, Packet, Received},
};
use rumpuser::{
    NEVER, Thread, rumpuser_clock_monotonic, rumpuser_cpu, rumpuser_cpu_count, rumpuser_park,
    rumpuser_thread_current,
    sync::{InterruptLock, SpinLock},
};

use crate::{
    errno::{EBUSY, ENOMEM, ENXIO, Errno},
    host, kernel,
    network::request,
    thread, upcall,
    weak::weak,
};

/// `SIOCIFCREATE`.
const CREATE: c_ulong = 0x8090_697a;
/// Packets that are taken from a device at a time.
const BUDGET: usize = 64;
/// Bytes of a packet that are kept apart from the rest, as other senders do it with headers.
const HEADERS: usize = 128;
/// How long a sender waits for room on a device's ring, in nanoseconds, and how long at a time.
const PATIENCE: u64 = 1_000_000_000;
const LOOK: u64 = 10_000_000;

weak! {
    /// Gives an interface a frame that was received.
    fn rump_virtif_virt_deliverpkt(*mut c_void, *const IoVector, usize);
}

/// `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct IoVector {
    base: *const u8,
    length: usize,
}

/// A queue of a device.
#[derive(Default)]
struct Queue {
    receiver: Waiter,
    /// Who waits for room on the transmit ring; the kernel sends with one thread at a time.
    sender: Waiter,
}

/// A thread that waits for a device.
struct Waiter {
    thread: InterruptLock<Option<Thread>>,
    raised: AtomicBool,
}

impl Default for Waiter {
    fn default() -> Self {
        Waiter { thread: InterruptLock::new(None), raised: AtomicBool::new(false) }
    }
}

impl Waiter {
    fn wake(&self) {
        self.raised.store(true, Ordering::SeqCst);
        let thread = self.thread.lock().clone();
        if let Some(thread) = thread {
            thread.unpark();
        }
    }

    /// Has the calling thread woken from now on.
    fn enter(&self) {
        *self.thread.lock() = Some(rumpuser_thread_current());
    }

    fn leave(&self) {
        let thread = self.thread.lock().take();
        drop(thread);
    }

    /// Waits for the next wake since the last wait, until the monotonic deadline at most.
    fn wait(&self, deadline: u64) {
        while !self.raised.swap(false, Ordering::SeqCst) && rumpuser_clock_monotonic() < deadline {
            rumpuser_park(deadline);
        }
    }
}

/// A device, and the rump kernel's interface for it.
pub struct Port {
    device: Arc<dyn NetworkDevice>,
    queues: Box<[Queue]>,
    /// The kernel's own; null without one.
    interface: AtomicPtr<c_void>,
}

/// The devices, whose places are the interfaces' numbers; and whether the interfaces have been made.
static PORTS: SpinLock<(Vec<Arc<Port>>, bool)> = SpinLock::new((Vec::new(), false));

/// Takes a device; it becomes an interface at [`create`]. False if that has been.
pub fn attach(device: Arc<dyn NetworkDevice>) -> bool {
    let queues = (0..device.properties().queues.max(1)).map(|_| Queue::default()).collect();
    let port = Arc::new(Port { device, queues, interface: AtomicPtr::new(null_mut()) });
    let mut ports = PORTS.lock();
    if !ports.1 {
        ports.0.push(port);
    }
    !ports.1
}

/// Makes the interfaces.
pub(crate) fn create() {
    let count = {
        let mut ports = PORTS.lock();
        ports.1 = true;
        ports.0.len()
    };
    for number in 0..count {
        let name = format!("virt{number}");
        let socket = kernel::Descriptor::socket(crate::network::addresses::INET, crate::network::DATAGRAM, 0);
        if let Err(error) = socket.and_then(|socket| socket.ask(CREATE, &mut request(&name))) {
            let why = kernel::explain(error);
            host::console(format!("{name}: cannot be made: {why}\n").as_bytes());
        }
    }
}

impl Port {
    /// Receives, for ever.
    fn receive(&self, index: usize) {
        let queue = &self.queues[index];
        rumpuser_thread_current().set_affinity(1 << (index % rumpuser_cpu_count().max(1)));
        upcall::become_kernel_thread();
        queue.receiver.enter();
        let mut packets = Vec::with_capacity(BUDGET);
        let mut vector = Vec::new();
        loop {
            // There is room for all of them: the device holds a lock.
            self.device.receive(index, BUDGET, &mut |packet| packets.push(packet));
            if !packets.is_empty() {
                upcall::with_cpu(|| packets.drain(..).for_each(|packet| self.deliver(&packet, &mut vector)));
            } else if !self.device.arm(index) {
                queue.receiver.wait(NEVER);
            }
        }
    }

    /// Gives the kernel a packet. With a virtual CPU.
    fn deliver(&self, packet: &Received, vector: &mut Vec<IoVector>) {
        let interface = self.interface.load(Ordering::Acquire);
        let Some(deliver) = rump_virtif_virt_deliverpkt().filter(|_| !interface.is_null()) else { return };
        let pieces = packet.data.fragments().iter().map(Fragment::bytes);
        vector.clear();
        vector.extend(pieces.map(|bytes| IoVector { base: bytes.as_ptr(), length: bytes.len() }));
        // SAFETY: the kernel's function, with its interface and pieces that live as long as the packet.
        unsafe { deliver(interface, vector.as_ptr(), vector.len()) };
    }

    /// Sends, after a while if the ring is full. A packet that can't be sent is lost.
    fn send(&self, mut packet: Packet) {
        let index = rumpuser_cpu() % self.queues.len();
        if self.device.transmit(index, &mut packet) == Err(TransmitError::Full) {
            upcall::without_cpu(null_mut(), || self.send_later(index, &mut packet));
        }
        self.device.flush(index);
    }

    fn send_later(&self, index: usize, packet: &mut Packet) {
        let sender = &self.queues[index].sender;
        let deadline = rumpuser_clock_monotonic() + PATIENCE;
        sender.enter();
        while self.device.transmit(index, packet) == Err(TransmitError::Full) {
            let now = rumpuser_clock_monotonic();
            if now >= deadline {
                break;
            }
            sender.wait(now + LOOK);
        }
        sender.leave();
    }
}

struct PortUpcalls(Arc<Port>);

impl Upcalls for PortUpcalls {
    fn interrupt(&self, queue: usize) {
        self.0.queues[queue].receiver.wake();
    }

    fn room(&self, queue: usize) {
        self.0.queues[queue].sender.wake();
    }

    fn link_changed(&self) {
        // Virtif knows of no carrier.
    }

    fn gone(&self) {
        // What is sent is refused, and nothing comes.
    }
}

/// A copy of a frame's pieces; `None` without memory.
fn packet_of(pieces: &[&[u8]]) -> Option<Packet> {
    let mut packet = Packet::default();
    let mut pieces = pieces.iter().copied();
    let mut rest: &[u8] = &[];
    let total: usize = pieces.clone().map(<[u8]>::len).sum();
    let headers = packet.header.prepend(total.min(HEADERS));
    let mut filled = 0;
    while filled < headers.len() {
        if rest.is_empty() {
            rest = pieces.next()?;
        }
        let count = rest.len().min(headers.len() - filled);
        headers[filled..filled + count].copy_from_slice(&rest[..count]);
        (filled, rest) = (filled + count, &rest[count..]);
    }
    let mut page: Option<Fragment> = None;
    loop {
        while rest.is_empty() {
            let Some(next) = pieces.next() else {
                page.into_iter().for_each(|page| packet.payload.push(page));
                return Some(packet);
            };
            rest = next;
        }
        if let Some(full) = page.take_if(|page| page.room() == 0) {
            packet.payload.push(full);
        }
        let page = match &mut page {
            Some(page) => page,
            None => page.insert(Fragment::new(0).ok()?),
        };
        rest = &rest[page.append(rest)..];
    }
}

/// Connects an interface, whose number is the text, with its device: `address` gets the hardware's.
///
/// # Safety
/// `number` is a C string, `address` has room for six bytes and `place` for a pointer.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpcomp_virt_create(
    number: *const c_char,
    interface: *mut c_void,
    address: *mut u8,
    place: *mut *mut c_void,
) -> Errno {
    // SAFETY: the caller's promise.
    let number = unsafe { CStr::from_ptr(number) };
    let number = number.to_str().ok().and_then(|number| number.parse::<usize>().ok());
    let port = number.and_then(|number| PORTS.lock().0.get(number).cloned());
    let Some(port) = port else { return ENXIO };
    let free = port.interface.compare_exchange(null_mut(), interface, Ordering::SeqCst, Ordering::SeqCst);
    if free.is_err() {
        return EBUSY;
    }
    for index in 0..port.queues.len() {
        let served = port.clone();
        let main = Box::new(move || served.receive(index));
        if thread::spawn(String::from("interrupt"), rumpuser::CpuSet::MAX, main).is_err() {
            // The kernel gives its interface up; the threads there are have nothing to do.
            port.interface.store(null_mut(), Ordering::SeqCst);
            return ENOMEM;
        }
    }
    port.device.start(Box::new(PortUpcalls(port.clone())));
    // What came before there was anybody to tell.
    port.queues.iter().for_each(|queue| queue.receiver.wake());
    let hardware = port.device.properties().address;
    // SAFETY: the caller's promise.
    unsafe {
        address.copy_from_nonoverlapping(hardware.as_ptr(), hardware.len());
        // For ever, as the interface.
        *place = Arc::into_raw(port).cast_mut().cast();
    }
    0
}

/// An interface is to go; those of the machine stay.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpcomp_virt_dying(_port: *mut c_void) -> c_int {
    EBUSY
}

/// Never called, since no interface goes.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpcomp_virt_destroy(_port: *mut c_void) {}

/// Sends a frame.
///
/// # Safety
/// `port` is from `rumpcomp_virt_create`, and there are so many pieces.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpcomp_virt_send(port: *const Port, pieces: *const IoVector, count: usize) {
    // SAFETY: the caller's promise; ports stay.
    let (port, pieces) = unsafe { (&*port, core::slice::from_raw_parts(pieces, count)) };
    // SAFETY: as above.
    let bytes = |piece: &IoVector| unsafe { core::slice::from_raw_parts(piece.base, piece.length) };
    let pieces: smallvec::SmallVec<[&[u8]; 32]> = pieces.iter().map(bytes).collect();
    if let Some(packet) = packet_of(&pieces) {
        port.send(packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_copied_into_headers_and_pages() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|number| (number % 251) as u8).collect();
        for length in [0, 14, 60, 127, 128, 129, 1514, 4224, 4225, 9014] {
            for size in [1, 100, 128, 700, 10_000] {
                let pieces: Vec<&[u8]> = bytes[..length].chunks(size).collect();
                let packet = packet_of(&pieces).expect("memory");
                let mut copy = packet.header.bytes().to_vec();
                for fragment in packet.payload.fragments() {
                    copy.extend_from_slice(fragment.bytes());
                }
                assert_eq!(copy, bytes[..length], "{length} bytes in pieces of {size}");
                assert_eq!(packet.payload.fragments().len(), length.saturating_sub(128).div_ceil(4096));
            }
        }
    }
}
