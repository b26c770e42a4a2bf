//! Sets of places in an object, as `fieldsV1` writes them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Deepest place accepted from outside.
const MAX_DEPTH: usize = 200;

/// A set of places. A place is a chain of steps, each written as in `fieldsV1`: `f:` and a field's name or a map's key, `k:`
/// and the keys of a list's item as JSON, `v:` and a scalar that is an item of a set, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(BTreeMap<Box<str>, Node>);

/// One place, and those below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Whether the place itself is in the set.
    pub(super) is_member: bool,
    pub(super) below: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.is_member && self.below.is_empty()
    }
}

impl FieldSet {
    /// The set of these places.
    pub fn of<'a>(places: impl IntoIterator<Item = &'a [&'a str]>) -> Self {
        let mut set = Self::default();
        for place in places {
            set.insert(place.iter().copied());
        }
        set
    }

    /// Whether there is no place in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a place; the object itself is none.
    pub fn insert<'a>(&mut self, place: impl IntoIterator<Item = &'a str>) {
        let mut steps = place.into_iter().peekable();
        let mut set = self;
        while let Some(step) = steps.next() {
            let node = set.at(step);
            if steps.peek().is_none() {
                node.is_member = true;
                return;
            }
            set = &mut node.below;
        }
    }

    /// Whether the place itself is in the set.
    pub fn contains(&self, place: &[&str]) -> bool {
        let Some((last, above)) = place.split_last() else { return false };
        let mut set = self;
        for step in above {
            let Some(node) = set.get(step) else { return false };
            set = &node.below;
        }
        set.get(last).is_some_and(|node| node.is_member)
    }

    /// Whether another set has all places of this one.
    pub fn is_within(&self, other: &FieldSet) -> bool {
        self.0.iter().all(|(step, ours)| {
            other.0.get(step).is_some_and(|theirs| {
                (theirs.is_member || !ours.is_member) && ours.below.is_within(&theirs.below)
            })
        })
    }

    pub(super) fn get(&self, step: &str) -> Option<&Node> {
        self.0.get(step)
    }

    pub(super) fn node(&mut self, step: Box<str>) -> &mut Node {
        self.0.entry(step).or_default()
    }

    /// The same, with the step copied only where it is new.
    fn at(&mut self, step: &str) -> &mut Node {
        if !self.0.contains_key(step) {
            self.0.insert(step.into(), Node::default());
        }
        self.0.get_mut(step).expect("it is there by now")
    }

    pub(super) fn nodes_mut(&mut self) -> impl Iterator<Item = (&str, &mut Node)> {
        self.0.iter_mut().map(|(step, node)| (&**step, node))
    }

    /// Takes all nodes away that hold nothing.
    pub(super) fn prune(&mut self) {
        self.0.retain(|_, node| !node.is_empty());
    }

    /// Adds all places of another set.
    pub fn unite(&mut self, other: &FieldSet) {
        for (step, theirs) in &other.0 {
            let ours = self.at(step);
            ours.is_member |= theirs.is_member;
            ours.below.unite(&theirs.below);
        }
    }

    /// Takes all places of another set away; those below them stay.
    pub fn subtract(&mut self, other: &FieldSet) {
        for (step, theirs) in &other.0 {
            if let Some(ours) = self.0.get_mut(step) {
                ours.is_member &= !theirs.is_member;
                ours.below.subtract(&theirs.below);
            }
        }
        self.prune();
    }

    /// Takes all places of another set away, and those below them.
    pub fn subtract_with_all_below(&mut self, other: &FieldSet) {
        for (step, theirs) in &other.0 {
            if theirs.is_member {
                self.0.remove(step);
            } else if let Some(ours) = self.0.get_mut(step) {
                ours.below.subtract_with_all_below(&theirs.below);
            }
        }
        self.prune();
    }

    /// The places that are in both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut set = FieldSet::default();
        for (step, ours) in &self.0 {
            let Some(theirs) = other.0.get(step) else { continue };
            let both = Node {
                is_member: ours.is_member && theirs.is_member,
                below: ours.below.intersection(&theirs.below),
            };
            if !both.is_empty() {
                set.0.insert(step.clone(), both);
            }
        }
        set
    }

    /// Every place as upstream writes it: `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, path: &mut String, paths: &mut Vec<String>) {
        for (step, node) in &self.0 {
            let length = path.len();
            describe(step, path);
            if node.is_member {
                paths.push(path.clone());
            }
            node.below.collect(path, paths);
            path.truncate(length);
        }
    }

    /// `fieldsV1`.
    pub fn to_json(&self) -> Value {
        Value::Object(self.entries())
    }

    fn entries(&self) -> Map<String, Value> {
        let entries = self.0.iter().map(|(step, node)| {
            let mut below = node.below.entries();
            if node.is_member && !below.is_empty() {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            (step.to_string(), Value::Object(below))
        });
        entries.collect()
    }

    /// Reads `fieldsV1`.
    ///
    /// # Errors
    /// It is none; with the reason.
    pub fn from_json(json: &Value) -> Result<Self, String> {
        Self::read(json, 0)
    }

    fn read(json: &Value, depth: usize) -> Result<Self, String> {
        let Value::Object(entries) = json else {
            return Err(format!("an object was expected, not {json}"));
        };
        if depth > MAX_DEPTH {
            return Err(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        let mut set = Self::default();
        for (step, below) in entries.iter().filter(|(step, _)| *step != ".") {
            let step = canonical(step)?;
            let is_leaf = below.as_object().is_none_or(Map::is_empty);
            let node = Node {
                is_member: is_leaf || below.get(".").is_some(),
                below: Self::read(below, depth + 1)?,
            };
            if !node.is_empty() {
                set.0.insert(step, node);
            }
        }
        Ok(set)
    }
}

/// The step with its JSON as this program writes it: so that equal steps are equal text.
fn canonical(step: &str) -> Result<Box<str>, String> {
    let wrong = || format!("{step:?} is no path element");
    let (tag, rest) = step.split_once(':').ok_or_else(wrong)?;
    match tag {
        "f" => Ok(step.into()),
        "i" if rest.parse::<u64>().is_ok() => Ok(step.into()),
        "k" | "v" => {
            let value: Value = serde_json::from_str(rest).map_err(|_| wrong())?;
            if tag == "k" && !value.is_object() {
                return Err(wrong());
            }
            Ok(format!("{tag}:{value}").into())
        }
        _ => Err(wrong()),
    }
}

fn describe(step: &str, path: &mut String) {
    let (tag, rest) = step.split_once(':').unwrap_or(("f", step));
    match tag {
        "f" => {
            path.push('.');
            path.push_str(rest);
        }
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let _ = write!(path, "[{}]", keys.join(","));
        }
        "v" => {
            let _ = write!(path, "[={rest}]");
        }
        _ => {
            let _ = write!(path, "[{rest}]");
        }
    }
}
