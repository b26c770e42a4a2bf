//! EndpointSlice.

use super::common::{AGE, NAME, object_age, some_of, text};
use super::*;
use crate::json::{Json, default_text, objects, set_default};
use crate::names;
use crate::path::Path;
use crate::status::FieldProblem;

/// `endpointslices.discovery.k8s.io`.
pub static KIND: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    resource: "endpointslices.discovery.k8s.io",
    generation: Generation::Spec,
    default: |slice| {
        let Some(slice) = slice.as_object_mut() else { return };
        for port in objects(slice, "ports") {
            set_default(port, "name", || "");
            default_text(port, "protocol", "TCP");
        }
    },
    validate,
    validate_update: |new, old| {
        if new.text(&["addressType"]) == old.text(&["addressType"]) {
            return Vec::new();
        }
        vec![FieldError::immutable("addressType", new.text(&["addressType"]))]
    },
    columns: &[
        NAME,
        text("AddressType", "Type of the addresses."),
        text("Ports", "Ports that the endpoints expose."),
        text("Endpoints", "Addresses of the endpoints."),
        AGE,
    ],
    cells: |object, now| {
        let slice = object.value();
        let ports = slice.list(&["ports"]).iter().map(|port| match port.int(&["port"]) {
            Some(number) => number.to_string(),
            None => "*".to_owned(),
        });
        let addresses = slice
            .list(&["endpoints"])
            .iter()
            .flat_map(|e| e.list(&["addresses"]))
            .map(|a| a.as_str().unwrap_or("").to_owned());
        vec![
            object.meta.name.as_str().into(),
            slice.text(&["addressType"]).into(),
            some_of(ports, "<unset>").into(),
            some_of(addresses, "<unset>").into(),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};

const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;

fn validate(slice: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = slice.text(&["addressType"]);
    if kind.is_empty() {
        errors.push(FieldError::required("addressType", ""));
    } else if !matches!(kind, "IPv4" | "IPv6" | "FQDN") {
        errors.push(FieldError::not_supported("addressType", kind, &["FQDN", "IPv4", "IPv6"]));
    }
    let too_many = |path: String, n: usize, max: usize| FieldError {
        problem: FieldProblem::TooMany(n),
        path,
        detail: format!("must have at most {max} items"),
    };
    let endpoints = slice.list(&["endpoints"]);
    let at = Path::new("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(too_many(at.into(), endpoints.len(), MAX_ENDPOINTS));
        return errors;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let addresses = endpoint.list(&["addresses"]);
        let at = at.index(i);
        let at = at.child("addresses");
        if addresses.is_empty() {
            errors.push(FieldError::required(at, "must contain at least 1 address"));
        } else if addresses.len() > MAX_ADDRESSES {
            errors.push(too_many(at.into(), addresses.len(), MAX_ADDRESSES));
        }
        for (j, address) in addresses.iter().enumerate() {
            let address = address.as_str().unwrap_or("");
            let problem = match kind {
                "FQDN" => names::subdomain(address),
                "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => {
                    Some("must be a valid IPv4 address".to_owned())
                }
                "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
                    Some("must be a valid IPv6 address".to_owned())
                }
                _ => None,
            };
            if let Some(problem) = problem {
                errors.push(FieldError::invalid(at.index(j), address, problem));
            }
        }
    }
    let ports = slice.list(&["ports"]);
    let at = Path::new("ports");
    if ports.len() > MAX_PORTS {
        errors.push(too_many(at.into(), ports.len(), MAX_PORTS));
        return errors;
    }
    let mut seen = std::collections::HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = at.index(i);
        let name = port.text(&["name"]);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(at.child("name"), name));
        } else if !name.is_empty()
            && let Some(problem) = names::label_1123(name)
        {
            errors.push(FieldError::invalid(at.child("name"), name, problem));
        }
        let protocol = port.text(&["protocol"]);
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            errors.push(FieldError::not_supported(
                at.child("protocol"),
                protocol,
                &["SCTP", "TCP", "UDP"],
            ));
        }
        if let Some(number) = port.int(&["port"])
            && let Some(problem) = names::port_number(number)
        {
            errors.push(FieldError::invalid(at.child("port"), number, problem));
        }
    }
    errors
}
