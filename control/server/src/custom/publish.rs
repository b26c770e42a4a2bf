//! What discovery and OpenAPI tell of custom kinds.

use std::sync::Arc;

use coracle_api::custom::Definition;
use serde_json::Value;

use super::{Served, Table};

/// A group and version with the custom kinds in it.
type Group = (&'static str, &'static str);

impl Table {
    fn served(&self) -> impl Iterator<Item = Served> + use<'_> {
        self.all.values().filter(|definition| definition.established).flat_map(|definition| {
            let all = definition.versions.iter().enumerate().filter(|(_, version)| version.served);
            all.map(|(version, _)| Served { definition: definition.clone(), version, rules: None })
        })
    }

    /// Groups with each of their versions, of a group's versions the most mature first.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let mut all: Vec<Group> = Vec::new();
        let mut groups: Vec<Group> =
            self.served().map(|it| (it.kind().group, it.kind().version)).collect();
        groups.sort_by(|a, b| a.0.cmp(b.0).then_with(|| Definition::by_maturity(a.1, b.1)));
        for group in groups {
            if !all.contains(&group) {
                all.push(group);
            }
        }
        all
    }

    /// The kinds of a group and version.
    pub(crate) fn in_group(&self, group: &str, version: &str) -> Vec<Served> {
        self.served()
            .filter(|it| it.kind().group == group && it.kind().version == version)
            .collect()
    }

    /// The hash of the document about everything, made when first asked for of this table.
    pub(crate) fn v2(&self, make: impl FnOnce() -> String) -> &str {
        self.v2.get_or_init(make)
    }

    /// The hashes of the documents of groups, made when first asked for of this table.
    pub(crate) fn hashes(self: &Arc<Self>, make: impl FnOnce() -> Value) -> &Value {
        self.hashes.get_or_init(make)
    }
}
