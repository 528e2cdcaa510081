//! Applying patches: in memory, on top of a tree that is only read; in order, forwards or backwards.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Component, Path, PathBuf},
};

use diffy::patch_set::{FileOperation, ParseOptions, PatchSet};
use serde::Serialize;

use super::{Error, host, series::Patch};

/// How many lines of a hunk that doesn't apply are shown.
const SHOWN_LINES: usize = 40;

/// How a patch stands to a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It applies (and was applied here).
    Applies,
    /// Its changes are there already.
    AlreadyThere,
}

/// A tree with changes that are only in memory.
#[derive(Debug, Clone)]
pub struct Changes {
    root: PathBuf,
    /// Changed files by their path in the tree; nothing where one was removed.
    pub files: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

impl Changes {
    /// No changes yet.
    pub fn new(root: &Path) -> Self {
        Changes { root: root.into(), files: BTreeMap::new() }
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        if let Some(content) = self.files.get(path) {
            return Ok(content.clone());
        }
        let path = self.root.join(path);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(host(path.display())(error)),
        }
    }

    /// Applies a patch, or finds its changes there already.
    pub fn apply(&mut self, patch: &Patch) -> Result<State, Error> {
        match self.attempt(patch, false) {
            Ok(files) => {
                self.files.extend(files);
                Ok(State::Applies)
            }
            Err(rejected @ Error::Rejected { .. }) => match self.attempt(patch, true) {
                Ok(_) => Ok(State::AlreadyThere),
                Err(_) => Err(rejected),
            },
            Err(error) => Err(error),
        }
    }

    /// Takes a patch's changes back.
    pub fn reverse(&mut self, patch: &Patch) -> Result<(), Error> {
        let files = self.attempt(patch, true)?;
        self.files.extend(files);
        Ok(())
    }

    /// What the files would be after a patch.
    fn attempt(&self, patch: &Patch, backwards: bool) -> Result<BTreeMap<PathBuf, Option<Vec<u8>>>, Error> {
        let bad = |message: String| Error::BadPatch { path: format!("{}.patch", patch.name).into(), message };
        let mut changed = self.clone();
        let mut result = BTreeMap::new();
        for part in PatchSet::parse(&patch.diff, ParseOptions::unidiff()) {
            let part = part.map_err(|error| bad(error.to_string()))?;
            let operation = part.operation().strip_prefix(1);
            let (path, mut creates, mut deletes) = match &operation {
                FileOperation::Create(path) => (path, true, false),
                FileOperation::Delete(path) => (path, false, true),
                FileOperation::Modify { modified, .. } => (modified, false, false),
                _ => return Err(bad("renames and copies are not supported".into())),
            };
            let path = inside(path).ok_or_else(|| bad(format!("{path}: not a path below the tree")))?;
            let text = part.patch().as_text().ok_or_else(|| bad(format!("{}: not text", path.display())))?;
            let text = if backwards { text.reverse() } else { text.clone() };
            if backwards {
                (creates, deletes) = (deletes, creates);
            }
            let rejected = |reason: &str, hunk: usize| Error::Rejected {
                name: patch.name.clone(),
                file: path.clone(),
                reason: reason.into(),
                hunk: shown(&text, hunk),
            };
            let present = changed.read(&path)?;
            let original = match (present, creates) {
                (Some(_), true) => return Err(rejected("the file exists already", 0)),
                (None, false) => return Err(rejected("there is no such file", 0)),
                (present, _) => present.unwrap_or_default(),
            };
            let original =
                String::from_utf8(original).map_err(|_| bad(format!("{}: not UTF-8", path.display())))?;
            let patched = diffy::apply(&original, &text).map_err(|error| {
                let number = failed_hunk(&error.to_string());
                rejected(&format!("hunk {} of {}", number + 1, text.hunks().len()), number)
            })?;
            let content = if deletes {
                if !patched.is_empty() {
                    return Err(rejected("the file has more than the patch removes", 0));
                }
                None
            } else {
                Some(patched.into_bytes())
            };
            changed.files.insert(path.clone(), content.clone());
            result.insert(path, content);
        }
        if result.is_empty() {
            return Err(bad("no differences".into()));
        }
        Ok(result)
    }

    /// Writes the changed files below a directory.
    pub fn write(&self, directory: &Path) -> Result<(), Error> {
        for (path, content) in &self.files {
            let path = directory.join(path);
            let Some(content) = content else {
                fs::remove_file(&path).map_err(host(path.display()))?;
                continue;
            };
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(host(folder.display()))?;
            }
            super::write_new(&path, content)?;
        }
        Ok(())
    }
}

/// A path that stays below the tree.
fn inside(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    (plain && path.components().next().is_some()).then(|| path.to_path_buf())
}

/// The number, from 0, of the hunk that an error of `diffy` names.
fn failed_hunk(message: &str) -> usize {
    let number = message.rsplit('#').next().and_then(|digits| digits.trim().parse::<usize>().ok());
    number.unwrap_or(1).saturating_sub(1)
}

/// A hunk as a patch writes it.
fn shown(patch: &diffy::Patch<'_, str>, number: usize) -> String {
    let Some(hunk) = patch.hunks().get(number) else { return String::new() };
    let range = |range: diffy::HunkRange| format!("{},{}", range.start(), range.len());
    let mut text = format!("@@ -{} +{} @@\n", range(hunk.old_range()), range(hunk.new_range()));
    for line in hunk.lines().iter().take(SHOWN_LINES) {
        let (sign, line) = match line {
            diffy::Line::Context(line) => (' ', line),
            diffy::Line::Delete(line) => ('-', line),
            diffy::Line::Insert(line) => ('+', line),
        };
        text.push(sign);
        text.push_str(line);
    }
    if hunk.lines().len() > SHOWN_LINES {
        text.push_str("...\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(diff: &str) -> Patch {
        Patch {
            name: "a-test".into(),
            what: String::new(),
            why: String::new(),
            releases: vec!["1".into()],
            needs: Vec::new(),
            default: true,
            sha256: String::new(),
            diff: diff.into(),
        }
    }

    const TWO_FILES: &str = "\
--- a/sys/one.c
+++ b/sys/one.c
@@ -2,3 +2,4 @@
 two
-three
+drei
+dreieinhalb
 four
--- /dev/null
+++ b/sys/new.c
@@ -0,0 +1 @@
+new
";

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("sys")).expect("a folder");
        let lines = "zero\none\ntwo\nthree\nfour\nfive\n";
        fs::write(folder.path().join("sys/one.c"), lines).expect("a file");
        folder
    }

    #[test]
    fn forwards_already_there_and_backwards() {
        let tree = tree();
        let patch = patch(TWO_FILES);
        let mut changes = Changes::new(tree.path());
        assert_eq!(changes.apply(&patch).expect("it applies, a line further down"), State::Applies);
        assert_eq!(
            changes.files[Path::new("sys/one.c")].as_deref(),
            Some(&b"zero\none\ntwo\ndrei\ndreieinhalb\nfour\nfive\n"[..])
        );
        assert_eq!(fs::read(tree.path().join("sys/one.c")).expect("a file").len(), 29);
        assert_eq!(changes.apply(&patch).expect("it is there"), State::AlreadyThere);
        changes.write(tree.path()).expect("writing");
        let mut back = Changes::new(tree.path());
        assert_eq!(back.apply(&patch).expect("it is there"), State::AlreadyThere);
        back.reverse(&patch).expect("backwards");
        assert_eq!(back.files[Path::new("sys/new.c")], None);
        back.write(tree.path()).expect("writing");
        assert!(!tree.path().join("sys/new.c").exists());
        assert_eq!(fs::read(tree.path().join("sys/one.c")).expect("a file").len(), 29);
    }

    #[test]
    fn the_hunk_that_fails_is_shown() {
        let tree = tree();
        let diff = "--- a/sys/one.c\n+++ b/sys/one.c\n@@ -1 +1 @@\n-zero\n+null\n@@ -3 +3 @@\n-zwei\n+deux\n";
        let error = Changes::new(tree.path()).apply(&patch(diff)).expect_err("it doesn't fit").to_string();
        assert!(error.contains("sys/one.c: hunk 2 of 2\n@@ -3,1 +3,1 @@\n-zwei\n+deux"), "{error}");
        let missing = "--- a/sys/two.c\n+++ b/sys/two.c\n@@ -1 +1 @@\n-a\n+b\n";
        let error = Changes::new(tree.path()).apply(&patch(missing)).expect_err("no file").to_string();
        assert!(error.contains("no such file"), "{error}");
    }

    #[test]
    fn nothing_outside_the_tree_is_touched() {
        let tree = tree();
        for path in ["../x", "/etc/passwd", "sys/../../x"] {
            let diff = format!("--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-a\n+b\n");
            let error = Changes::new(tree.path()).apply(&patch(&diff)).expect_err("outside").to_string();
            assert!(error.contains("not a path below"), "{path}: {error}");
        }
        assert!(Changes::new(tree.path()).apply(&patch("--- a/x\n+++ b/x\n@@ -1 +9 @@\n-a\n")).is_err());
    }
}
