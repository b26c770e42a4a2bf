//! The host itself, and the images that it is handed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
