//! What the proxy knows: looked up by every request, changed by the agent's updates.
//!
//! A look-up takes a lock that is held for a few nanoseconds and by writers only while they swap what they prepared; so a
//! request sees one state of things, and an update of thousands of hosts holds nobody up.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustls::sign::CertifiedKey;

use crate::config::{Backend, Host, Protocol, Target, Update};
use crate::metrics::Traffic;
use crate::tls;

/// How long an endpoint that took no connection is passed over, if there are others.
const REST: Duration = Duration::from_secs(1);

/// The routing table in force.
#[derive(Default)]
pub(crate) struct State {
    inner: RwLock<Inner>,
    /// The counters of each Ingress, kept as long as it has rules.
    traffic: RwLock<HashMap<Arc<str>, Arc<Traffic>>>,
}

#[derive(Default)]
struct Inner {
    generation: u64,
    /// By name; the empty one is every other host.
    hosts: HashMap<String, Arc<Routes>>,
    /// By the domain that stands behind `*.`.
    wild: HashMap<String, Arc<Routes>>,
    pools: HashMap<String, Arc<Pool>>,
    certificates: HashMap<String, Arc<CertifiedKey>>,
    trusted: Vec<(IpAddr, u8)>,
}

/// A host's rules, to be looked up.
#[derive(Default)]
struct Routes {
    exact: HashMap<String, Arc<Route>>,
    prefixes: HashMap<String, Arc<Route>>,
    /// Length of the longest prefix.
    longest: usize,
    otherwise: Option<Arc<Route>>,
    certificate: Option<Arc<str>>,
}

/// Where a path leads.
pub(crate) struct Route {
    pub(crate) target: Target,
    pub(crate) traffic: Arc<Traffic>,
    /// Whether its host has a certificate.
    pub(crate) certified: bool,
}

/// A backend's endpoints.
pub(crate) struct Pool {
    pub(crate) protocol: Protocol,
    pub(crate) problem: Option<String>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    next: AtomicUsize,
}

/// One endpoint, as all workers see it.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
    /// Requests that it is serving for us.
    pub(crate) active: AtomicU32,
    /// When it last took no connection, in milliseconds after `born`; 0 for never.
    failed: AtomicU64,
    born: Instant,
}

impl Endpoint {
    fn new(address: SocketAddr, protocol: Protocol) -> Self {
        let (active, failed) = (AtomicU32::new(0), AtomicU64::new(0));
        Self { address, protocol, active, failed, born: Instant::now() }
    }

    /// Where it is, and how it is spoken to there.
    pub(crate) fn place(&self) -> (SocketAddr, Protocol) {
        (self.address, self.protocol)
    }

    pub(crate) fn fail(&self) {
        self.failed.store(self.born.elapsed().as_millis().max(1) as u64, Relaxed);
    }

    fn rests(&self) -> bool {
        let failed = self.failed.load(Relaxed);
        failed != 0 && self.born.elapsed() < Duration::from_millis(failed) + REST
    }
}

impl Pool {
    /// Of the next two in turn, the one with less to do; `tried` are passed over, and those that took no connection lately
    /// as long as there are others.
    pub(crate) fn choose(&self, tried: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        let count = self.endpoints.len();
        let start = self.next.fetch_add(1, Relaxed);
        let turn = |skip_resting: bool| {
            let all = (0..count).map(move |i| &self.endpoints[start.wrapping_add(i) % count]);
            let mut fit = all
                .filter(|endpoint| !tried.contains(&endpoint.address))
                .filter(|endpoint| !skip_resting || !endpoint.rests());
            let (first, second) = (fit.next()?, fit.next());
            let busy = |endpoint: &Endpoint| endpoint.active.load(Relaxed);
            Some(match second {
                Some(second) if busy(second) < busy(first) => second.clone(),
                _ => first.clone(),
            })
        };
        turn(true).or_else(|| turn(false))
    }
}

/// What was found for a request.
pub(crate) struct Found {
    pub(crate) route: Arc<Route>,
    pub(crate) pool: Option<Arc<Pool>>,
    /// The caller is a proxy whose words about a request's origin are believed.
    pub(crate) trusted: bool,
}

impl State {
    /// Where a host (in lower case, without a port) and a path lead a caller.
    pub(crate) fn find(&self, host: &str, path: &str, peer: IpAddr) -> Option<Found> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let routes = inner.of(host).find(|routes| routes.has_rules());
        // A host that has rules has no others: what they do not name is for the default backend.
        let default = || inner.hosts.get("").and_then(|all| all.otherwise.as_ref());
        let route = routes.and_then(|routes| routes.find(path)).or_else(default)?.clone();
        let pool = inner.pools.get(&route.target.backend).cloned();
        let is_trusted = |(network, bits): &(IpAddr, u8)| contains(*network, *bits, peer);
        Some(Found { route, pool, trusted: inner.trusted.iter().any(is_trusted) })
    }

    /// Name of a host's certificate.
    pub(crate) fn certificate_of(&self, host: &str) -> Option<Arc<str>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let name = inner.of(host).find_map(|routes| routes.certificate.clone())?;
        inner.certificates.contains_key(&*name).then_some(name)
    }

    /// A certificate by its name.
    pub(crate) fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.certificates.get(name).cloned()
    }

    /// Takes in what is different; what is in force afterwards.
    pub(crate) fn update(&self, update: Update) -> u64 {
        let mut certificates = Vec::new();
        for (name, certificate) in &update.certificates {
            let parsed = certificate.as_ref().map(|c| tls::parse(&c.chain, &c.key)).transpose();
            match parsed {
                Ok(parsed) => certificates.push((name.clone(), parsed)),
                // The agent checks them before it sends them.
                Err(error) => tracing::warn!(%error, certificate = name, "certificate not usable"),
            }
        }
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if update.base != 0 && update.base != inner.generation {
            return inner.generation;
        }
        let mut old_pools = HashMap::new();
        if update.base == 0 {
            old_pools = std::mem::take(&mut inner.pools);
            *inner = Inner::default();
        }
        inner.generation = update.generation;
        inner.trusted = update.trusted.into_iter().collect();
        for (name, key) in certificates {
            match key {
                Some(key) => inner.certificates.insert(name, Arc::new(key)),
                None => inner.certificates.remove(&name),
            };
        }
        for (name, host) in update.hosts {
            let (all, name) = match name.strip_prefix("*.") {
                Some(domain) => (&mut inner.wild, domain.to_owned()),
                None => (&mut inner.hosts, name),
            };
            match host {
                Some(host) => all.insert(name, Arc::new(self.routes(&host))),
                None => all.remove(&name),
            };
        }
        for (name, backend) in update.backends {
            let old = inner.pools.remove(&name).or_else(|| old_pools.remove(&name));
            if let Some(backend) = backend {
                inner.pools.insert(name, Arc::new(Pool::of(&backend, old.as_deref())));
            }
        }
        let generation = inner.generation;
        drop(inner);
        // Counters of Ingresses that are gone: only this map still has them.
        let mut traffic = self.traffic.write().unwrap_or_else(PoisonError::into_inner);
        traffic.retain(|_, counters| Arc::strong_count(counters) > 1);
        generation
    }

    /// The counters of each Ingress.
    pub(crate) fn traffic(&self) -> BTreeMap<Arc<str>, Arc<Traffic>> {
        let traffic = self.traffic.read().unwrap_or_else(PoisonError::into_inner);
        traffic.iter().map(|(name, counters)| (name.clone(), counters.clone())).collect()
    }

    fn routes(&self, host: &Host) -> Routes {
        let mut traffic = self.traffic.write().unwrap_or_else(PoisonError::into_inner);
        let mut route = |target: &Target| {
            let traffic = traffic.entry(target.ingress.clone()).or_default().clone();
            Arc::new(Route {
                target: target.clone(),
                traffic,
                certified: host.certificate.is_some(),
            })
        };
        let mut routes = Routes {
            otherwise: host.otherwise.as_ref().map(&mut route),
            certificate: host.certificate.as_deref().map(Into::into),
            ..Routes::default()
        };
        for rule in &host.rules {
            let all = if rule.prefix { &mut routes.prefixes } else { &mut routes.exact };
            if rule.prefix {
                routes.longest = routes.longest.max(rule.path.len());
            }
            all.insert(rule.path.clone(), route(&rule.target));
        }
        routes
    }
}

impl Pool {
    /// Endpoints that were there before keep what is known of them.
    fn of(backend: &Backend, old: Option<&Pool>) -> Pool {
        let known = |address: &SocketAddr| {
            let mut all = old.into_iter().flat_map(|pool| &pool.endpoints);
            all.find(|e| e.address == *address && e.protocol == backend.protocol).cloned()
        };
        let endpoint = |address: &SocketAddr| {
            known(address).unwrap_or_else(|| Arc::new(Endpoint::new(*address, backend.protocol)))
        };
        Pool {
            protocol: backend.protocol,
            problem: backend.problem.clone(),
            endpoints: backend.endpoints.iter().map(endpoint).collect(),
            next: AtomicUsize::new(0),
        }
    }
}

impl Inner {
    /// What there is for a host, the best first: by its own name, by its domain's with a wildcard for one label, and what is
    /// for every host.
    fn of(&self, host: &str) -> impl Iterator<Item = &Arc<Routes>> {
        let domain = host.split_once('.').map(|(_, domain)| domain);
        let wild = domain.and_then(|domain| self.wild.get(domain));
        self.hosts.get(host).into_iter().chain(wild).chain(self.hosts.get(""))
    }
}

impl Routes {
    fn has_rules(&self) -> bool {
        !self.exact.is_empty() || !self.prefixes.is_empty() || self.otherwise.is_some()
    }

    /// The exact path, then the longest prefix by path elements, then what serves the rest.
    fn find(&self, path: &str) -> Option<&Arc<Route>> {
        if let Some(route) = self.exact.get(path) {
            return Some(route);
        }
        if !self.prefixes.is_empty() {
            // No prefix is longer; one that is as long has to end where an element does.
            let mut end = path.len().min(self.longest + 1);
            while !path.is_char_boundary(end) {
                end -= 1;
            }
            let whole = end == path.len() || path.as_bytes()[end] == b'/';
            let mut rest = &path[..end];
            if !whole {
                rest = &rest[..rest.rfind('/').unwrap_or(0)];
            }
            let mut rest = rest.trim_end_matches('/');
            loop {
                if let Some(route) = self.prefixes.get(rest) {
                    return Some(route);
                }
                let Some(slash) = rest.rfind('/') else { break };
                rest = &rest[..slash];
            }
        }
        self.otherwise.as_ref()
    }
}

fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let bits = u32::from(bits);
    match (network, address.to_canonical()) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
            u32::from(network) & mask == u32::from(address) & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
            u128::from(network) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}
