//! eventfd(2): a counter to wait for.

use alloc::{string::String, sync::Arc};
use core::any::Any;

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    uio::{Sink, Source},
    wait::WaitQueue,
};
use rumpuser::{NEVER, sync::SpinLock};
use rumpvfs::file::{File, OpenFlags};

/// The counter's largest value.
const LARGEST: u64 = u64::MAX - 1;

/// See the module.
pub struct EventFd {
    counter: SpinLock<u64>,
    semaphore: bool,
    changes: WaitQueue,
}

impl EventFd {
    /// A counter; a semaphore's reads take 1 instead of everything.
    pub fn new(counter: u64, semaphore: bool) -> Arc<Self> {
        Arc::new(EventFd { counter: SpinLock::new(counter), semaphore, changes: WaitQueue::new() })
    }

    fn take(&self) -> Option<u64> {
        let mut counter = self.counter.lock();
        let value = if self.semaphore { (*counter).min(1) } else { *counter };
        *counter -= value;
        (value > 0).then_some(value)
    }

    fn add(&self, value: u64) -> Option<()> {
        let mut counter = self.counter.lock();
        *counter = counter.checked_add(value).filter(|&sum| sum <= LARGEST)?;
        Some(())
    }

    /// Adds without waiting, up to the limit: for the kernel's own use (AIO).
    pub fn signal(&self) {
        if self.add(1).is_some() {
            self.changes.notify(Events::IN | Events::RDNORM);
        }
    }
}

impl File for EventFd {
    fn read(&self, sink: &mut Sink<'_>, _offset: u64, flags: OpenFlags) -> Result<usize> {
        if sink.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let value = match self.take() {
            Some(value) => value,
            None if flags.contains(OpenFlags::NON_BLOCKING) => return Err(Errno::EAGAIN),
            None => self.changes.wait(NEVER, || self.take())?,
        };
        self.changes.notify(Events::OUT | Events::WRNORM);
        sink.put(&value.to_le_bytes())
    }

    fn write(&self, source: &mut Source<'_>, _offset: &mut u64, flags: OpenFlags) -> Result<usize> {
        if source.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        if source.take(&mut bytes)? != 8 {
            return Err(Errno::EFAULT);
        }
        let value = u64::from_le_bytes(bytes);
        if value > LARGEST {
            return Err(Errno::EINVAL);
        }
        match self.add(value) {
            Some(()) => {}
            None if flags.contains(OpenFlags::NON_BLOCKING) => return Err(Errno::EAGAIN),
            None => self.changes.wait(NEVER, || self.add(value))?,
        }
        if value > 0 {
            self.changes.notify(Events::IN | Events::RDNORM);
        }
        Ok(8)
    }

    fn poll(&self) -> Events {
        let counter = *self.counter.lock();
        let mut events = Events::empty();
        if counter > 0 {
            events |= Events::IN | Events::RDNORM;
        }
        if counter < LARGEST {
            events |= Events::OUT | Events::WRNORM;
        }
        events
    }

    fn observe(&self, observer: &Arc<dyn Observer>) {
        self.changes.observe(observer);
    }

    fn unobserve(&self, observer: &Arc<dyn Observer>) {
        self.changes.unobserve(observer);
    }

    fn description(&self) -> String {
        String::from("anon_inode:[eventfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &EventFd) -> Result<u64> {
        let mut bytes = [0; 8];
        file.read(&mut Sink::kernel(&mut bytes), 0, OpenFlags::NON_BLOCKING)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn write(file: &EventFd, value: u64) -> Result<usize> {
        file.write(&mut Source::kernel(&value.to_le_bytes()), &mut 0, OpenFlags::NON_BLOCKING)
    }

    #[test]
    fn a_counter_is_taken_whole_and_a_semaphore_one_by_one() {
        let counter = EventFd::new(2, false);
        write(&counter, 3).unwrap();
        assert_eq!(read(&counter), Ok(5));
        assert_eq!(read(&counter), Err(Errno::EAGAIN));
        let semaphore = EventFd::new(2, true);
        assert_eq!((read(&semaphore), read(&semaphore)), (Ok(1), Ok(1)));
        assert_eq!(read(&semaphore), Err(Errno::EAGAIN));
    }

    #[test]
    fn the_counter_has_a_limit() {
        let counter = EventFd::new(0, false);
        assert_eq!(write(&counter, u64::MAX), Err(Errno::EINVAL));
        write(&counter, u64::MAX - 1).unwrap();
        assert_eq!(write(&counter, 1), Err(Errno::EAGAIN));
        assert_eq!(counter.poll(), Events::IN | Events::RDNORM);
    }
}
