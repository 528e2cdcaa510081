//! What the launcher changes in a baked configuration for one run: arguments, environment, networks, mounts.
//!
//! A command line is words between blanks. In a word `\` takes the next byte as it is, `\n` is a newline and
//! `\xHH` is any byte. `env=NAME=VALUE` sets a variable, `network=...` configures an interface
//! ([`crate::network_word`]), `mount=...` changes a mount ([`crate::mount_word`]), `hostname=NAME` names the host; behind `--` stand the arguments, which replace those of the last program. Other words are the kernel's own (`console=...`) and are left alone here.

use alloc::{string::String, vec::Vec};

use crate::{
    config::{Configuration, Network},
    mount_word, network_word,
};

/// The kernel's word for a console whose input is not typed: the terminal does not echo it.
pub const NO_ECHO: &[u8] = b"console=noecho";

/// The kernel's word for tracing system calls; `:` and a [filter](crate::system_calls::Filter) may follow.
pub const TRACE_CALLS: &str = "trace=syscalls";

/// The kernel's word for a server of metrics; the port follows.
pub const METRICS: &str = "metrics=";

/// The kernel's word for programs that are always loaded at the same addresses, as Linux has it.
pub const FIXED_ADDRESSES: &str = "norandmaps";

/// What a word with the host's name begins with.
const HOSTNAME: &[u8] = b"hostname=";

/// What a command line asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// The kernel's own words.
    pub options: Vec<Vec<u8>>,
    /// Variables for every program: (name, value).
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Changes to interfaces; what is empty or absent in one leaves what was baked.
    pub networks: Vec<Network>,
    /// Changes to mounts: what stands behind `mount=`.
    pub mounts: Vec<Vec<u8>>,
    /// The host name, if it changes.
    pub hostname: Option<String>,
    /// Arguments of the last program, `argv[0]` not among them; `None` leaves the baked ones.
    pub arguments: Option<Vec<Vec<u8>>>,
}

impl CommandLine {
    /// Reads a command line; anything is accepted.
    pub fn parse(text: &[u8]) -> Self {
        let mut line = CommandLine::default();
        for (word, literal) in words(text) {
            if let Some(arguments) = &mut line.arguments {
                arguments.push(word);
            } else if word == b"--" && literal {
                line.arguments = Some(Vec::new());
            } else if let Some(variable) = word.strip_prefix(b"env=") {
                let cut = variable.iter().position(|&byte| byte == b'=').unwrap_or(variable.len());
                let value = variable.get(cut + 1..).unwrap_or_default();
                line.environment.push((variable[..cut].to_vec(), value.to_vec()));
            } else if let Some(network) = word.strip_prefix(network_word::PREFIX) {
                line.networks.push(network_word::parse(network));
            } else if let Some(mount) = word.strip_prefix(mount_word::PREFIX) {
                line.mounts.push(mount.to_vec());
            } else if let Some(name) = word.strip_prefix(HOSTNAME) {
                line.hostname = Some(String::from_utf8_lossy(name).into_owned());
            } else {
                line.options.push(word);
            }
        }
        line
    }

    /// Whether the kernel's own words have this one.
    pub fn has(&self, option: &[u8]) -> bool {
        self.options.iter().any(|word| word == option)
    }

    /// What follows `name` in the last of the kernel's own words that begins with it.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.options.iter().rev().find_map(|word| word.strip_prefix(name.as_bytes()))
    }

    /// Writes it so that [`CommandLine::parse`] reads the same.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut word = |bytes: &[&[u8]], separator: bool| {
            if !text.is_empty() {
                text.push(' ');
            }
            // A word without bytes, or one that would be taken for the separator, shows itself by an escape.
            if bytes.iter().all(|part| part.is_empty()) || (!separator && bytes == [b"--"]) {
                text.push_str("\\e");
            }
            for &byte in bytes.iter().copied().flatten() {
                match byte {
                    b'\n' => text.push_str("\\n"),
                    b' ' | b'\\' => text.extend(['\\', char::from(byte)]),
                    0x21..=0x7e => text.push(char::from(byte)),
                    _ => text.extend(['\\', 'x', hexadecimal(byte >> 4), hexadecimal(byte & 15)]),
                }
            }
        };
        for option in &self.options {
            word(&[option], false);
        }
        for (name, value) in &self.environment {
            word(&[b"env=", name, b"=", value], false);
        }
        for network in &self.networks {
            word(&[network_word::PREFIX, network_word::render(network).as_bytes()], false);
        }
        for mount in &self.mounts {
            word(&[mount_word::PREFIX, mount], false);
        }
        if let Some(name) = &self.hostname {
            word(&[HOSTNAME, name.as_bytes()], false);
        }
        if let Some(arguments) = &self.arguments {
            word(&[b"--"], true);
            for argument in arguments {
                word(&[argument], true);
            }
        }
        text
    }

    /// Changes a configuration accordingly.
    pub fn apply(&self, configuration: &mut Configuration) {
        for (name, value) in &self.environment {
            set(&mut configuration.environment, name, value);
            for program in &mut configuration.programs {
                program.environment.retain(|(present, _)| present != name);
            }
        }
        for network in &self.networks {
            network_word::apply(network, &mut configuration.networks);
        }
        for mount in &self.mounts {
            mount_word::apply(mount, &mut configuration.mounts);
        }
        if let Some(name) = &self.hostname {
            configuration.hostname.clone_from(name);
        }
        if let (Some(arguments), Some(program)) = (&self.arguments, configuration.programs.last_mut()) {
            program.arguments.truncate(1);
            program.arguments.extend_from_slice(arguments);
        }
    }
}

fn set(environment: &mut Vec<(Vec<u8>, Vec<u8>)>, name: &[u8], value: &[u8]) {
    environment.retain(|(present, _)| present != name);
    environment.push((name.to_vec(), value.to_vec()));
}

fn hexadecimal(digit: u8) -> char {
    char::from_digit(u32::from(digit), 16).unwrap_or('0')
}

/// Words, and whether each stands there without escapes.
fn words(text: &[u8]) -> Vec<(Vec<u8>, bool)> {
    let mut words = Vec::new();
    let mut current: Option<(Vec<u8>, bool)> = None;
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0) {
            words.extend(current.take());
            continue;
        }
        let (word, literal) = current.get_or_insert_with(|| (Vec::new(), true));
        if byte != b'\\' {
            word.push(byte);
            continue;
        }
        *literal = false;
        match bytes.next() {
            Some(b'n') => word.push(b'\n'),
            // An empty word.
            Some(b'e') => {}
            Some(b'x') => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                if let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) {
                    word.push((high * 16 + low) as u8);
                }
            }
            Some(other) => word.push(other),
            None => {}
        }
    }
    words.extend(current);
    words
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::config::Program;

    #[test]
    fn any_arguments_read_back() {
        let all: Vec<u8> = (1..=255).collect();
        let line = CommandLine {
            options: vec![b"console=ttyS0".to_vec(), b"a b".to_vec()],
            environment: vec![(b"A".to_vec(), b"x = \\y\n".to_vec()), (b"EMPTY".to_vec(), vec![])],
            networks: vec![network_word::parse(b"eth0,address=10.0.0.2/24")],
            mounts: vec![b"/my data,source=/dev/vda,type=ext4".to_vec()],
            hostname: Some("web".into()),
            arguments: Some(vec![b"-c".to_vec(), vec![], b"--".to_vec(), all, b"print(1, 2)".to_vec()]),
        };
        assert_eq!(CommandLine::parse(line.render().as_bytes()), line);
        assert_eq!(CommandLine::parse(b""), CommandLine::default());
        assert_eq!(CommandLine::parse(b"--").arguments, Some(vec![]));
        let line = CommandLine::parse(b"\\--\\ x");
        assert_eq!((line.options[0].as_slice(), &line.arguments), (&b"-- x"[..], &None));
        let line = CommandLine { options: vec![b"--".to_vec()], ..CommandLine::default() };
        assert_eq!(CommandLine::parse(line.render().as_bytes()), line);
    }

    #[test]
    fn broken_escapes_do_no_harm() {
        let line = CommandLine::parse(b"a\\ \\x4 \\x \\");
        assert_eq!(line.options[0], b"a ");
    }

    #[test]
    fn arguments_replace_those_of_the_last_program() {
        let program = |name: &[u8]| Program {
            path: name.to_vec(),
            arguments: vec![name.to_vec(), b"old".to_vec()],
            environment: vec![(b"K".to_vec(), b"own".to_vec())],
            working_directory: None,
            then: Default::default(),
        };
        let mut configuration =
            Configuration { programs: vec![program(b"/a"), program(b"/b")], ..Default::default() };
        let line = b"env=K=v mount=/data,source=/dev/vda,type=ext4 hostname=web -- new er";
        CommandLine::parse(line).apply(&mut configuration);
        assert_eq!((configuration.hostname.as_str(), configuration.mounts.len()), ("web", 1));
        assert_eq!(configuration.programs[0].arguments, [b"/a".to_vec(), b"old".to_vec()]);
        assert_eq!(configuration.programs[1].arguments, [b"/b".to_vec(), b"new".to_vec(), b"er".to_vec()]);
        assert_eq!(configuration.environment, [(b"K".to_vec(), b"v".to_vec())]);
        assert!(configuration.programs[0].environment.is_empty());
    }
}
