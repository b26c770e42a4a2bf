//! Checks of Services (`ValidateService` and `ValidateServiceUpdate` upstream). Whether node ports and cluster IPs lie
//! in the server's ranges, and whether they are free, is the allocator's to say.

use std::collections::HashSet;

use serde_json::Value;

use super::{is_external, is_internal};
use crate::json::Json;
use crate::meta::validate_labels;
use crate::names;
use crate::path::Path;
use crate::status::FieldError;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const SPEC: Path<'_> = Path::new("spec");

pub(super) fn service(service: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = service.at(&["spec"]).unwrap_or(&Value::Null);
    let kind = spec.text(&["type"]);
    if !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(SPEC.child("type"), kind, &TYPES));
    }
    let headless = spec.text(&["clusterIP"]) == "None";
    ports(spec, kind, headless, &mut errors);
    errors.extend(validate_labels(spec.at(&["selector"]), &SPEC.child("selector")));
    for (field, allowed) in [
        ("sessionAffinity", &["ClientIP", "None"]),
        ("externalTrafficPolicy", &["Cluster", "Local"]),
        ("internalTrafficPolicy", &["Cluster", "Local"]),
    ] {
        if let Some(value) = spec.at(&[field]).and_then(Value::as_str)
            && !allowed.contains(&value)
        {
            errors.push(FieldError::not_supported(SPEC.child(field), value, allowed));
        }
    }
    if spec.has(&["externalTrafficPolicy"])
        && !is_external(kind)
        && spec.list(&["externalIPs"]).is_empty()
    {
        errors.push(FieldError::invalid(
            SPEC.child("externalTrafficPolicy"),
            spec.text(&["externalTrafficPolicy"]),
            "may only be set for externally-accessible services",
        ));
    }
    if let Some(seconds) = spec.int(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"])
        && !(1..=86400).contains(&seconds)
    {
        errors.push(FieldError::invalid(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            seconds,
            "must be greater than 0 and less than 86400",
        ));
    }
    addresses(spec, kind, &mut errors);
    for (i, ip) in spec.list(&["externalIPs"]).iter().enumerate() {
        let ip = ip.as_str().unwrap_or("");
        if let Some(problem) = names::ip(ip) {
            errors.push(FieldError::invalid(SPEC.child("externalIPs").index(i), ip, problem));
        }
    }
    if kind == "ExternalName" {
        let name = spec.text(&["externalName"]);
        if name.is_empty() {
            errors.push(FieldError::required(SPEC.child("externalName"), ""));
        } else if let Some(problem) = names::subdomain(name.strip_suffix('.').unwrap_or(name)) {
            errors.push(FieldError::invalid(SPEC.child("externalName"), name, problem));
        }
    }
    errors
}

fn addresses(spec: &Value, kind: &str, errors: &mut Vec<FieldError>) {
    let ip = spec.text(&["clusterIP"]);
    let list = spec.list(&["clusterIPs"]);
    if kind == "ExternalName" {
        if !ip.is_empty() {
            errors.push(FieldError::forbidden(
                SPEC.child("clusterIP"),
                "may not be set when `type` is 'ExternalName'",
            ));
        }
        return;
    }
    if ip == "None" && is_external(kind) {
        errors.push(FieldError::invalid(
            SPEC.child("clusterIPs").index(0),
            "None",
            format!("may not be set to 'None' for {kind} services"),
        ));
    }
    if let Some(first) = list.first().and_then(Value::as_str)
        && first != ip
    {
        errors.push(FieldError::invalid(
            SPEC.child("clusterIPs"),
            list.to_vec(),
            "first value must match `clusterIP`",
        ));
    }
    for (i, ip) in list.iter().enumerate() {
        let ip = ip.as_str().unwrap_or("");
        if ip != "None"
            && let Some(problem) = names::ip(ip)
        {
            errors.push(FieldError::invalid(SPEC.child("clusterIPs").index(i), ip, problem));
        }
    }
    for (i, family) in spec.list(&["ipFamilies"]).iter().enumerate() {
        let family = family.as_str().unwrap_or("");
        if !matches!(family, "IPv4" | "IPv6") {
            errors.push(FieldError::not_supported(
                SPEC.child("ipFamilies").index(i),
                family,
                &["IPv4", "IPv6"],
            ));
        }
    }
}

fn ports(spec: &Value, kind: &str, headless: bool, errors: &mut Vec<FieldError>) {
    let at = SPEC.child("ports");
    let ports = spec.list(&["ports"]);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required(at, ""));
    }
    let mut seen_names = HashSet::new();
    let mut seen_ports = HashSet::new();
    let mut seen_node_ports = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = at.index(i);
        let name = port.text(&["name"]);
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(at.child("name"), ""));
            }
        } else if let Some(problem) = names::label_1123(name) {
            errors.push(FieldError::invalid(at.child("name"), name, problem));
        } else if !seen_names.insert(name) {
            errors.push(FieldError::duplicate(at.child("name"), name));
        }
        let number = port.int(&["port"]).unwrap_or(0);
        if let Some(problem) = names::port_number(number) {
            errors.push(FieldError::invalid(at.child("port"), number, problem));
        }
        let protocol = port.text(&["protocol"]);
        if protocol.is_empty() {
            errors.push(FieldError::required(at.child("protocol"), ""));
        } else if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            errors.push(FieldError::not_supported(
                at.child("protocol"),
                protocol,
                &["SCTP", "TCP", "UDP"],
            ));
        }
        target_port(port.at(&["targetPort"]), &at.child("targetPort"), errors);
        if !seen_ports.insert((number, protocol)) {
            errors.push(FieldError::duplicate(
                at,
                serde_json::json!({"protocol": protocol, "port": number}),
            ));
        }
        let node_port = port.int(&["nodePort"]).unwrap_or(0);
        if node_port == 0 {
            continue;
        }
        if !is_external(kind) {
            errors.push(FieldError::forbidden(
                at.child("nodePort"),
                format!("may not be used when `type` is '{kind}'"),
            ));
        } else if let Some(problem) = names::port_number(node_port) {
            errors.push(FieldError::invalid(at.child("nodePort"), node_port, problem));
        } else if !seen_node_ports.insert((node_port, protocol)) {
            errors.push(FieldError::duplicate(at.child("nodePort"), node_port));
        }
    }
}

/// A port by number or by name.
fn target_port(port: Option<&Value>, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let problem = match port {
        Some(Value::String(name)) => names::port_name(name),
        Some(number) => names::port_number(number.as_i64().unwrap_or(0)),
        None => None,
    };
    if let (Some(problem), Some(port)) = (problem, port) {
        errors.push(FieldError::invalid(at, port.clone(), problem));
    }
}

pub(super) fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = |service: &Value| is_internal(service.text(&["spec", "type"]));
    // Changing to or from ExternalName gives the address up or asks for one.
    if kind(new) && kind(old) {
        let (is, was) = (new.text(&["spec", "clusterIP"]), old.text(&["spec", "clusterIP"]));
        if !was.is_empty() && is != was {
            errors.push(FieldError::invalid(
                SPEC.child("clusterIPs").index(0),
                serde_json::json!([is]),
                if is.is_empty() {
                    "primary clusterIP can not be unset"
                } else {
                    "may not change once set"
                },
            ));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::KIND;
    use super::*;
    use crate::kinds::Prepare;
    use crate::object::Object;

    #[track_caller]
    fn check(spec: Value, expected: &[&str]) {
        let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
        (KIND.default)(&mut service);
        let errors: Vec<_> = (KIND.validate)(&service).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected, "{service}");
    }

    #[test]
    fn specs() {
        check(json!({"selector": {"app": "my-app"}, "ports": [{"port": 80, "targetPort": 3000}], "type": "ClusterIP"}), &[]);
        check(json!({"clusterIP": "None"}), &[]);
        check(json!({"type": "ExternalName", "externalName": "example.com"}), &[]);
        check(json!({}), &["spec.ports: Required value"]);
        check(
            json!({"type": "Nope", "ports": [{"port": 80}]}),
            &["spec.type: Unsupported value: \"Nope\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""],
        );
        check(
            json!({"ports": [{"port": 80}, {"port": 80, "name": "a"}]}),
            &["spec.ports[0].name: Required value", "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}"],
        );
        check(
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}),
            &["spec.ports[1].name: Duplicate value: \"a\""],
        );
        check(
            json!({"ports": [{"port": 70000, "targetPort": "http"}]}),
            &["spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        );
        check(
            json!({"ports": [{"port": 80, "protocol": "HTTP"}]}),
            &["spec.ports[0].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\""],
        );
        check(
            json!({"ports": [{"port": 80, "nodePort": 30000}]}),
            &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        );
        check(
            json!({"type": "NodePort", "ports": [{"port": 80, "name": "a", "nodePort": 30000}, {"port": 81, "name": "b", "nodePort": 30000}]}),
            &["spec.ports[1].nodePort: Duplicate value: 30000"],
        );
        check(
            json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80}]}),
            &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        );
        check(
            json!({"clusterIP": "10.0.0.300", "ports": [{"port": 80}]}),
            &["spec.clusterIPs[0]: Invalid value: \"10.0.0.300\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
        );
    }

    #[test]
    fn defaults_and_rows() {
        let mut service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1",
            "selector": {"app": "x"}, "ports": [{"port": 80, "nodePort": 30080}]}});
        (KIND.default)(&mut service);
        assert_eq!(
            service["spec"],
            json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
                "selector": {"app": "x"}, "sessionAffinity": "None", "externalTrafficPolicy": "Cluster",
                "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP", "targetPort": 80}]})
        );
        let object = Object::from_value(&KIND, &service).expect("a service");
        let cells = (KIND.cells)(&object, "2024-01-01T00:00:00Z".parse().expect("a time"));
        assert_eq!(
            cells,
            [json!("s"), json!("NodePort"), json!("10.0.0.1"), json!("<none>"), json!("80:30080/TCP"), json!("<unknown>"), json!("app=x")]
        );
    }

    #[test]
    fn updates() {
        let service = |kind: &str, ip: &str, port: Value| {
            json!({"spec": {"type": kind, "clusterIP": ip, "clusterIPs": [ip], "ports": [port]}})
        };
        let old = service("NodePort", "10.0.0.1", json!({"port": 80, "protocol": "TCP", "nodePort": 30080}));

        // Replaced by the manifest it was made from: keeps what was allocated.
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        (KIND.prepare)(Prepare::Update { new: &mut new, old: &old });
        assert_eq!(new, old);
        assert_eq!(update(&new, &old), []);

        // No longer at nodes: gives the node port up.
        let mut new = old.clone();
        new["spec"]["type"] = json!("ClusterIP");
        (KIND.prepare)(Prepare::Update { new: &mut new, old: &old });
        assert_eq!(new["spec"]["ports"], json!([{"port": 80, "protocol": "TCP"}]));

        let new = service("NodePort", "10.0.0.2", json!({"port": 80}));
        let errors: Vec<_> = update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(errors, ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]);
    }
}
