//! What goes over the wire. Every field that can have a sensible default has one, so that an older
//! agent and a newer host (or the reverse) understand each other. Timestamps are RFC 3339.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::beneath::Folder;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Label of a sandbox that gives the namespace in which short Service names are looked up.
pub const LABEL_NAMESPACE: &str = "namespace";
/// Label of a sandbox that gives its name for people (the Pod's name).
pub const LABEL_NAME: &str = "name";

/// Who answers on this socket: `GET /v1/info`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// The kind of runtime: `wasm` or `oci`.
    pub runtime: String,
    /// Version of the host's program.
    pub version: String,
    /// Version of the protocol: [`crate::API_VERSION`].
    pub api: u32,
    /// The host's process.
    pub pid: u32,
    /// Unique per start of a host: another value means that all sandboxes of the former are gone.
    pub instance: String,
    /// When the host started.
    pub started_at: Timestamp,
    /// What runs the workloads, for people: `wasmtime 48.0.8, pool 4000 × 64 MiB`.
    #[serde(default)]
    pub engine: String,
    /// By class of guests, how compiled code is called that this host can use; nothing where it compiles itself.
    #[serde(default)]
    pub code: BTreeMap<String, String>,
}

/// An image's workload, as a file on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of the content at `path`: `sha256:<hex>`.
    pub digest: String,
    /// The `.wasm` file (a root filesystem, for containers).
    pub path: PathBuf,
    /// The media type under which the registry served it; empty where unknown.
    #[serde(default)]
    pub media_type: String,
}

/// What a workload is, told by what it exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageKind {
    /// Answers HTTP requests; has no process and no sockets of its own.
    Http,
    /// Runs from start to exit.
    Command,
    /// A container image.
    Container,
}

/// Answer to `POST /v1/images` (whose body is an [`Image`]): the image is ready to start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// What it is.
    pub kind: ImageKind,
    /// Interfaces that it imports.
    #[serde(default)]
    pub imports: Vec<String>,
    /// Interfaces that it exports.
    #[serde(default)]
    pub exports: Vec<String>,
    /// Whether compiled code was found in the cache.
    #[serde(default)]
    pub cached: bool,
    /// Whether the image is a core module (WASI preview 1) that was made into a component.
    #[serde(default)]
    pub adapted: bool,
    /// Languages and tools that it was made with, as far as it tells (its `producers`).
    #[serde(default)]
    pub languages: Vec<String>,
}

/// What compiling an image made: the answer of `coracle host compile`, on its standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompiledImage {
    /// Digest of the image's content.
    pub digest: String,
    /// What it is.
    pub info: ImageInfo,
    /// Code that there is: the name of its file, by the class of guests that it was compiled for.
    #[serde(default)]
    pub code: BTreeMap<String, String>,
    /// Bytes of all that code.
    #[serde(default)]
    pub bytes: u64,
}

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
    /// The Pod's addresses, the primary first.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// The network namespace in which these addresses live; the host's own where none is given.
    #[serde(default)]
    pub netns: Option<PathBuf>,
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
}

impl Mount {
    /// Opens what is mounted, a folder, wherever its path leads by now, but only within its volume.
    ///
    /// # Errors
    /// As [`Folder::folder`] has them.
    pub fn open(&self) -> std::io::Result<Folder> {
        if self.volume.as_os_str().is_empty() {
            return Folder::open(&self.host_path);
        }
        let inner = self.host_path.strip_prefix(&self.volume).map_err(std::io::Error::other)?;
        Folder::open(&self.volume)?.folder(inner)
    }
}

fn is_empty(path: &std::path::Path) -> bool {
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
    /// Signal that asks for the end. Containers only.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// User and group. Containers only.
    #[serde(default)]
    pub user: Option<(u32, u32)>,
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
    #[serde(default)]
    pub memory_bytes: u64,
    /// CPU time since the start, in nanoseconds.
    #[serde(default)]
    pub cpu_nanoseconds: u64,
    /// HTTP requests since the start.
    #[serde(default)]
    pub requests: u64,
    /// HTTP requests that failed in the workload (trap, timeout, memory, no room).
    #[serde(default)]
    pub failed_requests: u64,
    /// HTTP requests being served now.
    #[serde(default)]
    pub active_requests: u64,
    /// HTTP requests refused for want of room.
    #[serde(default)]
    pub refused_requests: u64,
    /// Sum of the time that finished HTTP requests took, in microseconds.
    #[serde(default)]
    pub request_microseconds: u64,
    /// Instances that exist now.
    #[serde(default)]
    pub instances: u64,
    /// Traps since the start.
    #[serde(default)]
    pub traps: u64,
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
}

/// Transport protocol of a Service's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// The default.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
    /// Streams of messages.
    Sctp,
}

/// The node's Services: `PUT /v1/routes` replaces the whole table at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Routes {
    /// Grows with each table an agent pushes; for debugging.
    #[serde(default)]
    pub generation: u64,
    /// Every Service that workloads may call.
    #[serde(default)]
    pub services: Vec<ServiceRoute>,
    /// Addresses on which the host itself is to forward TCP to a Service: an ordinary user's
    /// ClusterIPs and node ports. Empty where the kernel does it.
    #[serde(default)]
    pub listen: Vec<Listen>,
}

/// One Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceRoute {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its ClusterIP; none for a headless Service.
    #[serde(default)]
    pub vip: Option<IpAddr>,
    /// Its ports.
    #[serde(default)]
    pub ports: Vec<PortRoute>,
}

/// One port of a Service, and who answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortRoute {
    /// Its name; empty where there is but one.
    #[serde(default)]
    pub name: String,
    /// The port on the ClusterIP.
    pub port: u16,
    /// The port on every node.
    #[serde(default)]
    pub node_port: Option<u16>,
    /// Only TCP is routed by the Wasm host.
    #[serde(default)]
    pub protocol: Protocol,
    /// Ready endpoints, as they can be connected to.
    #[serde(default)]
    pub backends: Vec<SocketAddr>,
}

/// A forwarding listener: connections to `address` go to that Service's backends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Listen {
    /// Where to listen.
    pub address: SocketAddr,
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// The Service's port ([`PortRoute::port`]).
    pub port: u16,
}

/// Answer to `PUT /v1/routes`. The table is in force even where some listener could not be opened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoutesStatus {
    /// Listeners that could not be opened, and why.
    #[serde(default)]
    pub failed: Vec<ListenFailure>,
}

/// A listener that could not be opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListenFailure {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub message: String,
}

/// A container's state changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with each event of a host.
    pub seq: u64,
    /// The sandbox.
    pub sandbox: String,
    /// The container, as it is now.
    pub container: ContainerStatus,
}

/// Something that people should know of a container which runs on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The sandbox.
    pub sandbox: String,
    /// The container.
    pub container: String,
    /// What kind.
    pub kind: NoticeKind,
    /// For people.
    pub message: String,
}

/// What a [`Notice`] tells of. A host sends one of a kind for a container at most every few seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NoticeKind {
    /// A guest trapped; its backtrace is in the container's log.
    Trap,
    /// A guest used what it was not granted.
    Denied,
    /// A limit was met: requests, time, size, sockets, log.
    Limit,
    /// Instances are not used again, though the container asks for it.
    NotReused,
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// One line of `GET /v1/events`. The first is always `Start`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum EventLine {
    /// Where this stream begins.
    Start {
        /// [`Info::instance`] of the host.
        instance: String,
        /// Sequence number of the last event before this stream.
        last: u64,
        /// Events after the wanted one are no longer held (or it is another host's number): list
        /// the sandboxes again. The stream goes on with what happens from now.
        gap: bool,
    },
    /// A change.
    Event(Event),
    /// Something to tell people. Not numbered, not repeated: whoever does not listen misses it.
    Notice(Notice),
}

/// What kind of thing went wrong; decides the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProblemCode {
    /// No file at the image's path.
    ImageNotFound,
    /// The image is not a Wasm component.
    NotAComponent,
    /// The component exports nothing that the host can serve or run.
    MissingExport,
    /// The component imports something that the host does not offer.
    UnknownImport,
    /// There is no compiled code for this host's engine: compile the image, then ask again.
    NotCompiled,
    /// A field of the request cannot be honoured.
    InvalidSpec,
    /// No such sandbox or container.
    NotFound,
    /// It exists already and differs.
    Conflict,
    /// An address to serve on is taken.
    AddressInUse,
    /// The host is full; try again later.
    NoCapacity,
    /// The host failed.
    Internal,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ProblemCode {
    /// The HTTP status under which it travels.
    pub fn status(self) -> http::StatusCode {
        use http::StatusCode;
        match self {
            ProblemCode::ImageNotFound | ProblemCode::NotFound => StatusCode::NOT_FOUND,
            ProblemCode::NotAComponent
            | ProblemCode::MissingExport
            | ProblemCode::UnknownImport
            | ProblemCode::NotCompiled => StatusCode::UNPROCESSABLE_ENTITY,
            ProblemCode::InvalidSpec => StatusCode::BAD_REQUEST,
            ProblemCode::Conflict | ProblemCode::AddressInUse => StatusCode::CONFLICT,
            ProblemCode::NoCapacity => StatusCode::SERVICE_UNAVAILABLE,
            ProblemCode::Internal | ProblemCode::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A refusal: the JSON body of every answer that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind.
    pub code: ProblemCode,
    /// What, where and what to do, for people.
    pub message: String,
    /// With [`ProblemCode::NotCompiled`]: the class of guests to compile the image for; whichever fits where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(code: ProblemCode, message: impl Into<String>) -> Problem {
        Problem { code, message: message.into(), class: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)
    }
}

impl std::error::Error for Problem {}
