//! Which addresses a guest's sockets may have, and which they may reach.
//!
//! **Binding.** The wildcard address stands for the Pod's own, as does localhost; who listens on
//! localhost is reachable for its own Pod only. Any other address is nobody's here.
//!
//! **Calling.** A Service's ClusterIP leads to one of its endpoints. Localhost leads to the Pod
//! itself, never to another Pod and never to the machine. The rest is left to the network.
//!
//! **In a Pod with other containers** the namespace is the Pod's alone, and nothing is translated: the wildcard address and
//! localhost are what they are for the others.
//!
//! **Without a network namespace** (an ordinary user) Pods' addresses are loopback addresses of the
//! machine, behind each of which are the machine's own services too. There a guest reaches a
//! loopback address only where a Pod or a Service is known to listen; everything else refuses.
//! Low ports, which an ordinary user cannot have, are served 10,000 higher, as are those of HTTP
//! components.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use wasmtime_wasi::sockets::ErrorCode;

use crate::container::Container;

/// Added to ports that an ordinary user cannot have.
const MOVED: u16 = 10_000;

/// Who may talk to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Anyone,
    /// Bound to localhost.
    OwnPod,
}

/// Transport protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

/// Where guests of this host listen, or receive datagrams.
#[derive(Default)]
pub(crate) struct Servers(RwLock<HashSet<(Transport, SocketAddr)>>);

impl Servers {
    /// None if another has it.
    fn claim(self: &Arc<Self>, transport: Transport, address: SocketAddr) -> Option<Served> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let key = (transport, address);
        all.insert(key).then(|| Served { servers: self.clone(), key })
    }

    fn has(&self, transport: Transport, address: SocketAddr) -> bool {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.contains(&(transport, address))
    }
}

/// An address that is served for as long as this lives.
pub(super) struct Served {
    servers: Arc<Servers>,
    key: (Transport, SocketAddr),
}

impl Drop for Served {
    fn drop(&mut self) {
        self.servers.0.write().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// The rules for one container's sockets.
#[derive(Clone)]
pub(super) struct Place(Arc<Container>);

impl Place {
    pub(super) fn of(container: &Arc<Container>) -> Place {
        Place(container.clone())
    }

    fn ips(&self) -> &[IpAddr] {
        &self.0.sandbox.spec.ips
    }

    /// The Pod's address of a family.
    fn own(&self, v6: bool) -> Option<IpAddr> {
        self.ips().iter().copied().find(|ip| ip.is_ipv6() == v6)
    }

    /// Whether Pods have addresses among the machine's own.
    fn is_on_loopback(&self) -> bool {
        self.0.sandbox.spec.netns.is_none()
    }

    /// Whether the namespace is the Pod's alone.
    fn is_alone(&self) -> bool {
        self.0.sandbox.spec.own_network
    }

    /// Whether it means the Pod itself, to a guest. Without a namespace the other loopback addresses are other Pods'.
    fn is_localhost(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) if self.is_on_loopback() => ip == Ipv4Addr::LOCALHOST,
            ip => ip.is_loopback(),
        }
    }

    /// Where a port is really bound.
    fn port(&self, port: u16) -> u16 {
        static FIRST: LazyLock<u16> = LazyLock::new(first_free_port);
        if self.is_on_loopback() && port != 0 && port < *FIRST { port + MOVED } else { port }
    }

    /// Where to bind a socket that is to be bound to `wanted`, and who may talk to it then.
    pub(super) fn bind(&self, wanted: SocketAddr) -> Result<(SocketAddr, Reach), ErrorCode> {
        let ip = wanted.ip();
        let port = self.port(wanted.port());
        if self.ips().contains(&ip) {
            return Ok((SocketAddr::new(ip, port), Reach::Anyone));
        }
        let reach = match ip {
            ip if ip.is_unspecified() => Reach::Anyone,
            ip if self.is_localhost(ip) => Reach::OwnPod,
            _ => return Err(ErrorCode::AddressNotBindable),
        };
        if self.is_alone() {
            return Ok((SocketAddr::new(ip, port), reach));
        }
        let own = self.own(ip.is_ipv6()).ok_or(ErrorCode::AddressNotBindable)?;
        Ok((SocketAddr::new(own, port), reach))
    }

    /// Takes an address of the Pod, which nobody else in the Pod may have then. The system alone
    /// would not see to it: listeners share their ports with the host's own.
    pub(super) fn claim(
        &self,
        transport: Transport,
        address: SocketAddr,
    ) -> Result<Served, ErrorCode> {
        let node = &self.0.node;
        if transport == Transport::Tcp && node.listeners.at(address).is_some() {
            return Err(ErrorCode::AddressInUse);
        }
        node.servers.claim(transport, address).ok_or(ErrorCode::AddressInUse)
    }

    /// Where to connect to, or send to, for `wanted`.
    pub(super) fn reach(
        &self,
        transport: Transport,
        wanted: SocketAddr,
    ) -> Result<SocketAddr, ErrorCode> {
        let node = &self.0.node;
        if transport == Transport::Tcp
            && let Some(backends) = node.routes.by_vip(wanted.ip(), wanted.port())
        {
            let caller = self.own(wanted.is_ipv6());
            let backends = match caller {
                Some(caller) => backends.for_caller(caller),
                None => backends.in_turn().collect(),
            };
            return backends.first().copied().ok_or(ErrorCode::ConnectionRefused);
        }
        let ip = wanted.ip();
        if self.is_alone() {
            return Ok(wanted);
        }
        let own = self.ips().contains(&ip);
        if !self.is_on_loopback() {
            return match self.own(ip.is_ipv6()) {
                Some(pod) if ip.is_loopback() && !own => Ok(SocketAddr::new(pod, wanted.port())),
                _ => Ok(wanted),
            };
        }
        if !ip.is_loopback() {
            return Ok(wanted);
        }
        let ip = if !own && self.is_localhost(ip) {
            self.own(ip.is_ipv6()).ok_or(ErrorCode::ConnectionRefused)?
        } else {
            ip
        };
        // Somebody's ephemeral port, or a low one that was moved.
        let plain = SocketAddr::new(ip, wanted.port());
        let moved = SocketAddr::new(ip, self.port(wanted.port()));
        let found = [moved, plain].into_iter().find(|address| self.is_served(transport, *address));
        found.ok_or(ErrorCode::ConnectionRefused)
    }

    fn is_served(&self, transport: Transport, address: SocketAddr) -> bool {
        let node = &self.0.node;
        node.servers.has(transport, address)
            || (transport == Transport::Tcp
                && (node.listeners.at(address).is_some() || node.routes.is_backend(address)))
    }

    /// The address from which to call `target`; none where the system has to choose.
    pub(super) fn source(&self, target: SocketAddr) -> Option<SocketAddr> {
        if self.is_on_loopback() && !target.ip().is_loopback() {
            return None;
        }
        if self.is_alone() && target.ip().is_loopback() {
            return None;
        }
        Some(SocketAddr::new(self.own(target.is_ipv6())?, 0))
    }

    /// Whether somebody there may talk to a socket of this reach.
    pub(super) fn admits(&self, reach: Reach, peer: IpAddr) -> bool {
        let own = self.ips().contains(&peer) || (self.is_alone() && peer.is_loopback());
        reach == Reach::Anyone || own
    }

    pub(super) fn container(&self) -> &Arc<Container> {
        &self.0
    }
}

fn first_free_port() -> u16 {
    if nix::unistd::geteuid().is_root() {
        return 0;
    }
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok();
    start.and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}
