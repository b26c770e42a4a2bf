//! Gives Pods what they ask for while they run ([`crate::pod::resize`]), and puts it in force: limits first of the whole Pod
//! where they grow, then of its containers, then of the whole where they shrink, since neither kernel nor host lets a part
//! have more than the whole. A container whose policy wants that starts again instead.
//!
//! One task sees to a Pod at a time, and looks at the state alone: whatever changed meanwhile is found by looking again.

use std::sync::Arc;
use std::time::Duration;

use coracle_api::pod::Requests;
use coracle_sandbox::Resources;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use super::{Entry, Table, Workers, said};
use crate::pod::admit::refusal;
use crate::pod::kept::Kept;
use crate::pod::lifecycle::{Event, Phase, Sandbox};
use crate::pod::resize::{self, Pending, Progress, Resize, Verdict};
use crate::pod::resources::{PodLimits, pod_limits};
use crate::pod::spec;

/// How soon those who wait for room are looked at again.
const WAIT: Duration = Duration::from_secs(1);
/// How soon what failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What a Pod asks of its node, as it was given it.
pub(super) fn asks(pod: &Pod) -> Requests {
    pod.spec.as_ref().map(coracle_api::pod::requests).unwrap_or_default()
}

/// What is to be done about a Pod's resources.
struct Plan {
    pod: Arc<Pod>,
    /// Of the whole Pod, as far as known.
    whole: Option<PodLimits>,
    /// Containers that are otherwise than they were given, and whether they have to start again.
    changed: Vec<(String, ResourceRequirements, bool)>,
}

impl Entry {
    /// Takes in what a newer version of the Pod asks for: the Pod is made to say what it was given. True where something is
    /// to be decided.
    pub(super) fn asks_for(&mut self, pod: &mut Pod) -> bool {
        let known = self.pod.peek();
        if self.resize.is_none() && known.metadata.generation == pod.metadata.generation {
            return false;
        }
        let (asked, given) = (resize::amounts(pod), resize::amounts(&known));
        if asked.are(&given) {
            // Perhaps after a wish that was taken back.
            if let Some(resize) = &mut self.resize {
                resize.asked = None;
                resize.pending = None;
            }
            self.resize.take_if(|resize| resize.is_over());
            return false;
        }
        resize::put(pod, &given);
        let begun = || {
            let whole = Some(pod_limits(&known));
            Box::new(Resize { whole, ..Resize::begun(&given) })
        };
        let resize = self.resize.get_or_insert_with(begun);
        let news = resize.asked.as_ref().is_none_or(|before| !before.are(&asked));
        resize.asked = Some(asked);
        news || known.metadata.generation != pod.metadata.generation
    }
}

impl Table {
    /// What all Pods ask of the node that have not ended, but for this one.
    fn others_ask(&self, uid: &str) -> Requests {
        let others = self
            .pods
            .iter()
            .filter(|(other, entry)| other.as_str() != uid && entry.state.outcome().is_none());
        others.fold(Requests::default(), |sum, (_, entry)| Requests {
            cpu_milli: sum.cpu_milli.saturating_add(entry.asks.cpu_milli),
            memory: sum.memory.saturating_add(entry.asks.memory),
            ..sum
        })
    }
}

impl Workers {
    /// Why the node does not take the Pod, if it does not.
    pub(super) fn refuses(&self, uid: &str, pod: &Pod) -> Option<Event> {
        let others = || self.table().others_ask(uid);
        let (reason, message) = refusal(pod, asks(pod), others, self.inner.parts.allocatable)?;
        Some(Event::SandboxRefused { reason, message })
    }

    /// Decides on what a Pod asks for.
    pub(super) fn resize(&self, uid: &str) {
        let Some((pod, verdict, news)) = self.decide(uid) else { return };
        let recorder = &self.inner.parts.recorder;
        let (word, reason, why) = match verdict {
            Verdict::Fits => {
                let message = format!("Pod resize started: {}", resize::summary(&pod, None));
                recorder.pod(&pod, None, false, "ResizeStarted", message);
                if let Some(kept) = self.kept(uid) {
                    self.inner.parts.volumes.pod_changed(uid, &kept);
                }
                self.report(uid);
                return self.see_to(uid);
            }
            Verdict::Deferred(why) => ("Deferred", "ResizeDeferred", why),
            Verdict::Infeasible(why) => ("Infeasible", "ResizeInfeasible", why),
        };
        if news {
            let summary = resize::summary(&pod, Some(&why));
            recorder.pod(&pod, None, true, reason, format!("Pod resize {word}: {summary}"));
        }
        self.report(uid);
    }

    /// What becomes of it, in the table too; the Pod as it asks to be, and whether people know already.
    fn decide(&self, uid: &str) -> Option<(Arc<Pod>, Verdict, bool)> {
        let mut table = self.table();
        let table = &mut *table;
        let others = table.others_ask(uid);
        let entry = table.pods.get_mut(uid)?;
        if entry.state.ending.is_some() || entry.state.outcome().is_some() {
            return None;
        }
        let resize = entry.resize.as_mut()?;
        let mut wanted = Pod::clone(&entry.pod.open());
        resize::put(&mut wanted, resize.asked.as_ref()?);
        let generation = wanted.metadata.generation.unwrap_or_default();
        let asked = asks(&wanted);
        let room = self.inner.parts.allocatable;
        let verdict = resize::decide(asked, entry.asks, others, room);
        let wanted = Arc::new(wanted);
        let mut pending = |infeasible: bool, message: &String| {
            let (message, since) = (message.clone(), Timestamp::now());
            let told = resize.pending.take().filter(|told| told.generation == generation);
            let since = told.as_ref().map_or(since, |told| told.since);
            resize.pending = Some(Pending { infeasible, message, generation, since });
            told.is_none_or(|told| told.infeasible != infeasible)
        };
        let news = match &verdict {
            Verdict::Fits => {
                resize.asked = None;
                resize.pending = None;
                resize.progress = Some(Progress { error: None, generation });
                entry.asks = asked;
                entry.pod = Kept::of(wanted.clone());
                true
            }
            Verdict::Deferred(message) => {
                let news = pending(false, message);
                if !table.waits_for_room {
                    table.waits_for_room = true;
                    tokio::spawn(self.clone().wait_for_room());
                }
                news
            }
            Verdict::Infeasible(message) => pending(true, message),
        };
        Some((wanted, verdict, news))
    }

    /// Looks after those who wait for room, until there are none: by priority, then who asked first.
    async fn wait_for_room(self) {
        loop {
            tokio::time::sleep(WAIT).await;
            let mut waiting: Vec<(i32, Timestamp, String)> = {
                let mut table = self.table();
                let waiting = table.pods.iter().filter_map(|(uid, entry)| {
                    let pending = entry.resize.as_ref()?.pending.as_ref()?;
                    if pending.infeasible {
                        return None;
                    }
                    let pod = entry.pod.peek();
                    let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
                    Some((priority.saturating_neg(), pending.since, uid.clone()))
                });
                let waiting: Vec<_> = waiting.collect();
                table.waits_for_room = !waiting.is_empty();
                waiting
            };
            if waiting.is_empty() {
                return;
            }
            waiting.sort();
            waiting.iter().for_each(|(_, _, uid)| self.resize(uid));
        }
    }

    /// A container runs with the resources that this version of its Pod says.
    pub(super) fn runs_with(&self, uid: &str, name: &str, pod: &Pod) {
        {
            let mut table = self.table();
            let Some(entry) = table.pods.get_mut(uid) else { return };
            let Some(resize) = &mut entry.resize else { return };
            let resources = spec::container(pod, name).and_then(|c| c.resources.clone());
            if let Some(has) = resize.in_force.get_mut(name) {
                *has = resources.unwrap_or_default();
            }
        }
        self.see_to(uid);
    }

    /// The Pod as a whole was made anew, with the limits that this version of it says.
    pub(super) fn made_anew(&self, uid: &str, pod: &Pod) {
        self.noted(uid, |resize| resize.whole = Some(pod_limits(pod)));
    }

    /// Puts in force what a Pod was given.
    pub(super) fn see_to(&self, uid: &str) {
        let (workers, uid) = (self.clone(), uid.to_owned());
        tokio::spawn(async move {
            while let Some(plan) = workers.plan(&uid) {
                let failed = workers.carry_out(&uid, &plan).await.err();
                if !workers.carried_out(&uid, &plan.pod, failed) {
                    break;
                }
            }
        });
    }

    /// What is left to be done; none where somebody is at it, or nothing is.
    fn plan(&self, uid: &str) -> Option<Plan> {
        let mut table = self.table();
        let entry = table.pods.get_mut(uid)?;
        let resize = entry.resize.as_mut()?;
        if resize.busy {
            resize.again = true;
            return None;
        }
        resize.busy = true;
        let pod = entry.pod.open();
        let runs = |name: &str| {
            let known = entry.state.containers.iter().find(|c| *c.rule.name == *name);
            known.is_some_and(|c| matches!(c.phase, Phase::Running { .. } | Phase::Hooking { .. }))
        };
        let changed = resize.in_force.iter().filter(|(name, _)| runs(name));
        let changed = changed.filter_map(|(name, has)| {
            let container = spec::container(&pod, name)?;
            let given = container.resources.clone().unwrap_or_default();
            let restarts = resize::restarts(&container, has, &given);
            (!resize::same(has, &given)).then(|| (name.to_string(), given, restarts))
        });
        let changed: Vec<_> = changed.collect();
        let there = entry.state.sandbox == Sandbox::Ready;
        // Of a sandbox that is yet to be made there is nothing to change.
        let whole = if there { resize.whole } else { Some(pod_limits(&pod)) };
        Some(Plan { pod, whole, changed })
    }

    async fn carry_out(&self, uid: &str, plan: &Plan) -> Result<(), String> {
        let hosts = &self.inner.parts.hosts;
        let wanted = pod_limits(&plan.pod);
        let whole = async |limits: PodLimits| {
            hosts.resize(uid, &of_pod(limits)).await.map_err(said)?;
            self.noted(uid, |resize| resize.whole = Some(limits));
            Ok::<_, String>(())
        };
        let mut now = plan.whole;
        // Where it is not known what it has, it is as good as too little.
        let grown = now.map_or(wanted, |now| now.at_least(wanted));
        if now != Some(grown) {
            let most = PodLimits { memory_limit: None, cpu_limit: None, ..wanted };
            whole(if now.is_none() { most } else { grown }).await?;
            now = Some(grown).filter(|_| now.is_some());
        }
        for (name, given, restarts) in &plan.changed {
            if *restarts {
                self.post(uid, Event::Resized { container: name.clone() });
                continue;
            }
            let Some(container) = spec::container(&plan.pod, name) else { continue };
            let limits = spec::limits(&container);
            let resources = Resources {
                memory_limit: limits.memory_limit,
                cpu_weight: limits.cpu_request,
                cpu_limit: limits.cpu_limit,
                ..Resources::default()
            };
            let client = hosts.of(uid, name);
            client.update_container(uid, name, &resources).await.map_err(said)?;
            self.noted(uid, |resize| {
                resize.in_force.insert(name.as_str().into(), given.clone());
            });
        }
        if now != Some(wanted) {
            whole(wanted).await?;
        }
        Ok(())
    }

    fn noted(&self, uid: &str, note: impl FnOnce(&mut Resize)) {
        if let Some(resize) = self.table().pods.get_mut(uid).and_then(|e| e.resize.as_mut()) {
            note(resize);
        }
    }

    /// What came of it is told; true where one has to look again at once.
    fn carried_out(&self, uid: &str, pod: &Pod, failed: Option<String>) -> bool {
        let (event, again) = {
            let mut table = self.table();
            let Some(entry) = table.pods.get_mut(uid) else { return false };
            let Some(resize) = &mut entry.resize else { return false };
            resize.busy = false;
            let again = std::mem::take(&mut resize.again);
            let settled = |name: &str, has: &ResourceRequirements| {
                let known = entry.state.containers.iter().find(|c| *c.rule.name == *name);
                let given = spec::container(pod, name).and_then(|c| c.resources.clone());
                // Who does not run has nothing to be in force; who starts tells when it does.
                known.is_none_or(|c| {
                    matches!(c.phase, Phase::Exited(_) | Phase::Waiting { until: Some(_), .. })
                }) || resize::same(has, &given.unwrap_or_default())
            };
            let done = failed.is_none()
                && !again
                && resize.in_force.iter().all(|(name, has)| settled(name, has));
            let event = match (&mut resize.progress, failed) {
                (Some(progress), Some(why)) => {
                    let news = progress.error.as_ref() != Some(&why);
                    progress.error = Some(why.clone());
                    news.then_some(("ResizeError", "Pod resize error", Some(why)))
                }
                (Some(_), None) if done => Some(("ResizeCompleted", "Pod resize completed", None)),
                _ => None,
            };
            if done {
                resize.progress = None;
            }
            let retry = resize.progress.as_ref().is_some_and(|p| p.error.is_some());
            if retry && !again {
                let (workers, uid) = (self.clone(), uid.to_owned());
                tokio::spawn(async move {
                    tokio::time::sleep(AGAIN).await;
                    workers.see_to(&uid);
                });
            }
            if resize.is_over() {
                entry.resize = None;
            }
            (event, again)
        };
        if let Some((reason, what, error)) = event {
            let warning = error.is_some();
            let summary = resize::summary(pod, error.as_deref());
            let recorder = &self.inner.parts.recorder;
            recorder.pod(pod, None, warning, reason, format!("{what}: {summary}"));
        }
        self.report(uid);
        again
    }
}

fn of_pod(limits: PodLimits) -> Resources {
    Resources {
        memory_limit: limits.memory_limit,
        cpu_weight: limits.cpu_request.max(1),
        cpu_limit: limits.cpu_limit,
        ..Resources::default()
    }
}
