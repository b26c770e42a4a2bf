//! Services without root: which sockets the proxy opens, and where it leads each. Pure.
//!
//! An ordinary user can neither translate addresses nor bind low ports, so ClusterIPs are loopback addresses on
//! which a userspace proxy listens, and ports below `net.ipv4.ip_unprivileged_port_start` are served 10,000 higher
//! (see [`listen_port`]). A Service without backends has no listener: its callers are refused, as by kube-proxy.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::address::listen_port;
use crate::cidr::Cidr;
use crate::routes::{PortRoute, Protocol, ServiceKey, ServiceRoute};

/// One socket of the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Where to listen: an address of the Service range, or 127.0.0.1 for a NodePort.
    pub address: SocketAddr,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Whose traffic it is.
    pub service: ServiceKey,
    /// The Service port's name.
    pub port: String,
    /// Whether a client address stays with its backend.
    pub affinity: bool,
    /// Where to connect, as really bound: Pods' low ports are moved already.
    pub backends: Vec<SocketAddr>,
}

/// The machine's share in the choice of sockets.
#[derive(Clone, Copy, Debug)]
pub struct Loopback {
    /// The node's Pod range: backends in it have their low ports moved.
    pub pods: Cidr,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub unprivileged_start: u16,
}

impl Loopback {
    /// All sockets for these routes, in their order.
    pub fn listens<'a>(&self, routes: impl IntoIterator<Item = &'a ServiceRoute>) -> Vec<Listen> {
        routes.into_iter().flat_map(|route| self.of_service(route)).collect()
    }

    fn of_service(&self, route: &ServiceRoute) -> Vec<Listen> {
        let mut result = Vec::new();
        for port in route.ports.iter().filter(|port| !port.backends.is_empty()) {
            let vip = route.cluster_ip.filter(|ip| ip.is_loopback()).map(|ip| (ip, port.port));
            let node = port.node_port.map(|port| (IpAddr::V4(Ipv4Addr::LOCALHOST), port));
            for (ip, number) in vip.into_iter().chain(node) {
                result.push(Listen {
                    address: SocketAddr::new(ip, listen_port(number, self.unprivileged_start)),
                    protocol: port.protocol,
                    service: route.key.clone(),
                    port: port.name.clone(),
                    affinity: route.affinity.is_some(),
                    backends: self.bound(port),
                });
            }
        }
        result
    }

    /// A port's backends as really bound.
    fn bound(&self, port: &PortRoute) -> Vec<SocketAddr> {
        let bound = |backend: &SocketAddr| match backend.ip() {
            IpAddr::V4(ip) if self.pods.contains(ip) => {
                SocketAddr::new(backend.ip(), listen_port(backend.port(), self.unprivileged_start))
            }
            _ => *backend,
        };
        port.backends.iter().map(bound).collect()
    }
}
