//! QEMU's words for interfaces. The names are fixed: back end `netN`, device `nicN`, capture `captureN`.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{
    Backend, Error, MacAddress, Model, Nic, Publish,
    host::{BRIDGE_HELPER, Link},
};
use crate::{
    configuration::check,
    launch::{Accelerator, Machine},
};

/// The most pairs of queues: Linux gives a tap no more.
pub const MAXIMUM_QUEUES: u16 = 256;
/// Bytes kept of each captured frame: all, also of those that segmentation offload makes.
const CAPTURE_LENGTH: u32 = 65536;
/// What the kernel replaces by a number in the name of a new tap.
const NEW_TAP: &str = "rumprun%d";

/// Whether an interface needs a machine with PCI, or runs better on it.
pub fn needs_pci(nic: &Nic) -> bool {
    nic.model() != Model::Virtio || nic.queues() > 1
}

fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The words for `nics`. `links` says how each finds its link on the host; scripts that links need are written to
/// `folder`.
pub fn words(
    nics: &[Nic],
    macs: &[MacAddress],
    links: &[Link],
    machine: Machine,
    accelerator: Accelerator,
    folder: &Path,
    capture: Option<&Path>,
) -> Result<Vec<String>, Error> {
    let mut words: Vec<String> = Vec::new();
    if machine == Machine::Microvm && !nics.is_empty() {
        // Version 1 of virtio, as on PCI.
        words.extend(["-global".into(), "virtio-mmio.force-legacy=false".into()]);
    }
    let vhost = accelerator == Accelerator::Kvm
        && fs::OpenOptions::new().read(true).write(true).open("/dev/vhost-net").is_ok();
    let mut user = 0;
    for (index, ((nic, mac), link)) in nics.iter().zip(macs).zip(links).enumerate() {
        let options = match capture {
            // Filters would write virtio's header before each frame.
            Some(_) => "vhost=off,vnet_hdr=off",
            None if vhost && nic.model() == Model::Virtio => "vhost=on",
            None => "vhost=off",
        };
        let backend = match &nic.backend {
            Backend::User(published) => {
                user += 1;
                user_backend(index, nic, published, user - 1)
            }
            Backend::Socket(path) => {
                format!("stream,id=net{index},server=off,addr.type=unix,addr.path={}", escaped(path))
            }
            Backend::Bridge(bridge) if *link == Link::Helper => {
                format!("bridge,id=net{index},br={bridge},helper={BRIDGE_HELPER}")
            }
            Backend::Tap(name) => {
                let script = String::from("ip link set dev \"$1\" up");
                let script = (*link == Link::New).then_some(script);
                tap(nic, name, *link, script, options, index, folder)?
            }
            Backend::Bridge(bridge) => {
                let script = format!("ip link set dev \"$1\" master {bridge} up");
                tap(nic, NEW_TAP, *link, Some(script), options, index, folder)?
            }
        };
        words.extend(["-netdev".into(), backend]);
        words.extend(["-device".into(), device(nic, *mac, machine, index)]);
        if let Some(capture) = capture {
            let file = escaped(&capture_file(capture, index));
            let filter = format!(
                "filter-dump,id=capture{index},netdev=net{index},file={file},maxlen={CAPTURE_LENGTH}"
            );
            words.extend(["-object".into(), filter]);
        }
    }
    Ok(words)
}

/// Where the frames of interface `index` go: to `FILE.pcap`, those of further interfaces to `FILE-eth1.pcap`...
pub fn capture_file(capture: &Path, index: usize) -> PathBuf {
    if index == 0 {
        return capture.to_path_buf();
    }
    let stem = capture.file_stem().unwrap_or_default().to_string_lossy();
    let name = match capture.extension() {
        Some(extension) => format!("{stem}-eth{index}.{}", extension.to_string_lossy()),
        None => format!("{stem}-eth{index}"),
    };
    capture.with_file_name(name)
}

fn device(nic: &Nic, mac: MacAddress, machine: Machine, index: usize) -> String {
    let common = format!("netdev=net{index},id=nic{index},mac={mac}");
    let queues = nic.queues();
    match (nic.model(), machine) {
        (Model::Virtio, Machine::Microvm) if queues > 1 => format!("virtio-net-device,{common},mq=on"),
        (Model::Virtio, Machine::Microvm) => format!("virtio-net-device,{common}"),
        // Nothing boots from the network: no ROM.
        (Model::Virtio, _) if queues > 1 => {
            // One interrupt for each queue, one for control, one for changes of the configuration.
            let vectors = 2 * queues + 2;
            format!("virtio-net-pci,{common},romfile=,mq=on,vectors={vectors}")
        }
        (Model::Virtio, _) => format!("virtio-net-pci,{common},romfile="),
        (model, _) => format!("{},{common},romfile=", model.name()),
    }
}

fn tap(
    nic: &Nic,
    name: &str,
    link: Link,
    script: Option<String>,
    options: &str,
    index: usize,
    folder: &Path,
) -> Result<String, Error> {
    let script = match script {
        Some(line) => {
            let path = folder.join(format!("tap{index}"));
            write_script(&path, &line)
                .map_err(|error| Error::Tool(format!("cannot write to the temporary folder: {error}")))?;
            escaped(&path)
        }
        None => "no".into(),
    };
    // A tap with several queues is opened with several, although the device uses one.
    let queues = if link == Link::MultiQueue { nic.queues().max(2) } else { nic.queues() };
    let queues = if queues > 1 { format!(",queues={queues}") } else { String::new() };
    Ok(format!("tap,id=net{index},ifname={name},script={script},downscript=no,{options}{queues}"))
}

fn write_script(path: &Path, line: &str) -> io::Result<()> {
    fs::write(path, format!("#!/bin/sh\nPATH=$PATH:/usr/sbin:/sbin\n{line}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// The back end of interface `index`, the `number`th with user networking: the guest's network is 10.0.2.0/24 for the first such interface, 10.0.3.0/24 for the next, unless
/// it has a static address.
pub fn user_backend(index: usize, nic: &Nic, published: &[Publish], number: usize) -> String {
    let configuration = &nic.configuration;
    let gateways: (Vec<Ipv4Addr>, Vec<Ipv6Addr>) = (
        configuration.gateways.iter().filter_map(|text| text.parse().ok()).collect(),
        configuration.gateways.iter().filter_map(|text| text.parse().ok()).collect(),
    );
    let mut words = format!("user,id=net{index}");
    let mut placed = false;
    for (address, prefix) in configuration.addresses.iter().filter_map(|text| check::prefixed(text)) {
        match address {
            std::net::IpAddr::V4(address) if !placed => {
                placed = true;
                let mask = u32::MAX << (32 - u32::from(prefix));
                let network = Ipv4Addr::from_bits(address.to_bits() & mask);
                let inside = |other: &&Ipv4Addr| other.to_bits() & mask == network.to_bits();
                // Published ports lead to the first address of DHCP.
                words += &format!(",net={network}/{prefix},dhcpstart={address}");
                if let Some(gateway) = gateways.0.iter().find(inside) {
                    words += &format!(",host={gateway}");
                }
                let servers: Vec<Ipv4Addr> =
                    configuration.nameservers.iter().filter_map(|text| text.parse().ok()).collect();
                if let Some(server) =
                    servers.iter().find(inside).filter(|server| !gateways.0.contains(server))
                {
                    words += &format!(",dns={server}");
                }
            }
            std::net::IpAddr::V6(address) if !address.is_unicast_link_local() && prefix <= 126 => {
                let mask = u128::MAX << (128 - u32::from(prefix));
                let network = Ipv6Addr::from_bits(address.to_bits() & mask);
                words += &format!(",ipv6-prefix={network},ipv6-prefixlen={prefix}");
                if let Some(gateway) = gateways.1.first().filter(|gateway| !gateway.is_unicast_link_local()) {
                    words += &format!(",ipv6-host={gateway}");
                }
            }
            _ => {}
        }
    }
    if !placed && number > 0 {
        words += &format!(",net=10.0.{}.0/24", (2 + number) % 256);
    }
    for publish in published {
        let address = publish.address.map(|address| address.to_string()).unwrap_or_default();
        words +=
            &format!(",hostfwd={}:{address}:{}-:{}", publish.protocol.name(), publish.host, publish.guest);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(specifications: &[&str], links: &[Link], machine: Machine, capture: Option<&str>) -> String {
        let nics: Vec<Nic> = specifications.iter().map(|text| Nic::parse(text).expect("good")).collect();
        let macs = super::super::macs(&nics, "web.elf");
        let folder = tempfile::tempdir().expect("a folder");
        let capture = capture.map(Path::new);
        words(&nics, &macs, links, machine, Accelerator::Tcg, folder.path(), capture)
            .expect("words")
            .join(" ")
            .replace(&folder.path().display().to_string(), "FOLDER")
    }

    #[test]
    fn user_networking_on_microvm() {
        let line = line(
            &["user,mac=52:54:00:00:00:01,publish=8080:80,publish=127.0.0.1:53:53/udp"],
            &[Link::Plain],
            Machine::Microvm,
            None,
        );
        assert_eq!(
            line,
            "-global virtio-mmio.force-legacy=false \
             -netdev user,id=net0,hostfwd=tcp::8080-:80,hostfwd=udp:127.0.0.1:53-:53 \
             -device virtio-net-device,netdev=net0,id=nic0,mac=52:54:00:00:00:01"
        );
    }

    #[test]
    fn static_addresses_move_the_user_network() {
        let text = line(
            &[
                "user,address=192.168.7.9/24,gateway=192.168.7.1,nameserver=192.168.7.4,address=fd07::9/64",
                "user",
            ],
            &[Link::Plain, Link::Plain],
            Machine::Q35,
            None,
        );
        for part in [
            "net=192.168.7.0/24,dhcpstart=192.168.7.9,host=192.168.7.1,dns=192.168.7.4",
            "ipv6-prefix=fd07::,ipv6-prefixlen=64",
            "user,id=net1,net=10.0.3.0/24",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn taps_and_bridges() {
        let text = line(
            &["tap=tap0,queues=4", "tap=tap1", "bridge=br0", "bridge=br1"],
            &[Link::MultiQueue, Link::MultiQueue, Link::New, Link::Helper],
            Machine::Q35,
            Some("a,b.pcap"),
        );
        for part in [
            "tap,id=net0,ifname=tap0,script=no,downscript=no,vhost=off,vnet_hdr=off,queues=4",
            "virtio-net-pci,netdev=net0,id=nic0,mac=52:54:00:",
            "romfile=,mq=on,vectors=10",
            "tap,id=net1,ifname=tap1,script=no,downscript=no,vhost=off,vnet_hdr=off,queues=2",
            "tap,id=net2,ifname=rumprun%d,script=FOLDER/tap2,downscript=no,vhost=off",
            "bridge,id=net3,br=br1,helper=",
            "filter-dump,id=capture0,netdev=net0,file=a,,b.pcap,maxlen=65536",
            "filter-dump,id=capture3,netdev=net3,file=a,,b-eth3.pcap,",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
