//! What a Pod asks of where other Pods are: to be spread over a topology, to be near some, to be away from others.

use std::collections::BTreeMap;

use coracle_api::placement::{Affinity, PodTerm};
use coracle_api::selector::LabelSelector;
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) type Labels = BTreeMap<String, String>;

/// One of `spec.topologySpreadConstraints`, as it is written.
#[derive(Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Constraint {
    max_skew: i32,
    topology_key: Box<str>,
    when_unsatisfiable: Box<str>,
    label_selector: Option<Value>,
    min_domains: Option<i32>,
    node_affinity_policy: Option<Box<str>>,
    node_taints_policy: Option<Box<str>>,
    match_label_keys: Vec<Box<str>>,
}

/// All of it, read.
#[derive(Debug, Default)]
pub(crate) struct Relations {
    pub(crate) spread: Vec<Spread>,
    pub(crate) near: Vec<Near>,
    pub(crate) away: Vec<Near>,
    /// With weights; negative ones are of Pods to be away from.
    pub(crate) preferred: Vec<(i64, Near)>,
}

/// Pods of this selector, in the Pod's own namespace, are to be spread over the values of a label of nodes.
#[derive(Debug)]
pub(crate) struct Spread {
    pub(crate) selector: LabelSelector,
    pub(crate) key: Box<str>,
    pub(crate) max_skew: i64,
    /// `DoNotSchedule`; otherwise it only counts for or against a node.
    pub(crate) hard: bool,
    pub(crate) min_domains: usize,
    /// Nodes that the Pod's own affinity rules out do not count.
    pub(crate) honours_affinity: bool,
    /// Nodes whose taints the Pod does not tolerate do not count.
    pub(crate) honours_taints: bool,
}

/// Being near a Pod: on a node whose label has the value that the Pod's node has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Near {
    pub(crate) selection: Selection,
    pub(crate) key: Box<str>,
}

/// Which Pods are meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Selection {
    namespaces: Vec<Box<str>>,
    by_labels: Option<LabelSelector>,
    selector: LabelSelector,
}

impl Relations {
    pub(crate) fn read(
        constraints: &[Constraint],
        affinity: &Affinity,
        namespace: &str,
        labels: &Labels,
    ) -> Self {
        let (near, away) = (&affinity.pod_affinity, &affinity.pod_anti_affinity);
        let read = |term: &PodTerm| Near::read(term, namespace, labels);
        let weighted = |sign: i64| {
            move |p: &coracle_api::placement::PodPreference| {
                (sign * i64::from(p.weight), Near::read(&p.pod_affinity_term, namespace, labels))
            }
        };
        Self {
            spread: constraints.iter().map(|c| c.read(labels)).collect(),
            near: near.required.iter().map(read).collect(),
            away: away.required.iter().map(read).collect(),
            preferred: near
                .preferred
                .iter()
                .map(weighted(1))
                .chain(away.preferred.iter().map(weighted(-1)))
                .collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        let Self { spread, near, away, preferred } = self;
        spread.is_empty() && near.is_empty() && away.is_empty() && preferred.is_empty()
    }
}

impl Constraint {
    fn read(&self, labels: &Labels) -> Spread {
        let policy = |given: &Option<Box<str>>, default| match given.as_deref() {
            Some(policy) => policy == "Honor",
            None => default,
        };
        Spread {
            selector: selector(&self.label_selector, labels, &self.match_label_keys, &[]),
            key: self.topology_key.clone(),
            max_skew: self.max_skew.into(),
            hard: &*self.when_unsatisfiable != "ScheduleAnyway",
            min_domains: usize::try_from(self.min_domains.unwrap_or(1)).unwrap_or(1),
            honours_affinity: policy(&self.node_affinity_policy, true),
            honours_taints: policy(&self.node_taints_policy, false),
        }
    }
}

impl Near {
    fn read(term: &PodTerm, namespace: &str, labels: &Labels) -> Self {
        let mut namespaces = term.namespaces.clone();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.into());
        }
        namespaces.sort();
        let by_labels = term.namespace_selector.as_ref();
        let keys = (&term.match_label_keys, &term.mismatch_label_keys);
        let selection = Selection {
            namespaces,
            by_labels: by_labels.and_then(|s| LabelSelector::from_value(Some(s)).ok()),
            selector: selector(&term.label_selector, labels, keys.0, keys.1),
        };
        Self { selection, key: term.topology_key.clone() }
    }
}

impl Selection {
    /// Pods of one namespace.
    pub(crate) fn within(namespace: &str, selector: LabelSelector) -> Self {
        Self { namespaces: vec![namespace.into()], by_labels: None, selector }
    }

    /// Whether a Pod with these labels is meant; `namespaces` gives the labels of its namespace.
    pub(crate) fn matches<'a>(
        &self,
        namespace: &str,
        labels: &Labels,
        namespaces: impl FnOnce(&str) -> Option<&'a Labels>,
    ) -> bool {
        let listed = self.namespaces.iter().any(|name| **name == *namespace);
        let meant = listed
            || self.by_labels.as_ref().is_some_and(|selector| {
                namespaces(namespace)
                    .map_or_else(|| selector.is_everything(), |labels| selector.matches(labels))
            });
        meant && self.selector.matches(labels)
    }

    /// Labels of namespaces matter.
    pub(crate) fn looks_at_namespaces(&self) -> bool {
        self.by_labels.is_some()
    }
}

/// A selector, and with it the Pod's own values of some labels. Absent, and one that is not valid, selects nothing.
fn selector(
    written: &Option<Value>,
    labels: &Labels,
    same: &[Box<str>],
    other: &[Box<str>],
) -> LabelSelector {
    let Some(mut tree) = written.clone() else { return LabelSelector::NOTHING };
    for (keys, operator) in [(same, "In"), (other, "NotIn")] {
        for key in keys {
            if let (Some(value), Some(tree)) = (labels.get(&**key), tree.as_object_mut()) {
                let added = json!({"key": key, "operator": operator, "values": [value]});
                let known = tree.entry("matchExpressions").or_insert(Value::Null);
                match known.as_array_mut() {
                    // The API server may have put it there already.
                    Some(known) if known.contains(&added) => {}
                    Some(known) => known.push(added),
                    None => *known = json!([added]),
                }
            }
        }
    }
    LabelSelector::from_value(Some(&tree)).unwrap_or(LabelSelector::NOTHING)
}
