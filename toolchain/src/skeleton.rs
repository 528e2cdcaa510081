//! The directories and files that programs expect of any system, where the user's trees lack them.

use image::tree::{Attributes, Content, Error, Kind, Node, Tree};

/// Directories and their permissions.
const DIRECTORIES: &[(&str, u32)] = &[
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/home", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/var", 0o755),
    ("/var/tmp", 0o1777),
];

/// `/etc/passwd` without users of the image's own.
pub(crate) const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
/// `/etc/group` likewise.
pub(crate) const GROUP: &str = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n";
/// The users and groups in them, with their numbers.
pub(crate) const USERS: &[(&str, u32)] = &[("root", 0), ("tty", 5), ("nobody", 65534), ("nogroup", 65534)];
const NAME_SERVICES: &str =
    "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n";

/// Symbolic links and where they lead.
const LINKS: &[(&str, &str)] = &[("/etc/mtab", "../proc/self/mounts"), ("/var/run", "/run")];

/// Adds what is absent.
pub fn complete(tree: &mut Tree, hostname: &str, nameservers: &[String]) -> Result<(), Error> {
    for (path, permissions) in DIRECTORIES {
        if tree.resolve(path.as_bytes())?.is_none() {
            let id = tree.ensure_directory(path.as_bytes())?;
            tree.attributes_mut(id).permissions = *permissions;
        }
    }
    let resolver: String = nameservers.iter().map(|server| format!("nameserver {server}\n")).collect();
    let hosts = format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n");
    let files = [
        ("/etc/passwd", PASSWD),
        ("/etc/group", GROUP),
        ("/etc/hosts", &hosts),
        ("/etc/hostname", &format!("{hostname}\n")),
        ("/etc/nsswitch.conf", NAME_SERVICES),
        ("/etc/resolv.conf", &resolver),
    ];
    for (path, text) in files {
        if tree.resolve(path.as_bytes())?.is_none() {
            let node = Node {
                kind: Kind::Regular(Content::Bytes(text.as_bytes().to_vec())),
                attributes: Attributes::root(0o644),
            };
            tree.insert_at(path.as_bytes(), node)?;
        }
    }
    for (path, target) in LINKS {
        if tree.resolve(path.as_bytes())?.is_none() {
            let kind = Kind::Symlink(target.as_bytes().to_vec());
            tree.insert_at(path.as_bytes(), Node { kind, attributes: Attributes::root(0o777) })?;
        }
    }
    Ok(())
}
