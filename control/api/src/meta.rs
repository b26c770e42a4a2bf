//! Checks of `metadata` that hold for every kind (`apimachinery/pkg/api/validation/objectmeta.go`).

use serde_json::Value;

use crate::json::Json;
use crate::kinds::Kind;
use crate::names;
use crate::path::Path;
use crate::status::{FieldError, FieldProblem};

const METADATA: Path<'_> = Path::new("metadata");
const MAX_ANNOTATIONS: usize = 256 * 1024;
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Checks `metadata` of a whole object, after names and namespaces were filled in from the request.
pub fn validate_meta(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let field = |name| object.text(&["metadata", name]);

    let (name, prefix) = (field("name"), field("generateName"));
    if !prefix.is_empty()
        && let Some(problem) = names::by_rule(kind.name_rule, prefix, true)
    {
        errors.push(FieldError::invalid(METADATA.child("generateName"), prefix, problem));
    }
    if name.is_empty() {
        errors
            .push(FieldError::required(METADATA.child("name"), "name or generateName is required"));
    } else if let Some(problem) = names::by_rule(kind.name_rule, name, false) {
        errors.push(FieldError::invalid(METADATA.child("name"), name, problem));
    }

    let namespace = field("namespace");
    let at = METADATA.child("namespace");
    match (kind.namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required(at, "")),
        (true, false) => {
            if let Some(problem) = names::label_1123(namespace) {
                errors.push(FieldError::invalid(at, namespace, problem));
            }
        }
        (false, false) => errors.push(FieldError::forbidden(at, "not allowed on this type")),
        (false, true) => {}
    }

    let metadata = object.at(&["metadata"]).unwrap_or(&Value::Null);
    errors.extend(validate_labels(metadata.at(&["labels"]), &METADATA.child("labels")));
    errors.extend(validate_annotations(
        metadata.at(&["annotations"]),
        &METADATA.child("annotations"),
    ));
    owner_references(metadata.list(&["ownerReferences"]), &mut errors);
    let at = METADATA.child("finalizers");
    for finalizer in metadata.list(&["finalizers"]) {
        let finalizer = finalizer.as_str().unwrap_or("");
        if let Some(problem) = names::qualified(finalizer) {
            errors.push(FieldError::invalid(at, finalizer, problem));
        } else if !kind.custom
            && !finalizer.contains('/')
            && !STANDARD_FINALIZERS.contains(&finalizer)
        {
            errors.push(FieldError::invalid(
                at,
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    errors
}

/// Checks the syntax of labels, an object of texts.
pub fn validate_labels(labels: Option<&Value>, at: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        if let Some(problem) = names::qualified(key) {
            errors.push(FieldError::invalid(at, key.as_str(), problem));
        }
        let value = value.as_str().unwrap_or("");
        if let Some(problem) = names::label_value(value) {
            errors.push(FieldError::invalid(at, value, problem));
        }
    }
    errors
}

/// Checks keys and total size of annotations.
pub fn validate_annotations(annotations: Option<&Value>, at: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        // The rule for keys is that of labels, but for case.
        if let Some(problem) = names::qualified(&key.to_ascii_lowercase()) {
            errors.push(FieldError::invalid(at, key.as_str(), problem));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError {
            problem: FieldProblem::TooLong,
            path: at.into(),
            detail: format!("may not be more than {MAX_ANNOTATIONS} bytes"),
        });
    }
    errors
}

fn owner_references(owners: &[Value], errors: &mut Vec<FieldError>) {
    let at = METADATA.child("ownerReferences");
    let mut controller: Option<&str> = None;
    for owner in owners {
        for (field, what) in
            [("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")]
        {
            if owner.text(&[field]).is_empty() {
                errors.push(FieldError::invalid(
                    at.child(field),
                    "",
                    format!("{what} must not be empty"),
                ));
            }
        }
        if owner.flag(&["controller"]) {
            let name = owner.text(&["name"]);
            if let Some(first) = controller {
                errors.push(FieldError::invalid(
                    at,
                    owners.to_vec(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    ),
                ));
            } else {
                controller = Some(name);
            }
        }
    }
}

/// Checks a change of `metadata`: what identifies the object never changes. Fields that the server fills in may be
/// absent from `new`, if the caller has not yet taken them over from `old`.
pub fn validate_meta_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let (is, was) = (new.at(&["metadata", field]), old.at(&["metadata", field]));
        if let Some(is) = is
            && Some(is) != was
        {
            errors.push(FieldError::immutable(METADATA.child(field), is.clone()));
        }
    }
    if let (Some(is), Some(was)) =
        (new.int(&["metadata", "generation"]), old.int(&["metadata", "generation"]))
        && is < was
    {
        errors.push(FieldError::invalid(
            METADATA.child("generation"),
            is,
            "must not be decremented",
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds;

    #[track_caller]
    fn check(kind: &Kind, metadata: Value, expected: &[&str]) {
        let errors: Vec<_> = validate_meta(kind, &json!({"metadata": metadata}))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        for (error, expected) in errors.iter().zip(expected) {
            assert!(error.starts_with(expected), "{error} does not start with {expected}");
        }
    }

    #[test]
    fn objects() {
        let pod = &kinds::POD;
        check(pod, json!({"name": "a", "namespace": "b"}), &[]);
        check(pod, json!({"name": "a-b", "generateName": "a-", "namespace": "b"}), &[]);
        check(
            pod,
            json!({"namespace": "b"}),
            &["metadata.name: Required value: name or generateName is required"],
        );
        check(
            pod,
            json!({"name": "A_b"}),
            &[
                "metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of",
                "metadata.namespace: Required value",
            ],
        );
        check(
            &kinds::NODE,
            json!({"name": "n", "namespace": "b"}),
            &["metadata.namespace: Forbidden: not allowed on this type"],
        );
        check(
            &kinds::SERVICE,
            json!({"name": "1a", "namespace": "b"}),
            &["metadata.name: Invalid value: \"1a\": a DNS-1035 label"],
        );
        check(&kinds::CLUSTER_ROLE, json!({"name": "system:node"}), &[]);
        check(
            pod,
            json!({"name": "a", "namespace": "b",
                "labels": {"a b": "c", "d": "e f"},
                "annotations": {"A.b/C": "anything at all", "/x": ""},
                "finalizers": ["kubernetes", "example.com/x", "nope"],
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "1", "controller": true},
                    {"apiVersion": "v1", "kind": "Pod", "name": "q", "controller": true}]}),
            &[
                "metadata.labels: Invalid value: \"a b\": name part must consist of",
                "metadata.labels: Invalid value: \"e f\": a valid label must be",
                "metadata.annotations: Invalid value: \"/x\": prefix part must be non-empty",
                "metadata.ownerReferences.uid: Invalid value: \"\": uid must not be empty",
                "metadata.ownerReferences: Invalid value: [",
                "metadata.finalizers: Invalid value: \"nope\": name is neither",
            ],
        );
        check(
            pod,
            json!({"name": "a", "namespace": "b", "annotations": {"a": "x".repeat(MAX_ANNOTATIONS)}}),
            &["metadata.annotations: Too long: may not be more than 262144 bytes"],
        );
    }

    #[test]
    fn updates() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "creationTimestamp": "t", "generation": 2}});
        let fine = json!({"metadata": {"name": "a"}});
        assert_eq!(validate_meta_update(&fine, &old), []);
        let bad = json!({"metadata": {"name": "b", "uid": "2", "generation": 1}});
        let errors: Vec<_> =
            validate_meta_update(&bad, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "metadata.name: Invalid value: \"b\": field is immutable",
                "metadata.uid: Invalid value: \"2\": field is immutable",
                "metadata.generation: Invalid value: 1: must not be decremented",
            ]
        );
    }
}
