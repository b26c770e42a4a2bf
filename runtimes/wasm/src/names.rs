//! Looking up names, for guests (`wasi:sockets/ip-name-lookup`) and for their HTTP requests.
//!
//! In this order: addresses as they are; the Pod's `hostAliases`; `localhost` and the Pod's own
//! host name; Services and their endpoints, in all forms of their names, from the agent's table and
//! so without any query; then DNS, as the Pod's `dnsConfig` says, or else as the machine is configured (the
//! machine's own `/etc/hosts` is not the Pod's business).
//!
//! There is one resolver per configuration, with its cache, shared by all Pods that have it.
//! Queries leave from the host's network: that is where name servers are reached.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use coracle_sandbox::Dns;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;

use crate::container::Container;

/// Configurations kept at once.
const MOST: usize = 256;
/// What a look-up may take in all, whatever its configuration says.
const PATIENCE: Duration = Duration::from_secs(30);
/// Names of other names that are followed.
const ALIASES: usize = 8;
/// Names cached per configuration.
const CACHED: u64 = 512;
/// Names that are the cluster's alone.
const DOMAIN: &str = ".cluster.local";
const SYSTEM: &str = "/etc/resolv.conf";

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookUpError {
    #[error("it is no host name")]
    Invalid,
    #[error("no such host")]
    Unknown,
    #[error("{0}")]
    Temporary(String),
    #[error("{0}")]
    Permanent(String),
}

/// What tells resolvers apart: the Pod's configuration, or the state of the machine's.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Pod { servers: Vec<IpAddr>, searches: Vec<String>, options: Vec<String> },
    Machine(Option<SystemTime>),
}

/// The resolvers in use.
#[derive(Default)]
pub(crate) struct Names(Mutex<HashMap<Key, TokioResolver>>);

impl Names {
    fn resolver(&self, dns: Option<&Dns>) -> Result<TokioResolver, LookUpError> {
        let dns = dns.filter(|dns| !dns.servers.is_empty());
        let key = match dns {
            Some(Dns { servers, searches, options }) => Key::Pod {
                servers: servers.clone(),
                searches: searches.clone(),
                options: options.clone(),
            },
            None => Key::Machine(fs::metadata(SYSTEM).and_then(|file| file.modified()).ok()),
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = all.get(&key) {
            return Ok(resolver.clone());
        }
        let made = match dns {
            Some(dns) => of_pod(dns),
            None => of_machine(),
        };
        let resolver = made.map_err(|e| LookUpError::Permanent(e.to_string()))?;
        if matches!(key, Key::Machine(_)) {
            all.retain(|key, _| !matches!(key, Key::Machine(_)));
        }
        if all.len() >= MOST {
            // Whoever needs one of them makes it again; only its cache is lost.
            all.clear();
        }
        all.insert(key, resolver.clone());
        Ok(resolver)
    }
}

fn of_machine() -> Result<TokioResolver, NetError> {
    let (config, options) = hickory_resolver::system_conf::read_system_conf()?;
    make(config, options)
}

fn of_pod(dns: &Dns) -> Result<TokioResolver, NetError> {
    let servers = dns.servers.iter().map(|ip| NameServerConfig::udp_and_tcp(*ip)).collect();
    let searches = dns.searches.iter().filter_map(|name| Name::from_str(name).ok());
    let config = ResolverConfig::from_parts(None, searches.collect(), servers);
    let mut options = ResolverOpts::default();
    for option in &dns.options {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        // As in resolv.conf: what is not understood is passed over.
        let Ok(value) = value.parse::<u8>() else { continue };
        match name {
            "ndots" => options.ndots = value.min(15).into(),
            "timeout" => options.timeout = Duration::from_secs(value.clamp(1, 30).into()),
            "attempts" => options.attempts = value.clamp(1, 5).into(),
            _ => {}
        }
    }
    make(config, options)
}

fn make(config: ResolverConfig, mut options: ResolverOpts) -> Result<TokioResolver, NetError> {
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = CACHED;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build()
}

impl Container {
    /// The addresses of a name, as this container is to see them; never none.
    pub(crate) async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, LookUpError> {
        let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = literal.unwrap_or(name).parse::<IpAddr>() {
            return Ok(vec![ip]);
        }
        let plain = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if plain.is_empty() || plain.len() > 253 || plain.split('.').any(str::is_empty) {
            return Err(LookUpError::Invalid);
        }
        let (mut plain, mut query) = (plain, name.to_owned());
        for _ in 0..ALIASES {
            if let Some(found) = self.known(&plain) {
                return if found.is_empty() { Err(LookUpError::Unknown) } else { Ok(found) };
            }
            let Some(target) = self.node.routes.alias(&self.sandbox.namespace, &plain) else {
                break;
            };
            plain = target.trim_end_matches('.').to_ascii_lowercase();
            // No suffixes for this one.
            query = format!("{plain}.");
        }
        // Nobody else knows what the cluster does not.
        if plain.ends_with(DOMAIN) {
            return Err(LookUpError::Unknown);
        }
        let query = Name::from_utf8(query).map_err(|_| LookUpError::Invalid)?;
        let resolver = self.node.names.resolver(self.sandbox.spec.dns.as_ref())?;
        let work = async move { resolver.lookup_ip(query).await };
        let answer = tokio::time::timeout(PATIENCE, self.node.resolver.spawn(work)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => return Err(LookUpError::Permanent(e.to_string())),
            Err(_) => return Err(LookUpError::Temporary("no answer in time".into())),
        };
        match answer {
            Ok(found) => {
                let addresses: Vec<IpAddr> = found.iter().collect();
                if addresses.is_empty() { Err(LookUpError::Unknown) } else { Ok(addresses) }
            }
            Err(e) if e.is_no_records_found() || e.is_nx_domain() => Err(LookUpError::Unknown),
            Err(e) => Err(LookUpError::Temporary(e.to_string())),
        }
    }

    /// The Pod's own word for a name, which is before all others (`hostAliases`).
    pub(crate) fn aliases(&self, name: &str) -> Option<Vec<IpAddr>> {
        let hosts = self.sandbox.spec.hosts.iter();
        let named = hosts.filter(|alias| {
            alias.names.iter().any(|known| known.trim_end_matches('.').eq_ignore_ascii_case(name))
        });
        let addresses: Vec<IpAddr> = named.map(|alias| alias.ip).collect();
        (!addresses.is_empty()).then_some(addresses)
    }

    /// What needs no query. An empty list: the name exists, and nobody answers for it.
    fn known(&self, name: &str) -> Option<Vec<IpAddr>> {
        let spec = &self.sandbox.spec;
        if let Some(aliases) = self.aliases(name) {
            return Some(aliases);
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return Some(vec![Ipv4Addr::LOCALHOST.into()]);
        }
        let mut own = spec.names.iter().chain([&spec.hostname]).filter(|own| !own.is_empty());
        if own.any(|own| name.eq_ignore_ascii_case(own)) {
            return Some(spec.ips.clone());
        }
        self.node.routes.addresses(&self.sandbox.namespace, name)
    }
}

#[cfg(test)]
mod tests;
