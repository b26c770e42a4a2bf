//! Deployment.

use serde_json::{Map, json};

use super::common::{AGE, NAME, object_age, prepare_status, text};
use super::workload::{self, WIDE};
use super::*;
use crate::json::{Json, default_text, object, object_or_new, set_default};

/// `deployments.apps`.
pub static KIND: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    resource: "deployments.apps",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    generation: Generation::Spec,
    default,
    prepare: prepare_status,
    columns: &[
        NAME,
        text("Ready", "Number of the pod with ready state."),
        text("Up-to-date", "Number of pods that have the desired template."),
        text("Available", "Number of pods ready for at least minReadySeconds."),
        AGE,
        WIDE[0],
        WIDE[1],
        WIDE[2],
    ],
    cells,
    ..Kind::BASE
};

fn default(deployment: &mut Value) {
    let Some(spec) = workload::default_spec(deployment) else { return };
    set_default(spec, "revisionHistoryLimit", || 10);
    set_default(spec, "progressDeadlineSeconds", || 600);
    let Some(strategy) = object_or_new(spec, "strategy") else { return };
    default_text(strategy, "type", "RollingUpdate");
    if strategy.text(&["type"]) == "RollingUpdate" {
        set_default(strategy, "rollingUpdate", Map::new);
        if let Some(rolling) = object(strategy, "rollingUpdate") {
            for field in ["maxSurge", "maxUnavailable"] {
                set_default(rolling, field, || json!("25%"));
            }
        }
    }
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let (deployment, desired) = workload::read(object);
    let count = |field| workload::count(&deployment, field);
    let mut cells = vec![
        object.meta.name.as_str().into(),
        format!("{}/{desired}", count("readyReplicas")).into(),
        count("updatedReplicas").into(),
        count("availableReplicas").into(),
        object_age(object, now),
    ];
    cells.extend(workload::wide_cells(&deployment));
    cells
}
