//! The driver: runs the controllers and performs their plans, through the registry like everybody's writes.
//!
//! One task a controller, which sleeps until [`waker`] has keys for it: those that the old and the new object of every change
//! wake. It runs each key alone but several keys side by side, and runs a key again only once the cache shows what its last plan wrote. Controllers are pure, so
//! all that can fail is a write: the key then runs again, later each time. Nothing depends on seeing every change: on
//! start, after a lag and every few minutes, everything is looked at. Next step of the apply trace:
//! `coracle_controllers`, then [`crate::scheduling`].

mod failure;
mod perform;
mod queue;
mod waker;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::Object;
use coracle_api::plan::{Controller, Key, Memory};
use futures::FutureExt as _;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::recorder::Recorder;
use crate::registry::Registry;
use perform::{Outcome, perform};
use queue::Queue;
use waker::{Mailbox, Woken};

/// Keys of one controller that are worked on at a time.
const PARALLEL: usize = 16;
/// How long keys may be planned for without a pause.
const SLICE: Duration = Duration::from_millis(2);
/// Objects looked at without a pause.
const OBJECTS: usize = 512;
/// How often everything is looked at, changed or not.
const RESYNC: Duration = Duration::from_secs(300);

/// Runs controllers until the server stops.
pub(crate) async fn run(
    controllers: Vec<Box<dyn Controller>>,
    registry: Registry,
    recorder: Recorder,
    stopping: watch::Receiver<bool>,
) {
    // From here on nothing is missed: each looks at everything when it begins.
    let changes = registry.cache.changes();
    let mut tasks = JoinSet::new();
    let mut mailboxes = Vec::new();
    for controller in controllers {
        let controller: Arc<dyn Controller> = controller.into();
        let mailbox = Arc::new(Mailbox::default());
        mailboxes.push((controller.clone(), mailbox.clone()));
        let (registry, recorder) = (registry.clone(), recorder.clone());
        tasks.spawn(one(controller, mailbox, registry, recorder, stopping.clone()));
    }
    tokio::select! {
        () = waker::run(changes, &mailboxes, &registry.cache) => {}
        () = async { while tasks.join_next().await.is_some() {} } => {}
    }
}

/// Runs one controller until the server stops.
async fn one(
    controller: Arc<dyn Controller>,
    mailbox: Arc<Mailbox>,
    registry: Registry,
    recorder: Recorder,
    mut stopping: watch::Receiver<bool>,
) {
    let mut queue = Queue::default();
    let mut performing: JoinSet<(Key, Outcome)> = JoinSet::new();
    let mut memories: HashMap<Key, Memory> = HashMap::new();
    let mut resync = tokio::time::interval(RESYNC);
    let by_metrics = controller.wakes_by_metrics();
    let mut metrics = registry.cache.metrics();
    loop {
        start_ready(&*controller, &registry, &recorder, &mut queue, &mut memories, &mut performing);
        let due = queue.next_due();
        let goes_on = performing.len() < PARALLEL && queue.has_ready();
        tokio::select! {
            woken = mailbox.take() => match woken {
                Woken::Keys(keys) => keys.into_iter().for_each(|key| queue.add(key)),
                Woken::Everything => resync.reset_immediately(),
            },
            told = metrics.recv(), if by_metrics.is_some() => {
                // Of what was missed, the next report tells enough.
                if let (Ok(namespaces), Some(wakes)) = (told, by_metrics) {
                    let cluster = registry.cache.read();
                    for namespace in namespaces.iter() {
                        wakes(&cluster, namespace).into_iter().for_each(|key| queue.add(key));
                    }
                }
            }
            Some(done) = performing.join_next() => match done {
                Ok((key, outcome)) => queue.done(key, outcome),
                Err(error) => tracing::error!(controller = controller.name(), %error, "a plan was lost"),
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(far)), if due.is_some() => {}
            // The first tick comes at once: on start everything is new.
            _ = resync.tick() => look_at_everything(&*controller, &registry, &mut queue).await,
            // Others run too, between slices of a long queue.
            () = tokio::task::yield_now(), if goes_on => {}
            _ = stopping.changed() => return,
        }
    }
}

/// Wakes the keys of every object there is, a slice at a time: among a hundred thousand, nobody is to wait for all of it.
async fn look_at_everything(controller: &dyn Controller, registry: &Registry, queue: &mut Queue) {
    let objects: Vec<Arc<Object>> = {
        let cluster = registry.cache.read();
        cluster.kinds().flat_map(|kind| cluster.list(kind)).cloned().collect()
    };
    for slice in objects.chunks(OBJECTS) {
        {
            let cluster = registry.cache.read();
            for object in slice {
                controller.wakes(&cluster, object).into_iter().for_each(|key| queue.add(key));
            }
        }
        tokio::task::yield_now().await;
    }
}

fn far() -> Instant {
    Instant::now() + RESYNC
}

/// Plans for keys that may run, as long as that does not take too long; a plan with nothing to write is done at once.
fn start_ready(
    controller: &dyn Controller,
    registry: &Registry,
    recorder: &Recorder,
    queue: &mut Queue,
    memories: &mut HashMap<Key, Memory>,
    performing: &mut JoinSet<(Key, Outcome)>,
) {
    if !queue.has_ready() {
        return;
    }
    registry.cache.set_now(Timestamp::now());
    let begun = Instant::now();
    while performing.len() < PARALLEL
        && begun.elapsed() < SLICE
        && let Some(key) = queue.take()
    {
        let memory = memories.remove(&key);
        let planning = AssertUnwindSafe(|| {
            controller.reconcile_with(&registry.cache.read(), &key, memory.as_ref())
        });
        let Ok(mut plan) = std::panic::catch_unwind(planning) else {
            // A bug in one controller is no reason for all to stop.
            tracing::error!(controller = controller.name(), %key, "planning panicked");
            queue.done(key, Outcome::Failed);
            continue;
        };
        if let Some(memory) = plan.memory.take() {
            memories.insert(key.clone(), memory);
        }
        if plan.writes.is_empty() && plan.events.is_empty() {
            queue.done(key, Outcome::Done { again: plan.requeue_after });
            continue;
        }
        let name = controller.name();
        let (registry, recorder) = (registry.clone(), recorder.clone());
        performing.spawn(async move {
            let performing = perform(name, &key, plan, &registry, &recorder);
            let outcome = AssertUnwindSafe(performing).catch_unwind().await;
            (key, outcome.unwrap_or(Outcome::Failed))
        });
    }
}
