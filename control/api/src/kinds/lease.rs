//! Lease.

use super::common::{AGE, NAME, object_age, text};
use super::*;
use crate::json::Json;

/// `leases.coordination.k8s.io`.
pub static KIND: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    resource: "leases.coordination.k8s.io",
    short_history: true,
    validate: |lease| {
        let mut errors = Vec::new();
        if let Some(seconds) = lease.int(&["spec", "leaseDurationSeconds"])
            && seconds <= 0
        {
            errors.push(FieldError::invalid(
                "spec.leaseDurationSeconds",
                seconds,
                "must be greater than 0",
            ));
        }
        if let Some(count) = lease.int(&["spec", "leaseTransitions"])
            && count < 0
        {
            errors.push(FieldError::invalid(
                "spec.leaseTransitions",
                count,
                "must be greater than or equal to 0",
            ));
        }
        errors
    },
    columns: &[NAME, text("Holder", "Who holds the lease."), AGE],
    cells: |object, now| {
        let holder = object.value().text(&["spec", "holderIdentity"]).to_owned();
        vec![object.meta.name.as_str().into(), holder.into(), object_age(object, now)]
    },
    ..Kind::BASE
};
