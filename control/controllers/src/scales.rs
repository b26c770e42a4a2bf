//! How many replicas objects declare that have `/scale`, of custom kinds as well.

use coracle_api::custom::Scale;
use coracle_api::kinds::{self, Subresource};
use coracle_api::selector::SelectorError;
use coracle_api::{Cluster, LabelSelector, Object};
use serde::Deserialize;
use serde_json::{Value, json};

/// The numbers of an object, as its `/scale` has them.
#[derive(Debug)]
pub(crate) struct Scaled {
    pub(crate) replicas: i32,
    /// None where the object has none, or it selects nothing.
    pub(crate) selector: Option<Result<LabelSelector, String>>,
    /// Where a custom kind has them.
    paths: Option<Scale>,
}

/// What built-in kinds say, kept decoded: autoscalers ask often.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct View {
    spec: Spec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Spec {
    replicas: i64,
    selector: Option<Value>,
}

impl Scaled {
    /// Reads an object; none if its kind has no `/scale`.
    pub(crate) fn of(cluster: &Cluster, object: &Object) -> Option<Self> {
        let kind = object.kind;
        if !kind.has(Subresource::Scale) {
            return None;
        }
        let parsed = |selector: Result<LabelSelector, SelectorError>| {
            selector.map_err(|error| error.to_string())
        };
        let (paths, replicas, selector) = if kind.custom {
            let definition = cluster.get(&kinds::CUSTOM_RESOURCE_DEFINITION, "", kind.resource)?;
            let paths = Scale::of(definition)?;
            let tree = object.value();
            let selector = paths.selector(&tree).map(|text| parsed(LabelSelector::parse(text)));
            let replicas = paths.replicas(&tree);
            (Some(paths), replicas, selector)
        } else {
            let view = object.decode::<View>().ok()?;
            let given = view.spec.selector.as_ref();
            let given = given.filter(|s| s.as_object().is_some_and(|s| !s.is_empty()));
            let selector = given.map(|selector| {
                // Of a ReplicationController it is nothing but labels.
                let is_map = kind.resource == kinds::REPLICATION_CONTROLLER.resource;
                let whole = is_map.then(|| json!({"matchLabels": selector}));
                parsed(LabelSelector::from_value(Some(whole.as_ref().unwrap_or(selector))))
            });
            (None, view.spec.replicas, selector)
        };
        Some(Self { replicas: i32::try_from(replicas).unwrap_or(i32::MAX), selector, paths })
    }

    /// The merge patch that declares another number.
    pub(crate) fn resize(&self, replicas: i32) -> Value {
        match &self.paths {
            Some(paths) => paths.resize(replicas.into()),
            None => json!({"spec": {"replicas": replicas}}),
        }
    }
}
