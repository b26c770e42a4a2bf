//! EndpointSlice.

use super::*;

/// `endpointslices.discovery.k8s.io`.
pub static KIND: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    resource: "endpointslices.discovery.k8s.io",
    generation: Generation::Spec,
    ..Kind::BASE
};
