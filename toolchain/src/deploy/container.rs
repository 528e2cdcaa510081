//! A container image with one file, as an OCI archive (a tar file with an image layout): what `skopeo copy
//! oci-archive:` pushes to a registry. The same input gives the same bytes.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use oci_spec::image::{
    Arch, Config, Descriptor, Digest, ImageConfiguration, ImageIndexBuilder, ImageManifestBuilder, MediaType,
    Os, RootFsBuilder, Sha256Digest,
};
use sha2::Digest as _;

use super::Error;
use crate::output::Output;

/// QEMU's user in KubeVirt's containers: the file must be readable by it.
const USER: u64 = 107;
/// The annotation of an image's tag in an index (OCI image specification, annotations).
const TAG: &str = "org.opencontainers.image.ref.name";

/// Writes to a file and hashes what it writes.
struct Hashing<W> {
    inner: W,
    hash: sha2::Sha256,
    length: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Hashing { inner, hash: sha2::Sha256::new(), length: 0 }
    }

    fn digest(self) -> String {
        self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hash.update(&bytes[..length]);
        self.length += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A compressed layer: its file, hashes of the tar file and of what is in the file.
struct Layer {
    file: File,
    diff_id: String,
    digest: String,
    length: u64,
}

/// Writes an archive with the file `content` at `inside` to `path`.
pub fn write(path: &Path, content: &str, inside: &str, reference: &str) -> Result<(), Error> {
    let mut output = Output::create(path)?;
    let failed = |source: io::Error| Error::File { path: path.into(), source };
    let malformed =
        |error: oci_spec::OciSpecError| Error::Format { what: "container image", message: error.to_string() };
    let tag = reference
        .rsplit_once(':')
        .map_or("latest", |(_, tag)| if tag.contains('/') { "latest" } else { tag });
    let layer = layer(content, inside).map_err(|source| Error::File { path: content.into(), source })?;
    let describe = |kind: MediaType, length: u64, digest: &str| -> Result<Descriptor, Error> {
        let digest: Sha256Digest = digest.parse().map_err(malformed)?;
        Ok(Descriptor::new(kind, length, Digest::from(digest)))
    };

    let root = RootFsBuilder::default().typ("layers").diff_ids([format!("sha256:{}", layer.diff_id)]).build();
    let mut configuration = ImageConfiguration::default();
    configuration.set_architecture(Arch::Amd64).set_os(Os::Linux).set_rootfs(root.map_err(malformed)?);
    configuration.set_config(Some(Config::default()));
    let configuration = configuration.to_string().map_err(malformed)?;
    let configuration_digest = sha256(configuration.as_bytes());
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(describe(MediaType::ImageConfig, configuration.len() as u64, &configuration_digest)?)
        .layers([describe(MediaType::ImageLayerGzip, layer.length, &layer.digest)?])
        .build()
        .and_then(|manifest| manifest.to_string())
        .map_err(malformed)?;
    let manifest_digest = sha256(manifest.as_bytes());
    let mut descriptor = describe(MediaType::ImageManifest, manifest.len() as u64, &manifest_digest)?;
    descriptor.set_annotations(Some([(TAG.to_owned(), tag.to_owned())].into()));
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests([descriptor])
        .build()
        .and_then(|index| index.to_string())
        .map_err(malformed)?;

    let mut archive = tar::Builder::new(output.file());
    let layout = "{\"imageLayoutVersion\":\"1.0.0\"}";
    let mut add = |name: &str, bytes: &mut dyn Read, length: u64| {
        archive.append_data(&mut header(length, 0, 0o644), name, bytes).map_err(failed)
    };
    let blob = |digest: &str| format!("blobs/sha256/{digest}");
    for (name, text) in [
        ("oci-layout", layout),
        ("index.json", &index),
        (&blob(&manifest_digest), &manifest),
        (&blob(&configuration_digest), &configuration),
    ] {
        add(name, &mut text.as_bytes(), text.len() as u64)?;
    }
    let Layer { mut file, digest, length, .. } = layer;
    add(&blob(&digest), &mut file, length)?;
    archive.finish().map_err(failed)?;
    drop(archive);
    output.finish()?;
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    let mut hashing = Hashing::new(io::sink());
    // Nothing can fail where nothing is written.
    let _ = hashing.write_all(bytes);
    hashing.digest()
}

fn header(length: u64, user: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(length);
    header.set_uid(user);
    header.set_gid(user);
    header.set_mode(mode);
    header.set_mtime(0);
    header
}

fn layer(content: &str, inside: &str) -> io::Result<Layer> {
    let mut source = File::open(content)?;
    let length = source.metadata()?.len();
    let compressed = Hashing::new(tempfile::tempfile()?);
    let plain = Hashing::new(GzEncoder::new(compressed, Compression::default()));
    let mut archive = tar::Builder::new(plain);
    let inside = inside.trim_start_matches('/');
    if let Some((folder, _)) = inside.rsplit_once('/') {
        let mut folder_header = header(0, USER, 0o555);
        folder_header.set_entry_type(tar::EntryType::Directory);
        archive.append_data(&mut folder_header, format!("{folder}/"), io::empty())?;
    }
    archive.append_data(&mut header(length, USER, 0o440), inside, &mut source)?;
    let plain = archive.into_inner()?;
    let Hashing { inner, hash, .. } = plain;
    let mut compressed = inner.finish()?;
    compressed.flush()?;
    compressed.inner.rewind()?;
    let file = compressed.inner.try_clone()?;
    let diff_id = Hashing { inner: (), hash, length: 0 }.digest();
    let length = compressed.length;
    Ok(Layer { file, diff_id, digest: compressed.digest(), length })
}
