//! `kubectl logs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use coracle_test_cluster::{Cluster, eventually};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;

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

/// As browsers read logs, which have nothing but WebSocket.
pub(crate) async fn over_websocket(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1")]).await?;
    let args = ["--lines", "2", "--sleep", "3", "--lines", "1"];
    cluster.apply(&command_pod("heard", "Never", &args)).await?;
    eventually(SOON, "the first lines are there", async || {
        expect(&cluster.kubectl(&["logs", "heard"]).await?, &["line 2\n"])
    })
    .await?;
    for protocol in ["binary.k8s.io", "base64.binary.k8s.io", ""] {
        let said = websocket(&cluster, "heard", protocol, "follow=true&sinceSeconds=60").await?;
        anyhow::ensure!(said.starts_with("Hello from Coracle"), "{protocol}: {said}");
        anyhow::ensure!(said.ends_with("line 1\nline 2\nline 1\n"), "{protocol}: {said}");
    }
    let other = websocket(&cluster, "heard", "v4.channel.k8s.io", "").await;
    expect(&format!("{other:?}"), &["403", "unable to negotiate protocol"])
}

/// A Pod's whole log, as messages that are pieces of it, until the server closes the connection properly.
async fn websocket(
    cluster: &Cluster,
    pod: &str,
    protocol: &str,
    query: &str,
) -> anyhow::Result<String> {
    let mut request =
        http::Request::get(format!("/api/v1/namespaces/default/pods/{pod}/log?{query}"))
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", BASE64.encode([7; 16]));
    if !protocol.is_empty() {
        request = request.header("Sec-WebSocket-Protocol", protocol);
    }
    let answer = cluster.client().await?.send(request.body(kube::client::Body::empty())?).await?;
    let (code, headers) = (answer.status(), answer.headers().clone());
    if code != http::StatusCode::SWITCHING_PROTOCOLS {
        let said = answer.into_body().collect().await?.to_bytes();
        bail!("{code}: {}", String::from_utf8_lossy(&said));
    }
    let agreed = headers.get("Sec-WebSocket-Protocol").map_or("", |it| it.to_str().unwrap_or("?"));
    anyhow::ensure!(agreed == protocol, "{agreed}");
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await?);
    let (mut said, mut messages) = (Vec::new(), 0);
    loop {
        // A server's frames are not masked, and pieces of logs are shorter than 64 KiB.
        let (kind, short) = (stream.read_u8().await?, stream.read_u8().await?);
        let length = if short == 126 { stream.read_u16().await? } else { u16::from(short) };
        let mut content = vec![0; usize::from(length)];
        stream.read_exact(&mut content).await?;
        match kind {
            0x81 if protocol.starts_with("base64.") => said.extend(BASE64.decode(&content)?),
            0x82 if !protocol.starts_with("base64.") => said.extend(&content),
            // It closes as what has ended well.
            0x88 => {
                anyhow::ensure!(content == 1000_u16.to_be_bytes() && messages > 1, "{content:?}");
                return Ok(String::from_utf8(said)?);
            }
            0x89 => continue,
            other => bail!("a frame that begins with {other:#x}"),
        }
        anyhow::ensure!(messages > 0 || content.is_empty(), "first it says only that it is there");
        messages += 1;
    }
}
