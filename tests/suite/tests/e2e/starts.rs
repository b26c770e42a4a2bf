//! Starting where one cannot, and starting twice.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

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
