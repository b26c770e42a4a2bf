//! Acts for Pods: performs what [`super::lifecycle`] asks for, and tells the API what became of it.
//!
//! No task, timer or descriptor belongs to an idle Pod. A Pod is an entry in one table; an event locks the table for the
//! pure step, and every action runs as a short task that posts the next event. One heap holds all wake-up times.
//! Statuses go out through a bounded number of reporters, at most one at a time per Pod, the newest state winning.

mod containers;
mod end;
mod exits;
mod images;
mod logs;
mod recovery;
mod report;
mod resizing;
mod resolve;
mod seen;
mod start;
mod streams;
mod successor;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use coracle_api::pod::Requests;
use coracle_network::Network;
use coracle_sandbox::{
    ClientError, CompiledImage, ContainerSpec, Notice, NoticeKind, ProblemCode, Stop,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, Semaphore};

use self::recovery::Recovery;
use self::resizing::asks;
use self::resolve::Fetching;
use self::successor::{Leave, Makers};
use crate::events::Recorder;
use crate::hosts::{Host, Hosts};
use crate::images::Images;
use crate::images::compile::Compiler;
use crate::metrics::Metrics;
use crate::namespaces::Namespaces;
use crate::objects::Objects;
use crate::pod::kept::Kept;
use crate::pod::lifecycle::{Action, Event, HookKind, PodState, ProbeKind, Sandbox};
use crate::pod::resize::{self, Resize};
use crate::pod::volumes::{Owner, Volumes};
use crate::pod::{hooks, oci, ports, probes, spec};
use crate::services::Services;
use exits::event_of;

pub use seen::{Seen, SeenContainer};
pub use streams::{Located, Presence};

/// Status writes under way at once.
const REPORTERS: usize = 16;
/// How long nothing happens to a Pod before what is known of it is packed, at least; twice that at most.
const PACKED_AFTER: Duration = Duration::from_secs(4);
/// Pods that are packed without a pause.
const PACKED_AT_ONCE: usize = 100;
/// How long a Pod may take to start before the API is told that it is starting. Most run by then, and that they do is told
/// at once, not after a write that nobody had time to read.
const SETTLE: Duration = Duration::from_millis(50);
/// How long to wait before a failed write to the API is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What acting for Pods takes; see [`Workers`].
pub struct Parts {
    /// The API server.
    pub client: kube::Client,
    /// The sandbox hosts.
    pub hosts: Hosts,
    /// Images of this node.
    pub images: Images,
    /// Their compiled code.
    pub compiler: Compiler,
    /// Addresses.
    pub network: Network,
    /// Services, for ports that only they name.
    pub services: Services,
    /// ConfigMaps and Secrets.
    pub objects: Objects,
    /// Volumes.
    pub volumes: Volumes,
    /// Namespaces, for the defaults of their Pods.
    pub namespaces: Namespaces,
    /// Events.
    pub recorder: Recorder,
    /// `status.hostIP`.
    pub host_ip: String,
    /// Whom containers ask for names, if there is such a server.
    pub name_server: Option<IpAddr>,
    /// Allocatable CPU in millicores and memory in bytes.
    pub allocatable: (u64, u64),
}

/// All Pods of this node; cheap to clone.
#[derive(Clone)]
pub struct Workers {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    table: Mutex<Table>,
    wake: Notify,
    reporters: Semaphore,
    recovery: Recovery,
    makers: Makers,
    metrics: Metrics,
}

#[derive(Default)]
struct Table {
    pods: HashMap<String, Entry>,
    timers: BinaryHeap<Reverse<(Timestamp, String)>>,
    /// Somebody looks after those who wait for room to be resized.
    waits_for_room: bool,
}

struct Entry {
    namespace: Box<str>,
    name: Box<str>,
    /// As the API has it, but for resources that it was not given (yet): see `resize`.
    pod: Kept<Pod>,
    /// What it has of the node's room.
    asks: Requests,
    resize: Option<Box<Resize>>,
    on_host_network: bool,
    /// Ports of the machine that it takes once it is taken on, which is decided when its sandbox is made.
    ports: Box<[ports::Port]>,
    is_taken_on: bool,
    /// Something happens to it all the time.
    is_probed: bool,
    state: PodState,
    /// What the API was told last.
    told: Option<Told>,
    /// When its timer rings, if one is set.
    wake: Option<Timestamp>,
    /// A reporter is at work; `again` when something changed since.
    reporting: bool,
    again: bool,
    /// What it is told while it starts can wait; see [`SETTLE`].
    settling: Settling,
    /// What its containers run, as it was compiled: the API is told what that imports.
    imports: BTreeMap<String, Arc<CompiledImage>>,
    /// HTTP containers whose ports follow from Services, as they were started.
    open_ports: HashMap<String, ContainerSpec>,
    /// Images that are being fetched to see what runs them, or were, by container.
    fetching: HashMap<String, Fetching>,
    leave: Leave,
}

/// A status as the API was told it, and what is asked of it often.
struct Told {
    status: Kept<PodStatus>,
    phase: Option<Box<str>>,
    /// Since when the Pod is ready.
    ready_since: Option<Timestamp>,
}

impl Told {
    fn new(status: PodStatus) -> Self {
        let mut conditions = status.conditions.iter().flatten();
        let ready = conditions.find(|c| c.type_ == "Ready" && c.status == "True");
        Self {
            phase: status.phase.as_deref().map(Box::from),
            ready_since: ready.and_then(|c| Some(c.last_transition_time.as_ref()?.0)),
            status: Kept::new(status),
        }
    }
}

impl Entry {
    fn is(&self, namespace: &str, name: &str) -> bool {
        *self.name == *name && *self.namespace == *namespace
    }

    fn phase(&self) -> &str {
        self.told.as_ref().and_then(|told| told.phase.as_deref()).unwrap_or("Pending")
    }
}

/// Whether the first report of a Pod that starts still waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settling {
    /// Nothing was to be reported yet.
    New,
    /// A report is due when [`SETTLE`] is over.
    Waiting,
    /// It took longer: reports go out as they come.
    Over,
}

/// What the kubelet API needs to know of a container for its log.
pub struct LogSource {
    /// The file.
    pub path: PathBuf,
    /// The attempt it belongs to.
    pub attempt: u32,
}

impl Workers {
    /// Starts acting; Pods come in through [`Workers::apply`].
    pub fn start(parts: Parts) -> Self {
        let inner = Arc::new(Inner {
            parts,
            table: Mutex::default(),
            wake: Notify::new(),
            reporters: Semaphore::new(REPORTERS),
            recovery: Recovery::default(),
            makers: Makers::default(),
            metrics: Metrics::default(),
        });
        let workers = Self { inner };
        tokio::spawn(workers.clone().timers());
        tokio::spawn(workers.clone().pack());
        workers
    }

    /// The Pod as the API has it now; one not known yet starts from `initial`.
    pub fn apply(&self, mut pod: Pod, initial: impl FnOnce(&Pod) -> PodState) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let mut grace = pod
            .metadata
            .deletion_timestamp
            .is_some()
            .then(|| pod.metadata.deletion_grace_period_seconds.unwrap_or(30));
        let (mut changed, mut joined) = (Vec::new(), Vec::new());
        let resized;
        {
            let mut table = self.table();
            match table.pods.get_mut(&uid) {
                Some(entry) => {
                    // While this node was silent the control plane marked its Pods; they are to be told anew.
                    if marked_not_ready(&pod) {
                        entry.told = None;
                    }
                    let known = entry.pod.peek();
                    if known.metadata.generation != pod.metadata.generation {
                        entry.state.active_deadline = spec::active_deadline(&pod);
                        changed = spec::other_images(&known, &pod);
                        joined = spec::rules(&pod);
                        joined.retain(|rule| entry.state.container(&rule.name).is_none());
                    }
                    resized = entry.asks_for(&mut pod);
                    entry.pod = Kept::new(lean(pod));
                    self.inner.parts.volumes.pod_changed(&uid, &entry.pod);
                }
                None => {
                    // An earlier agent may have begun the end: its grace is not given twice.
                    if let Some(end) = &pod.metadata.deletion_timestamp {
                        let left = end.0.duration_since(Timestamp::now()).as_secs().max(1);
                        grace = grace.map(|grace| grace.min(left));
                    }
                    let state = initial(&pod);
                    let resize = resize::recall(&mut pod).map(Box::new);
                    resized = resize.is_some();
                    let (namespace, name) = names(&pod);
                    let entry = Entry {
                        namespace: namespace.into(),
                        name: name.into(),
                        on_host_network: oci::is_on_host_network(&pod),
                        ports: ports::of(&pod),
                        is_taken_on: state.sandbox == Sandbox::Ready,
                        is_probed: spec::is_probed(&pod),
                        state,
                        asks: asks(&pod),
                        resize,
                        told: pod.status.clone().map(Told::new),
                        pod: Kept::new(lean(pod)),
                        wake: None,
                        reporting: false,
                        again: false,
                        settling: Settling::New,
                        imports: BTreeMap::new(),
                        open_ports: HashMap::new(),
                        fetching: HashMap::new(),
                        leave: Leave::No,
                    };
                    if entry.state.sandbox == Sandbox::Ready {
                        let (volumes, kept) = (self.inner.parts.volumes.clone(), entry.pod.clone());
                        let (uid, pod) = (uid.clone(), kept.open());
                        let owner = Owner::of(&self.inner.parts.hosts.folders(&uid), &pod);
                        let (workers, ip) = (self.clone(), entry.state.ip);
                        tokio::spawn(async move {
                            workers.lead_host_ports(&uid, &pod, ip).await;
                            volumes.adopt(&uid, &kept, owner).await
                        });
                    }
                    table.pods.insert(uid.clone(), entry);
                }
            }
        }
        if resized {
            self.resize(&uid);
        }
        for rule in joined {
            self.post(&uid, Event::Joined(rule));
        }
        for container in changed {
            self.post(&uid, Event::ImageChanged { container });
        }
        let grace = grace.map(|grace| grace.clamp(0, i64::from(u32::MAX)) as u32);
        let event = match grace {
            Some(grace_seconds) if self.lingers(&uid, grace_seconds) => Event::Tick,
            Some(grace_seconds) => Event::Delete { grace_seconds },
            None => Event::Tick,
        };
        self.post(&uid, event);
    }

    /// The Pod is gone from the API.
    pub fn vanish(&self, uid: &str) {
        self.post(uid, Event::Vanish);
    }

    /// UIDs of all Pods here.
    pub fn uids(&self) -> Vec<String> {
        self.table().pods.keys().cloned().collect()
    }

    /// Removes what is left of a Pod that went while no agent ran.
    pub async fn clear(&self, uid: &str) {
        let parts = &self.inner.parts;
        parts.hosts.leave(uid).await;
        parts.volumes.forget(uid).await;
        let (folders, of) = (parts.hosts.folders(uid), uid.to_owned());
        let removed = tokio::task::spawn_blocking(move || folders.remove_logs(&of)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, pod = uid, "logs of a Pod that is gone were not removed");
        }
        parts.hosts.forget(uid).await;
    }

    /// A host's word on a container that runs on: people see it as an event.
    pub fn notice(&self, notice: Notice) {
        let Some(pod) = self.pod(&notice.sandbox) else { return };
        let reason = match notice.kind {
            NoticeKind::Trap => "Trapped",
            NoticeKind::Denied => "NotGranted",
            NoticeKind::Limit => "LimitReached",
            NoticeKind::NotReused => "InstancesNotReused",
            NoticeKind::Unknown => "Notice",
        };
        let container = Some(notice.container.as_str());
        self.inner.parts.recorder.pod(&pod, container, true, reason, notice.message);
    }

    /// Something that the Pod may have waited for is there.
    pub fn retry(&self, uid: &str) {
        self.post(uid, Event::Retry);
    }

    /// The node takes the Pod's room away: it fails with that reason (`Evicted`) and message.
    pub fn evict(&self, uid: &str, message: String) {
        self.post(uid, Event::Evict { message });
    }

    /// A host is gone, and every sandbox in it.
    pub fn host_lost(&self, host: &Arc<Host>) {
        let hosts = &self.inner.parts.hosts;
        let lost = self.uids().into_iter().filter(|uid| hosts.is_in(uid, host));
        let (mixed, lost) = lost.partition::<Vec<_>, _>(|uid| hosts.has_containers(uid));
        // What runs beside it in containers runs on.
        for uid in mixed {
            for name in self.beside(&uid) {
                self.post(&uid, self.lost(&uid, &name));
            }
        }
        self.recover(lost);
    }

    /// A shim is gone, and its Pod's sandbox.
    pub fn sandbox_lost(&self, host: &Arc<Host>) {
        let hosts = &self.inner.parts.hosts;
        self.recover(self.uids().into_iter().filter(|uid| hosts.is_in(uid, host)).collect());
    }

    /// Takes an event in and sets its consequences going.
    pub fn post(&self, uid: &str, event: Event) {
        let (actions, on_its_way) = {
            let mut table = self.table();
            let table = &mut *table;
            let Some(entry) = table.pods.get_mut(uid) else { return };
            let actions = entry.state.step(event, Timestamp::now());
            let on_its_way = recovery::is_on_its_way(&entry.state);
            let wake = entry.state.wake();
            if wake != entry.wake {
                entry.wake = wake;
                if let Some(at) = wake {
                    let first = table.timers.peek().is_none_or(|Reverse((next, _))| at < *next);
                    table.timers.push(Reverse((at, uid.to_owned())));
                    if first {
                        self.inner.wake.notify_one();
                    }
                }
            }
            (actions, on_its_way)
        };
        let mut finishes = false;
        for action in actions {
            if let Action::Report { container, warning, reason, message } = action {
                self.tell(uid, container.as_deref(), warning, reason, message);
                continue;
            }
            finishes |= action == Action::Finish;
            let (workers, uid) = (self.clone(), uid.to_owned());
            tokio::spawn(async move {
                let _timed = workers.inner.metrics.begin(&action);
                workers.perform(&uid, action).await;
            });
        }
        self.recovered(uid, on_its_way);
        // The end of a Pod tells its last status itself.
        if !finishes {
            self.report(uid);
        }
    }

    /// An API event about a Pod, or about one of its containers.
    fn tell(
        &self,
        uid: &str,
        container: Option<&str>,
        warning: bool,
        reason: &'static str,
        mut message: String,
    ) {
        let Some(pod) = self.pod(uid) else { return };
        if reason == "BackOff" {
            message = format!("{message} in pod {}", spec::full_name(&pod));
        }
        self.inner.parts.recorder.pod(&pod, container, warning, reason, message);
    }

    async fn timers(self) {
        loop {
            let now = Timestamp::now();
            let (due, next) = {
                let mut table = self.table();
                let mut due = Vec::new();
                while let Some(Reverse((at, _))) = table.timers.peek()
                    && *at <= now
                    && let Some(Reverse((at, uid))) = table.timers.pop()
                {
                    // Timers that were set anew since are not the Pod's any more.
                    if let Some(entry) = table.pods.get_mut(&uid)
                        && entry.wake == Some(at)
                    {
                        entry.wake = None;
                        due.push(uid);
                    }
                }
                (due, table.timers.peek().map(|Reverse((at, _))| *at))
            };
            for uid in due {
                self.post(&uid, Event::Tick);
            }
            let sleep = match next {
                Some(at) => at.duration_since(now).try_into().unwrap_or(Duration::ZERO),
                None => Duration::from_secs(3600),
            };
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = self.inner.wake.notified() => {}
            }
        }
    }

    /// Each kind of work is boxed apart: as one future, all would be as large as the largest, and copied and freed as such.
    async fn perform(&self, uid: &str, action: Action) {
        let Some(pod) = self.pod(uid) else { return };
        let parts = &self.inner.parts;
        match action {
            Action::CreateSandbox => {
                let event = match Box::pin(self.create_sandbox(uid, &pod)).await {
                    Ok(ip) => Event::SandboxReady(ip),
                    Err(event) => event,
                };
                self.made_anew(uid, &pod);
                self.post(uid, event);
            }
            Action::Pull { container } => {
                let event = match Box::pin(self.pull(&pod, &container)).await {
                    Ok(Some(digest)) => Event::Pulled { container, digest },
                    Ok(None) => Event::SandboxChanged,
                    Err((reason, message)) => Event::Failed { container, reason, message },
                };
                self.post(uid, event);
            }
            Action::Start { container, attempt } => {
                let started = self.start_container(uid, &pod, &container, attempt);
                let (name, started) = (container.clone(), Box::pin(started).await);
                let runs = started.is_ok();
                let event = match started {
                    Ok(status) => {
                        let started = format!("Container started: {container}");
                        parts.recorder.pod(&pod, Some(&container), false, "Started", started);
                        event_of(status)
                    }
                    Err((reason, message)) => Some(Event::Failed { container, reason, message }),
                };
                if let Some(event) = event {
                    self.take(uid, event);
                }
                if runs {
                    self.runs_with(uid, &name, &pod);
                }
            }
            Action::Stop { container, grace_seconds } => {
                let stop = Stop { grace_seconds };
                let client = parts.hosts.of(uid, &container);
                let result = client.stop_container(uid, &container, stop).await;
                if let Err(error) = &result
                    && error.problem().is_some_and(|p| p.code == ProblemCode::NotFound)
                {
                    self.post(uid, self.lost(uid, &container));
                } else if let Err(error) = result {
                    // A host that is gone is noticed, and told, by the one who watches it.
                    tracing::debug!(%error, pod = uid, container, "stop not delivered");
                }
            }
            Action::Probe { container, attempt, kind } => {
                let result = Box::pin(self.probe(uid, &pod, &container, kind)).await;
                self.inner.metrics.probed(kind, result.is_ok());
                self.post(uid, Event::Probed { container, attempt, kind, result });
            }
            Action::Hook { container, attempt, kind } => {
                let result = Box::pin(self.hook(uid, &pod, &container, kind)).await;
                self.post(uid, Event::Hooked { container, attempt, kind, result });
            }
            Action::RemoveSandbox => {
                loop {
                    match parts.hosts.delete_sandbox(uid).await {
                        Ok(()) => break,
                        Err(error) => {
                            tracing::warn!(%error, pod = uid, "sandbox not removed, trying again")
                        }
                    }
                    tokio::time::sleep(RETRY).await;
                }
                self.lead_host_ports(uid, &pod, None).await;
                parts.hosts.leave(uid).await;
                parts.network.release(uid);
                parts.volumes.forget(uid).await;
                self.post(uid, Event::SandboxRemoved);
            }
            Action::Report { container, warning, reason, message } => {
                self.tell(uid, container.as_deref(), warning, reason, message);
            }
            Action::Finish => Box::pin(self.finish(uid, &pod)).await,
        }
    }

    async fn probe(&self, uid: &str, pod: &Pod, name: &str, kind: ProbeKind) -> Result<(), String> {
        let ip = self.table().pods.get(uid).and_then(|e| e.state.ip);
        let container = spec::container(pod, name);
        let (Some(ip), Some(container)) = (ip, container) else {
            return Err("no address".to_owned());
        };
        let Some(probe) = spec::probe(&container, kind) else { return Ok(()) };
        if let Some(exec) = &probe.exec {
            return self.exec_probe(uid, name, exec, probe.timeout_seconds.unwrap_or(1)).await;
        }
        let port = |port| self.inner.parts.network.listen_port(port);
        let warning = probes::run(ip, &container, probe, port).await?;
        if let Some(warning) = warning {
            let message = format!("{} probe warning: {warning}", kind.word());
            self.inner.parts.recorder.pod(pod, Some(name), true, "ProbeWarning", message);
        }
        Ok(())
    }

    async fn hook(&self, uid: &str, pod: &Pod, name: &str, kind: HookKind) -> Result<(), String> {
        let ip = self.table().pods.get(uid).and_then(|e| e.state.ip);
        let container = spec::container(pod, name);
        let (Some(ip), Some(container)) = (ip, container) else {
            return Err("no address".to_owned());
        };
        let Some(hook) = spec::hook(&container, kind) else { return Ok(()) };
        if let Some(exec) = &hook.exec {
            return self.exec_hook(uid, pod, name, exec).await;
        }
        hooks::run(ip, &container, hook, |port| self.inner.parts.network.listen_port(port)).await
    }

    fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        self.kept(uid).map(|kept| kept.open())
    }

    fn kept(&self, uid: &str) -> Option<Kept<Pod>> {
        self.table().pods.get(uid).map(|e| e.pod.clone())
    }

    /// Packs, for ever, what is known of Pods to which nothing happens.
    async fn pack(self) {
        loop {
            tokio::time::sleep(PACKED_AFTER).await;
            let kept: Vec<_> = {
                let table = self.table();
                let told = |entry: &Entry| entry.told.as_ref().map(|told| told.status.clone());
                let idle = table.pods.values().filter(|entry| !entry.is_probed);
                idle.map(|entry| (entry.pod.clone(), told(entry))).collect()
            };
            for some in kept.chunks(PACKED_AT_ONCE) {
                for (pod, told) in some {
                    pod.settle();
                    if let Some(told) = told {
                        told.settle();
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Without what this node itself said of the containers: that is known, and it is a good part of a Pod's size.
fn lean(mut pod: Pod) -> Pod {
    if let Some(status) = &mut pod.status {
        status.container_statuses = None;
        status.init_container_statuses = None;
        status.ephemeral_container_statuses = None;
    }
    pod
}

/// Node lifecycle took the Pod for lost.
fn marked_not_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| {
        c.type_ == "Ready" && c.status == "False" && c.reason.as_deref() == Some("NodeNotReady")
    })
}

fn names(pod: &Pod) -> (&str, &str) {
    let meta = &pod.metadata;
    (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// A host's refusal in its own words; anything else in full.
fn said(error: ClientError) -> String {
    match error {
        ClientError::Problem(problem) => problem.message,
        other => other.to_string(),
    }
}
