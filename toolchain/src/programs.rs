//! The programs on the command line: `rumprun-bake bake CONFIG OUT 'seq 3' '|' 'wc -l'`.

use image::config::Then;

/// Why a command line of programs is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A quote without its partner.
    #[error("{0}: a quote is not closed")]
    Quote(String),
    /// A separator with nothing in front of it.
    #[error("`{0}` stands where a program is expected")]
    Separator(String),
    /// A pipe into nothing.
    #[error("`|` at the end: name the program that reads from the pipe")]
    Pipe,
    /// Nothing to run.
    #[error("no program: name one, or give a configuration that has programs (--config FILE)")]
    Empty,
}

/// A program as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The program and its arguments.
    pub words: Vec<Vec<u8>>,
    /// How the next follows.
    pub then: Then,
}

/// Reads the programs. A word that is a file's name, or has no blanks, is a program; any other is a program and
/// its arguments, split as a shell would. `&` and `|` stand between programs.
pub fn parse(words: &[Vec<u8>], is_file: impl Fn(&[u8]) -> bool) -> Result<Vec<Request>, Error> {
    let mut requests: Vec<Request> = Vec::new();
    let mut separated = true;
    for word in words {
        let then = match word.as_slice() {
            b"&" => Some(Then::Background),
            b"|" => Some(Then::Pipe),
            b";" => Some(Then::Wait),
            _ => None,
        };
        match (then, requests.last_mut()) {
            (Some(then), Some(last)) if !separated => {
                last.then = then;
                separated = true;
            }
            (Some(_), _) => return Err(Error::Separator(String::from_utf8_lossy(word).into_owned())),
            (None, _) => {
                let words = if is_file(word) { vec![word.clone()] } else { split(word)? };
                if words.is_empty() {
                    return Err(Error::Empty);
                }
                requests.push(Request { words, then: Then::Wait });
                separated = false;
            }
        }
    }
    match requests.last() {
        Some(Request { then: Then::Pipe, .. }) => Err(Error::Pipe),
        _ => Ok(requests),
    }
}

/// Splits a command at blanks; quotes and backslashes protect, as in a shell.
pub fn split(command: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let unclosed = || Error::Quote(String::from_utf8_lossy(command).into_owned());
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = command.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' | b'\n' => words.extend(word.take()),
            b'\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next().ok_or_else(unclosed)? {
                        b'\'' => break,
                        byte => word.push(byte),
                    }
                }
            }
            b'"' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next().ok_or_else(unclosed)? {
                        b'"' => break,
                        b'\\' => match bytes.next().ok_or_else(unclosed)? {
                            byte @ (b'"' | b'\\' | b'$' | b'`') => word.push(byte),
                            byte => word.extend([b'\\', byte]),
                        },
                        byte => word.push(byte),
                    }
                }
            }
            b'\\' => word.get_or_insert_default().push(bytes.next().ok_or_else(unclosed)?),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<Vec<u8>> {
        words.iter().map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn splits_as_a_shell() {
        let split = |text: &str| split(text.as_bytes());
        assert_eq!(
            split("sh -c 'a  \"b' c\\ d \"e \\\" \\x\"\"\""),
            Ok(words(&["sh", "-c", "a  \"b", "c d", "e \" \\x"]))
        );
        assert_eq!(split(" '' "), Ok(words(&[""])));
        assert!(matches!(split("a 'b"), Err(Error::Quote(_))));
        assert!(matches!(split("a \\"), Err(Error::Quote(_))));
    }

    #[test]
    fn separators_stand_between() {
        let parse = |list: &[&str]| super::parse(&words(list), |word| word == b"my file");
        let found = parse(&["seq 3", "|", "wc -l", "&", "my file", ";"]).expect("good");
        assert_eq!(found[0], Request { words: words(&["seq", "3"]), then: Then::Pipe });
        assert_eq!(found[1].then, Then::Background);
        assert_eq!(found[2], Request { words: words(&["my file"]), then: Then::Wait });
        assert_eq!(parse(&["a", "b"]).map(|list| list.len()), Ok(2));
        assert_eq!(parse(&["a", "|"]), Err(Error::Pipe));
        assert!(matches!(parse(&["&", "a"]), Err(Error::Separator(_))));
        assert!(matches!(parse(&["a", "|", "|", "b"]), Err(Error::Separator(_))));
        assert_eq!(parse(&[" "]), Err(Error::Empty));
    }
}
