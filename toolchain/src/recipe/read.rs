//! Reads and checks a recipe. What is wrong is said with file, line and column.

use std::path::Path;

use image::config::{Configuration, Mount, Program, Then};
use toml::Spanned;

use super::{
    Action, Check, Disk, FILE, Placed, Port, Recipe, files, source,
    table::{CheckTable, DiskTable, RecipeTable},
};
use crate::{
    configs,
    configuration::{
        self, Complaint, check,
        file::{checked, complain, environment, mount, networks, program},
        position, suggest,
    },
    programs, size,
};

/// Memory of a run if the recipe doesn't say: 256 MiB.
const MEMORY: u64 = 256 << 20;
/// Seconds until a check must have succeeded.
const TIMEOUT: u32 = 60;
/// Most disks: `/dev/vda` to `/dev/vdz`.
const DISK_LIMIT: usize = 26;

/// What is known while a recipe is read.
pub struct Context<'a> {
    /// The recipe's folder.
    pub folder: &'a Path,
    /// The file, for messages.
    pub path: &'a Path,
    /// Its text.
    pub text: &'a str,
}

impl Context<'_> {
    /// An offset as `file:line:column`.
    pub fn place(&self, offset: usize) -> String {
        let (line, column) = position(self.text, offset);
        format!("{}:{line}:{column}", self.path.display())
    }

    /// A checked value with its place.
    pub fn placed(
        &self,
        value: &Spanned<String>,
        check: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Placed<String>, Complaint> {
        Ok(Placed { value: checked(value, check)?, place: self.place(value.span().start) })
    }
}

/// Reads the recipe in a folder.
pub fn load(folder: &Path) -> Result<Recipe, configuration::Error> {
    let path = folder.join(FILE);
    configuration::read(&path, |text| parse(text, &Context { folder, path: &path, text }))
}

/// A Debian package's name (Debian Policy, section 5.6.7).
pub fn debian_name(name: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    match name.len() >= 2 && name.bytes().all(good) && !name.starts_with(['+', '-', '.']) {
        true => Ok(name.into()),
        false => Err(format!("`{name}` can't be the name of a Debian package")),
    }
}

/// A recipe's, disk's or port's name.
fn plain_name(name: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match !name.is_empty() && name.len() <= 64 && name.bytes().all(good) && !name.starts_with('-') {
        true => Ok(name.into()),
        false => Err(format!("`{name}` is not a name: lower-case letters, digits and `-`")),
    }
}

pub(super) fn parse(text: &str, context: &Context<'_>) -> Result<Recipe, Complaint> {
    let table: RecipeTable = toml::from_str(text).map_err(|error| Complaint {
        offset: error.span().map_or(0, |span| span.start),
        message: suggest(error.message()),
    })?;
    let name = checked(&table.name, plain_name)?;
    let folder_name = context.folder.canonicalize().ok();
    let folder_name = folder_name.as_deref().and_then(Path::file_name).unwrap_or_default();
    if folder_name != name.as_str() {
        return complain(
            &table.name,
            format!("the folder is named `{}`: name it alike", folder_name.display()),
        );
    }
    checked(&table.summary, |text| match text.trim().is_empty() || text.contains('\n') {
        true => Err("the summary is one line".to_string()),
        false => Ok(()),
    })?;
    let config = match &table.config {
        Some(name) => checked(name, |name| configs::find(name).map_err(|unknown| unknown.to_string()))?,
        None => &configs::CONFIGS[0],
    };
    let source = source::read(&table.source, context)?;
    let mut files = files::overlay(context.folder)?;
    let has_users = files.iter().any(|(path, _)| path == b"/etc/passwd");
    if let Some(user) = table.user.first().filter(|_| has_users) {
        return complain(&user.name, "rootfs/etc/passwd is there too: add the user to it, or remove it");
    }
    files.extend(files::users(&table.user)?);
    for entry in &table.file {
        files.extend(files::file(entry, &table.user, context.folder)?);
    }
    let ports = ports(&table)?;
    let disks = table.disk.iter().map(disk).collect::<Result<Vec<_>, _>>()?;
    let recipe = Recipe {
        compress: table.compress,
        summary: table.summary.get_ref().clone(),
        description: table.description.trim().into(),
        homepage: table.homepage.clone(),
        folder: context.folder.into(),
        config,
        source,
        packages: table
            .packages
            .iter()
            .map(|name| context.placed(name, debian_name))
            .collect::<Result<_, _>>()?,
        without: table.without.clone(),
        exclude: table.exclude.iter().map(|path| checked(path, check::absolute)).collect::<Result<_, _>>()?,
        files,
        configuration: configuration(&table, &name, &disks)?,
        memory: match &table.machine.memory {
            Some(memory) => checked(memory, |text| size::parse(text, 20))?,
            None => MEMORY,
        },
        cpus: match &table.machine.cpus {
            Some(cpus) if !(1..=255).contains(cpus.get_ref()) => {
                return Err(Complaint { offset: cpus.span().start, message: "from 1 to 255 CPUs".into() });
            }
            Some(cpus) => *cpus.get_ref(),
            None => 1,
        },
        checks: table
            .check
            .iter()
            .map(|entry| read_check(entry, &ports, context))
            .collect::<Result<_, _>>()?,
        ports,
        disks,
        name,
    };
    if recipe.disks.len() > DISK_LIMIT {
        return complain(&table.disk[DISK_LIMIT].size, format!("more than {DISK_LIMIT} disks"));
    }
    Ok(recipe)
}

fn configuration(table: &RecipeTable, name: &str, disks: &[Disk]) -> Result<Configuration, Complaint> {
    if let Some(hostname) = &table.hostname {
        checked(hostname, check::hostname)?;
    }
    let programs = table.program.iter().map(program).collect::<Result<Vec<_>, _>>()?;
    match (programs.last(), table.program.last()) {
        (Some(Program { then: Then::Pipe, .. }), Some(last)) => {
            return complain(&last.run, programs::Error::Pipe.to_string());
        }
        (None, _) => {
            return complain(&table.name, "no [[program]]: add one that says what runs: run = \"COMMAND\"");
        }
        _ => {}
    }
    // The disks of the recipe come first, so that their names are known.
    let own = disks.iter().zip(b'a'..=b'z').map(|(disk, letter)| Mount {
        source: format!("/dev/vd{}", char::from(letter)).into_bytes(),
        target: disk.target.clone().into_bytes(),
        kind: "ext4".into(),
        read_only: false,
        format: true,
        exported_to: Vec::new(),
        size: 0,
    });
    let others = table.mount.iter().map(mount).collect::<Result<Vec<_>, _>>()?;
    let directory = table.working_directory.as_ref().map(|path| checked(path, check::absolute));
    Ok(Configuration {
        config: String::new(),
        hostname: table.hostname.as_ref().map_or(name, |name| name.get_ref()).into(),
        programs,
        environment: environment(&table.environment)?,
        working_directory: directory.transpose()?.unwrap_or_default(),
        mounts: own.chain(others).collect(),
        networks: networks(&table.network)?,
        parameters: Vec::new(),
    })
}

fn ports(table: &RecipeTable) -> Result<Vec<Port>, Complaint> {
    let mut ports: Vec<Port> = Vec::new();
    for entry in &table.port {
        let name = checked(&entry.name, plain_name)?;
        let port = *entry.port.get_ref();
        if ports.iter().any(|other| other.name == name) {
            return complain(&entry.name, format!("there is a port `{name}` already"));
        }
        let taken = ports.iter().any(|other| other.port == port && other.protocol == entry.protocol);
        if port == 0 || taken {
            let message = if taken { "is there already" } else { "is not a port" };
            let message = format!("port {port} {message}");
            return Err(Complaint { offset: entry.port.span().start, message });
        }
        ports.push(Port { name, port, protocol: entry.protocol });
    }
    Ok(ports)
}

fn disk(table: &DiskTable) -> Result<Disk, Complaint> {
    checked(&table.target, check::absolute)?;
    Ok(Disk {
        name: table.name.as_ref().map_or(Ok("data".into()), |name| checked(name, plain_name))?,
        size: checked(&table.size, |text| size::parse(text, 20))?,
        target: table.target.get_ref().clone(),
    })
}

/// One check.
fn read_check(table: &CheckTable, ports: &[Port], context: &Context<'_>) -> Result<Check, Complaint> {
    let kinds = [
        ("http", table.http.as_ref().map(Spanned::span)),
        ("send", table.send.as_ref().map(Spanned::span)),
        ("command", table.command.as_ref().map(Spanned::span)),
        ("console", table.console.as_ref().map(Spanned::span)),
        ("exit", table.exit.as_ref().map(Spanned::span)),
    ];
    const NONE: &str = "one of `http`, `send`, `command`, `console` and `exit`";
    let mut given = kinds.iter().filter_map(|(name, span)| Some((*name, span.as_ref()?.start)));
    let Some((kind, offset)) = given.next() else {
        // Some key of it gives the place, if there is any.
        let starts = [
            table.port.as_ref().map(Spanned::span),
            table.status.as_ref().map(Spanned::span),
            table.expect.as_ref().map(Spanned::span),
            table.requires.as_ref().map(Spanned::span),
            table.timeout.as_ref().map(Spanned::span),
        ];
        let offset = starts.into_iter().flatten().map(|span| span.start).min();
        let offset = offset.or_else(|| context.text.find("[[check]]")).unwrap_or(0);
        return Err(Complaint { offset, message: format!("[[check]] says nothing: give {NONE}") });
    };
    if let Some((_, offset)) = given.next() {
        return Err(Complaint { offset, message: format!("give {NONE}; another is a [[check]] of its own") });
    }
    let companions = [
        ("port", table.port.as_ref().map(Spanned::span), &["http", "send", "command"][..]),
        ("status", table.status.as_ref().map(Spanned::span), &["http", "command"]),
        ("expect", table.expect.as_ref().map(Spanned::span), &["http", "send", "command"]),
        ("requires", table.requires.as_ref().map(Spanned::span), &["command"]),
    ];
    for (key, span, kinds) in companions {
        if let Some(span) = span.filter(|_| !kinds.contains(&kind)) {
            let message =
                format!("`{key}` does not go with `{kind}`; it belongs to `{}`", kinds.join("` and `"));
            return Err(Complaint { offset: span.start, message });
        }
    }
    let port = match &table.port {
        Some(wanted) => Some(checked(wanted, |wanted| {
            ports.iter().position(|port| port.name == wanted).ok_or_else(|| {
                let names: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
                format!("there is no [[port]] with the name `{wanted}` (there are: {})", names.join(", "))
            })
        })?),
        None => (!ports.is_empty()).then_some(0),
    };
    let needed_port = || {
        let message = format!("`{kind}` needs a [[port]]");
        port.ok_or(Complaint { offset, message })
    };
    let expect = table.expect.as_ref().map(|text| text.get_ref().clone()).unwrap_or_default();
    let action = if let Some(path) = &table.http {
        checked(path, |path| match path.starts_with('/') && !path.contains(char::is_whitespace) {
            true => Ok(()),
            false => Err(format!("`{path}` is not a path, as /index.html")),
        })?;
        let status = table.status.as_ref().map_or(200, |status| *status.get_ref());
        Action::Http { port: needed_port()?, path: path.get_ref().clone(), status, expect }
    } else if let Some(text) = &table.send {
        if expect.is_empty() {
            return complain(text, "`send` needs `expect`, a text of the answer");
        }
        Action::Send { port: needed_port()?, text: text.get_ref().clone(), expect }
    } else if let Some(command) = &table.command {
        let split = |text: &str| programs::split(text.as_bytes()).map_err(|error| error.to_string());
        let words = checked(command, split)?;
        if words.is_empty() {
            return complain(command, "names no program");
        }
        let words = words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let requires = table.requires.as_ref().map(|name| checked(name, debian_name)).transpose()?;
        let status = table.status.as_ref().map_or(0, |status| i32::from(*status.get_ref()));
        Action::Command { port, words, status, expect, requires }
    } else if let Some(text) = &table.console {
        Action::Console { text: text.get_ref().clone() }
    } else {
        Action::Exit { status: table.exit.as_ref().map_or(0, |status| *status.get_ref()) }
    };
    let timeout = match &table.timeout {
        Some(timeout) if *timeout.get_ref() == 0 => {
            return Err(Complaint { offset: timeout.span().start, message: "0 seconds are none".into() });
        }
        Some(timeout) => *timeout.get_ref(),
        None => TIMEOUT,
    };
    Ok(Check { place: context.place(offset), action, timeout })
}
