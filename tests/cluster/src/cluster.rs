//! A cluster: its processes, its folder, and how to talk to it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, PoisonError, RwLock};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::Api;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use tokio::net::TcpStream;

use crate::command::{self, Output};
use crate::containers;
use crate::filled;
use crate::leftovers::Leftovers;
use crate::process::{self, Process};
use crate::tools;
use crate::upgrade;
use crate::wait::{ensure, eventually};
use crate::wire::Wire;

mod nodes;

use nodes::Node;

/// The ordinary user of clusters that root starts. Nobody has this number; a home folder is all that it needs.
const ORDINARY: u32 = 64_321;
/// How long a start may take, on a busy machine and unoptimised.
const START: Duration = Duration::from_secs(60);
/// How long a node may take to lead a Service to those who answer.
const ANSWERS: Duration = Duration::from_secs(20);
/// How long an end may take.
const END: Duration = Duration::from_secs(30);

/// Whose processes a cluster's are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Root, with the machine's network.
    Root,
    /// Somebody else, on loopback addresses.
    Ordinary,
}

impl User {
    /// Whose this process is.
    pub(crate) fn current() -> Self {
        if geteuid().is_root() { Self::Root } else { Self::Ordinary }
    }

    /// Whether this process can start clusters of this user.
    pub fn is_possible(self) -> bool {
        self == Self::Ordinary || geteuid().is_root()
    }
}

/// What the guests of a test are, and so what runs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// Components, in a Wasm host.
    Wasm,
    /// Container images that do the same.
    Oci,
}

/// How to start a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// As whom.
    pub user: User,
    /// For which guests.
    pub runtime: Runtime,
    /// More arguments of `up`, or of `server`.
    pub args: Vec<String>,
    /// Objects that are in its store before it first starts, in namespaces of their own; [`From`] takes `$CORACLE_TEST_FILLED`.
    pub filled: Option<usize>,
}

impl From<User> for Options {
    fn from(user: User) -> Self {
        let filled = filled::from_environment();
        Self { user, runtime: Runtime::Wasm, args: Vec::new(), filled }
    }
}

/// A process of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `coracle up`.
    Up,
    /// `coracle server`.
    Server,
    /// `coracle agent`.
    Agent,
    /// The shared `coracle host wasm`, which an agent started.
    Host,
}

/// A sandbox host of a cluster.
#[derive(Debug, Clone)]
pub struct HostProcess {
    /// Its process.
    pub pid: i32,
    /// Whose Pods it holds: `shared`, `namespace NAME` or `pod UID`.
    pub group: String,
}

/// A running cluster.
pub struct Cluster {
    user: User,
    runtime: Runtime,
    args: Vec<String>,
    filled: Option<usize>,
    folder: tempfile::TempDir,
    binary: RwLock<PathBuf>,
    split: bool,
    state: Mutex<State>,
    /// Nodes on other machines, by their names. They end before the wire that they are on.
    nodes: Mutex<BTreeMap<String, Node>>,
    wire: Option<Wire>,
}

#[derive(Default)]
struct State {
    main: Option<Process>,
    agent: Option<Process>,
    /// A process was killed and not started again: what it should have removed is still there.
    killed: bool,
    listen: Option<SocketAddr>,
}

impl Cluster {
    /// Starts a cluster in one process.
    ///
    /// # Errors
    /// When it is not ready in time; with what it said.
    pub async fn up(options: impl Into<Options>) -> anyhow::Result<Self> {
        let cluster = Self::prepare(options.into(), false)?;
        cluster.start(Part::Up).await?;
        Ok(cluster)
    }

    /// Starts a cluster whose control plane and node are two processes.
    ///
    /// # Errors
    /// When it is not ready in time; with what it said.
    pub async fn split(options: impl Into<Options>) -> anyhow::Result<Self> {
        let cluster = Self::prepare(options.into(), true)?;
        cluster.start(Part::Server).await?;
        cluster.start(Part::Agent).await?;
        Ok(cluster)
    }

    /// Starts a control plane of this binary alone, on an empty store.
    pub(crate) async fn server_of(options: Options, binary: &Path) -> anyhow::Result<Self> {
        let cluster = Self::prepare_of(Options { filled: None, ..options }, true, binary)?;
        cluster.start(Part::Server).await?;
        Ok(cluster)
    }

    /// Everything but the processes.
    ///
    /// # Errors
    /// When programs are missing or the folder cannot be made.
    pub fn prepare(options: Options, split: bool) -> anyhow::Result<Self> {
        Self::prepare_of(options, split, &tools::coracle()?)
    }

    fn prepare_of(options: Options, split: bool, built: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("coracle-").tempdir()?;
        let binary = folder.path().join("bin/coracle");
        for name in ["bin", "data", "home", "logs"] {
            let path = folder.path().join(name);
            fs::create_dir(&path)?;
            if changes_user(options.user) {
                chown(&path, Some(ORDINARY), Some(ORDINARY))?;
            }
        }
        if changes_user(options.user) {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        }
        // Builds often lie where an ordinary user may not look.
        fs::hard_link(built, &binary).or_else(|_| fs::copy(built, &binary).map(drop))?;
        let Options { user, runtime, args, filled } = options;
        let binary = RwLock::new(binary);
        let (state, nodes) = (Mutex::default(), Mutex::default());
        let wire = None;
        Ok(Self { user, runtime, args, filled, folder, binary, split, state, nodes, wire })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose it is.
    pub fn user(&self) -> User {
        self.user
    }

    /// What its guests are.
    pub fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A folder for the test's own files, in which the cluster's user may write.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Gives a file or folder to the cluster's user.
    ///
    /// # Errors
    /// When the owner cannot be changed.
    pub fn hand_over(&self, path: &Path) -> anyhow::Result<()> {
        if changes_user(self.user) {
            chown(path, Some(ORDINARY), Some(ORDINARY))?;
        }
        Ok(())
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data().join("admin.kubeconfig")
    }

    /// Where the API is.
    ///
    /// # Panics
    /// Before the first start.
    pub fn api(&self) -> SocketAddr {
        self.state().listen.expect("the cluster was started")
    }

    /// The program that is started from now on.
    pub fn binary(&self) -> PathBuf {
        self.binary.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Installs another program, whose engine cannot use the code that the present one compiled; it is what is started from
    /// now on. What runs stays as it is.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn upgrade(&self) -> anyhow::Result<()> {
        // By its own name: that is how processes are told apart from others of this machine.
        let next = self.folder.path().join("bin/next/coracle");
        fs::create_dir(self.folder.path().join("bin/next"))?;
        upgrade::with_another_engine(&self.binary(), &next).await?;
        *self.binary.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// A `coracle` command of the cluster's user.
    pub fn coracle_command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(self.binary());
        command
            .current_dir(self.home())
            .env("HOME", self.home())
            .env("CORACLE_LOG", env::var("CORACLE_LOG").unwrap_or_else(|_| "info".to_owned()));
        for name in ["KUBECONFIG", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"] {
            command.env_remove(name);
        }
        if changes_user(self.user) {
            // Of root's groups none stays: the standard library drops them with the user.
            command.uid(ORDINARY).gid(ORDINARY);
        }
        command
    }

    /// Starts a part, again or for the first time; returns when it is ready. The API keeps its address.
    ///
    /// # Errors
    /// When it is not ready in time; with what it said.
    pub async fn start(&self, part: Part) -> anyhow::Result<()> {
        let listen = self.state().listen;
        let store = self.data().join("store.redb");
        if let Some(objects) = self.filled
            && matches!(part, Part::Up | Part::Server)
            && !store.exists()
        {
            // Which starts a cluster, too.
            Box::pin(filled::place(&self.binary(), objects, &store)).await?;
            self.hand_over(&store)?;
        }
        let mut command = self.coracle_command();
        let logs = self.folder.path().join("logs");
        command.arg(name(part));
        match part {
            Part::Up | Part::Server => {
                let address = listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
                command.args(&self.args).args(["--listen", &address.to_string()]);
            }
            Part::Agent => {
                command.args(["--server", &format!("https://{}", self.api())]);
                self.add_token(&mut command, &self.data())?;
            }
            Part::Host => bail!("hosts are started by agents"),
        }
        if matches!(part, Part::Up | Part::Agent) {
            // How full this machine's disk is must not decide what tests see.
            // Nor may clusters that run side by side want the same ports.
            for (flag, value) in [
                ("--disk-pressure-threshold", "0"),
                ("--image-gc-high-threshold", "100"),
                ("--ingress-http-port", "0"),
                ("--ingress-https-port", "0"),
            ] {
                if !self.args.iter().any(|arg| arg == flag) {
                    command.args([flag, value]);
                }
            }
        }
        command.arg("--data").arg(self.data());
        let wanted = match part {
            Part::Up => "coracle is up at https://",
            Part::Server => "coracle server is up at https://",
            _ => "coracle agent is a node of https://",
        };
        let ready = |line: &str| {
            let rest = line.strip_prefix(wanted)?;
            rest.split_whitespace().next()?.parse::<SocketAddr>().ok()
        };
        let (process, address) = Process::start(command, &logs, name(part), START, ready).await?;
        let mut state = self.state();
        state.killed = false;
        match part {
            Part::Agent => state.agent = Some(process),
            _ => {
                state.listen = Some(address);
                state.main = Some(process);
            }
        }
        Ok(())
    }

    /// The process id of a part.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pid(&self, part: Part) -> anyhow::Result<i32> {
        let state = self.state();
        let found = match part {
            Part::Up | Part::Server => state.main.as_ref().map(Process::pid),
            Part::Agent => state.agent.as_ref().map(Process::pid),
            Part::Host => {
                self.hosts().into_iter().find(|host| host.group == "shared").map(|host| host.pid)
            }
        };
        found.with_context(|| format!("{part:?} is not running"))
    }

    /// The sandbox hosts that run.
    pub fn hosts(&self) -> Vec<HostProcess> {
        let group = |line: &str| {
            let (_, rest) = line.split_once(" host wasm --group ")?;
            Some(rest.split_once(" --socket ")?.0.to_owned())
        };
        let all = process::of_folder(&self.data()).into_iter();
        all.filter_map(|(pid, line)| Some(HostProcess { pid, group: group(&line)? })).collect()
    }

    /// The shims of its Pods with containers: what the zygote forked, but not what they fork themselves.
    pub fn shims(&self) -> Vec<i32> {
        let all = process::of_folder(&self.data()).into_iter();
        let all: Vec<i32> =
            all.filter(|(_, line)| line.contains(" host oci ")).map(|(pid, _)| pid).collect();
        let parent = |pid: i32| process::parent(pid).filter(|parent| all.contains(parent));
        let forked = all.iter().copied().filter(|pid| parent(*pid).is_some());
        forked.filter(|pid| parent(*pid).and_then(parent).is_none()).collect()
    }

    /// Processes that serve its Ingresses: one, or two while one takes over from another.
    pub fn proxies(&self) -> Vec<i32> {
        let all = process::of_folder(&self.data()).into_iter();
        all.filter(|(_, line)| line.contains(" host ingress ")).map(|(pid, _)| pid).collect()
    }

    /// The process that makes its shims.
    pub fn zygote(&self) -> Option<i32> {
        self.shims().into_iter().next().and_then(process::parent)
    }

    /// Host processes of a Pod's container, or of all of them, by their cgroups.
    pub fn processes_of(&self, uid: &str, container: &str) -> Vec<i32> {
        self.leftovers().processes_in(&format!("pod-{uid}/{container}-"))
    }

    /// The process that a container began with.
    ///
    /// # Errors
    /// When it has none.
    pub fn first_process_of(&self, uid: &str, container: &str) -> anyhow::Result<i32> {
        let all = self.processes_of(uid, container).into_iter();
        let first = all.filter_map(|pid| Some((process::started(pid)?, pid))).min();
        first.map(|(_, pid)| pid).with_context(|| format!("{container} has no process"))
    }

    /// Kills everything at once, as a machine does that loses its power; what runs in containers, too. Whatever the kernel
    /// keeps without processes stays: mounts, cgroups, namespaces, tables.
    ///
    /// # Errors
    /// When it was not running.
    pub async fn kill9_all(&self, part: Part) -> anyhow::Result<()> {
        self.kill9(part).await?;
        self.leftovers().kill();
        // The next one has to clear up what it finds.
        self.state().killed = false;
        Ok(())
    }

    /// Processes that compile for it at the moment.
    pub fn compilers(&self) -> Vec<i32> {
        let all = process::of_folder(&self.data()).into_iter();
        all.filter(|(_, line)| line.contains(" host compile ")).map(|(pid, _)| pid).collect()
    }

    /// What a part has printed on its standard output, in all of its lives.
    pub fn output(&self, part: Part) -> String {
        let path = self.folder.path().join("logs").join(format!("{}.out", name(part)));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// What a part has said on its standard error, in all of its lives.
    pub fn errors(&self, part: Part) -> String {
        let path = self.folder.path().join("logs").join(format!("{}.err", name(part)));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Gives an agent that has not joined yet a token.
    fn add_token(&self, command: &mut std::process::Command, data: &Path) -> anyhow::Result<()> {
        if !data.join("agent/ca.crt").exists() {
            command.args(["--token", &self.token(&[])?]);
        }
        Ok(())
    }

    /// A new join token; `args` are more arguments of `coracle token create`.
    ///
    /// # Errors
    /// With what the command said.
    pub fn token(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = self.coracle_command();
        command.args(["token", "create", "--data"]).arg(self.data()).args(args);
        let output = command.output().context("coracle token create")?;
        ensure(output.status.success(), || String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Kills a part with SIGKILL; returns when it is gone.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn kill9(&self, part: Part) -> anyhow::Result<()> {
        let pid = self.pid(part)?;
        if part == Part::Host {
            process::kill_other(pid).await;
            return Ok(());
        }
        let mut state = self.state();
        state.killed = true;
        let process = match part {
            Part::Agent => state.agent.take(),
            _ => state.main.take(),
        };
        drop(state);
        if let Some(mut process) = process {
            process.kill();
        }
        Ok(())
    }

    /// Tells a part to end as `signal` does; returns when it has.
    ///
    /// # Errors
    /// When it does not end in time, or not well.
    pub async fn end(&self, part: Part, signal: Signal) -> anyhow::Result<()> {
        let process = match part {
            Part::Agent => self.state().agent.take(),
            _ => self.state().main.take(),
        };
        let mut process = process.with_context(|| format!("{part:?} is not running"))?;
        process.signal(signal)?;
        let status = process.ended(END).await;
        if status.is_err() {
            process.kill();
        }
        let status = status?;
        ensure(status.success(), || format!("{part:?} ended with {status}:\n{}", process.output()))
    }

    /// Ends the cluster, and says what it left behind: of one process nothing may be left; an agent alone leaves its
    /// workloads, which are removed without complaint.
    ///
    /// # Errors
    /// When a process does not end well, or something is left.
    pub async fn stop(&self) -> anyhow::Result<()> {
        let (main, agent, killed) = {
            let state = self.state();
            (state.main.is_some(), state.agent.is_some(), state.killed)
        };
        if agent {
            self.end(Part::Agent, Signal::SIGTERM).await?;
        }
        self.end_nodes().await?;
        if main {
            self.end(if self.split { Part::Server } else { Part::Up }, Signal::SIGINT).await?;
        }
        let leftovers = self.leftovers();
        let strict = !self.split && main && !killed;
        let checked = eventually(Duration::from_secs(5), "everything is gone", async || {
            let left = leftovers.list();
            ensure(!strict || left.is_empty(), || format!("left behind:\n{}", left.join("\n")))
        });
        let checked = checked.await;
        leftovers.remove();
        // What a test took away by force has to be gone as well.
        eventually(Duration::from_secs(5), "everything is removed", async || {
            let left = leftovers.list();
            ensure(left.is_empty(), || format!("cannot be removed:\n{}", left.join("\n")))
        })
        .await?;
        checked
    }

    fn leftovers(&self) -> Leftovers {
        Leftovers::of(&self.data(), self.user == User::Root)
    }

    /// Runs the newest kubectl; its output, if it succeeded.
    ///
    /// # Errors
    /// With all that it said, if it failed.
    pub async fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        self.kubectl_with(args, "").await?.ok()
    }

    /// Runs the newest kubectl with `input`; what it said, success or not.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn kubectl_with(&self, args: &[&str], input: &str) -> anyhow::Result<Output> {
        command::run(self.kubectl_command(&tools::kubectl()?, args).into(), input.as_bytes()).await
    }

    /// A kubectl command for this cluster.
    pub fn kubectl_command(&self, kubectl: &Path, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(kubectl);
        // A home of its own: kubectl caches what it discovers under the server's address, and addresses come again.
        command.env("HOME", self.folder.path().join("logs")).env("KUBECONFIG", self.kubeconfig());
        command.args(args).current_dir(self.folder.path());
        command
    }

    /// Applies `manifest`.
    ///
    /// # Errors
    /// With what kubectl said.
    pub async fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        self.kubectl_with(&["apply", "-f", "-"], manifest).await?.ok()
    }

    /// Runs `coracle` with these arguments, as the cluster's user, with the cluster's kubeconfig.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn coracle<S: AsRef<OsStr>>(&self, args: &[S]) -> anyhow::Result<Output> {
        let mut command = self.coracle_command();
        command.env("KUBECONFIG", self.kubeconfig()).args(args);
        command::run(command.into(), b"").await
    }

    /// Pushes a file as an image, as root or whoever runs the tests, who may read it.
    ///
    /// # Errors
    /// With what `coracle push` said.
    pub async fn push(&self, file: &Path, image: &str) -> anyhow::Result<()> {
        let mut command = std::process::Command::new(self.binary());
        command.env("KUBECONFIG", self.kubeconfig()).arg("push").arg(file).arg(image);
        command::run(command.into(), b"").await?.ok().map(drop)
    }

    /// Pushes the example component of this name, or the container image that does the same where that is what guests are.
    ///
    /// # Errors
    /// With what `coracle push` said; [`containers::Missing`] where the image cannot be made.
    pub async fn push_guest(&self, name: &str, image: &str) -> anyhow::Result<()> {
        if self.runtime == Runtime::Wasm {
            return self.push(&tools::component(name), image).await;
        }
        let layout = self.home().join(image.replace([':', '/'], "-"));
        containers::twin(name)?.write(&layout)?;
        self.push(&layout, image).await
    }

    /// A client with the admin's credentials.
    ///
    /// # Errors
    /// When the kubeconfig is not usable.
    pub async fn client(&self) -> anyhow::Result<kube::Client> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig())?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// Where a Service's port is reached from this machine. If there is somebody to answer, a moment is waited for the
    /// node to know it.
    ///
    /// # Errors
    /// When there is no such Service.
    pub async fn service(&self, namespace: &str, name: &str) -> anyhow::Result<SocketAddr> {
        let client = self.client().await?;
        let spec = Api::<Service>::namespaced(client.clone(), namespace).get(name).await?.spec;
        let spec = spec.context("the Service has no spec")?;
        let address: IpAddr = spec.cluster_ip.context("no clusterIP")?.parse()?;
        let port = spec.ports.and_then(|p| p.first().cloned()).context("no port")?;
        let number = self.listen_port(u16::try_from(port.port)?);
        let address = SocketAddr::new(address, number);
        let slices: Api<EndpointSlice> = Api::namespaced(client, namespace);
        let own = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
        let slices = slices.list(&own).await?.items;
        let ready = |e: &Endpoint| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true));
        let is_tcp = port.protocol.is_none_or(|protocol| protocol == "TCP");
        if is_tcp && slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).any(ready) {
            let end = Instant::now() + ANSWERS;
            while TcpStream::connect(address).await.is_err() && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(address)
    }

    /// The port that is really bound for `port` of a Pod or a Service.
    pub fn listen_port(&self, port: u16) -> u16 {
        if self.user == User::Root {
            return port;
        }
        let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        let start = start.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
        coracle_network::address::listen_port(port, start)
    }

    /// What helps to understand a failure: Pods, events, and the ends of the processes' logs.
    pub async fn diagnose(&self) -> String {
        let mut text = String::new();
        for args in [
            &[
                "get",
                "nodes,deployments,replicasets,pods,services,endpointslices",
                "-A",
                "-o",
                "wide",
            ][..],
            &["get", "events", "-A"],
        ] {
            let args: Vec<&str> = args.iter().chain(&["--request-timeout=5s"]).copied().collect();
            match self.kubectl_with(&args, "").await {
                Ok(output) => {
                    // What it was filled with only stands by.
                    let own = |line: &&str| !line.starts_with(filled::PREFIX);
                    let output = output.to_string();
                    output.lines().filter(own).for_each(|line| text += &format!("{line}\n"));
                }
                Err(error) => text += &format!("{error:#}\n"),
            }
        }
        let logs = self.folder.path().join("logs");
        let mut files: Vec<PathBuf> =
            fs::read_dir(logs).into_iter().flatten().flatten().map(|e| e.path()).collect();
        let hosts = fs::read_dir(self.data().join("host")).into_iter().flatten().flatten();
        files.extend(hosts.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "log")));
        for file in files.iter().filter(|file| file.is_file()) {
            text += &format!("--- {}\n{}\n", file.display(), process::tail(file));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for mut process in [state.main.take(), state.agent.take()].into_iter().flatten() {
            process.kill();
        }
        self.remove_nodes();
        self.leftovers().remove();
        // A folder that stays would not be noticed: temporary ones go silently or not at all.
        let folder = self.folder.path();
        for _ in 0..20 {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                _ => return,
            }
        }
        let left = format!("cannot be removed: {}", folder.display());
        assert!(std::thread::panicking(), "{left}");
        let _ = writeln!(std::io::stderr(), "{left}");
    }
}

fn changes_user(user: User) -> bool {
    user == User::Ordinary && geteuid().is_root()
}

fn name(part: Part) -> &'static str {
    match part {
        Part::Up => "up",
        Part::Server => "server",
        Part::Agent => "agent",
        Part::Host => "host",
    }
}
