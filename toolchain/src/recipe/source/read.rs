//! Checks `[source]`.

use std::path::Path;

use toml::Spanned;

use super::{Build, Crate, CrateFrom, Location, Output, PROGRAM_FOLDER, Source};
use crate::{
    configuration::{
        Complaint, check,
        file::{checked, complain},
    },
    recipe::{
        Placed,
        files::beside,
        read::{Context, debian_name},
        table::{OneOrMore, SourceTable},
    },
};

/// The keys that say where a program comes from.
const KINDS: &str = "one of `debian`, `archive`, `cargo` and `path`";
/// Length of a SHA-256 in hexadecimal.
const HASH_DIGITS: usize = 64;

/// Checks the table.
pub fn read(table: &Spanned<SourceTable>, context: &Context<'_>) -> Result<Source, Complaint> {
    let source = table.get_ref();
    let here = |message: String| Complaint { offset: table.span().start, message };
    let kinds = [
        ("debian", source.debian.is_some()),
        ("archive", source.archive.is_some()),
        ("cargo", source.cargo.is_some()),
        ("path", source.path.is_some()),
    ];
    let given: Vec<&str> = kinds.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    let kind = match given.as_slice() {
        [] => return Err(here(format!("[source] says nothing: give {KINDS}"))),
        [kind] => *kind,
        several => {
            return Err(here(format!("[source] has `{}`: give {KINDS}", several.join("` and `"))));
        }
    };
    belongs(source, kind).map_err(here)?;
    if let Some(names) = &source.debian {
        let offset = names.span().start;
        let names = match names.get_ref() {
            OneOrMore::One(name) => std::slice::from_ref(name),
            OneOrMore::More(names) => names.as_slice(),
        };
        if names.is_empty() {
            return Err(Complaint { offset, message: "`debian` names no package".into() });
        }
        let placed = |name: &String| match debian_name(name) {
            Ok(value) => Ok(Placed { value, place: context.place(offset) }),
            Err(message) => Err(Complaint { offset, message }),
        };
        return Ok(Source::Debian(names.iter().map(placed).collect::<Result<_, _>>()?));
    }
    if let Some(archive) = &source.archive {
        let location = if archive.get_ref().contains("://") {
            Location::Url(archive.get_ref().clone())
        } else {
            Location::File(beside(archive, context.folder)?)
        };
        let sha256 = source.sha256.as_ref().ok_or_else(|| {
            here("an archive needs its checksum: sha256 = \"...\", as `sha256sum` prints it".into())
        })?;
        return Ok(Source::Archive {
            location: Placed { value: location, place: context.place(archive.span().start) },
            sha256: context.placed(sha256, hash)?,
            build: build(source, table.span().start, context)?,
        });
    }
    if let Some(name) = &source.cargo {
        return Ok(Source::Cargo(cargo(source, name, context)?));
    }
    let Some(path) = &source.path else { return Err(here(format!("give {KINDS}"))) };
    let host = beside(path, context.folder)?;
    if source.build.is_some() || source.output.is_some() {
        if !host.is_dir() {
            return complain(path, format!("`{}` is not a folder; `build` needs one", path.get_ref()));
        }
        let build = build(source, table.span().start, context)?;
        return Ok(Source::Folder { folder: host, build });
    }
    if !host.is_file() {
        let message = "is a folder: name a program, or say with `build` and `output` how to make one";
        return complain(path, format!("`{}` {message}", path.get_ref()));
    }
    let target = match &source.target {
        Some(target) => checked(target, check::absolute)?,
        None if Path::new(path.get_ref()).is_absolute() => path.get_ref().as_bytes().to_vec(),
        None => in_program_folder(&host.file_name().unwrap_or_default().to_string_lossy()),
    };
    Ok(Source::Program { host, target })
}

/// The place of a program that comes from no package.
pub fn in_program_folder(name: &str) -> Vec<u8> {
    format!("{PROGRAM_FOLDER}/{name}").into_bytes()
}

/// Refuses keys of other kinds of source.
fn belongs(source: &SourceTable, kind: &str) -> Result<(), String> {
    let keys: [(&str, bool, &[&str]); 11] = [
        ("sha256", source.sha256.is_some(), &["archive"]),
        ("version", source.version.is_some(), &["cargo"]),
        ("features", source.features.is_some(), &["cargo"]),
        ("no_default_features", source.no_default_features.is_some(), &["cargo"]),
        ("binaries", source.binaries.is_some(), &["cargo"]),
        ("static", source.statically.is_some(), &["cargo"]),
        ("build", source.build.is_some(), &["archive", "path"]),
        ("output", source.output.is_some(), &["archive", "path"]),
        ("requires", source.requires.is_some(), &["archive", "path"]),
        ("target", source.target.is_some(), &["path"]),
        ("target", source.target.is_some() && source.build.is_some(), &[]),
    ];
    match keys.iter().find(|(_, given, kinds)| *given && !kinds.contains(&kind)) {
        Some((key, _, [])) => Err(format!("`{key}` does not go with `build`; say it in `output`")),
        Some((key, _, kinds)) => {
            Err(format!("`{key}` does not go with `{kind}`; it belongs to `{}`", kinds.join("` and `")))
        }
        None => Ok(()),
    }
}

fn hash(text: &str) -> Result<String, String> {
    let good = text.len() == HASH_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match good {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!("`{text}` is not a SHA-256: {HASH_DIGITS} hexadecimal digits")),
    }
}

/// A path that stays in the folder that it is relative to.
fn inside(text: &str) -> Result<String, String> {
    let path = Path::new(text);
    let good = path.is_relative()
        && path.components().all(|part| !matches!(part, std::path::Component::ParentDir))
        && !text.is_empty();
    match good {
        true => Ok(text.into()),
        false => Err(format!("`{text}` is not a path within the built sources")),
    }
}

fn build(source: &SourceTable, offset: usize, context: &Context<'_>) -> Result<Build, Complaint> {
    let outputs = match &source.output {
        Some(outputs) if !outputs.is_empty() => outputs,
        _ => {
            let message = "`output` is missing: output = { \"FILE\" = \"/path/in/the/image\" }".into();
            return Err(Complaint { offset, message });
        }
    };
    let output = |(file, target): (&Spanned<String>, &Spanned<String>)| {
        Ok(Output { file: context.placed(file, inside)?, target: checked(target, check::absolute)? })
    };
    Ok(Build {
        commands: source.build.clone().unwrap_or_default(),
        requires: source.requires.clone().unwrap_or_default(),
        outputs: outputs.iter().map(output).collect::<Result<_, Complaint>>()?,
    })
}

fn cargo(source: &SourceTable, name: &Spanned<String>, context: &Context<'_>) -> Result<Crate, Complaint> {
    let from = match &source.version {
        Some(version) => {
            let exact = |text: &str| {
                let number = |part: &str| part.bytes().next().is_some_and(|byte| byte.is_ascii_digit());
                match text.split('.').count() >= 3 && text.split('.').take(2).all(number) {
                    true => Ok(text.to_string()),
                    false => Err(format!("`{text}` is not an exact version, as 1.2.3")),
                }
            };
            let name_of_crate = |text: &str| {
                let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
                match !text.is_empty() && text.bytes().all(good) {
                    true => Ok(text.to_string()),
                    false => Err(format!("`{text}` can't be the name of a crate")),
                }
            };
            CrateFrom::Registry { name: checked(name, name_of_crate)?, version: checked(version, exact)? }
        }
        None => {
            let folder = beside(name, context.folder)?;
            if !folder.join("Cargo.toml").is_file() {
                let message = format!(
                    "{}: no Cargo.toml there (a crate of crates.io needs its `version`)",
                    folder.display()
                );
                return complain(name, message);
            }
            CrateFrom::Folder(folder)
        }
    };
    Ok(Crate {
        from,
        place: context.place(name.span().start),
        features: source.features.clone().unwrap_or_default(),
        no_default_features: source.no_default_features.unwrap_or(false),
        binaries: source.binaries.clone().unwrap_or_default(),
        statically: source.statically.unwrap_or(false),
    })
}
