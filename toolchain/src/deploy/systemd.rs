//! systemd: a service whose main process is `rumprun-bake run`.

use super::{Deployment, Error, Plan, Request};
use crate::launch::network::Backend;

/// How long a guest has to stop: longer than the launcher waits for it.
const STOP_SECONDS: u32 = 20;

pub fn deploy(plan: &Plan, request: &Request) -> Result<Deployment, Error> {
    let tool =
        std::env::current_exe().map_err(|source| Error::File { path: "rumprun-bake".into(), source })?;
    let tool = tool.to_str().ok_or_else(|| Error::Options("the tool's own path is not UTF-8".into()))?;
    let mut words = vec![tool.to_owned(), "--quiet".into(), "run".into(), plan.image.clone()];
    let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
    add("--cpus", plan.cpus.to_string());
    add("--memory", format!("{}M", plan.memory));
    for disk in &plan.disks {
        add("--disk", disk.clone());
    }
    for (nic, _) in &plan.nics {
        add("--net", nic.specification());
    }
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec())
            .map_err(|_| Error::Options("arguments that are not UTF-8: bake them".into()))
    };
    for (name, value) in &request.command_line.environment {
        add("--env", format!("{}={}", text(name)?, text(value)?));
    }
    if let Some(arguments) = &request.command_line.arguments {
        words.push("--".into());
        for argument in arguments {
            words.push(text(argument)?);
        }
    }
    let command: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let low = |(nic, _): &(crate::launch::Nic, _)| match &nic.backend {
        Backend::User(published) => published.iter().any(|publish| publish.host < 1024),
        _ => false,
    };
    let links = plan.nics.iter().any(|(nic, _)| matches!(nic.backend, Backend::Tap(_) | Backend::Bridge(_)));
    let mut unit = format!(
        "[Unit]\nDescription={}\nWants=network-online.target\nAfter=network-online.target\n\n[Service]\n",
        escaped(&format!("{} (image of rumprun-bake)", plan.name))
    );
    unit += &format!("ExecStart={}\n", command.join(" "));
    // The launcher turns SIGTERM into the power button.
    unit +=
        &format!("KillMode=mixed\nTimeoutStopSec={STOP_SECONDS}\nRestart=on-failure\nStandardInput=null\n");
    unit += &format!("CacheDirectory={0}\nEnvironment=RUMPRUN_BAKE_CACHE=/var/cache/{0}\n", plan.name);
    let mut capabilities = Vec::new();
    if links {
        capabilities.push("CAP_NET_ADMIN");
    }
    if plan.nics.iter().any(low) {
        capabilities.push("CAP_NET_BIND_SERVICE");
    }
    // Root's files stay root's, and no more of root's powers than the network needs.
    unit += &format!(
        "CapabilityBoundingSet={}\nNoNewPrivileges=yes\nProtectSystem=full\nProtectKernelModules=yes\n",
        [capabilities.as_slice(), &["CAP_DAC_OVERRIDE"]].concat().join(" ")
    );
    unit += "\n[Install]\nWantedBy=multi-user.target\n";
    let name = &plan.name;
    let notes = vec![format!(
        "save it as /etc/systemd/system/{name}.service, then: systemctl daemon-reload && systemctl enable --now {name}"
    )];
    Ok(Deployment { text: unit, notes })
}

/// `%` begins a specifier everywhere.
fn escaped(text: &str) -> String {
    text.replace('%', "%%")
}

/// A word of a command line (systemd.service(5)): `$` begins a variable besides.
fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./=,:+@%".contains(character);
    let text = escaped(word).replace('$', "$$");
    if !word.is_empty() && word.chars().all(plain) {
        return text;
    }
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t");
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_quoted_for_systemd() {
        for (word, expected) in [
            ("plain-1.2", "plain-1.2"),
            ("", "\"\""),
            ("100%", "100%%"),
            ("a b", "\"a b\""),
            ("$HOME \"x\" \\n", "\"$$HOME \\\"x\\\" \\\\n\""),
            ("a\nb", "\"a\\nb\""),
            (";", "\";\""),
        ] {
            assert_eq!(quoted(word), expected, "{word}");
        }
    }
}
