//! Clients that mean harm, at the API server, at an agent and at an Ingress: what they say is refused in so many words or not
//! at all, their connections end, memory stays within bounds, and a good client is served meanwhile.

mod raw;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use coracle_test_cluster::{Cluster, Part, eventually};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use self::raw::{Target, fields, frame, heard, kinds, preface};
use crate::context::{ClusterExt as _, Context, Outcome, SOON};

/// What all of it may cost a process of memory, in bytes, while it goes on.
const COST: u64 = 512 << 20;
/// How long the good client may wait for an answer.
const PATIENCE: Duration = Duration::from_secs(15);

const CLOSE: &str = "Host: localhost\r\nConnection: close\r\n";

fn resident(pid: i32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Somebody who only wants to be served, and how much memory the server has at most meanwhile.
struct Good {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<anyhow::Result<u64>>,
    pid: i32,
    before: u64,
}

impl Good {
    fn starts(cluster: Arc<Cluster>) -> anyhow::Result<Self> {
        let pid = cluster.pid(Part::Server)?;
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let before = resident(pid)?;
        let (stopped, most) = (stop.clone(), peak.clone());
        let task = tokio::spawn(async move {
            let client = Target::api(&cluster, true, "http/1.1")?;
            let mut served = 0;
            while !stopped.load(Relaxed) {
                let asked = Instant::now();
                let request = format!("GET /api/v1/namespaces/default HTTP/1.1\r\n{CLOSE}\r\n");
                let answer = tokio::time::timeout(PATIENCE, client.say(request.as_bytes())).await;
                let answer = answer.context("the good client was not answered in time")??;
                ensure!(answer.starts_with("HTTP/1.1 200"), "the good client got {answer:.300}");
                ensure!(asked.elapsed() < PATIENCE);
                most.fetch_max(resident(pid)?, Relaxed);
                served += 1;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Ok(served)
        });
        Ok(Self { stop, peak, task, pid, before })
    }

    /// It has been served all the time, within the memory.
    #[expect(clippy::print_stdout, reason = "the numbers are for whoever asks for output")]
    async fn was_served(self, what: &str) -> Outcome {
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.stop.store(true, Relaxed);
        let served = self.task.await??;
        let cost = self.peak.load(Relaxed).saturating_sub(self.before);
        ensure!(served > 0, "{what}: nobody was served");
        ensure!(cost < COST, "{what}: {} MiB of memory", cost >> 20);
        println!(
            "{what}: served {served} meanwhile, {} MiB at most, {} MiB now",
            cost >> 20,
            resident(self.pid)?.saturating_sub(self.before) >> 20
        );
        Ok(())
    }
}

/// Shapes of requests that two readers may read in two ways, and what else is no request.
fn shapes() -> Vec<(&'static str, String)> {
    let get = |rest: &str| format!("GET /api/v1/secrets HTTP/1.1\r\n{CLOSE}{rest}\r\n");
    let post = |rest: &str, body: &str| {
        format!("POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\n{CLOSE}{rest}\r\n{body}")
    };
    let smuggled = "0\r\n\r\nGET /livez?smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let both = "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n";
    vec![
        ("two lengths", post("Content-Length: 3\r\nContent-Length: 70\r\n", smuggled)),
        ("a list of lengths", post("Content-Length: 3, 70\r\n", smuggled)),
        ("a length with a sign", post("Content-Length: +3\r\n", smuggled)),
        ("length and chunks", post(both, smuggled)),
        ("chunks that are none", post("Transfer-Encoding: xchunked\r\n", smuggled)),
        ("chunks last but one", post("Transfer-Encoding: chunked, identity\r\n", smuggled)),
        ("a space before the colon", get("Content-Length : 3\r\n")),
        ("a folded header", get("X-A: a\r\n b\r\n")),
        ("a bare CR", get("X-A: a\rb: c\r\n")),
        ("a NUL in a header", get("X-A: a\0b\r\n")),
        (
            "a chunk of a huge size",
            post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nx\r\n"),
        ),
        (
            "a long extension of a chunk",
            post(
                "Transfer-Encoding: chunked\r\n",
                &format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(100_000)),
            ),
        ),
        (
            "a header without end",
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {}", "a".repeat(2 << 20)),
        ),
        (
            "headers without end",
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X-A: a\r\n".repeat(200_000)),
        ),
        ("a path without end", format!("GET /{} HTTP/1.1\r\n{CLOSE}\r\n", "a".repeat(1 << 20))),
        (
            "a query without end",
            format!("GET /api?{} HTTP/1.1\r\n{CLOSE}\r\n", "a=b&".repeat(100_000)),
        ),
        ("no request at all", "\u{1}\u{2}\u{3}\r\n\r\n".to_owned()),
        ("another version", "GET / HTTP/9.9\r\n\r\n".to_owned()),
    ]
}

/// None of them is served, and nothing that one of them hides is.
async fn refuses_shapes(target: &Target, fine: &[&str]) -> Outcome {
    for (what, text) in shapes() {
        let answer = target.say(text.as_bytes()).await?;
        let codes: Vec<&str> =
            answer.split("HTTP/1.1 ").skip(1).filter_map(|part| part.get(..3)).collect();
        ensure!(codes.len() <= 1, "{what}: {codes:?}");
        // No answer at all, because the connection was closed, is one, too.
        let refused = codes.iter().all(|code| code.starts_with('4') || fine.contains(code));
        ensure!(refused, "{what} at {}: {answer:.300}", target.address);
    }
    Ok(())
}

pub(crate) async fn what_is_no_request_is_refused(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let good = Good::starts(cluster.clone())?;
    let (admin, nobody) =
        (Target::api(&cluster, true, "http/1.1")?, Target::api(&cluster, false, "http/1.1")?);
    refuses_shapes(&nobody, &[]).await?;
    refuses_shapes(&admin, &[]).await?;
    let map = |rest: &str, body: &str| {
        format!(
            "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\n{CLOSE}Content-Type: application/json\r\n{rest}\r\n{body}"
        )
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\n{CLOSE}\r\n");
    let delete = |path: &str| format!("DELETE {path} HTTP/1.1\r\n{CLOSE}\r\n");
    let chunk = format!("100000\r\n{}\r\n", "a".repeat(1 << 20));
    let most = i64::MAX;
    let all = "/api/v1/namespaces/default/configmaps";
    for (what, text, codes) in [
        ("a body announced as too large", map("Content-Length: 1000000000\r\n", ""), &["413"][..]),
        (
            "a body that is too large",
            map("Transfer-Encoding: chunked\r\n", &format!("{}0\r\n\r\n", chunk.repeat(5))),
            &["413"],
        ),
        (
            "a body that is compressed",
            map("Content-Encoding: gzip\r\nContent-Length: 4\r\n", "\u{1f}abc"),
            &["400", "415"],
        ),
        ("a deep body", map("Content-Length: 200000\r\n", &"[".repeat(200_000)), &["400"]),
        ("a path that climbs", get("/api/v1/../../../etc/passwd"), &["404"]),
        (
            "a path that climbs in disguise",
            get("/api/v1/namespaces/%2e%2e%2f%2e%2e%2fetc/passwd"),
            &["404"],
        ),
        ("a NUL in a path", get("/api/v1/namespaces/default%00/secrets/a%00b"), &["404"]),
        ("bytes that are no text", get("/api/v1/namespaces/%ff%fe/pods/%c0%af"), &["404"]),
        ("an image that climbs", get("/v2/..%2f..%2f..%2fpki/manifests/ca.key"), &["400", "404"]),
        ("a blob that climbs", get("/v2/a/blobs/..%2f..%2fsa.key"), &["400", "404"]),
        ("a limit beyond counting", get(&format!("{all}?limit={most}")), &["200"]),
        ("a limit below", get(&format!("{all}?limit=-{most}")), &["200", "400", "422"]),
        (
            "a revision beyond counting",
            get(&format!("{all}?resourceVersion={}", u64::MAX)),
            &["504"],
        ),
        ("a token that is none", get(&format!("{all}?continue={}", "A".repeat(20_000))), &["400"]),
        (
            "many labels",
            get(&format!("{all}?labelSelector={}", "a,".repeat(10_000) + "a")),
            &["200", "400", "414"],
        ),
        (
            "many values",
            get(&format!("{all}?labelSelector=a+in+({})", "a,".repeat(10_000))),
            &["200", "400", "414"],
        ),
        ("a time that is none", get(&format!("{all}?timeout=99999999h")), &["400"]),
        (
            "a grace without end",
            delete(&format!("/api/v1/namespaces/default/pods/none?gracePeriodSeconds={most}")),
            &["404"],
        ),
    ] {
        let answer = admin.say(text.as_bytes()).await?;
        let code = answer.split_whitespace().nth(1).unwrap_or_default();
        ensure!(codes.contains(&code), "{what}: {code} instead of {codes:?}: {answer:.400}");
    }
    good.was_served("odd requests").await
}

/// Deadlines and grace periods beyond the end of time: whoever writes them must not end what serves everybody.
pub(crate) async fn numbers_beyond_time_end_no_controller(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let most = i64::MAX;
    let job = |name: &str, deadline: i64| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n  activeDeadlineSeconds: {deadline}\n  template:\n    spec: {{restartPolicy: Never, terminationGracePeriodSeconds: {deadline}, containers: [{{name: c, image: none}}]}}\n"
        )
    };
    cluster.apply(&job("endless", most)).await?;
    cluster.apply(&job("usual", 3600)).await?;
    for name in ["endless", "usual"] {
        eventually(SOON, "the Job has a Pod", async || {
            let job = cluster.get(&["job", name]).await?;
            ensure!(job["status"]["active"] == 1, "{}", job["status"]);
            Ok(())
        })
        .await?;
    }
    let admin = Target::api(&cluster, true, "http/1.1")?;
    let watch = format!("GET /api/v1/pods?watch=1&timeoutSeconds={most} HTTP/1.1\r\n{CLOSE}\r\n");
    let answer = admin.say(watch.as_bytes()).await?;
    ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains("ADDED"), "{answer:.300}");
    let all = format!(
        "DELETE /api/v1/namespaces/default/pods?gracePeriodSeconds={most} HTTP/1.1\r\n{CLOSE}\r\n"
    );
    let answer = admin.say(all.as_bytes()).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer:.300}");
    cluster.kubectl(&["delete", "pods", "--all", "--force", "--grace-period=0"]).await?;
    cluster.kubectl(&["delete", "jobs", "--all"]).await?;
    cluster.apply(&job("after", 3600)).await?;
    eventually(SOON, "there are still Pods of Jobs", async || {
        let job = cluster.get(&["job", "after"]).await?;
        ensure!(job["status"]["active"] == 1, "{}", job["status"]);
        Ok(())
    })
    .await?;
    ensure!(!cluster.errors(Part::Server).contains("panicked"), "{}", cluster.errors(Part::Server));
    Ok(())
}

pub(crate) async fn floods_of_frames_end_their_connection_alone(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let good = Good::starts(cluster.clone())?;
    let ask = fields("GET", "/api/v1/namespaces/default/pods");
    let stream = |i: u32| 2 * i + 1;
    for admin in [false, true] {
        let target = Target::api(&cluster, admin, "h2")?;
        let resets: Vec<u8> = (0..20_000)
            .flat_map(|i| {
                [frame(1, 5, stream(i), &ask), frame(3, 0, stream(i), &8_u32.to_be_bytes())]
                    .concat()
            })
            .collect();
        let piece =
            frame(9, 0, 1, &[&[0, 3][..], b"x-a", &[100], &[b'a'; 100]].concat().repeat(150));
        let continued = [frame(1, 0, 1, &ask), piece.repeat(3000)].concat();
        let pings = frame(6, 0, 0, &[0; 8]).repeat(200_000);
        let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(100_000);
        let many: Vec<u8> = (0..3000)
            .flat_map(|i| frame(1, 4, stream(i), &fields("POST", "/api/v1/pods")))
            .collect();
        let empty =
            [frame(1, 4, 1, &fields("POST", "/api/v1/pods")), frame(0, 0, 1, &[]).repeat(200_000)]
                .concat();
        for (what, bytes, ends) in [
            ("reset rapidly", resets, true),
            ("headers that go on", continued, true),
            ("pings", pings, false),
            ("settings", settings, false),
            ("streams", many, false),
            ("empty pieces", empty, false),
        ] {
            let mut connection = target.connect().await?;
            let (said, sent) = ([preface(), bytes].concat(), Instant::now());
            // Whoever is not read any more, or is closed, stops.
            let written =
                tokio::time::timeout(Duration::from_secs(10), connection.write_all(&said)).await;
            let came = kinds(&heard(&mut *connection).await);
            let closed = came.contains(&7) || matches!(written, Ok(Err(_)));
            ensure!(
                closed || !ends,
                "{what} (admin: {admin}): not ended after {:?}: {} frames",
                sent.elapsed(),
                came.len()
            );
        }
    }
    good.was_served("frames").await
}

pub(crate) async fn the_slow_and_the_absent_cost_little(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let good = Good::starts(cluster.clone())?;
    let (admin, nobody) =
        (Target::api(&cluster, true, "http/1.1")?, Target::api(&cluster, false, "http/1.1")?);
    let mut slow = Vec::new();
    // Half open: neither TLS nor anything else is said.
    let mut silent = Vec::new();
    for _ in 0..1000 {
        silent.push(TcpStream::connect(cluster.api()).await?);
    }
    for i in 0..200 {
        let mut connection =
            if i % 2 == 0 { nobody.connect().await? } else { admin.connect().await? };
        let text: &[u8] = match i % 4 {
            0 | 1 => b"GET /api HTTP/1.1\r\nHost: a\r\nX-A: a",
            _ => b"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n{",
        };
        connection.write_all(text).await?;
        slow.push(connection);
    }
    // Watches of which nobody reads anything: as many as there are streams, on a few connections.
    let watches = Target::api(&cluster, true, "h2")?;
    let ask = fields("GET", "/api/v1/configmaps?watch=1");
    let mut absent = Vec::new();
    for _ in 0..10 {
        let mut connection = watches.connect().await?;
        let streams: Vec<u8> = (0..1000).flat_map(|i| frame(1, 5, 2 * i + 1, &ask)).collect();
        connection.write_all(&[preface(), streams].concat()).await?;
        absent.push(connection);
    }
    // A byte now and then keeps nobody here for ever.
    for _ in 0..15 {
        for connection in &mut slow {
            let _ =
                tokio::time::timeout(Duration::from_millis(10), connection.write_all(b"a")).await;
        }
        // What happens has to be told to all of them.
        let map = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"many-"},"data":{"a":"b"}}"#;
        let length = map.len();
        let request = format!(
            "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\n{CLOSE}Content-Length: {length}\r\n\r\n{map}"
        );
        let answer = admin.say(request.as_bytes()).await?;
        ensure!(answer.starts_with("HTTP/1.1 201"), "{answer:.300}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Handshakes that were never begun have ended by now.
    let mut ended = 0;
    for stream in &silent {
        ended += usize::from(matches!(stream.try_read(&mut [0; 1]), Ok(0)));
    }
    ensure!(ended > 900, "{ended} of {} that said nothing were closed", silent.len());
    drop((slow, silent, absent));
    good.was_served("the slow and the absent").await
}

pub(crate) async fn agents_and_ingresses_refuse_them_too(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let good = Good::starts(cluster.clone())?;
    let nodes = cluster.get(&["nodes"]).await?;
    let status = &nodes["items"][0]["status"];
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().context("no port")?;
    let address =
        status["addresses"].as_array().into_iter().flatten().find(|a| a["type"] == "InternalIP");
    let address = address.and_then(|a| a["address"].as_str()).context("no address")?;
    let agent = format!("{address}:{port}").parse()?;
    // It shows a certificate for its name; whether that is right is not what is asked here.
    let plain = Target::plain(agent).say(b"GET /pods HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    ensure!(!plain.contains("200 OK"), "{plain:.300}");
    cluster
        .apply("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: none}\nspec: {defaultBackend: {service: {name: none, port: {number: 80}}}}\n")
        .await?;
    let (http, _) = crate::ingress::address(&cluster, "none").await?;
    // There is nothing behind it: 503.
    refuses_shapes(&Target::plain(http), &["503"]).await?;
    good.was_served("agents and Ingresses").await
}
