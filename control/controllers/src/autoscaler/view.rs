//! What is read of an autoscaler, of what it scales, and of the Pods behind that.

use std::collections::BTreeMap;

use coracle_api::kinds::Subresource;
use coracle_api::{ApiError, Cluster, Kind, LabelSelector, Object, Quantity};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::scales::Scaled;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct View {
    pub(super) spec: Spec,
    pub(super) status: Value,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) scale_target_ref: Reference,
    pub(super) min_replicas: Option<i32>,
    pub(super) max_replicas: i32,
    pub(super) metrics: Vec<MetricSpec>,
    pub(super) behavior: Option<Behavior>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Reference {
    api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct MetricSpec {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) resource: Source,
    pub(super) container_resource: Source,
    pub(super) pods: Source,
    pub(super) object: Source,
    pub(super) external: Source,
}

/// What a metric is about, of whatever type; each has some of these.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) container: String,
    pub(super) metric: Metric,
    pub(super) described_object: Reference,
    pub(super) target: Target,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metric {
    pub(super) name: String,
    pub(super) selector: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Target {
    pub(super) average_utilization: Option<i32>,
    average_value: Option<Value>,
    pub(super) value: Option<Value>,
}

impl Target {
    /// `averageValue` in thousandths.
    pub(super) fn average(&self) -> Option<i64> {
        self.average_value.as_ref().and_then(Quantity::of).map(|quantity| quantity.milli())
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Behavior {
    pub(super) scale_up: Rules,
    pub(super) scale_down: Rules,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rules {
    pub(super) stabilization_window_seconds: Option<i32>,
    pub(super) select_policy: Option<String>,
    pub(super) policies: Vec<Policy>,
    tolerance: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Policy {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) value: i32,
    pub(super) period_seconds: i32,
}

/// By how much a metric may be off before anything is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerances {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Tolerances {
    /// Upstream's `--horizontal-pod-autoscaler-tolerance`.
    pub(super) const USUAL: f64 = 0.1;

    pub(super) fn of(behavior: Option<&Behavior>) -> Tolerances {
        let given = |rules: &Rules| Quantity::of(rules.tolerance.as_ref()?);
        let of = |rules: Option<&Rules>| {
            let given = rules.and_then(given);
            given.map_or(Self::USUAL, |quantity| quantity.milli() as f64 / 1000.0)
        };
        Tolerances {
            up: of(behavior.map(|behavior| &behavior.scale_up)),
            down: of(behavior.map(|behavior| &behavior.scale_down)),
        }
    }

    pub(super) fn cover(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What is scaled, as its `/scale` has it.
#[derive(Debug)]
pub(super) struct Scale<'a> {
    pub(super) object: &'a Object,
    pub(super) numbers: Scaled,
}

impl Reference {
    fn kind(&self, cluster: &Cluster) -> Result<&'static Kind, String> {
        let group = match self.api_version.split('/').collect::<Vec<_>>()[..] {
            [_] => "",
            [group, _] => group,
            _ => return Err(format!("unexpected GroupVersion string: {}", self.api_version)),
        };
        cluster
            .kind(group, &self.kind)
            .ok_or_else(|| format!("no matches for kind \"{}\" in group \"{group}\"", self.kind))
    }

    /// What it refers to, in upstream's words where that cannot be scaled.
    pub(super) fn scale<'a>(
        &self,
        cluster: &'a Cluster,
        namespace: &str,
    ) -> Result<Scale<'a>, String> {
        let kind = self.kind(cluster)?;
        let unscalable = || "the server could not find the requested resource".to_owned();
        if !kind.has(Subresource::Scale) {
            return Err(unscalable());
        }
        let object = cluster
            .get(kind, namespace, &self.name)
            .ok_or_else(|| ApiError::not_found(kind, &self.name).to_string())?;
        let numbers = Scaled::of(cluster, object).ok_or_else(unscalable)?;
        Ok(Scale { object, numbers })
    }
}

impl Scale<'_> {
    pub(super) fn replicas(&self) -> i32 {
        self.numbers.replicas
    }

    /// Which Pods are counted; none where nothing is selected.
    pub(super) fn selector(&self) -> Option<&Result<LabelSelector, String>> {
        self.numbers.selector.as_ref()
    }
}

/// A Pod as far as metrics are judged by it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    spec: PodSpec,
    pub(super) status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    resources: Resources,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: Box<str>,
    restart_policy: Option<Box<str>>,
    resources: Resources,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Resources {
    requests: BTreeMap<Box<str>, Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodStatus {
    pub(super) phase: Box<str>,
    pub(super) start_time: Option<Timestamp>,
    pub(super) conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: Box<str>,
    pub(super) status: Box<str>,
    pub(super) last_transition_time: Option<Timestamp>,
}

impl Pod {
    pub(super) fn of(pod: &Object) -> Pod {
        // What is stored passed validation; anything else reads as a Pod that says nothing.
        serde_json::from_slice(pod.json()).unwrap_or_default()
    }

    /// What it requests of a resource, in thousandths: one of its containers, or all of them, or what it says as a whole.
    pub(super) fn request(
        &self,
        name: &str,
        resource: &str,
        container: &str,
    ) -> Result<i64, String> {
        let given = |resources: &Resources| {
            resources.requests.get(resource).and_then(Quantity::of).map(|quantity| quantity.milli())
        };
        if container.is_empty() && !self.spec.resources.requests.is_empty() {
            return given(&self.spec.resources)
                .ok_or_else(|| format!("missing pod-level request for {resource} in Pod {name}"));
        }
        let lasting = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
        let all =
            self.spec.containers.iter().chain(self.spec.init_containers.iter().filter(lasting));
        let mut sum = 0;
        let mut found = container.is_empty();
        for it in all.filter(|it| container.is_empty() || *it.name == *container) {
            sum += given(&it.resources).ok_or_else(|| {
                format!("missing request for {resource} in container {} of Pod {name}", it.name)
            })?;
            found = true;
        }
        match found {
            true => Ok(sum),
            false => Err(format!("container {container} not found in Pod {name}")),
        }
    }
}
