//! The project's patch sets: `src-netbsd-patches/<release>/series` and the patches with their headers.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Error, PATCHES_VARIABLE, host, tree::release_begins};
use crate::{hash, kernel};

/// A patch as it is in its file.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Patch {
    /// Its file's name, without `.patch`.
    pub name: String,
    /// What it does, in a line.
    pub what: String,
    /// Why.
    pub why: String,
    /// The beginnings of the releases it applies to.
    pub releases: Vec<String>,
    /// What a tree has that needs no such patch: paths and texts in them.
    pub already_there: Vec<(PathBuf, String)>,
    /// The file without which a tree has nothing to patch.
    pub concerns: Option<PathBuf>,
    /// The patches that it needs.
    pub needs: Vec<String>,
    /// Whether it is applied only when it is named.
    pub optional: bool,
    /// The hash of the file.
    pub sha256: String,
    /// The differences.
    #[serde(skip)]
    pub diff: Vec<u8>,
}

impl Patch {
    /// Whether it is for this release.
    pub fn is_for(&self, release: &str) -> bool {
        self.releases.iter().any(|prefix| release_begins(release, prefix))
    }

    /// Whether there are lines that it adds.
    pub fn inserts(&self) -> bool {
        let lines = self.diff.split(|&byte| byte == b'\n');
        lines.into_iter().any(|line| line.starts_with(b"+") && !line.starts_with(b"+++ "))
    }

    /// Reads a patch file's bytes: headers as in mail, an empty line, a diff.
    fn parse(name: &str, path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let bad = |message: String| Error::BadPatch { path: path.into(), message };
        let end =
            bytes.windows(2).position(|pair| pair == b"\n\n").ok_or_else(|| bad("no empty line".into()))?;
        let (head, diff) = (String::from_utf8_lossy(&bytes[..end]), &bytes[end + 2..]);
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in head.lines() {
            if line.starts_with([' ', '\t']) {
                let (_, value) =
                    fields.last_mut().ok_or_else(|| bad("begins with a continued line".into()))?;
                value.push(' ');
                value.push_str(line.trim());
            } else {
                let (field, value) = line
                    .split_once(':')
                    .ok_or_else(|| bad(format!("`{line}` is no header: write `Name: value`")))?;
                fields.push((field.trim().into(), value.trim().into()));
            }
        }
        let mut patch =
            Patch { name: name.into(), sha256: hash::bytes(bytes), diff: diff.to_vec(), ..Patch::default() };
        for (field, value) in fields {
            match field.as_str() {
                "What" => patch.what = value,
                "Why" => patch.why = value,
                "Releases" => patch.releases = words(&value),
                "Concerns" => patch.concerns = Some(value.into()),
                "Needs" => patch.needs.extend(words(&value)),
                "Default" if value == "yes" || value == "no" => patch.optional = value == "no",
                "Default" => return Err(bad(format!("Default: {value}: write yes or no"))),
                "Already-There" => {
                    let (path, text) = value
                        .split_once(": ")
                        .ok_or_else(|| bad("Already-There: write `path: text`".into()))?;
                    patch.already_there.push((path.into(), text.into()));
                }
                unknown => return Err(bad(format!("unknown header {unknown}"))),
            }
        }
        let missing = [
            ("What", patch.what.is_empty()),
            ("Why", patch.why.is_empty()),
            ("Releases", patch.releases.is_empty()),
        ];
        if let Some((field, _)) = missing.iter().find(|(_, missing)| *missing) {
            return Err(bad(format!("no header {field}")));
        }
        if diff.is_empty() {
            return Err(bad("no differences after the headers".into()));
        }
        Ok(patch)
    }
}

/// The patches for a release, in their order.
#[derive(Debug, Clone)]
pub struct Series {
    /// The folder's name: the beginning of the releases it serves.
    pub name: String,
    /// The patches.
    pub patches: Vec<Patch>,
}

/// The folder of all patch sets.
pub fn folder() -> Result<PathBuf, Error> {
    if let Some(folder) = env::var_os(PATCHES_VARIABLE) {
        return Ok(folder.into());
    }
    let source = kernel::source_directory().map_err(|error| Error::Other(error.to_string()))?;
    Ok(source.join("src-netbsd-patches"))
}

impl Series {
    /// The patch set for a release, if there is one.
    pub fn find(folder: &Path, release: &str) -> Result<Option<Self>, Error> {
        let best = Self::names(folder)?
            .into_iter()
            .filter(|name| release_begins(release, name))
            .max_by_key(String::len);
        best.map(|name| Self::read(folder, &name)).transpose()
    }

    /// The patch set of the release that a development version (`9.99.94`) leads to, if there is one.
    pub fn following(folder: &Path, release: &str) -> Result<Option<Self>, Error> {
        let mut numbers = release.split('.').map(|number| number.parse::<u32>().ok());
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(99)) => Self::find(folder, &(major.saturating_add(1)).to_string()),
            _ => Ok(None),
        }
    }

    /// The patch set for a release, or an error that says which there are.
    pub fn required(folder: &Path, release: &str) -> Result<Self, Error> {
        Self::find(folder, release)?.ok_or_else(|| Self::none_for(folder, release))
    }

    /// The error that there is no patch set for a release, with those that there are.
    pub fn none_for(folder: &Path, release: &str) -> Error {
        match Self::names(folder) {
            Ok(known) => Error::NoPatchSet { release: release.into(), known: list(&known) },
            Err(error) => error,
        }
    }

    fn names(folder: &Path) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(host(folder.display()))? {
            let entry = entry.map_err(host(folder.display()))?;
            if entry.path().join("series").is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn read(folder: &Path, name: &str) -> Result<Self, Error> {
        let folder = folder.join(name);
        let path = folder.join("series");
        let text = fs::read_to_string(&path).map_err(host(path.display()))?;
        let mut patches: Vec<Patch> = Vec::new();
        for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
            if line.is_empty() {
                continue;
            }
            let file = folder.join(line);
            let text = fs::read(&file).map_err(host(file.display()))?;
            // One that serves another release, too, is in one folder and named by both series.
            let name = Path::new(line).file_stem().unwrap_or_default().to_string_lossy();
            let patch = Patch::parse(&name, &file, &text)?;
            if let Some(need) =
                patch.needs.iter().find(|need| !patches.iter().any(|earlier| earlier.name == **need))
            {
                return Err(Error::BadPatch {
                    path: file,
                    message: format!("needs {need}, which is not before it in the series"),
                });
            }
            patches.push(patch);
        }
        Ok(Series { name: name.into(), patches })
    }

    /// The patches that are meant: those named, with what they need, or all that are for the release and not optional. In
    /// the series' order.
    pub fn select(&self, names: Option<&[String]>, release: &str) -> Result<Vec<&Patch>, Error> {
        let Some(names) = names else {
            return Ok(self
                .patches
                .iter()
                .filter(|patch| !patch.optional && patch.is_for(release))
                .collect());
        };
        if let Some(name) = names
            .iter()
            .find(|name| !self.patches.iter().any(|patch| patch.name == **name && patch.is_for(release)))
        {
            let known: Vec<_> = self.patches.iter().map(|patch| patch.name.clone()).collect();
            return Err(Error::NoPatch { name: name.clone(), release: release.into(), known: list(&known) });
        }
        let mut wanted: Vec<&str> = names.iter().map(String::as_str).collect();
        // A patch's needs stand before it, so one pass from the end finds all.
        for patch in self.patches.iter().rev() {
            if wanted.contains(&patch.name.as_str()) {
                wanted.extend(patch.needs.iter().map(String::as_str));
            }
        }
        Ok(self.patches.iter().filter(|patch| wanted.contains(&patch.name.as_str())).collect())
    }
}

/// Words with commas or blanks between.
fn words(text: &str) -> Vec<String> {
    text.split([',', ' ']).filter(|word| !word.is_empty()).map(String::from).collect()
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes a patch set: names, further headers, differences.
    pub fn write(folder: &Path, release: &str, patches: &[(&str, &str, &str)]) {
        let folder = folder.join(release);
        fs::create_dir_all(&folder).expect("a folder");
        let series: String = patches.iter().map(|(name, ..)| format!("{name}.patch\n")).collect();
        fs::write(folder.join("series"), format!("# Order matters.\n\n{series}")).expect("a series");
        for (name, headers, diff) in patches {
            let text =
                format!("What: {name}\nWhy: a test\n of series\nReleases: {release}\n{headers}\n{diff}");
            fs::write(folder.join(format!("{name}.patch")), text).expect("a patch");
        }
    }

    const DIFF: &str = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n";

    #[test]
    fn series_and_headers() {
        let folder = tempfile::tempdir().expect("a folder");
        write(
            folder.path(),
            "7.99",
            &[
                ("one", "Already-There: sys/x.c: int x: 3;\n", DIFF),
                ("two", "Needs: one\n", DIFF),
                ("three", "Default: no\n", DIFF),
            ],
        );
        write(folder.path(), "10", &[("one", "", DIFF)]);
        let ten = |release| Series::required(folder.path(), release).expect("a series");
        let series = Series::required(folder.path(), "7.99.34").expect("a series");
        assert_eq!((series.name.as_str(), series.patches.len()), ("7.99", 3));
        assert_eq!(series.patches[0].why, "a test of series");
        assert_eq!(series.patches[0].already_there, [("sys/x.c".into(), "int x: 3;".into())]);
        assert_eq!(series.patches[1].diff, DIFF.as_bytes());
        let names = |names: Option<&[&str]>| -> Vec<String> {
            let names: Option<Vec<String>> =
                names.map(|names| names.iter().map(|name| name.to_string()).collect());
            let selected = series.select(names.as_deref(), "7.99.34").expect("patches");
            selected.iter().map(|patch| patch.name.clone()).collect()
        };
        assert_eq!(names(None), ["one", "two"]);
        assert_eq!(names(Some(&["three"])), ["three"]);
        assert_eq!(names(Some(&["two"])), ["one", "two"]);
        assert!(names(Some(&[])).is_empty());
        let error = series.select(Some(&["four".into()]), "7.99.34").expect_err("no such patch");
        assert!(error.to_string().contains("one, two"), "{error}");
        assert!(Series::find(folder.path(), "9.3").expect("folders").is_none());
        let error = Series::required(folder.path(), "9.3").expect_err("no patch set");
        assert!(error.to_string().contains("10, 7.99"), "{error}");
        assert_eq!(ten("10.1").name, "10");
    }

    #[test]
    fn wrong_patch_files() {
        let parse = |text: &str| {
            Patch::parse("x", Path::new("x.patch"), text.as_bytes()).expect_err("wrong").to_string()
        };
        assert!(parse("").contains("no empty line"));
        assert!(parse("What: x\n\n").contains("no header Why"));
        assert!(parse("What: x\nWhy: y\nReleases: 1\n\n").contains("no differences"));
        assert!(parse(&format!("Wat: x\n\n{DIFF}")).contains("unknown header Wat"));
        assert!(parse(&format!("nothing\n\n{DIFF}")).contains("no header"));
        assert!(parse(&format!(" x\n\n{DIFF}")).contains("continued"));
        assert!(parse(&format!("Already-There: x\n\n{DIFF}")).contains("path: text"));
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "1", &[("b", "Needs: a\n", DIFF)]);
        let error = Series::required(folder.path(), "1.0").expect_err("a need that isn't there");
        assert!(error.to_string().contains("needs a"), "{error}");
    }
}
