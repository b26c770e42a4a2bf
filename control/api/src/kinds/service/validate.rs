//! Checks of Services (`ValidateService` and `ValidateServiceUpdate` upstream). Whether node ports and cluster IPs lie
//! in the server's ranges, and whether they are free, is the allocator's to say.

use std::collections::HashSet;

use serde_json::Value;

use super::{is_external, is_internal, needs_health_check};
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
        ("sessionAffinity", &["ClientIP", "None"][..]),
        ("externalTrafficPolicy", &["Cluster", "Local"]),
        ("internalTrafficPolicy", &["Cluster", "Local"]),
        ("trafficDistribution", &["PreferClose", "PreferSameNode", "PreferSameZone"]),
        ("ipFamilyPolicy", &["PreferDualStack", "RequireDualStack", "SingleStack"]),
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
    if spec.text(&["sessionAffinity"]) == "None" && spec.has(&["sessionAffinityConfig"]) {
        errors.push(FieldError::forbidden(
            SPEC.child("sessionAffinityConfig"),
            "must not be set when session affinity is None",
        ));
    }
    load_balancer(spec, kind, &mut errors);
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

/// What is said to load balancers.
fn load_balancer(spec: &Value, kind: &str, errors: &mut Vec<FieldError>) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if kind != "LoadBalancer" && spec.has(&[field]) {
            errors.push(FieldError::forbidden(SPEC.child(field), ONLY));
        }
    }
    let class = spec.text(&["loadBalancerClass"]);
    if let Some(problem) = names::qualified(class).filter(|_| spec.has(&["loadBalancerClass"])) {
        errors.push(FieldError::invalid(SPEC.child("loadBalancerClass"), class, problem));
    }
    let at = SPEC.child("loadBalancerSourceRanges");
    let ranges = spec.list(&["loadBalancerSourceRanges"]);
    if kind != "LoadBalancer" && !ranges.is_empty() {
        errors.push(FieldError::forbidden(at, ONLY));
    }
    for (i, range) in ranges.iter().enumerate() {
        // By a historical accident they may have spaces around.
        let text = range.as_str().unwrap_or("");
        if names::parse_cidr(text.trim()).is_none() {
            errors.push(FieldError::invalid(at.index(i), text, names::CIDR));
        }
    }
    let port = spec.int(&["healthCheckNodePort"]).unwrap_or(0);
    if port != 0 && !needs_health_check(spec) {
        errors.push(FieldError::invalid(
            SPEC.child("healthCheckNodePort"),
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ));
    }
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
    if spec.text(&["ipFamilyPolicy"]) == "RequireDualStack" && ip != "None" {
        errors.push(FieldError::invalid(
            SPEC.child("ipFamilyPolicy"),
            "RequireDualStack",
            "this cluster is not configured for dual-stack services",
        ));
    }
    for (i, family) in spec.list(&["ipFamilies"]).iter().enumerate() {
        let family = family.as_str().unwrap_or("");
        if family == "IPv6" && !spec.list(&["clusterIPs"]).iter().any(|ip| ip == "None") {
            errors.push(FieldError::invalid(
                SPEC.child("ipFamilies").index(i),
                family,
                "not configured on this cluster",
            ));
        } else if !matches!(family, "IPv4" | "IPv6") {
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
    let spec = |service: &Value| service.at(&["spec"]).cloned().unwrap_or(Value::Null);
    let (is, was) = (spec(new), spec(old));
    if is.text(&["type"]) == "LoadBalancer" && was.text(&["type"]) == "LoadBalancer" {
        let class = |spec: &Value| spec.at(&["loadBalancerClass"]).cloned();
        if class(&is) != class(&was) {
            errors.push(FieldError::invalid(
                SPEC.child("loadBalancerClass"),
                class(&is).unwrap_or(Value::Null),
                "may not change once set",
            ));
        }
    }
    let port = |spec: &Value| spec.int(&["healthCheckNodePort"]).unwrap_or(0);
    if needs_health_check(&is) && needs_health_check(&was) && port(&is) != port(&was) {
        errors.push(FieldError::forbidden(SPEC.child("healthCheckNodePort"), "field is immutable"));
    }
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
        check(
            json!({"selector": {"app": "my-app"}, "ports": [{"port": 80, "targetPort": 3000}], "type": "ClusterIP"}),
            &[],
        );
        check(json!({"clusterIP": "None"}), &[]);
        check(json!({"type": "ExternalName", "externalName": "example.com"}), &[]);
        check(json!({}), &["spec.ports: Required value"]);
        check(
            json!({"type": "Nope", "ports": [{"port": 80}]}),
            &[
                "spec.type: Unsupported value: \"Nope\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        );
        check(
            json!({"ports": [{"port": 80}, {"port": 80, "name": "a"}]}),
            &[
                "spec.ports[0].name: Required value",
                "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
            ],
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
            &[
                "spec.ports[0].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
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
            &[
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ],
        );
        let balanced = |more: Value| {
            let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
            for (field, value) in more.as_object().expect("fields") {
                spec[field] = value.clone();
            }
            spec
        };
        check(
            balanced(json!({"loadBalancerSourceRanges": [" 10.0.0.0/8 ", "2001:db8::/64"],
                "loadBalancerClass": "example.com/own", "allocateLoadBalancerNodePorts": false,
                "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001})),
            &[],
        );
        check(
            balanced(
                json!({"loadBalancerSourceRanges": ["10.0.0.0/33"], "loadBalancerClass": "a b",
                "healthCheckNodePort": 30001}),
            ),
            &[
                "spec.loadBalancerClass: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                "spec.loadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0/33\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                "spec.healthCheckNodePort: Invalid value: 30001: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ],
        );
        check(
            balanced(json!({"type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"],
                "allocateLoadBalancerNodePorts": true})),
            &[
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        );
        check(
            json!({"ports": [{"port": 80}], "trafficDistribution": "Near"}),
            &[
                "spec.trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
            ],
        );
        check(
            json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}),
            &[
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
                "spec.ipFamilies[1]: Invalid value: \"IPv6\": not configured on this cluster",
            ],
        );
        check(json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"}), &[]);
        check(
            json!({"clusterIP": "10.0.0.300", "ports": [{"port": 80}]}),
            &[
                "spec.clusterIPs[0]: Invalid value: \"10.0.0.300\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
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
            [
                json!("s"),
                json!("NodePort"),
                json!("10.0.0.1"),
                json!("<none>"),
                json!("80:30080/TCP"),
                json!("<unknown>"),
                json!("app=x")
            ]
        );
    }

    #[test]
    fn updates() {
        let service = |kind: &str, ip: &str, port: Value| json!({"spec": {"type": kind, "clusterIP": ip, "clusterIPs": [ip], "ports": [port]}});
        let old = service(
            "NodePort",
            "10.0.0.1",
            json!({"port": 80, "protocol": "TCP", "nodePort": 30080}),
        );

        // Replaced by the manifest it was made from: keeps what was allocated.
        let mut new =
            json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        (KIND.prepare)(Prepare::Update { new: &mut new, old: &old });
        assert_eq!(new, old);
        assert_eq!(update(&new, &old), []);

        // No longer at nodes: gives the node port up.
        let mut new = old.clone();
        new["spec"]["type"] = json!("ClusterIP");
        (KIND.prepare)(Prepare::Update { new: &mut new, old: &old });
        assert_eq!(new["spec"]["ports"], json!([{"port": 80, "protocol": "TCP"}]));

        // Another name: the address goes, whether it is left as it was, left out or said to be empty.
        for said in [json!("10.0.0.1"), json!(""), Value::Null] {
            let mut new = old.clone();
            new["spec"]["type"] = json!("ExternalName");
            new["spec"]["externalName"] = json!("example.com");
            new["spec"]["clusterIP"] = said.clone();
            if said == "" {
                new["spec"]["clusterIPs"] = json!([]);
            }
            if said.is_null() {
                new["spec"].as_object_mut().expect("fields").remove("clusterIP");
            }
            (KIND.prepare)(Prepare::Update { new: &mut new, old: &old });
            let fields: Vec<_> = new["spec"].as_object().expect("fields").keys().collect();
            assert_eq!(fields, ["externalName", "ports", "type"], "{said:?}");
            assert_eq!((KIND.validate)(&new), [], "{said:?}");
        }

        let new = service("NodePort", "10.0.0.2", json!({"port": 80}));
        let errors: Vec<_> = update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
        );
    }
}
