//! ServiceCIDR.

use super::common::{AGE, NAME, object_age, prepare_with_labels, text};
use super::*;
use crate::json::Json;
use crate::names;
use crate::path::Path;

/// `servicecidrs.networking.k8s.io`.
pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    resource: "servicecidrs.networking.k8s.io",
    namespaced: false,
    subresources: &[Subresource::Status],
    prepare: prepare_with_labels,
    validate,
    validate_update: |new, old| {
        let (is, was) = (new.list(&["spec", "cidrs"]), old.list(&["spec", "cidrs"]));
        // A second family of addresses may be added; what there was stays.
        if is.len() != was.len() && (was.len(), is.len()) != (1, 2) {
            return vec![FieldError::immutable(AT, is.to_vec())];
        }
        let changed = was.iter().zip(is).enumerate().filter(|(_, (was, is))| was != is);
        changed.map(|(i, (_, is))| FieldError::immutable(AT.index(i), is.clone())).collect()
    },
    columns: &[NAME, text("CIDRs", "Ranges of addresses for Services."), AGE],
    cells: |object, now| {
        let cidr = object.value();
        let cidrs: Vec<_> =
            cidr.list(&["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
        vec![object.meta.name.as_str().into(), cidrs.join(",").into(), object_age(object, now)]
    },
    ..Kind::BASE
};

const AT: Path<'static> = Path::new("spec.cidrs");

fn validate(cidr: &Value) -> Vec<FieldError> {
    let cidrs = cidr.list(&["spec", "cidrs"]);
    if cidrs.is_empty() {
        return vec![FieldError::required(AT, "at least one CIDR required")];
    }
    if cidrs.len() > 2 {
        let why = "may only hold up to 2 values";
        return vec![FieldError::invalid(AT, cidrs.to_vec(), why)];
    }
    let mut errors = Vec::new();
    let mut families = Vec::new();
    for (i, cidr) in cidrs.iter().enumerate() {
        let text = cidr.as_str().unwrap_or("");
        match names::parse_cidr(text) {
            None => errors.push(FieldError::invalid(AT.index(i), text, names::CIDR)),
            Some((address, _)) => families.push(address.is_ipv4()),
        }
    }
    if let [one, two] = families[..]
        && one == two
    {
        errors.push(FieldError::invalid(
            AT,
            cidrs.to_vec(),
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ));
    }
    errors
}
