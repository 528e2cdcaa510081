//! The vDSO and the clock page in a program's address space. The code is in `components/linux/vdso`.

use alloc::{sync::Arc, vec::Vec};

use rumpkern::{
    Result,
    vm::{Backing, EntryFlags, FixedPages, Name, Placement, Request, Space},
};
use rumpuser::{
    Protection, memory::PAGE_SIZE, rumpuser_clock_page, rumpuser_frame_alloc, rumpuser_frame_retain,
    sync::Mutex,
};

/// The shared object that build.rs made.
pub static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vdso.so"));

/// The vDSO's and the clock's pages, and what they are called in /proc/self/maps.
#[derive(Clone)]
struct Pages {
    clock: Arc<FixedPages>,
    clock_name: Arc<Name>,
    code: Arc<FixedPages>,
    code_name: Arc<Name>,
}

impl Pages {
    fn new() -> Result<Pages> {
        let mut frames = Vec::new();
        for part in IMAGE.chunks(PAGE_SIZE) {
            let frame = rumpuser_frame_alloc()?;
            frame.write(0, part);
            frames.push(frame);
        }
        let clock = rumpuser_clock_page();
        rumpuser_frame_retain(clock);
        let name = |path: &[u8]| Arc::new(Name { path: path.to_vec(), ..Name::default() });
        Ok(Pages {
            clock: FixedPages::new(alloc::vec![clock]),
            clock_name: name(b"[vvar]"),
            code: FixedPages::new(frames),
            code_name: name(b"[vdso]"),
        })
    }
}

/// Maps the vDSO, the clock page before it, and returns where the vDSO's ELF header is (AT_SYSINFO_EHDR).
pub fn map(space: &Space) -> Result<usize> {
    static PAGES: Mutex<Option<Pages>> = Mutex::new(None);
    let pages = {
        let mut slot = PAGES.lock();
        match &*slot {
            Some(pages) => pages.clone(),
            None => slot.insert(Pages::new()?).clone(),
        }
    };
    let code_length = IMAGE.len().next_multiple_of(PAGE_SIZE);
    let start = space.map(Request::anonymous(PAGE_SIZE + code_length, Protection::empty()))?;
    let code = start + PAGE_SIZE;
    space.map(Request {
        placement: Placement::Fixed(start),
        maximum: Protection::READ,
        flags: EntryFlags::SPECIAL | EntryFlags::DONT_DUMP,
        backing: Backing::Pager { pager: pages.clock, first: 0 },
        name: Some(pages.clock_name),
        ..Request::anonymous(PAGE_SIZE, Protection::READ)
    })?;
    space.map(Request {
        placement: Placement::Fixed(code),
        flags: EntryFlags::SPECIAL,
        backing: Backing::Pager { pager: pages.code, first: 0 },
        name: Some(pages.code_name),
        ..Request::anonymous(code_length, Protection::READ | Protection::EXECUTE)
    })?;
    Ok(code)
}

#[cfg(test)]
mod tests;
