//! What containers need beyond what every workload has. Only runtimes of container images read it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::users::Range;

/// What a Pod's containers share (`core/v1 PodSpec`, `PodSecurityContext`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OciSandbox {
    /// Kernel parameters of the Pod's namespaces, by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// Whether containers see each other's processes (`shareProcessNamespace`).
    pub share_pids: bool,
    /// Whether containers see the machine's processes (`hostPID`).
    pub host_pid: bool,
    /// Whether containers use the machine's System V IPC and message queues (`hostIPC`).
    pub host_ipc: bool,
    /// Whether containers use the machine's network and host name (`hostNetwork`).
    pub host_network: bool,
    /// Users of the machine as which the Pod's users run (`hostUsers: false`). The Pod's network namespace, where it is given
    /// one, is owned by the user namespace of these.
    pub users: Option<UserMapping>,
    /// The Pod's group below the root of every cgroup hierarchy, such as `/coracle/c/pods/UID`. Required.
    pub cgroup: PathBuf,
    /// Most processes and threads of the Pod.
    pub pids_limit: Option<u64>,
    /// Bytes of huge pages of all containers together, by page size as the kernel writes it (`2MB`).
    pub hugepages: BTreeMap<String, u64>,
    /// Size of `/dev/shm` in bytes; 64 MiB where none is given.
    pub shm_bytes: Option<u64>,
}

/// A range of users and groups: 0 and up inside, from `host` on outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMapping {
    /// The machine's number of the Pod's user 0.
    pub host: u32,
    /// How many there are.
    pub count: u32,
    /// A further user of the machine who works on the Pod's volumes, and whose files there stay its own.
    #[serde(default)]
    pub guest: Option<u32>,
}

impl UserMapping {
    /// The user namespace of the Pod's processes.
    #[must_use]
    pub fn of_processes(&self) -> Vec<Range> {
        vec![Range { inside: 0, outside: self.host, count: self.count }]
    }

    /// How files are shown: with the Pod's numbers on the disk, so that they can be shared with others and outlive the Pod.
    #[must_use]
    pub fn of_files(&self) -> Vec<Range> {
        let guest = self.guest.map(|id| Range { inside: id, outside: id, count: 1 });
        self.of_processes().into_iter().chain(guest).collect()
    }
}

/// What a container is besides its arguments (`core/v1 Container`, `SecurityContext`, OCI image configuration).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OciContainer {
    /// The image's unpacked layers, lowest first; never written to. Required.
    pub layers: Vec<PathBuf>,
    /// Folders that are otherwise than the highest layer has them.
    pub folders: Vec<FolderAttributes>,
    /// A folder for what this attempt writes, on a file system that overlayfs can use. Required, and its own.
    pub upper: PathBuf,
    /// Folders of the image that are volumes (`VOLUME`), where nothing else is mounted: writable whatever the rest is.
    pub volumes: Vec<PathBuf>,
    /// Who runs: `[USER][:GROUP]`, names or numbers, names being looked up in the image. Root where empty.
    pub user: String,
    /// Refuse to start as root (`runAsNonRoot`).
    pub run_as_non_root: bool,
    /// Groups besides the primary one (`supplementalGroups`).
    pub groups: Vec<u32>,
    /// Group of the volumes; one more of the container's groups (`fsGroup`).
    pub fs_group: Option<u32>,
    /// Leave out the groups that the image gives the user (`supplementalGroupsPolicy: Strict`).
    pub strict_groups: bool,
    /// Mask of the modes of new files; 022 where none is given.
    pub umask: Option<u32>,
    /// Capabilities besides and without the usual ones.
    pub capabilities: Capabilities,
    /// All rights and devices (`privileged`).
    pub privileged: bool,
    /// No more rights than at the start, whatever is executed (`allowPrivilegeEscalation: false`).
    pub no_new_privileges: bool,
    /// Which system calls may be made.
    pub seccomp: Seccomp,
    /// Whether the root file system refuses writes (`readOnlyRootFilesystem`).
    pub read_only: bool,
    /// Whether nothing below `/proc` is hidden or read-only (`procMount: Unmasked`).
    pub unmasked: bool,
    /// Devices of the machine.
    pub devices: Vec<Device>,
    /// Most processes and threads.
    pub pids_limit: Option<u64>,
    /// Bytes of huge pages, by page size as the kernel writes it (`2MB`).
    pub hugepages: BTreeMap<String, u64>,
    /// How soon the kernel ends it when memory runs out, -1000 (last) to 1000.
    pub oom_score_adj: Option<i32>,
    /// A container of the Pod that runs, and whose processes it sees, being one of them (`targetContainerName`).
    pub target: Option<String>,
    /// Limits of processes; the host's own where none is given.
    pub rlimits: Vec<Rlimit>,
    /// Whether it has a standard input that can be attached to.
    pub stdin: bool,
    /// Whether its standard input ends with the first that attaches.
    pub stdin_once: bool,
    /// Whether it has a terminal.
    pub tty: bool,
}

/// A folder of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FolderAttributes {
    /// Where it is in the image; absolute.
    pub path: PathBuf,
    /// Whose it is.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// Its mode's last twelve bits.
    pub mode: u32,
}

/// Changes to the usual capabilities (`core/v1 Capabilities`); names with or without `CAP_`, or `ALL`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// More.
    pub add: Vec<String>,
    /// Fewer. `ALL` comes first, on either side; what is named in both is dropped.
    pub drop: Vec<String>,
}

/// Which system calls a container may make (`core/v1 SeccompProfile`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Seccomp {
    /// All.
    #[default]
    Unconfined,
    /// Those that container runtimes commonly allow.
    RuntimeDefault,
    /// Those that a profile names.
    Localhost {
        /// The profile's text: JSON, as the OCI runtime specification and Docker have it.
        profile: String,
    },
}

/// A device node of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Where it is.
    pub host_path: PathBuf,
    /// Where the container sees it; absolute.
    pub guest_path: PathBuf,
    /// What may be done: letters of `rwm`; all where empty.
    pub permissions: String,
}

/// One limit of `setrlimit`(2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Its name, such as `RLIMIT_NOFILE`.
    pub name: String,
    /// In force.
    pub soft: u64,
    /// As high as it may be raised.
    pub hard: u64,
}

/// Which mounts, made later, pass between machine and container (`core/v1 MountPropagationMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// None.
    #[default]
    None,
    /// The machine's reach the container.
    HostToContainer,
    /// Those of each reach the other.
    Bidirectional,
}
