//! Which sandbox host a Pod lives in. A host is a process; Pods of one isolation group share one.
//!
//! The shared host is there from the agent's start to its end. What is shared costs nothing per Pod here.

mod folders;

use std::path::PathBuf;
use std::sync::Arc;

use coracle_network::Network;
use coracle_sandbox::{Client, Routes, SandboxStatus};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Notify;

pub use folders::Folders;

use crate::host::{self, HostCommand, HostError};

/// Where hosts have their things, and how they are started.
#[derive(Debug, Clone)]
pub struct HostsConfig {
    /// The program: the agent's own.
    pub program: PathBuf,
    /// Folder of sockets, one folder a host; its path must be short.
    pub sockets: PathBuf,
    /// Folder of what hosts keep for themselves, one folder a host.
    pub data: PathBuf,
    /// The agent's folder: images, and below it logs and volumes.
    pub agent_data: PathBuf,
}

/// All hosts of this node; cheap to clone.
#[derive(Clone)]
pub struct Hosts {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Host>,
    network: Network,
    /// Some host does not have the node's routes.
    stale: Notify,
}

/// The host of one isolation group.
pub struct Host {
    client: Client,
    command: HostCommand,
    folders: Arc<Folders>,
}

/// What an agent found that earlier agents had started.
pub struct Found {
    /// The host.
    pub host: Arc<Host>,
    /// Which start of it.
    pub instance: String,
    /// What it runs.
    pub sandboxes: Vec<SandboxStatus>,
}

/// Where a Pod was put.
pub struct Place {
    /// Its host.
    pub client: Client,
    /// The network namespace of its addresses; none where there are no namespaces.
    pub netns: Option<PathBuf>,
    /// Where it has its files.
    pub folders: Arc<Folders>,
}

impl Hosts {
    /// Finds the hosts that outlived an earlier agent, and starts the shared one if it is not among them.
    pub async fn open(
        config: HostsConfig,
        network: Network,
    ) -> Result<(Self, Vec<Found>), HostError> {
        let shared = Host::new(&config);
        let (info, adopted) = host::ensure(&shared.client, &shared.command).await?;
        let sandboxes = match adopted {
            true => shared.client.sandboxes().await.unwrap_or_default(),
            false => Vec::new(),
        };
        let shared = Arc::new(shared);
        let found = Found { host: shared.clone(), instance: info.instance, sandboxes };
        let stale = Notify::new();
        // The host may be new and know no route, or have an older agent's.
        stale.notify_one();
        Ok((Self { inner: Arc::new(Inner { shared, network, stale }) }, vec![found]))
    }

    /// The host that a Pod was put in; the shared one where nothing is known of it.
    pub fn of(&self, _uid: &str) -> Client {
        self.inner.shared.client.clone()
    }

    /// Where a Pod has its files.
    pub fn folders(&self, _uid: &str) -> Arc<Folders> {
        self.inner.shared.folders.clone()
    }

    /// Finds a Pod its host.
    pub async fn place(&self, _uid: &str, _pod: &Pod) -> Result<Place, HostError> {
        let shared = &self.inner.shared;
        Ok(Place {
            client: shared.client.clone(),
            netns: self.inner.network.pod_netns().map(Into::into),
            folders: shared.folders.clone(),
        })
    }

    /// Every host that runs.
    pub fn all(&self) -> Vec<Arc<Host>> {
        vec![self.inner.shared.clone()]
    }

    /// Waits until some host lacks the node's routes.
    pub async fn routes_wanted(&self) {
        self.inner.stale.notified().await;
    }

    /// A host came back, and knows no routes.
    pub fn want_routes(&self) {
        self.inner.stale.notify_one();
    }

    /// Gives every host the node's routes.
    pub async fn put_routes(&self, routes: &Routes) {
        for host in self.all() {
            match host.client.put_routes(routes).await {
                Ok(status) => {
                    for failed in status.failed {
                        tracing::warn!(address = %failed.address, "Service is not served there: {}", failed.message);
                    }
                }
                // A host that comes back is handed the table again.
                Err(error) => tracing::debug!(%error, "a host's routes are not up to date"),
            }
        }
    }

    /// Ends all hosts and what they run.
    pub async fn end(&self) {
        for host in self.all() {
            if let Err(error) = host.client.shutdown().await {
                tracing::warn!(%error, "a sandbox host did not end");
            }
        }
    }
}

impl Host {
    fn new(config: &HostsConfig) -> Self {
        let socket = config.sockets.join("wasm.sock");
        let args: [std::ffi::OsString; 8] = [
            "host".into(),
            "wasm".into(),
            "--socket".into(),
            socket.clone().into(),
            "--data".into(),
            config.data.clone().into(),
            "--agent-data".into(),
            config.agent_data.clone().into(),
        ];
        let command = HostCommand {
            program: config.program.clone(),
            args: args.into(),
            log: config.data.join("wasm.log"),
        };
        Self {
            client: Client::new(socket),
            command,
            folders: Arc::new(Folders::new(config.agent_data.clone())),
        }
    }

    /// How to reach it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// How to start it.
    pub fn command(&self) -> &HostCommand {
        &self.command
    }
}
