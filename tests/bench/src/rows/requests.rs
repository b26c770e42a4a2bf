//! What a Pod serves, against a bare server on the same machine in the same run.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::bail;

use super::pod;
use crate::Bench;
use crate::cluster::Cluster;
use crate::load::{Client, rate};
use crate::report::{Measured, quantile};

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up"]).await?;
    let mut connection = pod::prepare(&cluster).await?;
    connection.create("/api/v1/namespaces/default/pods", pod::pod("requests")).await?;
    let begun = Instant::now();
    let wasm = loop {
        let pod = connection.read("/api/v1/namespaces/default/pods/requests").await?;
        if let Some(ip) = pod["status"]["podIP"].as_str() {
            let address = SocketAddr::new(ip.parse::<IpAddr>()?, 8080);
            if answers(address).await {
                break address;
            }
        }
        if begun.elapsed() > PATIENCE {
            bail!("the Pod does not answer after {PATIENCE:?}: {}", pod["status"]);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let bare = Bare::start().await?;

    for address in [wasm, bare.address] {
        rate(address, CONNECTIONS, Duration::from_secs(1)).await?;
    }
    let (mut ratios, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let without = rate(bare.address, CONNECTIONS, ROUND).await?;
        let with = rate(wasm, CONNECTIONS, ROUND).await?;
        ratios.push(with / without);
        ours.push(with);
        theirs.push(without);
    }
    let ratio = quantile(&mut ratios, 0.5);
    Ok(Measured {
        value: format!("{ratio:.2}"),
        met: ratio >= 0.22,
        notes: format!(
            "`GET /` of the Rust example at its Pod's IP: {:.0} requests/s; hyper alone with an answer of the same length: \
             {:.0}. Median ratio of {ROUNDS} alternating rounds of {ROUND:?} ({:.2} to {:.2}). The load generator shares \
             the cores with both.",
            quantile(&mut ours, 0.5),
            quantile(&mut theirs, 0.5),
            ratios[0],
            ratios[ROUNDS - 1],
        ),
    })
}

async fn answers(address: SocketAddr) -> bool {
    match Client::connect(address, Duration::from_millis(200)).await {
        Ok(mut client) => {
            let answer = tokio::time::timeout(Duration::from_secs(5), client.get()).await;
            matches!(answer, Ok(Ok(200)))
        }
        Err(_) => false,
    }
}

/// The bare server, in a process of its own as the Wasm host is.
struct Bare {
    child: Child,
    address: SocketAddr,
}

impl Bare {
    async fn start() -> anyhow::Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let child = Command::new(std::env::current_exe()?)
            .args(["--bare", &address.to_string()])
            .spawn()?;
        let bare = Self { child, address };
        let begun = Instant::now();
        while !answers(address).await {
            if begun.elapsed() > PATIENCE {
                bail!("the bare server does not answer");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(bare)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
