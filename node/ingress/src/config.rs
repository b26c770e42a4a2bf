//! What the agent tells the proxy: hosts, backends and certificates, as differences to what it told before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::settings::Settings;

/// Everything that the proxy has to know.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// By name: `a.example.com`, `*.example.com`, or empty for every other host.
    pub hosts: BTreeMap<String, Arc<Host>>,
    /// Where rules lead, by the names that they use.
    pub backends: BTreeMap<String, Arc<Backend>>,
    /// By `namespace/name` of their Secrets.
    pub certificates: BTreeMap<String, Arc<Certificate>>,
}

/// A host's rules.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its paths, in no order.
    pub rules: Vec<Rule>,
    /// What serves paths that no rule names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<Target>,
    /// The certificate's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Absolute; a prefix has no slash at its end, and is empty if it is all.
    pub path: String,
    /// Whether paths below it are meant too.
    pub prefix: bool,
    /// Where it leads.
    pub target: Target,
}

/// Where requests go, and under which conditions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// `namespace/name` of the Ingress that says so.
    pub ingress: Arc<str>,
    /// The backend's name.
    pub backend: String,
    /// The Ingress's annotations.
    pub settings: Arc<Settings>,
}

/// How endpoints are spoken to.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub enum Protocol {
    /// HTTP/1.1, and what it is upgraded to.
    #[default]
    Http1,
    /// HTTP/2 without TLS and without being asked first: gRPC.
    H2c,
    /// HTTP/1.1 in TLS, and what it is upgraded to.
    Https,
    /// HTTP/2 in TLS: gRPC.
    H2,
}

impl Protocol {
    /// Whether a connection has one request at a time, and may change its protocol.
    pub(crate) fn is_http1(self) -> bool {
        matches!(self, Protocol::Http1 | Protocol::Https)
    }
}

/// A Service's port as it is now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// How to speak to it.
    pub protocol: Protocol,
    /// Who answers.
    pub endpoints: Vec<SocketAddr>,
    /// Why nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A certificate and its key.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// The chain, PEM.
    pub chain: String,
    /// The key, PEM.
    pub key: String,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate")
    }
}

/// `PUT /v1/config`: what is different. `None` is what is gone.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Update {
    /// What this is the difference to; 0 replaces everything.
    pub base: u64,
    /// How the result is called.
    pub generation: u64,
    /// See [`Config::hosts`].
    pub hosts: BTreeMap<String, Option<Arc<Host>>>,
    /// See [`Config::backends`].
    pub backends: BTreeMap<String, Option<Arc<Backend>>>,
    /// See [`Config::certificates`].
    pub certificates: BTreeMap<String, Option<Arc<Certificate>>>,
    /// Proxies whose `X-Forwarded-*` are believed, as `address/bits`.
    #[serde(default)]
    pub trusted: BTreeSet<(IpAddr, u8)>,
}

/// The answer to it, if what it was the difference to is in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Applied {
    /// What is in force now: another than was sent, if that was a difference to something else.
    pub generation: u64,
    /// Port on which HTTP is served.
    pub http: u16,
    /// Port on which HTTPS is served.
    pub https: u16,
}

impl Config {
    /// What makes `self` of `old`.
    pub fn since(&self, old: &Config) -> Update {
        Update {
            hosts: difference(&old.hosts, &self.hosts),
            backends: difference(&old.backends, &self.backends),
            certificates: difference(&old.certificates, &self.certificates),
            ..Update::default()
        }
    }
}

impl Update {
    /// Nothing is different.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.backends.is_empty() && self.certificates.is_empty()
    }
}

fn difference<T: PartialEq>(
    old: &BTreeMap<String, Arc<T>>,
    new: &BTreeMap<String, Arc<T>>,
) -> BTreeMap<String, Option<Arc<T>>> {
    let same = |a: &Arc<T>, b: &Arc<T>| Arc::ptr_eq(a, b) || a == b;
    let set = new.iter().filter(|(name, value)| !old.get(*name).is_some_and(|o| same(o, value)));
    let set = set.map(|(name, value)| (name.clone(), Some(value.clone())));
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), None));
    set.chain(gone).collect()
}
