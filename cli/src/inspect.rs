//! `coracle inspect`: what a component is and wants, before anybody runs it.
//!
//! Nothing is compiled and nothing runs. An image is pulled as a node would pull it, into a folder that is removed again.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use coracle_agent::images::credentials::Keyring;
use coracle_agent::images::manifest::Words;
use coracle_agent::images::{Config, Images, PullError, PullPolicy, Wanted, Workload};
use coracle_sandbox::ImageKind;
use coracle_wasm::{Form, Inspection, meaning};
use serde_json::json;

use crate::client::Connection;
use crate::{println, push, status};

/// Arguments of `coracle inspect`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A .wasm file, or the name of an image
    #[arg(value_name = "FILE|IMAGE")]
    what: String,
    /// Output: a table for people, or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    output: String,
    #[command(flatten)]
    connection: Connection,
}

/// Prints it.
pub(crate) async fn main(args: Args) -> anyhow::Result<()> {
    let path = Path::new(&args.what);
    let (wasm, digest) = if path.is_dir() {
        bail!("{} is a folder; name the .wasm file in it", args.what);
    } else if path.exists() {
        let read = std::fs::read(path).with_context(|| {
            let file = path.display();
            format!("cannot read {file}; make it readable for this user, or run as its owner")
        });
        (read?, None)
    } else if args.what.ends_with(".wasm") || args.what.starts_with(['.', '/']) {
        return push::exists(path);
    } else {
        let (wasm, digest) = pull(&args).await?;
        (wasm, Some(digest))
    };
    let found = coracle_wasm::inspect(&wasm);
    let found = found.map_err(|problem| {
        anyhow::anyhow!("{}: {}; it cannot be inspected, nor run", args.what, problem.message)
    })?;
    match args.output.as_str() {
        "json" => {
            let mut value = json!(found);
            value["imports"] = found.imports.iter().map(|name| described(name)).collect();
            if let Some(digest) = digest {
                value["digest"] = json!(digest);
            }
            println(format_args!("{value:#}"));
        }
        _ => println(format_args!("{}", describe(&args.what, &found, digest.as_deref()))),
    }
    Ok(())
}

async fn pull(args: &Args) -> anyhow::Result<(Vec<u8>, String)> {
    let client = args.connection.client().await?;
    let folder = tempfile::tempdir()?;
    let images = Images::open(folder.path().to_owned(), client, Config::default())?;
    let wanted = Wanted { name: &args.what, policy: PullPolicy::Always, words: Words::default() };
    let pulled = match images.ensure(wanted, async { Keyring::default() }, || {}).await {
        Err(PullError::Unpack { name, .. } | PullError::NeedsRoot(name)) => {
            bail!("{name} is a container image; what can be looked into is WebAssembly")
        }
        pulled => pulled?,
    };
    match pulled.workload {
        Workload::Wasm(image) => Ok((std::fs::read(&image.path)?, pulled.manifest_digest)),
        Workload::Container { .. } => {
            bail!("{} is a container image; what can be looked into is WebAssembly", args.what)
        }
    }
}

fn described(name: &str) -> serde_json::Value {
    let meaning = meaning(name);
    json!({"name": name, "what": meaning.what, "grant": meaning.grant, "offered": meaning.offered})
}

fn describe(name: &str, found: &Inspection, digest: Option<&str>) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<12} {value}");
    };
    line("image", name.to_owned());
    if let Some(digest) = digest {
        line("digest", digest.to_owned());
    }
    let wasi = found.wasi.as_ref().map_or_else(String::new, |wasi| format!(" of WASI {wasi}"));
    line(
        "form",
        match found.form {
            Form::Component => format!("component{wasi}"),
            Form::CoreModule => {
                format!("core module{wasi}, made into a component when it is compiled")
            }
        },
    );
    line("kind", match found.kind {
        Some(ImageKind::Http) => "HTTP service: answers requests on the container's ports".to_owned(),
        Some(_) => "command: runs from start to exit".to_owned(),
        None => "none: it exports neither wasi:http/incoming-handler nor wasi:cli/run, so it cannot run in a Pod".to_owned(),
    });
    line(
        "size",
        format!(
            "{} bytes, {} functions in {} core modules",
            found.size, found.functions, found.core_modules
        ),
    );
    line(
        "memory",
        format!(
            "{} memories, {} KiB at the start; {} tables, {} elements",
            found.memories,
            found.memory_bytes >> 10,
            found.tables,
            found.table_elements
        ),
    );
    if !found.producers.is_empty() {
        line("made by", found.producers.join(", "));
    }
    if !found.exports.is_empty() {
        line("exports", found.exports.join(", "));
    }
    text.push('\n');
    let mut rows = vec![["IMPORT", "GRANT", "MEANING"].map(str::to_owned)];
    for name in &found.imports {
        let meaning = meaning(name);
        let grant = if meaning.offered { meaning.grant.unwrap_or("-") } else { "MISSING" };
        rows.push([name.clone(), grant.to_owned(), meaning.what.to_owned()]);
    }
    text.push_str(&status::table(&rows));
    if found.imports.is_empty() {
        text.push_str("(it imports nothing)\n");
    }
    if !found.missing.is_empty() {
        text.push_str("\nWhat is MISSING is not offered: the component cannot start here.\n");
    } else if found.imports.iter().any(|name| meaning(name).grant.is_some()) {
        text.push_str("\nGrants are given unless the Pod or its Namespace lists others: coracle.dev/grants: \"http,clocks\".\n");
    }
    text.trim_end().to_owned()
}
