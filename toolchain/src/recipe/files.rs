//! The files that a recipe brings itself: its overlay, `[[file]]` and `[[user]]`.
//!
//! What a version control system does not keep is not taken over either: owners are root's, times 0, permissions
//! those of a program or of a document. So a recipe gives the same image from every checkout.

use std::{
    fs,
    os::unix::{ffi::OsStringExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

use image::tree::{Attributes, Content, Kind, Node};
use toml::Spanned;

use super::{
    OVERLAY,
    table::{FileTable, UserTable},
};
use crate::{
    configuration::{
        Complaint, check,
        file::{checked, complain},
    },
    skeleton,
};

/// How deep an overlay's folders may be nested.
const DEPTH_LIMIT: usize = 64;

/// Files by their path in the image.
pub type Files = Vec<(Vec<u8>, Node)>;

/// The host's path of a file that a recipe names, which must exist.
pub fn beside(value: &Spanned<String>, folder: &Path) -> Result<PathBuf, Complaint> {
    let path = folder.join(value.get_ref());
    match fs::metadata(&path) {
        Ok(_) if !value.get_ref().is_empty() => Ok(path),
        Ok(_) => complain(value, "names no file"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            complain(value, format!("{}: no such file or folder", path.display()))
        }
        Err(error) => complain(value, format!("{}: {error}", path.display())),
    }
}

/// Everything in the folder `rootfs` beside the recipe, if there is one.
pub fn overlay(folder: &Path) -> Result<Files, Complaint> {
    let mut files = Files::new();
    let root = folder.join(OVERLAY);
    if root.is_dir() {
        take(&root, b"", &mut files, 0).map_err(|message| Complaint { offset: 0, message })?;
    }
    Ok(files)
}

/// A file, or a folder with everything in it, at `target`.
pub fn take(host: &Path, target: &[u8], files: &mut Files, depth: usize) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", host.display());
    let metadata = fs::symlink_metadata(host).map_err(failed)?;
    if metadata.is_symlink() {
        let link = fs::read_link(host).map_err(failed)?.into_os_string().into_vec();
        files.push((target.into(), Node { kind: Kind::Symlink(link), attributes: Attributes::root(0o777) }));
    } else if metadata.is_dir() {
        if depth > DEPTH_LIMIT {
            return Err(format!("{}: nested more than {DEPTH_LIMIT} deep", host.display()));
        }
        if !target.is_empty() {
            files.push((target.into(), directory(0o755)));
        }
        let mut entries =
            fs::read_dir(host).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().into_vec();
            take(&entry.path(), &[target, b"/", &name].concat(), files, depth + 1)?;
        }
    } else if metadata.is_file() {
        let executable = metadata.permissions().mode() & 0o100 != 0;
        files.push((
            target.into(),
            Node {
                kind: Kind::Regular(Content::File(host.into(), metadata.len())),
                attributes: Attributes::root(if executable { 0o755 } else { 0o644 }),
            },
        ));
    } else {
        return Err(format!("{}: neither a file nor a folder nor a symbolic link", host.display()));
    }
    Ok(())
}

fn directory(permissions: u32) -> Node {
    Node { kind: Kind::Directory(Default::default()), attributes: Attributes::root(permissions) }
}

/// The files of a `[[file]]`.
pub fn file(table: &FileTable, users: &[UserTable], folder: &Path) -> Result<Files, Complaint> {
    let target = checked(&table.target, check::absolute)?;
    if target.iter().all(|&byte| byte == b'/') {
        return complain(&table.target, "`/` itself can't be made");
    }
    let kinds = [
        table.source.is_some(),
        table.content.is_some(),
        table.link.is_some(),
        table.directory == Some(true),
    ];
    if kinds.iter().filter(|given| **given).count() != 1 {
        let message = "give one of `source`, `content`, `link` and `directory = true`";
        return complain(&table.target, message);
    }
    let mut files = Files::new();
    if let Some(source) = &table.source {
        let host = beside(source, folder)?;
        let host = host.canonicalize().unwrap_or(host);
        take(&host, &target, &mut files, 0)
            .map_err(|message| Complaint { offset: source.span().start, message })?;
    } else if let Some(text) = &table.content {
        let kind = Kind::Regular(Content::Bytes(text.as_bytes().to_vec()));
        files.push((target, Node { kind, attributes: Attributes::root(0o644) }));
    } else if let Some(link) = &table.link {
        let kind = Kind::Symlink(link.as_bytes().to_vec());
        files.push((target, Node { kind, attributes: Attributes::root(0o777) }));
    } else {
        files.push((target, directory(0o755)));
    }
    if let Some(mode) = &table.mode {
        let permissions = checked(mode, |text| {
            u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .ok_or_else(|| format!("`{text}` is not a mode: octal digits, as \"0640\""))
        })?;
        // That of a folder does not go for what is in it: documents would become programs.
        if let Some((_, node)) = files.first_mut() {
            node.attributes.permissions = permissions;
        }
    }
    if let Some(owner) = &table.owner {
        let (uid, gid) = checked(owner, |text| owner_of(text, users))?;
        for (_, node) in &mut files {
            node.attributes.uid = uid;
            node.attributes.gid = gid;
        }
    }
    Ok(files)
}

fn owner_of(text: &str, users: &[UserTable]) -> Result<(u32, u32), String> {
    let number = |name: &str| {
        let known = skeleton::USERS.iter().find(|(known, _)| *known == name).map(|(_, id)| *id);
        let own = users.iter().find(|user| user.name.get_ref() == name).map(|user| user.id);
        own.or(known).or_else(|| name.parse().ok()).ok_or_else(|| {
            format!("there is no user or group `{name}` in the image; add one: [[user]] with `name` and `id`")
        })
    };
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    Ok((number(user)?, number(group)?))
}

/// `/etc/passwd` and `/etc/group` with the recipe's users, if it has any.
pub fn users(users: &[UserTable]) -> Result<Files, Complaint> {
    if users.is_empty() {
        return Ok(Files::new());
    }
    let (mut passwd, mut group) = (skeleton::PASSWD.to_string(), skeleton::GROUP.to_string());
    for (index, user) in users.iter().enumerate() {
        let name = checked(&user.name, |name| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            let known = skeleton::USERS.iter().any(|(known, _)| *known == name);
            let twice = users[..index].iter().any(|other| other.name.get_ref() == name);
            if name.is_empty() || name.len() > 32 || name.starts_with('-') || !name.bytes().all(good) {
                return Err(format!("`{name}` can't be the name of a user"));
            }
            match known || twice {
                true => Err(format!("there is a user `{name}` already")),
                false => Ok(name.to_string()),
            }
        })?;
        let path = |value: &Option<Spanned<String>>, default: &str| match value {
            Some(path) => checked(path, |text| match text.contains([':', '\n']) {
                true => Err(format!("`{text}`: no `:` or line break can be in /etc/passwd")),
                false => check::absolute(text).map(|_| text.to_string()),
            }),
            None => Ok(default.to_string()),
        };
        let (home, shell) = (path(&user.home, "/nonexistent")?, path(&user.shell, "/usr/sbin/nologin")?);
        passwd += &format!("{name}:x:{id}:{id}:{name}:{home}:{shell}\n", id = user.id);
        group += &format!("{name}:x:{}:\n", user.id);
    }
    let text = |text: String| Node {
        kind: Kind::Regular(Content::Bytes(text.into_bytes())),
        attributes: Attributes::root(0o644),
    };
    Ok(vec![(b"/etc/passwd".into(), text(passwd)), (b"/etc/group".into(), text(group))])
}
