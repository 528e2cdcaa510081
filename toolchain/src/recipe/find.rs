//! Finds recipes by name: in the folders that the user gives, in `./packages`, and in the project's own.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{FILE, Recipe, load};
use crate::{configs::distance, configuration, kernel};

/// Where recipes are kept, in a project.
const FOLDER: &str = "packages";

/// Why a recipe isn't found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of this name.
    #[error(
        "no recipe `{name}`{}: looked for {name}/{FILE} in {looked}",
        nearest.as_ref().map(|nearest| format!(", did you mean `{nearest}`?")).unwrap_or_default()
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// The recipe whose name is nearest.
        nearest: Option<String>,
        /// Where it was looked for.
        looked: String,
    },
    /// It is there and wrong.
    #[error(transparent)]
    Wrong(#[from] configuration::Error),
}

/// The folders that are searched, in order.
pub fn search_path(given: &[PathBuf]) -> Vec<PathBuf> {
    let own = kernel::source_directory().ok().map(|source| source.join(FOLDER));
    let mut folders = given.to_vec();
    for folder in [Some(PathBuf::from(FOLDER)), own].into_iter().flatten() {
        let same = |other: &PathBuf| other.canonicalize().ok() == folder.canonicalize().ok();
        if folder.is_dir() && !folders.iter().any(same) {
            folders.push(folder);
        }
    }
    folders
}

/// The folders of all recipes, by name; the first of a name counts.
pub fn all(given: &[PathBuf]) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for folder in search_path(given) {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if let Ok(name) = entry.file_name().into_string()
                && entry.path().join(FILE).is_file()
            {
                found.entry(name).or_insert_with(|| entry.path());
            }
        }
    }
    found
}

/// The recipe with a name, or in a folder.
pub fn find(name: &str, given: &[PathBuf]) -> Result<Recipe, Error> {
    let path = Path::new(name);
    if path.is_file() && path.file_name().is_some_and(|file| file == FILE) {
        return find_in(path.parent().unwrap_or(Path::new(".")));
    }
    if name.contains('/') || name == "." {
        return find_in(path);
    }
    let recipes = all(given);
    if let Some(folder) = recipes.get(name) {
        return find_in(folder);
    }
    let nearest = recipes.keys().min_by_key(|known| distance(name, known));
    let looked: Vec<_> = search_path(given).iter().map(|folder| folder.display().to_string()).collect();
    Err(Error::Unknown {
        name: name.into(),
        nearest: nearest.filter(|known| distance(name, known) <= 3).cloned(),
        looked: looked.join(", "),
    })
}

/// The recipe in a folder.
pub fn find_in(folder: &Path) -> Result<Recipe, Error> {
    Ok(load(folder)?)
}
