//! NetBSD's error numbers (sys/errno.h) in Linux's.

use rumpkern::Errno;

/// NetBSD's EAGAIN.
pub const EAGAIN: i32 = 35;

/// Numbers from 35 on, where the two part; what Linux has no name for is the nearest it has.
const BEYOND: [Errno; 62] = {
    use Errno::*;
    [
        EAGAIN,
        EINPROGRESS,
        EALREADY,
        ENOTSOCK,
        EDESTADDRREQ,
        EMSGSIZE,
        EPROTOTYPE,
        ENOPROTOOPT,
        EPROTONOSUPPORT,
        ESOCKTNOSUPPORT,
        EOPNOTSUPP,
        EAFNOSUPPORT,
        EAFNOSUPPORT,
        EADDRINUSE,
        EADDRNOTAVAIL,
        ENETDOWN,
        ENETUNREACH,
        ENETRESET,
        ECONNABORTED,
        ECONNRESET,
        ENOBUFS,
        EISCONN,
        ENOTCONN,
        ESHUTDOWN,
        ETOOMANYREFS,
        ETIMEDOUT,
        ECONNREFUSED,
        ELOOP,
        ENAMETOOLONG,
        EHOSTDOWN,
        EHOSTUNREACH,
        ENOTEMPTY,
        EAGAIN,
        EAGAIN,
        EDQUOT,
        ESTALE,
        EIO,
        EIO,
        EIO,
        EIO,
        EIO,
        EIO,
        EIO,
        ENOSYS,
        EINVAL,
        EACCES,
        EACCES,
        EIDRM,
        ENODATA,
        EOVERFLOW,
        EILSEQ,
        EOPNOTSUPP,
        ECANCELED,
        EBADMSG,
        ENODATA,
        EIO,
        EIO,
        EIO,
        ENODATA,
        EIO,
        EIO,
        EPROTO,
    ]
};

/// The number in Linux's.
pub fn translate(error: i32) -> Errno {
    match error {
        11 => Errno::EDEADLK,
        // EPASSTHROUGH: nobody knows the ioctl.
        -4 => Errno::ENOTTY,
        1..35 => Errno::from_code(error).unwrap_or(Errno::EIO),
        _ => usize::try_from(error)
            .ok()
            .and_then(|error| BEYOND.get(error.checked_sub(35)?))
            .copied()
            .unwrap_or(Errno::EIO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_linux() {
        for (netbsd, linux) in [
            (2, Errno::ENOENT),
            (11, Errno::EDEADLK),
            (34, Errno::ERANGE),
            (35, Errno::EAGAIN),
            (36, Errno::EINPROGRESS),
            (48, Errno::EADDRINUSE),
            (54, Errno::ECONNRESET),
            (57, Errno::ENOTCONN),
            (61, Errno::ECONNREFUSED),
            (65, Errno::EHOSTUNREACH),
            (66, Errno::ENOTEMPTY),
            (70, Errno::ESTALE),
            (78, Errno::ENOSYS),
            (86, Errno::EOPNOTSUPP),
            (93, Errno::ENODATA),
            (96, Errno::EPROTO),
            (500, Errno::EIO),
            (-4, Errno::ENOTTY),
        ] {
            assert_eq!(translate(netbsd), linux, "{netbsd}");
        }
    }
}
