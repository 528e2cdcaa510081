//! The system calls on epolls.

use rumpkern::{Errno, Result};

use crate::{
    task::Task,
    user::{Timespec, UserPtr, is_user_range, write_bytes},
};

use super::{
    epoll::{Epoll, Setting},
    mask::with_mask,
    poll::{deadline_from, deadline_from_milliseconds},
};

/// Bytes in `struct epoll_event`, which is packed on x86-64.
const EVENT_SIZE: usize = 12;

/// epoll_ctl(2).
pub fn epoll_ctl(task: &Task, epoll: i32, operation: i32, descriptor: i32, event: usize) -> Result<usize> {
    const ADD: i32 = 1;
    const DEL: i32 = 2;
    const MOD: i32 = 3;
    let setting = if operation == DEL {
        Setting { events: 0, data: 0 }
    } else {
        let words: [u32; 3] = UserPtr::new(event).read()?;
        Setting { events: words[0], data: u64::from(words[1]) | u64::from(words[2]) << 32 }
    };
    let epoll_file = task.files().get_io(epoll)?;
    let file = task.files().get_io(descriptor)?;
    if !file.file().pollable() {
        return Err(Errno::EPERM);
    }
    let epoll = epoll_file.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    if file.downcast::<Epoll>().is_some_and(|other| core::ptr::eq(other, epoll)) {
        return Err(Errno::EINVAL);
    }
    match operation {
        ADD => epoll.add(descriptor, &file, setting)?,
        DEL => epoll.delete(descriptor, &file)?,
        MOD => epoll.modify(descriptor, &file, setting)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn wait(task: &Task, descriptor: i32, events: usize, most: i32, deadline: u64) -> Result<usize> {
    let most = usize::try_from(most).ok().filter(|&most| most > 0 && most <= i32::MAX as usize / EVENT_SIZE);
    let most = most.ok_or(Errno::EINVAL)?;
    if !is_user_range(events, most * EVENT_SIZE) {
        return Err(Errno::EFAULT);
    }
    let file = task.files().get_io(descriptor)?;
    let epoll = file.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    let reports = epoll.wait(most, deadline)?;
    for (index, &(ready, data)) in reports.iter().enumerate() {
        let mut bytes = [0; EVENT_SIZE];
        bytes[..4].copy_from_slice(&ready.to_le_bytes());
        bytes[4..].copy_from_slice(&data.to_le_bytes());
        if let Err(error) = write_bytes(events + index * EVENT_SIZE, &bytes) {
            return if index > 0 { Ok(index) } else { Err(error) };
        }
    }
    Ok(reports.len())
}

/// epoll_wait(2).
pub fn epoll_wait(task: &Task, epoll: i32, events: usize, most: i32, milliseconds: i32) -> Result<usize> {
    wait(task, epoll, events, most, deadline_from_milliseconds(task, milliseconds))
}

/// epoll_pwait(2).
pub fn epoll_pwait(
    task: &Task,
    epoll: i32,
    events: usize,
    most: i32,
    milliseconds: i32,
    mask: usize,
    mask_size: usize,
) -> Result<usize> {
    with_mask(task, mask, mask_size, || epoll_wait(task, epoll, events, most, milliseconds))
}

/// epoll_pwait2(2).
pub fn epoll_pwait2(
    task: &Task,
    epoll: i32,
    events: usize,
    most: i32,
    timeout: UserPtr<Timespec>,
    mask: usize,
    mask_size: usize,
) -> Result<usize> {
    let duration = match timeout.non_null() {
        Some(timeout) => Some(timeout.read()?.to_nanoseconds()?),
        None => None,
    };
    with_mask(task, mask, mask_size, || wait(task, epoll, events, most, deadline_from(task, duration)))
}
