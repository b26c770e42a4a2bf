//! The programs that tests run: `coracle` and `kubectl`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, bail};

/// A kubectl of a known version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubectl {
    /// Where it is.
    pub path: PathBuf,
    /// Minor version, where its name tells it: 33 of 1.33.
    pub minor: Option<u32>,
}

/// The `coracle` binary under test: `$CORACLE_BIN`, else the one in the target folder of the running test.
///
/// # Errors
/// When there is none.
pub fn coracle() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("CORACLE_BIN") {
        let path = PathBuf::from(path);
        return path.canonicalize().with_context(|| format!("CORACLE_BIN={}", path.display()));
    }
    let test = env::current_exe()?;
    // target/debug/deps/e2e-0123 → target/debug/coracle
    let found = test.ancestors().skip(1).take(2).map(|folder| folder.join("coracle"));
    match found.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!(
            "no coracle binary beside {}: run `cargo build -p coracle` first, or set CORACLE_BIN",
            test.display()
        ),
    }
}

/// Oldest kubectl that this cluster's API is tried with, by its minor version.
const OLDEST: u32 = 29;

/// The kubectl of this machine is too old to be tried: a reason to leave a test out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("needs kubectl 1.{OLDEST} or newer, and {} is 1.{minor}", path.display())]
pub struct TooOld {
    path: PathBuf,
    minor: u32,
}

/// The kubectl to use: `$KUBECTL`, else the newest of [`kubectls`].
///
/// # Errors
/// When there is none, or it is [`TooOld`].
pub fn kubectl() -> anyhow::Result<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, TooOld>> = OnceLock::new();
    if let Some(path) = env::var_os("KUBECTL") {
        return Ok(path.into());
    }
    if let Some(found) = FOUND.get() {
        return Ok(found.clone()?);
    }
    let newest = kubectls().into_iter().max_by_key(|kubectl| kubectl.minor);
    let newest = newest.context("no kubectl found: install one, or set KUBECTL to its path")?;
    let minor = match newest.minor {
        Some(minor) => minor,
        None => minor_of(&newest.path)?,
    };
    let found = match minor {
        OLDEST.. => Ok(newest.path),
        _ => Err(TooOld { path: newest.path, minor }),
    };
    Ok(FOUND.get_or_init(|| found).clone()?)
}

/// The minor version that a kubectl says it has.
fn minor_of(kubectl: &Path) -> anyhow::Result<u32> {
    let output = std::process::Command::new(kubectl)
        .args(["version", "--client", "--output=json"])
        .output()
        .with_context(|| format!("cannot run {}", kubectl.display()))?;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    // Some builds say "20+".
    let minor = said["clientVersion"]["minor"].as_str().unwrap_or_default();
    minor
        .trim_end_matches(|c: char| !c.is_ascii_digit())
        .parse()
        .with_context(|| format!("{} does not say its version", kubectl.display()))
}

/// Every kubectl on this machine, oldest first: the one in `$PATH`, and what lies beside it (or beside what it links to)
/// under names like `kubectl.1.33`. Where there are such, the plain one may only be a switch between them and is left out.
pub fn kubectls() -> Vec<Kubectl> {
    let Some(plain) = in_path("kubectl") else { return Vec::new() };
    let real = plain.canonicalize().unwrap_or_else(|_| plain.clone());
    let mut found = Vec::new();
    for folder in [plain.parent(), real.parent()].into_iter().flatten() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let minor = name.to_str().and_then(|n| n.strip_prefix("kubectl.1.")?.parse().ok());
            if minor.is_some() && !found.iter().any(|k: &Kubectl| k.minor == minor) {
                found.push(Kubectl { path: entry.path(), minor });
            }
        }
    }
    if found.is_empty() {
        found.push(Kubectl { path: plain, minor: None });
    }
    found.sort_by_key(|kubectl| kubectl.minor);
    found
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A prebuilt example component, for instance `hello-v1`.
pub fn component(name: &str) -> PathBuf {
    repository(&format!("examples/prebuilt/{name}.wasm"))
}
