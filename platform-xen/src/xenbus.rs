//! Devices that other domains offer: found in xenstore below `device`, handed to the drivers.

use alloc::{
    borrow::ToOwned,
    boxed::Box,
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};

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

/// A frontend.
struct Device {
    kind: String,
    number: u32,
    /// Its node.
    path: String,
    /// The backend's domain and node.
    domain: u16,
    backend: String,
    waiting: InterruptLock<Option<Thread>>,
    handler: Mutex<Option<StateHandler>>,
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

fn scan() {
    static SCANS: Mutex<()> = Mutex::new(());
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

/// Offers a frontend to the drivers, once.
fn attach(kind: &str, number: u32) {
    let path = format!("{DEVICES}/{kind}/{number}");
    let Some(device) = find(kind, number, path) else { return };
    let mut found = FOUND.lock();
    if found.iter().any(|known| known.path == device.path && known.backend == device.backend) {
        return;
    }
    found.push(device.clone());
    drop(found);
    let drivers = *DRIVERS.lock();
    let device: Arc<dyn XenbusDevice> = device;
    let _taken = drivers.iter().any(|driver| driver.attach_xenbus(&device));
}

fn find(kind: &str, number: u32, path: String) -> Option<Arc<Device>> {
    let backend = PLAIN.read(&format!("{path}/backend")).ok()?;
    let domain = PLAIN.read(&format!("{path}/backend-id")).ok()?.parse().ok()?;
    let device = Arc::new(Device {
        kind: kind.to_owned(),
        number,
        path,
        domain,
        backend,
        waiting: InterruptLock::new(None),
        handler: Mutex::new(None),
        watch: Mutex::new(None),
    });
    let weak = Arc::downgrade(&device);
    let changed = move |_: &str| {
        if let Some(device) = weak.upgrade() {
            device.state_changed();
        }
    };
    *device.watch.lock() = Some(store::watch(&format!("{}/state", device.backend), changed).ok()?);
    Some(device)
}

impl Device {
    fn backend_state(&self) -> u32 {
        self.backend_value("state").and_then(|state| state.parse().ok()).unwrap_or(0)
    }

    fn state_changed(&self) {
        if let Some(thread) = &*self.waiting.lock() {
            thread.unpark();
        }
        let state = self.backend_state();
        if let Some(handler) = &*self.handler.lock() {
            handler(state);
        }
        if matches!(state, GONE | xenbus_state::CLOSED) {
            // One that comes in its place is a new one.
            let mut found = FOUND.lock();
            let gone =
                found.iter().position(|known| core::ptr::eq(&**known, self)).map(|place| found.remove(place));
            drop(found);
            drop(gone);
        }
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
        PLAIN.read(&format!("{}/{name}", self.backend)).ok()
    }

    fn publish(&self, values: &[(&str, String)]) -> bool {
        let publish = |scope: store::Scope| {
            values.iter().try_for_each(|(name, value)| scope.write(&format!("{}/{name}", self.path), value))
        };
        store::transaction(publish).is_ok()
    }

    fn set_state(&self, state: u32) {
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

    fn grant(&self, frame: Frame, writable: bool) -> Option<GrantReference> {
        grant::grant(self.domain, frame, writable)
    }

    fn end_grant(&self, reference: GrantReference) -> bool {
        grant::end(reference)
    }

    fn establish_event(&self, cpu: usize, handler: InterruptHandler) -> Option<u32> {
        let port = events::allocate(self.domain)?;
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
