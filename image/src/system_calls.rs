//! Linux's system calls as tracing sees them: names, kinds of arguments, classes; and filters made of these.
//!
//! The kernel and the tool read the same list, `system-calls.txt`: a line has the number, the name, a letter for each
//! argument (see [`Kind`]; `-` for none) and letters for the classes that don't follow from the arguments.

/// The list.
const LIST: &str = include_str!("system-calls.txt");

/// More than the largest number.
pub const LIMIT: usize = 512;

/// What an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `d`: `int`.
    Int,
    /// `i`: `long`.
    Long,
    /// `u`: `unsigned long`, a size or count.
    Unsigned,
    /// `o`: permissions.
    Mode,
    /// `x`: flags of 32 bits.
    Flags,
    /// `X`: an address or flags of 64 bits.
    Address,
    /// `f`: a file descriptor.
    Descriptor,
    /// `a`: a directory's descriptor, or AT_FDCWD.
    Directory,
    /// `p`: a path or another string.
    Path,
    /// `v`: an array of strings.
    Strings,
    /// `s`: bytes that the call reads; the next argument is their count.
    Input,
    /// `S`: bytes that the call writes; the result is their count.
    Output,
    /// `A`: a socket address that the call reads; the next argument is its length.
    SocketAddress,
    /// `B`: a socket address that the call writes; the next argument points to its length.
    SocketAddressOut,
    /// `t`: `struct timespec`.
    Time,
    /// `g`: a signal.
    Signal,
    /// `P`: a pointer to something else.
    Pointer,
}

impl Kind {
    fn of(letter: u8) -> Option<Kind> {
        Some(match letter {
            b'd' => Kind::Int,
            b'i' => Kind::Long,
            b'u' => Kind::Unsigned,
            b'o' => Kind::Mode,
            b'x' => Kind::Flags,
            b'X' => Kind::Address,
            b'f' => Kind::Descriptor,
            b'a' => Kind::Directory,
            b'p' => Kind::Path,
            b'v' => Kind::Strings,
            b's' => Kind::Input,
            b'S' => Kind::Output,
            b'A' => Kind::SocketAddress,
            b'B' => Kind::SocketAddressOut,
            b't' => Kind::Time,
            b'g' => Kind::Signal,
            b'P' => Kind::Pointer,
            _ => return None,
        })
    }
}

/// A system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemCall {
    /// Its number.
    pub number: u64,
    /// Its name.
    pub name: &'static str,
    arguments: &'static str,
    classes: &'static str,
}

impl SystemCall {
    /// The kinds of its arguments, in order.
    pub fn arguments(&self) -> impl Iterator<Item = Kind> + use<> {
        self.arguments.bytes().filter_map(Kind::of)
    }

    fn is_in(&self, class: u8) -> bool {
        match class {
            b'f' => self.arguments().any(|kind| kind == Kind::Path),
            b'd' => self.arguments().any(|kind| matches!(kind, Kind::Descriptor | Kind::Directory)),
            _ => self.classes.as_bytes().contains(&class),
        }
    }
}

/// Classes of calls, as strace(1) has them: name and letter.
pub const CLASSES: [(&str, u8); 6] = [
    ("file", b'f'),
    ("desc", b'd'),
    ("network", b'n'),
    ("process", b'c'),
    ("memory", b'm'),
    ("signal", b's'),
];

/// Every system call, by number.
pub fn all() -> impl Iterator<Item = SystemCall> {
    LIST.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some(SystemCall {
            number: words.next()?.parse().ok()?,
            name: words.next()?,
            arguments: words.next()?,
            classes: words.next().unwrap_or(""),
        })
    })
}

/// The call with a number.
pub fn find(number: u64) -> Option<SystemCall> {
    all().find(|call| call.number == number)
}

/// A set of system calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    calls: [u64; LIMIT / 64],
}

/// A word of a filter that is neither a call nor a class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no system call or class of calls is called `{name}`")]
pub struct Unknown<'a> {
    /// The word, without `!`.
    pub name: &'a str,
}

impl Filter {
    /// Every call.
    pub const ALL: Filter = Filter { calls: [u64::MAX; LIMIT / 64] };

    /// Reads names and classes between commas; `!` in front takes them out. A filter that begins so begins with all.
    pub fn parse(text: &str) -> Result<Filter, Unknown<'_>> {
        if text.is_empty() {
            return Ok(Filter::ALL);
        }
        let mut filter = if text.starts_with('!') { Filter::ALL } else { Filter { calls: [0; LIMIT / 64] } };
        for word in text.split(',') {
            let (name, wanted) = word.strip_prefix('!').map_or((word, true), |name| (name, false));
            let class = CLASSES.iter().find(|(class, _)| *class == name).map(|(_, letter)| *letter);
            let mut found = false;
            for call in all() {
                if class.map_or(call.name == name, |class| call.is_in(class)) {
                    filter.set(call.number, wanted);
                    found = true;
                }
            }
            if !found {
                return Err(Unknown { name });
            }
        }
        Ok(filter)
    }

    fn set(&mut self, number: u64, wanted: bool) {
        let bit = 1 << (number % 64);
        if let Some(word) = self.calls.get_mut(number as usize / 64) {
            *word = if wanted { *word | bit } else { *word & !bit };
        }
    }

    /// A bit for each call, by number.
    pub fn bits(&self) -> &[u64; LIMIT / 64] {
        &self.calls
    }

    /// Whether a call is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.calls.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> impl Fn(&str) -> bool {
        let filter = Filter::parse(text).expect("a good filter");
        move |name| filter.contains(all().find(|call| call.name == name).expect("a call").number)
    }

    #[test]
    fn the_list_is_well_formed() {
        let mut last = None;
        for call in all() {
            assert!(last < Some(call.number) && call.number < LIMIT as u64, "{}", call.name);
            last = Some(call.number);
            let arguments = call.arguments.trim_matches('-');
            assert!(arguments.len() <= 6 && call.arguments().count() == arguments.len(), "{}", call.name);
            assert!(call.classes.bytes().all(|class| CLASSES.iter().any(|(_, letter)| *letter == class)));
        }
        assert_eq!(all().count(), LIST.lines().count());
    }

    #[test]
    fn filters_take_in_and_out() {
        let contains = filter("network,openat,!accept4");
        assert!(contains("openat") && contains("sendto") && !contains("accept4") && !contains("read"));
        let contains = filter("!memory,!futex");
        assert!(contains("read") && !contains("mmap") && !contains("futex"));
        let contains = filter("file");
        assert!(contains("openat") && contains("unlink") && !contains("read"));
        let contains = filter("desc");
        assert!(contains("openat") && contains("read") && !contains("unlink"));
        assert!(Filter::parse("").expect("all").contains(0));
        for wrong in ["raed", "file,", "!", ",", "open,raed"] {
            assert!(Filter::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Filter::parse("open,!raed").expect_err("unknown").name, "raed");
    }
}
