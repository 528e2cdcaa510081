//! `package`.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use toolchain::{
    bake::Format,
    hash::Parts,
    launch::Options,
    output,
    recipe::{
        self, Recipe, Source,
        all::{self, Outcome},
        bake::{self, Baked},
        check::{self, Findings, Verdict, describe},
        debian,
        error::{EXIT_CHECK, EXIT_FAILURE, Error},
        find, launch,
    },
};

use super::run;
use crate::{
    arguments::RunOptions,
    package::{PackageBake, PackageCheck, PackageCommand, PackageRun, Search},
    progress::{Progress, size},
};

pub fn package(command: &PackageCommand, progress: &Progress) -> Result<ExitCode> {
    let result = match command {
        PackageCommand::List { search, json } => return list(search, *json),
        PackageCommand::Show { name, search, json } => show(name, search, *json),
        PackageCommand::Bake(arguments) => bake(arguments, progress),
        PackageCommand::Key { names, all, search, format, json } => {
            let format = (*format).into();
            if *all {
                keys(&all_names(search), search, format, *json, true)
            } else {
                keys(names, search, format, *json, false)
            }
        }
        PackageCommand::Run(arguments) => return run(arguments, progress),
        PackageCommand::Check(arguments) => check(arguments, progress),
    };
    match result {
        Err(error) => match error.downcast_ref::<Error>() {
            Some(known) => {
                progress.finish();
                eprintln!("error: {known}");
                Ok(ExitCode::from(known.exit_status()))
            }
            None => Err(error),
        },
        result => result,
    }
}

/// Finds a recipe; the error has its exit status.
fn find(name: &str, search: &Search) -> Result<Recipe> {
    Ok(find::find(name, &search.folders).map_err(Error::from)?)
}

fn list(search: &Search, json: bool) -> Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    let mut recipes = Vec::new();
    for folder in find::all(&search.folders).into_values() {
        match find::find_in(&folder) {
            Ok(recipe) => recipes.push(recipe),
            Err(error) => {
                eprintln!("error: {error}");
                status = ExitCode::from(Error::from(error).exit_status());
            }
        }
    }
    if json {
        let row = |recipe: &Recipe| {
            let named = debian::wanted(recipe).into_iter().map(|name| &name.value);
            json!({
                "name": recipe.name,
                "summary": recipe.summary,
                "source": recipe.source.kind(),
                "folder": recipe.folder,
                "packages": named.chain(debian::needed_to_build(recipe)).collect::<Vec<_>>(),
            })
        };
        super::print_json(&recipes.iter().map(row).collect::<Vec<_>>())?;
    } else if recipes.is_empty() {
        super::print("no recipes; --packages DIR names a folder with some\n")?;
    } else {
        let line =
            |recipe: &Recipe| format!("{:<14} {:<8} {}\n", recipe.name, recipe.source.kind(), recipe.summary);
        super::print(&recipes.iter().map(line).collect::<String>())?;
    }
    Ok(status)
}

fn show(name: &str, search: &Search, json: bool) -> Result<ExitCode> {
    let recipe = find(name, search)?;
    if json {
        super::print_json(&json_value(&recipe))?
    } else {
        super::print(&text(&recipe))?
    }
    Ok(ExitCode::SUCCESS)
}

/// A recipe's programs as commands.
fn commands(recipe: &Recipe) -> Vec<String> {
    let word = |word: &Vec<u8>| toolchain::quote::shell(&String::from_utf8_lossy(word));
    let programs = recipe.configuration.programs.iter();
    programs.map(|program| program.arguments.iter().map(word).collect::<Vec<_>>().join(" ")).collect()
}

fn json_value(recipe: &Recipe) -> serde_json::Value {
    json!({
        "name": recipe.name,
        "summary": recipe.summary,
        "description": recipe.description,
        "homepage": recipe.homepage,
        "folder": recipe.folder,
        "config": recipe.config.name,
        "source": recipe.source.kind(),
        "packages": debian::wanted(recipe).iter().map(|name| &name.value).collect::<Vec<_>>(),
        "build_packages": debian::needed_to_build(recipe),
        "programs": commands(recipe),
        "disks": recipe.disks,
        "ports": recipe.ports,
        "memory": recipe.memory,
        "cpus": recipe.cpus,
        "checks": recipe.checks.iter().map(describe).collect::<Vec<_>>(),
    })
}

fn text(recipe: &Recipe) -> String {
    let mut lines = vec![format!("{}: {}", recipe.name, recipe.summary)];
    if !recipe.description.is_empty() {
        lines.extend([String::new(), recipe.description.clone()]);
    }
    lines.push(String::new());
    let mut row = |name: &str, value: &str| lines.push(format!("{name:<12} {value}"));
    row("recipe", &recipe.folder.join(recipe::FILE).display().to_string());
    if let Some(homepage) = &recipe.homepage {
        row("homepage", homepage);
    }
    row("source", &source(&recipe.source));
    let packages: Vec<_> = debian::wanted(recipe).iter().map(|name| name.value.clone()).collect();
    if !packages.is_empty() {
        row("packages", &packages.join(" "));
    }
    let needed = debian::needed_to_build(recipe);
    if !needed.is_empty() {
        row("to build", &needed.join(" "));
    }
    for command in commands(recipe) {
        row("program", &command);
    }
    for disk in &recipe.disks {
        row("disk", &format!("{}, {} on {}", disk.name, size(disk.size), disk.target));
    }
    for port in &recipe.ports {
        row("port", &format!("{}/{:?} ({})", port.port, port.protocol, port.name).to_lowercase());
    }
    row(
        "machine",
        &format!("{}, {} CPU{}", size(recipe.memory), recipe.cpus, if recipe.cpus == 1 { "" } else { "s" }),
    );
    for check in &recipe.checks {
        row("check", &describe(check));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn source(source: &Source) -> String {
    match source {
        Source::Debian(_) => "Debian packages".into(),
        Source::Archive { location, .. } => match &location.value {
            recipe::source::Location::File(path) => format!("archive {}", path.display()),
            recipe::source::Location::Url(url) => format!("archive {url}"),
        },
        Source::Folder { folder, .. } => format!("sources in {}", folder.display()),
        Source::Cargo(wanted) => match &wanted.from {
            recipe::source::CrateFrom::Folder(folder) => format!("crate in {}", folder.display()),
            recipe::source::CrateFrom::Registry { name, version } => format!("crate {name} {version}"),
        },
        Source::Program { host, .. } => format!("program {}", host.display()),
    }
}

fn all_names(search: &Search) -> Vec<String> {
    find::all(&search.folders).into_values().map(|folder| format!("{}/", folder.display())).collect()
}

fn keys(names: &[String], search: &Search, format: Format, json: bool, together: bool) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for name in names {
        let recipe = find(name, search)?;
        let key = bake::key(&recipe, format)?;
        rows.push((recipe.name, key));
    }
    let mut parts = Parts::default();
    rows.iter().for_each(|(_, key)| parts.add(key));
    if together {
        rows.push(("all".into(), parts.finish()));
    }
    if json {
        super::print_json(&rows.into_iter().collect::<std::collections::BTreeMap<_, _>>())?;
    } else {
        let line = |(name, key): &(String, String)| format!("{key}  {name}\n");
        super::print(&rows.iter().map(line).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn baked_line(baked: &Baked) -> String {
    let how = if baked.cached { "from the cache" } else { "baked" };
    format!("{}: {}, {how}, key {}", baked.output.display(), size(baked.bytes), &baked.key[..12])
}

fn json_outcome(outcome: &Outcome) -> serde_json::Value {
    match &outcome.result {
        Ok(baked) => json!({
            "name": outcome.name,
            "status": if baked.cached { "cached" } else { "baked" },
            "output": baked.output,
            "sha256": baked.sha256,
            "bytes": baked.bytes,
            "seconds": baked.seconds,
            "key": baked.key,
        }),
        Err(error) => json!({
            "name": outcome.name,
            "status": "failed",
            "exit": error.exit_status(),
            "error": error.to_string(),
        }),
    }
}

fn bake(arguments: &PackageBake, progress: &Progress) -> Result<ExitCode> {
    output::remove_on_signals().context("cannot catch signals")?;
    let format = arguments.format.into();
    let search = &arguments.search;
    if let [name] = arguments.names.as_slice() {
        let recipe = find(name, search)?;
        let default = PathBuf::from(bake::file_name(&recipe, format));
        let output = match &arguments.output {
            Some(output) if output.is_dir() => output.join(default),
            Some(output) => output.clone(),
            None => default,
        };
        let baked = bake::recipe(&recipe, &output, format, progress)?;
        progress.finish();
        if arguments.json {
            super::print_json(&json_outcome(&Outcome { name: recipe.name, result: Ok(baked) }))?;
        } else {
            progress.say(&baked_line(&baked));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let recipes: Vec<(String, PathBuf)> = if arguments.all {
        find::all(&search.folders).into_iter().collect()
    } else {
        let named = arguments.names.iter().map(|name| {
            let recipe = find(name, search)?;
            Ok((recipe.name, recipe.folder))
        });
        named.collect::<Result<_>>()?
    };
    if recipes.is_empty() {
        bail!("no recipes; --packages DIR names a folder with some");
    }
    let folder = arguments.output.as_deref().unwrap_or(Path::new("."));
    let jobs =
        arguments.jobs.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    let outcomes = all::bake(&recipes, folder, format, jobs, progress, |outcome| match &outcome.result {
        Ok(baked) if !arguments.json => progress.line(&baked_line(baked)),
        Ok(_) => {}
        Err(error) => progress.failure(&format!("{}: {error}", outcome.name)),
    })?;
    progress.finish();
    if arguments.json {
        super::print_json(&outcomes.iter().map(json_outcome).collect::<Vec<_>>())?;
    }
    Ok(ExitCode::from(all::exit_status(&outcomes)))
}

/// Bakes a recipe into a folder that goes when dropped.
fn bake_for_run(recipe: &Recipe, progress: &Progress) -> Result<(output::Folder, PathBuf)> {
    let folder = output::temporary_folder()?;
    let image = folder.path().join(bake::file_name(recipe, Format::Elf));
    bake::recipe(recipe, &image, Format::Elf, progress)?;
    Ok((folder, image))
}

/// The options of a run, with what the recipe says where nothing is given.
fn options(recipe: &Recipe, image: &Path, given: &RunOptions) -> Result<Options> {
    let mut options = run::options(image, given)??;
    options.cpus = given.cpus.unwrap_or(recipe.cpus);
    options.memory = given.memory.unwrap_or(recipe.memory);
    Ok(options)
}

fn run(arguments: &PackageRun, progress: &Progress) -> Result<ExitCode> {
    let prepared = || -> Result<_> {
        let recipe = find(&arguments.name, &arguments.search)?;
        let (folder, image) = bake_for_run(&recipe, progress)?;
        progress.finish();
        let mut options = options(&recipe, &image, &arguments.options)?;
        if !std::io::stdin().is_terminal() {
            options.command_line.options.push(toolchain::NO_ECHO.to_vec());
        }
        let data = PathBuf::from(format!("{}-data", recipe.name));
        let data = arguments.data.as_ref().unwrap_or(&data);
        let reaches = launch::prepare(&recipe, &mut options, data, launch::usual_port)?;
        for (port, reach) in recipe.ports.iter().zip(reaches) {
            if let Some(reach) = reach {
                progress.note(&format!("{} is at {}:{}", port.name, reach.address, reach.port));
            }
        }
        Ok((folder, options))
    };
    match prepared() {
        Ok((_folder, options)) => Ok(run::boot(&options, &arguments.options, progress)),
        Err(error) => {
            progress.finish();
            Ok(run::not_started(&format!("{error:#}")))
        }
    }
}

fn check(arguments: &PackageCheck, progress: &Progress) -> Result<ExitCode> {
    output::remove_on_signals().context("cannot catch signals")?;
    let names = if arguments.all { all_names(&arguments.search) } else { arguments.names.clone() };
    let mut found = Vec::new();
    let mut statuses = Vec::new();
    for name in &names {
        match check_one(name, arguments, progress) {
            Ok(findings) => {
                statuses.push(if findings.passed() { 0 } else { EXIT_CHECK });
                if !arguments.json {
                    print_findings(&findings, progress);
                }
                found.push(serde_json::to_value(&findings)?);
            }
            Err(error) => {
                let status = error.downcast_ref::<Error>().map_or(EXIT_FAILURE, Error::exit_status);
                statuses.push(status);
                progress.failure(&format!("{}: {error:#}", name.trim_end_matches('/')));
                found.push(json!({ "name": name, "exit": status, "error": format!("{error:#}") }));
            }
        }
    }
    progress.finish();
    if arguments.json {
        super::print_json(&found)?;
    }
    statuses.retain(|status| *status != 0);
    statuses.dedup();
    Ok(ExitCode::from(match statuses.as_slice() {
        [] => 0,
        [status] => *status,
        _ => EXIT_FAILURE,
    }))
}

fn check_one(name: &str, arguments: &PackageCheck, progress: &Progress) -> Result<Findings> {
    let recipe = find(name, &arguments.search)?;
    let (folder, image) = bake_for_run(&recipe, progress)?;
    let options = options(&recipe, &image, &arguments.options)?;
    // Disks of a check are new, and go with it.
    Ok(check::check(&recipe, options, &folder.path().join("data"), progress)?)
}

fn print_findings(findings: &Findings, progress: &Progress) {
    for finding in &findings.checks {
        let (name, check, seconds) = (&findings.name, &finding.check, finding.seconds);
        match finding.verdict {
            Verdict::Passed => progress.line(&format!("{name}: passed: {check} ({seconds:.1} s)")),
            Verdict::Skipped => progress.line(&format!("{name}: {check}: skipped: {}", finding.detail)),
            Verdict::Failed => progress.failure(&format!("{name}: {check}: {}", finding.detail)),
        }
    }
    if findings.checks.is_empty() {
        progress.line(&format!("{}: skipped: the recipe has no [[check]]", findings.name));
    }
    if !findings.console.is_empty() {
        progress.failure(&format!("the end of its console:\n{}", findings.console));
    }
}
