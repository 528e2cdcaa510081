//! System calls of the rump kernel, for threads of Linux programs: each call borrows an LWP of the kernel's process in
//! which the files and sockets of all programs are.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, Ordering};

use netbsd::user::rump;
use rumpkern::{Errno, Result};
use rumpuser::{rumpuser_curlwp, rumpuser_set_curlwp, sync::SpinLock};

use crate::errno::translate;

/// Numbers of system calls (sys/syscall.h).
pub mod number {
    #![allow(missing_docs, reason = "the names are NetBSD's")]
    pub const CLOSE: i32 = 6;
    pub const UNMOUNT: i32 = 22;
    pub const RECVMSG: i32 = 27;
    pub const SENDMSG: i32 = 28;
    pub const RECVFROM: i32 = 29;
    pub const ACCEPT: i32 = 30;
    pub const GETPEERNAME: i32 = 31;
    pub const GETSOCKNAME: i32 = 32;
    pub const SYNC: i32 = 36;
    pub const IOCTL: i32 = 54;
    pub const UMASK: i32 = 60;
    pub const FSYNC: i32 = 95;
    pub const CONNECT: i32 = 98;
    pub const BIND: i32 = 104;
    pub const SETSOCKOPT: i32 = 105;
    pub const LISTEN: i32 = 106;
    pub const GETSOCKOPT: i32 = 118;
    pub const FCHOWN: i32 = 123;
    pub const FCHMOD: i32 = 124;
    pub const SENDTO: i32 = 133;
    pub const SHUTDOWN: i32 = 134;
    pub const MKDIR: i32 = 136;
    pub const PREAD: i32 = 173;
    pub const PWRITE: i32 = 174;
    pub const SETRLIMIT: i32 = 195;
    pub const LSEEK: i32 = 199;
    pub const FTRUNCATE: i32 = 201;
    pub const SYSCTL: i32 = 202;
    pub const POLL: i32 = 209;
    pub const KQUEUE: i32 = 344;
    pub const FSTATVFS1: i32 = 358;
    pub const GETDENTS: i32 = 390;
    pub const SOCKET: i32 = 394;
    pub const MOUNT: i32 = 410;
    pub const KEVENT: i32 = 435;
    pub const FSTAT: i32 = 440;
    pub const LINKAT: i32 = 457;
    pub const RENAMEAT: i32 = 458;
    pub const MKFIFOAT: i32 = 459;
    pub const MKNODAT: i32 = 460;
    pub const MKDIRAT: i32 = 461;
    pub const FCHMODAT: i32 = 463;
    pub const FCHOWNAT: i32 = 464;
    pub const FSTATAT: i32 = 466;
    pub const UTIMENSAT: i32 = 467;
    pub const OPENAT: i32 = 468;
    pub const READLINKAT: i32 = 469;
    pub const SYMLINKAT: i32 = 470;
    pub const UNLINKAT: i32 = 471;
    pub const FUTIMENS: i32 = 472;
}

/// Bytes that a call moves at most.
pub const BUFFER: usize = 64 << 10;

/// The process of the kernel, once it runs; 0 before.
static PROCESS: AtomicI32 = AtomicI32::new(0);
/// LWPs that nobody uses at the moment.
static IDLE: SpinLock<Vec<Lwp>> = SpinLock::new(Vec::new());

/// An LWP of the kernel, and memory through which data of programs passes: the kernel cannot take their page faults.
struct Lwp {
    pointer: *mut (),
    buffer: Vec<u8>,
}

// SAFETY: whoever has the structure uses the LWP; it is tied to no thread between calls.
unsafe impl Send for Lwp {}

/// Takes calls from now on, in the process with this number.
pub fn start(process: i32) {
    PROCESS.store(process, Ordering::Release);
}

/// A borrowed LWP.
pub struct Caller(Option<Lwp>);

impl Caller {
    /// Borrows an LWP. ENOMEM; ENETDOWN before the kernel runs.
    pub fn borrow() -> Result<Self> {
        let idle = IDLE.lock().pop();
        Ok(Caller(Some(match idle {
            Some(lwp) => lwp,
            None => create()?,
        })))
    }

    /// Makes a system call; returns its result.
    pub fn call(&mut self, number: i32, arguments: &mut [u64]) -> Result<i64> {
        let Some(lwp) = &self.0 else { return Err(Errno::EIO) };
        call_as(lwp.pointer, number, arguments)
    }

    /// Calls functions of the kernel as the LWP.
    pub fn run<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = rumpuser_curlwp();
        rumpuser_set_curlwp(self.0.as_ref().map_or(core::ptr::null_mut(), |lwp| lwp.pointer));
        let outcome = work();
        rumpuser_set_curlwp(before);
        outcome
    }

    /// The memory through which data passes: [`BUFFER`] bytes.
    pub fn buffer(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Some(lwp) => {
                if lwp.buffer.is_empty() {
                    lwp.buffer.resize(BUFFER, 0);
                }
                &mut lwp.buffer
            }
            None => &mut [],
        }
    }

    /// The start of the buffer, as an argument of a call.
    pub fn buffer_address(&mut self) -> u64 {
        self.buffer().as_mut_ptr() as u64
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        IDLE.lock().extend(self.0.take());
    }
}

/// A new LWP in the process.
#[cold]
fn create() -> Result<Lwp> {
    let process = PROCESS.load(Ordering::Acquire);
    let new = rump::rump_pub_lwproc_newlwp().filter(|_| process != 0).ok_or(Errno::ENETDOWN)?;
    let before = rumpuser_curlwp();
    rumpuser_set_curlwp(core::ptr::null_mut());
    // SAFETY: the kernel's function; it finds the thread without an LWP, and leaves it with the new one.
    let error = unsafe { new(process) };
    let pointer = rumpuser_curlwp();
    rumpuser_set_curlwp(before);
    if error != 0 || pointer.is_null() {
        return Err(Errno::ENOMEM);
    }
    Ok(Lwp { pointer, buffer: Vec::new() })
}

fn call_as(lwp: *mut (), number: i32, arguments: &mut [u64]) -> Result<i64> {
    let function = rump::rump_syscall().ok_or(Errno::ENOSYS)?;
    let mut results = [0i64; 2];
    let before = rumpuser_curlwp();
    rumpuser_set_curlwp(lwp);
    // SAFETY: the kernel's function; the arguments are words, as they are for every call, and point to kernel memory.
    let error = unsafe {
        function(number, arguments.as_mut_ptr().cast(), size_of_val(arguments), results.as_mut_ptr())
    };
    rumpuser_set_curlwp(before);
    if error == 0 { Ok(results[0]) } else { Err(translate(error)) }
}

/// Makes a single call.
pub fn call(number: i32, arguments: &mut [u64]) -> Result<i64> {
    Caller::borrow()?.call(number, arguments)
}

/// The address of memory of the caller's, as an argument.
pub fn address_of<T: ?Sized>(memory: &T) -> u64 {
    core::ptr::from_ref(memory).cast::<()>() as u64
}

/// As [`address_of`], of memory that the call writes to.
pub fn address_of_mut<T: ?Sized>(memory: &mut T) -> u64 {
    core::ptr::from_mut(memory).cast::<()>() as u64
}

/// A signed number as an argument.
pub fn int(value: i32) -> u64 {
    i64::from(value) as u64
}
