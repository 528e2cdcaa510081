//! Network devices that the tree has no driver for, as the rump kernel's interfaces `virt0` and on: the hypercalls of the
//! tree's component virtif.

mod changes;
mod packet;

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::{
    ffi::{CStr, c_char, c_int, c_ulong, c_void},
    ptr::null_mut,
    sync::atomic::{AtomicBool, AtomicPtr, Ordering},
};

use rumpnet::{
    device::{HardwareAddress, NetworkDevice, TransmitError, Upcalls},
    packet::{Fragment, Packet, Received},
};
use rumpuser::{
    NEVER, rumpuser_clock_monotonic, rumpuser_cpu, rumpuser_cpu_count, rumpuser_thread_current,
    sync::SpinLock,
};

pub(crate) use self::changes::watch;
use self::packet::packet_of;
use crate::{
    errno::{EBUSY, ENOMEM, ENXIO, Errno},
    event::Event,
    host, kernel,
    network::request,
    thread, upcall,
    weak::weak,
};

/// `SIOCIFCREATE`.
const CREATE: c_ulong = 0x8090_697a;
/// Packets that are taken from a device at a time.
const BUDGET: usize = 64;
/// How long a sender waits for room on a device's ring, in nanoseconds, and how long at a time.
const PATIENCE: u64 = 1_000_000_000;
const LOOK: u64 = 10_000_000;
/// The most interfaces.
const MOST: usize = 64;

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
    receiver: Event,
    /// Who waits for room on the transmit ring; the kernel sends with one thread at a time.
    sender: Event,
}

/// A device, and the rump kernel's interface for it, which stays when the device goes.
pub struct Port {
    hardware: HardwareAddress,
    /// Another one, once the first is gone.
    device: SpinLock<Arc<dyn NetworkDevice>>,
    queues: Box<[Queue]>,
    /// The kernel's own; null without one.
    interface: AtomicPtr<c_void>,
    /// The device is gone.
    gone: AtomicBool,
    /// The interface is on, and configured. Written by one thread.
    configured: AtomicBool,
    /// Something of this has changed, and the device may be another one.
    changed: AtomicBool,
    moved: AtomicBool,
}

/// The devices, whose places are the interfaces' numbers; and whether those that come need interfaces of their own.
static PORTS: SpinLock<(Vec<Arc<Port>>, bool)> = SpinLock::new((Vec::new(), false));

/// Devices may come while the image runs.
static MAY_COME: AtomicBool = AtomicBool::new(false);

/// Says that devices may come while the image runs. Before it starts.
pub fn expect_devices() {
    MAY_COME.store(true, Ordering::SeqCst);
}

/// Takes a device; it becomes an interface at [`create`], or at once if that has been. One with the address of a device
/// that is gone has its interface. False if there are too many.
pub fn attach(device: Arc<dyn NetworkDevice>) -> bool {
    let properties = device.properties();
    let count = properties.queues.max(1);
    let mut ports = PORTS.lock();
    let takes = |port: &&Arc<Port>| {
        port.is_gone() && port.hardware == properties.address && port.queues.len() >= count
    };
    if let Some(port) = ports.0.iter().find(takes).cloned() {
        drop(ports);
        port.replace(device);
        return true;
    }
    if ports.0.len() >= MOST {
        return false;
    }
    ports.0.push(Arc::new(Port {
        hardware: properties.address,
        device: SpinLock::new(device),
        queues: (0..count).map(|_| Queue::default()).collect(),
        interface: AtomicPtr::new(null_mut()),
        gone: AtomicBool::new(false),
        configured: AtomicBool::new(false),
        changed: AtomicBool::new(true),
        moved: AtomicBool::new(false),
    }));
    let later = ports.1;
    drop(ports);
    if later {
        changes::happened();
    }
    true
}

/// Makes the interfaces of the devices there are, which the caller configures; whether any may come or go, which
/// [`watch`] follows.
pub(crate) fn create() -> bool {
    let ports = {
        let mut ports = PORTS.lock();
        ports.1 = true;
        ports.0.clone()
    };
    for (number, port) in ports.iter().enumerate() {
        if make(number) {
            port.configured.store(true, Ordering::SeqCst);
        }
    }
    MAY_COME.load(Ordering::SeqCst)
}

fn name(number: usize) -> String {
    format!("virt{number}")
}

/// Makes an interface; whether there is one now.
fn make(number: usize) -> bool {
    let name = name(number);
    let socket = kernel::Descriptor::socket(crate::network::addresses::INET, crate::network::DATAGRAM, 0);
    let made = socket.and_then(|socket| socket.ask(CREATE, &mut request(&name)));
    if let Err(error) = made {
        let why = kernel::explain(error);
        host::console(format!("{name}: cannot be made: {why}\n").as_bytes());
    }
    made.is_ok()
}

impl Port {
    fn device(&self) -> Arc<dyn NetworkDevice> {
        self.device.lock().clone()
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Has another device in place of the one that is gone.
    fn replace(self: &Arc<Self>, device: Arc<dyn NetworkDevice>) {
        let before = {
            let mut place = self.device.lock();
            self.gone.store(false, Ordering::SeqCst);
            core::mem::replace(&mut *place, device)
        };
        drop(before);
        if !self.interface.load(Ordering::SeqCst).is_null() {
            self.begin();
        }
        self.moved.store(true, Ordering::SeqCst);
        self.has_changed();
    }

    /// Has the device work for the interface.
    fn begin(self: &Arc<Self>) {
        self.device().start(Box::new(PortUpcalls(self.clone())));
        // What came before there was anybody to tell.
        self.queues.iter().for_each(|queue| queue.receiver.raise());
    }

    fn has_changed(&self) {
        self.changed.store(true, Ordering::SeqCst);
        changes::happened();
    }

    /// Receives, for ever.
    fn receive(&self, index: usize) {
        let queue = &self.queues[index];
        rumpuser_thread_current().set_affinity(1 << (index % rumpuser_cpu_count().max(1)));
        upcall::become_kernel_thread();
        queue.receiver.enter();
        let mut packets = Vec::with_capacity(BUDGET);
        let mut vector = Vec::new();
        loop {
            let device = self.device();
            // There is room for all of them: the device holds a lock.
            device.receive(index, BUDGET, &mut |packet| packets.push(packet));
            if !packets.is_empty() {
                upcall::with_cpu(|| packets.drain(..).for_each(|packet| self.deliver(&packet, &mut vector)));
            } else if !device.arm(index) {
                drop(device);
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

    /// Sends, after a while if the ring is full; with a virtual CPU. A packet that can't be sent is lost.
    fn send(&self, mut packet: Packet) {
        let index = rumpuser_cpu() % self.queues.len();
        let device = self.device();
        if device.transmit(index, &mut packet) == Err(TransmitError::Full) {
            upcall::without_cpu(null_mut(), || self.send_later(&*device, index, &mut packet));
        }
        device.flush(index);
    }

    fn send_later(&self, device: &dyn NetworkDevice, index: usize, packet: &mut Packet) {
        let sender = &self.queues[index].sender;
        let deadline = rumpuser_clock_monotonic() + PATIENCE;
        sender.enter();
        while device.transmit(index, packet) == Err(TransmitError::Full) {
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
        self.0.queues[queue].receiver.raise();
    }

    fn room(&self, queue: usize) {
        self.0.queues[queue].sender.raise();
    }

    fn link_changed(&self) {
        // Virtif knows of no carrier; the device may have moved.
        self.0.has_changed();
    }

    fn gone(&self) {
        // What is sent is refused, and nothing comes.
        self.0.gone.store(true, Ordering::SeqCst);
        self.0.has_changed();
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
    port.begin();
    let hardware = port.hardware;
    // SAFETY: the caller's promise.
    unsafe {
        address.copy_from_nonoverlapping(hardware.as_ptr(), hardware.len());
        // For ever, as the interface.
        *place = Arc::into_raw(port).cast_mut().cast();
    }
    0
}

/// An interface is to go; those of the machine stay, also without their devices.
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
