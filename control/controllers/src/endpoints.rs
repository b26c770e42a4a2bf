//! Endpoints: the older list of a Service's addresses, one object each, for clients that still read it.

use std::collections::BTreeMap;

use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Object, Plan, kinds};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::services::{self, TargetRef};
use crate::{owners, patch};

const MAX_ADDRESSES: usize = 1000;
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// Plans Endpoints for Services.
#[derive(Debug, Clone, Copy)]
pub struct EndpointsController;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct View {
    subsets: Vec<Subset>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subset {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<Address>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_ready_addresses: Vec<Address>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Port>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Address {
    ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_ref: Option<TargetRef>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    port: i32,
    #[serde(default)]
    protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app_protocol: Option<String>,
}

impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        match object.kind.resource {
            r if r == kinds::SERVICE.resource || r == kinds::ENDPOINTS.resource => {
                vec![Key::of(object)]
            }
            r if r == kinds::POD.resource => services::of_pod(cluster, object),
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let seen = cluster.get(&kinds::ENDPOINTS, &key.namespace, &key.name);
        let Some((service, view)) = services::get(cluster, key) else {
            // Ours go with their Service; those that people made stay.
            if let Some(seen) = seen
                && !seen.is_deleting()
                && seen.meta.labels.get(MANAGED_BY).is_some_and(|m| m == MANAGER)
            {
                plan.delete(seen, Propagation::Background);
            }
            return plan;
        };
        if !view.spec.is_selective()
            || service.is_deleting()
            || owners::is_terminating(cluster, &key.namespace)
        {
            return plan;
        }
        let mut labels = service.meta.labels.clone();
        labels.insert(MANAGED_BY.into(), MANAGER.into());
        if view.spec.is_headless() {
            labels.insert(HEADLESS.into(), String::new());
        }
        let (subsets, truncated) = subsets(cluster, service, &view.spec);
        match seen {
            None => {
                let mut object = json!({
                    "kind": "Endpoints",
                    "apiVersion": "v1",
                    "metadata": {"name": key.name, "namespace": key.namespace, "labels": labels},
                    "subsets": subsets,
                });
                if truncated {
                    object["metadata"]["annotations"][OVER_CAPACITY] = "truncated".into();
                }
                plan.create(&kinds::ENDPOINTS, object);
            }
            Some(seen) => {
                let mut change = json!({});
                if let Some(labels) = patch::diff(&json!(seen.meta.labels), &json!(labels)) {
                    change["metadata"]["labels"] = labels;
                }
                if truncated != seen.meta.annotations.contains_key(OVER_CAPACITY) {
                    let value = if truncated { "truncated".into() } else { Value::Null };
                    change["metadata"]["annotations"][OVER_CAPACITY] = value;
                }
                if seen.decode::<View>().unwrap_or_default().subsets != subsets {
                    change["subsets"] = json!(subsets);
                }
                if change != json!({}) {
                    plan.patch(seen, change);
                }
            }
        }
        plan
    }
}

/// Subsets by ports, addresses in order, ready ones first to have room; and whether some had none.
fn subsets(cluster: &Cluster, service: &Object, spec: &services::Spec) -> (Vec<Subset>, bool) {
    let mut subsets: BTreeMap<Vec<Port>, Subset> = BTreeMap::new();
    let mut members = services::members(cluster, &service.meta.namespace, &service.meta.name, spec);
    // Unlike slices, Endpoints have no words for a Pod that is going.
    members.retain(|m| !m.pod.is_deleting() || spec.publishes_not_ready());
    members.retain(|m| !m.ports.is_empty() || spec.is_headless());
    let truncated = members.len() > MAX_ADDRESSES;
    members.sort_by(|a, b| (!a.ready, &a.ip).cmp(&(!b.ready, &b.ip)));
    for member in members.into_iter().take(MAX_ADDRESSES) {
        let address = Address {
            ip: member.ip.clone(),
            hostname: member.hostname.clone(),
            node_name: member.pod.node_name.as_deref().map(str::to_owned),
            target_ref: Some(member.target_ref()),
        };
        let ports = member.ports.into_iter().map(|p| Port {
            name: p.name,
            port: p.port,
            protocol: p.protocol,
            app_protocol: p.app_protocol,
        });
        let ports: Vec<Port> = ports.collect();
        let subset = subsets
            .entry(ports)
            .or_insert_with_key(|ports| Subset { ports: ports.clone(), ..Subset::default() });
        if member.ready {
            subset.addresses.push(address);
        } else {
            subset.not_ready_addresses.push(address);
        }
    }
    (subsets.into_values().collect(), truncated)
}
