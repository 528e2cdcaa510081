//! Proves that the image of a recipe works: boots it and does what the recipe's checks say.

mod action;

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use self::action::Answer;
use super::{
    Action, Check, Recipe,
    error::Error,
    launch::{Reach, free_port, prepare},
};
use crate::{
    launch::{self, Options, Outcome, captured::Machine},
    package,
    report::Report,
};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// Lines of the console that are shown with a failure.
const CONSOLE_LINES: usize = 30;

/// What became of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It succeeded.
    Passed,
    /// It failed.
    Failed,
    /// It could not be made here.
    Skipped,
}

/// A check and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Why it failed or was skipped.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// How long it took, from the start of the machine for the first.
    pub seconds: f64,
}

/// What was found of a recipe.
#[derive(Debug, Clone, Serialize)]
pub struct Findings {
    /// The recipe.
    pub name: String,
    /// Its checks, in order.
    pub checks: Vec<Finding>,
    /// The end of the console, if a check failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub console: String,
}

impl Findings {
    /// Whether no check failed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|finding| finding.verdict != Verdict::Failed)
    }
}

/// Boots the image that `options` names and makes the checks. Disks are made in `data` if they aren't there.
pub fn check(
    recipe: &Recipe,
    mut options: Options,
    data: &Path,
    report: &dyn Report,
) -> Result<Findings, Error> {
    let reaches = prepare(recipe, &mut options, data, free_port)?;
    let installed = package::database().unwrap_or_default();
    report.step(&format!("{}: booting", recipe.name));
    let mut started = Instant::now();
    let mut machine = Machine::start(launch::plan(&options)?)?;
    let mut checks = Vec::new();
    for check in &recipe.checks {
        let what = describe(check);
        report.step(&format!("{}: {what}", recipe.name));
        let answer = match missing(check, &installed) {
            Some(why) => Answer::Skip(why),
            None => attempt(recipe, check, &reaches, &mut machine)?,
        };
        let (verdict, detail) = match answer {
            Answer::Yes => (Verdict::Passed, String::new()),
            Answer::Skip(why) => (Verdict::Skipped, why),
            Answer::NotYet(why) | Answer::No(why) => (Verdict::Failed, format!("{}: {why}", check.place)),
        };
        checks.push(Finding { check: what, verdict, detail, seconds: started.elapsed().as_secs_f64() });
        started = Instant::now();
        if verdict == Verdict::Failed {
            break;
        }
    }
    let end = machine.stop()?;
    let must_end = recipe.checks.iter().any(|check| matches!(check.action, Action::Exit { .. }));
    if !must_end || matches!(end, Outcome::Panicked) {
        checks.extend(stopped(end, started));
    }
    let failed = checks.iter().any(|finding| finding.verdict == Verdict::Failed);
    let console = if failed { tail(&machine.console()) } else { String::new() };
    Ok(Findings { name: recipe.name.clone(), checks, console })
}

/// A service ends when it is asked to, whatever its program's status; nothing else is all right.
fn stopped(end: Outcome, started: Instant) -> Option<Finding> {
    let detail = match end {
        Outcome::Exited(_) | Outcome::Rebooted => return None,
        Outcome::Panicked => "the guest's kernel panicked".to_string(),
        Outcome::Vanished => "the machine ended without a status".to_string(),
        Outcome::Killed(_) => "it did not stop within 10 seconds and was killed".to_string(),
    };
    let check = "stops when asked".to_string();
    Some(Finding { check, verdict: Verdict::Failed, detail, seconds: started.elapsed().as_secs_f64() })
}

/// What a check does, for people.
pub fn describe(check: &Check) -> String {
    match &check.action {
        Action::Http { path, status, .. } => format!("GET {path} answers {status}"),
        Action::Send { text, expect, .. } => format!("{text:?} is answered with {expect:?}"),
        Action::Command { words, .. } => words.join(" "),
        Action::Console { text } => format!("the console shows {text:?}"),
        Action::Exit { status } => format!("ends with status {status}"),
    }
}

/// Why a check can't be made here.
fn missing(check: &Check, installed: &[package::Package]) -> Option<String> {
    let Action::Command { words, requires: Some(package), .. } = &check.action else { return None };
    let there =
        installed.iter().any(|present| present.name == *package || present.provides.contains(package));
    match there {
        true => None,
        false => Some(format!("{} needs the Debian package {package}", words[0])),
    }
}

/// Tries until it succeeds, can't succeed any more, or took too long.
fn attempt(
    recipe: &Recipe,
    check: &Check,
    reaches: &[Option<Reach>],
    machine: &mut Machine,
) -> Result<Answer, Error> {
    let deadline = Instant::now() + Duration::from_secs(check.timeout.into());
    loop {
        // Looked at first: what it showed before its end counts.
        let ended = machine.ended()?;
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = action::attempt(recipe, &check.action, reaches, machine, ended, left)?;
        match (answer, ended) {
            (Answer::NotYet(why), None) if !left.is_zero() => {
                let _ = why;
                thread::sleep(PAUSE);
            }
            (Answer::NotYet(why), None) => {
                return Ok(Answer::No(format!("not within {} s: {why}", check.timeout)));
            }
            (Answer::NotYet(why), Some(end)) => {
                return Ok(Answer::No(format!("{why}; the machine ended: {}", name_end(end))));
            }
            (answer, _) => return Ok(answer),
        }
    }
}

/// How a machine ended, for people.
fn name_end(end: Outcome) -> String {
    match end {
        Outcome::Exited(status) => format!("status {status}"),
        Outcome::Rebooted => "a restart".into(),
        Outcome::Panicked => "a kernel panic".into(),
        Outcome::Vanished => "without a status".into(),
        Outcome::Killed(signal) => format!("signal {signal}"),
    }
}

fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}
