//! Endpoints.

use super::common::{AGE, NAME, object_age, some_of, text};
use super::*;
use crate::json::{Json, default_text, objects};
use crate::names;
use crate::path::Path;

/// `endpoints`.
pub static KIND: Kind = Kind {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    resource: "endpoints",
    short_names: &["ep"],
    default: |endpoints| {
        let Some(endpoints) = endpoints.as_object_mut() else { return };
        for subset in objects(endpoints, "subsets") {
            for port in objects(subset, "ports") {
                default_text(port, "protocol", "TCP");
            }
        }
    },
    validate,
    deprecated: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    columns: &[NAME, text("Endpoints", "Addresses and ports that serve."), AGE],
    cells: |object, now| {
        let endpoints = object.value();
        let all = endpoints.list(&["subsets"]).iter().flat_map(|subset| {
            let addresses = || subset.list(&["addresses"]).iter().map(|a| a.text(&["ip"]));
            let ports = subset.list(&["ports"]);
            if ports.is_empty() {
                addresses().map(str::to_owned).collect::<Vec<_>>()
            } else {
                ports
                    .iter()
                    .filter_map(|p| p.int(&["port"]))
                    .flat_map(|port| addresses().map(move |ip| host_port(ip, port)))
                    .collect()
            }
        });
        vec![
            object.meta.name.as_str().into(),
            some_of(all, "<none>").into(),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn validate(endpoints: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("subsets");
    for (i, subset) in endpoints.list(&["subsets"]).iter().enumerate() {
        let at = at.index(i);
        if subset.list(&["addresses"]).is_empty() && subset.list(&["notReadyAddresses"]).is_empty()
        {
            errors.push(FieldError::required(at, "must specify `addresses` or `notReadyAddresses`"));
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (j, address) in subset.list(&[field]).iter().enumerate() {
                let ip = address.text(&["ip"]);
                if let Some(problem) = names::ip(ip) {
                    errors.push(FieldError::invalid(
                        at.child(field).index(j).child("ip"),
                        ip,
                        problem,
                    ));
                }
            }
        }
        for (j, port) in subset.list(&["ports"]).iter().enumerate() {
            let number = port.int(&["port"]).unwrap_or(0);
            if let Some(problem) = names::port_number(number) {
                errors.push(FieldError::invalid(
                    at.child("ports").index(j).child("port"),
                    number,
                    problem,
                ));
            }
        }
    }
    errors
}
