//! Paths: the routes of one resource, with the operations that clients look for.

use serde_json::{Map, Value, json};

use super::super::Schema;
use super::schemas::Schemas;
use super::{Resource, Version, gvk};

const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// The same of a custom kind. Clients take the best that is named here, and refuse what is refused.
const PATCH_TYPES_CUSTOM: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
];

/// Adds all routes of a resource.
pub(super) fn add<'a>(
    paths: &mut Map<String, Value>,
    schemas: &mut Schemas<'a>,
    resource: &Resource<'a>,
    version: Version,
) {
    let base = match &*resource.group {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    let collection = match resource.namespaced {
        true => format!("{base}/namespaces/{{namespace}}/{}", resource.plural),
        false => format!("{base}/{}", resource.plural),
    };
    let mut route = Route { schemas, resource, version, subresource: "" };
    if resource.namespaced {
        let all = format!("{base}/{}", resource.plural);
        paths.insert(all, route.item(&["list-all"], &[], resource.schema));
    }
    let namespace: &[&str] = if resource.namespaced { &["namespace"] } else { &[] };
    let named = [&["name"], namespace].concat();
    paths.insert(
        collection.clone(),
        route.item(&["list", "post", "deletecollection"], namespace, resource.schema),
    );
    let object = format!("{collection}/{{name}}");
    paths.insert(
        object.clone(),
        route.item(&["get", "put", "patch", "delete"], &named, resource.schema),
    );
    for sub in &resource.subresources {
        route.subresource = &sub.name;
        let item = match sub.schema {
            Some(schema) => route.item(sub.methods, &named, schema),
            None => route.text(&named),
        };
        paths.insert(format!("{object}/{}", sub.name), item);
    }
}

struct Route<'r, 'a> {
    schemas: &'r mut Schemas<'a>,
    resource: &'r Resource<'a>,
    version: Version,
    subresource: &'r str,
}

impl<'a> Route<'_, 'a> {
    /// The operations of one path; `list-all` is a list over all namespaces.
    fn item(&mut self, actions: &[&str], places: &[&str], schema: Schema<'a>) -> Value {
        let mut item = Map::new();
        for action in actions {
            let method = match *action {
                "list" | "list-all" => "get",
                "deletecollection" => "delete",
                other => other,
            };
            item.insert(method.into(), self.operation(action, schema));
        }
        item.insert("parameters".into(), self.path_parameters(places));
        item.into()
    }

    /// A path that answers text.
    fn text(&mut self, places: &[&str]) -> Value {
        let answer = match self.version {
            Version::V2 => json!({"description": "OK", "schema": {"type": "string"}}),
            Version::V3 => {
                json!({"description": "OK", "content": {"text/plain": {"schema": {"type": "string"}}}})
            }
        };
        let mut operation = self.head("get", self.resource.schema);
        operation.insert("responses".into(), json!({"200": answer}));
        json!({"get": operation, "parameters": self.path_parameters(places)})
    }

    fn operation(&mut self, action: &str, schema: Schema<'a>) -> Value {
        let body = match action {
            "post" | "put" => Some(self.schemas.refer(schema)),
            "patch" => Some(json!({"type": "object"})),
            "delete" | "deletecollection" => Some(self.schemas.refer_meta("DeleteOptions")),
            _ => None,
        };
        let answer = match action {
            "list" | "list-all" => self.schemas.refer_list(schema),
            "delete" | "deletecollection" => self.schemas.refer_meta("Status"),
            _ => self.schemas.refer(schema),
        };
        let mut operation = self.head(action, schema);
        let mut parameters = self.query_parameters(action);
        let patches = match self.resource.schema.message().published {
            Some(_) => PATCH_TYPES_CUSTOM,
            None => PATCH_TYPES,
        };
        match (body, self.version) {
            (Some(body), Version::V2) => {
                parameters.push(json!({"name": "body", "in": "body", "required": !action.starts_with("delete"), "schema": body}));
                let types = if action == "patch" { patches } else { &["*/*"] };
                operation.insert("consumes".into(), json!(types));
            }
            (Some(body), Version::V3) => {
                let types = if action == "patch" { patches } else { &["*/*"] };
                let content: Map<_, _> =
                    types.iter().map(|t| (t.to_string(), json!({"schema": body}))).collect();
                operation.insert("requestBody".into(), json!({"content": content}));
            }
            (None, _) => {}
        }
        // Go's clients tell an empty list from none, but only until they have written it once.
        if !parameters.is_empty() {
            operation.insert("parameters".into(), parameters.into());
        }
        operation.insert("responses".into(), self.responses(action, answer));
        operation.into()
    }

    fn head(&self, action: &str, schema: Schema<'a>) -> Map<String, Value> {
        let Resource { group, version, kind, namespaced, .. } = self.resource;
        let id = schema.message().gvk.as_ref();
        let id = id
            .map_or_else(|| gvk(group, version, kind), |id| gvk(&id.group, &id.version, &id.kind));
        let word = match action {
            "get" => "read",
            "post" => "create",
            "put" => "replace",
            "deletecollection" => "deleteCollection",
            "list-all" => "list",
            other => other,
        };
        let group = match &**group {
            "" => "core",
            group => group.split('.').next().unwrap_or_default(),
        };
        let scope = if *namespaced && action != "list-all" { "Namespaced" } else { "" };
        let tail = if action == "list-all" { "ForAllNamespaces" } else { "" };
        let operation = format!(
            "{word}{}{}{scope}{kind}{}{tail}",
            capital(group),
            capital(version),
            capital(self.subresource)
        );
        let Value::Object(head) = json!({
            "operationId": operation,
            "tags": [format!("{group}_{version}")],
            "x-kubernetes-action": if action == "list-all" { "list" } else { action },
            "x-kubernetes-group-version-kind": id,
        }) else {
            return Map::new();
        };
        head
    }

    fn responses(&self, action: &str, answer: Value) -> Value {
        let answer = match self.version {
            Version::V2 => json!({"description": "OK", "schema": answer}),
            Version::V3 => {
                json!({"description": "OK", "content": {"application/json": {"schema": answer}}})
            }
        };
        let mut out = Map::new();
        let codes: &[&str] = match action {
            "post" => &["200", "201", "202"],
            "put" | "patch" => &["200", "201"],
            "delete" => &["200", "202"],
            _ => &["200"],
        };
        out.extend(codes.iter().map(|code| (code.to_string(), answer.clone())));
        out.insert("401".into(), json!({"description": "Unauthorized"}));
        out.into()
    }

    fn query_parameters(&self, action: &str) -> Vec<Value> {
        let write =
            &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
        let delete = &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ];
        let select = &[
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
        ];
        let watch = &[("allowWatchBookmarks", "boolean"), ("watch", "boolean")];
        let names: Vec<(&str, &str)> = match action {
            "post" | "put" => write.to_vec(),
            "patch" => [&write[..], &[("force", "boolean")]].concat(),
            "delete" => delete.to_vec(),
            "deletecollection" => [&delete[..], &select[..]].concat(),
            "list" | "list-all" => [&select[..], &watch[..]].concat(),
            _ => Vec::new(),
        };
        names.into_iter().map(|(name, ty)| self.parameter(name, "query", ty)).collect()
    }

    fn path_parameters(&self, places: &[&str]) -> Value {
        let mut out: Vec<_> =
            places.iter().map(|name| self.parameter(name, "path", "string")).collect();
        out.push(self.parameter("pretty", "query", "string"));
        out.into()
    }

    fn parameter(&self, name: &str, place: &str, ty: &str) -> Value {
        let mut out = json!({"name": name, "in": place});
        match self.version {
            Version::V2 => {
                out["type"] = ty.into();
                out["uniqueItems"] = true.into();
            }
            Version::V3 => out["schema"] = json!({"type": ty, "uniqueItems": true}),
        }
        if place == "path" {
            out["required"] = true.into();
        }
        out
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
}
