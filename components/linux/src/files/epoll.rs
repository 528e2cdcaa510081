//! epoll(7): a set of interests in open files, and the queue of those that may be ready.

use alloc::{
    collections::VecDeque,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use hashbrown::HashMap;
use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    wait::WaitQueue,
};
use rumpnet::interface;
use rumpuser::sync::{InterruptLock, Mutex};
use rumpvfs::file::File;

use super::open_file::OpenFile;

/// Flags of an interest, beside the events.
pub const EPOLLEXCLUSIVE: u32 = 1 << 28;
/// Accepted and without effect: the machine does not sleep.
pub const EPOLLWAKEUP: u32 = 1 << 29;
/// One report, then silence until modified.
pub const EPOLLONESHOT: u32 = 1 << 30;
/// Reports changes, not states.
pub const EPOLLET: u32 = 1 << 31;

/// How many epolls a chain of epolls that watch each other may have.
const NESTING: usize = 5;

/// What is reported whether asked for or not.
const ALWAYS: u32 = Events::ERR.bits() | Events::HUP.bits();

/// The queue of interests that may be ready, apart from the epoll so that notifications need no count of it.
#[derive(Default)]
struct Ready {
    queue: InterruptLock<VecDeque<Arc<Interest>>>,
    changes: WaitQueue,
}

/// An interest of an epoll in an open file.
pub struct Interest {
    descriptor: i32,
    file: Weak<OpenFile>,
    epoll: Weak<Epoll>,
    ready: Arc<Ready>,
    myself: Weak<Interest>,
    /// `EPOLL*`; 0 while a one-shot interest is silent.
    events: AtomicU32,
    data: AtomicU64,
    queued: AtomicBool,
}

impl Interest {
    fn mask(&self) -> u32 {
        self.events.load(Ordering::SeqCst)
    }

    fn observer(self: &Arc<Self>) -> Arc<dyn Observer> {
        self.clone()
    }

    /// The open file's last reference is gone.
    pub(super) fn file_closed(self: &Arc<Self>, file: &dyn File) {
        self.events.store(0, Ordering::SeqCst);
        file.unobserve(&self.observer());
        if let Some(epoll) = self.epoll.upgrade() {
            epoll.forget(self);
        }
    }

    /// What the file is ready for, of what is asked.
    fn ready_events(&self, file: &OpenFile) -> u32 {
        let mask = self.mask();
        if mask == 0 { 0 } else { file.file().poll().bits() & (mask | ALWAYS) }
    }
}

impl Observer for Interest {
    fn notify(&self, events: Events) {
        let mask = self.mask();
        if mask == 0 || events.bits() & (mask | ALWAYS) == 0 {
            return;
        }
        if !self.queued.swap(true, Ordering::SeqCst)
            && let Some(myself) = self.myself.upgrade()
        {
            self.ready.queue.lock().push_back(myself);
        }
        self.ready.changes.notify_one(Events::IN | Events::RDNORM);
    }
}

type Key = (i32, usize);

/// An epoll instance.
pub struct Epoll {
    ready: Arc<Ready>,
    interests: Mutex<HashMap<Key, Arc<Interest>>>,
    /// Interests that were removed while queued. They leave the queue in their turn, or all at once when they are many.
    removed: AtomicUsize,
    /// The epolls that watch this one; changed with [`NESTED`] held.
    watchers: Mutex<Vec<Weak<Epoll>>>,
    myself: Weak<Epoll>,
}

/// What epoll_ctl(2) sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// `EPOLL*`.
    pub events: u32,
    /// Handed back with every report.
    pub data: u64,
}

/// Held while epolls come to watch epolls, so that no loop comes about.
static NESTED: Mutex<()> = Mutex::new(());

fn key(descriptor: i32, file: &Arc<OpenFile>) -> Key {
    (descriptor, Arc::as_ptr(file).addr())
}

impl Epoll {
    /// An instance without interests.
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|myself| Epoll {
            ready: Arc::default(),
            interests: Mutex::default(),
            removed: AtomicUsize::new(0),
            watchers: Mutex::default(),
            myself: myself.clone(),
        })
    }

    /// EPOLL_CTL_ADD.
    pub fn add(&self, descriptor: i32, file: &Arc<OpenFile>, setting: Setting) -> Result<()> {
        if !file.file().pollable() {
            return Err(Errno::EPERM);
        }
        let exclusive_allowed = EPOLLEXCLUSIVE
            | EPOLLWAKEUP
            | EPOLLET
            | (Events::IN | Events::OUT | Events::ERR | Events::HUP | Events::RDNORM | Events::WRNORM).bits();
        let target = file.downcast::<Epoll>();
        if setting.events & EPOLLEXCLUSIVE != 0
            && (setting.events & !exclusive_allowed != 0 || target.is_some())
        {
            return Err(Errno::EINVAL);
        }
        let _nested = match target {
            Some(target) => {
                let guard = NESTED.lock();
                self.check_nesting(target)?;
                Some(guard)
            }
            None => None,
        };
        let interest = {
            let mut interests = self.interests.lock();
            if interests.contains_key(&key(descriptor, file)) {
                return Err(Errno::EEXIST);
            }
            let interest = Arc::new_cyclic(|myself| Interest {
                descriptor,
                file: Arc::downgrade(file),
                epoll: self.myself.clone(),
                ready: self.ready.clone(),
                myself: myself.clone(),
                events: AtomicU32::new(setting.events | ALWAYS),
                data: AtomicU64::new(setting.data),
                queued: AtomicBool::new(false),
            });
            interests.insert(key(descriptor, file), interest.clone());
            // An interest is queued once at most: with room for all of them, beside what is queued and perhaps
            // removed, a notification never allocates.
            self.ready.queue.lock().reserve(interests.len() + 1);
            interest
        };
        if let Some(target) = target {
            target.watchers.lock().push(self.myself.clone());
        }
        file.add_watcher(&interest);
        file.file().observe(&interest.observer());
        Self::refresh(&interest, file);
        Ok(())
    }

    /// EPOLL_CTL_MOD.
    pub fn modify(&self, descriptor: i32, file: &Arc<OpenFile>, setting: Setting) -> Result<()> {
        if setting.events & EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        let interest = self.interests.lock().get(&key(descriptor, file)).cloned().ok_or(Errno::ENOENT)?;
        if interest.mask() & EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        interest.data.store(setting.data, Ordering::SeqCst);
        interest.events.store(setting.events | ALWAYS, Ordering::SeqCst);
        Self::refresh(&interest, file);
        Ok(())
    }

    /// EPOLL_CTL_DEL.
    pub fn delete(&self, descriptor: i32, file: &Arc<OpenFile>) -> Result<()> {
        let interest = self.interests.lock().remove(&key(descriptor, file)).ok_or(Errno::ENOENT)?;
        interest.events.store(0, Ordering::SeqCst);
        file.file().unobserve(&interest.observer());
        file.remove_watcher(&interest);
        self.unqueue(&interest);
        if let Some(target) = file.downcast::<Epoll>() {
            target.forget_watcher(self);
        }
        Ok(())
    }

    fn forget_watcher(&self, watcher: &Epoll) {
        let _nested = NESTED.lock();
        let mut watchers = self.watchers.lock();
        if let Some(index) = watchers.iter().position(|other| core::ptr::eq(other.as_ptr(), watcher)) {
            watchers.swap_remove(index);
        }
    }

    /// Queues an interest that is new or was changed, if its file is ready.
    fn refresh(interest: &Arc<Interest>, file: &OpenFile) {
        let events = interest.ready_events(file);
        if events != 0 {
            interest.notify(Events::from_bits_truncate(events));
        }
    }

    fn forget(&self, interest: &Arc<Interest>) {
        let removed = self.interests.lock().remove(&(interest.descriptor, interest.file.as_ptr().addr()));
        if removed.is_some() {
            self.unqueue(interest);
        }
    }

    /// An interest is removed. It stays in the queue, where a search for it would take long.
    fn unqueue(&self, interest: &Interest) {
        if interest.queued.load(Ordering::SeqCst) {
            let removed = self.removed.fetch_add(1, Ordering::Relaxed);
            if removed > self.interests.lock().len() + 64 {
                self.sweep();
            }
        }
    }

    /// Takes removed interests out of the queue.
    fn sweep(&self) {
        self.removed.store(0, Ordering::Relaxed);
        let mut left = self.ready.queue.lock().len();
        while left > 0 {
            let Some(interest) = self.ready.queue.lock().pop_front() else { break };
            left -= 1;
            interest.queued.store(false, Ordering::SeqCst);
            let lives = interest.mask() != 0 && interest.file.strong_count() > 0;
            if lives && !interest.queued.swap(true, Ordering::SeqCst) {
                self.ready.queue.lock().push_back(interest);
            }
        }
    }

    /// ELOOP if `target` watches this epoll, at any distance, or the chain through both would be too long.
    fn check_nesting(&self, target: &Epoll) -> Result<()> {
        let below = target.height_below(self, 1)?;
        if self.height_above(1)? + below > NESTING { Err(Errno::ELOOP) } else { Ok(()) }
    }

    /// How many epolls the longest chain down from this one has. ELOOP if `other` is among them.
    fn height_below(&self, other: &Epoll, height: usize) -> Result<usize> {
        if core::ptr::eq(self, other) || height > NESTING {
            return Err(Errno::ELOOP);
        }
        let files: Vec<_> =
            self.interests.lock().values().filter_map(|interest| interest.file.upgrade()).collect();
        let mut most = 1;
        for inner in files.iter().filter_map(|file| file.downcast::<Epoll>()) {
            most = most.max(inner.height_below(other, height + 1)? + 1);
        }
        Ok(most)
    }

    /// How many epolls the longest chain up from this one has.
    fn height_above(&self, height: usize) -> Result<usize> {
        if height > NESTING {
            return Err(Errno::ELOOP);
        }
        let watchers: Vec<_> = {
            let mut watchers = self.watchers.lock();
            watchers.retain(|watcher| watcher.strong_count() > 0);
            watchers.iter().filter_map(Weak::upgrade).collect()
        };
        let mut most = 1;
        for outer in watchers {
            most = most.max(outer.height_above(height + 1)? + 1);
        }
        Ok(most)
    }

    /// Takes up to `most` reports.
    fn collect(&self, most: usize, reports: &mut Vec<(u32, u64)>) {
        let mut left = self.ready.queue.lock().len();
        while reports.len() < most && left > 0 {
            let Some(interest) = self.ready.queue.lock().pop_front() else { break };
            left -= 1;
            interest.queued.store(false, Ordering::SeqCst);
            let Some(file) = interest.file.upgrade() else { continue };
            let events = interest.ready_events(&file);
            if events == 0 {
                continue;
            }
            reports.push((events, interest.data.load(Ordering::SeqCst)));
            let mask = interest.mask();
            if mask & EPOLLONESHOT != 0 {
                interest.events.store(0, Ordering::SeqCst);
            } else if mask & EPOLLET == 0 && !interest.queued.swap(true, Ordering::SeqCst) {
                self.ready.queue.lock().push_back(interest);
            }
        }
    }

    /// epoll_wait(2): waits until the monotonic `deadline` (0: not at all) for up to `most` reports.
    pub fn wait(&self, most: usize, deadline: u64) -> Result<Vec<(u32, u64)>> {
        let mut reports = Vec::new();
        let mut attempt = || {
            if self.ready.queue.lock().is_empty() {
                return None;
            }
            self.collect(most, &mut reports);
            (!reports.is_empty()).then_some(())
        };
        if deadline == 0 {
            if attempt().is_none() && interface::poll() {
                attempt();
            }
        } else {
            match interface::wait(&self.ready.changes, deadline, attempt) {
                Ok(()) => {}
                Err(rumpkern::wait::WaitError::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !reports.is_empty() && !self.ready.queue.lock().is_empty() {
            // There may be more, for other waiters.
            self.ready.changes.wake_one();
        }
        Ok(reports)
    }

    /// The interests, for /proc/self/fdinfo: descriptor, events, data.
    pub fn interests(&self) -> Vec<(i32, u32, u64)> {
        let interests = self.interests.lock();
        interests
            .values()
            .map(|interest| (interest.descriptor, interest.mask(), interest.data.load(Ordering::Relaxed)))
            .collect()
    }
}

impl File for Epoll {
    fn poll(&self) -> Events {
        let queue: Vec<_> = self.ready.queue.lock().iter().cloned().collect();
        let ready = queue
            .iter()
            .any(|interest| interest.file.upgrade().is_some_and(|file| interest.ready_events(&file) != 0));
        if ready { Events::IN | Events::RDNORM } else { Events::empty() }
    }

    fn observe(&self, observer: &Arc<dyn Observer>) {
        self.ready.changes.observe(observer);
    }

    fn unobserve(&self, observer: &Arc<dyn Observer>) {
        self.ready.changes.unobserve(observer);
    }

    fn description(&self) -> String {
        String::from("anon_inode:[eventpoll]")
    }

    fn close(&self) {
        let interests: Vec<_> = self.interests.lock().drain().map(|(_, interest)| interest).collect();
        for interest in &interests {
            interest.events.store(0, Ordering::SeqCst);
            if let Some(file) = interest.file.upgrade() {
                file.file().unobserve(&interest.observer());
                file.remove_watcher(interest);
            }
        }
        let queue = core::mem::take(&mut *self.ready.queue.lock());
        drop(queue);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{thread, time::Duration, vec};

    use rumpkern::uio::{Sink, Source};
    use rumpuser::NEVER;
    use rumpvfs::file::OpenFlags;

    use super::*;

    const IN: u32 = 1;
    const OUT: u32 = 4;

    fn pipe() -> (Arc<OpenFile>, Arc<OpenFile>) {
        let (reader, writer) = rumpvfs::pipe::pipe(0, 0);
        (
            OpenFile::new(reader, OpenFlags::default(), None),
            OpenFile::new(writer, OpenFlags::WRITE_ONLY, None),
        )
    }

    fn setting(events: u32, data: u64) -> Setting {
        Setting { events, data }
    }

    fn write(file: &OpenFile) {
        file.write(&mut Source::kernel(b"x")).unwrap();
    }

    fn read(file: &OpenFile) {
        file.read(&mut Sink::kernel(&mut [0; 8])).unwrap();
    }

    #[test]
    fn level_triggered_interests_repeat() {
        let (reader, writer) = pipe();
        let epoll = Epoll::new();
        epoll.add(3, &reader, setting(IN, 33)).unwrap();
        assert_eq!(epoll.add(3, &reader, setting(IN, 33)), Err(Errno::EEXIST));
        assert_eq!(epoll.wait(8, 0), Ok(vec![]));
        write(&writer);
        assert_eq!(epoll.wait(8, 0), Ok(vec![(IN, 33)]));
        assert_eq!(epoll.wait(8, 0), Ok(vec![(IN, 33)]));
        read(&reader);
        assert_eq!(epoll.wait(8, 0), Ok(vec![]));
        epoll.delete(3, &reader).unwrap();
        assert_eq!(epoll.delete(3, &reader), Err(Errno::ENOENT));
    }

    #[test]
    fn edge_triggered_and_oneshot_interests_report_once() {
        let (reader, writer) = pipe();
        let epoll = Epoll::new();
        epoll.add(3, &reader, setting(IN | EPOLLET, 1)).unwrap();
        epoll.add(4, &writer, setting(OUT | EPOLLONESHOT, 2)).unwrap();
        assert_eq!(epoll.wait(8, 0), Ok(vec![(OUT, 2)]));
        assert_eq!(epoll.wait(8, 0), Ok(vec![]));
        write(&writer);
        assert_eq!(epoll.wait(8, 0), Ok(vec![(IN, 1)]));
        assert_eq!(epoll.wait(8, 0), Ok(vec![]));
        write(&writer);
        assert_eq!(epoll.wait(8, 0), Ok(vec![(IN, 1)]));
        epoll.modify(4, &writer, setting(OUT | EPOLLONESHOT, 5)).unwrap();
        assert_eq!(epoll.wait(8, 0), Ok(vec![(OUT, 5)]));
    }

    #[test]
    fn a_closed_file_leaves_the_set() {
        let (reader, writer) = pipe();
        let epoll = Epoll::new();
        epoll.add(3, &reader, setting(IN, 1)).unwrap();
        epoll.add(4, &writer, setting(OUT, 2)).unwrap();
        drop(reader);
        assert_eq!(epoll.interests().len(), 1);
        assert_eq!(epoll.wait(8, 0), Ok(vec![(OUT | Events::ERR.bits(), 2)]));
    }

    #[test]
    fn interests_that_were_removed_do_not_pile_up() {
        let (_reader, writer) = pipe();
        let epoll = Epoll::new();
        epoll.add(3, &writer, setting(OUT, 3)).unwrap();
        for descriptor in 4..1000 {
            epoll.add(descriptor, &writer, setting(OUT, 4)).unwrap();
            epoll.delete(descriptor, &writer).unwrap();
        }
        assert!(epoll.ready.queue.lock().len() < 100);
        assert_eq!(epoll.wait(8, 0), Ok(vec![(OUT, 3)]));
    }

    #[test]
    fn everything_ready_is_reported_at_once() {
        let (_reader, writer) = pipe();
        let epoll = Epoll::new();
        for descriptor in 0..3000 {
            epoll.add(descriptor, &writer, setting(OUT, 0)).unwrap();
        }
        assert_eq!(epoll.wait(5000, 0).unwrap().len(), 3000);
    }

    #[test]
    fn a_waiter_wakes_up() {
        let (reader, writer) = pipe();
        let epoll = Epoll::new();
        epoll.add(3, &reader, setting(IN, 9)).unwrap();
        let waiter = {
            let epoll = epoll.clone();
            thread::spawn(move || epoll.wait(1, NEVER))
        };
        thread::sleep(Duration::from_millis(5));
        write(&writer);
        assert_eq!(waiter.join().unwrap(), Ok(vec![(IN, 9)]));
    }

    #[test]
    fn nested_epolls_report_and_never_loop() {
        let (reader, writer) = pipe();
        let inner = OpenFile::new(Epoll::new(), OpenFlags::READ_WRITE, None);
        let outer = OpenFile::new(Epoll::new(), OpenFlags::READ_WRITE, None);
        let (inner_epoll, outer_epoll) =
            (inner.downcast::<Epoll>().unwrap(), outer.downcast::<Epoll>().unwrap());
        inner_epoll.add(3, &reader, setting(IN, 1)).unwrap();
        outer_epoll.add(4, &inner, setting(IN, 2)).unwrap();
        assert_eq!(inner_epoll.add(5, &outer, setting(IN, 3)), Err(Errno::ELOOP));
        assert_eq!(outer_epoll.wait(8, 0), Ok(vec![]));
        write(&writer);
        assert_eq!(outer_epoll.wait(8, 0), Ok(vec![(IN, 2)]));
        read(&reader);
        assert_eq!(outer_epoll.wait(8, 0), Ok(vec![]));
    }

    #[test]
    fn a_long_chain_of_epolls_is_refused_whichever_end_it_grows_at() {
        for grows_down in [false, true] {
            let mut chain = vec![OpenFile::new(Epoll::new(), OpenFlags::READ_WRITE, None)];
            let mut refused = 0;
            for _ in 0..10 {
                let next = OpenFile::new(Epoll::new(), OpenFlags::READ_WRITE, None);
                let last = chain.last().unwrap();
                let (outer, inner) = if grows_down { (last, &next) } else { (&next, last) };
                match outer.downcast::<Epoll>().unwrap().add(1, inner, setting(IN, 0)) {
                    Ok(()) => chain.push(next),
                    Err(error) => {
                        assert_eq!(error, Errno::ELOOP);
                        refused += 1;
                    }
                }
            }
            assert_eq!((chain.len(), refused), (NESTING, 11 - NESTING));
        }
    }
}
