//! Every recipe of the project boots on user networking and on a tap, at 1, 2 and 4 CPUs, and works for real clients in
//! each of these cells. What takes long is done in fewer cells by the tests called `servers_`.

mod databases;
mod measures;
mod programs;
mod web;

use std::{path::PathBuf, time::Instant};

use tempfile::NamedTempFile;
use tests::{Guest, have, network::Link, recipe::Server, skip};

/// How a recipe is booted in every cell, and what its clients do there.
pub struct Recipe {
    /// Its folder's name.
    name: &'static str,
    /// Programs of the host that the work needs.
    needs: &'static [&'static str],
    /// Its image; `None` if the host lacks its packages.
    image: fn() -> Option<PathBuf>,
    /// As `--memory` takes it.
    memory: &'static str,
    /// Ports that the clients use.
    ports: &'static [u16],
    /// A disk with the content that the work wants.
    disk: fn() -> Option<NamedTempFile>,
    /// More options.
    options: fn(Guest, Link) -> Guest,
    /// Waits until the server is ready, has it work, and checks all answers.
    work: fn(&mut Server),
}

/// The usual recipe: its own image, no disk, no options.
const PLAIN: Recipe = Recipe {
    name: "",
    needs: &[],
    image: || None,
    memory: "256M",
    ports: &[],
    disk: || None,
    options: |guest, _| guest,
    work: |_| {},
};

const CELLS: [(Link, usize); 6] = [
    (Link::User, 1),
    (Link::User, 2),
    (Link::User, 4),
    (Link::Tap { queues: 1 }, 1),
    (Link::Tap { queues: 2 }, 2),
    (Link::Tap { queues: 4 }, 4),
];

impl Recipe {
    /// Boots it in every cell, one after the other.
    #[track_caller]
    fn works(&self) {
        if let Some(program) = self.needs.iter().find(|program| !have(program)) {
            return skip(&format!("{program} is not installed"));
        }
        let Some(image) = (self.image)() else { return };
        for (link, cpus) in CELLS {
            let start = Instant::now();
            println!("{} on {link:?} with {cpus} CPUs", self.name);
            let disk = (self.disk)();
            let mut guest = Guest::new(&image).cpus(cpus).memory(self.memory);
            if let Some(disk) = &disk {
                guest = guest.disk(disk.path());
            }
            let guest = (self.options)(guest, link);
            let Some(mut server) = Server::boot(guest, link, self.ports) else { return };
            (self.work)(&mut server);
            println!("{:.1} s", start.elapsed().as_secs_f32());
        }
    }
}

/// The tests: one for each recipe, so that they run side by side.
macro_rules! recipes {
    ($($test:ident: $recipe:expr,)*) => {
        const RECIPES: &[&Recipe] = &[$(&$recipe),*];
        $(
            #[test]
            fn $test() {
                $recipe.works();
            }
        )*
    };
}

recipes! {
    go_web: web::GO,
    haproxy: web::HAPROXY,
    iperf3: measures::IPERF3,
    lighttpd: web::LIGHTTPD,
    memcached: databases::MEMCACHED,
    netpipe: measures::NETPIPE,
    nfs_ganesha: programs::NFS,
    nginx: web::NGINX,
    ping: measures::PING,
    postgresql: databases::POSTGRESQL,
    python_web: web::PYTHON,
    redis: databases::REDIS,
    rust_web: web::RUST,
    sqlite: programs::SQLITE,
}

#[test]
fn no_recipe_is_left_out() {
    let folder = std::fs::read_dir(tests::checkout().join("packages")).expect("the recipes");
    let mut found: Vec<_> =
        folder.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    found.sort();
    let mut named: Vec<_> = RECIPES.iter().map(|recipe| recipe.name).collect();
    named.sort_unstable();
    assert_eq!(found, named);
}

/// The image of a recipe as it is.
macro_rules! image {
    ($name:literal) => {
        || tests::recipe::image($name)
    };
}
pub(crate) use image;
