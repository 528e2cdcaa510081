//! signalfd(2): signals that are read.

use alloc::{
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicU64, Ordering},
};

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    uio::Sink,
};
use rumpuser::{NEVER, sync::Mutex};
use rumpvfs::file::{File, OpenFlags};

use crate::{
    process::Process,
    signal::{SignalInfo, SignalSet, deliver, number},
    task::Task,
    user::UserPtr,
};

use super::open::install_anonymous;

/// Bytes in `struct signalfd_siginfo`.
const SIZE: usize = 128;

/// Who watches, and through which process.
type Watcher = (Arc<dyn Observer>, Weak<Process>);

/// See the module. Whoever reads gets the signals of its own.
pub struct SignalFd {
    mask: AtomicU64,
    watchers: Mutex<Vec<Watcher>>,
}

impl SignalFd {
    /// For the signals of a set.
    pub fn new(mask: SignalSet) -> Arc<Self> {
        Arc::new(SignalFd { mask: AtomicU64::new(mask.0), watchers: Mutex::new(Vec::new()) })
    }

    fn mask(&self) -> SignalSet {
        SignalSet(self.mask.load(Ordering::Relaxed))
    }
}

/// `struct signalfd_siginfo`.
fn encode(info: &SignalInfo) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let mut put = |offset: usize, value: u32| {
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    };
    let [first, second, third, fourth] = info.fields;
    put(0, info.signal);
    put(4, info.errno as u32);
    put(8, info.code as u32);
    let is_fault =
        info.code > 0 && info.code != SignalInfo::SI_KERNEL && SignalSet::SYNCHRONOUS.contains(info.signal);
    match info.code {
        _ if is_fault => {
            put(72, first as u32);
            put(76, (first >> 32) as u32);
        }
        SignalInfo::SI_TIMER => {
            put(24, first as u32);
            put(32, (first >> 32) as u32);
            put(44, second as u32);
            put(48, second as u32);
            put(52, (second >> 32) as u32);
        }
        _ if info.signal == number::SIGCHLD && info.code > 0 => {
            put(12, first as u32);
            put(16, (first >> 32) as u32);
            put(40, second as u32);
            put(56, third as u32);
            put(60, (third >> 32) as u32);
            put(64, fourth as u32);
            put(68, (fourth >> 32) as u32);
        }
        _ => {
            put(12, first as u32);
            put(16, (first >> 32) as u32);
            if info.code < 0 {
                put(44, second as u32);
                put(48, second as u32);
                put(52, (second >> 32) as u32);
            }
        }
    }
    bytes
}

impl File for SignalFd {
    fn read(&self, sink: &mut Sink<'_>, _offset: u64, flags: OpenFlags) -> Result<usize> {
        if sink.remaining() < SIZE {
            return Err(Errno::EINVAL);
        }
        let task = Task::current().ok_or(Errno::EINVAL)?;
        let mut done = 0;
        while sink.remaining() >= SIZE {
            let info = match deliver::take(&task, self.mask()) {
                Some(info) => info,
                None if done > 0 => break,
                None if flags.contains(OpenFlags::NON_BLOCKING) => return Err(Errno::EAGAIN),
                None => {
                    let signalled = &task.process().signalled;
                    signalled.wait(NEVER, || deliver::take(&task, self.mask()))?
                }
            };
            match sink.put(&encode(&info)) {
                Ok(SIZE) => done += SIZE,
                Ok(_) => return Err(Errno::EFAULT),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn poll(&self) -> Events {
        let pending = Task::with_current(|task| task.map(deliver::pending).unwrap_or_default());
        if pending.and(self.mask()).is_empty() { Events::empty() } else { Events::IN | Events::RDNORM }
    }

    fn observe(&self, observer: &Arc<dyn Observer>) {
        Task::with_current(|task| {
            if let Some(task) = task {
                self.watchers.lock().push((observer.clone(), Arc::downgrade(task.process())));
                task.process().signalled.observe(observer);
            }
        });
    }

    fn unobserve(&self, observer: &Arc<dyn Observer>) {
        let gone: Vec<_> = {
            let mut watchers = self.watchers.lock();
            watchers.extract_if(.., |(other, _)| Arc::ptr_eq(other, observer)).collect()
        };
        for process in gone.iter().filter_map(|(_, process)| process.upgrade()) {
            process.signalled.unobserve(observer);
        }
    }

    fn description(&self) -> String {
        String::from("anon_inode:[signalfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// signalfd4(2).
pub fn signalfd4(
    task: &Task,
    descriptor: i32,
    mask: UserPtr<SignalSet>,
    mask_size: usize,
    flags: u32,
) -> Result<usize> {
    if mask_size != size_of::<SignalSet>() {
        return Err(Errno::EINVAL);
    }
    let mask = mask.read()?.minus(SignalSet::UNBLOCKABLE);
    let flags = OpenFlags::from_bits(flags)
        .filter(|&flags| (OpenFlags::CLOSE_ON_EXEC | OpenFlags::NON_BLOCKING).contains(flags))
        .ok_or(Errno::EINVAL)?;
    if descriptor == -1 {
        return install_anonymous(task, SignalFd::new(mask), flags | OpenFlags::READ_WRITE);
    }
    let file = task.files().get_io(descriptor)?;
    file.downcast::<SignalFd>().ok_or(Errno::EINVAL)?.mask.store(mask.0, Ordering::Relaxed);
    task.process().signalled.notify(Events::IN);
    Ok(descriptor as usize)
}

/// signalfd(2).
pub fn signalfd(task: &Task, descriptor: i32, mask: UserPtr<SignalSet>, mask_size: usize) -> Result<usize> {
    signalfd4(task, descriptor, mask, mask_size, 0)
}
