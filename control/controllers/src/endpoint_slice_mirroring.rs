//! Slices of Endpoints that people write: of Services without a selector, whose addresses no Pod has to have.
//!
//! As upstream's mirroring controller: one slice for each subset and kind of addresses, owned by the Endpoints, so that those who read only
//! slices (nodes among them) see them too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Object, Plan, kinds};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::services::{self, Port};
use crate::slices::{self, MANAGED_BY, Maker, SERVICE_NAME};
use crate::{BURST, owners, patch};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// What `kubectl apply` notes is about the Endpoints alone.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The most addresses of a subset that are mirrored (`--mirroring-max-endpoints-per-subset`).
const MAX_ADDRESSES: usize = 1000;

/// Plans EndpointSlices for Endpoints without a selector's Pods.
#[derive(Debug, Clone, Copy)]
pub struct EndpointSliceMirroring;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct View {
    subsets: Vec<Subset>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subset {
    addresses: Vec<Address>,
    not_ready_addresses: Vec<Address>,
    ports: Vec<Port>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Address {
    ip: String,
    hostname: Option<String>,
    node_name: Option<String>,
    target_ref: Option<Value>,
}

impl Controller for EndpointSliceMirroring {
    fn name(&self) -> &'static str {
        "endpoint-slice-mirroring"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        match object.kind.resource {
            // A Service is looked at only where there are Endpoints of its name that could be mirrored.
            r if r == kinds::SERVICE.resource => {
                let key = Key::of(object);
                let endpoints = cluster.get(&kinds::ENDPOINTS, &key.namespace, &key.name);
                if endpoints.is_some() { vec![key] } else { Vec::new() }
            }
            r if r == kinds::ENDPOINTS.resource => vec![Key::of(object)],
            r if r == kinds::ENDPOINT_SLICE.resource => {
                let labels = &object.meta.labels;
                let is_ours = labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
                let service = labels.get(SERVICE_NAME).filter(|_| is_ours);
                let key = |name: &String| Key::new(object.meta.namespace.as_str(), name.as_str());
                service.map(key).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(endpoints) = cluster.get(&kinds::ENDPOINTS, &key.namespace, &key.name) else {
            // Theirs go with them, by their owner.
            return plan;
        };
        if endpoints.is_deleting() || owners::is_terminating(cluster, &key.namespace) {
            return plan;
        }
        let meta = &endpoints.meta;
        let is_led = meta.annotations.contains_key(LEADER);
        let is_left_out = meta.labels.get(SKIP).is_some_and(|skip| skip == "true");
        let service = services::get(cluster, key);
        let is_plain = service.is_some_and(|(service, view)| {
            !service.is_deleting() && !view.spec.has_selector() && !view.spec.is_external_name()
        });
        let wanted =
            if is_plain && !is_led && !is_left_out { mirrored(endpoints) } else { Vec::new() };
        reconcile(cluster, endpoints, wanted, &mut plan);
        plan.writes.truncate(BURST);
        plan
    }
}

/// What tells slices apart, and what else they hold.
struct Wanted {
    kind: &'static str,
    ports: Value,
    endpoints: Vec<Value>,
}

fn mirrored(endpoints: &Object) -> Vec<Wanted> {
    let view = endpoints.decode::<View>().unwrap_or_default();
    let mut slices = Vec::new();
    for subset in &view.subsets {
        let ports = json!(subset.ports);
        let mut by_kind: BTreeMap<&'static str, Vec<Value>> = BTreeMap::new();
        let ready = subset.addresses.iter().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().map(|address| (address, false));
        for (address, ready) in ready.chain(not_ready).take(MAX_ADDRESSES) {
            let kind = match address.ip.parse() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => continue,
            };
            let mut endpoint = json!({"addresses": [address.ip], "conditions": {"ready": ready}});
            let more = [
                ("hostname", address.hostname.clone().map(Value::from)),
                ("nodeName", address.node_name.clone().map(Value::from)),
                ("targetRef", address.target_ref.clone()),
            ];
            for (field, value) in more {
                if let Some(value) = value.filter(|value| value.as_str() != Some("")) {
                    endpoint[field] = value;
                }
            }
            by_kind.entry(kind).or_default().push(endpoint);
        }
        let of_kind = |(kind, endpoints)| Wanted { kind, ports: ports.clone(), endpoints };
        slices.extend(by_kind.into_iter().map(of_kind));
    }
    slices
}

fn reconcile(cluster: &Cluster, endpoints: &Arc<Object>, wanted: Vec<Wanted>, plan: &mut Plan) {
    let labels = slices::labels(endpoints, MANAGER, false);
    let mut annotations = endpoints.meta.annotations.clone();
    annotations.remove(LAST_APPLIED);
    let mut seen: Vec<&Arc<Object>> = slices::of(cluster, endpoints, MANAGER).collect();
    let mut maker = Maker::new(cluster, endpoints);
    for wanted in wanted {
        let same = seen.iter().position(|slice| {
            let value = slice.value();
            value["addressType"] == wanted.kind && value["ports"] == wanted.ports
        });
        let Some(slice) = same.map(|at| seen.swap_remove(at)) else {
            let metadata = json!({"labels": labels, "annotations": annotations});
            maker.create(plan, metadata, wanted.kind, wanted.endpoints.into(), wanted.ports);
            continue;
        };
        let mut change = Map::new();
        let mut metadata = Map::new();
        let before = &slice.meta;
        if let Some(labels) = patch::diff(&json!(before.labels), &json!(labels)) {
            metadata.insert("labels".into(), labels);
        }
        if let Some(annotations) = patch::diff(&json!(before.annotations), &json!(annotations)) {
            metadata.insert("annotations".into(), annotations);
        }
        if !metadata.is_empty() {
            change.insert("metadata".into(), metadata.into());
        }
        let endpoints = Value::from(wanted.endpoints);
        if slice.value()["endpoints"] != endpoints {
            change.insert("endpoints".into(), endpoints);
        }
        if !change.is_empty() {
            plan.patch(slice, change.into());
        }
    }
    for slice in seen {
        plan.delete(slice, Propagation::Background);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{cluster, created, patches};

    fn service(spec: Value) -> (&'static coracle_api::Kind, Value) {
        (&kinds::SERVICE, json!({"metadata": {"name": "db"}, "spec": spec}))
    }

    fn endpoints(meta: Value, ips: &[&str]) -> (&'static coracle_api::Kind, Value) {
        let mut meta = meta;
        meta["name"] = "db".into();
        let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let subset = json!({"addresses": addresses, "notReadyAddresses": [{"ip": "192.0.2.99"}],
            "ports": [{"name": "pg", "port": 5432, "protocol": "TCP"}]});
        (&kinds::ENDPOINTS, json!({"metadata": meta, "subsets": [subset]}))
    }

    #[test]
    fn endpoints_of_people_have_slices() {
        let key = Key::new("ns", "db");
        let plain = || service(json!({"ports": [{"port": 5432}]}));
        let both = ["192.0.2.1", "2001:db8::1"];
        let meta = json!({"labels": {"a": "b"}, "annotations": {LAST_APPLIED: "{}", "c": "d"}});
        let world = cluster([plain(), endpoints(meta, &both)]);
        let plan = EndpointSliceMirroring.reconcile(&world, &key);
        let [four, six] = created(&plan)[..] else { panic!("{plan:?}") };
        assert_eq!((&four["addressType"], &six["addressType"]), (&json!("IPv4"), &json!("IPv6")));
        assert_eq!(four["endpoints"][0]["conditions"]["ready"], true);
        assert_eq!(
            four["endpoints"][1],
            json!({"addresses": ["192.0.2.99"], "conditions": {"ready": false}})
        );
        assert_eq!(four["ports"], json!([{"name": "pg", "port": 5432, "protocol": "TCP"}]));
        assert_eq!(
            four["metadata"]["labels"],
            json!({"a": "b", MANAGED_BY: MANAGER, SERVICE_NAME: "db"})
        );
        assert_eq!(four["metadata"]["annotations"], json!({"c": "d"}));
        assert_eq!(four["metadata"]["ownerReferences"][0]["kind"], "Endpoints");

        // They follow, and are nobody's twice.
        let made = [(&kinds::ENDPOINT_SLICE, four.clone()), (&kinds::ENDPOINT_SLICE, six.clone())];
        let follow = |ips: &[&str], more: (&'static coracle_api::Kind, Value)| {
            let meta = json!({"labels": {"a": "b"}, "annotations": {"c": "d"}});
            let objects = [more, endpoints(meta, ips)].into_iter().chain(made.clone());
            EndpointSliceMirroring.reconcile(&cluster(objects), &key)
        };
        assert!(follow(&both, plain()).is_empty());
        let plan = follow(&["192.0.2.2"], plain());
        let [(_, patch)] = patches(&plan)[..] else { panic!("{plan:?}") };
        assert_eq!(patch["endpoints"][0]["addresses"], json!(["192.0.2.2"]));
        assert_eq!(plan.writes.len(), 2, "the other one has nobody left: {plan:?}");
        // With a selector they are the other controller's.
        assert_eq!(follow(&both, service(json!({"selector": {"a": "b"}}))).writes.len(), 2);
    }

    #[test]
    fn others_are_left_alone() {
        let key = Key::new("ns", "db");
        let plain = || service(json!({"ports": [{"port": 5432}]}));
        for (what, objects) in [
            ("no Service", vec![endpoints(json!({}), &["192.0.2.1"])]),
            (
                "said so",
                vec![plain(), endpoints(json!({"labels": {SKIP: "true"}}), &["192.0.2.1"])],
            ),
            (
                "a lock",
                vec![plain(), endpoints(json!({"annotations": {LEADER: "x"}}), &["192.0.2.1"])],
            ),
            ("no Endpoints", vec![plain()]),
        ] {
            let plan = EndpointSliceMirroring.reconcile(&cluster(objects), &key);
            assert!(plan.is_empty(), "{what}: {plan:?}");
        }
    }
}
