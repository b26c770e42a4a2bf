//! Images on this node: named by the Pod, fetched once, verified, kept by digest.
//!
//! ```text
//! DIR/blobs/sha256/<hex>   layers, verified as they arrive
//! DIR/refs/<hash>.json     what a name meant when it was last pulled
//! ```
//!
//! A name without a registry host is looked up in the cluster's built-in registry, through the agent's own
//! connection to the API server; any other goes to its registry by `oci-client`. Concurrent pulls of one name are one pull.

pub mod reference;
pub mod registry;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coracle_sandbox::Image;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use self::reference::ImageName;
use self::registry::{Manifest, Registries};

/// Largest manifest that is read, in bytes.
const MAX_MANIFEST: usize = 4 << 20;
/// Largest Wasm layer that is fetched, in bytes.
const MAX_LAYER: u64 = 512 << 20;

/// Media types under which a Wasm component travels as a layer.
const WASM_LAYERS: &[&str] = &[
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry each time; layers that are here are not fetched again.
    Always,
    /// Only if the name was never pulled.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// An image that is ready on this node.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The Wasm file.
    pub image: Image,
    /// Digest of the manifest: `imageID`.
    pub manifest_digest: String,
    /// Size of the layer in bytes.
    pub size: u64,
    /// How long the pull took; `None` if it was here.
    pub took: Option<Duration>,
}

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
    /// The registry has no such image.
    #[error("Failed to pull image \"{name}\": not found in {registry}{hint}")]
    NotFound {
        /// The name.
        name: String,
        /// Where it was looked up.
        registry: String,
        /// What to do about it.
        hint: String,
    },
    /// The registry could not be asked, or answered with an error.
    #[error("Failed to pull image \"{name}\": {why}")]
    Registry {
        /// The name.
        name: String,
        /// What happened.
        why: String,
    },
    /// The image holds no Wasm layer.
    #[error(
        "image \"{name}\" holds no Wasm component: its layers are of type {found}; this node runs Wasm only"
    )]
    NoWasm {
        /// The name.
        name: String,
        /// Media types that it has.
        found: String,
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
            PullError::InvalidName { .. } => "InvalidImageName",
            PullError::NeverPull(_) => "ErrImageNeverPull",
            PullError::NoWasm { .. } => "CreateContainerError",
            _ => "ErrImagePull",
        }
    }
}

/// What a name meant when it was last pulled.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    name: String,
    manifest_digest: String,
    layer: String,
    media_type: String,
    size: u64,
}

/// The node's images; cheap to clone.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    registries: Registries,
    pulling: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Images {
    /// Images kept in `dir`, the built-in registry reached through `client`.
    pub fn new(dir: PathBuf, client: kube::Client) -> Self {
        let registries = Registries::new(client);
        Self { inner: Arc::new(Inner { dir, registries, pulling: Mutex::default() }) }
    }

    /// Makes an image ready, fetching it if the policy asks for that.
    pub async fn ensure(&self, name: &str, policy: PullPolicy) -> Result<Pulled, PullError> {
        let parsed = ImageName::parse(name)
            .map_err(|why| PullError::InvalidName { name: name.to_owned(), why })?;
        if policy != PullPolicy::Always
            && let Some(found) = self.local(&parsed)
        {
            return Ok(found);
        }
        if policy == PullPolicy::Never {
            return Err(PullError::NeverPull(name.to_owned()));
        }
        let lock = {
            let mut pulling = self.inner.pulling.lock().unwrap_or_else(|e| e.into_inner());
            pulling.entry(parsed.to_string()).or_default().clone()
        };
        let _one_at_a_time = lock.lock().await;
        if policy == PullPolicy::IfNotPresent
            && let Some(found) = self.local(&parsed)
        {
            return Ok(found);
        }
        let result = self.pull(name, &parsed).await;
        drop(_one_at_a_time);
        self.inner.pulling.lock().unwrap_or_else(|e| e.into_inner()).remove(&parsed.to_string());
        result
    }

    /// Whether [`Images::ensure`] would have to ask a registry.
    pub fn would_pull(&self, name: &str, policy: PullPolicy) -> bool {
        match policy {
            PullPolicy::Always => true,
            PullPolicy::Never => false,
            PullPolicy::IfNotPresent => {
                ImageName::parse(name).is_ok_and(|parsed| self.local(&parsed).is_none())
            }
        }
    }

    fn local(&self, name: &ImageName) -> Option<Pulled> {
        let record = std::fs::read(self.record_path(name)).ok()?;
        let record: Record = serde_json::from_slice(&record).ok()?;
        self.blob_path(&record.layer).exists().then(|| self.pulled(record, None))
    }

    fn pulled(&self, record: Record, took: Option<Duration>) -> Pulled {
        Pulled {
            image: Image {
                path: self.blob_path(&record.layer),
                digest: record.layer,
                media_type: record.media_type,
            },
            manifest_digest: record.manifest_digest,
            size: record.size,
            took,
        }
    }

    async fn pull(&self, given: &str, name: &ImageName) -> Result<Pulled, PullError> {
        let started = Instant::now();
        let (manifest, manifest_digest) = self.manifest(given, name).await?;
        let layer = manifest.layers.iter().find(|l| WASM_LAYERS.contains(&l.media_type.as_str()));
        let Some(layer) = layer else {
            let found: Vec<&str> = manifest.layers.iter().map(|l| l.media_type.as_str()).collect();
            return Err(PullError::NoWasm { name: given.to_owned(), found: found.join(", ") });
        };
        let registry_error = |why: String| PullError::Registry { name: given.to_owned(), why };
        if layer.size > MAX_LAYER {
            return Err(registry_error(format!(
                "its Wasm layer of {} bytes is over the limit of {MAX_LAYER}",
                layer.size
            )));
        }
        let path = self.blob_path(&layer.digest);
        if !path.exists() {
            let mut stream =
                self.inner.registries.blob(name, layer).await.map_err(registry_error)?;
            let temporary = path.with_extension(format!("{}.part", uuid::Uuid::new_v4()));
            let disk =
                |source| PullError::Disk { name: given.to_owned(), path: path.clone(), source };
            let result = async {
                let mut file = create(&temporary).await.map_err(disk)?;
                let mut hash = Sha256::new();
                let mut size = 0;
                while let Some(chunk) = stream.next().await.map_err(registry_error)? {
                    size += chunk.len() as u64;
                    if size > layer.size.max(1) {
                        return Err(registry_error(format!(
                            "{} is longer than the {} bytes that its manifest says",
                            layer.digest, layer.size
                        )));
                    }
                    hash.update(&chunk);
                    file.write_all(&chunk).await.map_err(disk)?;
                }
                file.flush().await.map_err(disk)?;
                let found = format!("sha256:{}", hex(&hash.finalize()));
                if found != layer.digest {
                    return Err(PullError::Digest {
                        name: given.to_owned(),
                        digest: layer.digest.clone(),
                        found,
                    });
                }
                tokio::fs::rename(&temporary, &path).await.map_err(disk)
            }
            .await;
            if result.is_err() {
                let _ = tokio::fs::remove_file(&temporary).await;
            }
            result?;
        }
        let record = Record {
            name: name.to_string(),
            manifest_digest,
            layer: layer.digest.clone(),
            media_type: layer.media_type.clone(),
            size: layer.size,
        };
        let path = self.record_path(name);
        let disk = |source| PullError::Disk { name: given.to_owned(), path: path.clone(), source };
        let temporary = path.with_extension("part");
        let mut file = create(&temporary).await.map_err(disk)?;
        let json = serde_json::to_vec(&record).map_err(|e| registry_error(e.to_string()))?;
        file.write_all(&json).await.map_err(disk)?;
        file.flush().await.map_err(disk)?;
        tokio::fs::rename(&temporary, &path).await.map_err(disk)?;
        Ok(self.pulled(record, Some(started.elapsed())))
    }

    async fn manifest(
        &self,
        given: &str,
        name: &ImageName,
    ) -> Result<(Manifest, String), PullError> {
        let error = |why: String| PullError::Registry { name: given.to_owned(), why };
        let found = self.inner.registries.manifest(name).await.map_err(error)?;
        let Some(bytes) = found else {
            let hint = match &name.host {
                None => format!("; push it there: coracle push FILE.wasm {given}"),
                Some(_) => String::new(),
            };
            return Err(PullError::NotFound {
                name: given.to_owned(),
                registry: name.host.clone().unwrap_or_else(|| "the cluster's registry".to_owned()),
                hint,
            });
        };
        if bytes.len() > MAX_MANIFEST {
            return Err(error(format!("its manifest is over {MAX_MANIFEST} bytes")));
        }
        let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if let Some(wanted) = &name.digest
            && *wanted != digest
        {
            return Err(PullError::Digest {
                name: given.to_owned(),
                digest: wanted.clone(),
                found: digest,
            });
        }
        let manifest = serde_json::from_slice::<Manifest>(&bytes)
            .map_err(|e| error(format!("its manifest is not readable: {e}")))?;
        for layer in &manifest.layers {
            if !reference::is_sha256(&layer.digest) {
                return Err(error(format!("its manifest names a layer \"{}\"", layer.digest)));
            }
        }
        Ok((manifest, digest))
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        self.inner.dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    fn record_path(&self, name: &ImageName) -> PathBuf {
        let hash = hex(&Sha256::digest(name.to_string()));
        self.inner.dir.join("refs").join(format!("{hash}.json"))
    }
}

async fn create(path: &Path) -> std::io::Result<tokio::fs::File> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    tokio::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .await
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}
