//! What a Service costs its callers, and how soon a change of its endpoints is the kernel's.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::requests::{CONNECTIONS, ROUND, ROUNDS, serve};
use crate::Bench;
use crate::api::Connection;
use crate::cluster::Cluster;
use crate::load::{Connections, rate_of};
use crate::report::{Measured, ms, quantile};

const SERVICES_PATH: &str = "/api/v1/namespaces/default/services";
const SLICES_PATH: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// Services beside the one that is called.
const OTHERS: usize = 1_000;
/// Services for the second row, endpoints of each, and changes that are measured.
const MANY: usize = 5_000;
const ENDPOINTS: u8 = 10;
const CHANGES: usize = 500;
/// Clients that create.
const CLIENTS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(30);

/// The same Pod by its own address and by a Service's, on new and on kept connections.
pub(super) async fn cluster_ip(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up"]).await?;
    let direct = serve(&cluster, json!({"coracle.dev/reuse-instances": "true"})).await?;
    create(&cluster, OTHERS, "other", &|_| Vec::new()).await?;
    let mut connection = cluster.connect().await?;
    let service = json!({
        "metadata": {"name": "requests"},
        "spec": {"selector": {"app": "requests"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let service = connection.create(SERVICES_PATH, service.to_string()).await?;
    let through = address_of(&serde_json::from_slice(&service)?)?;
    becomes(through, true).await?;
    let mut ratios = [Vec::new(), Vec::new()];
    let mut rates = [(); 4].map(|()| Vec::new());
    let ways = [Connections::New, Connections::Kept];
    for way in ways {
        for address in [direct, through] {
            rate_of(address, CONNECTIONS, Duration::from_secs(1), way).await?;
        }
    }
    for round in 0..ROUNDS {
        for (number, way) in ways.into_iter().enumerate() {
            // Who is first in one round is second in the next.
            let mut found = [0.0; 2];
            let turns = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for turn in turns {
                found[turn] = rate_of([direct, through][turn], CONNECTIONS, ROUND, way).await?;
                rates[2 * number + turn].push(found[turn]);
            }
            ratios[number].push(found[1] / found[0]);
        }
    }
    let [low, high] = [0.25, 0.75].map(|part| quantile(&mut ratios[1], part));
    let [new, kept] = ratios.each_mut().map(|ratios| quantile(ratios, 0.5));
    let rates = rates.each_mut().map(|rates| quantile(rates, 0.5));
    Ok(Measured {
        value: format!("{new:.2}; {kept:.2}"),
        met: new >= 0.7 && kept >= 0.98,
        notes: format!(
            "Requests/s by ClusterIP to those by the Pod's address, {CONNECTIONS} clients, among {OTHERS} other Services; medians of \
             {ROUNDS} alternating rounds of {ROUND:?}. A new connection for each: {:.0} to {:.0}; kept: {:.0} to {:.0} \
             (half of these ratios {low:.2} to {high:.2}).",
            rates[1], rates[0], rates[3], rates[2],
        ),
    })
}

/// A change of one endpoint through the API, until calls are answered otherwise.
pub(super) async fn endpoints(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up"]).await?;
    let pod = serve(&cluster, json!({})).await?;
    let begun = Instant::now();
    // All of the measured Services' endpoints but one are not ready, and that one comes and goes.
    let services = create(&cluster, MANY, "many", &|number| {
        let endpoint = |n: u8| {
            let address = match n {
                0 => pod.ip().to_string(),
                _ => format!("203.0.113.{n}"),
            };
            json!({"addresses": [address], "conditions": {"ready": number >= CHANGES && n != 0}})
        };
        (0..ENDPOINTS).map(endpoint).collect()
    })
    .await?;
    let created = begun.elapsed();
    let mut connection = cluster.connect().await?;
    let mut times = Vec::new();
    for (number, (name, address)) in services.iter().take(CHANGES).enumerate() {
        becomes(*address, false).await?;
        let ready = number % 2 == 0;
        if !ready {
            // Every other change is one for the worse.
            change(&mut connection, name, true).await?;
            becomes(*address, true).await?;
        }
        let begun = Instant::now();
        change(&mut connection, name, ready).await?;
        becomes(*address, ready).await?;
        times.push(begun.elapsed());
    }
    let [p50, p99] = [0.5, 0.99].map(|part| quantile(&mut times, part));
    Ok(Measured {
        value: format!("p50 {}, p99 {}", ms(p50), ms(p99)),
        met: p99 <= Duration::from_millis(100),
        notes: format!(
            "{CHANGES} changes of one endpoint's readiness, one after the other, from sending the patch until a connection to the \
             ClusterIP is accepted (or, every other time, refused); {MANY} Services with {ENDPOINTS} endpoints each, created in \
             {:.1} s.",
            created.as_secs_f64(),
        ),
    })
}

async fn change(connection: &mut Connection, slice: &str, ready: bool) -> anyhow::Result<()> {
    let path = format!("{SLICES_PATH}/{slice}");
    let patch = json!([{"op": "replace", "path": "/endpoints/0/conditions/ready", "value": ready}]);
    let kind = "application/json-patch+json";
    connection.patch(&path, kind, patch.to_string()).await
}

/// Waits until connections are accepted, or refused.
async fn becomes(address: SocketAddr, accepted: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let connected =
            tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(address)).await;
        match connected {
            Ok(Ok(_)) if accepted => return Ok(()),
            Ok(Err(error))
                if !accepted && error.kind() == std::io::ErrorKind::ConnectionRefused =>
            {
                return Ok(());
            }
            _ if begun.elapsed() > PATIENCE => {
                bail!("{address} is not as it should be after {PATIENCE:?}: accepted {accepted}");
            }
            _ => tokio::time::sleep(Duration::from_micros(500)).await,
        }
    }
}

/// Services without selectors, each with a slice of its name of these endpoints: their names, and where they are called.
async fn create(
    cluster: &Cluster,
    count: usize,
    prefix: &str,
    endpoints: &dyn Fn(usize) -> Vec<Value>,
) -> anyhow::Result<Vec<(String, SocketAddr)>> {
    let numbers: Vec<usize> = (0..count).collect();
    let clients = numbers.chunks(count.div_ceil(CLIENTS)).map(async |numbers| {
        let mut connection = cluster.connect().await?;
        let mut made = Vec::new();
        for number in numbers {
            let name = format!("{prefix}-{number}");
            let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
            let service = connection.create(SERVICES_PATH, service.to_string()).await?;
            made.push((name.clone(), address_of(&serde_json::from_slice(&service)?)?));
            let slice = json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4", "endpoints": endpoints(*number), "ports": [{"name": "", "port": 8080}],
            });
            connection.create(SLICES_PATH, slice.to_string()).await?;
        }
        anyhow::Ok(made)
    });
    let made = futures::future::try_join_all(clients).await?;
    Ok(made.into_iter().flatten().collect())
}

fn address_of(service: &Value) -> anyhow::Result<SocketAddr> {
    let ip = service["spec"]["clusterIP"].as_str().context("the Service has no address")?;
    Ok(SocketAddr::new(ip.parse::<IpAddr>()?, 80))
}
