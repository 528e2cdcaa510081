//! Baking: from programs and trees to an image file.

use std::path::{Path, PathBuf};

use image::{
    config::{Configuration, Program},
    tree, writer,
};

use crate::{
    boot_elf::{self, Kernel},
    collect::{self, Collection},
    configs::Config,
    follow::{self, Follower},
    kernel,
    manifest::Manifest,
    output::{self, Output},
    package,
    programs::Request,
    report::Report,
    skeleton,
};

/// Where programs of an image look for others.
const SEARCH_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A folder of the host that goes into the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeRequest {
    /// On the host.
    pub host: PathBuf,
    /// In the image.
    pub at: Vec<u8>,
}

/// What kind of file an image is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For `-kernel`: PVH and Multiboot2.
    #[default]
    Elf,
    /// A CD-ROM image for BIOS and UEFI.
    Iso,
    /// A disk image for BIOS and UEFI.
    Raw,
}

/// Everything that a bake is asked for.
#[derive(Debug, Clone)]
pub struct BakeRequest {
    /// The baking configuration.
    pub config: &'static Config,
    /// Where the image goes.
    pub output: PathBuf,
    /// Its format.
    pub format: Format,
    /// What runs.
    pub programs: Vec<Request>,
    /// Folders to take in.
    pub trees: Vec<TreeRequest>,
    /// Installed packages to take in.
    pub packages: Vec<String>,
    /// Everything else of the configuration; its programs are run after [`BakeRequest::programs`].
    pub configuration: Configuration,
}

/// Why a bake failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program can't be followed.
    #[error(transparent)]
    Follow(#[from] follow::Error),
    /// A file can't be taken in.
    #[error(transparent)]
    Collect(#[from] collect::Error),
    /// A package can't be taken in.
    #[error(transparent)]
    Package(#[from] package::Error),
    /// A path can't be in the image.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// No kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The root file system can't be laid out.
    #[error(transparent)]
    Layout(#[from] writer::Error),
    /// The image can't be put together.
    #[error(transparent)]
    Elf(#[from] boot_elf::Error),
    /// The output can't be written.
    #[error(transparent)]
    Output(#[from] output::Error),
}

/// Bakes an image.
pub fn bake(request: &BakeRequest, report: &dyn Report) -> Result<Manifest, Error> {
    // Found out early, before the long work.
    let mut output = Output::create(&request.output)?;
    report.step("following the programs");
    let (configuration, tree) = prepare(request, report)?;
    let kernel = Kernel::parse(&kernel::kernel(request.config, report)?)?;
    report.step("packing the root file system");
    let layout = writer::Layout::new(&tree)?;
    let manifest = {
        let mut file = std::io::BufWriter::with_capacity(1 << 18, output.file());
        boot_elf::write(&mut file, &kernel, &configuration, &layout)
            .map_err(|error| name_output(error, &request.output))?
    };
    output.finish()?;
    Ok(manifest)
}

/// An output error says where.
fn name_output(error: boot_elf::Error, path: &Path) -> Error {
    match error {
        boot_elf::Error::Write(source) | boot_elf::Error::RootFs(writer::Error::Write(source)) => {
            output::Error { path: path.into(), source }.into()
        }
        other => other.into(),
    }
}

/// The configuration with paths of the image, and everything that goes into the root file system.
fn prepare(request: &BakeRequest, report: &dyn Report) -> Result<(Configuration, tree::Tree), Error> {
    let mut collection = Collection::default();
    if !request.packages.is_empty() {
        package::add(&mut collection, &request.packages)?;
    }
    for tree in &request.trees {
        collection.add_tree(&tree.host, &tree.at)?;
    }
    let mut follower = Follower::new(collection);
    let mut configuration = request.configuration.clone();
    let baked = std::mem::take(&mut configuration.programs);
    for wanted in &request.programs {
        let Some((name, _)) = wanted.words.split_first() else { continue };
        configuration.programs.push(Program {
            path: follower.add_program(name)?,
            arguments: wanted.words.clone(),
            environment: Vec::new(),
            working_directory: None,
            then: wanted.then,
        });
    }
    for mut program in baked {
        program.path = follower.add_program(&program.path)?;
        configuration.programs.push(program);
    }
    follower.follow_trees()?;
    let mut collection = follower.finish()?;
    configuration.config = request.config.name.into();
    if configuration.hostname.is_empty() {
        configuration.hostname = "rumprun".into();
    }
    if configuration.working_directory.is_empty() {
        configuration.working_directory = b"/".to_vec();
    }
    for (name, value) in [(&b"PATH"[..], SEARCH_PATH), (b"HOME", b"/root"), (b"TERM", b"vt100")] {
        if !configuration.environment.iter().any(|(present, _)| present == name) {
            configuration.environment.push((name.to_vec(), value.to_vec()));
        }
    }
    let nameservers: Vec<String> =
        configuration.networks.iter().flat_map(|network| network.nameservers.clone()).collect();
    skeleton::complete(&mut collection.tree, &configuration.hostname, &nameservers)?;
    for warning in &collection.warnings {
        report.warn(warning);
    }
    Ok((configuration, collection.tree))
}
