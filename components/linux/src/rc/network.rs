//! The network of an image: its configuration handed to the internet layer, `/etc/resolv.conf`, and how long programs
//! wait for addresses.

use alloc::string::{String, ToString};

use image::config::{Configuration, Network};
use netconfig::Setup;
use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
};
use rumpnet::configuration::{self, Settings};
use rumpuser::{rumpuser_clock_monotonic, sync::Mutex};
use rumpvfs::{
    access::Credentials,
    namei::Lookup,
    vnode::{AttributeChanges, Creation, Kind},
};

use crate::console;

/// How long programs wait for an address by DHCP. Most need none to begin.
const PATIENCE: u64 = 1_000_000_000;
const RESOLVER: &[u8] = b"/etc/resolv.conf";
/// The longest file that is compared.
const LONGEST: usize = 4096;

/// What `/etc/resolv.conf` has if nobody but the baker or the kernel wrote it.
static OURS: Mutex<String> = Mutex::new(String::new());

/// Remembers what the baker wrote, from the configuration as it was baked.
pub fn baked(configuration: &Configuration) {
    let servers = configuration.networks.iter().flat_map(|network| &network.nameservers);
    *OURS.lock() = servers.map(|server| alloc::format!("nameserver {server}\n")).collect();
}

/// Hands the configuration over, and waits for a while until addresses are there.
pub fn start(configuration: &Configuration) {
    if let Some(outside) = rumpnet::socket::outside() {
        return (outside.wait_ready)();
    }
    configuration::configure(Settings {
        host_name: configuration.hostname.clone(),
        interfaces: configuration.networks.iter().map(setup).collect(),
        resolver_changed,
    });
    // Interfaces are found together with disks.
    rumpdev::block::wait_for_search();
    configuration::wait_ready(rumpuser_clock_monotonic() + PATIENCE);
}

/// An interface's configuration.
fn setup(network: &Network) -> Setup {
    Setup::read(network, |what, value| {
        console::message(format_args!("{}: the {what} {value} can't be read", network.interface));
    })
}

/// Writes the text of `/etc/resolv.conf`, unless the image or a program has put something else there.
pub fn resolver_changed(text: &str) {
    match write_resolver(text) {
        // A root that can't be written to has its own.
        Ok(()) | Err(Errno::EROFS) => {}
        Err(error) => console::message(format_args!("cannot write /etc/resolv.conf: {error:?}")),
    }
}

fn write_resolver(text: &str) -> Result<()> {
    let Some(root) = super::root() else { return Ok(()) };
    let credentials = Credentials::root();
    let lookup = Lookup::new(&root, &root, &credentials);
    let file = match lookup.resolve(RESOLVER, true) {
        Ok(file) => file,
        Err(Errno::ENOENT) => {
            let creation =
                Creation { kind: Kind::Regular, permissions: 0o644, uid: 0, gid: 0, target: b"", rdev: 0 };
            lookup.create(RESOLVER, &creation)?
        }
        Err(error) => return Err(error),
    };
    let vnode = file.vnode();
    let mut present = alloc::vec![0; LONGEST];
    let length = vnode.read_at(0, &mut Sink::kernel(&mut present))?;
    let mut ours = OURS.lock();
    if length > 0 && present[..length] != *ours.as_bytes() {
        return Ok(());
    }
    let mut source = Source::kernel(text.as_bytes());
    let mut offset = 0;
    while source.remaining() > 0 {
        let count = vnode.write_at(offset as u64, &mut source)?;
        if count == 0 {
            return Err(Errno::EIO);
        }
        offset += count;
    }
    if offset < length {
        vnode
            .set_attributes(&AttributeChanges { size: Some(offset as u64), ..AttributeChanges::default() })?;
    }
    *ours = text.to_string();
    Ok(())
}
