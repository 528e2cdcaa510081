//! DHCPv4 on an interface: the thread that runs the client. Frames go through bpf(4), which needs no address; it is open
//! only while an answer is waited for, because it looks at every packet.

use alloc::{boxed::Box, collections::VecDeque, format, sync::Arc, vec, vec::Vec};
use core::{
    ffi::{c_int, c_ulong},
    net::{IpAddr, Ipv4Addr},
};

use netconfig::{CLIENT_PORT, Client, Lease, SECOND, SERVER_PORT, Setup, Step};
use rumpuser::{CpuSet, rumpuser_clock_monotonic, rumpuser_park, sync::SpinLock};

use super::{
    addresses::{self, INET},
    frame,
    interfaces::{DATAGRAM, Interface, request},
    ready, resolver, say, tell,
};
use crate::{
    errno::Errno,
    event::Event,
    kernel::{self, Descriptor},
    thread,
};

/// `BIOCGBLEN`, `BIOCSETIF`, `BIOCIMMEDIATE`, `BIOCSETF`, `BIOCSRTIMEOUT`, `BIOCSSEESENT`.
const BUFFER_LENGTH: c_ulong = 0x4004_4266;
const SET_INTERFACE: c_ulong = 0x8090_426c;
const IMMEDIATE: c_ulong = 0x8004_4270;
const SET_FILTER: c_ulong = 0x8010_4267;
const TIMEOUT: c_ulong = 0x8010_427a;
const SEE_SENT: c_ulong = 0x8004_4279;
/// The longest buffer that is believed.
const LONGEST: usize = 1 << 20;
/// Where `struct bpf_hdr` has the captured length and its own; frames begin at multiples of 8 bytes.
const CAPTURED: usize = 16;
const HEADER: usize = 24;
/// `SOL_SOCKET`, `SO_REUSEPORT`.
const SOCKET: c_int = 0xffff;
const REUSE_PORT: c_int = 0x200;
/// How long an answer is waited for with bpf open, when nothing is due before.
const LISTENING: u64 = 10 * SECOND;
/// After something failed.
const PAUSE: u64 = 5 * SECOND;
/// The smallest MTU that a server can set.
const LEAST_MTU: usize = 576;

/// `struct bpf_insn`s: UDP over IPv4 for the client's port.
const FILTER: [(u16, u8, u8, u32); 10] = [
    // The EtherType.
    (0x28, 0, 0, 12),
    (0x15, 0, 7, 0x800),
    // The protocol.
    (0x30, 0, 0, 23),
    (0x15, 0, 5, 17),
    // Not a later fragment.
    (0x28, 0, 0, 20),
    (0x45, 3, 0, 0x1fff),
    // The port behind the header.
    (0xb1, 0, 0, 14),
    (0x48, 0, 0, 16),
    (0x15, 1, 0, CLIENT_PORT as u32),
    (0x06, 0, 0, 0),
];
/// What the last of [`FILTER`] jumps over: all of the packet.
const ACCEPT: (u16, u8, u8, u32) = (0x06, 0, 0, u32::MAX);

/// The interfaces that have threads, and what tells these that the interface may be elsewhere.
static LEASES: SpinLock<Vec<(u32, Arc<Event>)>> = SpinLock::new(Vec::new());

/// Has an interface's lease confirmed, or another one asked for; whether it has any to do with leases.
pub fn confirm(index: u32) -> bool {
    let found = LEASES.lock().iter().find(|(number, _)| *number == index).map(|(_, event)| event.clone());
    found.map(|event| event.raise()).is_some()
}

/// Starts the thread for an interface, unless it has one.
pub fn start(interface: Interface, setup: Setup, host_name: &str) {
    if confirm(interface.index) {
        return ready();
    }
    let index = interface.index;
    let moved = Arc::new(Event::new());
    let client = Client::new(interface.hardware, host_name, rumpuser_clock_monotonic());
    let name = format!("dhcp {}", interface.name);
    let shown = interface.name.clone();
    let leasing = Leasing {
        interface,
        setup,
        client,
        lease: None,
        waited_for: true,
        moved: moved.clone(),
        complained: None,
    };
    if thread::spawn(name, CpuSet::MAX, Box::new(move || leasing.run())).is_err() {
        say(&shown, "too little memory for DHCP");
        return ready();
    }
    LEASES.lock().push((index, moved));
}

struct Leasing {
    interface: Interface,
    setup: Setup,
    client: Client,
    lease: Option<Lease>,
    /// The image's start waits for it.
    waited_for: bool,
    /// The interface may be elsewhere.
    moved: Arc<Event>,
    /// What was said last.
    complained: Option<Errno>,
}

impl Leasing {
    fn run(mut self) {
        kernel::become_process();
        self.moved.enter();
        loop {
            if self.client.is_bound() && self.moved.wait(self.client.due) {
                self.client.link_changed(rumpuser_clock_monotonic());
            }
            if let Err(error) = self.ask() {
                // Once, if it is the same again and again.
                if self.complained.replace(error) != Some(error) {
                    say(&self.interface.name, &format!("DHCP fails: {}", kernel::explain(error)));
                }
                self.settle();
                let until = rumpuser_clock_monotonic() + PAUSE;
                while rumpuser_clock_monotonic() < until {
                    rumpuser_park(until);
                }
            }
        }
    }

    /// Nobody waits for it any more.
    fn settle(&mut self) {
        if core::mem::take(&mut self.waited_for) {
            ready();
        }
    }

    /// Does what is due and hears answers, until there are none to wait for.
    fn ask(&mut self) -> Result<(), Errno> {
        let mut packets = Packets::open(&self.interface)?;
        // Somebody must have the port, or the kernel would refuse the answers to renewals.
        let own = self.lease.as_ref().map(|lease| port(lease.address)).transpose()?;
        let until = rumpuser_clock_monotonic() + LISTENING;
        loop {
            let now = rumpuser_clock_monotonic();
            if self.moved.take() {
                self.client.link_changed(now);
            }
            let steps = self.client.run(now);
            self.follow(steps, &packets, own.as_ref())?;
            let wake = self.client.due.min(now + LISTENING);
            if let Some(message) = packets.next(wake.saturating_sub(now))? {
                let steps = self.client.receive(rumpuser_clock_monotonic(), &message);
                let bound = steps.iter().any(|step| matches!(step, Step::Bound { .. }));
                self.follow(steps, &packets, own.as_ref())?;
                if bound {
                    return Ok(());
                }
            }
            if self.client.is_bound() && rumpuser_clock_monotonic() > until {
                return Ok(());
            }
        }
    }

    fn follow(&mut self, steps: Vec<Step>, packets: &Packets, own: Option<&Descriptor>) -> Result<(), Errno> {
        for step in steps {
            match step {
                Step::Send { source, server, message } => match (server, own) {
                    (Some(server), Some(own)) => {
                        // A network that is away for a while is no reason to give up: it is asked again.
                        let _ = own.send_to(&message, &addresses::inet(server, SERVER_PORT));
                    }
                    _ => packets.send(&frame::build(self.interface.hardware, source, &message))?,
                },
                Step::Bound { lease, .. } => self.bind(lease),
                Step::Lost => self.lose(),
                Step::Silence => {
                    say(&self.interface.name, "no DHCP server answers");
                    self.settle();
                }
            }
        }
        Ok(())
    }

    /// Takes a lease that is new, prolonged or changed.
    fn bind(&mut self, lease: Lease) {
        let is_new = self.lease.as_ref().is_none_or(|old| {
            (old.address, old.prefix, &old.routers, &old.routes)
                != (lease.address, lease.prefix, &lease.routers, &lease.routes)
        });
        self.complained = None;
        resolver::leased(self.interface.index, &lease);
        if is_new {
            self.lose_address();
            let name = self.interface.name.clone();
            if let Err(error) = self.interface.add_address(lease.address.into(), lease.prefix) {
                super::complain(&name, &format!("the address {} that DHCP gave", lease.address), error);
            }
            if let Some(mtu) = lease.mtu.filter(|&mtu| mtu >= LEAST_MTU && self.setup.mtu.is_none()) {
                // A device that can't have it keeps its own.
                let _ = self.interface.set_mtu(mtu);
            }
            let mut gateways = Vec::new();
            for (destination, prefix, router) in self.routes(&lease) {
                if !lease.is_on_link(router) && !router.is_unspecified() {
                    // Clouds lend single addresses, with a router beside the subnet.
                    let _ = self.interface.add_route(router.into(), 32, Ipv4Addr::UNSPECIFIED.into());
                }
                match self.interface.add_route(destination.into(), prefix, router.into()) {
                    Ok(()) if prefix == 0 => gateways.push(IpAddr::from(router)),
                    Ok(()) => {}
                    Err(error) => super::complain(&name, &format!("the router {router}"), error),
                }
            }
            tell(&name, &[(lease.address.into(), lease.prefix)], &gateways, " (DHCP)");
        }
        self.lease = Some(lease);
        self.settle();
    }

    /// The routes of a lease; a default route only if none is configured.
    fn routes(&self, lease: &Lease) -> Vec<(Ipv4Addr, u8, Ipv4Addr)> {
        let configured: Vec<Ipv4Addr> = self
            .setup
            .gateways
            .iter()
            .filter_map(|gateway| if let IpAddr::V4(gateway) = gateway { Some(*gateway) } else { None })
            .collect();
        let mut routes = lease.routes.clone();
        if routes.is_empty() {
            // The kernel has one default route.
            routes.extend(lease.routers.first().map(|&router| (Ipv4Addr::UNSPECIFIED, 0, router)));
        }
        if !configured.is_empty() {
            routes.retain(|(_, prefix, _)| *prefix != 0);
            routes.extend(configured.iter().map(|&router| (Ipv4Addr::UNSPECIFIED, 0, router)));
        }
        routes
    }

    fn lose_address(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        for (destination, prefix, router) in self.routes(&lease) {
            // What somebody else removed is gone already; so is an address.
            let _ = self.interface.remove_route(destination.into(), prefix, router.into());
        }
        let _ = self.interface.remove_address(lease.address);
    }

    fn lose(&mut self) {
        if let Some(lease) = &self.lease {
            let text = format!("the DHCP lease of {} has ended", lease.address);
            say(&self.interface.name, &text);
        }
        self.lose_address();
        resolver::lost(self.interface.index);
    }
}

/// A socket with the client's port.
fn port(address: Ipv4Addr) -> Result<Descriptor, Errno> {
    let socket = Descriptor::socket(INET, DATAGRAM, 0)?;
    socket.set_option(SOCKET, REUSE_PORT, &1u32.to_le_bytes())?;
    socket.bind(&addresses::inet(address, CLIENT_PORT))?;
    Ok(socket)
}

/// The interface's frames for the client.
struct Packets {
    descriptor: Descriptor,
    buffer: Vec<u8>,
    waiting: VecDeque<Vec<u8>>,
}

impl Packets {
    fn open(interface: &Interface) -> Result<Self, Errno> {
        let descriptor = Descriptor::open(c"/dev/bpf", kernel::READ_WRITE)?;
        descriptor.ask(SET_INTERFACE, &mut request(&interface.name))?;
        descriptor.ask(IMMEDIATE, &mut 1u32.to_le_bytes())?;
        descriptor.ask(SEE_SENT, &mut 0u32.to_le_bytes())?;
        let program: Vec<u8> = FILTER.iter().chain([&ACCEPT]).flat_map(instruction).collect();
        let mut argument = [0; 16];
        argument[..4].copy_from_slice(&(program.len() as u32 / 8).to_le_bytes());
        argument[8..].copy_from_slice(&(program.as_ptr() as u64).to_le_bytes());
        descriptor.ask(SET_FILTER, &mut argument)?;
        let mut length = [0; 4];
        descriptor.ask(BUFFER_LENGTH, &mut length)?;
        let length = (u32::from_le_bytes(length) as usize).min(LONGEST);
        Ok(Packets { descriptor, buffer: vec![0; length], waiting: VecDeque::new() })
    }

    fn send(&self, frame: &[u8]) -> Result<(), Errno> {
        self.descriptor.write(frame).map(|_| ())
    }

    /// The next message, waiting up to some nanoseconds for it.
    fn next(&mut self, patience: u64) -> Result<Option<Vec<u8>>, Errno> {
        if self.waiting.is_empty() {
            // A `struct timeval`; zero would be for ever.
            let microseconds = (patience / 1000).max(1000);
            let mut timeout = [0; 16];
            timeout[..8].copy_from_slice(&(microseconds / 1_000_000).to_le_bytes());
            timeout[8..12].copy_from_slice(&((microseconds % 1_000_000) as u32).to_le_bytes());
            self.descriptor.ask(TIMEOUT, &mut timeout)?;
            let length = self.descriptor.read(&mut self.buffer)?;
            self.waiting = frames(&self.buffer[..length])
                .filter_map(|frame| frame::parse(frame).map(<[u8]>::to_vec))
                .collect();
        }
        Ok(self.waiting.pop_front())
    }
}

/// `struct bpf_insn`.
fn instruction(&(code, yes, no, value): &(u16, u8, u8, u32)) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&code.to_le_bytes());
    bytes[2..4].copy_from_slice(&[yes, no]);
    bytes[4..].copy_from_slice(&value.to_le_bytes());
    bytes
}

/// The frames of what bpf read.
fn frames(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let captured = u32::from_le_bytes(rest.get(CAPTURED..CAPTURED + 4)?.try_into().ok()?) as usize;
        let header = usize::from(u16::from_le_bytes(rest.get(HEADER..HEADER + 2)?.try_into().ok()?));
        let frame = rest.get(header..header.checked_add(captured)?)?;
        let next = (header + captured).next_multiple_of(8).max(8);
        rest = rest.get(next..).unwrap_or_default();
        Some(frame)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bpf_reads_is_taken_apart() {
        let mut bytes = Vec::new();
        for frame in [&b"first"[..], b"and the second"] {
            let mut header = [0; 32];
            header[CAPTURED..CAPTURED + 4].copy_from_slice(&(frame.len() as u32).to_le_bytes());
            header[HEADER] = 26;
            bytes.extend_from_slice(&header[..26]);
            bytes.extend_from_slice(frame);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let found: Vec<_> = frames(&bytes).collect();
        assert_eq!(found, [&b"first"[..], b"and the second"]);
        // Lengths that lie end it.
        bytes[CAPTURED] = 255;
        assert_eq!(frames(&bytes).count(), 0);
        assert!(frames(&[0; 200]).take(100).count() < 100);
    }
}
