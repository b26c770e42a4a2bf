//! OpenAPI documents, built from the schemas and a description of the routes.
//!
//! Clients take from them: whether the server validates fields (`fieldValidation` on PATCH), what `kubectl explain`
//! shows, and how lists merge. v3 has one document per group and version, v2 one for everything. Both are built
//! when asked for; the server keeps the bytes.

mod custom;
pub mod gnostic;
mod paths;
mod schemas;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::{Schema, Str, builtin};
use crate::kinds::{Kind, Subresource};

/// A kind as it is served.
#[derive(Debug)]
pub struct Resource<'a> {
    /// Group, empty for core.
    pub group: Str,
    /// Version.
    pub version: Str,
    /// `Pod`
    pub kind: Str,
    /// `pods`
    pub plural: Str,
    /// Whether it lives in namespaces.
    pub namespaced: bool,
    /// Its schema.
    pub schema: Schema<'a>,
    /// What is served below an object.
    pub subresources: Vec<SubResource<'a>>,
}

/// A path below an object.
#[derive(Debug)]
pub struct SubResource<'a> {
    /// Last part of the path: `status`.
    pub name: Str,
    /// What is sent and answered; none for text (logs) and for other protocols (exec).
    pub schema: Option<Schema<'a>>,
    /// HTTP methods in lower case.
    pub methods: &'static [&'static str],
}

impl Resource<'static> {
    /// A built-in kind; none if it has no schema.
    pub fn builtin(kind: &Kind) -> Option<Self> {
        let schema = builtin().by_gvk(kind.group, kind.version, kind.kind)?;
        Some(Resource {
            group: kind.group.into(),
            version: kind.version.into(),
            kind: kind.kind.into(),
            plural: kind.plural.into(),
            namespaced: kind.namespaced,
            schema,
            subresources: kind
                .subresources
                .iter()
                .map(|s| SubResource::builtin(*s, schema))
                .collect(),
        })
    }
}

impl<'a> Resource<'a> {
    /// A custom kind in one version; none if it has no schema.
    pub fn custom(version: &'a crate::custom::Version) -> Option<Self> {
        let (kind, schema) = (version.kind, version.schema()?);
        let scale = || builtin().by_gvk("autoscaling", "v1", "Scale");
        let subresources = kind.subresources.iter().map(|subresource| {
            let (name, schema) = match subresource {
                Subresource::Scale => ("scale", scale()),
                _ => ("status", Some(schema)),
            };
            SubResource { name: name.into(), schema, methods: &["get", "put", "patch"] }
        });
        Some(Resource {
            group: kind.group.into(),
            version: kind.version.into(),
            kind: kind.kind.into(),
            plural: kind.plural.into(),
            namespaced: kind.namespaced,
            schema,
            subresources: subresources.collect(),
        })
    }
}

impl SubResource<'static> {
    fn builtin(subresource: Subresource, parent: Schema<'static>) -> Self {
        let other = |group, kind| builtin().by_gvk(group, "v1", kind);
        let (name, schema, methods): (_, _, &[&str]) = match subresource {
            Subresource::Status => ("status", Some(parent), &["get", "put", "patch"]),
            Subresource::Scale => {
                ("scale", other("autoscaling", "Scale"), &["get", "put", "patch"])
            }
            Subresource::Log => ("log", None, &["get"]),
            Subresource::EphemeralContainers => {
                ("ephemeralcontainers", Some(parent), &["get", "put", "patch"])
            }
            Subresource::Resize => ("resize", Some(parent), &["get", "put", "patch"]),
            Subresource::Exec => ("exec", None, &["get", "post"]),
            Subresource::Attach => ("attach", None, &["get", "post"]),
            Subresource::PortForward => ("portforward", None, &["get", "post"]),
            Subresource::Binding => ("binding", other("", "Binding"), &["post"]),
            Subresource::Eviction => ("eviction", other("policy", "Eviction"), &["post"]),
            Subresource::Finalize => ("finalize", Some(parent), &["put"]),
            Subresource::Approval => ("approval", Some(parent), &["get", "put", "patch"]),
            Subresource::Token => {
                ("token", other("authentication.k8s.io", "TokenRequest"), &["post"])
            }
        };
        SubResource { name: name.into(), schema, methods }
    }
}

/// Which OpenAPI: where definitions are kept and how parameters and bodies are written differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V2,
    V3,
}

impl Version {
    fn reference(self, name: &str) -> String {
        match self {
            Version::V2 => format!("#/definitions/{name}"),
            Version::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

/// The v3 document of one group and version: these must be its resources. `release` is the server's version.
pub fn v3(resources: &[Resource<'_>], release: &str) -> Value {
    let (paths, schemas) = build(resources, Version::V3);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": release},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
            }},
        },
    })
}

/// The v2 document of all resources.
pub fn v2(resources: &[Resource<'_>], release: &str) -> Value {
    let (paths, definitions) = build(resources, Version::V2);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": release},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {
            "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
        }},
        "security": [{"BearerToken": []}],
    })
}

fn build(resources: &[Resource<'_>], version: Version) -> (Map<String, Value>, Map<String, Value>) {
    let mut schemas = schemas::Schemas::new(version);
    let mut paths = Map::new();
    for resource in resources {
        paths::add(&mut paths, &mut schemas, resource, version);
    }
    (paths, schemas.finish())
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "kind": kind, "version": version})
}
