//! ServiceCIDR: says of each that Services get their addresses from it, and keeps it while some have one.
//!
//! There is one from the start, which has the name `kubernetes`; more may be declared when its addresses run out. Who may have which
//! address is decided where Services are written.

use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_api::kinds::{IP_ADDRESS, SERVICE, SERVICE_CIDR};
use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, Object, Plan};
use serde_json::{Value, json};

use crate::patch;

/// Keeps a range while Services have addresses out of it.
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// Plans the condition `Ready` of ServiceCIDRs.
#[derive(Debug, Clone, Copy)]
pub struct ServiceCidrController;

impl Controller for ServiceCidrController {
    fn name(&self) -> &'static str {
        "service-cidr"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        let going = |object: &&Arc<Object>| object.is_deleting();
        let all = || cluster.list(&SERVICE_CIDR);
        match object.kind.resource {
            r if r == SERVICE_CIDR.resource => {
                // What stands in another one's way may not do so any more.
                let others = all().filter(going).map(|cidr| Key::of(cidr));
                others.chain([Key::of(object)]).collect()
            }
            r if r == SERVICE.resource || r == IP_ADDRESS.resource => {
                all().filter(going).map(|cidr| Key::of(cidr)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(cidr) = cluster.get(&SERVICE_CIDR, "", &key.name) else { return plan };
        if !cidr.is_deleting() {
            if !cidr.meta.finalizers.iter().any(|known| known == FINALIZER) {
                let all: Vec<&str> =
                    cidr.meta.finalizers.iter().map(String::as_str).chain([FINALIZER]).collect();
                plan.patch(cidr, json!({"metadata": {"finalizers": all}}));
                return plan;
            }
            tell(cluster, cidr, ["True", "", "Kubernetes Service CIDR is ready"], &mut plan);
        } else if is_needed(cluster, cidr) {
            let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            tell(cluster, cidr, ["False", "Terminating", why], &mut plan);
        } else {
            let left: Vec<_> = cidr.meta.finalizers.iter().filter(|f| *f != FINALIZER).collect();
            if left.len() < cidr.meta.finalizers.len() {
                plan.patch(cidr, json!({"metadata": {"finalizers": left}}));
            }
        }
        plan
    }
}

fn tell(cluster: &Cluster, cidr: &Object, [status, reason, message]: [&str; 3], plan: &mut Plan) {
    let known = cidr.value();
    let mut conditions = known["status"]["conditions"].as_array().cloned().unwrap_or_default();
    if conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == status) {
        return;
    }
    conditions.retain(|condition| condition["type"] != "Ready");
    conditions.push(json!({
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": patch::time(cluster.now),
    }));
    plan.patch_status(cidr, json!({"status": {"conditions": conditions}}));
}

/// Some Service has an address out of it that is in no other range.
fn is_needed(cluster: &Cluster, cidr: &Object) -> bool {
    let own = ranges(cidr);
    let others = cluster.list(&SERVICE_CIDR).filter(|other| !other.is_deleting());
    let others: Vec<_> = others.flat_map(|other| ranges(other)).collect();
    let is_in = |ranges: &[(u32, u32)], ip: u32| {
        ranges.iter().any(|(first, last)| (*first..=*last).contains(&ip))
    };
    cluster.list(&SERVICE).any(|service| {
        let value = service.value();
        let ips = value["spec"]["clusterIPs"].as_array().into_iter().flatten();
        let mut ips = ips.filter_map(|ip| ip.as_str()?.parse::<Ipv4Addr>().ok()).map(u32::from);
        ips.any(|ip| is_in(&own, ip) && !is_in(&others, ip))
    })
}

/// First and last addresses of its IPv4 ranges.
fn ranges(cidr: &Object) -> Vec<(u32, u32)> {
    let value = cidr.value();
    let cidrs = value["spec"]["cidrs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let read = |cidr: &str| {
        let (network, prefix) = cidr.split_once('/')?;
        let (network, prefix): (Ipv4Addr, u32) = (network.parse().ok()?, prefix.parse().ok()?);
        let mask = u32::MAX.checked_shl(32_u32.checked_sub(prefix)?).unwrap_or(0);
        let first = u32::from(network) & mask;
        Some((first, first | !mask))
    };
    cidrs.filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{cluster, patches};

    fn cidr(name: &str, range: &str, going: bool) -> (&'static coracle_api::Kind, Value) {
        let mut cidr = json!({
            "metadata": {"name": name, "finalizers": [FINALIZER]},
            "spec": {"cidrs": [range]},
        });
        if going {
            cidr["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
        }
        (&SERVICE_CIDR, cidr)
    }

    #[test]
    fn a_range_is_ready_and_stays_while_it_is_needed() {
        let service =
            (&SERVICE, json!({"metadata": {"name": "s"}, "spec": {"clusterIPs": ["10.1.0.7"]}}));
        let own = || cidr("kubernetes", "10.0.0.0/16", false);
        let plan = |objects: Vec<(&'static coracle_api::Kind, Value)>| {
            let plan = ServiceCidrController.reconcile(&cluster(objects), &Key::new("", "more"));
            patches(&plan).first().map(|(_, patch)| (*patch).clone())
        };
        let ready = plan(vec![own(), cidr("more", "10.1.0.0/16", false)]).expect("it is told");
        assert_eq!(ready["status"]["conditions"][0]["status"], "True");
        let going = || cidr("more", "10.1.0.0/16", true);
        let kept = plan(vec![own(), going(), service.clone()]).expect("it is told");
        assert_eq!(kept["status"]["conditions"][0]["reason"], "Terminating");
        let free = json!({"metadata": {"finalizers": []}});
        assert_eq!(plan(vec![own(), going()]), Some(free.clone()));
        // Another one has the address as well.
        let wide = cidr("wide", "10.0.0.0/8", false);
        assert_eq!(plan(vec![own(), wide, going(), service]), Some(free));
        let mut new = cidr("more", "10.1.0.0/16", false);
        new.1["metadata"]["finalizers"] = json!([]);
        assert_eq!(plan(vec![new]), Some(json!({"metadata": {"finalizers": [FINALIZER]}})));
    }
}
