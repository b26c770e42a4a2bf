//! Events about Pods, as `kubectl describe` and `kubectl events` show them.
//!
//! Recording never waits: a full queue drops the event, since what happened is in the Pod's status too. The same event
//! about the same object within ten minutes raises its count instead of adding another, and of very many about one object most
//! are left out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coracle_api::spam::SpamFilter;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::pod::spec;

/// Events that wait to be written.
const QUEUE: usize = 4096;
/// Events that are remembered for counting.
const REMEMBERED: usize = 4096;
/// How long each waits at least: most tell of something whose outcome is about to be written, which goes first.
const LATE: Duration = Duration::from_millis(25);
/// How long the same event is the same.
const WINDOW: Duration = Duration::from_secs(600);

/// Writes events; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Entry>,
    held: Arc<watch::Sender<bool>>,
    spam: Arc<Mutex<SpamFilter>>,
}

struct Entry {
    about: ObjectReference,
    warning: bool,
    reason: &'static str,
    message: String,
    at: Timestamp,
    due: tokio::time::Instant,
}

impl Recorder {
    fn record(&self, about: ObjectReference, warning: bool, reason: &'static str, message: String) {
        let name = (&about.kind, &about.namespace, &about.name, &about.uid);
        let mut spam = self.spam.lock().unwrap_or_else(PoisonError::into_inner);
        if !spam.admits(name, Instant::now()) {
            return;
        }
        drop(spam);
        let (at, due) = (Timestamp::now(), tokio::time::Instant::now() + LATE);
        let _ = self.queue.try_send(Entry { about, warning, reason, message, at, due });
    }

    /// Records as `kubelet` on `node`, through `client`, until the recorder is dropped.
    pub fn start(client: kube::Client, node: String) -> Self {
        let (queue, entries) = mpsc::channel(QUEUE);
        let held = Arc::new(watch::Sender::new(false));
        tokio::spawn(write(client, node, entries, held.subscribe()));
        Self { queue, held, spam: Arc::default() }
    }

    /// Writes nothing for now, or goes on: while there is something more urgent to do.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Records something about a Pod, or about one of its containers.
    pub fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|c| field_path(pod, c)),
        };
        self.record(about, warning, reason, message);
    }

    /// Records that an Ingress (its namespace, name and UID) does not get something.
    pub fn ingress(
        &self,
        (namespace, name, uid): (String, String, String),
        reason: &'static str,
        message: String,
    ) {
        let about = ObjectReference {
            api_version: Some("networking.k8s.io/v1".to_owned()),
            kind: Some("Ingress".to_owned()),
            namespace: Some(namespace),
            name: Some(name),
            uid: Some(uid),
            ..ObjectReference::default()
        };
        self.record(about, true, reason, message);
    }

    /// Records something about the node itself.
    pub fn node(&self, name: &str, warning: bool, reason: &'static str, message: String) {
        // Nodes are in no namespace; their events are in `default`, with the name for a UID, as the kubelet has it.
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        self.record(about, warning, reason, message);
    }
}

fn field_path(pod: &Pod, container: &str) -> String {
    let mut init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
    let list = match init.any(|c| c.name == container) {
        true => "initContainers",
        false if spec::is_ephemeral(pod, container) => "ephemeralContainers",
        false => "containers",
    };
    format!("spec.{list}{{{container}}}")
}

/// UID, field path, reason and message: what makes two events the same.
type Sameness = (Option<String>, Option<String>, &'static str, String);

async fn write(
    client: kube::Client,
    node: String,
    mut entries: mpsc::Receiver<Entry>,
    mut held: watch::Receiver<bool>,
) {
    // What was written lately: name of the event and its count.
    let mut known: HashMap<Sameness, (String, i32, Instant)> = HashMap::new();
    while let Some(entry) = entries.recv().await {
        tokio::time::sleep_until(entry.due).await;
        // An error means that nobody can hold it any more.
        let _ = held.wait_for(|held| !held).await;
        let namespace = entry.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let key = (
            entry.about.uid.clone(),
            entry.about.field_path.clone(),
            entry.reason,
            entry.message.clone(),
        );
        if known.len() > REMEMBERED {
            known.retain(|_, (_, _, at)| at.elapsed() < WINDOW);
            if known.len() > REMEMBERED {
                known.clear();
            }
        }
        if let Some((name, count, at)) = known.get_mut(&key)
            && at.elapsed() < WINDOW
        {
            *count += 1;
            *at = Instant::now();
            let patch = json!({"count": *count, "lastTimestamp": Time(entry.at)});
            if api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.is_ok() {
                continue;
            }
        }
        let name = format!(
            "{}.{:x}",
            entry.about.name.as_deref().unwrap_or_default(),
            entry.at.as_nanosecond()
        );
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: entry.about,
            type_: Some(if entry.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(entry.reason.to_owned()),
            message: Some(entry.message),
            count: Some(1),
            first_timestamp: Some(Time(entry.at)),
            last_timestamp: Some(Time(entry.at)),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(node.clone()),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(node.clone()),
            ..Event::default()
        };
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                known.insert(key, (name, 1, Instant::now()));
            }
            Err(error) => tracing::debug!(%error, reason = entry.reason, "event not recorded"),
        }
    }
}
