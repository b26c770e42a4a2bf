//! What the scheduler reads of a Pod. Two Pods of one [`Shape`] are the same to it.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use coracle_api::placement::{Affinity, Toleration};
use coracle_api::{Object, Quantity};
use serde::Deserialize;

use crate::claims::Needs;
use crate::relations::{Constraint, Labels, Relations};
use crate::resources::{Amounts, Resources};

/// Conditions of a Pod that waits to be resized, and of one that is being resized.
const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";

/// The part of a Pod that matters here, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodView {
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: Option<Box<str>>,
    nominated_node_name: Option<Box<str>>,
    conditions: Vec<Condition>,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: Box<str>,
    reason: Option<Box<str>>,
}

/// What a container was given, and has.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    name: Box<str>,
    allocated_resources: Amounts,
    resources: Requests,
}

#[derive(Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    scheduler_name: Option<Box<str>>,
    scheduling_gates: Vec<Gate>,
    priority: Option<i32>,
    preemption_policy: Option<Box<str>>,
    node_selector: BTreeMap<String, String>,
    affinity: Affinity,
    tolerations: Vec<Toleration>,
    topology_spread_constraints: Vec<Constraint>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    overhead: Amounts,
    /// Of the whole Pod; they stand instead of the containers' where given.
    resources: Requests,
}

#[derive(Debug, Default, PartialEq, Eq, Hash, Deserialize)]
struct Gate {}

#[derive(Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: Box<str>,
    image: Option<String>,
    resources: Requests,
    ports: Vec<Port>,
    restart_policy: Option<Box<str>>,
}

#[derive(Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
struct Requests {
    requests: Amounts,
}

#[derive(Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    host_port: Option<i32>,
    #[serde(rename = "hostIP")]
    host_ip: Option<Box<str>>,
    protocol: Option<Box<str>>,
}

/// A port of the node that a Pod takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    port: i32,
    ip: Box<str>,
    protocol: Box<str>,
}

/// A Pod without its name, and what was worked out about it.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) identity: Identity,
    pub(crate) relations: Relations,
    pub(crate) priority: i32,
    pub(crate) requests: Resources,
    /// CPU and memory to score by: what asks for nothing still uses something.
    pub(crate) usual: (i64, i64),
    pub(crate) ports: Vec<HostPort>,
    /// Pods to be spread over nodes: those of one controller.
    pub(crate) group: Option<u64>,
    pub(crate) images: Vec<String>,
}

/// What two Pods must have in common to be the same to the scheduler.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    spec: Spec,
    owner: Option<Box<str>>,
    /// By these it is meant, or not, by others' affinities.
    pub(crate) namespace: Box<str>,
    pub(crate) labels: Labels,
    /// What its claims ask of nodes while it waits.
    pub(crate) needs: Needs,
}

impl PodView {
    /// Reads a Pod; `None` if it is not readable, which what is stored always is.
    pub(crate) fn read(pod: &Object) -> Option<Self> {
        serde_json::from_slice(pod.json()).ok()
    }

    pub(crate) fn has_ended(&self) -> bool {
        ended(self.status.phase.as_deref())
    }

    /// The node on which room was made for it.
    pub(crate) fn nominated_node(&self) -> Option<&str> {
        self.status.nominated_node_name.as_deref().filter(|name| !name.is_empty())
    }

    pub(crate) fn is_gated(&self) -> bool {
        !self.spec.scheduling_gates.is_empty()
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.spec
            .scheduler_name
            .as_deref()
            .is_none_or(|name| name.is_empty() || name == crate::NAME)
    }

    /// Whether it asks for other resources than it has.
    pub(crate) fn is_resizing(&self) -> bool {
        self.status.conditions.iter().any(Condition::is_of_a_resize)
    }

    pub(crate) fn into_shape(mut self, pod: &Object, needs: Needs) -> Shape {
        let owner: Option<Box<str>> = pod.controller().map(|owner| owner.uid.as_str().into());
        if self.is_resizing() {
            self.count_what_it_has();
        }
        let spec = self.spec;
        let containers = || spec.containers.iter().chain(&spec.init_containers);
        let requests = spec.requests(|container| Resources::of(&container.resources.requests));
        let usual = spec.requests(|container| {
            let mut requests = Resources::of(&container.resources.requests);
            requests.cpu = if requests.cpu == 0 { 100 } else { requests.cpu };
            requests.memory = if requests.memory == 0 { 200 << 20 } else { requests.memory };
            requests
        });
        let group = owner.as_ref().map(|owner| {
            let mut hasher = DefaultHasher::new();
            owner.hash(&mut hasher);
            hasher.finish()
        });
        let (namespace, labels) = (pod.meta.namespace.as_str(), &pod.meta.labels);
        let constraints = &spec.topology_spread_constraints;
        Shape {
            relations: Relations::read(constraints, &spec.affinity, namespace, labels),
            priority: spec.priority.unwrap_or(0),
            requests,
            usual: (usual.cpu, usual.memory),
            ports: containers().flat_map(|c| &c.ports).filter_map(Port::on_host).collect(),
            images: containers().filter_map(|c| c.image.clone()).collect(),
            group,
            identity: Identity {
                spec,
                owner,
                namespace: namespace.into(),
                labels: labels.clone(),
                needs,
            },
        }
    }
}

impl PodView {
    /// While a Pod is resized, the most that it may have counts: what it asks for, what it was given, and what it has. What it
    /// asks for in vain does not count.
    fn count_what_it_has(&mut self) {
        let Status { conditions, container_statuses, init_container_statuses, .. } = &self.status;
        let infeasible = conditions
            .iter()
            .any(|c| &*c.kind == PENDING && c.reason.as_deref() == Some("Infeasible"));
        let all = [
            (&mut self.spec.containers, container_statuses),
            (&mut self.spec.init_containers, init_container_statuses),
        ];
        for (containers, statuses) in all {
            for container in containers {
                let Some(told) = statuses.iter().find(|told| told.name == container.name) else {
                    continue;
                };
                let requests = &mut container.resources.requests;
                for name in ["cpu", "memory"] {
                    let has =
                        [told.allocated_resources.get(name), told.resources.requests.get(name)];
                    let asked = requests.get(name).filter(|_| !infeasible);
                    let all = has.into_iter().flatten().chain(asked);
                    let most = all.max_by_key(|value| Quantity::of(value)).cloned();
                    match most {
                        Some(most) => requests.insert(name.into(), most),
                        None => requests.remove(name),
                    };
                }
            }
        }
    }
}

impl Condition {
    fn is_of_a_resize(&self) -> bool {
        matches!(&*self.kind, PENDING | IN_PROGRESS)
    }
}

/// Whether a Pod ran to its end, and whether it is being resized; reads nothing else.
pub(crate) fn has_ended(pod: &Object) -> (bool, bool) {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Brief {
        status: BriefStatus,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct BriefStatus {
        phase: Option<Box<str>>,
        conditions: Vec<Condition>,
    }
    let Ok(Brief { status }) = serde_json::from_slice::<Brief>(pod.json()) else {
        return (false, false);
    };
    let resizing = status.conditions.iter().any(Condition::is_of_a_resize);
    (ended(status.phase.as_deref()), resizing)
}

fn ended(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

impl Spec {
    /// What runs at once at most: all containers and sidecars, or one init container beside the sidecars before it.
    fn requests(&self, of: impl Fn(&Container) -> Resources) -> Resources {
        let mut sidecars = Resources::default();
        let mut starting = Resources::default();
        for container in &self.init_containers {
            let mut requests = of(container);
            if container.restart_policy.as_deref() == Some("Always") {
                sidecars.add(&requests);
                starting.at_least(&sidecars);
            } else {
                requests.add(&sidecars);
                starting.at_least(&requests);
            }
        }
        let mut total = sidecars;
        for container in &self.containers {
            total.add(&of(container));
        }
        total.at_least(&starting);
        let pod = Resources::of(&self.resources.requests);
        if self.resources.requests.contains_key("cpu") {
            total.cpu = pod.cpu;
        }
        if self.resources.requests.contains_key("memory") {
            total.memory = pod.memory;
        }
        total.add(&Resources::of(&self.overhead));
        total
    }
}

impl Port {
    fn on_host(&self) -> Option<HostPort> {
        let any = |text: &Option<Box<str>>, default: &str| {
            text.clone().filter(|t| !t.is_empty()).unwrap_or_else(|| default.into())
        };
        Some(HostPort {
            port: self.host_port.filter(|port| *port > 0)?,
            ip: any(&self.host_ip, "0.0.0.0"),
            protocol: any(&self.protocol, "TCP"),
        })
    }
}

impl HostPort {
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || &*self.ip == "0.0.0.0" || &*other.ip == "0.0.0.0")
    }
}

impl Shape {
    pub(crate) fn namespace(&self) -> &str {
        &self.identity.namespace
    }

    pub(crate) fn labels(&self) -> &Labels {
        &self.identity.labels
    }

    pub(crate) fn node_selector(&self) -> &BTreeMap<String, String> {
        &self.identity.spec.node_selector
    }

    pub(crate) fn affinity(&self) -> &Affinity {
        &self.identity.spec.affinity
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        &self.identity.spec.tolerations
    }

    pub(crate) fn needs(&self) -> &Needs {
        &self.identity.needs
    }

    pub(crate) fn may_preempt(&self) -> bool {
        self.identity.spec.preemption_policy.as_deref() != Some("Never")
    }
}
