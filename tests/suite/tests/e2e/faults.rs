//! Machines that do not hear each other, or not all, while everybody calls everybody: what may fail is counted, the rest must not.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coracle_test_cluster::{Cidr, Cluster, Machine, Part, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect};
use crate::fleet::{NODES, a_pod_a_node, address_of, ask_within};

/// How long one call may take where packets are lost: a fifth of all ways there and back. The seventh attempt to connect is made
/// after 63 s, and needed once in some ten thousand calls.
const LOSSY: Duration = Duration::from_secs(100);
/// How long one call may take where nothing stands in its way.
const CALL: Duration = Duration::from_secs(3);
/// A pause between calls: the machines share few cores.
const PAUSE: Duration = Duration::from_millis(20);

/// One that calls for as long as it lives.
struct Caller {
    name: String,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Default)]
struct Seen {
    answers: usize,
    failures: Vec<String>,
}

impl Caller {
    fn start(machine: Arc<Machine>, to: SocketAddr, limit: Duration) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let name = format!("{} to {to}", machine.address());
        let (stopped, noted): (_, Arc<Mutex<Seen>>) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            let begun = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let at = begun.elapsed();
                let answer = ask_within(&machine, to, "/version", limit)
                    .and_then(|answer| expect(&answer, &["HTTP/1.1 200"]));
                let mut seen = noted.lock().unwrap_or_else(PoisonError::into_inner);
                match answer {
                    Ok(()) => seen.answers += 1,
                    Err(error) => seen.failures.push(format!("after {at:.1?}: {error:#}")),
                }
                drop(seen);
                std::thread::sleep(PAUSE);
            }
        });
        Self { name, stop, seen, thread: Some(thread) }
    }

    /// What it saw since it was last asked.
    fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn check(&self, what: &str, at_least: usize) -> anyhow::Result<()> {
        let Seen { answers, failures } = self.take();
        anyhow::ensure!(
            failures.is_empty() && answers >= at_least,
            "{what}: {}: {answers} answers, {} failures: {:?}",
            self.name,
            failures.len(),
            failures.first()
        );
        Ok(())
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Three machines with a Pod each behind one Service, known everywhere.
struct Fleet {
    cluster: Arc<Cluster>,
    pods: Vec<Value>,
    service: SocketAddr,
    machines: Vec<Arc<Machine>>,
}

impl Fleet {
    async fn start(context: &Context) -> anyhow::Result<Option<Self>> {
        let Some(cluster) = context.fleet(&NODES).await? else { return Ok(None) };
        cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
        let pods = a_pod_a_node(&cluster, "web", "hello:v1").await?;
        let service = cluster.get(&["service", "web"]).await?;
        let vip = service["spec"]["clusterIP"].as_str().context("no clusterIP")?.parse()?;
        let machines = NODES.iter().map(|node| cluster.machine(node));
        let machines = machines.collect::<anyhow::Result<Vec<_>>>()?;
        let fleet = Self { cluster, pods, service: SocketAddr::new(vip, 80), machines };
        eventually(SOON, "all is known everywhere", async || fleet.everything_answers()).await?;
        Ok(Some(fleet))
    }

    fn everything_answers(&self) -> anyhow::Result<()> {
        for machine in &self.machines {
            for address in self.pods.iter().map(address_of) {
                expect(&ask_within(machine, address?, "/version", CALL)?, &["200"])?;
            }
            for _ in 0..12 {
                expect(&ask_within(machine, self.service, "/version", CALL)?, &["200"])?;
            }
        }
        Ok(())
    }

    /// Everybody calls every Pod, and the Service.
    fn callers(&self, limit: Duration) -> anyhow::Result<Vec<Caller>> {
        let mut callers = Vec::new();
        for machine in &self.machines {
            for pod in &self.pods {
                callers.push(Caller::start(machine.clone(), address_of(pod)?, limit));
            }
            callers.push(Caller::start(machine.clone(), self.service, limit));
        }
        Ok(callers)
    }

    /// The same Pods run, none of them anew; and what happens now is known everywhere.
    async fn is_reconciled(&self, name: &str, patience: Duration) -> anyhow::Result<()> {
        eventually(2 * SOON, "all nodes are ready", async || {
            let nodes = self.cluster.kubectl(&["get", "nodes"]).await?;
            anyhow::ensure!(!nodes.contains("NotReady"), "{nodes}");
            Ok(())
        })
        .await?;
        for pod in &self.pods {
            let name = pod["metadata"]["name"].as_str().context("no name")?;
            let now = self.cluster.get(&["pod", name]).await?;
            let restarts = &now["status"]["containerStatuses"][0]["restartCount"];
            let same = now["metadata"]["uid"] == pod["metadata"]["uid"];
            anyhow::ensure!(*restarts == 0 && same, "{now:#}");
        }
        let address = self.service_of_all(name).await?;
        eventually(2 * SOON, "a new Service leads to all Pods from everywhere", async || {
            for machine in &self.machines {
                let mut left: Vec<&str> =
                    self.pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
                for _ in 0..100 {
                    let answer = ask_within(machine, address, "/", patience)?;
                    left.retain(|name| !answer.contains(name));
                    if left.is_empty() {
                        break;
                    }
                }
                anyhow::ensure!(left.is_empty(), "no answer of {left:?}");
            }
            Ok(())
        })
        .await
    }

    /// Another Service for the same Pods.
    async fn service_of_all(&self, name: &str) -> anyhow::Result<SocketAddr> {
        let service = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{all: web}}, ports: [{{port: 80, targetPort: http}}]}}}}"
        );
        self.cluster.apply(&service).await?;
        let made = self.cluster.get(&["service", name]).await?;
        let vip = made["spec"]["clusterIP"].as_str().context("no clusterIP")?.parse()?;
        Ok(SocketAddr::new(vip, 80))
    }

    async fn becomes_not_ready(&self, node: &str) -> Outcome {
        eventually(2 * SOON, "the node is missed", async || {
            let node = self.cluster.kubectl(&["get", "node", node]).await?;
            expect(&node, &["NotReady"])
        })
        .await
    }
}

fn alone(address: Ipv4Addr) -> Cidr {
    Cidr::new(address, 32)
}

/// What comes from a machine: from itself, or from its Pods.
async fn all_of(cluster: &Cluster, node: &str) -> anyhow::Result<[Cidr; 2]> {
    let range = cluster.get(&["node", node]).await?;
    let range = range["spec"]["podCIDR"].as_str().context("no podCIDR")?.parse()?;
    Ok([alone(cluster.machine(node)?.address()), range])
}

/// A machine that the server does not hear, that does not hear the server, or neither: its Pods are called, and call, as before.
pub(crate) async fn nodes_go_on_without_the_server(context: Arc<Context>) -> Outcome {
    let Some(fleet) = Fleet::start(&context).await? else { return Ok(()) };
    let two = &fleet.machines[1];
    let std::net::IpAddr::V4(server) = fleet.cluster.api().ip() else {
        anyhow::bail!("the server has no IPv4 address")
    };
    let callers = fleet.callers(CALL)?;
    let server = [alone(server)];
    // The third is both ways.
    for (what, deaf, mute) in
        [("deaf", true, false), ("mute", false, true), ("cut-off", true, true)]
    {
        match (deaf, mute) {
            (true, true) => two.apart_from(&server)?,
            (true, false) => two.deaf_to(&server)?,
            _ => two.mute_to(&server)?,
        }
        fleet.becomes_not_ready("two").await?;
        // What others are told, it cannot know.
        fleet.service_of_all(&format!("{what}-meanwhile")).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        for caller in &callers {
            caller.check(what, 10)?;
        }
        two.deaf_to(&[])?;
        fleet.is_reconciled(&format!("{what}-afterwards"), CALL).await?;
        for caller in &callers {
            caller.check(&format!("{what}, afterwards"), 10)?;
        }
    }
    Ok(())
}

/// Two machines that cannot reach each other, or in one direction: only calls between those two fail, and only meanwhile.
pub(crate) async fn two_machines_are_parted(context: Arc<Context>) -> Outcome {
    let Some(fleet) = Fleet::start(&context).await? else { return Ok(()) };
    let [one, two] =
        [all_of(&fleet.cluster, NODES[0]).await?, all_of(&fleet.cluster, NODES[1]).await?];
    let pods = fleet.pods.iter().map(address_of).collect::<anyhow::Result<Vec<_>>>()?;
    let call = |from: usize, to: usize| Caller::start(fleet.machines[from].clone(), pods[to], CALL);
    let others = [(0, 0), (0, 2), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)].map(|(a, b)| call(a, b));
    let parted = [call(0, 1), call(1, 0)];
    for (what, at_one, at_two) in [("parted", &two[..], &one[..]), ("one way", &[], &one[..])] {
        fleet.machines[0].deaf_to(at_one)?;
        fleet.machines[1].deaf_to(at_two)?;
        // Calls that are under way are over.
        tokio::time::sleep(CALL).await;
        parted.iter().for_each(|caller| drop(caller.take()));
        tokio::time::sleep(2 * CALL).await;
        for caller in &parted {
            let seen = caller.take();
            anyhow::ensure!(seen.answers == 0, "{what}: {}: {}", caller.name, seen.answers);
            anyhow::ensure!(!seen.failures.is_empty(), "{what}: {} did nothing", caller.name);
        }
        for caller in &others {
            caller.check(what, 10)?;
        }
        // The server hears both.
        let nodes = fleet.cluster.kubectl(&["get", "nodes"]).await?;
        anyhow::ensure!(!nodes.contains("NotReady"), "{nodes}");
        fleet.machines[0].deaf_to(&[])?;
        fleet.machines[1].deaf_to(&[])?;
        eventually(SOON, "they reach each other again", async || fleet.everything_answers())
            .await?;
        parted.iter().for_each(|caller| drop(caller.take()));
        tokio::time::sleep(CALL).await;
        for caller in parted.iter().chain(&others) {
            caller.check("together again", 10)?;
        }
    }
    fleet.is_reconciled("afterwards", CALL).await
}

/// Each machine loses one packet of twenty that it is sent, sends or passes on: everything takes longer, and nothing fails.
pub(crate) async fn packets_are_lost(context: Arc<Context>) -> Outcome {
    let Some(fleet) = Fleet::start(&context).await? else { return Ok(()) };
    let callers = fleet.callers(LOSSY)?;
    for machine in &fleet.machines {
        machine.lose_one_of(20)?;
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    let nodes = fleet.cluster.kubectl(&["get", "nodes"]).await?;
    anyhow::ensure!(!nodes.contains("NotReady"), "{nodes}");
    // What changes is known all the same.
    fleet.is_reconciled("lossy", LOSSY).await?;
    for machine in &fleet.machines {
        machine.lose_one_of(0)?;
    }
    for caller in &callers {
        caller.check("with losses", 10)?;
    }
    Ok(())
}

/// The server ends and begins again, once as asked and once by force, while everybody calls everybody.
pub(crate) async fn the_server_is_restarted(context: Arc<Context>) -> Outcome {
    let Some(fleet) = Fleet::start(&context).await? else { return Ok(()) };
    let callers = fleet.callers(CALL)?;
    fleet.cluster.end(Part::Server, Signal::SIGTERM).await?;
    // Longer than nodes may be silent.
    tokio::time::sleep(Duration::from_secs(12)).await;
    fleet.cluster.start(Part::Server).await?;
    fleet.is_reconciled("again", CALL).await?;
    fleet.cluster.kill9(Part::Server).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    fleet.cluster.start(Part::Server).await?;
    fleet.is_reconciled("once-more", CALL).await?;
    for caller in &callers {
        caller.check("without a server", 100)?;
    }
    Ok(())
}
