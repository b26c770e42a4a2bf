//! The control plane's process: what the server's driver does with controllers and scheduler, with every delay made large.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use coracle_api::plan::{Controller, Key, Memory, Propagation};
use coracle_api::{Change, Cluster, Object, Write, kinds};
use coracle_controllers::NodeLifecycle;
use coracle_scheduler::{Decision, Outcome, Scheduler};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::rng::Rng;
use crate::store::{Refusal, Store, tree};

/// How long a node may be silent: chance lets a node that is well do nothing for seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// How many plans may be half done at a time.
const IN_FLIGHT: usize = 4;

/// Everything that is lost when it dies.
pub struct Process {
    controllers: Vec<Box<dyn Controller>>,
    views: Vec<View>,
    scheduler: Scheduler,
    observed: usize,
    plans: Vec<Flight>,
    decisions: VecDeque<Decision>,
    /// Sometimes a key does not wait for its own last write to be seen, which no driver would do: preconditions alone
    /// must then keep things right in the end, though not the limits of rollouts on the way.
    pub hasty: bool,
    /// Keys that did not wait so.
    pub hasted: BTreeSet<Key>,
    /// Writes done so far.
    pub writes: u64,
    /// Writes refused so far.
    pub conflicts: u64,
}

/// What one controller sees, and what it has to do.
#[derive(Debug)]
struct View {
    cluster: Cluster,
    /// How much of the log it has seen.
    seen: usize,
    keys: BTreeSet<Key>,
    /// A key does not run before its view has reached its last write.
    floors: BTreeMap<Key, u64>,
    timers: Vec<(Timestamp, Key)>,
    memories: BTreeMap<Key, Memory>,
}

/// A plan being performed.
#[derive(Debug)]
struct Flight {
    controller: usize,
    key: Key,
    writes: VecDeque<Write>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Process {
    /// Starts on what the store holds: everything is new to it, and everything wakes.
    pub fn start(store: &Store, hasty: bool) -> Self {
        let patience = NodeLifecycle { grace: PATIENCE, ..NodeLifecycle::default() };
        let controllers = coracle_controllers::with(patience);
        let objects: Vec<_> =
            kinds::ALL.iter().flat_map(|kind| store.cluster.list(kind).cloned()).collect();
        let mut views = Vec::new();
        for controller in &controllers {
            let mut cluster = Cluster::new(store.now);
            for object in &objects {
                cluster.put(object.clone());
            }
            let keys =
                objects.iter().flat_map(|object| controller.wakes(&cluster, object)).collect();
            views.push(View {
                cluster,
                seen: store.log.len(),
                keys,
                floors: BTreeMap::new(),
                timers: Vec::new(),
                memories: BTreeMap::new(),
            });
        }
        let mut scheduler = Scheduler::new();
        for object in &objects {
            let revision = store.cluster.revision();
            scheduler.observe(&Change { revision, old: None, new: Some(object.clone()) });
        }
        Self {
            controllers,
            views,
            scheduler,
            observed: store.log.len(),
            plans: Vec::new(),
            decisions: VecDeque::new(),
            hasty,
            hasted: BTreeSet::new(),
            writes: 0,
            conflicts: 0,
        }
    }

    /// Does one of the things it could do; whether there was any. When `rough`, wakes may be lost.
    ///
    /// # Errors
    /// A write that no server would accept.
    pub fn step(&mut self, store: &mut Store, rng: &mut Rng, rough: bool) -> Result<bool, String> {
        // Begin anywhere, take the first that can be done: so it says `false` only if nothing can.
        let n = self.views.len();
        let begin = rng.below(2 * n + 4);
        for i in 0..2 * n + 4 {
            let choice = (begin + i) % (2 * n + 4);
            let done = if choice < n {
                self.look(choice, store, rng, rough)
            } else if choice < 2 * n {
                self.plan(choice - n, store, rng, rough)
            } else if choice < 2 * n + 2 {
                self.perform(store, rng)?
            } else if choice == 2 * n + 2 {
                self.schedule(store, rng)
            } else {
                self.bind(store)?
            };
            if done {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next time at which something is to be done.
    pub fn due(&self) -> Option<Timestamp> {
        let timers = self.views.iter().flat_map(|view| view.timers.iter().map(|(at, _)| *at));
        timers.chain(self.scheduler.wake_at()).min()
    }

    /// A view moves on by a few changes.
    fn look(&mut self, i: usize, store: &Store, rng: &mut Rng, rough: bool) -> bool {
        let (controller, view) = (&self.controllers[i], &mut self.views[i]);
        let news = &store.log[view.seen..];
        if news.is_empty() {
            return false;
        }
        let some = if rng.one_in(3) { news.len() } else { 1 + rng.below(news.len()) };
        for change in &news[..some] {
            apply(&mut view.cluster, change);
            for object in [&change.old, &change.new].into_iter().flatten() {
                let keys = controller.wakes(&view.cluster, object);
                if !(rough && rng.one_in(50)) {
                    view.keys.extend(keys);
                }
            }
        }
        view.seen += some;
        true
    }

    /// A controller plans for one of its keys.
    fn plan(&mut self, i: usize, store: &Store, rng: &mut Rng, rough: bool) -> bool {
        let view = &mut self.views[i];
        let now = store.now;
        for (_, key) in view.timers.extract_if(.., |(at, _)| *at <= now) {
            view.keys.insert(key);
        }
        if self.plans.len() >= IN_FLIGHT {
            return false;
        }
        let revision = view.cluster.revision();
        let hasty = rough && self.hasty && rng.one_in(10);
        let ready: Vec<&Key> = view
            .keys
            .iter()
            .filter(|key| hasty || view.floors.get(*key).is_none_or(|floor| *floor <= revision))
            .filter(|key| !self.plans.iter().any(|p| p.controller == i && p.key == **key))
            .collect();
        let Some(key) = rng.pick(&ready).map(|key| (*key).clone()) else { return false };
        view.keys.remove(&key);
        if view.floors.get(&key).is_some_and(|floor| *floor > revision) {
            self.hasted.insert(key.clone());
        }
        view.cluster.now = now;
        let memory = view.memories.remove(&key);
        let plan = self.controllers[i].reconcile_with(&view.cluster, &key, memory.as_ref());
        if let Some(memory) = plan.memory.clone() {
            view.memories.insert(key.clone(), memory);
        }
        if let Some(after) = plan.requeue_after {
            let after = SignedDuration::try_from(after).unwrap_or_default();
            view.timers.push((now + after.max(SignedDuration::from_millis(1)), key.clone()));
        }
        if rough && rng.one_in(10) {
            view.keys.insert(key.clone());
        }
        if !plan.writes.is_empty() {
            self.plans.push(Flight { controller: i, key, writes: plan.writes.into() });
        }
        true
    }

    /// One write of one plan is done.
    fn perform(&mut self, store: &mut Store, rng: &mut Rng) -> Result<bool, String> {
        if self.plans.is_empty() {
            return Ok(false);
        }
        let at = rng.below(self.plans.len());
        let flight = &mut self.plans[at];
        let view = &mut self.views[flight.controller];
        if let Some(write) = flight.writes.pop_front() {
            match store.perform(&write) {
                Ok(revision) => {
                    self.writes += 1;
                    view.floors.insert(flight.key.clone(), revision);
                }
                Err(Refusal::Invalid(why)) => return Err(format!("{write:?} is refused: {why}")),
                Err(refusal) => {
                    self.conflicts += 1;
                    flight.writes.clear();
                    // On what made it fail, or with back-off.
                    let after = SignedDuration::from_millis(match refusal {
                        Refusal::Conflict => 5,
                        _ => 1000,
                    });
                    view.timers.push((store.now + after, flight.key.clone()));
                }
            }
        }
        if flight.writes.is_empty() {
            self.plans.swap_remove(at);
        }
        Ok(true)
    }

    fn schedule(&mut self, store: &Store, rng: &mut Rng) -> bool {
        let news = &store.log[self.observed..];
        if !news.is_empty() {
            let some = 1 + rng.below(news.len());
            for change in &news[..some] {
                self.scheduler.observe(change);
            }
            self.observed += some;
            return true;
        }
        if self.scheduler.wake_at().is_none_or(|at| at > store.now) {
            return false;
        }
        let max = 1 + rng.below(8);
        self.decisions.extend(self.scheduler.schedule(store.now, max));
        true
    }

    fn bind(&mut self, store: &mut Store) -> Result<bool, String> {
        let Some(decision) = self.decisions.pop_front() else { return Ok(false) };
        let pod = &decision.pod;
        match &decision.outcome {
            Outcome::Bind(node) => match store.bind(pod, node) {
                Ok(_) => {
                    self.writes += 1;
                    room_is_kept(store, node)?;
                }
                Err(_) => {
                    self.conflicts += 1;
                    self.scheduler.forget(pod);
                }
            },
            Outcome::Unschedulable(told) => {
                let current = |store: &Store, pod: &Object| {
                    let seen = store.cluster.get(&kinds::POD, &pod.meta.namespace, &pod.meta.name);
                    seen.filter(|seen| seen.meta.uid == pod.meta.uid).cloned()
                };
                let refused = |e: Refusal| format!("{e:?}");
                if let Some(seen) = current(store, pod) {
                    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": told.message});
                    let status =
                        json!({"conditions": [condition], "nominatedNodeName": told.nominated});
                    let patch = json!({"status": status});
                    store.patch(&seen, Some("status"), &patch).map_err(refused)?;
                    self.writes += 1;
                }
                for victim in &told.victims {
                    if let Some(seen) = current(store, victim) {
                        store.delete(&seen, Propagation::Background, None).map_err(refused)?;
                        self.writes += 1;
                    }
                }
            }
        }
        Ok(true)
    }

    /// What it has to do, for people.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (controller, view) in self.controllers.iter().zip(&self.views) {
            text += &format!("{}: keys {:?}\n", controller.name(), view.keys);
        }
        text + &format!("plans {:#?}", self.plans)
    }
}

/// No node may be given more than it has.
fn room_is_kept(store: &Store, node: &str) -> Result<(), String> {
    let Some(object) = store.cluster.get(&kinds::NODE, "", node) else { return Ok(()) };
    let offered = tree(object)["status"]["allocatable"]["pods"].as_str().map(str::parse::<usize>);
    // One that has just registered anew does not say what it has.
    let Some(Ok(room)) = offered else { return Ok(()) };
    let ended = |pod: &Object| {
        matches!(tree(pod)["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
    };
    let pods = store.cluster.pods_on(node).filter(|pod| !ended(pod)).count();
    if pods > room {
        return Err(format!("{node} has room for {room} Pods and was given {pods}"));
    }
    Ok(())
}

fn apply(cluster: &mut Cluster, change: &Change) {
    match (&change.new, &change.old) {
        (Some(new), _) => {
            cluster.put(new.clone());
        }
        (None, Some(old)) => {
            cluster.remove(old.kind, &old.meta.namespace, &old.meta.name, change.revision);
        }
        (None, None) => {}
    }
}
