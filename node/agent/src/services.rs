//! Services as this node sees them: watched, made into routes, put into force.
//!
//! Changes that arrive while the last ones are being put into force are put into force together.

mod backends;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use coracle_ingress::config::Backend;
use coracle_ingress::table::BackendRef;
use coracle_network::{Network, Place, Protocol, RouteChange, RouteTable};
use coracle_sandbox as sandbox;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use tokio::sync::{Notify, watch};

use crate::balancers::{self, HealthChecks, Standing};
use crate::externals::Externals;
use crate::hosts::Hosts;
use crate::pod::{env, spec};

/// How soon what the kernel refused is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest rest between two tables that hosts are told.
const REST: Duration = Duration::from_secs(1);

/// Services and their routes; cheap to clone.
#[derive(Clone)]
pub struct Services {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// This node's name.
    node: String,
    state: RwLock<State>,
    changed: Notify,
    /// Routes that changed are in force in the network.
    enforced: Notify,
    /// Services were listed once.
    listed: watch::Sender<bool>,
    /// For those who follow Services beside the network.
    news: watch::Sender<()>,
    /// Addresses of names outside of the cluster.
    externals: Externals,
}

#[derive(Default)]
struct State {
    by_namespace: BTreeMap<String, BTreeMap<String, Arc<Service>>>,
    table: RouteTable,
    pending: Vec<RouteChange>,
    /// Both lists were seen once: what is not in them is not there.
    services_listed: bool,
    slices_listed: bool,
    /// The Nodes that may answer for load balancers' addresses.
    announcing: BTreeSet<String>,
    nodes_listed: bool,
}

impl Services {
    /// None yet, of a node at `place`.
    pub fn at(place: Place) -> Self {
        let node = place.node.clone();
        let state = State { table: RouteTable::at(place), ..State::default() };
        Self { inner: Arc::new(Inner { node, state: RwLock::new(state), ..Inner::default() }) }
    }

    /// Ports on which an HTTP component of the Pod is to be served.
    pub fn http_ports(&self, pod: &Pod, container: &str) -> Vec<u16> {
        let state = self.inner.state.read().unwrap_or_else(|e| e.into_inner());
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let services = state.by_namespace.get(namespace);
        let services = services.into_iter().flat_map(|s| s.values()).map(|s| s.as_ref());
        spec::http_ports(pod, container, services)
    }

    /// Variables that tell a container of the Pod of Services; waits for the first list of them.
    pub async fn variables(&self, pod: &Pod) -> Vec<(String, String)> {
        // The sender lives as long as `self`.
        let _ = self.inner.listed.subscribe().wait_for(|listed| *listed).await;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let links = pod.spec.as_ref().and_then(|s| s.enable_service_links) != Some(false);
        let state = self.inner.state.read().unwrap_or_else(|e| e.into_inner());
        let of = |namespace| state.by_namespace.get(namespace).into_iter().flat_map(|s| s.values());
        let master = of("default").find(|s| s.metadata.name.as_deref() == Some("kubernetes"));
        let own = of(namespace).map(|s| s.as_ref());
        env::service_variables(namespace, links, own, master.map(|s| s.as_ref()))
    }

    /// Watches Services and their endpoints and calls `services_changed` after each change of a Service, for ever.
    pub async fn watch(&self, client: kube::Client, services_changed: impl Fn()) {
        let config = watcher::Config::default();
        let services: Api<Service> = Api::all(client.clone());
        let slices: Api<EndpointSlice> = Api::all(client);
        // Only to the initial list's end are deletions inferred from absence.
        let mut seen_services = Vec::new();
        let mut seen_slices = Vec::new();
        let mut services = watcher(services, config.clone())
            .map_ok(|event| Item::Service(Box::new(event)))
            .map_err(drop)
            .boxed();
        let mut slices = watcher(slices, config)
            .map_ok(|event| Item::Slice(Box::new(event)))
            .map_err(drop)
            .boxed();
        loop {
            let item = tokio::select! {
                Some(item) = services.next() => item,
                Some(item) = slices.next() => item,
                else => return,
            };
            let Ok(item) = item else {
                // The server is away; the watcher tries again by itself.
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            };
            match item {
                Item::Service(event) => {
                    self.service(*event, &mut seen_services);
                    services_changed();
                }
                Item::Slice(event) => self.slice(*event, &mut seen_slices),
            }
            self.inner.changed.notify_one();
            self.inner.news.send_replace(());
        }
    }

    /// Tells of every change.
    pub fn news(&self) -> watch::Receiver<()> {
        self.inner.news.subscribe()
    }

    /// What an Ingress's backend is at present; none until that is known.
    pub fn backend(&self, wanted: &BackendRef) -> Option<Backend> {
        let state = self.inner.state.read().unwrap_or_else(|e| e.into_inner());
        if !state.services_listed || !state.slices_listed {
            return None;
        }
        let found = self.inner.backend(&state, wanted);
        Some(
            found
                .unwrap_or_else(|problem| Backend { problem: Some(problem), ..Backend::default() }),
        )
    }

    fn service(&self, event: watcher::Event<Service>, seen: &mut Vec<Service>) {
        let mut state = self.inner.state.write().unwrap_or_else(|e| e.into_inner());
        match event {
            watcher::Event::Init => seen.clear(),
            watcher::Event::InitApply(service) => seen.push(service),
            watcher::Event::InitDone => {
                let listed = std::mem::take(seen);
                let names: Vec<(String, String)> = state
                    .by_namespace
                    .iter()
                    .flat_map(|(ns, all)| all.keys().map(move |n| (ns.clone(), n.clone())))
                    .collect();
                for (namespace, name) in names {
                    let there = |s: &Service| {
                        s.namespace().as_deref() == Some(&namespace) && s.name_any() == name
                    };
                    if !listed.iter().any(there) {
                        state.remove(&namespace, &name);
                    }
                }
                for service in listed {
                    state.put(service);
                }
                state.services_listed = true;
                self.inner.listed.send_replace(true);
            }
            watcher::Event::Apply(service) => state.put(service),
            watcher::Event::Delete(service) => {
                state.remove(&service.namespace().unwrap_or_default(), &service.name_any());
            }
        }
    }

    fn slice(&self, event: watcher::Event<EndpointSlice>, seen: &mut Vec<EndpointSlice>) {
        let mut state = self.inner.state.write().unwrap_or_else(|e| e.into_inner());
        match event {
            watcher::Event::Init => seen.clear(),
            watcher::Event::InitApply(slice) => seen.push(slice),
            watcher::Event::InitDone => {
                let listed = std::mem::take(seen);
                let services: Vec<Arc<Service>> =
                    state.by_namespace.values().flat_map(|all| all.values().cloned()).collect();
                let services = services.iter().map(|s| s.as_ref());
                let changes = state.table.replace(services, listed.iter());
                state.pending.extend(changes);
                state.slices_listed = true;
            }
            watcher::Event::Apply(slice) => {
                let changes = state.table.update_slice(&slice);
                state.pending.extend(changes);
            }
            watcher::Event::Delete(slice) => {
                let change = state
                    .table
                    .remove_slice(&slice.namespace().unwrap_or_default(), &slice.name_any());
                state.pending.extend(change);
            }
        }
    }

    /// Takes in what Nodes there are.
    pub fn set_nodes(&self, nodes: &BTreeMap<String, Standing>) {
        let mut state = self.inner.state.write().unwrap_or_else(|e| e.into_inner());
        state.announcing = nodes
            .iter()
            .filter(|(_, standing)| standing.announces)
            .map(|(name, _)| name.clone())
            .collect();
        state.nodes_listed = true;
        let node = self.inner.node.clone();
        if let Some(own) = nodes.get(&node) {
            let changes = state.table.set_place(Place { node, zone: own.zone.clone() });
            state.pending.extend(changes);
        }
        self.inner.changed.notify_one();
    }

    /// Puts routes into force in the network as they change, for ever.
    pub async fn enforce(&self, network: Network) {
        let mut first = true;
        let mut checks = HealthChecks::default();
        let mut announced = None;
        let mut failed = false;
        loop {
            tokio::select! {
                () = self.inner.changed.notified() => {}
                () = tokio::time::sleep(AGAIN), if failed => {}
            }
            failed = false;
            let (changes, all, announces) = {
                let mut state = self.inner.state.write().unwrap_or_else(|e| e.into_inner());
                if !state.services_listed || !state.slices_listed {
                    continue;
                }
                // What an earlier agent left in force is replaced as a whole.
                let all = std::mem::take(&mut first)
                    .then(|| state.table.iter().cloned().collect::<Vec<_>>());
                // Until the Nodes are known, who answers for what stays as it is.
                let announces = state.nodes_listed.then(|| {
                    balancers::announced(state.table.iter(), &self.inner.node, &state.announcing)
                });
                (std::mem::take(&mut state.pending), all, announces)
            };
            if let Some(all) = &all {
                checks.replace(all.iter());
            } else {
                changes.iter().for_each(|change| checks.follow(change));
            }
            let is_changed = all.is_some() || !changes.is_empty();
            let applied = match all {
                Some(all) => network.replace(all).await,
                None => network.apply(changes).await,
            };
            if let Err(error) = applied {
                tracing::error!(%error, "Services are not up to date on this node");
            }
            if is_changed {
                self.inner.enforced.notify_one();
            }
            if let Some(announces) = announces.filter(|now| announced.as_ref() != Some(now)) {
                match network.announce(announces.clone()).await {
                    Ok(()) => announced = Some(announces),
                    Err(error) => {
                        tracing::error!(%error, "load balancers' addresses are not answered for; trying again");
                        failed = true;
                    }
                }
            }
        }
    }

    /// Tells the sandbox hosts, where guests' calls (and an ordinary user's Services) are routed, for ever. The kernel does not
    /// wait for that: a whole table is told, which takes its time where there are thousands of Services.
    pub async fn tell_hosts(&self, network: &Network, hosts: &Hosts) {
        loop {
            tokio::select! {
                () = self.inner.enforced.notified() => {}
                () = hosts.routes_wanted() => {
                    let state = self.inner.state.read().unwrap_or_else(|e| e.into_inner());
                    if !state.services_listed || !state.slices_listed {
                        continue;
                    }
                }
            }
            let begun = tokio::time::Instant::now();
            hosts.put_routes(&table(network)).await;
            // At most half of the time is spent on it, however fast endpoints change.
            tokio::time::sleep(begun.elapsed().min(REST)).await;
        }
    }
}

enum Item {
    Service(Box<watcher::Event<Service>>),
    Slice(Box<watcher::Event<EndpointSlice>>),
}

impl State {
    fn put(&mut self, service: Service) {
        let change = self.table.update_service(&service);
        self.pending.extend(change);
        self.by_namespace
            .entry(service.namespace().unwrap_or_default())
            .or_default()
            .insert(service.name_any(), Arc::new(service));
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        let change = self.table.remove_service(namespace, name);
        self.pending.extend(change);
        if let Some(all) = self.by_namespace.get_mut(namespace) {
            all.remove(name);
            if all.is_empty() {
                self.by_namespace.remove(namespace);
            }
        }
    }
}

/// The table as hosts are given it.
pub(crate) fn table(network: &Network) -> sandbox::Routes {
    let snapshot = network.snapshot();
    let tcp = snapshot.listen.into_iter().filter(|listen| listen.protocol == Protocol::Tcp);
    let listen = tcp.map(|listen| sandbox::Listen {
        address: listen.address,
        namespace: listen.service.namespace,
        service: listen.service.name,
        port: listen.port,
    });
    sandbox::Routes {
        generation: snapshot.generation,
        listen: listen.collect(),
        services: snapshot.services.iter().map(|route| convert(route)).collect(),
    }
}

fn convert(route: &coracle_network::ServiceRoute) -> sandbox::ServiceRoute {
    let ports = route.ports.iter().map(|p| sandbox::PortRoute {
        name: p.name.clone(),
        port: p.port,
        node_port: p.node_port,
        protocol: match p.protocol {
            Protocol::Tcp => sandbox::Protocol::Tcp,
            Protocol::Udp => sandbox::Protocol::Udp,
            Protocol::Sctp => sandbox::Protocol::Sctp,
        },
        backends: p.backends.clone(),
    });
    let endpoints =
        route.endpoints.iter().map(|e| sandbox::Endpoint { ip: e.ip, hostname: Some(e.label()) });
    sandbox::ServiceRoute {
        name: route.key.name.clone(),
        namespace: route.key.namespace.clone(),
        vip: route.cluster_ip,
        ports: ports.collect(),
        endpoints: endpoints.collect(),
        external_name: route.external_name.clone(),
        affinity_seconds: route
            .affinity
            .map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX)),
    }
}
