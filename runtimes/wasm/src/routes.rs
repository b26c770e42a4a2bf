//! Services: who answers, for the calls that guests make, and, where the kernel does not do it, for
//! everybody else on this machine.
//!
//! The agent pushes the whole table; it is replaced as one. A forwarding listener looks into the
//! table of the moment for each connection. If the chosen backend lives in this very host, the
//! connection is handed to it as it is; otherwise its bytes are copied.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use coracle_sandbox as sandbox;
use coracle_sandbox::{Endpoint, Listen, ListenFailure, Protocol, RoutesStatus};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::container::{Container, Phase};
use crate::listeners::{self, Listeners};

const CONNECT: Duration = Duration::from_secs(3);
/// The most callers that a port remembers, as the kernel's table does.
const CALLERS: usize = 65_535;

/// One port of a Service.
pub(crate) struct Backends {
    addresses: Vec<SocketAddr>,
    api: bool,
    next: AtomicUsize,
    /// Who stays with whom, and for how long after the last call.
    sessions: Option<(Arc<Sessions>, Duration)>,
}

/// Each caller's backend, and when it was called last. It is kept when the table is replaced.
type Sessions = Mutex<HashMap<IpAddr, (SocketAddr, Instant)>>;

impl Backends {
    /// Whether this is the Kubernetes API of the cluster, by its Service `default/kubernetes`.
    pub(crate) fn is_api(&self) -> bool {
        self.api
    }

    /// All of them, each time beginning with the next one.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let first = self.next.fetch_add(1, Relaxed);
        let count = self.addresses.len();
        (0..count).map(move |n| self.addresses[first.wrapping_add(n) % count])
    }

    /// All of them, beginning with the one that the caller stays with, where the Service has such.
    pub(crate) fn for_caller(&self, caller: IpAddr) -> Vec<SocketAddr> {
        let mut addresses: Vec<SocketAddr> = self.in_turn().collect();
        let Some((sessions, time)) = &self.sessions else { return addresses };
        let now = Instant::now();
        let is_over = |at: Instant| now.duration_since(at) >= *time;
        let mut sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let known = sessions.get(&caller).filter(|(_, at)| !is_over(*at)).map(|(known, _)| *known);
        match known.and_then(|known| addresses.iter().position(|address| *address == known)) {
            Some(position) => addresses.swap(0, position),
            None if sessions.len() >= CALLERS && !sessions.contains_key(&caller) => {
                sessions.retain(|_, (_, at)| !is_over(*at));
            }
            None => {}
        }
        if let Some(first) = addresses.first()
            && (sessions.len() < CALLERS || sessions.contains_key(&caller))
        {
            sessions.insert(caller, (*first, now));
        }
        addresses
    }
}

type Ports = HashMap<u16, Arc<Backends>>;

#[derive(Clone)]
struct Service {
    vip: Option<IpAddr>,
    ports: Arc<Ports>,
    endpoints: Arc<[Endpoint]>,
    external_name: Option<Arc<str>>,
}

#[derive(Default)]
struct Table {
    names: HashMap<String, HashMap<String, Service>>,
    vips: HashMap<IpAddr, Arc<Ports>>,
    backends: HashSet<SocketAddr>,
}

/// The table, and the listeners that it asks for.
#[derive(Default)]
pub(crate) struct Routes {
    table: RwLock<Arc<Table>>,
    proxies: tokio::sync::Mutex<HashMap<Listen, JoinHandle<()>>>,
}

impl Routes {
    /// Who answers for a Service's name, as seen from a namespace; None if there is no such
    /// Service, or it has no such port.
    pub(crate) fn by_name(&self, namespace: &str, host: &str, port: u16) -> Option<Arc<Backends>> {
        self.service(namespace, host)?.ports.get(&port).cloned()
    }

    /// The addresses behind a Service's name: its ClusterIP, or, where it has none, its endpoints'. Behind an endpoint's name
    /// or a Pod's it is one.
    pub(crate) fn addresses(&self, namespace: &str, host: &str) -> Option<Vec<IpAddr>> {
        if let Some(found) = self.endpoint(namespace, host) {
            return Some(found);
        }
        let service = self.service(namespace, host).filter(|s| s.external_name.is_none())?;
        if let Some(vip) = service.vip {
            return Some(vec![vip]);
        }
        let backends = service.ports.values().flat_map(|port| port.in_turn());
        let known = service.endpoints.iter().map(|endpoint| endpoint.ip);
        let mut addresses = Vec::new();
        for ip in backends.map(|backend| backend.ip()).chain(known) {
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        Some(addresses)
    }

    /// The name that a Service is another name of (`ExternalName`).
    pub(crate) fn alias(&self, namespace: &str, host: &str) -> Option<Arc<str>> {
        self.service(namespace, host)?.external_name
    }

    fn service(&self, namespace: &str, host: &str) -> Option<Service> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<&str> = host.split('.').collect();
        let (namespace, service) = match labels[..] {
            [service] => (namespace, service),
            [service, namespace]
            | [service, namespace, "svc"]
            | [service, namespace, "svc", "cluster", "local"] => (namespace, service),
            _ => return None,
        };
        self.table().names.get(namespace)?.get(service).cloned()
    }

    /// `HOSTNAME.SERVICE[.NAMESPACE[.svc[.cluster.local]]]` and `10-1-2-3.NAMESPACE.pod[.cluster.local]`.
    fn endpoint(&self, namespace: &str, host: &str) -> Option<Vec<IpAddr>> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<&str> = host.split('.').collect();
        let (label, service, namespace) = match labels[..] {
            [address, _, "pod"] | [address, _, "pod", "cluster", "local"] => {
                let address = address.replace('-', ".").parse::<Ipv4Addr>().ok()?;
                return Some(vec![address.into()]);
            }
            [label, service] => (label, service, namespace),
            [label, service, namespace]
            | [label, service, namespace, "svc"]
            | [label, service, namespace, "svc", "cluster", "local"] => (label, service, namespace),
            _ => return None,
        };
        let table = self.table();
        let endpoints = &table.names.get(namespace)?.get(service)?.endpoints;
        let is_named = |endpoint: &&Endpoint| endpoint.hostname.as_deref() == Some(label);
        let found: Vec<IpAddr> = endpoints.iter().filter(is_named).map(|e| e.ip).collect();
        (!found.is_empty()).then_some(found)
    }

    /// Who answers for a ClusterIP.
    pub(crate) fn by_vip(&self, ip: IpAddr, port: u16) -> Option<Arc<Backends>> {
        self.table().vips.get(&ip)?.get(&port).cloned()
    }

    /// Whether some Service leads there.
    pub(crate) fn is_backend(&self, address: SocketAddr) -> bool {
        self.table().backends.contains(&address)
    }

    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a new table in force.
    pub(crate) async fn replace(
        self: &Arc<Self>,
        routes: sandbox::Routes,
        listeners: &Arc<Listeners>,
    ) -> RoutesStatus {
        let table = Arc::new(table(&routes, &self.table()));
        let mut proxies = self.proxies.lock().await;
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;

        let gone: Vec<Listen> =
            proxies.keys().filter(|listen| !routes.listen.contains(listen)).cloned().collect();
        for listen in gone {
            if let Some(task) = proxies.remove(&listen) {
                task.abort();
                let _ = task.await;
            }
        }
        let mut status = RoutesStatus::default();
        for listen in routes.listen {
            if proxies.contains_key(&listen) {
                continue;
            }
            let socket = listeners::bound(listen.address).and_then(listeners::registered);
            match socket {
                Ok(socket) => {
                    let work = forward(socket, listen.clone(), self.clone(), listeners.clone());
                    proxies.insert(listen, tokio::spawn(work));
                }
                Err(e) => status.failed.push(ListenFailure {
                    address: listen.address,
                    message: format!(
                        "Service {}/{} cannot be served at {}: {e}",
                        listen.namespace, listen.service, listen.address
                    ),
                }),
            }
        }
        status
    }
}

fn table(routes: &sandbox::Routes, before: &Table) -> Table {
    let mut table = Table::default();
    for service in &routes.services {
        let api = (&*service.namespace, &*service.name) == ("default", "kubernetes");
        let tcp = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
        let known = before.names.get(&service.namespace).and_then(|all| all.get(&service.name));
        let sessions = |port: u16| {
            let known = known.and_then(|known| known.ports.get(&port)?.sessions.clone());
            let sessions = known.map(|(sessions, _)| sessions).unwrap_or_default();
            let time = Duration::from_secs(service.affinity_seconds?.into());
            Some((sessions, time))
        };
        let ports = tcp.map(|port| {
            let addresses = port.backends.clone();
            table.backends.extend(&addresses);
            let (next, sessions) = (AtomicUsize::new(0), sessions(port.port));
            (port.port, Arc::new(Backends { addresses, api, next, sessions }))
        });
        let ports: Arc<Ports> = Arc::new(ports.collect());
        if let Some(vip) = service.vip {
            table.vips.insert(vip, ports.clone());
        }
        let namespace = table.names.entry(service.namespace.clone()).or_default();
        let known = Service {
            vip: service.vip,
            ports,
            endpoints: service.endpoints.as_slice().into(),
            external_name: service.external_name.as_deref().map(Arc::from),
        };
        namespace.insert(service.name.clone(), known);
    }
    table
}

async fn forward(
    socket: AsyncFd<std::os::fd::OwnedFd>,
    listen: Listen,
    routes: Arc<Routes>,
    listeners: Arc<Listeners>,
) {
    loop {
        let Some((stream, _)) = listeners::next(&socket).await else { continue };
        // Who has gone already is refused.
        let Ok(from) = stream.peer_addr() else { continue };
        match routes.by_name(&listen.namespace, &listen.service, listen.port) {
            Some(backends) => connect(stream, &backends.for_caller(from.ip()), &listeners),
            None => listeners::refuse(stream),
        }
    }
}

/// Gives a connection to the first backend that takes it.
fn connect(stream: std::net::TcpStream, backends: &[SocketAddr], listeners: &Listeners) {
    let mut elsewhere = Vec::new();
    let mut draining = None;
    for address in backends.iter().copied() {
        match listeners.at(address) {
            Some(container) if is_serving(&container) => {
                if elsewhere.is_empty() {
                    return listeners::hand_over(container, stream);
                }
                // In turn means after the others; those are tried first.
                draining = Some(container);
                break;
            }
            Some(container) => draining = draining.or(Some(container)),
            None => elsewhere.push(address),
        }
    }
    if elsewhere.is_empty() {
        return match draining {
            Some(container) => listeners::hand_over(container, stream),
            None => listeners::refuse(stream),
        };
    }
    tokio::spawn(async move {
        for address in elsewhere {
            let connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
            if let Ok(Ok(backend)) = connected {
                return copy(stream, backend).await;
            }
        }
        match draining {
            Some(container) => listeners::hand_over(container, stream),
            None => listeners::refuse(stream),
        }
    });
}

async fn copy(client: std::net::TcpStream, mut backend: TcpStream) {
    let _ = client.set_nodelay(true);
    let _ = backend.set_nodelay(true);
    if let Ok(mut client) = TcpStream::from_std(client) {
        // How a connection ends is its ends' business.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
    }
}

fn is_serving(container: &Container) -> bool {
    *container.phase.borrow() == Phase::Serving
}
