//! What memory and huge pages mean to the kernel beyond limits: who goes first when memory runs out.

use std::collections::BTreeMap;

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// `oom_score_adj` of a guaranteed Pod's containers, and of those that the node cannot be without.
const GUARANTEED: i32 = -997;
/// Of a best-effort Pod's.
const BEST_EFFORT: i32 = 1000;

/// A Pod's quality of service, as the kubelet works it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// How soon the kernel ends the container when memory runs out: the less of what it asked for it uses, the later.
pub(super) fn oom_score_adj(pod: &Pod, container: &Container, memory: u64) -> i32 {
    let Some(spec) = &pod.spec else { return BEST_EFFORT };
    if spec.priority_class_name.as_deref() == Some("system-node-critical") {
        return GUARANTEED;
    }
    match class(spec) {
        Class::Guaranteed => GUARANTEED,
        Class::BestEffort => BEST_EFFORT,
        Class::Burstable => {
            let wanted = asked(container, "memory").unwrap_or(0).max(0);
            let share = 1000 * i128::from(wanted) / i128::from(memory.max(1));
            // Between those of the other two classes, and neither.
            i32::try_from((1000 - share).clamp(3, 999)).unwrap_or(999)
        }
    }
}

fn class(spec: &PodSpec) -> Class {
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let both = ["cpu", "memory"];
    let own = spec.resources.as_ref();
    let none = |resources: Option<&ResourceRequirements>| {
        both.iter().all(|name| {
            let positive = |list| amount(list, name).is_some_and(|amount| amount > 0);
            !resources.is_some_and(|r| positive(r.requests.as_ref()) || positive(r.limits.as_ref()))
        })
    };
    let full = |resources: Option<&ResourceRequirements>| {
        both.iter().all(|name| {
            let limit = amount(resources.and_then(|r| r.limits.as_ref()), name);
            let request = amount(resources.and_then(|r| r.requests.as_ref()), name);
            limit.is_some_and(|limit| limit > 0) && request.is_none_or(|r| Some(r) == limit)
        })
    };
    if own.is_some() && !none(own) {
        return if full(own) { Class::Guaranteed } else { Class::Burstable };
    }
    if containers().all(|c| none(c.resources.as_ref())) {
        Class::BestEffort
    } else if containers().all(|c| full(c.resources.as_ref())) {
        Class::Guaranteed
    } else {
        Class::Burstable
    }
}

/// A request, or the limit that stands in for it.
fn asked(container: &Container, name: &str) -> Option<i64> {
    let resources = container.resources.as_ref()?;
    let milli = amount(resources.requests.as_ref(), name);
    let milli = milli.or_else(|| amount(resources.limits.as_ref(), name))?;
    Some(milli / 1000)
}

/// Thousandths.
fn amount(list: Option<&BTreeMap<String, Text>>, name: &str) -> Option<i64> {
    list?.get(name)?.0.parse::<Quantity>().ok().map(|quantity| quantity.milli())
}

/// Limits on huge pages, by page size as the kernel writes it.
pub(super) fn hugepages(container: &Container) -> BTreeMap<String, u64> {
    let limits = container.resources.iter().flat_map(|r| r.limits.iter().flatten());
    let pages = limits.filter_map(|(name, amount)| {
        let size = name.strip_prefix("hugepages-")?.parse::<Quantity>().ok()?;
        let amount = u64::try_from(amount.0.parse::<Quantity>().ok()?.value()).ok()?;
        Some((page_size(u64::try_from(size.value()).ok()?), amount))
    });
    pages.collect()
}

/// Of all containers together.
pub(super) fn hugepages_of_pod(spec: &PodSpec) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for (size, amount) in hugepages(container) {
            *all.entry(size).or_insert(0) += amount;
        }
    }
    all
}

fn page_size(bytes: u64) -> String {
    match bytes {
        size if size >= 1 << 30 => format!("{}GB", size >> 30),
        size if size >= 1 << 20 => format!("{}MB", size >> 20),
        size => format!("{}KB", size >> 10),
    }
}
