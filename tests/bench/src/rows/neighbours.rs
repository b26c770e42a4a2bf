//! What neighbours notice of a guest that does harm: the requests a second that a hello component serves, beside each kind
//! of hostile guest, to what it serves alone; and whether CPU limits and weights hold.
//!
//! The hostile guest has a limit of 100m CPU, so at least 0.95 of two cores are the neighbour's; in the last kinds it has
//! no limit, but requests a ninth of what the neighbour does.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::crowd::answers;
use super::pod;
use crate::cluster::Cluster;
use crate::load::{Connections, Load};
use crate::report::Measured;
use crate::{Bench, root};

const CONNECTIONS: usize = 16;
/// Many and short: which core what runs on changes what a round gives more than most hostile guests do.
const ROUNDS: usize = 12;
const ROUND: Duration = Duration::from_millis(800);
/// How long a hostile guest has been at work before its neighbour is measured.
const BEFORE: Duration = Duration::from_millis(600);
/// How long what it leaves behind may take.
const AFTER: Duration = Duration::from_millis(300);
/// How long its clients wait before they connect again. It is the guest that does harm: it has its requests all the time, and
/// connections that are refused by the hundred cost its clients more of the shared cores than its host.
const AGAIN: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(30);
const PODS: &str = "/api/v1/namespaces/default/pods";

/// What is asked of a hostile guest, by how many connections; each asks again when it was answered.
struct Kind {
    name: &'static str,
    path: &'static str,
    connections: usize,
    limited: bool,
}

const fn limited(name: &'static str, path: &'static str, connections: usize) -> Kind {
    Kind { name, path, connections, limited: true }
}

const KINDS: &[Kind] = &[
    limited("spin", "/busy", 16),
    limited("trap", "/trap", 16),
    limited("allocate", "/grow?mib=200", 16),
    limited("fill memory", "/fill?mib=48", 8),
    limited("flood the log", "/flood?bytes=100", 8),
    limited("flood it without a line's end", "/flood?bytes=0", 8),
    limited("recurse", "/stack", 16),
    limited("open sockets", "/sockets?count=100000", 8),
    limited("hoard the host's resources", "/resources?count=10000000", 8),
    limited("ask for random bytes", "/random?bytes=1000000", 8),
    limited("be asked much", "/", 200),
    limited("be asked slowly", "/sleep?ms=60000", 5000),
    Kind { name: "spin without a limit", path: "/busy", connections: 16, limited: false },
    Kind {
        name: "fill memory without a limit",
        path: "/fill?mib=48",
        connections: 8,
        limited: false,
    },
];

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up"]).await?;
    let mut connection = prepare(&cluster).await?;
    let neighbour =
        serve(&mut connection, "neighbour", "bench:v1", json!({"requests": {"cpu": "900m"}}))
            .await?;
    let (mut found, mut lowest) = (Vec::new(), (f64::MAX, ""));
    for (number, kind) in KINDS.iter().enumerate() {
        let resources = match kind.limited {
            true => json!({"limits": {"cpu": "100m", "memory": "64Mi"}}),
            false => json!({"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}}),
        };
        let name = format!("hostile-{number}");
        let hostile = serve(&mut connection, &name, "probe:v1", resources).await?;
        // The neighbour is busy all the time, as its clients do not know of the other: so what is measured begins nowhere anew.
        let load = Load::start(neighbour, CONNECTIONS, Connections::Kept).await?;
        tokio::time::sleep(BEFORE).await;
        let (mut beside, mut alone) = (0.0, load.rate(ROUND).await / 2.0);
        for round in 1..=ROUNDS {
            let attack = attack(hostile, kind);
            tokio::time::sleep(BEFORE).await;
            beside += load.rate(ROUND).await;
            drop(attack);
            tokio::time::sleep(AFTER).await;
            // What else the machine does comes and goes: what was there before and after each round tells what would have
            // been there. The first and the last are next to one only.
            let after = load.rate(ROUND).await;
            alone += if round == ROUNDS { after / 2.0 } else { after };
        }
        load.end().await.with_context(|| format!("beside {}", kind.name))?;
        // The server closes connections that were idle for as long as many clients take to come and go.
        connection = cluster.connect().await?;
        connection.delete(&format!("{PODS}/{name}")).await?;
        let ratio = beside / alone;
        crate::say(&format!("    {}: {ratio:.2}", kind.name));
        found.push(format!("{} {ratio:.2}", kind.name));
        if ratio < lowest.0 {
            lowest = (ratio, kind.name);
        }
    }
    Ok(Measured {
        value: format!("{:.2} ({})", lowest.0, lowest.1),
        met: lowest.0 >= 0.9,
        notes: format!(
            "requests/s of the Rust example over {CONNECTIONS} connections beside the hostile guest, to those alone right \
             before and after; sums of {ROUNDS} rounds of {ROUND:?}. The hostile guest has a limit of 100m CPU and 64Mi, or where it says so a \
             request of 100m to the neighbour's 900m: {}.",
            found.join("; "),
        ),
    })
}

/// CPU limits and weights of spinning guests.
pub(super) async fn shares(bench: &Bench) -> anyhow::Result<Measured> {
    const TIME: Duration = Duration::from_secs(8);
    let cluster = Cluster::start(bench, &["up"]).await?;
    let mut connection = prepare(&cluster).await?;
    let host = cluster.processes().into_iter().find(|pid| arguments(*pid).contains("--socket"));
    let host = host.context("the Wasm host is not there")?;
    let spin = limited("spin", "/busy", 8);

    let resources = json!({"limits": {"cpu": "100m"}});
    let hog = serve(&mut connection, "limited", "probe:v1", resources).await?;
    let attack_one = attack(hog, &spin);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = (used(host, "limited")?, process_cpu(host)?);
    tokio::time::sleep(TIME).await;
    let charged = used(host, "limited")? - before.0;
    let real = process_cpu(host)? - before.1;
    drop(attack_one);
    connection.delete(&format!("{PODS}/limited")).await?;
    let cores = charged / TIME.as_secs_f64();

    let mut hogs = Vec::new();
    for (name, request) in [("third", "300m"), ("first", "100m")] {
        let resources = json!({"requests": {"cpu": request}});
        hogs.push(serve(&mut connection, name, "probe:v1", resources).await?);
    }
    let attacks: Vec<_> = hogs.iter().map(|hog| attack(*hog, &spin)).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = (used(host, "third")?, used(host, "first")?, process_cpu(host)?);
    tokio::time::sleep(TIME).await;
    let (third, first) = (used(host, "third")? - before.0, used(host, "first")? - before.1);
    let busy = process_cpu(host)? - before.2;
    drop(attacks);
    let ratio = third / first;
    Ok(Measured {
        value: format!("{:.0}m; 1 : {ratio:.1}", cores * 1000.0),
        met: (0.08..=0.12).contains(&cores) && (2.4..=3.6).contains(&ratio),
        notes: format!(
            "eight spinning requests each, {TIME:?}. Limited to 100m: {:.0} ms charged, {:.0} ms used by the whole host \
             process. Unlimited, requesting 300m and 100m: {third:.2} s and {first:.2} s charged, {busy:.2} s used by the \
             process.",
            charged * 1e3,
            real * 1e3,
        ),
    })
}

async fn prepare(cluster: &Cluster) -> anyhow::Result<crate::api::Connection> {
    let connection = pod::prepare(cluster).await?;
    let probe = root().join("examples/prebuilt/probe-http.wasm");
    cluster.run(&[&"push", &probe, &"probe:v1"])?;
    Ok(connection)
}

/// A Pod that answers; where.
async fn serve(
    connection: &mut crate::api::Connection,
    name: &str,
    image: &str,
    resources: Value,
) -> anyhow::Result<SocketAddr> {
    let mut pod: Value = serde_json::from_str(&pod::pod(name))?;
    pod["spec"]["containers"][0]["image"] = image.into();
    pod["spec"]["containers"][0]["resources"] = resources;
    connection.create(PODS, pod.to_string()).await?;
    let begun = Instant::now();
    loop {
        let pod = connection.read(&format!("{PODS}/{name}")).await?;
        if let Some(ip) = pod["status"]["podIP"].as_str() {
            let address = SocketAddr::new(ip.parse::<IpAddr>()?, 8080);
            if answers(address).await {
                return Ok(address);
            }
        }
        if begun.elapsed() > PATIENCE {
            bail!("Pod {name} does not answer after {PATIENCE:?}: {}", pod["status"]);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Clients that ask until this is dropped, whatever comes of it.
fn attack(address: SocketAddr, kind: &Kind) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for _ in 0..kind.connections {
        let path = kind.path;
        clients.spawn(async move {
            loop {
                let _ = ask(address, path).await;
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
    clients
}

/// Asks over one connection for as long as it is answered.
async fn ask(address: SocketAddr, path: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    // One that is closed as usual keeps its port for a minute; with thousands in each round none would be left.
    stream.set_zero_linger()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let mut buffer = [0; 4096];
    loop {
        stream.write_all(request.as_bytes()).await?;
        if stream.read(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

fn arguments(pid: i32) -> String {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&arguments).replace('\0', " ")
}

/// Seconds of CPU that a process has used.
fn process_cpu(pid: i32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = (ticks(11).context("no user time")?, ticks(12).context("no system time")?);
    Ok((user + system) / 100.0)
}

/// Seconds of CPU that the host charged to a Pod's container.
fn used(host: i32, pod: &str) -> anyhow::Result<f64> {
    let arguments = arguments(host);
    let socket = arguments.split_once("--socket ").and_then(|(_, rest)| rest.split(' ').next());
    let read = |path: &str| -> anyhow::Result<Value> {
        let url = format!("http://host{path}");
        let out = std::process::Command::new("curl")
            .args(["-sS", "--unix-socket", socket.context("the host has no socket")?, &url])
            .output()?;
        Ok(serde_json::from_slice(&out.stdout)?)
    };
    let sandboxes = read("/v1/sandboxes")?;
    let all = sandboxes.as_array().context("no list of sandboxes")?.iter();
    let mut named = all.filter(|sandbox| sandbox["spec"]["labels"]["name"] == pod);
    let sandbox = named.next().with_context(|| format!("the host has no Pod {pod}"))?;
    let nanos = sandbox["containers"][0]["usage"]["cpu_nanoseconds"].as_f64();
    Ok(nanos.context("no usage")? / 1e9)
}
