//! What is accepted of a Service and does nothing, or will not for long (`pkg/api/service/warnings.go`).

use std::net::IpAddr;

use serde_json::Value;

use crate::json::Json;
use crate::path::Path;

const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";

/// In upstream's words.
pub(super) fn of(service: &Value) -> Vec<String> {
    let mut told = Vec::new();
    let Some(spec) = service.at(&["spec"]) else { return told };
    let at = Path::new("spec");
    if service.has(&["metadata", "annotations", HINTS]) {
        told.push(format!("annotation {HINTS} is deprecated, please use {MODE} instead"));
    }
    let headless = spec.text(&["type"]) == "ClusterIP" && spec.text(&["clusterIP"]) == "None";
    let is_name = spec.text(&["type"]) == "ExternalName";
    let external = !spec.list(&["externalIPs"]).is_empty();
    let addresses = |field: &str, told: &mut Vec<String>| {
        for (i, address) in spec.list(&[field]).iter().filter_map(Value::as_str).enumerate() {
            told.extend(address_warning(&at.child(field).index(i), address));
        }
    };
    if !is_name && !headless {
        addresses("clusterIPs", &mut told);
    }
    if headless {
        if !spec.text(&["loadBalancerIP"]).is_empty() {
            told.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if external {
            told.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if !matches!(spec.text(&["sessionAffinity"]), "" | "None") {
            told.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    addresses("externalIPs", &mut told);
    if external && !headless && !is_name {
        told.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters"
                .to_owned(),
        );
    }
    let balancer = spec.text(&["loadBalancerIP"]);
    told.extend(address_warning(&at.child("loadBalancerIP"), balancer));
    let ranges = spec.list(&["loadBalancerSourceRanges"]).iter().filter_map(Value::as_str);
    for (i, range) in ranges.enumerate() {
        told.extend(range_warning(&at.child("loadBalancerSourceRanges").index(i), range));
    }
    if is_name && external {
        told.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !is_name && !spec.text(&["externalName"]).is_empty() {
        told.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.text(&["trafficDistribution"]) == "PreferClose" {
        told.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\""
                .to_owned(),
        );
    }
    told
}

/// IPv6 addresses have many spellings.
fn address_warning(at: &Path, address: &str) -> Option<String> {
    let IpAddr::V6(parsed) = address.parse().ok()? else { return None };
    let canonical = parsed.to_string();
    (canonical != address).then(|| {
        format!(
            "{at}: IPv6 address \"{address}\" should be in RFC 5952 canonical format (\"{canonical}\")"
        )
    })
}

/// A range whose address is not its first one may be meant as that address, or as the range.
fn range_warning(at: &Path, range: &str) -> Option<String> {
    let (address, bits) = range.trim().split_once('/')?;
    let (address, bits): (IpAddr, u32) = (address.parse().ok()?, bits.parse().ok()?);
    let (first, whole) = match address {
        IpAddr::V4(it) => {
            let mask = u32::MAX.checked_shl(32u32.checked_sub(bits)?).unwrap_or(0);
            (IpAddr::from((it.to_bits() & mask).to_be_bytes()), 32)
        }
        IpAddr::V6(it) => {
            let mask = u128::MAX.checked_shl(128u32.checked_sub(bits)?).unwrap_or(0);
            (IpAddr::from((it.to_bits() & mask).to_be_bytes()), 128)
        }
    };
    if first != address {
        return Some(format!(
            "{at}: CIDR value \"{range}\" is ambiguous in this context (should be \"{first}/{bits}\" or \"{address}/{whole}\"?)"
        ));
    }
    let canonical = format!("{first}/{bits}");
    (address.is_ipv6() && canonical != range).then(|| {
        format!(
            "{at}: IPv6 CIDR value \"{range}\" should be in RFC 5952 canonical format (\"{canonical}\")"
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_nothing_is_told() {
        for (spec, expected) in [
            (
                json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}),
                vec![],
            ),
            (
                json!({"type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "ClientIP", "externalIPs": ["192.0.2.1"]}),
                vec![
                    "spec.externalIPs is ignored for headless services",
                    "spec.SessionAffinity is ignored for headless services",
                ],
            ),
            (
                json!({"type": "ClusterIP", "externalName": "a.example.com", "externalIPs": ["2001:DB8::1"]}),
                vec![
                    "spec.externalIPs[0]: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
                    "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
                    "spec.externalName is ignored when spec.type is not \"ExternalName\"",
                ],
            ),
            (
                json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.5/24", "192.0.2.0/24", "0.0.0.0/0"], "trafficDistribution": "PreferClose"}),
                vec![
                    "spec.loadBalancerSourceRanges[0]: CIDR value \"192.0.2.5/24\" is ambiguous in this context (should be \"192.0.2.0/24\" or \"192.0.2.5/32\"?)",
                    "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
                ],
            ),
        ] {
            assert_eq!(of(&json!({"spec": spec})), expected, "{spec}");
        }
    }
}
