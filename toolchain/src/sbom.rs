//! The bill of materials of an image, as CycloneDX 1.5 in JSON: the kernel, the Debian packages that its files come
//! from, the crates of its programs and of the kernel, and the programs that come from no package.
//!
//! It is made from the tree that is packed, so it names what is in the image and nothing else; equal images have
//! equal bills (no time, no serial number).

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use cyclonedx_bom::{
    models::{
        bom::{Bom, SpecVersion},
        component::{Classification, Component as Row, Components},
        hash::{Hash, HashAlgorithm, HashValue, Hashes},
        license::{LicenseChoice, Licenses},
        metadata::Metadata,
        property::{Properties, Property},
        tool::Tools,
    },
    prelude::{Purl, SpdxExpression},
};
use image::tree::{Attributes, Content, Kind, Node, ROOT, Tree};
use purl::GenericPurlBuilder;

use crate::{hash, package};

/// Where it is in the image.
pub const PATH: &str = "/usr/share/sbom/image.cdx.json";
/// How deep directories are nested at the most, as elsewhere in the baker.
const DEPTH_LIMIT: usize = 256;
/// The property with the number of a package's files that are in the image.
const FILES_PROPERTY: &str = "rumprun-bake:files";

/// Why there is no bill of materials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that goes into the image can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It can't be written down.
    #[error("the bill of materials cannot be written: {0}")]
    Write(String),
}

/// Something that a program is made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Component {
    /// The crate's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, as an SPDX expression.
    pub license: Option<String>,
    /// Whether it comes from crates.io.
    pub published: bool,
}

/// The kernel of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Hash of the file as it was built.
    pub sha256: String,
    /// The crates in it.
    pub crates: Vec<Component>,
}

/// A package URL (purl-spec): type, namespace, name, version, qualifiers.
fn purl(kind: &str, namespace: &str, name: &str, version: &str, qualifiers: &[(&str, &str)]) -> Option<Purl> {
    let mut builder = GenericPurlBuilder::new(kind.to_string(), name).with_version(version);
    if !namespace.is_empty() {
        builder = builder.with_namespace(namespace);
    }
    for (key, value) in qualifiers {
        builder = builder.with_qualifier(*key, *value).ok()?;
    }
    builder.build().ok()?.to_string().parse().ok()
}

fn row(kind: Classification, name: &str, version: &str, reference: String) -> Row {
    Row::new(kind, name, version, Some(reference))
}

fn sha256(digits: &str) -> Option<Hashes> {
    Some(Hashes(vec![Hash { alg: HashAlgorithm::SHA_256, content: HashValue(digits.into()) }]))
}

/// Adds the bill of materials to a tree that is otherwise complete.
pub fn add(tree: &mut Tree, image: &str, in_kernel: &Kernel, components: &[Component]) -> Result<(), Error> {
    let files = files(tree);
    let mut rows = vec![kernel(in_kernel)];
    let owners = owners(&files);
    let mut counts: BTreeMap<&package::Package, u64> = BTreeMap::new();
    for file in &files {
        if let Some(package) = owners.owner(&file.host) {
            *counts.entry(package).or_default() += 1;
        }
    }
    rows.extend(counts.iter().map(|(package, count)| debian(package, *count)));
    let mut components = components.to_vec();
    components.sort();
    components.dedup();
    rows.extend(components.iter().map(|component| compiled_in(component, "cargo")));
    for file in files.iter().filter(|file| file.executable && owners.owner(&file.host).is_none()) {
        rows.push(own_program(file)?);
    }
    let tool =
        row(Classification::Application, env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), "tool".into());
    let tool = Row { name: cyclonedx_bom::prelude::NormalizedString::new("rumprun-bake"), ..tool };
    let mut this = row(Classification::Application, image, "", "image".into());
    this.version = None;
    let bom = Bom {
        version: 1,
        serial_number: None,
        metadata: Some(Metadata {
            tools: Some(Tools::Object { services: None, components: Some(Components(vec![tool])) }),
            component: Some(this),
            ..Metadata::default()
        }),
        components: Some(Components(rows)),
        services: None,
        external_references: None,
        dependencies: None,
        compositions: None,
        properties: None,
        vulnerabilities: None,
        signature: None,
        annotations: None,
        formulation: None,
        spec_version: SpecVersion::V1_5,
    };
    let mut json = Vec::new();
    bom.output_as_json_v1_5(&mut json).map_err(|error| Error::Write(error.to_string()))?;
    json.push(b'\n');
    let node = Node { kind: Kind::Regular(Content::Bytes(json)), attributes: Attributes::root(0o644) };
    tree.insert_at(PATH.as_bytes(), node).map_err(|error| Error::Write(error.to_string()))?;
    Ok(())
}

fn kernel(contents: &Kernel) -> Row {
    let name = "rumprun-bake-kernel";
    let mut kernel = row(Classification::OperatingSystem, name, env!("CARGO_PKG_VERSION"), "kernel".into());
    kernel.hashes = sha256(&contents.sha256);
    let crates: Vec<Row> = contents.crates.iter().map(|component| compiled_in(component, "kernel")).collect();
    kernel.components = (!crates.is_empty()).then_some(Components(crates));
    kernel
}

fn debian(package: &package::Package, files: u64) -> Row {
    let (distribution, release) = distribution();
    let distro = format!("{distribution}-{release}");
    let reference = format!("deb:{}:{}", package.name, package.architecture);
    let mut found = row(Classification::Library, &package.name, &package.version, reference);
    let qualifiers = [("arch", package.architecture.as_str()), ("distro", distro.as_str())];
    found.purl = purl("deb", &distribution, &package.name, &package.version, &qualifiers);
    found.properties = Some(Properties(vec![Property::new(FILES_PROPERTY, &files.to_string())]));
    found
}

/// A crate of a program or of the kernel; `prefix` keeps the two apart.
fn compiled_in(component: &Component, prefix: &str) -> Row {
    let reference = format!("{prefix}:{}:{}", component.name, component.version);
    let mut found = row(Classification::Library, &component.name, &component.version, reference);
    if component.published {
        found.purl = purl("cargo", "", &component.name, &component.version, &[]);
    }
    // Cargo allows a slash where SPDX has OR.
    let license = component.license.as_ref().map(|text| text.replace('/', " OR "));
    let expression = license.and_then(|text| SpdxExpression::parse_lax(text).ok());
    found.licenses = expression.map(|expression| Licenses(vec![LicenseChoice::Expression(expression)]));
    found
}

fn own_program(file: &File) -> Result<Row, Error> {
    let digits = match &file.content {
        Content::Bytes(bytes) => hash::bytes(bytes),
        Content::File(path, _) => {
            hash::file(path).map_err(|source| Error::Read { path: path.clone(), source })?
        }
    };
    let mut found = row(Classification::File, &file.path, "", format!("file:{}", file.path));
    found.version = None;
    found.hashes = sha256(&digits);
    Ok(found)
}

/// A regular file of the image.
struct File {
    path: String,
    host: PathBuf,
    content: Content,
    executable: bool,
}

/// Every regular file, by path.
fn files(tree: &Tree) -> Vec<File> {
    let mut files = Vec::new();
    let mut pending = vec![(ROOT, String::new(), 0)];
    while let Some((id, path, depth)) = pending.pop() {
        let node = tree.node(id);
        match &node.kind {
            Kind::Directory(entries) if depth < DEPTH_LIMIT => {
                let child = |(name, id): (&Vec<u8>, &_)| {
                    (*id, format!("{path}/{}", String::from_utf8_lossy(name)), depth + 1)
                };
                pending.extend(entries.iter().rev().map(child));
            }
            Kind::Regular(content) => {
                let host = match content {
                    Content::File(host, _) => host.clone(),
                    Content::Bytes(_) => PathBuf::new(),
                };
                let executable = node.attributes.permissions & 0o111 != 0;
                files.push(File { path, host, content: content.clone(), executable });
            }
            _ => {}
        }
    }
    files
}

/// Which package a file of the host belongs to.
struct Owners {
    packages: Vec<package::Package>,
    by_path: HashMap<Vec<u8>, usize>,
}

impl Owners {
    fn owner(&self, host: &Path) -> Option<&package::Package> {
        let index = names(host).into_iter().find_map(|name| self.by_path.get(&name))?;
        self.packages.get(*index)
    }
}

fn owners(files: &[File]) -> Owners {
    // Without dpkg there are no packages.
    let packages = package::database().unwrap_or_default();
    let wanted = files.iter().flat_map(|file| names(&file.host)).collect();
    let by_path = package::owners(&packages, &wanted);
    Owners { packages, by_path }
}

/// The names that a package may list a file by: `/lib` and `/usr/lib` are the same folder, and what Python compiled
/// belongs to what it was compiled from.
fn names(path: &Path) -> Vec<Vec<u8>> {
    let mut path = path.to_path_buf();
    if path.extension().is_some_and(|extension| extension == "pyc")
        && let Some(cache) = path.parent().filter(|folder| folder.ends_with("__pycache__"))
        && let (Some(folder), Some(name)) = (cache.parent(), path.file_name().and_then(|name| name.to_str()))
        && let Some((stem, _)) = name.split_once('.')
    {
        path = folder.join(format!("{stem}.py"));
    }
    let other = match path.strip_prefix("/usr") {
        Ok(rest) => Path::new("/").join(rest),
        Err(_) => Path::new("/usr").join(path.strip_prefix("/").unwrap_or(&path)),
    };
    [path, other].into_iter().map(|path| path.into_os_string().into_encoded_bytes()).collect()
}

/// The distribution's name and release, as `debian` and `12`.
fn distribution() -> (String, String) {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_string())
    };
    (value("ID").unwrap_or_else(|| "debian".into()), value("VERSION_ID").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use cyclonedx_bom::prelude::Validate;

    use super::*;

    fn bill(components: &[Component]) -> (Vec<u8>, Bom) {
        let mut tree = Tree::new();
        let crates = components.iter().take(1).cloned().collect();
        let in_kernel = Kernel { sha256: "ab".repeat(32), crates };
        let shell = Path::new("/bin/sh").canonicalize().expect("a shell");
        let length = fs::metadata(&shell).expect("readable").len();
        let nodes = [
            (&b"/bin/sh"[..], Content::File(shell, length), 0o755),
            (b"/usr/local/bin/own", Content::Bytes(b"own".to_vec()), 0o755),
            (b"/etc/text", Content::Bytes(b"text".to_vec()), 0o644),
        ];
        for (path, content, permissions) in nodes {
            let node = Node { kind: Kind::Regular(content), attributes: Attributes::root(permissions) };
            tree.insert_at(path, node).expect("inserted");
        }
        add(&mut tree, "test", &in_kernel, components).expect("a bill of materials");
        let id = tree.resolve(PATH.as_bytes()).expect("good").expect("present");
        let Kind::Regular(Content::Bytes(json)) = &tree.node(id).kind else { panic!("not a file of ours") };
        (json.clone(), Bom::parse_from_json_v1_5(json.as_slice()).expect("CycloneDX"))
    }

    #[test]
    fn names_what_is_there() {
        let component = Component {
            name: "serde".into(),
            version: "1.0.0".into(),
            license: Some("MIT/Apache-2.0".into()),
            published: true,
        };
        let (json, bom) = bill(&[component.clone(), component]);
        assert!(bom.validate().passed(), "{:?}", bom.validate());
        assert_eq!(bill(&[]).0, bill(&[]).0);
        let rows = bom.components.expect("components").0;
        let names: Vec<String> = rows.iter().map(|row| row.name.to_string()).collect();
        assert!(names.contains(&"rumprun-bake-kernel".into()), "{names:?}");
        assert!(names.contains(&"/usr/local/bin/own".into()) && !names.contains(&"/etc/text".into()));
        assert_eq!(names.iter().filter(|name| *name == "serde").count(), 1);
        let text = String::from_utf8(json).expect("text");
        assert!(text.contains("pkg:cargo/serde@1.0.0") && text.contains("MIT OR Apache-2.0"), "{text}");
        if Path::new("/var/lib/dpkg/status").exists() {
            assert!(text.contains("pkg:deb/"), "{text}");
        } else {
            println!("skipped: no dpkg here");
        }
    }

    #[test]
    fn files_have_the_names_that_packages_list() {
        let listed = |path: &str, name: &str| names(Path::new(path)).contains(&name.as_bytes().to_vec());
        assert!(listed("/usr/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libc.so.6"));
        assert!(listed("/bin/sh", "/usr/bin/sh") && listed("/bin/sh", "/bin/sh"));
        let compiled = "/usr/lib/python3.11/__pycache__/abc.cpython-311.pyc";
        assert!(listed(compiled, "/usr/lib/python3.11/abc.py") && !listed(compiled, compiled));
    }
}
