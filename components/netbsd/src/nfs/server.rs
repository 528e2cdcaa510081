//! Serves mounts by NFS, as the configuration says: the kernel's server (nfssvc(2)) is told who may have what and gets its
//! sockets and threads; [`service`] tells clients the rest.

use alloc::{boxed::Box, format, string::String, sync::Arc, vec, vec::Vec};
use core::{
    ffi::{c_char, c_int, c_void},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ptr::null,
};

use image::config::Mount;
use rumpuser::{CpuSet, rumpuser_clock_monotonic};

use super::{
    ADDRESS, DATAGRAM,
    client::LONGEST_HANDLE,
    own_address,
    service::{self, Export, NFS_PORT, PORT},
    stream::{LONGEST, STREAM, Stream},
};
use crate::{
    errno::{EIO, ENOMEM, ENOSYS, Errno},
    host,
    kernel::{self, Descriptor},
    network::addresses::{self, INET, INET6},
    thread,
    user::rump::{self, KernelLwp},
    wait::WaitList,
};

/// `NFSSVC_NFSD`, `NFSSVC_ADDSOCK`, `NFSSVC_SETEXPORTSLIST`.
const SERVE: c_int = 0x4;
const ADD_SOCKET: c_int = 0x8;
const SET_EXPORTS: c_int = 0x200;
/// `MNT_EXPORTED`, `MNT_EXRDONLY`.
const EXPORTED: c_int = 0x100;
const READ_ONLY: c_int = 0x80;
/// Threads that serve files.
const THREADS: usize = 4;
/// More than `struct nfsd_srvargs` has, of which nothing needs to be set.
const SERVE_ARGUMENTS: usize = 512;
/// `SOL_SOCKET`, `SO_REUSEADDR`; `IPPROTO_IPV6`, `IPV6_V6ONLY`.
const REUSE_ADDRESS: (c_int, c_int) = (0xffff, 4);
const VERSION_6_ALONE: (c_int, c_int) = (41, 27);
/// Connections that wait to be accepted.
const BACKLOG: c_int = 16;
/// Seconds that a client of the mount service may be silent; others wait meanwhile, and no longer than a few times that.
const PATIENCE: u32 = 2;
/// After no connection could be accepted, in nanoseconds.
const PAUSE: u64 = 100_000_000;

/// `struct export_args`.
#[repr(C)]
struct ExportArguments {
    flags: c_int,
    root: u32,
    /// Whom root is mapped to (`struct uucred`): root. Then nobody else is mapped.
    anonymous: [u32; 20],
    address: *const u8,
    address_length: c_int,
    mask: *const u8,
    mask_length: c_int,
    index: *const c_char,
}

/// `struct mountd_exports_list`.
#[repr(C)]
struct Exports {
    path: *const c_char,
    count: usize,
    exports: *const ExportArguments,
}

/// `struct nfsd_args`.
#[repr(C)]
struct SocketArguments {
    socket: c_int,
    name: *const u8,
    name_length: c_int,
}

fn control(flag: c_int, argument: *mut c_void) -> Result<(), Errno> {
    let control = rump::rump___sysimpl_nfssvc().ok_or(ENOSYS)?;
    // SAFETY: the kernel's function, with the structure that the flag wants.
    kernel::checked(unsafe { control(flag, argument) } as isize).map(|_| ())
}

/// Exports what the mounts say, and says what is exported once it is served.
pub fn start(mounts: &[Mount]) -> Result<(), String> {
    let (mut exports, mut said) = (Vec::new(), String::new());
    for mount in mounts.iter().filter(|mount| !mount.exported_to.is_empty()) {
        let target = String::from_utf8_lossy(&mount.target);
        let export = export(mount)
            .map_err(|error| format!("{target} cannot be exported by NFS: {}", kernel::explain(error)))?;
        said += &format!("nfs: {target} for {}\n", mount.exported_to.join(", "));
        exports.push(export);
    }
    if exports.is_empty() {
        return Ok(());
    }
    in_a_process(|| serve(&Arc::new(exports)))
        .map_err(|error| format!("NFS cannot be served: {}", kernel::explain(error)))?;
    host::console(said.as_bytes());
    Ok(())
}

/// Does something in a process of its own, so that no program has its descriptors. Its LWP stays.
fn in_a_process<T>(work: impl FnOnce() -> T) -> T {
    let mine = rump::rump_pub_lwproc_curlwp().map(|current| {
        // SAFETY: the kernel's function.
        unsafe { current() }
    });
    kernel::become_process();
    let result = work();
    if let (Some(mine), Some(switch)) = (mine, rump::rump_pub_lwproc_switch()) {
        // SAFETY: the kernel's function, with the LWP that this thread had.
        unsafe { switch(mine) };
    }
    result
}

fn export(mount: &Mount) -> Result<Export, Errno> {
    let path = kernel::path(&mount.target)?;
    let networks: Vec<_> = mount.exported_to.iter().filter_map(|text| netconfig::prefixed(text)).collect();
    for &(address, prefix) in &networks {
        let mask = addresses::mask(address, prefix);
        let network = addresses::socket(masked(address, mask), 0);
        let mask = addresses::socket(mask, 0);
        let argument = ExportArguments {
            flags: EXPORTED | if mount.read_only { READ_ONLY } else { 0 },
            root: 0,
            anonymous: [0; 20],
            address: network.as_ptr(),
            address_length: network.len() as c_int,
            mask: mask.as_ptr(),
            mask_length: mask.len() as c_int,
            index: null(),
        };
        let mut list = Exports { path: path.as_ptr(), count: 1, exports: &argument };
        control(SET_EXPORTS, (&raw mut list).cast())?;
    }
    let get = rump::rump___sysimpl_getfh30().ok_or(ENOSYS)?;
    let mut handle = vec![0; LONGEST_HANDLE];
    let mut length = handle.len();
    // SAFETY: the kernel's function, with a place of the length that it gets.
    kernel::checked(unsafe { get(path.as_ptr(), handle.as_mut_ptr().cast(), &mut length) } as isize)?;
    handle.truncate(length);
    Ok(Export { path: String::from_utf8_lossy(&mount.target).into_owned(), networks, handle })
}

fn masked(address: IpAddr, mask: IpAddr) -> IpAddr {
    match (address, mask) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => {
            Ipv4Addr::from_bits(address.to_bits() & mask.to_bits()).into()
        }
        (IpAddr::V6(address), IpAddr::V6(mask)) => {
            Ipv6Addr::from_bits(address.to_bits() & mask.to_bits()).into()
        }
        _ => address,
    }
}

fn serve(exports: &Arc<Vec<Export>>) -> Result<(), Errno> {
    for address in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
        add_socket(&socket(address, DATAGRAM, NFS_PORT)?, &[])?;
        let connections = socket(address, STREAM, NFS_PORT)?;
        start_thread("nfs connections", connections, |connections| {
            for_each_connection(&connections, |connection, name| {
                // The kernel keeps the connection, not the descriptor. Without memory for it, it ends.
                let _ = add_socket(&connection, name);
            });
        })?;
        let connections = (socket(address, STREAM, PORT)?, exports.clone());
        start_thread("mountd", connections, |(connections, exports)| {
            for_each_connection(&connections, |connection, name| {
                // Who is silent or talks nonsense is left.
                let _ = converse(connection, name, &exports);
            });
        })?;
        let datagrams = (socket(address, DATAGRAM, PORT)?, exports.clone());
        start_thread("mountd", datagrams, |(socket, exports)| answer_datagrams(&socket, &exports))?;
    }
    for _ in 0..THREADS {
        start_thread("nfsd", (), |()| {
            let mut arguments = [0u64; SERVE_ARGUMENTS / size_of::<u64>()];
            if let Err(error) = control(SERVE, arguments.as_mut_ptr().cast()) {
                host::console(format!("nfsd: {}\n", kernel::explain(error)).as_bytes());
            }
        })?;
    }
    Ok(())
}

/// Gives the kernel a socket to serve; `name` is the address of who is connected.
fn add_socket(socket: &Descriptor, name: &[u8]) -> Result<(), Errno> {
    let mut argument = SocketArguments {
        socket: socket.number(),
        name: if name.is_empty() { null() } else { name.as_ptr() },
        name_length: name.len() as c_int,
    };
    control(ADD_SOCKET, (&raw mut argument).cast())
}

/// A socket at an address, which listens if it is one for connections.
fn socket(address: IpAddr, kind: c_int, port: u16) -> Result<Descriptor, Errno> {
    let family = if address.is_ipv4() { INET } else { INET6 };
    let socket = Descriptor::socket(family, kind, 0)?;
    let on = 1i32.to_le_bytes();
    if family == INET6 {
        socket.set_option(VERSION_6_ALONE.0, VERSION_6_ALONE.1, &on)?;
    }
    socket.set_option(REUSE_ADDRESS.0, REUSE_ADDRESS.1, &on)?;
    socket.bind(&addresses::socket(address, port))?;
    if kind == STREAM {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// Starts a thread of the caller's process.
fn start_thread<T: Send + 'static>(name: &str, with: T, work: fn(T)) -> Result<(), Errno> {
    let lwp = KernelLwp::new()?;
    let main = move || {
        lwp.enter();
        work(with);
    };
    thread::spawn(name.into(), CpuSet::MAX, Box::new(main)).map(|_| ()).map_err(|_| ENOMEM)
}

/// Accepts connections for ever; `work` gets each, with the address of the other side.
fn for_each_connection(listener: &Descriptor, work: impl Fn(Descriptor, &[u8])) {
    let never = WaitList::new();
    let mut name = [0; ADDRESS];
    loop {
        match listener.accept_from(&mut name) {
            Ok((connection, length)) => work(connection, &name[..length]),
            Err(_) => _ = never.wait(rumpuser_clock_monotonic().saturating_add(PAUSE), || true),
        }
    }
}

/// Answers what comes on a connection until it ends.
fn converse(connection: Descriptor, name: &[u8], exports: &[Export]) -> Result<(), Errno> {
    let client = addresses::of_socket(name).ok_or(EIO)?;
    let stream = Stream::new(connection, PATIENCE)?;
    loop {
        let message = stream.receive()?;
        stream.send(&service::answer(&message, client, exports, own_address).ok_or(EIO)?)?;
    }
}

/// Answers what comes without a connection.
fn answer_datagrams(socket: &Descriptor, exports: &[Export]) {
    let mut message = vec![0; LONGEST];
    let mut name = [0; ADDRESS];
    let never = WaitList::new();
    loop {
        let Ok((length, named)) = socket.receive_from(&mut message, &mut name) else {
            never.wait(rumpuser_clock_monotonic().saturating_add(PAUSE), || true);
            continue;
        };
        let answer = addresses::of_socket(&name[..named])
            .and_then(|client| service::answer(&message[..length], client, exports, own_address));
        if let Some(answer) = answer {
            // A client that hears nothing asks again.
            let _ = socket.send_to(&answer, &name[..named]);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn structures_have_their_layout() {
        let offsets = [
            offset_of!(ExportArguments, anonymous),
            offset_of!(ExportArguments, address),
            offset_of!(ExportArguments, mask),
            offset_of!(ExportArguments, index),
        ];
        assert_eq!((offsets, size_of::<ExportArguments>()), ([8, 88, 104, 120], 128));
        assert_eq!(size_of::<SocketArguments>(), 24);
    }

    #[test]
    fn networks_are_cut_to_their_prefix() {
        let network = |address: &str, prefix| {
            let address = address.parse().unwrap();
            masked(address, addresses::mask(address, prefix)).to_string()
        };
        assert_eq!((network("10.1.2.3", 8), network("fd77::1", 16)), ("10.0.0.0".into(), "fd77::".into()));
        assert_eq!(network("10.1.2.3", 0), "0.0.0.0");
    }
}
