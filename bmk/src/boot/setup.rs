//! Builds the kernel's page tables and hands the rest of memory to the frame allocator.

use core::ops::Range;

use rumpuser::OutOfMemory;

use super::{Image, loader::Loaded, map::LIMIT, physical, refuse};
use crate::{
    machine,
    memory::{
        frames, kernel_map,
        layout::{self, KERNEL_BASE, direct, entry},
    },
};

/// Memory that the entry code's page tables reach.
const REACHED: u64 = 1 << 32;
/// Left for everything else, at the least.
const LEAST: u64 = 1 << 20;
/// Below this nothing is given out: firmware, and the page on which CPUs start.
const LOW: u64 = 1 << 20;

/// Sets memory up; returns where the payload is in the direct map (empty if there is none).
pub fn memory(image: &Image, loaded: &Loaded) -> Range<usize> {
    let mut free = loaded.map().clone();
    let kernel = physical(&(image.text.start..image.data.end));
    let payload = payload(kernel.end, loaded);
    free.remove(0..LOW);
    free.remove(kernel.start..payload.end);
    let limit = (free.end() / 4096) as usize;
    let metadata_bytes = frames::metadata_bytes(limit) as u64;
    // Page tables: one for each GiB of the direct map, and a few where regions have ragged ends.
    let tables_bytes = ((loaded.map().end() >> 30) + 16) * 4096;
    let wanted = metadata_bytes + tables_bytes + LEAST;
    if free.total() < wanted {
        refuse(format_args!(
            "too little memory: {} KiB are left beside the image, {} KiB are needed at the least",
            free.total() >> 10,
            wanted >> 10
        ));
    }
    let Some(metadata) = free.take(metadata_bytes, REACHED) else {
        refuse(format_args!("no {} KiB of memory in one piece below 4 GiB", metadata_bytes >> 10));
    };
    let mut allocate = || {
        let frame = free.take(4096, REACHED).ok_or(OutOfMemory)?;
        // SAFETY: free memory that the boot mapping reaches.
        unsafe { core::ptr::write_bytes(direct(frame) as *mut u8, 0, 4096) };
        Ok(frame)
    };
    let Ok(root) = tables(image, loaded, &kernel, &payload, &mut allocate) else {
        refuse(format_args!("too little memory for page tables"));
    };
    // SAFETY: the new tables map the kernel, its stack and all of memory as the old ones did.
    unsafe {
        machine::set_cr3(root);
        machine::set_cr4(machine::cr4() | 1 << 7);
    }
    kernel_map::set_root(root);
    let mut ranges = [(0, 0); LIMIT];
    let mut count = 0;
    for (range, region) in ranges.iter_mut().zip(free.iter()) {
        *range = (region.start / 4096, (region.end - region.start) / 4096);
        count += 1;
    }
    // SAFETY: the ranges are free memory, without the metadata and the tables.
    unsafe { frames::initialise(direct(metadata), limit, &ranges[..count]) };
    direct(payload.start)..direct(payload.end)
}

/// The physical range of the payload, from its header; empty if there is none.
fn payload(kernel_end: u64, loaded: &Loaded) -> Range<u64> {
    let start = kernel_end.next_multiple_of(image::payload::ALIGNMENT);
    let none = start..start;
    let Some(region) = loaded.memory().find(|region| region.contains(&start)) else { return none };
    if start + size_of::<image::payload::Header>() as u64 > region.end.min(REACHED) {
        return none;
    }
    // SAFETY: inside usable memory that the boot mapping reaches.
    let bytes = unsafe {
        let length = size_of::<image::payload::Header>();
        core::slice::from_raw_parts(direct(start) as *const u8, length)
    };
    match image::payload::Payload::length(bytes) {
        Some(length) if length <= region.end - start => start..(start + length).next_multiple_of(4096),
        _ => none,
    }
}

fn tables(
    image: &Image,
    loaded: &Loaded,
    kernel: &Range<u64>,
    payload: &Range<u64>,
    allocate: &mut dyn FnMut() -> Result<u64, OutOfMemory>,
) -> Result<u64, OutOfMemory> {
    let root = allocate()?;
    let largest = if machine::cpuid(0x8000_0001, 0)[3] & 1 << 26 != 0 { 2 } else { 1 };
    let text = entry::PRESENT | entry::ACCESSED | entry::GLOBAL;
    let constants = text | entry::NO_EXECUTE;
    let data = physical(&image.data);
    let parts = [
        (image.text.start, physical(&image.text), text),
        (image.rodata.start, physical(&image.rodata), constants),
        (image.data.start, data.clone(), kernel_map::DATA),
    ];
    let mut map = |address: usize, physical: Range<u64>, flags: u64| {
        let length = physical.end - physical.start;
        kernel_map::map(root, address, physical.start, length, flags, largest, allocate)
    };
    for (address, range, flags) in parts {
        map(address, range, flags)?;
    }
    // The direct map: read-only where the kernel's code and constants and the payload are.
    for region in loaded.memory() {
        let pieces = [
            (region.start..region.end.min(kernel.start), kernel_map::DATA),
            (region.start.max(kernel.start)..region.end.min(data.start), constants),
            (region.start.max(data.start)..region.end.min(payload.start), kernel_map::DATA),
            (region.start.max(payload.start)..region.end.min(payload.end), constants),
            (region.start.max(payload.end)..region.end, kernel_map::DATA),
        ];
        for (piece, flags) in pieces.into_iter().filter(|(piece, _)| piece.start < piece.end) {
            map(direct(piece.start), piece, flags)?;
        }
    }
    // The top-level entries that may be used later exist from the start: address spaces copy them.
    for address in [layout::STACKS, layout::DEVICES, KERNEL_BASE] {
        kernel_map::prepare(root, address, allocate)?;
    }
    Ok(root)
}
