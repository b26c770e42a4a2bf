//! CustomResourceDefinition.

mod schema;
mod validate;

use super::common::{CREATED_AT, NAME, name_and_creation, only_status};
use super::*;
use crate::json::{Json, default_text, object_or_new, set_default};

/// `customresourcedefinitions.apiextensions.k8s.io`.
pub static KIND: Kind = Kind {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    resource: "customresourcedefinitions.apiextensions.k8s.io",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    default,
    prepare,
    validate: validate::validate,
    validate_update: validate::validate_update,
    columns: &[NAME, CREATED_AT],
    cells: name_and_creation,
    ..Kind::BASE
};

fn default(definition: &mut Value) {
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if let Some(names) = object_or_new(spec, "names") {
        let kind = names.text(&["kind"]).to_owned();
        if !kind.is_empty() {
            default_text(names, "singular", &kind.to_lowercase());
            default_text(names, "listKind", &format!("{kind}List"));
        }
    }
    if let Some(conversion) = object_or_new(spec, "conversion") {
        default_text(conversion, "strategy", "None");
        let service = ["webhook", "clientConfig", "service"]
            .into_iter()
            .try_fold(conversion, |at, field| at.get_mut(field).and_then(Value::as_object_mut));
        if let Some(service) = service {
            set_default(service, "port", || 443);
        }
    }
}

/// Keeps `status.storedVersions`: every version in which objects may lie in the store.
fn prepare(prepare: Prepare<'_>) {
    match prepare {
        Prepare::Create(new) => {
            let stored: Vec<Value> = storage(new).into_iter().collect();
            new["status"] = serde_json::json!({"storedVersions": stored});
        }
        Prepare::Update { new, .. } => {
            let Some(storage) = storage(new) else { return };
            let mut stored = new.list(&["status", "storedVersions"]).to_vec();
            if !stored.contains(&storage) {
                stored.push(storage);
                new["status"]["storedVersions"] = stored.into();
            }
        }
        Prepare::Status { new, old } => only_status(new, old),
    }
}

fn storage(definition: &Value) -> Option<Value> {
    let versions = definition.list(&["spec", "versions"]);
    versions.iter().find(|version| version.flag(&["storage"]))?.at(&["name"]).cloned()
}
