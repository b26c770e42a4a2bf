//! What a Pod asks of the node, worked out from its spec: rules for its life, ports, arguments, environment, limits.
//!
//! Pure, but for what [`Sources`] was filled with before (ConfigMaps and Secrets).

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Probe, Secret, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pod::lifecycle::{ContainerRule, ProbeKind, ProbeRule, RestartPolicy};
use coracle_api::quantity::Quantity;

/// Objects that environments refer to, by name; all from the Pod's namespace.
#[derive(Debug, Default)]
pub struct Sources {
    /// ConfigMaps that exist.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// Secrets that exist.
    pub secrets: BTreeMap<String, Secret>,
}

/// Values of the Pod that only the node knows, for `fieldRef`.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// `status.podIP`.
    pub pod_ip: String,
    /// `status.hostIP`.
    pub host_ip: String,
    /// Allocatable CPU, in millicores: the limit of those that set none.
    pub cpu_millis: u64,
    /// Allocatable memory in bytes: likewise.
    pub memory_bytes: u64,
}

/// The environment cannot be built: `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ConfigError {
    /// The object is not there.
    #[error("{kind} \"{name}\" not found")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The object lacks the key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    MissingKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// The value is no text.
    #[error(
        "secret \"{name}\", key {key}: a value that is not UTF-8 cannot be an environment variable; mount it as a volume instead"
    )]
    NotText {
        /// The Secret.
        name: String,
        /// The key.
        key: String,
    },
    /// A field that the node does not know.
    #[error("environment variable {env}: unsupported fieldPath \"{path}\"")]
    FieldPath {
        /// The variable.
        env: String,
        /// The path.
        path: String,
    },
}

/// Init containers, then the others.
pub fn containers(pod: &Pod) -> impl Iterator<Item = (bool, &Container)> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let main = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
    init.iter().map(|c| (true, c)).chain(main.iter().map(|c| (false, c)))
}

/// The container of that name.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    containers(pod).map(|(_, c)| c).find(|c| c.name == name)
}

/// The rules that [`crate::pod::lifecycle`] follows for each container.
pub fn rules(pod: &Pod) -> Vec<ContainerRule> {
    let policy = match pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    };
    containers(pod)
        .map(|(init, c)| ContainerRule {
            name: c.name.clone(),
            init,
            restart: match (init, c.restart_policy.as_deref()) {
                (true, Some("Always")) => RestartPolicy::Always,
                // An init container that succeeded never runs again.
                (true, _) if policy == RestartPolicy::Always => RestartPolicy::OnFailure,
                _ => policy,
            },
            probes: [
                (ProbeKind::Startup, &c.startup_probe),
                (ProbeKind::Liveness, &c.liveness_probe),
                (ProbeKind::Readiness, &c.readiness_probe),
            ]
            .into_iter()
            .filter_map(|(kind, probe)| Some(probe_rule(kind, probe.as_ref()?)))
            .collect(),
        })
        .collect()
}

fn probe_rule(kind: ProbeKind, probe: &Probe) -> ProbeRule {
    let seconds = |value: Option<i32>, default: i32| {
        Duration::from_secs(value.unwrap_or(default).max(0) as u64)
    };
    let count = |value: Option<i32>, default: i32| value.unwrap_or(default).max(1) as u32;
    ProbeRule {
        kind,
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
        success_threshold: count(probe.success_threshold, 1),
        failure_threshold: count(probe.failure_threshold, 3),
    }
}

/// The probe of that kind in the container's spec.
pub fn probe(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    }
}

/// A port by number, or by the name of one of the container's ports.
pub fn port(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|p| *p > 0),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(name))
            .and_then(|p| u16::try_from(p.container_port).ok())
            .or_else(|| name.parse().ok()),
    }
}

/// Where a component that answers HTTP is to be served: its TCP `containerPorts`; where none is declared, every port that
/// its probes name and, for the first such container of the Pod, that Services selecting the Pod target.
pub fn http_ports<'a>(
    pod: &Pod,
    name: &str,
    services: impl Iterator<Item = &'a Service>,
) -> Vec<u16> {
    let Some(own) = container(pod, name) else { return Vec::new() };
    let declares = |c: &Container| c.ports.iter().flatten().any(is_tcp);
    let mut ports: Vec<u16> = if declares(own) {
        own.ports
            .iter()
            .flatten()
            .filter(|p| is_tcp(p))
            .filter_map(|p| u16::try_from(p.container_port).ok())
            .collect()
    } else {
        let mut ports: Vec<u16> = [&own.startup_probe, &own.liveness_probe, &own.readiness_probe]
            .into_iter()
            .flatten()
            .filter_map(|p| {
                let target = p.http_get.as_ref().map(|h| &h.port);
                port(own, target.or(p.tcp_socket.as_ref().map(|t| &t.port))?)
            })
            .collect();
        let first = containers(pod).find(|(init, c)| !init && !declares(c)).map(|(_, c)| &c.name);
        if first == Some(&own.name) {
            ports.extend(services.filter(|s| selects(s, pod)).flat_map(target_ports));
        }
        ports
    };
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn is_tcp(port: &k8s_openapi::api::core::v1::ContainerPort) -> bool {
    port.protocol.as_deref().is_none_or(|p| p == "TCP")
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()) else {
        return false;
    };
    let labels = pod.metadata.labels.as_ref();
    service.metadata.namespace == pod.metadata.namespace
        && !selector.is_empty()
        && selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

fn target_ports(service: &Service) -> Vec<u16> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    ports
        .filter(|p| p.protocol.as_deref().is_none_or(|p| p == "TCP"))
        .filter_map(|p| match &p.target_port {
            Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
            Some(IntOrString::String(name)) => name.parse().ok(),
            None => u16::try_from(p.port).ok(),
        })
        .collect()
}

/// ConfigMaps and Secrets that the container's environment names: `(config maps, secrets)`.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for source in container.env_from.iter().flatten() {
        maps.extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// The container's environment: `envFrom`, then `env` with `$(NAME)` expanded (Kubernetes' "Dependent Environment
/// Variables"); `HOSTNAME` first.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    facts: &NodeFacts,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut env = Env::default();
    env.set("HOSTNAME", hostname(pod));
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        env.set(&format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(missing("configmap", &reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        let value = text(&reference.name, key, &value.0)?;
                        env.set(&format!("{prefix}{key}"), value);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(missing("secret", &reference.name)),
            }
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (_, Some(from)) => {
                match from_source(pod, container, &var.name, from, sources, facts)? {
                    Some(value) => value,
                    None => continue,
                }
            }
            (value, None) => env.expand(value.as_deref().unwrap_or_default()),
        };
        env.set(&var.name, value);
    }
    Ok(env.list)
}

/// `command` and `args` of the spec, expanded; `image_args` stand in for what the spec leaves out.
pub fn arguments(container: &Container, env: &[(String, String)], entrypoint: &str) -> Vec<String> {
    let env = Env { list: env.to_vec() };
    let expand = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|a| env.expand(a)).collect()
    };
    let mut argv = expand(&container.command);
    if argv.is_empty() {
        argv.push(entrypoint.to_owned());
    }
    argv.extend(expand(&container.args));
    argv
}

/// `spec.hostname`, else the Pod's name, cut to a host name's 63 characters.
pub fn hostname(pod: &Pod) -> String {
    let name = pod.spec.as_ref().and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty());
    let name = name.or(pod.metadata.name.as_deref()).unwrap_or_default();
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// A container's CPU request and limit in millicores, and its memory limit in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Request, in millicores.
    pub cpu_request: u32,
    /// Limit, in millicores.
    pub cpu_limit: Option<u32>,
    /// Limit, in bytes.
    pub memory_limit: Option<u64>,
}

/// Reads a container's `resources`.
pub fn limits(container: &Container) -> Limits {
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let get = |list: Option<
        &BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
    >,
               name| { list?.get(name).and_then(|q| q.0.parse::<Quantity>().ok()) };
    let millis = |q: Quantity| u32::try_from(q.milli().max(0)).unwrap_or(u32::MAX);
    let cpu_limit = get(limits, "cpu").map(millis);
    Limits {
        cpu_request: get(requests, "cpu").map(millis).or(cpu_limit).unwrap_or(0),
        cpu_limit,
        memory_limit: get(limits, "memory").map(|q| u64::try_from(q.value()).unwrap_or(0)),
    }
}

#[derive(Default)]
struct Env {
    list: Vec<(String, String)>,
}

impl Env {
    fn set(&mut self, name: &str, value: String) {
        match self.list.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.list.push((name.to_owned(), value)),
        }
    }

    /// `$(NAME)` becomes its value where it is set; `$$` is one `$`.
    fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
                continue;
            }
            let name = rest.strip_prefix('(').and_then(|r| r.split_once(')'));
            match name {
                Some((name, after)) => {
                    match self.list.iter().find(|(n, _)| n == name) {
                        Some((_, value)) => out.push_str(value),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = after;
                }
                None => out.push('$'),
            }
        }
        out.push_str(rest);
        out
    }
}

fn from_source(
    pod: &Pod,
    container: &Container,
    env: &str,
    from: &EnvVarSource,
    sources: &Sources,
    facts: &NodeFacts,
) -> Result<Option<String>, ConfigError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &from.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = sources.config_maps.get(&reference.name) else {
            return if optional { Ok(None) } else { Err(missing("configmap", &reference.name)) };
        };
        return match map.data.as_ref().and_then(|d| d.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(missing_key("ConfigMap", namespace, &reference.name, &reference.key)),
        };
    }
    if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = sources.secrets.get(&reference.name) else {
            return if optional { Ok(None) } else { Err(missing("secret", &reference.name)) };
        };
        return match secret.data.as_ref().and_then(|d| d.get(&reference.key)) {
            Some(value) => text(&reference.name, &reference.key, &value.0).map(Some),
            None if optional => Ok(None),
            None => Err(missing_key("Secret", namespace, &reference.name, &reference.key)),
        };
    }
    if let Some(reference) = &from.field_ref {
        let path = reference.field_path.as_str();
        return field(pod, path, facts)
            .map(Some)
            .ok_or_else(|| ConfigError::FieldPath { env: env.to_owned(), path: path.to_owned() });
    }
    if let Some(reference) = &from.resource_field_ref {
        let target = match reference.container_name.as_deref() {
            Some(name) if !name.is_empty() => self::container(pod, name).unwrap_or(container),
            _ => container,
        };
        let divisor = reference.divisor.as_ref().and_then(|d| d.0.parse::<Quantity>().ok());
        return resource(target, &reference.resource, divisor, facts).map(Some).ok_or_else(|| {
            ConfigError::FieldPath { env: env.to_owned(), path: reference.resource.clone() }
        });
    }
    Ok(Some(String::new()))
}

/// A downward API field.
fn field(pod: &Pod, path: &str, facts: &NodeFacts) -> Option<String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels['") {
        return Some(meta.labels.as_ref().and_then(|l| l.get(key)).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations['") {
        return Some(
            meta.annotations.as_ref().and_then(|a| a.get(key)).cloned().unwrap_or_default(),
        );
    }
    match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "spec.nodeName" => spec?.node_name.clone(),
        "spec.serviceAccountName" => Some(spec?.service_account_name.clone().unwrap_or_default()),
        "status.podIP" | "status.podIPs" => Some(facts.pod_ip.clone()),
        "status.hostIP" | "status.hostIPs" => Some(facts.host_ip.clone()),
        _ => None,
    }
}

/// `limits.cpu` and its kin, in units of the divisor (1 by default), rounded up.
fn resource(
    container: &Container,
    name: &str,
    divisor: Option<Quantity>,
    facts: &NodeFacts,
) -> Option<String> {
    let (list, resource) = name.split_once('.')?;
    let resources = container.resources.as_ref();
    let list = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return None,
    };
    let own = list.and_then(|l| l.get(resource)).and_then(|q| q.0.parse::<Quantity>().ok());
    let (milli, fallback) = match resource {
        "cpu" => (own.map(|q| q.milli()), facts.cpu_millis as i128),
        "memory" | "ephemeral-storage" => {
            (own.map(|q| q.milli()), facts.memory_bytes as i128 * 1000)
        }
        _ => return None,
    };
    let milli =
        milli.map(i128::from).unwrap_or(if name.starts_with("limits") { fallback } else { 0 });
    let divisor = divisor.map(|d| i128::from(d.milli())).filter(|d| *d > 0).unwrap_or(1000);
    Some(((milli + divisor - 1) / divisor).to_string())
}

fn text(name: &str, key: &str, value: &[u8]) -> Result<String, ConfigError> {
    String::from_utf8(value.to_vec())
        .map_err(|_| ConfigError::NotText { name: name.to_owned(), key: key.to_owned() })
}

fn missing(kind: &'static str, name: &str) -> ConfigError {
    ConfigError::Missing { kind, name: name.to_owned() }
}

fn missing_key(kind: &'static str, namespace: &str, name: &str, key: &str) -> ConfigError {
    ConfigError::MissingKey {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    }
}

#[cfg(test)]
mod tests;
