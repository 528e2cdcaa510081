//! How a traced call is written: arguments by their kinds, the result or the error's name, how long it took.

use alloc::{format, string::String};
use core::fmt;

use image::system_calls::{self, Kind, SystemCall};
use rumpkern::Result;

use crate::user::{UserPtr, read_bytes, read_path};

/// Bytes of a buffer that are shown.
const SHOWN: usize = 32;
/// Bytes of a path that are shown.
const PATH_SHOWN: usize = 256;
/// Elements of an array of strings that are shown.
const STRINGS_SHOWN: usize = 16;
/// Arguments of a call.
const MOST: usize = 6;
/// Results from here on are addresses.
const ADDRESSES: usize = 1 << 32;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const AT_FDCWD: i32 = -100;

/// A call and what is known of its arguments.
pub struct Call<'a> {
    call: Option<SystemCall>,
    number: u64,
    raw: &'a [u64; MOST],
    texts: [Option<String>; MOST],
}

impl<'a> Call<'a> {
    /// A call, nothing of memory read.
    pub fn new(number: u64, raw: &'a [u64; MOST]) -> Self {
        Call { call: system_calls::find(number), number, raw, texts: Default::default() }
    }

    fn kinds(&self) -> impl Iterator<Item = (usize, Kind)> + use<> {
        self.call.into_iter().flat_map(|call| call.arguments()).take(MOST).enumerate()
    }

    /// Reads what the program hands over.
    pub fn read_inputs(&mut self) {
        for (index, kind) in self.kinds() {
            let address = self.raw[index] as usize;
            let next = self.raw.get(index + 1).copied().unwrap_or(0) as usize;
            self.texts[index] = match kind {
                _ if address == 0 => None,
                Kind::Path => read_path(address).ok().map(|path| quoted(&path, PATH_SHOWN, path.len())),
                Kind::Strings => strings(address),
                Kind::Input => bytes(address, next),
                Kind::SocketAddress => socket_address(address, next),
                Kind::Time => time(address),
                _ => None,
            };
        }
    }

    /// Reads what the program was given.
    pub fn read_outputs(&mut self, result: &Result<usize>) {
        let Ok(value) = *result else { return };
        for (index, kind) in self.kinds() {
            let address = self.raw[index] as usize;
            let next = self.raw.get(index + 1).copied().unwrap_or(0) as usize;
            match kind {
                _ if address == 0 => {}
                Kind::Output => self.texts[index] = bytes(address, value),
                Kind::SocketAddressOut => {
                    let length = UserPtr::<i32>::new(next).read().unwrap_or(0);
                    self.texts[index] = socket_address(address, usize::try_from(length).unwrap_or(0));
                }
                _ => {}
            }
        }
    }

    /// Adds the rest of the line, newline included; without a result the call does not return.
    pub fn write_line(&self, line: &mut String, result: Option<&Result<usize>>, took: u64) {
        use fmt::Write;
        let micros = took / 1000;
        // Writing to a string cannot fail.
        let _ = match result {
            None => writeln!(line, "{self} = ?"),
            Some(Err(error)) => writeln!(line, "{self} = -1 {error:?} <{}>", Micros(micros)),
            Some(Ok(value)) if *value >= ADDRESSES => {
                writeln!(line, "{self} = {value:#x} <{}>", Micros(micros))
            }
            Some(Ok(value)) => writeln!(line, "{self} = {value} <{}>", Micros(micros)),
        };
    }
}

struct Micros(u64);

impl fmt::Display for Micros {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(call) = self.call else {
            write!(out, "call_{}(", self.number)?;
            for (index, raw) in self.raw.iter().enumerate() {
                write!(out, "{}{raw:#x}", if index > 0 { ", " } else { "" })?;
            }
            return out.write_str(")");
        };
        write!(out, "{}(", call.name)?;
        for (index, kind) in self.kinds() {
            if index > 0 {
                out.write_str(", ")?;
            }
            if let Some(text) = &self.texts[index] {
                out.write_str(text)?;
                continue;
            }
            let raw = self.raw[index];
            match kind {
                Kind::Int | Kind::Descriptor | Kind::Signal => write!(out, "{}", raw as i32)?,
                Kind::Directory if raw as i32 == AT_FDCWD => out.write_str("AT_FDCWD")?,
                Kind::Directory => write!(out, "{}", raw as i32)?,
                Kind::Long => write!(out, "{}", raw as i64)?,
                Kind::Unsigned => write!(out, "{raw}")?,
                Kind::Mode => write!(out, "{:#o}", raw as u32)?,
                Kind::Flags => write!(out, "{:#x}", raw as u32)?,
                Kind::Address => write!(out, "{raw:#x}")?,
                _ if raw == 0 => out.write_str("NULL")?,
                _ => write!(out, "{raw:#x}")?,
            }
        }
        out.write_str(")")
    }
}

/// A string in quotes, cut behind `limit` bytes; `length` is how long it really is.
fn quoted(bytes: &[u8], limit: usize, length: usize) -> String {
    let shown = &bytes[..bytes.len().min(limit)];
    format!("\"{}\"{}", shown.escape_ascii(), if length > shown.len() { "..." } else { "" })
}

fn bytes(address: usize, length: usize) -> Option<String> {
    let mut buffer = [0; SHOWN];
    let shown = &mut buffer[..length.min(SHOWN)];
    read_bytes(address, shown).ok()?;
    Some(quoted(shown, SHOWN, length))
}

fn strings(address: usize) -> Option<String> {
    let mut text = String::from("[");
    let array = UserPtr::<usize>::new(address);
    for index in 0.. {
        let pointer = array.element(index).read().ok()?;
        if pointer == 0 {
            break;
        }
        if index > 0 {
            text.push_str(", ");
        }
        if index == STRINGS_SHOWN {
            text.push_str("...");
            break;
        }
        let string = read_path(pointer).ok()?;
        text.push_str(&quoted(&string, PATH_SHOWN, string.len()));
    }
    text.push(']');
    Some(text)
}

fn time(address: usize) -> Option<String> {
    let [seconds, nanoseconds] = UserPtr::<[i64; 2]>::new(address).read().ok()?;
    Some(format!("{{{seconds}.{nanoseconds:09}}}"))
}

/// A `struct sockaddr` of `length` bytes.
fn socket_address(address: usize, length: usize) -> Option<String> {
    let mut buffer = [0; 110];
    let raw = &mut buffer[..length.min(110)];
    read_bytes(address, raw).ok()?;
    let family = u16::from_le_bytes(raw.get(..2)?.try_into().ok()?);
    let word = |at: usize| Some(u16::from_be_bytes(raw.get(at..at + 2)?.try_into().ok()?));
    match family {
        AF_UNIX => match raw.get(2..)? {
            [0, name @ ..] => Some(format!("{{@\"{}\"}}", name.escape_ascii())),
            path => {
                let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
                Some(format!("{{\"{}\"}}", path[..end].escape_ascii()))
            }
        },
        AF_INET => {
            let octets: [u8; 4] = raw.get(4..8)?.try_into().ok()?;
            Some(format!("{{{}:{}}}", core::net::Ipv4Addr::from(octets), word(2)?))
        }
        AF_INET6 => {
            let octets: [u8; 16] = raw.get(8..24)?.try_into().ok()?;
            Some(format!("{{[{}]:{}}}", core::net::Ipv6Addr::from(octets), word(2)?))
        }
        family => Some(format!("{{family {family}, {length} bytes}}")),
    }
}

#[cfg(test)]
mod tests {
    use linux_raw_sys::general::*;
    use rumpkern::Errno;

    use super::*;

    fn line(number: u32, arguments: &[u64], result: Result<usize>) -> String {
        let mut raw = [0; MOST];
        raw[..arguments.len()].copy_from_slice(arguments);
        let mut call = Call::new(u64::from(number), &raw);
        call.read_inputs();
        call.read_outputs(&result);
        let mut line = String::new();
        call.write_line(&mut line, Some(&result), 12_345);
        line
    }

    fn address<T: ?Sized>(value: &T) -> u64 {
        core::ptr::from_ref(value).cast::<u8>() as u64
    }

    #[test]
    fn arguments_are_shown_by_their_kinds() {
        let path = b"/etc/\"x\"\0";
        assert_eq!(
            line(__NR_openat, &[-100i32 as u32 as u64, address(path), 0x80000, 0], Err(Errno::ENOENT)),
            "openat(AT_FDCWD, \"/etc/\\\"x\\\"\", 0x80000, 0o0) = -1 ENOENT <0.000012>\n"
        );
        let data = [b'a'; 40];
        let cut = "a".repeat(32);
        assert_eq!(
            line(__NR_write, &[1, address(&data), 40], Ok(40)),
            format!("write(1, \"{cut}\"..., 40) = 40 <0.000012>\n")
        );
        assert_eq!(
            line(__NR_read, &[0, address(&data), 4096], Ok(2)),
            "read(0, \"aa\", 4096) = 2 <0.000012>\n"
        );
        assert_eq!(
            line(__NR_mmap, &[0, 4096, 3, 0x22, u64::MAX, 0], Ok(0x7fff_0000_0000)),
            "mmap(0x0, 4096, 0x3, 0x22, -1, 0) = 0x7fff00000000 <0.000012>\n"
        );
        assert_eq!(line(__NR_getpid, &[], Ok(2)), "getpid() = 2 <0.000012>\n");
        assert_eq!(line(999, &[1], Err(Errno::ENOSYS)).split('(').next(), Some("call_999"));
        let [first, end] = [path.as_ptr() as u64, 0];
        assert!(line(__NR_execve, &[address(path), address(&[first, end]), 1], Ok(0)).contains("[\"/etc/"));
        let pause = [1i64, 500];
        assert!(line(__NR_nanosleep, &[address(&pause), 0], Ok(0)).contains("({1.000000500}, NULL)"));
    }

    #[test]
    fn socket_addresses_are_shown() {
        let mut inet = [0u8; 16];
        inet[..8].copy_from_slice(&[2, 0, 0x1f, 0x90, 10, 0, 2, 15]);
        assert!(line(__NR_bind, &[3, address(&inet), 16], Ok(0)).contains("bind(3, {10.0.2.15:8080}, 16)"));
        let mut inet6 = [0u8; 28];
        (inet6[0], inet6[3], inet6[23]) = (10, 80, 1);
        assert!(line(__NR_connect, &[3, address(&inet6), 28], Ok(0)).contains("{[::1]:80}"));
        let unix = b"\x01\0/run/s\0";
        assert!(line(__NR_connect, &[3, address(unix), 9], Ok(0)).contains("{\"/run/s\"}"));
        let length = 16i32;
        let shown = line(__NR_accept, &[3, address(&inet), address(&length)], Ok(4));
        assert!(shown.contains("accept(3, {10.0.2.15:8080}, 0x"), "{shown}");
        // A length that promises more than there is.
        assert!(line(__NR_bind, &[3, address(&inet), 3], Ok(0)).contains("bind(3, 0x"));
    }

    #[test]
    fn addresses_that_cannot_be_read_are_shown_as_numbers() {
        assert_eq!(
            line(__NR_openat, &[5, 16, 0, 0], Err(Errno::EFAULT)),
            "openat(5, 0x10, 0x0, 0o0) = -1 EFAULT <0.000012>\n"
        );
        assert!(line(__NR_write, &[1, 16, u64::MAX], Err(Errno::EFAULT)).starts_with("write(1, 0x10, "));
    }
}
