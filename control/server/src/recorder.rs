//! Recording events: repeated ones are counted, floods of similar ones are combined, and too many about one object left out, as
//! client-go's recorder does.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coracle_api::kinds;
use coracle_api::plan::EventRecord;
use coracle_api::spam::SpamFilter;
use futures::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::registry::{Part, Registry, WriteOptions, now};

/// Events remembered for counting; beyond, counting starts anew.
const REMEMBERED: usize = 4096;
/// Events that may wait to be written.
const WAITING: usize = 4096;
/// Events written at a time.
const AT_ONCE: usize = 32;
/// Events written at once at most, after a while of quiet, and then a second: they are for people, and must not keep a thousand
/// Pods waiting that each have one.
const BURST: u32 = 200;
const A_SECOND: u32 = 500;
/// How long each waits at least: most tell of something whose next step is about to be written, which goes first.
const LATE: Duration = Duration::from_millis(25);
/// Different messages for one reason before they are combined…
const SIMILAR: usize = 10;
/// …when they come within this time.
const WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// Hands events to [`run`]; never waits.
#[derive(Clone)]
pub(crate) struct Recorder {
    events: mpsc::Sender<(Instant, String, EventRecord)>,
    spam: Arc<Mutex<SpamFilter>>,
}

impl Recorder {
    /// Records an event of `source`. With very many waiting already, or very many about the object, it is dropped, since events
    /// are for people.
    pub(crate) fn record(&self, source: &str, event: EventRecord) {
        let about = [source, &event.kind, &event.namespace, &event.name, &event.uid];
        let mut spam = self.spam.lock().unwrap_or_else(PoisonError::into_inner);
        if !spam.admits(about, std::time::Instant::now()) {
            return;
        }
        drop(spam);
        if self.events.try_send((Instant::now() + LATE, source.to_owned(), event)).is_err() {
            tracing::debug!(source, "too many events; one is dropped");
        }
    }
}

/// A recorder, and the task that writes what it is given.
pub(crate) fn new(registry: Registry) -> (Recorder, impl Future<Output = ()>) {
    let (events, mut waiting) = mpsc::channel::<(Instant, String, EventRecord)>(WAITING);
    let task = async move {
        let writer = Writer { registry, memory: Mutex::default() };
        let mut pace = Pace { next: Instant::now() };
        let stream = stream::poll_fn(move |cx| waiting.poll_recv(cx));
        stream
            .map(|(due, source, event)| (pace.next_turn().max(due), source, event))
            .then(|(turn, source, event)| async move {
                tokio::time::sleep_until(turn).await;
                (source, event)
            })
            .for_each_concurrent(AT_ONCE, |(source, event)| {
                let writer = &writer;
                async move { writer.write(&source, &event).await }
            })
            .await;
    };
    (Recorder { events, spam: Arc::default() }, task)
}

/// Turns at even distances, but for the first of a crowd.
struct Pace {
    next: Instant,
}

impl Pace {
    fn next_turn(&mut self) -> Instant {
        let apart = Duration::from_secs(1) / A_SECOND;
        let now = Instant::now();
        let turn = self.next.max(now.checked_sub(apart * BURST).unwrap_or(now));
        self.next = turn + apart;
        turn
    }
}

struct Writer {
    registry: Registry,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// Name and count of the Event for each thing that happened.
    known: HashMap<(Group, String), (String, i64)>,
    /// Messages seen for each group, and since when.
    groups: HashMap<Group, (Timestamp, HashSet<String>)>,
}

/// All that makes events similar: source, object, reason.
type Group = (String, String, String);

impl Writer {
    async fn write(&self, source: &str, event: &EventRecord) {
        let namespace = if event.namespace.is_empty() { "default" } else { &event.namespace };
        let (name, count, message) = self.remember(source, event);
        if count > 1 {
            let edited = self
                .registry
                .update(
                    &kinds::EVENT,
                    (namespace, &name),
                    Part::Main,
                    WriteOptions::default(),
                    |_, mut tree| {
                        tree["count"] = count.into();
                        tree["lastTimestamp"] = now().into();
                        Ok(tree)
                    },
                )
                .await;
            match edited {
                Ok(_) => return,
                // Expired, or deleted by somebody: recorded anew.
                Err(error) if error.code == 404 => {}
                Err(error) => return tracing::debug!(%error, "an event was not counted"),
            }
        }
        let object = body(source, event, namespace, &name, count, &message);
        let created =
            self.registry.create(&kinds::EVENT, namespace, object, WriteOptions::default()).await;
        if let Err(error) = created {
            tracing::debug!(%error, reason = event.reason, "an event was not recorded");
        }
    }

    /// The name of the Event object, how often it has happened, and what it says.
    fn remember(&self, source: &str, event: &EventRecord) -> (String, i64, String) {
        let group = (source.to_owned(), event.uid.clone(), event.reason.clone());
        let now = Timestamp::now();
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.known.len() > REMEMBERED {
            *memory = Memory::default();
        }
        let (since, messages) =
            memory.groups.entry(group.clone()).or_insert_with(|| (now, HashSet::new()));
        if now.duration_since(*since) > WITHIN {
            (*since, *messages) = (now, HashSet::new());
        }
        messages.insert(event.message.clone());
        let message = if messages.len() > SIMILAR {
            format!("(combined from similar events): {}", event.message)
        } else {
            event.message.clone()
        };
        let same = if messages.len() > SIMILAR { String::new() } else { event.message.clone() };
        let fresh = || (format!("{}.{:x}", event.name, now.as_nanosecond()), 0);
        let (name, count) = memory.known.entry((group, same)).or_insert_with(fresh);
        *count += 1;
        (name.clone(), *count, message)
    }
}

fn body(
    source: &str,
    event: &EventRecord,
    namespace: &str,
    name: &str,
    count: i64,
    message: &str,
) -> Value {
    let mut involved = json!({
        "apiVersion": event.api_version,
        "kind": event.kind,
        "name": event.name,
        "uid": event.uid,
    });
    if !event.namespace.is_empty() {
        involved["namespace"] = event.namespace.as_str().into();
    }
    json!({
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": involved,
        "type": if event.warning { "Warning" } else { "Normal" },
        "reason": event.reason,
        "message": message,
        "count": count,
        "firstTimestamp": now(),
        "lastTimestamp": now(),
        "source": {"component": source},
        "reportingComponent": source,
        "reportingInstance": "",
    })
}
