//! The command line for QEMU.

use std::path::{Path, PathBuf};

use image::machine;

use super::{
    Accelerator, Error, Firmware, ImageKind, Machine, Options, QEMU,
    network::{Model, needs_pci},
};
use crate::inspect;

/// Files of a run, in its folder: the arguments for the guest, its status lines, QEMU's control socket.
pub const ARGUMENTS: &str = "arguments";
/// See [`ARGUMENTS`].
pub const STATUS: &str = "status";
/// See [`ARGUMENTS`]. Unless the trace goes elsewhere.
pub const TRACE: &str = "trace";
/// See [`ARGUMENTS`].
pub const CONTROL: &str = "control";

/// Where distributions have UEFI firmware for QEMU.
pub const UEFI_FIRMWARE: &[&str] = &[
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
];

/// The UEFI firmware of this host.
pub fn uefi_firmware() -> Option<PathBuf> {
    UEFI_FIRMWARE.iter().map(PathBuf::from).find(|path| path.exists())
}

/// A path in an option of QEMU, where commas separate.
pub fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The machine for these options.
pub fn machine(options: &Options, kind: ImageKind) -> Result<Machine, Error> {
    let has_devices = !options.networks.is_empty() || !options.disks.is_empty();
    let has_netbsd =
        kind == ImageKind::Elf && has_devices && inspect::component_set(&options.image).is_some();
    let pci = options.networks.iter().any(needs_pci) || has_netbsd;
    let default = match kind {
        ImageKind::Elf if options.disks.is_empty() && !pci => Machine::Microvm,
        _ => Machine::Q35,
    };
    let machine = options.machine.unwrap_or(default);
    if machine == Machine::Microvm && kind != ImageKind::Elf {
        return Err(Error::Unsupported("microvm starts ELF images only: use --machine q35"));
    }
    if machine == Machine::Microvm && options.networks.iter().any(|nic| nic.model() != Model::Virtio) {
        return Err(Error::Unsupported("microvm has virtio NICs only: use --machine q35"));
    }
    if machine == Machine::Microvm && has_netbsd {
        return Err(Error::Unsupported(
            "NetBSD's drivers need PCI, which microvm has not: use --machine q35 or pc",
        ));
    }
    if options.firmware == Firmware::Uefi && kind == ImageKind::Elf {
        return Err(Error::Unsupported(
            "an ELF image starts without firmware: bake with --format iso or raw for UEFI",
        ));
    }
    Ok(machine)
}

/// What was decided for a run.
pub struct Run<'a> {
    /// The image's kind.
    pub kind: ImageKind,
    /// The machine.
    pub machine: Machine,
    /// The accelerator.
    pub accelerator: Accelerator,
    /// Where the run's files are.
    pub folder: &'a Path,
    /// Whether there is a file of arguments.
    pub arguments: bool,
    /// The words for the interfaces.
    pub network: Vec<String>,
}

/// The words, QEMU's name first.
pub fn words(options: &Options, run: Run<'_>) -> Result<Vec<String>, Error> {
    let Run { kind, machine, accelerator, folder, arguments, network } = run;
    let mut words: Vec<String> = Vec::new();
    let mut add = |list: &[&str]| words.extend(list.iter().map(|word| (*word).to_string()));
    add(&[QEMU, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"]);
    let machine_name = match machine {
        Machine::Microvm => "microvm,pit=off,pic=off,rtc=on,auto-kernel-cmdline=off",
        Machine::Q35 => "q35",
        Machine::Pc => "pc",
    };
    add(&["-machine", machine_name]);
    match accelerator {
        Accelerator::Kvm => add(&["-accel", "kvm", "-cpu", "host"]),
        Accelerator::Tcg => add(&["-accel", "tcg,thread=multi", "-cpu", "max"]),
    }
    let memory = options.memory.div_ceil(1 << 20);
    add(&["-smp", &options.cpus.to_string(), "-m", &format!("{memory}M")]);
    add(&["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console", "-monitor", "none"]);
    let in_folder = |name| escaped(&folder.join(name));
    add(&["-chardev", &format!("file,id=status,path={}", in_folder(STATUS))]);
    add(&["-device", &format!("isa-debugcon,iobase={:#x},chardev=status", machine::STATUS_PORT)]);
    add(&["-qmp", &format!("unix:{},server=on,wait=off", in_folder(CONTROL))]);
    if let Some(trace) = &options.trace {
        let path = trace.output.as_deref().map_or_else(|| in_folder(TRACE), escaped);
        add(&["-chardev", &format!("file,id=trace,path={path}")]);
        add(&["-device", &format!("isa-debugcon,iobase={:#x},chardev=trace", machine::TRACE_PORT)]);
    }
    if let Some(gdb) = options.gdb {
        add(&["-gdb", &format!("tcp:127.0.0.1:{}", gdb.port)]);
        if gdb.pause {
            add(&["-S"]);
        }
    }
    if arguments {
        add(&["-fw_cfg", &format!("name={},file={}", machine::COMMAND_LINE_FILE, in_folder(ARGUMENTS))]);
    }
    if options.firmware == Firmware::Uefi {
        let code = uefi_firmware().ok_or(Error::NoFirmware)?;
        add(&["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={}", escaped(&code))]);
    }
    let image = escaped(&options.image);
    match kind {
        ImageKind::Elf => add(&["-kernel", &options.image.display().to_string()]),
        ImageKind::Iso => add(&["-cdrom", &options.image.display().to_string(), "-boot", "d"]),
        ImageKind::Disk => {
            // The image's own disk comes last in the guest's order of disks.
            add(&["-drive", &format!("if=none,id=image,format=raw,snapshot=on,file={image}")]);
            add(&[
                "-device",
                if machine == Machine::Q35 {
                    "ide-hd,drive=image,bootindex=0"
                } else {
                    "ide-hd,drive=image,bus=ide.0,bootindex=0"
                },
            ]);
        }
    }
    for (index, disk) in options.disks.iter().enumerate() {
        let bus = if machine == Machine::Microvm { "virtio-blk-device" } else { "virtio-blk-pci" };
        add(&[
            "-drive",
            &format!("if=none,id=disk{index},format=raw,cache=writeback,file={}", escaped(disk)),
        ]);
        add(&["-device", &format!("{bus},drive=disk{index}")]);
    }
    // Entropy of the host.
    if machine != Machine::Microvm {
        add(&["-device", "virtio-rng-pci"]);
    }
    words.extend(network);
    words.extend(options.extra.iter().cloned());
    Ok(words)
}
