//! How HTTP is served: what a Pod's annotations bound, and what its guests may not do to others.

use std::net::SocketAddr;
use std::sync::Arc;

use coracle_test_cluster::{Cluster, eventually, http};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::context::{ClusterExt as _, Context, Outcome, PATIENCE, SOON, expect};

/// A Pod of the probe component with annotations, and its Service.
fn probe(name: &str, annotations: &[(&str, &str)]) -> String {
    let annotations: String = annotations
        .iter()
        .map(|(name, value)| format!("    coracle.dev/{name}: {value:?}\n"))
        .collect();
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  labels: {{app: {name}}}
  annotations:
{annotations}spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: probe:v1
    ports: [{{containerPort: 8080, name: http}}]
    readinessProbe: {{httpGet: {{path: /health, port: http}}, periodSeconds: 2}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: http}}]
"#
    )
}

/// A cluster with such a Pod, and where it is served.
pub(crate) async fn served(
    context: &Context,
    name: &str,
    annotations: &[(&str, &str)],
) -> anyhow::Result<(Arc<Cluster>, SocketAddr)> {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "probe:v1")]).await?;
    let address = serve(&cluster, name, annotations).await?;
    Ok((cluster, address))
}

async fn serve(
    cluster: &Cluster,
    name: &str,
    annotations: &[(&str, &str)],
) -> anyhow::Result<SocketAddr> {
    cluster.apply(&probe(name, annotations)).await?;
    let pod = format!("pod/{name}");
    cluster.kubectl(&["wait", "--for=condition=Ready", &pod, PATIENCE]).await?;
    let address = cluster.service("default", name).await?;
    eventually(SOON, "its Service answers", async || {
        let status = http::get(address, "/health").await?.status;
        anyhow::ensure!(status == 200, "{status}");
        Ok(())
    })
    .await?;
    Ok(address)
}

/// What is said to these bytes until the connection is closed.
async fn say(address: SocketAddr, request: &str) -> anyhow::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let _ = stream.write_all(request.as_bytes()).await;
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

async fn told(cluster: &Cluster, pod: &str, parts: &[&str]) -> Outcome {
    eventually(SOON, "an event tells of it", async || {
        let about = format!("pod/{pod}");
        expect(&cluster.kubectl(&["events", "--for", &about]).await?, parts)
    })
    .await
}

pub(crate) async fn annotations_bound_requests(context: Arc<Context>) -> Outcome {
    let annotations = [
        ("request-timeout", "1s"),
        ("max-request-body", "1Ki"),
        ("max-response-body", "2Ki"),
        ("max-concurrent-requests", "1"),
        ("max-queued-requests", "0"),
    ];
    let (cluster, address) = served(&context, "bound", &annotations).await?;
    let head = "POST /echo HTTP/1.1\r\nhost: bound\r\nconnection: close\r\n";
    for (length, expected) in [(1024, "HTTP/1.1 200"), (1025, "HTTP/1.1 413")] {
        let request = format!("{head}content-length: {length}\r\n\r\n{}", "x".repeat(length));
        expect(&say(address, &request).await?, &[expected])?;
    }
    anyhow::ensure!(http::get(address, "/sleep?ms=30000").await?.status == 504);
    told(&cluster, "bound", &["LimitReached", "coracle.dev/request-timeout"]).await?;
    anyhow::ensure!(
        http::get(address, "/stream?chunks=1000").await.is_err(),
        "it was not broken off"
    );

    eventually(SOON, "who finds no room is told so", async || {
        let slow = tokio::spawn(http::get(address, "/sleep?ms=900"));
        let mut refused = None;
        while refused.is_none() && !slow.is_finished() {
            let ask = "GET /count HTTP/1.1\r\nhost: bound\r\nconnection: close\r\n\r\n";
            refused = Some(say(address, ask).await?).filter(|said| said.contains(" 503 "));
        }
        slow.await??;
        expect(&refused.unwrap_or_default(), &["HTTP/1.1 503", "retry-after: 1"])
    })
    .await
}

pub(crate) async fn instances_serve_again_on_request(context: Arc<Context>) -> Outcome {
    let (cluster, address) = served(&context, "again", &[("reuse-instances", "3")]).await?;
    let count = async || Ok::<_, anyhow::Error>(http::get(address, "/count").await?.body);
    // Whoever looked whether it answers may have had a part of the first instance.
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(count().await?.trim().parse::<u32>()?);
    }
    anyhow::ensure!(
        seen.contains(&3) && seen.contains(&1) && seen.iter().all(|n| *n <= 3),
        "{seen:?}"
    );
    let fresh = serve(&cluster, "fresh", &[]).await?;
    for _ in 0..3 {
        anyhow::ensure!(http::get(fresh, "/count").await?.body == "1\n");
    }
    Ok(())
}

pub(crate) async fn a_trap_is_an_event_with_its_backtrace_in_the_log(
    context: Arc<Context>,
) -> Outcome {
    let (cluster, address) = served(&context, "traps", &[]).await?;
    for _ in 0..20 {
        let answer = http::get(address, "/trap").await?;
        anyhow::ensure!(
            answer.status == 500 && answer.body == "the component failed\n",
            "{}",
            answer.body
        );
    }
    told(&cluster, "traps", &["Warning", "Trapped", "unreachable"]).await?;
    expect(&cluster.kubectl(&["logs", "traps"]).await?, &["wasm backtrace", "unreachable"])?;
    // Twenty traps are not twenty events; and the Pod runs on.
    let events = cluster.kubectl(&["events", "--for", "pod/traps"]).await?;
    anyhow::ensure!(events.matches("Trapped").count() == 1, "{events}");
    let pod = cluster.get(&["pod", "traps"]).await?;
    anyhow::ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 0, "{pod}");
    anyhow::ensure!(http::get(address, "/health").await?.status == 200);
    Ok(())
}
