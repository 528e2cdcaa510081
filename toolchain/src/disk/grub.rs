//! GRUB images that find the ELF image and start it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Error, IMAGE_PATH, host_error, stamp, tool};

/// Where Debian has GRUB's parts.
const FOLDER: &str = "/usr/lib/grub";
/// What every image needs.
const MODULES: &[&str] =
    &["search", "search_fs_file", "multiboot2", "boot", "serial", "terminal", "halt", "sleep"];

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A BIOS that starts a CD-ROM.
    BiosCd,
    /// A BIOS that starts a disk.
    BiosDisk,
    /// UEFI.
    Uefi,
}

impl Target {
    /// GRUB's format, its folder of modules, the package, and more modules.
    fn parts(self) -> (&'static str, &'static str, &'static str, &'static [&'static str]) {
        match self {
            Target::BiosCd => ("i386-pc-eltorito", "i386-pc", "grub-pc-bin", &["biosdisk", "iso9660"]),
            Target::BiosDisk => ("i386-pc", "i386-pc", "grub-pc-bin", &["biosdisk", "part_gpt", "fat"]),
            Target::Uefi => {
                ("x86_64-efi", "x86_64-efi", "grub-efi-amd64-bin", &["part_gpt", "fat", "iso9660"])
            }
        }
    }
}

/// A file of GRUB's for BIOS.
pub fn bios_file(name: &str) -> PathBuf {
    Path::new(FOLDER).join("i386-pc").join(name)
}

/// Makes a GRUB image in a folder; returns its path.
pub fn make(target: Target, folder: &Path) -> Result<PathBuf, Error> {
    let (format, modules, package, more) = target.parts();
    let directory = Path::new(FOLDER).join(modules);
    if !directory.is_dir() {
        return Err(Error::Tool { tool: directory.display().to_string(), package });
    }
    // Without a menu and without a word, as long as it works. What comes after `boot` is reached if it does not:
    // the same again, with its messages on the serial console.
    let start = format!("multiboot2 /{IMAGE_PATH}\nboot\n");
    let script = format!(
        "search --no-floppy --file --set=root /{IMAGE_PATH}\n{start}\
         serial --unit=0 --speed=115200\nterminal_output console serial\n{start}sleep 5\nhalt\n"
    );
    let script_path = folder.join("grub.cfg");
    fs::write(&script_path, script).map_err(host_error(&script_path))?;
    let image = folder.join(format!("{format}.img"));
    let path = |path: &Path| path.display().to_string();
    let mut arguments = vec!["-O".into(), format.into(), "-d".into(), path(&directory)];
    arguments.extend(["-p".into(), "/boot/grub".into(), "-c".into(), path(&script_path)]);
    arguments.extend(["-o".into(), path(&image)]);
    arguments.extend(MODULES.iter().chain(more).map(|module| (*module).to_string()));
    tool("grub-mkimage", "grub-common", arguments)?;
    stamp(&image)?;
    Ok(image)
}
