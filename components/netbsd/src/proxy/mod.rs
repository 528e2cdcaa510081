//! The system call proxy's side of the host (`rumpuser_sp_*`): clients of the network make system calls here, over the
//! kernel's own TCP.
//!
//! A client is whoever connects: the protocol knows no passwords, and a client may do what root may. What it sends is
//! never trusted: [`wire`] has the frames and their checks, [`session`] a connection, [`server`] what may be asked.

mod kernel;
mod server;
mod session;
mod socket;
#[cfg(test)]
mod tests;
mod wire;

use alloc::{boxed::Box, ffi::CString, format, string::String, sync::Arc};
use core::{
    ffi::{CStr, c_char, c_int, c_void},
    net::{Ipv4Addr, SocketAddrV4},
    ptr::null_mut,
};

use image::config::Configuration;
use rumpuser::{NEVER, rumpuser_clock_monotonic, sync::Mutex};

use self::{
    kernel::{Kernel, Rump},
    server::{Server, session, sessions},
    session::{FAREWELL, Session},
    socket::Listener,
};
use crate::{
    errno::{EADDRNOTAVAIL, EAGAIN, EFAULT, EINVAL, ENOMEM, ENOTCONN, ESRCH, Errno},
    host, upcall,
    user::interrupt,
    wait::WaitList,
    weak::weak,
};

weak! {
    /// Starts to offer system calls at an address.
    fn rump_init_server(*const c_char) -> c_int;
}

/// Names the address at which system calls are offered, in the image's environment (as rumprun has it).
const VARIABLE: &[u8] = b"RUMPRUN_SYSPROXY";
/// How long to wait before the next try, if connections can't be accepted: too many descriptors, too little memory.
const PAUSE: u64 = 100_000_000;

/// What was received makes no sense, or nothing was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Malformed;

/// Offers system calls to remote clients, if the image's environment says where.
pub fn start(configuration: &Configuration) {
    let variable = configuration.environment.iter().find(|(name, _)| name.as_slice() == VARIABLE);
    let Some(url) = variable.and_then(|(_, url)| CString::new(url.as_slice()).ok()) else { return };
    let shown = String::from_utf8_lossy(url.to_bytes());
    let message = match rump_init_server() {
        None => String::from("sysproxy: the image has no component rumpkern_sysproxy\n"),
        // SAFETY: the kernel's function, with a C string.
        Some(start) => match unsafe { start(url.as_ptr()) } {
            0 => format!("sysproxy listening at: {shown}\n"),
            EINVAL => format!("sysproxy: {shown}: not an address like tcp://0.0.0.0:12345/\n"),
            error => format!("sysproxy: cannot listen at {shown}: error {error}\n"),
        },
    };
    host::console(message.as_bytes());
}

/// The address in `tcp://ADDRESS:PORT/`. `0` and `*` stand for any of the kernel's addresses.
fn parse(url: &[u8]) -> Option<SocketAddrV4> {
    let rest = core::str::from_utf8(url).ok()?.strip_prefix("tcp://")?;
    let (address, port) = rest.strip_suffix('/').unwrap_or(rest).split_once(':')?;
    let address = if ["0", "*"].contains(&address) { Ipv4Addr::UNSPECIFIED } else { address.parse().ok()? };
    let port = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some(SocketAddrV4::new(address, port.parse().ok().filter(|&port| port != 0)?))
}

/// What the thread that listens says of its start.
struct Beginning {
    error: Mutex<Option<Errno>>,
    said: WaitList,
}

/// Listens for clients.
///
/// # Safety
/// All are C strings.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_sp_init(
    url: *const c_char,
    system: *const c_char,
    release: *const c_char,
    machine: *const c_char,
) -> Errno {
    // SAFETY: the caller's promise.
    let [url, system, release, machine] =
        [url, system, release, machine].map(|text| unsafe { CStr::from_ptr(text) }.to_bytes());
    let Some(address) = parse(url) else { return EINVAL };
    let text = |bytes| String::from_utf8_lossy(bytes);
    let name = format!("{}-{}/{}", text(system), text(release), text(machine));
    let server = Arc::new(Server::new(Arc::new(Rump), &name));
    let beginning = Arc::new(Beginning { error: Mutex::new(None), said: WaitList::new() });
    let listening = beginning.clone();
    let main = Box::new(move || listen(&server, address, &listening));
    if !Rump.spawn("sysproxy", main) {
        return EAGAIN;
    }
    loop {
        if let Some(error) = *beginning.error.lock() {
            return error;
        }
        beginning.said.wait(NEVER, || beginning.error.lock().is_none());
    }
}

/// Accepts connections for ever.
fn listen(server: &Arc<Server>, address: SocketAddrV4, beginning: &Beginning) {
    let listener = Listener::new(address);
    *beginning.error.lock() = Some(if listener.is_some() { 0 } else { EADDRNOTAVAIL });
    beginning.said.wake_all();
    let Some(listener) = listener else { return };
    let never = WaitList::new();
    loop {
        match listener.accept() {
            Some(stream) => server.accept(stream),
            None => _ = never.wait(rumpuser_clock_monotonic().saturating_add(PAUSE), || true),
        }
    }
}

/// Runs `work` with the client that the kernel means, without the virtual CPU.
fn with_client<R>(client: *mut c_void, work: impl FnOnce(&Session) -> R) -> Option<R> {
    let session = session(client as usize)?;
    Some(upcall::without_cpu(null_mut(), || work(&session)))
}

/// 0, or an error.
fn error_unless(good: Option<bool>, error: Errno) -> Errno {
    if good == Some(true) { 0 } else { error }
}

/// Reads a client's memory.
///
/// # Safety
/// `local` has `length` bytes.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_sp_copyin(
    client: *mut c_void,
    remote: *const c_void,
    local: *mut c_void,
    length: usize,
) -> Errno {
    // SAFETY: the caller's promise; the bytes are set, so that they may be looked at.
    let local = unsafe {
        core::ptr::write_bytes(local.cast::<u8>(), 0, length);
        core::slice::from_raw_parts_mut(local.cast::<u8>(), length)
    };
    error_unless(with_client(client, |session| session.copy_in(remote as usize, local)), EFAULT)
}

/// Reads a string of a client's; `length` is how much room there is, and becomes how much was read.
///
/// # Safety
/// `local` has `*length` bytes.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_sp_copyinstr(
    client: *mut c_void,
    remote: *const c_void,
    local: *mut c_void,
    length: *mut usize,
) -> Errno {
    // SAFETY: as above.
    let local = unsafe {
        core::ptr::write_bytes(local.cast::<u8>(), 0, *length);
        core::slice::from_raw_parts_mut(local.cast::<u8>(), *length)
    };
    match with_client(client, |session| session.copy_in_string(remote as usize, local)).flatten() {
        Some(read) => {
            // SAFETY: the caller's place.
            unsafe { *length = read };
            0
        }
        None => EFAULT,
    }
}

/// Writes a client's memory.
///
/// # Safety
/// `local` has `length` bytes.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_sp_copyout(
    client: *mut c_void,
    local: *const c_void,
    remote: *mut c_void,
    length: usize,
) -> Errno {
    // SAFETY: the caller's promise.
    let local = unsafe { core::slice::from_raw_parts(local.cast::<u8>(), length) };
    error_unless(with_client(client, |session| session.copy_out(remote as usize, local)), EFAULT)
}

/// Writes a string to a client's memory.
///
/// # Safety
/// `local` has `*length` bytes.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_sp_copyoutstr(
    client: *mut c_void,
    local: *const c_void,
    remote: *mut c_void,
    length: *mut usize,
) -> Errno {
    // SAFETY: the caller's promise.
    unsafe { rumpuser_sp_copyout(client, local, remote, *length) }
}

/// Maps memory in a client.
///
/// # Safety
/// `place` is one for an address.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_sp_anonmmap(
    client: *mut c_void,
    length: usize,
    place: *mut *mut c_void,
) -> Errno {
    match with_client(client, |session| session.map(length)) {
        Some(Some(address)) => {
            // SAFETY: the caller's promise.
            unsafe { *place = address as *mut c_void };
            0
        }
        Some(None) => ENOMEM,
        None => ESRCH,
    }
}

/// Raises a signal in a client.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_sp_raise(client: *mut c_void, signal: c_int) -> Errno {
    if interrupt::stays_in_kernel(signal) {
        return 0;
    }
    error_unless(with_client(client, |session| session.raise(signal)), ENOTCONN)
}

/// The kernel ends: a client that asked for it gets its answer, and the connections of all end.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_sp_fini(client: *mut c_void) {
    upcall::without_cpu(null_mut(), || {
        if let Some(session) = session(client as usize) {
            session.answer_call();
        }
        let sessions = sessions();
        sessions.iter().for_each(|session| session.close());
        let deadline = rumpuser_clock_monotonic().saturating_add(FAREWELL);
        sessions.iter().for_each(|session| session.wait_for_close(deadline));
    });
}
