//! The harness of the boot tests: builds the test programs, bakes images with the real `rumprun-bake`, boots them,
//! and tells apart how a boot can end.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

pub mod clients;
pub mod guest;
pub mod made;
pub mod netbsd;
pub mod network;
pub mod programs;
pub mod qmp;
pub mod recipe;
pub mod xen;

pub use guest::{Ending, Guest, Outcome};

use made::Made;

/// The top folder of the checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a folder of the checkout")
}

/// Where the tests keep what they build: the target folder's `boot-tests`.
pub fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from);
        let scratch = target.join("boot-tests");
        std::fs::create_dir_all(&scratch).expect("a folder in the target folder");
        scratch
    })
}

/// The `rumprun-bake` under test: `$RUMPRUN_BAKE`, or else built from this checkout.
pub fn rumprun_bake() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(binary) = env::var_os("RUMPRUN_BAKE") {
            return binary.into();
        }
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--release", "--package", "rumprun-bake"])
            .current_dir(checkout())
            .status()
            .expect("cargo runs");
        assert!(status.success(), "rumprun-bake does not build");
        let target = scratch().parent().expect("scratch is in the target folder");
        target.join("release/rumprun-bake")
    })
}

/// Whether a program is on the path.
pub fn have(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Says that a test was skipped, in the one form that the reader looks for.
pub fn skip(why: &str) {
    println!("skipped: {why}");
}

/// Leaves the test, saying why, unless all of these programs are on the path.
#[macro_export]
macro_rules! needs {
    ($($program:expr),+ $(,)?) => {
        $(
            if !$crate::have($program) {
                $crate::skip(&format!("{} is not installed", $program));
                return;
            }
        )+
    };
}

/// Bakes an image from the arguments that follow `bake hw_direct OUT`, once per test process for a name, which stands for
/// these arguments. Panics with the tool's message if that fails.
pub fn bake<A: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = A>) -> PathBuf {
    static BAKED: Made<String, (Vec<OsString>, PathBuf)> = Made::new();
    let arguments: Vec<OsString> =
        arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
    let (baked, image) = BAKED.get(name.to_owned(), || {
        let image = scratch().join(format!("{name}-{}.elf", std::process::id()));
        let output = Command::new(rumprun_bake())
            .args(["-q", "bake", "hw_direct"])
            .arg(&image)
            .args(&arguments)
            .output()
            .expect("rumprun-bake starts");
        assert!(
            output.status.success(),
            "bake {name} {arguments:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        (arguments.clone(), image)
    });
    assert_eq!(baked, arguments, "two images are named {name}");
    image
}
