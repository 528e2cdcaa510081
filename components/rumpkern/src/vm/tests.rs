//! Spaces on the host's pmap: single cases, and random sequences of calls against a model.

extern crate std;
use alloc::{sync::Arc, vec, vec::Vec};
use std::collections::BTreeMap;

use rumpuser::{
    Protection,
    memory::{LARGE_PAGE_SIZE, PAGE_SIZE},
    rumpuser_frame_references,
};

use super::*;
use crate::Errno;

const READ: Protection = Protection::READ;
const WRITE: Protection = Protection::READ.union(Protection::WRITE);
const NONE: Protection = Protection::empty();
const MIB: usize = 1 << 20;

fn space() -> Arc<Space> {
    Space::new(8 * MIB).unwrap()
}

fn fixed(start: usize, length: usize, protection: Protection) -> Request {
    Request { placement: Placement::Fixed(start), ..Request::anonymous(length, protection) }
}

fn poke(space: &Space, address: usize, byte: u8) -> Result<(), FaultError> {
    space.write(address, &[byte]).1
}

fn peek(space: &Space, address: usize) -> Result<u8, FaultError> {
    let mut byte = [0];
    space.read(address, &mut byte).1.map(|()| byte[0])
}

#[test]
fn mappings_are_placed_top_down_and_reuse_holes() {
    let space = space();
    let first = space.map(Request::anonymous(4 * PAGE_SIZE, WRITE)).unwrap();
    let second = space.map(Request::anonymous(4 * PAGE_SIZE, READ)).unwrap();
    let third = space.map(Request::anonymous(4 * PAGE_SIZE, WRITE)).unwrap();
    assert_eq!((second, third), (first - 4 * PAGE_SIZE, second - 4 * PAGE_SIZE));
    space.unmap(second, 4 * PAGE_SIZE).unwrap();
    assert_eq!(space.map(Request::anonymous(5 * PAGE_SIZE, READ)).unwrap(), third - 5 * PAGE_SIZE);
    assert_eq!(space.map(Request::anonymous(3 * PAGE_SIZE, READ)).unwrap(), second + PAGE_SIZE);
    assert_eq!(space.map(Request::anonymous(PAGE_SIZE, READ)).unwrap(), second);
    let below = Request { placement: Placement::Below(1 << 31), ..Request::anonymous(PAGE_SIZE, READ) };
    assert_eq!(space.map(below).unwrap(), (1 << 31) - PAGE_SIZE);
}

#[test]
fn neighbours_that_are_alike_become_one_entry() {
    let space = space();
    let address = space.map(Request::anonymous(64 * PAGE_SIZE, WRITE)).unwrap();
    space.map(Request::anonymous(64 * PAGE_SIZE, WRITE)).unwrap();
    assert_eq!(space.report(false).len(), 1);
    space.protect(address, PAGE_SIZE, READ, false).unwrap();
    assert_eq!(space.report(false).len(), 3);
    space.protect(address, PAGE_SIZE, WRITE, false).unwrap();
    assert_eq!(space.report(false).len(), 1);
}

#[test]
fn huge_reservations_cost_nothing_and_the_machine_limits_the_rest() {
    let space = space();
    let reserve = Request { flags: EntryFlags::NO_RESERVE, ..Request::anonymous(16 << 40, WRITE) };
    let address = space.map(reserve).unwrap();
    poke(&space, address + (8 << 40), 1).unwrap();
    assert!(space.map(Request::anonymous(1 << 40, NONE)).is_ok());
    assert_eq!(space.map(Request::anonymous(1 << 40, WRITE)), Err(Errno::ENOMEM));
    assert_eq!(space.map(Request::anonymous(usize::MAX - 5, NONE)), Err(Errno::ENOMEM));
    assert_eq!(space.map(Request::anonymous(0, NONE)), Err(Errno::EINVAL));
    assert_eq!(space.map(fixed(usize::MAX & !0xfff, PAGE_SIZE, READ)), Err(Errno::ENOMEM));
    assert_eq!(space.map(fixed(0, PAGE_SIZE, READ)), Err(Errno::EPERM));
    assert!(space.pmap().resident() < 100);
    space.unmap(address, 16 << 40).unwrap();
    assert_eq!(space.pmap().resident(), 0);
}

#[test]
fn a_sequential_toucher_faults_seldom_and_gets_large_pages() {
    let space = space();
    let length = 4 * LARGE_PAGE_SIZE;
    let address = 1 << 40;
    space.map(fixed(address, length, WRITE)).unwrap();
    let mut faults = 0;
    for page in (address..address + length).step_by(PAGE_SIZE) {
        if space.pmap().query(page).is_none() {
            space.fault(page, true, false).unwrap();
            faults += 1;
        }
    }
    assert!(faults < 20, "{faults} faults");
    assert_eq!(space.pmap().resident(), length / PAGE_SIZE);
}

#[test]
fn reads_of_untouched_memory_share_one_frame() {
    let space = space();
    let address = space.map(Request::anonymous(8 * PAGE_SIZE, WRITE)).unwrap();
    assert_eq!(peek(&space, address), Ok(0));
    assert_eq!(peek(&space, address + PAGE_SIZE), Ok(0));
    let pmap = space.pmap();
    assert_eq!(pmap.query(address).unwrap().0, pmap.query(address + PAGE_SIZE).unwrap().0);
    poke(&space, address, 7).unwrap();
    assert_eq!((peek(&space, address), peek(&space, address + PAGE_SIZE)), (Ok(7), Ok(0)));
}

#[test]
fn the_stack_grows_to_its_limit_and_keeps_a_gap() {
    let space = space();
    let top = space.stack_top();
    let stack =
        Request { flags: EntryFlags::GROWS_DOWN, ..fixed(top - 16 * PAGE_SIZE, 16 * PAGE_SIZE, WRITE) };
    space.map(stack).unwrap();
    poke(&space, top - MIB, 1).unwrap();
    poke(&space, top - 8 * MIB, 1).unwrap();
    assert_eq!(poke(&space, top - 8 * MIB - 1, 1), Err(FaultError::NotMapped));
    let other = Request { flags: EntryFlags::GROWS_DOWN, ..fixed(1 << 30, PAGE_SIZE, WRITE) };
    space.map(other).unwrap();
    space.map(fixed((1 << 30) - 2 * MIB, PAGE_SIZE, WRITE)).unwrap();
    poke(&space, (1 << 30) - MIB + PAGE_SIZE, 1).unwrap();
    assert_eq!(poke(&space, (1 << 30) - MIB - PAGE_SIZE, 1), Err(FaultError::NotMapped));
}

#[test]
fn the_break_moves_both_ways() {
    let space = space();
    space.set_heap(0x1000_0000);
    assert_eq!(space.set_break(0), 0x1000_0000);
    assert_eq!(space.set_break(0x1000_1234), 0x1000_1234);
    poke(&space, 0x1000_1fff, 3).unwrap();
    assert_eq!(space.set_break(0x1100_0000), 0x1100_0000);
    assert_eq!(peek(&space, 0x1000_1fff), Ok(3));
    assert_eq!(space.report(false).len(), 1);
    assert_eq!(space.set_break(0x1000_0000), 0x1000_0000);
    assert_eq!(peek(&space, 0x1000_0000), Err(FaultError::NotMapped));
    space.map(fixed(0x1000_4000, PAGE_SIZE, READ)).unwrap();
    assert_eq!(space.set_break(0x1000_3001), 0x1000_0000);
    space.set_limit(Limit::Data, 0x1000);
    assert_eq!(space.set_break(0x1000_2000), 0x1000_0000);
}

#[test]
fn limits_are_kept() {
    let space = space();
    space.set_limit(Limit::AddressSpace, MIB);
    assert_eq!(space.map(Request::anonymous(2 * MIB, WRITE)), Err(Errno::ENOMEM));
    let address = space.map(Request::anonymous(MIB, WRITE)).unwrap();
    assert_eq!(space.remap(address, MIB, 2 * MIB, Destination::Anywhere, false), Err(Errno::ENOMEM));
    space.set_limit(Limit::Locked, PAGE_SIZE);
    assert_eq!(space.lock(address, 2 * PAGE_SIZE, Lock::Populate, false), Err(Errno::ENOMEM));
    assert_eq!(space.lock(address + 5, 1, Lock::Populate, false), Ok(()));
    assert_eq!(space.usage().locked, PAGE_SIZE);
    assert_eq!(space.advise(address, PAGE_SIZE, Advice::DontNeed { locked: false }), Err(Errno::EINVAL));
}

#[test]
fn protection_is_checked_and_kept_contents_come_back() {
    let space = space();
    let address = space.map(Request::anonymous(2 * PAGE_SIZE, WRITE)).unwrap();
    poke(&space, address, 9).unwrap();
    space.protect(address, PAGE_SIZE, NONE, false).unwrap();
    assert_eq!(peek(&space, address), Err(FaultError::Protection));
    space.protect(address, PAGE_SIZE, READ, false).unwrap();
    assert_eq!((peek(&space, address), poke(&space, address, 1)), (Ok(9), Err(FaultError::Protection)));
    assert_eq!(space.fault(address, false, true), Err(FaultError::Protection));
    space.protect(address, PAGE_SIZE, WRITE, false).unwrap();
    poke(&space, address, 1).unwrap();
    let beyond = space.protect(address, 4 * PAGE_SIZE, READ, false);
    assert!(beyond == Err(Errno::ENOMEM) || beyond == Ok(()));
    let shared = Request { flags: EntryFlags::SHARED, maximum: READ, ..Request::anonymous(PAGE_SIZE, READ) };
    let shared = space.map(shared).unwrap();
    assert_eq!(space.protect(shared, PAGE_SIZE, WRITE, false), Err(Errno::EACCES));
}

#[test]
fn what_may_be_written_may_be_read() {
    let space = space();
    for only in [Protection::WRITE, Protection::EXECUTE] {
        let address = space.map(Request::anonymous(PAGE_SIZE, only)).unwrap();
        assert_eq!(peek(&space, address), Ok(0));
        assert!(space.pmap().query(address).unwrap().1.contains(READ));
        space.protect(address, PAGE_SIZE, NONE, false).unwrap();
        space.protect(address, PAGE_SIZE, only, false).unwrap();
        assert_eq!(peek(&space, address), Ok(0));
        assert!(space.pmap().query(address).unwrap().1.contains(READ));
    }
}

#[test]
fn fork_copies_on_write() {
    let parent = space();
    // Neighbours are upgraded inside of 2 MiB, so the place is not left to chance.
    let address = parent.map(fixed(1 << 30, 64 * PAGE_SIZE, WRITE)).unwrap();
    (0..64).for_each(|page| poke(&parent, address + page * PAGE_SIZE, page as u8).unwrap());
    let child = parent.fork().unwrap();
    poke(&parent, address, 100).unwrap();
    poke(&child, address + PAGE_SIZE, 101).unwrap();
    assert_eq!((peek(&child, address), peek(&parent, address + PAGE_SIZE)), (Ok(0), Ok(1)));
    let (frame, _) = parent.pmap().query(address + 2 * PAGE_SIZE).unwrap();
    drop(child);
    poke(&parent, address + 2 * PAGE_SIZE, 5).unwrap();
    let (after, protection) = parent.pmap().query(address + 2 * PAGE_SIZE).unwrap();
    assert_eq!((after, rumpuser_frame_references(after), protection), (frame, 1, WRITE));
    // The neighbours became writable along with it.
    assert_eq!(parent.pmap().query(address + 9 * PAGE_SIZE).unwrap().1, WRITE);
}

#[test]
fn fork_obeys_advice() {
    let parent = space();
    let wiped = parent.map(fixed(1 << 30, PAGE_SIZE, WRITE)).unwrap();
    let left_out = parent.map(fixed(2 << 30, PAGE_SIZE, WRITE)).unwrap();
    poke(&parent, wiped, 1).unwrap();
    poke(&parent, left_out, 1).unwrap();
    let flags = |set| Advice::Flags { set, clear: EntryFlags::empty() };
    parent.advise(wiped, PAGE_SIZE, flags(EntryFlags::WIPE_ON_FORK)).unwrap();
    parent.advise(left_out, PAGE_SIZE, flags(EntryFlags::DONT_FORK)).unwrap();
    let child = parent.fork().unwrap();
    assert_eq!((peek(&child, wiped), peek(&child, left_out)), (Ok(0), Err(FaultError::NotMapped)));
    assert_eq!(parent.advise(0x7000, PAGE_SIZE, Advice::DontNeed { locked: false }), Err(Errno::ENOMEM));
}

#[test]
fn a_shrunk_object_faults_with_a_bus_error() {
    let space = space();
    let object = SharedMemory::new(4);
    let request = Request {
        flags: EntryFlags::SHARED,
        backing: Backing::Pager { pager: object.clone(), first: 2 },
        ..Request::anonymous(4 * PAGE_SIZE, WRITE)
    };
    let address = space.map(request).unwrap();
    poke(&space, address, 1).unwrap();
    assert_eq!(poke(&space, address + 2 * PAGE_SIZE, 1), Err(FaultError::BusError));
    assert_eq!(peek(&space, address + 3 * PAGE_SIZE), Err(FaultError::BusError));
    space.advise(address, PAGE_SIZE, Advice::Remove).unwrap();
    assert_eq!((object.resident(2), peek(&space, address)), (false, Ok(0)));
}

/// A file that has a page of the image until it is written.
struct Overlaid {
    image: rumpuser::Frame,
    own: rumpuser::sync::Mutex<Option<rumpuser::Frame>>,
    mappings: crate::mappings::Mappings,
}

impl Pager for Overlaid {
    fn page(&self, index: u64, write: bool) -> crate::Result<rumpuser::Frame> {
        let mut own = self.own.lock();
        let replace = write && own.is_none();
        if replace {
            *own = Some(rumpuser::rumpuser_frame_alloc()?);
        }
        let frame = own.unwrap_or(self.image);
        rumpuser::rumpuser_frame_retain(frame);
        drop(own);
        if replace {
            self.mappings.revoke(index..index + 1, true);
        }
        Ok(frame)
    }

    fn mappings(&self) -> Option<&crate::mappings::Mappings> {
        Some(&self.mappings)
    }
}

#[test]
fn an_object_may_revoke_pages_while_it_is_asked() {
    let space = space();
    let image = rumpuser::rumpuser_frame_alloc().unwrap();
    image.write(0, b"i");
    let object = Arc::new(Overlaid { image, own: Default::default(), mappings: Default::default() });
    let map = |flags| {
        let backing = Backing::Pager { pager: object.clone(), first: 0 };
        space.map(Request { flags, backing, ..Request::anonymous(PAGE_SIZE, WRITE) }).unwrap()
    };
    let (shared, private) = (map(EntryFlags::SHARED), map(EntryFlags::empty()));
    assert_eq!((peek(&space, shared), peek(&space, private)), (Ok(b'i'), Ok(b'i')));
    poke(&space, shared, b'o').unwrap();
    assert_eq!((peek(&space, shared), peek(&space, private)), (Ok(b'o'), Ok(b'o')));
    poke(&space, private, b'p').unwrap();
    object.mappings.revoke(0..1, true);
    assert_eq!((peek(&space, shared), peek(&space, private)), (Ok(b'o'), Ok(b'p')));
    poke(&space, shared, b'q').unwrap();
    object.mappings.write_protect(0..1);
    assert_eq!(space.pmap().query(shared).map(|(_, protection)| protection), Some(READ));
    assert!(object.mappings.may_write());
    space.unmap(shared, PAGE_SIZE).unwrap();
    assert!(!object.mappings.may_write());
    space.unmap(private, PAGE_SIZE).unwrap();
    object.mappings.revoke(0..1, false);
}

#[test]
fn private_pages_of_an_object_are_copies() {
    let space = space();
    let object = SharedMemory::new(8);
    let request = |flags| Request {
        flags,
        backing: Backing::Pager { pager: object.clone(), first: 0 },
        ..Request::anonymous(8 * PAGE_SIZE, WRITE)
    };
    let shared = space.map(request(EntryFlags::SHARED)).unwrap();
    let private = space.map(request(EntryFlags::empty())).unwrap();
    poke(&space, shared, 1).unwrap();
    assert_eq!(peek(&space, private), Ok(1));
    poke(&space, private, 2).unwrap();
    poke(&space, private + PAGE_SIZE, 3).unwrap();
    assert_eq!((peek(&space, shared), peek(&space, shared + PAGE_SIZE)), (Ok(1), Ok(0)));
    let child = space.fork().unwrap();
    poke(&child, shared + 5, 8).unwrap();
    poke(&child, private, 9).unwrap();
    assert_eq!((peek(&space, shared + 5), peek(&space, private)), (Ok(8), Ok(2)));
    space.advise(private, PAGE_SIZE, Advice::DontNeed { locked: false }).unwrap();
    assert_eq!(peek(&space, private), Ok(1));
    assert_eq!(space.find_pager(shared).map(|(_, index, shared)| (index, shared)), Some((0, true)));
}

#[test]
fn parts_of_an_object_can_be_rearranged() {
    let space = space();
    let request = Request { flags: EntryFlags::SHARED, ..Request::anonymous(4 * PAGE_SIZE, WRITE) };
    let address = space.map(request).unwrap();
    (0..4).for_each(|page| poke(&space, address + page * PAGE_SIZE, page as u8).unwrap());
    space.remap_object(address, PAGE_SIZE, 3).unwrap();
    space.remap_object(address + 3 * PAGE_SIZE, PAGE_SIZE, 0).unwrap();
    let shown: Vec<_> = (0..4).map(|page| peek(&space, address + page * PAGE_SIZE).unwrap()).collect();
    assert_eq!(shown, [3, 1, 2, 0]);
    assert_eq!(space.remap_object(address, 2 * PAGE_SIZE, 0), Err(Errno::EINVAL));
    assert_eq!(space.remap_object(0x1000, PAGE_SIZE, 0), Err(Errno::EINVAL));
}

#[test]
fn the_maps_file_looks_like_linux() {
    let space = space();
    let name = Name { path: b"/bin/true".to_vec(), device: 0xfe01, inode: 42 };
    let request = Request {
        name: Some(Arc::new(name)),
        backing: Backing::Pager { pager: SharedMemory::new(16), first: 2 },
        ..fixed(0x40_0000, PAGE_SIZE, READ | Protection::EXECUTE)
    };
    space.map(request).unwrap();
    space.map(fixed(0x50_0000, PAGE_SIZE, WRITE)).unwrap();
    let expected = "00400000-00401000 r-xp 00002000 fe:01 42                                 /bin/true\n\
                    00500000-00501000 rw-p 00000000 00:00 0 \n";
    assert_eq!(std::str::from_utf8(&space.maps_text()).unwrap(), expected);
}

/// Where the random sequences happen.
const ARENA: usize = 0x2000_0000;
const PAGES: usize = 48;

/// What a page of the model is.
#[derive(Clone, Copy)]
enum Page {
    Private(u8),
    /// A page of a shared object: (object, index).
    Shared(usize, usize),
}

#[derive(Clone, Default)]
struct Model {
    pages: BTreeMap<usize, (Page, Protection)>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
}

#[test]
fn random_sequences_agree_with_the_model() {
    for seed in 1..40 {
        random_sequence(seed);
    }
}

fn random_sequence(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut objects: Vec<Vec<u8>> = Vec::new();
    let mut spaces = vec![(space(), Model::default())];
    let protections = [NONE, READ, WRITE, READ | Protection::EXECUTE];
    for _ in 0..1_500 {
        let which = random.below(spaces.len());
        let first = random.below(PAGES);
        let count = 1 + random.below((PAGES - first).min(12));
        let (start, length) = (ARENA + first * PAGE_SIZE, count * PAGE_SIZE);
        let protection = protections[random.below(4)];
        let value = random.below(255) as u8 + 1;
        let operation = random.below(20);
        let population = spaces.len();
        let (space, model) = &mut spaces[which];
        match operation {
            0 | 1 => {
                space.map(fixed(start, length, protection)).unwrap();
                (first..first + count).for_each(|page| {
                    model.pages.insert(page, (Page::Private(0), protection));
                });
            }
            2 => {
                let request = Request { flags: EntryFlags::SHARED, ..fixed(start, length, protection) };
                space.map(request).unwrap();
                for index in 0..count {
                    model.pages.insert(first + index, (Page::Shared(objects.len(), index), protection));
                }
                objects.push(vec![0; count]);
            }
            3 | 4 => {
                space.unmap(start, length).unwrap();
                (first..first + count).for_each(|page| {
                    model.pages.remove(&page);
                });
            }
            5 | 6 => {
                let mut complete = true;
                for page in first..first + count {
                    match model.pages.get_mut(&page) {
                        Some((_, current)) if complete => *current = protection,
                        _ => complete = false,
                    }
                }
                assert_eq!(space.protect(start, length, protection, false).is_ok(), complete);
            }
            7 => {
                // A move to another place in the arena, if the source is one entry.
                let target = random.below(PAGES - count + 1);
                let destination = Destination::Fixed(ARENA + target * PAGE_SIZE);
                if space.remap(start, length, length, destination, false).is_ok() {
                    let moved: Vec<_> = (first..first + count)
                        .map(|page| model.pages.remove(&page).expect("mapped"))
                        .collect();
                    for (index, page) in moved.into_iter().enumerate() {
                        model.pages.insert(target + index, page);
                    }
                }
            }
            8 => {
                let _ = space.advise(start, length, Advice::DontNeed { locked: false });
                for page in first..first + count {
                    if let Some((Page::Private(content), _)) = model.pages.get_mut(&page) {
                        *content = 0;
                    }
                }
            }
            9 if population < 4 => {
                let fork = (space.fork().unwrap(), model.clone());
                spaces.push(fork);
            }
            10 if population > 1 => {
                spaces.remove(which);
            }
            11..=15 => {
                let result = poke(space, start + 17, value);
                match model.pages.get_mut(&first) {
                    None => assert_eq!(result, Err(FaultError::NotMapped)),
                    Some((_, protection)) if !protection.contains(Protection::WRITE) => {
                        assert_eq!(result, Err(FaultError::Protection));
                    }
                    Some((page, _)) => {
                        assert_eq!(result, Ok(()));
                        match page {
                            Page::Private(content) => *content = value,
                            Page::Shared(object, index) => objects[*object][*index] = value,
                        }
                    }
                }
            }
            _ => {
                let expected = match model.pages.get(&first) {
                    None => Err(FaultError::NotMapped),
                    Some((_, protection)) if protection.is_empty() => Err(FaultError::Protection),
                    Some((Page::Private(content), _)) => Ok(*content),
                    Some((Page::Shared(object, index), _)) => Ok(objects[*object][*index]),
                };
                assert_eq!(peek(space, start + 17), expected, "seed {seed}");
            }
        }
        let (space, model) = &spaces[which.min(spaces.len() - 1)];
        assert_eq!(space.usage().total, model.pages.len() * PAGE_SIZE);
    }
}
