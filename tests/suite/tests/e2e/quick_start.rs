//! The README's first steps.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, Part, eventually, http, tools};

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect, hello, manifest, serves};

/// The address in the first `http://127.0.0.1:PORT` of a text.
fn url(text: &str) -> anyhow::Result<SocketAddr> {
    let (_, rest) = text.split_once("http://").with_context(|| format!("no URL in:\n{text}"))?;
    let end = rest.find(|c: char| c != '.' && c != ':' && !c.is_ascii_digit());
    Ok(rest[..end.unwrap_or(rest.len())].parse()?)
}

fn prebuilt(cluster: &Cluster, name: &str) -> anyhow::Result<String> {
    let content = std::fs::read(tools::component(name))?;
    let path = cluster.file(&format!("{name}.wasm"), &content)?;
    Ok(path.to_string_lossy().into_owned())
}

pub(crate) async fn a_file_becomes_a_service(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let file = prebuilt(&cluster, "hello-v1")?;
    let run = ["run", &file, "--name", "first", "--replicas", "3"];
    let said = cluster.coracle(&run).await?.ok()?;
    let reply = http::get(url(&said)?, "/").await?;
    expect(&reply.body, &["Hello", "v1"])?;
    let deployment = cluster.get(&["deployment", "first"]).await?;
    anyhow::ensure!(deployment["status"]["readyReplicas"] == 3, "{deployment}");
    // The same name with another file is an update.
    let second = prebuilt(&cluster, "hello-v2")?;
    let said = cluster.coracle(&["run", &second, "--name", "first"]).await?.ok()?;
    expect(&http::get(url(&said)?, "/version").await?.body, &["v2"])
}

pub(crate) async fn a_command_runs_to_its_end(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let file = prebuilt(&cluster, "hello-command")?;
    let run = ["run", &file, "--", "--lines", "2", "--exit", "7"];
    let output = cluster.coracle(&run).await?;
    expect(&output.stdout, &["line 1\nline 2\n"])?;
    anyhow::ensure!(output.status.code() == Some(7), "{output}");
    // And from the example's manifest.
    cluster.push_all(&[("hello-command", "hello-command:v1")]).await?;
    cluster.apply(&manifest("examples/command/pod.yaml")?).await?;
    // Before it has started there is no log, as on any cluster.
    eventually(SOON, "the Pod has a log", async || {
        cluster.kubectl(&["logs", "hello-command"]).await.map(drop)
    })
    .await?;
    let logs = cluster.kubectl(&["logs", "-f", "hello-command"]).await?;
    expect(&logs, &["line 3", "GREETING=Hello from a Pod"])?;
    eventually(SOON, "the Pod is Completed", async || {
        expect(&cluster.kubectl(&["get", "pod", "hello-command"]).await?, &["0/1", "Completed"])
    })
    .await
}

pub(crate) async fn the_example_manifest_rolls(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-v2", "hello:v2")]).await?;
    // The example's own NodePort may be another cluster's on this machine.
    let text = manifest("examples/hello/deployment.yaml")?.replace("    nodePort: 30080\n", "");
    cluster.apply(&text).await?;
    cluster.rolled_out("hello").await?;
    let service = cluster.get(&["service", "hello"]).await?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("no nodePort")?;
    let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port)?));
    expect(&http::get(address, "/").await?.body, &["Hello from a Wasm component (v1, hello-"])?;
    cluster.kubectl(&["set", "image", "deployment/hello", "hello=hello:v2"]).await?;
    cluster.rolled_out("hello").await?;
    serves(address, "v2").await?;
    cluster.kubectl(&["rollout", "undo", "deployment/hello"]).await?;
    cluster.rolled_out("hello").await?;
    serves(address, "v1").await
}

pub(crate) async fn up_applies_files_and_prints_urls(context: Arc<Context>) -> Outcome {
    let folder = tempdir()?;
    let file = folder.join("hello.yaml");
    let text = hello("hello", "hello:v1", 1)
        .replace("spec:\n  selector: {app", "spec:\n  type: NodePort\n  selector: {app");
    std::fs::write(&file, text)?;
    let cluster = context.up_with(&["-f", &file.to_string_lossy()]).await?;
    std::fs::remove_dir_all(&folder)?;
    // It waits for an image that nobody has pushed yet.
    eventually(SOON, "the Pod misses its image", async || {
        expect(&cluster.kubectl(&["get", "pods"]).await?, &["ImagePull"])
    })
    .await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    let said = eventually(SOON * 2, "up says that all is available", async || {
        let said = cluster.output(Part::Up);
        expect(&said, &["deployment/hello is available", "service default/hello"])?;
        Ok(said)
    })
    .await?;
    expect(&http::get(url(&said)?, "/version").await?.body, &["v1"])
}

/// A folder that everybody may read.
fn tempdir() -> anyhow::Result<std::path::PathBuf> {
    let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_nanos();
    let path = std::env::temp_dir().join(format!("coracle-suite-{}-{nanos}", std::process::id()));
    std::fs::create_dir(&path)?;
    Ok(path)
}

pub(crate) async fn status_says_what_is_not_well(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("good", "hello:v1", 2).await?;
    let status = cluster.coracle(&["status"]).await?.ok()?;
    expect(&status, &["Ready", "good", "2/2", "hello:v1"])?;
    let mut unwell = status.lines().skip_while(|line| !line.contains("Not well"));
    anyhow::ensure!(!unwell.any(|line| line.contains("good")), "{status}");
    cluster.apply(&hello("bad", "no-such-image:v9", 1)).await?;
    eventually(SOON, "status names what is missing", async || {
        let status = cluster.coracle(&["status"]).await?.stdout;
        expect(&status, &["Not well", "no-such-image:v9", "bad"])
    })
    .await
}
