//! A CD-ROM image with El Torito entries for BIOS and UEFI.

use std::{fs::File, path::Path};

use super::{Error, IMAGE_PATH, fat, grub, host_error, stamp, tool};

/// Makes a CD-ROM image of an ELF image. `folder` is for intermediate files.
pub fn write(elf: &Path, output: &Path, folder: &Path, serial: u32) -> Result<(), Error> {
    let bios = grub::make(grub::Target::BiosCd, folder)?;
    let uefi = grub::make(grub::Target::Uefi, folder)?;
    let partition = folder.join("efi.img");
    let length = std::fs::metadata(&uefi).map_err(host_error(&uefi))?.len();
    // Room for the tables and for whole clusters.
    let sectors = (length.div_ceil(512) + 512).next_multiple_of(64);
    File::create(&partition).and_then(|file| file.set_len(sectors * 512)).map_err(host_error(&partition))?;
    fat(&partition, 0, sectors, serial, &[("EFI/BOOT/BOOTX64.EFI", &uefi)])?;
    stamp(&partition)?;
    stamp(elf)?;
    let path = |path: &Path| path.display().to_string();
    // xorriso reads `=` and `\` in graft points; the names on the left are ours, those on the right of the host.
    let escaped = |host: &Path| path(host).replace('\\', "\\\\").replace('=', "\\=");
    let graft = |name: &str, host: &Path| format!("{name}={}", escaped(host));
    let output_path = path(output);
    let grafts =
        [graft("boot/grub/bios.img", &bios), graft("boot/grub/efi.img", &partition), graft(IMAGE_PATH, elf)];
    let mut arguments = vec!["-as", "mkisofs", "-quiet", "-r", "-V", "RUMPRUN", "-graft-points"];
    arguments.extend(["-b", "boot/grub/bios.img", "-no-emul-boot", "-boot-load-size", "4"]);
    arguments.extend(["-boot-info-table", "--grub2-boot-info"]);
    arguments.extend(["-eltorito-alt-boot", "-e", "boot/grub/efi.img", "-no-emul-boot"]);
    arguments.extend(["--modification-date=1980010100000000", "--set_all_file_dates", "1980010100000000"]);
    arguments.extend(["-o", &output_path]);
    arguments.extend(grafts.iter().map(String::as_str));
    tool("xorriso", "xorriso", arguments)
}
