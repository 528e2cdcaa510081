//! Chooses the accelerator by trying it: a tiny guest of our own that ends at once. `/dev/kvm` may open and yet
//! run nothing (nested virtualisation that is half there), so nothing less is proof.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{AcceleratorRequest, Error, QEMU, host_error};
use crate::kernel;

/// How long the tiny guest may take; a working KVM takes a tenth of it.
const LIMIT: Duration = Duration::from_millis(1500);
/// How much of QEMU's messages is read.
const MESSAGE_LIMIT: u64 = 4096;
const POLL: Duration = Duration::from_millis(5);
/// Where the guest is loaded.
const ADDRESS: u32 = 0x10_0000;
/// QEMU's exit device: a write of `n` ends it with status `2n + 1`.
const EXIT_PORT: u8 = 0xf4;
const EXIT_VALUE: u8 = 0x2a;

/// An accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's virtualisation.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

/// An accelerator, and why it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub accelerator: Accelerator,
    /// Why KVM is not used, if it isn't and could have been.
    pub reason: Option<String>,
    /// Whether this was found out just now.
    pub fresh: bool,
}

/// Chooses. The first time after a boot of the host, KVM is tried, which takes up to 1.5 s.
pub fn choose(request: AcceleratorRequest) -> Result<Choice, Error> {
    if request == AcceleratorRequest::Tcg {
        return Ok(Choice { accelerator: Accelerator::Tcg, reason: None, fresh: false });
    }
    let (reason, fresh) = match remembered() {
        Some(reason) => (reason, false),
        None => (remember(probe()?), true),
    };
    match (reason, request) {
        (None, _) => Ok(Choice { accelerator: Accelerator::Kvm, reason: None, fresh }),
        (Some(reason), AcceleratorRequest::Kvm) => Err(Error::NoKvm(reason)),
        (reason, _) => Ok(Choice { accelerator: Accelerator::Tcg, reason, fresh }),
    }
}

/// Where the finding is kept: for this boot of the host and this QEMU.
fn memory() -> Option<std::path::PathBuf> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let folders = std::env::var_os("PATH")?;
    let qemu = std::env::split_paths(&folders).find_map(|folder| fs::metadata(folder.join(QEMU)).ok())?;
    let modified = qemu.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    let usable = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let name = format!("kvm-{}-{modified}-{}", boot.trim(), if usable { "open" } else { "closed" });
    Some(kernel::cache_directory().ok()?.join(name))
}

/// What was found earlier: `Some(None)` if KVM works, otherwise why not.
fn remembered() -> Option<Option<String>> {
    let text = fs::read_to_string(memory()?).ok()?;
    Some(if text == "works" { None } else { Some(text) })
}

fn remember(reason: Option<String>) -> Option<String> {
    if let Some(path) = memory()
        && let Some(folder) = path.parent()
        && fs::create_dir_all(folder).is_ok()
    {
        // Findings of earlier boots mean nothing now.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b"kvm-") {
                let _ = fs::remove_file(entry.path());
            }
        }
        let _ = fs::write(path, reason.as_deref().unwrap_or("works"));
    }
    reason
}

/// Tries KVM; tells why it can't be used, or nothing if it can.
fn probe() -> Result<Option<String>, Error> {
    let kvm = Path::new("/dev/kvm");
    if !kvm.exists() {
        return Ok(Some("there is no /dev/kvm".into()));
    }
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open(kvm) {
        return Ok(Some(format!("/dev/kvm cannot be opened ({error}); add yourself to the group kvm")));
    }
    let mut guest = tempfile::NamedTempFile::new().map_err(host_error("cannot write a temporary file"))?;
    guest.write_all(&tiny_guest()).map_err(host_error("cannot write a temporary file"))?;
    let exit_device = format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=4");
    let mut child = Command::new(QEMU)
        .args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-machine", "microvm", "-accel", "kvm", "-cpu", "host", "-m", "16M"])
        .args(["-device", &exit_device])
        .arg("-kernel")
        .arg(guest.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|_| Error::NoQemu)?;
    let started = Instant::now();
    while started.elapsed() < LIMIT {
        if let Some(status) = child.try_wait().map_err(host_error("cannot wait for QEMU"))? {
            let works = status.code() == Some(i32::from(EXIT_VALUE) * 2 + 1);
            return Ok((!works).then(|| failure(&mut child, status)));
        }
        thread::sleep(POLL);
    }
    let _ = child.kill();
    let _ = child.wait();
    Ok(Some(format!("/dev/kvm opens, but a tiny guest hangs ({:.1} s)", LIMIT.as_secs_f32())))
}

/// Why QEMU failed, by its first message.
fn failure(child: &mut Child, status: ExitStatus) -> String {
    let mut message = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(MESSAGE_LIMIT).read_to_string(&mut message);
    }
    let first = message.lines().next().unwrap_or_default();
    let first = first.trim_start_matches(QEMU).trim_start_matches([':', ' ']);
    let first = if first.is_empty() { status.to_string() } else { first.to_string() };
    format!("KVM fails on a tiny guest ({first})")
}

/// An ELF file with a PVH note whose code writes to the exit device.
fn tiny_guest() -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    // mov al, EXIT_VALUE; out EXIT_PORT, al; hlt; jmp to hlt
    let code = [0xb0, EXIT_VALUE, 0xe6, EXIT_PORT, 0xf4, 0xeb, 0xfd, 0x90];
    let mut note = Vec::new();
    // Name and descriptor lengths, XEN_ELFNOTE_PHYS32_ENTRY, the name, the address.
    for word in [4u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend((ADDRESS + HEADERS as u32).to_le_bytes());
    let length = HEADERS + code.len() as u64 + note.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for word in [u64::from(ADDRESS) + HEADERS, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut header = |kind: u32, offset: u64, length: u64, alignment: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        let address = u64::from(ADDRESS) + offset;
        for word in [offset, address, address, length, length, alignment] {
            file.extend(word.to_le_bytes());
        }
    };
    header(1, 0, length, 4096);
    header(4, HEADERS + code.len() as u64, note.len() as u64, 4);
    file.extend(code);
    file.extend(note);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tiny_guest_is_a_program() {
        let found = crate::elf::inspect(tiny_guest().as_slice()).expect("an ELF file");
        assert_eq!(found.entry, u64::from(ADDRESS) + 64 + 2 * 56);
    }
}
