//! What the tests of the binary share: running it, and a kernel that is only bytes, so that nothing is built.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

/// A folder with a stand-in kernel and a cache of its own.
pub struct Bench {
    folder: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("kernel"), kernel()).expect("written");
        Bench { folder }
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
        fs::write(&path, bytes).expect("written");
        path
    }

    /// The tool, in this folder.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rumprun-bake"));
        command
            .current_dir(self.folder.path())
            .env("RUMPRUN_BAKE_KERNEL", self.path("kernel"))
            .env("RUMPRUN_BAKE_CACHE", self.path("cache"))
            .env_remove("SOURCE_DATE_EPOCH");
        command
    }

    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        self.command().args(arguments).output().expect("the tool starts")
    }

    /// Runs it, wants success, and returns what it printed.
    #[track_caller]
    pub fn succeeds<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs it, wants an orderly failure, and returns the message.
    #[track_caller]
    pub fn fails<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        let output = self.run(arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("error: "), "{message}");
        message
    }

    /// What stands in the folder besides the kernel and the cache.
    pub fn listing(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.folder.path())
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .filter(|name| name != "kernel" && name != "cache")
            .collect();
        names.sort();
        names
    }
}

/// An ELF file with a Multiboot2 header, some code and a PVH note.
fn kernel() -> Vec<u8> {
    let mut content = 0xe852_50d6u32.to_le_bytes().to_vec();
    content.resize(4096, 0x90);
    let mut note = Vec::new();
    for word in [4u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(0x10_0000u32.to_le_bytes());
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 62, 1, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [0x10_0000u64, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [0u16, 0, 64, 56, 2, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut header = |kind: u32, offset: u64, length: u64, memory: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(5u32.to_le_bytes());
        for word in [offset, 0xffff_ffff_8010_0000, 0x10_0000, length, memory, 4096] {
            file.extend(word.to_le_bytes());
        }
    };
    header(1, 4096, content.len() as u64, 0x1234);
    header(4, 8192, note.len() as u64, note.len() as u64);
    file.resize(4096, 0);
    file.extend(content);
    file.extend(note);
    file
}
