//! Where objects lie in the store: `/registry/<group-or-core>/<plural>/[<namespace>/]<name>`.
//!
//! Byte order of keys within a kind is the order of [`Object::key`](coracle_api::Object::key), so that pages of a list
//! can be cut from the cache or from the store alike.

use bytes::Bytes;
use coracle_api::{Kind, kinds};

use crate::custom::Definitions;

/// What all objects' keys begin with.
pub(crate) const OBJECTS: &str = "/registry/";

/// What all keys of a kind begin with.
pub(crate) fn of_kind(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group };
    format!("{OBJECTS}{group}/{}/", kind.plural)
}

/// What all keys of a kind in one namespace begin with.
pub(crate) fn of_namespace(kind: &Kind, namespace: &str) -> String {
    format!("{}{namespace}/", of_kind(kind))
}

/// The key of one object; `namespace` is empty for cluster-scoped kinds.
pub(crate) fn of_object(kind: &Kind, namespace: &str, name: &str) -> Bytes {
    let mut key = of_kind(kind);
    if kind.namespaced {
        key.push_str(namespace);
        key.push('/');
    }
    key.push_str(name);
    key.into()
}

/// Kind, namespace and name of a key; `None` if no kind of ours lies there.
pub(crate) fn parse<'k>(
    definitions: &Definitions,
    key: &'k [u8],
) -> Option<(&'static Kind, &'k str, &'k str)> {
    let key = std::str::from_utf8(key).ok()?.strip_prefix(OBJECTS)?;
    let (group, key) = key.split_once('/')?;
    let (plural, key) = key.split_once('/')?;
    let kind = kinds::by_resource(if group == "core" { "" } else { group }, plural)
        .or_else(|| definitions.stored(group, plural))?;
    if kind.namespaced {
        let (namespace, name) = key.split_once('/')?;
        Some((kind, namespace, name))
    } else {
        Some((kind, "", key))
    }
}
