//! Another version of the program, without building one: the same, but for the version of its engine.
//!
//! Compiled code is named by a hash of, among others, wasmtime's version. That text is changed wherever it is in the program:
//! what results is a program of its own, with an engine that finds nothing of the other's.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, bail, ensure};

use crate::tools;

/// Writes the other program to `to`.
pub(crate) async fn with_another_engine(from: &Path, to: &Path) -> anyhow::Result<()> {
    let version = wasmtime()?;
    let (head, last) = version.rsplit_once('.').context("wasmtime's version has no dots")?;
    let last: u32 = last.parse()?;
    // As long as before, or everything behind it would move.
    let other = if last % 10 == 9 { last - 1 } else { last + 1 };
    let other = format!("{head}.{other}");
    ensure!(other.len() == version.len(), "{version} and {other} are not of the same length");
    let change = format!("s/{}/{other}/g", version.replace('.', "\\."));
    let out = fs::File::create(to).with_context(|| to.display().to_string())?;
    let mut sed = tokio::process::Command::new("sed");
    sed.env("LC_ALL", "C").arg(&change).arg(from).stdin(Stdio::null()).stdout(out);
    let status = sed.status().await.context("cannot run sed")?;
    ensure!(status.success(), "sed ended with {status}");
    let size = |path: &Path| fs::metadata(path).map(|file| file.len());
    ensure!(size(from)? == size(to)?, "the other program is not as large as this one");
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}

/// As the lock file has it.
fn wasmtime() -> anyhow::Result<String> {
    let lock = fs::read_to_string(tools::repository("Cargo.lock")).context("Cargo.lock")?;
    let Some((_, rest)) = lock.split_once("name = \"wasmtime\"\nversion = \"") else {
        bail!("Cargo.lock has no wasmtime");
    };
    Ok(rest.split('"').next().unwrap_or_default().to_owned())
}
