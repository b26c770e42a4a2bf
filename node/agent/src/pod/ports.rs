//! Ports of the machine, which only one Pod can have: what a node looks at before it takes one on, whoever bound it.
//!
//! The scheduler sees to that as well, but a Pod that names its node never meets it (`pkg/kubelet/lifecycle` upstream).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerPort, Pod};

use super::spec;

/// Why a Pod is not taken on: the reason in its status, and what is told.
pub const REASON: &str = "NodePorts";
/// In upstream's words.
pub const MESSAGE: &str =
    "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";

/// A port of the machine that a Pod takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    number: u16,
    protocol: Box<str>,
    /// None: at all addresses.
    address: Option<IpAddr>,
}

impl Port {
    fn of(port: &ContainerPort) -> Option<Self> {
        let address: Option<IpAddr> = port.host_ip.as_deref().and_then(|ip| ip.parse().ok());
        Some(Self {
            number: u16::try_from(port.host_port?).ok().filter(|number| *number > 0)?,
            protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
            address: address.filter(|address| !address.is_unspecified()),
        })
    }

    fn is_in_the_way_of(&self, other: &Self) -> bool {
        self.number == other.number
            && self.protocol == other.protocol
            && (self.address.is_none() || other.address.is_none() || self.address == other.address)
    }
}

/// The ports of the machine that a Pod takes; most take none.
pub fn of(pod: &Pod) -> Box<[Port]> {
    let all = spec::containers(pod).flat_map(|(_, container)| container.ports.iter().flatten());
    all.filter_map(Port::of).collect()
}

/// Whether one of these is taken by one of those.
pub fn conflict(wanted: &[Port], taken: &[Port]) -> bool {
    wanted.iter().any(|port| taken.iter().any(|other| port.is_in_the_way_of(other)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn taken(port: Value) -> Box<[Port]> {
        let spec = json!({"containers": [{"name": "c", "ports": [port]}]});
        of(&serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a Pod"))
    }

    #[test]
    fn a_port_is_taken_at_its_address_and_in_its_protocol() {
        let port = |more: Value| {
            let mut port = json!({"containerPort": 80, "hostPort": 8080});
            for (field, value) in more.as_object().expect("fields") {
                port[field] = value.clone();
            }
            taken(port)
        };
        let plain = || port(json!({}));
        for (a, b, expected) in [
            (plain(), plain(), true),
            (plain(), port(json!({"protocol": "UDP"})), false),
            (plain(), port(json!({"hostPort": 8081})), false),
            (plain(), port(json!({"hostIP": "127.0.0.1"})), true),
            (port(json!({"hostIP": "0.0.0.0"})), port(json!({"hostIP": "127.0.0.1"})), true),
            (port(json!({"hostIP": "127.0.0.2"})), port(json!({"hostIP": "127.0.0.1"})), false),
            (taken(json!({"containerPort": 80})), plain(), false),
        ] {
            assert_eq!(conflict(&a, &b), expected, "{a:?} {b:?}");
            assert_eq!(conflict(&b, &a), expected, "{b:?} {a:?}");
        }
    }
}
