//! Descriptors and parameters of the rump kernel, as the image's configuration needs them. Errors are NetBSD's numbers.

use alloc::{ffi::CString, string::String, vec, vec::Vec};
use core::{
    ffi::{CStr, c_int, c_ulong},
    ptr::null_mut,
};

use crate::{
    errno::{ECONNREFUSED, EHOSTUNREACH, EINVAL, ENOENT, ENOSYS, ETIMEDOUT, Errno},
    thread,
    user::rump::{
        rump___sysimpl___sysctl, rump___sysimpl_accept, rump___sysimpl_bind, rump___sysimpl_close,
        rump___sysimpl_connect, rump___sysimpl_getpeername, rump___sysimpl_getsockname, rump___sysimpl_ioctl,
        rump___sysimpl_listen, rump___sysimpl_open, rump___sysimpl_pread, rump___sysimpl_read,
        rump___sysimpl_recvfrom, rump___sysimpl_sendto, rump___sysimpl_setsockopt, rump___sysimpl_shutdown,
        rump___sysimpl_socket30, rump___sysimpl_write, rump_pub_lwproc_releaselwp, rump_pub_lwproc_rfork,
    },
};

/// `O_RDWR`, `O_WRONLY | O_CREAT | O_TRUNC`.
pub const READ_WRITE: c_int = 2;
/// See [`READ_WRITE`].
pub const WRITE_ANEW: c_int = 0x1 | 0x200 | 0x400;
/// `SHUT_RDWR`.
const BOTH_WAYS: c_int = 2;
/// `RUMP_RFCFDG`: a new process has no descriptors.
const NO_DESCRIPTORS: c_int = 2;
/// Levels of names of parameters.
const LEVELS: usize = 12;
/// `CTL_QUERY`: asks for what is below a name.
const QUERY: c_int = -2;
/// Bytes of `struct sysctlnode`, of a name in it, and where the name, the number, and the flags are.
const NODE: usize = 96;
const NODE_NAME: core::ops::Range<usize> = 8..40;
const NODE_NUMBER: usize = 4;
/// `SYSCTL_VERS_1`, `SYSCTL_TYPEMASK`, and types.
const NODE_VERSION: u32 = 0x0100_0000;
const TYPE_MASK: u32 = 0xf;
const TYPE_INT: u32 = 2;
const TYPE_STRING: u32 = 3;
const TYPE_QUAD: u32 = 4;
const TYPE_BOOL: u32 = 6;

/// What the last call said.
fn last_error() -> Errno {
    // SAFETY: the thread's own block.
    unsafe { (*thread::control_block()).errno }
}

pub(crate) fn checked(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| last_error())
}

/// Gives the calling thread a process of the kernel of its own.
pub fn become_process() {
    if let Some(fork) = rump_pub_lwproc_rfork() {
        // SAFETY: the kernel's function.
        unsafe { fork(NO_DESCRIPTORS) };
    }
}

/// Gives up what [`become_process`] gave, before the thread ends.
pub fn leave_process() {
    if let Some(release) = rump_pub_lwproc_releaselwp() {
        // SAFETY: the kernel's function.
        unsafe { release() };
    }
}

/// A descriptor; closed when dropped.
pub struct Descriptor(c_int);

impl Descriptor {
    /// Makes a socket.
    pub fn socket(family: u8, kind: c_int, protocol: c_int) -> Result<Self, Errno> {
        let socket = rump___sysimpl_socket30().ok_or(ENOSYS)?;
        // SAFETY: the kernel's function.
        checked(unsafe { socket(family.into(), kind, protocol) } as isize)
            .map(|number| Descriptor(number as c_int))
    }

    /// Opens a file.
    pub fn open(path: &CStr, flags: c_int) -> Result<Self, Errno> {
        let open = rump___sysimpl_open().ok_or(ENOSYS)?;
        // SAFETY: the kernel's function.
        checked(unsafe { open(path.as_ptr(), flags, 0o644) } as isize)
            .map(|number| Descriptor(number as c_int))
    }

    /// Asks with a structure as wide as the request's number says.
    pub fn ask(&self, request: c_ulong, argument: &mut [u8]) -> Result<(), Errno> {
        assert!(argument.len() >= (request >> 16 & 0x1fff) as usize, "a request has its structure");
        let ask = rump___sysimpl_ioctl().ok_or(ENOSYS)?;
        // SAFETY: the kernel's function, with a structure of the size that it copies.
        checked(unsafe { ask(self.0, request, argument.as_mut_ptr().cast()) } as isize).map(|_| ())
    }

    /// Writes; returns how many bytes.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let write = rump___sysimpl_write().ok_or(ENOSYS)?;
        // SAFETY: the kernel's function.
        checked(unsafe { write(self.0, bytes.as_ptr().cast(), bytes.len()) })
    }

    /// Reads; returns how many bytes.
    pub fn read(&self, bytes: &mut [u8]) -> Result<usize, Errno> {
        let read = rump___sysimpl_read().ok_or(ENOSYS)?;
        // SAFETY: the kernel's function.
        checked(unsafe { read(self.0, bytes.as_mut_ptr().cast(), bytes.len()) })
            .map(|count| count.min(bytes.len()))
    }

    /// Reads at an offset; returns how many bytes.
    pub fn read_at(&self, offset: i64, bytes: &mut [u8]) -> Result<usize, Errno> {
        let read = rump___sysimpl_pread().ok_or(ENOSYS)?;
        // SAFETY: the kernel's function.
        checked(unsafe { read(self.0, bytes.as_mut_ptr().cast(), bytes.len(), offset) })
            .map(|count| count.min(bytes.len()))
    }

    /// Gives a socket an address.
    pub fn bind(&self, address: &[u8]) -> Result<(), Errno> {
        let bind = rump___sysimpl_bind().ok_or(ENOSYS)?;
        // SAFETY: the kernel's function.
        checked(unsafe { bind(self.0, address.as_ptr().cast(), address.len() as u32) } as isize).map(|_| ())
    }

    /// Connects a socket.
    pub fn connect(&self, address: &[u8]) -> Result<(), Errno> {
        let connect = rump___sysimpl_connect().ok_or(ENOSYS)?;
        // SAFETY: the kernel's function.
        checked(unsafe { connect(self.0, address.as_ptr().cast(), address.len() as u32) } as isize)
            .map(|_| ())
    }

    /// The address of a socket goes to `place`; returns its length.
    pub fn address(&self, place: &mut [u8]) -> Result<usize, Errno> {
        let get = rump___sysimpl_getsockname().ok_or(ENOSYS)?;
        let mut length = place.len() as u32;
        // SAFETY: the kernel's function, with a place of the length that it gets.
        checked(unsafe { get(self.0, place.as_mut_ptr().cast(), &mut length) } as isize)
            .map(|_| place.len().min(length as usize))
    }

    /// Lets others connect; `backlog` connections wait to be accepted.
    pub fn listen(&self, backlog: c_int) -> Result<(), Errno> {
        let listen = rump___sysimpl_listen().ok_or(ENOSYS)?;
        // SAFETY: the kernel's function.
        checked(unsafe { listen(self.0, backlog) } as isize).map(|_| ())
    }

    /// Waits for a connection; its address goes to `from`, of which the length is returned.
    pub fn accept_from(&self, from: &mut [u8]) -> Result<(Self, usize), Errno> {
        let accept = rump___sysimpl_accept().ok_or(ENOSYS)?;
        let mut length = from.len() as u32;
        // SAFETY: the kernel's function, with a place of the length that it gets.
        checked(unsafe { accept(self.0, from.as_mut_ptr().cast(), &mut length) } as isize)
            .map(|number| (Descriptor(number as c_int), from.len().min(length as usize)))
    }

    /// Receives; the sender's address goes to `from`. Returns both lengths.
    pub fn receive_from(&self, bytes: &mut [u8], from: &mut [u8]) -> Result<(usize, usize), Errno> {
        let receive = rump___sysimpl_recvfrom().ok_or(ENOSYS)?;
        let mut length = from.len() as u32;
        let place = bytes.as_mut_ptr().cast();
        // SAFETY: the kernel's function, with places of the lengths that it gets.
        checked(unsafe { receive(self.0, place, bytes.len(), 0, from.as_mut_ptr().cast(), &mut length) })
            .map(|count| (count.min(bytes.len()), from.len().min(length as usize)))
    }

    /// Its number.
    pub fn number(&self) -> c_int {
        self.0
    }

    /// Waits for a connection; from whom doesn't matter.
    pub fn accept(&self) -> Result<Self, Errno> {
        self.accept_from(&mut []).map(|(descriptor, _)| descriptor)
    }

    /// Ends a connection, both ways.
    pub fn shut_down(&self) -> Result<(), Errno> {
        let shut_down = rump___sysimpl_shutdown().ok_or(ENOSYS)?;
        // SAFETY: the kernel's function.
        checked(unsafe { shut_down(self.0, BOTH_WAYS) } as isize).map(|_| ())
    }

    /// Whether a socket is connected, or its connection's end is not acknowledged yet.
    pub fn has_peer(&self) -> bool {
        let Some(name) = rump___sysimpl_getpeername() else { return false };
        let (mut address, mut length) = ([0u8; 128], 128);
        // SAFETY: the kernel's function, with a place of the length that it gets.
        unsafe { name(self.0, address.as_mut_ptr().cast(), &mut length) == 0 }
    }

    /// Sends to an address.
    pub fn send_to(&self, bytes: &[u8], address: &[u8]) -> Result<usize, Errno> {
        let send = rump___sysimpl_sendto().ok_or(ENOSYS)?;
        // SAFETY: the kernel's function.
        checked(unsafe {
            send(self.0, bytes.as_ptr().cast(), bytes.len(), 0, address.as_ptr().cast(), address.len() as u32)
        })
    }

    /// Receives; from whom doesn't matter.
    pub fn receive(&self, bytes: &mut [u8]) -> Result<usize, Errno> {
        let receive = rump___sysimpl_recvfrom().ok_or(ENOSYS)?;
        // SAFETY: the kernel's function.
        checked(unsafe { receive(self.0, bytes.as_mut_ptr().cast(), bytes.len(), 0, null_mut(), null_mut()) })
            .map(|count| count.min(bytes.len()))
    }

    /// Sets an option of a socket.
    pub fn set_option(&self, level: c_int, name: c_int, value: &[u8]) -> Result<(), Errno> {
        let set = rump___sysimpl_setsockopt().ok_or(ENOSYS)?;
        // SAFETY: the kernel's function.
        checked(unsafe { set(self.0, level, name, value.as_ptr().cast(), value.len() as u32) } as isize)
            .map(|_| ())
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if let Some(close) = rump___sysimpl_close() {
            // SAFETY: the kernel's function, with a descriptor of our own.
            unsafe { close(self.0) };
        }
    }
}

/// A path as C wants it.
pub fn path(path: &[u8]) -> Result<CString, Errno> {
    CString::new(path).map_err(|_| EINVAL)
}

/// What a file has, up to `limit` bytes.
pub fn contents(path: &CStr, limit: usize) -> Result<Vec<u8>, Errno> {
    let file = Descriptor::open(path, 0)?;
    let mut bytes = vec![0; limit];
    let length = file.read(&mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

/// sysctl(3) with numbers: reads into `old`, sets to `new`; returns how many bytes there are.
fn control(name: &[c_int], old: Option<&mut [u8]>, new: &[u8]) -> Result<usize, Errno> {
    let control = rump___sysimpl___sysctl().ok_or(ENOSYS)?;
    let mut length = old.as_ref().map_or(0, |old| old.len());
    let old = old.map_or(null_mut(), <[u8]>::as_mut_ptr);
    let source = if new.is_empty() { core::ptr::null() } else { new.as_ptr() };
    // SAFETY: the kernel's function, with places of the lengths that it gets.
    let result = unsafe {
        control(name.as_ptr(), name.len() as u32, old.cast(), &mut length, source.cast(), new.len())
    };
    checked(result as isize).map(|_| length)
}

/// The number and flags of what has a name below others.
fn below(parents: &[c_int], name: &str) -> Result<(c_int, u32), Errno> {
    let query = [parents, &[QUERY]].concat();
    let mut question = [0; NODE];
    question[..4].copy_from_slice(&NODE_VERSION.to_le_bytes());
    let size = control(&query, None, &question)?;
    // Some more may come meanwhile.
    let mut nodes = vec![0; size + 8 * NODE];
    let size = control(&query, Some(&mut nodes), &question)?;
    let word = |node: &[u8], at: usize| {
        node.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    };
    nodes[..size.min(nodes.len())]
        .chunks_exact(NODE)
        .find(|node| {
            let field = &node[NODE_NAME];
            field.split(|&byte| byte == 0).next() == Some(name.as_bytes())
        })
        .map(|node| (word(node, NODE_NUMBER) as c_int, word(node, 0)))
        .ok_or(ENOENT)
}

/// Sets a parameter (sysctl(7)) by its name: `EINVAL` if the value isn't of its type, `ENOENT` if there is none.
pub fn set_parameter(name: &str, value: &str) -> Result<(), Errno> {
    let mut numbers = Vec::new();
    let mut flags = 0;
    for part in name.split('.') {
        if numbers.len() >= LEVELS {
            return Err(ENOENT);
        }
        let (number, found) = below(&numbers, part)?;
        numbers.push(number);
        flags = found;
    }
    let number = || value.parse::<i64>().map_err(|_| EINVAL);
    let bytes: Vec<u8> = match flags & TYPE_MASK {
        TYPE_INT => i32::try_from(number()?).map_err(|_| EINVAL)?.to_le_bytes().into(),
        TYPE_QUAD => number()?.to_le_bytes().into(),
        TYPE_BOOL => match value {
            "0" | "false" => [0].into(),
            "1" | "true" => [1].into(),
            _ => return Err(EINVAL),
        },
        TYPE_STRING => [value.as_bytes(), &[0]].concat(),
        _ => return Err(EINVAL),
    };
    control(&numbers, None, &bytes).map(|_| ())
}

/// An error as people read it.
pub fn explain(error: Errno) -> String {
    match error {
        ENOENT => "no such file or device".into(),
        ENOSYS => "the component that it needs is not in the image".into(),
        EINVAL => "not valid there".into(),
        ETIMEDOUT => "no answer".into(),
        ECONNREFUSED => "nobody listens there".into(),
        EHOSTUNREACH => "there is no way to it".into(),
        number => alloc::format!("error {number}"),
    }
}
