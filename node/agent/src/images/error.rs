//! Why an image is not here, as the waiting container's reason and message say it.

use std::path::PathBuf;

use super::layers::LayerError;
use super::manifest::Unfit;

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
    /// The waiting container's `reason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "InvalidImageName",
            Self::NeverPull(_) | Self::NeverForThis(_) => "ErrImageNeverPull",
            Self::Unfit { .. } | Self::Program { .. } | Self::Layers { .. } => {
                "CreateContainerError"
            }
            Self::NotFound { .. }
            | Self::Registry { .. }
            | Self::Digest { .. }
            | Self::Disk { .. } => "ErrImagePull",
        }
    }
}
