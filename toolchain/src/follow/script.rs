//! The first line of a script, `#!interpreter argument`.

/// The longest first line that Linux reads.
const LINE_LIMIT: usize = 255;

/// What a script is run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Absolute path of the interpreter.
    pub interpreter: Vec<u8>,
    /// With `/usr/bin/env`: the program that it looks up in PATH.
    pub command: Option<Vec<u8>>,
}

/// Reads the first line of a file; `None` if it isn't a script.
pub fn parse(head: &[u8]) -> Option<Script> {
    let line = head.strip_prefix(b"#!")?;
    let line = &line[..line.len().min(LINE_LIMIT)];
    let line = line.split(|&byte| byte == b'\n').next()?;
    let mut words = line
        .split(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
        .filter(|word| !word.is_empty() && !word.contains(&0));
    let interpreter = words.next()?.to_vec();
    if interpreter.first() != Some(&b'/') {
        return None;
    }
    let command = interpreter
        .ends_with(b"/env")
        .then(|| words.find(|word| !word.starts_with(b"-") && !word.contains(&b'=')))
        .flatten()
        .map(<[u8]>::to_vec);
    Some(Script { interpreter, command })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_first_lines() {
        let script = |head: &[u8]| parse(head).map(|script| (script.interpreter, script.command));
        assert_eq!(script(b"#!/bin/sh\necho"), Some((b"/bin/sh".to_vec(), None)));
        assert_eq!(script(b"#! /bin/sh -e\n"), Some((b"/bin/sh".to_vec(), None)));
        let python = Some((b"/usr/bin/env".to_vec(), Some(b"python3".to_vec())));
        assert_eq!(script(b"#!/usr/bin/env python3"), python);
        assert_eq!(script(b"#!/usr/bin/env -S A=b python3 -u\n"), python);
        assert_eq!(script(b"#!sh"), None);
        assert_eq!(script(b"#!"), None);
        assert_eq!(script(b"\x7fELF"), None);
    }
}
