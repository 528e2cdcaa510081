//! Maps a program, its interpreter, its stack and the vDSO into a new address space.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use rumpkern::{
    Errno, Result,
    vm::{Backing, EntryFlags, FaultError, Placement, Request, Space},
};
use rumpuser::{
    Protection,
    memory::{PAGE_SIZE, USER_END},
    rumpuser_getrandom,
};

use super::{Executable, Object, stack, stack::StackLayout};
use crate::{
    credentials::Credentials,
    elf::Segment,
    limits::{INFINITY, Limits, Resource},
    vdso,
};

/// Where position-independent programs go (two thirds of the address space, as on Linux).
const PROGRAM_BASE: usize = 0x5555_5555_4000;
/// Where a position-independent program's base is shifted by, at most.
const PROGRAM_SHIFT: usize = 1 << 30;
/// How far the heap may begin behind the program, at most.
const HEAP_SHIFT: usize = 1 << 24;

/// What the program gets from the process that executes it.
pub struct LoadOptions<'a> {
    /// The environment.
    pub environment: &'a [Vec<u8>],
    /// Who the process will be.
    pub credentials: &'a Credentials,
    /// The program has more rights than its caller (AT_SECURE).
    pub secure: bool,
    /// The limits, of which those on memory are put into force.
    pub limits: &'a Limits,
}

/// Programs are always loaded at the same addresses.
static FIXED: AtomicBool = AtomicBool::new(false);

/// Loads programs always at the same addresses from now on, so that a debugger knows them.
pub fn fix_addresses() {
    FIXED.store(true, Ordering::Relaxed);
}

/// A program ready to run.
pub struct Loaded {
    /// Its memory.
    pub space: Arc<Space>,
    /// Where it starts.
    pub rip: usize,
    /// Its stack pointer; `argc` is there.
    pub rsp: usize,
    /// Where its arguments are; also found by [`StackLayout::of`].
    pub layout: Arc<StackLayout>,
}

impl Executable {
    /// Loads the program into a new space.
    pub fn load(&self, options: &LoadOptions<'_>) -> Result<Loaded> {
        let stack_limit = bytes(options.limits.soft(Resource::Stack));
        stack::check_size(&self.arguments, options.environment, &self.name, stack_limit)?;
        let space = Space::new(stack_limit)?;
        apply_limits(&space, options.limits);
        let mut random = [0u8; 16];
        rumpuser_getrandom(&mut random);
        let fixed = FIXED.load(Ordering::Relaxed);
        let shift = if fixed { 0 } else { usize::from_le_bytes(random[..8].try_into().unwrap_or_default()) };

        let program = &self.object.elf;
        let base = if program.relocatable {
            let wanted = PROGRAM_BASE + shift % (PROGRAM_SHIFT / PAGE_SIZE) * PAGE_SIZE;
            wanted & !(program.alignment - 1)
        } else {
            0
        };
        let bias = map_object(&space, &self.object, Some(base))?;
        let heap = program.span.end + bias + (shift >> 32) % (HEAP_SHIFT / PAGE_SIZE) * PAGE_SIZE;
        space.set_heap(heap);
        let (entry, interpreter_base) = match &self.interpreter {
            None => (program.entry.wrapping_add(bias), 0),
            Some(interpreter) => {
                let bias = map_object(&space, interpreter, None)?;
                (interpreter.elf.entry.wrapping_add(bias), bias)
            }
        };
        let vdso = vdso::map(&space)?;
        let start = stack::Start {
            arguments: &self.arguments,
            environment: options.environment,
            name: &self.name,
            program_headers: if program.program_headers == 0 { 0 } else { program.program_headers + bias },
            program_header_count: program.program_header_count,
            interpreter_base,
            entry: program.entry.wrapping_add(bias),
            vdso,
            credentials: options.credentials,
            secure: options.secure,
            executable: program.executable_stack,
        };
        let layout = Arc::new(start.build(&space, stack_limit)?);
        space.set_attachment(layout.clone());
        Ok(Loaded { rip: entry, rsp: layout.stack_pointer, space, layout })
    }
}

/// A limit as the space has it.
fn bytes(limit: u64) -> usize {
    if limit == INFINITY { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) }
}

/// Puts the limits on memory into force; also for setrlimit(2).
pub fn apply_limits(space: &Space, limits: &Limits) {
    use rumpkern::vm::Limit;
    for (limit, resource) in [
        (Limit::AddressSpace, Resource::AddressSpace),
        (Limit::Data, Resource::Data),
        (Limit::Stack, Resource::Stack),
        (Limit::Locked, Resource::LockedMemory),
    ] {
        space.set_limit(limit, bytes(limits.soft(resource)));
    }
}

/// Maps the segments of an object and returns what was added to its addresses. `base`: where its first page goes
/// if it is relocatable; `None` leaves that to the space.
fn map_object(space: &Space, object: &Object, base: Option<usize>) -> Result<usize> {
    let elf = &object.elf;
    let length = elf.span.end - elf.span.start;
    let bias = if !elf.relocatable {
        0
    } else {
        let start = match base {
            Some(base) => base,
            None => find_room(space, length, elf.alignment)?,
        };
        // Congruent to the addresses as linked, so that alignments hold.
        let start = (start & !(elf.alignment - 1)) + (elf.span.start & (elf.alignment - 1));
        if start.checked_add(length).is_none_or(|end| end > USER_END) {
            return Err(Errno::ENOMEM);
        }
        start.wrapping_sub(elf.span.start)
    };
    for segment in &elf.segments {
        map_segment(space, object, segment, segment.address.wrapping_add(bias))?;
    }
    Ok(bias)
}

/// Addresses where nothing is mapped.
fn find_room(space: &Space, length: usize, alignment: usize) -> Result<usize> {
    let slack = if alignment > PAGE_SIZE { 2 * alignment } else { 0 };
    let length = length.checked_add(slack).ok_or(Errno::ENOMEM)?;
    let start = space.map(Request::anonymous(length, Protection::empty()))?;
    space.unmap(start, length)?;
    Ok(if slack > 0 { start.next_multiple_of(alignment) } else { start })
}

/// Maps a segment at `address`: what the file has, then zeros.
fn map_segment(space: &Space, object: &Object, segment: &Segment, address: usize) -> Result<()> {
    let offset = address % PAGE_SIZE;
    let start = address - offset;
    let file_end = address + segment.file_size;
    let memory_end = (address + segment.memory_size).next_multiple_of(PAGE_SIZE);
    let mut zeros = start;
    if segment.file_size > 0 {
        zeros = file_end.next_multiple_of(PAGE_SIZE);
        space.map(Request {
            length: zeros - start,
            placement: Placement::Fixed(start),
            protection: segment.protection,
            maximum: Protection::all(),
            flags: EntryFlags::empty(),
            backing: Backing::Pager {
                pager: object.pager.clone(),
                first: (segment.offset - offset as u64) / PAGE_SIZE as u64,
            },
            name: Some(object.name.clone()),
        })?;
        if segment.memory_size > segment.file_size && segment.protection.contains(Protection::WRITE) {
            clear(space, file_end, zeros)?;
        }
    }
    if zeros < memory_end {
        space.map(Request {
            placement: Placement::Fixed(zeros),
            ..Request::anonymous(memory_end - zeros, segment.protection)
        })?;
    }
    Ok(())
}

/// Zeroes what lies behind the file's data in its last page.
fn clear(space: &Space, from: usize, to: usize) -> Result<()> {
    static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
    let (_, result) = space.write(from, &ZEROS[..to - from]);
    result.map_err(|error| match error {
        FaultError::OutOfMemory => Errno::ENOMEM,
        _ => Errno::ENOEXEC,
    })
}
