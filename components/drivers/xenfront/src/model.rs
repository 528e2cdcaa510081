//! A backend for tests and fuzzing: a device whose pages, events and values are at hand.

use std::{
    boxed::Box,
    collections::HashMap,
    string::String,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    vec::Vec,
};

use rumpuser::{
    Frame,
    device::{GrantReference, InterruptHandler, XenbusDevice, xenbus_state},
};

use crate::ring::backend::Backend;

/// See the module.
pub struct Model {
    kind: &'static str,
    values: Mutex<HashMap<String, String>>,
    published: Mutex<HashMap<String, String>>,
    grants: Mutex<HashMap<GrantReference, (Frame, bool)>>,
    next: AtomicU32,
    /// How many pages can be granted.
    most: AtomicUsize,
    handler: Mutex<Option<Arc<InterruptHandler>>>,
    keeps: AtomicBool,
    restarted: AtomicBool,
    stopped: AtomicBool,
    slow: AtomicBool,
    state: AtomicU32,
    frontend: AtomicU32,
}

impl Model {
    /// A device with these values of the backend's.
    pub fn new(kind: &'static str, values: &[(&str, &str)]) -> Arc<Model> {
        Arc::new(Model {
            kind,
            values: Mutex::new(
                values.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ),
            published: Mutex::default(),
            grants: Mutex::default(),
            next: AtomicU32::new(8),
            most: AtomicUsize::new(usize::MAX),
            handler: Mutex::default(),
            keeps: AtomicBool::new(false),
            restarted: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            state: AtomicU32::new(xenbus_state::INIT_WAIT),
            frontend: AtomicU32::new(0),
        })
    }

    /// Changes one of the values, or the hardware address (`mac`).
    pub fn set(&self, name: &str, value: &str) {
        self.values.lock().unwrap().insert(name.into(), value.into());
    }

    /// What was published last under a name.
    pub fn published(&self, name: &str) -> Option<String> {
        self.published.lock().unwrap().get(name).cloned()
    }

    /// The state that the frontend has set last; 0 before it has.
    pub fn frontend_state(&self) -> u32 {
        self.frontend.load(Ordering::SeqCst)
    }

    /// The page of a reference.
    pub fn frame(&self, reference: GrantReference) -> Option<Frame> {
        self.grants.lock().unwrap().get(&reference).map(|grant| grant.0)
    }

    /// How many pages are granted.
    pub fn granted(&self) -> usize {
        self.grants.lock().unwrap().len()
    }

    /// No more pages than so many can be granted from now on.
    pub fn limit_grants(&self, most: usize) {
        self.most.store(most, Ordering::SeqCst);
    }

    /// The backend lets go of no page from now on.
    pub fn keep_grants(&self) {
        self.keeps.store(true, Ordering::SeqCst);
    }

    /// The page of a ring that was published.
    pub fn ring(&self, name: &str) -> Frame {
        let reference = self.published.lock().unwrap()[name].parse().unwrap();
        self.frame(reference).expect("granted")
    }

    /// Raises the event.
    pub fn raise(&self) {
        let handler = self.handler.lock().unwrap().clone();
        if let Some(handler) = handler {
            handler();
        }
    }

    /// Answers requests of the ring `ring-ref` in a thread: each gets the answers that `answer` makes.
    pub fn serve_in_thread(
        self: &Arc<Self>,
        entry: usize,
        mut answer: impl FnMut(&Model, Vec<u32>) -> Vec<Vec<u32>> + Send + 'static,
    ) {
        let model = self.clone();
        let mut backend = Backend::of(self.ring("ring-ref"), entry);
        thread::spawn(move || {
            while !model.stopped.load(Ordering::SeqCst) {
                let Some(request) = backend.request() else {
                    thread::yield_now();
                    continue;
                };
                for words in answer(&model, request) {
                    backend.answer(&words);
                }
                model.raise();
            }
        });
    }

    /// The backend doesn't connect as long as anybody waits for it.
    pub fn take_time(&self) {
        self.slow.store(true, Ordering::SeqCst);
    }

    /// Makes the backend a new one, which waits for the frontend and knows nothing of before.
    pub fn restart(&self) {
        self.grants.lock().unwrap().clear();
        self.state.store(xenbus_state::INIT_WAIT, Ordering::SeqCst);
        self.restarted.store(true, Ordering::SeqCst);
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }
}

impl XenbusDevice for Model {
    fn kind(&self) -> &str {
        self.kind
    }

    fn number(&self) -> u32 {
        0
    }

    fn frontend_value(&self, name: &str) -> Option<String> {
        match name {
            "mac" => Some(self.backend_value(name).unwrap_or("00:16:3e:01:02:03".into())),
            "virtual-device" => Some("51712".into()),
            _ => None,
        }
    }

    fn backend_value(&self, name: &str) -> Option<String> {
        self.values.lock().unwrap().get(name).cloned()
    }

    fn publish(&self, values: &[(&str, String)]) -> bool {
        let values = values.iter().map(|(name, value)| ((*name).into(), value.clone()));
        self.published.lock().unwrap().extend(values);
        true
    }

    fn set_state(&self, state: u32) {
        self.frontend.store(state, Ordering::SeqCst);
        let connects = matches!(state, xenbus_state::INITIALISED | xenbus_state::CONNECTED);
        if connects && !self.slow.load(Ordering::SeqCst) {
            self.state.store(xenbus_state::CONNECTED, Ordering::SeqCst);
        }
    }

    fn wait_for_backend(&self, _states: &[u32]) -> u32 {
        self.state.load(Ordering::SeqCst)
    }

    fn set_state_handler(&self, _handler: Box<dyn Fn(u32) + Send + Sync>) {}

    fn grant(&self, frame: Frame, writable: bool) -> Option<GrantReference> {
        let reference = self.next.fetch_add(1, Ordering::SeqCst);
        let mut grants = self.grants.lock().unwrap();
        (grants.len() < self.most.load(Ordering::SeqCst)).then(|| {
            grants.insert(reference, (frame, writable));
            reference
        })
    }

    fn exchange_grant(&self, reference: GrantReference, frame: Frame, writable: bool) -> bool {
        self.end_grant(reference) && {
            self.grants.lock().unwrap().insert(reference, (frame, writable));
            true
        }
    }

    fn end_grant(&self, reference: GrantReference) -> bool {
        if self.keeps.load(Ordering::SeqCst) {
            return false;
        }
        let known = self.grants.lock().unwrap().remove(&reference).is_some();
        // What was granted before is no more.
        known || self.restarted.load(Ordering::SeqCst)
    }

    fn establish_event(&self, _cpu: usize, handler: InterruptHandler) -> Option<u32> {
        *self.handler.lock().unwrap() = Some(Arc::new(handler));
        Some(5)
    }

    fn notify(&self, _channel: u32) {}

    fn close_event(&self, _channel: u32) {
        *self.handler.lock().unwrap() = None;
    }
}
