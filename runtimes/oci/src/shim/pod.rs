//! The Pod that a shim holds, and how its containers are started.

use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coracle_sandbox::{
    ContainerSpec, Dns, Events, OciContainer, OciSandbox, Problem, ProblemCode, Resources,
    SandboxSpec, SandboxStatus,
};
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

use super::container::{Container, Parts, remove_group};
use super::io::{End, Ends, pipes};
use super::namespaces::{self, Entered};
use super::reaper::Reaper;
use super::{pause, require_name};
use crate::cgroup::{Group, Mounts};
use crate::launch::{self, Job, Started, Streams, Subject};
use crate::spec::Places;

/// A shim, and its Pod once it has one.
pub(crate) struct Shim {
    pub(super) id: String,
    folder: PathBuf,
    pub(super) instance: String,
    pub(super) started_at: Timestamp,
    pub(super) events: Arc<Events>,
    pub(super) reaper: Reaper,
    mounts: Mounts,
    pod: Mutex<Option<Arc<Pod>>>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    /// One at a time is made or removed.
    pub(super) changing: tokio::sync::Mutex<()>,
    ended: watch::Sender<bool>,
}

/// A Pod as it was asked for.
pub(super) struct Pod {
    /// But for limits that were changed since; see [`Pod::spec_now`].
    pub(super) spec: SandboxSpec,
    resized: Mutex<Option<Resources>>,
    pub(super) oci: OciSandbox,
    created_at: Timestamp,
    group: Group,
    /// The holder of the pid namespace that its containers share.
    pause: Option<Pid>,
    files: Vec<(PathBuf, PathBuf)>,
    entered: Entered,
}

impl Pod {
    /// The spec, with the limits that it has now.
    fn spec_now(&self) -> SandboxSpec {
        match &*lock(&self.resized) {
            Some(resources) => self.spec.clone().with_limits(resources),
            None => self.spec.clone(),
        }
    }
}

impl Shim {
    /// Within the shim's event loop.
    pub(super) fn new(id: String, folder: PathBuf) -> anyhow::Result<Arc<Shim>> {
        let started_at = Timestamp::now();
        let instance = format!("{}-{}", std::process::id(), started_at.as_nanosecond());
        let shim = Arc::new(Shim {
            id,
            folder,
            events: Arc::new(Events::new(instance.clone())),
            instance,
            started_at,
            reaper: Reaper::start()?,
            mounts: Mounts::find()?,
            pod: Mutex::default(),
            containers: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            ended: watch::Sender::new(false),
        });
        let watched = Arc::downgrade(&shim);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(10)).await;
                let Some(shim) = watched.upgrade() else { return };
                shim.all().iter().for_each(|container| container.close_quiet_log());
            }
        });
        Ok(shim)
    }

    /// Returns when the Pod is gone, or was never made.
    pub(super) async fn ended(&self) {
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    pub(super) fn end(&self) {
        self.ended.send_replace(true);
    }

    pub(super) fn has_pod(&self) -> bool {
        lock(&self.pod).is_some()
    }

    /// The Pod, if that is its id.
    pub(super) fn pod(&self, id: &str) -> Result<Arc<Pod>, Problem> {
        let pod = lock(&self.pod).clone().filter(|pod| pod.spec.id == id);
        pod.ok_or_else(|| super::no_sandbox(id))
    }

    /// The last attempt of each container.
    pub(super) fn all(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).values().cloned().collect()
    }

    pub(super) fn container(&self, id: &str, name: &str) -> Result<Arc<Container>, Problem> {
        self.pod(id)?;
        self.known(name).ok_or_else(|| {
            let message = format!("no container {name} in sandbox {id}");
            Problem::new(ProblemCode::NotFound, message)
        })
    }

    fn known(&self, name: &str) -> Option<Arc<Container>> {
        lock(&self.containers).get(name).cloned()
    }

    /// One that runs.
    pub(super) fn running(&self, id: &str, name: &str) -> Result<Arc<Container>, Problem> {
        let container = self.container(id, name)?;
        if container.is_exited() {
            let message = format!("container {name} of sandbox {id} does not run");
            return Err(Problem::new(ProblemCode::Conflict, message));
        }
        Ok(container)
    }

    pub(super) fn status(&self, pod: &Pod) -> SandboxStatus {
        SandboxStatus {
            spec: pod.spec_now(),
            created_at: pod.created_at,
            containers: self.all().iter().map(|container| container.status()).collect(),
            socket: None,
        }
    }

    /// Makes the Pod, or finds that it is there. A failure is final: the shim ends.
    pub(super) fn make(&self, spec: SandboxSpec) -> Result<Arc<Pod>, Problem> {
        let invalid = |message: String| Problem::new(ProblemCode::InvalidSpec, message);
        if let Some(pod) = lock(&self.pod).clone() {
            if pod.spec_now() == spec {
                return Ok(pod);
            }
            let message =
                format!("sandbox {} exists with another spec; delete it first", pod.spec.id);
            return Err(Problem::new(ProblemCode::Conflict, message));
        }
        if *self.ended.borrow() {
            let message = "this shim is ending; have the zygote make the sandbox";
            return Err(Problem::new(ProblemCode::NoCapacity, message));
        }
        if spec.id != self.id {
            return Err(invalid(format!(
                "this is the shim of sandbox {}, not of {}",
                self.id, spec.id
            )));
        }
        let made = self.make_new(spec);
        match &made {
            Ok(pod) => *lock(&self.pod) = Some(pod.clone()),
            Err(_) => self.end(),
        }
        made
    }

    fn make_new(&self, spec: SandboxSpec) -> Result<Arc<Pod>, Problem> {
        let invalid = |message: String| Problem::new(ProblemCode::InvalidSpec, message);
        let Some(oci) = spec.oci.clone() else {
            return Err(invalid("oci: a Pod of containers needs it".into()));
        };
        let plain = oci.cgroup.is_absolute() && oci.cgroup.components().count() >= 3;
        if !plain || oci.cgroup.components().any(|c| c == std::path::Component::ParentDir) {
            let message =
                format!("oci.cgroup: {} is not a path of two names or more", oci.cgroup.display());
            return Err(invalid(message));
        }
        let internal = |e: std::io::Error| {
            Problem::new(ProblemCode::Internal, format!("sandbox {}: {e}", spec.id))
        };
        let group = Group::at(&self.mounts, &oci.cgroup);
        if !group.is_empty() {
            let message = format!(
                "cgroup {} has processes of a shim that is gone; end them with `coracle host oci --cleanup`",
                oci.cgroup.display()
            );
            return Err(Problem::new(ProblemCode::Conflict, message));
        }
        // What an earlier shim left: nothing of it is mounted any more.
        let _ = std::fs::remove_dir_all(&self.folder);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(internal)?;
        let limits = Resources {
            memory_limit: spec.memory_limit,
            cpu_weight: spec.cpu_weight,
            cpu_limit: spec.cpu_limit,
            pids_limit: oci.pids_limit,
            hugepages: oci.hugepages.clone(),
        };
        let made = (|| {
            group.limit(&limits).map_err(internal)?;
            let files = files(&spec, &oci, &self.folder.join("files")).map_err(internal)?;
            let entered = namespaces::enter(&spec, &oci, &self.folder)?;
            let pause = match oci.share_pids && !oci.host_pid {
                true => Some(pause::start(entered.users.as_ref()).map_err(internal)?),
                false => None,
            };
            Ok((files, pause, entered))
        })();
        match made {
            Ok((files, pause, entered)) => {
                let created_at = Timestamp::now();
                let resized = Mutex::default();
                Ok(Arc::new(Pod { spec, resized, oci, created_at, group, pause, files, entered }))
            }
            Err(problem) => {
                group.destroy(Duration::from_millis(500));
                namespaces::leave(&self.folder);
                let _ = std::fs::remove_dir_all(&self.folder);
                Err(problem)
            }
        }
    }

    /// Gives the Pod as a whole other limits.
    pub(super) fn resize(&self, id: &str, resources: Resources) -> Result<(), Problem> {
        let pod = self.pod(id)?;
        let used = pod.group.usage().memory_bytes;
        if let Some(limit) = resources.memory_limit.filter(|limit| *limit < used) {
            return Err(Problem::memory_in_use("pod", limit, used));
        }
        let (pids_limit, hugepages) = (pod.oci.pids_limit, pod.oci.hugepages.clone());
        let resources = Resources { pids_limit, hugepages, ..resources };
        let limited = pod.group.limit(&resources);
        limited
            .map_err(|e| Problem::new(ProblemCode::InvalidSpec, format!("sandbox {id}: {e}")))?;
        *lock(&pod.resized) = Some(resources);
        Ok(())
    }

    /// Ends what runs, and removes everything.
    pub(super) async fn remove(&self) {
        let _one = self.changing.lock().await;
        let pod = lock(&self.pod).take();
        for container in self.all() {
            container.kill();
        }
        for container in self.all() {
            container.gone().await;
        }
        let Some(pod) = pod else { return };
        if let Some(pause) = pod.pause {
            let _ = kill(pause, Signal::SIGKILL);
        }
        remove_group(&pod.group).await;
        namespaces::leave(&self.folder);
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "a Pod's folder was not removed");
        }
    }

    /// Starts an attempt, unless it was started.
    pub(super) async fn start(
        &self,
        id: &str,
        spec: ContainerSpec,
    ) -> Result<Arc<Container>, Problem> {
        require_name("container", &spec.name)?;
        let Some(oci) = spec.oci.clone() else {
            return Err(Problem::new(ProblemCode::InvalidSpec, "oci: a container needs it"));
        };
        super::runtime::signal_number(spec.stop_signal.as_deref())?;
        let _one = self.changing.lock().await;
        let pod = self.pod(id)?;
        if let Some(last) = self.known(&spec.name) {
            if last.spec.attempt == spec.attempt {
                return Ok(last);
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
        if let Some(target) = &oci.target
            && self.known(target).is_none_or(|target| target.is_exited())
        {
            let message =
                format!("container {} cannot join {target}, which does not run", spec.name);
            return Err(Problem::new(ProblemCode::Conflict, message));
        }
        let folder = self.folder.join(namespaces::CONTAINERS).join(launch::id(&spec));
        let subject = self.subject(&pod, &spec, &oci, &folder);
        let made = self.launch_new(&subject).await;
        let (started, ends, end) = match made {
            Ok(made) => made,
            Err(problem) => {
                remove_group(&subject.group).await;
                let _ = std::fs::remove_dir_all(&folder);
                return Err(problem);
            }
        };
        let terminal = match started.terminal.map(End::new).transpose() {
            Ok(terminal) => terminal,
            Err(error) => return Err(Problem::new(ProblemCode::Internal, error.to_string())),
        };
        let group = subject.group.clone();
        let container = Container::follow(Parts {
            spec,
            oci,
            sandbox: id.to_owned(),
            folder,
            group,
            user: started.user,
            pid: started.pid,
            ends,
            terminal,
            end,
            events: self.events.clone(),
        });
        lock(&self.containers).insert(container.spec.name.clone(), container.clone());
        self.events.push(id, container.status());
        Ok(container)
    }

    /// What launchers have to know of a container.
    pub(super) fn subject<'a>(
        &self,
        pod: &'a Pod,
        spec: &'a ContainerSpec,
        oci: &'a OciContainer,
        folder: &Path,
    ) -> Subject<'a> {
        let group = Group::at(&self.mounts, &pod.oci.cgroup.join(launch::id(spec)));
        Subject {
            sandbox: &pod.spec,
            container: spec,
            oci,
            machine: &pod.entered.machine,
            users: pod.entered.users.as_ref(),
            folder: folder.to_owned(),
            places: Places {
                rootfs: folder.join("rootfs"),
                shm: match pod.oci.host_ipc {
                    true => "/dev/shm".into(),
                    false => self.folder.join(namespaces::SHARED_MEMORY),
                },
                files: pod.files.clone(),
                groups: group.shown(),
            },
            group,
            pid_namespace: self.holder(pod, oci).map(|pid| format!("/proc/{pid}/ns/pid").into()),
        }
    }

    /// The process whose pid namespace the container joins; none where it has its own, or the machine's.
    fn holder(&self, pod: &Pod, oci: &OciContainer) -> Option<i32> {
        if pod.oci.host_pid {
            return None;
        }
        let target = || self.known(oci.target.as_ref()?).map(|target| target.pid);
        pod.pause.map(Pid::as_raw).or_else(target)
    }

    async fn launch_new(
        &self,
        subject: &Subject<'_>,
    ) -> Result<(Started, Ends, tokio::sync::oneshot::Receiver<i32>), Problem> {
        let internal = |e: std::io::Error| {
            Problem::new(
                ProblemCode::Internal,
                format!("container {}: {e}", subject.container.name),
            )
        };
        let (spec, oci) = (subject.container, subject.oci);
        // A start that was broken off may have left something.
        if subject.folder.exists() {
            remove_group(&subject.group).await;
            std::fs::remove_dir_all(&subject.folder).map_err(internal)?;
        }
        std::fs::create_dir_all(&subject.folder).map_err(internal)?;
        let limits = Resources {
            memory_limit: spec.memory_limit,
            cpu_weight: spec.cpu_weight,
            cpu_limit: spec.cpu_limit,
            pids_limit: oci.pids_limit,
            hugepages: oci.hugepages.clone(),
        };
        subject.group.limit(&limits).map_err(internal)?;
        let (ends, streams) = match oci.tty {
            true => Default::default(),
            false => pipes(oci.stdin, true, true).map_err(internal)?,
        };
        let (started, end) = self.launch(&Job::Create, subject, streams).await?;
        Ok((started, ends, end))
    }

    /// Starts a process through a launcher; the second of what comes is its exit code.
    pub(super) async fn launch(
        &self,
        job: &Job<'_>,
        subject: &Subject<'_>,
        streams: Streams,
    ) -> Result<(Started, tokio::sync::oneshot::Receiver<i32>), Problem> {
        let starting = self.reaper.starting();
        let (launcher, result) = launch::start(job, subject, streams)?;
        let launcher_end = self.reaper.end_of(launcher.as_raw());
        let result = tokio::time::timeout(launch::PATIENCE, result.receive()).await;
        let started = result.unwrap_or_else(|_| {
            launch::give_up(launcher);
            let message = format!(
                "container {} did not start within {} s: a file system may hang",
                subject.container.name,
                launch::PATIENCE.as_secs()
            );
            Err(Problem::new(ProblemCode::Internal, message))
        });
        let started = started?;
        let end = self.reaper.end_of(started.pid);
        // It was in the container's group, which is to have none but the container's processes.
        let _ = launcher_end.await;
        drop(starting);
        Ok((started, end))
    }
}

/// The files that every Pod has of its own, by their path in its containers.
fn files(
    spec: &SandboxSpec,
    oci: &OciSandbox,
    folder: &Path,
) -> std::io::Result<Vec<(PathBuf, PathBuf)>> {
    std::fs::create_dir_all(folder)?;
    let mut made = Vec::new();
    let mut file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text)?;
        made.push((Path::new("/etc").join(name), path));
        std::io::Result::Ok(())
    };
    let machine = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    file(
        "hosts",
        if oci.host_network { machine("/etc/hosts") + &aliases(spec) } else { hosts(spec) },
    )?;
    let resolv = spec.dns.as_ref().map_or_else(|| machine("/etc/resolv.conf"), resolv_conf);
    file("resolv.conf", resolv)?;
    if !oci.host_network && !spec.hostname.is_empty() {
        file("hostname", format!("{}\n", spec.hostname))?;
    }
    Ok(made)
}

/// As the kubelet writes it.
fn hosts(spec: &SandboxSpec) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n\
        fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
        .to_owned();
    let names = match &spec.names[..] {
        [] => spec.hostname.clone(),
        // The first is what `hostname -f` says.
        names => names.join("\t"),
    };
    for ip in &spec.ips {
        text.push_str(&format!("{ip}\t{names}\n"));
    }
    text + &aliases(spec)
}

fn aliases(spec: &SandboxSpec) -> String {
    if spec.hosts.is_empty() {
        return String::new();
    }
    let lines =
        spec.hosts.iter().map(|alias| format!("{}\t{}\n", alias.ip, alias.names.join("\t")));
    format!("\n# Entries added by HostAliases.\n{}", lines.collect::<String>())
}

fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

/// Nothing that holds one of these locks can panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
