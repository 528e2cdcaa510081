//! Pages that stay granted to a backend that keeps them mapped (`feature-persistent` of Xen's public/io/blkif.h): data is
//! copied into them and out of them, and no request maps anything. They are handed out last in, first out, so that few are in use.

use alloc::{sync::Arc, vec::Vec};

use rumpkern::{Errno, Result, wait::WaitQueue};
use rumpuser::{device::XenbusDevice, sync::SpinLock};

use super::{MOST_SEGMENTS, SEGMENTS};
use crate::page::Page;

/// The most pages: those of a few of the longest requests, 1 MiB. Linux's backend keeps more.
const MOST: usize = 256;

/// Pages of a request, with the time at which they were granted.
pub struct Lease {
    pub pages: Vec<Page>,
    generation: u32,
}

#[derive(Default)]
struct State {
    free: Vec<Page>,
    /// Pages that there are, those in use too.
    count: usize,
    /// Changes with the backend, which knows none of those granted before.
    generation: u32,
    /// Pages that a backend didn't give back.
    lost: usize,
}

/// See the module.
pub struct Pool {
    device: Arc<dyn XenbusDevice>,
    state: SpinLock<State>,
    room: WaitQueue,
}

impl Pool {
    /// Without pages.
    pub fn new(device: &Arc<dyn XenbusDevice>) -> Pool {
        Pool { device: device.clone(), state: SpinLock::new(State::default()), room: WaitQueue::new() }
    }

    /// Makes pages for a request, so that those without more can go on when memory is short.
    pub fn reserve(&self) {
        if let Ok(lease) = self.lease(SEGMENTS) {
            self.give_back(lease);
        }
    }

    /// Takes so many pages, at most those of a request; sleeps until there are enough. ENOMEM if there never are.
    pub fn lease(&self, count: usize) -> Result<Lease> {
        debug_assert!(count <= MOST_SEGMENTS + 1);
        const { assert!(MOST_SEGMENTS < MOST) };
        let mut lease = self.wait(count, true)?;
        while lease.pages.len() < count {
            // The backend may map any page for writing, whatever it is used for first.
            let Some(page) = Page::new(&*self.device) else {
                self.state.lock().count -= count - lease.pages.len();
                self.give_back(lease);
                return self.wait(count, false);
            };
            lease.pages.push(page);
        }
        Ok(lease)
    }

    /// Waits for so many pages, of which some may be yet to be made, if the caller can; they are counted already.
    fn wait(&self, count: usize, makes: bool) -> Result<Lease> {
        self.room.wait_uninterruptible(|| {
            let mut state = self.state.lock();
            let new = count.saturating_sub(state.free.len());
            if new > 0 && !makes {
                // Those that others use come back.
                return (state.count < count).then_some(Err(Errno::ENOMEM));
            }
            if state.count + new > MOST {
                return None;
            }
            state.count += new;
            let kept = state.free.len() - (count - new);
            let mut pages = Vec::with_capacity(count);
            pages.extend(state.free.drain(kept..));
            Some(Ok(Lease { pages, generation: state.generation }))
        })
    }

    /// Puts pages back, or ends their grants if they were another backend's.
    pub fn give_back(&self, lease: Lease) {
        let mut state = self.state.lock();
        if state.generation == lease.generation {
            state.free.extend(lease.pages);
            drop(state);
        } else {
            drop(state);
            self.end(lease.pages);
        }
        self.room.wake_all();
    }

    /// Takes the pages of a backend that is gone back.
    pub fn renew(&self) {
        let mut state = self.state.lock();
        state.generation = state.generation.wrapping_add(1);
        let pages = core::mem::take(&mut state.free);
        drop(state);
        self.end(pages);
        self.room.wake_all();
    }

    fn end(&self, pages: Vec<Page>) {
        let count = pages.len();
        let mut lost = 0;
        for page in pages {
            lost += usize::from(!page.end(&*self.device));
        }
        let mut state = self.state.lock();
        state.count -= count;
        state.lost += lost;
    }

    /// Whether backends have kept more than can be left to them.
    pub fn is_robbed(&self) -> bool {
        self.state.lock().lost > MOST
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.renew();
    }
}
