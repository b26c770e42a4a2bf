//! What a Pod as a whole may use: upstream's rule for its effective requests and limits.
//!
//! Init containers run before the others, one at a time, beside the sidecars that were started before them. So a Pod needs
//! the larger of what runs together in the end and of the most that any init container needs; with `spec.overhead` on top.
//! `spec.resources` (Pod-level resources), where given, says it outright.

use std::collections::BTreeMap;

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::spec::limits;

/// A Pod's CPU request in millicores and its limits; None: not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodLimits {
    /// Request, in millicores.
    pub cpu_request: u32,
    /// Limit, in millicores.
    pub cpu_limit: Option<u32>,
    /// Limit, in bytes.
    pub memory_limit: Option<u64>,
}

impl PodLimits {
    /// The larger of each; no limit is the largest.
    pub fn at_least(self, other: PodLimits) -> PodLimits {
        PodLimits {
            cpu_request: self.cpu_request.max(other.cpu_request),
            cpu_limit: self.cpu_limit.zip(other.cpu_limit).map(|(a, b)| a.max(b)),
            memory_limit: self.memory_limit.zip(other.memory_limit).map(|(a, b)| a.max(b)),
        }
    }
}

/// Works them out.
pub fn pod_limits(pod: &Pod) -> PodLimits {
    let Some(spec) = &pod.spec else { return PodLimits::default() };
    let list = |limits: bool| {
        let resources = spec.resources.as_ref();
        resources.and_then(|r| if limits { r.limits.as_ref() } else { r.requests.as_ref() })
    };
    let narrow = |millis: u64| u32::try_from(millis).unwrap_or(u32::MAX);
    let cpu_limit = milli(list(true), "cpu")
        .or_else(|| effective(spec, "cpu", |c| limits(c).cpu_limit.map(u64::from)));
    let cpu_request = milli(list(false), "cpu")
        .or(milli(list(true), "cpu"))
        .or_else(|| effective(spec, "cpu", |c| Some(u64::from(limits(c).cpu_request))));
    let memory_limit = milli(list(true), "memory")
        .map(|milli| milli / 1000)
        .or_else(|| effective(spec, "memory", |c| limits(c).memory_limit));
    PodLimits {
        cpu_request: narrow(cpu_request.unwrap_or(0)),
        cpu_limit: cpu_limit.map(narrow),
        memory_limit,
    }
}

fn milli(list: Option<&BTreeMap<String, Text>>, name: &str) -> Option<u64> {
    let quantity = list?.get(name)?.0.parse::<Quantity>().ok()?;
    u64::try_from(quantity.milli()).ok()
}

/// None as soon as one container has none.
fn effective(
    spec: &PodSpec,
    name: &str,
    of: impl Fn(&k8s_openapi::api::core::v1::Container) -> Option<u64>,
) -> Option<u64> {
    let (mut sidecars, mut most) = (0_u64, 0_u64);
    for container in spec.init_containers.iter().flatten() {
        let own = of(container)?;
        most = most.max(sidecars.saturating_add(own));
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.saturating_add(own);
        }
    }
    for container in &spec.containers {
        sidecars = sidecars.saturating_add(of(container)?);
    }
    let overhead = milli(spec.overhead.as_ref(), name).unwrap_or(0);
    let overhead = if name == "cpu" { overhead } else { overhead / 1000 };
    Some(most.max(sidecars).saturating_add(overhead))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: serde_json::Value, expected: (u32, Option<u32>, Option<u64>)) {
        let pod: Pod = serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap();
        let PodLimits { cpu_request, cpu_limit, memory_limit } = pod_limits(&pod);
        assert_eq!((cpu_request, cpu_limit, memory_limit), expected, "{spec}");
    }

    fn of(cpu: &str, memory: &str) -> serde_json::Value {
        serde_json::json!({ "name": "c", "resources": { "limits": { "cpu": cpu, "memory": memory } } })
    }

    #[test]
    fn what_runs_together_counts_together() {
        use serde_json::json;
        let mut sidecar = of("100m", "10Mi");
        sidecar["restartPolicy"] = "Always".into();
        let mib = |n: u64| Some(n << 20);
        check(
            json!({"containers": [of("1", "64Mi"), of("500m", "32Mi")]}),
            (1500, Some(1500), mib(96)),
        );
        // A small init container changes nothing, a large one does.
        let containers = json!([of("200m", "64Mi")]);
        let small = json!({"initContainers": [of("100m", "32Mi")], "containers": containers});
        check(small, (200, Some(200), mib(64)));
        let large = json!({
            "initContainers": [sidecar, of("1", "100Mi"), of("1", "90Mi")], "containers": containers,
            "overhead": {"cpu": "10m", "memory": "1Mi"},
        });
        check(large, (1110, Some(1110), mib(111)));
        // One without a limit, and there is none; its request is 0.
        let open = json!({"containers": [of("200m", "64Mi"), {"name": "open"}]});
        check(open, (200, None, None));
        // The Pod's own word counts.
        let own = json!({"containers": [{"name": "open"}],
            "resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "2", "memory": "1Gi"}}});
        check(own, (50, Some(2000), mib(1024)));
    }
}
