//! Guests in several languages, and of both versions of WASI. The big ones are built where their
//! toolchains are, and left out by name where not.

use std::sync::Arc;

use coracle_test_cluster::guests::{Guest, Missing};
use coracle_test_cluster::{Cluster, eventually, http};

use crate::context::{ClusterExt as _, Context, Outcome, PATIENCE, SOON, expect, hello, skip};

/// Builds a guest and pushes it; false where it cannot be built here.
async fn pushed(cluster: &Cluster, guest: Guest, image: &str) -> anyhow::Result<bool> {
    let built = tokio::task::spawn_blocking(move || guest.built()).await?;
    let file = match built {
        Ok(file) => cluster.file("guest.wasm", &std::fs::read(file)?)?,
        Err(error) => match error.downcast_ref::<Missing>() {
            Some(missing) => {
                skip(&missing.to_string());
                return Ok(false);
            }
            None => return Err(error),
        },
    };
    cluster.push(&file, image).await?;
    Ok(true)
}

async fn serves(context: Arc<Context>, guest: Guest, greeting: &str) -> Outcome {
    let cluster = context.up().await?;
    if !pushed(&cluster, guest, "guest:v1").await? {
        return Ok(());
    }
    // An interpreter is in there.
    let manifest = hello("guest", "guest:v1", 1).replace("memory: 64Mi", "memory: 512Mi");
    cluster.apply(&manifest).await?;
    cluster.rolled_out("guest").await?;
    let address = cluster.service("default", "guest").await?;
    // Several in a row: each by an instance of its own.
    for _ in 0..3 {
        expect(&http::get(address, "/").await?.body, &[greeting, "guest-"])?;
    }
    anyhow::ensure!(http::get(address, "/nowhere").await?.status == 404);
    Ok(())
}

pub(crate) async fn javascript_serves(context: Arc<Context>) -> Outcome {
    serves(context, Guest::JavaScript, "Hello from JavaScript").await
}

pub(crate) async fn python_serves(context: Arc<Context>) -> Outcome {
    serves(context, Guest::Python, "Hello from Python").await
}

pub(crate) async fn go_runs(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    if !pushed(&cluster, Guest::Go, "guest:v1").await? {
        return Ok(());
    }
    cluster.kubectl(&["create", "configmap", "m", "--from-literal=a=from-map"]).await?;
    let pod = r#"
apiVersion: v1
kind: Pod
metadata: {name: gopher}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: guest:v1
    command: [hello-go]
    args: ["--read", "/map/a", "--sleep", "1", "--exit", "3"]
    resources: {limits: {memory: 256Mi}}
    volumeMounts: [{name: map, mountPath: /map}]
  volumes: [{name: map, configMap: {name: m}}]
"#;
    cluster.apply(pod).await?;
    cluster
        .kubectl(&["wait", "--for=jsonpath={.status.phase}=Failed", "pod/gopher", PATIENCE])
        .await?;
    let status = cluster.get(&["pod", "gopher"]).await?["status"].clone();
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    anyhow::ensure!(ended["exitCode"] == 3 && ended["reason"] == "Error", "{status:#}");
    let said = cluster.kubectl(&["logs", "gopher"]).await?;
    expect(&said, &[r#"Hello from Go on gopher: ["--read" "/map/a""#, "\nfrom-map"])
}

pub(crate) async fn config_and_logging_are_offered(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-config", "config:v1")]).await?;
    let keys = ["--from-literal=greeting=Hello from a ConfigMap", "--from-literal=odd.key=kept"];
    cluster.kubectl(&[&["create", "configmap", "m"], &keys[..]].concat()).await?;
    cluster.kubectl(&["create", "secret", "generic", "s", "--from-literal=pass=pa55"]).await?;
    let sources = "envFrom: [{configMapRef: {name: m}}]
        env: [{name: PASS, valueFrom: {secretKeyRef: {name: s, key: pass}}}]
        readinessProbe";
    let manifest = hello("config", "config:v1", 1);
    let (head, tail) = manifest.split_once("env: [").unwrap_or_default();
    let tail = tail.split_once("readinessProbe").unwrap_or_default().1;
    cluster.apply(&format!("{head}{sources}{tail}")).await?;
    cluster.rolled_out("config").await?;
    let address = cluster.service("default", "config").await?;
    for (path, status, body) in [
        ("/", 200, "Hello from a ConfigMap\n"),
        ("/config/odd.key", 200, "kept\n"),
        ("/config/PASS", 200, "pa55\n"),
        ("/config/KUBERNETES_SERVICE_PORT", 200, "443\n"),
        ("/config/pass", 404, "nothing at /config/pass\n"),
    ] {
        let reply = http::get(address, path).await?;
        anyhow::ensure!(reply.status == status && reply.body == body, "{path}: {reply:?}");
    }
    expect(&http::get(address, "/config").await?.body, &["greeting\n", "odd.key\n", "PASS\n"])?;
    for level in ["trace", "debug", "info", "warn", "error", "critical"] {
        anyhow::ensure!(
            http::get(address, &format!("/log/{level}?it-is-{level}")).await?.status == 200
        );
    }
    let lines = ["trace", "debug", "info", "warn", "error", "critical"];
    let lines =
        lines.map(|level| format!("{} hello-config: it-is-{level}\n", level.to_uppercase()));
    eventually(SOON, "the log has each line with its level", async || {
        let said = cluster.kubectl(&["logs", "deployment/config"]).await?;
        expect(&said, &lines.each_ref().map(String::as_str))
    })
    .await
}

pub(crate) async fn c_serves(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-c", "c:v1")]).await?;
    cluster.deploy_hello("c", "c:v1", 1).await?;
    let address = cluster.service("default", "c").await?;
    anyhow::ensure!(http::get(address, "/").await?.status == 200);
    Ok(())
}

pub(crate) async fn wasi_0_3_serves(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("async-http", "async:v1"), ("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("async", "async:v1", 2).await?;
    cluster.deploy_hello("web", "hello:v1", 1).await?;
    let address = cluster.service("default", "async").await?;
    expect(&http::get(address, "/").await?.body, &["Hello from WASI 0.3 (async-"])?;
    expect(&http::get(address, "/ticks?3").await?.body, &["tick 3"])?;
    anyhow::ensure!(http::get(address, "/trap").await?.status == 500);
    eventually(SOON, "it calls a Service by name", async || {
        expect(&http::get(address, "/fetch?web/version").await?.body, &["v1"])
    })
    .await
}

pub(crate) async fn wasi_0_3_runs(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("async-command", "async:v1")]).await?;
    let run =
        ["run", "async", "--image=async:v1", "--restart=Never", "--command", "--", "x", "you"];
    cluster.kubectl(&run).await?;
    let done = "--for=jsonpath={.status.phase}=Succeeded";
    cluster.kubectl(&["wait", done, "pod/async", "--timeout=60s"]).await?;
    let said = cluster.kubectl(&["logs", "async"]).await?;
    expect(&said, &[r#"Hello from WASI 0.3 on async: ["you"]"#])
}
