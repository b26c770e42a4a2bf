//! The custom kinds of this server: what its CustomResourceDefinitions define.
//!
//! The watch cache keeps the table current, as it keeps the cluster: a definition is here before its revision is published, so
//! whoever has waited for a write of one finds the kind served. Built-in kinds come first wherever a kind is looked up, and
//! never get here. Objects lie in the store in the version that they were written in; [`convert`] brings them to the one that
//! is asked for.

mod convert;
mod publish;
mod rules;
mod webhook;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use coracle_api::custom::{Definition, Version};
use coracle_api::{ApiError, Kind, Object};
use serde_json::Value;

use rules::RuleSets;
pub(crate) use rules::problems;

/// The definitions of one server; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Definitions {
    table: Arc<RwLock<Arc<Table>>>,
}

/// All definitions at one moment.
#[derive(Default)]
pub(crate) struct Table {
    /// By name, which is the [`Kind::resource`] of what it defines.
    all: BTreeMap<String, Arc<Definition>>,
    /// Their rules, by the same names.
    rules: BTreeMap<String, Arc<RuleSets>>,
    /// Hashes of the published documents, made when first asked for.
    hashes: OnceLock<Value>,
    /// The hash of the document about everything.
    v2: OnceLock<String>,
}

/// A custom kind in one version, as a request or a write addresses it.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) definition: Arc<Definition>,
    version: usize,
    rules: Option<Arc<RuleSets>>,
}

impl Served {
    fn of(definition: &Arc<Definition>, is_it: impl Fn(&Version) -> bool) -> Option<Self> {
        let version = definition.versions.iter().position(is_it)?;
        Some(Self { definition: definition.clone(), version, rules: None })
    }

    pub(crate) fn version(&self) -> &Version {
        &self.definition.versions[self.version]
    }

    pub(crate) fn kind(&self) -> &'static Kind {
        self.version().kind
    }
}

impl Definitions {
    /// As they are now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The kind that lies in the store under that group and plural.
    pub(crate) fn stored(&self, group: &str, plural: &str) -> Option<&'static Kind> {
        let table = self.table();
        let definition = table.all.get(&format!("{plural}.{group}"))?;
        definition.storage().map(|version| version.kind)
    }

    /// What a request addresses by group, version and plural, where it is nothing built in.
    pub(crate) fn addressed(&self, group: &str, version: &str, plural: &str) -> Option<Served> {
        let table = self.table();
        let definition = table.all.get(&format!("{plural}.{group}"))?;
        definition.served(version)?;
        Served::of(definition, |it| it.kind.version == version)
    }

    /// The kind of that `apiVersion` and `kind`.
    pub(crate) fn by_kind(&self, api_version: &str, kind: &str) -> Option<&'static Kind> {
        let table = self.table();
        let mut kinds = table.all.values().flat_map(|it| it.versions.iter().map(|v| v.kind));
        kinds.find(|known| known.kind == kind && known.api_version() == api_version)
    }

    /// The definition behind a kind, in the kind's version; none for built-in kinds.
    ///
    /// # Errors
    /// The kind is custom, and is defined no more or not in that version.
    pub(crate) fn of(&self, kind: &Kind) -> Result<Option<Served>, ApiError> {
        if !kind.custom {
            return Ok(None);
        }
        let table = self.table();
        let found = table.all.get(kind.resource);
        let served = found.and_then(|it| Served::of(it, |v| v.kind.version == kind.version));
        let rules = table.rules.get(kind.resource).cloned();
        let served = served.map(|served| Served { rules, ..served });
        served.map(Some).ok_or_else(|| {
            let what = "the server could not find the requested resource";
            ApiError::new(404, "NotFound", what)
        })
    }

    /// Takes in a definition's object, new or changed.
    pub(crate) fn put(&self, object: &Object) {
        let table = self.table();
        match Definition::read(object, table.all.get(&object.meta.name).map(|known| &**known)) {
            Ok(definition) => {
                let rules = RuleSets::of(object, table.rules.get(&definition.name));
                self.change(|table| {
                    table.rules.insert(definition.name.clone(), rules);
                    table.all.insert(definition.name.clone(), Arc::new(definition));
                });
            }
            Err(error) => {
                tracing::error!(definition = object.meta.name, error, "a definition is not usable");
            }
        }
    }

    /// Forgets a definition.
    pub(crate) fn remove(&self, name: &str) {
        self.change(|table| {
            table.rules.remove(name);
            table.all.remove(name);
        });
    }

    fn change(&self, edit: impl FnOnce(&mut Table)) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let (all, rules) = (table.all.clone(), table.rules.clone());
        let mut changed = Table { all, rules, ..Table::default() };
        edit(&mut changed);
        *table = Arc::new(changed);
    }
}
