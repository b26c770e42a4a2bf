//! Pruning: fields that the structure does not name go (`apiextensions-apiserver/pkg/apiserver/schema/pruning`).

use std::fmt::Write as _;

use serde_json::Value;

use super::structure::{Additional, Structure};

/// Complaints beyond this many are not worth a client's while.
const MAX_COMPLAINTS: usize = 100;
/// What every object has, whatever its structure says.
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Structure {
    /// Drops what the structure of a whole object does not name; the paths of what was dropped.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        self.pruned(object, true)
    }

    /// The same for a value that is no whole object.
    pub(crate) fn prune_value(&self, value: &mut Value) -> Vec<String> {
        self.pruned(value, false)
    }

    fn pruned(&self, value: &mut Value, is_object: bool) -> Vec<String> {
        let mut pruner = Pruner { path: String::new(), dropped: Vec::new() };
        pruner.visit(value, Some(self), is_object);
        pruner.dropped
    }
}

struct Pruner {
    path: String,
    dropped: Vec<String>,
}

impl Pruner {
    fn visit(&mut self, value: &mut Value, structure: Option<&Structure>, is_object: bool) {
        let preserve = structure.is_some_and(|s| s.preserve);
        let is_object = is_object || structure.is_some_and(|s| s.embedded);
        let length = self.path.len();
        match value {
            Value::Object(map) => {
                map.retain(|name, value| {
                    if is_object && META.contains(&name.as_str()) {
                        return true;
                    }
                    let child = structure.and_then(|s| s.child(name));
                    let any =
                        structure.is_some_and(|s| matches!(s.additional, Some(Additional::Any)));
                    self.enter(name);
                    let keep = child.is_some() || any || preserve;
                    match child {
                        Some(child) => self.visit(value, Some(child), false),
                        None if keep && !preserve => self.visit(value, None, false),
                        None if !keep && self.dropped.len() < MAX_COMPLAINTS => {
                            self.dropped.push(self.path.clone());
                        }
                        None => {}
                    }
                    self.path.truncate(length);
                    keep
                });
            }
            Value::Array(items) => {
                let item = structure.and_then(|s| s.items.as_deref());
                if item.is_none() && preserve {
                    return;
                }
                for (i, value) in items.iter_mut().enumerate() {
                    let _ = write!(self.path, "[{i}]");
                    self.visit(value, item, false);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn enter(&mut self, name: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }
}
