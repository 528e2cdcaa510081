//! poll(2) and select(2).

use alloc::{sync::Arc, vec, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    wait::{WaitError, WaitQueue},
};
use rumpnet::interface;
use rumpuser::{NEVER, rumpuser_clock_monotonic};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    limits::Resource,
    task::Task,
    user::{Timespec, Timeval, UserPtr},
};

use super::{mask::with_mask, open_file::OpenFile};

/// Wakes the thread that polls when a file changes.
#[derive(Default)]
struct Waker {
    fired: AtomicBool,
    queue: WaitQueue,
}

impl Observer for Waker {
    fn notify(&self, _events: Events) {
        self.fired.store(true, Ordering::SeqCst);
        self.queue.wake_all();
    }
}

/// Waits until `look` finds something, trying again whenever one of `files` changes; `None` when the time is up.
fn wait_for<T>(
    files: &[Arc<OpenFile>],
    deadline: u64,
    mut look: impl FnMut() -> Option<T>,
) -> Result<Option<T>> {
    let mut found = look();
    if found.is_none() && deadline == 0 && interface::poll() {
        found = look();
    }
    if found.is_some() || deadline == 0 {
        return Ok(found);
    }
    let waker = Arc::new(Waker::default());
    let observer: Arc<dyn Observer> = waker.clone();
    for file in files {
        file.file().observe(&observer);
    }
    waker.fired.store(true, Ordering::SeqCst);
    let result = interface::wait(&waker.queue, deadline, || {
        if waker.fired.swap(false, Ordering::SeqCst) { look() } else { None }
    });
    for file in files {
        file.file().unobserve(&observer);
    }
    match result {
        Ok(found) => Ok(Some(found)),
        Err(WaitError::TimedOut) => Ok(None),
        Err(WaitError::Interrupted) => Err(Errno::EINTR),
    }
}

/// `struct pollfd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct PollFd {
    descriptor: i32,
    events: i16,
    returned: i16,
}

fn poll_until(task: &Task, address: UserPtr<PollFd>, count: u64, deadline: u64) -> Result<usize> {
    if count > task.process().limit(Resource::OpenFiles).min(super::descriptor::LIMIT as u64) {
        return Err(Errno::EINVAL);
    }
    let mut requests = address.read_array(count as usize)?;
    // What is asked of which file; the index is that of the request.
    let mut asked: Vec<(usize, Arc<OpenFile>)> = Vec::with_capacity(requests.len());
    let mut invalid = 0;
    for (index, request) in requests.iter_mut().enumerate() {
        request.returned = 0;
        if request.descriptor < 0 {
            continue;
        }
        match task.files().get_io(request.descriptor) {
            Ok(file) => asked.push((index, file)),
            Err(_) => {
                request.returned = Events::NVAL.bits() as i16;
                invalid += 1;
            }
        }
    }
    let files: Vec<_> = asked.iter().map(|(_, file)| file.clone()).collect();
    let deadline = if invalid > 0 { 0 } else { deadline };
    let mut ready = 0;
    let look = || {
        ready = 0;
        for (index, file) in &asked {
            let request = &mut requests[*index];
            let wanted = u32::from(request.events as u16) | Events::ERR.bits() | Events::HUP.bits();
            request.returned = (file.file().poll().bits() & wanted) as i16;
            ready += usize::from(request.returned != 0);
        }
        (ready > 0).then_some(())
    };
    wait_for(&files, deadline, look)?;
    for (index, request) in requests.iter().enumerate() {
        address.element(index).byte_add(6).cast::<i16>().write(&request.returned)?;
    }
    Ok(ready + invalid)
}

/// A deadline from milliseconds, negative for never.
pub(super) fn deadline_from_milliseconds(task: &Task, milliseconds: i32) -> u64 {
    match u64::try_from(milliseconds) {
        Err(_) => NEVER,
        Ok(0) => 0,
        Ok(milliseconds) => task.deadline_after(milliseconds * 1_000_000),
    }
}

/// A deadline from an optional duration; no time at all gives 0, "don't wait".
pub(super) fn deadline_from(task: &Task, duration: Option<u64>) -> u64 {
    match duration {
        None => NEVER,
        Some(0) => 0,
        Some(duration) => task.deadline_after(duration),
    }
}

/// poll(2).
pub fn poll(task: &Task, address: usize, count: u32, milliseconds: i32) -> Result<usize> {
    let deadline = deadline_from_milliseconds(task, milliseconds);
    poll_until(task, UserPtr::new(address), u64::from(count), deadline)
}

/// What is left until a deadline.
fn left(deadline: u64) -> u64 {
    deadline.saturating_sub(rumpuser_clock_monotonic())
}

/// ppoll(2): updates the timeout, as the system call does.
pub fn ppoll(
    task: &Task,
    address: usize,
    count: u32,
    timeout: UserPtr<Timespec>,
    mask: usize,
    mask_size: usize,
) -> Result<usize> {
    let duration = match timeout.non_null() {
        Some(timeout) => Some(timeout.read()?.to_nanoseconds()?),
        None => None,
    };
    with_mask(task, mask, mask_size, || {
        let deadline = deadline_from(task, duration);
        let result = poll_until(task, UserPtr::new(address), u64::from(count), deadline);
        if duration.is_some_and(|duration| duration > 0) && result != Err(Errno::EINTR) {
            // A timeout in read-only memory is no error.
            let _ = timeout.write(&Timespec::from_nanoseconds(left(deadline)));
        }
        result
    })
}

/// The words of an fd_set for `count` descriptors.
fn read_set(address: usize, count: usize) -> Result<Vec<u64>> {
    let words = count.div_ceil(64);
    if address == 0 { Ok(vec![0; words]) } else { UserPtr::<u64>::new(address).read_array(words) }
}

const READ_EVENTS: u32 = Events::IN.bits()
    | Events::RDNORM.bits()
    | Events::RDBAND.bits()
    | Events::HUP.bits()
    | Events::ERR.bits();
const WRITE_EVENTS: u32 =
    Events::OUT.bits() | Events::WRNORM.bits() | Events::WRBAND.bits() | Events::ERR.bits();
const EXCEPTION_EVENTS: u32 = Events::PRI.bits();

fn select_until(task: &Task, count: i32, addresses: [usize; 3], deadline: u64) -> Result<usize> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let count = count.min(super::descriptor::LIMIT).min(task.files().size());
    let asked =
        [read_set(addresses[0], count)?, read_set(addresses[1], count)?, read_set(addresses[2], count)?];
    let mut files: Vec<(usize, Arc<OpenFile>)> = Vec::new();
    for number in 0..count {
        let bit = 1u64 << (number % 64);
        if asked.iter().any(|set| set[number / 64] & bit != 0) {
            files.push((number, task.files().get_io(number as i32)?));
        }
    }
    let plain: Vec<_> = files.iter().map(|(_, file)| file.clone()).collect();
    let mut found = asked.clone();
    let mut ready = 0;
    let look = || {
        ready = 0;
        for set in &mut found {
            set.fill(0);
        }
        for (number, file) in &files {
            let events = file.file().poll().bits();
            let (word, bit) = (number / 64, 1u64 << (number % 64));
            for (index, wanted) in [READ_EVENTS, WRITE_EVENTS, EXCEPTION_EVENTS].into_iter().enumerate() {
                if asked[index][word] & bit != 0 && events & wanted != 0 {
                    found[index][word] |= bit;
                    ready += 1;
                }
            }
        }
        (ready > 0).then_some(())
    };
    wait_for(&plain, deadline, look)?;
    for (address, set) in addresses.into_iter().zip(&found) {
        if address != 0 {
            UserPtr::<u64>::new(address).write_array(set)?;
        }
    }
    Ok(ready)
}

/// select(2): updates the timeout, as the system call does.
pub fn select(
    task: &Task,
    count: i32,
    read: usize,
    write: usize,
    exceptions: usize,
    timeout: UserPtr<Timeval>,
) -> Result<usize> {
    let duration = match timeout.non_null() {
        Some(timeout) => {
            let time = timeout.read()?;
            // Microseconds beyond a second are carried over.
            let seconds = time.seconds.checked_add(time.microseconds / 1_000_000).ok_or(Errno::EINVAL)?;
            let time = Timeval { seconds, microseconds: time.microseconds % 1_000_000 };
            Some(time.to_nanoseconds()?)
        }
        None => None,
    };
    let deadline = deadline_from(task, duration);
    let result = select_until(task, count, [read, write, exceptions], deadline);
    if duration.is_some_and(|duration| duration > 0) && result != Err(Errno::EINTR) {
        let _ = timeout.write(&Timeval::from_nanoseconds(left(deadline)));
    }
    result
}

/// pselect6(2); the sixth argument points to the mask's address and size.
pub fn pselect6(
    task: &Task,
    count: i32,
    read: usize,
    write: usize,
    exceptions: usize,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<[usize; 2]>,
) -> Result<usize> {
    let duration = match timeout.non_null() {
        Some(timeout) => Some(timeout.read()?.to_nanoseconds()?),
        None => None,
    };
    let [mask, mask_size] = match mask.non_null() {
        Some(mask) => mask.read()?,
        None => [0, 8],
    };
    with_mask(task, mask, mask_size, || {
        let deadline = deadline_from(task, duration);
        let result = select_until(task, count, [read, write, exceptions], deadline);
        if duration.is_some_and(|duration| duration > 0) && result != Err(Errno::EINTR) {
            let _ = timeout.write(&Timespec::from_nanoseconds(left(deadline)));
        }
        result
    })
}
