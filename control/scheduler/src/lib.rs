//! The scheduler: which node each Pod runs on. Pure and incremental, like the controllers.
//!
//! **The loop around it** (the server's, or the simulator's):
//! 1. Call [`Scheduler::observe`] with every change of Pods and Nodes, in revision order; first with one creation
//!    for each object there is, at the revision of the whole. Other kinds are ignored.
//! 2. Call [`Scheduler::schedule`] whenever something was observed or [`Scheduler::wake_at`] has come.
//! 3. For a [`Outcome::Bind`], write the binding with the Pod's UID as precondition; what comes back by `observe` confirms it.
//!    If the write fails, call [`Scheduler::forget`]: the node's room is free again and the Pod is tried later.
//!    Every `Bind` must end in one of the two, for until then the room counts as taken.
//!    [`Decision::volumes`] are given to their claims before that; if one cannot be, the binding failed.
//! 4. For an [`Outcome::Unschedulable`], set the Pod's condition `PodScheduled` to `False` with reason `Unschedulable` and
//!    that message, and its `nominatedNodeName`; record a warning `FailedScheduling`. It is told once for each different
//!    message. Delete its victims, if there are any, gracefully; if that fails call [`Scheduler::forget`] for the Pod.
//!
//! Inside, in the order of a decision: the [`queue`] gives the next Pod; its [`pod::Shape`] is all that matters about it, and
//! Pods of one shape share the work; [`filters`] say which nodes may run it, [`scores`] which is best;
//! [`candidates`] keeps the nodes of a shape in order, so that the next Pod of it costs little. Shapes whose place depends on
//! other Pods (spreading, affinity) are placed by [`coupled`], with the sums that [`counts`] keeps. Where nothing fits,
//! [`preemption`] looks for Pods of lower priority that could go.
//! The next step of the apply trace is the agent of that node, which sees its Pod.

mod queue;

mod pod;

mod filters;
mod scores;

mod candidates;
mod counts;
mod coupled;
mod relations;

mod budgets;
mod preemption;

mod claims;

mod node;
mod resources;
mod shapes;
mod topology;

use std::collections::HashMap;
use std::sync::Arc;

use coracle_api::{Change, Object, kinds};
use jiff::Timestamp;

use budgets::Budgets;
use claims::Claims;
pub use claims::VolumeChoice;
use node::{Nodes, Nominee};
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
    /// Volumes that were chosen with its node, for claims that waited for that.
    pub volumes: Vec<VolumeChoice>,
}

/// Where a Pod goes, or why nowhere.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Bind it to the node of that name.
    Bind(String),
    /// No node fits.
    Unschedulable(Unschedulable),
}

/// What to tell a Pod for which there is no room.
#[derive(Debug, Clone)]
pub struct Unschedulable {
    /// Upstream's words for why.
    pub message: String,
    /// The node on which room is being made for it: its `status.nominatedNodeName` from now on.
    pub nominated: Option<String>,
    /// Pods of lower priority that have to go for that.
    pub victims: Vec<Arc<Object>>,
}

/// What is known of nodes and Pods, and which Pods wait.
#[derive(Debug, Default)]
pub struct Scheduler {
    nodes: Nodes,
    shapes: Shapes,
    pods: HashMap<Arc<str>, Tracked>,
    queue: Queue,
    budgets: Budgets,
    claims: Claims,
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
    /// On a node, and being deleted or about to be.
    going: bool,
    /// What it asks for is not all that counts.
    resizing: bool,
    /// The node on which room is being made for it.
    nominated: Option<usize>,
    /// Why it was not schedulable when last told, and which node it was to have.
    told: Option<(String, Option<usize>)>,
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

    /// Takes note of a change of a Pod, a Node, a Namespace, a PodDisruptionBudget, or of what volumes are made of. One that
    /// is older than what was already observed is ignored.
    pub fn observe(&mut self, change: &Change) {
        if change.revision < self.revision {
            return;
        }
        self.revision = change.revision;
        let Some(object) = change.object() else { return };
        let resource = object.kind.resource;
        if resource == kinds::NODE.resource {
            let at = match &change.new {
                Some(node) => self.nodes.put(node),
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
        } else if resource == kinds::NAMESPACE.resource {
            if self.shapes.namespace(object, change.new.is_none()) {
                self.nodes.changed();
                self.queue.unpark(|_| true).into_iter().for_each(|uid| self.try_again(uid));
            }
        } else if resource == kinds::POD_DISRUPTION_BUDGET.resource {
            match &change.new {
                Some(budget) => self.budgets.put(budget),
                None => self.budgets.remove(object),
            }
        } else {
            let concerned = self.claims.observe(object, change.new.is_none());
            self.review(concerned);
        }
    }

    /// What these Pods need of nodes may have changed with their claims.
    fn review(&mut self, uids: Vec<Arc<str>>) {
        for uid in uids {
            let Some(tracked) = self.pods.get(&uid) else { continue };
            let waits = matches!(tracked.state, State::Queued(_) | State::Parked);
            if !waits || *self.shapes.get(tracked.shape).needs() == self.claims.needs(&uid) {
                continue;
            }
            let (object, attempts) = (tracked.object.clone(), tracked.attempts);
            let (tried, told) = (tracked.tried, tracked.told.clone());
            self.drop_pod(&uid);
            self.observe_pod(&object);
            if let Some(tracked) = self.pods.get_mut(&uid) {
                (tracked.attempts, tracked.tried, tracked.told) = (attempts, tried, told);
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
            let (shape, object) = (tracked.shape, tracked.object.clone());
            let mut volumes = Vec::new();
            let outcome = match self.choose(&uid, shape) {
                Some(at) => {
                    let needs = self.shapes.get(shape).needs();
                    volumes = needs.choose(self.nodes.get(at)).unwrap_or_default();
                    let name = self.assume(&uid, shape, at);
                    self.claims.move_in(&uid);
                    let others = self.claims.reserve(&uid, &volumes);
                    self.review(others);
                    Some(Outcome::Bind(name))
                }
                None => self.wait(uid, shape).map(Outcome::Unschedulable),
            };
            decisions.extend(outcome.map(|outcome| Decision { pod: object, outcome, volumes }));
        }
        decisions
    }

    /// The node for a Pod: the one on which room was made for it, if it is enough, or the best.
    fn choose(&mut self, uid: &str, shape: ShapeId) -> Option<usize> {
        let nominated = self.pods.get(uid).and_then(|pod| pod.nominated);
        let Some(nominated) = nominated else {
            let known = self.shapes.is_known_to_fit_nowhere(shape, &self.nodes);
            return if known { None } else { self.shapes.choose(shape, &mut self.nodes) };
        };
        // What is kept for it is not in its own way.
        self.nodes.withdraw(nominated, uid);
        let fits = self.nodes.get(nominated).is_present()
            && self.shapes.reasons(shape, nominated, &mut self.nodes).is_empty();
        if fits { Some(nominated) } else { self.shapes.choose(shape, &mut self.nodes) }
    }

    /// Takes a Pod for bound; gives the node's name.
    fn assume(&mut self, uid: &Arc<str>, shape: ShapeId, at: usize) -> String {
        let stirs = self.shapes.settle(shape, at, &mut self.nodes);
        self.nodes.list(at, uid);
        let nominated = self.pods.get_mut(uid).and_then(|tracked| {
            tracked.state = State::Assumed(at);
            tracked.nominated.take()
        });
        if let Some(other) = nominated.filter(|nominated| *nominated != at) {
            self.improved(other);
        }
        if stirs {
            self.stirred(shape);
        }
        self.nodes.get(at).name.to_string()
    }

    /// Parks a Pod that fits nowhere, and makes room for it if that can be; what to tell, if it is new.
    fn wait(&mut self, uid: Arc<str>, id: ShapeId) -> Option<Unschedulable> {
        let explanation = self.shapes.explain(id, &mut self.nodes);
        let found = match explanation.total {
            0 => None,
            _ => Some(self.find_victims(&uid, id)),
        };
        self.queue.park(id, uid.clone());
        let tracked = self.pods.get_mut(&uid)?;
        tracked.state = State::Parked;
        tracked.attempts += 1;
        let before = tracked.nominated;
        let mut message = explanation.why.clone();
        let mut victims = Vec::new();
        let nominated = match found {
            Some(Ok(found)) => {
                victims = found.pods;
                Some(found.at)
            }
            Some(Err(why)) => {
                message = format!("{message} preemption: {why}");
                // Those who go for it are still on their way.
                before.filter(|_| why.contains("terminating pod"))
            }
            None => None,
        };
        tracked.nominated = nominated;
        let told = (message.clone(), nominated);
        let is_news = tracked.told.as_ref() != Some(&told) || !victims.is_empty();
        tracked.told = Some(told);
        if let Some(at) = nominated {
            self.nominate(uid, id, at);
        }
        if let Some(other) = before.filter(|before| nominated != Some(*before)) {
            self.improved(other);
        }
        for victim in &victims {
            self.set_going(&victim.uid);
        }
        let victims = victims.into_iter().map(|victim| victim.object).collect();
        let nominated = nominated.map(|at| self.nodes.get(at).name.to_string());
        is_news.then_some(Unschedulable { message, nominated, victims })
    }

    /// Keeps room on a node for a Pod; those of lower priority that it was kept for look elsewhere.
    fn nominate(&mut self, uid: Arc<str>, id: ShapeId, at: usize) {
        let shape = self.shapes.get(id).clone();
        let nominees = self.nodes.get(at).nominees.iter();
        let lower = nominees.filter(|nominee| nominee.shape.priority < shape.priority);
        let lower: Vec<_> = lower.map(|nominee| nominee.uid.clone()).collect();
        self.nodes.nominate(at, Nominee { uid, shape });
        for uid in lower {
            self.nodes.withdraw(at, &uid);
            if let Some(tracked) = self.pods.get_mut(&uid) {
                tracked.nominated = None;
            }
            self.try_again(uid);
        }
    }

    /// A Pod on a node is on its way out.
    fn set_going(&mut self, uid: &str) {
        let Some(tracked) = self.pods.get_mut(uid) else { return };
        if let (State::Assumed(at) | State::Bound(at), false) = (tracked.state, tracked.going) {
            tracked.going = true;
            let shape = tracked.shape;
            self.shapes.set_going(shape, at, true, &mut self.nodes);
            self.stirred(shape);
        }
    }

    /// When to call [`Self::schedule`] next even if nothing is observed: a time already past if Pods wait, `None` if
    /// nothing would happen.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.queue.wake_at()
    }

    /// Takes back a decision that could not be written: a binding, or that others go. The Pod is tried again with back-off,
    /// if it still waits.
    pub fn forget(&mut self, pod: &Object) {
        let Some((uid, tracked)) = self.pods.get_key_value(pod.meta.uid.as_str()) else { return };
        let (uid, shape) = (uid.clone(), tracked.shape);
        match (tracked.state, tracked.nominated) {
            (State::Assumed(at), _) => {
                let going = tracked.going;
                let stirs = self.shapes.take_off(shape, at, going, &mut self.nodes);
                self.nodes.unlist(at, &uid);
                self.requeue(&uid, true);
                let mut concerned = self.claims.move_out(&uid);
                concerned.push(uid.clone());
                self.review(concerned);
                self.improved(at);
                if stirs {
                    self.stirred(shape);
                }
            }
            (State::Parked, Some(at)) => {
                self.nodes.withdraw(at, &uid);
                let uids = self.nodes.get(at).uids.clone();
                for other in uids {
                    let Some(other) = self.pods.get_mut(&other) else { continue };
                    if other.going && !other.object.is_deleting() {
                        other.going = false;
                        self.shapes.set_going(other.shape, at, false, &mut self.nodes);
                    }
                }
                if let Some(tracked) = self.pods.get_mut(&uid) {
                    tracked.nominated = None;
                    tracked.told = None;
                }
                self.requeue(&uid, true);
                self.improved(at);
            }
            (State::Parked, None) => {
                if let Some(tracked) = self.pods.get_mut(&uid) {
                    tracked.told = None;
                }
            }
            _ => {}
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
            // Ended Pods give their room back; what runs is checked for that, and for what it has while it is resized.
            let runs = matches!(tracked.state, State::Assumed(_) | State::Bound(_));
            let (ended, resizing) = if runs { pod::has_ended(pod) } else { (false, false) };
            let same = tracked.object.meta.generation == pod.meta.generation
                && !(resizing || tracked.resizing)
                && tracked.object.meta.labels == pod.meta.labels;
            let still = match (tracked.state, pod.node_name.as_deref()) {
                (State::Assumed(at) | State::Bound(at), Some(node)) => {
                    *self.nodes.get(at).name == *node && !ended
                }
                (State::Bound(_), None) | (_, Some(_)) => false,
                (_, None) => !pod.is_deleting(),
            };
            if still && (same || matches!(tracked.state, State::Assumed(_))) {
                tracked.object = pod.clone();
                if let (State::Assumed(at), Some(_)) = (tracked.state, &pod.node_name) {
                    tracked.state = State::Bound(at);
                    self.claims.bound(uid);
                }
                if pod.is_deleting() {
                    self.set_going(uid);
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
        let uid: Arc<str> = uid.into();
        let claims = claims::of(pod);
        let mut needs = claims::Needs::default();
        if waits && !claims.is_empty() {
            self.claims.wait(&uid, claims);
            needs = self.claims.needs(&uid);
        } else if !claims.is_empty() {
            self.claims.settle(&uid, &claims);
        }
        let nominated = view.nominated_node().filter(|_| waits);
        let nominated = nominated.map(|node| self.nodes.slot(node));
        let resizing = view.is_resizing();
        let shape = self.shapes.intern(view.into_shape(pod, needs));
        let mut stirs = false;
        let state = match &pod.node_name {
            Some(node) => {
                let at = self.nodes.slot(node);
                stirs = self.shapes.put_on(shape, at, &mut self.nodes);
                self.nodes.list(at, &uid);
                State::Bound(at)
            }
            None => State::Queued(self.queue.push(pod, self.shapes.get(shape), Timestamp::MIN)),
        };
        if let Some(at) = nominated {
            let nominee = Nominee { uid: uid.clone(), shape: self.shapes.get(shape).clone() };
            self.nodes.nominate(at, nominee);
        }
        let tracked = Tracked {
            object: pod.clone(),
            shape,
            state,
            attempts: 0,
            tried: Timestamp::MIN,
            going: false,
            resizing,
            nominated,
            told: None,
        };
        self.pods.insert(uid.clone(), tracked);
        if pod.is_deleting() {
            self.set_going(&uid);
        }
        if stirs {
            self.stirred(shape);
        }
    }

    fn drop_pod(&mut self, uid: &str) {
        let Some(tracked) = self.pods.remove(uid) else { return };
        if let State::Assumed(at) | State::Bound(at) = tracked.state {
            let stirs = self.shapes.take_off(tracked.shape, at, tracked.going, &mut self.nodes);
            self.nodes.unlist(at, uid);
            self.improved(at);
            if stirs {
                self.stirred(tracked.shape);
            }
        }
        if let Some(at) = tracked.nominated {
            self.nodes.withdraw(at, uid);
            self.improved(at);
        }
        if self.shapes.release(tracked.shape) {
            self.queue.forget(tracked.shape);
        }
        let concerned = self.claims.leave(uid, &claims::of(&tracked.object));
        self.review(concerned);
    }

    /// A node may fit more than before: Pods that wait for it are tried again.
    fn improved(&mut self, at: usize) {
        self.nodes.touch(at);
        let node = self.nodes.get(at);
        if !node.is_present() {
            return;
        }
        let nominees: Vec<_> = node.nominees.iter().map(|nominee| nominee.uid.clone()).collect();
        nominees.into_iter().for_each(|uid| self.try_again(uid));
        let (shapes, node) = (&self.shapes, self.nodes.get(at));
        for uid in self.queue.unpark(|shape| shapes.fits(shape, node)) {
            self.try_again(uid);
        }
    }

    /// A Pod of a shape has come, or goes, somewhere: Pods whose place depends on that are tried again.
    fn stirred(&mut self, moved: ShapeId) {
        let shapes = &self.shapes;
        for uid in self.queue.unpark(|shape| shapes.concerns(moved, shape)) {
            self.try_again(uid);
        }
    }

    /// Queues a Pod that is parked.
    fn try_again(&mut self, uid: Arc<str>) {
        if self.pods.get(&uid).is_some_and(|pod| pod.state == State::Parked) {
            self.requeue(&uid, false);
        }
    }

    fn requeue(&mut self, uid: &str, failed: bool) {
        let Some(tracked) = self.pods.get_mut(uid) else { return };
        tracked.attempts += u32::from(failed);
        let not_before = queue::back_off(tracked.tried, tracked.attempts);
        let shape = self.shapes.get(tracked.shape);
        tracked.state = State::Queued(self.queue.push(&tracked.object, shape, not_before));
    }
}

#[cfg(test)]
mod tests;
