//! Waiting events by queues: each CPU has a queue for each of 16 priorities, linked through the words of the events (the FIFO
//! ABI of Xen, docs/misc/event-channel "FIFO-based event channel ABI" and public/event_channel.h).

use core::sync::atomic::{AtomicU32, Ordering};

use rumpuser::{OutOfMemory, memory::PAGE_SIZE};

use super::{
    PORTS,
    operations::{self, ExpandArray, InitialiseControl},
};
use crate::memory::Page;

const QUEUES: usize = 16;
const PENDING: u32 = 1 << 31;
const MASKED: u32 = 1 << 30;
const LINKED: u32 = 1 << 29;
/// The next event in the queue.
const LINK: u32 = (1 << 17) - 1;

/// What a CPU shares with the hypervisor, in a slot that crosses no page.
#[repr(C, align(128))]
struct Control {
    /// The queues that have events.
    ready: AtomicU32,
    reserved: u32,
    /// The first event of each.
    heads: [AtomicU32; QUEUES],
}

/// The queues.
pub struct Fifo {
    controls: &'static [Control],
    controls_frame: u64,
    words: &'static [AtomicU32],
    words_frame: u64,
    /// Where each CPU stands in its queues: 0 at the end.
    heads: [[AtomicU32; QUEUES]; bmk::cpu::MAXIMUM],
}

impl Fifo {
    /// Sets the ABI up on the boot CPU; `None` if this hypervisor doesn't have it.
    pub fn new() -> Result<Option<Fifo>, OutOfMemory> {
        let controls = Page::new(bmk::cpu::MAXIMUM * size_of::<Control>())?;
        let words = Page::new(PORTS * size_of::<AtomicU32>())?;
        let (controls_frame, words_frame) = (controls.frame(0), words.frame(0));
        // SAFETY: both are made of atomics, and an integer that nothing reads.
        let (controls, words) = unsafe { (controls.leak::<Control>(), words.leak::<AtomicU32>()) };
        const { assert!(PORTS * size_of::<AtomicU32>() <= PAGE_SIZE) };
        let heads = [const { [const { AtomicU32::new(0) }; _] }; _];
        let fifo = Fifo { controls, controls_frame, words, words_frame, heads };
        if fifo.start(0).is_err() {
            return Ok(None);
        }
        // There is no way back to the other ABI but a reset, which would lose the console and xenstore.
        fifo.expand().map_err(|_| OutOfMemory)?;
        Ok(Some(fifo))
    }

    /// Begins with empty queues, on one CPU.
    fn start(&self, cpu: u32) -> Result<(), i64> {
        self.words.iter().for_each(|word| word.store(MASKED, Ordering::SeqCst));
        for control in self.controls {
            control.ready.store(0, Ordering::SeqCst);
            control.heads.iter().for_each(|head| head.store(0, Ordering::SeqCst));
        }
        self.heads.iter().flatten().for_each(|head| head.store(0, Ordering::SeqCst));
        self.map_control(cpu)
    }

    fn expand(&self) -> Result<(), i64> {
        operations::perform(ExpandArray { frame: self.words_frame }).map(drop)
    }

    /// Sets the ABI up anew, on the boot CPU of a restored domain.
    pub fn resume(&self) -> Result<(), i64> {
        self.start(0)?;
        self.expand()
    }

    /// Sets a CPU's queues up; the boot CPU's stand.
    pub fn initialise_cpu(&self, cpu: u32) -> Result<(), i64> {
        if cpu == 0 { Ok(()) } else { self.map_control(cpu) }
    }

    fn map_control(&self, cpu: u32) -> Result<(), i64> {
        let offset = cpu as usize * size_of::<Control>();
        let operation = InitialiseControl {
            frame: self.controls_frame + (offset / PAGE_SIZE) as u64,
            offset: (offset % PAGE_SIZE) as u32,
            cpu,
            link_bits: 0,
            padding: [0; 7],
        };
        operations::perform(operation).map(drop)
    }

    /// Delivers what waits for a CPU.
    pub fn deliver(&self, cpu: u32, deliver: &dyn Fn(u32)) {
        let (Some(control), Some(heads)) = (self.controls.get(cpu as usize), self.heads.get(cpu as usize))
        else {
            return;
        };
        drain(control, heads, self.words, deliver);
    }
}

/// Empties a CPU's queues, the most urgent first.
fn drain(control: &Control, heads: &[AtomicU32; QUEUES], words: &[AtomicU32], deliver: &dyn Fn(u32)) {
    let mut ready = control.ready.swap(0, Ordering::SeqCst) & ((1 << QUEUES) - 1);
    while ready != 0 {
        let queue = ready.trailing_zeros() as usize;
        if !take(&heads[queue], &control.heads[queue], words, deliver) {
            ready &= !(1 << queue);
        }
        // Something more urgent may have come meanwhile.
        ready |= control.ready.swap(0, Ordering::SeqCst) & ((1 << QUEUES) - 1);
    }
}

/// Takes one event from a queue; returns whether there may be more.
fn take(head: &AtomicU32, first: &AtomicU32, words: &[AtomicU32], deliver: &dyn Fn(u32)) -> bool {
    let mut port = head.load(Ordering::Relaxed);
    if port == 0 {
        port = first.load(Ordering::SeqCst);
    }
    let Some(word) = words.get(port as usize).filter(|_| port != 0) else {
        head.store(0, Ordering::Relaxed);
        return false;
    };
    // The event leaves the queue; from here on the hypervisor may put it in again.
    let next = word.fetch_and(!(LINKED | LINK), Ordering::SeqCst) & LINK;
    head.store(next, Ordering::Relaxed);
    let state = word.load(Ordering::SeqCst);
    if state & PENDING != 0 && state & MASKED == 0 {
        // Before the handler, which then sees all that was there when it came.
        word.fetch_and(!PENDING, Ordering::SeqCst);
        deliver(port);
    }
    next != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn words() -> Vec<AtomicU32> {
        (0..16).map(|_| AtomicU32::new(0)).collect()
    }

    fn control() -> Control {
        Control { ready: AtomicU32::new(0), reserved: 0, heads: [const { AtomicU32::new(0) }; QUEUES] }
    }

    #[test]
    fn queues_are_emptied_by_priority() {
        let (control, words) = (control(), words());
        let heads = [const { AtomicU32::new(0) }; QUEUES];
        let set = |port: usize, value| words[port].store(value, Ordering::Relaxed);
        // Queue 7: 3, 5 (masked), 4; queue 0: 9.
        set(3, PENDING | LINKED | 5);
        set(5, PENDING | MASKED | LINKED | 4);
        set(4, PENDING | LINKED);
        set(9, PENDING | LINKED);
        control.heads[7].store(3, Ordering::Relaxed);
        control.heads[0].store(9, Ordering::Relaxed);
        control.ready.store(1 << 7 | 1, Ordering::Relaxed);
        let seen = RefCell::new(Vec::new());
        drain(&control, &heads, &words, &|port| seen.borrow_mut().push(port));
        assert_eq!(*seen.borrow(), [9, 3, 4]);
        assert_eq!(words[5].load(Ordering::Relaxed), PENDING | MASKED);
    }

    #[test]
    fn nonsense_in_the_queues_ends() {
        let (control, words) = (control(), words());
        let heads = [const { AtomicU32::new(0) }; QUEUES];
        control.ready.store(u32::MAX, Ordering::Relaxed);
        // Out of range, and a circle.
        control.heads[1].store(1000, Ordering::Relaxed);
        control.heads[2].store(2, Ordering::Relaxed);
        words[2].store(PENDING | LINKED | 3, Ordering::Relaxed);
        words[3].store(PENDING | LINKED | 2, Ordering::Relaxed);
        let seen = RefCell::new(Vec::new());
        drain(&control, &heads, &words, &|port| seen.borrow_mut().push(port));
        assert_eq!(*seen.borrow(), [2, 3]);
    }
}
