//! How fast Coracle is: one run measures every row against the real binary and writes docs/benchmarks.md.
//!
//! `cargo run --release -p coracle-bench`, as root for the rows with Pods. A row is a file in [`rows`]; what they share is
//! in [`cluster`] (starting and ending processes), [`api`] (a thin HTTPS client: a full Kubernetes client would be most of
//! what is measured) and [`load`] (requests to Pods), [`fleet`] (thousands of nodes that pretend). [`report`] prints.

mod api;
mod cluster;
mod fleet;
mod load;
mod report;
mod rows;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Parser;

use crate::report::Report;
use crate::rows::ROWS;

/// Measures Coracle, and writes docs/benchmarks.md
#[derive(Parser)]
struct Args {
    /// Measure only this row; may be given several times. Nothing is written then, but for --write
    #[arg(long, value_name = "ROW", value_parser = ROWS.iter().map(|row| row.name).collect::<Vec<_>>())]
    only: Vec<String>,
    /// The binary to measure [default: built from this repository]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The `wasmtime` to compare with [default: built once into the user's cache]
    #[arg(long, value_name = "FILE")]
    wasmtime: Option<PathBuf>,
    /// Where clusters keep their data: should be the disk that counts
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
    /// Write docs/benchmarks.md even if not every row was measured
    #[arg(long)]
    write: bool,
    /// Simulated nodes of the rows on fleets, to try them small; Pods follow
    #[arg(long, hide = true, value_name = "NODES")]
    nodes: Option<usize>,
    /// Serve what a Pod would serve, without Coracle: the other side of the rows on requests
    #[arg(long, hide = true, value_name = "ADDR:PORT")]
    bare: Option<SocketAddr>,
}

/// What every row is given.
struct Bench {
    /// The `coracle` binary.
    binary: PathBuf,
    /// The `wasmtime` to compare with, if one was given.
    wasmtime: Option<PathBuf>,
    /// Where clusters keep their data.
    folder: PathBuf,
    /// Simulated nodes, if not as many as a row has.
    nodes: Option<usize>,
}

/// The repository.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(address) = args.bare {
        return load::bare(address).await;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    if cfg!(debug_assertions) {
        say(
            "this is a debug build: numbers mean nothing; use `cargo run --release -p coracle-bench`",
        );
    }
    let binary = match args.binary {
        Some(binary) => binary,
        None => build()?,
    };
    let bench = Bench { binary, wasmtime: args.wasmtime, folder: args.folder, nodes: args.nodes };
    let mut report = Report::begin(&bench.folder)?;
    for row in ROWS {
        if !args.only.is_empty() && !args.only.iter().any(|only| only == row.name) {
            continue;
        }
        say(&format!("{}: {}", row.name, row.what));
        match (row.measure)(&bench).await {
            Ok(measured) => report.add(row, measured),
            Err(error) => report.fail(row, &error),
        }
    }
    let text = report.markdown();
    out(&text);
    if args.only.is_empty() || args.write {
        let path = root().join("docs/benchmarks.md");
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if report.failed() { bail!("some rows could not be measured") } else { Ok(()) }
}

/// Builds the binary beside this one.
fn build() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--bin", "coracle"]).current_dir(root());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    if !command.status().context("cargo cannot be run; give --binary")?.success() {
        bail!("the binary could not be built");
    }
    Ok(std::env::current_exe()?.with_file_name("coracle"))
}

/// A line on progress.
fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn out(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
