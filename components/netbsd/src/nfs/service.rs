//! What a server of NFS tells its clients: ports (the port mapper, RFC 1833) and handles of what it exports (the mount
//! service, RFC 1813 appendix I). Both are served at the port mapper's port.

use alloc::{string::String, vec::Vec};
use core::net::IpAddr;

use super::{
    rpc::{self, Refusal},
    xdr::{Reader, Writer},
};

/// The port mapper's port and NFS's.
pub const PORT: u16 = 111;
/// See [`PORT`].
pub const NFS_PORT: u16 = 2049;
/// `PMAP_PROG`, `NFS_PROGRAM`, `MOUNT_PROGRAM`.
const MAPPER: u32 = 100_000;
const NFS: u32 = 100_003;
const MOUNT: u32 = 100_005;
/// Versions of the port mapper, and of mounts, that are spoken.
const MAPPER_VERSIONS: [u32; 2] = [2, 4];
const MOUNT_VERSIONS: [u32; 2] = [3, 3];
/// `MNTPATHLEN`.
const LONGEST_PATH: usize = 1024;
/// `MNT3ERR_NOENT`, `MNT3ERR_ACCES`.
const NO_SUCH: u32 = 2;
const DENIED: u32 = 13;
/// `AUTH_SYS`.
const SYSTEM: u32 = 1;

/// A directory that others may mount.
pub struct Export {
    /// Its path.
    pub path: String,
    /// Who may.
    pub networks: Vec<(IpAddr, u8)>,
    /// Its handle.
    pub handle: Vec<u8>,
}

/// Whether an address is in one of the networks.
fn is_in(networks: &[(IpAddr, u8)], address: IpAddr) -> bool {
    networks.iter().any(|&(network, prefix)| match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (network.to_bits() ^ address.to_bits()).leading_zeros() >= prefix.into()
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            (network.to_bits() ^ address.to_bits()).leading_zeros() >= prefix.into()
        }
        _ => false,
    })
}

/// Answers a message of a client at an address; nothing to what is no call. `own` tells the address that this machine
/// has for a client.
pub fn answer(
    message: &[u8],
    client: IpAddr,
    exports: &[Export],
    own: fn(IpAddr) -> Option<IpAddr>,
) -> Option<Vec<u8>> {
    let (transaction, procedure, mut arguments) = rpc::called(message)?;
    let results = match procedure.program {
        MAPPER if !(MAPPER_VERSIONS[0]..=MAPPER_VERSIONS[1]).contains(&procedure.version) => {
            Err(Refusal::Version(MAPPER_VERSIONS))
        }
        MAPPER => mapper(procedure.version, procedure.number, &mut arguments, || own(client)),
        MOUNT if procedure.version != MOUNT_VERSIONS[0] => Err(Refusal::Version(MOUNT_VERSIONS)),
        MOUNT => mount(procedure.number, &mut arguments, client, exports),
        _ => Err(Refusal::Program),
    };
    Some(rpc::reply(transaction, results))
}

/// `PMAPPROC_NULL` and `GETPORT`; `RPCBPROC_GETADDR` of the later versions.
fn mapper(
    version: u32,
    number: u32,
    arguments: &mut Reader<'_>,
    own: impl FnOnce() -> Option<IpAddr>,
) -> Result<Writer, Refusal> {
    let mut results = Writer::default();
    if number == 0 {
        return Ok(results);
    }
    if number != 3 {
        return Err(Refusal::Procedure);
    }
    let program = arguments.word().ok_or(Refusal::Arguments)?;
    let port = match program {
        NFS => NFS_PORT,
        MOUNT | MAPPER => PORT,
        _ => 0,
    };
    if version == MAPPER_VERSIONS[0] {
        results.words(&[port.into()]);
    } else {
        // A universal address (RFC 5665 section 5.2.3).
        let [high, low] = port.to_be_bytes();
        let own = own().filter(|_| port > 0);
        let address = own.map_or(String::new(), |own| alloc::format!("{own}.{high}.{low}"));
        results.bytes(address.as_bytes());
    }
    Ok(results)
}

/// `MOUNTPROC3_NULL`, `MNT`, `DUMP`, `UMNT`, `UMNTALL`, `EXPORT`.
fn mount(
    number: u32,
    arguments: &mut Reader<'_>,
    client: IpAddr,
    exports: &[Export],
) -> Result<Writer, Refusal> {
    let mut results = Writer::default();
    match number {
        0 | 3 | 4 => {}
        1 => {
            let path = arguments.bytes(LONGEST_PATH).ok_or(Refusal::Arguments)?;
            let path = path.strip_suffix(b"/").unwrap_or(path);
            match exports.iter().find(|export| export.path.as_bytes() == path) {
                Some(export) if is_in(&export.networks, client) => {
                    results.words(&[0]).bytes(&export.handle).words(&[1, SYSTEM]);
                }
                Some(_) => _ = results.words(&[DENIED]),
                None => _ = results.words(&[NO_SUCH]),
            }
        }
        // Nobody remembers who mounts.
        2 => _ = results.words(&[0]),
        5 => {
            for export in exports {
                results.words(&[1]).bytes(export.path.as_bytes());
                for (address, prefix) in &export.networks {
                    let network = alloc::format!("{address}/{prefix}");
                    results.words(&[1]).bytes(network.as_bytes());
                }
                results.words(&[0]);
            }
            results.words(&[0]);
        }
        _ => return Err(Refusal::Procedure),
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::nfs::rpc::Procedure;

    fn ask(from: &str, procedure: (u32, u32, u32), arguments: &Writer) -> Option<Vec<u8>> {
        let exports = [Export {
            path: "/data".into(),
            networks: vec![("10.0.0.0".parse().unwrap(), 24), ("fd00::".parse().unwrap(), 16)],
            handle: vec![7; 28],
        }];
        let (program, version, number) = procedure;
        let mut message = rpc::call(5, Procedure { program, version, number });
        message.0.extend(&arguments.0);
        let reply = answer(&message.0, from.parse().unwrap(), &exports, |_| "fd00::2".parse().ok())?;
        // The arguments cut short are refused or change nothing, and never more.
        for length in 0..message.0.len() {
            answer(&message.0[..length], from.parse().unwrap(), &exports, |_| "fd00::2".parse().ok());
        }
        Some(rpc::results(5, &reply)?.rest().to_vec())
    }

    fn words(words: &[u32]) -> Writer {
        let mut writer = Writer::default();
        writer.words(words);
        writer
    }

    #[test]
    fn ports_are_told() {
        let port = |program| ask("10.0.0.5", (MAPPER, 2, 3), &words(&[program, 3, 6, 0]));
        assert_eq!((port(NFS), port(MOUNT)), (Some(vec![0, 0, 8, 1]), Some(vec![0, 0, 0, 111])));
        assert_eq!(port(100_021), Some(vec![0; 4]));
        let mut query = words(&[NFS, 3]);
        query.bytes(b"tcp6").bytes(b"").bytes(b"");
        let address = ask("fd00::5", (MAPPER, 4, 3), &query).unwrap();
        assert_eq!(Reader::new(&address).bytes(20), Some(&b"fd00::2.8.1"[..]));
        for wrong in [(MAPPER, 1, 3), (MAPPER, 5, 3), (MAPPER, 2, 1), (MOUNT, 1, 0), (1, 1, 0)] {
            assert_eq!(ask("10.0.0.5", wrong, &words(&[NFS, 3, 6, 0])), None, "{wrong:?}");
        }
        assert_eq!(ask("10.0.0.5", (MAPPER, 2, 3), &words(&[])), None);
    }

    #[test]
    fn handles_are_for_those_who_may_have_them() {
        let status = |from: &str, path: &[u8]| {
            let mut arguments = Writer::default();
            let results = ask(from, (MOUNT, 3, 1), arguments.bytes(path)).unwrap();
            let mut reader = Reader::new(&results);
            let status = reader.word().unwrap();
            assert_eq!(reader.bytes(64).is_some(), status == 0);
            status
        };
        assert_eq!((status("10.0.0.9", b"/data"), status("fd00::1", b"/data/")), (0, 0));
        assert_eq!((status("10.0.1.9", b"/data"), status("fe80::1", b"/data")), (DENIED, DENIED));
        assert_eq!((status("10.0.0.9", b"/data/.."), status("10.0.0.9", b"")), (NO_SUCH, NO_SUCH));
        let listing = ask("10.9.9.9", (MOUNT, 3, 5), &words(&[])).unwrap();
        let mut reader = Reader::new(&listing);
        assert_eq!((reader.word(), reader.bytes(9)), (Some(1), Some(&b"/data"[..])));
        assert_eq!((reader.word(), reader.bytes(20)), (Some(1), Some(&b"10.0.0.0/24"[..])));
        assert!(is_in(&[("0.0.0.0".parse().unwrap(), 0)], "192.0.2.1".parse().unwrap()));
    }
}
