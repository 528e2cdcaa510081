//! Package recipes: the real tool on good recipes and on bad ones.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use saphyr::LoadableYamlNode;
use serde_json::Value;
use tempfile::TempDir;
use tests::{checkout, needs, rumprun_bake, skip};

/// A folder with recipes.
struct Recipes(TempDir);

impl Recipes {
    fn new() -> Self {
        Recipes(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file of a recipe.
    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
        self
    }

    /// A recipe of what is common and these lines.
    fn recipe(&self, name: &str, lines: &str) -> &Self {
        let text = format!("name = \"{name}\"\nsummary = \"A test\"\n{lines}\n");
        self.file(&format!("{name}/recipe.toml"), &text)
    }

    /// Runs `package` with words; `--packages` is added.
    fn package(&self, words: &[&str]) -> Output {
        let mut command = Command::new(rumprun_bake());
        command.arg("package").args(words).arg("--packages").arg(self.path()).current_dir(self.path());
        command.output().expect("rumprun-bake starts")
    }

    /// Runs `package`, which must fail with this status; what it says, paths shortened.
    #[track_caller]
    fn refused(&self, words: &[&str], status: i32) -> String {
        let output = self.package(words);
        let said =
            String::from_utf8_lossy(&output.stderr).replace(&format!("{}/", self.path().display()), "");
        assert_eq!(output.status.code(), Some(status), "{words:?}: {said}");
        said
    }

    /// Runs `package`, which must succeed; what it prints.
    #[track_caller]
    fn succeeds(&self, words: &[&str]) -> String {
        let output = self.package(words);
        let said = String::from_utf8_lossy(&output.stderr);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}: {}\n{printed}{said}", output.status);
        printed
    }
}

const SHELL: &str =
    "[source]\npath = \"/bin/sh\"\n[[program]]\nrun = \"/bin/sh -c 'echo hello from the recipe'\"\n";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn inspect(image: &Path, option: &str) -> String {
    let output = Command::new(rumprun_bake()).args(["inspect", option]).arg(image).output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn wrong_recipes_are_told_with_line_and_hint() {
    let recipes = Recipes::new();
    recipes.recipe("unknown", &SHELL.replace("run =", "runs ="));
    let said = recipes.refused(&["bake", "unknown"], 3);
    assert!(said.starts_with("error: unknown/recipe.toml:6:1: unknown field `runs`"), "{said}");
    assert!(said.contains("did you mean `run`?"), "{said}");
    recipes.recipe("missing", &SHELL.replace("/bin/sh\"\n", "bin/server\"\n"));
    let said = recipes.refused(&["show", "missing"], 3);
    assert!(said.starts_with("error: missing/recipe.toml:4:8: "), "{said}");
    assert!(said.contains("missing/bin/server: no such file"), "{said}");
    let said = recipes.refused(&["run", "unknwon"], 125);
    assert!(said.contains("did you mean `unknown`?"), "{said}");
    assert!(recipes.refused(&["list"], 3).contains("missing/recipe.toml:4:8"));
}

#[test]
fn packages_that_do_not_exist_are_named() {
    needs!("apt-cache");
    let recipes = Recipes::new();
    let debian = |name: &str| format!("packages = [\"{name}\"]\n{SHELL}");
    recipes.recipe("gone", &debian("no-such-package-anywhere"));
    let said = recipes.refused(&["bake", "gone"], 4);
    let known = Command::new("apt-cache").arg("pkgnames").output().expect("apt-cache runs").stdout;
    if known.is_empty() {
        skip("apt knows no packages here");
        return;
    }
    let expected = "error: gone/recipe.toml:3:13: there is no Debian package `no-such-package-anywhere`";
    assert!(said.starts_with(expected), "{said}");
    recipes.recipe("near", &debian("coreutilz"));
    let said = recipes.refused(&["bake", "near"], 4);
    assert!(said.contains("did you mean `coreutils`?"), "{said}");
    // One that exists and isn't installed; key and check say the same.
    let installed = fs::read_to_string("/var/lib/dpkg/status").expect("dpkg's database");
    let known = String::from_utf8_lossy(&known).into_owned();
    let absent = known.lines().find(|name| !installed.contains(&format!("Package: {name}\n")));
    let absent = absent.expect("some package isn't installed");
    recipes.recipe("absent", &debian(absent));
    for command in ["bake", "key", "check"] {
        let said = recipes.refused(&[command, "absent"], 4);
        assert!(said.contains(&format!("apt-get install --no-install-recommends {absent}")), "{said}");
    }
}

/// An archive with a C program that prints its argument, and its checksum.
fn archive(recipes: &Recipes, recipe: &str) -> String {
    let source = "#include <stdio.h>\nint main(int n, char **a) { return printf(\"built: %s\\n\", n > 1 ? a[1] : \"\") < 0; }\n";
    recipes.file("tool-1.0/tool.c", source).file("tool-1.0/share/words", "words");
    let path = recipes.path().join(recipe).join("tool-1.0.tar.gz");
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let tar =
        Command::new("tar").arg("-czf").arg(&path).arg("-C").arg(recipes.path()).arg("tool-1.0").status();
    assert!(tar.expect("tar runs").success());
    let sum = Command::new("sha256sum").arg(&path).output().expect("sha256sum runs").stdout;
    String::from_utf8_lossy(&sum[..64]).into_owned()
}

fn built(sha256: &str, command: &str) -> String {
    format!(
        "[source]\narchive = \"tool-1.0.tar.gz\"\nsha256 = \"{sha256}\"\nbuild = [\"{command}\"]\n\
         output = {{ tool = \"/usr/bin/tool\", share = \"/usr/share/tool\" }}\n\
         [[program]]\nrun = \"/usr/bin/tool good\"\n\
         [[check]]\nconsole = \"built: good\"\n[[check]]\nexit = 0\n"
    )
}

#[test]
fn a_wrong_checksum_is_refused() {
    needs!("tar", "sha256sum");
    let recipes = Recipes::new();
    archive(&recipes, "tool");
    let wrong = "0123456789abcdef".repeat(4);
    recipes.recipe("tool", &built(&wrong, "true"));
    let said = recipes.refused(&["bake", "tool"], 5);
    assert!(said.starts_with("error: tool/recipe.toml:5:10: "), "{said}");
    assert!(said.contains(&wrong) && said.contains("found     "), "{said}");
}

#[test]
fn archives_are_built_and_run() {
    needs!("tar", "sha256sum", "gcc");
    let recipes = Recipes::new();
    let sum = archive(&recipes, "tool");
    recipes.recipe("tool", &built(&sum, "gcc -nonsense-option -o tool tool.c"));
    let said = recipes.refused(&["bake", "tool"], 6);
    assert!(said.contains("nonsense") && said.contains("`gcc -nonsense"), "{said}");
    recipes.recipe("tool", &built(&sum, "true"));
    let said = recipes.refused(&["bake", "tool"], 6);
    assert!(said.contains("recipe.toml:7:12: the build made no `tool`"), "{said}");
    recipes.recipe("tool", &built(&sum, "gcc -O1 -o tool tool.c"));
    let image = recipes.path().join("tool.elf");
    recipes.succeeds(&["bake", "tool", "-o", "tool.elf"]);
    let files = inspect(&image, "--files");
    assert!(files.contains("/usr/share/tool/words") && files.contains("/usr/bin/tool"), "{files}");
    assert!(inspect(&image, "--sbom").contains("\"/usr/bin/tool\""));
    let printed = recipes.succeeds(&["check", "tool"]);
    assert!(printed.contains("passed: the console shows \"built: good\""), "{printed}");
}

#[test]
fn failing_checks_fail() {
    let recipes = Recipes::new();
    recipes.recipe("silent", &format!("{SHELL}[[check]]\nconsole = \"something else\"\n"));
    let said = recipes.refused(&["check", "silent"], 7);
    assert!(said.contains("silent/recipe.toml:8:11: the console never showed it"), "{said}");
    assert!(said.contains("hello from the recipe"), "the console is shown: {said}");
    recipes.recipe("status", &format!("{SHELL}[[check]]\nexit = 3\n"));
    assert!(recipes.refused(&["check", "status"], 7).contains("status 0"));
    let missing = "[[check]]\ncommand = \"no-such-client\"\nrequires = \"no-such-client\"\n";
    recipes.recipe("skips", &format!("{SHELL}{missing}"));
    let printed = recipes.succeeds(&["check", "skips"]);
    assert!(printed.contains("skipped: no-such-client needs the Debian package"), "{printed}");
}

#[test]
fn recipes_are_listed_and_shown() {
    let recipes = Recipes::new();
    recipes.recipe("one", SHELL);
    let printed = recipes.succeeds(&["list"]);
    assert!(printed.lines().any(|line| line == "one            program  A test"), "{printed}");
    assert!(
        printed.contains("\nsqlite ") || printed.starts_with("sqlite "),
        "the project's are there: {printed}"
    );
    let rows = json(&recipes.succeeds(&["list", "--json"]));
    let names: BTreeSet<_> =
        rows.as_array().expect("a list").iter().filter_map(|row| row["name"].as_str()).collect();
    assert!(names.contains("one") && names.contains("sqlite"), "{names:?}");
    let shown = recipes.succeeds(&["show", "sqlite"]);
    assert!(shown.contains("disk         data, 64.0 MiB on /var/lib/sqlite"), "{shown}");
    let shown = json(&recipes.succeeds(&["show", "one", "--json"]));
    assert_eq!(shown["programs"][0], "/bin/sh -c 'echo hello from the recipe'");
}

#[test]
fn images_are_cached_by_their_inputs() {
    let recipes = Recipes::new();
    recipes.recipe("one", &format!("{SHELL}# {}\n", std::process::id())).file("one/rootfs/etc/text", "1");
    recipes.recipe("two", SHELL).recipe("wrong", "nonsense = 1");
    let bake = |words: &[&str]| json(&recipes.succeeds(&[&["bake", "--json"], words].concat()));
    let first = bake(&["one", "-o", "one.elf"]);
    assert_eq!(first["status"], "baked");
    let second = bake(&["one", "-o", "again.elf"]);
    assert_eq!(
        (&second["status"], &second["sha256"], &second["key"]),
        (&"cached".into(), &first["sha256"], &first["key"])
    );
    assert_eq!(json(&recipes.succeeds(&["key", "one", "--json"]))["one"], first["key"]);
    // Times of a checkout don't count, contents do.
    let text = recipes.path().join("one/rootfs/etc/text");
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::options().append(true).open(&text).and_then(|file| file.set_modified(old)).expect("a time");
    assert_eq!(bake(&["one", "-o", "one.elf"])["status"], "cached");
    fs::write(&text, "2").expect("a file");
    let third = bake(&["one", "-o", "one.elf"]);
    assert_eq!(third["status"], "baked");
    assert_ne!(third["key"], first["key"]);
    // What is wrong with one recipe does not stop the others.
    let output = recipes.package(&["bake", "--json", "-j", "2", "-o", "images", "one", "two"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(recipes.package(&["bake", "one", "wrong"]).status.code() == Some(3));
    let sums = Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS", "one.elf.sha256"])
        .current_dir(recipes.path().join("images"))
        .output()
        .expect("sha256sum runs");
    assert!(sums.status.success(), "{}", String::from_utf8_lossy(&sums.stdout));
}

/// Two bakes that share nothing but the kernel give the same image.
#[test]
fn bakes_are_reproducible() {
    needs!("tar", "gcc");
    let kernels = toolchain::kernel::cache_directory().expect("a cache").join("kernels");
    let mut images = Vec::new();
    for attempt in ["first", "second"] {
        let recipes = Recipes::new();
        let sum = archive(&recipes, "tool");
        recipes.recipe("tool", &built(&sum, "gcc -O1 -o tool tool.c")).file("tool/rootfs/etc/x/y", "z");
        recipes.succeeds(&["key", "tool"]);
        if attempt == "first" {
            // The kernel is in the common cache after this.
            recipes.recipe("kernel", SHELL).succeeds(&["bake", "kernel", "-o", "kernel.elf"]);
        }
        let cache = recipes.path().join("cache");
        fs::create_dir(&cache).expect("a folder");
        symlink(&kernels, cache.join("kernels")).expect("a link");
        let image = recipes.path().join("tool.elf");
        let output = Command::new(rumprun_bake())
            .args(["-q", "package", "bake", "tool", "--packages", ".", "-o", "tool.elf"])
            .current_dir(recipes.path())
            .env(toolchain::kernel::CACHE_VARIABLE, &cache)
            .output()
            .expect("rumprun-bake starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!cache.join("builds").exists(), "another kernel was built");
        images.push((fs::read(&image).expect("an image"), recipes));
    }
    assert!(images[0].0 == images[1].0, "the images differ");
}

/// The bill of materials names the packages whose files are in the image, and no others.
#[test]
fn bills_of_materials_are_true() {
    needs!("dpkg-query");
    let recipes = Recipes::new();
    recipes.recipe("shell", SHELL);
    recipes.succeeds(&["bake", "shell", "-o", "shell.elf"]);
    let image = recipes.path().join("shell.elf");
    let bill = inspect(&image, "--sbom");
    let value = json(&bill);
    assert_eq!((&value["bomFormat"], &value["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let components = value["components"].as_array().expect("components");
    let named: BTreeSet<String> = components
        .iter()
        .filter(|row| row["purl"].as_str().is_some_and(|purl| purl.starts_with("pkg:deb/")))
        .map(|row| {
            format!("{}={}", row["name"].as_str().unwrap_or(""), row["version"].as_str().unwrap_or(""))
        })
        .collect();
    // What dpkg itself says of every file of the image.
    let entries = json(&inspect(&image, "--json"));
    assert!(entries["rootfs"]["files"].as_u64().is_some_and(|files| files > 0));
    let files = inspect(&image, "--files");
    let mut expected = BTreeSet::new();
    for path in
        files.lines().filter(|line| line.starts_with('-')).filter_map(|line| line.split(' ').next_back())
    {
        let plain = path.strip_prefix("/usr").unwrap_or(path).to_string();
        for name in [path.to_string(), plain] {
            let output =
                Command::new("dpkg-query").args(["--search", &name]).output().expect("dpkg-query runs");
            let found = String::from_utf8_lossy(&output.stdout).into_owned();
            let Some((owners, _)) = found.split_once(": ").filter(|_| output.status.success()) else {
                continue;
            };
            let owner = owners.split([':', ',']).next().unwrap_or_default();
            let version =
                Command::new("dpkg-query").args(["--show", "--showformat=${Version}\n", owner]).output();
            let version = String::from_utf8_lossy(&version.expect("dpkg-query runs").stdout).into_owned();
            expected.insert(format!("{owner}={}", version.lines().next().unwrap_or_default()));
            break;
        }
    }
    assert!(expected.iter().any(|name| name.starts_with("libc6=")), "{expected:?}");
    assert_eq!(named, expected);
    let kernel = components.iter().find(|row| row["type"] == "operating-system").expect("the kernel");
    assert_eq!(kernel["hashes"][0]["content"].as_str().map(str::len), Some(64));
    validate(&recipes.path().join("bill.json"), &bill);
}

/// Has the CycloneDX project's own validator judge a bill of materials, if it can be had.
fn validate(path: &Path, bill: &str) {
    let Some(python) = validators() else { return };
    fs::write(path, bill).expect("a file");
    let script = "import sys; from cyclonedx.schema import SchemaVersion; \
        from cyclonedx.validation.json import JsonStrictValidator; \
        error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read()); \
        sys.exit(str(error) if error else 0)";
    let output = Command::new(python).args(["-c", script]).arg(path).output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A Python with validators of others; says why not, if there is none.
fn validators() -> Option<PathBuf> {
    let folder = tests::scratch().join("validators");
    let python = folder.join("bin/python3");
    let packages = ["cyclonedx-python-lib[json-validation]", "check-jsonschema"];
    let ready = folder.join("ready");
    if !ready.exists() {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&folder).output();
        if !made.is_ok_and(|output| output.status.success()) {
            skip("python3 cannot make a virtual environment");
            return None;
        }
        let installed =
            Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages).output();
        if !installed.as_ref().is_ok_and(|output| output.status.success()) {
            skip("the validators cannot be installed from PyPI");
            return None;
        }
        fs::write(&ready, "").expect("a file");
    }
    Some(python)
}

/// The workflow that users copy: YAML, valid for GitHub's schema, its scripts in good shell, its commands ours.
#[test]
fn the_workflow_is_valid() {
    let path = checkout().join("examples/github-actions.yml");
    let text = fs::read_to_string(&path).expect("the workflow");
    let documents = saphyr::Yaml::load_from_str(&text).expect("YAML");
    let steps = documents[0]["jobs"]["bake"]["steps"].as_sequence().expect("steps");
    let scripts: Vec<&str> = steps.iter().filter_map(|step| step.as_mapping_get("run")?.as_str()).collect();
    assert!(scripts.len() >= 5, "{scripts:?}");
    for script in &scripts {
        let output = Command::new("bash").args(["-n", "-c", script]).output().expect("bash runs");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let ours: Vec<&str> =
        scripts.iter().flat_map(|script| script.split("rumprun-bake package ").skip(1)).collect();
    for command in ["list --json", "key --all --json", "bake --all -j", "check --all"] {
        assert!(ours.iter().any(|part| part.starts_with(command)), "{command}: {ours:?}");
    }
    if let Some(python) = validators() {
        let checker = python.with_file_name("check-jsonschema");
        let output = Command::new(checker)
            .args(["--builtin-schema", "vendor.github-workflows"])
            .arg(&path)
            .output()
            .expect("the checker runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
