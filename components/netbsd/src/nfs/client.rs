//! Asks an NFS server for what it exports: its port mapper for ports (RFC 1833), and its mount service for the handle of a
//! directory (RFC 1813, appendix I), by TCP.

use alloc::{format, string::String, vec::Vec};
use core::{ffi::c_int, net::IpAddr};

use rumpuser::rumpuser_clock_monotonic;

use super::{
    own_address,
    rpc::{self, Procedure},
    stream::{STREAM, Stream},
    xdr::Reader,
};
use crate::{
    clock::SECOND,
    errno::Errno,
    kernel::{self, Descriptor},
    network::addresses::{self, INET, INET6},
    wait::WaitList,
};

/// `IPPROTO_IP` with `IP_PORTRANGE`, `IPPROTO_IPV6` with `IPV6_PORTRANGE`, and their value for ports below 1024, which
/// servers ask of who may be root.
const RANGE: (c_int, c_int) = (0, 19);
const RANGE6: (c_int, c_int) = (41, 14);
const LOW: c_int = 2;
/// `IPPROTO_TCP`, its `TCP_KEEPINIT`, and the protocol's number for port mappers.
const TCP: c_int = 6;
const CONNECT_TIMEOUT: c_int = 7;
/// How long a connection, and an answer, may take, in seconds.
const PATIENCE: u32 = 20;
/// How long a new address may take until it can be used, and how long until it is looked at again, in nanoseconds.
const SETTLING: u64 = 5 * SECOND;
const PAUSE: u64 = SECOND / 20;
/// The port mapper's port, and where NFS is if it doesn't say.
const MAPPER_PORT: u16 = 111;
const NFS_PORT: u16 = 2049;
/// `PMAPPROC_GETPORT` of version 2, for IPv4, and `RPCBPROC_GETADDR` of version 3, for IPv6.
const GET_PORT: Procedure = Procedure { program: 100_000, version: 2, number: 3 };
const GET_ADDRESS: Procedure = Procedure { version: 3, ..GET_PORT };
/// The longest address that a port mapper says.
const LONGEST_ADDRESS: usize = 256;
/// `NFS_PROGRAM`, version 3.
const NFS: (u32, u32) = (100_003, 3);
/// `MOUNTPROC3_MNT`.
const MOUNT: Procedure = Procedure { program: 100_005, version: 3, number: 1 };
/// `FHSIZE3`.
pub const LONGEST_HANDLE: usize = 64;

/// What a directory of a server is mounted by.
pub struct Exported {
    /// Where NFS is served.
    pub port: u16,
    /// The directory's handle.
    pub handle: Vec<u8>,
}

/// Whether an address is for one link alone (RFC 4291 section 2.5.6).
fn is_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Waits until this machine has an address that a server can answer: new ones of IPv6 are not used before the others on
/// the link were asked whether they have them (RFC 4862 section 5.4), and until then one for the link is.
fn wait_for_address(server: IpAddr) {
    let never = WaitList::new();
    let end = rumpuser_clock_monotonic().saturating_add(SETTLING);
    while !is_local(server) && own_address(server).is_none_or(is_local) && rumpuser_clock_monotonic() < end {
        never.wait(rumpuser_clock_monotonic().saturating_add(PAUSE), || true);
    }
}

/// Finds a directory of a server.
pub fn find(server: IpAddr, path: &str) -> Result<Exported, String> {
    wait_for_address(server);
    let mapper = connect(server, MAPPER_PORT).map_err(|error| {
        format!("the port mapper of {server} can't be reached: {}", kernel::explain(error))
    })?;
    let mount = port_of(&mapper, server, (MOUNT.program, MOUNT.version), 1)
        .ok_or_else(|| format!("{server} has no mount service of version 3 over TCP"))?;
    let port = port_of(&mapper, server, NFS, 2).unwrap_or(NFS_PORT);
    drop(mapper);
    let connection = connect(server, mount).map_err(|error| {
        format!("the mount service of {server} can't be reached: {}", kernel::explain(error))
    })?;
    let mut message = rpc::call(1, MOUNT);
    message.bytes(path.as_bytes());
    let answer =
        connection.ask(&message.0).map_err(|_| format!("the mount service of {server} doesn't answer"))?;
    let results = rpc::results(1, &answer).ok_or_else(|| format!("{server} doesn't serve mounts"))?;
    let handle = handle(results).map_err(|status| explain(status, path))?;
    Ok(Exported { port, handle })
}

/// Where a program is served over TCP.
fn port_of(mapper: &Stream, server: IpAddr, service: (u32, u32), transaction: u32) -> Option<u16> {
    let (program, version) = service;
    let message = if server.is_ipv4() {
        let mut message = rpc::call(transaction, GET_PORT);
        message.words(&[program, version, TCP as u32, 0]);
        message
    } else {
        let mut message = rpc::call(transaction, GET_ADDRESS);
        message.words(&[program, version]).bytes(b"tcp6").bytes(b"").bytes(b"");
        message
    };
    let answer = mapper.ask(&message.0).ok()?;
    let mut results = rpc::results(transaction, &answer)?;
    let port = if server.is_ipv4() {
        u16::try_from(results.word()?).ok()?
    } else {
        last_two(results.bytes(LONGEST_ADDRESS)?)?
    };
    (port > 0).then_some(port)
}

/// The port in a universal address (RFC 5665 section 5.2.3.4): its last two numbers, with dots.
fn last_two(address: &[u8]) -> Option<u16> {
    let mut parts = core::str::from_utf8(address).ok()?.rsplit('.');
    let low: u8 = parts.next()?.parse().ok()?;
    let high: u8 = parts.next()?.parse().ok()?;
    Some(u16::from_be_bytes([high, low]))
}

/// The handle in an answer, or why there is none (`mountstat3`).
fn handle(mut results: Reader<'_>) -> Result<Vec<u8>, u32> {
    match results.word() {
        Some(0) => results.bytes(LONGEST_HANDLE).map(<[u8]>::to_vec).ok_or(0),
        status => Err(status.unwrap_or(0)),
    }
}

fn explain(status: u32, path: &str) -> String {
    match status {
        1 | 13 => format!("its server doesn't let this machine mount {path}"),
        2 => format!("its server has no {path}"),
        20 => format!("{path} is no directory of its server"),
        0 => "its server's answer makes no sense".into(),
        other => format!("its server refuses {path}: status {other}"),
    }
}

/// Connects to a service.
fn connect(server: IpAddr, port: u16) -> Result<Stream, Errno> {
    let (family, (level, range)) = if server.is_ipv4() { (INET, RANGE) } else { (INET6, RANGE6) };
    let socket = Descriptor::socket(family, STREAM, 0)?;
    socket.set_option(TCP, CONNECT_TIMEOUT, &PATIENCE.to_le_bytes())?;
    socket.set_option(level, range, &LOW.to_le_bytes())?;
    socket.connect(&addresses::socket(server, port))?;
    Stream::new(socket, PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfs::xdr::Writer;

    #[test]
    fn addresses_of_the_link_are_known() {
        let local = ["fe80::1", "fd00::1", "10.0.0.1"].map(|text| is_local(text.parse().unwrap()));
        assert_eq!(local, [true, false, false]);
    }

    #[test]
    fn ports_and_handles_are_read_from_answers() {
        assert_eq!(last_two(b"fd77::1.8.1"), Some(2049));
        assert!([&b""[..], b"8", b"::.300.1", b"\xff.1.1"].iter().all(|text| last_two(text).is_none()));
        let answer = |words: &[u32], handle: &[u8]| {
            let mut writer = Writer::default();
            writer.words(words).bytes(handle);
            writer.0
        };
        let found = answer(&[0], b"abc");
        assert_eq!(handle(Reader::new(&found)), Ok(b"abc".to_vec()));
        assert_eq!(handle(Reader::new(&answer(&[13], b""))), Err(13));
        assert_eq!(handle(Reader::new(&answer(&[0], &[0; LONGEST_HANDLE + 1]))), Err(0));
        assert_eq!(handle(Reader::new(&[])), Err(0));
    }
}
