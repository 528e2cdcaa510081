//! NetBSD's error numbers (`sys/errno.h`), as far as they are given out here.

/// A C `int` of a hypercall: 0 or an error number.
pub type Errno = i32;

macro_rules! numbers {
    ($($(#[$attribute:meta])* $name:ident = $number:literal;)*) => {
        $($(#[$attribute])* #[allow(missing_docs, reason = "the names are the field's")] pub const $name: Errno = $number;)*
    };
}

numbers! {
    /// A system call is to be made again; the kernel's own number.
    ERESTART = -3;
    EPERM = 1;
    ENOENT = 2;
    ESRCH = 3;
    EINTR = 4;
    EIO = 5;
    ENXIO = 6;
    EBADF = 9;
    ECHILD = 10;
    ENOMEM = 12;
    EFAULT = 14;
    EBUSY = 16;
    ENODEV = 19;
    EINVAL = 22;
    EROFS = 30;
    EAGAIN = 35;
    EADDRNOTAVAIL = 49;
    ENOTCONN = 57;
    ETIMEDOUT = 60;
    ECONNREFUSED = 61;
    ENAMETOOLONG = 63;
    EHOSTUNREACH = 65;
    ENOSYS = 78;
    ENOTSUP = 86;
}
