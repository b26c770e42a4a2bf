//! `coracle run`: from a file to an answer.
//!
//! A component that serves HTTP becomes a Deployment and a NodePort Service; one that runs to an end becomes a Pod whose
//! output is shown and whose exit code is this command's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use futures::{AsyncReadExt, io::AsyncRead};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::{DeleteParams, LogParams};
use serde_json::json;

use crate::client::{Connection, explain};
use crate::{apply, println, push, watchers};

/// Arguments of `coracle run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A .wasm file, or the name of an image
    #[arg(value_name = "FILE|IMAGE")]
    what: String,
    /// Name of what is made [default: after the file or image]
    #[arg(long)]
    name: Option<String>,
    /// Port on which the component is served
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// How many Pods
    #[arg(long, default_value_t = 1)]
    replicas: u32,
    /// Environment of the component; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    #[command(flatten)]
    connection: Connection,
    /// Arguments of a component that runs to an end
    #[arg(last = true)]
    args: Vec<String>,
}

/// A command component ended with this code.
#[derive(Debug, thiserror::Error)]
#[error("exit code {code}")]
pub(crate) struct Exited {
    /// Its exit code.
    pub code: u8,
}

/// Runs it.
pub(crate) async fn main(args: Args) -> anyhow::Result<()> {
    let path = PathBuf::from(&args.what);
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_after(&args.what),
    };
    if let Some(why) = coracle_api::names::label_1035(&name) {
        bail!("\"{name}\" cannot be a name ({why}); give one with --name");
    }
    let mut env = Vec::new();
    for pair in &args.env {
        let Some((name, value)) = pair.split_once('=') else {
            bail!("--env {pair}: give NAME=VALUE")
        };
        env.push(json!({"name": name, "value": value}));
    }
    let client;
    let (image, command) = if path.exists() {
        let component = push::read(&path)?;
        let found = coracle_wasm::inspect(&component);
        let found =
            found.map_err(|problem| anyhow::anyhow!("{}: {}", args.what, problem.message))?;
        let command = found.kind != Some(coracle_sandbox::ImageKind::Http);
        // A tag of its own per content, so that running a changed file again rolls it out.
        let seed = coracle_network::ranges::seed(&component);
        let image = format!("{name}:{seed:016x}");
        client = args.connection.client().await?;
        push::push(client.clone(), component, &image).await?;
        (image, command)
    } else if args.what.ends_with(".wasm") || args.what.starts_with(['.', '/']) {
        return push::exists(&path);
    } else {
        client = args.connection.client().await?;
        (args.what.clone(), false)
    };
    let namespace = &args.connection.namespace;
    if command {
        return run_command(&client, namespace, &name, &image, env, &args.args).await;
    }
    let labels = json!({"app": name});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": args.replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{
                    "name": name, "image": image, "env": env,
                    "ports": [{"containerPort": args.port, "name": "http"}],
                }]},
            },
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "type": "NodePort", "selector": labels,
            "ports": [{"name": "http", "port": 80, "targetPort": args.port}],
        },
    });
    apply::apply(&client, deployment, namespace).await?;
    apply::apply(&client, service, namespace).await?;
    watchers::deployment(&client, namespace, &name).await?;
    let services: Api<Service> = Api::namespaced(client, namespace);
    let service = services.get(&name).await.map_err(explain)?;
    for url in watchers::urls(&service) {
        watchers::listens(&url).await;
        println(format_args!("{name} answers at {url}"));
    }
    Ok(())
}

async fn run_command(
    client: &kube::Client,
    namespace: &str,
    name: &str,
    image: &str,
    env: Vec<serde_json::Value>,
    args: &[String],
) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    if pods.get_opt(name).await.map_err(explain)?.is_some() {
        bail!("there is a Pod {name} already; delete it, or give another --name");
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": name, "image": image, "env": env, "args": args}],
        },
    });
    apply::apply(client, pod, namespace).await?;
    let result = follow(&pods, name).await;
    pods.delete(name, &DeleteParams::default().grace_period(0)).await.map_err(explain)?;
    result
}

async fn follow(pods: &Api<Pod>, name: &str) -> anyhow::Result<()> {
    loop {
        let pod = pods.get(name).await.map_err(explain)?;
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if matches!(phase, Some("Running" | "Succeeded" | "Failed")) {
            break;
        }
        if let Some(trouble) = watchers::pod_trouble(&pod) {
            bail!("{trouble}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = pods
        .log_stream(name, &LogParams { follow: true, ..LogParams::default() })
        .await
        .map_err(explain)?;
    show(log).await?;
    loop {
        let pod = pods.get(name).await.map_err(explain)?;
        let ended = pod.status.as_ref().and_then(|s| {
            s.container_statuses.as_ref()?.first()?.state.as_ref()?.terminated.clone()
        });
        if let Some(ended) = ended {
            let code = u8::try_from(ended.exit_code).unwrap_or(1);
            return if code == 0 { Ok(()) } else { Err(Exited { code }.into()) };
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn show(mut log: impl AsyncRead + Unpin) -> anyhow::Result<()> {
    use std::io::Write;
    let mut buffer = vec![0; 8 << 10];
    loop {
        let read = log.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&buffer[..read]).and_then(|()| out.flush());
    }
}

/// `target/hello_http.wasm` and `team/hello-http:v1` are both `hello-http`.
fn name_after(what: &str) -> String {
    let last =
        Path::new(what).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = last.strip_suffix(".wasm").unwrap_or(&last);
    let stem = stem.split([':', '@']).next().unwrap_or_default();
    let name: String = stem
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    name.trim_matches('-').chars().take(63).collect()
}
