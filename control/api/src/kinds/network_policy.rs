//! NetworkPolicy.

use std::net::IpAddr;

use serde_json::json;

use super::common::{AGE, NAME, format_selector, object_age, text};
use super::*;
use crate::json::{Json, default_text, object_or_new, objects};
use crate::names;
use crate::path::Path;

/// `networkpolicies.networking.k8s.io`.
pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    resource: "networkpolicies.networking.k8s.io",
    short_names: &["netpol"],
    generation: Generation::Spec,
    default: |policy| {
        let Some(spec) = policy.as_object_mut().and_then(|p| object_or_new(p, "spec")) else {
            return;
        };
        for rules in ["ingress", "egress"] {
            for rule in objects(spec, rules) {
                for port in objects(rule, "ports") {
                    default_text(port, "protocol", "TCP");
                }
            }
        }
        if spec.list(&["policyTypes"]).is_empty() {
            let outward = !spec.list(&["egress"]).is_empty();
            let types = if outward { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
            spec.insert("policyTypes".into(), types);
        }
    },
    validate,
    columns: &[NAME, text("Pod-Selector", "The pods that it is about."), AGE],
    cells: |object, now| {
        let policy = object.value();
        let selector = format_selector(policy.at(&["spec", "podSelector"]));
        vec![object.meta.name.as_str().into(), selector.into(), object_age(object, now)]
    },
    ..Kind::BASE
};

/// Which traffic a policy may be about.
const TYPES: [&str; 2] = ["Ingress", "Egress"];

fn validate(policy: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let spec = policy.at(&["spec"]).unwrap_or(&Value::Null);
    if let Some(selector) = spec.at(&["podSelector"]) {
        workload::validate_selector(selector, &at.child("podSelector"), &mut errors);
    }
    for (rules, side) in [("ingress", "from"), ("egress", "to")] {
        let list = at.child(rules);
        for (i, rule) in spec.list(&[rules]).iter().enumerate() {
            let at = list.index(i);
            let (ports, peers) = (at.child("ports"), at.child(side));
            for (i, item) in rule.list(&["ports"]).iter().enumerate() {
                port(item, &ports.index(i), &mut errors);
            }
            for (i, item) in rule.list(&[side]).iter().enumerate() {
                peer(item, &peers.index(i), &mut errors);
            }
        }
    }
    let types = spec.list(&["policyTypes"]);
    let at = at.child("policyTypes");
    if types.len() > TYPES.len() {
        let why = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid(at, types.to_vec(), why));
        return errors;
    }
    for (i, kind) in types.iter().enumerate() {
        if !kind.as_str().is_some_and(|kind| TYPES.contains(&kind)) {
            errors.push(FieldError::not_supported(at.index(i), kind.clone(), &TYPES));
        }
    }
    errors
}

fn port(port: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let protocol = port.text(&["protocol"]);
    if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
        let all = ["TCP", "UDP", "SCTP"];
        errors.push(FieldError::not_supported(at.child("protocol"), protocol, &all));
    }
    let end = port.int(&["endPort"]);
    let of_end = |why: &str| FieldError::invalid(at.child("endPort"), end, why);
    match port.at(&["port"]) {
        None => {
            if end.is_some() {
                errors.push(of_end("may not be specified when `port` is not specified"));
            }
        }
        Some(Value::String(name)) => {
            if end.is_some() {
                errors.push(of_end("may not be specified when `port` is non-numeric"));
            }
            if let Some(problem) = names::port_name(name) {
                errors.push(FieldError::invalid(at.child("port"), name.as_str(), problem));
            }
        }
        Some(number) => {
            let number = number.as_i64().unwrap_or(0);
            if let Some(problem) = names::port_number(number) {
                errors.push(FieldError::invalid(at.child("port"), number, problem));
            }
            if let Some(last) = end {
                if last < number {
                    errors.push(of_end("must be greater than or equal to `port`"));
                }
                if let Some(problem) = names::port_number(last) {
                    errors.push(of_end(&problem));
                }
            }
        }
    }
}

fn peer(peer: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = peer.at(&[field]) {
            count += 1;
            workload::validate_selector(selector, &at.child(field), errors);
        }
    }
    match peer.at(&["ipBlock"]) {
        Some(block) => {
            ip_block(block, &at.child("ipBlock"), errors);
            if count > 0 {
                let why = "may not specify both ipBlock and another peer";
                errors.push(FieldError::forbidden(at, why));
            }
        }
        None if count == 0 => errors.push(FieldError::required(at, "must specify a peer")),
        None => {}
    }
}

fn ip_block(block: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let text = block.text(&["cidr"]);
    if text.is_empty() {
        errors.push(FieldError::required(at.child("cidr"), ""));
        return;
    }
    let Some(range) = names::parse_cidr(text) else {
        errors.push(FieldError::invalid(at.child("cidr"), text, names::CIDR));
        return;
    };
    let at = at.child("except");
    for (i, except) in block.list(&["except"]).iter().enumerate() {
        let at = at.index(i);
        let text = except.as_str().unwrap_or("");
        match names::parse_cidr(text) {
            None => errors.push(FieldError::invalid(at, text, names::CIDR)),
            Some(part) if !is_within(part, range) => {
                let why = "must be a strict subset of `cidr`";
                errors.push(FieldError::invalid(at, text, why));
            }
            Some(_) => {}
        }
    }
}

/// Whether a range is a smaller part of another.
fn is_within((part, longer): (IpAddr, u8), (whole, prefix): (IpAddr, u8)) -> bool {
    let prefix_of = |address: IpAddr| match address {
        IpAddr::V4(v4) => u32::from(v4).checked_shr(32 - u32::from(prefix)).unwrap_or(0).into(),
        IpAddr::V6(v6) => u128::from(v6).checked_shr(128 - u32::from(prefix)).unwrap_or(0),
    };
    part.is_ipv4() == whole.is_ipv4() && longer > prefix && prefix_of(part) == prefix_of(whole)
}
