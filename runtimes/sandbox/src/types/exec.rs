//! Processes that are started in a container beside its own, and streams to and from containers.

use serde::{Deserialize, Serialize};

/// `POST …/containers/{name}/exec`: run a program, with streams (`core/v1 PodExecOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Arguments, `argv[0]` included.
    pub args: Vec<String>,
    /// Whether standard input is given.
    pub stdin: bool,
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted; never with a terminal, which has one output.
    pub stderr: bool,
    /// Whether it has a terminal.
    pub tty: bool,
}

/// `POST …/containers/{name}/attach`: take part in a container's own streams (`core/v1 PodAttachOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachSpec {
    /// Whether standard input is given.
    pub stdin: bool,
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted.
    pub stderr: bool,
}

/// `POST …/containers/{name}/run`: run a program to its end, as probes and hooks do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunSpec {
    /// Arguments, `argv[0]` included.
    pub args: Vec<String>,
    /// How long it may take, in milliseconds; then it is killed. 0: a minute.
    pub timeout_milliseconds: u64,
}

/// What became of a [`RunSpec`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunResult {
    /// Exit code; 137 where it was killed.
    pub code: i32,
    /// Whether it took too long.
    pub timed_out: bool,
    /// The beginning of what it wrote, both streams as they came: at most 10 KiB.
    pub output: String,
}

/// `PATCH …/containers/{name}/resources`: other limits for a container that runs; `PATCH /v1/sandboxes/{id}/resources`: for a
/// whole sandbox. What is not given has no limit, but for processes and huge pages, whose limits stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes of memory.
    pub memory_limit: Option<u64>,
    /// Share of CPU, in requested millicores.
    pub cpu_weight: u32,
    /// Most CPU, in millicores.
    pub cpu_limit: Option<u32>,
    /// Most processes and threads.
    pub pids_limit: Option<u64>,
    /// Bytes of huge pages, by page size.
    pub hugepages: std::collections::BTreeMap<String, u64>,
}
