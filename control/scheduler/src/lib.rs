//! The scheduler: which node each Pod runs on. Pure and incremental, like the controllers.
//!
//! **The loop around it** (the server's, or the simulator's):
//! 1. Call [`Scheduler::observe`] with every change of Pods and Nodes, in revision order; first with one creation
//!    for each object there is, at the revision of the whole. Other kinds are ignored.
//! 2. Call [`Scheduler::schedule`] whenever something was observed or [`Scheduler::wake_at`] has come.
//! 3. For a [`Outcome::Bind`], write the binding with the Pod's UID as precondition; what comes back by `observe` confirms it.
//!    If the write fails, call [`Scheduler::forget`]: the node's room is free again and the Pod is tried later.
//!    Every `Bind` must end in one of the two, for until then the room counts as taken.
//! 4. For an [`Outcome::Unschedulable`], set the Pod's condition `PodScheduled` to `False` with reason `Unschedulable` and
//!    that message, and record a warning `FailedScheduling`. It is told once for each different message.
//!
//! Inside, in the order of a decision: the [`queue`] gives the next Pod; its [`pod::Shape`] is all that matters about it, and
//! Pods of one shape share the work; [`filters`] say which nodes may run it, [`scores`] which is best;
//! [`candidates`] keeps the nodes of a shape in order, so that the next Pod of it costs little.
//! The next step of the apply trace is the agent of that node, which sees its Pod.

mod queue;

mod pod;

mod filters;
mod scores;

mod candidates;
mod node;
mod resources;
mod shapes;

use std::collections::HashMap;
use std::sync::Arc;

use coracle_api::{Change, Object, kinds};
use jiff::Timestamp;

use node::Nodes;
use pod::PodView;
use queue::Queue;
use shapes::{ShapeId, Shapes};

/// The name in `spec.schedulerName` of Pods that this scheduler is for.
pub const NAME: &str = "default-scheduler";

/// What was decided about a Pod.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The Pod as last observed.
    pub pod: Arc<Object>,
    /// What to do with it.
    pub outcome: Outcome,
}

/// Where a Pod goes, or why nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Bind it to the node of that name.
    Bind(String),
    /// No node fits; upstream's words for why.
    Unschedulable(String),
}

/// What is known of nodes and Pods, and which Pods wait.
#[derive(Debug, Default)]
pub struct Scheduler {
    nodes: Nodes,
    shapes: Shapes,
    pods: HashMap<Arc<str>, Tracked>,
    queue: Queue,
    /// Of the newest change observed.
    revision: u64,
}

/// A Pod that waits or takes room on a node.
#[derive(Debug)]
struct Tracked {
    object: Arc<Object>,
    shape: ShapeId,
    state: State,
    /// How often no node was found, or a binding failed.
    attempts: u32,
    /// When it was last tried.
    tried: Timestamp,
    /// Why it was not schedulable when last told.
    told: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the queue, under this ticket.
    Queued(u64),
    /// No node fits; waits for one that does.
    Parked,
    /// Decided, not yet seen bound.
    Assumed(usize),
    /// Bound.
    Bound(usize),
}

impl Scheduler {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of a change of a Pod or a Node. One that is older than what was already observed is ignored.
    pub fn observe(&mut self, change: &Change) {
        if change.revision < self.revision {
            return;
        }
        self.revision = change.revision;
        let Some(object) = change.object() else { return };
        if object.kind.resource == kinds::NODE.resource {
            let at = match &change.new {
                Some(node) => Some(self.nodes.put(node)),
                None => self.nodes.remove(&object.meta.name),
            };
            if let Some(at) = at {
                self.improved(at);
            }
        } else if object.kind.is_pod() {
            if let Some(old) = &change.old
                && change.new.as_ref().is_none_or(|new| new.meta.uid != old.meta.uid)
            {
                self.drop_pod(&old.meta.uid);
            }
            if let Some(pod) = &change.new {
                self.observe_pod(pod);
            }
        }
    }

    /// Decides about up to `max` waiting Pods, by priority, then age. Decisions of one call see each other.
    pub fn schedule(&mut self, now: Timestamp, max: usize) -> Vec<Decision> {
        let mut decisions = Vec::new();
        for _ in 0..max {
            let Some((uid, ticket)) = self.queue.pop(now) else { break };
            let Some(tracked) = self.pods.get_mut(&uid) else { continue };
            if tracked.state != State::Queued(ticket) {
                continue;
            }
            tracked.tried = now;
            let shape = tracked.shape;
            match self.shapes.place(shape, &mut self.nodes) {
                Some(at) => {
                    tracked.state = State::Assumed(at);
                    let outcome = Outcome::Bind(self.nodes.get(at).name.to_string());
                    decisions.push(Decision { pod: tracked.object.clone(), outcome });
                }
                None => {
                    tracked.state = State::Parked;
                    tracked.attempts += 1;
                    self.queue.park(shape, uid);
                    let message = self.shapes.explain(shape, &self.nodes);
                    if tracked.told.as_ref() != Some(&message) {
                        tracked.told = Some(message.clone());
                        let outcome = Outcome::Unschedulable(message.to_string());
                        decisions.push(Decision { pod: tracked.object.clone(), outcome });
                    }
                }
            }
        }
        decisions
    }

    /// When to call [`Self::schedule`] next even if nothing is observed: a time already past if Pods wait, `None` if
    /// nothing would happen.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.queue.wake_at()
    }

    /// Takes back a decision to bind that could not be written. The Pod is tried again with back-off, if it still waits.
    pub fn forget(&mut self, pod: &Object) {
        let Some(tracked) = self.pods.get_mut(pod.meta.uid.as_str()) else { return };
        if let State::Assumed(at) = tracked.state {
            self.nodes.release(at, self.shapes.get(tracked.shape));
            tracked.attempts += 1;
            let not_before = queue::back_off(tracked.tried, tracked.attempts);
            let ticket =
                self.queue.push(&tracked.object, self.shapes.get(tracked.shape), not_before);
            tracked.state = State::Queued(ticket);
            self.improved(at);
        }
    }

    /// How many Pods wait: (to be tried, for a node that fits).
    pub fn waiting(&self) -> (usize, usize) {
        let count =
            |state: fn(&State) -> bool| self.pods.values().filter(|p| state(&p.state)).count();
        (count(|s| matches!(s, State::Queued(_))), count(|s| *s == State::Parked))
    }

    fn observe_pod(&mut self, pod: &Arc<Object>) {
        let uid = pod.meta.uid.as_str();
        if let Some(tracked) = self.pods.get_mut(uid) {
            let same = tracked.object.meta.generation == pod.meta.generation
                && tracked.object.meta.labels == pod.meta.labels;
            let still = match (tracked.state, pod.node_name.as_deref()) {
                (State::Assumed(at) | State::Bound(at), Some(node)) => {
                    // Ended Pods give their room back; what runs is checked for that alone.
                    *self.nodes.get(at).name == *node && !pod::has_ended(pod)
                }
                (State::Bound(_), None) | (_, Some(_)) => false,
                (_, None) => !pod.is_deleting(),
            };
            if still && (same || matches!(tracked.state, State::Assumed(_))) {
                tracked.object = pod.clone();
                if let (State::Assumed(at), Some(_)) = (tracked.state, &pod.node_name) {
                    tracked.state = State::Bound(at);
                }
                return;
            }
            self.drop_pod(&pod.meta.uid.clone());
        }
        let Some(view) = PodView::read(pod) else { return };
        if view.has_ended() {
            return;
        }
        let waits = pod.node_name.is_none();
        if waits && (pod.is_deleting() || view.is_gated() || !view.is_ours()) {
            return;
        }
        let shape = self.shapes.intern(view.into_shape(pod));
        let state = match &pod.node_name {
            Some(node) => {
                let at = self.nodes.slot(node);
                self.nodes.occupy(at, self.shapes.get(shape));
                State::Bound(at)
            }
            None => State::Queued(self.queue.push(pod, self.shapes.get(shape), Timestamp::MIN)),
        };
        let tracked = Tracked {
            object: pod.clone(),
            shape,
            state,
            attempts: 0,
            tried: Timestamp::MIN,
            told: None,
        };
        self.pods.insert(uid.into(), tracked);
    }

    fn drop_pod(&mut self, uid: &str) {
        let Some(tracked) = self.pods.remove(uid) else { return };
        if let State::Assumed(at) | State::Bound(at) = tracked.state {
            self.nodes.release(at, self.shapes.get(tracked.shape));
            self.improved(at);
        }
        if self.shapes.release(tracked.shape) {
            self.queue.forget(tracked.shape);
        }
    }

    /// A node may fit more than before: Pods that wait for it are tried again.
    fn improved(&mut self, at: usize) {
        self.nodes.touch(at);
        let node = self.nodes.get(at);
        if !node.is_present() {
            return;
        }
        let shapes = &self.shapes;
        for uid in self.queue.unpark(|shape| shapes.fits(shape, node)) {
            let Some(tracked) = self.pods.get_mut(&uid) else { continue };
            if tracked.state == State::Parked {
                let not_before = queue::back_off(tracked.tried, tracked.attempts);
                let shape = self.shapes.get(tracked.shape);
                let ticket = self.queue.push(&tracked.object, shape, not_before);
                tracked.state = State::Queued(ticket);
            }
        }
    }
}

#[cfg(test)]
mod tests;
