//! The dynamic loader's list of libraries, `/etc/ld.so.cache` in its `glibc-ld.so.cache1.1` format: reading the
//! host's, and writing one for an image.

/// Begins the format; older caches have an older table in front of it.
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// Magic, two counts, flags and reserved words.
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// Entry flags: ELF with glibc 2 (3), x86-64 (0x300).
const X86_64: u32 = 0x0303;
/// Header flag: little-endian.
const LITTLE_ENDIAN: u8 = 2;
/// Most entries that are read.
const LIMIT: usize = 1 << 20;

/// Reads a cache: (library, path) of every x86-64 entry for any CPU. What is damaged is left out.
pub fn parse(bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let Some(start) = find_start(bytes) else { return Vec::new() };
    let cache = &bytes[start..];
    let word = |at: usize| {
        let bytes: [u8; 4] = cache.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    let string = |at: u32| {
        let tail = cache.get(at as usize..)?;
        let end = tail.iter().position(|&byte| byte == 0)?;
        Some(tail[..end].to_vec())
    };
    let count = word(MAGIC.len()).unwrap_or(0) as usize;
    let read = |index: usize| {
        let at = HEADER + index * ENTRY;
        let flags = word(at)?;
        let hardware = (word(at + 16)?, word(at + 20)?);
        if flags != X86_64 || hardware != (0, 0) {
            return None;
        }
        Some((string(word(at + 4)?)?, string(word(at + 8)?)?))
    };
    (0..count.min(LIMIT)).filter_map(read).collect()
}

/// Where the format begins: at once, or behind an old `ld.so-1.7.0` table.
fn find_start(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(MAGIC) {
        return Some(0);
    }
    if !bytes.starts_with(b"ld.so-1.7.0") {
        return None;
    }
    let count: [u8; 4] = bytes.get(12..16)?.try_into().ok()?;
    let start = (16 + (u32::from_le_bytes(count) as usize).checked_mul(12)?).next_multiple_of(8);
    bytes.get(start..)?.starts_with(MAGIC).then_some(start)
}

/// Writes a cache.
pub fn render(libraries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut sorted: Vec<_> = libraries.iter().collect();
    // The loader searches by halves, in descending order of names.
    sorted.sort_by(|left, right| compare(&right.0, &left.0).then_with(|| left.1.cmp(&right.1)));
    let strings_at = HEADER + sorted.len() * ENTRY;
    let mut strings = Vec::new();
    let mut entries = Vec::new();
    for (name, path) in sorted {
        let mut place = |text: &[u8]| {
            let at = (strings_at + strings.len()) as u32;
            strings.extend_from_slice(text);
            strings.push(0);
            at
        };
        let (name_at, path_at) = (place(name), place(path));
        for word in [X86_64, name_at, path_at, 0, 0, 0] {
            entries.extend(word.to_le_bytes());
        }
    }
    let mut cache = MAGIC.to_vec();
    cache.extend(((entries.len() / ENTRY) as u32).to_le_bytes());
    cache.extend((strings.len() as u32).to_le_bytes());
    cache.push(LITTLE_ENDIAN);
    cache.resize(HEADER, 0);
    cache.extend(entries);
    cache.extend(strings);
    cache
}

/// The order of names in a cache: runs of digits compare as numbers.
fn compare(left: &[u8], right: &[u8]) -> std::cmp::Ordering {
    use std::cmp::Ordering;
    let (mut left, mut right) = (left, right);
    loop {
        match (left.first(), right.first()) {
            (None, None) => return Ordering::Equal,
            (Some(one), Some(other)) if one.is_ascii_digit() && other.is_ascii_digit() => {
                let order = take_number(&mut left).cmp(&take_number(&mut right));
                if order.is_ne() {
                    return order;
                }
            }
            (Some(one), _) if one.is_ascii_digit() => return Ordering::Greater,
            (_, Some(other)) if other.is_ascii_digit() => return Ordering::Less,
            (one, other) if one == other => {
                left = &left[1..];
                right = &right[1..];
            }
            // The loader compares plain characters, signed; the end of a name is 0.
            (one, other) => {
                let signed = |byte: Option<&u8>| byte.map_or(0, |byte| *byte as i8);
                return signed(one).cmp(&signed(other));
            }
        }
    }
}

fn take_number(text: &mut &[u8]) -> u64 {
    let mut number = 0u64;
    while let Some((digit, rest)) = text.split_first().filter(|(digit, _)| digit.is_ascii_digit()) {
        number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        *text = rest;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back() {
        let pair = |name: &str| (name.as_bytes().to_vec(), format!("/opt/lib/{name}").into_bytes());
        let libraries: Vec<_> =
            ["libc.so.6", "libm.so.6", "libz.so.1", "liba10.so", "liba9.so"].into_iter().map(pair).collect();
        let cache = render(&libraries);
        let names: Vec<_> = parse(&cache).into_iter().map(|(name, _)| name).collect();
        let expected: Vec<&[u8]> = vec![b"libz.so.1", b"libm.so.6", b"libc.so.6", b"liba10.so", b"liba9.so"];
        assert_eq!(names, expected);
        for length in 0..cache.len() {
            parse(&cache[..length]);
        }
    }

    #[test]
    fn reads_the_hosts() {
        if let Ok(bytes) = std::fs::read("/etc/ld.so.cache") {
            let libraries = parse(&bytes);
            assert!(libraries.iter().any(|(name, _)| name == b"libc.so.6"));
        }
    }
}
