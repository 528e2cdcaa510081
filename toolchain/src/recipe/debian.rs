//! Whether the Debian packages that a recipe needs are there; if not, what to do.

use std::{
    collections::HashSet,
    process::{Command, Stdio},
};

use super::{Placed, Recipe, Source, error::Error};
use crate::{configs::distance, package};

/// The packages that a recipe names for its image.
pub fn wanted(recipe: &Recipe) -> Vec<&Placed<String>> {
    let of_source = match &recipe.source {
        Source::Debian(names) => names.as_slice(),
        _ => &[],
    };
    of_source.iter().chain(&recipe.packages).collect()
}

/// The packages that its build commands need on the host.
pub fn needed_to_build(recipe: &Recipe) -> &[String] {
    match &recipe.source {
        Source::Archive { build, .. } | Source::Folder { build, .. } => &build.requires,
        _ => &[],
    }
}

/// The names of packages that are installed, and of what they provide.
pub fn installed(database: &[package::Package]) -> HashSet<&str> {
    database
        .iter()
        .flat_map(|package| package.provides.iter().chain([&package.name]))
        .map(String::as_str)
        .collect()
}

/// Complains of packages that are absent.
pub fn check(recipe: &Recipe, database: &[package::Package]) -> Result<(), Error> {
    let installed = installed(database);
    let absent = |name: &&str| !installed.contains(name);
    let named = wanted(recipe);
    let mut missing: Vec<&str> = named.iter().map(|name| name.value.as_str()).filter(absent).collect();
    if missing.is_empty() && needed_to_build(recipe).iter().all(|name| installed.contains(name.as_str())) {
        return Ok(());
    }
    let known = archive();
    for name in named {
        if !known.is_empty() && missing.contains(&name.value.as_str()) && !known.contains(&name.value) {
            let nearest = known.iter().min_by_key(|known| (distance(&name.value, known), known.len()));
            let nearest = nearest.filter(|known| distance(&name.value, known) <= 2);
            let hint = nearest.map(|known| format!("; did you mean `{known}`?")).unwrap_or_default();
            return Err(Error::NoSuch {
                place: name.place.clone(),
                message: format!("there is no Debian package `{}`{hint}", name.value),
            });
        }
    }
    missing.extend(needed_to_build(recipe).iter().map(String::as_str).filter(absent));
    Err(Error::Missing(format!(
        "{}: not installed: {names}; install with: apt-get install --no-install-recommends {names}",
        recipe.name,
        names = missing.join(" ")
    )))
}

/// Every package that apt knows; nothing if there is no apt, or if it knows none.
fn archive() -> HashSet<String> {
    let output = Command::new("apt-cache").arg("pkgnames").stdin(Stdio::null()).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().map(String::from).collect()
}
