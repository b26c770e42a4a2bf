//! What tells custom kinds apart: a [`Kind`] per group, version and names, made once in a process and never dropped.
//!
//! Everything that holds objects holds them by `&'static Kind`. So an identity is leaked, a few hundred bytes for each that
//! was ever defined, and the same identity is the same pointer. What a definition says beside (schemas, columns, conversion)
//! belongs to one server and is no part of it.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::Value;

use crate::json::{Json, keep};
use crate::kinds::{Generation, Kind, Prepare, Subresource};
use crate::object::Object;

/// What makes a custom kind in one version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// API group.
    pub group: String,
    /// One of its versions; all versions of a kind share their objects.
    pub version: String,
    /// `CronTab`
    pub kind: String,
    /// `crontabs`
    pub plural: String,
    /// `crontab`
    pub singular: String,
    /// Lives in a namespace.
    pub namespaced: bool,
    /// Has `/status`.
    pub status: bool,
    /// Has `/scale`.
    pub scale: bool,
}

/// The one [`Kind`] of an identity.
pub fn intern(identity: Identity) -> &'static Kind {
    static KNOWN: LazyLock<Mutex<HashMap<Identity, &'static Kind>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kind) = known.get(&identity) {
        return kind;
    }
    let kind: &'static Kind = Box::leak(Box::new(make(&identity)));
    known.insert(identity, kind);
    kind
}

fn make(identity: &Identity) -> Kind {
    let text = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
    let subresources: &'static [Subresource] = match (identity.status, identity.scale) {
        (false, false) => &[],
        (true, false) => &[Subresource::Status],
        (false, true) => &[Subresource::Scale],
        (true, true) => &[Subresource::Status, Subresource::Scale],
    };
    Kind {
        group: text(&identity.group),
        version: text(&identity.version),
        kind: text(&identity.kind),
        plural: text(&identity.plural),
        singular: text(&identity.singular),
        resource: text(&format!("{}.{}", identity.plural, identity.group)),
        namespaced: identity.namespaced,
        subresources,
        generation: Generation::Spec,
        custom: true,
        prepare: if identity.status { with_status } else { |_| {} },
        ..Kind::BASE
    }
}

/// A status is written through `/status` only.
fn with_status(prepare: Prepare<'_>) {
    match prepare {
        Prepare::Create(new) => {
            if let Some(new) = new.as_object_mut() {
                new.remove("status");
            }
        }
        Prepare::Update { .. } => {}
        // Nothing but the status, not even labels (`registry/customresource/status_strategy.go`).
        Prepare::Status { new, old } => {
            if let Some(new) = new.as_object_mut() {
                keep(new, old, "metadata");
                if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("resourceVersion");
                    metadata.remove("managedFields");
                }
            }
        }
    }
}

/// The kind that a definition's object defines, in each of its versions.
pub fn kinds_by_version(definition: &Value) -> impl Iterator<Item = (&Value, &'static Kind)> {
    let spec = |path: &[&str]| definition.text(&[&["spec"], path].concat()).to_owned();
    let (group, namespaced) = (spec(&["group"]), spec(&["scope"]) == "Namespaced");
    let names = ["kind", "plural", "singular"].map(|name| spec(&["names", name]));
    definition.list(&["spec", "versions"]).iter().map(move |version| {
        let [kind, plural, singular] = names.clone();
        let identity = Identity {
            group: group.clone(),
            version: version.text(&["name"]).to_owned(),
            kind,
            plural,
            singular,
            namespaced,
            status: version.has(&["subresources", "status"]),
            scale: version.has(&["subresources", "scale"]),
        };
        (version, intern(identity))
    })
}

/// The kind, in the version that is stored, that a CustomResourceDefinition defines.
pub fn kind_of(definition: &Object) -> Option<&'static Kind> {
    let tree = definition.value();
    kinds_by_version(&tree).find(|(version, _)| version.flag(&["storage"])).map(|(_, kind)| kind)
}
