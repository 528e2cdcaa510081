//! Image configurations from files: TOML of our own ([`file`]), and rumprun's JSON ([`rumprun`]).

pub(crate) mod check;
pub(crate) mod file;
mod rumprun;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use image::config::Configuration;

use crate::bake::TreeRequest;

/// What a file asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration; its programs have the names that were written, not paths of the image yet.
    pub configuration: Configuration,
    /// Folders to take in.
    pub trees: Vec<TreeRequest>,
    /// Installed packages to take in.
    pub packages: Vec<String>,
    /// Whether files are compressed.
    pub compress: bool,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What.
        message: String,
    },
}

/// A complaint about a part of a text: its byte offset, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) offset: usize,
    pub(crate) message: String,
}

/// Reads a configuration file. Paths in it are relative to its folder.
pub fn load(path: &Path) -> Result<Loaded, Error> {
    let folder = path.parent().unwrap_or(Path::new(""));
    read(path, |text| parse(text, folder))
}

/// Reads a file's text with a function whose complaints get a line and a column.
pub(crate) fn read<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, Complaint>) -> Result<T, Error> {
    let bytes = fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let text = String::from_utf8_lossy(&bytes);
    let result = match std::str::from_utf8(&bytes) {
        Ok(text) => parse(text),
        Err(error) => {
            Err(Complaint { offset: error.valid_up_to(), message: "this is not UTF-8 text".into() })
        }
    };
    result.map_err(|complaint| {
        let (line, column) = position(&text, complaint.offset);
        Error::Content { path: path.into(), line, column, message: complaint.message }
    })
}

fn parse(text: &str, folder: &Path) -> Result<Loaded, Complaint> {
    // TOML can't begin with a brace, and JSON configurations are objects.
    if text.trim_start().starts_with('{') { rumprun::parse(text) } else { file::parse(text, folder) }
}

/// Reads a configuration, for fuzzing: any text is accepted or refused, nothing else.
pub fn parse_any(text: &str) -> Result<Loaded, String> {
    parse(text, Path::new("/")).map_err(|complaint| complaint.message)
}

pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Adds the nearest known name to a message about an unknown one.
pub(crate) fn suggest(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(unknown) = quoted.next().filter(|_| message.starts_with("unknown field")) else {
        return message.into();
    };
    let nearest = quoted.min_by_key(|known| crate::configs::distance(unknown, known));
    match nearest.filter(|known| crate::configs::distance(unknown, known) <= 3) {
        Some(nearest) => format!("{message}; did you mean `{nearest}`?"),
        None => message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, text: &str) -> String {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(name);
        fs::write(&path, text).expect("write");
        let message = load(&path).expect_err("must be refused").to_string();
        message.replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn errors_have_a_place_and_a_hint() {
        let text = message("a.toml", "hostname = \"x\"\nhostnam = 1\n");
        assert!(text.starts_with("a.toml:2:1: unknown field `hostnam`"), "{text}");
        assert!(text.ends_with("did you mean `hostname`?"), "{text}");
        let text = message("a.toml", "hostname = \n");
        assert!(text.starts_with("a.toml:1:1"), "{text}");
        let text = message("a.toml", "[[network]]\ninterface = \"eth0\"\naddresses = [\"10.0.0.300/24\"]\n");
        assert!(text.starts_with("a.toml:3:14: `10.0.0.300/24`"), "{text}");
        let text = message("a.json", "{\n  \"rc\": [ { \"bin\": 3 } ]\n}");
        assert!(text.starts_with("a.json:2:"), "{text}");
    }

    #[test]
    fn not_text_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x.toml");
        fs::write(&path, b"a = 1\n\xff").expect("write");
        let message = load(&path).expect_err("must be refused").to_string();
        assert!(message.ends_with("x.toml:2:1: this is not UTF-8 text"), "{message}");
    }

    #[test]
    fn positions_count_characters() {
        assert_eq!(position("é\néx", 5), (2, 2));
        assert_eq!(position("", 7), (1, 1));
    }
}
