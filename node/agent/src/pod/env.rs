//! A container's environment, from every source that Kubernetes knows, and the arguments that are expanded with it.
//!
//! Pure, but for what [`Sources`] was filled with before (ConfigMaps and Secrets), and files that `fileKeyRef` names.

mod file;
mod services;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};

pub use self::services::service_variables;
use crate::objects::References;
use crate::pod::names::hostname;
use crate::pod::spec;

/// Objects that environments refer to, by name; all from the Pod's namespace.
#[derive(Debug, Default)]
pub struct Sources {
    /// ConfigMaps that exist.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets that exist.
    pub secrets: BTreeMap<String, Arc<Secret>>,
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
    /// Local storage in bytes: likewise.
    pub storage_bytes: u64,
    /// Variables that tell of Services, which any other source goes before.
    pub services: Vec<(String, String)>,
    /// The Pod's volumes, a folder each, for `fileKeyRef`.
    pub volumes: PathBuf,
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
    /// A file of variables cannot be used.
    #[error("couldn't find key {key} in file {path} of volume \"{volume}\": {why}")]
    File {
        /// The key.
        key: String,
        /// The file, below the volume.
        path: String,
        /// The volume.
        volume: String,
        /// What is wrong.
        why: String,
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

/// ConfigMaps and Secrets that the container's environment names.
pub fn references(container: &Container) -> References {
    let mut found = References::default();
    for source in container.env_from.iter().flatten() {
        found.config_maps.extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
        found.secrets.extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        found.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        found.secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    found
}

/// The container's environment: `envFrom`, then `env` with `$(NAME)` expanded (Kubernetes' "Dependent Environment
/// Variables"); `HOSTNAME` first.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    facts: &NodeFacts,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut env = Env { list: Vec::new(), services: &facts.services };
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
    let mut list = env.list;
    for (name, value) in &facts.services {
        if !list.iter().any(|(known, _)| known == name) {
            list.push((name.clone(), value.clone()));
        }
    }
    Ok(list)
}

/// `command` and `args` of the spec, expanded; `image_args` stand in for what the spec leaves out.
pub fn arguments(container: &Container, env: &[(String, String)], entrypoint: &str) -> Vec<String> {
    let value = |name: &str| find(env, name);
    let expand = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|a| expand(a, value).0).collect()
    };
    let mut argv = expand(&container.command);
    if argv.is_empty() {
        argv.push(entrypoint.to_owned());
    }
    argv.extend(expand(&container.args));
    argv
}

struct Env<'a> {
    list: Vec<(String, String)>,
    services: &'a [(String, String)],
}

impl Env<'_> {
    fn set(&mut self, name: &str, value: String) {
        match self.list.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.list.push((name.to_owned(), value)),
        }
    }

    fn expand(&self, text: &str) -> String {
        expand(text, |name| find(&self.list, name).or_else(|| find(self.services, name))).0
    }
}

fn find<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// `subPathExpr`, or the first variable in it that is not set.
pub fn expand_all(text: &str, env: &[(String, String)]) -> Result<String, String> {
    let (expanded, missing) = expand(text, |name| find(env, name));
    missing.map_or(Ok(expanded), |name| Err(name.to_owned()))
}

/// `$(NAME)` becomes its value where it is set; `$$` is one `$`. Also the first name that is not set.
fn expand<'a, 'v>(
    text: &'a str,
    value: impl Fn(&str) -> Option<&'v str>,
) -> (String, Option<&'a str>) {
    let mut missing = None;
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
                match value(name) {
                    Some(value) => out.push_str(value),
                    None => {
                        missing = missing.or(Some(name));
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
    (out, missing)
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
    if let Some(reference) = &from.file_key_ref {
        return file::value(reference, &facts.volumes);
    }
    if let Some(reference) = &from.field_ref {
        let path = reference.field_path.as_str();
        return field(pod, path, facts)
            .map(Some)
            .ok_or_else(|| ConfigError::FieldPath { env: env.to_owned(), path: path.to_owned() });
    }
    if let Some(reference) = &from.resource_field_ref {
        let name = reference.container_name.as_deref().unwrap_or_default();
        let named = spec::container(pod, name);
        let target = named.as_deref().unwrap_or(container);
        let divisor = reference.divisor.as_ref().and_then(|d| d.0.parse::<Quantity>().ok());
        return resource(target, &reference.resource, divisor, facts).map(Some).ok_or_else(|| {
            ConfigError::FieldPath { env: env.to_owned(), path: reference.resource.clone() }
        });
    }
    Ok(Some(String::new()))
}

/// A downward API field.
pub fn field(pod: &Pod, path: &str, facts: &NodeFacts) -> Option<String> {
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
        "metadata.labels" => Some(lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
        "spec.nodeName" => spec?.node_name.clone(),
        "spec.serviceAccountName" => Some(spec?.service_account_name.clone().unwrap_or_default()),
        "status.podIP" | "status.podIPs" => Some(facts.pod_ip.clone()),
        "status.hostIP" | "status.hostIPs" => Some(facts.host_ip.clone()),
        _ => None,
    }
}

/// `key="value"` lines, for files (a variable cannot ask for all of them).
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// As Go's `%q`.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x80 && c.is_control() => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `limits.cpu` and its kin, in units of the divisor (1 by default), rounded up.
pub fn resource(
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
        "memory" => (own.map(|q| q.milli()), facts.memory_bytes as i128 * 1000),
        "ephemeral-storage" => (own.map(|q| q.milli()), facts.storage_bytes as i128 * 1000),
        name if name.starts_with("hugepages-") => (own.map(|q| q.milli()), 0),
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
