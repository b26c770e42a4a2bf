//! One stored thing, untyped: parsed metadata beside its canonical JSON.
//!
//! The registry, the watch cache and lists need only the metadata and the bytes; decoding into a
//! `k8s-openapi` struct is paid once, by the first reader that asks for it. Objects are immutable and shared as
//! `Arc<Object>`.
//!
//! **Canonical form.** `kind`, `apiVersion` and `metadata` come first, in that order. Stored bytes carry no
//! `metadata.resourceVersion`, because the store assigns it at commit; [`Object::from_stored`] splices it in as the first
//! field of `metadata`. See [`crate::cluster`] for where objects go next.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kinds::Kind;

/// An immutable Kubernetes object of a known [`Kind`].
pub struct Object {
    /// Which entry of the kinds table it belongs to.
    pub kind: &'static Kind,
    /// Parsed `metadata`.
    pub meta: Meta,
    /// `spec.nodeName` of a Pod, once bound.
    pub node_name: Option<Box<str>>,
    json: Bytes,
    /// Two forms at most: the whole typed struct, and the few fields that controllers keep for many objects.
    typed: [OnceLock<Box<dyn Any + Send + Sync>>; 2],
}

/// The part of `metadata` that the control plane itself reads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name, unique per kind and namespace.
    pub name: String,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// UID, unique over space and time.
    pub uid: String,
    /// The store's revision of the last write; 0 if never stored.
    #[serde(deserialize_with = "revision")]
    pub resource_version: u64,
    /// Moves with `spec`.
    pub generation: i64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Owners, for garbage collection.
    pub owner_references: Vec<OwnerRef>,
    /// Deletion waits until this is empty.
    pub finalizers: Vec<String>,
    /// When it was created.
    pub creation_timestamp: Option<Timestamp>,
    /// Set once deletion was asked for: the moment when the grace period ends.
    pub deletion_timestamp: Option<Timestamp>,
    /// The grace period that deletion was asked with, in seconds.
    pub deletion_grace_period_seconds: Option<i64>,
}

/// `metadata.ownerReferences[]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerRef {
    /// Group and version of the owner.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner, in the same namespace or cluster-scoped.
    pub name: String,
    /// UID of the owner; the only thing that identifies it.
    pub uid: String,
    /// The managing controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Foreground deletion of the owner waits for this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

/// Why bytes are no object.
#[derive(Debug, thiserror::Error)]
#[error("{kind} object is not readable: {source}")]
pub struct ParseError {
    kind: &'static str,
    source: serde_json::Error,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: Meta,
}

#[derive(Deserialize)]
struct PodHead {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    spec: PodSpecHead,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PodSpecHead {
    #[serde(default)]
    node_name: Option<Box<str>>,
}

const METADATA: &[u8] = b"\"metadata\":{";

impl Object {
    /// Reads stored bytes (canonical, without `resourceVersion`) written at `revision`.
    pub fn from_stored(
        kind: &'static Kind,
        stored: &[u8],
        revision: u64,
    ) -> Result<Self, ParseError> {
        let json = match find(stored, METADATA) {
            Some(at) => {
                let at = at + METADATA.len();
                let mut json = Vec::with_capacity(stored.len() + 40);
                json.extend_from_slice(&stored[..at]);
                json.extend_from_slice(format!("\"resourceVersion\":\"{revision}\"").as_bytes());
                if stored.get(at) != Some(&b'}') {
                    json.push(b',');
                }
                json.extend_from_slice(&stored[at..]);
                Bytes::from(json)
            }
            None => Bytes::copy_from_slice(stored),
        };
        Self::from_json(kind, json)
    }

    /// Reads complete JSON, `resourceVersion` included where there is one.
    pub fn from_json(kind: &'static Kind, json: Bytes) -> Result<Self, ParseError> {
        let fail = |source| ParseError { kind: kind.kind, source };
        let (meta, node_name) = if kind.is_pod() {
            let head: PodHead = serde_json::from_slice(&json).map_err(fail)?;
            (head.metadata, head.spec.node_name.filter(|n| !n.is_empty()))
        } else {
            let head: Head = serde_json::from_slice(&json).map_err(fail)?;
            (head.metadata, None)
        };
        Ok(Self { kind, meta, node_name, json, typed: Default::default() })
    }

    /// The object that `value` describes, as if it were stored at the `resourceVersion` in it.
    pub fn from_value(kind: &'static Kind, value: &Value) -> Result<Self, ParseError> {
        let empty = Map::new();
        let map = value.as_object().unwrap_or(&empty);
        Self::from_json(kind, Bytes::from(encode(map, true)))
    }

    /// Canonical JSON with `resourceVersion` filled in.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The JSON as a tree, parsed anew: for writers, who change it.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// The typed form, decoded at most once for each of the first two types asked for.
    ///
    /// # Errors
    /// The object does not fit `T`; what passed validation does.
    pub fn decode<T>(&self) -> Result<Cow<'_, T>, ParseError>
    where
        T: DeserializeOwned + Clone + Send + Sync + 'static,
    {
        for cell in &self.typed {
            let known = match cell.get() {
                Some(known) => known,
                None => {
                    let typed: T = serde_json::from_slice(&self.json)
                        .map_err(|source| ParseError { kind: self.kind.kind, source })?;
                    cell.get_or_init(|| Box::new(typed))
                }
            };
            // Another thread may have been first, with another type.
            if let Some(typed) = known.downcast_ref::<T>() {
                return Ok(Cow::Borrowed(typed));
            }
        }
        serde_json::from_slice(&self.json)
            .map(Cow::Owned)
            .map_err(|source| ParseError { kind: self.kind.kind, source })
    }

    /// `namespace/name`, or `/name` for cluster-scoped objects: the order and key of [`crate::Cluster`].
    pub fn key(&self) -> String {
        key(&self.meta.namespace, &self.meta.name)
    }

    /// The owner that manages it, if any.
    pub fn controller(&self) -> Option<&OwnerRef> {
        self.meta.owner_references.iter().find(|o| o.controller == Some(true))
    }

    /// Deletion was asked for.
    pub fn is_deleting(&self) -> bool {
        self.meta.deletion_timestamp.is_some()
    }

    /// A reference to this object as an owner, `controller` and `blockOwnerDeletion` set.
    pub fn owner_ref(&self) -> OwnerRef {
        OwnerRef {
            api_version: self.kind.api_version(),
            kind: self.kind.kind.to_owned(),
            name: self.meta.name.clone(),
            uid: self.meta.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}@{}", self.kind.kind, self.key(), self.meta.resource_version)
    }
}

/// The key under which [`crate::Cluster`] holds an object: `namespace/name`.
pub fn key(namespace: &str, name: &str) -> String {
    let mut key = String::with_capacity(namespace.len() + name.len() + 1);
    key.push_str(namespace);
    key.push('/');
    key.push_str(name);
    key
}

/// Canonical JSON: `kind`, `apiVersion`, `metadata`, then the rest. `metadata.resourceVersion` is left out unless
/// `with_revision`, because what is stored gets it from the store.
pub fn encode(map: &Map<String, Value>, with_revision: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let mut separator = b'{';
    let mut field = |name: &str, value: &Value| {
        out.push(separator);
        separator = b',';
        // Writing to a Vec and encoding a parsed tree cannot fail.
        let _ = serde_json::to_writer(&mut out, name);
        out.push(b':');
        let _ = serde_json::to_writer(&mut out, value);
    };
    for name in ["kind", "apiVersion"] {
        if let Some(value) = map.get(name) {
            field(name, value);
        }
    }
    match map.get("metadata") {
        Some(Value::Object(meta)) if !with_revision && meta.contains_key("resourceVersion") => {
            let mut meta = meta.clone();
            meta.remove("resourceVersion");
            field("metadata", &Value::Object(meta));
        }
        Some(meta) => field("metadata", meta),
        None => {}
    }
    for (name, value) in map {
        if !matches!(name.as_str(), "kind" | "apiVersion" | "metadata") {
            field(name, value);
        }
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
    out
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn revision<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    if text.is_empty() { Ok(0) } else { text.parse().map_err(serde::de::Error::custom) }
}
