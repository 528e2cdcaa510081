//! Recipes that are right, and what is said of those that are wrong.

use std::{fs, path::Path};

use image::tree::{Content, Kind};

use super::*;

const GOOD: &str = r#"
name = "web"
summary = "A web server"
description = """
It serves.
"""
packages = ["ca-certificates"]
without = ["perl"]
exclude = ["/usr/share/web"]
environment = { TZ = "UTC" }

[source]
debian = ["web-server", "web-modules"]

[[program]]
run = "/usr/sbin/web -c /etc/web.conf"

[[user]]
name = "www-data"
id = 33
home = "/var/www"

[[file]]
target = "/etc/web.conf"
content = "listen 80\n"
mode = "0640"
owner = "www-data:root"

[[file]]
target = "/var/lib/web"
directory = true
owner = "33"

[[disk]]
size = "1G"
target = "/data"

[[mount]]
target = "/scratch"
type = "tmpfs"

[[port]]
name = "http"
port = 80

[[port]]
name = "dns"
port = 53
protocol = "udp"

[machine]
memory = "64M"
cpus = 2

[[check]]
http = "/"
expect = "hello"

[[check]]
port = "dns"
send = "?"
expect = "!"

[[check]]
command = "sh -c 'curl {address}:{port}'"
requires = "curl"
timeout = 5

[[check]]
exit = 3
"#;

/// A recipe named `web` with this text, and a small overlay.
fn read(text: &str) -> Result<Recipe, String> {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("web");
    fs::create_dir_all(folder.join("rootfs/srv")).expect("a folder");
    fs::write(folder.join("rootfs/srv/index.html"), "hello").expect("a file");
    fs::write(folder.join("program"), "#!/bin/sh\n").expect("a file");
    fs::write(folder.join(FILE), text).expect("a recipe");
    load(&folder).map_err(|error| error.to_string().replace(&format!("{}/", folder.display()), ""))
}

/// What is said of a recipe that has `replaced` instead of a part.
#[track_caller]
fn refused(part: &str, replaced: &str) -> String {
    assert!(GOOD.contains(part), "{part}");
    read(&GOOD.replacen(part, replaced, 1)).expect_err("must be refused")
}

fn node<'a>(recipe: &'a Recipe, path: &str) -> &'a Node {
    let found = recipe.files.iter().rfind(|(target, _)| target == path.as_bytes());
    &found.unwrap_or_else(|| panic!("no {path}")).1
}

#[test]
fn a_full_recipe() {
    let recipe = read(GOOD).expect("good");
    assert_eq!(recipe.description, "It serves.");
    let wanted: Vec<_> = debian::wanted(&recipe).iter().map(|name| name.value.as_str()).collect();
    assert_eq!(wanted, ["web-server", "web-modules", "ca-certificates"]);
    assert_eq!(recipe.configuration.hostname, "web");
    assert_eq!(recipe.configuration.mounts[0].source, b"/dev/vda");
    assert_eq!((recipe.configuration.mounts[0].format, recipe.configuration.mounts.len()), (true, 2));
    let file = node(&recipe, "/etc/web.conf");
    assert_eq!((file.mode(), file.attributes.uid, file.attributes.gid), (0o100_640, 33, 0));
    assert_eq!(node(&recipe, "/var/lib/web").attributes.gid, 33);
    assert_eq!(node(&recipe, "/srv/index.html").mode(), 0o100_644);
    let Kind::Regular(Content::Bytes(passwd)) = &node(&recipe, "/etc/passwd").kind else {
        panic!("no passwd")
    };
    let passwd = String::from_utf8_lossy(passwd);
    assert!(passwd.ends_with("www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n"), "{passwd}");
    assert_eq!(recipe.ports[1].protocol, Protocol::Udp);
    assert!(matches!(&recipe.checks[1].action, Action::Send { port: 1, .. }));
    assert!(matches!(&recipe.checks[2].action, Action::Command { words, .. } if words.len() == 3));
    assert_eq!((recipe.checks[2].timeout, recipe.cpus, recipe.memory), (5, 2, 64 << 20));
}

#[test]
fn unknown_keys_have_a_place_and_a_hint() {
    let message = refused("summary", "summery");
    assert!(message.starts_with("recipe.toml:3:1: unknown field `summery`"), "{message}");
    assert!(message.ends_with("did you mean `summary`?"), "{message}");
    let message = refused("run =", "runs =");
    assert!(message.starts_with("recipe.toml:16:1: ") && message.ends_with("`run`?"), "{message}");
    let message = refused("debian =", "debain =");
    assert!(message.starts_with("recipe.toml:13:1: ") && message.ends_with("`debian`?"), "{message}");
}

#[test]
fn missing_files_have_a_place() {
    let message = refused("debian = [\"web-server\", \"web-modules\"]", "path = \"gone\"");
    assert!(message.starts_with("recipe.toml:13:8: "), "{message}");
    assert!(message.contains("gone: no such file"), "{message}");
    let message = refused("content = \"listen 80\\n\"", "source = \"web.conf\"");
    assert!(message.starts_with("recipe.toml:25:10: "), "{message}");
}

#[test]
fn contradictions_are_refused() {
    let cases = [
        ("name = \"web\"", "name = \"wep\"", "named `web`"),
        ("id = 33", "id = 33\nhome = \"x\"", "duplicate key"),
        ("home = \"/var/www\"", "home = \"www\"", "not an absolute path"),
        ("www-data:root", "wwwdata", "no user or group `wwwdata`"),
        ("mode = \"0640\"", "mode = \"888\"", "octal"),
        ("content = \"listen 80\\n\"", "content = \"x\"\nlink = \"/y\"", "give one of"),
        ("port = 53\nprotocol = \"udp\"", "port = 80", "port 80 is there already"),
        ("name = \"dns\"", "name = \"http\"", "already"),
        ("port = \"dns\"", "port = \"dnss\"", "there are: http, dns"),
        ("expect = \"!\"", "", "`send` needs `expect`"),
        ("exit = 3", "exit = 3\nconsole = \"x\"", "give one of"),
        ("exit = 3", "exit = 3\nexpect = \"x\"", "belongs to"),
        ("http = \"/\"", "timeout = 3", "says nothing"),
        ("size = \"1G\"", "size = \"big\"", "not a size"),
        ("cpus = 2", "cpus = 0", "from 1 to 255"),
        ("packages = [\"ca-certificates\"]", "packages = [\"Big\"]", "name of a Debian package"),
        ("[[program]]\nrun = \"/usr/sbin/web -c /etc/web.conf\"", "", "no [[program]]"),
        ("debian = [\"web-server\", \"web-modules\"]", "", "says nothing"),
        ("debian = [\"web-server\", \"web-modules\"]", "debian = []", "names no package"),
        ("debian = [\"web-server\", \"web-modules\"]", "debian = 3", "a string or a list"),
        ("debian =", "static = true\ndebian =", "belongs to `cargo`"),
        ("debian =", "cargo = \".\"\ndebian =", "has `debian` and `cargo`"),
    ];
    for (part, replaced, expected) in cases {
        let message = refused(part, replaced);
        assert!(message.starts_with("recipe.toml:") && message.contains(expected), "{replaced}: {message}");
    }
}

#[test]
fn sources_are_read() {
    let source = |text: &str| {
        read(&GOOD.replacen("debian = [\"web-server\", \"web-modules\"]", text, 1))
            .map(|recipe| recipe.source)
    };
    let one = source("debian = \"web-server\"").expect("good");
    assert!(matches!(one, Source::Debian(names) if names.len() == 1));
    let program = source("path = \"program\"").expect("good");
    assert!(matches!(program, Source::Program { target, .. } if target == b"/usr/local/bin/program"));
    let hash = "AB".repeat(32);
    let archive = format!(
        "archive = \"https://example.org/x.tar.gz\"\nsha256 = \"{hash}\"\nbuild = [\"make\"]\noutput = {{ x = \"/usr/bin/x\" }}"
    );
    let Source::Archive { location, sha256, build } = source(&archive).expect("good") else {
        panic!("not so")
    };
    assert!(matches!(location.value, source::Location::Url(_)));
    assert_eq!(sha256.value, hash.to_lowercase());
    assert!(sha256.place.ends_with("recipe.toml:14:10"), "{}", sha256.place);
    assert_eq!(build.outputs[0].target, b"/usr/bin/x");
    let registry = source("cargo = \"ripgrep\"\nversion = \"14.1.0\"").expect("good");
    assert!(matches!(registry, Source::Cargo(wanted) if wanted.place.ends_with("13:9")));
    let refused = |text: &str, expected: &str| {
        let message = source(text).expect_err("must be refused");
        assert!(message.contains(expected), "{text}: {message}");
    };
    refused(&archive.replace(&hash, "12"), "not a SHA-256");
    refused(&archive.replace("sha256", "#"), "needs its checksum");
    refused(&archive.replace("output", "#"), "`output` is missing");
    refused(&archive.replace("{ x =", "{ \"../x\" ="), "within the built sources");
    refused("cargo = \".\"", "no Cargo.toml");
    refused("cargo = \"ripgrep\"\nversion = \"14\"", "exact version");
    refused("path = \".\"", "is a folder");
    refused("path = \"program\"\nbuild = [\"make\"]\noutput = { x = \"/x\" }", "is not a folder");
}

#[test]
fn recipes_are_found_by_name_and_by_folder() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("web");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join(FILE), GOOD).expect("a recipe");
    let given = [root.path().to_path_buf()];
    assert_eq!(find::find("web", &given).expect("found").name, "web");
    assert_eq!(find::find(&folder.display().to_string(), &[]).expect("found").name, "web");
    assert!(find::all(&given).contains_key("web"));
    let error = find::find("wep", &given).expect_err("unknown");
    assert!(error.to_string().contains("did you mean `web`?"), "{error}");
    assert_eq!(error::Error::from(error).exit_status(), error::EXIT_RECIPE);
    assert!(find::find("./nothing", &given).is_err());
}

#[test]
fn the_projects_recipes_are_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a checkout").join("packages");
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() {
            let recipe = load(&entry.path()).unwrap_or_else(|error| panic!("{error}"));
            assert!(!recipe.checks.is_empty(), "{} has no check", recipe.name);
            names.push(recipe.name);
        }
    }
    assert!(names.contains(&"sqlite".to_string()), "{names:?}");
}
