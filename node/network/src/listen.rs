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
use crate::routes::{Protocol, ServiceKey, ServiceRoute};

/// One socket of the proxy: connections to it go to the backends of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Where to listen: an address of the Service range or a load balancer's, or 127.0.0.1 for a NodePort.
    pub address: SocketAddr,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Whose traffic it is.
    pub service: ServiceKey,
    /// Which of the Service's ports ([`crate::PortRoute::port`]).
    pub port: u16,
}

/// The machine's share in the choice of sockets.
#[derive(Clone, Copy, Debug)]
pub struct Loopback {
    /// The cluster's Pod range: backends in it have their low ports moved.
    pub pods: Cidr,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub unprivileged_start: u16,
}

impl Loopback {
    /// All sockets for these routes, in their order.
    pub fn listens<'a>(&self, routes: impl IntoIterator<Item = &'a ServiceRoute>) -> Vec<Listen> {
        routes.into_iter().flat_map(|route| self.of_service(route)).collect()
    }

    /// The route with its backends as really bound; none if that is the same.
    #[must_use]
    pub fn bound(&self, route: &ServiceRoute) -> Option<ServiceRoute> {
        let mut bound = route.clone();
        for backend in bound.ports.iter_mut().flat_map(|port| &mut port.backends) {
            // Elsewhere than in Pods, a low port is somebody's who could bind it.
            if matches!(backend.ip(), IpAddr::V4(ip) if self.pods.contains(ip)) {
                backend.set_port(listen_port(backend.port(), self.unprivileged_start));
            }
        }
        (bound != *route).then_some(bound)
    }

    fn of_service<'a>(&self, route: &'a ServiceRoute) -> impl Iterator<Item = Listen> + use<'a> {
        let start = self.unprivileged_start;
        let served = route.ports.iter().filter(|port| !port.backends.is_empty());
        served.flat_map(move |port| {
            let vip = route.cluster_ip.filter(|ip| ip.is_loopback()).map(|ip| (ip, port.port));
            let node = port.node_port.map(|port| (IpAddr::V4(Ipv4Addr::LOCALHOST), port));
            // A pool of loopback addresses is one that an ordinary user can serve.
            let balanced = route.balancer_ips.iter().filter(|ip| ip.is_loopback());
            let balanced = balanced.map(|ip| (*ip, port.port));
            vip.into_iter().chain(node).chain(balanced).map(move |(ip, number)| Listen {
                address: SocketAddr::new(ip, listen_port(number, start)),
                protocol: port.protocol,
                service: route.key.clone(),
                port: port.port,
            })
        })
    }
}
