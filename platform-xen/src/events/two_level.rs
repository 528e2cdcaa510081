//! Waiting events by two levels of bits: a word for each CPU says which words of the domain's array have some. The array is all
//! CPUs', so each takes only what is bound to it.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::{
    PORTS, Port,
    operations::{self, BindCpu, Unmask},
};
use crate::memory::{self, VcpuInformation};

/// The CPU to which each event is bound.
pub struct TwoLevel {
    cpus: Box<[AtomicU8]>,
}

impl TwoLevel {
    /// Begins with every event masked.
    pub fn new() -> TwoLevel {
        let bits = TwoLevel { cpus: (0..PORTS).map(|_| AtomicU8::new(0)).collect() };
        bits.reset();
        bits
    }

    /// Masks every event; the hypervisor binds new ones to the boot CPU.
    pub fn reset(&self) {
        if let Some(shared) = memory::shared() {
            shared.information.mask.iter().for_each(|word| word.store(u64::MAX, Ordering::SeqCst));
        }
        self.cpus.iter().for_each(|cpu| cpu.store(0, Ordering::SeqCst));
    }

    /// The hypervisor has bound a masked event to a CPU.
    pub fn bound(&self, port: Port, cpu: u32) {
        if let Some(slot) = self.cpus.get(port as usize) {
            slot.store(u8::try_from(cpu).unwrap_or(0), Ordering::SeqCst);
        }
    }

    /// Binds an event to a CPU; nobody else does, or unmasks it, meanwhile.
    pub fn bind(&self, port: Port, cpu: u32) {
        let Some(shared) = memory::shared() else { return };
        let Some(mask) = shared.information.mask.get(port as usize / 64) else { return };
        // What comes while the two sides have different CPUs waits, and its new CPU is told as it is unmasked.
        let bit = 1 << (port % 64);
        let masked = mask.fetch_or(bit, Ordering::SeqCst) & bit != 0;
        if operations::perform(BindCpu { port, cpu }).is_ok() {
            self.bound(port, cpu);
        }
        if !masked {
            let _ = operations::perform(Unmask { port });
        }
    }

    /// Delivers what waits for a CPU.
    pub fn deliver(&self, cpu: u32, information: &VcpuInformation, deliver: &dyn Fn(Port)) {
        let Some(shared) = memory::shared() else { return };
        let page = shared.information;
        let is_bound = |port: Port| {
            self.cpus.get(port as usize).is_some_and(|its| u32::from(its.load(Ordering::SeqCst)) == cpu)
        };
        take(&information.pending_selector, &page.pending, &page.mask, &is_bound, deliver);
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

/// Takes what waits for a CPU and isn't masked, once.
fn take(
    selector: &AtomicU64,
    pending: &[AtomicU64],
    mask: &[AtomicU64],
    is_bound: &dyn Fn(Port) -> bool,
    deliver: &dyn Fn(Port),
) {
    for word in bits(selector.swap(0, Ordering::SeqCst)) {
        let (waiting, masked) = (&pending[word as usize], &mask[word as usize]);
        for bit in bits(waiting.load(Ordering::SeqCst) & !masked.load(Ordering::SeqCst)) {
            let port = word * 64 + bit;
            if is_bound(port) {
                // Before the handler, which then sees all that was there when it came.
                waiting.fetch_and(!(1 << bit), Ordering::SeqCst);
                deliver(port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn every_waiting_event_comes_once_to_its_cpu() {
        let pending: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
        let mask: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
        let selector = AtomicU64::new(1 << 63 | 1 << 2 | 1);
        pending[0].store(1 << 3, Ordering::Relaxed);
        pending[1].store(u64::MAX, Ordering::Relaxed);
        // The fourth is another CPU's.
        pending[2].store(0b1101, Ordering::Relaxed);
        mask[2].store(0b001, Ordering::Relaxed);
        pending[63].store(1 << 63, Ordering::Relaxed);
        let seen = RefCell::new(Vec::new());
        take(&selector, &pending, &mask, &|port| port != 131, &|port| seen.borrow_mut().push(port));
        assert_eq!(*seen.borrow(), [3, 130, 4095]);
        take(&selector, &pending, &mask, &|_| true, &|port| panic!("{port} again"));
        assert_eq!(pending[2].load(Ordering::Relaxed), 0b1001);
        selector.store(1 << 2, Ordering::Relaxed);
        take(&selector, &pending, &mask, &|port| port == 131, &|port| seen.borrow_mut().push(port));
        assert_eq!((seen.borrow().last(), pending[2].load(Ordering::Relaxed)), (Some(&131), 1));
    }
}
