//! What a container is to run, and how.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::beneath::{Folder, Found};

use super::{Image, OciContainer, Propagation};

/// A host folder or file that a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it is.
    pub host_path: PathBuf,
    /// The folder above it from which on others can change the path, as workloads can change what is in a volume. Empty where
    /// none but trusted users can.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub volume: PathBuf,
    /// Where the container sees it; absolute.
    pub guest_path: PathBuf,
    /// Whether writes are refused.
    #[serde(default)]
    pub read_only: bool,
    /// Whether writes are refused in what is mounted below it, too. Containers only.
    #[serde(default)]
    pub recursive_read_only: bool,
    /// Which mounts pass to and fro. Containers only.
    #[serde(default)]
    pub propagation: Propagation,
}

impl Mount {
    /// Opens what is mounted, a folder, wherever its path leads by now, but only within its volume.
    ///
    /// # Errors
    /// As [`Folder::folder`] has them.
    pub fn open(&self) -> std::io::Result<Folder> {
        match self.find()? {
            Found::Folder(folder) => Ok(folder),
            Found::Other(_) => Err(std::io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Opens what is mounted, whatever it is, as [`Mount::open`] does.
    ///
    /// # Errors
    /// As [`Folder::find`] has them.
    pub fn find(&self) -> std::io::Result<Found> {
        if self.volume.as_os_str().is_empty() {
            let whole = std::fs::metadata(&self.host_path)?.is_dir();
            let (folder, name) = match (whole, self.host_path.parent()) {
                (false, Some(parent)) => (parent, self.host_path.file_name().unwrap_or_default()),
                _ => return Ok(Found::Folder(Folder::open(&self.host_path)?)),
            };
            return Folder::open(folder)?.find(Path::new(name));
        }
        let inner = self.host_path.strip_prefix(&self.volume).map_err(std::io::Error::other)?;
        Folder::open(&self.volume)?.find(inner)
    }
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// One attempt at running a container: `PUT /v1/sandboxes/{id}/containers/{name}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Unique in its sandbox, init containers included.
    pub name: String,
    /// Counts restarts, from 0. A start with a higher attempt follows the exit of the last.
    #[serde(default)]
    pub attempt: u32,
    /// What to run.
    pub image: Image,
    /// Arguments, `argv[0]` included.
    #[serde(default)]
    pub args: Vec<String>,
    /// The environment, in order; the last of equal names counts.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Where an HTTP workload is served on the sandbox's addresses. The agent has resolved what
    /// the Pod declares; the host binds exactly these.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Folders and files of the machine that the container sees.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Bytes of memory.
    #[serde(default)]
    pub memory_limit: Option<u64>,
    /// Share of CPU, in requested millicores.
    #[serde(default)]
    pub cpu_weight: u32,
    /// Most CPU, in millicores.
    #[serde(default)]
    pub cpu_limit: Option<u32>,
    /// The log file, in the CRI format; made when first written.
    #[serde(default)]
    pub log_path: PathBuf,
    /// When the log file is rotated; the host's default where none is given.
    #[serde(default)]
    pub log_limit: Option<LogLimit>,
    /// How an HTTP workload is served.
    #[serde(default)]
    pub http: HttpSpec,
    /// What the workload may use of what it imports.
    #[serde(default)]
    pub grants: Grants,
    /// Where the program starts; the image's where none is given. Containers only.
    #[serde(default)]
    pub working_dir: Option<PathBuf>,
    /// Signal that asks for the end: a name or a number; TERM where none is given. Containers only.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// What a container is besides. A runtime of containers requires it.
    #[serde(default)]
    pub oci: Option<OciContainer>,
}

/// Bounds of a container's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimit {
    /// Bytes after which a file is rotated.
    pub bytes: u64,
    /// Files that are kept, the present one included.
    pub files: u32,
}

/// How an HTTP workload is served. What is not given is the host's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpSpec {
    /// Seconds that one request may take, to the last byte of its answer.
    #[serde(default)]
    pub timeout_seconds: Option<u32>,
    /// Requests that run at once.
    #[serde(default)]
    pub max_active: Option<u32>,
    /// Requests that wait for one of those to end; beyond that, 503 with Retry-After.
    #[serde(default)]
    pub max_waiting: Option<u32>,
    /// Bytes of a request's body; beyond that, 413.
    #[serde(default)]
    pub max_request_bytes: Option<u64>,
    /// Bytes of an answer's body; beyond that, the answer is broken off.
    #[serde(default)]
    pub max_response_bytes: Option<u64>,
    /// Serve several requests with one instance, one after the other. A fresh one each where none is given.
    #[serde(default)]
    pub reuse: Option<Reuse>,
    /// Write a line per request to the container's log, as JSON on stdout.
    #[serde(default)]
    pub access_log: bool,
}

/// How long one instance may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reuse {
    /// Requests that it serves at most.
    pub max_requests: u32,
    /// Milliseconds after which an idle instance ends.
    pub idle_milliseconds: u32,
}

/// What a workload may use of what it imports. Files follow its mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Outgoing HTTP requests (`wasi:http/outgoing-handler`, `wasi:http/client`).
    #[serde(default = "granted")]
    pub http: bool,
    /// TCP and UDP sockets (`wasi:sockets`).
    #[serde(default = "granted")]
    pub sockets: bool,
    /// Looking up names (`wasi:sockets/ip-name-lookup`).
    #[serde(default = "granted")]
    pub names: bool,
    /// The time of day and the passing of time (`wasi:clocks`).
    #[serde(default = "granted")]
    pub clocks: bool,
}

fn granted() -> bool {
    true
}

impl Default for Grants {
    fn default() -> Grants {
        Grants { http: true, sockets: true, names: true, clocks: true }
    }
}

/// `POST …/containers/{name}/stop`: end gracefully, then by force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// How long the container may take; 0 kills at once.
    pub grace_seconds: u32,
}

/// One of the things that `POST /v1/starts` begins, which takes a list of them. Its answer is the list of what came of each,
/// in their order: `{"Ok": …}` with the status that the single call would have answered, or `{"Err": …}` with a [`Problem`].
///
/// [`Problem`]: super::Problem
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Start {
    /// As `PUT /v1/sandboxes/{id}`.
    Sandbox(Box<super::SandboxSpec>),
    /// As `PUT /v1/sandboxes/{id}/containers/{name}`.
    Container {
        /// The sandbox's id.
        sandbox: String,
        /// What to run.
        spec: Box<ContainerSpec>,
    },
}
