//! Bakes many recipes, several at a time.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, mpsc},
    thread,
};

use super::{
    Recipe,
    bake::{self, Baked},
    error::{self, Error, host_error},
    find,
};
use crate::{bake::Format, kernel, report::Report};

/// The file with the checksums of all images.
pub const CHECKSUMS: &str = "SHA256SUMS";

/// What became of one recipe.
#[derive(Debug)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// The image, or why there is none.
    pub result: Result<Baked, Error>,
}

/// What a worker says.
enum Event {
    Step(String),
    Detail(String),
    Warning(String),
    Done(usize, Box<Outcome>),
}

/// The report of a worker: what it says goes to the thread that has the real one.
struct Forward {
    name: String,
    events: mpsc::Sender<Event>,
}

impl Report for Forward {
    fn step(&self, message: &str) {
        let _ = self.events.send(Event::Step(format!("{}: {message}", self.name)));
    }

    fn detail(&self, message: &str) {
        let _ = self.events.send(Event::Detail(format!("{}: {message}", self.name)));
    }

    fn warn(&self, message: &str) {
        let _ = self.events.send(Event::Warning(format!("{}: {message}", self.name)));
    }
}

/// Bakes recipes, at most `jobs` at a time, into `folder`. `done` hears of each as it is finished; the outcomes are
/// in the order of the names.
pub fn bake(
    recipes: &[(String, PathBuf)],
    folder: &Path,
    format: Format,
    jobs: usize,
    report: &dyn Report,
    mut done: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>, Error> {
    fs::create_dir_all(folder).map_err(host_error(folder))?;
    let loaded: Vec<(String, Result<Recipe, Error>)> =
        recipes.iter().map(|(name, path)| (name.clone(), find::find_in(path).map_err(Error::from))).collect();
    // Once, before everybody waits for it.
    if let Some(recipe) = loaded.iter().find_map(|(_, recipe)| recipe.as_ref().ok()) {
        kernel::kernel(recipe.config, report)?;
    }
    let (sender, events) = mpsc::channel();
    let mut outcomes: Vec<Option<Outcome>> = loaded.iter().map(|_| None).collect();
    let workers = jobs.clamp(1, loaded.len().max(1));
    let queue = Mutex::new(loaded.into_iter().enumerate());
    thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, queue) = (sender.clone(), &queue);
            scope.spawn(move || {
                let next = || queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
                while let Some((index, (name, recipe))) = next() {
                    let forward = Forward { name: name.clone(), events: sender.clone() };
                    let result = recipe.and_then(|recipe| {
                        let output = folder.join(bake::file_name(&recipe, format));
                        bake::recipe(&recipe, &output, format, &forward)
                    });
                    let _ = sender.send(Event::Done(index, Box::new(Outcome { name, result })));
                }
            });
        }
        drop(sender);
        for event in events {
            match event {
                Event::Step(message) => report.step(&message),
                Event::Detail(message) => report.detail(&message),
                Event::Warning(message) => report.warn(&message),
                Event::Done(index, outcome) => {
                    done(&outcome);
                    outcomes[index] = Some(*outcome);
                }
            }
        }
    });
    let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
    let lines = outcomes.iter().filter_map(|outcome| {
        let baked = outcome.result.as_ref().ok()?;
        Some(format!("{}  {}\n", baked.sha256, baked.output.file_name()?.display()))
    });
    let path = folder.join(CHECKSUMS);
    fs::write(&path, lines.collect::<String>()).map_err(host_error(&path))?;
    Ok(outcomes)
}

/// The exit status for all of them: 0 if every image is there, that of the failures if they agree, else 1.
pub fn exit_status(outcomes: &[Outcome]) -> u8 {
    let mut statuses =
        outcomes.iter().filter_map(|outcome| Some(outcome.result.as_ref().err()?.exit_status()));
    match statuses.next() {
        None => 0,
        Some(first) if statuses.all(|status| status == first) => first,
        Some(_) => error::EXIT_FAILURE,
    }
}
