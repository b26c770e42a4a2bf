//! Containers: names, images, ports, environment, mounts, resources.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{Errors, one_of, probe, quantity, security_ids};
use crate::json::Json;
use crate::names;
use crate::path::Path;
use crate::quantity::Quantity;
use crate::status::{FieldError, FieldProblem};

/// What the checks of a container need to know of its Pod.
pub(super) struct Context<'a> {
    pub(super) volumes: HashSet<&'a str>,
    pub(super) host_network: bool,
    /// `spec.os.name`; empty where none is given.
    pub(super) os: &'a str,
    /// `hostUsers: false`.
    pub(super) own_users: bool,
}

/// What `lifecycle.stopSignal` may be on Linux; the real-time signals are numbered from both ends.
const SIGNALS: [&str; 36] = [
    "SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO",
    "SIGIOT", "SIGKILL", "SIGPIPE", "SIGPOLL", "SIGPROF", "SIGPWR", "SIGQUIT", "SIGRTMAX", "SIGRTMIN", "SIGSEGV",
    "SIGSTKFLT", "SIGSTOP", "SIGSYS", "SIGTERM", "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1",
    "SIGUSR2", "SIGVTALRM", "SIGWINCH", "SIGXCPU", "SIGXFSZ",
];
const REAL_TIME: [(&str, u8); 2] = [("SIGRTMIN+", 15), ("SIGRTMAX-", 14)];

pub(super) fn container(
    container: &Value,
    init: bool,
    context: &Context<'_>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let name = container.text(&["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(at.child("name"), ""));
    } else if let Some(problem) = names::label_1123(name) {
        errors.push(FieldError::invalid(at.child("name"), name, problem));
    }
    let image = container.text(&["image"]);
    if image.is_empty() {
        errors.push(FieldError::required(at.child("image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(
            at.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    one_of(container, &["imagePullPolicy"], at, &["Always", "IfNotPresent", "Never"], errors);
    one_of(
        container,
        &["terminationMessagePolicy"],
        at,
        &["FallbackToLogsOnError", "File"],
        errors,
    );
    let restart = container.text(&["restartPolicy"]);
    if init && !matches!(restart, "" | "Always" | "Never" | "OnFailure") {
        errors.push(FieldError::not_supported(
            at.child("restartPolicy"),
            restart,
            &["Always", "Never", "OnFailure"],
        ));
    }
    ports(container.list(&["ports"]), context.host_network, &at.child("ports"), errors);
    environment(container, at, errors);
    mounts(container, &context.volumes, &at.child("volumeMounts"), errors);
    resources(container, &at.child("resources"), errors);
    security_ids(container, at, errors);
    proc_mount(container, context.own_users, &at.child("securityContext"), errors);
    let sidecar = restart == "Always";
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(settings) = container.at(&[field]) else { continue };
        if init && !sidecar {
            errors.push(FieldError::forbidden(
                at.child(field),
                "may not be set for init containers without restartPolicy=Always",
            ));
        } else {
            probe::probe(settings, field == "readinessProbe", &at.child(field), errors);
        }
    }
    for field in ["postStart", "preStop"] {
        if let Some(handler) = container.at(&["lifecycle", field]) {
            probe::handler(handler, &at.child("lifecycle").child(field), errors);
        }
    }
    stop_signal(container, context, &at.child("lifecycle").child("stopSignal"), errors);
}

fn stop_signal(container: &Value, context: &Context<'_>, at: &Path<'_>, errors: &mut Errors) {
    let signal = container.text(&["lifecycle", "stopSignal"]);
    if signal.is_empty() {
        return;
    }
    if context.os.is_empty() {
        let why = "may not be set for containers with empty `spec.os.name`";
        errors.push(FieldError::forbidden(at, why));
        return;
    }
    let is_real_time = REAL_TIME.iter().any(|(base, most)| {
        let number = signal.strip_prefix(base).filter(|number| !number.starts_with(['0', '+']));
        number.and_then(|number| number.parse::<u8>().ok()).is_some_and(|n| n <= *most)
    });
    if !SIGNALS.contains(&signal) && !is_real_time {
        errors.push(FieldError::not_supported(at, signal, &SIGNALS));
    }
}

fn proc_mount(container: &Value, own_users: bool, at: &Path<'_>, errors: &mut Errors) {
    let wanted = container.text(&["securityContext", "procMount"]);
    let at = at.child("procMount");
    match wanted {
        "Unmasked" if !own_users => {
            let problem = "`hostUsers` must be false to use `Unmasked`";
            errors.push(FieldError::invalid(at, wanted, problem));
        }
        "" | "Default" | "Unmasked" => {}
        _ => errors.push(FieldError::not_supported(at, wanted, &["Default", "Unmasked"])),
    }
}

fn ports(ports: &[Value], host_network: bool, at: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = at.index(i);
        let name = port.text(&["name"]);
        if !name.is_empty() {
            if let Some(problem) = names::port_name(name) {
                errors.push(FieldError::invalid(at.child("name"), name, problem));
            } else if !seen.insert(name) {
                errors.push(FieldError::duplicate(at.child("name"), name));
            }
        }
        let number = port.int(&["containerPort"]).unwrap_or(0);
        if number == 0 {
            errors.push(FieldError::required(at.child("containerPort"), ""));
        } else if let Some(problem) = names::port_number(number) {
            errors.push(FieldError::invalid(at.child("containerPort"), number, problem));
        }
        let host = port.int(&["hostPort"]).unwrap_or(0);
        if host != 0 {
            if let Some(problem) = names::port_number(host) {
                errors.push(FieldError::invalid(at.child("hostPort"), host, problem));
            } else if host_network && host != number {
                errors.push(FieldError::invalid(
                    at.child("containerPort"),
                    number,
                    "must match `hostPort` when `hostNetwork` is true",
                ));
            }
        }
        one_of(port, &["protocol"], &at, &["SCTP", "TCP", "UDP"], errors);
    }
}

/// No two containers of a Pod may want the same port of the host.
pub(super) fn host_port_conflicts(containers: &[Value], at: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in container.list(&["ports"]).iter().enumerate() {
            let Some(host) = port.int(&["hostPort"]).filter(|p| *p != 0) else { continue };
            let (ip, protocol) = (port.text(&["hostIP"]), port.text(&["protocol"]));
            if !seen.insert((ip, protocol, host)) {
                errors.push(FieldError::duplicate(
                    at.index(i).child("ports").index(j).child("hostPort"),
                    format!("{ip}/{protocol}/{host}"),
                ));
            }
        }
    }
}

const FIELD_PATHS: [&str; 10] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "metadata.generation",
];

fn environment(container: &Value, at: &Path<'_>, errors: &mut Errors) {
    let list = at.child("env");
    for (i, env) in container.list(&["env"]).iter().enumerate() {
        let at = list.index(i);
        let name = env.text(&["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(at.child("name"), ""));
        } else if let Some(problem) = names::env_name(name) {
            errors.push(FieldError::invalid(at.child("name"), name, problem));
        }
        if let Some(from) = env.at(&["valueFrom"]) {
            value_from(from, !env.text(&["value"]).is_empty(), &at.child("valueFrom"), errors);
        }
    }
    let list = at.child("envFrom");
    for (i, from) in container.list(&["envFrom"]).iter().enumerate() {
        let at = list.index(i);
        let sources = ["configMapRef", "secretRef"].map(|f| (f, from.at(&[f])));
        match sources.iter().filter(|(_, s)| s.is_some()).count() {
            0 => errors.push(FieldError::invalid(
                at,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            1 => {}
            _ => errors.push(FieldError::invalid(
                at,
                "",
                "may not have more than one field specified at a time",
            )),
        }
        for (field, source) in sources {
            if source.is_some_and(|s| s.text(&["name"]).is_empty()) {
                errors.push(FieldError::required(at.child(field).child("name"), ""));
            }
        }
    }
}

fn value_from(from: &Value, has_value: bool, at: &Path<'_>, errors: &mut Errors) {
    let fields = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let given = fields.iter().filter(|f| from.has(&[f])).count();
    if given == 0 {
        errors.push(FieldError::invalid(
            at,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ));
    } else if has_value {
        errors.push(FieldError::invalid(at, "", "may not be specified when `value` is not empty"));
    } else if given > 1 {
        errors.push(FieldError::invalid(
            at,
            "",
            "may not have more than one field specified at a time",
        ));
    }
    if let Some(field) = from.at(&["fieldRef"]) {
        let path = field.text(&["fieldPath"]);
        let at = at.child("fieldRef");
        let at = at.child("fieldPath");
        let subscript = ["metadata.labels['", "metadata.annotations['"]
            .iter()
            .any(|p| path.starts_with(p) && path.ends_with("']"));
        if path.is_empty() {
            errors.push(FieldError::required(at, ""));
        } else if !subscript && !FIELD_PATHS.contains(&path) {
            errors.push(FieldError::not_supported(at, path, &FIELD_PATHS[..9]));
        }
    }
    if let Some(field) = from.at(&["resourceFieldRef"])
        && field.text(&["resource"]).is_empty()
    {
        errors.push(FieldError::required(at.child("resourceFieldRef").child("resource"), ""));
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        let Some(source) = from.at(&[field]) else { continue };
        let at = at.child(field);
        if source.text(&["name"]).is_empty() {
            errors.push(FieldError::required(at.child("name"), ""));
        }
        let key = source.text(&["key"]);
        if key.is_empty() {
            errors.push(FieldError::required(at.child("key"), ""));
        } else if let Some(problem) = names::config_key(key) {
            errors.push(FieldError::invalid(at.child("key"), key, problem));
        }
    }
}

fn mounts(container: &Value, volumes: &HashSet<&str>, at: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    let privileged = container["securityContext"]["privileged"] == true;
    for (i, mount) in container.list(&["volumeMounts"]).iter().enumerate() {
        let at = at.index(i);
        let name = mount.text(&["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(at.child("name"), ""));
        } else if !volumes.contains(name) {
            errors.push(FieldError {
                problem: FieldProblem::NotFound(name.into()),
                path: at.child("name").into(),
                detail: String::new(),
            });
        }
        let path = mount.text(&["mountPath"]);
        if path.is_empty() {
            errors.push(FieldError::required(at.child("mountPath"), ""));
        } else if !seen.insert(path) {
            errors.push(FieldError::invalid(at.child("mountPath"), path, "must be unique"));
        }
        for field in ["subPath", "subPathExpr"] {
            relative(mount.text(&[field]), &at.child(field), errors);
        }
        if mount.has(&["subPath"]) && mount.has(&["subPathExpr"]) {
            errors.push(FieldError::invalid(
                at.child("subPathExpr"),
                mount.text(&["subPathExpr"]),
                "subPathExpr and subPath are mutually exclusive",
            ));
        }
        let field = at.child("mountPropagation");
        match mount.text(&["mountPropagation"]) {
            "" | "None" | "HostToContainer" => {}
            "Bidirectional" if privileged => {}
            "Bidirectional" => errors.push(FieldError::forbidden(
                field,
                "Bidirectional mount propagation is available only to privileged containers",
            )),
            other => errors.push(FieldError::not_supported(
                field,
                other,
                &["Bidirectional", "HostToContainer", "None"],
            )),
        }
    }
}

/// A path below some folder: neither absolute nor out of it.
pub(super) fn relative(path: &str, at: &Path<'_>, errors: &mut Errors) {
    if path.starts_with('/') {
        errors.push(FieldError::invalid(at, path, "must be a relative path"));
    } else if path.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(at, path, "must not contain '..'"));
    }
}

/// Why containers may not ask for a resource of that name.
fn resource_name(name: &str) -> names::Problem {
    if let Some(problem) = names::qualified(name) {
        return Some(problem);
    }
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage");
    if standard || name.starts_with("hugepages-") || name.contains('/') {
        None
    } else if matches!(name, "storage" | "pods") {
        Some("must be a standard resource for containers".into())
    } else {
        Some("must be a standard resource type or fully qualified".into())
    }
}

fn resources(container: &Value, at: &Path<'_>, errors: &mut Errors) {
    let mut limits = HashMap::new();
    for list in ["limits", "requests"] {
        let list_at = at.child(list);
        for (name, value) in container.pairs(&["resources", list]) {
            let at = list_at.key(name);
            if let Some(problem) = resource_name(name) {
                errors.push(FieldError::invalid(at, name, problem));
            }
            quantity(value, &at, errors);
            let Some(amount) = Quantity::of(value) else { continue };
            // Devices and huge pages are given out whole and never to more than one.
            let countable = name.contains('/');
            if countable && !amount.is_whole() {
                errors.push(FieldError::invalid(at, value.clone(), "must be an integer"));
            }
            if list == "limits" {
                limits.insert(name, amount);
                continue;
            }
            let exclusive = countable || name.starts_with("hugepages-");
            match limits.get(name) {
                Some(limit) if exclusive && amount != *limit => errors.push(FieldError::invalid(
                    list_at,
                    value.clone(),
                    format!("must be equal to {name} limit of {limit}"),
                )),
                Some(limit) if amount > *limit => errors.push(FieldError::invalid(
                    list_at,
                    value.clone(),
                    format!("must be less than or equal to {name} limit of {limit}"),
                )),
                None if exclusive => errors.push(FieldError::required(
                    list_at,
                    "Limit must be set for non overcommitable resources",
                )),
                _ => {}
            }
        }
    }
}
