//! One Pod, to a runtime.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{OciSandbox, Resources};

/// Label of a sandbox that gives the namespace in which short Service names are looked up.
pub const LABEL_NAMESPACE: &str = "namespace";
/// Label of a sandbox that gives its name for people (the Pod's name).
pub const LABEL_NAME: &str = "name";

/// One Pod, to a runtime: `PUT /v1/sandboxes/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Unique for ever (the Pod's UID).
    pub id: String,
    /// `namespace`, `name` and whatever helps to debug.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What the workload sees as its host name.
    #[serde(default)]
    pub hostname: String,
    /// The names of its addresses, the full one first; the host name alone where none are given.
    #[serde(default)]
    pub names: Vec<String>,
    /// The Pod's addresses, the primary first.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// The network namespace in which these addresses live; the host's own where none is given.
    #[serde(default)]
    pub netns: Option<PathBuf>,
    /// Whether that namespace is this sandbox's alone, shared with others of the same Pod: its localhost is theirs, too.
    #[serde(default)]
    pub own_network: bool,
    /// Folder of the Pod's logs; made when first needed.
    #[serde(default)]
    pub log_dir: PathBuf,
    /// Bytes of memory for all containers together.
    #[serde(default)]
    pub memory_limit: Option<u64>,
    /// Share of CPU against other sandboxes, in requested millicores; 0 counts as 1.
    #[serde(default)]
    pub cpu_weight: u32,
    /// Most CPU that all containers together may use, in millicores.
    #[serde(default)]
    pub cpu_limit: Option<u32>,
    /// What the workload's resolver is told; the machine's own configuration where none is given.
    #[serde(default)]
    pub dns: Option<Dns>,
    /// Names with addresses of their own (`hostAliases`), before any resolver.
    #[serde(default)]
    pub hosts: Vec<HostAlias>,
    /// What containers need. A runtime of containers requires it.
    #[serde(default)]
    pub oci: Option<OciSandbox>,
}

impl SandboxSpec {
    /// The same with other limits.
    pub fn with_limits(self, resources: &Resources) -> SandboxSpec {
        let Resources { memory_limit, cpu_weight, cpu_limit, .. } = *resources;
        SandboxSpec { memory_limit, cpu_weight, cpu_limit, ..self }
    }
}

/// Names of an address (`core/v1 HostAlias`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAlias {
    /// The address.
    pub ip: IpAddr,
    /// Its names.
    pub names: Vec<String>,
}

/// A resolver's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(default)]
    pub servers: Vec<IpAddr>,
    /// Suffixes tried for short names.
    #[serde(default)]
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    #[serde(default)]
    pub options: Vec<String>,
}
