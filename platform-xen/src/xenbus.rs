//! Devices that other domains offer: found in xenstore below `device`, handed to the drivers.

use alloc::{
    borrow::ToOwned,
    boxed::Box,
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use rumpuser::{
    CpuSet, Frame, Thread, ThreadSpec,
    device::{Driver, GrantReference, InterruptHandler, XenbusDevice, xenbus_state},
    rumpuser_clock_monotonic, rumpuser_park, rumpuser_thread_current,
    sync::{InterruptLock, Mutex},
};

use crate::{
    events, grant,
    store::{self, PLAIN, Watch},
};

const DEVICES: &str = "device";
/// The state of a backend without a node.
const GONE: u32 = 0;
/// How long a backend may take for a step, in nanoseconds.
const PATIENCE: u64 = 20_000_000_000;

static DRIVERS: InterruptLock<&[&dyn Driver]> = InterruptLock::new(&[]);

/// Names the drivers, in the order in which they see a device. Before the devices start.
pub fn set_drivers(drivers: &'static [&'static dyn Driver]) {
    *DRIVERS.lock() = drivers;
}

type StateHandler = Box<dyn Fn(u32) + Send + Sync>;
type ResumeHandler = Arc<dyn Fn() + Send + Sync>;

/// A frontend.
struct Device {
    kind: String,
    number: u32,
    /// Its node.
    path: String,
    /// The backend's domain and node; they change when this domain is restored.
    domain: AtomicU16,
    backend: Mutex<String>,
    waiting: InterruptLock<Option<Thread>>,
    handler: Mutex<Option<StateHandler>>,
    resume: Mutex<Option<ResumeHandler>>,
    /// The driver sees to a new backend.
    resuming: AtomicBool,
    /// Held while the driver is told of a change.
    changing: Mutex<()>,
    /// The backend is gone, and another may come.
    away: AtomicBool,
    /// The driver has given the device up.
    closed: AtomicBool,
    watch: Mutex<Option<Watch>>,
}

/// The frontends that were found.
static FOUND: Mutex<Vec<Arc<Device>>> = Mutex::new(Vec::new());
static WATCH: Mutex<Option<Watch>> = Mutex::new(None);

/// Finds the devices there are, and those that come.
pub fn start() {
    scan();
    *WATCH.lock() = store::watch(DEVICES, |_| scan_aside()).ok();
}

/// Looks again in a thread of its own: drivers wait for changes that the caller's thread hands on.
fn scan_aside() {
    let main = Box::new(scan);
    let _ =
        rumpuser::rumpuser_thread_create(ThreadSpec { name: "xenbus".into(), affinity: CpuSet::MAX, main });
}

/// Held while devices are looked for.
static SCANS: Mutex<()> = Mutex::new(());

/// Calls `work` while no device is being attached; if it returns true, all have new backends.
pub fn pause(work: impl FnOnce() -> bool) {
    let one = SCANS.lock();
    let found = FOUND.lock().clone();
    // What the watches tell of backends of before is of no interest.
    found.iter().for_each(|device| device.hold());
    let restored = work();
    for device in found {
        if restored {
            device.resume();
        } else {
            device.release();
        }
    }
    drop(one);
    scan();
}

fn scan() {
    let _one = SCANS.lock();
    for kind in PLAIN.list(DEVICES).unwrap_or_default() {
        let mut numbers: Vec<u32> = PLAIN
            .list(&format!("{DEVICES}/{kind}"))
            .unwrap_or_default()
            .iter()
            .filter_map(|number| number.parse().ok())
            .collect();
        numbers.sort_unstable();
        for number in numbers {
            attach(&kind, number);
        }
    }
}

/// Offers a frontend to the drivers, once. One whose backend has been replaced goes on with the new one.
fn attach(kind: &str, number: u32) {
    let path = format!("{DEVICES}/{kind}/{number}");
    let Some((backend, domain)) = backend_of(&path) else { return };
    let known = FOUND.lock().iter().find(|known| known.path == path).cloned();
    if let Some(known) = known {
        if *known.backend.lock() == backend && !known.away.load(Ordering::SeqCst) {
            return;
        }
        if known.survives() {
            if !known.away.load(Ordering::SeqCst) {
                known.tell(GONE);
            }
            return known.resume();
        }
        forget(&known);
    }
    let Some(device) = find(kind, number, path, backend, domain) else { return };
    FOUND.lock().push(device.clone());
    let drivers = *DRIVERS.lock();
    let device: Arc<dyn XenbusDevice> = device;
    let _taken = drivers.iter().any(|driver| driver.attach_xenbus(&device));
}

fn forget(device: &Device) {
    let mut found = FOUND.lock();
    let gone =
        found.iter().position(|known| core::ptr::eq(&**known, device)).map(|place| found.remove(place));
    drop(found);
    drop(gone);
}

/// The node and the domain of a frontend's backend.
fn backend_of(path: &str) -> Option<(String, u16)> {
    let backend = PLAIN.read(&format!("{path}/backend")).ok()?;
    Some((backend, PLAIN.read(&format!("{path}/backend-id")).ok()?.parse().ok()?))
}

fn find(kind: &str, number: u32, path: String, backend: String, domain: u16) -> Option<Arc<Device>> {
    let device = Arc::new(Device {
        kind: kind.to_owned(),
        number,
        path,
        domain: AtomicU16::new(domain),
        backend: Mutex::new(backend),
        waiting: InterruptLock::new(None),
        handler: Mutex::new(None),
        resume: Mutex::new(None),
        resuming: AtomicBool::new(false),
        changing: Mutex::new(()),
        away: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        watch: Mutex::new(None),
    });
    watch(&device)?;
    Some(device)
}

/// Watches the state of a device's backend.
fn watch(device: &Arc<Device>) -> Option<()> {
    let node = format!("{}/state", device.backend.lock());
    let weak = Arc::downgrade(device);
    let changed = move |_: &str| {
        if let Some(device) = weak.upgrade() {
            device.state_changed();
        }
    };
    let before = device.watch.lock().replace(store::watch(&node, changed).ok()?);
    drop(before);
    Some(())
}

impl Device {
    /// Goes on with a new backend.
    fn resume(self: &Arc<Self>) {
        self.hold();
        self.away.store(false, Ordering::SeqCst);
        if let Some((backend, domain)) = backend_of(&self.path) {
            *self.backend.lock() = backend;
            self.domain.store(domain, Ordering::SeqCst);
            let _ = watch(self);
            let handler = self.resume.lock().clone();
            if let Some(handler) = handler {
                handler();
            }
        }
        self.release();
    }

    /// Has changes of the backend's state wait; none is under way any more.
    fn hold(&self) {
        let changing = self.changing.lock();
        self.resuming.store(true, Ordering::SeqCst);
        drop(changing);
    }

    /// Looks at what came meanwhile.
    fn release(&self) {
        self.resuming.store(false, Ordering::SeqCst);
        self.state_changed();
    }

    fn backend_state(&self) -> u32 {
        self.backend_value("state").and_then(|state| state.parse().ok()).unwrap_or(0)
    }

    fn state_changed(&self) {
        if let Some(thread) = &*self.waiting.lock() {
            thread.unpark();
        }
        let _changing = self.changing.lock();
        if self.resuming.load(Ordering::SeqCst) {
            return;
        }
        let state = self.backend_state();
        self.tell(state);
        if state == GONE && self.survives() {
            self.away.store(true, Ordering::SeqCst);
        } else if matches!(state, GONE | xenbus_state::CLOSED) {
            // One that comes in its place is a new one.
            forget(self);
        }
    }

    /// Tells the driver.
    fn tell(&self, state: u32) {
        if let Some(handler) = &*self.handler.lock() {
            handler(state);
        }
    }

    /// Whether the driver waits for another backend when this one is gone.
    fn survives(&self) -> bool {
        !self.closed.load(Ordering::SeqCst) && self.resume.lock().is_some()
    }
}

impl XenbusDevice for Device {
    fn kind(&self) -> &str {
        &self.kind
    }

    fn number(&self) -> u32 {
        self.number
    }

    fn frontend_value(&self, name: &str) -> Option<String> {
        PLAIN.read(&format!("{}/{name}", self.path)).ok()
    }

    fn backend_value(&self, name: &str) -> Option<String> {
        let backend = self.backend.lock().clone();
        PLAIN.read(&format!("{backend}/{name}")).ok()
    }

    fn publish(&self, values: &[(&str, String)]) -> bool {
        let publish = |scope: store::Scope| {
            values.iter().try_for_each(|(name, value)| scope.write(&format!("{}/{name}", self.path), value))
        };
        store::transaction(publish).is_ok()
    }

    fn set_state(&self, state: u32) {
        self.closed.store(state == xenbus_state::CLOSED, Ordering::SeqCst);
        let _ = PLAIN.write(&format!("{}/state", self.path), &state.to_string());
    }

    fn wait_for_backend(&self, states: &[u32]) -> u32 {
        *self.waiting.lock() = Some(rumpuser_thread_current());
        let limit = rumpuser_clock_monotonic().saturating_add(PATIENCE);
        let state = loop {
            let state = self.backend_state();
            if states.contains(&state) || rumpuser_clock_monotonic() > limit {
                break state;
            }
            rumpuser_park(limit);
        };
        let waiting = self.waiting.lock().take();
        drop(waiting);
        state
    }

    fn set_state_handler(&self, handler: StateHandler) {
        *self.handler.lock() = Some(handler);
    }

    fn set_resume_handler(&self, handler: Box<dyn Fn() + Send + Sync>) {
        *self.resume.lock() = Some(Arc::from(handler));
    }

    fn grant(&self, frame: Frame, writable: bool) -> Option<GrantReference> {
        grant::grant(self.domain.load(Ordering::Relaxed), frame, writable)
    }

    fn end_grant(&self, reference: GrantReference) -> bool {
        grant::end(reference)
    }

    fn establish_event(&self, cpu: usize, handler: InterruptHandler) -> Option<u32> {
        let port = events::allocate(self.domain.load(Ordering::Relaxed))?;
        events::bind(port, bmk::cpu::hardware_of(cpu));
        if events::establish(port, handler) {
            return Some(port);
        }
        events::close(port);
        None
    }

    fn notify(&self, channel: u32) {
        events::notify(channel);
    }

    fn close_event(&self, channel: u32) {
        events::close(channel);
    }
}
