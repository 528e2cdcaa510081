//! rumprun's JSON configuration.

use std::collections::BTreeMap;

use image::config::{Configuration, DHCP, Mount, Network, Program, Then};
use serde::Deserialize;
use serde_json::Value;

use super::{Complaint, Loaded, check, suggest};
use crate::{programs, size};

/// A whole file. The keys of `blk` and `create` of interfaces have no meaning here: disks and interfaces are there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rc: Vec<Rc>,
    #[serde(default)]
    env: Environment,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    cwd: String,
    #[serde(default, rename = "blk")]
    _blk: Value,
    #[serde(default)]
    mount: BTreeMap<String, MountValue>,
    #[serde(default)]
    net: Net,
}

/// A program.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rc {
    bin: String,
    #[serde(default, alias = "argv")]
    args: Vec<String>,
    #[serde(default)]
    env: Environment,
    #[serde(default, alias = "workdir")]
    cwd: Option<String>,
    #[serde(default)]
    runmode: RunMode,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
enum RunMode {
    #[default]
    #[serde(rename = "")]
    Wait,
    #[serde(rename = "&")]
    Background,
    #[serde(rename = "|")]
    Pipe,
}

/// `{"A": "b"}`, or older `["A=b"]` and `"A=b"`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Environment {
    Map(BTreeMap<String, String>),
    List(Vec<String>),
    One(String),
}

impl Default for Environment {
    fn default() -> Self {
        Environment::List(Vec::new())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MountValue {
    source: MountSource,
    #[serde(default)]
    path: String,
    #[serde(default)]
    options: MountOptions,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MountSource {
    Blk,
    Kernfs,
    Tmpfs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MountOptions {
    size: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Net {
    #[serde(default)]
    interfaces: BTreeMap<String, Interface>,
    #[serde(default)]
    gateways: Vec<Gateway>,
    #[serde(default)]
    dns: Dns,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Interface {
    #[serde(default, rename = "create")]
    _create: bool,
    #[serde(default)]
    addrs: Vec<Address>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    #[serde(default, rename = "type")]
    _family: String,
    method: Method,
    addr: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    Static,
    Dhcp,
    Auto,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gateway {
    #[serde(default, rename = "type")]
    _family: String,
    addr: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dns {
    #[serde(default)]
    nameservers: Vec<String>,
    #[serde(default, rename = "search")]
    _search: Vec<String>,
}

type Variables = Vec<(Vec<u8>, Vec<u8>)>;

fn environment(environment: Environment) -> Result<Variables, String> {
    let pairs: Vec<(String, String)> = match environment {
        Environment::Map(map) => map.into_iter().collect(),
        Environment::List(list) => list.iter().map(|word| pair(word)).collect::<Result<_, _>>()?,
        Environment::One(word) => vec![pair(&word)?],
    };
    pairs
        .into_iter()
        .map(|(name, value)| {
            check::variable(&name)?;
            Ok((name.into_bytes(), value.into_bytes()))
        })
        .collect()
}

fn pair(word: &str) -> Result<(String, String), String> {
    let (name, value) = word.split_once('=').ok_or_else(|| format!("env `{word}`: write NAME=VALUE"))?;
    Ok((name.into(), value.into()))
}

/// rumprun's disks are `ld0`, `ld1`; ours `vda`, `vdb`. A partition letter names the whole disk there.
fn disk(path: &str) -> Vec<u8> {
    let number = path.strip_prefix("/dev/ld").map(|rest| rest.trim_end_matches(char::is_alphabetic));
    match number.and_then(|number| number.parse::<u8>().ok()).filter(|number| *number < 26) {
        Some(number) => [b"/dev/vd".as_slice(), &[b'a' + number]].concat(),
        None => path.as_bytes().to_vec(),
    }
}

fn mount(target: &str, value: MountValue) -> Result<Mount, String> {
    let size = value.options.size.map(|text| size::parse(&text, 0)).transpose()?;
    let mut mount = Mount {
        source: Vec::new(),
        target: check::absolute(target)?,
        kind: "tmpfs".into(),
        read_only: false,
        format: false,
        exported_to: Vec::new(),
        size: size.unwrap_or(0),
    };
    match value.source {
        MountSource::Blk => {
            mount.source = disk(&value.path);
            mount.kind = "ext4".into();
        }
        MountSource::Kernfs => mount.kind = "kernfs".into(),
        MountSource::Tmpfs => {}
    }
    Ok(mount)
}

/// rumprun's interfaces are `vioif0`, `xenif0`...; ours are `eth0`, `eth1`.
fn interface_name(name: &str) -> String {
    let driver = name.trim_end_matches(|character: char| character.is_ascii_digit());
    match driver.is_empty() || driver.len() == name.len() {
        true => name.into(),
        false => format!("eth{}", &name[driver.len()..]),
    }
}

fn networks(net: Net) -> Result<Vec<Network>, String> {
    let gateways: Vec<String> = net.gateways.into_iter().map(|gateway| gateway.addr).collect();
    check::gateways(&gateways)?;
    net.dns.nameservers.iter().try_for_each(|server| check::address(server))?;
    let network = |(interface, value): (String, Interface)| {
        check::interface(&interface)?;
        let mut addresses = Vec::new();
        for address in value.addrs {
            let text = match address.method {
                Method::Static => address.addr.ok_or("a static address needs `addr`")?,
                Method::Dhcp => DHCP.into(),
                // Router advertisements are always listened to.
                Method::Auto => continue,
            };
            check::network_address(&text)?;
            addresses.push(text);
        }
        Ok(Network {
            interface: interface_name(&interface),
            addresses,
            gateways: gateways.clone(),
            nameservers: net.dns.nameservers.clone(),
            ..Default::default()
        })
    };
    net.interfaces.into_iter().map(network).collect()
}

fn convert(file: File) -> Result<Configuration, String> {
    if !file.hostname.is_empty() {
        check::hostname(&file.hostname)?;
    }
    let mut baked = Vec::new();
    for rc in file.rc {
        if rc.bin.is_empty() {
            return Err("`bin` names no program".into());
        }
        let mut arguments = vec![rc.bin.clone().into_bytes()];
        arguments.extend(rc.args.into_iter().map(String::into_bytes));
        baked.push(Program {
            path: rc.bin.into_bytes(),
            arguments,
            environment: environment(rc.env)?,
            working_directory: rc.cwd.map(|path| check::absolute(&path)).transpose()?,
            then: match rc.runmode {
                RunMode::Wait => Then::Wait,
                RunMode::Background => Then::Background,
                RunMode::Pipe => Then::Pipe,
            },
        });
    }
    if baked.last().is_some_and(|program| program.then == Then::Pipe) {
        return Err(programs::Error::Pipe.to_string());
    }
    let working_directory = if file.cwd.is_empty() { Vec::new() } else { check::absolute(&file.cwd)? };
    Ok(Configuration {
        config: String::new(),
        hostname: file.hostname,
        programs: baked,
        environment: environment(file.env)?,
        working_directory,
        mounts: file
            .mount
            .into_iter()
            .map(|(target, value)| mount(&target, value))
            .collect::<Result<_, _>>()?,
        networks: networks(file.net)?,
        parameters: Vec::new(),
    })
}

/// Reads a file's text.
pub(super) fn parse(text: &str) -> Result<Loaded, Complaint> {
    let file: File = serde_json::from_str(text).map_err(|error| {
        let before: usize =
            text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        Complaint { offset: before + error.column().saturating_sub(1), message: suggest(message) }
    })?;
    let configuration = convert(file).map_err(|message| Complaint { offset: 0, message })?;
    Ok(Loaded { configuration, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rumpruns_own_example() {
        let text = r#"{
            "net": {
                "interfaces": { "vioif0": { "create": true, "addrs": [
                    { "type": "inet", "method": "static", "addr": "10.0.120.10/24" } ] } },
                "gateways": [ { "type": "inet", "addr": "10.0.120.1" } ]
            },
            "blk": { "xbd0": { "type": "etfs", "path": "blkfront:xvda" } },
            "mount": {
                "/data": { "source": "blk", "path": "/dev/ld1a" },
                "/kern": { "source": "kernfs" },
                "/tmp": { "source": "tmpfs", "options": { "size": "1M" } }
            },
            "rc": [
                { "bin": "mathopd", "args": [ "-n", "-f", "/data/mathopd.conf" ], "runmode": "&" },
                { "bin": "sleep", "argv": ["1"], "workdir": "/" }
            ],
            "env": { "FOO": "BAR" }
        }"#;
        let configuration = parse(text).expect("good").configuration;
        assert_eq!(configuration.programs[0].then, Then::Background);
        assert_eq!(configuration.programs[0].arguments.len(), 4);
        assert_eq!(configuration.mounts[0].source, b"/dev/vdb");
        assert_eq!(configuration.mounts[1].kind, "kernfs");
        assert_eq!(configuration.mounts[2].size, 1 << 20);
        assert_eq!(configuration.networks[0].gateways, ["10.0.120.1"]);
        assert_eq!(configuration.networks[0].interface, "eth0");
        assert_eq!(configuration.environment, [(b"FOO".to_vec(), b"BAR".to_vec())]);
    }

    #[test]
    fn wrong_values_are_refused() {
        for text in [
            "{",
            "{\"rc\": [{}]}",
            "{\"rc\": [{\"bin\": \"a\", \"runmode\": \"|\"}]}",
            "{\"env\": \"no value\"}",
            "{\"hostname\": \"a b\"}",
            "{\"nonsense\": 1}",
            "{\"mount\": {\"data\": {\"source\": \"tmpfs\"}}}",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
