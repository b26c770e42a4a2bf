//! Values by their schema: which places they set, where two differ, what becomes of two.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::set::FieldSet;
use crate::schema::{Field, ListType, Schema, Schemas, Type};

/// What server-side apply sees in a value.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// One value, however large.
    Leaf,
    /// Fields, each with a shape of its own.
    Struct(Schema<'a>),
    /// Keys, each an owner's choice.
    Map(&'a Schemas, &'a Type),
    /// Nothing is known of it: an object is seen by its keys, anything else is one value.
    Deduced,
    /// Scalars, each at most once.
    Set,
    /// Objects that are told apart by some of their fields.
    Keyed(&'a [crate::schema::Str], Schema<'a>),
}

impl<'a> Shape<'a> {
    fn of_type(set: &'a Schemas, ty: &'a Type) -> Self {
        match ty {
            Type::Message(id) if set.get(*id).atomic => Shape::Leaf,
            Type::Message(id) => Shape::Struct(set.schema(*id)),
            Type::Map(item) => Shape::Map(set, item),
            Type::Any if set.is_deduced() => Shape::Deduced,
            _ => Shape::Leaf,
        }
    }

    /// The shape that a value has: what is not known may be no object.
    fn seen(self, values: [Option<&Value>; 2]) -> Self {
        let odd = values.into_iter().flatten().any(|v| !v.is_object() && !v.is_null());
        if odd && matches!(self, Shape::Deduced) { Shape::Leaf } else { self }
    }

    fn of_field(set: &'a Schemas, field: &'a Field) -> Self {
        match (&field.ty, &field.list) {
            _ if field.atomic => Shape::Leaf,
            (Type::List(_), Some(ListType::Set)) => Shape::Set,
            (Type::List(item), Some(ListType::Map(keys))) => match &**item {
                Type::Message(id) => Shape::Keyed(keys, set.schema(*id)),
                _ => Shape::Leaf,
            },
            (ty, _) => Shape::of_type(set, ty),
        }
    }

    /// What is below a key of an object.
    pub(super) fn child(self, key: &str) -> Shape<'a> {
        match self {
            Shape::Struct(schema) => match (schema.field(key), &schema.message().rest) {
                (Some(field), _) => Shape::of_field(schema.set(), field),
                (None, Some(rest)) => Shape::of_type(schema.set(), rest),
                (None, None) => Shape::Leaf,
            },
            Shape::Map(set, item) => Shape::of_type(set, item),
            Shape::Deduced => Shape::Deduced,
            _ => Shape::Leaf,
        }
    }

    /// Whether an item of a list has this shape below its step.
    fn item(self) -> Shape<'a> {
        match self {
            Shape::Keyed(_, schema) => Shape::Struct(schema),
            _ => Shape::Leaf,
        }
    }

    /// What a field that is absent is in Go's structs, which upstream compares: a struct is always there, if only with nothing
    /// in it, and so is a list that must be given.
    fn absent(self, key: &str) -> Option<&'static Value> {
        let Shape::Struct(schema) = self else { return None };
        let field = schema.field(key).filter(|field| !field.pointer)?;
        match Shape::of_field(schema.set(), field) {
            Shape::Struct(_) => Some(&EMPTY),
            Shape::Set | Shape::Keyed(..) if field.required => Some(&Value::Null),
            _ => None,
        }
    }

    /// The step from a list to one of its items.
    fn step(self, item: &Value) -> Box<str> {
        match self {
            Shape::Keyed(keys, schema) => {
                let keys = keys.iter().filter_map(|key| {
                    let given = item.get(&**key).filter(|value| !value.is_null()).cloned();
                    let value = given.or_else(|| {
                        let default = schema.field(key)?.default.as_ref()?;
                        serde_json::from_str(default).ok()
                    })?;
                    Some((key.to_string(), value))
                });
                let keys: Map<String, Value> = keys.collect();
                format!("k:{}", Value::Object(keys)).into()
            }
            _ => format!("v:{item}").into(),
        }
    }
}

fn field_step(key: &str) -> Box<str> {
    format!("f:{key}").into()
}

/// A list or an object with nothing in it, or none at all.
fn is_void(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

/// The items of a list by their steps, the first of equal ones, and the steps in order.
fn index<'v>(
    shape: Shape<'_>,
    list: Option<&'v Value>,
) -> (Vec<Box<str>>, HashMap<Box<str>, &'v Value>) {
    let items = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut by_step = HashMap::with_capacity(items.len());
    let steps = items.iter().map(|item| {
        let step = shape.step(item);
        by_step.entry(step.clone()).or_insert(item);
        step
    });
    (steps.collect(), by_step)
}

/// All places that a value sets.
pub fn field_set(value: &Value, schema: Schema<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    collect(value, Shape::Struct(schema), &mut set);
    set
}

/// Adds what is below a value; whether its own place is set as well.
fn collect(value: &Value, shape: Shape<'_>, set: &mut FieldSet) -> bool {
    match (shape.seen([Some(value), None]), value) {
        (Shape::Struct(_) | Shape::Map(..) | Shape::Deduced, Value::Object(map)) => {
            for (key, value) in map {
                let child = shape.child(key);
                let node = set.node(field_step(key));
                let own = collect(value, child, &mut node.below);
                let known = matches!(shape, Shape::Struct(schema)
                    if schema.field(key).is_some() || schema.message().rest.is_some());
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                node.is_member |= own || empty || !known;
            }
            set.prune();
            false
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(items)) => {
            for item in items {
                let node = set.node(shape.step(item));
                node.is_member = true;
                collect(item, shape.item(), &mut node.below);
            }
            false
        }
        (Shape::Leaf, _) => true,
        (_, Value::Null) => false,
        // Not of its type: what was stored before the schema said so.
        _ => true,
    }
}

/// Keys that occur twice in a list that has keys, or scalars in a set: as upstream complains of them.
pub(super) fn duplicates(value: &Value, schema: Schema<'_>) -> Option<String> {
    first_duplicate(value, Shape::Struct(schema), &mut String::new())
}

fn first_duplicate(value: &Value, shape: Shape<'_>, path: &mut String) -> Option<String> {
    let length = path.len();
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(..) | Shape::Deduced, Value::Object(map)) => {
            for (key, value) in map {
                path.push('.');
                path.push_str(key);
                let found = first_duplicate(value, shape.child(key), path);
                if found.is_some() {
                    return found;
                }
                path.truncate(length);
            }
            None
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(items)) => {
            let mut seen = HashSet::new();
            for item in items {
                let step = shape.step(item);
                let shown = FieldSet::of([[&*step].as_slice()]).paths().pop().unwrap_or_default();
                if !seen.insert(step) {
                    return Some(format!("{path}: duplicate entries for key {shown}"));
                }
                path.push_str(&shown);
                let found = first_duplicate(item, shape.item(), path);
                if found.is_some() {
                    return found;
                }
                path.truncate(length);
            }
            None
        }
        _ => None,
    }
}

/// How one value differs from another.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Only in the new one.
    pub added: FieldSet,
    /// In both, with other values.
    pub modified: FieldSet,
    /// Only in the old one.
    pub removed: FieldSet,
}

impl Comparison {
    /// Whether there is no difference.
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Leaves places and all below them out.
    pub(super) fn ignore(&mut self, ignored: &FieldSet) {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            set.subtract_with_all_below(ignored);
        }
    }
}

/// How `new` differs from `old`.
pub fn compare(old: &Value, new: &Value, schema: Schema<'_>) -> Comparison {
    let mut comparer = Comparer::default();
    comparer.compare(Some(old), Some(new), Shape::Struct(schema));
    comparer.comparison
}

#[derive(Default)]
struct Comparer {
    path: Vec<Box<str>>,
    comparison: Comparison,
}

static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));

impl Comparer {
    fn compare(&mut self, old: Option<&Value>, new: Option<&Value>, shape: Shape<'_>) {
        let shape = shape.seen([old, new]);
        let is_leaf = matches!(shape, Shape::Leaf) || (is_void(old) && is_void(new));
        match (shape, old, new) {
            (_, Some(old), Some(new)) if is_leaf => {
                if old != new {
                    insert(&mut self.comparison.modified, &self.path);
                }
                return;
            }
            (Shape::Struct(_) | Shape::Map(..) | Shape::Deduced, ..) if !is_leaf => {
                self.objects(old, new, shape);
            }
            (Shape::Set | Shape::Keyed(..), ..) if !is_leaf => self.lists(old, new, shape),
            _ => {}
        }
        match (old, new) {
            (None, Some(_)) => insert(&mut self.comparison.added, &self.path),
            (Some(_), None) => insert(&mut self.comparison.removed, &self.path),
            _ => {}
        }
    }

    fn objects(&mut self, old: Option<&Value>, new: Option<&Value>, shape: Shape<'_>) {
        let empty = Map::new();
        let (had, has) = (old.is_some(), new.is_some());
        let old = old.and_then(Value::as_object).unwrap_or(&empty);
        let new = new.and_then(Value::as_object).unwrap_or(&empty);
        let only_new = new.keys().filter(|key| !old.contains_key(*key));
        for key in old.keys().chain(only_new) {
            let (mut old, mut new) = (old.get(key), new.get(key));
            if old == new {
                continue;
            }
            let absent = shape.absent(key);
            old = old.or(absent.filter(|_| had));
            new = new.or(absent.filter(|_| has));
            self.path.push(field_step(key));
            self.compare(old, new, shape.child(key));
            self.path.pop();
        }
    }

    fn lists(&mut self, old: Option<&Value>, new: Option<&Value>, shape: Shape<'_>) {
        let (old_steps, old) = index(shape, old);
        let (new_steps, new) = index(shape, new);
        let only_new = new_steps.into_iter().filter(|step| !old.contains_key(step));
        for step in old_steps.iter().cloned().chain(only_new) {
            let (old, new) = (old.get(&step).copied(), new.get(&step).copied());
            if old == new {
                continue;
            }
            self.path.push(step);
            self.compare(old, new, shape.item());
            self.path.pop();
        }
    }
}

fn insert(set: &mut FieldSet, path: &[Box<str>]) {
    set.insert(path.iter().map(|step| &**step));
}

/// The object with the applied configuration merged into it.
pub fn merge(live: &Value, config: &Value, schema: Schema<'_>) -> Value {
    merged(Some(live), Some(config), Shape::Struct(schema))
}

fn merged(live: Option<&Value>, config: Option<&Value>, shape: Shape<'_>) -> Value {
    let (live, config) = match (live, config) {
        (None, None) => return Value::Null,
        (Some(only), None) | (None, Some(only)) => return only.clone(),
        (Some(live), Some(config)) => (live, config),
    };
    match (shape, live, config) {
        (
            Shape::Struct(_) | Shape::Map(..) | Shape::Deduced,
            Value::Object(live),
            Value::Object(config),
        ) => {
            let mut out = live.clone();
            for (key, value) in config {
                let value = merged(live.get(key), Some(value), shape.child(key));
                out.insert(key.clone(), value);
            }
            Value::Object(out)
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(list), Value::Array(_)) => {
            Value::Array(merged_list(list, live, config, shape))
        }
        _ => config.clone(),
    }
}

/// Items of both stand in the configuration's order; those that only the object has stay behind what they stood behind, where
/// the two orders agree.
fn merged_list(list: &[Value], live: &Value, config: &Value, shape: Shape<'_>) -> Vec<Value> {
    let (live_steps, live) = index(shape, Some(live));
    let (config_steps, config) = index(shape, Some(config));
    let mut shared = config_steps.iter().filter(|step| live.contains_key(*step));
    let mut next = shared.next();
    let mut done: HashSet<&str> = HashSet::new();
    let mut out = Vec::with_capacity(live_steps.len() + config_steps.len());
    let (mut l, mut c) = (0, 0);
    while l < live_steps.len() || c < config_steps.len() {
        let both = live_steps.get(l).zip(config_steps.get(c));
        if let Some((ours, theirs)) = both {
            if ours == theirs {
                done.insert(ours);
                out.push(merged(live.get(ours).copied(), config.get(ours).copied(), shape.item()));
                (l, c) = (l + 1, c + 1);
                next = shared.next();
                continue;
            }
            if config.contains_key(ours) && next.is_some_and(|next| next != ours) {
                // Its place is where the configuration has it.
                l += 1;
                continue;
            }
        }
        if let Some(ours) = live_steps.get(l) {
            if !config.contains_key(ours) {
                out.push(list[l].clone());
                l += 1;
                continue;
            }
            if done.contains(&**ours) {
                l += 1;
            }
        }
        if let Some(theirs) = config_steps.get(c) {
            done.insert(theirs);
            out.push(merged(live.get(theirs).copied(), config.get(theirs).copied(), shape.item()));
            c += 1;
            if next == Some(theirs) {
                next = shared.next();
            }
        }
    }
    out
}

/// The object without the places of the set and all below them.
pub(super) fn without(value: &Value, set: &FieldSet, schema: Schema<'_>) -> Value {
    remaining(value, set, Shape::Struct(schema))
}

fn remaining(value: &Value, set: &FieldSet, shape: Shape<'_>) -> Value {
    if set.is_empty() {
        return value.clone();
    }
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(..) | Shape::Deduced, Value::Object(map)) => {
            let kept = map.iter().filter_map(|(key, value)| match set.get(&field_step(key)) {
                None => Some((key.clone(), value.clone())),
                Some(node) if node.is_member => None,
                Some(node) => {
                    let left = remaining(value, &node.below, shape.child(key));
                    // No schema will take an emptied object for an absent one.
                    let gone = matches!(shape.child(key), Shape::Deduced) && left.is_null();
                    (!gone).then(|| (key.clone(), left))
                }
            });
            let kept: Map<String, Value> = kept.collect();
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(items)) => {
            let kept = items.iter().filter_map(|item| match set.get(&shape.step(item)) {
                None => Some(item.clone()),
                Some(node) if node.is_member => None,
                Some(node) => Some(remaining(item, &node.below, shape.item())),
            });
            let kept: Vec<Value> = kept.collect();
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        _ => value.clone(),
    }
}

/// Makes every field of a struct that has places below it a place of the set, too.
pub(super) fn with_fields(mut set: FieldSet, schema: Schema<'_>) -> FieldSet {
    fill(&mut set, Shape::Struct(schema));
    set
}

fn fill(set: &mut FieldSet, shape: Shape<'_>) {
    for (step, node) in set.nodes_mut() {
        let child = match (shape, step.strip_prefix("f:")) {
            (Shape::Struct(schema), Some(key)) => {
                node.is_member |= !node.below.is_empty() && schema.field(key).is_some();
                shape.child(key)
            }
            (_, Some(key)) => shape.child(key),
            (_, None) => shape.item(),
        };
        fill(&mut node.below, child);
    }
}
