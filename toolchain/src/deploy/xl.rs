//! Xen: a domain configuration for xl (xl.cfg(5)). Without interfaces and disks an ELF image is a PVH domain. The
//! components have no drivers for Xen's own devices, so with interfaces a disk image is an HVM domain with NICs
//! that QEMU emulates.

use super::{Deployment, Error, Plan};
use crate::launch::{
    ImageKind,
    network::{Backend, Model},
};

pub fn deploy(plan: &Plan) -> Result<Deployment, Error> {
    if !plan.disks.is_empty() {
        return plan.unsupported("offers disks that no component drives: leave out --disk");
    }
    let mut lines = vec![
        format!("name = {}", string(&plan.name)),
        format!("memory = {}", plan.memory),
        format!("vcpus = {}", plan.cpus),
        "on_poweroff = \"destroy\"".into(),
        "on_reboot = \"restart\"".into(),
        "on_crash = \"destroy\"".into(),
    ];
    match plan.kind {
        ImageKind::Elf => {
            if let Some((nic, _)) = plan.nics.first() {
                let name = nic.backend.name();
                return plan.unsupported(format!(
                    "offers a PVH domain no interface that a component drives, on {name}: bake with --format raw for HVM"
                ));
            }
            lines.insert(0, "type = \"pvh\"".into());
            lines.push(format!("kernel = {}", string(&plan.image)));
            if !plan.command_line.is_empty() {
                lines.push(format!("cmdline = {}", string(&plan.command_line)));
            }
        }
        ImageKind::Disk | ImageKind::Iso => {
            plan.needs_no_words()?;
            lines.insert(0, "type = \"hvm\"".into());
            let device = match plan.kind {
                ImageKind::Iso => "vdev=hdc, access=ro, devtype=cdrom",
                _ => "vdev=hda, access=rw",
            };
            // The target comes last: it may have commas and blanks.
            let disk = format!("format=raw, {device}, target={}", plan.image);
            lines.push(format!("disk = [ {} ]", string(&disk)));
            lines.push(format!("boot = \"{}\"", if plan.kind == ImageKind::Iso { "d" } else { "c" }));
            lines.push("serial = \"pty\"".into());
        }
    }
    let mut interfaces = Vec::new();
    for (nic, mac) in &plan.nics {
        let Backend::Bridge(bridge) = &nic.backend else {
            return plan.no_link(nic, "use --bridge");
        };
        let model = match nic.model() {
            Model::Virtio => "virtio-net-pci",
            other => other.name(),
        };
        interfaces.push(string(&format!("type=ioemu, model={model}, mac={mac}, bridge={bridge}")));
    }
    if !interfaces.is_empty() {
        lines.push(format!("vif = [ {} ]", interfaces.join(", ")));
    }
    let notes = vec![format!("save it, then: xl create -c {}.cfg", plan.name)];
    Ok(Deployment { text: lines.join("\n") + "\n", notes })
}

/// A string of xl's configuration language, whose escapes are C's.
fn string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
