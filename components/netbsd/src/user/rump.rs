//! The rump kernel's public functions that the base of userspace calls (`rump/rump.h`, `rumpkern_if_pub.h`).

use core::{
    ffi::{c_char, c_int, c_ulong, c_void},
    ptr::null_mut,
};

use crate::{
    errno::{EAGAIN, Errno},
    weak::weak,
};

weak! {
    /// Makes a system call: its number, its arguments as 64-bit words, their bytes, and a place for two results. Returns
    /// an error number.
    fn rump_syscall(c_int, *mut c_void, usize, *mut i64) -> c_int;
    /// Starts the kernel.
    fn rump_init() -> c_int;
    /// What the kernel does with signals.
    fn rump_boot_setsigmodel(c_int);
    /// The calling thread's LWP of the kernel.
    fn rump_pub_lwproc_curlwp() -> *mut c_void;
    /// A new LWP in a process; it becomes the caller's.
    fn rump_pub_lwproc_newlwp(c_int) -> c_int;
    /// A new process; its LWP becomes the caller's.
    fn rump_pub_lwproc_rfork(c_int) -> c_int;
    /// Makes an LWP the caller's.
    fn rump_pub_lwproc_switch(*mut c_void);
    /// Gives up the caller's LWP.
    fn rump_pub_lwproc_releaselwp();
    /// Shows a file of the host in the kernel's file system.
    fn rump_pub_etfs_register(*const c_char, *const c_char, c_int) -> c_int;
    /// The mounted file system at a path.
    fn rump_pub_vfs_getmp(*const c_char, *mut *mut c_void) -> c_int;
    /// Writes what a mounted file system has in caches; with 1, waits for it.
    fn rump_pub_vfs_sync(*mut c_void, c_int, *mut c_void) -> c_int;
    /// Makes credentials: user, group, and further groups.
    fn rump_pub_cred_create(u32, u32, usize, *mut u32) -> *mut c_void;
    /// Gives credentials up.
    fn rump_pub_cred_put(*mut c_void);
    /// Shuts the kernel down.
    fn rump___sysimpl_reboot(c_int, *mut c_char) -> c_int;
    /// The number of the caller's process.
    fn rump___sysimpl_getpid() -> c_int;
    /// Reads a file at an offset.
    fn rump___sysimpl_pread(c_int, *mut c_void, usize, i64) -> isize;
    /// Makes a directory.
    fn rump___sysimpl_mkdir(*const c_char, c_int) -> c_int;
    /// Opens a file.
    fn rump___sysimpl_open(*const c_char, c_int, c_int) -> c_int;
    /// Writes to a file.
    fn rump___sysimpl_write(c_int, *const c_void, usize) -> isize;
    /// Closes a file.
    fn rump___sysimpl_close(c_int) -> c_int;
    /// Makes a symbolic link.
    fn rump___sysimpl_symlink(*const c_char, *const c_char) -> c_int;
    /// Changes the working directory.
    fn rump___sysimpl_chdir(*const c_char) -> c_int;
    /// Mounts a file system.
    fn rump___sysimpl_mount50(*const c_char, *const c_char, c_int, *mut c_void, usize) -> c_int;
    /// Serves NFS.
    fn rump___sysimpl_nfssvc(c_int, *mut c_void) -> c_int;
    /// The handle of a file, as NFS has it.
    fn rump___sysimpl_getfh30(*const c_char, *mut c_void, *mut usize) -> c_int;
    /// Ends a timer of the process.
    fn rump___sysimpl_timer_delete(c_int) -> c_int;
    /// Makes a descriptor the same as another.
    fn rump___sysimpl_dup2(c_int, c_int) -> c_int;
    /// Opens a socket.
    fn rump___sysimpl_socket30(c_int, c_int, c_int) -> c_int;
    /// Asks a descriptor something.
    fn rump___sysimpl_ioctl(c_int, c_ulong, *mut c_void) -> c_int;
    /// Reads.
    fn rump___sysimpl_read(c_int, *mut c_void, usize) -> isize;
    /// Gives a socket an address.
    fn rump___sysimpl_bind(c_int, *const c_void, u32) -> c_int;
    /// Connects a socket.
    fn rump___sysimpl_connect(c_int, *const c_void, u32) -> c_int;
    /// The address of a socket.
    fn rump___sysimpl_getsockname(c_int, *mut c_void, *mut u32) -> c_int;
    /// Sends to an address.
    fn rump___sysimpl_sendto(c_int, *const c_void, usize, c_int, *const c_void, u32) -> isize;
    /// Receives, and says from whom.
    fn rump___sysimpl_recvfrom(c_int, *mut c_void, usize, c_int, *mut c_void, *mut u32) -> isize;
    /// Lets others connect to a socket.
    fn rump___sysimpl_listen(c_int, c_int) -> c_int;
    /// Waits for a connection.
    fn rump___sysimpl_accept(c_int, *mut c_void, *mut u32) -> c_int;
    /// The address that a socket is connected to.
    fn rump___sysimpl_getpeername(c_int, *mut c_void, *mut u32) -> c_int;
    /// Ends a connection.
    fn rump___sysimpl_shutdown(c_int, c_int) -> c_int;
    /// Sets an option of a socket.
    fn rump___sysimpl_setsockopt(c_int, c_int, c_int, *const c_void, u32) -> c_int;
    /// Reads and sets parameters.
    fn rump___sysimpl___sysctl(*const c_int, u32, *mut c_void, *mut usize, *const c_void, usize) -> c_int;
    /// Makes a pipe.
    fn rump_sys_pipe(*mut c_int) -> c_int;
}

/// `RUMP_RFFDG`: a new process has copies of the descriptors.
pub const COPY_DESCRIPTORS: c_int = 1;

/// An LWP of the kernel's that no thread has yet; null without a kernel. It goes when it is dropped.
pub struct KernelLwp(*mut c_void);

// SAFETY: the kernel's structure, which any thread may take.
unsafe impl Send for KernelLwp {}

impl KernelLwp {
    /// A new one in the caller's process.
    pub fn new() -> Result<Self, Errno> {
        let (Some(current), Some(new), Some(switch)) =
            (rump_pub_lwproc_curlwp(), rump_pub_lwproc_newlwp(), rump_pub_lwproc_switch())
        else {
            return Ok(Self(null_mut()));
        };
        // SAFETY: functions of the kernel; the caller's LWP is its own again at the end.
        unsafe {
            let mine = current();
            if mine.is_null() {
                return Err(EAGAIN);
            }
            let error = new(super::process::getpid_of_caller());
            let made = current();
            switch(mine);
            if error == 0 { Ok(Self(made)) } else { Err(error) }
        }
    }

    /// A new one in a new process, with copies of the caller's descriptors. `prepare` runs as that process.
    pub fn in_new_process(prepare: impl FnOnce()) -> Result<Self, Errno> {
        let (Some(current), Some(fork), Some(switch)) =
            (rump_pub_lwproc_curlwp(), rump_pub_lwproc_rfork(), rump_pub_lwproc_switch())
        else {
            return Ok(Self(null_mut()));
        };
        // SAFETY: as above.
        unsafe {
            let mine = current();
            let error = fork(COPY_DESCRIPTORS);
            if error != 0 {
                return Err(error);
            }
            let made = current();
            prepare();
            switch(mine);
            Ok(Self(made))
        }
    }

    /// Makes it the calling thread's, in place of what the thread has.
    pub fn enter(self) {
        if let (false, Some(current), Some(release), Some(switch)) = (
            self.0.is_null(),
            rump_pub_lwproc_curlwp(),
            rump_pub_lwproc_releaselwp(),
            rump_pub_lwproc_switch(),
        ) {
            // SAFETY: the kernel's functions; the LWP runs nowhere.
            unsafe {
                if !current().is_null() {
                    release();
                }
                switch(self.0);
            }
        }
        core::mem::forget(self);
    }
}

impl Drop for KernelLwp {
    fn drop(&mut self) {
        let (false, Some(current), Some(release), Some(switch)) = (
            self.0.is_null(),
            rump_pub_lwproc_curlwp(),
            rump_pub_lwproc_releaselwp(),
            rump_pub_lwproc_switch(),
        ) else {
            return;
        };
        // SAFETY: functions of the kernel; the LWP runs nowhere, and the caller's is its own again at the end.
        unsafe {
            let mine = current();
            switch(self.0);
            release();
            switch(mine);
        }
    }
}
