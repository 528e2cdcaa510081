//! The command line's `mount=` words: one mount each, its target first, then `key=value` and flags between commas.
//!
//! ```text
//! mount=/data,source=/dev/vda,type=ext4,format,read_only
//! mount=/scratch,type=tmpfs,size=67108864
//! ```
//!
//! What is given replaces what was baked for the same target, the rest stays; a target that wasn't baked is added. `size`
//! is in bytes.

use alloc::{string::String, vec::Vec};

use crate::config::Mount;

/// What such a word begins with.
pub const PREFIX: &[u8] = b"mount=";

/// Changes the mounts as a word says, of which `text` stands behind `mount=`. What makes no sense is left out.
pub fn apply(text: &[u8], mounts: &mut Vec<Mount>) {
    let mut parts = text.split(|&byte| byte == b',');
    let target = parts.next().unwrap_or_default();
    if !target.starts_with(b"/") {
        return;
    }
    let place = mounts.iter().position(|mount| mount.target == target).unwrap_or_else(|| {
        mounts.push(Mount {
            source: Vec::new(),
            target: target.to_vec(),
            kind: String::new(),
            read_only: false,
            format: false,
            size: 0,
            exported_to: Vec::new(),
        });
        mounts.len() - 1
    });
    let Some(mount) = mounts.get_mut(place) else { return };
    for part in parts {
        let cut = part.iter().position(|&byte| byte == b'=').unwrap_or(part.len());
        let value = part.get(cut + 1..).unwrap_or_default();
        let text = || core::str::from_utf8(value).unwrap_or_default();
        match &part[..cut] {
            b"source" => mount.source = value.to_vec(),
            b"type" => mount.kind = text().into(),
            b"size" => mount.size = text().parse().unwrap_or(mount.size),
            b"format" => mount.format = true,
            b"read_only" => mount.read_only = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_change_and_add_mounts() {
        let mut mounts = Vec::new();
        apply(b"/data,source=/dev/vda,type=ext4,format", &mut mounts);
        apply(b"/scratch,type=tmpfs,size=4096,colour=red,size=x", &mut mounts);
        apply(b"/data,source=/dev/vdb,read_only", &mut mounts);
        apply(b"data,type=ext4", &mut mounts);
        apply(b"", &mut mounts);
        let [data, scratch] = &mounts[..] else { panic!("{mounts:?}") };
        assert_eq!((&data.source[..], &data.kind[..]), (&b"/dev/vdb"[..], "ext4"));
        assert!(data.format && data.read_only);
        assert_eq!((&scratch.target[..], &scratch.kind[..], scratch.size), (&b"/scratch"[..], "tmpfs", 4096));
    }
}
