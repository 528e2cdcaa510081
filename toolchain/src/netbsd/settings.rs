//! What a build is made with: the host's compiler, its flags, the settings that the tree's makefiles read, and the
//! wrappers under the names that they call.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    Error, host,
    make::{plain_command, run},
    write_new,
};
use crate::hash::Parts;

/// The machine that is built for, as NetBSD names it.
pub const MACHINE: &str = "amd64";
/// The beginning of its tools' names.
const PLATFORM: &str = "x86_64--netbsd";
/// The newest compilers that the settings are made for.
const NEWEST: [(Kind, u32); 2] = [(Kind::Gcc, 15), (Kind::Clang, 19)];
/// Tools of the host that need no help.
const PLAIN_TOOLS: &[&str] =
    &["ar", "as", "ld", "nm", "objcopy", "objdump", "ranlib", "readelf", "size", "strings", "strip"];
/// Old C needs no more than that current compilers take it as they did: tentative definitions, implicit declarations.
const LENIENT: &str = "-std=gnu17 -fcommon -w -Wno-error=implicit-function-declaration -Wno-error=implicit-int \
                       -Wno-error=int-conversion -Wno-error=incompatible-pointer-types";
/// Old C as it was, and nothing that distributions switch on for programs with a C library under them.
const CODE: &str =
    "-fcommon -w -U_FORTIFY_SOURCE -fno-stack-protector -fcf-protection=none -fno-stack-clash-protection";
/// Where the platform keeps the current LWP, from the GS base (`bmk::cpu`), for trees that are patched to read it there.
const CURLWP_GS: usize = 8;
/// Takes back what the host's compiler says of the host.
const NOT_LINUX: &str = "-Ulinux -U__linux -U__linux__ -U__gnu_linux__";

/// A compiler's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// GNU.
    Gcc,
    /// LLVM.
    Clang,
}

/// The host's compiler.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// The C compiler.
    pub cc: PathBuf,
    /// The C++ compiler, if there is one.
    pub cxx: Option<PathBuf>,
    /// Its kind.
    pub kind: Kind,
    /// Its version, as `12.2.0`.
    pub version: String,
}

impl Compiler {
    /// The compiler that `CC` names, or `cc`.
    pub fn find() -> Result<Self, Error> {
        let cc = env::var("CC").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "cc".into());
        let path =
            in_path(&cc).ok_or_else(|| Error::Other(format!("{cc}: no such compiler; install gcc")))?;
        let macros =
            Command::new(&path).args(["-dM", "-E", "-x", "c", "/dev/null"]).stdin(Stdio::null()).output();
        let macros = String::from_utf8_lossy(&macros.map_err(host(path.display()))?.stdout).into_owned();
        let value = |name: &str| -> Option<&str> {
            macros
                .lines()
                .find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name)?.strip_prefix(' '))
        };
        let (kind, names) = if value("__clang__").is_some() {
            (Kind::Clang, ["__clang_major__", "__clang_minor__", "__clang_patchlevel__"])
        } else {
            (Kind::Gcc, ["__GNUC__", "__GNUC_MINOR__", "__GNUC_PATCHLEVEL__"])
        };
        if value("__x86_64__").is_none() || value("__LP64__").is_none() {
            return Err(Error::Other(format!("{}: not a compiler for x86-64", path.display())));
        }
        let version = names.map(|name| value(name).unwrap_or("0")).join(".");
        // clang++-14 for clang-14, g++-13 for gcc-13, c++ for cc.
        let cxx = cc.replace("clang", "clang++").replace("gcc", "g++");
        let cxx = if cxx == cc { cc.replace("cc", "c++") } else { cxx };
        Ok(Compiler { cc: path, cxx: in_path(&cxx), kind, version })
    }

    /// What to know of a compiler that is newer than those the settings are made for.
    pub fn too_new(&self) -> Option<String> {
        let major: u32 = self.version.split('.').next()?.parse().ok()?;
        let (_, newest) = NEWEST.into_iter().find(|(kind, _)| *kind == self.kind)?;
        (major > newest).then(|| {
            format!(
                "{} is newer than the settings for old C are made for ({newest}); if the build fails, set CC to an older one",
                self.name()
            )
        })
    }

    /// The compiler for people.
    pub fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Gcc => "gcc",
            Kind::Clang => "clang",
        };
        format!("{kind} {}", self.version)
    }

    /// What the tree calls this kind of compiler, C and C++.
    fn tool_names(&self) -> [&'static str; 2] {
        match self.kind {
            Kind::Gcc => ["gcc", "c++"],
            Kind::Clang => ["clang", "clang++"],
        }
    }
}

/// A program by its path or in PATH.
pub fn in_path(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Path::new(name).is_file().then(|| name.into());
    }
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Where things of one build are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The copy of the tree that is built from.
    pub source: PathBuf,
    /// The tree's tools.
    pub tools: PathBuf,
    /// The tools' objects.
    pub tool_objects: PathBuf,
    /// What depends on the settings: objects, headers, logs.
    pub objects: PathBuf,
}

impl Places {
    /// The directories for a copy of a tree, before its settings are known.
    pub fn new(build: &Path, key: &str) -> Self {
        Places {
            source: build.join("src"),
            tools: build.join("tools"),
            tool_objects: build.join("tool-objects"),
            objects: build.join(format!("objects-{key}")),
        }
    }

    /// The system root that headers are installed to.
    pub fn stage(&self) -> PathBuf {
        self.objects.join("stage")
    }

    /// The settings file that the makefiles read.
    pub fn settings(&self) -> PathBuf {
        self.objects.join("mk.conf")
    }

    /// The script that runs the tree's make with the settings.
    pub fn make(&self) -> PathBuf {
        self.objects.join("make")
    }

    /// Where the logs are.
    pub fn log(&self) -> PathBuf {
        self.objects.join("log")
    }
}

/// What components are built to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The platform of images: archives that a bake links.
    Image,
    /// This machine: shared libraries over its own C library.
    Host,
}

/// What decides how components come out.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What they run on.
    pub target: Target,
    /// The compiler.
    pub compiler: Compiler,
    /// Whether assertions and debug information are in.
    pub diagnostic: bool,
}

impl Settings {
    /// The optimisation and debug flags.
    pub fn debug_flags(&self) -> &'static str {
        if self.diagnostic { "-O2 -g" } else { "-O2" }
    }

    /// How code is generated: for images position-independent for executables; libraries of the host get their own.
    fn code(&self) -> String {
        match (self.target, self.compiler.kind) {
            (Target::Image, Kind::Gcc) => format!("-fPIE {CODE}"),
            // Through the GOT, as clang has it else, ld would make 32-bit operands of addresses in the highest 2 GiB.
            (Target::Image, Kind::Clang) => format!("-fPIE -fdirect-access-external-data {CODE}"),
            (Target::Host, _) => CODE.into(),
        }
    }

    /// All flags, for people.
    pub fn flags(&self) -> String {
        format!("{} {}", self.debug_flags(), self.code())
    }

    /// A hash of everything here; objects of one are not mixed with those of another.
    pub fn key(&self) -> String {
        let mut hash = Parts::default();
        let nowhere = Places::new(Path::new("/"), "");
        hash.add(self.compiler.cc.as_os_str().as_encoded_bytes());
        hash.add(self.compiler.name());
        hash.add(self.makefile(&nowhere));
        hash.add(self.compiler_wrapper(Path::new("")));
        hash.finish()[..12].into()
    }

    /// The variables for the tree's `build.sh`.
    pub fn variables(&self, places: &Places) -> Vec<String> {
        let source = places.source.display();
        let mut variables = vec![
            format!("EXTERNAL_TOOLCHAIN={}", places.tools.display()),
            format!("TOPRUMP={source}/sys/rump"),
            format!("BUILDRUMP_STAGE={}", places.stage().display()),
        ];
        let fixed = [
            "TOOLCHAIN_MISSING=yes",
            "TOOLS_BUILDRUMP=yes",
            "MKGROFF=no",
            "MKLINT=no",
            "MKZFS=no",
            "MKDYNAMICROOT=no",
            "MKDTRACE=no",
            "MKCTF=no",
            "MKPIE=no",
        ];
        let own: &[&str] = match self.target {
            Target::Image => {
                &["MKPIC=no", "RUMP_CURLWP=hypercall", "RUMP_KERNEL_IS_LIBC=1", "BUILDRUMP_SYSROOT=yes"]
            }
            Target::Host => &["MKPIC=yes", "RUMP_CURLWP=__thread"],
        };
        variables.extend(fixed.iter().chain(own).map(|variable| variable.to_string()));
        if self.compiler.kind == Kind::Clang {
            variables.push("HAVE_LLVM=yes".into());
        }
        variables
    }

    /// The settings file, which every makefile of the tree reads (`MAKECONF`, mk.conf(5)).
    fn makefile(&self, places: &Places) -> String {
        let (objects, stage) = (places.objects.display(), places.stage());
        let (stage, source) = (stage.display(), places.source.display());
        let diagnostic = if self.diagnostic { "yes" } else { "no" };
        let cxx = if self.compiler.cxx.is_some() { "yes" } else { "no" };
        let debug = self.debug_flags();
        let mut text = format!(
            "\
BUILDRUMP_IMACROS={objects}/include/features.h
BUILDRUMP_CFLAGS={code} -ffile-prefix-map={source}=/netbsd
LIBDO.pthread=_external
INSTPRIV=-U
AFLAGS+=-Wa,--noexecstack
MKPROFILE=no
USE_SSP=no
MKHTML=no
MKMAN=no
MKCATPAGES=no
MKNLS=no
MKYP=no
MKDEBUG=no
MKDEBUGLIB=no
RUMP_NPF_TESTING?=no
RUMPRUN=yes
RUMP_DIAGNOSTIC={diagnostic}
DBG={debug}
NOGCCERROR=1
NOCLANGERROR=1
_BUILDRUMP_CXX={cxx}
# Unwinding is in libc, in C++; the compiler's own library is made for the host.
.if ${{_BUILDRUMP_CXX}} == \"yes\" && exists({source}/external/bsd/libc++/lib/Makefile)
HAVE_LIBGCC_EH=no
.else
HAVE_LIBGCC_EH=yes
.endif
_GCC_CRTBEGINS=
_GCC_CRTENDS=
_GCC_CRTI=
_GCC_CRTN=
",
            code = self.code()
        );
        text += &match self.target {
            Target::Image => format!(
                "\
BUILDRUMP_CPPFLAGS=--sysroot={stage} -isystem =/usr/include
RUMPKERN_ONLY=yes
RUMP_LDSCRIPT=no
CPPFLAGS+=-D__NetBSD__ {NOT_LINUX}
CPPFLAGS+=${{BUILDRUMP_CPPFLAGS}} -I{objects}/include
CXXFLAGS+=-nostdinc++ -isystem =/usr/include/c++
"
            ),
            // Programs start and end as the host's do, and find their libraries beside them.
            Target::Host => format!(
                "\
BUILDRUMP_CPPFLAGS=-I{stage}/usr/include
MKSTATICLIB=no
RUMP_LDSCRIPT=ctor
RUMP_VIRTIF={taps}
RUMPKERN_UNDEF={NOT_LINUX}
RUMPUSER_EXTERNAL_DPLIBS+=dl
RUMPCLIENT_EXTERNAL_DPLIBS+=pthread dl
CPPFLAGS+=-DRUMPUSER_CONFIG=yes -I{objects}/autoconf -I{objects}/compat
CPPFLAGS+=${{BUILDRUMP_CPPFLAGS}}
LDFLAGS+=-Wl,--hash-style=both
.ifdef PROG
LIBCRT0=
LIBCRTBEGIN=
LIBCRTEND=
LIBCRTI=
LIBC=
LDFLAGS+=-L{stage}/usr/lib -Wl,-rpath-link,{stage}/usr/lib -Wl,--no-as-needed -Wl,-rpath,'$$ORIGIN/../lib'
LDADD+=-ldl
.endif
",
                taps = if Path::new("/usr/include/linux/if_tun.h").is_file() { "yes" } else { "no" }
            ),
        };
        text + "CFLAGS+=${BUILDRUMP_CFLAGS}\nCXXFLAGS+=${BUILDRUMP_CFLAGS}\n"
    }

    /// Writes the settings file and what it names.
    pub fn write(&self, places: &Places) -> Result<(), Error> {
        let include = places.objects.join("include");
        fs::create_dir_all(&include).map_err(host(include.display()))?;
        // Every file of a component includes the first; rumpcomp_pci_* of the platform have what the second says.
        let mut features = String::from("#define NO_PCI_MSI_MSIX\n");
        if self.target == Target::Image {
            features += &format!("#define RUMP_CURLWP_GS {CURLWP_GS}\n");
        }
        keep(&include.join("features.h"), &features, false)?;
        let pci = "#define RUMPCOMP_USERFEATURE_PCI_DMAFREE\n#define RUMPCOMP_USERFEATURE_PCI_IOSPACE\n";
        keep(&include.join("rumpcomp_userfeatures_pci.h"), pci, false)?;
        if self.target == Target::Host {
            self.configure(places)?;
        }
        keep(&places.settings(), &self.makefile(places), false)
    }

    /// Has the tree find out what its hypercalls for the host can use, and gives them the one header that hosts lack.
    fn configure(&self, places: &Places) -> Result<(), Error> {
        let compat = places.objects.join("compat/sys");
        fs::create_dir_all(&compat).map_err(host(compat.display()))?;
        let queue = places.source.join("sys/sys/queue.h");
        let text = fs::read_to_string(&queue).map_err(host(queue.display()))?;
        keep(&compat.join("queue.h"), &text, false)?;
        let script = places.source.join("lib/librumpuser/configure");
        let mut hash = Parts::default();
        hash.add(fs::read(&script).map_err(host(script.display()))?);
        let (folder, state) = (places.objects.join("autoconf"), hash.finish());
        let stamp = folder.join("complete");
        if fs::read(&stamp).is_ok_and(|present| present == state.as_bytes()) {
            return Ok(());
        }
        fs::create_dir_all(&folder).map_err(host(folder.display()))?;
        let mut command = plain_command("sh");
        command.current_dir(&folder).arg(&script).env("CC", &self.compiler.cc);
        run(command, "the configuration of librumpuser", &places.log().join("configure.log"))
            .map_err(|failure| Error::Other(failure.to_string()))?;
        write_new(&stamp, state.as_bytes())
    }

    /// Writes the tools that are the host's, under the names that the tree calls.
    pub fn write_tools(&self, places: &Places) -> Result<(), Error> {
        let folder = places.tools.join("bin");
        fs::create_dir_all(&folder).map_err(host(folder.display()))?;
        for name in PLAIN_TOOLS {
            let path =
                in_path(name).ok_or_else(|| Error::Other(format!("{name} is missing; install binutils")))?;
            let script = format!("#!/bin/sh\nexec {} \"$@\"\n", quoted(&path));
            keep(&folder.join(format!("{PLATFORM}-{name}")), &script, true)?;
        }
        let compiler = &self.compiler;
        let [cc_name, cxx_name] = compiler.tool_names();
        let cpp = if compiler.kind == Kind::Clang { "clang-cpp" } else { "cpp" };
        let mut scripts = vec![
            (format!("{PLATFORM}-{cc_name}"), self.compiler_wrapper(&compiler.cc)),
            (
                format!("{PLATFORM}-{cpp}"),
                format!("#!/bin/sh\nexec {} -E -x c \"$@\"\n", quoted(&compiler.cc)),
            ),
            ("host-cc".into(), format!("#!/bin/sh\nexec {} {LENIENT} \"$@\"\n", quoted(&compiler.cc))),
            ("dependencies".into(), DEPENDENCIES.into()),
        ];
        if let Some(cxx) = &compiler.cxx {
            scripts.push((format!("{PLATFORM}-{cxx_name}"), self.compiler_wrapper(cxx)));
            scripts.push(("host-c++".into(), format!("#!/bin/sh\nexec {} -w \"$@\"\n", quoted(cxx))));
        }
        for (name, script) in scripts {
            keep(&folder.join(name), &script, true)?;
        }
        Ok(())
    }

    /// A compiler that says what each object depends on while it compiles it, and takes the flags that the tree gives.
    fn compiler_wrapper(&self, compiler: &Path) -> String {
        // What clang alone knows; and what clang does not.
        let translated = match self.compiler.kind {
            Kind::Gcc => "-cxx-isystem) word=-isystem;;",
            Kind::Clang => "-frandom-seed=*) continue;;",
        };
        format!(
            "\
#!/bin/sh
output= compile= last= count=$#
for word do
  case $last in -o) output=$word;; esac
  last=$word
  case $word in -c) compile=1;; {translated} esac
  set -- \"$@\" \"$word\"
done
shift $count
[ \"$compile\" ] && [ \"$output\" ] && exec {0} \"$@\" -MD -MP -MF \"$output.dep\"
exec {0} \"$@\"
",
            quoted(compiler)
        )
    }
}

/// In place of the tree's `mkdep`, which would run the preprocessor once more for every file: the compiler says what
/// objects depend on. What is known is joined; other files appear empty, because make waits for them.
const DEPENDENCIES: &str = r#"#!/bin/sh
file=.depend join=
while [ $# -gt 0 ]; do
  case $1 in -f) file=$2; shift;; -d|-i) join=1;; --) break;; esac
  shift
done
if [ "$join" ]; then cat -- *.dep > "$file" 2>/dev/null || : > "$file"; else : > "$file"; fi
"#;

/// Puts a script in front of the tree's `install` that makes the directory first: trees that were cut down have no
/// list of directories to make.
pub fn wrap_install(places: &Places) -> Result<(), Error> {
    let folder = places.tools.join("bin");
    let (install, real) = (folder.join(format!("{PLATFORM}-install")), folder.join("real-install"));
    let script = format!(
        "#!/bin/sh\nfor last do :; done\nfolder=${{last%/*}}\n[ -d \"$folder\" ] || mkdir -p \"$folder\"\nexec {} \"$@\"\n",
        quoted(&real)
    );
    if !install.is_file() || fs::read(&install).is_ok_and(|bytes| bytes == script.as_bytes()) {
        return Ok(());
    }
    fs::rename(&install, &real).map_err(host(install.display()))?;
    keep(&install, &script, true)
}

/// Writes a file if it isn't so already: everything that is made with it would be made again.
fn keep(path: &Path, text: &str, executable: bool) -> Result<(), Error> {
    if fs::read(path).is_ok_and(|present| present == text.as_bytes()) {
        return Ok(());
    }
    write_new(path, text.as_bytes())?;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(host(path.display()))
}

/// A path as a word of the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(kind: Kind, version: &str, diagnostic: bool) -> Settings {
        let compiler = Compiler { cc: "/usr/bin/cc".into(), cxx: None, kind, version: version.into() };
        Settings { target: Target::Image, compiler, diagnostic }
    }

    #[test]
    fn keys_follow_settings() {
        let key = settings(Kind::Gcc, "12.2.0", false).key();
        assert_eq!(settings(Kind::Gcc, "12.2.0", false).key(), key);
        for other in [
            settings(Kind::Gcc, "13.2.0", false),
            settings(Kind::Clang, "12.2.0", false),
            settings(Kind::Gcc, "12.2.0", true),
        ] {
            assert_ne!(other.key(), key);
        }
        let hosted = Settings { target: Target::Host, ..settings(Kind::Gcc, "12.2.0", false) };
        assert_ne!(hosted.key(), key);
    }

    #[test]
    fn compilers_that_are_too_new() {
        let warned = |kind, version| settings(kind, version, false).compiler.too_new().is_some();
        assert!(!warned(Kind::Gcc, "15.1.0") && !warned(Kind::Clang, "19.0.0"));
        assert!(warned(Kind::Gcc, "16.0.0") && warned(Kind::Clang, "20.1.0"));
    }

    #[test]
    fn the_wrapper_translates_and_names_dependencies() {
        let folder = tempfile::tempdir().expect("a folder");
        let echo = folder.path().join("it's echo");
        keep(&echo, "#!/bin/sh\nprintf '%s|' \"$@\"\n", true).expect("a script");
        let wrapper = folder.path().join("wrapper");
        keep(&wrapper, &settings(Kind::Gcc, "12", false).compiler_wrapper(&echo), true).expect("a script");
        let said = |arguments: &[&str]| {
            let output = Command::new(&wrapper).args(arguments).output().expect("a shell");
            String::from_utf8(output.stdout).expect("text")
        };
        assert_eq!(
            said(&["-c", "-cxx-isystem", "a b", "x.c", "-o", "x.o"]),
            "-c|-isystem|a b|x.c|-o|x.o|-MD|-MP|-MF|x.o.dep|"
        );
        assert_eq!(said(&["-E", "x c"]), "-E|x c|");
        assert_eq!(said(&["x.o", "-o", "x"]), "x.o|-o|x|");
    }
}
