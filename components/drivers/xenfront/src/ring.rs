//! The frontend's end of a ring of requests and answers in one page (Xen, public/io/ring.h). The backend may write anything
//! at any time: an answer is copied once, and indices that can't be end the ring's use.

use core::sync::atomic::{Ordering, fence};

use rumpuser::{
    Frame, OutOfMemory,
    device::{DmaMemory, Registers},
    memory::PAGE_SIZE,
};

/// Offsets of the indices.
const REQUEST_PRODUCER: usize = 0;
const REQUEST_EVENT: usize = 4;
const ANSWER_PRODUCER: usize = 8;
const ANSWER_EVENT: usize = 12;
/// Where the entries begin.
const ENTRIES: usize = 64;
/// The longest answer.
pub const ANSWER: usize = 16;

/// The backend doesn't keep to the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation;

/// See the module. All indices run freely; a slot is an index modulo the size.
pub struct Ring {
    memory: DmaMemory,
    entry: usize,
    size: u32,
    /// Requests that were made, and those of them that the backend was shown.
    made: u32,
    shown: u32,
    /// Answers that were taken.
    taken: u32,
}

impl Ring {
    /// A ring of entries of so many bytes.
    pub fn new(entry: usize) -> Result<Ring, OutOfMemory> {
        let most = (PAGE_SIZE - ENTRIES) / entry;
        let size = 1 << most.ilog2();
        let ring = Ring { memory: DmaMemory::new(PAGE_SIZE)?, entry, size, made: 0, shown: 0, taken: 0 };
        ring.registers().write32(REQUEST_EVENT, 1);
        ring.registers().write32(ANSWER_EVENT, 1);
        Ok(ring)
    }

    fn registers(&self) -> Registers {
        self.memory.registers()
    }

    /// The page to grant.
    pub fn frame(&self) -> Frame {
        Frame(self.memory.physical() / PAGE_SIZE as u64)
    }

    /// Entries.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// How many requests there is room for.
    pub fn free(&self) -> usize {
        (self.size - self.made.wrapping_sub(self.taken)) as usize
    }

    fn slot(&self, index: u32) -> usize {
        ENTRIES + (index & (self.size - 1)) as usize * self.entry
    }

    /// The slot of the next request.
    pub fn next_slot(&self) -> usize {
        (self.made & (self.size - 1)) as usize
    }

    /// The slot of the next answer.
    pub fn answer_slot(&self) -> usize {
        (self.taken & (self.size - 1)) as usize
    }

    /// Makes a request of these words; the caller has looked for room. The backend sees it at the next [`Ring::show`].
    pub fn make(&mut self, words: &[u32]) {
        let slot = self.slot(self.made);
        let registers = self.registers();
        for (index, word) in words.iter().enumerate().take(self.entry / 4) {
            registers.write32(slot + 4 * index, *word);
        }
        self.made = self.made.wrapping_add(1);
    }

    /// Shows the backend what was made; returns whether it wants to be told.
    pub fn show(&mut self) -> bool {
        if self.made == self.shown {
            return false;
        }
        let before = self.shown;
        self.shown = self.made;
        fence(Ordering::Release);
        self.registers().write32(REQUEST_PRODUCER, self.made);
        fence(Ordering::SeqCst);
        let event = self.registers().read32(REQUEST_EVENT);
        self.made.wrapping_sub(event) < self.made.wrapping_sub(before)
    }

    /// How many answers wait.
    pub fn waiting(&self) -> Result<u32, Violation> {
        let count = self.registers().read32(ANSWER_PRODUCER).wrapping_sub(self.taken);
        fence(Ordering::Acquire);
        // Not more than there are requests.
        if count <= self.shown.wrapping_sub(self.taken) { Ok(count) } else { Err(Violation) }
    }

    /// A copy of an answer that waits, `ahead` of the next, without taking it.
    pub fn look(&self, ahead: u32) -> [u8; ANSWER] {
        let slot = self.slot(self.taken.wrapping_add(ahead));
        let registers = self.registers();
        let mut answer = [0; ANSWER];
        for (index, bytes) in answer.chunks_exact_mut(4).enumerate().take(self.entry.min(ANSWER) / 4) {
            bytes.copy_from_slice(&registers.read32(slot + 4 * index).to_le_bytes());
        }
        answer
    }

    /// Takes the next answer, which waits.
    pub fn take(&mut self) -> [u8; ANSWER] {
        let answer = self.look(0);
        self.taken = self.taken.wrapping_add(1);
        answer
    }

    /// Wants an event for the answer that is `ahead` of the next; returns whether some wait already.
    pub fn arm(&self, ahead: u32) -> Result<bool, Violation> {
        self.registers().write32(ANSWER_EVENT, self.taken.wrapping_add(ahead));
        fence(Ordering::SeqCst);
        self.waiting().map(|count| count >= ahead)
    }
}

#[cfg(any(test, feature = "host"))]
#[cfg_attr(not(test), allow(dead_code, reason = "fuzzing uses a part of it"))]
pub mod backend {
    //! The other end, for tests and fuzzing.

    use rumpuser::{rumpuser_frame_release, rumpuser_frame_retain};

    use super::*;

    /// A backend's look at a ring, whose page stays as long.
    pub struct Backend {
        frame: Frame,
        pub registers: Registers,
        pub entry: usize,
        pub size: u32,
        pub seen: u32,
        pub answered: u32,
    }

    impl Drop for Backend {
        fn drop(&mut self) {
            rumpuser_frame_release(self.frame);
        }
    }

    impl Backend {
        pub fn new(ring: &Ring) -> Backend {
            Backend::of(ring.frame(), ring.entry)
        }

        /// Of the ring in a page.
        #[allow(unsafe_code, reason = "maps the page")]
        pub fn of(frame: Frame, entry: usize) -> Backend {
            let address = rumpuser::rumpuser_frame_address(frame) as usize;
            rumpuser_frame_retain(frame);
            // SAFETY: the ring's page, which is released with this.
            let registers = unsafe { Registers::new(address, PAGE_SIZE) };
            let size = 1 << ((PAGE_SIZE - ENTRIES) / entry).ilog2();
            Backend { frame, registers, entry, size, seen: 0, answered: 0 }
        }

        fn slot(&self, index: u32) -> usize {
            ENTRIES + (index & (self.size - 1)) as usize * self.entry
        }

        /// The next request.
        pub fn request(&mut self) -> Option<std::vec::Vec<u32>> {
            (self.registers.read32(REQUEST_PRODUCER) != self.seen).then(|| {
                let slot = self.slot(self.seen);
                self.seen = self.seen.wrapping_add(1);
                (0..self.entry / 4).map(|word| self.registers.read32(slot + 4 * word)).collect()
            })
        }

        /// Answers.
        pub fn answer(&mut self, words: &[u32]) {
            let slot = self.slot(self.answered);
            for (index, word) in words.iter().enumerate() {
                self.registers.write32(slot + 4 * index, *word);
            }
            self.answered = self.answered.wrapping_add(1);
            self.registers.write32(ANSWER_PRODUCER, self.answered);
        }

        /// Claims to have answered so much.
        pub fn claim(&self, producer: u32) {
            self.registers.write32(ANSWER_PRODUCER, producer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{backend::Backend, *};

    #[test]
    fn requests_and_answers_go_round() {
        let mut ring = Ring::new(112).expect("memory");
        assert_eq!(ring.size(), 32);
        let mut backend = Backend::new(&ring);
        for round in 0..1000_u32 {
            assert_eq!((ring.free(), ring.waiting()), (32, Ok(0)));
            ring.make(&[round, 7]);
            ring.make(&[round, 8]);
            ring.show();
            assert!(!ring.show());
            let requests = [backend.request(), backend.request(), backend.request()];
            assert_eq!(requests.map(|request| request.map(|words| words[1])), [Some(7), Some(8), None]);
            assert_eq!(ring.arm(1), Ok(false));
            backend.answer(&[round]);
            assert_eq!((ring.arm(1), ring.waiting()), (Ok(true), Ok(1)));
            assert_eq!(ring.take()[..4], round.to_le_bytes());
            backend.answer(&[0]);
            ring.take();
        }
    }

    #[test]
    fn indices_that_cannot_be_are_found() {
        let mut ring = Ring::new(12).expect("memory");
        let backend = Backend::new(&ring);
        ring.make(&[1]);
        for wild in [1, 2, 300, 1 << 31, u32::MAX] {
            // Nothing was shown yet.
            backend.claim(wild);
            assert_eq!((ring.waiting(), ring.arm(1)), (Err(Violation), Err(Violation)));
        }
        ring.show();
        backend.claim(1);
        assert_eq!(ring.waiting(), Ok(1));
        backend.claim(2);
        assert_eq!(ring.waiting(), Err(Violation));
    }
}
