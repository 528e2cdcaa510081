//! `rumprun-bake netbsd`.

use std::{
    env,
    fmt::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use anyhow::{Context, Result};
use toolchain::{
    netbsd::{
        self, build,
        check::{self, Findings},
        hosted::{self, Hosted},
        make::Failure,
        patches::State,
        set::{self, Set},
        wrapper,
    },
    output,
};

use super::{FAILURE, print, print_json};
use crate::{
    netbsd::{NetbsdBuild, NetbsdCommand, NetbsdPatch, Source},
    progress::Progress,
};

pub fn netbsd(command: &NetbsdCommand, progress: &Progress) -> Result<ExitCode> {
    match command {
        NetbsdCommand::Check { source, json } => check_tree(source, *json),
        NetbsdCommand::Patch(patch) => patch_tree(patch, progress),
        NetbsdCommand::Build(build) => build_set(build, progress),
        NetbsdCommand::Host(build) => build_hosted(build, progress),
        NetbsdCommand::Tools { directory, set } => tools(directory, set.as_deref(), progress),
        NetbsdCommand::List { json } => list(*json),
        NetbsdCommand::Describe { name, json } => describe(name.as_deref(), *json),
    }
}

fn tools(directory: &Path, set: Option<&str>, progress: &Progress) -> Result<ExitCode> {
    wrapper::install(directory, &env::current_exe()?, &set::directory(set)?, progress)?;
    print(&format!("{0}: add it to PATH; {1}cc compiles and links\n", directory.display(), wrapper::PREFIX))?;
    Ok(ExitCode::SUCCESS)
}

impl Source {
    fn directory(&self) -> Result<PathBuf> {
        self.directory.clone().ok_or_else(|| check::no_source().into())
    }

    fn patch_sets(&self) -> Result<PathBuf> {
        Ok(self.patch_sets.clone().map_or_else(netbsd::series::folder, Ok)?)
    }
}

/// Names as typed: absent if none were, empty for `none`.
fn names(typed: &[String]) -> Option<Vec<String>> {
    match typed {
        [] => None,
        [none] if none == "none" => Some(Vec::new()),
        names => Some(names.to_vec()),
    }
}

fn check_tree(source: &Source, json: bool) -> Result<ExitCode> {
    let findings = check::check(&source.directory()?, &source.patch_sets()?)?;
    if json {
        print_json(&findings)?;
    } else {
        print(&said(&findings))?;
    }
    Ok(if findings.good() { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
}

fn said(findings: &Findings) -> String {
    let mut text = format!("NetBSD {}\n", findings.version);
    match &findings.series {
        Some(series) => _ = writeln!(text, "patches for {series}:"),
        None => text.push_str("no patches for this release; `--patches none` builds without\n"),
    }
    for patch in &findings.patches {
        let state = match (patch.state, &patch.rejected) {
            (_, Some(_)) => "DOES NOT APPLY",
            (Some(State::Applies), None) => "applies",
            (Some(State::AlreadyThere), None) => "already there",
            (Some(State::NothingToPatch), None) => "nothing to patch",
            (None, None) => "not for this release",
        };
        _ = writeln!(text, "  {:<20} {state:<16} {}", patch.patch.name, patch.patch.what);
    }
    for reason in findings.patches.iter().filter_map(|patch| patch.rejected.as_ref()) {
        _ = writeln!(text, "\n{}", reason.trim_end());
    }
    for missing in &findings.missing {
        _ = writeln!(text, "missing: {missing}");
    }
    for note in &findings.notes {
        _ = writeln!(text, "note: {note}");
    }
    text
}

fn patch_tree(arguments: &NetbsdPatch, progress: &Progress) -> Result<ExitCode> {
    let (source, patch_sets) = (arguments.source.directory()?, arguments.source.patch_sets()?);
    let Some(out) = arguments.out.as_ref().filter(|_| !arguments.list) else {
        let findings = check::check(&source, &patch_sets)?;
        let lines = findings.patches.iter().map(|state| {
            let patch = &state.patch;
            format!("{}: {}\n    {}\n", patch.name, patch.what, patch.why)
        });
        print(&lines.collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    };
    let names = names(&arguments.only);
    let done = check::copy_patched(&source, &patch_sets, names.as_deref(), arguments.reverse, out)?;
    for (patch, state) in &done {
        let state = match (arguments.reverse, state) {
            (true, _) => "taken back",
            (false, State::Applies) => "applied",
            (false, State::AlreadyThere) => "already there",
            (false, State::NothingToPatch) => "nothing to patch",
        };
        progress.say(&format!("{:<20} {state}", patch.name));
    }
    progress.say(&format!("{}: {} patches", out.display(), done.len()));
    Ok(ExitCode::SUCCESS)
}

fn request(arguments: &NetbsdBuild) -> Result<build::Request> {
    output::remove_on_signals().context("cannot catch signals")?;
    let jobs =
        arguments.jobs.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    Ok(build::Request {
        source: arguments.source.directory()?,
        patches_folder: arguments.source.patch_sets()?,
        patches: names(&arguments.patches),
        components: (!arguments.components.is_empty()).then(|| arguments.components.clone()),
        diagnostic: arguments.diagnostic,
        jobs,
        sets: set::folder()?,
    })
}

fn build_set(arguments: &NetbsdBuild, progress: &Progress) -> Result<ExitCode> {
    let outcome = build::build(&request(arguments)?, progress);
    progress.finish();
    let outcome = outcome?;
    show_failures(&outcome.failures, progress);
    if arguments.json {
        print_json(&outcome.set)?;
    } else {
        let set = &outcome.set;
        progress.say(&format!(
            "{} {}: {} components, {} libraries, {} patches, in {}",
            set.name,
            state(outcome.unchanged),
            set.components.len(),
            set.libraries.len(),
            set.patches.len(),
            set.directory.display()
        ));
    }
    Ok(end(&outcome.failures, progress))
}

fn build_hosted(arguments: &NetbsdBuild, progress: &Progress) -> Result<ExitCode> {
    let outcome = hosted::build(&request(arguments)?, progress);
    progress.finish();
    let outcome = outcome?;
    show_failures(&outcome.failures, progress);
    if arguments.json {
        print_json(&outcome.hosted)?;
    } else {
        let hosted = &outcome.hosted;
        progress.say(&format!(
            "{} {}: {} libraries, {} programs, {} patches",
            hosted.name,
            state(outcome.unchanged),
            hosted.libraries.len(),
            hosted.programs.len(),
            hosted.patches.len()
        ));
        progress.say(&how_to_use(hosted));
    }
    Ok(end(&outcome.failures, progress))
}

/// A server, a client, and a program that knows nothing of either.
fn how_to_use(hosted: &Hosted) -> String {
    let directory = hosted.directory.display();
    let mut text = format!(
        "  {directory}/bin/rump_server -lrumpvfs unix:///tmp/rump\n  \
         cc client.c -I{directory}/include -L{directory}/lib -Wl,-rpath,{directory}/lib -lrumpclient -o client\n  \
         RUMP_SERVER=unix:///tmp/rump ./client"
    );
    if hosted.hijacks() {
        _ = write!(
            text,
            "\n  RUMP_SERVER=unix:///tmp/rump LD_LIBRARY_PATH={directory}/lib LD_PRELOAD={directory}/lib/librumphijack.so program"
        );
    }
    text
}

fn state(unchanged: bool) -> &'static str {
    if unchanged { "is up to date" } else { "installed" }
}

fn show_failures(failures: &[Failure], progress: &Progress) {
    for failure in failures {
        progress.failure(&failure.to_string());
    }
}

/// The exit status, and the summary of what did not build.
fn end(failures: &[Failure], progress: &Progress) -> ExitCode {
    if failures.is_empty() {
        return ExitCode::SUCCESS;
    }
    let failed: Vec<_> = failures.iter().map(|failure| failure.name.as_str()).collect();
    progress.failure(&format!("{} did not build: {}", failed.len(), failed.join(", ")));
    ExitCode::from(FAILURE)
}

fn list(json: bool) -> Result<ExitCode> {
    let sets = Set::all(&set::folder()?)?;
    if json {
        print_json(&sets)?;
        return Ok(ExitCode::SUCCESS);
    }
    let hosted = Hosted::all(&set::folder()?)?;
    let mut text = String::new();
    for set in &sets {
        let patches: Vec<_> = set.patches.iter().map(|patch| patch.name.as_str()).collect();
        let patches = if patches.is_empty() { "unpatched".into() } else { patches.join(", ") };
        _ = writeln!(
            text,
            "{:<20} NetBSD {:<8} {} components, {} libraries  {patches}",
            set.name,
            set.version,
            set.components.len(),
            set.libraries.len()
        );
    }
    for hosted in &hosted {
        _ = writeln!(
            text,
            "{:<20} NetBSD {:<8} {} libraries, {} programs, for this machine: {}",
            hosted.name,
            hosted.version,
            hosted.libraries.len(),
            hosted.programs.len(),
            hosted.directory.display()
        );
    }
    if sets.is_empty() && hosted.is_empty() {
        text.push_str("none; `rumprun-bake netbsd build --src DIR` makes one\n");
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(name: Option<&str>, json: bool) -> Result<ExitCode> {
    let set = Set::find(&set::folder()?, name)?;
    if json {
        print_json(&set)?;
        return Ok(ExitCode::SUCCESS);
    }
    let patches: Vec<_> = set.patches.iter().map(|patch| patch.name.as_str()).collect();
    let kind = if set.diagnostic { "diagnostic" } else { "release" };
    let mut text = format!(
        "{}: NetBSD {} for {}, {kind}\n\ndirectory   {}\ncompiler    {}\nflags       {}\npatches     {}\n",
        set.name,
        set.version,
        set.machine,
        set.directory.display(),
        set.compiler,
        set.flags,
        if patches.is_empty() { "none".into() } else { patches.join(", ") }
    );
    if !set.failed.is_empty() {
        _ = writeln!(text, "did not build  {}", set.failed.join(", "));
    }
    text.push('\n');
    for component in set.components.iter().chain(&set.libraries) {
        _ = writeln!(text, "{:<8} {:<24} {}", component.group.name(), component.name, component.comment);
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
