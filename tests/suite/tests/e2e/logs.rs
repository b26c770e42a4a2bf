//! `kubectl logs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_test_cluster::eventually;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, command_pod, expect};

pub(crate) async fn tail_since_and_follow(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1")]).await?;
    let args = ["--lines", "3", "--sleep", "4", "--lines", "2"];
    cluster.apply(&command_pod("talker", "Never", &args)).await?;
    let all = eventually(SOON, "the first lines are there", async || {
        let all = cluster.kubectl(&["logs", "talker"]).await?;
        expect(&all, &["line 1\nline 2\nline 3\n"])?;
        Ok(all)
    })
    .await?;
    anyhow::ensure!(all.starts_with("Hello from Coracle"), "{all}");
    let tail = cluster.kubectl(&["logs", "talker", "--tail=2"]).await?;
    anyhow::ensure!(tail == "line 2\nline 3\n", "{tail}");
    anyhow::ensure!(cluster.kubectl(&["logs", "talker", "--tail=0"]).await?.is_empty());
    let since = cluster.kubectl(&["logs", "talker", "--since=1h"]).await?;
    anyhow::ensure!(since == all, "{since}");
    let stamped = cluster.kubectl(&["logs", "talker", "--timestamps", "--tail=1"]).await?;
    let (stamp, line) = stamped.split_once(' ').unwrap_or_default();
    anyhow::ensure!(stamp.ends_with('Z') && stamp.contains('T') && line == "line 3\n", "{stamped}");

    // Following ends with the container, and has everything.
    let start = Instant::now();
    let followed = cluster.kubectl(&["logs", "-f", "talker"]).await?;
    anyhow::ensure!(followed.ends_with("line 3\nline 1\nline 2\n"), "{followed}");
    anyhow::ensure!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
    // What is old enough is left out.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let late = cluster.kubectl(&["logs", "talker", "--since=1s"]).await?;
    anyhow::ensure!(late.is_empty(), "{late}");
    let limited = cluster.kubectl(&["logs", "talker", "--limit-bytes=5"]).await?;
    anyhow::ensure!(limited == "Hello", "{limited}");
    let missing = cluster.kubectl_with(&["logs", "nobody"], "").await?.refused()?;
    expect(&missing, &["pods \"nobody\" not found"])?;
    let container =
        cluster.kubectl_with(&["logs", "talker", "-c", "other"], "").await?.refused()?;
    expect(&container, &["other"])
}

pub(crate) async fn previous_and_selectors(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1"), ("probe-http", "probe:v1")]).await?;
    cluster.apply(&command_pod("crasher", "OnFailure", &["--lines", "1", "--exit", "1"])).await?;
    eventually(SOON, "the previous container's log is there", async || {
        let previous = cluster.kubectl(&["logs", "--previous", "crasher"]).await?;
        expect(&previous, &["line 1"])
    })
    .await?;
    cluster.deploy_hello("probe", "probe:v1", 2).await?;
    let address = cluster.service("default", "probe").await?;
    for _ in 0..8 {
        coracle_test_cluster::http::get(address, "/log?lines=2").await?;
    }
    // A guest's standard output and standard error, of every Pod of a Deployment.
    eventually(SOON, "both streams of both Pods are there", async || {
        let all = cluster.kubectl(&["logs", "-l", "app=probe", "--tail=-1", "--prefix"]).await?;
        expect(&all, &["stdout line 2", "stderr line 2", "[pod/probe-"])
    })
    .await?;
    let one = cluster.kubectl(&["logs", "deployment/probe", "--tail=1"]).await?;
    anyhow::ensure!(one.lines().count() <= 1, "{one}");
    Ok(())
}
