//! Xen: a domain configuration for xl (xl.cfg(5), xl-disk-configuration(5), xl-network-configuration(5)). An ELF image
//! is a PVH domain, a disk image an HVM domain; either has Xen's own disks and interfaces.

use std::{fs::File, io::Read as _, net::IpAddr, ops::RangeInclusive};

use super::{Deployment, Error, Plan};
use crate::launch::{
    ImageKind, MacAddress, Nic, command,
    network::{Backend, Model},
};

/// The letters of the disks: `xvda` to `xvdz`. The emulator of an HVM domain has the first six, too.
const DISKS: RangeInclusive<char> = 'a'..='z';
const HVM_DISKS: RangeInclusive<char> = 'g'..='z';

/// What becomes of a domain that has powered off, rebooted or crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// It goes, or starts again if it rebooted.
    Go,
    /// It stays, for whoever looks at how it ended.
    Stay,
}

pub fn deploy(plan: &Plan) -> Result<Deployment, Error> {
    let text = configuration(plan, AtEnd::Go)?;
    let name = &plan.name;
    let note = match plan.kind {
        ImageKind::Elf => format!("save it, then: xl create -c {name}.cfg"),
        // `-c` is the serial line's.
        _ => format!("save it, then: xl create {name}.cfg && xl console -t pv {name}"),
    };
    Ok(Deployment { text, notes: vec![note] })
}

/// The domain's configuration.
pub fn configuration(plan: &Plan, end: AtEnd) -> Result<String, Error> {
    let mut lines = vec![format!("name = {}", string(&plan.name))];
    lines.push(format!("type = \"{}\"", if plan.kind == ImageKind::Elf { "pvh" } else { "hvm" }));
    lines.push(format!("memory = {}", plan.memory));
    lines.push(format!("vcpus = {}", plan.cpus));
    let (poweroff, reboot) = match end {
        AtEnd::Go => ("destroy", "restart"),
        AtEnd::Stay => ("preserve", "preserve"),
    };
    for (event, action) in [("poweroff", poweroff), ("reboot", reboot), ("crash", poweroff)] {
        lines.push(format!("on_{event} = \"{action}\""));
    }
    let mut disks = Vec::new();
    let letters = match plan.kind {
        ImageKind::Elf => {
            lines.push(format!("kernel = {}", string(&plan.image)));
            if !plan.command_line.is_empty() {
                lines.push(format!("cmdline = {}", string(&plan.command_line)));
            }
            DISKS
        }
        ImageKind::Disk | ImageKind::Iso => {
            plan.needs_no_words()?;
            // SeaBIOS reads IDE disks and CDs word by word, each by way of the emulator; those of AHCI by DMA.
            if plan.kind == ImageKind::Disk {
                disks.push(string(&format!("format=raw, vdev=hda, access=rw, target={}", plan.image)));
                lines.extend(["boot = \"c\"", "hdtype = \"ahci\""].map(String::from));
            } else {
                let image = command::escaped(plan.image.as_ref());
                let drive = format!("if=none,id=image,format=raw,media=cdrom,readonly=on,file={image}");
                let words =
                    ["-device", "ahci,id=cd", "-drive", &drive, "-device", "ide-cd,drive=image,bus=cd.0"];
                lines.push("boot = \"d\"".into());
                lines.push(format!("device_model_args_hvm = [ {} ]", words.map(string).join(", ")));
            }
            lines.extend(["vga = \"none\"", "vnc = 0"].map(String::from));
            HVM_DISKS
        }
    };
    let most = letters.clone().count();
    if plan.disks.len() > most {
        return plan.unsupported(format!("gives a domain at most {most} disks here"));
    }
    // The target comes last: it may have commas and blanks.
    let disk = |(letter, path): (char, &String)| {
        string(&format!("format={}, vdev=xvd{letter}, access=rw, target={path}", format(path)))
    };
    disks.extend(letters.zip(&plan.disks).map(disk));
    let interfaces = plan.nics.iter().map(|(nic, mac)| interface(plan, nic, *mac));
    let interfaces = interfaces.collect::<Result<Vec<_>, _>>()?;
    let devices = plan.pci_devices.iter().map(|place| passed(plan, place));
    let devices = devices.collect::<Result<Vec<_>, _>>()?;
    for (key, list) in [("disk", disks), ("vif", interfaces), ("pci", devices)] {
        if !list.is_empty() {
            lines.push(format!("{key} = [ {} ]", list.join(", ")));
        }
    }
    Ok(lines.join("\n") + "\n")
}

/// A PCI device of the host's.
fn passed(plan: &Plan, place: &str) -> Result<String, Error> {
    if plan.kind == ImageKind::Elf {
        return plan.unsupported("passes PCI devices to HVM domains only: bake with --format raw");
    }
    let number = |text: &str, digits: usize, most: u32| {
        let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain && u32::from_str_radix(text, 16).is_ok_and(|number| number <= most)
    };
    let valid = || {
        let (place, function) = place.rsplit_once('.')?;
        let (place, device) = place.rsplit_once(':')?;
        let (domain, bus) = place.rsplit_once(':').unwrap_or(("0000", place));
        Some(
            number(domain, 4, 0xffff)
                && number(bus, 2, 0xff)
                && number(device, 2, 31)
                && number(function, 1, 7),
        )
    };
    match valid() {
        Some(true) => Ok(string(place)),
        _ => Err(Error::Options(format!("--pci {place}: a place is as 05:00.0 or 0000:05:00.0"))),
    }
}

fn interface(plan: &Plan, nic: &Nic, mac: MacAddress) -> Result<String, Error> {
    let Backend::Bridge(bridge) = &nic.backend else {
        return plan.no_link(nic, "use --bridge");
    };
    if nic.model() != Model::Virtio {
        return plan
            .unsupported(format!("gives a domain Xen's own interfaces only, no {}", nic.model().name()));
    }
    let mut text = format!("type=vif, mac={mac}, bridge={bridge}");
    if let Some(script) = &nic.script {
        text += &format!(", script={script}");
        // What scripts route to the domain, or let pass.
        let addresses = nic.configuration.addresses.iter().filter_map(|address| address.split('/').next());
        let addresses: Vec<&str> = addresses.filter(|address| address.parse::<IpAddr>().is_ok()).collect();
        if !addresses.is_empty() {
            text += &format!(", ip={}", addresses.join(" "));
        }
    }
    Ok(string(&text))
}

/// The format of a disk's file, by how it begins: QCOW2 and VHD have such marks.
fn format(path: &str) -> &'static str {
    let mut head = [0; 8];
    let _ = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    match &head {
        [b'Q', b'F', b'I', 0xfb, 0, 0, 0, 2 | 3] => "qcow2",
        b"conectix" => "vhd",
        _ => "raw",
    }
}

/// A string of xl's configuration language, whose escapes are C's.
fn string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
