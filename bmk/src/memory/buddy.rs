//! The buddy allocator of physical frames. Portable: it sees memory at `base + frame * 4096`.

/// One more than the largest order: blocks of up to 64 MiB.
pub const ORDERS: usize = 15;
const NIL: u32 = u32::MAX;
const NOT_FREE: u8 = 0xff;
const FRAME: usize = 4096;

/// Stands in the first frame of a free block.
#[repr(C)]
struct Links {
    next: u32,
    previous: u32,
}

/// See the module.
pub struct Buddy {
    base: usize,
    /// For each frame: the order of the free block it begins, or [`NOT_FREE`].
    orders: &'static mut [u8],
    heads: [u32; ORDERS],
    free: usize,
}

impl Buddy {
    /// An allocator without memory.
    pub const fn empty() -> Self {
        Buddy { base: 0, orders: &mut [], heads: [NIL; ORDERS], free: 0 }
    }

    /// An allocator for frames `0..orders.len()`, none of them free yet.
    ///
    /// # Safety
    /// Frames that are freed into it must be writable at `base + frame * 4096`, and be its own while free.
    pub unsafe fn new(base: usize, orders: &'static mut [u8]) -> Self {
        orders.fill(NOT_FREE);
        Buddy { base, orders, heads: [NIL; ORDERS], free: 0 }
    }

    /// Frames that are free.
    pub fn free_frames(&self) -> usize {
        self.free
    }

    fn links(&mut self, frame: u32) -> &mut Links {
        // SAFETY: `frame` begins a free block, which is ours to write (see `new`).
        unsafe { &mut *((self.base + frame as usize * FRAME) as *mut Links) }
    }

    fn push(&mut self, frame: u32, order: usize) {
        let next = self.heads[order];
        *self.links(frame) = Links { next, previous: NIL };
        if next != NIL {
            self.links(next).previous = frame;
        }
        self.heads[order] = frame;
        self.orders[frame as usize] = order as u8;
    }

    fn unlink(&mut self, frame: u32, order: usize) {
        let Links { next, previous } = *self.links(frame);
        if previous == NIL {
            self.heads[order] = next;
        } else {
            self.links(previous).next = next;
        }
        if next != NIL {
            self.links(next).previous = previous;
        }
        self.orders[frame as usize] = NOT_FREE;
    }

    /// Takes a naturally aligned block of `1 << order` frames.
    pub fn allocate(&mut self, order: usize) -> Option<u64> {
        let found = (order..ORDERS).find(|&order| self.heads[order] != NIL)?;
        let frame = self.heads[found];
        self.unlink(frame, found);
        for order in (order..found).rev() {
            self.push(frame + (1 << order), order);
        }
        self.free -= 1 << order;
        Some(u64::from(frame))
    }

    /// Gives back a block.
    pub fn free(&mut self, frame: u64, order: usize) {
        let (mut frame, mut order_now) = (frame as u32, order);
        debug_assert!(self.orders[frame as usize] == NOT_FREE);
        self.free += 1 << order;
        while order_now < ORDERS - 1 {
            let buddy = frame ^ (1 << order_now);
            if self.orders.get(buddy as usize) != Some(&(order_now as u8)) {
                break;
            }
            self.unlink(buddy, order_now);
            frame &= !(1 << order_now);
            order_now += 1;
        }
        self.push(frame, order_now);
    }

    /// Gives back `count` frames from `start`, in the largest aligned blocks.
    pub fn free_range(&mut self, mut start: u64, mut count: u64) {
        while count > 0 {
            let order = (start.trailing_zeros().min(count.ilog2()) as usize).min(ORDERS - 1);
            self.free(start, order);
            start += 1 << order;
            count -= 1 << order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_frames(frames: usize) -> Buddy {
        let memory = vec![0u128; (frames + 1) * FRAME / 16].leak();
        let base = (memory.as_mut_ptr() as usize).next_multiple_of(FRAME);
        // SAFETY: the leaked memory is the allocator's alone.
        let mut buddy = unsafe { Buddy::new(base, vec![0; frames].leak()) };
        buddy.free_range(0, frames as u64);
        buddy
    }

    #[test]
    fn hands_out_aligned_disjoint_blocks_and_merges_them_again() {
        let mut buddy = with_frames(100);
        let mut taken: Vec<(u64, usize)> = Vec::new();
        for order in [0, 3, 1, 4, 0, 2, 5] {
            let frame = buddy.allocate(order).unwrap();
            assert_eq!(frame % (1 << order), 0);
            for &(other, other_order) in &taken {
                assert!(frame + (1 << order) <= other || other + (1 << other_order) <= frame);
            }
            taken.push((frame, order));
        }
        assert_eq!(buddy.free_frames(), 100 - 1 - 8 - 2 - 16 - 1 - 4 - 32);
        for (frame, order) in taken {
            buddy.free(frame, order);
        }
        assert_eq!(buddy.free_frames(), 100);
        assert_eq!(buddy.allocate(6), Some(0));
    }

    #[test]
    fn runs_out_and_recovers() {
        let mut buddy = with_frames(33);
        let frames: Vec<_> = std::iter::from_fn(|| buddy.allocate(0)).collect();
        assert_eq!(frames.len(), 33);
        assert_eq!(buddy.allocate(0), None);
        frames.into_iter().rev().for_each(|frame| buddy.free(frame, 0));
        assert!(buddy.allocate(5).is_some());
        assert_eq!(buddy.allocate(5), None);
    }
}
