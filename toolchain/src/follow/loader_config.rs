//! The dynamic loader's configuration, `/etc/ld.so.conf` and what it includes: the directories that
//! `ldconfig` would search, for hosts whose cache is absent or old.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// How deep files include files.
const DEPTH: usize = 8;

/// The directories, in order.
pub fn directories(file: &Path) -> Vec<Vec<u8>> {
    let mut directories = Vec::new();
    read(file, &mut directories, 0);
    directories
}

fn read(file: &Path, directories: &mut Vec<Vec<u8>>, depth: usize) {
    let Ok(bytes) = fs::read(file) else { return };
    if depth > DEPTH {
        return;
    }
    for line in bytes.split(|&byte| byte == b'\n') {
        let line = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
        if let Some(patterns) = line.strip_prefix(b"include").filter(|rest| rest.starts_with(b" ")) {
            for pattern in patterns.split(u8::is_ascii_whitespace).filter(|pattern| !pattern.is_empty()) {
                for path in matching(file, pattern) {
                    read(&path, directories, depth + 1);
                }
            }
        } else if line.first() == Some(&b'/') {
            directories.push(line.to_vec());
        }
    }
}

/// Files that an `include` means: its last component may have one `*`.
fn matching(file: &Path, pattern: &[u8]) -> Vec<PathBuf> {
    let pattern = file.with_file_name("").join(crate::collect::host_path(pattern));
    let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name()) else { return Vec::new() };
    let name = name.as_bytes();
    let Some(star) = name.iter().position(|&byte| byte == b'*') else { return vec![pattern] };
    let (prefix, suffix) = (&name[..star], &name[star + 1..]);
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.as_bytes();
            name.len() >= prefix.len() + suffix.len() && name.starts_with(prefix) && name.ends_with(suffix)
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_are_followed() {
        let folder = tempfile::tempdir().expect("folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("write");
        write("ld.so.conf", "include parts/*.conf\n/last # comment\n");
        fs::create_dir(folder.path().join("parts")).expect("folder");
        write("parts/b.conf", "/second\n");
        write("parts/a.conf", "# none\n/first\ninclude a.conf\n");
        let found = directories(&folder.path().join("ld.so.conf"));
        assert_eq!(found.first().map(Vec::as_slice), Some(b"/first".as_slice()));
        assert_eq!(found[found.len() - 2..], [b"/second".to_vec(), b"/last".to_vec()]);
    }
}
