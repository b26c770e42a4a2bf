//! The host itself: the sandbox protocol's [`Runtime`], implemented with components.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use coracle_sandbox::{
    API_VERSION, ContainerSpec, ContainerStatus, ContainerUsage, EventStream, Events, Image,
    ImageInfo, ImageKind, Info, Problem, ProblemCode, Resources, Routes, RoutesStatus, Runtime,
    SandboxSpec, SandboxStatus, Stop,
};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::activity::Activity;
use crate::container::{Container, Exit, Phase, Sandbox};
use crate::cpu::metered;
use crate::engine::Engines;
use crate::folders::Folders;
use crate::guests::Guests;
use crate::http::Keepers;
use crate::images::{Compiled, Images};
use crate::listeners::Listeners;
use crate::names::Names;
use crate::routes;
use crate::sockets::Servers;

/// What all containers of this host share.
pub(crate) struct Node {
    pub(crate) engines: Arc<Engines>,
    pub(crate) events: Arc<Events>,
    pub(crate) listeners: Arc<Listeners>,
    pub(crate) servers: Arc<Servers>,
    pub(crate) names: Names,
    pub(crate) routes: Arc<routes::Routes>,
    /// Containers that have idle instances.
    pub(crate) keepers: Keepers,
    /// The host's own runtime, for work that no guest may delay.
    pub(crate) handle: Handle,
    /// Where names are looked up.
    pub(crate) resolver: Handle,
    images: Images,
    guests: Arc<Guests>,
}

/// The Wasm host.
pub(crate) struct Host {
    node: Arc<Node>,
    instance: String,
    started_at: Timestamp,
    sandboxes: RwLock<HashMap<String, Arc<Sandbox>>>,
    activity: Arc<Activity>,
    /// Starting and deleting in one sandbox at a time keeps each simple; they take microseconds.
    changing: tokio::sync::Mutex<()>,
}

impl Host {
    /// Must be called within the host's own tokio runtime.
    pub(crate) fn start(config: &crate::HostConfig, resolver: Handle) -> anyhow::Result<Arc<Host>> {
        let engines = Engines::start(config.instances)?;
        let started_at = Timestamp::now();
        let instance = format!("{}-{}", std::process::id(), started_at.as_nanosecond());
        let node = Arc::new(Node {
            images: images(config, engines.clone())?,
            events: Arc::new(Events::new(instance.clone())),
            listeners: Arc::default(),
            servers: Arc::default(),
            names: Names::default(),
            routes: Arc::default(),
            keepers: Keepers::default(),
            handle: Handle::current(),
            resolver,
            guests: Guests::start(config.guest_threads, config.netns.clone())?,
            engines,
        });
        let host = Arc::new(Host {
            node,
            instance,
            started_at,
            sandboxes: RwLock::default(),
            activity: Arc::default(),
            changing: tokio::sync::Mutex::default(),
        });
        tokio::spawn(close_quiet_logs(Arc::downgrade(&host)));
        Ok(host)
    }

    fn all(&self) -> Vec<Arc<Sandbox>> {
        let sandboxes = self.sandboxes.read().unwrap_or_else(PoisonError::into_inner);
        sandboxes.values().cloned().collect()
    }

    fn find(&self, id: &str) -> Result<Arc<Sandbox>, Problem> {
        let sandboxes = self.sandboxes.read().unwrap_or_else(PoisonError::into_inner);
        sandboxes.get(id).cloned().ok_or_else(|| {
            Problem::new(ProblemCode::NotFound, format!("no sandbox {id} in this host"))
        })
    }

    async fn start_new(
        &self,
        sandbox: &Arc<Sandbox>,
        spec: ContainerSpec,
        image: Arc<crate::images::Image>,
        compiled: Arc<Compiled>,
    ) -> Result<Arc<Container>, Problem> {
        let kind = compiled.info.kind;
        let node = self.node.clone();
        let folders = Folders::of(&spec.mounts)?;
        let container = Container::new(node, sandbox.clone(), spec, image, compiled, folders);
        if kind == ImageKind::Http {
            self.listen(&container, &container.spec.ports).await?;
        }
        {
            let mut all = sandbox.containers.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(container.spec.name.clone(), container.clone());
        }
        container.announce();
        if kind == ImageKind::Command {
            sandbox.group.spawn(metered(container.cpu.clone(), container.clone().run()));
        }
        Ok(container)
    }

    /// Serves it on these ports of its sandbox's addresses and on no others; all of them, or no more than before.
    async fn listen(&self, container: &Arc<Container>, ports: &[u16]) -> Result<(), Problem> {
        let listeners = &self.node.listeners;
        let before = container.bound();
        let ips = &container.sandbox.spec.ips;
        let mut wanted: Vec<SocketAddr> = Vec::new();
        for port in ports {
            wanted.extend(ips.iter().map(|ip| SocketAddr::new(*ip, *port)));
        }
        wanted.sort_unstable();
        wanted.dedup();
        let mut opened: Vec<SocketAddr> = Vec::new();
        for address in wanted.iter().filter(|a| !before.contains(a)) {
            if let Err(problem) = listeners.open(container, *address).await {
                for address in opened {
                    listeners.close(container, address).await;
                }
                return Err(problem);
            }
            opened.push(*address);
        }
        for address in before.iter().filter(|a| !wanted.contains(a)) {
            listeners.close(container, *address).await;
        }
        container.set_bound(wanted);
        Ok(())
    }

    async fn end(&self, sandbox: &Sandbox) {
        for container in sandbox.containers() {
            container.enter(Phase::Killed);
            container.exit(Exit::killed(""), Duration::ZERO).await;
        }
    }
}

fn images(config: &crate::HostConfig, engines: Arc<Engines>) -> std::io::Result<Images> {
    if let Some(folder) = &config.compiled {
        return Ok(Images::open(folder.clone(), false, engines));
    }
    let folder = config.data_dir.join("compiled");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    Ok(Images::open(folder, true, engines))
}

async fn close_quiet_logs(host: std::sync::Weak<Host>) {
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let Some(host) = host.upgrade() else { return };
        for sandbox in host.all() {
            sandbox.containers().iter().for_each(|container| container.log.close_if_quiet());
        }
    }
}

#[async_trait]
impl Runtime for Host {
    async fn info(&self) -> Info {
        Info {
            runtime: "wasm".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            api: API_VERSION,
            pid: std::process::id(),
            instance: self.instance.clone(),
            started_at: self.started_at,
            engine: self.node.engines.describe(),
            code: crate::code_names()
                .into_iter()
                .map(|(class, name)| (class.to_owned(), name.to_owned()))
                .collect(),
        }
    }

    async fn prepare_image(&self, image: Image) -> Result<ImageInfo, Problem> {
        let found = self.node.images.image(&image)?;
        let compiled = self.node.images.compiled(&found, &image.path, None).await?;
        Ok(compiled.info.clone())
    }

    async fn put_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus, Problem> {
        if spec.id.is_empty() {
            return Err(Problem::new(ProblemCode::InvalidSpec, "a sandbox needs an id"));
        }
        let _one = self.changing.lock().await;
        if let Ok(existing) = self.find(&spec.id) {
            if existing.spec_now() == spec {
                return Ok(existing.status());
            }
            let message = format!("sandbox {} exists with another spec; delete it first", spec.id);
            return Err(Problem::new(ProblemCode::Conflict, message));
        }
        let guests = self.node.guests.clone();
        if spec.netns != guests.netns {
            let name = |netns: &Option<PathBuf>| match netns {
                Some(path) => path.display().to_string(),
                None => "the machine's".to_owned(),
            };
            let message = format!(
                "sandbox {}: its network namespace is {}, but this host lives in {}",
                spec.id,
                name(&spec.netns),
                name(&guests.netns)
            );
            return Err(Problem::new(ProblemCode::InvalidSpec, message));
        }
        let sandbox = Sandbox::new(spec, guests, &self.activity);
        let status = sandbox.status();
        let mut sandboxes = self.sandboxes.write().unwrap_or_else(PoisonError::into_inner);
        sandboxes.insert(sandbox.spec.id.clone(), sandbox);
        Ok(status)
    }

    async fn sandboxes(&self) -> Vec<SandboxStatus> {
        self.all().iter().map(|sandbox| sandbox.status()).collect()
    }

    async fn usage(&self) -> Vec<ContainerUsage> {
        let mut all = Vec::new();
        for sandbox in self.all() {
            all.extend(sandbox.containers().iter().map(|container| container.usage()));
        }
        all
    }

    async fn recent_usage(&self) -> Vec<ContainerUsage> {
        let mut all = Vec::new();
        let look = |id: &str| {
            let sandbox = self.find(id).ok()?;
            let mut busy = false;
            for container in sandbox.containers() {
                let usage = container.usage();
                busy |= usage.usage.active_requests > 0;
                all.push(usage);
            }
            Some((sandbox.cpu.used(), busy))
        };
        self.activity.recent(look, |id| self.find(id).map_or(0, |sandbox| sandbox.cpu.forget()));
        all
    }

    async fn metrics(&self) -> String {
        crate::metrics::text(&self.node, &self.all())
    }

    async fn sandbox(&self, id: &str) -> Result<SandboxStatus, Problem> {
        Ok(self.find(id)?.status())
    }

    async fn delete_sandbox(&self, id: &str) -> Result<(), Problem> {
        let _one = self.changing.lock().await;
        let Ok(sandbox) = self.find(id) else { return Ok(()) };
        self.end(&sandbox).await;
        self.sandboxes.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(())
    }

    async fn start_container(
        &self,
        sandbox: &str,
        spec: ContainerSpec,
    ) -> Result<ContainerStatus, Problem> {
        if spec.name.is_empty() {
            return Err(Problem::new(ProblemCode::InvalidSpec, "a container needs a name"));
        }
        // Compiling may take seconds; nobody else waits for it.
        let image = self.node.images.image(&spec.image)?;
        let compiled =
            self.node.images.compiled(&image, &spec.image.path, spec.memory_limit).await?;

        let _one = self.changing.lock().await;
        let sandbox = self.find(sandbox)?;
        if let Some(last) = sandbox.container(&spec.name) {
            if last.spec.attempt == spec.attempt {
                // The same again; only the ports may differ, since Services come and go.
                if last.compiled.info.kind == ImageKind::Http && !last.is_exited() {
                    self.listen(&last, &spec.ports).await?;
                }
                return Ok(last.status());
            }
            if !last.is_exited() || last.spec.attempt > spec.attempt {
                let message = format!(
                    "container {} cannot start attempt {}: attempt {} {}",
                    spec.name,
                    spec.attempt,
                    last.spec.attempt,
                    if last.is_exited() { "came later" } else { "still runs; stop it first" }
                );
                return Err(Problem::new(ProblemCode::Conflict, message));
            }
        }
        Ok(self.start_new(&sandbox, spec, image, compiled).await?.status())
    }

    async fn stop_container(&self, sandbox: &str, name: &str, stop: Stop) -> Result<(), Problem> {
        let sandbox = self.find(sandbox)?;
        let container = sandbox.container(name).ok_or_else(|| {
            let message = format!("no container {name} in sandbox {}", sandbox.spec.id);
            Problem::new(ProblemCode::NotFound, message)
        })?;
        let deadline = Instant::now() + Duration::from_secs(stop.grace_seconds.into());
        let mut first = false;
        container.stop.send_modify(|end| {
            first = end.is_none();
            *end = Some(end.map_or(deadline, |before| before.min(deadline)));
        });
        if first && !container.is_command() {
            self.node.handle.spawn(container.drain());
        }
        Ok(())
    }

    async fn update_container(
        &self,
        sandbox: &str,
        name: &str,
        resources: Resources,
    ) -> Result<(), Problem> {
        let sandbox = self.find(sandbox)?;
        let container = sandbox.container(name).filter(|container| !container.is_exited());
        let container = container.ok_or_else(|| {
            let message = format!("container {name} of sandbox {} does not run", sandbox.spec.id);
            Problem::new(ProblemCode::Conflict, message)
        })?;
        container.resize(&resources)
    }

    async fn update_sandbox(&self, id: &str, resources: Resources) -> Result<(), Problem> {
        let _one = self.changing.lock().await;
        self.find(id)?.resize(resources)
    }

    async fn put_routes(&self, routes: Routes) -> Result<RoutesStatus, Problem> {
        Ok(self.node.routes.replace(routes, &self.node.listeners).await)
    }

    fn events(&self, after: u64) -> EventStream {
        self.node.events.stream(after)
    }

    async fn shutdown(&self) {
        let _one = self.changing.lock().await;
        for sandbox in self.all() {
            self.end(&sandbox).await;
        }
        self.node.events.close();
    }
}
