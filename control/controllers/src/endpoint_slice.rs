//! EndpointSlice: lists the addresses behind each Service with a selector, at most a hundred a slice.
//!
//! Endpoints stay in the slice they are in, so that one Pod's change rewrites one slice. The next step of the apply
//! trace is the network's route table, which every node builds from these slices.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Object, Plan, kinds};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::services::{self, Distribution, Port, TargetRef};
use crate::slices::{self, Maker, SERVICE_NAME};
use crate::{BURST, owners, patch};

const MAX_ENDPOINTS: usize = 100;
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Plans EndpointSlices for Services.
#[derive(Debug, Clone, Copy)]
pub struct EndpointSliceController;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct View {
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    addresses: Vec<String>,
    conditions: Conditions,
    #[serde(skip_serializing_if = "Option::is_none")]
    hints: Option<Hints>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_ref: Option<TargetRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
}

/// For whom an endpoint is meant (`discovery/v1 EndpointHints`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hints {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    for_nodes: Vec<Named>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    for_zones: Vec<Named>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

impl Hints {
    /// An endpoint is meant for its own node's or zone's callers. Where the node is in no zone nothing is said, and consumers then
    /// take all endpoints.
    fn of(distribution: Distribution, node: Option<&str>, zone: Option<&str>) -> Option<Self> {
        let list = |name: Option<&str>| name.map(|name| Named { name: name.to_owned() });
        let nodes = node.filter(|_| distribution == Distribution::SameNode);
        let hints = Hints {
            for_nodes: list(nodes).into_iter().collect(),
            for_zones: list(zone).into_iter().collect(),
        };
        (hints != Hints::default()).then_some(hints)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: bool,
    serving: bool,
    terminating: bool,
}

/// Endpoints by the UID of their Pod, of all Pods with the same ports.
type Group = BTreeMap<String, Endpoint>;

struct Slice<'a> {
    /// The slice as it is; `None` for a new one.
    seen: Option<&'a Arc<Object>>,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

impl Controller for EndpointSliceController {
    fn name(&self) -> &'static str {
        "endpoint-slice"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        match object.kind.resource {
            r if r == kinds::SERVICE.resource => vec![Key::of(object)],
            r if r == kinds::POD.resource => services::of_pod(cluster, object),
            r if r == kinds::ENDPOINT_SLICE.resource => object
                .meta
                .labels
                .get(SERVICE_NAME)
                .map(|service| Key::new(object.meta.namespace.as_str(), service.as_str()))
                .into_iter()
                .collect(),
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        if let Some((service, view)) = services::get(cluster, key)
            && view.spec.is_selective()
            && !service.is_deleting()
            && !owners::is_terminating(cluster, &key.namespace)
        {
            reconcile(cluster, service, &view.spec, &mut plan);
        }
        // What is left over is planned from a newer view.
        plan.writes.truncate(BURST);
        plan
    }
}

fn reconcile(cluster: &Cluster, service: &Object, spec: &services::Spec, plan: &mut Plan) {
    let labels = slices::labels(service, MANAGER, spec.is_headless());
    let mut groups = wanted(cluster, service, spec);
    let (slices, mut spare) = keep(cluster, service, &mut groups);
    let slices = fill(slices, &mut spare, groups);
    if slices.is_empty() {
        // Even a Service without Pods has a slice, so that clients see that it was looked at.
        let seen = if spare.is_empty() { None } else { Some(spare.remove(0)) };
        let ports = seen.map(|slice| ports_of(slice)).unwrap_or_default();
        write(
            cluster,
            service,
            &labels,
            &[Slice { seen, ports, endpoints: vec![], changed: true }],
            plan,
        );
    } else {
        write(cluster, service, &labels, &slices, plan);
    }
    for slice in spare {
        plan.delete(slice, Propagation::Background);
    }
}

fn ports_of(slice: &Object) -> Vec<Port> {
    slice.decode::<View>().ok().and_then(|view| view.ports.clone()).unwrap_or_default()
}

fn wanted(
    cluster: &Cluster,
    service: &Object,
    spec: &services::Spec,
) -> BTreeMap<Vec<Port>, Group> {
    let mut groups: BTreeMap<Vec<Port>, Group> = BTreeMap::new();
    for member in services::members(cluster, &service.meta.namespace, &service.meta.name, spec) {
        let node = member.pod.node_name.as_deref();
        let zone = node
            .and_then(|node| cluster.get(&kinds::NODE, "", node))
            .and_then(|node| node.meta.labels.get("topology.kubernetes.io/zone"));
        let distribution = spec.distribution().filter(|_| member.ready);
        let endpoint = Endpoint {
            hints: distribution.and_then(|d| Hints::of(d, node, zone.map(String::as_str))),
            addresses: vec![member.ip.clone()],
            conditions: Conditions {
                ready: member.ready,
                serving: member.view.is_ready(),
                terminating: member.pod.is_deleting(),
            },
            hostname: member.hostname.clone(),
            node_name: node.map(str::to_owned),
            target_ref: Some(member.target_ref()),
            zone: zone.cloned(),
        };
        groups.entry(member.ports).or_default().insert(member.pod.meta.uid.clone(), endpoint);
    }
    groups
}

/// The slices that go on, with the endpoints they keep, which are taken from `groups`; and those that end empty.
fn keep<'a>(
    cluster: &'a Cluster,
    service: &Object,
    groups: &mut BTreeMap<Vec<Port>, Group>,
) -> (Vec<Slice<'a>>, Vec<&'a Arc<Object>>) {
    let (mut kept, mut spare) = (Vec::new(), Vec::new());
    for seen in slices::of(cluster, service, MANAGER) {
        let view = seen.decode::<View>().unwrap_or_default();
        let ports = view.ports.clone().unwrap_or_default();
        let Some(group) = groups.get_mut(&ports) else {
            spare.push(seen);
            continue;
        };
        let before = view.endpoints.as_deref().unwrap_or_default();
        let endpoints: Vec<Endpoint> = before
            .iter()
            .filter_map(|endpoint| group.remove(&endpoint.target_ref.as_ref()?.uid))
            .collect();
        if endpoints.is_empty() {
            spare.push(seen);
        } else {
            let changed = endpoints != before;
            kept.push(Slice { seen: Some(seen), ports, endpoints, changed });
        }
    }
    (kept, spare)
}

/// Puts the endpoints that have no slice yet where they cost the fewest writes.
fn fill<'a>(
    mut slices: Vec<Slice<'a>>,
    spare: &mut Vec<&'a Arc<Object>>,
    groups: BTreeMap<Vec<Port>, Group>,
) -> Vec<Slice<'a>> {
    // Those that are written anyway first, then the emptiest.
    slices.sort_by_key(|slice| (!slice.changed, slice.endpoints.len()));
    for (ports, group) in groups {
        let mut rest = group.into_values().peekable();
        for slice in slices.iter_mut().filter(|slice| slice.ports == ports) {
            while slice.endpoints.len() < MAX_ENDPOINTS
                && let Some(endpoint) = rest.next()
            {
                slice.endpoints.push(endpoint);
                slice.changed = true;
            }
        }
        while rest.peek().is_some() {
            let endpoints = rest.by_ref().take(MAX_ENDPOINTS).collect();
            let seen = spare.pop();
            slices.push(Slice { seen, ports: ports.clone(), endpoints, changed: true });
        }
    }
    slices
}

fn write(
    cluster: &Cluster,
    service: &Object,
    labels: &BTreeMap<String, String>,
    slices: &[Slice<'_>],
    plan: &mut Plan,
) {
    let mut maker = Maker::new(cluster, service);
    for slice in slices {
        let Some(seen) = slice.seen else {
            let (endpoints, ports) = (json!(slice.endpoints), json!(slice.ports));
            maker.create(plan, json!({"labels": labels}), "IPv4", endpoints, ports);
            continue;
        };
        let mut change = Map::new();
        if let Some(labels) = patch::diff(&json!(seen.meta.labels), &json!(labels)) {
            change.insert("metadata".into(), json!({"labels": labels}));
        }
        if slice.changed {
            let view = seen.decode::<View>().unwrap_or_default();
            if view.endpoints.as_deref().unwrap_or_default() != slice.endpoints {
                change.insert("endpoints".into(), json!(slice.endpoints));
            }
            if view.ports.as_deref().unwrap_or_default() != slice.ports {
                change.insert("ports".into(), json!(slice.ports));
            }
        }
        if !change.is_empty() {
            plan.patch(seen, Value::Object(change));
        }
    }
}
