//! Waiting events by two levels of bits: a word for each CPU says which words of the domain's array have some.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::memory::{self, VcpuInformation};

/// Masks every event.
pub fn mask_all() {
    if let Some(shared) = memory::shared() {
        shared.information.mask.iter().for_each(|word| word.store(u64::MAX, Ordering::SeqCst));
    }
}

fn bits(word: u64) -> impl Iterator<Item = u32> {
    let mut rest = word;
    core::iter::from_fn(move || {
        let bit = (rest != 0).then(|| rest.trailing_zeros())?;
        rest &= rest - 1;
        Some(bit)
    })
}

/// Takes what waits and isn't masked, once.
fn take(selector: &AtomicU64, pending: &[AtomicU64], mask: &[AtomicU64], deliver: &dyn Fn(u32)) {
    for word in bits(selector.swap(0, Ordering::SeqCst)) {
        let (waiting, masked) = (&pending[word as usize], &mask[word as usize]);
        for bit in bits(waiting.load(Ordering::SeqCst) & !masked.load(Ordering::SeqCst)) {
            // Before the handler, which then sees all that was there when it came.
            waiting.fetch_and(!(1 << bit), Ordering::SeqCst);
            deliver(word * 64 + bit);
        }
    }
}

/// Delivers what waits for the CPU of `information`.
pub fn deliver(information: &VcpuInformation, deliver: &dyn Fn(u32)) {
    if let Some(shared) = memory::shared() {
        let page = shared.information;
        take(&information.pending_selector, &page.pending, &page.mask, deliver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn every_waiting_event_comes_once() {
        let pending: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
        let mask: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
        let selector = AtomicU64::new(1 << 63 | 1 << 2 | 1);
        pending[0].store(1 << 3, Ordering::Relaxed);
        pending[1].store(u64::MAX, Ordering::Relaxed);
        pending[2].store(0b101, Ordering::Relaxed);
        mask[2].store(0b001, Ordering::Relaxed);
        pending[63].store(1 << 63, Ordering::Relaxed);
        let seen = RefCell::new(Vec::new());
        take(&selector, &pending, &mask, &|port| seen.borrow_mut().push(port));
        assert_eq!(*seen.borrow(), [3, 130, 4095]);
        take(&selector, &pending, &mask, &|port| panic!("{port} again"));
        assert_eq!(pending[2].load(Ordering::Relaxed), 1);
    }
}
