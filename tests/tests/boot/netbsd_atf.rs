//! NetBSD's own tests, of a tree that has them: programs in images of their own, and scripts with servers and clients on
//! this machine. Debian's kyua runs both.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use tests::{
    needs,
    netbsd::{arguments, succeed, tools},
    rumprun_bake, scratch, skip,
};
use toolchain::netbsd::{
    hosted::Hosted,
    set::{self, Set},
    wrapper,
};

/// Names the folders of `tests/` whose programs are run, in place of [`FOLDERS`].
const FOLDERS_VARIABLE: &str = "NETBSD_TESTS";
/// Folders whose programs are run.
const FOLDERS: &[&str] = &["lib/libc/stdlib", "lib/libc/string", "lib/libpthread"];
/// What does not pass, and why: a program, which is passed over, or a case of one.
const KNOWN: &[(&str, &str)] = &[
    ("lib/libc/stdlib/t_exit", "forks"),
    ("lib/libc/stdlib/t_system", "runs a shell"),
    ("lib/libc/string/t_popcount", "says that it takes no time at all"),
    ("lib/libpthread/t_fork", "forks"),
    ("lib/libpthread/t_sem:named", "the kernel has no kern.posix_semaphores"),
    ("lib/libpthread/t_sem:unnamed", "as above"),
    (
        "lib/libpthread/t_detach:pthread_detach",
        "joins a thread that may have ended by then, which yields ESRCH",
    ),
];
/// Cases of the proxy's tests whose clients compile on Linux. One of the others, `reconnect`, hangs at times.
const PROXY_CASES: &[&str] = &["basic", "fork_simple", "fork_pipecomm", "fork_fakeauth"];

/// The tree's tests, if there is such a tree.
fn tree() -> Option<PathBuf> {
    let Some(tree) = env::var_os("NETBSD_SRC").map(PathBuf::from) else {
        skip("no NetBSD tree");
        return None;
    };
    for part in ["tests", "external/bsd/atf/dist/atf-c"] {
        if !tree.join(part).is_dir() {
            skip(&format!("no NetBSD tests: {} has no {part}", tree.display()));
            return None;
        }
    }
    Some(tree)
}

/// The files of a folder whose names end so.
fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = paths.filter(|path| path.to_string_lossy().ends_with(suffix)).collect();
    files.sort();
    files
}

/// A script that may be run.
fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("a script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it may be run");
}

/// The tree's libatf-c for images: the flags by which programs are compiled with it.
fn library(tree: &Path, compiler: &Path, folder: &Path) -> Vec<String> {
    let atf = tree.join("external/bsd/atf");
    let (sources, headers) = (atf.join("dist"), folder.join("include/atf-c"));
    fs::create_dir_all(&headers).expect("a folder");
    for header in files(&sources.join("atf-c"), ".h") {
        fs::copy(&header, headers.join(header.file_name().expect("a name"))).expect("a header");
    }
    fs::copy(atf.join("lib/libatf-c/defs.h"), headers.join("defs.h")).expect("a header");
    fs::copy(sources.join("atf-c.h"), folder.join("include/atf-c.h")).expect("a header");
    let mut command = Command::new(compiler);
    command.current_dir(folder).args(["-c", "-O2", "-w", "-DHAVE_CONFIG_H", "-Iinclude"]);
    command.arg("-I").arg(&atf).arg("-I").arg(&sources);
    // What a program would be built with, and where it would find things: nothing of that is in an image.
    for name in ["CC", "CFLAGS", "CPP", "CPPFLAGS", "CXX", "CXXFLAGS"] {
        command.arg(format!("-DATF_BUILD_{name}=\"\""));
    }
    for name in ["INCLUDEDIR", "LIBDIR", "LIBEXECDIR", "PKGDATADIR", "SHELL", "WORKDIR"] {
        command.arg(format!("-DATF_{name}=\"/tmp\""));
    }
    for place in ["atf-c", "atf-c/detail"] {
        let is_library = |path: &PathBuf| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            !name.ends_with("_test") && !name.contains("helper") && !name.starts_with("h_")
        };
        command.args(files(&sources.join(place), ".c").into_iter().filter(is_library));
    }
    succeed(&mut command);
    let mut archive = Command::new("ar");
    succeed(archive.current_dir(folder).args(["rcs", "libatf-c.a"]).args(files(folder, ".o")));
    let at = folder.display();
    vec![format!("-I{at}/include"), format!("-I{}", tree.join("tests").display()), format!("-L{at}")]
}

/// What stands for a test program: it runs the program's image, and gives kyua the result that the program writes.
fn stand_in(image: &Path) -> String {
    format!(
        r#"#!/bin/sh
result=; list=; words=-s/atf
for word; do
    case $word in
        -r*) result=${{word#-r}} ;;
        -l) list=yes ;;
        -s*) ;;
        # Nothing is left of the machine.
        *:cleanup) exit 0 ;;
        *) words="$words $word" ;;
    esac
done
run="timeout 120 '{tool}' -q run '{image}'"
if [ $list ]; then
    eval "$run -- -s/atf -l" | sed -n '/^Content-Type/p; /^$/p; /^[a-z][A-Za-z.#-]*: /p'
    exit
fi
eval "$run -- -r/dev/stdout \$words" > output
status=$?
cat output
grep -E '^(passed|failed|skipped|expected_[a-z]*)(\([0-9]*\))?(: .*)?$' output | tail -n 1 > line
if [ -s line ]; then cat line > "$result"; fi
exit $status
"#,
        tool = rumprun_bake().display(),
        image = image.display()
    )
}

/// Has kyua run programs; returns what it says of each case.
fn kyua(
    folder: &Path,
    programs: &[String],
    cases: &[String],
    settings: &[(&str, String)],
) -> BTreeMap<String, String> {
    const HEAD: &str = "syntax(2)\ntest_suite('netbsd')\n";
    // A folder's file names its own programs alone.
    let mut places = BTreeMap::from([(String::new(), String::from(HEAD))]);
    for program in programs {
        let (place, name) = program.rsplit_once('/').unwrap_or(("", program));
        let text = places.entry(place.to_string()).or_insert_with(|| HEAD.into());
        text.push_str(&format!("atf_test_program{{name='{name}'}}\n"));
    }
    let below = places.keys().filter(|place| !place.is_empty());
    let included: String = below.map(|place| format!("include('{place}/Kyuafile')\n")).collect();
    for (place, text) in &places {
        let text = if place.is_empty() { format!("{text}{included}") } else { text.clone() };
        fs::write(folder.join(place).join("Kyuafile"), text).expect("a file");
    }
    let mut command = Command::new("kyua");
    command.current_dir(folder).args(["-v", "parallelism=2", "test", "-r", "results"]).args(cases);
    command.env("HOME", folder).envs(settings.iter().map(|(name, value)| (name, value)));
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}{}", String::from_utf8_lossy(&output.stderr));
    let cases = text.lines().filter_map(|line| {
        let (case, result) = line.split_once("  ->  ")?;
        Some((case.to_string(), result.split("  [").next().unwrap_or(result).to_string()))
    });
    cases.collect()
}

#[test]
fn programs_pass_in_images() {
    needs!("kyua", "gcc", "ar", "ld", "objcopy", "qemu-system-x86_64");
    let Some(tree) = tree() else { return };
    let set = match set::directory(None) {
        Ok(set) => set,
        Err(error) => return skip(&format!("no component set: {error}")),
    };
    println!("tests of {} on {}", tree.display(), Set::read(&set).expect("a set").version);
    let folder = tempfile::tempdir_in(scratch()).expect("a folder");
    let folder = folder.path();
    let compiler = tools("atf", &set).join(format!("{}cc", wrapper::PREFIX));
    let flags = library(&tree, &compiler, folder);
    let wanted = env::var(FOLDERS_VARIABLE).unwrap_or_else(|_| FOLDERS.join(" "));
    let known = |name: &str| KNOWN.iter().find(|(known, _)| *known == name);
    let (mut programs, mut problems) = (Vec::new(), Vec::new());
    for source in wanted.split_whitespace().flat_map(|place| files(&tree.join("tests").join(place), ".c")) {
        let path = source.strip_prefix(tree.join("tests")).expect("it is there").with_extension("");
        let (name, base) = (path.to_string_lossy().into_owned(), path.file_name().expect("a name"));
        if !base.to_string_lossy().starts_with("t_") {
            continue;
        }
        if let Some((_, reason)) = known(&name) {
            println!("{name}: passed over: {reason}");
            continue;
        }
        // A test program looks for itself where it is told.
        let root = folder.join("roots").join(base);
        fs::create_dir_all(root.join("atf")).expect("a folder");
        fs::write(root.join("atf").join(base), "").expect("a file");
        let (program, image) = (root.with_extension("d").join(base), folder.join(name.replace('/', "_")));
        fs::create_dir_all(program.parent().expect("a folder")).expect("a folder");
        let mut compile = Command::new(&compiler);
        compile.args(["-O2", "-w"]).args(&flags).arg("-I").arg(source.parent().expect("a folder"));
        for other in ["lib/libc/gen", "lib/libc"] {
            compile.arg("-I").arg(tree.join("tests").join(other));
        }
        compile.arg(&source).arg("-o").arg(&program).args(["-latf-c", "-lpthread", "-lm", "-lutil", "-lrt"]);
        let compiled = compile.output().expect("it starts");
        if !compiled.status.success() {
            let message = String::from_utf8_lossy(&compiled.stderr).into_owned();
            problems.push(format!("{name} is not built: {message}"));
            continue;
        }
        let mut bake = Command::new(rumprun_bake());
        bake.args(["-q", "bake", "hw_direct"]).arg(&image).arg("--rootfs").arg(&root);
        succeed(bake.args(arguments(&set, &[&program])));
        script(&folder.join(&name), &stand_in(&image));
        programs.push(name);
    }
    let results = kyua(folder, &programs, &[], &[]);
    assert!(results.len() >= programs.len() && !programs.is_empty(), "each program has cases");
    for (case, result) in results {
        let passes = ["passed", "skipped", "expected_failure"].iter().any(|good| result.starts_with(good));
        if !passes && known(&case).is_none() {
            problems.push(format!("{case}: {result}"));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn clients_of_servers_on_this_machine_pass() {
    needs!("kyua", "gcc", "atf-sh");
    let Some(tree) = tree() else { return };
    let installed = set::folder().and_then(|folder| Hosted::all(&folder)).unwrap_or_default();
    let Some(hosted) = installed.into_iter().next() else { return skip("no rump kernels for this machine") };
    let (tests, libraries) = (tree.join("tests/rump/rumpkern"), hosted.directory.join("lib"));
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    for name in ["h_client", "bin"] {
        fs::create_dir_all(folder.join(name)).expect("a folder");
    }
    let client = |source: PathBuf, program: PathBuf| {
        let mut command = Command::new("gcc");
        command.args(["-O2", "-w", "-D_GNU_SOURCE", "-D__arraycount(a)=(sizeof(a)/sizeof(*(a)))"]);
        command.args(["-include", "stdint.h", "-I"]).arg(hosted.directory.join("include"));
        command.arg(source).arg("-L").arg(&libraries).arg(format!("-Wl,-rpath,{}", libraries.display()));
        succeed(command.args(["-lrumpclient", "-lpthread", "-o"]).arg(program));
    };
    for name in ["h_simplecli", "h_forkcli"] {
        client(tests.join(format!("h_client/{name}.c")), folder.join("h_client").join(name));
    }
    client(tests::netbsd::source("remote.c"), folder.join("remote"));
    script(&folder.join("bin/rump.halt"), &format!("#!/bin/sh\nexec {}/remote halt\n", folder.display()));
    for server in ["rump_server", "rump_allserver"] {
        symlink(hosted.directory.join("bin").join(server), folder.join("bin").join(server)).expect("a link");
    }
    // Functions of nothing are NetBSD's shell's alone.
    let text =
        fs::read_to_string(tests.join("t_sp.sh")).expect("the tree's test").replace("() {  }", "() { :; }");
    script(&folder.join("t_sp"), &format!("#! /usr/bin/atf-sh\n{text}"));
    let path = format!("{}/bin:{}", folder.display(), env::var("PATH").unwrap_or_default());
    let cases: Vec<_> = PROXY_CASES.iter().map(|case| format!("t_sp:{case}")).collect();
    let settings = [("PATH", path), ("LD_LIBRARY_PATH", libraries.display().to_string())];
    let results = kyua(folder, &["t_sp".into()], &cases, &settings);
    for case in &cases {
        assert_eq!(results.get(case).map(String::as_str), Some("passed"), "{case}");
    }
}
