//! The managers of an object's fields, and what updates and applies do to them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::set::FieldSet;
use super::walk::{self, compare, field_set, merge, with_fields, without};
use crate::schema::Schema;

/// Updaters beyond this many are merged, the oldest first.
const MOST_UPDATERS: usize = 10;
/// Who owns what was merged so.
const ANCIENT: &str = "ancient-changes";
/// Who owns what was there before anything was tracked.
const BEFORE: &str = "before-first-apply";
/// The manager of `kubectl apply --server-side`, which takes over from its client-side predecessor.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// How a manager came to own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply: it says what it wants, and what it no longer says goes.
    Apply,
    /// By any other write: it owns what it changed.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// Who writes, as what, and what of the object such a write cannot change.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The field manager's name.
    pub manager: &'a str,
    /// The version in which the object is written, such as `apps/v1`.
    pub api_version: &'a str,
    /// `status`, `scale`, …; empty for the object itself.
    pub subresource: &'a str,
    /// Places that it neither owns nor takes from others.
    pub ignored: &'a FieldSet,
    /// Now, as `metav1.Time` is written.
    pub now: &'a str,
}

impl Writer<'_> {
    fn id(&self, operation: Operation) -> Id {
        let api_version = match operation {
            // Whoever applies is the same in every version.
            Operation::Apply => String::new(),
            Operation::Update => self.api_version.to_owned(),
        };
        Id {
            manager: self.manager.to_owned(),
            operation,
            api_version,
            subresource: self.subresource.to_owned(),
        }
    }
}

/// What tells entries apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    manager: String,
    operation: Operation,
    api_version: String,
    subresource: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    api_version: String,
    time: Option<String>,
    fields: FieldSet,
}

/// `metadata.managedFields`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managers(BTreeMap<Id, Entry>);

/// A field that another manager owns, with another value than the one applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who owns it: its name, and how it came to own it.
    pub manager: String,
    /// `.spec.replicas`.
    pub path: String,
}

/// Why nothing was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own some of the fields.
    #[error("{}", describe(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration contradicts itself.
    #[error("{0}")]
    Invalid(String),
}

/// What an apply makes of an object.
#[derive(Debug)]
pub struct Applied {
    /// The object, without `metadata.managedFields`.
    pub object: Value,
    /// Its managers.
    pub managers: Managers,
}

impl Managers {
    /// Reads `metadata.managedFields`.
    ///
    /// # Errors
    /// An entry that is none; with the reason.
    pub fn decode(entries: &Value) -> Result<Self, String> {
        let mut managers = BTreeMap::new();
        for entry in entries.as_array().map(Vec::as_slice).unwrap_or_default() {
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            let operation = match text("operation").as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                other => return Err(format!("operation is {other:?}, not Apply or Update")),
            };
            if text("fieldsType") != "FieldsV1" {
                return Err(format!("fieldsType is {:?}, not FieldsV1", text("fieldsType")));
            }
            let fields = FieldSet::from_json(entry.get("fieldsV1").unwrap_or(&json!({})))?;
            let api_version = text("apiVersion");
            let id = Id {
                manager: text("manager"),
                operation,
                api_version: match operation {
                    Operation::Apply => String::new(),
                    Operation::Update => api_version.clone(),
                },
                subresource: text("subresource"),
            };
            let time = entry["time"].as_str().map(str::to_owned);
            managers.insert(id, Entry { api_version, time, fields });
        }
        Ok(Self(managers))
    }

    /// `metadata.managedFields`: those who applied first, then by time and name.
    pub fn encode(&self) -> Value {
        let mut entries: Vec<_> = self.0.iter().collect();
        entries.sort_by_key(|(id, entry)| (id.operation, entry.time.clone()));
        let entries = entries.into_iter().map(|(id, entry)| {
            let mut json = Map::new();
            json.insert("manager".into(), id.manager.clone().into());
            json.insert("operation".into(), id.operation.as_str().into());
            json.insert("apiVersion".into(), entry.api_version.clone().into());
            if let Some(time) = &entry.time {
                json.insert("time".into(), time.clone().into());
            }
            json.insert("fieldsType".into(), "FieldsV1".into());
            json.insert("fieldsV1".into(), entry.fields.to_json());
            if !id.subresource.is_empty() {
                json.insert("subresource".into(), id.subresource.clone().into());
            }
            Value::Object(json)
        });
        Value::Array(entries.collect())
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Records a write that is no apply: the writer owns what it changed, and nobody else does.
    pub fn update(&mut self, writer: &Writer<'_>, old: &Value, new: &Value, schema: Schema<'_>) {
        let Ok(comparison) = self.take(None, writer, (old, new), schema, true) else { return };
        let mut fields = comparison.modified;
        fields.unite(&comparison.added);
        fields.subtract(&comparison.removed);
        fields.subtract(&unowned());
        if !fields.is_empty() {
            let entry = self.0.entry(writer.id(Operation::Update)).or_insert_with(|| Entry {
                api_version: writer.api_version.to_owned(),
                time: None,
                fields: FieldSet::default(),
            });
            entry.fields.unite(&fields);
            entry.time = Some(writer.now.to_owned());
        }
        self.merge_oldest();
    }

    /// Applies a configuration to an object; neither has `metadata.managedFields`.
    ///
    /// # Errors
    /// Others own what it would change, unless `force` is set; or the configuration names an item twice.
    pub fn apply(
        &self,
        writer: &Writer<'_>,
        live: &Value,
        config: &Value,
        schema: Schema<'_>,
        force: bool,
    ) -> Result<Applied, ApplyError> {
        if let Some(why) = walk::duplicates(config, schema) {
            return Err(ApplyError::Invalid(why));
        }
        let mut managers = self.clone();
        if managers.is_empty() {
            let before = Writer { manager: BEFORE, subresource: "", ..*writer };
            managers.update(&before, &Value::Object(Map::new()), live, schema);
        }
        let result = match managers.clone().apply_tracked(writer, live, config, schema, force) {
            Err(ApplyError::Conflicts(conflicts)) if writer.manager == KUBECTL => {
                let own = last_applied(live, writer, schema);
                let left: Vec<_> = conflicts
                    .into_iter()
                    .filter(|conflict| !own.contains(&conflict.path))
                    .collect();
                if !left.is_empty() {
                    return Err(ApplyError::Conflicts(left));
                }
                managers.apply_tracked(writer, live, config, schema, true)?
            }
            other => other?,
        };
        Ok(result)
    }

    fn apply_tracked(
        mut self,
        writer: &Writer<'_>,
        live: &Value,
        config: &Value,
        schema: Schema<'_>,
        force: bool,
    ) -> Result<Applied, ApplyError> {
        let id = writer.id(Operation::Apply);
        let last = self.0.remove(&id);
        let mut fields = field_set(config, schema);
        fields.subtract_with_all_below(writer.ignored);
        fields.subtract(&unowned());
        let api_version = writer.api_version.to_owned();
        let is_as_before = last.as_ref().is_some_and(|last| last.fields == fields);
        let time = last.as_ref().and_then(|last| last.time.clone());
        // Whoever says all that it said last time takes nothing back: so is nearly every apply.
        let is_less = last.as_ref().is_some_and(|last| !last.fields.is_within(&fields));
        self.0.insert(id.clone(), Entry { api_version, time, fields });

        let mut object = merge(live, config, schema);
        if let Some(last) = last.as_ref().filter(|_| is_less) {
            object = self.prune(object, &last.fields, schema);
        }
        let changes = self.take(Some(&id), writer, (live, &object), schema, force)?;
        if let Some(entry) = self.0.get_mut(&id) {
            if !is_as_before || !changes.is_same() {
                entry.time = Some(writer.now.to_owned());
            }
            if entry.fields.is_empty() {
                self.0.remove(&id);
            }
        }
        keep_last_applied(&mut object, live, config, writer);
        Ok(Applied { object, managers: self })
    }

    /// What the object loses because the applier said it last time and does not say it now, and nobody else owns it.
    fn prune(&self, merged: Value, last: &FieldSet, schema: Schema<'_>) -> Value {
        let last = with_fields(last.clone(), schema);
        let pruned = without(&merged, &last, schema);
        let all = with_fields(field_set(&merged, schema), schema);

        // What others, or the new configuration, own comes back …
        let mut owned = FieldSet::default();
        self.0.values().for_each(|entry| owned.unite(&entry.fields));
        let mut gone = all.clone();
        gone.subtract(&with_fields(field_set(&pruned, schema), schema));
        gone.subtract(&with_fields(owned, schema));
        let pruned = without(&merged, &gone, schema);

        // … and so does what was below a removed place without having been the applier's.
        let mut gone = all;
        gone.subtract(&with_fields(field_set(&pruned, schema), schema));
        without(&merged, &gone.intersection(&last), schema)
    }

    /// Takes what a write changes from everybody but the writer's own entry.
    fn take(
        &mut self,
        own: Option<&Id>,
        writer: &Writer<'_>,
        (old, new): (&Value, &Value),
        schema: Schema<'_>,
        force: bool,
    ) -> Result<walk::Comparison, ApplyError> {
        let mut comparison = compare(old, new, schema);
        comparison.ignore(writer.ignored);
        let mut written = comparison.modified.clone();
        written.unite(&comparison.added);
        let others = || self.0.iter().filter(|(id, _)| Some(*id) != own);
        if !force {
            let conflicts: Vec<Conflict> = others()
                .flat_map(|(id, entry)| {
                    let paths = entry.fields.intersection(&written).paths().into_iter();
                    paths.map(|path| Conflict { manager: id.to_string(), path })
                })
                .collect();
            if !conflicts.is_empty() {
                return Err(ApplyError::Conflicts(conflicts));
            }
        }
        self.0.retain(|id, entry| {
            if Some(id) != own {
                entry.fields.subtract(&written);
                entry.fields.subtract(&comparison.removed);
            }
            !entry.fields.is_empty() || Some(id) == own
        });
        Ok(comparison)
    }

    fn merge_oldest(&mut self) {
        let mut updaters: Vec<Id> =
            self.0.keys().filter(|id| id.operation == Operation::Update).cloned().collect();
        if updaters.len() <= MOST_UPDATERS {
            return;
        }
        updaters.sort_by_key(|id| (self.0[id].time.clone(), id.clone()));
        let mut left = updaters.len();
        let mut first: BTreeMap<String, Id> = BTreeMap::new();
        for id in updaters {
            if left <= MOST_UPDATERS {
                return;
            }
            let version = id.api_version.clone();
            let Some(oldest) = first.get(&version) else {
                first.insert(version, id);
                continue;
            };
            let bucket = Id {
                manager: ANCIENT.to_owned(),
                operation: Operation::Update,
                api_version: version,
                subresource: String::new(),
            };
            if !self.0.contains_key(&bucket)
                && let Some(entry) = self.0.remove(oldest)
            {
                self.0.insert(bucket.clone(), entry);
            }
            if id != bucket
                && let Some(entry) = self.0.remove(&id)
                && let Some(bucket) = self.0.get_mut(&bucket)
            {
                bucket.fields.unite(&entry.fields);
                bucket.time = entry.time;
                left -= 1;
            }
        }
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        if self.operation == Operation::Update {
            write!(f, " using {}", self.api_version)?;
        }
        Ok(())
    }
}

/// What nobody owns: the object's identity, and what the server says of it.
fn unowned() -> FieldSet {
    let mut set = FieldSet::of([["f:apiVersion"].as_slice(), &["f:kind"], &["f:metadata"]]);
    for field in [
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:clusterName",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    ] {
        set.insert(["f:metadata", field]);
    }
    set
}

/// The places that client-side apply wrote last, and that nobody has changed since.
fn last_applied(live: &Value, writer: &Writer<'_>, schema: Schema<'_>) -> Vec<String> {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or_default();
    let Ok(config) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    if config["apiVersion"].as_str() != Some(writer.api_version) {
        return Vec::new();
    }
    // As the object was decoded: empty values are absent, and quantities are written in one way.
    let Ok(config) = crate::schema::check(config, schema) else { return Vec::new() };
    let mut fields = field_set(&config.value, schema);
    let differences = compare(&config.value, live, schema);
    for set in [&differences.modified, &differences.added, &differences.removed] {
        fields.subtract(set);
    }
    fields.paths()
}

/// Client-side apply, should it be used again, must find what was applied last.
fn keep_last_applied(object: &mut Value, live: &Value, config: &Value, writer: &Writer<'_>) {
    let had = live["metadata"]["annotations"][LAST_APPLIED].as_str();
    if writer.manager != KUBECTL || had.is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations")
        && let Some(annotations) = annotations.as_object_mut()
    {
        annotations.remove(LAST_APPLIED);
    }
    object["metadata"]["annotations"][LAST_APPLIED] = format!("{config}\n").into();
}

/// Upstream's words.
fn describe(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            only.manager, only.path
        );
    }
    let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for conflict in conflicts {
        by_manager.entry(&conflict.manager).or_default().push(&conflict.path);
    }
    let mut text = format!("Apply failed with {} conflicts: ", conflicts.len());
    for (i, (manager, paths)) in by_manager.into_iter().enumerate() {
        let _ = write!(text, "{}conflicts with {manager}:", if i > 0 { "\n" } else { "" });
        for path in paths {
            let _ = write!(text, "\n- {path}");
        }
    }
    text
}
