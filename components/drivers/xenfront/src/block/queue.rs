//! A queue of requests: a ring, the threads that sleep until their requests are answered, and what becomes of those when the
//! backend goes away.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering};

use rumpkern::wait::WaitQueue;
use rumpuser::{
    Thread,
    device::{GrantReference, XenbusDevice},
    rumpuser_clock_monotonic, rumpuser_park, rumpuser_thread_current,
    sync::InterruptLock,
};

use crate::{
    Refused,
    ring::{Ring, Violation},
};

/// Bytes of a request.
pub const REQUEST: usize = 112;
/// How long a request sleeps before it looks for itself. Nanoseconds.
const IMPATIENCE: u64 = 1_000_000_000;
/// How long requests wait for a backend to come back. Nanoseconds.
const ABSENCE: u64 = 60_000_000_000;

/// The words of a request.
pub type Words = [u32; REQUEST / 4];

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The backend's status.
    Answered(i16),
    /// The backend went away, another is there or may come: try again.
    Lost,
    /// There will be no answer.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Working,
    /// Without a backend since then.
    Away(u64),
    /// Gone, or not keeping to the protocol.
    Broken,
}

/// One request under way.
#[derive(Default)]
struct Slot {
    busy: bool,
    outcome: Option<Outcome>,
    thread: Option<Thread>,
}

struct Requests {
    ring: Ring,
    slots: Vec<Slot>,
    state: State,
}

impl Requests {
    /// Takes the answers there are.
    fn complete(&mut self) {
        while self.state == State::Working {
            match self.ring.waiting() {
                Ok(0) => match self.ring.arm(1) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(Violation) => self.leave(State::Broken),
                },
                Ok(count) => {
                    for _ in 0..count {
                        if !self.answer() {
                            return self.leave(State::Broken);
                        }
                    }
                }
                Err(Violation) => self.leave(State::Broken),
            }
        }
    }

    /// Takes an answer; false if it answers nothing.
    fn answer(&mut self) -> bool {
        let answer = self.ring.take();
        let (identifier, rest) = answer.split_at(8);
        let identifier = identifier.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let status = i16::from_le_bytes([rest[2], rest[3]]);
        let slot = usize::try_from(identifier).ok().and_then(|index| self.slots.get_mut(index));
        let Some(slot) = slot.filter(|slot| slot.busy && slot.outcome.is_none()) else { return false };
        slot.outcome = Some(Outcome::Answered(status));
        if let Some(thread) = &slot.thread {
            thread.unpark();
        }
        true
    }

    /// Ends what is under way.
    fn leave(&mut self, state: State) {
        if self.state == State::Broken {
            return;
        }
        self.state = state;
        let outcome = if state == State::Broken { Outcome::Failed } else { Outcome::Lost };
        for slot in self.slots.iter_mut().filter(|slot| slot.busy) {
            slot.outcome.get_or_insert(outcome);
            if let Some(thread) = &slot.thread {
                thread.unpark();
            }
        }
    }
}

/// See the module.
pub struct Queue {
    device: Arc<dyn XenbusDevice>,
    requests: InterruptLock<Requests>,
    /// Threads that found no slot.
    room: WaitQueue,
    channel: AtomicU32,
    /// The grant of the ring; 0 before the first.
    reference: AtomicU32,
    /// Counts the backends. Changes with the requests locked.
    epoch: AtomicU32,
}

impl Queue {
    /// A queue without a backend.
    pub fn new(device: &Arc<dyn XenbusDevice>) -> Result<Arc<Queue>, Refused> {
        let ring = Ring::new(REQUEST).map_err(|_| Refused)?;
        let mut slots = Vec::new();
        slots.resize_with(ring.size(), Slot::default);
        let state = State::Away(rumpuser_clock_monotonic());
        Ok(Arc::new(Queue {
            device: device.clone(),
            requests: InterruptLock::new(Requests { ring, slots, state }),
            room: WaitQueue::new(),
            channel: AtomicU32::new(0),
            reference: AtomicU32::new(0),
            epoch: AtomicU32::new(0),
        }))
    }

    /// Makes a ring and a channel for a new backend; returns their numbers.
    pub fn open(self: &Arc<Self>, cpu: usize) -> Result<(GrantReference, u32), Refused> {
        let ring = Ring::new(REQUEST).map_err(|_| Refused)?;
        let reference = self.device.grant(ring.frame(), true).ok_or(Refused)?;
        let before = core::mem::replace(&mut self.requests.lock().ring, ring);
        self.let_go(before);
        self.reference.store(reference, Ordering::SeqCst);
        let weak = Arc::downgrade(self);
        let handler = move || {
            if let Some(queue) = weak.upgrade() {
                queue.look();
            }
        };
        let channel = self.device.establish_event(cpu, Box::new(handler)).ok_or(Refused)?;
        self.channel.store(channel, Ordering::SeqCst);
        Ok((reference, channel))
    }

    fn let_go(&self, ring: Ring) {
        let reference = self.reference.swap(0, Ordering::SeqCst);
        if reference != 0 && !self.device.end_grant(reference) {
            // The backend may still write to it.
            core::mem::forget(ring);
        }
    }

    /// The backend answers from now on.
    pub fn start(&self) {
        let mut requests = self.requests.lock();
        if matches!(requests.state, State::Away(_)) {
            requests.state = State::Working;
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
        drop(requests);
        self.room.wake_all();
    }

    /// The backend is gone, and may come back. Its channel is closed, unless it is no more.
    pub fn leave(&self, closes: bool) {
        let now = rumpuser_clock_monotonic();
        self.requests.lock().leave(State::Away(now));
        self.close(closes);
    }

    /// The device is gone.
    pub fn fail(&self) {
        self.requests.lock().leave(State::Broken);
        self.room.wake_all();
    }

    /// Gives a queue up that never worked.
    pub fn abandon(&self) {
        self.fail();
        self.close(true);
        if let Ok(ring) = Ring::new(REQUEST) {
            let before = core::mem::replace(&mut self.requests.lock().ring, ring);
            self.let_go(before);
        }
    }

    fn close(&self, closes: bool) {
        let channel = self.channel.swap(0, Ordering::SeqCst);
        if closes && channel != 0 {
            self.device.close_event(channel);
        }
    }

    /// Tells the backends apart: pages are to be granted to the one that gets the request.
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Puts a request on the ring, its identifier written into it; `None` if there is no room, or another backend.
    pub fn submit(&self, words: &mut Words, epoch: u32) -> Option<usize> {
        let thread = rumpuser_thread_current();
        let mut requests = self.requests.lock();
        if self.epoch() != epoch || requests.state != State::Working || requests.ring.free() == 0 {
            return None;
        }
        let index = requests.slots.iter().position(|slot| !slot.busy)?;
        words[2] = index as u32;
        requests.ring.make(words);
        requests.slots[index] = Slot { busy: true, outcome: None, thread: Some(thread) };
        let tell = requests.ring.show();
        drop(requests);
        if tell {
            self.device.notify(self.channel.load(Ordering::Relaxed));
        }
        Some(index)
    }

    /// A request's outcome, once it is there; its place is free then.
    pub fn outcome(&self, index: usize) -> Option<Outcome> {
        let mut requests = self.requests.lock();
        let Some(slot) = requests.slots.get_mut(index) else { return Some(Outcome::Failed) };
        let outcome = slot.outcome?;
        let slot = core::mem::take(slot);
        drop(requests);
        drop(slot);
        self.room.wake_one();
        Some(outcome)
    }

    /// Takes the answers there are.
    pub fn look(&self) {
        self.requests.lock().complete();
    }

    /// Waits for a request's outcome.
    fn finish(&self, index: usize) -> Outcome {
        loop {
            if let Some(outcome) = self.outcome(index) {
                return outcome;
            }
            rumpuser_park(rumpuser_clock_monotonic().saturating_add(IMPATIENCE));
            self.look();
        }
    }

    /// Whether requests have no prospect.
    fn hopeless(&self) -> bool {
        match self.requests.lock().state {
            State::Working => false,
            State::Away(since) => rumpuser_clock_monotonic().saturating_sub(since) > ABSENCE,
            State::Broken => true,
        }
    }

    /// Sends a request and waits for its outcome: it is lost if its pages were granted in another epoch.
    pub fn perform(&self, words: &mut Words, epoch: u32) -> Outcome {
        loop {
            if self.hopeless() {
                return Outcome::Failed;
            }
            let deadline = rumpuser_clock_monotonic().saturating_add(IMPATIENCE);
            let place = self.room.wait(deadline, || match self.submit(words, epoch) {
                None if self.epoch() != epoch => Some(None),
                place => place.map(Some),
            });
            match place {
                Ok(Some(index)) => return self.finish(index),
                Ok(None) => return Outcome::Lost,
                Err(_) => self.look(),
            }
        }
    }
}
