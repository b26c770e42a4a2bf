//! The Node object and its Lease: how the control plane knows that this machine is here and what it can take.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeSpec,
    NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource as _};
use serde_json::json;
use tokio::sync::watch;

use crate::images::Images;

/// How often the Lease is renewed (`nodeLeaseDurationSeconds` / 4, as the kubelet does)…
const RENEW: Duration = Duration::from_millis(2500);
/// …unless there are so many machines that they would renew more than 400 Leases a second together.
const RENEW_PER_MACHINE: Duration = Duration::from_micros(2500);
/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the whole status is refreshed.
const REFRESH: Duration = Duration::from_secs(300);

/// What this machine is and offers.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Name of the node.
    pub name: String,
    /// Address under which it is reached.
    pub ip: String,
    /// Port of the kubelet API; 0 until it has one.
    pub kubelet_port: u16,
    /// Most Pods that it takes.
    pub max_pods: u32,
    /// Range of its Pods' addresses; empty until it has one.
    pub pod_range: String,
    /// Labels given by whoever started the agent.
    pub labels: BTreeMap<String, String>,
    /// Taints that it comes with.
    pub taints: Vec<Taint>,
    /// Whether it runs containers.
    pub containers: bool,
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory, in bytes.
    pub memory: u64,
    /// Size of the disk that Pods write to, in bytes; 0 until it is known.
    pub storage: u64,
}

impl Machine {
    /// This machine, with its CPUs and its memory; nothing of what it gets while it becomes a node.
    pub fn here(name: String, max_pods: u32) -> Self {
        let (cpus, memory) = Machine::measure();
        Self {
            name,
            ip: String::new(),
            kubelet_port: 0,
            max_pods,
            pod_range: String::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            containers: false,
            cpus,
            memory,
            storage: 0,
        }
    }

    /// CPUs and memory of this machine.
    fn measure() -> (u32, u64) {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let memory = std::fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| {
                let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
                line.split_whitespace().nth(1)?.parse::<u64>().ok()
            })
            .map_or(1 << 30, |kib| kib << 10);
        (cpus, memory)
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let mut labels = self.labels.clone();
        for (key, value) in [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("coracle.dev/runtime-wasm", "true"),
            // What the RuntimeClass `oci` selects nodes by.
            ("coracle.dev/runtime-oci", if self.containers { "true" } else { "false" }),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        labels
    }

    /// The Node as it begins: before it has told anything else, how many Pods it takes, which its range follows from.
    pub(crate) fn node(&self) -> Node {
        let range = Some(self.pod_range.clone()).filter(|range| !range.is_empty());
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels()),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                pod_cidrs: range.clone().map(|range| vec![range]),
                pod_cidr: range,
                taints: Some(self.taints.clone()).filter(|taints| !taints.is_empty()),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus {
                capacity: Some(self.resources(self.memory, self.storage)),
                ..NodeStatus::default()
            }),
        }
    }

    fn resources(&self, memory: u64, storage: u64) -> BTreeMap<String, Quantity> {
        let mut all: BTreeMap<String, Quantity> = [
            ("cpu", self.cpus.to_string()),
            ("memory", format!("{}Ki", memory >> 10)),
            ("pods", self.max_pods.to_string()),
        ]
        .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
        .into();
        if storage > 0 {
            let amount = format!("{}Ki", storage >> 10);
            all.insert("ephemeral-storage".to_owned(), Quantity(amount));
        }
        all
    }

    fn status(&self, now: Timestamp, images: &Images) -> NodeStatus {
        let address = |type_: &str, address: &str| NodeAddress {
            type_: type_.to_owned(),
            address: address.to_owned(),
        };
        let condition =
            |type_: &str, ok: bool, good: bool, reason: &str, message: &str| NodeCondition {
                type_: type_.to_owned(),
                status: if ok == good { "True" } else { "False" }.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(Time(now)),
            };
        let read = |path: &str| {
            std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
        };
        let version = concat!("v1.36.0+coracle-", env!("CARGO_PKG_VERSION")).to_owned();
        NodeStatus {
            capacity: Some(self.resources(self.memory, self.storage)),
            allocatable: Some(
                self.resources(allocatable(self.memory), allocatable_storage(self.storage)),
            ),
            features: Some(NodeFeatures { supplemental_groups_policy: Some(self.containers) }),
            addresses: Some(vec![address("InternalIP", &self.ip), address("Hostname", &self.name)]),
            conditions: Some(vec![
                condition(
                    "MemoryPressure",
                    true,
                    false,
                    "KubeletHasSufficientMemory",
                    "node has sufficient memory available",
                ),
                match images.disk_pressure() {
                    false => condition(
                        "DiskPressure",
                        true,
                        false,
                        "KubeletHasNoDiskPressure",
                        "node has no disk pressure",
                    ),
                    true => condition(
                        "DiskPressure",
                        false,
                        false,
                        "KubeletHasDiskPressure",
                        "node has disk pressure",
                    ),
                },
                condition(
                    "PIDPressure",
                    true,
                    false,
                    "KubeletHasSufficientPID",
                    "node has sufficient PID available",
                ),
                condition("Ready", true, true, "KubeletReady", "coracle agent is ready"),
            ]),
            images: Some(images.told()),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.kubelet_port) }),
            }),
            node_info: Some(NodeSystemInfo {
                architecture: std::env::consts::ARCH
                    .replace("x86_64", "amd64")
                    .replace("aarch64", "arm64"),
                boot_id: read("/proc/sys/kernel/random/boot_id"),
                container_runtime_version: concat!("coracle://", env!("CARGO_PKG_VERSION"))
                    .to_owned(),
                kernel_version: read("/proc/sys/kernel/osrelease"),
                kubelet_version: version,
                machine_id: read("/etc/machine-id"),
                operating_system: "linux".to_owned(),
                os_image: os_name(&read("/etc/os-release")),
                ..NodeSystemInfo::default()
            }),
            ..NodeStatus::default()
        }
    }
}

/// What Pods may have of so much memory, in bytes: all but 1/20, at most 512 MiB, for the node itself.
pub fn allocatable(memory: u64) -> u64 {
    memory - (memory / 20).min(512 << 20)
}

/// What Pods may ask for of a disk of that size, in bytes: all but a tenth, where upstream's kubelet begins to evict.
pub fn allocatable_storage(disk: u64) -> u64 {
    disk - disk / 10
}

fn os_name(release: &str) -> String {
    let name = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |n| n.trim_matches('"').to_owned())
}

/// Makes the Node object, or brings it up to date.
pub async fn register(
    client: &kube::Client,
    machine: &Machine,
    images: &Images,
) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    match nodes.create(&PostParams::default(), &machine.node()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error),
    }
    refresh(client, machine, images, RENEW).await
}

/// Brings the Node object up to date.
async fn refresh(
    client: &kube::Client,
    machine: &Machine,
    images: &Images,
    next: Duration,
) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let patch = json!({"metadata": {"labels": machine.labels()}});
    nodes.patch(&machine.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    report(&nodes, machine, images).await?;
    renew(client, &machine.name, next).await
}

/// Conditions are merged by type (strategic), so that what others set (`NetworkUnavailable`) stays; a condition that
/// did not change keeps its transition time, which only the server's copy knows.
async fn report(nodes: &Api<Node>, machine: &Machine, images: &Images) -> Result<(), kube::Error> {
    let mut status = machine.status(Timestamp::now(), images);
    let known = nodes.get_status(&machine.name).await?.status.unwrap_or_default();
    for condition in status.conditions.iter_mut().flatten() {
        let same = |c: &&NodeCondition| c.type_ == condition.type_ && c.status == condition.status;
        if let Some(old) = known.conditions.iter().flatten().find(same) {
            condition.last_transition_time = old.last_transition_time.clone();
        }
    }
    let patch = json!({"status": status});
    nodes.patch_status(&machine.name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    Ok(())
}

/// Renews the Lease, which lasts four times as long as it takes until the `next` time: so long after a machine was lost, the
/// control plane knows.
async fn renew(client: &kube::Client, name: &str, next: Duration) -> Result<(), kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let now = MicroTime(Timestamp::now());
    let spec = LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: i32::try_from((4 * next).as_secs()).ok(),
        renew_time: Some(now),
        ..LeaseSpec::default()
    };
    let patch = Patch::Merge(json!({"spec": spec}));
    match leases.patch(name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            // With its Node it goes, which is how the agent learns of that.
            let node = Api::<Node>::all(client.clone()).get(name).await?;
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                owner_references: node.owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            };
            let lease = Lease { metadata, spec: Some(spec) };
            leases.create(&PostParams::default(), &lease).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

/// Keeps the Lease and the Node object fresh, for ever. `is_registered`: whether the server has been told already; `machines`:
/// how many the cluster has.
///
/// A Node that somebody deletes is not made again before the agent is started again, as with kubelets: whoever deletes it
/// means the machine to be gone.
pub async fn heartbeat(
    client: kube::Client,
    machine: Machine,
    images: Images,
    mut is_registered: bool,
    machines: watch::Receiver<usize>,
) {
    let mut told = images.status_version();
    let mut refreshed = tokio::time::Instant::now();
    let mut failing = !is_registered;
    let mut is_deleted = false;
    // What the Lease was last said to be renewed after.
    let mut next = RENEW;
    loop {
        tokio::time::sleep(if failing { RENEW / 5 } else { next }).await;
        next = RENEW.max(RENEW_PER_MACHINE * u32::try_from(*machines.borrow()).unwrap_or(0));
        let now = images.status_version();
        let telling = async {
            if !is_registered {
                register(&client, &machine, &images).await
            } else if failing || is_deleted || refreshed.elapsed() >= REFRESH || told != now {
                refreshed = tokio::time::Instant::now();
                told = now;
                refresh(&client, &machine, &images, next).await
            } else {
                renew(&client, &machine.name, next).await
            }
        };
        // A connection of before the network was cut may wait longer for an answer than a new one takes.
        let result = tokio::time::timeout(PATIENCE, telling).await;
        let error = match result {
            Ok(Ok(())) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the server answers again");
                }
                (is_registered, is_deleted) = (true, false);
                continue;
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 && is_registered => {
                failing = false;
                if !std::mem::replace(&mut is_deleted, true) {
                    tracing::warn!(
                        node = machine.name,
                        "this machine's Node was deleted, and its Pods end: to make it a node again, start the agent again"
                    );
                }
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        if !std::mem::replace(&mut failing, true) {
            tracing::warn!(%error, "the server does not answer; Pods and Services go on");
        }
    }
}
