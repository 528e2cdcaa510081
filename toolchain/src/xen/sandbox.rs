//! An image in a domain of a Xen that runs in QEMU. dom0 has this program itself, which runs the domain there as on any
//! dom0 ([`super::domain`]); its disks and interfaces are dom0's virtio devices.

use std::{
    env, fs,
    fs::File,
    io::{self, BufWriter},
    os::unix::net::UnixListener,
    path::Path,
    process::Command,
};

use super::{Archive, DOM0_MEMORY, EMULATOR_MEMORY, emulator, prepare, prepare::libraries};
use crate::{
    launch::{
        Accelerator, Choice, Error, ImageKind, MacAddress, Machine, Nic, Options, Plan, QEMU, Stop, command,
        command::escaped,
        host_error,
        network::{self, Backend},
    },
    report::Report,
};

/// What dom0 runs.
const SCRIPT: &str = include_str!("guest.sh");
/// The socket of the word to stop, in the run's folder.
const WORD: &str = "stop";
/// Memory that Xen takes beside its domains', in MiB.
const XEN_MEMORY: u64 = 128;

/// What dom0 calls the image.
pub const IMAGE: &str = "/dev/vda";

/// What dom0 calls the disks.
pub fn disks(count: usize) -> Vec<String> {
    ('b'..='z').take(count).map(|letter| format!("/dev/vd{letter}")).collect()
}

/// The interfaces as dom0 has them: in its bridges.
pub fn nics(nics: &[Nic]) -> Vec<Nic> {
    let bridged = |(index, nic): (usize, &Nic)| Nic {
        backend: Backend::Bridge(format!("guest{index}")),
        ..nic.clone()
    };
    nics.iter().enumerate().map(bridged).collect()
}

/// QEMU's words for a boot that runs the domain `name` of this configuration.
pub fn plan(
    options: &Options,
    kind: ImageKind,
    macs: &[MacAddress],
    name: &str,
    configuration: &str,
    report: &dyn Report,
) -> Result<Plan, Error> {
    report.step("waiting for Xen and its dom0, made of Debian's packages");
    let missing = |why| {
        Error::Xen(format!(
            "no Xen to try images on: {why}. This host is no dom0, and QEMU needs Debian 12's packages"
        ))
    };
    let prepared = prepare().map_err(missing)?;
    // What starts raw and ISO images.
    let hvm = (kind != ImageKind::Elf).then(|| emulator(&prepared)).transpose().map_err(missing)?;
    let dom0_memory = DOM0_MEMORY + if hvm.is_some() { EMULATOR_MEMORY } else { 0 };
    let links = network::prepare(&options.networks, options.capture.as_deref())?;
    let folder = tempfile::Builder::new()
        .prefix("rumprun-bake-")
        .tempdir()
        .map_err(host_error("cannot make a temporary folder"))?;
    let at = |name: &str| folder.path().join(name);
    let initramfs = at("initramfs");
    fs::copy(&prepared.root, &initramfs).map_err(host_error("cannot write dom0's files"))?;
    if let Some(archive) = &hvm {
        append(&initramfs, archive).map_err(host_error("cannot write dom0's files"))?;
    }
    add_files(&initramfs, name, configuration, &at("rumprun-bake"))?;
    let listener = UnixListener::bind(at(WORD)).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let listener = listener.map_err(host_error("cannot make a socket"))?;

    let memory = u64::from(dom0_memory) + XEN_MEMORY + options.memory.div_ceil(1 << 20);
    let mut words = vec![QEMU.to_owned(), "-no-user-config".into()];
    words.extend(prepared.words(
        &initramfs,
        options.cpus,
        u32::try_from(memory).unwrap_or(u32::MAX),
        dom0_memory,
    ));
    let mut add = |list: &[&str]| words.extend(list.iter().map(|word| (*word).to_string()));
    add(&["-monitor", "none", "-serial", &format!("file:{}", at("serial").display())]);
    add(&["-device", "virtio-serial-pci"]);
    let path = |name: &str| escaped(&at(name));
    for (port, backend) in [
        "stdio,id=port1,signal=off".to_owned(),
        format!("file,id=port2,path={}", path(command::STATUS)),
        format!("file,id=port3,path={}", path(command::TRACE)),
        format!("socket,id=port4,path={},reconnect=1", path(WORD)),
    ]
    .iter()
    .enumerate()
    {
        let port = port + 1;
        add(&["-chardev", backend, "-device", &format!("virtserialport,chardev=port{port},nr={port}")]);
    }
    // A run changes no image: what is written to a disk that a domain starts from goes with it.
    let keeps = if kind == ImageKind::Disk { "snapshot=on" } else { "readonly=on" };
    let image = format!("if=none,id=image,format=raw,{keeps},file={}", escaped(&options.image));
    add(&["-drive", &image, "-device", "virtio-blk-pci,drive=image"]);
    for (index, disk) in options.disks.iter().enumerate() {
        add(&["-drive", &format!("if=none,id=disk{index},format=raw,file={}", escaped(disk))]);
        add(&["-device", &format!("virtio-blk-pci,drive=disk{index}")]);
    }
    // dom0's own addresses, beside the domain's.
    let macs: Vec<MacAddress> = macs.iter().map(|mac| mac.neighbour()).collect();
    words.extend(network::words(
        &options.networks,
        &macs,
        &links,
        Machine::Q35,
        Accelerator::Tcg,
        folder.path(),
        options.capture.as_deref(),
    )?);
    words.extend(options.extra.iter().cloned());
    let accelerator = Choice { accelerator: Accelerator::Tcg, reason: None, fresh: false };
    Ok(Plan { words, accelerator, debugger: None, shows_trace: true, stop: Stop::Word(listener), folder })
}

/// Opens dom0's files where the next archive begins.
fn end_of(initramfs: &Path) -> io::Result<File> {
    let file = File::options().append(true).open(initramfs)?;
    let padding = file.metadata()?.len().next_multiple_of(512);
    file.set_len(padding)?;
    Ok(file)
}

fn append(initramfs: &Path, archive: &Path) -> io::Result<()> {
    io::copy(&mut File::open(archive)?, &mut end_of(initramfs)?).map(drop)
}

/// Adds this program and what it is to do to dom0's files.
fn add_files(initramfs: &Path, name: &str, configuration: &str, stripped: &Path) -> Result<(), Error> {
    let own = env::current_exe().map_err(host_error("cannot find this program"))?;
    let strip = Command::new("strip").arg("-o").arg(stripped).arg(&own).status();
    let program = if strip.is_ok_and(|status| status.success()) { stripped } else { &own };
    let libraries = libraries(Path::new("/"), std::slice::from_ref(&own)).map_err(Error::Xen)?;
    let write = || -> io::Result<()> {
        let mut archive = Archive::new(BufWriter::new(end_of(initramfs)?));
        archive.program("guest/rumprun-bake", &fs::read(program)?)?;
        for library in &libraries {
            let name = library.file_name().unwrap_or_default().to_string_lossy();
            archive.program(&format!("lib/x86_64-linux-gnu/{name}"), &fs::read(library)?)?;
        }
        archive.file("guest/domain.cfg", configuration.as_bytes())?;
        archive.file("guest/run.sh", SCRIPT.replace("NAME", name).as_bytes())?;
        archive.finish()
    };
    write().map_err(host_error("cannot write dom0's files"))
}

/// The last lines of what Xen and dom0 wrote, for who wants to know why nothing runs.
pub fn messages(folder: &Path) -> String {
    let text = fs::read(folder.join("serial")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
