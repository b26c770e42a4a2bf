//! LoadBalancer Services: each gets an address of the cluster's pool, which every node answers for.
//!
//! What an address is given to is the Services' own statuses, so all of them are one key: two plans at once would give one
//! address away twice. Services that name another class (`spec.loadBalancerClass`) are somebody else's, and without a pool all of
//! them are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, Object, Plan, kinds};
use serde::Deserialize;
use serde_json::json;

use crate::BURST;

/// The class that is meant where a Service names none.
const CLASS: &str = "coracle.dev/pool";

/// Plans the addresses of LoadBalancer Services.
#[derive(Debug, Clone, Default)]
pub struct LoadBalancerController {
    /// First and last addresses of ranges that addresses are taken from, in this order.
    pub pool: Vec<(Ipv4Addr, Ipv4Addr)>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct View {
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    r#type: String,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: String,
    load_balancer_class: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    load_balancer: LoadBalancer,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Vec<Ingress>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Ingress {
    ip: String,
}

impl View {
    fn of(service: &Object) -> Cow<'_, View> {
        service.decode().unwrap_or_else(|_| Cow::Owned(View::default()))
    }

    fn is_balanced(&self) -> bool {
        self.spec.r#type == "LoadBalancer"
    }

    /// Whether it is for us to give it an address.
    fn is_ours(&self) -> bool {
        self.is_balanced() && self.spec.load_balancer_class.as_deref().is_none_or(|c| c == CLASS)
    }

    fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.status.load_balancer.ingress.iter().filter_map(|ingress| ingress.ip.parse().ok())
    }
}

impl Controller for LoadBalancerController {
    fn name(&self) -> &'static str {
        // Upstream's events are its service controller's.
        "service"
    }

    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource != kinds::SERVICE.resource {
            return Vec::new();
        }
        let view = View::of(object);
        let matters = view.is_balanced() || !view.status.load_balancer.ingress.is_empty();
        if matters { vec![Key::new("", "pool")] } else { Vec::new() }
    }

    fn reconcile(&self, cluster: &Cluster, _: &Key) -> Plan {
        let mut plan = Plan::none();
        let services: Vec<_> =
            cluster.list(&kinds::SERVICE).map(|service| (service, View::of(service))).collect();
        // The oldest keeps an address that several have.
        let mut services: Vec<_> = services
            .iter()
            .filter(|(_, view)| view.is_balanced() || view.addresses().next().is_some())
            .collect();
        services.sort_by_key(|(service, _)| {
            (service.meta.creation_timestamp, &service.meta.namespace, &service.meta.name)
        });
        let mut taken: BTreeMap<Ipv4Addr, &str> = BTreeMap::new();
        let mut wanting = Vec::new();
        for (service, view) in services {
            if !view.is_ours() {
                // No balancer any more; another's status is another's.
                if !view.is_balanced() && view.addresses().any(|address| self.has(address)) {
                    plan.patch_status(
                        service,
                        json!({"status": {"loadBalancer": {"ingress": null}}}),
                    );
                }
                continue;
            }
            let wanted: Option<Ipv4Addr> = view.spec.load_balancer_ip.parse().ok();
            let mut given = view.addresses().filter(|address| self.has(*address));
            match given.next() {
                Some(address)
                    if wanted.is_none_or(|wanted| wanted == address)
                        && !taken.contains_key(&address) =>
                {
                    taken.insert(address, &service.meta.uid);
                }
                given => wanting.push((service, wanted, given)),
            }
        }
        for (service, wanted, given) in wanting {
            if plan.writes.len() >= BURST {
                plan.requeue(std::time::Duration::ZERO);
                break;
            }
            match self.choose(wanted, &taken) {
                Ok(address) => {
                    taken.insert(address, &service.meta.uid);
                    let ingress = json!([{"ip": address, "ipMode": "VIP"}]);
                    let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
                    plan.patch_status(service, status);
                    let message = format!("Ensured load balancer: {address}");
                    plan.event(service, "EnsuredLoadBalancer", message);
                }
                Err(why) => {
                    if given.is_some() {
                        let none = json!({"status": {"loadBalancer": {"ingress": null}}});
                        plan.patch_status(service, none);
                    }
                    self.pending(&mut plan, service, &why);
                }
            }
        }
        plan
    }
}

impl LoadBalancerController {
    fn has(&self, address: Ipv4Addr) -> bool {
        self.pool.iter().any(|(first, last)| (first..=last).contains(&&address))
    }

    /// The address that was asked for, or the first that is free.
    fn choose(
        &self,
        wanted: Option<Ipv4Addr>,
        taken: &BTreeMap<Ipv4Addr, &str>,
    ) -> Result<Ipv4Addr, String> {
        if self.pool.is_empty() {
            return Err("this cluster has no addresses for load balancers: start the server with \
                        --load-balancer-pool, or install a load balancer"
                .to_owned());
        }
        if let Some(wanted) = wanted {
            return if !self.has(wanted) {
                Err(format!(
                    "spec.loadBalancerIP {wanted} is in no --load-balancer-pool: choose another, or none"
                ))
            } else if taken.contains_key(&wanted) {
                Err(format!(
                    "spec.loadBalancerIP {wanted} is another Service's: choose another, or none"
                ))
            } else {
                Ok(wanted)
            };
        }
        for (first, last) in &self.pool {
            let (mut next, last) = (u32::from(*first), u32::from(*last));
            // Of a large pool only what is taken is looked at.
            for address in taken.range(*first..=Ipv4Addr::from(last)).map(|(a, _)| u32::from(*a)) {
                if address > next {
                    break;
                }
                next = address.saturating_add(1);
            }
            if next <= last && !taken.contains_key(&Ipv4Addr::from(next)) {
                return Ok(next.into());
            }
        }
        Err("all addresses of --load-balancer-pool are in use: give the server another, or delete a \
             Service of type LoadBalancer"
            .to_owned())
    }

    fn pending(&self, plan: &mut Plan, service: &Arc<Object>, why: &str) {
        let message = format!("Error syncing load balancer: failed to ensure load balancer: {why}");
        plan.warning(service, "SyncLoadBalancerFailed", message);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::tests::{cluster, patches};

    fn service(name: &str, spec: Value, address: &str) -> (&'static coracle_api::Kind, Value) {
        let mut spec = spec;
        if spec["type"].is_null() {
            spec["type"] = "LoadBalancer".into();
        }
        let ingress = match address {
            "" => json!([]),
            address => json!([{"ip": address, "ipMode": "VIP"}]),
        };
        let status = json!({"loadBalancer": {"ingress": ingress}});
        (&kinds::SERVICE, json!({"metadata": {"name": name}, "spec": spec, "status": status}))
    }

    #[test]
    fn addresses_come_from_the_pool() {
        let pool = |ranges: &[(&str, &str)]| LoadBalancerController {
            pool: ranges.iter().map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).collect(),
        };
        let small = pool(&[("192.0.2.1", "192.0.2.2"), ("192.0.2.9", "192.0.2.9")]);
        let any = || json!({});
        let this = |ip: &str| json!({"loadBalancerIP": ip});
        // What is there; what is given (nothing: taken away), and of whom is said that it waits.
        let check = |pool: &LoadBalancerController,
                     services: &[(&str, Value, &str)],
                     given: &[(&str, &str)],
                     waits: &[(&str, &str)]| {
            let objects = services.iter().map(|(name, spec, ip)| service(name, spec.clone(), ip));
            let plan = pool.reconcile(&cluster(objects), &Key::new("", "pool"));
            let found: Vec<(&str, &str)> = patches(&plan)
                .into_iter()
                .map(|(name, patch)| {
                    let ingress = &patch["status"]["loadBalancer"]["ingress"];
                    (name, ingress[0]["ip"].as_str().unwrap_or(""))
                })
                .collect();
            assert_eq!(found, given, "{services:?}");
            let warnings: Vec<_> = plan.events.iter().filter(|event| event.warning).collect();
            assert_eq!(warnings.len(), waits.len(), "{warnings:?}");
            for (event, (name, why)) in warnings.iter().zip(waits) {
                assert!(event.name == *name && event.message.contains(why), "{event:?}");
            }
        };
        check(
            &small,
            &[("a", any(), ""), ("b", any(), "")],
            &[("a", "192.0.2.1"), ("b", "192.0.2.2")],
            &[],
        );
        check(&small, &[("a", any(), "192.0.2.1"), ("b", any(), "")], &[("b", "192.0.2.2")], &[]);
        check(&small, &[("a", any(), "192.0.2.2"), ("b", any(), "")], &[("b", "192.0.2.1")], &[]);
        check(
            &small,
            &[
                ("a", any(), "192.0.2.1"),
                ("b", any(), "192.0.2.2"),
                ("c", any(), ""),
                ("d", any(), ""),
            ],
            &[("c", "192.0.2.9")],
            &[("d", "all addresses of --load-balancer-pool are in use")],
        );
        check(&small, &[("a", this("192.0.2.9"), "")], &[("a", "192.0.2.9")], &[]);
        check(&small, &[("a", this("192.0.2.9"), "192.0.2.1")], &[("a", "192.0.2.9")], &[]);
        check(
            &small,
            &[("a", this("198.51.100.1"), "")],
            &[],
            &[("a", "is in no --load-balancer-pool")],
        );
        check(
            &small,
            &[("a", any(), "192.0.2.9"), ("b", this("192.0.2.9"), "192.0.2.1")],
            &[("b", "")],
            &[("b", "is another Service's")],
        );
        // Two that have one address: the first keeps it.
        check(
            &small,
            &[("a", any(), "192.0.2.1"), ("b", any(), "192.0.2.1")],
            &[("b", "192.0.2.2")],
            &[],
        );
        check(&small, &[("a", json!({"type": "NodePort"}), "192.0.2.1")], &[("a", "")], &[]);
        let other = json!({"loadBalancerClass": "example.com/other"});
        check(&small, &[("a", other.clone(), ""), ("b", other, "198.51.100.1")], &[], &[]);
        check(
            &small,
            &[("a", json!({"loadBalancerClass": CLASS}), "")],
            &[("a", "192.0.2.1")],
            &[],
        );
        // Without a pool what others gave stays.
        let none = pool(&[]);
        check(&none, &[("a", any(), "")], &[], &[("a", "--load-balancer-pool")]);
        check(&none, &[("a", json!({"type": "ClusterIP"}), "192.0.2.1")], &[], &[]);
    }
}
