//! Readiness: what poll(2), select(2) and epoll(7) ask of a file, and how a file tells that it changed.

use alloc::sync::Arc;

bitflags::bitflags! {
    /// Events, with the values of Linux's `POLL*` and `EPOLL*` constants.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Events: u32 {
        /// Data can be read.
        const IN = 0x001;
        /// Urgent data, or an exceptional condition.
        const PRI = 0x002;
        /// Data can be written.
        const OUT = 0x004;
        /// An error; reported whether asked for or not.
        const ERR = 0x008;
        /// Hung up; reported whether asked for or not.
        const HUP = 0x010;
        /// Not an open descriptor.
        const NVAL = 0x020;
        /// As IN.
        const RDNORM = 0x040;
        /// Priority band data can be read.
        const RDBAND = 0x080;
        /// As OUT.
        const WRNORM = 0x100;
        /// Priority band data can be written.
        const WRBAND = 0x200;
        /// The peer closed its writing half.
        const RDHUP = 0x2000;
    }
}

/// Hears that a file's readiness changed. `events` are those that may be new; the observer asks the file.
/// Called with interrupts disabled and locks held: it must only record the fact and wake somebody.
pub trait Observer: Send + Sync {
    /// See the trait.
    fn notify(&self, events: Events);
}

/// Something whose readiness can be asked and watched.
pub trait Pollable {
    /// What is ready now. Cheap; no side effects.
    fn poll(&self) -> Events;
    /// Adds an observer; it hears of every later change, until [`Pollable::unobserve`].
    fn observe(&self, observer: &Arc<dyn Observer>);
    /// Removes an observer (all registrations of it).
    fn unobserve(&self, observer: &Arc<dyn Observer>);
}
