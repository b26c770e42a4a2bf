//! Defaults, and `null` where it is no value (`apiextensions-apiserver/pkg/apiserver/schema/defaulting`).

use serde_json::Value;

use super::structure::Structure;

impl Structure {
    /// Fills defaults in, and drops `null` from fields that may not be `null` and have no default.
    pub fn fill_in(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|name, value| {
                    let child = self.child(name);
                    !(value.is_null() && child.is_some_and(|c| !c.nullable && c.default.is_none()))
                });
                for (name, child) in &self.properties {
                    let Some(default) = &child.default else { continue };
                    match map.get_mut(&**name) {
                        None => _ = map.insert(name.to_string(), default.clone()),
                        Some(known) if known.is_null() && !child.nullable => {
                            *known = default.clone();
                        }
                        Some(_) => {}
                    }
                }
                for (name, value) in map.iter_mut() {
                    if let Some(child) = self.child(name) {
                        child.fill_in_place(value);
                    }
                }
            }
            Value::Array(list) => {
                let Some(item) = &self.items else { return };
                list.iter_mut().for_each(|value| item.fill_in_place(value));
            }
            _ => {}
        }
    }

    fn fill_in_place(&self, value: &mut Value) {
        if value.is_null()
            && !self.nullable
            && let Some(default) = &self.default
        {
            *value = default.clone();
        }
        self.fill_in(value);
    }

    /// Whether filling in may change anything but `null`.
    pub fn has_defaults(&self) -> bool {
        self.has_defaults
    }
}
