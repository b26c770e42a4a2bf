//! One host as the agent keeps it: whose it is, where it has its things, and who is in it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use coracle_sandbox::{Client, SandboxSpec};
use tokio_util::sync::CancellationToken;

use super::containers::Shim;
use super::{Folders, HostsConfig, Place, Record, folders};
use crate::cgroup::Cgroup;
use crate::host::HostCommand;
use crate::isolation::Group;

/// The host of one isolation group.
pub struct Host {
    pub(super) group: Group,
    pub(super) number: u16,
    pub(super) client: Client,
    pub(super) folders: Arc<Folders>,
    host_paths: Vec<PathBuf>,
    /// Of a Pod with containers, which run there; this host's process is for its Wasm containers, if it has any.
    pub(super) shim: Option<Shim>,
    /// Its process is of another program than the agent's.
    pub(super) outdated: AtomicBool,
    pub(super) state: Arc<tokio::sync::Mutex<State>>,
}

#[derive(Default)]
pub(super) struct State {
    /// Those that it runs, or is about to.
    pub(super) tenants: HashMap<String, Tenant>,
    /// Those that have files in its folders.
    pub(super) known: HashSet<String>,
    /// Present while its process is to be there; cancelled at its end.
    pub(super) running: Option<CancellationToken>,
    pub(super) cgroup: Option<Cgroup>,
    /// Forgotten: whoever waited for the lock has to look for the group again.
    pub(super) retired: bool,
}

/// A Pod as far as its host's size is concerned.
pub(super) struct Tenant {
    pub(super) address: Option<Ipv4Addr>,
    pub(super) memory: Option<u64>,
    pub(super) cpu: u32,
}

impl Host {
    pub(super) fn new(config: &HostsConfig, record: Record) -> Self {
        let user = config.users.map(|first| first + u32::from(record.number));
        let shim = record.pod().map(|uid| Shim::new(uid.to_owned()));
        let Record { group, number, host_paths, containers } = record;
        let mut host = Self {
            client: Client::new(""),
            folders: Arc::new(Folders::new(&config.agent_data, user, false)),
            group,
            number,
            host_paths,
            shim,
            outdated: AtomicBool::new(false),
            state: Arc::default(),
        };
        host.client = Client::in_batches(config.sockets.join(format!("{}.sock", host.name())));
        if !host.is_shared() {
            host.folders = Arc::new(Folders::new(&host.base(config), user, containers));
        }
        host
    }

    /// How to reach it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whose it is.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The one that is always there: it serves Services where the kernel does not, and needs no record.
    pub(super) fn is_shared(&self) -> bool {
        self.number == 0
    }

    /// Whether its process is of another program than the agent's.
    pub fn is_outdated(&self) -> bool {
        self.outdated.load(Relaxed)
    }

    /// Short, and unlike any other's.
    pub(super) fn name(&self) -> String {
        if self.is_shared() { "shared".to_owned() } else { format!("{:03x}", self.number) }
    }

    /// Where a group's Pods have their files.
    pub(super) fn base(&self, config: &HostsConfig) -> PathBuf {
        config.agent_data.join("groups").join(self.name())
    }

    pub(super) fn make_folders(&self, config: &HostsConfig) -> io::Result<()> {
        let user = self.folders.user;
        folders::closed(&config.data.join(self.name()), user, user)?;
        self.folders.make()
    }

    pub(super) fn command(&self, config: &HostsConfig, netns: Option<PathBuf>) -> HostCommand {
        let data = config.data.join(self.name());
        let mut args: Vec<OsString> = vec!["host".into(), "wasm".into()];
        let mut add = |name: &str, value: OsString| args.extend([name.into(), value]);
        add("--group", self.group.to_string().into());
        add("--socket", self.client.socket().into());
        add("--data", data.clone().into());
        add("--compiled", config.agent_data.join("compiled").into());
        add("--logs", self.folders.logs.clone().into());
        add("--volumes", self.folders.volumes.clone().into());
        for path in &self.host_paths {
            add("--host-path", path.into());
        }
        if let Some(netns) = netns {
            add("--netns", netns.into());
        }
        if let Some(user) = self.folders.user {
            add("--user", user.to_string().into());
        }
        let log = config.data.join(format!("{}.log", self.name()));
        HostCommand { program: config.program.clone(), args, log, shares: Default::default() }
    }

    pub(super) fn place(&self, netns: Option<PathBuf>) -> Place {
        Place { client: self.client.clone(), netns, folders: self.folders.clone(), users: None }
    }
}

impl Tenant {
    pub(super) fn of(spec: &SandboxSpec) -> Self {
        let is_nodes = spec.oci.as_ref().is_some_and(|oci| oci.host_network);
        let address = spec.ips.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) if !is_nodes => Some(*ip),
            _ => None,
        });
        Self { address, memory: spec.memory_limit, cpu: spec.cpu_weight }
    }
}
