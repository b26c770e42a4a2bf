//! Acts for Pods: performs what [`super::lifecycle`] asks for, and tells the API what became of it.
//!
//! No task, timer or descriptor belongs to an idle Pod. A Pod is an entry in one table; an event locks the table for the
//! pure step, and every action runs as a short task that posts the next event. One heap holds all wake-up times.
//! Statuses go out through a bounded number of reporters, at most one at a time per Pod, the newest state winning.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use coracle_network::Network;
use coracle_sandbox::{
    Client as Host, ClientError, ContainerSpec, ContainerState, ContainerStatus, ImageInfo,
    ImageKind, ProblemCode, SandboxSpec, Stop,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::sync::{Notify, Semaphore};

use crate::events::Recorder;
use crate::images::{Images, PullError, PullPolicy};
use crate::logs;
use crate::pod::lifecycle::{Action, Ending, Event, PodState, ProbeKind, Termination};
use crate::pod::spec::{self, NodeFacts, Sources};
use crate::pod::{probes, status, volumes};
use crate::services::Services;

/// Status writes under way at once.
const REPORTERS: usize = 16;
/// Images pulled and prepared at once.
const PULLS: usize = 8;
/// How long a Pod may take to start before the API is told that it is starting. Most run by then, and that they do is told
/// at once, not after a write that nobody had time to read.
const SETTLE: Duration = Duration::from_millis(50);
/// How long to wait before a failed write to the API is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What acting for Pods takes; see [`Workers`].
pub struct Parts {
    /// The API server.
    pub client: kube::Client,
    /// The sandbox host.
    pub host: Host,
    /// Images of this node.
    pub images: Images,
    /// Addresses.
    pub network: Network,
    /// Services, for ports that only they name.
    pub services: Services,
    /// Events.
    pub recorder: Recorder,
    /// `status.hostIP`.
    pub host_ip: String,
    /// Logs, a folder a Pod.
    pub logs: PathBuf,
    /// Volumes, a folder a Pod.
    pub volumes: PathBuf,
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
    pulls: Semaphore,
    /// What the host knows of images, by digest; emptied with the host.
    prepared: Mutex<HashMap<String, ImageInfo>>,
}

#[derive(Default)]
struct Table {
    pods: HashMap<String, Entry>,
    timers: BinaryHeap<Reverse<(Timestamp, String)>>,
}

struct Entry {
    pod: Arc<Pod>,
    state: PodState,
    /// What the API was told last.
    told: Option<PodStatus>,
    /// When its timer rings, if one is set.
    wake: Option<Timestamp>,
    /// A reporter is at work; `again` when something changed since.
    reporting: bool,
    again: bool,
    /// What it is told while it starts can wait; see [`SETTLE`].
    settling: Settling,
    /// HTTP containers whose ports follow from Services, as they were started.
    open_ports: HashMap<String, ContainerSpec>,
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
            pulls: Semaphore::new(PULLS),
            prepared: Mutex::default(),
        });
        let workers = Self { inner };
        tokio::spawn(workers.clone().timers());
        workers
    }

    /// The Pod as the API has it now; one not known yet starts from `initial`.
    pub fn apply(&self, pod: Pod, initial: impl FnOnce(&Pod) -> PodState) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let deleting = pod.metadata.deletion_timestamp.is_some();
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
        {
            let mut table = self.table();
            match table.pods.get_mut(&uid) {
                Some(entry) => {
                    // While this node was silent the control plane marked its Pods; they are to be told anew.
                    if marked_not_ready(&pod) {
                        entry.told = None;
                    }
                    entry.pod = Arc::new(pod);
                }
                None => {
                    let entry = Entry {
                        state: initial(&pod),
                        told: pod.status.clone(),
                        pod: Arc::new(pod),
                        wake: None,
                        reporting: false,
                        again: false,
                        settling: Settling::New,
                        open_ports: HashMap::new(),
                    };
                    table.pods.insert(uid.clone(), entry);
                }
            }
        }
        let event = match deleting {
            true => Event::Delete { grace_seconds: grace.clamp(0, i64::from(u32::MAX)) as u32 },
            false => Event::Tick,
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

    /// A host's word on a container.
    pub fn container_event(&self, sandbox: &str, status: ContainerStatus) {
        if let Some(event) = event_of(status) {
            self.post(sandbox, event);
        }
    }

    /// The host is gone, and every sandbox with it.
    pub fn host_lost(&self) {
        self.inner.prepared.lock().unwrap_or_else(|e| e.into_inner()).clear();
        for uid in self.uids() {
            self.post(&uid, Event::HostLost);
        }
    }

    /// Services changed: components that are served on the ports these name may have to open others.
    pub fn services_changed(&self) {
        let table = self.table();
        for (uid, entry) in &table.pods {
            for (name, spec) in &entry.open_ports {
                let ports = self.http_ports(&entry.pod, name);
                if ports != spec.ports {
                    let (workers, uid, name) = (self.clone(), uid.clone(), name.clone());
                    let spec = ContainerSpec { ports, ..spec.clone() };
                    tokio::spawn(async move { workers.serve_on(&uid, &name, spec).await });
                }
            }
        }
    }

    /// Where a component is really bound: an ordinary user's low ports are moved.
    fn http_ports(&self, pod: &Pod, name: &str) -> Vec<u16> {
        let parts = &self.inner.parts;
        let ports = parts.services.http_ports(pod, name).into_iter();
        ports.map(|port| parts.network.listen_port(port)).collect()
    }

    async fn serve_on(&self, uid: &str, name: &str, spec: ContainerSpec) {
        match self.inner.parts.host.start_container(uid, &spec).await {
            Ok(_) => {
                if let Some(entry) = self.table().pods.get_mut(uid) {
                    entry.open_ports.insert(name.to_owned(), spec);
                }
            }
            Err(error) => tracing::warn!(%error, pod = uid, container = name, "ports not opened"),
        }
    }

    /// Why a container of the named Pod has no log yet: it has never started.
    pub fn waits(&self, namespace: &str, pod: &str, container: &str) -> Option<&'static str> {
        use crate::pod::lifecycle::Phase;
        let table = self.table();
        let entry = table.pods.values().find(|e| {
            e.pod.metadata.name.as_deref() == Some(pod)
                && e.pod.metadata.namespace.as_deref() == Some(namespace)
        })?;
        let known = entry.state.containers.iter().find(|c| c.rule.name == container)?;
        if known.started_once {
            return None;
        }
        Some(match &known.phase {
            Phase::Waiting { reason: "ErrImagePull", .. } => "image can't be pulled",
            Phase::Waiting { reason: "ImagePullBackOff", .. } => "trying and failing to pull image",
            Phase::Waiting { reason, .. } => reason,
            Phase::Pulling | Phase::Starting => "ContainerCreating",
            Phase::Running { .. } | Phase::Stopping { .. } | Phase::Exited(_) => return None,
        })
    }

    /// The log of a container of the named Pod: the present attempt's, or the one before.
    pub fn log(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Option<LogSource> {
        let table = self.table();
        let (uid, entry) = table.pods.iter().find(|(_, e)| {
            e.pod.metadata.name.as_deref() == Some(pod)
                && e.pod.metadata.namespace.as_deref() == Some(namespace)
        })?;
        let known = entry.state.containers.iter().find(|c| c.rule.name == container)?;
        // While an attempt waits for its start, its log is that of the one before.
        let waits = !matches!(
            known.phase,
            crate::pod::lifecycle::Phase::Running { .. }
                | crate::pod::lifecycle::Phase::Stopping { .. }
                | crate::pod::lifecycle::Phase::Exited(_)
        );
        let current = known.restarts.saturating_sub(u32::from(waits));
        let attempt = match previous {
            true => current.checked_sub(u32::from(!waits || known.restarts == 0))?,
            false => current,
        };
        let dir = logs::pod_dir(&self.inner.parts.logs, namespace, pod, uid);
        Some(LogSource { path: logs::attempt_path(&dir, container, attempt), attempt })
    }

    /// Whether that attempt may still write.
    pub fn is_running(&self, namespace: &str, pod: &str, container: &str, attempt: u32) -> bool {
        use crate::pod::lifecycle::Phase;
        let table = self.table();
        table.pods.values().any(|e| {
            e.pod.metadata.name.as_deref() == Some(pod)
                && e.pod.metadata.namespace.as_deref() == Some(namespace)
                && e.state.containers.iter().any(|c| {
                    c.rule.name == container
                        && c.restarts == attempt
                        && matches!(
                            c.phase,
                            Phase::Running { .. } | Phase::Stopping { .. } | Phase::Starting
                        )
                })
        })
    }

    /// Takes an event in and sets its consequences going.
    pub fn post(&self, uid: &str, event: Event) {
        let actions = {
            let mut table = self.table();
            let table = &mut *table;
            let Some(entry) = table.pods.get_mut(uid) else { return };
            let actions = entry.state.step(event, Timestamp::now());
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
            actions
        };
        for action in actions {
            let (workers, uid) = (self.clone(), uid.to_owned());
            tokio::spawn(async move { workers.perform(&uid, action).await });
        }
        self.report(uid);
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

    async fn perform(&self, uid: &str, action: Action) {
        let Some(pod) = self.pod(uid) else { return };
        let parts = &self.inner.parts;
        match action {
            Action::CreateSandbox => {
                let event = match self.create_sandbox(uid, &pod).await {
                    Ok(ip) => Event::SandboxReady(ip),
                    Err(message) => Event::SandboxFailed(message),
                };
                self.post(uid, event);
            }
            Action::Pull { container } => {
                let event = match self.pull(&pod, &container).await {
                    Ok(digest) => Event::Pulled { container, digest },
                    Err((reason, message)) => Event::Failed { container, reason, message },
                };
                self.post(uid, event);
            }
            Action::Start { container, attempt } => {
                let event = match self.start_container(uid, &pod, &container, attempt).await {
                    Ok(status) => {
                        let started = format!("Container started: {container}");
                        parts.recorder.pod(&pod, Some(&container), false, "Started", started);
                        event_of(status)
                    }
                    Err((reason, message)) => Some(Event::Failed { container, reason, message }),
                };
                if let Some(event) = event {
                    self.post(uid, event);
                }
            }
            Action::Stop { container, grace_seconds, message } => {
                parts.recorder.pod(&pod, Some(&container), false, "Killing", message);
                let stop = Stop { grace_seconds };
                let result = parts.host.stop_container(uid, &container, stop).await;
                if let Err(error) = &result
                    && error.problem().is_some_and(|p| p.code == ProblemCode::NotFound)
                {
                    self.post(uid, self.lost(uid, &container));
                } else if let Err(error) = result {
                    // A host that is gone is noticed, and told, by the one who watches it.
                    tracing::debug!(%error, pod = uid, container, "stop not delivered");
                }
            }
            Action::Probe { container, kind } => {
                let result = self.probe(uid, &pod, &container, kind).await;
                self.post(uid, Event::Probed { container, kind, result });
            }
            Action::RemoveSandbox => {
                loop {
                    match parts.host.delete_sandbox(uid).await {
                        Ok(()) => break,
                        Err(ClientError::Problem(p)) if p.code == ProblemCode::NotFound => break,
                        Err(ClientError::Unreachable { .. }) => break,
                        Err(error) => {
                            tracing::warn!(%error, pod = uid, "sandbox not removed, trying again")
                        }
                    }
                    tokio::time::sleep(RETRY).await;
                }
                parts.network.release(uid);
                self.post(uid, Event::SandboxRemoved);
            }
            Action::Report { warning, reason, message } => {
                parts.recorder.pod(&pod, None, warning, reason, message);
            }
            Action::Finish => self.finish(uid, &pod).await,
        }
    }

    async fn create_sandbox(&self, uid: &str, pod: &Pod) -> Result<IpAddr, String> {
        let parts = &self.inner.parts;
        let (namespace, name) = names(pod);
        let ip = IpAddr::V4(parts.network.allocate_pod_ip(uid).map_err(|e| e.to_string())?);
        let containers = || spec::containers(pod).map(|(_, c)| spec::limits(c));
        // A Pod is bounded by the sum of its containers' limits, where all of them have one.
        let memory: Option<Vec<u64>> = containers().map(|l| l.memory_limit).collect();
        let cpu: Option<Vec<u32>> = containers().map(|l| l.cpu_limit).collect();
        let sandbox = SandboxSpec {
            id: uid.to_owned(),
            labels: [("namespace", namespace), ("name", name)]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            hostname: spec::hostname(pod),
            ips: vec![ip],
            netns: parts.network.pod_netns().map(Into::into),
            log_dir: logs::pod_dir(&parts.logs, namespace, name, uid),
            memory_limit: memory.map(|all| all.iter().sum()),
            cpu_weight: containers().map(|l| l.cpu_request).sum::<u32>().max(1),
            cpu_limit: cpu.map(|all| all.iter().sum()),
            dns: None,
        };
        match parts.host.put_sandbox(&sandbox).await {
            Ok(made) => Ok(made.spec.ips.first().copied().unwrap_or(ip)),
            Err(error) => {
                parts.network.release(uid);
                Err(format!("Failed to create pod sandbox: {error}"))
            }
        }
    }

    async fn pull(&self, pod: &Pod, name: &str) -> Result<String, (&'static str, String)> {
        let parts = &self.inner.parts;
        let class = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref());
        if class == Some("oci") {
            let why = "runtimeClassName \"oci\" insists on a container runtime, and this node has none: it runs Wasm only";
            return Err(("CreateContainerError", why.to_owned()));
        }
        let container = spec::container(pod, name);
        let image = container.and_then(|c| c.image.as_deref()).unwrap_or_default();
        let policy = match container.and_then(|c| c.image_pull_policy.as_deref()) {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            _ => PullPolicy::IfNotPresent,
        };
        if parts.images.would_pull(image, policy) {
            let message = format!("Pulling image \"{image}\"");
            parts.recorder.pod(pod, Some(name), false, "Pulling", message);
        }
        let _permit = self.inner.pulls.acquire().await;
        let pulled = parts
            .images
            .ensure(image, policy)
            .await
            .map_err(|e: PullError| (e.reason(), e.to_string()))?;
        let message = match pulled.took {
            Some(took) => format!(
                "Successfully pulled image \"{image}\" in {}ms. Image size: {} bytes.",
                took.as_millis(),
                pulled.size
            ),
            None => format!("Container image \"{image}\" already present on machine"),
        };
        parts.recorder.pod(pod, Some(name), false, "Pulled", message);
        if self.prepared(&pulled.image.digest).is_none() {
            let info =
                parts.host.prepare_image(&pulled.image).await.map_err(|e| {
                    ("CreateContainerError", format!("image \"{image}\": {}", said(e)))
                })?;
            self.inner
                .prepared
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .insert(pulled.image.digest.clone(), info);
        }
        Ok(pulled.manifest_digest)
    }

    fn prepared(&self, digest: &str) -> Option<ImageInfo> {
        self.inner.prepared.lock().unwrap_or_else(|e| e.into_inner()).get(digest).cloned()
    }

    async fn start_container(
        &self,
        uid: &str,
        pod: &Pod,
        name: &str,
        attempt: u32,
    ) -> Result<ContainerStatus, (&'static str, String)> {
        let parts = &self.inner.parts;
        let missing = || ("CreateContainerConfigError", format!("no container {name} in the spec"));
        let container = spec::container(pod, name).ok_or_else(missing)?;
        let image_name = container.image.as_deref().unwrap_or_default();
        let image = parts
            .images
            .ensure(image_name, PullPolicy::IfNotPresent)
            .await
            .map_err(|e| (e.reason(), e.to_string()))?
            .image;
        let (namespace, pod_name) = names(pod);
        let config = |message: String| ("CreateContainerConfigError", message);
        let mut references = spec::references(container);
        let mounted = volumes::references(pod, container);
        references.0.extend(mounted.0);
        references.1.extend(mounted.1);
        let sources = self.sources(namespace, references).await.map_err(config)?;
        let ip = self.table().pods.get(uid).and_then(|e| e.state.ip);
        let facts = NodeFacts {
            pod_ip: ip.map(|ip| ip.to_string()).unwrap_or_default(),
            host_ip: parts.host_ip.clone(),
            cpu_millis: parts.allocatable.0,
            memory_bytes: parts.allocatable.1,
        };
        let env = spec::environment(pod, container, &sources, &facts)
            .map_err(|e| config(e.to_string()))?;
        let dir = parts.volumes.join(uid);
        let mounts =
            volumes::prepare(pod, container, &sources, &dir).map_err(|e| config(e.to_string()))?;
        let limits = spec::limits(container);
        let serves = self.prepared(&image.digest).is_none_or(|i| i.kind == ImageKind::Http);
        let ports = if serves { self.http_ports(pod, name) } else { Vec::new() };
        let open = serves && container.ports.iter().flatten().next().is_none();
        let logs = logs::pod_dir(&parts.logs, namespace, pod_name, uid);
        let spec = ContainerSpec {
            name: name.to_owned(),
            attempt,
            image,
            args: spec::arguments(container, &env, image_name),
            env,
            ports,
            mounts,
            memory_limit: limits.memory_limit,
            cpu_weight: limits.cpu_request,
            cpu_limit: limits.cpu_limit,
            log_path: logs::attempt_path(&logs, name, attempt),
            ..ContainerSpec::default()
        };
        parts.recorder.pod(pod, Some(name), false, "Created", format!("Container created: {name}"));
        let status = parts
            .host
            .start_container(uid, &spec)
            .await
            .map_err(|e| ("CreateContainerError", said(e)))?;
        if open && let Some(entry) = self.table().pods.get_mut(uid) {
            entry.open_ports.insert(name.to_owned(), spec);
        }
        Ok(status)
    }

    async fn sources(
        &self,
        namespace: &str,
        (maps, secrets): (Vec<String>, Vec<String>),
    ) -> Result<Sources, String> {
        let client = &self.inner.parts.client;
        let mut sources = Sources::default();
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        for name in maps {
            if let Some(map) =
                api.get_opt(&name).await.map_err(|e| format!("configmap \"{name}\": {e}"))?
            {
                sources.config_maps.insert(name, map);
            }
        }
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        for name in secrets {
            if let Some(secret) =
                api.get_opt(&name).await.map_err(|e| format!("secret \"{name}\": {e}"))?
            {
                sources.secrets.insert(name, secret);
            }
        }
        Ok(sources)
    }

    async fn probe(&self, uid: &str, pod: &Pod, name: &str, kind: ProbeKind) -> Result<(), String> {
        let ip = self.table().pods.get(uid).and_then(|e| e.state.ip);
        let container = spec::container(pod, name);
        let (Some(ip), Some(container)) = (ip, container) else {
            return Err("no address".to_owned());
        };
        let Some(probe) = spec::probe(container, kind) else { return Ok(()) };
        probes::run(ip, container, probe, |port| self.inner.parts.network.listen_port(port)).await
    }

    /// The host does not know a container that should be ending: it ended with what became of its host.
    fn lost(&self, uid: &str, container: &str) -> Event {
        let attempt = self
            .table()
            .pods
            .get_mut(uid)
            .and_then(|e| e.state.container(container).map(|c| c.restarts))
            .unwrap_or_default();
        let now = Timestamp::now();
        let how = Termination {
            code: 137,
            reason: "ContainerStatusUnknown".to_owned(),
            message: "the sandbox host does not know the container".to_owned(),
            started_at: now,
            finished_at: now,
        };
        Event::Exited { container: container.to_owned(), attempt, how }
    }

    async fn finish(&self, uid: &str, pod: &Pod) {
        let parts = &self.inner.parts;
        let (namespace, name) = names(pod);
        let deleted = self
            .table()
            .pods
            .get(uid)
            .is_some_and(|e| matches!(e.state.ending, Some(Ending::Deleted { .. })));
        if deleted {
            let api: Api<Pod> = Api::namespaced(parts.client.clone(), namespace);
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions {
                    uid: Some(uid.to_owned()),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            loop {
                match api.delete(name, &params).await {
                    Ok(_) => break,
                    // Gone, or another Pod of the same name.
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => break,
                    Err(error) => {
                        tracing::debug!(%error, pod = name, "Pod not deleted yet");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        }
        parts.network.release(uid);
        self.table().pods.remove(uid);
        let folders = [logs::pod_dir(&parts.logs, namespace, name, uid), parts.volumes.join(uid)];
        for folder in folders {
            if let Err(error) = tokio::fs::remove_dir_all(&folder).await
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, folder = %folder.display(), "folder of an ended Pod not removed");
            }
        }
    }

    /// Tells the API of the Pod's status, if it changed.
    fn report(&self, uid: &str) {
        {
            let mut table = self.table();
            let Some(entry) = table.pods.get_mut(uid) else { return };
            if entry.settling != Settling::Over && entry.state.is_starting() {
                if entry.settling == Settling::New {
                    entry.settling = Settling::Waiting;
                    let (workers, uid) = (self.clone(), uid.to_owned());
                    tokio::spawn(async move { workers.settle(&uid).await });
                }
                return;
            }
            if entry.reporting {
                entry.again = true;
                return;
            }
            entry.reporting = true;
        }
        let (workers, uid) = (self.clone(), uid.to_owned());
        tokio::spawn(async move { workers.reporter(&uid).await });
    }

    async fn settle(&self, uid: &str) {
        tokio::time::sleep(SETTLE).await;
        if let Some(entry) = self.table().pods.get_mut(uid) {
            entry.settling = Settling::Over;
        }
        self.report(uid);
    }

    async fn reporter(&self, uid: &str) {
        loop {
            let (pod, status) = {
                let mut table = self.table();
                let Some(entry) = table.pods.get_mut(uid) else { return };
                entry.again = false;
                let vanished = entry.state.ending == Some(Ending::Vanished);
                let host_ip = &self.inner.parts.host_ip;
                let status = status::status(
                    &entry.pod,
                    &entry.state,
                    entry.told.as_ref(),
                    host_ip,
                    Timestamp::now(),
                );
                if vanished || entry.told.as_ref() == Some(&status) {
                    entry.reporting = false;
                    return;
                }
                (entry.pod.clone(), status)
            };
            let result = {
                let _permit = self.inner.reporters.acquire().await;
                let (namespace, name) = names(&pod);
                let api: Api<Pod> = Api::namespaced(self.inner.parts.client.clone(), namespace);
                let patch = json!({"metadata": {"uid": uid}, "status": with_nulls(&status)});
                api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await
            };
            match result {
                Ok(_) => {
                    if let Some(entry) = self.table().pods.get_mut(uid) {
                        entry.told = Some(status);
                    }
                }
                Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409 | 422) => {
                    // Gone, or another by now; the watch tells.
                    if let Some(entry) = self.table().pods.get_mut(uid) {
                        entry.told = Some(status);
                    }
                    tracing::debug!(pod = uid, %answer, "status not taken");
                }
                Err(error) => {
                    tracing::debug!(pod = uid, %error, "status not delivered yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        self.table().pods.get(uid).map(|e| e.pod.clone())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A merge patch keeps what it does not name: fields that may go away are named.
fn with_nulls(status: &PodStatus) -> serde_json::Value {
    let mut value = json!(status);
    if let Some(map) = value.as_object_mut() {
        for field in ["reason", "message", "podIP", "podIPs"] {
            map.entry(field).or_insert(serde_json::Value::Null);
        }
    }
    value
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

fn event_of(status: ContainerStatus) -> Option<Event> {
    let (container, attempt) = (status.name, status.attempt);
    match status.state {
        ContainerState::Created => None,
        ContainerState::Running { started_at } => {
            Some(Event::Started { container, attempt, at: started_at })
        }
        ContainerState::Exited { code, reason, message, started_at, finished_at } => {
            let reason = reason.as_str().to_owned();
            let how = Termination { code, reason, message, started_at, finished_at };
            Some(Event::Exited { container, attempt, how })
        }
    }
}
