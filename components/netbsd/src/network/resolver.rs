//! `/etc/resolv.conf`: the name servers and domains from the configuration and from DHCP, for libc's resolver.

use alloc::string::String;
use core::net::IpAddr;

use image::config::Configuration;
use netconfig::{
    Lease,
    resolver::{From, Resolver},
};
use rumpuser::{NEVER, sync::Mutex};

use crate::{
    errno::{ENOENT, ENOSYS, EROFS, Errno},
    host,
    kernel::{self, Descriptor},
};

const FILE: &core::ffi::CStr = c"/etc/resolv.conf";
/// The longest file that is compared.
const LONGEST: usize = 4096;

/// Takes the text of the file whenever it changes, in place of writing it to the kernel's own file system.
pub type Changed = fn(&str);

struct State {
    resolver: Resolver,
    changed: Option<Changed>,
    /// What the file has if nobody but the baker or this wrote it.
    ours: String,
}

static STATE: Mutex<State> =
    Mutex::new(State { resolver: Resolver::new(), changed: None, ours: String::new() });

/// Remembers what the baker wrote, and who takes the text if not the kernel's files.
pub fn start(configuration: &Configuration, changed: Option<Changed>) {
    let servers = configuration.networks.iter().flat_map(|network| &network.nameservers);
    let mut state = STATE.lock();
    state.changed = changed;
    state.ours = servers.map(|server| alloc::format!("nameserver {server}\n")).collect();
}

/// A name server that is configured.
pub fn configured(interface: u32, server: IpAddr) {
    change(|resolver| resolver.add_server(From::Configuration, interface, server, NEVER));
}

/// What a lease says replaces what the one before said.
pub fn leased(interface: u32, lease: &Lease) {
    change(|resolver| {
        resolver.forget(From::Dhcp, interface);
        for &server in &lease.name_servers {
            resolver.add_server(From::Dhcp, interface, server.into(), NEVER);
        }
        if let Some(domain) = &lease.domain {
            resolver.add_domain(From::Dhcp, interface, domain.clone(), NEVER);
        }
    });
}

/// A lease has ended.
pub fn lost(interface: u32) {
    change(|resolver| resolver.forget(From::Dhcp, interface));
}

fn change(work: impl FnOnce(&mut Resolver)) {
    let mut state = STATE.lock();
    work(&mut state.resolver);
    let text = state.resolver.text(|_| None);
    if text == state.ours {
        return;
    }
    if let Some(changed) = state.changed {
        changed(&text);
        state.ours = text;
        return;
    }
    match write(&text, &state.ours) {
        Ok(true) => state.ours = text,
        // The image or a program has put something else there; or there are no files, or none that can be written.
        Ok(false) | Err(ENOSYS | EROFS | ENOENT) => {}
        Err(error) => {
            let reason = kernel::explain(error);
            host::console(alloc::format!("cannot write /etc/resolv.conf: {reason}\n").as_bytes());
        }
    }
}

/// Writes the text over `ours`; whether it did.
fn write(text: &str, ours: &str) -> Result<bool, Errno> {
    let present = match kernel::contents(FILE, LONGEST) {
        Ok(present) => present,
        Err(ENOENT) => alloc::vec::Vec::new(),
        Err(error) => return Err(error),
    };
    if !present.is_empty() && present != ours.as_bytes() {
        return Ok(false);
    }
    let file = Descriptor::open(FILE, kernel::WRITE_ANEW)?;
    file.write(text.as_bytes())?;
    Ok(true)
}
