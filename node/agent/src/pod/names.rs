//! What guests are told of names: their Pod's own, those of its `hostAliases`, its resolver's configuration, and the
//! Services of its namespace as environment variables. Pure.

use std::net::IpAddr;

use coracle_sandbox::{Dns, HostAlias};
use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

/// The cluster's domain.
const DOMAIN: &str = "cluster.local";
/// Longest host name that the kernel of a real machine would take.
const LONGEST: usize = 64;
/// Name servers and suffixes that a resolver is given, as upstream limits them.
const SERVERS: usize = 3;
const SEARCHES: usize = 32;

/// What the Pod sees as its host name: `spec.hostname`, else its name, cut to a label's 63 characters; with
/// `setHostnameAsFQDN` the whole name.
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|s| s.hostname_override.as_deref()).filter(|n| !n.is_empty())
    {
        return name.to_owned();
    }
    match full_name(pod) {
        Some(name) if spec.is_some_and(|s| s.set_hostname_as_fqdn == Some(true)) => name,
        _ => short_name(pod),
    }
}

fn short_name(pod: &Pod) -> String {
    let name = pod.spec.as_ref().and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty());
    let name = name.or(pod.metadata.name.as_deref()).unwrap_or_default();
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// The Pod's name in its Service's domain; none without `spec.subdomain`.
fn full_name(pod: &Pod) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|s| !s.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{}.{subdomain}.{namespace}.svc.{DOMAIN}", short_name(pod)))
}

/// Why the Pod cannot have its host name.
pub fn problem(pod: &Pod) -> Option<String> {
    let name = hostname(pod);
    (name.len() > LONGEST).then(|| {
        format!(
            "failed to construct FQDN from Pod hostname and cluster domain, FQDN {name} is too long ({LONGEST} characters is the max, {} characters requested)",
            name.len()
        )
    })
}

/// The names of the Pod's address: with a subdomain the full one, before the short one, whichever the host name is.
pub fn names(pod: &Pod) -> Vec<String> {
    let spec = pod.spec.as_ref();
    if spec.and_then(|s| s.hostname_override.as_deref()).is_some_and(|name| !name.is_empty()) {
        return vec![hostname(pod)];
    }
    full_name(pod).into_iter().chain([short_name(pod)]).collect()
}

/// `hostAliases`. What is no address is left out: the API takes none.
pub fn aliases(pod: &Pod) -> Vec<HostAlias> {
    let aliases = pod.spec.iter().flat_map(|s| s.host_aliases.iter().flatten());
    let aliases = aliases.filter_map(|alias| {
        let names = alias.hostnames.clone().unwrap_or_default();
        Some(HostAlias { ip: alias.ip.parse().ok()?, names })
    });
    aliases.collect()
}

/// What the resolver is told, by `dnsPolicy`: of the `cluster`'s name server, or, where none is given, what the machine is. A
/// `dnsConfig` is added to that, or with `dnsPolicy: None` replaces it. Nothing where nothing differs from the machine.
pub fn dns(pod: &Pod, machine: impl Fn() -> String, cluster: Option<IpAddr>) -> Option<Dns> {
    let spec = pod.spec.as_ref()?;
    let base = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => Some(Dns::default()),
        "ClusterFirst" if spec.host_network == Some(true) => None,
        "ClusterFirst" | "ClusterFirstWithHostNet" => cluster.map(|server| {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let mut dns = parse(&machine());
            let own = [format!("{namespace}.svc.{DOMAIN}"), format!("svc.{DOMAIN}"), DOMAIN.into()];
            dns.searches.splice(..0, own);
            Dns { servers: vec![server], options: vec!["ndots:5".to_owned()], ..dns }
        }),
        _ => None,
    };
    match (base, &spec.dns_config) {
        (None, None) => None,
        (base, config) => {
            let base = base.unwrap_or_else(|| parse(&machine()));
            Some(merged(base, &config.clone().unwrap_or_default()))
        }
    }
}

fn merged(mut dns: Dns, config: &PodDNSConfig) -> Dns {
    let servers = config.nameservers.iter().flatten().filter_map(|s| s.parse().ok());
    dns.servers.extend(servers.collect::<Vec<IpAddr>>());
    dns.searches.extend(config.searches.iter().flatten().cloned());
    for option in config.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        dns.options.retain(|o| o.split(':').next() != Some(name));
        dns.options.push(match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
    }
    let mut seen = Vec::new();
    dns.servers.retain(|s| {
        !seen.contains(s) && {
            seen.push(*s);
            true
        }
    });
    dns.servers.truncate(SERVERS);
    dns.searches.truncate(SEARCHES);
    dns
}

/// `resolv.conf`. A later list of suffixes replaces an earlier one.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                dns.servers.extend(words.next().and_then(|w| w.parse::<IpAddr>().ok()));
            }
            Some("search" | "domain") => dns.searches = words.map(str::to_owned).collect(),
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests;
