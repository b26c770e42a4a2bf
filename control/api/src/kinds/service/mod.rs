//! Service.

mod validate;
mod warnings;

use serde_json::json;

use super::common::{AGE, NAME, fields, format_labels, object_age, only_status, or, text, wide};
use super::*;
use crate::json::{Fields, Json, default_text, keep, object, object_or_new, objects, set_default};

/// `services`.
pub static KIND: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    resource: "services",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    name_rule: NameRule::Label1035,
    default,
    prepare,
    validate: validate::service,
    validate_update: validate::update,
    warnings: warnings::of,
    columns: &[
        NAME,
        text("Type", "How the service is exposed."),
        text("Cluster-IP", "Address of the service within the cluster."),
        text("External-IP", "Addresses of the service from outside."),
        text("Port(s)", "Ports that the service exposes."),
        AGE,
        wide("Selector", "Labels of the pods that serve."),
    ],
    cells,
    fields: fields!["spec.clusterIP", "spec.type"],
    ..Kind::BASE
};

/// Has addresses and ports at nodes.
fn is_external(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}

/// Load balancers in front ask its nodes whether they have endpoints.
fn needs_health_check(spec: &Value) -> bool {
    spec.text(&["type"]) == "LoadBalancer" && spec.text(&["externalTrafficPolicy"]) == "Local"
}

/// Has a cluster IP, unless headless.
fn is_internal(kind: &str) -> bool {
    is_external(kind) || kind == "ClusterIP"
}

fn default(service: &mut Value) {
    let Some(service) = service.as_object_mut() else { return };
    if let Some(spec) = object_or_new(service, "spec") {
        default_spec(spec);
    }
    if let Some(status) = object_or_new(service, "status") {
        set_default(status, "loadBalancer", || json!({}));
    }
}

fn default_spec(spec: &mut Fields) {
    default_text(spec, "sessionAffinity", "None");
    if spec.text(&["sessionAffinity"]) == "ClientIP" {
        if spec.int(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"]).is_none() {
            let config = json!({"clientIP": {"timeoutSeconds": 10800}});
            spec.insert("sessionAffinityConfig".into(), config);
        }
    } else {
        spec.remove("sessionAffinityConfig");
    }
    default_text(spec, "type", "ClusterIP");
    for port in objects(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let unset = match port.get("targetPort") {
            None | Some(Value::Null) => true,
            Some(Value::String(name)) => name.is_empty(),
            Some(number) => number.as_i64() == Some(0),
        };
        if unset && let Some(number) = port.get("port").cloned() {
            port.insert("targetPort".into(), number);
        }
    }
    let kind = spec.text(&["type"]).to_owned();
    if is_external(&kind) || (kind == "ClusterIP" && !spec.list(&["externalIPs"]).is_empty()) {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if is_internal(&kind) {
        default_text(spec, "internalTrafficPolicy", "Cluster");
        default_text(spec, "ipFamilyPolicy", "SingleStack");
        set_default(spec, "ipFamilies", || json!(["IPv4"]));
        // Two fields for one address; whichever is given fills the other.
        let ip = spec.text(&["clusterIP"]).to_owned();
        if !ip.is_empty() && spec.list(&["clusterIPs"]).is_empty() {
            spec.insert("clusterIPs".into(), json!([ip]));
        } else if ip.is_empty()
            && let Some(first) = spec.list(&["clusterIPs"]).first().cloned()
        {
            spec.insert("clusterIP".into(), first);
        }
    }
    if kind == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", || true);
    }
}

fn prepare(prepare: Prepare<'_>) {
    match prepare {
        Prepare::Create(new) => {
            if let Some(new) = new.as_object_mut() {
                new.insert("status".into(), json!({"loadBalancer": {}}));
            }
        }
        Prepare::Update { new, old } => {
            let Some(new) = new.as_object_mut() else { return };
            keep(new, old, "status");
            if let Some(spec) = object(new, "spec")
                && let Some(old) = old.get("spec")
            {
                keep_allocated(spec, old);
                drop_unsuited(spec, old);
            }
        }
        Prepare::Status { new, old } => {
            let asked = new.at(&["metadata"]).cloned().unwrap_or(Value::Null);
            only_status(new, old);
            // Load balancers' controllers note things of their own with the status.
            let Some(metadata) = new.as_object_mut().and_then(|new| object(new, "metadata")) else {
                return;
            };
            for field in ["annotations", "labels"] {
                match asked.at(&[field]) {
                    Some(value) => metadata.insert(field.into(), value.clone()),
                    None => metadata.remove(field),
                };
            }
        }
    }
}

/// What the server allocated stays when a client replaces the Service with a manifest that leaves it out.
fn keep_allocated(new: &mut Fields, old: &Value) {
    let (kind, was) = (new.text(&["type"]).to_owned(), old.text(&["type"]));
    if is_internal(&kind) && is_internal(was) && new.text(&["clusterIP"]).is_empty() {
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old.at(&[field]) {
                new.insert(field.into(), value.clone());
            }
        }
    }
    if old.text(&["type"]) == "LoadBalancer"
        && old.text(&["externalTrafficPolicy"]) == "Local"
        && kind == "LoadBalancer"
        && new.text(&["externalTrafficPolicy"]) == "Local"
        && new.int(&["healthCheckNodePort"]).unwrap_or(0) == 0
        && let Some(port) = old.at(&["healthCheckNodePort"])
    {
        new.insert("healthCheckNodePort".into(), port.clone());
    }
    if is_external(&kind) && is_external(was) {
        for port in objects(new, "ports") {
            let key = |p: &Fields| (p.get("port").cloned(), p.text(&["protocol"]).to_owned());
            if port.int(&["nodePort"]).unwrap_or(0) == 0
                && let Some(number) = old
                    .list(&["ports"])
                    .iter()
                    .filter_map(Value::as_object)
                    .find(|p| key(p) == key(port))
                    .and_then(|p| p.int(&["nodePort"]))
            {
                port.insert("nodePort".into(), number.into());
            }
        }
    }
}

/// A change of type takes along what only the old type needs, unless the client set that anew.
fn drop_unsuited(new: &mut Fields, old: &Value) {
    let (kind, was) = (new.text(&["type"]).to_owned(), old.text(&["type"]).to_owned());
    let unchanged = |new: &Fields, field: &str| new.at(&[field]) == old.at(&[field]);
    let mut unsuited = Vec::new();
    if is_internal(&was) && !is_internal(&kind) {
        unsuited.extend([
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
        ]);
    }
    if is_external(&was) && !is_external(&kind) {
        unsuited.push("externalTrafficPolicy");
        let numbers = |ports: &[Value]| -> Vec<_> {
            ports.iter().map(|p| p.int(&["nodePort"]).unwrap_or(0)).collect()
        };
        if numbers(new.list(&["ports"])) == numbers(old.list(&["ports"])) {
            for port in objects(new, "ports") {
                port.remove("nodePort");
            }
        }
    }
    if was == "LoadBalancer" && kind != "LoadBalancer" {
        unsuited.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if needs_health_check(old) && !needs_health_check(&Value::Object(new.clone())) {
        unsuited.push("healthCheckNodePort");
    }
    for field in unsuited {
        // An empty one says the same as none, and is how some clients say so.
        let is_empty = new.at(&[field]).is_some_and(|value| {
            value.as_str() == Some("") || value.as_array().is_some_and(Vec::is_empty)
        });
        if is_empty || unchanged(new, field) {
            new.remove(field);
        }
    }
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let service = object.value();
    let spec = service.at(&["spec"]).unwrap_or(&Value::Null);
    let ip = spec.list(&["clusterIPs"]).first().and_then(Value::as_str);
    let ports: Vec<_> = spec
        .list(&["ports"])
        .iter()
        .map(|p| {
            let (port, protocol) = (p.int(&["port"]).unwrap_or(0), p.text(&["protocol"]));
            match p.int(&["nodePort"]) {
                Some(node) if node > 0 => format!("{port}:{node}/{protocol}"),
                _ => format!("{port}/{protocol}"),
            }
        })
        .collect();
    vec![
        object.meta.name.as_str().into(),
        spec.text(&["type"]).into(),
        or(ip.unwrap_or(spec.text(&["clusterIP"])), "<none>").into(),
        external_ip(&service).into(),
        or(&ports.join(","), "<none>").into(),
        object_age(object, now),
        format_labels(spec.at(&["selector"])).into(),
    ]
}

fn external_ip(service: &Value) -> String {
    let ips = || service.list(&["spec", "externalIPs"]).iter().filter_map(Value::as_str);
    let joined = |ips: Vec<&str>, none: &str| or(&ips.join(","), none).to_owned();
    match service.text(&["spec", "type"]) {
        "ClusterIP" | "NodePort" => joined(ips().collect(), "<none>"),
        "LoadBalancer" => {
            let ingress = service.list(&["status", "loadBalancer", "ingress"]).iter();
            let given = ingress.map(|i| or(i.text(&["ip"]), i.text(&["hostname"])));
            joined(given.chain(ips()).collect(), "<pending>")
        }
        "ExternalName" => service.text(&["spec", "externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}
