//! Preemption: who goes so that a Pod of higher priority finds room (`pkg/scheduler/framework/preemption` upstream).
//!
//! On each node that other Pods' going may help, all of lower priority are taken off; if the Pod fits then, as many as
//! possible are put back, the most important first, those that a budget protects before all others. Whoever does not come
//! back is a victim. Of the nodes the one whose victims matter least is taken.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::{Object, json};
use jiff::Timestamp;

use crate::shapes::{ShapeId, unavailable};
use crate::{Scheduler, State};

/// How many nodes are tried: a tenth of those that may help, but so many at least.
const CANDIDATES: usize = 100;

/// Who goes, and from where.
#[derive(Debug)]
pub(crate) struct Victims {
    pub(crate) at: usize,
    /// The most important first.
    pub(crate) pods: Vec<Victim>,
    violations: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Victim {
    pub(crate) uid: Arc<str>,
    pub(crate) object: Arc<Object>,
    shape: ShapeId,
    priority: i32,
    started: Option<Timestamp>,
    going: bool,
}

impl Victim {
    /// The greater, the more important: by priority, then by how long it has run.
    fn importance(&self) -> (i32, Reverse<Timestamp>) {
        (self.priority, Reverse(self.started.unwrap_or(Timestamp::MAX)))
    }
}

impl Victims {
    /// The less, the better to let them go.
    fn loss(&self) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
        let highest = self.pods.first().map_or(i32::MIN, |pod| pod.priority);
        // So that two of a negative priority are more than one.
        let sum = self.pods.iter().map(|pod| i64::from(pod.priority) + (1 << 31)).sum();
        let first = self.pods.iter().take_while(|pod| pod.priority == highest);
        let oldest = first.filter_map(|pod| pod.started).min().unwrap_or(Timestamp::MAX);
        (self.violations, highest, sum, self.pods.len(), Reverse(oldest))
    }
}

impl Scheduler {
    /// Whose going would let a Pod in for which there is no room.
    ///
    /// # Errors
    /// In upstream's words, why that is not to be.
    pub(crate) fn find_victims(&mut self, uid: &str, id: ShapeId) -> Result<Victims, Arc<str>> {
        let shape = self.shapes.get(id).clone();
        if !shape.may_preempt() {
            return Err("not eligible due to preemptionPolicy=Never.".into());
        }
        if let Some(at) = self.pods.get(uid).and_then(|pod| pod.nominated)
            && self.lower_on(at, shape.priority).iter().any(|pod| pod.going)
        {
            return Err("not eligible due to a terminating pod on the nominated node.".into());
        }
        if let Some(refusal) = self.shapes.refusal(id, &self.nodes) {
            return Err(refusal);
        }
        let version = self.nodes.version();
        let explanation = self.shapes.explain(id, &mut self.nodes);
        let hopeful = &explanation.hopeful;
        let mut told: BTreeMap<String, usize> = BTreeMap::new();
        let mut note = |why: String, nodes: usize| {
            if nodes > 0 {
                *told.entry(why).or_default() += nodes;
            }
        };
        note("Preemption is not helpful for scheduling".into(), explanation.total - hopeful.len());
        const NOBODY: &str = "No preemption victims found for incoming pod";
        let mut found: Vec<Victims> = Vec::new();
        if self.shapes.any_below(shape.priority) {
            let wanted = (hopeful.len() / 10).max(CANDIDATES);
            // From a place of the Pod's own, so that not all look at the same nodes.
            let place = uid
                .bytes()
                .fold(0, |sum: usize, b| sum.wrapping_mul(31).wrapping_add(usize::from(b)));
            let start = place % hopeful.len().max(1);
            for at in hopeful[start..].iter().chain(&hopeful[..start]) {
                match self.victims_on(*at, id, shape.priority) {
                    Ok(Some(victims)) => found.push(victims),
                    Ok(None) => note(NOBODY.into(), 1),
                    Err(reasons) => reasons.into_iter().for_each(|why| note(why, 1)),
                }
                if found.len() >= wanted && found.iter().any(|victims| victims.violations == 0) {
                    break;
                }
            }
        } else {
            note(NOBODY.into(), hopeful.len());
        }
        // All is as it was.
        self.nodes.is_as_at(version);
        found.into_iter().min_by_key(Victims::loss).ok_or_else(|| {
            let refusal: Arc<str> = unavailable(explanation.total, &told).into();
            self.shapes.refuse(id, &self.nodes, &refusal);
            refusal
        })
    }

    /// Pods on a node with less than a priority.
    fn lower_on(&self, at: usize, priority: i32) -> Vec<Victim> {
        let uids = self.nodes.get(at).uids.iter();
        let lower = uids.filter_map(|uid| {
            let tracked = self.pods.get(uid)?;
            let shape = self.shapes.get(tracked.shape);
            // One that is not bound yet cannot be asked to go.
            let bound = matches!(tracked.state, State::Bound(_));
            (bound && shape.priority < priority).then(|| Victim {
                uid: uid.clone(),
                object: tracked.object.clone(),
                shape: tracked.shape,
                priority: shape.priority,
                started: json::peek(tracked.object.json(), "status.startTime").parse().ok(),
                going: tracked.going,
            })
        });
        lower.collect()
    }

    /// Who would have to leave a node; nobody if there is none to leave.
    ///
    /// # Errors
    /// What stands against the Pod even then.
    fn victims_on(
        &mut self,
        at: usize,
        id: ShapeId,
        priority: i32,
    ) -> Result<Option<Victims>, Vec<String>> {
        let mut lower = self.lower_on(at, priority);
        if lower.is_empty() {
            return Ok(None);
        }
        lower.sort_by_key(|pod| Reverse(pod.importance()));
        let violations = self.budgets.violations(lower.iter().map(|pod| &*pod.object));
        for pod in &lower {
            self.shapes.take_off(pod.shape, at, pod.going, &mut self.nodes);
        }
        let against = self.shapes.reasons(id, at, &mut self.nodes);
        if !against.is_empty() {
            let against = against.iter().map(ToString::to_string).collect();
            lower.iter().for_each(|pod| self.put_back(pod, at));
            return Err(against);
        }
        let mut victims = Victims { at, pods: Vec::new(), violations: 0 };
        for violating in [true, false] {
            for (pod, _) in lower.iter().zip(&violations).filter(|(_, v)| **v == violating) {
                self.put_back(pod, at);
                if !self.shapes.reasons(id, at, &mut self.nodes).is_empty() {
                    self.shapes.take_off(pod.shape, at, pod.going, &mut self.nodes);
                    victims.pods.push(pod.clone());
                    victims.violations += usize::from(violating);
                }
            }
        }
        victims.pods.iter().for_each(|pod| self.put_back(pod, at));
        victims.pods.sort_by_key(|pod| Reverse(pod.importance()));
        Ok(Some(victims))
    }

    fn put_back(&mut self, pod: &Victim, at: usize) {
        self.shapes.put_on(pod.shape, at, &mut self.nodes);
        if pod.going {
            self.shapes.set_going(pod.shape, at, true, &mut self.nodes);
        }
    }
}
