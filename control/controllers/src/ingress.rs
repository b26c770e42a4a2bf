//! Ingress: where it is reached, which is what nodes say of themselves.
//!
//! A node that serves Ingresses has their ports in an annotation. An Ingress of a class of ours is at the addresses of all
//! such nodes that are ready; ports are told where they are not the usual ones.

use std::borrow::Cow;

use coracle_api::kinds::{
    INGRESS, INGRESS_CLASS, INGRESS_CLASS_ANNOTATION, INGRESS_CONTROLLER,
    INGRESS_PORTS_ANNOTATION as PORTS, NODE,
};
use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, Object, Plan};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Addresses of one Ingress. More help nobody, and each is written to every Ingress.
const MOST_ADDRESSES: usize = 32;

/// Plans `status.loadBalancer` of Ingresses.
#[derive(Debug, Clone, Copy, Default)]
pub struct IngressController;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeView {
    metadata: Metadata,
    status: NodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    annotations: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Vec<Address>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Address {
    r#type: String,
    address: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
}

impl Controller for IngressController {
    fn name(&self) -> &'static str {
        "ingress"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        let resource = object.kind.resource;
        if resource == INGRESS.resource {
            return vec![Key::of(object)];
        }
        // Every Ingress is at every node that serves them.
        let matters = resource == INGRESS_CLASS.resource
            || resource == NODE.resource && cluster.count(&INGRESS) > 0;
        if !matters {
            return Vec::new();
        }
        cluster.list(&INGRESS).map(|ingress| Key::of(ingress)).collect()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(ingress) = cluster.get(&INGRESS, &key.namespace, &key.name) else { return plan };
        if ingress.is_deleting() || !is_ours(cluster, ingress) {
            return plan;
        }
        let points = points(cluster);
        let value = ingress.value();
        let known = &value["status"]["loadBalancer"]["ingress"];
        if known.as_array().cloned().unwrap_or_default() != points {
            let points = if points.is_empty() { Value::Null } else { points.into() };
            plan.patch_status(ingress, json!({"status": {"loadBalancer": {"ingress": points}}}));
        }
        plan
    }
}

fn is_ours(cluster: &Cluster, ingress: &Object) -> bool {
    let value = ingress.value();
    let annotation = value["metadata"]["annotations"][INGRESS_CLASS_ANNOTATION].as_str();
    let class = value["spec"]["ingressClassName"].as_str().or(annotation);
    class
        .and_then(|class| cluster.get(&INGRESS_CLASS, "", class))
        .is_some_and(|class| class.value()["spec"]["controller"] == INGRESS_CONTROLLER)
}

/// Where Ingresses are served, as their status tells it.
fn points(cluster: &Cluster) -> Vec<Value> {
    let points = cluster.list(&NODE).filter_map(|node| {
        let node: Cow<'_, NodeView> = node.decode().ok()?;
        let ports = node.metadata.annotations.get(PORTS)?.as_str()?;
        let is_ready =
            node.status.conditions.iter().any(|c| c.r#type == "Ready" && c.status == "True");
        let address = |kind: &str| node.status.addresses.iter().find(|a| a.r#type == kind);
        let address =
            address("ExternalIP").or_else(|| address("InternalIP")).filter(|_| is_ready)?;
        let mut point = json!({"ip": address.address});
        if ports != "80,443" {
            let ports = ports.split(',').filter_map(|port| port.parse::<u16>().ok());
            let ports: Vec<_> =
                ports.map(|port| json!({"port": port, "protocol": "TCP"})).collect();
            point["ports"] = ports.into();
        }
        Some(point)
    });
    points.take(MOST_ADDRESSES).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coracle_api::plan::Write;
    use jiff::Timestamp;

    use super::*;

    fn put(cluster: &mut Cluster, kind: &'static coracle_api::Kind, value: Value) {
        let object = Object::from_value(kind, &value).expect("an object");
        cluster.put(Arc::new(object));
    }

    fn node(name: &str, ip: &str, ports: Option<&str>, ready: &str) -> Value {
        let annotations: Map<_, _> =
            ports.map(|p| (PORTS.to_owned(), p.into())).into_iter().collect();
        json!({
            "metadata": {"name": name, "annotations": annotations},
            "status": {
                "addresses": [{"type": "InternalIP", "address": ip}],
                "conditions": [{"type": "Ready", "status": ready}],
            },
        })
    }

    #[test]
    fn addresses_are_those_of_ready_nodes_that_serve() {
        let mut cluster = Cluster::new(Timestamp::UNIX_EPOCH);
        let class = |name: &str, controller: &str| json!({"metadata": {"name": name}, "spec": {"controller": controller}});
        put(&mut cluster, &INGRESS_CLASS, class("coracle", INGRESS_CONTROLLER));
        put(&mut cluster, &INGRESS_CLASS, class("other", "a.b/c"));
        put(&mut cluster, &NODE, node("a", "10.0.0.1", Some("80,443"), "True"));
        put(&mut cluster, &NODE, node("b", "10.0.0.2", Some("8080,8443"), "True"));
        put(&mut cluster, &NODE, node("c", "10.0.0.3", Some("80,443"), "Unknown"));
        put(&mut cluster, &NODE, node("d", "10.0.0.4", None, "True"));
        let ingress = |class: &str, status: Value| json!({"metadata": {"namespace": "ns", "name": "i", "resourceVersion": "1"}, "spec": {"ingressClassName": class}, "status": status});
        let expected = json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2", "ports": [
            {"port": 8080, "protocol": "TCP"}, {"port": 8443, "protocol": "TCP"}]}]);
        let planned = |cluster: &Cluster| {
            let plan = IngressController.reconcile(cluster, &Key::new("ns", "i"));
            plan.writes
                .into_iter()
                .map(|write| match write {
                    Write::Patch { patch, .. } => {
                        patch["status"]["loadBalancer"]["ingress"].clone()
                    }
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>()
        };
        put(&mut cluster, &INGRESS, ingress("coracle", json!({})));
        assert_eq!(planned(&cluster), std::slice::from_ref(&expected));
        put(
            &mut cluster,
            &INGRESS,
            ingress("coracle", json!({"loadBalancer": {"ingress": expected}})),
        );
        assert_eq!(planned(&cluster), [] as [Value; 0]);
        put(&mut cluster, &INGRESS, ingress("other", json!({})));
        assert_eq!(planned(&cluster), [] as [Value; 0]);
        let woken = IngressController.wakes(&cluster, cluster.get(&NODE, "", "a").expect("a node"));
        assert_eq!(woken, [Key::new("ns", "i")]);
    }
}
