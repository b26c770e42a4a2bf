//! What readers of Pods ask of them: phase, readiness, resource requests, quality of service.
//!
//! Functions of the typed Pod, which the controllers, the scheduler and the agent decode once, except for
//! [`qos_class`], which is computed while the Pod is still a tree.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource;
use serde_json::{Value, json};

use crate::json::{Fields, Json, set_default};
use crate::quantity::Quantity;

/// `status.phase`; `Pending` if it has none yet.
pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|s| s.phase.as_deref())
        .filter(|p| !p.is_empty())
        .unwrap_or("Pending")
}

/// It has run to its end and will not start again.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Its condition `Ready` is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Its condition of a type.
pub fn condition<'a>(
    pod: &'a Pod,
    kind: &str,
) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// Ready for at least so many seconds at `now`.
pub fn is_available(pod: &Pod, min_ready_seconds: i64, now: jiff::Timestamp) -> bool {
    let Some(ready) = condition(pod, "Ready").filter(|c| c.status == "True") else { return false };
    min_ready_seconds == 0
        || ready
            .last_transition_time
            .as_ref()
            .is_some_and(|time| now.as_second() - time.0.as_second() >= min_ready_seconds)
}

/// Marked for deletion.
pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// What a Pod asks of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
}

/// What a Pod asks of its node: the larger of its containers' sum and the peak of its init containers (which run one
/// after the other, beside the restartable ones started before), plus overhead; or what the Pod as a whole declares.
pub fn requests(spec: &PodSpec) -> Requests {
    Requests {
        cpu_milli: request(spec, "cpu").milli(),
        memory: request(spec, "memory").value(),
        ephemeral_storage: request(spec, "ephemeral-storage").value(),
    }
}

/// What a Pod asks for of one resource; see [`requests`].
pub fn request(spec: &PodSpec, name: &str) -> Quantity {
    let overhead = spec.overhead.as_ref().and_then(|o| o.get(name)).map_or(Quantity::ZERO, parse);
    whole(spec, |resources| resources.requests.as_ref()?.get(name)) + overhead
}

/// What a Pod may use of one resource, summed up like what it asks for; zero where nothing limits it.
pub fn limit(spec: &PodSpec, name: &str) -> Quantity {
    let limit = whole(spec, |resources| resources.limits.as_ref()?.get(name));
    if limit.is_zero() {
        return limit;
    }
    limit + spec.overhead.as_ref().and_then(|o| o.get(name)).map_or(Quantity::ZERO, parse)
}

/// A Pod's spec as it counts: while it is resized, containers count with the most of what they ask for, were given and have.
/// What is asked for in vain does not count.
pub fn counted(pod: &Value) -> Value {
    let mut spec = pod.at(&["spec"]).cloned().unwrap_or_default();
    let conditions = pod.list(&["status", "conditions"]);
    let kind = |c: &Value| c.text(&["type"]).to_owned();
    let resizing = conditions
        .iter()
        .filter(|c| matches!(&*kind(c), "PodResizePending" | "PodResizeInProgress"));
    let mut resizing = resizing.peekable();
    if resizing.peek().is_none() {
        return spec;
    }
    let infeasible = resizing.any(|c| c.text(&["reason"]) == "Infeasible");
    for (list, statuses) in
        [("containers", "containerStatuses"), ("initContainers", "initContainerStatuses")]
    {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container.text(&["name"]).to_owned();
            let mut told = pod.list(&["status", statuses]).iter();
            let Some(told) = told.find(|told| told.text(&["name"]) == name) else { continue };
            for resource in ["cpu", "memory"] {
                let has = [
                    told.at(&["allocatedResources", resource]),
                    told.at(&["resources", "requests", resource]),
                ];
                let asked = container.at(&["resources", "requests", resource]);
                let all = has.into_iter().chain([asked.filter(|_| !infeasible)]).flatten();
                let Some(most) = all.max_by_key(|value| Quantity::of(value)).cloned() else {
                    continue;
                };
                container["resources"]["requests"][resource] = most;
            }
        }
    }
    spec
}

/// One amount of its containers' resources, as it is of the whole Pod.
fn whole(
    spec: &PodSpec,
    amount: impl Fn(&ResourceRequirements) -> Option<&resource::Quantity>,
) -> Quantity {
    let of = |c: &Container| c.resources.as_ref().and_then(&amount).map_or(Quantity::ZERO, parse);
    let mut sum: Quantity = spec.containers.iter().map(of).sum();
    let mut sidecars = Quantity::ZERO;
    let mut peak = Quantity::ZERO;
    for container in spec.init_containers.iter().flatten() {
        let asked = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += asked;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + asked);
        }
    }
    sum += sidecars;
    spec.resources.as_ref().and_then(&amount).map_or(sum.max(peak), parse)
}

/// Seconds that a Pod stays on a node that is not ready, and on one that is unreachable, unless it says otherwise.
pub const TOLERATION_SECONDS: [i64; 2] = [300, 300];

/// Lets a Pod's `spec` stay so many seconds on a node that is not ready, and on one that is unreachable, unless it says
/// otherwise itself (upstream's admission plugin DefaultTolerationSeconds).
pub fn tolerate_lost_nodes(spec: &mut Fields, seconds: [i64; 2]) {
    let keys = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    for (key, seconds) in keys.into_iter().zip(seconds) {
        let tolerated = spec.list(&["tolerations"]).iter().any(|t| {
            matches!(t.text(&["key"]), k if k == key || k.is_empty())
                && matches!(t.text(&["effect"]), "" | "NoExecute")
        });
        if !tolerated {
            set_default(spec, "tolerations", Vec::<Value>::new);
            if let Some(list) = spec.get_mut("tolerations").and_then(Value::as_array_mut) {
                list.push(json!({
                    "key": key,
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": seconds,
                }));
            }
        }
    }
}

fn parse(quantity: &resource::Quantity) -> Quantity {
    quantity.0.parse().unwrap_or(Quantity::ZERO)
}

/// `Guaranteed` (every container limits CPU and memory, and requests as much), `BestEffort` (no container asks for or
/// limits either) or `Burstable`. Takes a Pod's `spec`.
pub fn qos_class(spec: &Value) -> &'static str {
    let mut asks = false;
    let mut guaranteed = true;
    // Resources of the Pod as a whole take the place of its containers'.
    let (containers, init) = if spec.has(&["resources"]) {
        (std::slice::from_ref(spec), &[][..])
    } else {
        (spec.list(&["containers"]), spec.list(&["initContainers"]))
    };
    for container in containers.iter().chain(init) {
        for name in ["cpu", "memory"] {
            let of = |list| {
                container
                    .at(&["resources", list, name])
                    .and_then(Quantity::of)
                    .filter(|q| !q.is_zero())
            };
            let (limit, request) = (of("limits"), of("requests"));
            asks |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (asks, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_count_init_containers_sidecars_and_overhead() {
        let container = |cpu: &str, memory: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}});
        let sidecar = |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (spec, cpu, memory) in [
            (json!({"containers": [{"name": "c"}]}), 0, 0),
            (
                json!({"containers": [container("250m", "128Mi"), container("1", "1Gi")]}),
                1250,
                (128 + 1024) << 20,
            ),
            (
                json!({"containers": [container("250m", "1Mi")], "initContainers": [container("1", "0"), container("2", "0")]}),
                2000,
                1 << 20,
            ),
            (
                json!({"containers": [container("500m", "0")], "initContainers": [sidecar("100m"), container("300m", "0")]}),
                600,
                0,
            ),
            (
                json!({"containers": [container("100m", "0")], "initContainers": [sidecar("100m"), container("300m", "0")],
                    "overhead": {"cpu": "10m", "memory": "1"}}),
                410,
                1,
            ),
            (
                json!({"containers": [container("100m", "0")], "resources": {"requests": {"cpu": "2"}}}),
                2000,
                0,
            ),
        ] {
            let typed: PodSpec = serde_json::from_value(spec.clone()).expect("a PodSpec");
            let asked = requests(&typed);
            assert_eq!((asked.cpu_milli, asked.memory), (cpu, memory), "{spec}");
        }
    }

    #[test]
    fn a_pod_that_is_resized_counts_with_the_most() {
        let check = |reason: &str, expected: &str| {
            let pod = json!({
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "3", "memory": "1Gi"}}}]},
                "status": {
                    "conditions": [{"type": "PodResizePending", "reason": reason}],
                    "containerStatuses": [{"name": "c", "allocatedResources": {"cpu": "1", "memory": "2Gi"}}],
                },
            });
            let requests = counted(&pod)["containers"][0]["resources"]["requests"].clone();
            assert_eq!(requests, json!({"cpu": expected, "memory": "2Gi"}), "{reason}");
        };
        check("Deferred", "3");
        check("Infeasible", "1");
    }

    #[test]
    fn quality_of_service() {
        let c = |resources: Value| json!({"name": "c", "resources": resources});
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}});
        for (containers, expected) in [
            (json!([c(json!({}))]), "BestEffort"),
            (json!([c(json!({"requests": {"cpu": "0"}}))]), "BestEffort"),
            (json!([c(full.clone())]), "Guaranteed"),
            (json!([c(full.clone()), c(json!({}))]), "Burstable"),
            (json!([c(json!({"requests": {"cpu": "1"}}))]), "Burstable"),
            (json!([c(json!({"limits": {"cpu": "1"}}))]), "Burstable"),
        ] {
            assert_eq!(qos_class(&json!({"containers": containers})), expected, "{containers}");
        }
        assert_eq!(
            qos_class(&json!({"containers": [c(json!({}))], "resources": full})),
            "Guaranteed"
        );
    }
}
