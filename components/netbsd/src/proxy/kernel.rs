//! What the proxy needs of the kernel whose calls it offers: processes for its clients, and their system calls.

use alloc::{boxed::Box, ffi::CString, string::String};
use core::{
    ffi::{c_char, c_int, c_long, c_void},
    ptr::null,
};

use rumpuser::{CpuSet, rumpuser_curlwp, sync::Mutex};

use super::wire::ARGUMENTS;
use crate::{
    errno::{ENOSYS, Errno},
    thread,
    upcall::{proxy, with_cpu},
};

/// An LWP of the kernel, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lwp(pub usize);

/// What a thread of the proxy runs.
pub type Work = Box<dyn FnOnce() + Send>;

/// The kernel. An LWP that is named here runs nowhere, and is used by one thread at a time.
pub trait Kernel: Send + Sync {
    /// Starts a thread in which everything here works; returns whether it did.
    fn spawn(&self, name: &str, work: Work) -> bool;
    /// A process for a new client: its LWP and its number.
    fn new_process(&self, session: usize, name: CString) -> Result<(Lwp, c_int), Errno>;
    /// A copy of a client's process, for one that it forks.
    fn copy_process(&self, session: usize, of: Lwp) -> Result<Lwp, Errno>;
    /// The process for a forked client, in place of the copy that was made for it.
    fn adopt_process(&self, session: usize, copy: Lwp) -> Result<(Lwp, c_int), Errno>;
    /// Gives an LWP up; its process ends with its last one.
    fn release(&self, lwp: Lwp);
    /// Tells all other LWPs of a process to end what they wait for; there won't be new ones. One that begins meanwhile
    /// would not be told.
    fn end_others(&self, lwp: Lwp);
    /// The process runs another program from now on. Its other LWPs have ended.
    fn executed(&self, lwp: Lwp, name: CString);
    /// Makes a system call in a process, with an LWP of its own, which begins under `gate`.
    fn system_call(
        &self,
        process: c_int,
        gate: &Mutex<()>,
        number: u32,
        arguments: [u64; ARGUMENTS],
    ) -> (Errno, [i64; 2]);
}

/// Descriptors of a new process: the parent's shared, copied, or none (`RUMP_RFFD_*`).
const SHARE: c_int = 0;
const COPY: c_int = 1;
const CLEAR: c_int = 2;
/// The process whose threads the proxy's are: init, whose copies new processes are.
const INIT: c_int = 1;

/// The rump kernel of this image.
#[derive(Debug)]
pub struct Rump;

/// The calling thread's LWP.
fn own() -> *mut c_void {
    rumpuser_curlwp().cast()
}

impl Lwp {
    fn pointer(self) -> *mut c_void {
        self.0 as *mut c_void
    }
}

/// Makes a process, whose LWP becomes the caller's; goes back to `own`. With a virtual CPU.
fn fork(own: *mut c_void, session: usize, flags: c_int, name: *const c_char) -> Result<(Lwp, c_int), Errno> {
    let error = proxy::fork(session as *mut c_void, flags, name);
    let made = (Lwp(rumpuser_curlwp() as usize), proxy::process());
    proxy::switch(own);
    if error == 0 { Ok(made) } else { Err(error) }
}

/// Runs `work` as an LWP, with a virtual CPU, and goes back to the thread's own.
fn as_lwp<R>(lwp: Lwp, work: impl FnOnce() -> R) -> R {
    let own = own();
    with_cpu(|| {
        proxy::switch(lwp.pointer());
        let result = work();
        proxy::switch(own);
        result
    })
}

impl Kernel for Rump {
    fn spawn(&self, name: &str, work: Work) -> bool {
        let main = Box::new(move || {
            if with_cpu(|| proxy::new_lwp(INIT)) == 0 {
                work();
                with_cpu(proxy::release);
            }
        });
        thread::spawn(String::from(name), CpuSet::MAX, main).is_ok()
    }

    fn new_process(&self, session: usize, name: CString) -> Result<(Lwp, c_int), Errno> {
        let own = own();
        with_cpu(|| fork(own, session, CLEAR, name.as_ptr()))
    }

    fn copy_process(&self, session: usize, of: Lwp) -> Result<Lwp, Errno> {
        let made = as_lwp(of, || fork(of.pointer(), session, COPY, null()));
        made.map(|(lwp, _)| lwp)
    }

    fn adopt_process(&self, session: usize, copy: Lwp) -> Result<(Lwp, c_int), Errno> {
        let made = as_lwp(copy, || fork(copy.pointer(), session, SHARE, null()));
        self.release(copy);
        made
    }

    fn release(&self, lwp: Lwp) {
        as_lwp(lwp, proxy::release);
    }

    fn end_others(&self, lwp: Lwp) {
        as_lwp(lwp, proxy::end_others);
    }

    fn executed(&self, lwp: Lwp, name: CString) {
        as_lwp(lwp, || proxy::executed(name.as_ptr()));
    }

    fn system_call(
        &self,
        process: c_int,
        gate: &Mutex<()>,
        number: u32,
        mut arguments: [u64; ARGUMENTS],
    ) -> (Errno, [i64; 2]) {
        // The kernel compares signed numbers.
        let Ok(number) = c_int::try_from(number) else { return (ENOSYS, [-1, 0]) };
        let own = own();
        // Nobody waits for the gate with a virtual CPU: who has it may wait for all of them.
        let begun = gate.lock();
        let error = with_cpu(|| proxy::new_lwp(process));
        drop(begun);
        if error != 0 {
            return (error, [-1, 0]);
        }
        with_cpu(|| {
            let mut values: [c_long; 2] = [0; 2];
            let error = proxy::system_call(number, arguments.as_mut_ptr().cast(), &mut values);
            proxy::release();
            proxy::switch(own);
            (error, values)
        })
    }
}
