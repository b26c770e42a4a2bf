//! ReplicaSet.

use super::common::{AGE, NAME, fields, integer, object_age, prepare_with_labels};
use super::workload::{self, WIDE};
use super::*;

/// `replicasets.apps`.
pub static KIND: Kind = Kind {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    resource: "replicasets.apps",
    short_names: &["rs"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    generation: Generation::Spec,
    default: |replica_set| {
        workload::default_spec(replica_set);
    },
    prepare: prepare_with_labels,
    validate: |replica_set| workload::validate(replica_set, "replicaset"),
    validate_update: workload::validate_update,
    warnings: warnings::workload,
    columns: &[
        NAME,
        integer("Desired", "Number of desired pods."),
        integer("Current", "Number of pods there are."),
        integer("Ready", "Number of pods that are ready."),
        AGE,
        WIDE[0],
        WIDE[1],
        WIDE[2],
    ],
    cells: |object, now| {
        let (replica_set, desired) = workload::read(object);
        let mut cells = vec![
            object.meta.name.as_str().into(),
            desired.into(),
            workload::count(&replica_set, "replicas").into(),
            workload::count(&replica_set, "readyReplicas").into(),
            object_age(object, now),
        ];
        cells.extend(workload::wide_cells(&replica_set));
        cells
    },
    fields: fields!["status.replicas"],
    ..Kind::BASE
};
