//! A disk image: GRUB's boot sector, a partition for the rest of GRUB (BIOS), and an EFI system partition that
//! also has the ELF image.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{Error, IMAGE_PATH, fat, gpt, grub, host_error, stamp};

/// First sector of the EFI system partition, at 1 MiB.
const SYSTEM_PARTITION: u64 = 2048;
/// GRUB's boot sector: where the number of the sector that it loads stands, and how much of it is code.
const BOOT_SECTOR_NEXT: usize = 0x5c;
const BOOT_SECTOR_CODE: usize = 440;
/// GRUB's second sector: the list of what it loads ends here, with entries of start, length and segment.
const BLOCK_LIST: usize = 0x1f4;
/// Where it is loaded, as a real-mode segment.
const LOAD_SEGMENT: u16 = 0x820;

/// Makes a disk image of an ELF image, in an empty file. `folder` is for intermediate files.
pub fn write(elf: &Path, output: &Path, folder: &Path, serial: u32) -> Result<(), Error> {
    let bios = grub::make(grub::Target::BiosDisk, folder)?;
    let uefi = grub::make(grub::Target::Uefi, folder)?;
    let mut core = fs::read(&bios).map_err(host_error(&bios))?;
    let core_sectors = (core.len() as u64).div_ceil(gpt::SECTOR);
    if gpt::FIRST_USABLE + core_sectors > SYSTEM_PARTITION || core.len() < 512 {
        return Err(Error::BootLoader(core.len()));
    }
    core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(gpt::FIRST_USABLE + 1).to_le_bytes());
    core[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&(core_sectors as u16 - 1).to_le_bytes());
    core[BLOCK_LIST + 10..BLOCK_LIST + 12].copy_from_slice(&LOAD_SEGMENT.to_le_bytes());

    stamp(elf)?;
    let length = |path: &Path| fs::metadata(path).map(|metadata| metadata.len()).map_err(host_error(path));
    let data = length(elf)? + length(&uefi)?;
    // The allocation tables take at most one part in a hundred, small disks a little more.
    let system_sectors = (data + data / 64).div_ceil(gpt::SECTOR) + 4096;
    let sectors = SYSTEM_PARTITION + system_sectors + gpt::COPY;

    let boot_sector_path = grub::bios_file("boot.img");
    let boot_sector = fs::read(&boot_sector_path).map_err(host_error(&boot_sector_path))?;
    if boot_sector.len() != 512 || !boot_sector.ends_with(&[0x55, 0xaa]) {
        return Err(Error::BootSector(boot_sector_path));
    }
    let mut first = vec![0; 512];
    first[..BOOT_SECTOR_CODE].copy_from_slice(&boot_sector[..BOOT_SECTOR_CODE]);
    first[BOOT_SECTOR_NEXT..BOOT_SECTOR_NEXT + 8].copy_from_slice(&gpt::FIRST_USABLE.to_le_bytes());
    first[446..462].copy_from_slice(&gpt::protective_entry(sectors));
    first[510..].copy_from_slice(&[0x55, 0xaa]);

    let identifier = |part: u8| -> [u8; 16] {
        let hash = Sha256::digest([&serial.to_le_bytes()[..], &[part]].concat());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        // Version 4, the variant of RFC 9562.
        bytes[7] = bytes[7] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        bytes
    };
    let partitions = [
        gpt::Partition {
            kind: gpt::BIOS_BOOT,
            identifier: identifier(1),
            first: gpt::FIRST_USABLE,
            last: SYSTEM_PARTITION - 1,
            name: "boot loader",
        },
        gpt::Partition {
            kind: gpt::EFI_SYSTEM,
            identifier: identifier(2),
            first: SYSTEM_PARTITION,
            last: SYSTEM_PARTITION + system_sectors - 1,
            name: "rumprun",
        },
    ];
    let (front, back) = gpt::table(identifier(0), sectors, &partitions);
    let write_all = |mut file: File| {
        file.set_len(sectors * gpt::SECTOR)?;
        file.write_all(&first)?;
        file.write_all(&front)?;
        file.seek(SeekFrom::Start(gpt::FIRST_USABLE * gpt::SECTOR))?;
        file.write_all(&core)?;
        file.seek(SeekFrom::Start((sectors - gpt::COPY) * gpt::SECTOR))?;
        file.write_all(&back)
    };
    File::options().write(true).open(output).and_then(write_all).map_err(host_error(output))?;
    let files = [("EFI/BOOT/BOOTX64.EFI", uefi.as_path()), (IMAGE_PATH, elf)];
    fat(output, SYSTEM_PARTITION * gpt::SECTOR, system_sectors, serial, &files)
}
