//! A tap of this process's own, for the links whose frames the harness carries itself.
#![allow(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]

use std::{fs::File, io};

use rustix::ioctl::{self, Setter};

/// The tun driver's device.
pub const DEVICE: &str = "/dev/net/tun";
/// `TUNSETIFF`, linux/if_tun.h.
const SET_INTERFACE: ioctl::Opcode = ioctl::opcode::write::<i32>(b'T', 202);
/// `IFF_TAP` and `IFF_NO_PI`, linux/if_tun.h: Ethernet frames, with nothing before them.
const FLAGS: u16 = 0x0002 | 0x1000;
/// `IFNAMSIZ`, linux/if.h.
const NAME_LENGTH: usize = 16;

/// `struct ifreq` (linux/if.h) with its flags.
#[repr(C)]
struct Request {
    name: [u8; NAME_LENGTH],
    flags: u16,
    rest: [u8; 22],
}

/// Makes a tap in the thread's network namespace; it is gone when the file is closed. Each read and write is a frame.
pub fn open(name: &str) -> io::Result<File> {
    if name.len() >= NAME_LENGTH {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let file = File::options().read(true).write(true).open(DEVICE)?;
    let mut request = Request { name: [0; NAME_LENGTH], flags: FLAGS, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads a `struct ifreq`, whose layout and size `Request` has, and keeps no pointer to it.
    unsafe { ioctl::ioctl(&file, Setter::<SET_INTERFACE, Request>::new(request)) }?;
    Ok(file)
}
