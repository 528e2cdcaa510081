//! What an image's configuration needs of a component set: file systems to mount, and parameters.

use std::path::Path;

use image::config::{Configuration, Mount, exported};

use super::Error;

/// File systems of the built-in components.
pub const BUILT_IN: &[&str] = &["ext4", "tmpfs"];
/// File systems that an image with NetBSD's components mounts, and the components that have them. `ext4` is whatever
/// the disk has of them.
const COMPONENTS: &[(&str, &str)] = &[
    ("cd9660", "rumpfs_cd9660"),
    ("ext2fs", "rumpfs_ext2fs"),
    ("ext4", "rumpfs_ext2fs"),
    ("fdesc", "rumpfs_fdesc"),
    ("ffs", "rumpfs_ffs"),
    ("kernfs", "rumpfs_kernfs"),
    ("msdos", "rumpfs_msdos"),
    (NFS, "rumpfs_nfs"),
    ("ptyfs", "rumpfs_ptyfs"),
    ("tmpfs", "rumpfs_tmpfs"),
];
/// What other machines have.
const NFS: &str = "nfs";
/// What an NFS server is made of: it has much in common with the client.
const SERVER: &[&str] = &["rumpfs_nfs", "rumpfs_nfsserver"];
/// What makes a disk of a file on a mounted file system.
const FILE_DISK: &str = "rumpdev_vnd";
/// File systems that show what is NetBSD's own.
const OWN: &[&str] = &["fdesc", "kernfs", "ptyfs"];
/// File systems without a disk.
const WITHOUT_DISK: &[&str] = &["fdesc", "kernfs", "ptyfs", "tmpfs"];

/// Checks a file system's name and source, as a configuration has them.
pub fn check_mount(kind: &str, source: &str) -> Result<(), String> {
    if !COMPONENTS.iter().any(|(known, _)| *known == kind) {
        let known: Vec<&str> = COMPONENTS.iter().map(|(known, _)| *known).collect();
        let built_in = BUILT_IN.join("` and `");
        return Err(format!(
            "`{kind}` is not a file system: there are `{built_in}`, and with --kernel netbsd {}",
            known.join(", ")
        ));
    }
    if kind == NFS {
        return match exported(source.as_bytes()) {
            Some(_) => Ok(()),
            None => Err("nfs needs a server's address and a path: source = \"10.0.0.1:/data\"".into()),
        };
    }
    if !WITHOUT_DISK.contains(&kind) && !source.starts_with('/') {
        return Err(format!("{kind} needs a disk: source = \"/dev/vda\""));
    }
    Ok(())
}

fn described(mount: &Mount) -> String {
    format!("the mount {} of type {}", String::from_utf8_lossy(&mount.target), mount.kind)
}

/// Refuses what the built-in components haven't.
pub fn check_built_in(configuration: &Configuration) -> Result<(), Error> {
    check_mounts(configuration, "needs NetBSD's components: bake with --kernel netbsd")?;
    match configuration.parameters.first() {
        Some((name, _)) => Err(Error::Other(format!(
            "sysctl {name}: the built-in components have no parameters that a bake sets; --kernel netbsd has"
        ))),
        None => Ok(()),
    }
}

/// The components that the configuration needs for programs of Linux, by name. Their `ext4` and `tmpfs` are the built-in
/// ones, and what shows NetBSD's own processes and devices is of no use to them.
pub fn linux_components(set: &Path, configuration: &Configuration) -> Result<Vec<String>, Error> {
    let of_netbsd = |mount: &Mount| !BUILT_IN.contains(&mount.kind.as_str());
    for mount in &configuration.mounts {
        let otherwise = if OWN.contains(&mount.kind.as_str()) {
            "is for programs of NetBSD: those of Linux have /proc and /dev"
        } else if !mount.exported_to.is_empty() {
            "is exported, which is for programs of NetBSD"
        } else if is_on_file(mount) {
            "is on a file of the image: that takes `ext2fs` or another type of NetBSD's"
        } else if is_on_another(mount, &configuration.mounts) {
            "is on a file of another mount, which programs of NetBSD can have"
        } else {
            continue;
        };
        return Err(Error::Other(format!("{} {otherwise}", described(mount))));
    }
    needed_by(set, &configuration.mounts, of_netbsd)
}

fn is_on_file(mount: &Mount) -> bool {
    mount.kind == "ext4" && !mount.source.starts_with(b"/dev/")
}

fn check_mounts(configuration: &Configuration, otherwise: &str) -> Result<(), Error> {
    for mount in &configuration.mounts {
        if !mount.exported_to.is_empty() {
            return Err(Error::Other(format!("{} exported_to {otherwise}", described(mount))));
        }
        let on_file = is_on_file(mount);
        if on_file || !BUILT_IN.contains(&mount.kind.as_str()) {
            let what = if on_file { "on a file of the image " } else { "" };
            return Err(Error::Other(format!("{} {what}{otherwise}", described(mount))));
        }
    }
    Ok(())
}

/// Whether a mount's source is a file on a mounted file system.
fn is_on_another(mount: &Mount, all: &[Mount]) -> bool {
    all.iter().any(|other| {
        let rest = mount.source.strip_prefix(&*other.target);
        other.target != b"/" && rest.is_some_and(|rest| rest.starts_with(b"/"))
    })
}

/// The components that the configuration needs, by name.
pub fn components(set: &Path, configuration: &Configuration) -> Result<Vec<String>, Error> {
    needed_by(set, &configuration.mounts, |_| true)
}

fn needed_by(set: &Path, mounts: &[Mount], counts: impl Fn(&Mount) -> bool) -> Result<Vec<String>, Error> {
    let mut needed: Vec<String> = Vec::new();
    for mount in mounts.iter().filter(|mount| counts(mount)) {
        if mount.format {
            return Err(Error::Other(format!(
                "{}: NetBSD's components make no file systems (format = true): make one with mke2fs or makefs",
                described(mount)
            )));
        }
        if mount.kind == NFS && !mount.exported_to.is_empty() {
            return Err(Error::Other(format!(
                "{}: what another server has can't be exported",
                described(mount)
            )));
        }
        let component = COMPONENTS.iter().find(|(kind, _)| *kind == mount.kind).map_or("", |(_, name)| name);
        let server = if mount.exported_to.is_empty() { &[][..] } else { SERVER };
        let disk = if is_on_another(mount, mounts) { &[FILE_DISK][..] } else { &[] };
        for component in [&component].into_iter().chain(server).chain(disk) {
            if !set.join(format!("lib/rump/lib{component}.a")).is_file() {
                return Err(Error::Other(format!(
                    "{} needs the component {component}, which {} has not",
                    described(mount),
                    set.display()
                )));
            }
            if !needed.iter().any(|present| present == component) {
                needed.push((*component).into());
            }
        }
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(kind: &str, source: &str) -> Configuration {
        let mount = Mount {
            source: source.into(),
            target: b"/data".to_vec(),
            kind: kind.into(),
            read_only: false,
            format: false,
            exported_to: Vec::new(),
            size: 0,
        };
        Configuration { mounts: vec![mount], ..Default::default() }
    }

    #[test]
    fn what_a_set_of_components_lacks_is_said() {
        assert!(check_built_in(&configuration("ext4", "/dev/vda")).is_ok());
        for (kind, source) in [("ffs", "/dev/vda"), ("ext4", "/disk.img")] {
            let message = check_built_in(&configuration(kind, source)).expect_err("not there").to_string();
            assert!(message.contains("/data") && message.contains("--kernel netbsd"), "{message}");
        }
        let mut tuned = configuration("tmpfs", "");
        tuned.parameters.push(("hw.ixgbe.enable_aim".into(), "0".into()));
        assert!(check_built_in(&tuned).expect_err("none").to_string().contains("hw.ixgbe.enable_aim"));
        let set = tempfile::tempdir().expect("a folder");
        let archives = set.path().join("lib/rump");
        std::fs::create_dir_all(&archives).expect("a folder");
        let missing = components(set.path(), &configuration("ffs", "/dev/vda"));
        assert!(missing.expect_err("no archive").to_string().contains("rumpfs_ffs"));
        std::fs::write(archives.join("librumpfs_ffs.a"), "").expect("written");
        let found = components(set.path(), &configuration("ffs", "/dev/vda")).expect("there");
        assert_eq!(found, ["rumpfs_ffs"]);
        let mut inner = configuration("ffs", "/data/inner");
        inner.mounts.insert(0, configuration("ffs", "/dev/vda").mounts[0].clone());
        let message = components(set.path(), &inner).expect_err("no vnd").to_string();
        assert!(message.contains("the component rumpdev_vnd"), "{message}");
        inner.mounts[1].source = b"/database".to_vec();
        assert!(components(set.path(), &inner).is_ok());
        let mut exported = configuration("ffs", "/dev/vda");
        exported.mounts[0].exported_to.push("10.0.0.0/8".into());
        assert!(linux_components(set.path(), &exported).is_err());
        let message = components(set.path(), &exported).expect_err("no server").to_string();
        assert!(message.contains("the component rumpfs_nfs"), "{message}");
        let found = linux_components(set.path(), &configuration("ffs", "/dev/vda")).expect("there");
        assert_eq!(found, ["rumpfs_ffs"]);
        assert!(
            linux_components(set.path(), &configuration("ext4", "/dev/vda")).expect("built in").is_empty()
        );
        std::fs::write(archives.join("librumpfs_nfs.a"), "").expect("written");
        let found = linux_components(set.path(), &configuration("nfs", "10.0.0.1:/data")).expect("there");
        assert_eq!(found, ["rumpfs_nfs"]);
        for (kind, source) in [("kernfs", ""), ("ext4", "/disk.img"), ("msdos", "/dev/vda")] {
            let message = linux_components(set.path(), &configuration(kind, source)).expect_err("not there");
            assert!(message.to_string().contains("/data"), "{message}");
        }
        let mut formatted = configuration("ffs", "/dev/vda");
        formatted.mounts[0].format = true;
        assert!(components(set.path(), &formatted).is_err());
    }

    #[test]
    fn unknown_file_systems_are_refused_with_a_list() {
        assert!(check_mount("ffs", "/dev/vda").is_ok() && check_mount("kernfs", "").is_ok());
        let message = check_mount("ntfs", "/dev/vda").expect_err("unknown");
        assert!(message.contains("`ntfs`") && message.contains("msdos"), "{message}");
        assert!(check_mount("nfs", "10.0.0.1:/data").is_ok() && check_mount("nfs", "[fd00::1]:/").is_ok());
        assert!(check_mount("nfs", "server:/data").expect_err("a name").contains("address"));
        assert!(check_mount("ext4", "").expect_err("no disk").contains("disk"));
    }
}
