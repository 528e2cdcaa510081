//! The system call proxy's side of the host (`rumpuser_sp_*`): there is no transport for remote clients here.

use core::ffi::{c_char, c_int, c_void};

use crate::errno::{ENOSYS, Errno};

macro_rules! absent {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ty),*);)*) => { $(
        $(#[$attribute])*
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub extern "C" fn $name($(_: $argument),*) -> Errno {
            ENOSYS
        }
    )* };
}

absent! {
    /// Would listen for clients.
    fn rumpuser_sp_init(*const c_char, *const c_char, *const c_char, *const c_char);
    /// Would read a client's memory.
    fn rumpuser_sp_copyin(*mut c_void, *const c_void, *mut c_void, usize);
    /// Would read a string of a client's.
    fn rumpuser_sp_copyinstr(*mut c_void, *const c_void, *mut c_void, *mut usize);
    /// Would write a client's memory.
    fn rumpuser_sp_copyout(*mut c_void, *const c_void, *mut c_void, usize);
    /// Would write a string to a client's memory.
    fn rumpuser_sp_copyoutstr(*mut c_void, *const c_void, *mut c_void, *mut usize);
    /// Would map memory in a client.
    fn rumpuser_sp_anonmmap(*mut c_void, usize, *mut *mut c_void);
    /// Would raise a signal in a client.
    fn rumpuser_sp_raise(*mut c_void, c_int);
}

/// Would end a client's connection.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_sp_fini(_client: *mut c_void) {}
