//! C's `printf` formats, as far as messages of a kernel use them.

use alloc::{string::String, vec::Vec};
use core::{ffi::CStr, fmt::Write};

/// Formats `template` with arguments from `next`.
///
/// # Safety
/// `next` yields as many arguments as the template has conversions, of their kinds; those of `%s` are null or C strings.
pub unsafe fn format(template: &[u8], mut next: impl FnMut() -> u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(template.len() + 32);
    let mut bytes = template.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (mut zero, mut left, mut alternate) = (false, false, false);
        while let Some(&flag) = bytes.peek() {
            match flag {
                b'0' => zero = true,
                b'-' => left = true,
                b'#' => alternate = true,
                b'+' | b' ' => {}
                _ => break,
            }
            bytes.next();
        }
        let mut number = |bytes: &mut core::iter::Peekable<_>| -> usize {
            if bytes.peek() == Some(&b'*') {
                bytes.next();
                return next() as u32 as usize;
            }
            let mut value = 0usize;
            while let Some(digit) = bytes.peek().filter(|digit: &&u8| digit.is_ascii_digit()) {
                value = value.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
                bytes.next();
            }
            value
        };
        let width = number(&mut bytes).min(256);
        let precision = (bytes.peek() == Some(&b'.')).then(|| {
            bytes.next();
            number(&mut bytes)
        });
        let mut long = false;
        while let Some(&size) = bytes.peek().filter(|size| b"hlqjzt".contains(size)) {
            long |= size != b'h';
            bytes.next();
        }
        let mut text = String::new();
        match bytes.next() {
            Some(b'd' | b'i') => {
                let value = next();
                let value = if long { value as i64 } else { i64::from(value as i32) };
                let _ = write!(text, "{value}");
            }
            Some(kind @ (b'u' | b'x' | b'X' | b'o' | b'p')) => {
                let value = next();
                let value = if long || kind == b'p' { value } else { u64::from(value as u32) };
                if kind == b'p' || alternate && b"xX".contains(&kind) {
                    text.push_str("0x");
                }
                let _ = match kind {
                    b'u' => write!(text, "{value}"),
                    b'o' => write!(text, "{value:o}"),
                    b'X' => write!(text, "{value:X}"),
                    _ => write!(text, "{value:x}"),
                };
            }
            Some(b'c') => text.push(next() as u8 as char),
            Some(b's') => {
                let address = next() as usize as *const core::ffi::c_char;
                // SAFETY: the caller's promise.
                let string = if address.is_null() { c"(null)" } else { unsafe { CStr::from_ptr(address) } };
                let string = string.to_bytes();
                let length = precision.unwrap_or(string.len()).min(string.len());
                text.push_str(&String::from_utf8_lossy(&string[..length]));
            }
            Some(other) => text.push(other as char),
            None => {}
        }
        let padding = width.saturating_sub(text.len());
        let fill = if zero && !left { b'0' } else { b' ' };
        let place = if left { out.len() + text.len() } else { out.len() };
        out.extend_from_slice(text.as_bytes());
        out.splice(place..place, core::iter::repeat_n(fill, padding));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(template: &str, arguments: &[u64]) -> String {
        let mut arguments = arguments.iter();
        // SAFETY: the tests give arguments that fit.
        let bytes = unsafe { format(template.as_bytes(), || *arguments.next().expect("an argument")) };
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn conversions() {
        let name = c"lwp".as_ptr() as u64;
        assert_eq!(
            formatted("%s: %d of %5u|%-4x|%04lx%%", &[name, u64::MAX, 7, 255, 255]),
            "lwp: -1 of     7|ff  |00ff%"
        );
        assert_eq!(formatted("%.2s %c %p %*d", &[name, 65, 16, 3, 5]), "lw A 0x10   5");
        assert_eq!(formatted("%llu %", &[u64::MAX]), "18446744073709551615 ");
    }
}
