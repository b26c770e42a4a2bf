//! StatefulSet.

use std::borrow::Cow;

use serde_json::{Map, json};

use super::common::{AGE, NAME, container_cells, object_age, prepare_with_labels, text, wide};
use super::*;
use crate::json::{Json, default_text, keep, object, object_or_new, objects, set_default};
use crate::path::Path;

/// `statefulsets.apps`.
pub static KIND: Kind = Kind {
    group: "apps",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    resource: "statefulsets.apps",
    short_names: &["sts"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    generation: Generation::Spec,
    default,
    prepare: prepare_with_labels,
    validate,
    validate_update,
    warnings: warnings::workload,
    columns: &[
        NAME,
        text("Ready", "Number of the pod with ready state."),
        AGE,
        wide("Containers", "Names of each container in the template."),
        wide("Images", "Images referenced by each container in the template."),
    ],
    cells: |object, now| {
        let (set, desired) = workload::read(object);
        let [names, images] = container_cells(set.at(&["spec", "template", "spec"]));
        vec![
            object.meta.name.as_str().into(),
            format!("{}/{desired}", workload::count(&set, "readyReplicas")).into(),
            object_age(object, now),
            names,
            images,
        ]
    },
    ..Kind::BASE
};

/// What may change, in the words of the refusal.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn default(set: &mut Value) {
    let Some(spec) = workload::default_spec(set) else { return };
    default_text(spec, "podManagementPolicy", "OrderedReady");
    set_default(spec, "revisionHistoryLimit", || 10);
    if let Some(strategy) = object_or_new(spec, "updateStrategy") {
        default_text(strategy, "type", "RollingUpdate");
        if strategy.text(&["type"]) == "RollingUpdate" {
            set_default(strategy, "rollingUpdate", Map::new);
            if let Some(rolling) = object(strategy, "rollingUpdate") {
                set_default(rolling, "partition", || 0);
            }
        }
    }
    if let Some(retention) = object_or_new(spec, "persistentVolumeClaimRetentionPolicy") {
        for field in ["whenDeleted", "whenScaled"] {
            default_text(retention, field, "Retain");
        }
    }
    for claim in objects(spec, "volumeClaimTemplates") {
        default_text(claim, "apiVersion", "v1");
        default_text(claim, "kind", "PersistentVolumeClaim");
        set_default(claim, "metadata", Map::new);
        set_default(claim, "status", || json!({"phase": "Pending"}));
        if let Some(spec) = object_or_new(claim, "spec") {
            default_text(spec, "volumeMode", "Filesystem");
        }
    }
}

fn validate(set: &Value) -> Vec<FieldError> {
    let mut errors = workload::validate(&with_claims(set), "statefulset");
    let spec = set.at(&["spec"]).unwrap_or(&Value::Null);
    let at = Path::new("spec");
    workload::not_negative(spec, "revisionHistoryLimit", &at, &mut errors);
    match spec.text(&["podManagementPolicy"]) {
        "" => errors.push(FieldError::required(at.child("podManagementPolicy"), "")),
        "OrderedReady" | "Parallel" => {}
        other => errors.push(FieldError::invalid(
            at.child("podManagementPolicy"),
            other,
            "must be 'OrderedReady' or 'Parallel'",
        )),
    }
    if let Some(ordinals) = spec.at(&["ordinals"]) {
        let at = at.child("ordinals");
        workload::not_negative(ordinals, "start", &at, &mut errors);
    }
    if let Some(retention) = spec.at(&["persistentVolumeClaimRetentionPolicy"]) {
        let at = at.child("persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            let policy = retention.text(&[field]);
            if !matches!(policy, "Retain" | "Delete") {
                let allowed = ["Retain", "Delete"];
                errors.push(FieldError::not_supported(at.child(field), policy, &allowed));
            }
        }
    }
    let at = at.child("updateStrategy");
    let rolling = spec.at(&["updateStrategy", "rollingUpdate"]);
    match (spec.text(&["updateStrategy", "type"]), rolling) {
        ("", _) => errors.push(FieldError::required(at, "")),
        ("OnDelete", Some(rolling)) => errors.push(FieldError::invalid(
            at.child("rollingUpdate"),
            rolling.clone(),
            "only allowed for updateStrategy 'RollingUpdate'",
        )),
        ("OnDelete", None) => {}
        ("RollingUpdate", rolling) => {
            let at = at.child("rollingUpdate");
            let rolling = rolling.unwrap_or(&Value::Null);
            workload::not_negative(rolling, "partition", &at, &mut errors);
            if let Some(most) = rolling.at(&["maxUnavailable"]) {
                let at = at.child("maxUnavailable");
                if workload::int_or_percent(most, true, &at, &mut errors) == Some(0) {
                    errors.push(FieldError::invalid(at, most.clone(), "cannot be 0"));
                }
            }
        }
        (other, _) => {
            errors.push(FieldError::invalid(at, other, "must be 'RollingUpdate' or 'OnDelete'"))
        }
    }
    errors
}

/// The set with volumes in its template for the claims that its Pods get: containers may mount these.
fn with_claims(set: &Value) -> Cow<'_, Value> {
    let claims = set.list(&["spec", "volumeClaimTemplates"]);
    let mut whole = Cow::Borrowed(set);
    if claims.is_empty() {
        return whole;
    }
    let spec = whole.to_mut().pointer_mut("/spec/template/spec").and_then(Value::as_object_mut);
    let volumes = spec.map(|spec| spec.entry("volumes").or_insert_with(|| json!([])));
    if let Some(volumes) = volumes.and_then(Value::as_array_mut) {
        for claim in claims {
            let name = claim.text(&["metadata", "name"]);
            if !volumes.iter().any(|volume| volume.text(&["name"]) == name) {
                let claim = json!({"claimName": name});
                volumes.push(json!({"name": name, "persistentVolumeClaim": claim}));
            }
        }
    }
    whole
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let spec = |set: &Value| set.map(&["spec"]).cloned().unwrap_or_default();
    let mut fixed = spec(new);
    for field in MUTABLE {
        keep(&mut fixed, &Value::Object(spec(old)), field);
    }
    if fixed == spec(old) {
        return Vec::new();
    }
    vec![FieldError::forbidden(
        "spec",
        "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_may_be_mounted() {
        let set = |claims: Value| {
            let container = json!({"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/data"}]});
            let mut set = json!({"spec": {
                "serviceName": "db",
                "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [container]}},
                "volumeClaimTemplates": claims,
            }});
            default(&mut set);
            validate(&set).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let claim = json!({"metadata": {"name": "data"}, "spec": {}});
        assert_eq!(set(json!([claim])), [""; 0]);
        let why = "spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\"";
        assert_eq!(set(json!([])), [why]);
    }
}
