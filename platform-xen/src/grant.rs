//! Grant tables (Xen, public/grant_table.h): which pages of this domain others may reach. Version 2 where the hypervisor has
//! it, else version 1.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use rumpuser::{Frame, OutOfMemory, device::GrantReference, memory::PAGE_SIZE, sync::InterruptLock};

use crate::{
    hypercall::{self, GrantOperation},
    memory::{self, Page, Space},
};

/// References that the toolstack keeps for itself.
const RESERVED: u32 = 8;
/// A page may be mapped and copied.
const PERMIT: u32 = 1;
const READ_ONLY: u32 = 1 << 2;
/// The other side reads or writes at the moment.
const IN_USE: u32 = 1 << 3 | 1 << 4;
/// Status pages, beside the table's own.
const STATUS_PAGES: u64 = 1 << 31;
/// 32-bit words of an entry, by version.
const WORDS: [usize; 2] = [2, 4];
/// The same of a page.
const PAGE_WORDS: usize = PAGE_SIZE / size_of::<AtomicU32>();
const STATES: usize = PAGE_SIZE / size_of::<AtomicU16>();

#[repr(C)]
struct SetVersion {
    version: u32,
}

// SAFETY: `struct gnttab_set_version` with GNTTABOP_set_version.
unsafe impl GrantOperation for SetVersion {
    const COMMAND: u64 = 8;
}

/// A page of the table, and its frame.
struct Mapped<T: 'static> {
    frame: u64,
    items: &'static [T],
}

struct Table {
    /// 0 before the first use.
    version: u32,
    entries: Vec<Mapped<AtomicU32>>,
    states: Vec<Mapped<AtomicU16>>,
    free: Vec<GrantReference>,
}

static TABLE: InterruptLock<Table> =
    InterruptLock::new(Table { version: 0, entries: Vec::new(), states: Vec::new(), free: Vec::new() });

impl Table {
    fn choose_version(&mut self) {
        let second = hypercall::grant(&mut SetVersion { version: 2 });
        self.version = if second.is_ok() { 2 } else { 1 };
    }

    fn words(&self) -> usize {
        WORDS[(self.version == 2) as usize]
    }

    fn per_page(&self) -> u32 {
        (PAGE_WORDS / self.words()) as u32
    }

    /// Adds a page of entries.
    fn grow(&mut self) -> Result<(), OutOfMemory> {
        if self.version == 0 {
            self.choose_version();
        }
        let count = self.entries.len() as u32;
        let first = count * self.per_page();
        let end = first + self.per_page();
        while self.version == 2 && self.states.len() * STATES < end as usize {
            let index = self.states.len() as u64 | STATUS_PAGES;
            let (page, frame) = map(index)?;
            // SAFETY: made of atomics.
            self.states.push(Mapped { frame, items: unsafe { page.leak() } });
        }
        let (page, frame) = map(count.into())?;
        // SAFETY: made of atomics.
        self.entries.push(Mapped { frame, items: unsafe { page.leak() } });
        self.free.extend((first.max(RESERVED)..end).rev());
        Ok(())
    }

    /// The words of an entry.
    fn entry(&self, reference: GrantReference) -> Option<&'static [AtomicU32]> {
        let first = reference as usize * self.words();
        let page = self.entries.get(first / PAGE_WORDS)?;
        page.items.get(first % PAGE_WORDS..first % PAGE_WORDS + self.words())
    }

    fn grant(&mut self, domain: u16, frame: Frame, writable: bool) -> Option<GrantReference> {
        if self.free.is_empty() {
            self.grow().ok()?;
        }
        let reference = *self.free.last()?;
        self.write(reference, domain, frame, writable)?;
        self.free.pop()
    }

    fn write(&self, reference: GrantReference, domain: u16, frame: Frame, writable: bool) -> Option<()> {
        let entry = self.entry(reference)?;
        match entry {
            [_, low] => low.store(u32::try_from(frame.0).ok()?, Ordering::Relaxed),
            [_, _, low, high] => {
                low.store(frame.0 as u32, Ordering::Relaxed);
                high.store((frame.0 >> 32) as u32, Ordering::Relaxed);
            }
            _ => return None,
        }
        let flags = PERMIT | if writable { 0 } else { READ_ONLY };
        entry[0].store(flags | u32::from(domain) << 16, Ordering::Release);
        Some(())
    }

    /// Takes a page back, but not the reference.
    fn revoke(&self, reference: GrantReference) -> bool {
        let Some(head) = self.entry(reference).and_then(|entry| entry.first()) else { return false };
        if self.version != 2 {
            return revoke(head);
        }
        let state = self
            .states
            .get(reference as usize / STATES)
            .and_then(|page| page.items.get(reference as usize % STATES));
        head.store(0, Ordering::SeqCst);
        // After that, as both are in one order for all CPUs.
        state.is_some_and(|state| u32::from(state.load(Ordering::SeqCst)) & IN_USE == 0)
    }

    fn end(&mut self, reference: GrantReference) -> bool {
        let ended = self.revoke(reference);
        if ended {
            self.free.push(reference);
        }
        ended
    }
}

/// Ends a grant of version 1, in whose head the hypervisor notes uses.
fn revoke(head: &AtomicU32) -> bool {
    let mut now = head.load(Ordering::SeqCst);
    while now & IN_USE == 0 {
        match head.compare_exchange_weak(now, 0, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return true,
            Err(changed) => now = changed,
        }
    }
    false
}

fn map(index: u64) -> Result<(Page, u64), OutOfMemory> {
    let page = Page::new(PAGE_SIZE)?;
    let frame = page.frame(0);
    memory::map(Space::GrantTable, index, frame).map_err(|_| OutOfMemory)?;
    Ok((page, frame))
}

/// Puts the empty table of a restored domain in the place of the one before: nothing is granted any more, but references
/// stay taken until they are ended.
pub fn resume() {
    let mut table = TABLE.lock();
    let version = table.version;
    if version == 0 {
        return;
    }
    table.choose_version();
    let pages = |frames: &mut dyn Iterator<Item = u64>, kind: u64| {
        frames
            .enumerate()
            .all(|(index, frame)| memory::map(Space::GrantTable, index as u64 | kind, frame).is_ok())
    };
    let same = table.version == version
        && pages(&mut table.states.iter().map(|page| page.frame), STATUS_PAGES)
        && pages(&mut table.entries.iter().map(|page| page.frame), 0);
    if !same {
        // Another hypervisor, with other tables: their references are of no use there.
        let empty = Table { version: 0, entries: Vec::new(), states: Vec::new(), free: Vec::new() };
        let before = core::mem::replace(&mut *table, empty);
        drop(table);
        drop(before);
    }
}

/// Lets a domain reach a page.
pub fn grant(domain: u16, frame: Frame, writable: bool) -> Option<GrantReference> {
    TABLE.lock().grant(domain, frame, writable)
}

/// Takes a page back; false if the domain still uses it: then the reference stays taken.
pub fn end(reference: GrantReference) -> bool {
    TABLE.lock().end(reference)
}

/// Takes a page back, and lets a domain reach another one by the same reference; false as with [`end`].
pub fn exchange(domain: u16, reference: GrantReference, frame: Frame, writable: bool) -> bool {
    let table = TABLE.lock();
    table.revoke(reference) && table.write(reference, domain, frame, writable).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(version: u32) -> Table {
        fn page<T>() -> &'static [T] {
            let page = Page::new(PAGE_SIZE).expect("memory");
            // SAFETY: the tests ask for atomics only.
            unsafe { page.leak() }
        }
        let (entries, states) = (Mapped { frame: 0, items: page() }, Mapped { frame: 0, items: page() });
        Table { version, entries: vec![entries], states: vec![states], free: vec![9, 8] }
    }

    #[test]
    fn pages_are_lent_and_taken_back() {
        for version in [1, 2] {
            let mut table = table(version);
            let reference = table.grant(3, Frame(0x1_2345), false).expect("a free one");
            let entry = table.entry(reference).expect("an entry");
            assert_eq!(entry[0].load(Ordering::Relaxed), 3 << 16 | PERMIT | READ_ONLY);
            assert_eq!(entry[entry.len() / 2].load(Ordering::Relaxed), 0x1_2345);
            // The other side maps it.
            if version == 1 {
                entry[0].fetch_or(1 << 3, Ordering::Relaxed);
            } else {
                table.states[0].items[reference as usize].store(1 << 3, Ordering::Relaxed);
            }
            assert!(!table.end(reference) && !table.free.contains(&reference));
            if version == 1 {
                entry[0].fetch_and(!(1 << 3), Ordering::Relaxed);
            } else {
                table.states[0].items[reference as usize].store(0, Ordering::Relaxed);
            }
            // Another page takes its place.
            assert!(table.revoke(reference) && !table.free.contains(&reference));
            assert_eq!(entry[0].load(Ordering::Relaxed), 0);
            assert!(table.write(reference, 4, Frame(0x77), true).is_some());
            assert_eq!(entry[0].load(Ordering::Relaxed), 4 << 16 | PERMIT);
            assert_eq!(entry[entry.len() / 2].load(Ordering::Relaxed), 0x77);
            assert!(table.end(reference) && table.free.contains(&reference));
            assert_eq!(entry[0].load(Ordering::Relaxed), 0);
            assert!(!table.end(1 << 20));
        }
    }
}
