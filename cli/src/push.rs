//! `coracle push`: a `.wasm` file, or an image as an OCI layout, into the cluster's registry.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use coracle_agent::images::layout::Layout;
use coracle_agent::images::reference::ImageName;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::Connection;
use crate::println;

/// Arguments of `coracle push`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The component: a .wasm file; or an image: an OCI layout, as a folder or a tar archive
    file: PathBuf,
    /// Name of the image; the tag is `latest` where none is given
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
    #[command(flatten)]
    connection: Connection,
}

/// Pushes, and prints the digest.
pub(crate) async fn main(args: Args) -> anyhow::Result<()> {
    // All that can be wrong here is told before anybody is asked.
    parse(&args.name)?;
    exists(&args.file)?;
    if let Some(layout) = Layout::open(&args.file)? {
        let client = args.connection.client().await?;
        let digest = push_layout(client, &layout, &args.name).await?;
        println(format_args!("pushed {}  {digest}", args.name));
        return Ok(());
    }
    let component = read(&args.file)?;
    let client = args.connection.client().await?;
    let digest = push(client, component, &args.name).await?;
    println(format_args!("pushed {}  {digest}", args.name));
    Ok(())
}

async fn push_layout(client: kube::Client, layout: &Layout, name: &str) -> anyhow::Result<String> {
    let parsed = parse(name)?;
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("pushing {msg} {bytes}") {
        bar.set_style(style);
    }
    bar.set_message(name.to_owned());
    let registry = coracle_agent::registry(client);
    let result = registry.push_layout(&parsed, layout, |sent| bar.set_position(sent)).await;
    bar.finish_and_clear();
    result.map_err(|why| anyhow::anyhow!("cannot push {name}: {why}"))
}

/// Says what is wrong with a path that leads to nothing.
pub(crate) fn exists(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    bail!("there is no file {}; check the path, and whether it was built", path.display())
}

/// A file that holds a component, or what is wrong with it.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = path.display();
    if path.is_dir() {
        bail!(
            "{file} is a folder without index.json, so it is no OCI layout; name the .wasm file in it, or a layout"
        );
    }
    let bytes = std::fs::read(path).with_context(|| {
        format!("cannot read {file}; make it readable for this user, or run as its owner")
    })?;
    match bytes.get(..8) {
        Some(b"\0asm\x0d\0\x01\0") => Ok(bytes),
        // A program of WASI preview 1 becomes a component on the node.
        Some(b"\0asm\x01\0\0\0") => match coracle_wasm::inspect(&bytes) {
            Ok(found) if found.kind.is_some() => Ok(bytes),
            Ok(_) => bail!(
                "{file} is a core module without an entry point: it exports no `_start`; build it as a program for wasm32-wasip1, or as a component for wasm32-wasip2"
            ),
            Err(problem) => {
                bail!("{file} is a core module, and no node can run it: {}", problem.message)
            }
        },
        None if bytes.is_empty() => bail!("{file} is empty; build it again"),
        _ => bail!(
            "{file} is no Wasm file (those begin with \\0asm), and no OCI layout; build a component, for instance with `cargo build --target wasm32-wasip2`, and name that"
        ),
    }
}

/// Pushes a component; returns its digest.
pub(crate) async fn push(
    client: kube::Client,
    component: Vec<u8>,
    name: &str,
) -> anyhow::Result<String> {
    let parsed = parse(name)?;
    let bar =
        ProgressBar::with_draw_target(Some(component.len() as u64), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("pushing {msg} {bar:30} {bytes}/{total_bytes}")
    {
        bar.set_style(style);
    }
    bar.set_message(name.to_owned());
    let progress = {
        let bar = bar.clone();
        move |sent| bar.set_position(sent)
    };
    let registry = coracle_agent::registry(client);
    let result = registry.push(&parsed, component.into(), progress).await;
    bar.finish_and_clear();
    result.map_err(|why| anyhow::anyhow!("cannot push {name}: {why}"))
}

/// A name in the cluster's registry that can be pushed to.
fn parse(name: &str) -> anyhow::Result<ImageName> {
    match ImageName::parse(name) {
        Ok(ImageName { host: Some(host), .. }) => {
            bail!(
                "\"{name}\" names the registry {host}; the cluster's own registry takes names without a host, such as app:v1; `skopeo copy` or `oras` push to others"
            )
        }
        Ok(ImageName { digest: Some(_), .. }) => {
            bail!("\"{name}\" has a digest; push to a tag, such as app:v1")
        }
        Ok(parsed) => Ok(parsed),
        Err(why) => bail!("\"{name}\" is no image name: {why}; give one such as app:v1"),
    }
}
