//! libvirt: the XML of a QEMU/KVM domain (libvirt.org/formatdomain.html).

use std::io;

use quick_xml::{
    Writer,
    events::{BytesStart, BytesText, Event},
};

use super::{Deployment, Error, Plan};
use crate::launch::{
    ImageKind, MacAddress, Nic,
    network::{Backend, Model},
};

/// What the element's attributes are.
type Attributes<'a> = &'a [(&'a str, &'a str)];

pub fn deploy(plan: &Plan) -> Result<Deployment, Error> {
    let mut document = Document(Writer::new_with_indent(Vec::new(), b' ', 2));
    document
        .domain(plan)
        .map_err(|error| Error::Format { what: "domain's XML", message: error.to_string() })?;
    for (nic, _) in &plan.nics {
        if let Backend::Socket(_) = nic.backend {
            return plan.no_link(nic, "use --publish, with which libvirt starts passt itself");
        }
    }
    let text = String::from_utf8_lossy(&document.0.into_inner()).into_owned() + "\n";
    let (name, uri) = (&plan.name, "qemu:///system");
    let mut notes = vec![format!("save it, then: virsh -c {uri} create {name}.xml --console")];
    if plan
        .nics
        .iter()
        .any(|(nic, _)| matches!(&nic.backend, Backend::User(published) if !published.is_empty()))
    {
        notes.push(PASST.into());
    }
    Ok(Deployment { text, notes })
}

/// What user networking needs.
const PASST: &str = "ports are published by passt: libvirt must know it (Debian 12's does not; use --tap or --bridge \
                     there)";

/// The XML so far.
struct Document(Writer<Vec<u8>>);

impl Document {
    /// An element with attributes alone.
    fn empty(&mut self, name: &str, attributes: Attributes<'_>) -> io::Result<()> {
        self.0.write_event(Event::Empty(start(name, attributes)))
    }

    /// An element with a text.
    fn text(&mut self, name: &str, attributes: Attributes<'_>, text: &str) -> io::Result<()> {
        self.0.write_event(Event::Start(start(name, attributes)))?;
        self.0.write_event(Event::Text(BytesText::new(text)))?;
        self.0.write_event(Event::End(start(name, &[]).to_end()))
    }

    /// An element with others in it.
    fn within(
        &mut self,
        name: &str,
        attributes: Attributes<'_>,
        content: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        self.0.write_event(Event::Start(start(name, attributes)))?;
        content(self)?;
        self.0.write_event(Event::End(start(name, &[]).to_end()))
    }

    fn domain(&mut self, plan: &Plan) -> io::Result<()> {
        self.within("domain", &[("type", "kvm")], |this| {
            this.text("name", &[], &plan.name)?;
            this.text("memory", &[("unit", "MiB")], &plan.memory.to_string())?;
            this.text("vcpu", &[], &plan.cpus.to_string())?;
            // A disk image's boot loader hands no command line over; the kernel reads it from QEMU.
            if plan.kind != ImageKind::Elf && !plan.command_line.is_empty() {
                this.within("sysinfo", &[("type", "fwcfg")], |this| {
                    this.text("entry", &[("name", image::machine::COMMAND_LINE_FILE)], &plan.command_line)
                })?;
            }
            this.within("os", &[], |this| {
                this.text("type", &[("arch", "x86_64"), ("machine", "q35")], "hvm")?;
                match plan.kind {
                    ImageKind::Elf => {
                        this.text("kernel", &[], &plan.image)?;
                        if !plan.command_line.is_empty() {
                            this.text("cmdline", &[], &plan.command_line)?;
                        }
                        Ok(())
                    }
                    ImageKind::Disk => this.empty("boot", &[("dev", "hd")]),
                    ImageKind::Iso => this.empty("boot", &[("dev", "cdrom")]),
                }
            })?;
            this.within("features", &[], |this| {
                this.empty("acpi", &[])?;
                this.empty("apic", &[])
            })?;
            this.empty("cpu", &[("mode", "host-passthrough")])?;
            this.text("on_poweroff", &[], "destroy")?;
            this.text("on_reboot", &[], "restart")?;
            this.text("on_crash", &[], "destroy")?;
            this.within("devices", &[], |this| this.devices(plan))
        })
    }

    fn devices(&mut self, plan: &Plan) -> io::Result<()> {
        match plan.kind {
            ImageKind::Elf => {}
            ImageKind::Disk => self.disk(&plan.image, "disk", "sda", "sata")?,
            ImageKind::Iso => self.disk(&plan.image, "cdrom", "sda", "sata")?,
        }
        for (index, disk) in plan.disks.iter().enumerate() {
            let letter = char::from(b'a' + (index % 26) as u8);
            self.disk(disk, "disk", &format!("vd{letter}"), "virtio")?;
        }
        for (nic, mac) in &plan.nics {
            self.interface(nic, *mac)?;
        }
        self.within("serial", &[("type", "pty")], |this| this.empty("target", &[("port", "0")]))?;
        self.within("console", &[("type", "pty")], |this| {
            this.empty("target", &[("type", "serial"), ("port", "0")])
        })?;
        self.within("rng", &[("model", "virtio")], |this| {
            this.text("backend", &[("model", "random")], "/dev/urandom")
        })
    }

    fn disk(&mut self, path: &str, device: &str, name: &str, bus: &str) -> io::Result<()> {
        self.within("disk", &[("type", "file"), ("device", device)], |this| {
            this.empty("driver", &[("name", "qemu"), ("type", "raw")])?;
            this.empty("source", &[("file", path)])?;
            this.empty("target", &[("dev", name), ("bus", bus)])?;
            if device == "cdrom" { this.empty("readonly", &[]) } else { Ok(()) }
        })
    }

    fn interface(&mut self, nic: &Nic, mac: MacAddress) -> io::Result<()> {
        let kind = match &nic.backend {
            Backend::Tap(_) => "ethernet",
            Backend::Bridge(_) => "bridge",
            Backend::User(_) | Backend::Socket(_) => "user",
        };
        self.within("interface", &[("type", kind)], |this| {
            this.empty("mac", &[("address", &mac.to_string())])?;
            match &nic.backend {
                Backend::Tap(name) => this.empty("target", &[("dev", name), ("managed", "no")])?,
                Backend::Bridge(name) => this.empty("source", &[("bridge", name)])?,
                Backend::User(published) if !published.is_empty() => {
                    // QEMU's own user networking has no published ports in libvirt; passt does.
                    this.empty("backend", &[("type", "passt")])?;
                    for publish in published {
                        let address = publish.address.map(|address| address.to_string());
                        let mut attributes = vec![("proto", publish.protocol.name())];
                        attributes.extend(address.as_deref().map(|address| ("address", address)));
                        let (from, to) = (publish.host.to_string(), publish.guest.to_string());
                        this.within("portForward", &attributes, |this| {
                            this.empty("range", &[("start", &from), ("to", &to)])
                        })?;
                    }
                }
                Backend::User(_) | Backend::Socket(_) => {}
            }
            this.empty("model", &[("type", nic.model().name())])?;
            if nic.queues() > 1 && nic.model() == Model::Virtio {
                this.empty("driver", &[("queues", &nic.queues().to_string())])?;
            }
            Ok(())
        })
    }
}

fn start<'a>(name: &'a str, attributes: Attributes<'a>) -> BytesStart<'a> {
    BytesStart::new(name).with_attributes(attributes.iter().copied())
}
