//! Why an image is not here, as the waiting container's reason and message say it.

use std::path::PathBuf;

use super::fetch::is_full;
use super::layers::LayerError;
use super::manifest::{Unfit, host_architecture};
use super::unpack::{Fault, Refusal};

/// Why an image is not here.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The name is no image name.
    #[error("couldn't parse image name \"{name}\": {why}")]
    InvalidName {
        /// As it was given.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// `imagePullPolicy: Never`, and it is not here.
    #[error("Container image \"{0}\" is not present with pull policy of Never")]
    NeverPull(String),
    /// `imagePullPolicy: Never`, and it is here for others.
    #[error(
        "Container image \"{0}\" is present with pull policy of Never but does not have the proper credentials to access it"
    )]
    NeverForThis(String),
    /// No registry has such an image.
    #[error("Failed to pull image \"{name}\": not found in {registries}{hint}")]
    NotFound {
        /// The name.
        name: String,
        /// Where it was looked up.
        registries: String,
        /// What to do about it.
        hint: String,
    },
    /// No registry could be asked, or all answered with errors.
    #[error("Failed to pull image \"{name}\": {why}")]
    Registry {
        /// The name.
        name: String,
        /// What happened, for each registry.
        why: String,
    },
    /// The image is of no use to this node.
    #[error("image \"{name}\": {why}")]
    Unfit {
        /// The name.
        name: String,
        /// Why.
        why: Unfit,
    },
    /// The image is made for other machines.
    #[error(
        "Failed to pull image \"{name}\": no match for platform in manifest: not found: it is for {found}, and this node takes wasi/wasm and linux/{arch}",
        arch = host_architecture()
    )]
    Platform {
        /// The name.
        name: String,
        /// What it is made for.
        found: String,
    },
    /// One of its layers cannot be unpacked.
    #[error("Failed to pull image \"{name}\": layer {layer} {refusal}")]
    Unpack {
        /// The name.
        name: String,
        /// Digest of the layer.
        layer: String,
        /// Why.
        refusal: Refusal,
    },
    /// A container image, and the agent is an ordinary user's.
    #[error(
        "image \"{0}\" is a container image, and to unpack its files with their owners and devices this node's agent must run as root; start it as root, or use a Wasm image"
    )]
    NeedsRoot(String),
    /// The image cannot be run as the container wants.
    #[error("image \"{name}\": {why}")]
    Program {
        /// The name.
        name: String,
        /// Why.
        why: String,
    },
    /// The file to run is not in the image's layers.
    #[error("image \"{name}\": {why}")]
    Layers {
        /// The name.
        name: String,
        /// Why.
        why: LayerError,
    },
    /// What arrived is not what the digest says.
    #[error(
        "Failed to pull image \"{name}\": {digest} does not match what the registry sent ({found})"
    )]
    Digest {
        /// The name.
        name: String,
        /// As the manifest says.
        digest: String,
        /// As it came.
        found: String,
    },
    /// The node's own disk.
    #[error("Failed to pull image \"{name}\": {path}: {source}")]
    Disk {
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl PullError {
    /// That the image `name` is of no use to this node.
    pub(super) fn unfit(name: &str, why: Unfit) -> Self {
        let name = name.to_owned();
        match why {
            Unfit::Platform { found } => Self::Platform { name, found },
            why => Self::Unfit { name, why },
        }
    }

    /// Whether it is for want of room on the node's disk.
    pub fn is_full_disk(&self) -> bool {
        match self {
            Self::Unpack { refusal, .. } => refusal.fault == Fault::Disk,
            Self::Disk { source, .. } => is_full(source),
            _ => false,
        }
    }

    /// The waiting container's `reason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "InvalidImageName",
            Self::NeverPull(_) | Self::NeverForThis(_) => "ErrImageNeverPull",
            Self::Unfit { .. }
            | Self::Program { .. }
            | Self::Layers { .. }
            | Self::NeedsRoot(_) => "CreateContainerError",
            Self::NotFound { .. }
            | Self::Platform { .. }
            | Self::Unpack { .. }
            | Self::Registry { .. }
            | Self::Digest { .. }
            | Self::Disk { .. } => "ErrImagePull",
        }
    }
}
