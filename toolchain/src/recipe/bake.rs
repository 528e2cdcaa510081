//! Bakes recipes, and keeps the images: one whose inputs did not change is not baked again.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use super::{
    Recipe, debian,
    error::{Error, host_error},
    source::build,
};
use crate::{
    bake::{BakeRequest, Format, bake},
    hash::{self, Parts},
    kernel,
    output::{self, Output},
    package,
    report::Report,
};

/// Version of what goes into a key.
const KEY_VERSION: &[u8] = b"1";
/// How many images are kept.
const KEPT: usize = 48;
/// What the baker itself is made of, besides what kernels are.
const BAKER: &str = "toolchain/src";

/// An image of a recipe.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Baked {
    /// The recipe's name.
    pub name: String,
    /// Whether it was baked just now or taken from the cache.
    pub cached: bool,
    /// The image.
    pub output: PathBuf,
    /// Of the image.
    pub sha256: String,
    /// Of the image.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// The hash of everything that decides how the image comes out.
    pub key: String,
}

/// What decides how an image comes out, hashed: the recipe and its files, the versions of packages, the program's
/// sources, the kernel, the baker, the format. Nothing is built for it.
pub fn key(recipe: &Recipe, format: Format) -> Result<String, Error> {
    let database = package::database()?;
    debian::check(recipe, &database)?;
    let mut parts = Parts::default();
    parts.add(KEY_VERSION);
    parts.add(env!("CARGO_PKG_VERSION"));
    parts.add(format!("{format:?}"));
    parts.add(&recipe.name);
    build::add_folder(&mut parts, &recipe.folder)?;
    parts.add(build::key(recipe)?);
    // What decides about times in the image.
    parts.add(std::env::var("SOURCE_DATE_EPOCH").unwrap_or_default());
    let named: Vec<String> = debian::wanted(recipe).iter().map(|name| name.value.clone()).collect();
    if named.is_empty() {
        // Which libraries a program of our own finds on this host is not known yet: all of them count.
        for package in &database {
            parts.add(format!("{}={}", package.name, package.version));
        }
    }
    for version in package::versions(&database, &named)? {
        parts.add(version);
    }
    parts.add(kernel::cache_key(recipe.config)?);
    if let Ok(source) = kernel::source_directory()
        && source.join(BAKER).is_dir()
    {
        build::add_folder(&mut parts, &source.join(BAKER))?;
    }
    Ok(parts.finish())
}

/// Bakes a recipe to `output`, or copies what was baked of the same inputs; writes `output.sha256` beside it.
pub fn recipe(recipe: &Recipe, output: &Path, format: Format, report: &dyn Report) -> Result<Baked, Error> {
    let started = Instant::now();
    let key = key(recipe, format)?;
    let images = kernel::cache_directory()?.join("images");
    fs::create_dir_all(&images).map_err(host_error(&images))?;
    let kept = images.join(&key[..32]);
    let known = kept.with_extension("sha256");
    let sha256 = fs::read_to_string(&known).ok().filter(|_| kept.is_file());
    let cached = sha256.is_some();
    let sha256 = match sha256 {
        Some(sha256) => sha256,
        None => {
            report.step(&format!("baking {}", recipe.name));
            bake(&request(recipe, &kept, format, report)?, report)?;
            let sha256 = hash::file(&kept).map_err(host_error(&kept))?;
            fs::write(&known, &sha256).map_err(host_error(&known))?;
            sha256
        }
    };
    // It was used: among those that are kept, it is the newest.
    let _ =
        fs::File::options().append(true).open(&kept).and_then(|file| file.set_modified(SystemTime::now()));
    let bytes = write(output, |file| {
        let mut image = fs::File::open(&kept)?;
        std::io::copy(&mut image, file)
    })?;
    let file_name = output.file_name().unwrap_or_default().display();
    let mut beside = output.as_os_str().to_owned();
    beside.push(".sha256");
    write(Path::new(&beside), |file| {
        use std::io::Write;
        writeln!(file, "{sha256}  {file_name}").map(|()| 0)
    })?;
    forget_old(&images);
    Ok(Baked {
        name: recipe.name.clone(),
        cached,
        output: output.into(),
        sha256,
        bytes,
        seconds: started.elapsed().as_secs_f64(),
        key,
    })
}

fn write(
    path: &Path,
    contents: impl FnOnce(&mut fs::File) -> std::io::Result<u64>,
) -> Result<u64, output::Error> {
    let mut output = Output::create(path)?;
    let written = contents(output.file()).map_err(|source| output::Error { path: path.into(), source })?;
    output.finish()?;
    Ok(written)
}

/// The name of a recipe's image, without a folder.
pub fn file_name(recipe: &Recipe, format: Format) -> String {
    let extension = match format {
        Format::Elf => "elf",
        Format::Iso => "iso",
        Format::Raw => "raw",
    };
    format!("{}.{extension}", recipe.name)
}

fn request(
    recipe: &Recipe,
    output: &Path,
    format: Format,
    report: &dyn Report,
) -> Result<BakeRequest, Error> {
    let obtained = build::obtain(recipe, report)?;
    let mut files = obtained.files;
    files.extend(recipe.files.iter().cloned());
    Ok(BakeRequest {
        netbsd: None,
        config: recipe.config,
        output: output.into(),
        format,
        programs: Vec::new(),
        trees: Vec::new(),
        packages: package::Selection {
            names: debian::wanted(recipe).iter().map(|name| name.value.clone()).collect(),
            without: recipe.without.clone(),
            exclude: recipe.exclude.clone(),
        },
        files,
        components: obtained.components,
        compress: recipe.compress,
        configuration: recipe.configuration.clone(),
    })
}

/// Removes the images that were used longest ago.
fn forget_old(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut images: Vec<_> = entries
        .filter(|entry| entry.path().extension().is_none())
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .filter(|(_, path)| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")))
        .collect();
    images.sort();
    for (_, path) in images.iter().rev().skip(KEPT) {
        let _ = fs::remove_file(path);
        let _ = fs::remove_file(path.with_extension("sha256"));
    }
}
