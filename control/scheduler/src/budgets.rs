//! PodDisruptionBudgets, as preemption regards them: it avoids what they do not allow, and does it only where nothing else
//! helps.

use std::collections::{BTreeMap, HashMap};

use coracle_api::Object;
use coracle_api::selector::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

/// By namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    by_namespace: HashMap<Box<str>, BTreeMap<Box<str>, Budget>>,
}

#[derive(Debug)]
struct Budget {
    selector: LabelSelector,
    allowed: i64,
    /// Pods that it has let go already.
    disrupted: BTreeMap<Box<str>, Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct View {
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    selector: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    disruptions_allowed: i64,
    disrupted_pods: BTreeMap<Box<str>, Value>,
}

impl Budgets {
    pub(crate) fn put(&mut self, object: &Object) {
        let view: View = serde_json::from_slice(object.json()).unwrap_or_default();
        let selector = LabelSelector::from_value(view.spec.selector.as_ref());
        let budget = Budget {
            // Upstream's scheduler takes an empty selector for one of nothing.
            selector: selector
                .ok()
                .filter(|selector| !selector.is_everything())
                .unwrap_or(LabelSelector::NOTHING),
            allowed: view.status.disruptions_allowed,
            disrupted: view.status.disrupted_pods,
        };
        let meta = &object.meta;
        let namespace = self.by_namespace.entry(meta.namespace.as_str().into()).or_default();
        namespace.insert(meta.name.as_str().into(), budget);
    }

    pub(crate) fn remove(&mut self, object: &Object) {
        if let Some(namespace) = self.by_namespace.get_mut(object.meta.namespace.as_str()) {
            namespace.remove(object.meta.name.as_str());
            if namespace.is_empty() {
                self.by_namespace.remove(object.meta.namespace.as_str());
            }
        }
    }

    /// For each Pod, if all before it went, whether it could not go without going beyond what a budget allows.
    pub(crate) fn violations<'a>(&self, pods: impl IntoIterator<Item = &'a Object>) -> Vec<bool> {
        let mut taken: HashMap<(&str, &str), i64> = HashMap::new();
        let mut violated = |pod: &'a Object| {
            let mut violated = false;
            let budgets = self.by_namespace.get_key_value(pod.meta.namespace.as_str());
            for (namespace, (name, budget)) in
                budgets.into_iter().flat_map(|(ns, all)| all.iter().map(move |b| (ns, b)))
            {
                if budget.selector.matches(&pod.meta.labels)
                    && !budget.disrupted.contains_key(pod.meta.name.as_str())
                {
                    let taken = taken.entry((&**namespace, &**name)).or_default();
                    *taken += 1;
                    violated |= *taken > budget.allowed;
                }
            }
            violated
        };
        pods.into_iter().map(&mut violated).collect()
    }
}
