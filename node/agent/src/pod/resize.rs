//! In-place resize: what a Pod asks for now, what it was given of that, and what is in force. Pure.
//!
//! What is asked for is the spec as the API has it. What was given is the spec as this node keeps it: everything that starts a
//! container or counts room reads that one, and it follows the first where there is room. What is in force is what runtimes
//! were told last. The three are the same for nearly all Pods nearly always, so that only the difference is kept, and only
//! while there is one ([`Resize`]). Who acts is [`super::worker`].

use std::collections::BTreeMap;

use coracle_api::pod::Requests;
use coracle_api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, Pod, PodCondition, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

use super::resources::PodLimits;

/// What waits for room, or has none.
pub const PENDING: &str = "PodResizePending";
/// What is being done.
pub const IN_PROGRESS: &str = "PodResizeInProgress";

/// CPU and memory of everything in a Pod that can be resized.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Amounts {
    containers: BTreeMap<Box<str>, ResourceRequirements>,
    whole: Option<ResourceRequirements>,
}

/// Of a Pod that is not, or was not, what it asks to be.
#[derive(Debug, Clone, Default)]
pub struct Resize {
    /// What it asks for and has not been given.
    pub asked: Option<Amounts>,
    /// Why not.
    pub pending: Option<Pending>,
    /// What its containers were told to be, by name; those that were not told since are as they were given.
    pub in_force: BTreeMap<Box<str>, ResourceRequirements>,
    /// The same of the Pod as a whole; none where that is not known.
    pub whole: Option<PodLimits>,
    /// What was given is not all in force.
    pub progress: Option<Progress>,
    /// Somebody is seeing to it; `again`: and has to look once more.
    pub busy: bool,
    /// See there.
    pub again: bool,
}

/// Why a Pod is not given what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// There never will be room.
    pub infeasible: bool,
    /// For people.
    pub message: String,
    /// Of the spec that asks.
    pub generation: i64,
    /// When it was asked for.
    pub since: Timestamp,
}

/// What was given and is being put in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Why that failed.
    pub error: Option<String>,
    /// Of the spec that asked.
    pub generation: i64,
}

/// What becomes of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is given.
    Fits,
    /// Not now; why.
    Deferred(String),
    /// Never, on this node; why.
    Infeasible(String),
}

impl Pending {
    /// As the condition has it.
    pub fn reason(&self) -> &'static str {
        if self.infeasible { "Infeasible" } else { "Deferred" }
    }
}

/// Containers that can be resized: the others run once, before or beside what the Pod is about.
fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    super::spec::containers(pod)
        .filter(|(init, c)| !init || c.restart_policy.as_deref() == Some("Always"))
        .map(|(_, c)| c)
}

/// What the spec says.
pub fn amounts(pod: &Pod) -> Amounts {
    let of = |c: &Container| (c.name.as_str().into(), c.resources.clone().unwrap_or_default());
    Amounts {
        containers: resizable(pod).map(of).collect(),
        whole: pod.spec.as_ref().and_then(|spec| spec.resources.clone()),
    }
}

/// Makes the spec say this.
pub fn put(pod: &mut Pod, amounts: &Amounts) {
    let Some(spec) = &mut pod.spec else { return };
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut spec.containers) {
        if let Some(resources) = amounts.containers.get(container.name.as_str()) {
            container.resources = Some(resources.clone());
        }
    }
    spec.resources = amounts.whole.clone();
}

/// Whether these are the same CPU and memory, however they are written.
pub fn same(one: &ResourceRequirements, other: &ResourceRequirements) -> bool {
    differs(one, other, "cpu").is_none() && differs(one, other, "memory").is_none()
}

fn differs(one: &ResourceRequirements, other: &ResourceRequirements, name: &str) -> Option<()> {
    let of = |resources: &ResourceRequirements| {
        [&resources.requests, &resources.limits].map(|list| {
            let text = list.as_ref()?.get(name)?;
            text.0.parse::<Quantity>().ok()
        })
    };
    (of(one) != of(other)).then_some(())
}

impl Amounts {
    /// Whether these are the same CPU and memory everywhere.
    pub fn are(&self, other: &Amounts) -> bool {
        let none = ResourceRequirements::default();
        let of = |amounts: &Amounts| amounts.whole.clone().unwrap_or_default();
        same(&of(self), &of(other))
            && self.containers.len() == other.containers.len()
            && self.containers.iter().all(|(name, resources)| {
                same(resources, other.containers.get(name).unwrap_or(&none))
            })
    }
}

/// Whether a container has to start again to have other resources.
pub fn restarts(
    container: &Container,
    from: &ResourceRequirements,
    to: &ResourceRequirements,
) -> bool {
    let policies = container.resize_policy.iter().flatten();
    let mut strict = policies.filter(|policy| policy.restart_policy == "RestartContainer");
    strict.any(|policy| differs(from, to, &policy.resource_name).is_some())
}

/// Whether there is room: what the Pod asks for, what it has, what all others have, and what there is, in millicores and bytes.
pub fn decide(asked: Requests, has: Requests, others: Requests, room: (u64, u64)) -> Verdict {
    let of = |requests: Requests| [requests.cpu_milli, requests.memory];
    let room = [room.0, room.1].map(|amount| i64::try_from(amount).unwrap_or(i64::MAX));
    let all = ["cpu", "memory"].into_iter().zip(of(asked)).zip(of(has)).zip(of(others)).zip(room);
    let mut waits = None;
    for ((((name, asked), has), others), room) in all {
        if asked > room {
            return Verdict::Infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {asked}, capacity: {room}"
            ));
        }
        // What a Pod gives back is taken whatever the others have.
        if asked > has && asked.saturating_add(others) > room {
            waits.get_or_insert_with(|| {
                format!(
                    "Node didn't have enough resource: {name}, requested: {asked}, used: {others}, capacity: {room}"
                )
            });
        }
    }
    waits.map_or(Verdict::Fits, Verdict::Deferred)
}

/// What an agent that comes later finds of a resize that is not over: the spec asks for more or less than the containers were
/// told to be. The Pod is made to say what it had; what it asks for is to be decided on anew.
pub fn recall(pod: &mut Pod) -> Option<Resize> {
    let asked = amounts(pod);
    let mut had = asked.clone();
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for ContainerStatus { name, resources, .. } in all {
        if let (Some(had), Some(told)) = (had.containers.get_mut(name.as_str()), resources) {
            had.limits = told.limits.clone();
            had.requests = told.requests.clone();
        }
    }
    if had.are(&asked) {
        return None;
    }
    put(pod, &had);
    Some(Resize { asked: Some(asked), ..Resize::begun(&had) })
}

impl Resize {
    /// Of a Pod all of which is as it was given.
    pub fn begun(given: &Amounts) -> Resize {
        Resize { in_force: given.containers.clone(), ..Resize::default() }
    }

    /// What a container was told to be, if it was told since.
    pub fn in_force(&self, container: &str) -> Option<&ResourceRequirements> {
        self.in_force.get(container)
    }

    /// Nothing of it is left.
    pub fn is_over(&self) -> bool {
        self.asked.is_none() && self.pending.is_none() && self.progress.is_none() && !self.busy
    }

    /// What the API is told. Conditions stay as old as they are in `before` while they say the same.
    pub fn conditions(&self, before: &[PodCondition], now: Timestamp) -> Vec<PodCondition> {
        let condition = |name: &str, reason: Option<&str>, message: Option<&str>, generation| {
            let was = before.iter().find(|c| c.type_ == name && c.reason.as_deref() == reason);
            let since = was.and_then(|c| c.last_transition_time.clone());
            PodCondition {
                type_: name.to_owned(),
                status: "True".to_owned(),
                reason: reason.map(str::to_owned),
                message: message.map(str::to_owned),
                last_transition_time: Some(since.unwrap_or(Time(now))),
                observed_generation: Some(generation),
                ..PodCondition::default()
            }
        };
        let pending = self.pending.iter().map(|pending| {
            let (reason, message) = (pending.reason(), pending.message.as_str());
            condition(PENDING, Some(reason), Some(message), pending.generation)
        });
        let progress = self.progress.iter().map(|progress| {
            let error = progress.error.as_deref();
            condition(IN_PROGRESS, error.map(|_| "Error"), error, progress.generation)
        });
        pending.chain(progress).collect()
    }
}

/// What events tell of a resize, as the kubelet writes it.
pub fn summary(pod: &Pod, error: Option<&str>) -> String {
    #[derive(Serialize)]
    struct Part<'a> {
        name: &'a str,
        resources: ResourceRequirements,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Summary<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        init_containers: Vec<Part<'a>>,
        containers: Vec<Part<'a>>,
        generation: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    }
    let parts = |wanted: bool| {
        let all = super::spec::containers(pod).filter(move |(init, _)| *init == wanted);
        let part = |c: &'_ Container| c.resources.clone().unwrap_or_default();
        all.map(|(_, c)| Part { name: &c.name, resources: part(c) }).collect()
    };
    let summary = Summary {
        init_containers: parts(true),
        containers: parts(false),
        generation: pod.metadata.generation.unwrap_or_default(),
        error,
    };
    serde_json::to_string(&summary).unwrap_or_default()
}

#[cfg(test)]
mod tests;
