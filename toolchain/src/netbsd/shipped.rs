//! Tests of the patch sets that the project ships: on a tree that is made of the patches' own context, and on a real one
//! where `NETBSD_SRC` names it.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use diffy::{
    Line,
    patch_set::{FileOperation, ParseOptions, PatchSet},
};

use super::{
    patches::{Changes, State},
    series::{Patch, Series, folder},
    tree::Tree,
};

/// Lines of context that a hunk may have on a side.
const CONTEXT: usize = 2;

fn releases() -> Vec<String> {
    let entries = fs::read_dir(folder().expect("the patch sets")).expect("the patch sets");
    let entries = entries.map(|entry| entry.expect("an entry"));
    let sets = entries.filter(|entry| entry.path().join("series").exists());
    sets.map(|entry| entry.file_name().into_string().expect("a release")).collect()
}

fn series(release: &str) -> Series {
    Series::required(&folder().expect("the patch sets"), release).expect("a series")
}

/// The lines of old files that a patch knows, by their numbers; its hunks' shape is checked on the way.
fn old_lines(patch: &Patch, files: &mut BTreeMap<PathBuf, BTreeMap<usize, Vec<u8>>>) {
    for part in PatchSet::parse_bytes(&patch.diff, ParseOptions::unidiff()) {
        let part = part.unwrap_or_else(|error| panic!("{}: {error}", patch.name));
        let operation = part.operation().strip_prefix(1);
        let FileOperation::Modify { modified, .. } = &operation else { continue };
        let path = PathBuf::from(String::from_utf8_lossy(modified).into_owned());
        let lines = files.entry(path).or_default();
        for hunk in part.patch().as_text().expect("text").hunks() {
            let is_context = |line: &&Line<'_, [u8]>| matches!(line, Line::Context(_));
            let before = hunk.lines().iter().take_while(is_context).count();
            let after = hunk.lines().iter().rev().take_while(is_context).count();
            assert!(before <= CONTEXT && after <= CONTEXT, "{}: more context than it needs", patch.name);
            let old = hunk.lines().iter().filter_map(|line| match line {
                Line::Context(line) | Line::Delete(line) => Some(line.to_vec()),
                Line::Insert(_) => None,
            });
            for (number, line) in (hunk.old_range().start()..).zip(old) {
                let known = lines.insert(number, line.clone()).unwrap_or(line.clone());
                assert_eq!(known, line, "{}: line {number} is another in an earlier patch", patch.name);
            }
        }
    }
}

/// Applies a series as a whole, finds it there, and takes it back; then every patch that needs no other alone.
fn round_trip(root: &Path, series: &Series, original: impl Fn(&Path) -> Option<Vec<u8>>) {
    let mut changes = Changes::new(root);
    let mut applied = Vec::new();
    for patch in &series.patches {
        match changes.apply(patch).unwrap_or_else(|error| panic!("{error}")) {
            State::Applies => applied.push(patch),
            state => println!("{}: {state:?}", patch.name),
        }
    }
    for patch in &applied {
        assert_eq!(changes.clone().apply(patch).expect("it is there"), State::AlreadyThere, "{}", patch.name);
    }
    for patch in applied.iter().rev() {
        changes.reverse(patch).unwrap_or_else(|error| panic!("{error}"));
    }
    for (path, content) in &changes.files {
        assert_eq!(*content, original(path), "{}", path.display());
    }
    for patch in series.patches.iter().filter(|patch| patch.needs.is_empty()) {
        Changes::new(root).apply(patch).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn every_series_applies_to_its_own_context() {
    let releases = releases();
    assert!(releases.iter().any(|release| release == "7.99"), "{releases:?}");
    for release in releases {
        let series = series(&release);
        let folder = folder().expect("the patch sets").join(&release);
        let files = fs::read_dir(&folder).expect("the set").map(|entry| entry.expect("an entry").path());
        let patches = files.filter(|path| path.extension().is_some_and(|extension| extension == "patch"));
        for patch in patches {
            let name = patch.file_stem().unwrap_or_default().to_string_lossy();
            let listed = series.patches.iter().any(|listed| listed.name == name);
            assert!(listed, "{name} isn't in the series of {release}");
        }
        let mut files = BTreeMap::new();
        for patch in &series.patches {
            assert!(patch.is_for(&release), "{}: Releases doesn't name {release}", patch.name);
            old_lines(patch, &mut files);
        }
        let tree = tempfile::tempdir().expect("a folder");
        for (path, lines) in files {
            let last = lines.last_key_value().map_or(0, |(&number, _)| number);
            let mut content = Vec::new();
            for number in 1..=last + 1 {
                let filler = format!("line {number} of something else\n").into_bytes();
                content.extend_from_slice(lines.get(&number).unwrap_or(&filler));
            }
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, content).expect("a file");
        }
        round_trip(tree.path(), &series, |path| fs::read(tree.path().join(path)).ok());
    }
}

#[test]
fn a_series_applies_to_a_real_tree() {
    let Some(source) = env::var_os("NETBSD_SRC") else {
        println!("skipped: no NetBSD tree");
        return;
    };
    let tree = Tree::open(Path::new(&source)).expect("a tree");
    round_trip(&tree.root, &series(&tree.version), |path| fs::read(tree.root.join(path)).ok());
}
