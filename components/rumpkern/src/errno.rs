//! Error numbers, with Linux's values (x86-64): what the interfaces between components return, as in
//! NetBSD's kernel.

/// A result with an [`Errno`].
pub type Result<T> = core::result::Result<T, Errno>;

macro_rules! error_numbers {
    ($($name:ident = $number:literal),* $(,)?) => {
        /// An error number, as errno(3) describes it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(i32)]
        #[allow(missing_docs, reason = "the names are POSIX's")]
        pub enum Errno {
            $($name = $number),*
        }

        impl Errno {
            /// The error that a number stands for.
            pub fn from_code(code: i32) -> Option<Self> {
                match code {
                    $($number => Some(Errno::$name),)*
                    _ => None,
                }
            }
        }
    };
}

error_numbers! {
    EPERM = 1,
    ENOENT = 2,
    ESRCH = 3,
    EINTR = 4,
    EIO = 5,
    ENXIO = 6,
    E2BIG = 7,
    ENOEXEC = 8,
    EBADF = 9,
    ECHILD = 10,
    EAGAIN = 11,
    ENOMEM = 12,
    EACCES = 13,
    EFAULT = 14,
    ENOTBLK = 15,
    EBUSY = 16,
    EEXIST = 17,
    EXDEV = 18,
    ENODEV = 19,
    ENOTDIR = 20,
    EISDIR = 21,
    EINVAL = 22,
    ENFILE = 23,
    EMFILE = 24,
    ENOTTY = 25,
    ETXTBSY = 26,
    EFBIG = 27,
    ENOSPC = 28,
    ESPIPE = 29,
    EROFS = 30,
    EMLINK = 31,
    EPIPE = 32,
    EDOM = 33,
    ERANGE = 34,
    EDEADLK = 35,
    ENAMETOOLONG = 36,
    ENOSYS = 38,
    ENOTEMPTY = 39,
    ELOOP = 40,
    EIDRM = 43,
    ENODATA = 61,
    ETIME = 62,
    ENONET = 64,
    EPROTO = 71,
    EBADMSG = 74,
    EOVERFLOW = 75,
    EILSEQ = 84,
    ENOTSOCK = 88,
    EDESTADDRREQ = 89,
    EMSGSIZE = 90,
    EPROTOTYPE = 91,
    ENOPROTOOPT = 92,
    EPROTONOSUPPORT = 93,
    ESOCKTNOSUPPORT = 94,
    EOPNOTSUPP = 95,
    EPFNOSUPPORT = 96,
    EAFNOSUPPORT = 97,
    EADDRINUSE = 98,
    EADDRNOTAVAIL = 99,
    ENETDOWN = 100,
    ENETUNREACH = 101,
    ENETRESET = 102,
    ECONNABORTED = 103,
    ECONNRESET = 104,
    ENOBUFS = 105,
    EISCONN = 106,
    ENOTCONN = 107,
    ESHUTDOWN = 108,
    ETOOMANYREFS = 109,
    ETIMEDOUT = 110,
    ECONNREFUSED = 111,
    EHOSTDOWN = 112,
    EHOSTUNREACH = 113,
    EALREADY = 114,
    EINPROGRESS = 115,
    ESTALE = 116,
    EDQUOT = 122,
    ECANCELED = 125,
    EOWNERDEAD = 130,
    ENOTRECOVERABLE = 131,
}

impl Errno {
    /// The number; a system call returns it negated.
    pub fn code(self) -> i32 {
        self as i32
    }
}

impl From<rumpuser::OutOfMemory> for Errno {
    fn from(_: rumpuser::OutOfMemory) -> Self {
        Errno::ENOMEM
    }
}

impl From<rumpuser::user::Fault> for Errno {
    fn from(_: rumpuser::user::Fault) -> Self {
        Errno::EFAULT
    }
}
