//! One node that pretends.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body_util::BodyStream;
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use super::{Counts, Options};
use crate::api::{Shared, expect};

/// How often agents renew their Leases, or less often where there are many.
const RENEW: Duration = Duration::from_millis(2500);
const RENEW_PER_MACHINE: Duration = Duration::from_micros(2500);
/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits after what went wrong.
const PAUSE: Duration = Duration::from_millis(500);
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

pub(super) struct FakeNode {
    name: String,
    number: usize,
    options: Options,
    api: Shared,
    counts: Arc<Counts>,
    /// By UID, those that it knows.
    pods: HashMap<String, Pod>,
    /// What is to be done when, to the Pod of that UID.
    due: BinaryHeap<Reverse<(Instant, String)>>,
}

/// What it keeps of a Pod.
struct Pod {
    namespace: String,
    name: String,
    containers: Vec<Container>,
    ready: bool,
    deleting: bool,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    #[serde(default)]
    image: String,
}

#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: Head,
}

#[derive(Deserialize)]
struct List {
    metadata: Meta,
    items: Vec<Head>,
}

#[derive(Deserialize)]
struct Head {
    metadata: Meta,
    spec: Option<Spec>,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Meta {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize)]
struct Spec {
    containers: Vec<Container>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    phase: String,
}

impl FakeNode {
    pub(super) fn new(number: usize, options: Options, api: Shared, counts: Arc<Counts>) -> Self {
        Self {
            name: format!("sim-{number:04}"),
            number,
            options,
            api,
            counts,
            pods: HashMap::new(),
            due: BinaryHeap::new(),
        }
    }

    /// Does what a node does, for ever; it takes its turn to begin.
    pub(super) async fn live(mut self, turns: Arc<Semaphore>) {
        loop {
            let turn = turns.acquire().await;
            let registered = self.register().await;
            drop(turn);
            match registered {
                Ok(()) => break,
                Err(error) => self.failed("register", &error).await,
            }
        }
        self.counts.registered.fetch_add(1, Ordering::Relaxed);
        // As agents do: the Lease is renewed beside all else, however much that is.
        let mut heart = Self::new(self.number, self.options, self.api.clone(), self.counts.clone());
        let beat = async {
            // They do not all start at one moment.
            let offset = heart.every().mul_f64((heart.number * 37 % 100) as f64 / 100.0);
            tokio::time::sleep(offset).await;
            let mut failing = false;
            loop {
                // Who was not heard in time says everything again.
                let told =
                    async { if failing { heart.register().await } else { heart.renew().await } };
                let told = tokio::time::timeout(PATIENCE, told).await;
                failing = !matches!(told, Ok(Ok(())));
                match told {
                    Ok(Ok(())) => tokio::time::sleep(heart.every()).await,
                    Ok(Err(error)) => heart.failed("renew its Lease", &error).await,
                    Err(late) => heart.failed("renew its Lease", &late.into()).await,
                }
            }
        };
        let follow = async {
            loop {
                if let Err(error) = self.follow().await {
                    self.failed("follow", &error).await;
                }
            }
        };
        tokio::join!(beat, follow);
    }

    async fn failed(&self, what: &str, error: &anyhow::Error) {
        if self.counts.failures.fetch_add(1, Ordering::Relaxed) < 5 {
            crate::say(&format!("    {} could not {what}: {error:#}", self.name));
        }
        tokio::time::sleep(PAUSE).await;
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&str, String)>,
    ) -> anyhow::Result<StatusCode> {
        let (status, body) = self.api.call(&self.name, method, path, body).await?;
        // Somebody else was first, or it is gone.
        if !matches!(status, StatusCode::CONFLICT | StatusCode::NOT_FOUND) {
            expect(status, &body, path)?;
        }
        Ok(status)
    }

    async fn register(&mut self) -> anyhow::Result<()> {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.name, "labels": {
                "kubernetes.io/hostname": self.name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "coracle.dev/runtime-wasm": "true",
                "coracle.dev/runtime-oci": "false",
                "topology.kubernetes.io/zone": format!("zone-{}", self.number % self.options.zones),
            }},
            "status": {"capacity": room()},
        });
        let json = "application/json";
        self.call(Method::POST, "/api/v1/nodes", Some((json, node.to_string()))).await?;
        let path = format!("/api/v1/nodes/{}/status", self.name);
        self.call(Method::PATCH, &path, Some((STRATEGIC, self.status()))).await?;
        self.renew().await
    }

    fn status(&self) -> String {
        let now = now();
        let condition = |kind: &str, status: &str, reason: &str| {
            json!({"type": kind, "status": status, "reason": reason, "message": "",
                "lastHeartbeatTime": now, "lastTransitionTime": now})
        };
        let ip = format!("192.168.{}.{}", self.number / 250, self.number % 250 + 1);
        let status = json!({"status": {
            "capacity": room(), "allocatable": room(),
            "addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": self.name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {"machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "6.18.0", "osImage": "Linux",
                "containerRuntimeVersion": "coracle://1.36.0", "kubeletVersion": "v1.36.0", "kubeProxyVersion": "v1.36.0",
                "operatingSystem": "linux", "architecture": "amd64"},
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady"),
            ],
        }});
        status.to_string()
    }

    fn every(&self) -> Duration {
        RENEW.max(RENEW_PER_MACHINE * self.options.nodes as u32)
    }

    async fn renew(&mut self) -> anyhow::Result<()> {
        let lasts = (4 * self.every()).as_secs();
        let renewed = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let spec = json!({"holderIdentity": self.name, "leaseDurationSeconds": lasts, "renewTime": renewed});
        let all = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let path = format!("{all}/{}", self.name);
        let patch = json!({"spec": spec}).to_string();
        if self.call(Method::PATCH, &path, Some((MERGE, patch))).await? == StatusCode::NOT_FOUND {
            let metadata = json!({"name": self.name, "namespace": "kube-node-lease"});
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec});
            self.call(Method::POST, all, Some(("application/json", lease.to_string()))).await?;
        }
        self.counts.leases.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Lists and watches its Pods, and does what they need, until something fails or the watch ends.
    async fn follow(&mut self) -> anyhow::Result<()> {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.name);
        let (status, body) = self.api.call(&self.name, Method::GET, &path, None).await?;
        expect(status, &body, &path)?;
        let list: List = serde_json::from_slice(&body)?;
        let listed: Vec<&str> = list.items.iter().map(|pod| pod.metadata.uid.as_str()).collect();
        self.pods.retain(|uid, _| listed.contains(&uid.as_str()));
        list.items.into_iter().for_each(|pod| self.apply(pod));
        let path = format!(
            "{path}&watch=true&allowWatchBookmarks=true&resourceVersion={}",
            list.metadata.resource_version
        );
        let response = self.api.send(&self.name, Method::GET, &path, None).await?;
        if !response.status().is_success() {
            bail!("{path}: {}", response.status());
        }
        let mut frames: BoxStream<'_, _> = BodyStream::new(response.into_body()).boxed();
        let mut rest = Vec::new();
        loop {
            let next = self.due.peek().map(|Reverse((at, _))| *at);
            tokio::select! {
                frame = frames.next() => {
                    let Some(frame) = frame else { return Ok(()) };
                    let Ok(data) = frame?.into_data() else { continue };
                    rest.extend_from_slice(&data);
                    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                        let event: Event = serde_json::from_slice(&rest[..end])?;
                        rest.drain(..=end);
                        match event.r#type.as_str() {
                            "ADDED" | "MODIFIED" => self.apply(event.object),
                            "DELETED" => { self.pods.remove(&event.object.metadata.uid); }
                            "BOOKMARK" => {}
                            other => bail!("the watch says {other}"),
                        }
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.work().await?,
            }
        }
    }

    fn apply(&mut self, pod: Head) {
        let Head { metadata: meta, spec, status } = pod;
        let at = Instant::now() + self.options.delay;
        let deleting = meta.deletion_timestamp.is_some();
        match self.pods.get_mut(&meta.uid) {
            None => {
                self.counts.seen.fetch_add(1, Ordering::Relaxed);
                self.due.push(Reverse((at, meta.uid.clone())));
                let ready = status.phase == "Running";
                let containers = spec.map(|spec| spec.containers).unwrap_or_default();
                let (namespace, name) = (meta.namespace, meta.name);
                let pod = Pod { namespace, name, containers, ready, deleting };
                self.pods.insert(meta.uid, pod);
            }
            Some(pod) if deleting && !pod.deleting => {
                pod.deleting = true;
                self.due.push(Reverse((at, meta.uid)));
            }
            Some(_) => {}
        }
    }

    /// Does what is due.
    async fn work(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        while let Some(Reverse((at, _))) = self.due.peek()
            && *at <= now
            && let Some(Reverse((_, uid))) = self.due.pop()
        {
            if let Err(error) = self.work_on(&uid).await {
                self.due.push(Reverse((now, uid)));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends the Pod of that UID if it is to end, else says that it runs, once.
    async fn work_on(&mut self, uid: &str) -> anyhow::Result<()> {
        let Some(pod) = self.pods.get(uid) else { return Ok(()) };
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
        if pod.deleting {
            let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
            let options = ("application/json", options.to_string());
            self.call(Method::DELETE, &path, Some(options)).await?;
        } else if !pod.ready {
            let patch = (STRATEGIC, running(pod, self.number, uid));
            let path = format!("{path}/status");
            if self.call(Method::PATCH, &path, Some(patch)).await?.is_success() {
                self.counts.ready.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(pod) = self.pods.get_mut(uid) {
                pod.ready = true;
            }
        }
        Ok(())
    }
}

fn room() -> Value {
    json!({"cpu": "8", "memory": "32Gi", "pods": "110"})
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What an agent says of a Pod that runs.
fn running(pod: &Pod, node: usize, uid: &str) -> String {
    let now = now();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let containers = pod.containers.iter().map(|container| {
        json!({
            "name": container.name, "image": container.image, "imageID": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c",
            "containerID": format!("coracle://{uid}/{}", container.name), "ready": true, "started": true, "restartCount": 0,
            "state": {"running": {"startedAt": now}},
        })
    });
    let last = uid.bytes().fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    let ip = format!("10.{}.{}.{last}", 64 + node / 256, node % 256);
    let status = json!({"metadata": {"uid": uid}, "status": {
        "phase": "Running", "startTime": now, "hostIP": "192.168.0.1", "hostIPs": [{"ip": "192.168.0.1"}],
        "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [
            condition("PodReadyToStartContainers"), condition("Initialized"), condition("Ready"), condition("ContainersReady"),
        ],
        "containerStatuses": containers.collect::<Vec<_>>(),
    }});
    status.to_string()
}
