//! Objects from the version that they are stored in to the one that is asked for, and back.

use std::sync::Arc;

use coracle_api::custom::{Conversion, Version};
use coracle_api::{ApiError, Kind, Object};
use serde_json::Value;

use super::{Definitions, Served, webhook};
use crate::registry::Clients;

impl Definitions {
    /// The object as `kind`'s version shows it: pruned, converted, defaults filled in. Built-in kinds are shown as they are
    /// stored.
    pub(crate) async fn show(
        &self,
        clients: &Clients,
        kind: &'static Kind,
        object: Arc<Object>,
    ) -> Result<Arc<Object>, ApiError> {
        if !kind.custom {
            return Ok(object);
        }
        let mut shown = self.show_all(clients, kind, vec![object]).await?;
        shown.pop().ok_or_else(|| ApiError::internal("a conversion lost its object"))
    }

    /// The same of many, which a webhook converts at once.
    pub(crate) async fn show_all(
        &self,
        clients: &Clients,
        kind: &'static Kind,
        objects: Vec<Arc<Object>>,
    ) -> Result<Vec<Arc<Object>>, ApiError> {
        let Some(served) = self.of(kind)? else { return Ok(objects) };
        let wanted = kind.api_version();
        let mut trees = Vec::with_capacity(objects.len());
        for object in &objects {
            let mut tree = object.value();
            // By the schema that it was written to.
            let structure = match written_in(&served, &tree) {
                Some(version) => &version.structure,
                None => &served.version().structure,
            };
            structure.prune(&mut tree);
            trees.push(tree);
        }
        convert(clients, &served, &wanted, &mut trees).await?;
        let shown = objects.into_iter().zip(trees).map(|(object, mut tree)| {
            served.version().structure.fill_in(&mut tree);
            let shown = Object::from_value(kind, &tree).map_err(ApiError::internal)?;
            // What is stored is mostly what is shown, and then need not be held twice.
            let same = shown.json() == object.json() && std::ptr::eq(object.kind, kind);
            Ok(if same { object } else { Arc::new(shown) })
        });
        shown.collect()
    }

    /// A tree in whichever version in that of `kind`.
    pub(crate) async fn convert(
        &self,
        clients: &Clients,
        kind: &'static Kind,
        tree: Value,
    ) -> Result<Value, ApiError> {
        let Some(served) = self.of(kind)? else { return Ok(tree) };
        let mut trees = vec![tree];
        convert(clients, &served, &kind.api_version(), &mut trees).await?;
        let mut tree = trees.pop().unwrap_or_default();
        served.version().structure.fill_in(&mut tree);
        Ok(tree)
    }

    /// The tree as it is to be stored, and the kind that it then is of.
    pub(crate) async fn store(
        &self,
        clients: &Clients,
        kind: &'static Kind,
        tree: Value,
    ) -> Result<(Value, &'static Kind), ApiError> {
        let Some(served) = self.of(kind)? else { return Ok((tree, kind)) };
        let Some(storage) = served.definition.storage() else { return Ok((tree, kind)) };
        let mut trees = vec![tree];
        convert(clients, &served, &storage.kind.api_version(), &mut trees).await?;
        let tree = trees.pop().unwrap_or_default();
        Ok((tree, storage.kind))
    }
}

fn written_in<'a>(served: &'a Served, tree: &Value) -> Option<&'a Version> {
    let version = tree["apiVersion"].as_str()?;
    let name = version.rsplit_once('/').map_or(version, |(_, name)| name);
    served.definition.version(name)
}

/// Brings those that are of another version to the wanted one.
async fn convert(
    clients: &Clients,
    served: &Served,
    wanted: &str,
    trees: &mut [Value],
) -> Result<(), ApiError> {
    let mut others: Vec<&mut Value> =
        trees.iter_mut().filter(|tree| tree["apiVersion"] != wanted).collect();
    if others.is_empty() {
        return Ok(());
    }
    match &*served.definition.conversion {
        Conversion::None => {
            for tree in others {
                tree["apiVersion"] = wanted.into();
            }
            Ok(())
        }
        Conversion::Webhook(webhook) => {
            webhook::convert(clients, served, webhook, wanted, &mut others).await
        }
    }
}
