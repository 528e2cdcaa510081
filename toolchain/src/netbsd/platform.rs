//! The platform as one object: our compiled code, of which C sees the functions with C's names and nothing else.

use std::{fs, path::Path, process::Command};

use object::{Object, ObjectSymbol, SymbolKind, SymbolScope};

use super::{Error, host};
use crate::{kernel, report::Report};

/// Changes when the steps here do.
const RECIPE: &str = "1";
/// Where an image begins.
const ENTRY: &str = "boot_entry";
/// Functions that C has, too, with other contents.
const PRIVATE: &[&str] = &["_Unwind_Resume", "kernel_boot", "rust_eh_personality"];
/// How names of Rust's begin.
const MANGLED: &[&str] = &["_R", "_ZN", "__rust", "rust_", "bmk_"];

/// The platform's object, for programs of NetBSD's or of Linux's; built if the cache hasn't it.
pub fn object(linux: bool, report: &dyn Report) -> Result<Vec<u8>, Error> {
    let mut failure = None;
    let features: &[&str] = if linux { &["linux"] } else { &[] };
    let built = kernel::netbsd_platform(RECIPE, features, report, |archive| {
        merge(archive).map_err(|error| {
            let message = error.to_string();
            failure = Some(error);
            kernel::Error::Build(message)
        })
    });
    match (built, failure) {
        (_, Some(error)) => Err(error),
        (built, None) => built.map_err(|error| Error::Other(error.to_string())),
    }
}

/// One object of all members, with the names of C's interface global and all others local.
fn merge(archive: &Path) -> Result<Vec<u8>, Error> {
    let folder = tempfile::tempdir().map_err(host("a temporary folder"))?;
    let [whole, names, object] = ["whole.o", "names", "platform.o"].map(|name| folder.path().join(name));
    run(Command::new("ld").args(["-r", "--whole-archive"]).arg(archive).arg("-o").arg(&whole))?;
    let bytes = fs::read(&whole).map_err(host(whole.display()))?;
    let mut list = interface(&bytes)?;
    list.push(ENTRY.into());
    fs::write(&names, list.join("\n")).map_err(host(names.display()))?;
    let mut command = Command::new("objcopy");
    command.args(["--strip-debug", "--remove-section=.llvmbc", "--remove-section=.llvmcmd"]);
    command.args(["--remove-section=.eh_frame", "--remove-section=.gcc_except_table*"]);
    command.arg(format!("--keep-global-symbols={}", names.display()));
    run(command.arg(&whole).arg(&object))?;
    fs::read(&object).map_err(host(object.display()))
}

/// The functions that C may call.
pub fn interface(object: &[u8]) -> Result<Vec<String>, Error> {
    let file = object::File::parse(object)
        .map_err(|error| Error::Other(format!("the platform's object cannot be read: {error}")))?;
    let functions = file.symbols().filter(|symbol| {
        // What the compiler's own library brings along is hidden.
        symbol.is_definition() && symbol.kind() == SymbolKind::Text && symbol.scope() == SymbolScope::Dynamic
    });
    Ok(functions
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| !PRIVATE.contains(name) && !MANGLED.iter().any(|prefix| name.starts_with(prefix)))
        .map(String::from)
        .collect())
}

/// Runs a tool; what it says is in the error.
pub(super) fn run(command: &mut Command) -> Result<(), Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(host(&name))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Other(format!("{name} fails:\n{}", said.trim_end())))
}
