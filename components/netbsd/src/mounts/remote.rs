//! NFS mounts: what mount(2) wants to know of a server's directory (`sys/nfs/nfsmount.h`).

use alloc::{ffi::CString, string::String, vec::Vec};
use core::ffi::{c_char, c_int};

use image::config::{Mount, exported};

use crate::{kernel, network::addresses, nfs::client};

/// `NFS_ARGSVERSION`.
const VERSION: c_int = 3;
/// `SOCK_STREAM`.
const STREAM: c_int = 1;
/// `NFSMNT_WSIZE`, `NFSMNT_RSIZE`, `NFSMNT_NFSV3`, `NFSMNT_RESVPORT`.
const FLAGS: c_int = 0x2 | 0x4 | 0x200 | 0x8000;
/// Bytes of a transfer, unless the server wants less.
const TRANSFER: c_int = 32 << 10;

/// `struct nfs_args`.
#[repr(C)]
pub struct Arguments {
    version: c_int,
    address: *const u8,
    address_length: c_int,
    socket: c_int,
    protocol: c_int,
    handle: *const u8,
    handle_length: c_int,
    flags: c_int,
    write_size: c_int,
    read_size: c_int,
    /// Directory reads, time-outs, retries and the like, which the flags leave as the kernel has them.
    others: [c_int; 7],
    host: *const c_char,
}

/// What [`Arguments`] point to.
pub struct Remote {
    address: Vec<u8>,
    handle: Vec<u8>,
    host: CString,
}

impl Remote {
    /// Asks the server of a mount.
    pub fn find(mount: &Mount) -> Result<Self, String> {
        let (server, path) = exported(&mount.source)
            .ok_or("its source is no address of a server and a path: 10.0.0.1:/data")?;
        let host = kernel::path(&mount.source).map_err(|_| "its source has a zero in it")?;
        let found = client::find(server, path)?;
        Ok(Remote { address: addresses::socket(server, found.port), handle: found.handle, host })
    }

    /// For mount(2), while `self` is there.
    pub fn arguments(&self) -> Arguments {
        Arguments {
            version: VERSION,
            address: self.address.as_ptr(),
            address_length: self.address.len() as c_int,
            socket: STREAM,
            protocol: 0,
            handle: self.handle.as_ptr(),
            handle_length: self.handle.len() as c_int,
            flags: FLAGS,
            write_size: TRANSFER,
            read_size: TRANSFER,
            others: [0; 7],
            host: self.host.as_ptr(),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn the_structure_has_its_layout() {
        let offsets = [
            offset_of!(Arguments, address),
            offset_of!(Arguments, handle),
            offset_of!(Arguments, write_size),
            offset_of!(Arguments, host),
        ];
        assert_eq!((offsets, size_of::<Arguments>()), ([8, 32, 48, 88], 96));
    }
}
