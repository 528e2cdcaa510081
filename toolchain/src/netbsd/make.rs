//! The tree's own make: asked for values, run for targets, its output kept, its failures found in it.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    Error, host, jobs,
    settings::{Places, Target},
};
use crate::launch::die_with_us;

/// How many lines before an error are shown.
const LAST_LINES: usize = 15;
/// A line of output is cut here.
const LINE_LENGTH: usize = 400;

/// Something that didn't build.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What: a component's name, or what was being done.
    pub name: String,
    /// The command that failed, if the output says it.
    pub command: Option<String>,
    /// The last lines of its output.
    pub lines: Vec<String>,
    /// All of its output.
    pub log: PathBuf,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} does not build", self.name)?;
        if let Some(command) = &self.command {
            write!(formatter, "\n  command: {command}")?;
        }
        for line in &self.lines {
            write!(formatter, "\n  {line}")?;
        }
        write!(formatter, "\n  all of it: {}", self.log.display())
    }
}

/// A command whose surroundings don't change the build.
pub fn plain_command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").stdin(Stdio::null());
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    die_with_us(&mut command);
    command
}

/// The tree's make with the settings of a build.
#[derive(Debug, Clone)]
pub struct Make {
    places: Places,
    target: Target,
}

impl Make {
    /// For a build.
    pub fn new(places: &Places, target: Target) -> Self {
        Make { places: places.clone(), target }
    }

    /// What it builds for.
    pub fn target(&self) -> Target {
        self.target
    }

    fn command(&self, directory: &Path) -> Command {
        let mut command = plain_command(self.places.make());
        let dependencies = self.places.tools.join("bin/dependencies");
        command
            .current_dir(self.places.source.join(directory))
            .arg(format!("MKDEP={}", dependencies.display()))
            .arg(format!("MKDEPCXX={}", dependencies.display()));
        command
    }

    /// The values of expressions in a directory of the tree.
    pub fn ask<const N: usize>(
        &self,
        directory: &Path,
        expressions: [&str; N],
    ) -> Result<[String; N], Error> {
        let mut command = self.command(directory);
        for expression in expressions {
            command.args(["-V", expression]);
        }
        let output = command.output().map_err(host(self.places.make().display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines().map(|line| line.trim().to_string());
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = if said.trim().is_empty() { text.trim() } else { said.trim() };
            return Err(Error::Other(format!("{}: make cannot read it: {said}", directory.display())));
        }
        Ok(std::array::from_fn(|_| lines.next().unwrap_or_default()))
    }

    /// Makes targets in a directory of the tree, with the output in the log.
    pub fn run(&self, name: &str, directory: &Path, arguments: &[&str], log: &Path) -> Result<(), Failure> {
        let mut command = self.command(directory);
        // The log has the commands, which a failure is explained by.
        command.arg("MAKEVERBOSE=2").args(arguments);
        run(command, name, log)
    }
}

/// Runs a command with its output added to the log.
pub fn run(mut command: Command, name: &str, log: &Path) -> Result<(), Failure> {
    let failure = |lines: Vec<String>| Failure { name: name.into(), command: None, lines, log: log.into() };
    let open = || -> std::io::Result<(File, File)> {
        let file = File::options().create(true).append(true).open(log)?;
        let copy = file.try_clone()?;
        Ok((file, copy))
    };
    let start = fs::metadata(log).map_or(0, |data| data.len());
    let (output, errors) = open().map_err(|error| failure(vec![format!("{}: {error}", log.display())]))?;
    let status = jobs::run(command.stdout(output).stderr(errors));
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let text = fs::read(log).unwrap_or_default();
            let text = String::from_utf8_lossy(text.get(start as usize..).unwrap_or_default());
            let mut found = explain(&text);
            if found.1.is_empty() {
                found.1.push(status.to_string());
            }
            Err(Failure { name: name.into(), command: found.0, lines: found.1, log: log.into() })
        }
        Err(error) => Err(failure(vec![format!("{}: {error}", command.get_program().display())])),
    }
}

/// The command that failed and the lines before make said so. make(1) of NetBSD writes `*** [target] Error code N`, or
/// `*** Failed command: ...` when it runs one job at a time.
fn explain(text: &str) -> (Option<String>, Vec<String>) {
    let lines: Vec<&str> = text.lines().collect();
    let end = lines.iter().position(|line| line.starts_with("*** ")).unwrap_or(lines.len());
    let said = lines.iter().find_map(|line| line.strip_prefix("*** Failed command: "));
    let target =
        lines.get(end).and_then(|line| line.split_once("*** [")?.1.split_once(']')).map(|(target, _)| target);
    let command = said.or_else(|| {
        let output = format!("-o {}", target?);
        lines[..end].iter().rev().find(|line| line.contains(&output)).copied()
    });
    let shown = |line: &&str| cut(line.trim_end());
    let interesting = lines[..end].iter().filter(|line| {
        !line.trim().is_empty()
            && !line.starts_with("--- ")
            && Some(**line) != command
            && !line.starts_with("#   ")
    });
    let kept: Vec<String> = interesting.map(shown).collect();
    let kept = kept[kept.len().saturating_sub(LAST_LINES)..].to_vec();
    (command.map(String::from), kept)
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE_LENGTH) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_one_job() {
        let text = "#   compile  x/y.o\ncc -c y.c -o y.o\ny.c:3: error: no\n\n*** Failed target:  y.o\n\
                    *** Failed command: cc -c y.c -o y.o\n*** Error code 1\n\nStop.\n";
        let (command, lines) = explain(text);
        assert_eq!(command.as_deref(), Some("cc -c y.c -o y.o"));
        assert_eq!(lines, ["y.c:3: error: no"]);
    }

    #[test]
    fn failures_in_several_jobs() {
        let text = "--- a.o ---\ncc -c a.c -o a.o\n--- y.o ---\ncc -c y.c -o y.o\n--- a.o ---\nfine\ny.c:3: error: no\n\
                    *** [y.o] Error code 1\nmake: stopped\n";
        let (command, lines) = explain(text);
        assert_eq!(command.as_deref(), Some("cc -c y.c -o y.o"));
        assert_eq!(lines, ["cc -c a.c -o a.o", "fine", "y.c:3: error: no"]);
        assert_eq!(explain("").1, Vec::<String>::new());
    }

    #[test]
    fn output_is_kept_and_a_failure_shows_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let shell = |script: &str| {
            let mut command = plain_command("sh");
            command.args(["-c", script]);
            run(command, "a test", &log)
        };
        shell("echo first").expect("success");
        let failure = shell("echo second; exit 3").expect_err("failure");
        assert_eq!(failure.lines, ["second"]);
        assert!(failure.to_string().contains("a test does not build"));
        assert_eq!(fs::read_to_string(&log).expect("a log"), "first\nsecond\n");
        assert_eq!(shell("exit 3").expect_err("failure").lines, ["exit status: 3"]);
    }
}
