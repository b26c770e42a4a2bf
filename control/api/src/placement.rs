//! Where a Pod may run: affinity and tolerations. The scheduler and the DaemonSet controller ask alike.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// `spec.affinity` of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    node_affinity: NodeAffinity,
    /// Pods that it is to be near.
    pub pod_affinity: PodTerms,
    /// Pods that it is to be away from.
    pub pod_anti_affinity: PodTerms,
}

/// `podAffinity` or `podAntiAffinity`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct PodTerms {
    /// All of them hold where the Pod goes.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Vec<PodTerm>,
    /// They count for or against a node.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    pub preferred: Vec<PodPreference>,
}

/// A preferred term about Pods and its weight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodPreference {
    /// 1 to 100.
    pub weight: i32,
    /// What is preferred.
    pub pod_affinity_term: PodTerm,
}

/// Which Pods are meant, and what being near one is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTerm {
    /// A `metav1.LabelSelector` of Pods.
    pub label_selector: Option<Value>,
    /// Their namespaces; with no selector of namespaces either, the Pod's own.
    pub namespaces: Vec<Box<str>>,
    /// A `metav1.LabelSelector` of namespaces.
    pub namespace_selector: Option<Value>,
    /// The label of nodes that nodes near each other have in common.
    pub topology_key: Box<str>,
    /// Labels that the Pods have with the value that this Pod has…
    pub match_label_keys: Vec<Box<str>>,
    /// …or with another one.
    pub mismatch_label_keys: Vec<Box<str>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
struct NodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Option<NodeSelector>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    preferred: Vec<Preference>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSelector {
    node_selector_terms: Vec<Term>,
}

/// A preferred term and its weight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct Preference {
    /// 1 to 100.
    pub weight: i32,
    /// What is preferred.
    pub preference: Term,
}

/// All expressions must match; a term without any matches nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Term {
    match_expressions: Vec<Expression>,
    match_fields: Vec<Expression>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
struct Expression {
    key: String,
    operator: String,
    values: Vec<String>,
}

/// A toleration of taints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct Toleration {
    /// Key of the taint; empty for every key.
    pub key: String,
    /// `Equal` or `Exists`.
    pub operator: String,
    /// Value of the taint.
    pub value: String,
    /// Its effect; empty for every effect.
    pub effect: String,
}

impl Affinity {
    /// Whether a node of that name and these labels is one of those required: any term of them.
    pub fn allows(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let fits = |r: &NodeSelector| r.node_selector_terms.iter().any(|t| t.matches(name, labels));
        self.node_affinity.required.as_ref().is_none_or(fits)
    }

    /// What it would rather have.
    pub fn preferred(&self) -> &[Preference] {
        &self.node_affinity.preferred
    }

    /// What it requires, if that is a term about the names of nodes and nothing else.
    pub fn by_name(&self) -> Option<&Term> {
        let [term] = &self.node_affinity.required.as_ref()?.node_selector_terms[..] else {
            return None;
        };
        (term.match_expressions.is_empty() && !term.match_fields.is_empty()).then_some(term)
    }

    /// The only node that it allows, if it names one: what a DaemonSet's Pods do.
    pub fn only_node(&self) -> Option<&str> {
        let [term, ..] = &self.node_affinity.required.as_ref()?.node_selector_terms[..] else {
            return None;
        };
        let named = |e: &&Expression| e.key == "metadata.name" && e.operator == "In";
        match &term.match_fields.iter().find(named)?.values[..] {
            [name] => Some(name),
            _ => None,
        }
    }
}

impl Toleration {
    /// Whether it is about that taint.
    pub fn tolerates(&self, key: &str, value: &str, effect: &str) -> bool {
        (self.effect.is_empty() || self.effect == effect)
            && (self.key.is_empty() || self.key == key)
            && (self.operator == "Exists" || !self.key.is_empty() && self.value == value)
    }
}

impl Term {
    /// Whether a node of that name and these labels is meant.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let stated = !self.match_expressions.is_empty() || !self.match_fields.is_empty();
        stated
            && self
                .match_expressions
                .iter()
                .all(|e| e.matches(labels.get(&e.key).map(String::as_str)))
            && self.match_fields.iter().all(|e| e.key == "metadata.name" && e.matches(Some(name)))
    }
}

impl Expression {
    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|v| v == value);
        let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
        let bound = || number(self.values.first().map(String::as_str));
        match self.operator.as_str() {
            "In" => value.is_some_and(listed),
            "NotIn" => !value.is_some_and(listed),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => number(value).zip(bound()).is_some_and(|(value, bound)| value > bound),
            "Lt" => number(value).zip(bound()).is_some_and(|(value, bound)| value < bound),
            _ => false,
        }
    }
}
