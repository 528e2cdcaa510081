//! The TOML configuration file.

use std::{collections::BTreeMap, path::Path};

use image::config::{Configuration, Mount, Network, Program, Then};
use serde::Deserialize;
use toml::Spanned;

use super::{Complaint, Loaded, check, suggest};
use crate::{bake::TreeRequest, netbsd::configured, programs, size};

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    hostname: Option<Spanned<String>>,
    working_directory: Option<Spanned<String>>,
    #[serde(default)]
    environment: BTreeMap<Spanned<String>, String>,
    #[serde(default)]
    packages: Vec<String>,
    #[serde(default)]
    compress: bool,
    #[serde(default)]
    program: Vec<ProgramTable>,
    #[serde(default)]
    rootfs: Vec<RootFsTable>,
    #[serde(default)]
    mount: Vec<MountTable>,
    #[serde(default)]
    network: Vec<NetworkTable>,
    #[serde(default)]
    sysctl: toml::Table,
}

/// `[[program]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProgramTable {
    /// A program, or a command as a shell splits it.
    pub(crate) run: Spanned<String>,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<Spanned<String>, String>,
    working_directory: Option<Spanned<String>>,
    #[serde(default)]
    then: ThenWord,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ThenWord {
    #[default]
    Wait,
    Background,
    Pipe,
}

/// `[[rootfs]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootFsTable {
    directory: String,
    at: Option<Spanned<String>>,
}

/// `[[mount]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MountTable {
    #[serde(default)]
    source: String,
    target: Spanned<String>,
    #[serde(rename = "type")]
    kind: Spanned<String>,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    format: bool,
    size: Option<Spanned<String>>,
    #[serde(default)]
    exported_to: Vec<Spanned<String>>,
}

/// `[[network]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkTable {
    interface: Spanned<String>,
    mac: Option<Spanned<String>>,
    #[serde(default)]
    addresses: Vec<Spanned<String>>,
    gateway: Option<Spanned<String>>,
    /// One of IPv4 and one of IPv6.
    #[serde(default)]
    gateways: Vec<Spanned<String>>,
    #[serde(default)]
    nameservers: Vec<Spanned<String>>,
    mtu: Option<Spanned<i64>>,
}

/// Applies a check to a value, complaining about its place.
pub(crate) fn checked<T>(
    value: &Spanned<String>,
    check: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Complaint> {
    check(value.get_ref()).map_err(|message| Complaint { offset: value.span().start, message })
}

pub(crate) fn complain<T>(value: &Spanned<String>, message: impl Into<String>) -> Result<T, Complaint> {
    Err(Complaint { offset: value.span().start, message: message.into() })
}

/// Names and values.
pub(crate) type Variables = Vec<(Vec<u8>, Vec<u8>)>;

pub(crate) fn environment(table: &BTreeMap<Spanned<String>, String>) -> Result<Variables, Complaint> {
    table
        .iter()
        .map(|(name, value)| {
            checked(name, check::variable)?;
            Ok((name.get_ref().as_bytes().to_vec(), value.as_bytes().to_vec()))
        })
        .collect()
}

pub(crate) fn program(table: &ProgramTable) -> Result<Program, Complaint> {
    let split = |text: &str| programs::split(text.as_bytes()).map_err(|error| error.to_string());
    let mut words = checked(&table.run, split)?;
    if words.is_empty() {
        return complain(&table.run, "names no program");
    }
    words.extend(table.arguments.iter().map(|word| word.as_bytes().to_vec()));
    Ok(Program {
        path: words[0].clone(),
        arguments: words,
        environment: environment(&table.environment)?,
        working_directory: table
            .working_directory
            .as_ref()
            .map(|path| checked(path, check::absolute))
            .transpose()?,
        then: match table.then {
            ThenWord::Wait => Then::Wait,
            ThenWord::Background => Then::Background,
            ThenWord::Pipe => Then::Pipe,
        },
    })
}

pub(crate) fn mount(table: &MountTable) -> Result<Mount, Complaint> {
    let kind = table.kind.get_ref();
    checked(&table.kind, |kind| configured::check_mount(kind, &table.source))?;
    let size = table.size.as_ref().map(|text| checked(text, |text| size::parse(text, 0))).transpose()?;
    Ok(Mount {
        source: table.source.as_bytes().to_vec(),
        target: checked(&table.target, check::absolute)?,
        kind: kind.clone(),
        read_only: table.read_only,
        format: table.format,
        size: size.unwrap_or(0),
        exported_to: list(&table.exported_to, check::network)?,
    })
}

/// Texts that are each checked.
fn list(values: &[Spanned<String>], check: fn(&str) -> Result<(), String>) -> Result<Vec<String>, Complaint> {
    values.iter().map(|value| checked(value, check).map(|()| value.get_ref().clone())).collect()
}

fn network(table: &NetworkTable) -> Result<Network, Complaint> {
    checked(&table.interface, check::interface)?;
    if let Some(mac) = &table.mac {
        checked(mac, check::mac)?;
    }
    let written: Vec<_> = table.gateway.iter().chain(&table.gateways).collect();
    for (index, gateway) in written.iter().enumerate() {
        let upto: Vec<&String> = written[..=index].iter().map(|gateway| gateway.get_ref()).collect();
        checked(gateway, |_| check::gateways(&upto))?;
    }
    let mtu = table.mtu.as_ref().map(|mtu| {
        check::mtu(*mtu.get_ref()).map_err(|message| Complaint { offset: mtu.span().start, message })
    });
    Ok(Network {
        interface: table.interface.get_ref().clone(),
        mac: table.mac.as_ref().map(|mac| mac.get_ref().to_ascii_lowercase()),
        addresses: list(&table.addresses, check::network_address)?,
        gateways: written.iter().map(|gateway| gateway.get_ref().clone()).collect(),
        nameservers: list(&table.nameservers, check::address)?,
        mtu: mtu.transpose()?,
    })
}

pub(crate) fn networks(tables: &[NetworkTable]) -> Result<Vec<Network>, Complaint> {
    for (index, table) in tables.iter().enumerate() {
        let name = table.interface.get_ref();
        if tables[..index].iter().any(|other| other.interface.get_ref() == name) {
            return complain(&table.interface, format!("`{name}` is configured twice"));
        }
    }
    tables.iter().map(network).collect()
}

/// Parameters by their full names: dots in names make tables within tables, unless they are quoted.
fn parameters(table: &toml::Table) -> Result<Vec<(String, String)>, String> {
    let mut all = Vec::new();
    for (name, value) in table {
        let text = match value {
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::String(text) => text.clone(),
            toml::Value::Boolean(value) => u8::from(*value).to_string(),
            toml::Value::Table(inner) => {
                let inner = parameters(inner)?;
                all.extend(inner.into_iter().map(|(rest, value)| (format!("{name}.{rest}"), value)));
                continue;
            }
            _ => return Err(format!("sysctl {name}: neither a number, nor a text, nor true or false")),
        };
        if text.contains('\0') {
            return Err(format!("sysctl {name}: the value has a zero byte"));
        }
        all.push((name.clone(), text));
    }
    Ok(all)
}

/// Reads a file's text. Folders in it are relative to `folder`.
pub(super) fn parse(text: &str, folder: &Path) -> Result<Loaded, Complaint> {
    let file: File = toml::from_str(text).map_err(|error| Complaint {
        offset: error.span().map_or(0, |span| span.start),
        message: suggest(error.message()),
    })?;
    if let Some(name) = &file.hostname {
        checked(name, check::hostname)?;
    }
    let working_directory =
        file.working_directory.as_ref().map(|path| checked(path, check::absolute)).transpose()?;
    let programs = file.program.iter().map(program).collect::<Result<Vec<_>, _>>()?;
    if let (Some(Program { then: Then::Pipe, .. }), Some(table)) = (programs.last(), file.program.last()) {
        return complain(&table.run, programs::Error::Pipe.to_string());
    }
    let configuration = Configuration {
        config: String::new(),
        hostname: file.hostname.map(Spanned::into_inner).unwrap_or_default(),
        programs,
        environment: environment(&file.environment)?,
        working_directory: working_directory.unwrap_or_default(),
        mounts: file.mount.iter().map(mount).collect::<Result<_, _>>()?,
        networks: networks(&file.network)?,
        parameters: parameters(&file.sysctl)
            .map_err(|message| Complaint { offset: text.find("[sysctl]").unwrap_or(0), message })?,
    };
    let tree = |table: &RootFsTable| {
        let at = table.at.as_ref().map(|at| checked(at, check::absolute)).transpose()?;
        let at = at.unwrap_or_else(|| b"/".to_vec());
        Ok(TreeRequest { host: folder.join(&table.directory), at })
    };
    let trees = file.rootfs.iter().map(tree).collect::<Result<_, Complaint>>()?;
    Ok(Loaded { configuration, trees, packages: file.packages, compress: file.compress })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file() {
        let text = r#"
            hostname = "web"
            working_directory = "/srv"
            packages = ["python3"]
            compress = true
            environment = { PORT = "80" }

            [[program]]
            run = "sh -c 'echo hi'"
            then = "pipe"

            [[program]]
            run = "cat"
            arguments = ["-n"]
            environment = { A = "b" }

            [[rootfs]]
            directory = "public"
            at = "/srv/www"

            [[mount]]
            source = "/dev/vda"
            target = "/data"
            type = "ext4"
            format = true

            [[mount]]
            target = "/scratch"
            type = "tmpfs"
            size = "16M"

            [[network]]
            interface = "eth0"
            mac = "52:54:00:12:34:56"
            addresses = ["10.0.2.15/24", "fe80::1/64"]
            gateway = "10.0.2.2"
            gateways = ["fe80::2"]
            mtu = 1400
            nameservers = ["10.0.2.3"]

            [sysctl]
            hw.ixgbe.enable_aim = 0
            "kern.somaxconn" = 300
            kern.domainname = "example.org"
        "#;
        let loaded = parse(text, Path::new("/project")).expect("good");
        let configuration = loaded.configuration;
        assert_eq!(configuration.programs[0].arguments.last().map(Vec::as_slice), Some(&b"echo hi"[..]));
        assert_eq!(configuration.programs[0].then, Then::Pipe);
        assert_eq!(configuration.programs[1].arguments, [b"cat".to_vec(), b"-n".to_vec()]);
        assert_eq!(configuration.mounts[1].size, 16 << 20);
        assert_eq!(configuration.networks[0].addresses.len(), 2);
        assert_eq!(configuration.networks[0].gateways, ["10.0.2.2", "fe80::2"]);
        assert_eq!(configuration.networks[0].mtu, Some(1400));
        assert_eq!(loaded.trees[0].host, Path::new("/project/public"));
        assert_eq!(loaded.packages, ["python3"]);
        assert!(loaded.compress);
        let parameters = |name: &str| {
            configuration
                .parameters
                .iter()
                .find(|(present, _)| present == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(parameters("hw.ixgbe.enable_aim"), Some("0"));
        assert_eq!(parameters("kern.somaxconn"), Some("300"));
        assert_eq!(parameters("kern.domainname"), Some("example.org"));
    }

    #[test]
    fn wrong_values_are_refused() {
        let refused = |text: &str, part: &str| {
            let complaint = parse(text, Path::new("/")).expect_err("must be refused");
            assert!(complaint.message.contains(part), "{complaint:?}");
        };
        refused("hostname = \"a b\"", "host name");
        refused("[sysctl]\na = [1]", "neither a number");
        refused("working_directory = \"here\"", "absolute");
        refused("environment = { \"A=B\" = \"c\" }", "variable");
        refused("[[program]]\nrun = \" \"", "no program");
        refused("[[program]]\nrun = \"a\"\nthen = \"pipe\"", "at the end");
        refused("[[program]]\nrun = \"a\"\nthen = \"maybe\"", "maybe");
        refused("[[mount]]\ntarget = \"/x\"\ntype = \"ntfs\"", "ntfs");
        refused("[[mount]]\ntarget = \"/x\"\ntype = \"ext4\"", "disk");
        refused("[[mount]]\ntarget = \"/x\"\ntype = \"tmpfs\"\nsize = \"big\"", "big");
        refused("[[network]]\ninterface = \"much-too-long-a-name\"", "interface");
        refused("[[network]]\ninterface = \"e\"\ngateway = \"x\"", "IP address");
        refused("[[network]]\ninterface = \"e\"\naddresses = [\"10.0.0.1\"]", "prefix length");
        refused(
            "[[mount]]\ntarget = \"/t\"\ntype = \"tmpfs\"\nexported_to = [\"10.0.0.1\"]",
            "not a network",
        );
        refused("[[network]]\ninterface = \"e\"\naddresses = [\"224.0.0.1/4\"]", "can't be the address");
        refused("[[network]]\ninterface = \"e\"\ngateways = [\"10.0.0.1\", \"10.0.0.2\"]", "second gateway");
        refused("[[network]]\ninterface = \"e\"\nmac = \"52:54:00\"", "MAC address");
        refused("[[network]]\ninterface = \"e\"\nmtu = 20", "MTU");
        refused("[[network]]\ninterface = \"e\"\n[[network]]\ninterface = \"e\"", "twice");
    }
}
