//! Copies between programs and the kernel: a bad pointer fails the call (EFAULT), as it would with two address spaces.

use core::ffi::{c_char, c_int, c_void};

use rumpuser::rumpuser_copy_guarded;

use super::lwp::current;
use crate::{
    errno::{EFAULT, ENAMETOOLONG, ENOSYS, Errno},
    weak::weak,
};

weak! {
    /// The kernel's, which knows of remote clients.
    fn __real_rumpns_copyin(*const c_void, *mut c_void, usize) -> c_int;
    /// As above.
    fn __real_rumpns_copyout(*const c_void, *mut c_void, usize) -> c_int;
    /// As above; what `uiomove` comes to.
    fn __real_rumpns_kcopy(*const c_void, *mut c_void, usize) -> c_int;
    /// As above.
    fn __real_rumpns_copyinstr(*const c_char, *mut c_char, usize, *mut usize) -> c_int;
    /// As above.
    fn __real_rumpns_copyoutstr(*const c_char, *mut c_char, usize, *mut usize) -> c_int;
}

fn copy(source: usize, destination: usize, length: usize) -> Errno {
    if rumpuser_copy_guarded(source, destination, length) == 0 { 0 } else { EFAULT }
}

/// Copies a string with its end.
fn copy_string(source: usize, destination: usize, room: usize, done: *mut usize) -> Errno {
    let mut copied = 0;
    while copied < room {
        // Not over the end of a page, behind which there may be none.
        let piece = (64 - source.wrapping_add(copied) % 64).min(room - copied);
        let mut bytes = [0u8; 64];
        let place = bytes.as_mut_ptr() as usize;
        if copy(source.wrapping_add(copied), place, piece) != 0 {
            return EFAULT;
        }
        let end = bytes[..piece].iter().position(|&byte| byte == 0);
        let length = end.map_or(piece, |end| end + 1);
        if copy(place, destination.wrapping_add(copied), length) != 0 {
            return EFAULT;
        }
        copied += length;
        if end.is_some() {
            if !done.is_null() {
                // SAFETY: the kernel's own place.
                unsafe { *done = copied };
            }
            return 0;
        }
    }
    if room == 0 { 0 } else { ENAMETOOLONG }
}

/// Defines functions that stand before the kernel's: for threads of programs, the copy that may fail.
macro_rules! before {
    ($($wrap:ident $real:ident ($($name:ident: $kind:ty),*) $own:expr;)*) => { $(
        /// # Safety
        /// As the kernel's function, but for the program's address, which may be bad.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $wrap($($name: $kind),*) -> c_int {
            if current().is_some() {
                return $own;
            }
            // SAFETY: the caller's promise.
            $real().map_or(ENOSYS, |function| unsafe { function($($name),*) })
        }
    )* };
}

before! {
    __wrap_rumpns_copyin __real_rumpns_copyin(from: *const c_void, to: *mut c_void, length: usize)
        copy(from as usize, to as usize, length);
    __wrap_rumpns_copyout __real_rumpns_copyout(from: *const c_void, to: *mut c_void, length: usize)
        copy(from as usize, to as usize, length);
    __wrap_rumpns_kcopy __real_rumpns_kcopy(from: *const c_void, to: *mut c_void, length: usize)
        copy(from as usize, to as usize, length);
    __wrap_rumpns_copyinstr __real_rumpns_copyinstr(from: *const c_char, to: *mut c_char, length: usize, done: *mut usize)
        copy_string(from as usize, to as usize, length, done);
    __wrap_rumpns_copyoutstr __real_rumpns_copyoutstr(from: *const c_char, to: *mut c_char, length: usize, done: *mut usize)
        copy_string(from as usize, to as usize, length, done);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_copied_as_far_as_there_is_room() {
        let text = [b'x'; 200];
        let mut source = text.to_vec();
        source[150] = 0;
        let mut target = [1u8; 200];
        let mut done = 0;
        let (from, to) = (source.as_ptr() as usize, target.as_mut_ptr() as usize);
        assert_eq!((copy_string(from, to, 200, &mut done), done), (0, 151));
        assert_eq!((&target[..151], target[151]), (&source[..151], 1));
        assert_eq!(copy_string(from, to, 150, &mut done), ENAMETOOLONG);
        assert_eq!(copy_string(from + 150, to, 1, &mut done), 0);
        assert_eq!((done, target[0]), (1, 0));
    }
}
