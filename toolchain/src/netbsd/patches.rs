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
    /// The tree lacks what it would change.
    NothingToPatch,
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
        if let Some(path) = &patch.concerns
            && self.read(path)?.is_none()
        {
            return Ok(State::NothingToPatch);
        }
        if !patch.already_there.is_empty() && self.has_all(&patch.already_there)? {
            return Ok(State::AlreadyThere);
        }
        // Backwards first: where a hunk inserts lines after its only line of context, it would fit once more.
        if patch.inserts() && self.attempt(patch, true).is_ok() {
            return Ok(State::AlreadyThere);
        }
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

    fn has_all(&self, texts: &[(PathBuf, String)]) -> Result<bool, Error> {
        for (path, text) in texts {
            let content = self.read(path)?.unwrap_or_default();
            if !content.windows(text.len().max(1)).any(|part| part == text.as_bytes()) {
                return Ok(false);
            }
        }
        Ok(true)
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
        for part in PatchSet::parse_bytes(&patch.diff, ParseOptions::unidiff()) {
            let part = part.map_err(|error| bad(error.to_string()))?;
            let operation = part.operation().strip_prefix(1);
            let (path, mut creates, mut deletes) = match &operation {
                FileOperation::Create(path) => (path, true, false),
                FileOperation::Delete(path) => (path, false, true),
                FileOperation::Modify { modified, .. } => (modified, false, false),
                _ => return Err(bad("renames and copies are not supported".into())),
            };
            let path = String::from_utf8_lossy(path);
            let path = inside(&path).ok_or_else(|| bad(format!("{path}: not a path below the tree")))?;
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
            let patched = place(&original, &text).map_err(|(hunk, reason)| {
                rejected(&format!("hunk {} of {} {reason}", hunk + 1, text.hunks().len()), hunk)
            })?;
            let content = if deletes {
                if !patched.is_empty() {
                    return Err(rejected("the file has more than the patch removes", 0));
                }
                None
            } else {
                Some(patched)
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

/// A file after a patch: every hunk goes to its line (moved as the hunk before it was), or else to the only place after
/// the hunk before it that has its lines. The error is the hunk's number, from 0, and what is the matter with it.
fn place(original: &[u8], patch: &diffy::Patch<'_, [u8]>) -> Result<Vec<u8>, (usize, String)> {
    let lines: Vec<&[u8]> = original.split_inclusive(|&byte| byte == b'\n').collect();
    let (mut result, mut done, mut moved) = (Vec::with_capacity(original.len()), 0, 0);
    for (number, hunk) in patch.hunks().iter().enumerate() {
        let old = hunk.lines().iter().filter_map(|line| match line {
            diffy::Line::Context(line) | diffy::Line::Delete(line) => Some(*line),
            diffy::Line::Insert(_) => None,
        });
        let before: Vec<&[u8]> = old.collect();
        let fits = |at: usize| lines.get(at..).is_some_and(|rest| rest.starts_with(&before));
        // A hunk without old lines stands after its line, others at it.
        let line = hunk.old_range().start().saturating_sub(usize::from(!before.is_empty()));
        let expected = line.checked_add_signed(moved).filter(|&at| at >= done && fits(at));
        let at = match expected {
            Some(at) => at,
            None => {
                let mut places = (done..lines.len()).filter(|&at| !before.is_empty() && fits(at));
                match (places.next(), places.next()) {
                    (Some(at), None) => at,
                    (Some(first), Some(second)) => {
                        let reason = format!("has several places: lines {} and {}", first + 1, second + 1);
                        return Err((number, reason));
                    }
                    (None, _) => return Err((number, "does not fit".into())),
                }
            }
        };
        moved = at as isize - line as isize;
        result.extend(lines[done..at].concat());
        for line in hunk.lines() {
            if let diffy::Line::Context(line) | diffy::Line::Insert(line) = line {
                result.extend_from_slice(line);
            }
        }
        done = at + before.len();
    }
    result.extend(lines[done..].concat());
    Ok(result)
}

/// A hunk as a patch writes it.
fn shown(patch: &diffy::Patch<'_, [u8]>, number: usize) -> String {
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
        text.push_str(&String::from_utf8_lossy(line));
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
        Patch { name: "a-test".into(), diff: diff.into(), ..Patch::default() }
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
        let mut insertion = self::patch("--- a/sys/one.c\n+++ b/sys/one.c\n@@ -1 +1,2 @@\n zero\n+half\n");
        assert_eq!(Changes::new(tree.path()).apply(&insertion).expect("it applies"), State::Applies);
        let mut twice = Changes::new(tree.path());
        twice.apply(&insertion).expect("it applies");
        assert_eq!(twice.apply(&insertion).expect("it is there"), State::AlreadyThere, "not inserted again");
        insertion.diff = b"--- a/sys/one.c\n+++ b/sys/one.c\n@@ -1,2 +1 @@\n zero\n-one\n".to_vec();
        assert_eq!(Changes::new(tree.path()).apply(&insertion).expect("it applies"), State::Applies);
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
        assert!(
            error.contains("sys/one.c: hunk 2 of 2 does not fit\n@@ -3,1 +3,1 @@\n-zwei\n+deux"),
            "{error}"
        );
        let missing = "--- a/sys/two.c\n+++ b/sys/two.c\n@@ -1 +1 @@\n-a\n+b\n";
        let error = Changes::new(tree.path()).apply(&patch(missing)).expect_err("no file").to_string();
        assert!(error.contains("no such file"), "{error}");
    }

    #[test]
    fn a_hunk_with_several_places_has_none() {
        let tree = tree();
        fs::write(tree.path().join("sys/one.c"), "x\na\nb\na\nb\n").expect("a file");
        let diff = |line: u32| format!("--- a/sys/one.c\n+++ b/sys/one.c\n@@ -{line},2 +{line} @@\n-a\n b\n");
        let mut changes = Changes::new(tree.path());
        let error = changes.apply(&patch(&diff(1))).expect_err("two places").to_string();
        assert!(error.contains("several places: lines 2 and 4"), "{error}");
        changes.apply(&patch(&diff(4))).expect("its line decides");
        assert_eq!(changes.files[Path::new("sys/one.c")].as_deref(), Some(&b"x\na\nb\nb\n"[..]));
    }

    #[test]
    fn what_another_tree_has_is_already_there() {
        let tree = tree();
        let has = |text: &str| vec![("sys/one.c".into(), text.into())];
        let mut patch = patch("--- a/sys/one.c\n+++ b/sys/one.c\n@@ -1 +1 @@\n-null\n+nil\n");
        patch.already_there = has("three");
        assert_eq!(Changes::new(tree.path()).apply(&patch).expect("there"), State::AlreadyThere);
        patch.already_there = has("seven");
        assert!(Changes::new(tree.path()).apply(&patch).is_err());
        patch.concerns = Some("sys/one.c".into());
        assert!(Changes::new(tree.path()).apply(&patch).is_err());
        patch.concerns = Some("sys/two.c".into());
        assert_eq!(Changes::new(tree.path()).apply(&patch).expect("no such file"), State::NothingToPatch);
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
