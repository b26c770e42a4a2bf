//! The agent: makes this machine a node.
//!
//! It supervises; it runs no workload itself. Workloads live in sandbox hosts, separate processes that outlive the
//! agent and are found again when it returns. In the order of an applied Deployment: [`sync`] sees a Pod bound to this
//! node, [`pod::lifecycle`] decides, [`pod::worker`] acts through [`images`] and the sandbox protocol, and
//! [`services`] puts the routes into force that make its Service answer.

mod balancers;
pub mod cgroup;
pub mod events;
mod externals;
pub mod host;
pub mod hosts;
pub mod identity;
pub mod images;
pub mod ingress;
pub mod isolation;
pub mod join;
pub mod kubelet;
pub mod logs;
pub mod metrics;
pub mod namespaces;
pub mod node;
pub mod objects;
pub mod peers;
pub mod pod;
pub mod range;
mod request;
pub mod services;
mod streaming;
pub mod sync;
mod tls;
mod tunnel;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use coracle_network::{Network, Place};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::balancers::Standing;
use crate::hosts::{Hosts, HostsConfig};
use crate::identity::Identity;
use crate::images::Images;
use crate::images::compile::{CompileCommand, Compiler};
use crate::node::Machine;
use crate::pod::worker::{Parts, Workers};

/// What an agent is made of.
pub struct Config {
    /// Who it is.
    pub identity: Identity,
    /// The machine, as its Node tells of it.
    pub machine: Machine,
    /// Where the kubelet API listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Whether it keeps a connection to the server open by which the server calls it.
    pub tunnel: bool,
    /// Its folder.
    pub data: PathBuf,
    /// Its sandbox hosts.
    pub hosts: HostsConfig,
    /// How to compile images.
    pub compile_command: CompileCommand,
    /// How Ingresses are served.
    pub ingress: ingress::Settings,
    /// The node's network.
    pub network: Network,
    /// Where images come from and when they go.
    pub images: images::Config,
    /// Paths of the machine that Pods may mount.
    pub host_paths: pod::volumes::HostPaths,
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The API server refused or is away.
    #[error("cannot register node {name}: {source}")]
    Register {
        /// The node.
        name: String,
        /// As the server said.
        source: kube::Error,
    },
    /// The port is taken.
    #[error("cannot listen on {address} for the kubelet API: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// No sandbox host.
    #[error(transparent)]
    Host(#[from] hosts::PlaceError),
    /// The folder of images.
    #[error(transparent)]
    Images(#[from] images::StoreError),
    /// The data folder.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A running agent. Dropping it stops the agent, not the workloads.
pub struct Agent {
    tasks: JoinSet<()>,
    hosts: Hosts,
    volumes: pod::volumes::Volumes,
    ingress: ingress::Settings,
    network: Network,
}

/// Starts the agent; it is registered, and its host answers, when this returns.
pub async fn start(config: Config) -> Result<Agent, StartError> {
    let client = config.identity.client();
    let folder = |name: &str| {
        let path = config.data.join(name);
        std::fs::create_dir_all(&path)
            .map_err(|source| StartError::Folder { path: path.clone(), source })?;
        Ok::<_, StartError>(path)
    };
    let images = Images::open(folder("images")?, client.clone(), config.images)?;
    let compiled = folder("compiled")?;
    let compiler = Compiler::open(compiled.clone(), config.compile_command)
        .map_err(|source| StartError::Folder { path: compiled, source })?;

    let mut machine = config.machine;
    let node_name = machine.name.clone();
    let allocatable = (u64::from(machine.cpus) * 1000, node::allocatable(machine.memory));
    let (hosts, sandboxes, started) =
        Hosts::open(config.hosts, config.network.clone(), allocatable).await?;
    for sandbox in &sandboxes {
        let on_host = sandbox.spec.oci.as_ref().is_some_and(|oci| oci.host_network);
        if let Some(IpAddr::V4(ip)) = sandbox.spec.ips.first()
            && !on_host
            && let Err(error) = config.network.adopt(&sandbox.spec.id, *ip)
        {
            tracing::warn!(%error, sandbox = sandbox.spec.id, "address of a running Pod not taken over");
        }
    }

    let listen_error = |source| StartError::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
    let kubelet_port = listener.local_addr().map_err(listen_error)?.port();
    machine.kubelet_port = kubelet_port;
    machine.containers = hosts.runs_containers();
    let services = services::Services::at(Place {
        node: node_name.clone(),
        zone: machine.labels.get(balancers::ZONE).cloned(),
    });
    // Before the first Pod is told whom to ask.
    let names = if hosts.runs_containers() {
        let bound = coracle_network::dns::Server::bind(config.network.clone()).await;
        bound.inspect_err(|error| {
            let address = config.network.host_address();
            tracing::warn!(%error, %address, "containers find no Services by name: port 53 cannot be had");
        })
        .ok()
    } else {
        None
    };
    let namespaces = namespaces::Namespaces::new(client.clone());
    let recorder = events::Recorder::start(client.clone(), node_name.clone());
    for message in hosts.older_hosts().await {
        recorder.node(&node_name, false, "OlderHost", message);
    }
    let of_ingress = recorder.clone();
    let objects = objects::Objects::new(client.clone());
    let settings = pod::volumes::Settings {
        data: config.data.clone(),
        host_paths: config.host_paths,
        allocatable,
    };
    let volumes = pod::volumes::Volumes::new(
        client.clone(),
        objects.clone(),
        recorder.clone(),
        hosts.clone(),
        settings,
    );
    machine.storage = volumes.disk();
    let workers = Workers::start(Parts {
        client: client.clone(),
        hosts: hosts.clone(),
        images: images.clone(),
        compiler: compiler.clone(),
        network: config.network.clone(),
        services: services.clone(),
        namespaces: namespaces.clone(),
        objects,
        volumes: volumes.clone(),
        recorder: recorder.clone(),
        host_ip: machine.ip.clone(),
        name_server: names.is_some().then(|| config.network.host_address().into()),
        allocatable,
    });
    let is_registered = match node::register(&client, &machine, &images).await {
        Ok(()) => true,
        Err(source @ kube::Error::Api(_)) => {
            return Err(StartError::Register { name: machine.name.clone(), source });
        }
        // Its Pods are here, and whoever asks for them is; the control plane will be told later.
        Err(error) => {
            tracing::warn!(%error, "the server does not answer; going on with what this machine runs");
            false
        }
    };

    let mut tasks = JoinSet::new();
    let (count, machines) = tokio::sync::watch::channel(1);
    if let Ok(address) = machine.ip.parse() {
        let own = (node_name.clone(), address);
        let seen = services.clone();
        let tell = move |nodes: &BTreeMap<String, Standing>| {
            count.send_replace(nodes.len());
            seen.set_nodes(nodes);
        };
        tasks.spawn(peers::follow(client.clone(), config.network.clone(), own, tell));
    }
    let heartbeat =
        node::heartbeat(client.clone(), machine, images.clone(), is_registered, machines);
    tasks.spawn(heartbeat);
    let users = workers.clone();
    let node = node_name.clone();
    let running = sandboxes.iter().filter(|s| s.spec.oci.is_none()).flat_map(|s| &s.containers);
    let in_use: Vec<String> = running.map(|container| container.image_digest.clone()).collect();
    let (all, stored) = (hosts.clone(), images.clone());
    tasks.spawn(compiler.clone().follow_upgrade(
        in_use,
        move || all.all().iter().map(|host| host.client().clone()).collect(),
        move |digest| stored.program(digest),
    ));
    tasks.spawn(images.collect(
        move || users.images_in_use(),
        move |reason, message| recorder.node(&node, true, reason, message),
        move |program| compiler.forget(program),
    ));
    let socket = config.ingress.socket.clone();
    tasks.spawn(config.identity.clone().keep_fresh());
    let api = kubelet::router(workers.clone(), node_name.clone(), socket);
    let kubelet = kubelet::Kubelet::new(config.identity.serving(), api);
    if config.tunnel {
        tasks.spawn(tunnel::keep_open(config.identity.clone(), kubelet.clone()));
    }
    tasks.spawn(kubelet.listen(listener));
    if config.ingress.enabled {
        let hosts = hosts.clone();
        let parts = ingress::Parts {
            client: client.clone(),
            node: node_name.clone(),
            services: services.clone(),
            recorder: of_ingress,
            doors: Box::new(move || hosts.doors_of_ingress()),
        };
        tasks.spawn(ingress::follow(config.ingress.clone(), parts));
    } else {
        // One that an agent with other arguments started.
        ingress::end(&config.ingress).await;
    }
    let notice = {
        let workers = workers.clone();
        move || workers.services_changed()
    };
    tasks.spawn(namespaces.watch());
    if let Some(names) = names {
        tasks.spawn(names.run());
    }
    let (retrying, evicting) = (workers.clone(), workers.clone());
    tasks.spawn(volumes.clone().run(pod::volumes::Hooks {
        retry: move |uid: &str| retrying.retry(uid),
        evict: move |uid: &str, message| evicting.evict(uid, message),
    }));
    let watching = services.clone();
    let services_client = client.clone();
    tasks.spawn(async move { watching.watch(services_client, notice).await });
    let (network, telling) = (config.network.clone(), services.clone());
    let told = hosts.clone();
    tasks.spawn(async move { telling.tell_hosts(&network, &told).await });
    let network = config.network.clone();
    tasks.spawn(async move { services.enforce(network).await });
    tasks.spawn(metrics::tell(client.clone(), workers.clone()));
    tasks.spawn(sync::hosts(started, hosts.clone(), workers.clone(), config.network.clone()));
    tasks.spawn(sync::pods(client, node_name, workers, hosts.clone(), sandboxes));
    Ok(Agent { tasks, hosts, volumes, ingress: config.ingress, network: config.network })
}

impl Agent {
    /// Ends the workloads and removes their network, then the agent. For `up`, whose Ctrl-C ends everything.
    pub async fn end_workloads(mut self) {
        // First nobody may start what is being ended.
        self.tasks.shutdown().await;
        ingress::end(&self.ingress).await;
        self.hosts.end().await;
        self.volumes.unmount_all();
        if let Err(error) = self.network.teardown().await {
            tracing::warn!(%error, "the Pods' network was not removed");
        }
    }

    /// Waits for ever: a part that ends does so by a defect.
    pub async fn run(&mut self) {
        while let Some(result) = self.tasks.join_next().await {
            if let Err(error) = result {
                tracing::error!(%error, "a part of the agent ended");
            }
        }
    }
}

/// The built-in registry, for those who push.
pub fn registry(client: kube::Client) -> images::registry::Builtin {
    images::registry::Builtin::new(client)
}
