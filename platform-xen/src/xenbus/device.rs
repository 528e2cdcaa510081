//! A frontend, and what becomes of it when its backend closes, vanishes, or begins anew.

use alloc::{
    borrow::ToOwned,
    boxed::Box,
    format,
    string::{String, ToString},
    sync::Arc,
};
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use rumpuser::{
    Frame, Thread,
    device::{GrantReference, InterruptHandler, XenbusDevice, xenbus_state},
    rumpuser_clock_monotonic, rumpuser_park, rumpuser_thread_current,
    sync::{InterruptLock, Mutex},
};

use super::backend_of;
use crate::{
    events, grant,
    store::{self, PLAIN, Watch},
};

/// The state of a backend without a node.
const GONE: u32 = 0;
/// How long a backend may take for a step, in nanoseconds: on a busy host, no disk is to be given up sooner than its requests are.
const PATIENCE: u64 = 60_000_000_000;

type StateHandler = Box<dyn Fn(u32) + Send + Sync>;
type ResumeHandler = Arc<dyn Fn() -> bool + Send + Sync>;

/// What there is between the driver and its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// They work, or are about to.
    Together,
    /// The backend closes, and is to come back.
    Parting,
    /// The driver waits for a backend.
    Apart,
}

/// A frontend.
pub struct Device {
    kind: String,
    number: u32,
    /// Its node.
    pub path: String,
    /// The backend's domain and node; they change when this domain is restored, or when the toolstack says so.
    domain: AtomicU16,
    backend: Mutex<String>,
    waiting: InterruptLock<Option<Thread>>,
    handler: Mutex<Option<StateHandler>>,
    resume: Mutex<Option<ResumeHandler>>,
    /// The driver sees to a new backend.
    resuming: AtomicBool,
    /// Held while the driver is told of a change.
    changing: Mutex<()>,
    phase: InterruptLock<Phase>,
    /// The driver has given the device up, or never got it.
    closed: AtomicBool,
    /// The backend was seen in another state since then: when it waits for a frontend, it is for a new device.
    left: AtomicBool,
    watch: Mutex<Option<Watch>>,
}

impl Device {
    /// A frontend whose backend is watched.
    pub fn new(kind: &str, number: u32, path: String, backend: String, domain: u16) -> Option<Arc<Device>> {
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
            phase: InterruptLock::new(Phase::Together),
            closed: AtomicBool::new(false),
            left: AtomicBool::new(false),
            watch: Mutex::new(None),
        });
        device.watch()?;
        Some(device)
    }

    /// Watches the state of its backend.
    fn watch(self: &Arc<Self>) -> Option<()> {
        let node = format!("{}/state", self.backend.lock());
        let weak = Arc::downgrade(self);
        let changed = move |_: &str| {
            if let Some(device) = weak.upgrade() {
                device.state_changed();
            }
        };
        let before = self.watch.lock().replace(store::watch(&node, changed).ok()?);
        drop(before);
        Some(())
    }

    /// Whether a new device is for the drivers: not if its backend is about to go.
    pub fn is_offered(&self) -> bool {
        let going = matches!(self.backend_state(), GONE | xenbus_state::CLOSING | xenbus_state::CLOSED);
        if going {
            self.left.store(true, Ordering::SeqCst);
            self.closed.store(true, Ordering::SeqCst);
        }
        !going
    }

    fn phase(&self) -> Phase {
        *self.phase.lock()
    }

    fn set_phase(&self, phase: Phase) {
        *self.phase.lock() = phase;
    }

    /// Whether the driver waits for a backend.
    pub fn is_waiting(&self) -> bool {
        !self.is_closed() && self.phase() == Phase::Apart
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Looks at the backend that xenstore names now: whether it waits for a frontend that doesn't work with it yet.
    pub fn begins_with(self: &Arc<Self>, backend: &str) -> bool {
        if *self.backend.lock() != backend {
            if !self.survives() {
                return true;
            }
            let _changing = self.changing.lock();
            if self.phase() != Phase::Apart {
                self.part();
            }
            self.take_backend();
        }
        let free = if self.is_closed() { self.left.load(Ordering::SeqCst) } else { self.is_waiting() };
        free && self.backend_state() == xenbus_state::INIT_WAIT
    }

    /// Takes the backend that xenstore names; returns whether there is one.
    fn take_backend(self: &Arc<Self>) -> bool {
        let Some((backend, domain)) = backend_of(&self.path) else { return false };
        *self.backend.lock() = backend;
        self.domain.store(domain, Ordering::SeqCst);
        let _ = self.watch();
        true
    }

    /// Goes on with a new backend; false if the driver can't, so that it is a new device.
    pub fn resume(self: &Arc<Self>) -> bool {
        if !self.survives() {
            return false;
        }
        self.hold();
        let mut goes_on = true;
        if self.take_backend() {
            self.set_phase(Phase::Together);
            let handler = self.resume.lock().clone();
            goes_on = handler.is_none_or(|handler| handler());
        }
        self.release();
        goes_on
    }

    /// Has changes of the backend's state wait; none is under way any more.
    pub fn hold(&self) {
        let changing = self.changing.lock();
        self.resuming.store(true, Ordering::SeqCst);
        drop(changing);
    }

    /// Looks at what came meanwhile.
    pub fn release(&self) {
        self.resuming.store(false, Ordering::SeqCst);
        self.state_changed();
    }

    /// The toolstack has taken the frontend away, or another device has its place.
    pub fn end(&self) {
        let _changing = self.changing.lock();
        self.tell(xenbus_state::CLOSED);
    }

    fn backend_state(&self) -> u32 {
        self.backend_value("state").and_then(|state| state.trim().parse().ok()).unwrap_or(GONE)
    }

    /// The driver lets go of a backend whose place another may take.
    fn part(&self) {
        self.set_phase(Phase::Apart);
        self.tell(GONE);
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
        if !self.survives() {
            return self.ending(state);
        }
        // The toolstack takes this away before it closes a device for good.
        let returns = || self.backend_value("online").is_some_and(|online| online.trim() == "1");
        match (self.phase(), state) {
            (Phase::Together, xenbus_state::CLOSING) if returns() => {
                self.set_phase(Phase::Parting);
                self.write_state(xenbus_state::CLOSED);
            }
            (Phase::Parting, xenbus_state::CLOSING) if returns() => {}
            (Phase::Together | Phase::Parting, GONE) => self.part(),
            (Phase::Together | Phase::Parting, xenbus_state::CLOSED) if returns() => {
                self.part();
                // The backend waits for this to begin anew.
                self.write_state(xenbus_state::INITIALISING);
            }
            (Phase::Parting, xenbus_state::INIT_WAIT) => {
                self.part();
                super::scan_aside();
            }
            (Phase::Together | Phase::Parting, _) => self.tell(state),
            (Phase::Apart, xenbus_state::INIT_WAIT) => super::scan_aside(),
            (Phase::Apart, xenbus_state::CLOSED) if returns() => self.write_state(xenbus_state::INITIALISING),
            (Phase::Apart, _) => {}
        }
    }

    /// What there is to do for a device that the driver has given up, or that ends with its backend.
    fn ending(&self, state: u32) {
        if self.is_closed() {
            match state {
                xenbus_state::INIT_WAIT if self.left.load(Ordering::SeqCst) => return super::scan_aside(),
                xenbus_state::INIT_WAIT => return,
                _ => self.left.store(true, Ordering::SeqCst),
            }
        }
        self.tell(state);
        if state == GONE {
            super::forget(self);
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
        !self.is_closed() && self.resume.lock().is_some()
    }

    /// Writes the frontend's state, unless the toolstack has taken its node away.
    fn write_state(&self, state: u32) {
        let node = format!("{}/state", self.path);
        let _ = store::transaction(|scope| {
            scope.read(&node)?;
            scope.write(&node, &state.to_string())
        });
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
        self.write_state(state);
    }

    fn wait_for_backend(&self, states: &[u32]) -> u32 {
        *self.waiting.lock() = Some(rumpuser_thread_current());
        let limit = rumpuser_clock_monotonic().saturating_add(PATIENCE);
        let state = loop {
            let state = self.backend_state();
            if state == GONE || states.contains(&state) || rumpuser_clock_monotonic() > limit {
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

    fn set_resume_handler(&self, handler: Box<dyn Fn() -> bool + Send + Sync>) {
        *self.resume.lock() = Some(Arc::from(handler));
    }

    fn grant(&self, frame: Frame, writable: bool) -> Option<GrantReference> {
        grant::grant(self.domain.load(Ordering::Relaxed), frame, writable)
    }

    fn end_grant(&self, reference: GrantReference) -> bool {
        grant::end(reference)
    }

    fn exchange_grant(&self, reference: GrantReference, frame: Frame, writable: bool) -> bool {
        grant::exchange(self.domain.load(Ordering::Relaxed), reference, frame, writable)
    }

    fn establish_event(&self, cpu: usize, handler: InterruptHandler) -> Option<u32> {
        let port = events::allocate(self.domain.load(Ordering::Relaxed))?;
        events::bind(port, u32::try_from(cpu).unwrap_or(0));
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
