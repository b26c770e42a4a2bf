//! `kubectl port-forward`, `attach` and `exec`, and what other clients make of them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use coracle_test_cluster::{Cluster, Part, Runtime, eventually, http, tools};
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::AttachParams;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;

use crate::access::as_stranger;
use crate::context::{ClusterExt as _, Context, Outcome, SOON, command_pod, expect, skip};
use crate::isolation::isolated;
use crate::sockets;

/// As much as goes through a forward at once.
const MUCH: usize = 50 << 20;

/// A `kubectl port-forward` that runs; dropped, it ends.
pub(crate) struct Forward {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    said: Arc<Mutex<String>>,
}

impl Forward {
    pub(crate) async fn start(
        cluster: &Cluster,
        kubectl: &Path,
        args: &[&str],
    ) -> anyhow::Result<Self> {
        let args: Vec<&str> = ["port-forward"].iter().chain(args).copied().collect();
        let mut command = tokio::process::Command::from(cluster.kubectl_command(kubectl, &args));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let said = Arc::new(Mutex::new(String::new()));
        let mut errors = BufReader::new(child.stderr.take().context("piped")?).lines();
        let heard = said.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = errors.next_line().await {
                heard.lock().expect("not poisoned").push_str(&format!("{line}\n"));
            }
        });
        let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        let first = tokio::time::timeout(SOON, lines.next_line()).await??.unwrap_or_default();
        let words = first.strip_prefix("Forwarding from ").and_then(|l| l.split(' ').next());
        let Some(address) = words.and_then(|address| address.parse().ok()) else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            bail!("port-forward {args:?}: {first}{}", said.lock().expect("not poisoned"));
        };
        // Nobody else reads it, and it must not be full.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, address, said })
    }

    fn said(&self) -> String {
        self.said.lock().expect("not poisoned").clone()
    }
}

/// Every kubectl forwards, over whichever protocol it prefers.
pub(crate) async fn every_kubectl_forwards(context: Arc<Context>) -> Outcome {
    let kubectls = tools::kubectls();
    if kubectls.len() < 2 {
        skip("there is one kubectl only");
    }
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 1).await?;
    for kubectl in &kubectls {
        let mut forward =
            Forward::start(&cluster, &kubectl.path, &["deployment/web", ":8080"]).await?;
        let address = forward.address;
        let requests = (0..24).map(async |_| http::get(address, "/version").await);
        for reply in futures::future::join_all(requests).await {
            let reply = reply.with_context(|| format!("kubectl 1.{:?}", kubectl.minor))?;
            anyhow::ensure!(reply.body == "v1\n", "{reply:?}");
        }
        anyhow::ensure!(forward.said().is_empty(), "{:?}: {}", kubectl.minor, forward.said());
        forward.child.start_kill()?;
        forward.child.wait().await?;
    }
    // The Service's port 80 is the Pod's 8080.
    let forward = Forward::start(&cluster, &tools::kubectl()?, &["service/web", ":80"]).await?;
    let reply = http::get(forward.address, "/version").await?;
    anyhow::ensure!(reply.body == "v1\n", "{reply:?}");

    // With its Pod a forward ends.
    let mut forward = forward;
    cluster.kubectl(&["delete", "deployment/web", "--wait=false"]).await?;
    let status = tokio::time::timeout(SOON, forward.child.wait()).await??;
    anyhow::ensure!(!status.success(), "{status}");
    eventually(SOON, "kubectl says so", async || {
        expect(&forward.said(), &["lost connection to pod"])
    })
    .await
}

/// Random bytes both ways at once, over both protocols.
pub(crate) async fn much_goes_through_a_forward(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "probe:v1")]).await?;
    cluster.deploy_hello("probe", "probe:v1", 1).await?;
    let kubectls = tools::kubectls();
    // The oldest speaks SPDY, the newest SPDY within WebSocket.
    for kubectl in [kubectls.first(), kubectls.last()].into_iter().flatten() {
        let forward =
            Forward::start(&cluster, &kubectl.path, &["deployment/probe", ":8080"]).await?;
        let (sent, received) = echo(forward.address, MUCH).await?;
        anyhow::ensure!(sent == received, "kubectl 1.{:?} changed something", kubectl.minor);
        // Several at once, none of which stands in another's way.
        let several = (0..6).map(async |_| echo(forward.address, 1 << 20).await);
        for echoed in futures::future::join_all(several).await {
            let (sent, received) = echoed?;
            anyhow::ensure!(sent == received, "changed on the way");
        }
    }
    Ok(())
}

/// Sends that many bytes and gets them back; the sums of both.
async fn echo(address: SocketAddr, bytes: usize) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    const CHUNK: usize = 64 << 10;
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let sent = Arc::new(Mutex::new(Sha256::new()));
    let sum = sent.clone();
    let body = futures::stream::iter(0..bytes / CHUNK).map(move |number| {
        // Xorshift, from the number of the chunk on: not to be compressed, nor mistaken for another.
        let mut state = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut chunk = Vec::with_capacity(CHUNK);
        while chunk.len() < CHUNK {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.extend_from_slice(&state.to_le_bytes());
        }
        sum.lock().expect("not poisoned").update(&chunk);
        Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(chunk)))
    });
    let request =
        hyper::Request::post("/echo").header("host", "probe").body(StreamBody::new(body))?;
    let exchange = async {
        let mut answer = sender.send_request(request).await?.into_body();
        let mut received = Sha256::new();
        while let Some(frame) = answer.frame().await {
            if let Ok(data) = frame?.into_data() {
                received.update(&data);
            }
        }
        anyhow::Ok(received.finalize().to_vec())
    };
    let received = tokio::time::timeout(SOON * 3, exchange).await??;
    let sent = sent.lock().expect("not poisoned").clone().finalize().to_vec();
    Ok((sent, received))
}

pub(crate) async fn a_forward_says_what_is_wrong(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 1).await?;
    for kubectl in [tools::kubectls().first(), tools::kubectls().last()].into_iter().flatten() {
        // Nobody listens there.
        let forward = Forward::start(&cluster, &kubectl.path, &["deployment/web", ":8099"]).await?;
        let mut stream = TcpStream::connect(forward.address).await?;
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
        let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut Vec::new())).await?;
        eventually(SOON, "kubectl says why", async || {
            let wanted = [
                "rror occurred forwarding",
                "error forwarding port 8099 to pod web-",
                "connection refused",
            ];
            expect(&forward.said(), &wanted)
        })
        .await?;
    }
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: waits}\nspec:\n  containers: [{name: app, image: 'nowhere:v1'}]\n";
    cluster.apply(pod).await?;
    let refused =
        cluster.kubectl_with(&["port-forward", "pod/waits", ":80"], "").await?.refused()?;
    expect(
        &refused,
        &["unable to forward port because pod is not running. Current status=Pending"],
    )?;
    let refused =
        cluster.kubectl_with(&["port-forward", "pod/nobody", ":80"], "").await?.refused()?;
    expect(&refused, &["pods \"nobody\" not found"])?;

    // Who may read Pods may not therefore open connections to them.
    cluster.kubectl(&["create", "serviceaccount", "reader"]).await?;
    let role = [
        "create",
        "rolebinding",
        "reader",
        "--clusterrole=view",
        "--serviceaccount=default:reader",
    ];
    cluster.kubectl(&role).await?;
    let token = cluster.kubectl(&["create", "token", "reader"]).await?;
    let flags = ["--token", token.trim()];
    let as_reader = async |args: &[&str]| as_stranger(&cluster, &flags, args).await;
    eventually(SOON, "the role holds", async || as_reader(&["get", "pods"]).await?.ok()).await?;
    let pod = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]).await?;
    for (what, args) in [
        ("portforward", &["port-forward", pod.trim(), ":8080"][..]),
        ("exec", &["exec", pod.trim(), "--", "ls"]),
        ("attach", &["attach", pod.trim()]),
    ] {
        let refused = as_reader(args).await?.refused()?;
        expect(&refused, &["orbidden", &format!("cannot create resource \"pods/{what}\"")])?;
    }
    Ok(())
}

/// Pods in hosts of their own, and servers with sockets of their own; by an agent that is a process of its own.
pub(crate) async fn forwards_reach_pods_apart_and_end_with_the_agent(
    context: Arc<Context>,
) -> Outcome {
    let cluster = context.split().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("probe-net", "net:v1")]).await?;
    cluster.apply(&isolated("alone", "hello:v1", 1, "pod")).await?;
    cluster.apply(&sockets::pod("echo", "tcp-echo, '0.0.0.0:7007'", sockets::READY)).await?;
    cluster.rolled_out("alone").await?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/echo", "--timeout=60s"]).await?;
    let newest = tools::kubectl()?;
    let alone = Forward::start(&cluster, &newest, &["deployment/alone", ":8080"]).await?;
    let reply = http::get(alone.address, "/version").await?;
    anyhow::ensure!(reply.body == "v1\n", "{reply:?}");
    // That the client has sent everything reaches the Pod, which then ends.
    for kubectl in [tools::kubectls().first(), tools::kubectls().last()].into_iter().flatten() {
        let forward = Forward::start(&cluster, &kubectl.path, &["pod/echo", ":7007"]).await?;
        let address = forward.address;
        let text = "and back ".repeat(20_000);
        let sent = text.clone();
        let back = tokio::task::spawn_blocking(move || sockets::echo(address, &sent)).await??;
        anyhow::ensure!(back == text, "{} bytes came back", back.len());
    }

    let mut alone = alone;
    cluster.kill9(Part::Agent).await?;
    let status = tokio::time::timeout(SOON, alone.child.wait()).await??;
    anyhow::ensure!(!status.success(), "{status}");
    eventually(SOON, "kubectl says so", async || {
        expect(&alone.said(), &["lost connection to pod"])
    })
    .await?;
    cluster.start(Part::Agent).await?;
    eventually(SOON, "the same Pod is reached again", async || {
        let again = Forward::start(&cluster, &newest, &["deployment/alone", ":8080"]).await?;
        let reply = http::get(again.address, "/version").await?;
        anyhow::ensure!(reply.body == "v1\n", "{reply:?}");
        Ok(())
    })
    .await
}

/// What `kubectl debug` asks of the API; those who wait for the container are told why.
pub(crate) async fn debug_adds_containers_that_wait(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 1).await?;
    let pod = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]).await?;
    let pod = pod.trim();
    let mut wanted = Vec::new();
    for kubectl in tools::kubectls() {
        let name = format!("by-{}", kubectl.minor.unwrap_or_default());
        let args = ["debug", pod, "--image=tools:v1", "-c", &name, "--target=app", "--", "sh"];
        let mut command =
            tokio::process::Command::from(cluster.kubectl_command(&kubectl.path, &args));
        let output = tokio::time::timeout(SOON, command.kill_on_drop(true).output()).await??;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{name}: {said}");
        wanted.push(name);
    }
    let names = "jsonpath={.spec.ephemeralContainers[*].name}";
    let found = cluster.kubectl(&["get", pod, "-o", names]).await?;
    anyhow::ensure!(found.split(' ').eq(wanted.iter()), "{found}");
    eventually(SOON, "each says that it waits", async || {
        let reason = "jsonpath={.status.ephemeralContainerStatuses[*].state.waiting.reason}";
        let told = cluster.kubectl(&["get", pod, "-o", reason]).await?;
        let count =
            told.split(' ').filter(|r| ["ErrImagePull", "ImagePullBackOff"].contains(r)).count();
        anyhow::ensure!(count == wanted.len(), "{told}");
        Ok(())
    })
    .await?;
    expect(&cluster.kubectl(&["describe", pod]).await?, &["Ephemeral Containers:", "tools:v1"])?;
    // The Pod itself is none the worse.
    cluster.kubectl(&["wait", "--for=condition=Ready", pod, "--timeout=10s"]).await?;
    let replace = serde_json::json!([{"op": "remove", "path": "/spec/ephemeralContainers/0"}]);
    let args = ["patch", pod, "--subresource=ephemeralcontainers", "--type=json", "-p"];
    let patch = replace.to_string();
    let refused = cluster.kubectl_with(&[&args[..], &[&patch]].concat(), "").await?.refused()?;
    // Not every kubectl knows that subresource.
    anyhow::ensure!(
        refused.contains("may not be removed") || refused.contains("subresource"),
        "{refused}"
    );
    Ok(())
}

/// What a guest writes can be seen. A component has no shell, and says so.
pub(crate) async fn exec_and_attach(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1"), ("probe-http", "probe:v1")]).await?;
    cluster.deploy_hello("probe", "probe:v1", 1).await?;
    let pod = cluster.kubectl(&["get", "pods", "-l", "app=probe", "-o", "name"]).await?;
    let pod = pod.trim();
    for kubectl in tools::kubectls() {
        let run = async |args: &[&str]| {
            let mut command =
                tokio::process::Command::from(cluster.kubectl_command(&kubectl.path, args));
            let output = tokio::time::timeout(SOON, command.kill_on_drop(true).output()).await??;
            anyhow::ensure!(!output.status.success(), "{args:?} should have failed");
            Ok(String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (why, instead) = match context.runtime {
            Runtime::Wasm => ("container \"app\" is a Wasm component", "kubectl port-forward"),
            // There is none in its image, either.
            Runtime::Oci => ("executable file not found in $PATH", "exec: \"ls\""),
        };
        let said = run(&["exec", pod, "--", "ls", "/"]).await?;
        expect(&said, &[why, instead])?;
        let said = run(&["exec", "-it", pod, "-c", "app", "--", "sh"]).await?;
        expect(&said, &[why])?;
        let said = run(&["exec", pod, "-c", "nope", "--", "ls"]).await?;
        expect(&said, &["container", "nope"])?;
    }

    // Standard output and standard error, each for itself, from when kubectl is there.
    let service = cluster.service("default", "probe").await?;
    for kubectl in tools::kubectls() {
        let mut command =
            tokio::process::Command::from(cluster.kubectl_command(&kubectl.path, &["attach", pod]));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let mut out = BufReader::new(child.stdout.take().context("piped")?).lines();
        let mut err = BufReader::new(child.stderr.take().context("piped")?).lines();
        let seen = async {
            // It does not say when it is there: until then, nobody hears.
            let first = loop {
                http::get(service, "/log?lines=1").await?;
                let wait = Duration::from_millis(300);
                if let Ok(line) = tokio::time::timeout(wait, out.next_line()).await {
                    break line?;
                }
            };
            let mut complaint = String::new();
            while !complaint.starts_with("stderr line 1") {
                complaint = err.next_line().await?.context("the end")?;
            }
            anyhow::Ok(first.unwrap_or_default())
        };
        let first = tokio::time::timeout(SOON, seen).await??;
        anyhow::ensure!(first.starts_with("stdout line 1"), "{:?}: {first}", kubectl.minor);
    }

    // A command's end is the end of it.
    let args = ["--sleep", "6", "--lines", "2"];
    cluster.apply(&command_pod("talker", "Never", &args)).await?;
    cluster
        .kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", "pod/talker", "--timeout=30s"])
        .await?;
    let seen = cluster.kubectl(&["attach", "talker"]).await?;
    expect(&seen, &["line 1\nline 2\n"])?;
    let ended = cluster.kubectl_with(&["attach", "talker"], "").await?.refused()?;
    expect(&ended, &["cannot attach a container in a completed pod"])
}

/// The `kube` crate, whose port-forward is the older WebSocket protocol.
pub(crate) async fn the_kube_crate_forwards_and_attaches(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "probe:v1")]).await?;
    cluster.deploy_hello("probe", "probe:v1", 1).await?;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await?);
    let name = cluster.kubectl(&["get", "pods", "-l", "app=probe", "-o", "name"]).await?;
    let name = name.trim().trim_start_matches("pod/");

    let mut forwarder = pods.portforward(name, &[8080, 8099]).await?;
    let stream = forwarder.take_stream(8080).context("a stream")?;
    let refused = forwarder.take_error(8099).context("its errors")?;
    let why = tokio::time::timeout(SOON, refused).await?.unwrap_or_default();
    expect(&why, &["error forwarding port 8099 to pod probe-", "connection refused"])?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    for _ in 0..3 {
        tokio::time::timeout(SOON, sender.ready()).await??;
        let request = hyper::Request::get("/").header("host", "probe").body(String::new())?;
        let answer = tokio::time::timeout(SOON, sender.send_request(request)).await??;
        let body = answer.into_body().collect().await?.to_bytes();
        anyhow::ensure!(body == "probe-http: a test fixture\n", "{body:?}");
    }
    drop(sender);
    forwarder.abort();

    let service = cluster.service("default", "probe").await?;
    let params = AttachParams::default().stdin(false).stdout(true).stderr(false);
    let mut attached = pods.attach(name, &params).await?;
    let mut out = BufReader::new(attached.stdout().context("standard output")?).lines();
    http::get(service, "/log?lines=2").await?;
    for wanted in ["stdout line 1", "stdout line 2"] {
        let line = tokio::time::timeout(SOON, out.next_line()).await??.unwrap_or_default();
        anyhow::ensure!(line == wanted, "{line}");
    }
    Ok(())
}
