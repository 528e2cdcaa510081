//! inotify(7): a queue of what happened to the files and directories that a program watches.

use alloc::{
    collections::{BTreeMap, VecDeque},
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicU32, Ordering},
};

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    uio::Sink,
    wait::WaitQueue,
};
use rumpuser::{NEVER, rumpuser_copyout, sync::Mutex};
use rumpvfs::{
    access,
    file::{File, OpenFlags},
    notify::{self, Watcher, event},
    vnode::{Kind, Vnode},
};

use crate::{task::Task, user::read_path};

use super::{context::Names, open::install_anonymous};

/// Events that wait to be read, at the most.
const QUEUE_LIMIT: usize = 16384;
/// Files that one descriptor watches, at the most.
const WATCH_LIMIT: usize = 1 << 16;
const ONLYDIR: u32 = 0x0100_0000;
const DONT_FOLLOW: u32 = 0x0200_0000;
const EXCL_UNLINK: u32 = 0x0400_0000;
const MASK_CREATE: u32 = 0x1000_0000;
const MASK_ADD: u32 = 0x2000_0000;
const ONESHOT: u32 = 0x8000_0000;
const FIONREAD: u32 = 0x541b;
/// `struct inotify_event` without the name.
const HEADER: usize = 16;

/// The descriptor.
pub struct Inotify {
    queue: Mutex<VecDeque<Vec<u8>>>,
    watches: Mutex<Watches>,
    changes: WaitQueue,
}

#[derive(Default)]
struct Watches {
    by_number: BTreeMap<i32, Arc<Watch>>,
    last: i32,
}

/// A watched file.
struct Watch {
    inotify: Weak<Inotify>,
    number: i32,
    file: (u64, u64),
    mask: AtomicU32,
}

/// An event as a program reads it.
fn encode(number: i32, mask: u32, cookie: u32, name: &[u8]) -> Vec<u8> {
    let length = if name.is_empty() { 0 } else { (name.len() + 1).next_multiple_of(HEADER) };
    let mut bytes = Vec::with_capacity(HEADER + length);
    bytes.extend_from_slice(&number.to_le_bytes());
    for word in [mask, cookie, length as u32] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(name);
    bytes.resize(HEADER + length, 0);
    bytes
}

impl Inotify {
    fn new() -> Arc<Self> {
        Arc::new(Inotify {
            queue: Mutex::new(VecDeque::new()),
            watches: Mutex::new(Watches::default()),
            changes: WaitQueue::new(),
        })
    }

    fn push(&self, bytes: Vec<u8>) {
        {
            let mut queue = self.queue.lock();
            if queue.back() == Some(&bytes) {
                return;
            }
            match queue.len() {
                QUEUE_LIMIT.. => return,
                count if count == QUEUE_LIMIT - 1 => {
                    queue.push_back(encode(-1, event::Q_OVERFLOW, 0, b""));
                }
                _ => queue.push_back(bytes),
            }
        }
        self.changes.notify(Events::IN | Events::RDNORM);
    }

    fn add(self: &Arc<Self>, vnode: &Arc<dyn Vnode>, mask: u32) -> Result<i32> {
        let attributes = vnode.attributes()?;
        let file = (attributes.device, attributes.inode);
        let wanted = mask & (event::ALL | EXCL_UNLINK | ONESHOT);
        let mut watches = self.watches.lock();
        if let Some(watch) = watches.by_number.values().find(|watch| watch.file == file) {
            if mask & MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            let old = if mask & MASK_ADD != 0 { watch.mask.load(Ordering::Relaxed) } else { 0 };
            watch.mask.store(old | wanted, Ordering::Relaxed);
            return Ok(watch.number);
        }
        if watches.by_number.len() >= WATCH_LIMIT {
            return Err(Errno::ENOSPC);
        }
        watches.last = watches.last.checked_add(1).ok_or(Errno::ENOSPC)?;
        let number = watches.last;
        let watch =
            Arc::new(Watch { inotify: Arc::downgrade(self), number, file, mask: AtomicU32::new(wanted) });
        watches.by_number.insert(number, watch.clone());
        drop(watches);
        let watcher: Arc<dyn Watcher> = watch;
        notify::watch(vnode, &watcher);
        Ok(number)
    }

    fn remove(&self, number: i32) -> Result<()> {
        let watch = self.watches.lock().by_number.remove(&number);
        drop(watch.ok_or(Errno::EINVAL)?);
        notify::tidy();
        self.push(encode(number, event::IGNORED, 0, b""));
        Ok(())
    }
}

impl Watcher for Watch {
    fn event(&self, mask: u32, cookie: u32, name: &[u8]) {
        let wanted = self.mask.load(Ordering::Relaxed);
        let Some(inotify) = self.inotify.upgrade() else { return };
        if mask & wanted & event::ALL != 0 {
            inotify.push(encode(self.number, mask, cookie, name));
        }
        let last = mask & event::DELETE_SELF != 0 || wanted & ONESHOT != 0 && mask & wanted & event::ALL != 0;
        if last {
            let watch = inotify.watches.lock().by_number.remove(&self.number);
            if watch.is_some() {
                inotify.push(encode(self.number, event::IGNORED, 0, b""));
            }
        }
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        self.watches.get_mut().by_number.clear();
        notify::tidy();
    }
}

impl File for Inotify {
    fn read(&self, sink: &mut Sink<'_>, _offset: u64, flags: OpenFlags) -> Result<usize> {
        // One thread takes an event; events that don't fit stay.
        let room = sink.remaining();
        let take = || {
            let mut queue = self.queue.lock();
            let fits = queue.front()?.len() <= room;
            Some(if fits { queue.pop_front().ok_or(Errno::EINVAL) } else { Err(Errno::EINVAL) })
        };
        let mut next = match take() {
            Some(first) => first?,
            None if flags.contains(OpenFlags::NON_BLOCKING) => return Err(Errno::EAGAIN),
            None => self.changes.wait(NEVER, take)??,
        };
        let mut done = 0;
        loop {
            done += sink.put(&next)?;
            let mut queue = self.queue.lock();
            if queue.front().is_none_or(|event| event.len() > sink.remaining()) {
                return Ok(done);
            }
            let Some(event) = queue.pop_front() else { return Ok(done) };
            next = event;
        }
    }

    fn poll(&self) -> Events {
        if self.queue.lock().is_empty() { Events::empty() } else { Events::IN | Events::RDNORM }
    }

    fn observe(&self, observer: &Arc<dyn Observer>) {
        self.changes.observe(observer);
    }

    fn unobserve(&self, observer: &Arc<dyn Observer>) {
        self.changes.unobserve(observer);
    }

    fn ioctl(&self, request: u32, argument: usize) -> Result<usize> {
        if request != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let bytes: usize = self.queue.lock().iter().map(Vec::len).sum();
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        if rumpuser_copyout(&bytes.to_le_bytes(), argument) > 0 { Err(Errno::EFAULT) } else { Ok(0) }
    }

    fn description(&self) -> String {
        String::from("anon_inode:inotify")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// inotify_init1(2).
pub fn inotify_init1(task: &Task, flags: u32) -> Result<usize> {
    let flags = OpenFlags::from_bits(flags)
        .filter(|&flags| (OpenFlags::CLOSE_ON_EXEC | OpenFlags::NON_BLOCKING).contains(flags))
        .ok_or(Errno::EINVAL)?;
    install_anonymous(task, Inotify::new(), flags)
}

/// inotify_init(2).
pub fn inotify_init(task: &Task) -> Result<usize> {
    inotify_init1(task, 0)
}

/// inotify_add_watch(2).
pub fn inotify_add_watch(task: &Task, descriptor: i32, path: usize, mask: u32) -> Result<usize> {
    if mask & event::ALL == 0 || mask & MASK_ADD != 0 && mask & MASK_CREATE != 0 {
        return Err(Errno::EINVAL);
    }
    let file = task.files().get_io(descriptor)?;
    let inotify = file.file().clone();
    let path = read_path(path)?;
    let names = Names::new(task)?;
    let location = names.lookup().resolve(&path, mask & DONT_FOLLOW == 0)?;
    if mask & ONLYDIR != 0 && location.vnode().kind() != Kind::Directory {
        return Err(Errno::ENOTDIR);
    }
    names.credentials().check(location.vnode(), access::READ)?;
    let inotify: Arc<dyn Any + Send + Sync> = inotify;
    let inotify = inotify.downcast::<Inotify>().map_err(|_| Errno::EINVAL)?;
    inotify.add(location.vnode(), mask).map(|number| number as usize)
}

/// inotify_rm_watch(2).
pub fn inotify_rm_watch(task: &Task, descriptor: i32, number: i32) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    file.downcast::<Inotify>().ok_or(Errno::EINVAL)?.remove(number)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumpvfs::{
        access::Credentials,
        mount::{Mount, MountOptions},
        namei::Lookup,
        tmpfs::{Limits, TmpFs},
    };

    #[test]
    fn names_in_a_watched_directory_are_told() {
        let file_system = TmpFs::new(Limits::default(), 0o755).expect("tmpfs");
        let root = Mount::root(file_system, MountOptions::default());
        let credentials = Credentials::root();
        let lookup = Lookup::new(&root, &root, &credentials);
        let inotify = Inotify::new();
        let wanted = event::CREATE | event::DELETE | event::MOVED_FROM | event::MOVED_TO;
        assert_eq!(inotify.add(root.vnode(), wanted), Ok(1));
        assert_eq!(inotify.add(root.vnode(), wanted), Ok(1));
        drop(lookup.open(b"/file", OpenFlags::CREATE | OpenFlags::READ_WRITE, 0o644).expect("open"));
        lookup.rename(b"/file", &lookup, b"/other", false, false).expect("rename");
        lookup.remove(b"/other", false).expect("unlink");
        inotify.remove(1).expect("watched");
        let mut bytes = [0; 1024];
        let length = inotify.read(&mut Sink::kernel(&mut bytes), 0, OpenFlags::NON_BLOCKING).expect("events");
        let mut events = Vec::new();
        let mut at = 0;
        while at < length {
            let word = |offset: usize| {
                let part = bytes[at + offset..at + offset + 4].try_into().expect("four bytes");
                u32::from_le_bytes(part)
            };
            let size = word(12) as usize;
            let name = &bytes[at + HEADER..at + HEADER + size];
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
            events.push((word(4), name));
            at += HEADER + size;
        }
        let expected = [
            (event::CREATE, &b"file"[..]),
            (event::MOVED_FROM, b"file"),
            (event::MOVED_TO, b"other"),
            (event::DELETE, b"other"),
            (event::IGNORED, b""),
        ];
        assert_eq!(events, expected.map(|(mask, name)| (mask, name.to_vec())));
        assert!(inotify.poll().is_empty());
    }
}
