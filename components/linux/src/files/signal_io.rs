//! Signals about files (fcntl(2), F_SETOWN): SIGIO for those with O_ASYNC, SIGURG for urgent data of sockets.
//!
//! Files tell of changes with locks held; a thread, started with the first file that has an owner, sends the signals.

use alloc::{
    boxed::Box,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rumpkern::{
    poll::{Events, Observer},
    wait::WaitQueue,
};
use rumpuser::{
    CpuSet, NEVER, ThreadSpec, rumpuser_thread_create,
    sync::{Mutex, SpinLock},
};
use rumpvfs::file::{File, OpenFlags};

use crate::{
    credentials::Credentials,
    process::Process,
    registry,
    signal::{
        SignalInfo,
        number::{SIGIO, SIGURG},
        send,
    },
};

/// `F_OWNER_TID`.
pub const OWNER_TASK: i32 = 0;
/// `F_OWNER_PID`.
pub const OWNER_PROCESS: i32 = 1;
/// `F_OWNER_PGRP`.
pub const OWNER_GROUP: i32 = 2;

/// Who is told of SIGIO and SIGURG (F_SETOWN and its kin).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SignalOwner {
    /// `F_OWNER_*`.
    pub kind: i32,
    /// Its identifier; 0 is nobody.
    pub id: i32,
    /// F_SETSIG.
    pub signal: i32,
    /// Who set it: real and effective user.
    pub set_by: (u32, u32),
    /// The descriptor through which O_ASYNC was set (`si_fd`).
    pub descriptor: i32,
}

/// A file whose changes are signalled.
pub struct Watch {
    owner: SpinLock<SignalOwner>,
    asynchronous: AtomicBool,
    is_socket: bool,
    /// Events of which nobody was told yet.
    events: AtomicU32,
}

/// All watches.
static WATCHES: Mutex<Vec<Weak<Watch>>> = Mutex::new(Vec::new());
static WAKE: WaitQueue = WaitQueue::new();
/// Some watch has events.
static PENDING: AtomicBool = AtomicBool::new(false);

/// The kinds of events that signals tell apart: (what happened, `si_code`, `si_band`).
const KINDS: [(Events, i32, Events); 5] = [
    (Events::IN, 1, Events::IN.union(Events::RDNORM)),
    (Events::OUT, 2, Events::OUT.union(Events::WRNORM).union(Events::WRBAND)),
    (Events::ERR, 4, Events::ERR),
    (Events::PRI, 5, Events::PRI.union(Events::RDBAND)),
    (Events::HUP, 6, Events::HUP.union(Events::ERR)),
];

impl Observer for Watch {
    fn notify(&self, events: Events) {
        let wanted = if self.asynchronous.load(Ordering::Relaxed) { Events::all() } else { Events::PRI };
        if events.intersects(wanted) {
            self.events.fetch_or((events & wanted).bits(), Ordering::Relaxed);
            PENDING.store(true, Ordering::Release);
            WAKE.wake_one();
        }
    }
}

impl Watch {
    /// Tells of what happened since the last time.
    fn tell(&self) {
        let events = Events::from_bits_retain(self.events.swap(0, Ordering::Relaxed));
        if events.is_empty() {
            return;
        }
        let owner = *self.owner.lock();
        if self.is_socket && events.contains(Events::PRI) {
            signal(&owner, SignalInfo::kernel(SIGURG));
        }
        if !self.asynchronous.load(Ordering::Relaxed) {
            return;
        }
        for (event, code, band) in KINDS {
            if !events.contains(event) {
                continue;
            }
            match owner.signal {
                // Urgent data is told by SIGURG.
                0 if event == Events::PRI => {}
                0 => signal(&owner, SignalInfo::kernel(SIGIO)),
                number => {
                    let info = SignalInfo::file(number as u32, code, band.bits(), owner.descriptor);
                    signal(&owner, info);
                }
            }
        }
    }
}

/// Sends to the owner, or SIGIO if its queue of real-time signals is full.
fn signal(owner: &SignalOwner, info: SignalInfo) {
    let to_process = |process: &Arc<Process>| {
        if permitted(owner, process) && !send::to_process(process, info) {
            send::to_process(process, SignalInfo::kernel(SIGIO));
        }
    };
    match owner.kind {
        _ if owner.id == 0 => {}
        OWNER_TASK => {
            if let Some(task) = registry::task(owner.id)
                && permitted(owner, task.process())
                && !send::to_task(&task, info)
            {
                send::to_task(&task, SignalInfo::kernel(SIGIO));
            }
        }
        OWNER_PROCESS => registry::process(owner.id).iter().for_each(to_process),
        _ => registry::group(owner.id).iter().for_each(to_process),
    }
}

/// Whether who set the owner may signal `process`.
fn permitted(owner: &SignalOwner, process: &Process) -> bool {
    let (uid, euid) = owner.set_by;
    let target = process.tasks.lock().first().map(|task| task.shared_credentials());
    let is_target =
        |target: &Credentials| [uid, euid].iter().any(|&id| id == target.uid || id == target.suid);
    euid == 0 || target.is_none_or(|target| is_target(&target))
}

fn serve() {
    loop {
        let _ = WAKE.wait(NEVER, || PENDING.swap(false, Ordering::Acquire).then_some(()));
        let watches: Vec<Arc<Watch>> = WATCHES.lock().iter().filter_map(Weak::upgrade).collect();
        watches.iter().for_each(|watch| watch.tell());
    }
}

/// Starts the thread, once. Without it (no memory) nobody is told anything.
fn start() {
    static STARTED: AtomicBool = AtomicBool::new(false);
    if !STARTED.swap(true, Ordering::AcqRel) {
        let spec = ThreadSpec { name: String::from("sigio"), affinity: CpuSet::MAX, main: Box::new(serve) };
        if rumpuser_thread_create(spec).is_err() {
            STARTED.store(false, Ordering::Release);
        }
    }
}

/// The signals of an open file; most files have none.
#[derive(Default)]
pub struct Signals(SpinLock<Option<Arc<Watch>>>);

impl Signals {
    fn watch(&self) -> Option<Arc<Watch>> {
        self.0.lock().clone()
    }

    /// Who is signalled.
    pub fn owner(&self) -> SignalOwner {
        self.watch().map(|watch| *watch.owner.lock()).unwrap_or_default()
    }

    /// Changes who is signalled.
    pub fn set_owner(&self, file: &dyn File, change: impl FnOnce(&mut SignalOwner)) {
        let watch = self.watch_anyway(file);
        change(&mut watch.owner.lock());
    }

    /// O_ASYNC was set or cleared, through `descriptor`.
    pub fn set_flags(&self, file: &dyn File, flags: OpenFlags, descriptor: i32) {
        let on = flags.contains(OpenFlags::ASYNC);
        let watch = if on { Some(self.watch_anyway(file)) } else { self.watch() };
        if let Some(watch) = watch
            && watch.asynchronous.swap(on, Ordering::Relaxed) != on
        {
            watch.owner.lock().descriptor = descriptor;
        }
    }

    /// The watch, made if there is none.
    fn watch_anyway(&self, file: &dyn File) -> Arc<Watch> {
        if let Some(watch) = self.watch() {
            return watch;
        }
        start();
        let new = Arc::new(Watch {
            owner: SpinLock::new(SignalOwner::default()),
            asynchronous: AtomicBool::new(false),
            is_socket: rumpnet::socket::of_file(file).is_ok(),
            events: AtomicU32::new(0),
        });
        let mut place = self.0.lock();
        if let Some(other) = &*place {
            return other.clone();
        }
        *place = Some(new.clone());
        drop(place);
        WATCHES.lock().push(Arc::downgrade(&new));
        let observer: Arc<dyn Observer> = new.clone();
        file.observe(&observer);
        new
    }

    /// The file is closed.
    pub fn close(&self, file: &dyn File) {
        if let Some(watch) = self.0.lock().take() {
            let observer: Arc<dyn Observer> = watch.clone();
            file.unobserve(&observer);
            WATCHES.lock().retain(|other| !core::ptr::eq(other.as_ptr(), &*watch));
        }
    }
}
