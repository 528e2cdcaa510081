//! Baking: from programs and trees to an image file.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use image::{
    config::{Configuration, Program},
    tree::{self, Kind, Node},
    writer,
};

use crate::{
    boot_elf::{self, Kernel},
    collect::{self, Collection},
    configs::{Config, Place},
    disk,
    follow::{self, Follower},
    hash, kernel,
    manifest::Manifest,
    netbsd::{self, link::Link},
    output::{self, Output},
    package,
    programs::Request,
    report::Report,
    sbom, skeleton,
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
    pub packages: package::Selection,
    /// Files by their path in the image; they go before those of packages and folders.
    pub files: Vec<(Vec<u8>, Node)>,
    /// What programs of [`BakeRequest::files`] are made of, for the bill of materials.
    pub components: Vec<sbom::Component>,
    /// Linked with a NetBSD component set instead of the built-in one.
    pub netbsd: Option<NetbsdRequest>,
    /// Whether files are compressed where that makes them smaller.
    pub compress: bool,
    /// Everything else of the configuration; its programs are run after [`BakeRequest::programs`].
    pub configuration: Configuration,
}

/// An image on a NetBSD component set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetbsdRequest {
    /// The set's directory.
    pub set: PathBuf,
    /// Components beside those that every image gets.
    pub components: Vec<String>,
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
    /// A program for NetBSD with compressed files.
    #[error("programs for the NetBSD component set read files as they are: bake without --compress")]
    Compressed,
    /// A disk image for Xen's PVH domains.
    #[error(
        "{0} images are ELF files, which Xen starts without a boot loader: bake with --format elf, or hw_direct"
    )]
    ElfOnly(&'static str),
    /// The NetBSD component set.
    #[error(transparent)]
    Netbsd(#[from] netbsd::Error),
    /// What is in the image can't be told.
    #[error(transparent)]
    Sbom(#[from] sbom::Error),
    /// The root file system can't be laid out.
    #[error(transparent)]
    Layout(#[from] writer::Error),
    /// The image can't be put together.
    #[error(transparent)]
    Elf(#[from] boot_elf::Error),
    /// The disk image can't be made.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// The output can't be written.
    #[error(transparent)]
    Output(#[from] output::Error),
}

/// Bakes an image.
pub fn bake(request: &BakeRequest, report: &dyn Report) -> Result<Manifest, Error> {
    if request.config.place == Place::Xen && request.format != Format::Elf {
        return Err(Error::ElfOnly(request.config.name));
    }
    // Found out early, before the long work.
    let mut output = Output::create(&request.output)?;
    report.step("following the programs");
    let mut collection = Collection::default();
    collection.exclude(output.temporary_path());
    collection.exclude(&request.output);
    let linked = links_programs(request)?;
    if linked && request.compress {
        return Err(Error::Compressed);
    }
    let (configuration, mut tree) = prepare(request, linked, collection, report)?;
    let kernel = match &request.netbsd {
        None => {
            netbsd::configured::check_built_in(&configuration)?;
            kernel::kernel(request.config, report)?
        }
        Some(wanted) => {
            let mut components = wanted.components.clone();
            let mounted = if linked {
                netbsd::configured::components(&wanted.set, &configuration)?
            } else {
                netbsd::configured::linux_components(&wanted.set, &configuration)?
            };
            components.extend(mounted);
            let programs: Vec<PathBuf> = configuration.programs.iter().map(host_path).collect();
            let link = Link {
                set: &wanted.set,
                components: &components,
                environment: &configuration.environment,
                programs: linked.then_some(&programs),
            };
            netbsd::link::link(&link, report)?
        }
    };
    report.step("packing the root file system");
    let sha256 = hash::bytes(&kernel);
    let crates = if request.netbsd.is_some() { Vec::new() } else { kernel::crates(request.config, &sha256)? };
    let in_kernel = sbom::Kernel { crates, sha256 };
    sbom::add(&mut tree, &configuration.hostname, &in_kernel, &request.components)?;
    let mut kernel = Kernel::parse(&kernel)?;
    kernel.component_set = request
        .netbsd
        .as_ref()
        .map(|wanted| wanted.set.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let layout =
        if request.compress { writer::Layout::compressed(&tree)? } else { writer::Layout::new(&tree)? };
    let write = |output: &mut Output| {
        let mut file = std::io::BufWriter::with_capacity(1 << 18, output.file());
        let manifest = boot_elf::write(&mut file, &kernel, &configuration, &layout);
        manifest.map_err(|error| name_output(error, &request.output))
    };
    if request.format == Format::Elf {
        let manifest = write(&mut output)?;
        output.finish()?;
        return Ok(manifest);
    }
    // The ELF image is an intermediate file beside the output, where there is room if anywhere.
    let folder = output.folder()?;
    let elf_path = folder.path().join("image.elf");
    let mut elf = Output::create(&elf_path)?;
    let manifest = write(&mut elf)?;
    elf.finish()?;
    if !boot_elf::starts_with_multiboot2(&elf_path).map_err(boot_elf::Error::Write)? {
        return Err(disk::Error::NoMultiboot.into());
    }
    report.step("making the disk image");
    let make = if request.format == Format::Iso { disk::write_iso } else { disk::write_raw };
    make(&elf_path, output.temporary_path(), folder.path(), serial(&manifest))?;
    output.finish()?;
    Ok(manifest)
}

/// Whether the programs are objects for a NetBSD component set, which become a part of the kernel.
fn links_programs(request: &BakeRequest) -> Result<bool, Error> {
    let typed = request.programs.iter().filter_map(|wanted| wanted.words.first());
    let names = typed.chain(request.configuration.programs.iter().map(|program| &program.path));
    let paths = names.map(|name| Path::new(std::ffi::OsStr::from_bytes(name)));
    Ok(request.netbsd.is_some() && netbsd::link::are_objects(paths)?)
}

/// Where a program of a NetBSD component set is on the host: it is linked in, not a file of the image.
fn host_path(program: &Program) -> PathBuf {
    std::ffi::OsStr::from_bytes(&program.path).into()
}

/// A number for file systems, different for different images.
fn serial(manifest: &Manifest) -> u32 {
    u32::from_str_radix(manifest.rootfs.sha256.get(..8).unwrap_or_default(), 16).unwrap_or(1)
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
fn prepare(
    request: &BakeRequest,
    linked: bool,
    mut collection: Collection,
    report: &dyn Report,
) -> Result<(Configuration, tree::Tree), Error> {
    if !request.packages.names.is_empty() {
        package::add(&mut collection, &request.packages)?;
    }
    for tree in &request.trees {
        collection.add_tree(&tree.host, &tree.at)?;
    }
    for (path, node) in &request.files {
        if let Kind::Directory(_) = node.kind {
            let id = collection.tree.ensure_directory(path)?;
            *collection.tree.attributes_mut(id) = node.attributes;
        } else {
            collection.tree.insert_at(path, node.clone())?;
        }
    }
    let mut follower = Follower::new(collection);
    let mut configuration = request.configuration.clone();
    let baked = std::mem::take(&mut configuration.programs);
    for wanted in &request.programs {
        let Some((name, _)) = wanted.words.split_first() else { continue };
        configuration.programs.push(Program {
            path: if linked { name.clone() } else { follower.add_program(name)? },
            arguments: wanted.words.clone(),
            environment: Vec::new(),
            working_directory: None,
            then: wanted.then,
        });
    }
    for mut program in baked {
        if !linked {
            program.path = follower.add_program(&program.path)?;
        }
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
