//! What objects use of what ResourceQuotas limit (`pkg/quota/v1/evaluator` upstream): asked before something is stored, and summed
//! up for a quota's status.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::Value;

use crate::json::Json;
use crate::kinds::{self, Kind};
use crate::pod::{self, qos_class};
use crate::quantity::{Format, Quantity};
use crate::selector::LabelSelector;
use crate::{Cluster, Object};

/// Quantities by the names that a quota has for them.
pub type Amounts = BTreeMap<String, Quantity>;

/// Quotas of these oblige every container to say how much it wants.
const OBLIGING: [&str; 6] =
    ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
/// What a claim for all devices may be given, as upstream.
const MOST_DEVICES: i64 = 32;
const ONE: Quantity = Quantity::ONE;
const CLASS: &str = ".storageclass.storage.k8s.io/";
/// Ends what limits the devices of a class.
const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";

/// A quota's `spec.hard` or `status.used`.
pub fn amounts(list: Option<&Value>) -> Amounts {
    let list = list.and_then(Value::as_object).into_iter().flatten();
    list.filter_map(|(name, value)| Some((name.clone(), Quantity::of(value)?))).collect()
}

/// What an object of that kind uses.
pub fn usage(kind: &Kind, object: &Value) -> Amounts {
    let mut used = Amounts::new();
    used.insert(format!("count/{}", kind.resource), ONE);
    match kind.resource {
        "pods" => used.extend(pod_usage(object)),
        "services" => {
            let ports = object.list(&["spec", "ports"]);
            let nodeports = match object.text(&["spec", "type"]) {
                "NodePort" => ports.len(),
                "LoadBalancer" => {
                    let all = object.at(&["spec", "allocateLoadBalancerNodePorts"]);
                    let chosen = all == Some(&Value::Bool(false));
                    let counts = |p: &&Value| !chosen || p.int(&["nodePort"]).unwrap_or(0) != 0;
                    ports.iter().filter(counts).count()
                }
                _ => 0,
            };
            let balanced = object.text(&["spec", "type"]) == "LoadBalancer";
            used.insert("services".into(), ONE);
            used.insert("services.nodeports".into(), whole(nodeports));
            used.insert("services.loadbalancers".into(), whole(usize::from(balanced)));
        }
        "persistentvolumeclaims" => used.extend(claim_usage(object)),
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => {
            used.insert(kind.resource.into(), ONE);
        }
        "resourceclaims.resource.k8s.io" => used.extend(device_usage(object)),
        _ => {}
    }
    used
}

fn whole(count: usize) -> Quantity {
    Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::Decimal)
}

/// Nothing once it has ended.
fn pod_usage(pod: &Value) -> Amounts {
    let mut used = Amounts::new();
    if matches!(pod.text(&["status", "phase"]), "Succeeded" | "Failed") {
        return used;
    }
    used.insert("pods".into(), ONE);
    let spec = pod::counted(pod);
    let all = || {
        let lists = ["containers", "initContainers"].map(|list| spec.list(&[list]));
        std::iter::once(&spec).chain(lists.into_iter().flatten())
    };
    let names = |list: &str| -> BTreeSet<String> {
        let resources = all().filter_map(|of| of.map(&["resources", list]));
        let mut names: BTreeSet<String> = resources.flat_map(|r| r.keys().cloned()).collect();
        if list == "requests" {
            names.extend(spec.pairs(&["overhead"]).map(|(name, _)| name.to_owned()));
        }
        names
    };
    let Ok(typed) = serde_json::from_value::<PodSpec>(spec.clone()) else { return used };
    for name in names("requests") {
        let amount = pod::request(&typed, &name);
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
            || name.starts_with("hugepages-")
        {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    for name in names("limits") {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(format!("limits.{name}"), pod::limit(&typed, &name));
        }
    }
    used
}

fn claim_usage(claim: &Value) -> Amounts {
    let mut used = Amounts::new();
    let annotation =
        claim.text(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
    let class = match annotation {
        "" => claim.text(&["spec", "storageClassName"]),
        class => class,
    };
    let mut add = |name: &str, amount: Quantity| {
        used.insert(name.into(), amount);
        if !class.is_empty() {
            used.insert(format!("{class}{CLASS}{name}"), amount);
        }
    };
    add("persistentvolumeclaims", ONE);
    let asked = claim.at(&["spec", "resources", "requests", "storage"]).and_then(Quantity::of);
    let given = claim.at(&["status", "allocatedResources", "storage"]).and_then(Quantity::of);
    if let Some(asked) = asked {
        add("requests.storage", given.map_or(asked, |given| given.max(asked)));
    }
    used
}

/// Devices by class, as many as a claim may be given at most: of several alternatives, that with the most.
fn device_usage(claim: &Value) -> Amounts {
    let mut used = Amounts::new();
    for request in claim.list(&["spec", "devices", "requests"]) {
        let mut most: BTreeMap<&str, i64> = BTreeMap::new();
        let exactly = request.at(&["exactly"]);
        for one in exactly.into_iter().chain(request.list(&["firstAvailable"])) {
            let count = match one.text(&["allocationMode"]) {
                "All" => MOST_DEVICES,
                _ => one.int(&["count"]).unwrap_or(1),
            };
            let known = most.entry(one.text(&["deviceClassName"])).or_default();
            *known = count.max(*known);
        }
        for (class, count) in most {
            *used.entry(format!("{class}{DEVICES}")).or_insert(Quantity::ZERO) +=
                Quantity::new(count, Format::Decimal);
        }
    }
    used
}

/// The kind that uses what that name limits.
fn user_of(name: &str) -> Option<&'static Kind> {
    if let Some(resource) = name.strip_prefix("count/") {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        return kinds::by_resource(group, plural);
    }
    if name.ends_with(DEVICES) {
        return Some(&kinds::RESOURCE_CLAIM);
    }
    let name = name.split_once(CLASS).map_or(name, |(_, name)| name);
    Some(match name {
        "services" | "services.nodeports" | "services.loadbalancers" => &kinds::SERVICE,
        "requests.storage" | "persistentvolumeclaims" => &kinds::PERSISTENT_VOLUME_CLAIM,
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => {
            return kinds::by_resource("", name);
        }
        _ => &kinds::POD,
    })
}

/// Whether a quota is about objects such as this one: limits something that they use, and has them in its scopes.
pub fn concerns(quota: &Value, kind: &Kind, object: &Value) -> bool {
    let limits = |name: &str| match name.strip_prefix("count/") {
        Some(resource) => resource == kind.resource,
        None => user_of(name).is_some_and(|user| user.resource == kind.resource),
    };
    quota.pairs(&["spec", "hard"]).any(|(name, _)| limits(name)) && in_scopes(quota, kind, object)
}

fn in_scopes(quota: &Value, kind: &Kind, object: &Value) -> bool {
    let plain = quota.list(&["spec", "scopes"]).iter().filter_map(Value::as_str);
    let selected = quota.list(&["spec", "scopeSelector", "matchExpressions"]);
    let mut plain = plain.map(|scope| (scope, None));
    let mut selected = selected.iter().map(|e| (e.text(&["scopeName"]), Some(e)));
    let has = |(scope, expression): (&str, Option<&Value>)| match kind.resource {
        "pods" => pod_in(scope, expression, object),
        "persistentvolumeclaims" => {
            let class = object.text(&["spec", "volumeAttributesClassName"]);
            scope == "VolumeAttributesClass" && selects(expression, scope, class)
        }
        _ => false,
    };
    plain.all(has) && selected.all(has)
}

fn pod_in(scope: &str, expression: Option<&Value>, pod: &Value) -> bool {
    let spec = pod.at(&["spec"]).unwrap_or(&Value::Null);
    let terminating = spec.int(&["activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0);
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => qos_class(spec) == "BestEffort",
        "NotBestEffort" => qos_class(spec) != "BestEffort",
        "PriorityClass" => selects(expression, scope, spec.text(&["priorityClassName"])),
        "CrossNamespacePodAffinity" => {
            let across = |term: &Value| {
                !term.list(&["namespaces"]).is_empty() || term.has(&["namespaceSelector"])
            };
            ["podAffinity", "podAntiAffinity"].iter().any(|which| {
                let required = "requiredDuringSchedulingIgnoredDuringExecution";
                let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
                let preferred = spec.list(&["affinity", which, preferred]).iter();
                spec.list(&["affinity", which, required]).iter().any(across)
                    || preferred.filter_map(|p| p.at(&["podAffinityTerm"])).any(across)
            })
        }
        _ => false,
    }
}

/// Whether a scope's expression selects a class; none is one that any class satisfies.
fn selects(expression: Option<&Value>, scope: &str, class: &str) -> bool {
    let Some(expression) = expression.filter(|e| e.text(&["operator"]) != "Exists") else {
        return !class.is_empty();
    };
    let selector = serde_json::json!({"matchExpressions": [{
        "key": scope, "operator": expression["operator"], "values": expression.list(&["values"]),
    }]});
    let labels = match class {
        "" => BTreeMap::new(),
        class => BTreeMap::from([(scope.to_owned(), class.to_owned())]),
    };
    LabelSelector::from_value(Some(&selector)).is_ok_and(|selector| selector.matches(&labels))
}

/// What a quota obliges the containers of a Pod to say and they do not, in upstream's words.
pub fn unsaid(quota: &Value, kind: &Kind, pod: &Value) -> Option<String> {
    if !kind.is_pod() {
        return None;
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in OBLIGING.into_iter().filter(|name| quota.has(&["spec", "hard", name])) {
        let path = match name.split_once('.') {
            Some((list, resource)) => ["resources", list, resource],
            None => ["resources", "requests", name],
        };
        for list in ["containers", "initContainers"] {
            for container in pod.list(&["spec", list]) {
                if !container.has(&path) {
                    missing.entry(name).or_default().insert(container.text(&["name"]));
                }
            }
        }
    }
    if missing.is_empty() {
        return None;
    }
    let texts = missing.into_iter().map(|(name, containers)| {
        format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    });
    Some(format!("must specify {}", texts.collect::<Vec<_>>().join("; ")))
}

/// What is used of what a quota limits, by all that is in its namespace: a value for each name in `spec.hard`.
pub fn used(cluster: &Cluster, quota: &Object) -> Amounts {
    let tree = quota.value();
    let zero = |name: &str| (name.to_owned(), Quantity::ZERO);
    let mut used: Amounts = tree.pairs(&["spec", "hard"]).map(|(name, _)| zero(name)).collect();
    let mut users: Vec<&'static Kind> = Vec::new();
    for user in used.keys().filter_map(|name| user_of(name)) {
        if !users.iter().any(|known| known.resource == user.resource) {
            users.push(user);
        }
    }
    for (name, amount) in &mut used {
        // Of custom kinds it is only known how many there are.
        if user_of(name).is_none()
            && let Some(resource) = name.strip_prefix("count/")
        {
            *amount = whole(cluster.count_in(resource, &quota.meta.namespace));
        }
    }
    for user in users {
        for object in cluster.list_in(user, &quota.meta.namespace) {
            let object = object.value();
            if in_scopes(&tree, user, &object) {
                add(&mut used, &usage(user, &object));
            }
        }
    }
    used
}

/// Adds what has a name in `to`.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in to {
        if let Some(more) = more.get(name) {
            *amount += *more;
        }
    }
}

/// Takes away what has a name in `from`.
pub fn subtract(from: &mut Amounts, less: &Amounts) {
    for (name, amount) in from {
        if let Some(less) = less.get(name) {
            *amount -= *less;
        }
    }
}

/// `cpu=1,pods=2`.
pub fn print<'a>(amounts: impl IntoIterator<Item = (&'a String, &'a Quantity)>) -> String {
    let texts = amounts.into_iter().map(|(name, amount)| format!("{name}={amount}"));
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
