//! What became of sandboxes and containers, and what they use.

use std::net::SocketAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::SandboxSpec;

/// Why a container ended, in the words Kubernetes uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Any other exit code, a trap, or an end by force.
    Error,
    /// Over the memory limit.
    OOMKilled,
    /// A reason that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ExitReason {
    /// As shown in a Pod's status.
    pub fn as_str(self) -> &'static str {
        match self {
            ExitReason::Completed => "Completed",
            ExitReason::Error => "Error",
            ExitReason::OOMKilled => "OOMKilled",
            ExitReason::Unknown => "Unknown",
        }
    }
}

/// Where a container is in its life. `Exited` is final for its attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all_fields = "snake_case")]
pub enum ContainerState {
    /// Accepted, not yet started.
    Created,
    /// Serving or running; still so while it drains after a stop.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Over.
    Exited {
        /// 0 is success; 137 is killed or out of memory; 134 is a trap.
        code: i32,
        /// Why.
        reason: ExitReason,
        /// For people; empty where there is nothing to say.
        #[serde(default)]
        message: String,
        /// When this attempt began.
        started_at: Timestamp,
        /// When it ended.
        finished_at: Timestamp,
    },
}

impl ContainerState {
    /// Whether this attempt is over.
    pub fn is_exited(&self) -> bool {
        matches!(self, ContainerState::Exited { .. })
    }
}

/// What a container used, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of memory in use now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory_bytes: u64,
    /// CPU time since the start, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cpu_nanoseconds: u64,
    /// HTTP requests since the start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub requests: u64,
    /// HTTP requests that failed in the workload (trap, timeout, memory, no room).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_requests: u64,
    /// HTTP requests being served now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub active_requests: u64,
    /// HTTP requests refused for want of room.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused_requests: u64,
    /// Sum of the time that finished HTTP requests took, in microseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub request_microseconds: u64,
    /// Time of all HTTP requests since the start together, of those that are being served up to now, in microseconds: what
    /// it grows by in a second is how many were served at a time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub busy_microseconds: u64,
    /// Instances that exist now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub instances: u64,
    /// Traps since the start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub traps: u64,
    /// Processes and threads that exist now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pids: u64,
}

/// Most containers have done little of what is counted: there are many of them, and it is asked for often.
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One line of `GET /v1/usage`: what one container used, without its spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerUsage {
    /// The sandbox.
    pub sandbox: String,
    /// The container.
    pub container: String,
    /// Which attempt.
    pub attempt: u32,
    /// When the attempt began.
    pub started_at: Timestamp,
    /// Connections that were accepted for HTTP since.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub connections: u64,
    /// Those that are open now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub open_connections: u64,
    /// What it used since.
    pub usage: Usage,
}

/// A container as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Which attempt this tells of.
    pub attempt: u32,
    /// Digest of the image it runs.
    #[serde(default)]
    pub image_digest: String,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Where it is served.
    #[serde(default)]
    pub bound: Vec<SocketAddr>,
    /// What it used.
    #[serde(default)]
    pub usage: Usage,
    /// Its first process, as the machine numbers it, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What was made of its first process. Containers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Box<Process>>,
}

/// A container's first process, as it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// As whom it began.
    pub user: u32,
    /// Its primary group.
    pub group: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
    /// Signal that asks for its end.
    pub stop_signal: String,
}

/// A sandbox as it is: `GET /v1/sandboxes/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// As it was asked for.
    pub spec: SandboxSpec,
    /// When it was made.
    pub created_at: Timestamp,
    /// The last attempt of each container, by name.
    #[serde(default)]
    pub containers: Vec<ContainerStatus>,
    /// The socket of the process that holds it, where that is not the one that was asked: everything else is asked there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}
