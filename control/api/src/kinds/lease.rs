//! Lease.

use super::*;

/// `leases.coordination.k8s.io`.
pub static KIND: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    resource: "leases.coordination.k8s.io",
    short_history: true,
    ..Kind::BASE
};
