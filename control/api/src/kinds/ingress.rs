//! Ingress.

use std::collections::BTreeSet;

use super::common::{AGE, NAME, object_age, or, prepare_with_labels, text};
use super::*;
use crate::json::{Json, set_default};
use crate::names;
use crate::path::Path;

/// The annotation that named a class before `spec.ingressClassName` did.
pub const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The annotation with which a Node tells on which ports it serves Ingresses: those of HTTP and HTTPS, `80,443`.
pub const PORTS_ANNOTATION: &str = "coracle.dev/ingress-ports";

/// `ingresses.networking.k8s.io`.
pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    resource: "ingresses.networking.k8s.io",
    short_names: &["ing"],
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    default: |ingress| {
        if let Some(status) = ingress.get_mut("status").and_then(Value::as_object_mut) {
            set_default(status, "loadBalancer", || serde_json::json!({}));
        }
    },
    prepare: |prepare| {
        let created = match prepare {
            Prepare::Create(new) => new,
            other => return prepare_with_labels(other),
        };
        if let Some(new) = created.as_object_mut() {
            new.insert("status".into(), serde_json::json!({"loadBalancer": {}}));
        }
    },
    validate,
    validate_create: |ingress| {
        let annotation = ingress.at(&["metadata", "annotations", CLASS_ANNOTATION]);
        let annotation = annotation.and_then(Value::as_str);
        let class = ingress.at(&["spec", "ingressClassName"]).and_then(Value::as_str);
        match (annotation, class) {
            (Some(annotation), Some(class)) if annotation != class => {
                vec![FieldError::invalid(
                    Path::new("annotations").child(CLASS_ANNOTATION),
                    annotation,
                    "must match `ingressClassName` when both are specified",
                )]
            }
            _ => Vec::new(),
        }
    },
    columns: &[
        NAME,
        text("Class", "The name of the IngressClass resource that should be used for additional configuration."),
        text("Hosts", "Hosts that incoming requests are matched against before the ingress rule."),
        text("Address", "Addresses under which the ingress is reached."),
        text("Ports", "Ports of TLS configurations that open."),
        AGE,
    ],
    cells: |object, now| {
        let ingress = object.value();
        vec![
            object.meta.name.as_str().into(),
            or(ingress.text(&["spec", "ingressClassName"]), "<none>").into(),
            hosts(ingress.list(&["spec", "rules"])).into(),
            addresses(ingress.list(&["status", "loadBalancer", "ingress"])).into(),
            if ingress.list(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" }.into(),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};

/// The hosts of the first rules, and how many more rules there are.
fn hosts(rules: &[Value]) -> String {
    const SHOWN: usize = 3;
    let named: Vec<_> =
        rules.iter().map(|rule| rule.text(&["host"])).filter(|host| !host.is_empty()).collect();
    if named.is_empty() {
        return "*".to_owned();
    }
    let list = named[..named.len().min(SHOWN)].join(",");
    match rules.len() {
        n if n > SHOWN && named.len() >= SHOWN => format!("{list} + {} more...", n - SHOWN),
        _ => list,
    }
}

fn addresses(points: &[Value]) -> String {
    let all: BTreeSet<_> =
        points.iter().map(|point| or(point.text(&["ip"]), point.text(&["hostname"]))).collect();
    all.into_iter().filter(|address| !address.is_empty()).collect::<Vec<_>>().join(",")
}

const SPEC: Path<'static> = Path::new("spec");

fn validate(ingress: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = ingress.at(&["spec"]).unwrap_or(&Value::Null);
    let rules = spec.list(&["rules"]);
    if rules.is_empty() && !spec.has(&["defaultBackend"]) {
        errors.push(FieldError::invalid(
            SPEC,
            Value::Null,
            "either `defaultBackend` or `rules` must be specified",
        ));
    }
    if let Some(default) = spec.at(&["defaultBackend"]) {
        backend(default, &SPEC.child("defaultBackend"), &mut errors);
    }
    let at = SPEC.child("rules");
    for (i, rule) in rules.iter().enumerate() {
        rule_of(rule, &at.index(i), &mut errors);
    }
    let at = SPEC.child("tls");
    for (i, tls) in spec.list(&["tls"]).iter().enumerate() {
        let at = at.index(i);
        let hosts = at.child("hosts");
        for (i, host) in tls.list(&["hosts"]).iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            if let Some(problem) = host_name(host) {
                errors.push(FieldError::invalid(hosts.index(i), host, problem));
            }
        }
        let secret = tls.text(&["secretName"]);
        if !secret.is_empty()
            && let Some(problem) = names::subdomain(secret)
        {
            errors.push(FieldError::invalid(at.child("secretName"), secret, problem));
        }
    }
    if let Some(class) = spec.at(&["ingressClassName"]).and_then(Value::as_str)
        && let Some(problem) = names::subdomain(class)
    {
        errors.push(FieldError::invalid(SPEC.child("ingressClassName"), class, problem));
    }
    let at = Path::new("status.loadBalancer.ingress");
    let points = ingress.list(&["status", "loadBalancer", "ingress"]);
    for (i, point) in points.iter().enumerate() {
        let at = at.index(i);
        let (ip, name) = (point.text(&["ip"]), point.text(&["hostname"]));
        if !ip.is_empty()
            && let Some(problem) = names::ip(ip)
        {
            errors.push(FieldError::invalid(at.child("ip"), ip, problem));
        }
        if name.is_empty() {
            continue;
        }
        if let Some(problem) = names::subdomain(name) {
            errors.push(FieldError::invalid(at.child("hostname"), name, problem));
        }
        if names::ip(name).is_none() {
            let why = "must be a DNS name, not an IP address";
            errors.push(FieldError::invalid(at.child("hostname"), name, why));
        }
    }
    errors
}

/// A host name, or one with a wildcard for its first label.
fn host_name(host: &str) -> names::Problem {
    if host.contains('*') { names::wildcard_subdomain(host) } else { names::subdomain(host) }
}

fn rule_of(rule: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let host = rule.text(&["host"]);
    if !host.is_empty() {
        if names::ip(host).is_none() {
            let why = "must be a DNS name, not an IP address";
            errors.push(FieldError::invalid(at.child("host"), host, why));
        }
        if let Some(problem) = host_name(host) {
            errors.push(FieldError::invalid(at.child("host"), host, problem));
        }
    }
    if !rule.has(&["http"]) {
        return;
    }
    let http = at.child("http");
    let at = http.child("paths");
    let paths = rule.list(&["http", "paths"]);
    if paths.is_empty() {
        errors.push(FieldError::required(at, ""));
    }
    for (i, path) in paths.iter().enumerate() {
        path_of(path, &at.index(i), errors);
    }
}

fn path_of(path: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let text = path.text(&["path"]);
    let relative = || FieldError::invalid(at.child("path"), text, "must be an absolute path");
    match path.text(&["pathType"]) {
        "" => {
            errors.push(FieldError::required(at.child("pathType"), "pathType must be specified"));
            return;
        }
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.push(relative());
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.contains(part) {
                    let why = format!("must not contain '{part}'");
                    errors.push(FieldError::invalid(at.child("path"), text, why));
                }
            }
            for end in ["/..", "/."] {
                if text.ends_with(end) {
                    let why = format!("cannot end with '{end}'");
                    errors.push(FieldError::invalid(at.child("path"), text, why));
                }
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.push(relative());
            }
        }
        other => errors.push(FieldError::not_supported(
            at.child("pathType"),
            other,
            &["Exact", "ImplementationSpecific", "Prefix"],
        )),
    }
    let backend_at = at.child("backend");
    backend(path.at(&["backend"]).unwrap_or(&Value::Null), &backend_at, errors);
}

fn backend(backend: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    match (backend.has(&["resource"]), backend.has(&["service"])) {
        (true, true) => {
            let why = "cannot set both resource and service backends";
            errors.push(FieldError::invalid(at, "", why));
        }
        (false, false) => {
            let why = "resource or service backend is required";
            errors.push(FieldError::invalid(at, "", why));
        }
        (true, false) => {
            let resource = backend.at(&["resource"]).unwrap_or(&Value::Null);
            ingress_class::typed_reference(resource, &at.child("resource"), errors);
        }
        (false, true) => service(backend, at, errors),
    }
}

fn service(backend: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let service = at.child("service");
    let name = backend.text(&["service", "name"]);
    if name.is_empty() {
        errors.push(FieldError::required(service.child("name"), ""));
    } else if let Some(problem) = names::label_1035(name) {
        errors.push(FieldError::invalid(service.child("name"), name, problem));
    }
    let port = service.child("port");
    let name = backend.text(&["service", "port", "name"]);
    let number = backend.int(&["service", "port", "number"]).unwrap_or(0);
    if !name.is_empty() && number != 0 {
        errors.push(FieldError::invalid(at, "", "cannot set both port name & port number"));
    } else if !name.is_empty() {
        if let Some(problem) = names::port_name(name) {
            errors.push(FieldError::invalid(port.child("name"), name, problem));
        }
    } else if number != 0 {
        if let Some(problem) = names::port_number(number) {
            errors.push(FieldError::invalid(port.child("number"), number, problem));
        }
    } else {
        errors.push(FieldError::required(at, "port name or number is required"));
    }
}
