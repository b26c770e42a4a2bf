//! Why a volume is not there, in the kubelet's words.

use std::path::PathBuf;

/// A volume cannot be set up, or cannot be mounted as the container asks.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The volume; the Pod waits for what it lacks (`FailedMount`).
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
    SetUp {
        /// The volume.
        volume: String,
        /// What is wrong.
        why: SetUpError,
    },
    /// The mount; the container waits (`CreateContainerConfigError`).
    #[error("{0}")]
    Mount(String),
}

/// What is wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// An object is missing.
    #[error("{kind} \"{name}\" not found")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// The object.
        name: String,
    },
    /// Objects could not be fetched.
    #[error("{0}")]
    Sync(String),
    /// A ConfigMap lacks a key.
    #[error("configmap references non-existent config key: {0}")]
    ConfigKey(String),
    /// A Secret lacks a key.
    #[error("references non-existent secret key: {0}")]
    SecretKey(String),
    /// A path leaves the volume.
    #[error("invalid path \"{0}\": it must be relative and must not contain '..'")]
    Path(String),
    /// A field that cannot be shown.
    #[error("unsupported fieldPath \"{0}\"")]
    Field(String),
    /// No token was issued.
    #[error("failed to fetch token: {0}")]
    Token(String),
    /// The type is not offered here.
    #[error(
        "{0} volumes cannot be mounted on this node; use emptyDir, configMap, secret, projected, downwardAPI, hostPath or a persistentVolumeClaim of such a volume"
    )]
    Unsupported(&'static str),
    /// A path of the machine is not what it should be.
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    HostPathType {
        /// The path.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// A path of the machine is not for Pods.
    #[error("hostPath {path} is not allowed on this node: {remedy}")]
    HostPathDenied {
        /// The path.
        path: PathBuf,
        /// What whoever runs the node may do about it.
        remedy: String,
    },
    /// The disk.
    #[error("{path}: {source}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl SetUpError {
    pub(super) fn of(self, volume: &str) -> MountError {
        MountError::SetUp { volume: volume.to_owned(), why: self }
    }
}

pub(super) fn disk(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> SetUpError {
    let path = path.into();
    move |source| SetUpError::Disk { path, source }
}
