//! IPAddress: one for each address that a Service has, which says so.
//!
//! Who has an address is decided where Services are written; these objects follow, for `kubectl get ipaddresses` and those who
//! look there before they take an address themselves. A key is a Service, or an address where it has no namespace: a Service
//! that is gone no longer says which addresses it had.

use std::time::Duration;

use coracle_api::kinds::{IP_ADDRESS, SERVICE};
use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Object, Plan};
use serde_json::{Value, json};

const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// Who keeps those of Services, in the words of the API server.
const ALLOCATOR: &str = "ipallocator.k8s.io";

/// Plans the IPAddresses of Services.
#[derive(Debug, Clone, Copy)]
pub struct IpAddressController;

impl Controller for IpAddressController {
    fn name(&self) -> &'static str {
        "ip-address"
    }

    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == SERVICE.resource {
            let value = object.value();
            let addresses = addresses(&value).into_iter();
            return addresses.map(|ip| Key::new("", ip)).chain([Key::of(object)]).collect();
        }
        if object.kind.resource == IP_ADDRESS.resource {
            let parent = parent(&object.value());
            return parent.into_iter().chain([Key::of(object)]).collect();
        }
        Vec::new()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        if key.namespace.is_empty() {
            let known = cluster.get(&IP_ADDRESS, "", &key.name);
            if let Some(known) = known.filter(|known| is_ours(known) && !is_had(cluster, known)) {
                plan.delete(known, Propagation::Background);
            }
            return plan;
        }
        let Some(service) = cluster.get(&SERVICE, &key.namespace, &key.name) else { return plan };
        let value = service.value();
        for ip in addresses(&value) {
            let known = cluster.get(&IP_ADDRESS, "", ip);
            match known {
                Some(known) if parent(&known.value()).as_ref() == Some(key) => continue,
                // Its end wakes the Service that it names.
                Some(known) if known.is_deleting() => {
                    plan.requeue(Duration::from_secs(1));
                    continue;
                }
                // Whose it was does not change: one of a Service that had the address before makes room.
                Some(known) if is_ours(known) && !is_had(cluster, known) => {
                    plan.delete(known, Propagation::Background);
                }
                // Somebody wrote it by hand, and may have reasons.
                Some(_) => continue,
                None => {}
            }
            plan.create(&IP_ADDRESS, made(ip, key));
        }
        plan
    }
}

fn made(ip: &str, service: &Key) -> Value {
    let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {"name": ip, "labels": {FAMILY: family, MANAGED_BY: ALLOCATOR}},
        "spec": {"parentRef": {
            "group": "", "resource": "services", "namespace": service.namespace, "name": service.name,
        }},
    })
}

/// The addresses that a Service has in the range of Services.
fn addresses(service: &Value) -> Vec<&str> {
    if service["spec"]["type"] == "ExternalName" {
        return Vec::new();
    }
    let all = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    all.filter_map(Value::as_str).filter(|ip| !ip.is_empty() && *ip != "None").collect()
}

/// The Service that an IPAddress names.
fn parent(address: &Value) -> Option<Key> {
    let parent = &address["spec"]["parentRef"];
    let text = |field: &str| parent[field].as_str().unwrap_or_default();
    (text("group").is_empty() && text("resource") == "services" && !text("namespace").is_empty())
        .then(|| Key::new(text("namespace"), text("name")))
}

fn is_ours(address: &Object) -> bool {
    address.meta.labels.get(MANAGED_BY).is_some_and(|by| by == ALLOCATOR)
}

/// Whether the Service that it names has the address.
fn is_had(cluster: &Cluster, address: &Object) -> bool {
    let parent = parent(&address.value());
    let service = parent.and_then(|key| cluster.get(&SERVICE, &key.namespace, &key.name));
    service.is_some_and(|service| addresses(&service.value()).contains(&address.meta.name.as_str()))
}

#[cfg(test)]
mod tests {
    use coracle_api::plan::Write;

    use super::*;
    use crate::tests::cluster;

    fn service(name: &str, ips: &[&str]) -> (&'static coracle_api::Kind, Value) {
        let spec = json!({"type": "ClusterIP", "clusterIP": ips.first(), "clusterIPs": ips});
        (&SERVICE, json!({"metadata": {"name": name}, "spec": spec}))
    }

    fn address(ip: &str, service: &str) -> (&'static coracle_api::Kind, Value) {
        (&IP_ADDRESS, made(ip, &Key::new("ns", service)))
    }

    /// What is planned for a key: addresses, with `-` before those that are deleted.
    #[track_caller]
    fn check(
        objects: impl IntoIterator<Item = (&'static coracle_api::Kind, Value)>,
        key: Key,
        expected: &[&str],
    ) {
        let plan = IpAddressController.reconcile(&cluster(objects), &key);
        let planned: Vec<String> = plan
            .writes
            .iter()
            .map(|write| match write {
                Write::Create { object, .. } => {
                    assert_eq!(object["spec"]["parentRef"]["name"], key.name);
                    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
                }
                Write::Delete { name, .. } => format!("-{name}"),
                Write::Patch { name, .. } => format!("patch {name}"),
            })
            .collect();
        assert_eq!(planned, expected, "{key}");
    }

    #[test]
    fn every_address_of_a_service_has_an_object() {
        let (own, ip) = (Key::new("ns", "a"), Key::new("", "10.0.0.1"));
        check([service("a", &["10.0.0.1"])], own.clone(), &["10.0.0.1"]);
        check([service("a", &["10.0.0.1"]), address("10.0.0.1", "a")], own.clone(), &[]);
        check([service("a", &["10.0.0.1"]), address("10.0.0.1", "a")], ip.clone(), &[]);
        check([service("a", &["None"])], own.clone(), &[]);
        // The Service is gone, or is headless by now.
        check([address("10.0.0.1", "a")], ip.clone(), &["-10.0.0.1"]);
        check([address("10.0.0.1", "a"), service("a", &["None"])], ip.clone(), &["-10.0.0.1"]);
        // Another has the address by now.
        let taken = [address("10.0.0.1", "b"), service("a", &["10.0.0.1"])];
        check(taken, own.clone(), &["-10.0.0.1", "10.0.0.1"]);
        let mut by_hand = address("10.0.0.1", "b");
        by_hand.1["metadata"]["labels"] = json!({});
        check([by_hand.clone(), service("a", &["10.0.0.1"])], own, &[]);
        check([by_hand], ip, &[]);
    }

    #[test]
    fn changes_wake_services_and_addresses() {
        let known = cluster([service("a", &["10.0.0.1"]), address("10.0.0.2", "b")]);
        let woken = |kind, namespace, name| {
            let object = known.get(kind, namespace, name).expect("there");
            IpAddressController.wakes(&known, object)
        };
        let key = |namespace: &str, name: &str| Key::new(namespace, name);
        assert_eq!(woken(&SERVICE, "ns", "a"), [key("", "10.0.0.1"), key("ns", "a")]);
        assert_eq!(woken(&IP_ADDRESS, "", "10.0.0.2"), [key("ns", "b"), key("", "10.0.0.2")]);
    }
}
