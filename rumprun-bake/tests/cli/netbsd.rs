//! `netbsd` with a small tree of our own in NetBSD's layout, which Debian's bmake builds.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::SystemTime,
};

use crate::support::Bench;

/// The project's folder of tests.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").join(name)
}

pub struct Tree {
    pub bench: Bench,
}

impl Tree {
    /// A copy of the tree; nothing if this machine has no make for it.
    pub fn new() -> Option<Self> {
        if Command::new("bmake").args(["-V", "MAKE", "-f", "/dev/null"]).output().is_err() {
            eprintln!("skipped: bmake is not installed");
            return None;
        }
        Some(Self::without_make())
    }

    fn without_make() -> Self {
        let bench = Bench::new();
        let status = Command::new("cp").arg("-r").arg(fixture("netbsd-tree")).arg(bench.path("src")).status();
        assert!(status.expect("cp starts").success());
        Tree { bench }
    }

    /// `netbsd` with arguments, for this tree.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bench.command();
        command
            .arg("netbsd")
            .args(arguments)
            .env("RUMPRUN_BAKE_DATA", self.bench.path("data"))
            .env("RUMPRUN_BAKE_NETBSD_PATCHES", fixture("netbsd-patches"))
            .env("NETBSD_SRC", self.bench.path("src"))
            .env_remove("CC");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the tool starts")
    }

    #[track_caller]
    pub fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn edit(&self, path: &str, from: &str, to: &str) {
        let path = self.bench.path("src").join(path);
        let text = fs::read_to_string(&path).expect("a file");
        assert!(text.contains(from));
        fs::write(&path, text.replace(from, to)).expect("written");
    }

    /// Every object that was built, with its time.
    fn objects(&self) -> BTreeMap<String, SystemTime> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.bench.path("cache/netbsd")];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let entry = entry.expect("an entry");
                let path = entry.path();
                if entry.file_type().expect("a kind").is_dir() {
                    open.push(path);
                } else if path.extension().is_some_and(|suffix| suffix == "o") {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    found.insert(name, entry.metadata().expect("data").modified().expect("a time"));
                }
            }
        }
        found
    }

    /// The objects that differ from those before.
    fn rebuilt(&self, before: &BTreeMap<String, SystemTime>) -> Vec<String> {
        self.objects()
            .into_iter()
            .filter(|(name, time)| before.get(name) != Some(time))
            .map(|(name, _)| name)
            .collect()
    }

    /// Links a program of this machine against a set, and returns what it prints.
    pub fn answer(&self, set: &str) -> String {
        let set = self.bench.path("data/netbsd").join(set);
        let source = self.bench.file(
            "main.c",
            "#include <stdio.h>\nint answer(void);\nvoid rumpuser_dprintf(const char *format, ...) {}\nint main(void) { printf(\"%d\\n\", answer()); return 0; }\n",
        );
        let program = self.bench.path("main");
        let status = Command::new("cc")
            .arg(source)
            .args(
                ["lib/libc.a", "lib/rump/librump.a", "lib/rump/librumpnet_loop.a"].map(|name| set.join(name)),
            )
            .arg("-o")
            .arg(&program)
            .status();
        assert!(status.expect("cc starts").success());
        String::from_utf8(Command::new(program).output().expect("it starts").stdout)
            .expect("text")
            .trim()
            .into()
    }
}

#[test]
fn a_tree_is_checked_built_and_described() {
    let Some(tree) = Tree::new() else { return };
    let before = fs::read_dir(tree.bench.path("src")).expect("a tree").count();
    let said = tree.succeeds(&["check"]);
    assert!(said.contains("NetBSD 0.99.1") && said.contains("patches for 0.99"), "{said}");
    let line = |name: &str| said.lines().find(|line| line.contains(name)).unwrap_or_default();
    assert!(line("answer").contains("applies") && line("spoken").contains("already there"), "{said}");

    let said = tree.succeeds(&["build"]);
    assert!(said.contains("0.99.1 installed: 2 components, 1 libraries, 2 patches"), "{said}");
    assert_eq!(tree.answer("0.99.1"), "42");
    let header = tree.bench.path("data/netbsd/0.99.1/usr/include/rump/rump.h");
    assert!(fs::read_to_string(header).expect("a header").contains("ANSWER 42"));
    let original = tree.bench.path("src/sys/rump/include/rump/rump.h");
    assert!(fs::read_to_string(original).expect("a header").contains("ANSWER 41"), "the tree is as it was");
    assert_eq!(fs::read_dir(tree.bench.path("src")).expect("a tree").count(), before);

    assert!(tree.succeeds(&["list"]).contains("2 components"));
    let said = tree.succeeds(&["describe"]);
    assert!(
        said.contains("NetBSD 0.99.1 for amd64") && said.contains("Gives back what it is given"),
        "{said}"
    );
    let set: serde_json::Value = serde_json::from_str(&tree.succeeds(&["describe", "--json"])).expect("JSON");
    assert_eq!(set["components"][1]["archive"], "lib/rump/librumpnet_loop.a");
    assert_eq!(set["patches"][0]["name"], "answer");
    assert!(tree.succeeds(&["build"]).contains("is up to date"));
}

#[test]
fn a_second_build_does_what_changed() {
    let Some(tree) = Tree::new() else { return };
    tree.succeeds(&["build", "-j", "2"]);
    let built = tree.objects();
    assert_eq!(
        built.keys().collect::<Vec<_>>(),
        ["answer.o", "hypercalls.o", "loop.o", "rump.o", "version.o"]
    );

    tree.edit("sys/rump/net/lib/libloop/loop.c", "return value;", "return value; /* once */");
    tree.succeeds(&["build"]);
    assert_eq!(tree.rebuilt(&built), ["loop.o"]);

    // Without the patch the header is another, and what includes it is old.
    let built = tree.objects();
    let said = tree.succeeds(&["build", "--patches", "none"]);
    assert!(said.contains("0.99.1-unpatched installed"), "{said}");
    let rebuilt = tree.rebuilt(&built);
    assert!(rebuilt.contains(&"rump.o".into()) && !rebuilt.contains(&"version.o".into()), "{rebuilt:?}");
    assert_eq!(tree.answer("0.99.1-unpatched"), "41");
    assert_eq!(tree.answer("0.99.1"), "42");

    // A build that was killed in the middle.
    let objects = fs::read_dir(tree.bench.path("cache/netbsd")).expect("a cache").next().expect("a build");
    let objects = fs::read_dir(objects.expect("an entry").path()).expect("a build").flatten();
    let objects = objects.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("/objects-"));
    let base = objects.expect("objects").join("obj/sys/rump/librump/rumpkern");
    fs::write(base.join("being-built"), "").expect("written");
    fs::write(base.join("version.o"), "half").expect("written");
    tree.succeeds(&["build"]);
    assert_eq!(tree.answer("0.99.1"), "42");
}

#[test]
fn rump_kernels_for_this_machine() {
    let Some(tree) = Tree::new() else { return };
    const HOST: [&str; 3] = ["host", "--patches", "answer"];
    let built = tree.succeeds(&HOST);
    assert!(built.contains("0.99.1-answer-host installed: 3 libraries, 1 programs, 1 patches"), "{built}");
    assert!(built.contains("bin/rump_server") && built.contains("-lrumpclient"), "{built}");
    let server = tree.bench.path("data/netbsd/0.99.1-answer-host/bin/rump_server");
    let says = || {
        let output = Command::new(&server).output().expect("it starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(says(), "the host prints 42\n");
    assert!(tree.succeeds(&HOST).contains("is up to date"));
    assert!(tree.succeeds(&["list"]).contains("0.99.1-answer-host   NetBSD 0.99.1"));

    tree.edit("sys/rump/net/lib/libloop/loop.c", "return value;", "return 2 * value;");
    tree.succeeds(&HOST);
    assert_eq!(says(), "the host prints 84\n");
    tree.edit("sys/rump/net/lib/libloop/loop.c", "return 2", "return nothing");
    let said = tree.fails(&HOST);
    assert!(said.contains("1 did not build: rumpnet_loop"), "{said}");
    tree.edit("lib/librumpuser/user.c", "printf(", "printf(nothing, ");
    assert!(tree.fails(&HOST).contains("rumpuser does not build"));
    fs::remove_file(tree.bench.path("src/lib/librumpuser/configure")).expect("removed");
    assert!(tree.fails(&HOST).contains("has no rump kernels for hosts"));
}

#[test]
fn a_component_that_fails_does_not_stop_the_others() {
    let Some(tree) = Tree::new() else { return };
    tree.edit("sys/rump/net/lib/libloop/loop.c", "return value;", "return value + nothing;");
    let said = tree.fails(&["build", "--patches", "answer"]);
    assert!(said.contains("rumpnet_loop does not build"), "{said}");
    assert!(said.contains("command: ") && said.contains("-o loop.o"), "{said}");
    assert!(said.contains("nothing") && said.contains("1 did not build: rumpnet_loop"), "{said}");
    let said = tree.succeeds(&["describe"]);
    assert!(said.contains("did not build  rumpnet_loop") && said.contains("Kernel base"), "{said}");
    tree.edit("sys/rump/net/lib/libloop/loop.c", "value + nothing", "value");
    tree.succeeds(&["build", "--patches", "answer"]);
    assert_eq!(tree.answer("0.99.1-answer"), "42");

    let said = tree.fails(&["build", "--components", "bluetooth"]);
    assert!(said.contains("no component bluetooth") && said.contains("rumpnet_loop"), "{said}");
}

#[test]
fn patched_copies() {
    let tree = Tree::without_make();
    let said = tree.succeeds(&["patch", "--list"]);
    assert!(said.contains("answer: the right answer") && said.contains("41 is one short"), "{said}");
    tree.succeeds(&["patch", "--out", "patched", "--only", "answer"]);
    let header = "sys/rump/include/rump/rump.h";
    let patched = tree.bench.path("patched").join(header);
    assert!(fs::read_to_string(&patched).expect("a header").contains("ANSWER 42"));
    let patched_tree = tree.bench.path("patched");
    let patched_tree = patched_tree.to_str().expect("text");
    assert!(tree.succeeds(&["check", "--src", patched_tree]).contains("already there"));
    tree.succeeds(&["patch", "--src", patched_tree, "--reverse", "--only", "answer", "--out", "back"]);
    let back = tree.bench.path("back");
    let same =
        Command::new("diff").arg("-r").arg(tree.bench.path("src")).arg(&back).status().expect("diff starts");
    assert!(same.success());
    assert!(tree.fails(&["patch", "--out", "back"]).contains("is not empty"));
    assert!(tree.fails(&["patch", "--out", "src/out"]).contains("is in the tree"));
}

#[test]
fn trees_and_patches_that_do_not_fit() {
    let tree = Tree::without_make();
    assert!(tree.fails(&["patch", "--out", "x", "--only", "nothing"]).contains("no patch nothing"));
    tree.edit("sys/rump/include/rump/rump.h", "41", "40");
    let output = tree.run(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("DOES NOT APPLY") && said.contains("-#define RUMP_ANSWER 41"), "{said}");
    assert!(tree.fails(&["build"]).contains("rump.h: hunk 1 of 1 does not fit"));
    tree.edit("sys/sys/param.h", "99000100", "200000000");
    let said = tree.fails(&["build"]);
    assert!(
        said.contains("no patches for NetBSD 2.0 (there are: 0.99)") && said.contains("--patches none"),
        "{said}"
    );
    fs::remove_file(tree.bench.path("src/sys/rump/Makefile")).expect("removed");
    assert!(tree.fails(&["check"]).contains("sys/rump/Makefile is missing"));
    assert!(tree.fails(&["check", "--src", "data"]).contains("No such file"));
    assert!(tree.fails(&["describe"]).contains("no NetBSD component set is installed"));
    let output =
        tree.bench.command().args(["netbsd", "check"]).env_remove("NETBSD_SRC").output().expect("it starts");
    assert!(String::from_utf8_lossy(&output.stderr).contains("https://github.com/NetBSD/src"));
}

/// All of a real tree, in the tool's own cache, so that a second run builds only what changed.
#[test]
fn a_real_tree_builds() {
    let Some(source) = std::env::var_os("NETBSD_SRC") else {
        eprintln!("skipped: no NetBSD tree (NETBSD_SRC)");
        return;
    };
    let bench = Bench::new();
    let run = |arguments: &[&str]| {
        let mut command = bench.command();
        match std::env::var_os("RUMPRUN_BAKE_CACHE") {
            Some(cache) => command.env("RUMPRUN_BAKE_CACHE", cache),
            None => command.env_remove("RUMPRUN_BAKE_CACHE"),
        };
        command.env("RUMPRUN_BAKE_DATA", bench.path("data")).env("NETBSD_SRC", &source);
        let output = command.arg("netbsd").args(arguments).output().expect("the tool starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}{errors}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let checked = run(&["check"]);
    assert!(checked.contains("applies") || checked.contains("already there"), "{checked}");
    let set: serde_json::Value = serde_json::from_str(&run(&["build", "--json"])).expect("JSON");
    assert!(set["failed"].is_null());
    for archive in
        ["lib/rump/librump.a", "lib/rump/librumpnet_netinet.a", "lib/libc.a", "include/sys/param.h"]
    {
        let path = Path::new(set["name"].as_str().expect("a name")).join(archive);
        assert!(bench.path("data/netbsd").join(path).is_file(), "{archive}");
    }
}
