//! The layers of container images, unpacked: each once, whatever number of images and Pods want it at once.
//!
//! What is wrong with a layer stays wrong: it is remembered, so that a Pod which is tried again and again does not have a
//! bomb unpacked each time. What is wrong with the disk is tried again.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::Semaphore;

use super::error::PullError;
use super::fetch::blocking;
use super::implied::Layer;
use super::manifest::Packing;
use super::store::{FilesLayer, Store, StoreError};
use super::unpack::{Fault, Job, Limits, Refusal, UnpackCommand, Unpacked, process};

/// Layers unpacked at once: each keeps a core and the disk busy.
const SLOTS: usize = 2;
/// Refusals that are remembered.
const REFUSALS: usize = 1024;

/// Unpacks layers; one per node.
pub(super) struct Unpacker {
    store: Store,
    command: Option<UnpackCommand>,
    limits: Limits,
    slots: Semaphore,
    flights: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// By what was fetched, and what it was to unpack to: neither alone is another image's fault.
    refused: Mutex<HashMap<(String, String), Refusal>>,
}

/// Why a layer is not there.
enum Failed {
    Refused(Refusal),
    Store(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Unpacker {
    /// Into `store`, with the agent's own program.
    pub(super) fn new(store: Store, command: Option<UnpackCommand>, limits: Limits) -> Self {
        let slots = Semaphore::new(SLOTS);
        let (flights, refused) = (Mutex::default(), Mutex::default());
        Self { store, command, limits, slots, flights, refused }
    }

    /// Makes sure that these layers of image `name`, lowest first, are unpacked: where, lowest first. Whoever calls
    /// holds a lease on blobs and diff ids.
    ///
    /// A layer that an image has twice is there once, where it counts: overlayfs wants each folder once, and what the lower
    /// one has the upper one has again.
    pub(super) async fn ensure(
        &self,
        name: &str,
        layers: &[FilesLayer],
    ) -> Result<Vec<Layer>, PullError> {
        let mut unpacked = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            if layers[index + 1..].iter().any(|above| above.diff_id == layer.diff_id) {
                continue;
            }
            let found = match self.store.layer(&layer.diff_id) {
                Some(folder) => Ok(folder),
                None => self.once(name, layer).await,
            };
            let folder = found.map_err(|failed| match failed {
                Failed::Refused(refusal) => PullError::Unpack {
                    name: name.to_owned(),
                    layer: layer.digest.clone(),
                    refusal,
                },
                Failed::Store(StoreError { path, source }) => {
                    PullError::Disk { name: name.to_owned(), path, source }
                }
            })?;
            let implied = self.store.implied(&layer.diff_id);
            unpacked.push(Layer { folder, implied });
        }
        Ok(unpacked)
    }

    async fn once(&self, name: &str, layer: &FilesLayer) -> Result<PathBuf, Failed> {
        let flight = self.flight(&layer.diff_id);
        let _alone = flight.lock().await;
        if let Some(folder) = self.store.layer(&layer.diff_id) {
            return Ok(folder);
        }
        if let Some(refusal) = lock(&self.refused).get(&key(layer)) {
            return Err(Failed::Refused(refusal.clone()));
        }
        let refuse = |fault, message: String| Err(Failed::Refused(Refusal { fault, message }));
        let Some(command) = &self.command else {
            return refuse(
                Fault::Rights,
                "cannot be unpacked: this agent has no program for it".into(),
            );
        };
        let Some(packing) = Packing::of(&layer.media_type) else {
            return refuse(Fault::Layer, format!("is of the unknown type {}", layer.media_type));
        };
        // Never closed.
        let _slot = self.slots.acquire().await;
        let store = self.store.clone();
        let into = blocking(move || store.new_layer()).await?;
        let _guard = Unfinished { store: self.store.clone(), path: Some(into.clone()) };
        let job = Job { into, packing, diff_id: layer.diff_id.clone(), limits: self.limits };
        let started = Instant::now();
        let unpacked = process::run(command, &self.store.blob(&layer.digest), &job).await;
        let unpacked = unpacked.map_err(|refusal| self.refuse(layer, refusal))?;
        tracing::debug!(
            image = name,
            layer = layer.digest,
            entries = unpacked.entries,
            took = ?started.elapsed(),
            "layer unpacked"
        );
        self.keep(layer, job.into, unpacked).await
    }

    async fn keep(
        &self,
        layer: &FilesLayer,
        fresh: PathBuf,
        unpacked: Unpacked,
    ) -> Result<PathBuf, Failed> {
        let (store, diff_id) = (self.store.clone(), layer.diff_id.clone());
        let folder = blocking(move || store.keep_layer(&diff_id, &fresh, unpacked)).await?;
        let (store, diff_id) = (self.store.clone(), layer.diff_id.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.sync_layer(&diff_id) {
                tracing::warn!(%error, "an unpacked layer may have to be unpacked again");
            }
        });
        Ok(folder)
    }

    fn refuse(&self, layer: &FilesLayer, refusal: Refusal) -> Failed {
        let mut refused = lock(&self.refused);
        if refusal.fault == Fault::Layer {
            if refused.len() >= REFUSALS {
                refused.clear();
            }
            refused.insert(key(layer), refusal.clone());
        }
        Failed::Refused(refusal)
    }

    fn flight(&self, diff_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(diff_id).and_then(Weak::upgrade) {
            return flight;
        }
        flights.retain(|_, flight| flight.strong_count() > 0);
        let flight = Arc::new(tokio::sync::Mutex::new(()));
        flights.insert(diff_id.to_owned(), Arc::downgrade(&flight));
        flight
    }
}

fn key(layer: &FilesLayer) -> (String, String) {
    (layer.digest.clone(), layer.diff_id.clone())
}

/// A folder that is not a layer yet: removed, if it does not become one, whatever happens.
struct Unfinished {
    store: Store,
    path: Option<PathBuf>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        let store = self.store.clone();
        let remove = move || {
            // Gone when it has become a layer.
            if let Err(error) = store.remove_new_layer(&path) {
                tracing::warn!(%error, "left for the next start to remove");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
