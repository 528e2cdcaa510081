//! What the boot loader says: the PVH start information (Xen, public/arch-x86/hvm/start_info.h) or the Multiboot2
//! information (specification 2.0, section 3.6). Copied before any memory is given out.

use core::{
    ops::Range,
    sync::atomic::{AtomicU8, Ordering},
};

use super::map::Map;
use crate::memory::layout::{self, DIRECT_MAP_LENGTH};

/// What Multiboot2 leaves in EAX.
pub const MULTIBOOT_MAGIC: u32 = 0x36d7_6289;
const PVH_MAGIC: u32 = 0x336e_c578;
const USABLE: u32 = 1;
const COMMAND_LINE: usize = 2048;
const RSDP_LENGTH: usize = 36;

/// See the module.
pub struct Loaded {
    map: Map,
    rsdp: Option<u64>,
    command_line: [u8; COMMAND_LINE],
    command_line_length: usize,
}

/// A copy of the RSDP, which Multiboot2 hands over by value.
static RSDP: [AtomicU8; RSDP_LENGTH] = [const { AtomicU8::new(0) }; RSDP_LENGTH];

/// Reads below 4 GiB through the boot mapping.
fn read<T: Copy>(physical: u64) -> Option<T> {
    if physical == 0 || physical.saturating_add(size_of::<T>() as u64) > 1 << 32 {
        return None;
    }
    // SAFETY: the entry code maps the first 4 GiB; the types read are plain integers.
    Some(unsafe { core::ptr::read_unaligned(layout::direct(physical) as *const T) })
}

impl Loaded {
    /// Reads what `magic` says is at `information`.
    pub fn read(magic: u32, information: u64) -> Loaded {
        let mut loaded =
            Loaded { map: Map::new(), rsdp: None, command_line: [0; COMMAND_LINE], command_line_length: 0 };
        let known = if magic == MULTIBOOT_MAGIC {
            loaded.multiboot(information).is_some()
        } else if read(information) == Some(PVH_MAGIC) {
            loaded.pvh(information).is_some()
        } else {
            false
        };
        if !known || loaded.map.total() == 0 {
            super::refuse(format_args!(
                "no memory map (magic {magic:#x}): start the image by PVH (QEMU -kernel) or by Multiboot2 (GRUB)"
            ));
        }
        loaded
    }

    fn pvh(&mut self, start: u64) -> Option<()> {
        let version: u32 = read(start + 4)?;
        self.rsdp = read::<u64>(start + 32).filter(|&address| address != 0);
        if let Some(text) = read::<u64>(start + 24).filter(|&address| address != 0) {
            self.copy_command_line(text, COMMAND_LINE as u64);
        }
        // The memory map came with version 1.
        if version < 1 {
            return None;
        }
        let (entries, count) = (read::<u64>(start + 40)?, read::<u32>(start + 48)?);
        for number in 0..u64::from(count.min(1024)) {
            let entry = entries.checked_add(24 * number)?;
            if read::<u32>(entry + 16)? == USABLE {
                self.map.add(read(entry)?, read(entry + 8)?, DIRECT_MAP_LENGTH);
            }
        }
        Some(())
    }

    fn multiboot(&mut self, start: u64) -> Option<()> {
        let end = start + u64::from(read::<u32>(start)?);
        let mut tag = start + 8;
        while tag + 8 <= end {
            let (kind, size) = (read::<u32>(tag)?, u64::from(read::<u32>(tag + 4)?));
            if kind == 0 || size < 8 {
                break;
            }
            let limit = (tag + size).min(end);
            match kind {
                1 => self.copy_command_line(tag + 8, size - 8),
                6 => {
                    let entry_size = u64::from(read::<u32>(tag + 8)?).max(24);
                    let mut entry = tag + 16;
                    while entry + entry_size <= limit {
                        if read::<u32>(entry + 16)? == USABLE {
                            self.map.add(read(entry)?, read(entry + 8)?, DIRECT_MAP_LENGTH);
                        }
                        entry += entry_size;
                    }
                }
                // Of the old (14) and the new RSDP (15), the new one wins.
                14 | 15 if kind == 15 || self.rsdp.is_none() => {
                    let length = (size - 8).min(RSDP_LENGTH as u64) as usize;
                    for (offset, byte) in RSDP[..length].iter().enumerate() {
                        byte.store(read(tag + 8 + offset as u64)?, Ordering::Relaxed);
                    }
                    self.rsdp = Some(layout::physical(RSDP.as_ptr() as usize));
                }
                _ => {}
            }
            tag = (tag + size).next_multiple_of(8);
        }
        Some(())
    }

    fn copy_command_line(&mut self, text: u64, length: u64) {
        let mut count = 0;
        while count < COMMAND_LINE.min(length as usize)
            && let Some(byte) = read::<u8>(text + count as u64).filter(|&byte| byte != 0)
        {
            self.command_line[count] = byte;
            count += 1;
        }
        self.command_line_length = count;
    }

    /// Usable memory, as the boot map has it.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// The same as ranges.
    pub fn memory(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.map.iter()
    }

    /// The RSDP's physical address.
    pub fn rsdp(&self) -> Option<u64> {
        self.rsdp
    }

    /// The command line.
    pub fn command_line(&self) -> &[u8] {
        &self.command_line[..self.command_line_length]
    }

    /// A page below 640 KiB for the start of other CPUs: the last, as loaders and firmware use the first ones.
    pub fn low_page(&self) -> Option<u64> {
        self.map
            .iter()
            .filter_map(|region| {
                let end = region.end.min(0xa_0000);
                (region.start.max(0x1000) + 0x1000 <= end).then(|| end - 0x1000)
            })
            .last()
    }
}
