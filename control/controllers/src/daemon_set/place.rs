//! Which nodes a DaemonSet's Pods are for.

use std::collections::{BTreeMap, HashSet};

use coracle_api::placement::{Affinity, Toleration};
use coracle_api::plan::Key;
use coracle_api::{Cluster, Object, kinds};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::nodes;

/// Taints that say that a node is not well: daemons run there all the same.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// Likewise, for those that bring the network themselves.
const NO_NETWORK: &str = "node.kubernetes.io/network-unavailable";

/// What a template says of nodes.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Place {
    node_name: Option<String>,
    node_selector: BTreeMap<String, String>,
    affinity: Affinity,
    tolerations: Vec<Toleration>,
}

impl Place {
    pub(super) fn of(template: &Value) -> Self {
        let mut spec = template["spec"].clone();
        if spec.is_object() {
            tolerate(&mut spec);
        }
        Self::deserialize(spec).unwrap_or_default()
    }

    /// Whether a Pod should run on a node, and whether one that is there may stay.
    pub(super) fn allows(&self, node: &Object) -> (bool, bool) {
        let (name, labels) = (&node.meta.name, &node.meta.labels);
        let named = self.node_name.as_ref().is_none_or(|n| n.is_empty() || n == name);
        let selected = self.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        if !named || !selected || !self.affinity.allows(name, labels) {
            return (false, false);
        }
        let Ok(view) = node.decode::<nodes::View>() else { return (false, false) };
        let repelled = |effect: &str| {
            view.spec.taints.iter().filter(|taint| taint.effect == effect).any(|taint| {
                let value = taint.value.as_deref().unwrap_or_default();
                !self.tolerations.iter().any(|t| t.tolerates(&taint.key, value, effect))
            })
        };
        let driven_away = repelled("NoExecute");
        (!driven_away && !repelled("NoSchedule"), !driven_away)
    }
}

/// The DaemonSets that a node's state concerns: those whose Pod should be there and is not, or the other way round. A
/// node that tells nothing new wakes none, so that many of them may tell often.
pub(super) fn of_node(cluster: &Cluster, node: &Object) -> Vec<Key> {
    if cluster.count(&kinds::DAEMON_SET) == 0 {
        return Vec::new();
    }
    let name = node.meta.name.as_str();
    let gone = cluster.get(&kinds::NODE, "", name).is_none();
    let here: HashSet<&str> = cluster
        .pods_on(name)
        .filter_map(|pod| pod.controller())
        .filter(|owner| owner.kind == kinds::DAEMON_SET.kind)
        .map(|owner| owner.uid.as_str())
        .collect();
    let concerned = |set: &&std::sync::Arc<Object>| {
        let Ok(view) = set.decode::<super::View>() else { return false };
        let (run, _) = Place::of(&view.spec.template).allows(node);
        (run && gone) || run != here.contains(set.meta.uid.as_str())
    };
    cluster.list(&kinds::DAEMON_SET).filter(concerned).map(|set| Key::of(set)).collect()
}

/// The node that an unbound Pod is for.
pub(super) fn target(pod: &Object) -> Option<String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Pod {
        spec: Place,
    }
    let pod: Pod = serde_json::from_slice(pod.json()).ok()?;
    pod.spec.affinity.only_node().map(str::to_owned)
}

/// Adds the tolerations that daemons have.
pub(super) fn tolerate(spec: &mut Value) {
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    let mut wanted = TOLERATED.to_vec();
    if host_network {
        wanted.push((NO_NETWORK, "NoSchedule"));
    }
    let mut list = match spec.get("tolerations") {
        Some(Value::Array(list)) => list.clone(),
        _ => Vec::new(),
    };
    for (key, effect) in wanted {
        let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
        list.retain(|known| *known != toleration);
        list.push(toleration);
    }
    spec["tolerations"] = list.into();
}

/// Requires one node, whatever else is required of nodes.
pub(super) fn send(spec: &mut Value, node: &str) {
    let only = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let mut terms = match spec["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"].take() {
        Value::Array(terms) if !terms.is_empty() => terms,
        _ => vec![json!({})],
    };
    for term in &mut terms {
        term["matchFields"] = only.clone();
    }
    spec["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"] = terms.into();
}
