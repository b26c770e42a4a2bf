//! PodSecurity (`pod-security-admission` upstream): what Pods of a namespace may ask for, by the namespace's labels.
//!
//! `enforce` refuses Pods; `warn` tells who creates them, or what makes them; `audit` notes it. Without labels everything may be
//! asked for, and nothing is exempt.

mod checks;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use coracle_api::json::Json;
use coracle_api::{ApiError, FieldError, Object, kinds};
use serde_json::Value;

use super::{Operation, Request};
use crate::registry::Registry;
use checks::{Finding, Pod, evaluate};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Pods that a changed label is checked against.
const MOST_CHECKED: usize = 3000;
/// Where the Pods' template is in what makes Pods.
const TEMPLATES: [(&str, &[&str]); 8] = [
    ("podtemplates", &["template"]),
    ("replicationcontrollers", &["spec", "template"]),
    ("replicasets.apps", &["spec", "template"]),
    ("deployments.apps", &["spec", "template"]),
    ("statefulsets.apps", &["spec", "template"]),
    ("daemonsets.apps", &["spec", "template"]),
    ("jobs.batch", &["spec", "template"]),
    ("cronjobs.batch", &["spec", "jobTemplate", "spec", "template"]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level of the standards, as of a minor version of Kubernetes; `None` is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standard {
    level: Level,
    minor: Option<u32>,
}

impl Standard {
    fn evaluate(self, pod: &Value) -> Vec<Finding> {
        if self.level == Level::Privileged {
            return Vec::new();
        }
        evaluate(&Pod(pod), self.level == Level::Restricted, self.minor.unwrap_or(u32::MAX))
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            None => write!(f, "{level}:latest"),
            Some(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// What a namespace's labels say.
struct Policy {
    enforce: Standard,
    audit: Standard,
    warn: Standard,
    errors: Vec<FieldError>,
}

impl Policy {
    fn of(labels: &BTreeMap<String, String>) -> Self {
        let mut errors = Vec::new();
        let mut standard = |mode: &str| {
            let key = format!("{PREFIX}{mode}");
            let mut wrong = |key: &str, value: &str, why: &str| {
                errors.push(FieldError::invalid(format!("metadata.labels[{key}]"), value, why));
            };
            let level = match labels.get(&key).map(String::as_str) {
                None | Some("privileged") => Level::Privileged,
                Some("baseline") => Level::Baseline,
                Some("restricted") => Level::Restricted,
                Some(other) => {
                    wrong(&key, other, "must be one of privileged, baseline, restricted");
                    // Only what refuses must fail closed.
                    if mode == "enforce" { Level::Restricted } else { Level::Privileged }
                }
            };
            let key = format!("{key}-version");
            let minor = match labels.get(&key).map(String::as_str) {
                None | Some("latest") => None,
                Some(version) => {
                    let minor =
                        version.strip_prefix("v1.").filter(|m| *m == "0" || !m.starts_with('0'));
                    let minor = minor.filter(|m| m.bytes().all(|b| b.is_ascii_digit()));
                    let minor = minor.and_then(|minor| minor.parse().ok());
                    if minor.is_none() {
                        wrong(&key, version, "must be \"latest\" or \"v1.x\"");
                    }
                    minor
                }
            };
            Standard { level, minor }
        };
        let (enforce, audit, warn) = (standard("enforce"), standard("audit"), standard("warn"));
        Self { enforce, audit, warn, errors }
    }
}

impl Registry {
    /// Checks Pods, what makes Pods, and the labels of namespaces.
    pub(super) fn pod_security(
        &self,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<(), ApiError> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let Some(new) = new.filter(|_| writes) else { return Ok(()) };
        let resource = request.kind.resource;
        if resource == kinds::NAMESPACE.resource {
            return if request.subresource.is_empty() {
                self.namespace_labels(request, old, new)
            } else {
                Ok(())
            };
        }
        let template = TEMPLATES.iter().find(|(of, _)| *of == resource).map(|(_, path)| *path);
        let concerned = match request.subresource {
            "" => request.kind.is_pod() || template.is_some(),
            "ephemeralcontainers" | "resize" => request.kind.is_pod(),
            _ => false,
        };
        if !concerned {
            return Ok(());
        }
        let policy = {
            let cluster = self.cache.read();
            let Some(namespace) = cluster.get(&kinds::NAMESPACE, "", request.namespace) else {
                return Err(ApiError::not_found(&kinds::NAMESPACE, request.namespace));
            };
            if !namespace.meta.labels.keys().any(|key| key.starts_with(PREFIX)) {
                return Ok(());
            }
            Policy::of(&namespace.meta.labels)
        };
        if old.is_some_and(|old| request.kind.is_pod() && !is_significant(old, new)) {
            return Ok(());
        }
        let pod = match template {
            None => Some(new),
            Some(path) => new.at(path),
        };
        let Some(pod) = pod else { return Ok(()) };
        check(request, &policy, pod, template.is_none())
    }

    fn namespace_labels(
        &self,
        request: &Request<'_>,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<(), ApiError> {
        let labels = |tree: &Value| -> BTreeMap<String, String> {
            let pairs = tree.pairs(&["metadata", "labels"]);
            pairs
                .filter(|(key, _)| key.starts_with(PREFIX))
                .map(|(key, value)| (key.to_owned(), value.as_str().unwrap_or_default().to_owned()))
                .collect()
        };
        let (labels, before) = (labels(new), old.map(labels));
        if before.as_ref() == Some(&labels) {
            return Ok(());
        }
        let policy = Policy::of(&labels);
        if !policy.errors.is_empty() {
            let name = new.text(&["metadata", "name"]);
            return Err(ApiError::invalid(&kinds::NAMESPACE, name, &policy.errors));
        }
        let (Some(before), enforce) = (before, policy.enforce) else { return Ok(()) };
        let before = Policy::of(&before).enforce;
        let relaxed = enforce.minor == before.minor && enforce.level <= before.level;
        if enforce != before && enforce.level != Level::Privileged && !relaxed {
            self.warn_of_existing(request, enforce);
        }
        Ok(())
    }

    /// Tells which Pods are there that would be refused from now on.
    fn warn_of_existing(&self, request: &Request<'_>, enforce: Standard) {
        let namespace = request.name;
        let pods: Vec<Arc<Object>> =
            self.cache.read().list_in(&kinds::POD, namespace).cloned().collect();
        // The first of those that have the same against them, and how many they are.
        let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for pod in pods.iter().take(MOST_CHECKED) {
            let findings = enforce.evaluate(&pod.value());
            if !findings.is_empty() {
                let reasons: Vec<_> = findings.into_iter().map(|finding| finding.reason).collect();
                let first = || (pod.meta.name.clone(), 0);
                found.entry(reasons.join(", ")).or_insert_with(first).1 += 1;
            }
        }
        if pods.len() > MOST_CHECKED {
            request.caller.warn(format!(
                "new PodSecurity enforce level only checked against the first {MOST_CHECKED} of {} existing pods",
                pods.len()
            ));
        }
        if found.is_empty() {
            return;
        }
        request.caller.warn(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{enforce}\""
        ));
        let mut warnings: Vec<String> = found
            .into_iter()
            .map(|(reasons, (name, count))| match count {
                1 => format!("{name}: {reasons}"),
                2 => format!("{name} (and 1 other pod): {reasons}"),
                count => format!("{name} (and {} other pods): {reasons}", count - 1),
            })
            .collect();
        warnings.sort();
        warnings.into_iter().for_each(|warning| request.caller.warn(warning));
    }
}

fn check(
    request: &Request<'_>,
    policy: &Policy,
    pod: &Value,
    enforced: bool,
) -> Result<(), ApiError> {
    let caller = request.caller;
    if let Some(error) = policy.errors.first() {
        caller.annotate(format!("{PREFIX}error"), format!("Failed to parse policy: {error}"));
    }
    let enforce = if enforced { policy.enforce.evaluate(pod) } else { Vec::new() };
    let audit = policy.audit.evaluate(pod);
    if !audit.is_empty() {
        let text = format!("would violate PodSecurity \"{}\": {}", policy.audit, told(&audit));
        caller.annotate(format!("{PREFIX}audit-violations"), text);
    }
    if enforced {
        caller.annotate(format!("{PREFIX}enforce-policy"), policy.enforce.to_string());
    }
    if !enforce.is_empty() {
        let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, told(&enforce));
        return Err(ApiError::forbidden(request.kind, request.name, &why));
    }
    let warn = policy.warn.evaluate(pod);
    if !warn.is_empty() {
        caller.warn(format!("would violate PodSecurity \"{}\": {}", policy.warn, told(&warn)));
    }
    Ok(())
}

fn told(findings: &[Finding]) -> String {
    let texts = findings.iter().map(|Finding { reason, detail }| format!("{reason} ({detail})"));
    texts.collect::<Vec<_>>().join(", ")
}

/// Whether a changed Pod may run something else than it was let in for.
fn is_significant(old: &Value, new: &Value) -> bool {
    let ran = |pod: &Value| -> Vec<(String, String)> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        let all = lists.iter().flat_map(|list| pod.list(&["spec", list]).to_vec());
        all.map(|c| (c.text(&["name"]).to_owned(), c.text(&["image"]).to_owned())).collect()
    };
    let profiles = |pod: &Value| -> Vec<(String, Value)> {
        let all = pod.map(&["metadata", "annotations"]).into_iter().flatten();
        all.filter(|(key, _)| key.contains("seccomp.security.alpha.kubernetes.io/"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    ran(old) != ran(new) || profiles(old) != profiles(new)
}

#[cfg(test)]
mod tests;
