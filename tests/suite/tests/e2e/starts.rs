//! Starting where one cannot, and starting twice.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, Part, User, http};
use nix::sys::signal::Signal;

use crate::context::{ClusterExt as _, Context, Outcome, expect};

pub(crate) async fn two_clusters_side_by_side(context: Arc<Context>) -> Outcome {
    let (one, two) = tokio::try_join!(context.up(), context.up())?;
    let set_up = async |cluster: &Cluster, component: &str| {
        cluster.push_all(&[(component, "hello:v1")]).await?;
        cluster.deploy_hello("web", "hello:v1", 2).await?;
        cluster.service("default", "web").await
    };
    let (first, second) = tokio::try_join!(set_up(&one, "hello-v1"), set_up(&two, "hello-v2"))?;
    anyhow::ensure!(first.ip() != second.ip(), "{first} {second}");
    // The same name of an image, and of a Service; each cluster has its own.
    expect(&http::get(first, "/version").await?.body, &["v1"])?;
    expect(&http::get(second, "/version").await?.body, &["v2"])?;
    one.end(Part::Up, Signal::SIGINT).await?;
    let gone = http::get(first, "/version").await;
    anyhow::ensure!(!gone.is_ok_and(|reply| reply.body.contains("v1")), "the first has ended");
    expect(&http::get(second, "/version").await?.body, &["v2"])?;
    one.start(Part::Up).await
}

pub(crate) async fn wrong_starts_say_what_to_do(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let start = async |args: &[&str], wanted: &[&str]| {
        let output = cluster.coracle(args).await?;
        let said = output.clone().refused()?;
        expect(&said, wanted)?;
        let lines = said.lines().filter(|line| line.starts_with("coracle:")).count();
        anyhow::ensure!(lines == 1 && !said.contains("panicked"), "not one line: {output}");
        anyhow::Ok(())
    };
    let data = cluster.data().to_string_lossy().into_owned();
    let free = cluster.home().join("free").to_string_lossy().into_owned();
    start(
        &["up", "--data", &data, "--listen", "127.0.0.1:0"],
        &["is in use by another coracle", "--data"],
    )
    .await?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    start(&["up", "--data", &free, "--listen", &address], &[&address, "--listen"]).await?;

    // A folder that is a file, and, for those to whom that matters, one that may not be written.
    let file = cluster.file("file", b"")?.to_string_lossy().into_owned();
    start(&["up", "--data", &file, "--listen", "127.0.0.1:0"], &[&file, "--data"]).await?;
    if context.user == User::Ordinary {
        let closed = cluster.home().join("closed");
        std::fs::create_dir(&closed)?;
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555))?;
        let inside = closed.join("data").to_string_lossy().into_owned();
        start(&["up", "--data", &inside, "--listen", "127.0.0.1:0"], &["denied", "--data"]).await?;
    }
    // What is no manifest is said before anything starts.
    let broken = cluster.file("broken.yaml", b"a: [")?.to_string_lossy().into_owned();
    start(&["up", "--data", &free, "-f", &broken], &["broken.yaml"]).await?;
    start(&["up", "--data", &free, "-f", "/no/such/file"], &["/no/such/file"]).await?;
    start(
        &["agent", "--server", "https://127.0.0.1:1", "--token", "x", "--data", &free],
        &["token"],
    )
    .await?;

    // A store that is no store.
    let folder = cluster.home().join("spoilt");
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("store.redb"), "this is no store")?;
    cluster.hand_over(&folder)?;
    cluster.hand_over(&folder.join("store.redb"))?;
    let spoilt = folder.to_string_lossy().into_owned();
    start(&["up", "--data", &spoilt, "--listen", "127.0.0.1:0"], &["store.redb"]).await
}

/// What a person gets wrong with the commands that work on a cluster: a line that names it and says what to do.
pub(crate) async fn wrong_commands_say_what_to_do(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let text = path(cluster.file("text.wasm", b"this is text")?);
    let empty = path(cluster.file("empty.wasm", b"")?);
    let folder = path(cluster.home());
    // Where nobody listens: the port was just given back.
    let away = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let known = std::fs::read_to_string(cluster.kubeconfig())?;
    let kubeconfig = known.replace(&cluster.api().to_string(), &away.to_string());
    let dead = path(cluster.file("dead.kubeconfig", kubeconfig.as_bytes())?);
    let mut user = kube::config::Kubeconfig::read_from(cluster.kubeconfig())?;
    for user in user.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        (user.client_certificate_data, user.client_key_data) = (None, None);
        user.token = Some("of-another-cluster".to_owned().into());
    }
    let user = serde_json::to_string(&user)?;
    let stranger = path(cluster.file("stranger.kubeconfig", user.as_bytes())?);
    let hello = path(coracle_test_cluster::tools::component("hello-v1"));
    let taken = "cannot be a name";
    let cases: &[(&[&str], &[&str])] = &[
        (&["inspect", "missing.wasm"], &["there is no file missing.wasm", "check the path"]),
        (&["inspect", &text], &[&text, "not WebAssembly"]),
        (&["inspect", &folder], &["is a folder", "name the .wasm file"]),
        (&["inspect", "missing:v1"], &["missing:v1", "coracle push"]),
        (&["push", "missing.wasm", "app:v1"], &["there is no file missing.wasm", "check the path"]),
        (&["push", &text, "app:v1"], &["no Wasm file", "wasm32-wasip2"]),
        (&["push", &empty, "app:v1"], &["is empty", "build it again"]),
        (&["push", &folder, "app:v1"], &["is a folder", "index.json"]),
        (&["push", &hello, "App:v1"], &["\"App:v1\"", "such as app:v1"]),
        (&["push", &hello, "ghcr.io/app:v1"], &["ghcr.io", "without a host"]),
        (&["run", "missing.wasm"], &["there is no file missing.wasm", "check the path"]),
        (&["run", &text], &["no Wasm file", "wasm32-wasip2"]),
        (&["run", &folder, "--name", "a"], &["is a folder", ".wasm"]),
        (&["run", &hello, "--name", "A"], &["\"A\"", taken, "--name"]),
        (&["run", &hello, "--env", "A"], &["--env A", "NAME=VALUE"]),
        (&["status", "--kubeconfig", "none"], &["there is no none", "coracle up"]),
        (&["status", "--kubeconfig", &text], &[&text, "not a usable kubeconfig"]),
        (&["status", "--kubeconfig", &dead], &[&away.to_string(), "refused", "coracle up"]),
        (&["push", &hello, "app:v1", "--kubeconfig", &dead], &["does not answer", "coracle up"]),
        (&["run", &hello, "--kubeconfig", &dead], &["does not answer", "coracle up"]),
        (&["status", "--kubeconfig", &stranger], &["credentials", "--kubeconfig"]),
    ];
    for (args, wanted) in cases {
        let output = cluster.coracle(args).await?;
        let said = output.clone().refused()?;
        expect(&said, wanted).with_context(|| format!("{args:?}"))?;
        let lines = said.lines().filter(|line| line.starts_with("coracle:")).count();
        anyhow::ensure!(lines == 1 && !said.contains("panicked"), "not one line: {output}");
    }
    Ok(())
}
