//! From an accepted Pod to running containers: the sandbox, the image, what the container sees, and the start.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_sandbox::{
    Client, ClientError, ContainerSpec, ContainerStatus, ImageInfo, ImageKind, Problem,
    ProblemCode, SandboxSpec, SandboxStatus,
};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::containers::Unpacked;
use super::{Entry, Workers, images, names, said};
use crate::images::Workload;
use crate::isolation::{self, Group};
use crate::logs;
use crate::pod::annotations::{self, Annotations, Settings};
use crate::pod::env::{self, NodeFacts};
use crate::pod::kept::Kept;
use crate::pod::lifecycle::Event;
use crate::pod::names as pod_names;
use crate::pod::oci;
use crate::pod::ports;
use crate::pod::resources::pod_limits;
use crate::pod::spec;
use crate::pod::termination;
use crate::pod::volumes::{MountError, Owner};

/// Why an image cannot be run.
fn refused(image: &str, problem: &Problem) -> (&'static str, String) {
    ("CreateContainerError", format!("image \"{image}\": {}", problem.message))
}

/// What people are told of an image that is new here.
fn compiled(image: &str, took: Duration, info: &ImageInfo) -> String {
    let what = match info.kind {
        ImageKind::Http => "serves HTTP",
        _ => "is a command",
    };
    let adapted = if info.adapted { ", made from a core module" } else { "" };
    let imports =
        if info.imports.is_empty() { "nothing".to_owned() } else { info.imports.join(", ") };
    format!(
        "Compiled image \"{image}\" in {}ms: it {what}{adapted}, and imports {imports}",
        took.as_millis()
    )
}

/// Why a container cannot have its volumes.
pub(super) fn mount(error: MountError) -> (&'static str, String) {
    match error {
        MountError::SetUp { .. } => ("ContainerCreating", error.to_string()),
        MountError::Mount(message) => ("CreateContainerConfigError", message),
    }
}

/// The machine's resolver: what a Pod's `dnsConfig` is added to where it does not ask the cluster's.
const RESOLV_CONF: &str = "/etc/resolv.conf";

impl Workers {
    /// Where a component is really bound: an ordinary user's low ports are moved.
    fn http_ports(&self, pod: &Pod, name: &str) -> Vec<u16> {
        let parts = &self.inner.parts;
        let ports = parts.services.http_ports(pod, name).into_iter();
        ports.map(|port| parts.network.listen_port(port)).collect()
    }

    async fn serve_on(&self, uid: &str, name: &str, spec: ContainerSpec) {
        match self.inner.parts.hosts.of(uid, name).start_container(uid, &spec).await {
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
                let ports = self.http_ports(&entry.pod.peek(), name);
                if ports != spec.ports {
                    let (workers, uid, name) = (self.clone(), uid.clone(), name.clone());
                    let spec = ContainerSpec { ports, ..spec.clone() };
                    tokio::spawn(async move { workers.serve_on(&uid, &name, spec).await });
                }
            }
        }
    }

    /// Whether the ports of the machine that a Pod asks for are its own now. Who was here first has them until it is gone.
    fn take_on(&self, uid: &str) -> bool {
        let mut table = self.table();
        let Some(entry) = table.pods.get(uid) else { return true };
        if !entry.is_taken_on && !entry.ports.is_empty() {
            let here = |(of, other): (&String, &Entry)| {
                *of != uid && other.is_taken_on && other.state.outcome().is_none()
            };
            let mut others = table.pods.iter().filter(|other| here(*other));
            if others.any(|(_, other)| ports::conflict(&entry.ports, &other.ports)) {
                return false;
            }
        }
        if let Some(entry) = table.pods.get_mut(uid) {
            entry.is_taken_on = true;
        }
        true
    }

    pub(super) async fn create_sandbox(&self, uid: &str, pod: &Arc<Pod>) -> Result<IpAddr, Event> {
        let parts = &self.inner.parts;
        let (namespace, name) = names(pod);
        let failed = Event::SandboxFailed;
        if !self.take_on(uid) {
            let message = ports::MESSAGE.to_owned();
            return Err(Event::SandboxRefused { reason: ports::REASON, message });
        }
        if let Some(problem) = pod_names::problem(pod) {
            return Err(failed(problem));
        }
        if let Some(refused) = self.refuses(uid, pod) {
            return Err(refused);
        }
        if let Some(problem) = self.lacks_runtime(pod).await {
            return Err(failed(problem));
        }
        // Who runs it has to be allowed the folders of its claims.
        let resolved = parts.volumes.resolve(uid, pod).await;
        let pod = &resolved.map_err(|error| failed(error.to_string()))?;
        let containers = self.needs_containers(uid, pod).await;
        if containers != parts.hosts.has_containers(uid) {
            self.move_out(uid).await;
        }
        if containers && let Err(message) = oci::allowed_sysctls(pod) {
            return Err(Event::SandboxRefused { reason: "SysctlForbidden", message });
        }
        let ip = match containers && oci::is_on_host_network(pod) {
            true => parts.host_ip.parse().map_err(|e| failed(format!("{}: {e}", parts.host_ip)))?,
            false => {
                IpAddr::V4(parts.network.allocate_pod_ip(uid).map_err(|e| failed(e.to_string()))?)
            }
        };
        let cgroup = || parts.hosts.pod_cgroup(uid);
        let oci = containers.then(|| oci::sandbox(pod, cgroup())).transpose().map_err(failed)?;
        let limits = pod_limits(pod);
        let sandbox = SandboxSpec {
            id: uid.to_owned(),
            labels: [("namespace", namespace), ("name", name)]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            hostname: pod_names::hostname(pod),
            dns: pod_names::dns(
                pod,
                || std::fs::read_to_string(RESOLV_CONF).unwrap_or_default(),
                // Wasm hosts find Services by themselves.
                parts.name_server.filter(|_| containers),
            ),
            names: pod_names::names(pod),
            hosts: pod_names::aliases(pod),
            ips: vec![ip],
            memory_limit: limits.memory_limit,
            cpu_weight: limits.cpu_request.max(1),
            cpu_limit: limits.cpu_limit,
            oci,
            ..SandboxSpec::default()
        };
        let made = match containers {
            true => self.put_containers(pod, sandbox).await,
            false => self.put_sandbox(pod, sandbox).await,
        };
        match made {
            Ok(made) => {
                let ip = made.spec.ips.first().copied().unwrap_or(ip);
                self.lead_host_ports(uid, pod, Some(ip)).await;
                Ok(ip)
            }
            Err(error) => {
                parts.hosts.leave(uid).await;
                parts.network.release(uid);
                Err(failed(format!("Failed to create pod sandbox: {error}")))
            }
        }
    }

    /// Puts a sandbox into the host of its Pod's isolation group.
    async fn put_sandbox(&self, pod: &Pod, spec: SandboxSpec) -> Result<SandboxStatus, String> {
        let parts = &self.inner.parts;
        let (namespace, name) = names(pod);
        let defaults = parts.namespaces.annotations(namespace).await;
        let defaults = defaults.map_err(|e| format!("namespace \"{namespace}\": {e}"))?;
        let group = isolation::group(pod, &defaults).map_err(|e| e.to_string())?;
        let host_paths = isolation::host_paths(pod).map(Into::into).collect();
        let told = match &group {
            Group::Shared => None,
            Group::Namespace(name) => {
                Some(format!("Runs in the sandbox host of namespace \"{name}\""))
            }
            Group::Pod(_) => Some("Runs in a sandbox host of its own".to_owned()),
        };
        let place = parts.hosts.place(group, host_paths, &spec).await.map_err(|e| e.to_string())?;
        let log_dir = place.folders.pod_logs(namespace, name, &spec.id);
        let spec = SandboxSpec { netns: place.netns, log_dir, ..spec };
        let made = place.client.put_sandbox(&spec).await.map_err(|e| e.to_string())?;
        if let Some(told) = told {
            parts.recorder.pod(pod, None, false, "Isolated", told);
        }
        Ok(made)
    }

    pub(super) async fn pull(
        &self,
        pod: &Pod,
        name: &str,
    ) -> Result<Option<String>, (&'static str, String)> {
        let parts = &self.inner.parts;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let container = spec::container(pod, name);
        let missing = || ("CreateContainerConfigError", format!("no container {name} in the spec"));
        let container = container.ok_or_else(missing)?;
        let image = images::wanted(&container).name;
        let pulled = self.fetched(uid, pod, name).await.map_err(|e| (e.reason(), e.to_string()))?;
        let message = match pulled.took {
            Some(took) => format!(
                "Successfully pulled image \"{image}\" in {}ms. Image size: {} bytes.",
                took.as_millis(),
                pulled.size
            ),
            None => format!("Container image \"{image}\" already present on machine"),
        };
        parts.recorder.pod(pod, Some(name), false, "Pulled", message);
        self.suits(pod, image, &pulled.workload)?;
        let wasm = match pulled.workload {
            Workload::Wasm(wasm) => wasm,
            Workload::Container { .. } => {
                let fits = parts.hosts.has_containers(uid);
                if !fits && spec::is_ephemeral(pod, name) {
                    let why = format!(
                        "image \"{image}\" is a container image, and this Pod is of Wasm alone: it has no namespaces that a container could join; \
                         `kubectl debug` with --copy-to=NAME makes a Pod that has both, and an image with Wasm runs here"
                    );
                    return Err(("CreateContainerError", why));
                }
                // The sandbox was made before this was known.
                return Ok(fits.then_some(pulled.manifest_digest));
            }
        };
        let limit = spec::limits(&container).memory_limit;
        let ready = parts
            .compiler
            .ensure(&wasm, limit)
            .await
            .map_err(|problem| refused(image, &problem))?;
        if let Some(took) = ready.took {
            let message = compiled(image, took, &ready.image.info);
            parts.recorder.pod(pod, Some(name), false, "Compiled", message);
        }
        if let Some(entry) = self.table().pods.get_mut(uid) {
            entry.imports.insert(name.to_owned(), ready.image);
        }
        Ok(Some(pulled.manifest_digest))
    }

    fn pulled_digest(&self, uid: &str, name: &str) -> String {
        let mut table = self.table();
        let container = table.pods.get_mut(uid).and_then(|e| e.state.container(name));
        container.map(|c| c.image_digest.to_string()).unwrap_or_default()
    }

    pub(super) async fn start_container(
        &self,
        uid: &str,
        pod: &Arc<Pod>,
        name: &str,
        attempt: u32,
    ) -> Result<ContainerStatus, (&'static str, String)> {
        let parts = &self.inner.parts;
        let missing = || ("CreateContainerConfigError", format!("no container {name} in the spec"));
        let found = spec::container(pod, name).ok_or_else(missing)?;
        let container = found.as_ref();
        let image_name = container.image.as_deref().unwrap_or_default();
        // What was pulled for this attempt, whatever its name means by now.
        let digest = self.pulled_digest(uid, name);
        let pulled = parts
            .images
            .by_digest(image_name, &digest, images::wanted(container).words)
            .await
            .map_err(|e| (e.reason(), e.to_string()))?;
        let (image, run) = match pulled.workload {
            Workload::Wasm(image) => (image, pulled.run),
            Workload::Container { layers, folders } => {
                let image = Unpacked { digest, layers, folders, run: pulled.run };
                return self.start_oci(uid, pod, container, attempt, image).await;
            }
        };
        if let Some(why) = spec::unfit_for_wasm(container) {
            return Err(("CreateContainerConfigError", why));
        }
        let (namespace, pod_name) = names(pod);
        let host = self.wasm_host(uid, namespace, pod_name, name).await?;
        let config = |message: String| ("CreateContainerConfigError", message);
        let info = parts.compiler.known(&image.digest);
        let uses_files = info.as_ref().is_none_or(|known| {
            known.info.imports.iter().any(|import| import.starts_with("wasi:filesystem/"))
        });
        let volumes = &parts.volumes;
        let owner = Owner::of(&parts.hosts.folders(uid), pod).with_wasm();
        let kept = self.kept(uid).unwrap_or_else(|| Kept::of(pod.clone()));
        let set_up = volumes.set_up(uid, &kept, container, owner, uses_files);
        let set_up = set_up.await.map_err(mount)?;
        let environment = self.environment(uid, pod, container).await.map_err(config)?;
        let settings = self.settings(pod, name).await.map_err(config)?;
        let folders = parts.hosts.folders(uid);
        let mut mounts = set_up.mounts(container, &environment).map_err(mount)?;
        let limits = spec::limits(container);
        let serves = info.is_none_or(|known| known.info.kind == ImageKind::Http);
        if !serves && uses_files {
            let dir = volumes.dir(uid);
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
        let status = self.start_compiled(&host, uid, &spec, image_name).await?;
        logs::forget_old(&logs, name, attempt).await;
        if open && let Some(entry) = self.table().pods.get_mut(uid) {
            entry.open_ports.insert(name.to_owned(), spec);
        }
        Ok(status)
    }

    /// The container's environment but for what its image sets.
    pub(super) async fn environment(
        &self,
        uid: &str,
        pod: &Pod,
        container: &Container,
    ) -> Result<Vec<(String, String)>, String> {
        let parts = &self.inner.parts;
        let references = env::references(container);
        let sources = parts.objects.sources(uid, names(pod).0, &references).await?;
        let ip = self.table().pods.get(uid).and_then(|e| e.state.ip);
        let facts = NodeFacts {
            pod_ip: ip.map(|ip| ip.to_string()).unwrap_or_default(),
            host_ip: parts.host_ip.clone(),
            cpu_millis: parts.allocatable.0,
            memory_bytes: parts.allocatable.1,
            storage_bytes: parts.volumes.storage(),
            services: parts.services.variables(pod).await,
            volumes: parts.volumes.dir(uid),
        };
        env::environment(pod, container, &sources, &facts).map_err(|e| e.to_string())
    }

    /// Starts a container; code that its host lacks is compiled first. That happens when the host is not of this program, or
    /// when its guests need more room than others with the same image.
    async fn start_compiled(
        &self,
        host: &Client,
        uid: &str,
        spec: &ContainerSpec,
        image: &str,
    ) -> Result<ContainerStatus, (&'static str, String)> {
        let parts = &self.inner.parts;
        for _ in 0..2 {
            let problem = match host.start_container(uid, spec).await {
                Ok(status) => return Ok(status),
                Err(ClientError::Problem(problem)) if problem.code == ProblemCode::NotCompiled => {
                    problem
                }
                Err(error) => return Err(("CreateContainerError", said(error))),
            };
            let class = problem.class.as_deref();
            let program = parts.compiler.program_of(host).await;
            let made = parts.compiler.again(&spec.image, class, program).await;
            made.map_err(|problem| refused(image, &problem))?;
        }
        host.start_container(uid, spec).await.map_err(|e| ("CreateContainerError", said(e)))
    }

    /// What annotations of the Pod and its Namespace say.
    pub(super) async fn settings(&self, pod: &Pod, container: &str) -> Result<Settings, String> {
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
}
