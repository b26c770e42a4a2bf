//! Schemas of custom kinds as they are published: as their definitions have them, but for what version 2 cannot say.

use serde_json::{Map, Value, json};

/// What version 2 does not know, or means otherwise (`apiextensions-apiserver/pkg/controller/openapi/v2/conversion.go`).
const NOT_IN_V2: &[&str] = &["oneOf", "anyOf", "not", "allOf", "nullable"];

/// Objects of the kind may have any field. Old clients would refuse those that are not named, so version 2 names none.
pub(super) fn is_open(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

/// The schema in terms of version 2, of which clients know too little to check values of more than one type.
pub(super) fn for_v2(schema: &Value) -> Value {
    let Some(map) = schema.as_object() else { return schema.clone() };
    let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or(false);
    // Old clients refuse what is not of the one type, and fields that are not named.
    let (odd, open) = (
        flag("nullable") || flag("x-kubernetes-int-or-string"),
        flag("x-kubernetes-preserve-unknown-fields"),
    );
    let mut out = Map::new();
    for (name, value) in map {
        let name = name.as_str();
        let dropped = NOT_IN_V2.contains(&name)
            || (odd
                && matches!(
                    name,
                    "type" | "items" | "properties" | "additionalProperties" | "format"
                ))
            || (open && matches!(name, "items" | "properties" | "type"));
        if dropped {
            continue;
        }
        let value = match (name, value) {
            ("properties", Value::Object(all)) => {
                all.iter().map(|(name, schema)| (name.clone(), for_v2(schema))).collect()
            }
            ("items" | "additionalProperties", Value::Object(_)) => for_v2(value),
            // What may be null may be left out, as far as they can tell.
            ("required", Value::Array(all)) => {
                let nullable = |name: &Value| {
                    let field = name.as_str().unwrap_or_default();
                    map.get("properties").is_some_and(|all| all[field]["nullable"] == true)
                };
                let all: Vec<Value> = all.iter().filter(|name| !nullable(name)).cloned().collect();
                if all.is_empty() {
                    continue;
                }
                all.into()
            }
            _ => value.clone(),
        };
        out.insert(name.to_owned(), value);
    }
    Value::Object(out)
}

/// Adds what every object has and definitions leave out.
pub(super) fn add_meta(schema: &mut Value, metadata: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    let text = |what: &str| json!({"description": what, "type": "string"});
    metadata["description"] = "Standard object's metadata. More info: \
        https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
        .into();
    let all = map.entry("properties").or_insert_with(|| json!({}));
    let Some(all) = all.as_object_mut() else { return };
    all.insert(
        "apiVersion".into(),
        text(
            "APIVersion defines the versioned schema of this representation of an object. Servers should convert \
             recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
             https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
        ),
    );
    all.insert(
        "kind".into(),
        text(
            "Kind is a string value representing the REST resource this object represents. Servers may infer this from \
             the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
             https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
        ),
    );
    all.insert("metadata".into(), metadata.take());
}
