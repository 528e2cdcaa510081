//! The kernel heap: size classes in slabs, per-CPU caches before them; large blocks come from the frame allocator.
//! A slab is one frame, since memory that is nearly used up has no larger blocks.
//! Works with interrupts disabled and in interrupt handlers.

use core::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    ptr::null_mut,
};

use rumpuser::memory::PAGE_SIZE;

use super::{
    frames::{self, For},
    layout::{direct, physical},
};
use crate::{cpu, lock::Spin, machine};

/// Object sizes. Each is a multiple of 16, and of the alignment that layouts of its size may ask for.
pub const CLASSES: [usize; 17] =
    [16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048];
/// What a CPU keeps of a class, in bytes and in objects.
const CACHE_BYTES: usize = 8192;
const CACHE_OBJECTS: usize = 32;

/// The class for a layout; `None` if whole frames serve it.
pub fn class_of(size: usize, alignment: usize) -> Option<usize> {
    let size = size.max(1);
    if size > 2048 || alignment > 512 {
        return None;
    }
    // Most layouts need one look; larger alignments may need the next classes.
    let first = usize::from(FIRST[size.div_ceil(16)]);
    (first..CLASSES.len()).find(|&class| CLASSES[class].is_multiple_of(alignment))
}

/// The smallest class for each size in units of 16 bytes, rounded up.
static FIRST: [u8; 2048 / 16 + 1] = {
    let mut table = [0; 2048 / 16 + 1];
    let (mut class, mut unit) = (0, 0);
    while unit < table.len() {
        while CLASSES[class] < unit * 16 {
            class += 1;
        }
        table[unit] = class as u8;
        unit += 1;
    }
    table
};

/// Stands at the start of a slab.
#[repr(C)]
struct Slab {
    next: *mut Slab,
    previous: *mut Slab,
    free: *mut Object,
    used: usize,
}

/// A free object.
struct Object {
    next: *mut Object,
}

/// The slabs of a class that have free objects.
struct Class {
    partial: *mut Slab,
}

// SAFETY: the slabs belong to the class, and the lock around it serialises access.
unsafe impl Send for Class {}

static CLASS: [Spin<Class>; CLASSES.len()] =
    [const { Spin::new(Class { partial: null_mut() }) }; CLASSES.len()];

/// A CPU's free objects. Used with interrupts disabled.
pub struct HeapCache {
    heads: [Cell<*mut Object>; CLASSES.len()],
    counts: [Cell<usize>; CLASSES.len()],
}

impl HeapCache {
    /// Without objects.
    pub const fn new() -> Self {
        HeapCache {
            heads: [const { Cell::new(null_mut()) }; CLASSES.len()],
            counts: [const { Cell::new(0) }; CLASSES.len()],
        }
    }
}

impl Default for HeapCache {
    fn default() -> Self {
        Self::new()
    }
}

const fn first_object(size: usize) -> usize {
    let alignment = 1 << size.trailing_zeros();
    size_of::<Slab>().next_multiple_of(alignment)
}

const fn objects_in(size: usize) -> usize {
    (PAGE_SIZE - first_object(size)) / size
}

fn cache_limit(size: usize) -> usize {
    (CACHE_BYTES / size).clamp(2, CACHE_OBJECTS)
}

impl Class {
    /// Takes one object. Runs with the class locked.
    fn take(&mut self, size: usize) -> *mut Object {
        if self.partial.is_null() {
            let Ok(frame) = frames::allocate(0, For::Kernel) else { return null_mut() };
            let start = direct(frame.physical());
            let slab = start as *mut Slab;
            let mut free = null_mut();
            for index in (0..objects_in(size)).rev() {
                let object = (start + first_object(size) + index * size) as *mut Object;
                // SAFETY: inside the frames just allocated.
                unsafe { object.write(Object { next: free }) };
                free = object;
            }
            // SAFETY: as above; the header stands before the first object.
            unsafe { slab.write(Slab { next: null_mut(), previous: null_mut(), free, used: 0 }) };
            self.partial = slab;
        }
        // SAFETY: a slab in the partial list is ours and has a free object.
        unsafe {
            let slab = &mut *self.partial;
            let object = slab.free;
            slab.free = (*object).next;
            slab.used += 1;
            if slab.free.is_null() {
                self.partial = slab.next;
                if !slab.next.is_null() {
                    (*slab.next).previous = null_mut();
                }
            }
            object
        }
    }

    /// Gives one back; a slab without used objects goes back to the frames, unless it is the class's last.
    fn give(&mut self, object: *mut Object) {
        let start = object as usize & !(PAGE_SIZE - 1);
        // SAFETY: the object came from `take`, so a slab of this class stands at `start`, under this lock.
        unsafe {
            let slab = &mut *(start as *mut Slab);
            (*object).next = slab.free;
            let was_full = slab.free.is_null();
            slab.free = object;
            slab.used -= 1;
            if was_full {
                slab.next = self.partial;
                slab.previous = null_mut();
                if !slab.next.is_null() {
                    (*slab.next).previous = slab;
                }
                self.partial = slab;
            }
            if slab.used == 0 && !(slab.next.is_null() && slab.previous.is_null()) {
                if slab.previous.is_null() {
                    self.partial = slab.next;
                } else {
                    (*slab.previous).next = slab.next;
                }
                if !slab.next.is_null() {
                    (*slab.next).previous = slab.previous;
                }
                frames::free_range(physical(start) / PAGE_SIZE as u64, 1);
            }
        }
    }
}

fn allocate_class(class: usize) -> *mut u8 {
    let state = machine::interrupts_disable();
    let cache = &cpu::current().heap_cache;
    let (head, count) = (&cache.heads[class], &cache.counts[class]);
    if head.get().is_null() {
        let size = CLASSES[class];
        let mut class = CLASS[class].lock();
        for _ in 0..cache_limit(size).div_ceil(2) {
            let object = class.take(size);
            if object.is_null() {
                break;
            }
            // SAFETY: a free object is ours to link.
            unsafe { (*object).next = head.get() };
            head.set(object);
            count.set(count.get() + 1);
        }
    }
    let object = head.get();
    if !object.is_null() {
        // SAFETY: objects in the cache are linked and free.
        head.set(unsafe { (*object).next });
        count.set(count.get() - 1);
    }
    rumpuser::rumpuser_interrupts_restore(state);
    object.cast()
}

fn free_class(object: *mut Object, class: usize) {
    let state = machine::interrupts_disable();
    let cache = &cpu::current().heap_cache;
    let (head, count) = (&cache.heads[class], &cache.counts[class]);
    // SAFETY: the caller gives the object up.
    unsafe { (*object).next = head.get() };
    head.set(object);
    count.set(count.get() + 1);
    let size = CLASSES[class];
    let limit = cache_limit(size);
    if count.get() > limit {
        let mut class = CLASS[class].lock();
        while count.get() > limit / 2 {
            let object = head.get();
            // SAFETY: the cache holds `count` linked objects.
            head.set(unsafe { (*object).next });
            count.set(count.get() - 1);
            class.give(object);
        }
    }
    rumpuser::rumpuser_interrupts_restore(state);
}

fn frames_for(layout: Layout) -> usize {
    layout.size().div_ceil(PAGE_SIZE).max(1)
}

/// The global allocator of the kernel.
pub struct KernelHeap;

// SAFETY: blocks come from disjoint slab objects or frames, of at least the size and alignment asked for.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(class) = class_of(layout.size(), layout.align()) {
            return allocate_class(class);
        }
        let pages = frames_for(layout);
        let block = pages.max(layout.align() / PAGE_SIZE).next_power_of_two();
        match frames::allocate(block.trailing_zeros() as usize, For::Kernel) {
            Ok(frame) => {
                if block > pages {
                    frames::free_range(frame.0 + pages as u64, (block - pages) as u64);
                }
                direct(frame.physical()) as *mut u8
            }
            Err(_) => null_mut(),
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match class_of(layout.size(), layout.align()) {
            Some(class) => free_class(pointer.cast(), class),
            None => {
                frames::free_range(physical(pointer as usize) / PAGE_SIZE as u64, frames_for(layout) as u64);
            }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: GlobalAlloc's contract: `size` is valid with this alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let same = match (class_of(layout.size(), layout.align()), class_of(size, layout.align())) {
            (Some(old), Some(new)) => old == new,
            (None, None) => frames_for(layout) == frames_for(new),
            _ => false,
        };
        if same {
            return pointer;
        }
        // SAFETY: as the caller promised; the blocks are distinct.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                core::ptr::copy_nonoverlapping(pointer, moved, layout.size().min(size));
                self.dealloc(pointer, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_are_chosen_for() {
        for alignment in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] {
            for size in 1..=2048 {
                let class = class_of(size, alignment).unwrap();
                assert!(CLASSES[class] >= size && CLASSES[class].is_multiple_of(alignment));
                assert!(first_object(CLASSES[class]).is_multiple_of(alignment));
            }
        }
        assert_eq!(class_of(2049, 8), None);
        assert_eq!(class_of(8, 1024), None);
    }

    #[test]
    fn a_slab_holds_its_objects() {
        for size in CLASSES {
            assert!(objects_in(size) >= 1, "{size}");
            assert!(first_object(size) + objects_in(size) * size <= PAGE_SIZE);
        }
    }
}
