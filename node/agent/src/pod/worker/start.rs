//! From an accepted Pod to running containers: the sandbox, the image, what the container sees, and the start.

use std::net::IpAddr;

use coracle_sandbox::{ContainerSpec, ContainerStatus, ImageInfo, ImageKind, SandboxSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Api;

use super::{Workers, images, names, said};
use crate::images::PullError;
use crate::logs;
use crate::pod::annotations::{self, Annotations, Settings};
use crate::pod::env::{self, NodeFacts, Sources};
use crate::pod::spec;
use crate::pod::termination;
use crate::pod::volumes;

impl Workers {
    /// Where a component is really bound: an ordinary user's low ports are moved.
    fn http_ports(&self, pod: &Pod, name: &str) -> Vec<u16> {
        let parts = &self.inner.parts;
        let ports = parts.services.http_ports(pod, name).into_iter();
        ports.map(|port| parts.network.listen_port(port)).collect()
    }

    async fn serve_on(&self, uid: &str, name: &str, spec: ContainerSpec) {
        match self.inner.parts.hosts.of(uid).start_container(uid, &spec).await {
            Ok(_) => {
                if let Some(entry) = self.table().pods.get_mut(uid) {
                    entry.open_ports.insert(name.to_owned(), spec);
                }
            }
            Err(error) => tracing::warn!(%error, pod = uid, container = name, "ports not opened"),
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

    pub(super) async fn create_sandbox(&self, uid: &str, pod: &Pod) -> Result<IpAddr, String> {
        let parts = &self.inner.parts;
        let (namespace, name) = names(pod);
        let ip = IpAddr::V4(parts.network.allocate_pod_ip(uid).map_err(|e| e.to_string())?);
        let place = match parts.hosts.place(uid, pod).await {
            Ok(place) => place,
            Err(error) => {
                parts.network.release(uid);
                return Err(format!("Failed to create pod sandbox: {error}"));
            }
        };
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
            netns: place.netns,
            log_dir: place.folders.pod_logs(namespace, name, uid),
            memory_limit: memory.map(|all| all.iter().sum()),
            cpu_weight: containers().map(|l| l.cpu_request).sum::<u32>().max(1),
            cpu_limit: cpu.map(|all| all.iter().sum()),
            ..SandboxSpec::default()
        };
        match place.client.put_sandbox(&sandbox).await {
            Ok(made) => Ok(made.spec.ips.first().copied().unwrap_or(ip)),
            Err(error) => {
                parts.network.release(uid);
                Err(format!("Failed to create pod sandbox: {error}"))
            }
        }
    }

    pub(super) async fn pull(
        &self,
        pod: &Pod,
        name: &str,
    ) -> Result<String, (&'static str, String)> {
        let parts = &self.inner.parts;
        let class = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref());
        if class == Some("oci") {
            let why = "runtimeClassName \"oci\" insists on a container runtime, and this node has none: it runs Wasm only";
            return Err(("CreateContainerError", why.to_owned()));
        }
        let container = spec::container(pod, name);
        let missing = || ("CreateContainerConfigError", format!("no container {name} in the spec"));
        let wanted = images::wanted(container.ok_or_else(missing)?);
        let image = wanted.name;
        let pulling = || {
            let message = format!("Pulling image \"{image}\"");
            parts.recorder.pod(pod, Some(name), false, "Pulling", message);
        };
        let host = parts.hosts.of(pod.metadata.uid.as_deref().unwrap_or_default());
        let pulled = parts
            .images
            .ensure(wanted, self.keyring(pod), pulling)
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
            let _permit = self.inner.pulls.acquire().await;
            let info = host
                .prepare_image(&pulled.image)
                .await
                .map_err(|e| ("CreateContainerError", format!("image \"{image}\": {}", said(e))))?;
            self.inner
                .prepared
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .insert(pulled.image.digest.clone(), info);
        }
        Ok(pulled.manifest_digest)
    }

    fn pulled_digest(&self, uid: &str, name: &str) -> String {
        let mut table = self.table();
        let container = table.pods.get_mut(uid).and_then(|e| e.state.container(name));
        container.map(|c| c.image_digest.to_string()).unwrap_or_default()
    }

    fn prepared(&self, digest: &str) -> Option<ImageInfo> {
        self.inner.prepared.lock().unwrap_or_else(|e| e.into_inner()).get(digest).cloned()
    }

    pub(super) async fn start_container(
        &self,
        uid: &str,
        pod: &Pod,
        name: &str,
        attempt: u32,
    ) -> Result<ContainerStatus, (&'static str, String)> {
        let parts = &self.inner.parts;
        let missing = || ("CreateContainerConfigError", format!("no container {name} in the spec"));
        let container = spec::container(pod, name).ok_or_else(missing)?;
        if let Some(why) = spec::unfit_for_wasm(container) {
            return Err(("CreateContainerConfigError", why));
        }
        let image_name = container.image.as_deref().unwrap_or_default();
        // What was pulled for this attempt, whatever its name means by now.
        let digest = self.pulled_digest(uid, name);
        let pulled = parts
            .images
            .by_digest(image_name, &digest, images::wanted(container).words)
            .await
            .map_err(|e| (e.reason(), e.to_string()))?;
        let (image, run) = (pulled.image, pulled.run);
        let (namespace, pod_name) = names(pod);
        let config = |message: String| ("CreateContainerConfigError", message);
        let mut references = env::references(container);
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
        let environment = env::environment(pod, container, &sources, &facts)
            .map_err(|e| config(e.to_string()))?;
        let settings = self.settings(pod, name).await.map_err(config)?;
        let folders = parts.hosts.folders(uid);
        let dir = folders.pod_volumes(uid);
        let mut mounts =
            volumes::prepare(pod, container, &sources, &dir).map_err(|e| config(e.to_string()))?;
        let limits = spec::limits(container);
        let serves = self.prepared(&image.digest).is_none_or(|i| i.kind == ImageKind::Http);
        if !serves {
            let room = termination::prepare(container, &mounts, &dir, attempt);
            mounts.extend(room.map_err(|e| config(format!("terminationMessagePath: {e}")))?);
        }
        let ports = if serves { self.http_ports(pod, name) } else { Vec::new() };
        let open = serves && container.ports.iter().flatten().next().is_none();
        let logs = folders.pod_logs(namespace, pod_name, uid);
        let spec = ContainerSpec {
            name: name.to_owned(),
            attempt,
            image,
            args: images::arguments(container, &environment, &run),
            env: images::environment(&run, environment),
            ports,
            mounts,
            memory_limit: limits.memory_limit,
            cpu_weight: limits.cpu_request,
            cpu_limit: limits.cpu_limit,
            log_path: logs::attempt_path(&logs, name, attempt),
            log_limit: settings.log_limit,
            http: settings.http,
            grants: settings.grants,
            working_dir: container.working_dir.clone().filter(|d| !d.is_empty()).map(Into::into),
            ..ContainerSpec::default()
        };
        parts.recorder.pod(pod, Some(name), false, "Created", format!("Container created: {name}"));
        let status = parts
            .hosts
            .of(uid)
            .start_container(uid, &spec)
            .await
            .map_err(|e| ("CreateContainerError", said(e)))?;
        logs::forget_old(&logs, name, attempt).await;
        if open && let Some(entry) = self.table().pods.get_mut(uid) {
            entry.open_ports.insert(name.to_owned(), spec);
        }
        Ok(status)
    }

    /// What annotations of the Pod and its Namespace say.
    async fn settings(&self, pod: &Pod, container: &str) -> Result<Settings, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let defaults = self.inner.parts.namespaces.annotations(namespace).await;
        let defaults = defaults.map_err(|e| format!("namespace \"{namespace}\": {e}"))?;
        let none = Annotations::new();
        let source = annotations::Source {
            pod: pod.metadata.annotations.as_ref().unwrap_or(&none),
            namespace: &defaults,
        };
        annotations::settings(source, container).map_err(|e| e.to_string())
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
}
