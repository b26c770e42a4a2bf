//! Images on this node: named by the Pod, fetched once, verified, kept by digest, collected when the disk is full.
//!
//! In the order of a pull: [`reference`] reads the name; [`registry`] asks the places where it may be, as [`settings`] has
//! them and with the Pod's [`credentials`]; [`manifest`] picks what suits this node; [`fetch`] brings the blobs; [`layers`]
//! finds the program in an ordinary image, or, where it is a container's, [`rootfs`] has its layers unpacked by a confined
//! process ([`unpack`]); [`store`] keeps it all, and [`gc`] takes away what nobody uses. Concurrent pulls of one name are one
//! pull.
//!
//! An image that a registry gave for one Pod's credentials is not another's because it lies here: a Pod that may not use
//! what is here asks the registry in its own name, as the kubelet does (`KubeletEnsureSecretPulledImages`).

pub mod compile;
pub mod credentials;
mod error;
mod fetch;
pub mod gc;
mod implied;
mod layers;
pub mod layout;
pub mod manifest;
mod pull;
pub mod reference;
pub mod registry;
mod rootfs;
pub mod settings;
mod store;
mod stream;
pub mod unpack;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use coracle_sandbox::{FolderAttributes, Image};
use tokio::sync::{Notify, Semaphore};

use self::credentials::Keyring;
use self::fetch::{Fetcher, blocking};
use self::manifest::{Run, Words};
use self::reference::ImageName;
use self::registry::Registries;
use self::rootfs::Unpacker;
use self::settings::Settings;
use self::store::{Store, Stored};
use self::unpack::UnpackCommand;

pub use error::PullError;
pub use layers::LayerError;
pub use store::StoreError;

/// Images pulled at once.
const PULLS: usize = 8;
/// Images looked through at once for the program that they run.
const UNPACKING: usize = 2;

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry each time; what is here is not fetched again.
    Always,
    /// Only if the name was never pulled.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// What a container wants to run.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The image's name, as the Pod has it.
    pub name: &'a str,
    /// Whether to ask a registry.
    pub policy: PullPolicy,
    /// What it gives of the command line.
    pub words: Words<'a>,
}

/// What an image holds: which runtime it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workload {
    /// A Wasm file.
    Wasm(Image),
    /// The files of a container.
    Container {
        /// Folders of its layers, lowest first, as overlayfs wants them: read-only, and shared with other images.
        layers: Vec<PathBuf>,
        /// Folders that are otherwise than the highest layer has them.
        folders: Vec<FolderAttributes>,
    },
}

/// What runs an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A Wasm host.
    Wasm,
    /// A container runtime.
    Container,
}

impl Workload {
    /// What runs it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Wasm(_) => Kind::Wasm,
            Self::Container { .. } => Kind::Container,
        }
    }
}

/// An image that is ready on this node.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// What it is, on this disk.
    pub workload: Workload,
    /// Digest of what the name stands for: `imageID`.
    pub manifest_digest: String,
    /// Size in bytes of what was fetched for it.
    pub size: u64,
    /// How it is run unless the Pod says otherwise.
    pub run: Run,
    /// How long the pull took; `None` if it was here.
    pub took: Option<Duration>,
}

/// Where images come from and how many may stay.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Mirrors, credentials and TLS.
    pub registries: Settings,
    /// Where names without a host are looked up after the cluster's own registry.
    pub default_registry: Option<String>,
    /// When images go.
    pub collect: gc::Settings,
    /// How layers of container images are unpacked; without it they are not.
    pub unpack: Option<UnpackCommand>,
    /// How much a layer may be.
    pub layer_limits: unpack::Limits,
}

/// The node's images; cheap to clone.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    registries: Registries,
    fetcher: Fetcher,
    pulls: Semaphore,
    unpacking: Semaphore,
    unpacker: Unpacker,
    pulling: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    collect: gc::Settings,
    /// Something was pulled: the disk may be fuller than it should be.
    pulled: Notify,
    pressure: std::sync::atomic::AtomicBool,
}

impl Images {
    /// Images kept in `dir`, the built-in registry reached through `client`.
    pub fn open(dir: PathBuf, client: kube::Client, config: Config) -> Result<Self, StoreError> {
        let store = Store::open(&dir)?;
        let registries = Registries::new(client, config.registries, config.default_registry);
        let inner = Inner {
            fetcher: Fetcher::new(store.clone()),
            unpacker: Unpacker::new(store.clone(), config.unpack, config.layer_limits),
            store,
            registries,
            pulls: Semaphore::new(PULLS),
            unpacking: Semaphore::new(UNPACKING),
            pulling: Mutex::default(),
            collect: config.collect,
            pulled: Notify::new(),
            pressure: std::sync::atomic::AtomicBool::new(false),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes an image ready, asking a registry if the policy wants that, or if what is here is not for whoever asks.
    /// `secrets` is awaited only when it matters what it holds; `pulling` is called before a registry is asked.
    pub async fn ensure(
        &self,
        wanted: Wanted<'_>,
        secrets: impl Future<Output = Keyring>,
        pulling: impl FnOnce(),
    ) -> Result<Pulled, PullError> {
        let Wanted { name: given, policy, words } = wanted;
        let name = ImageName::parse(given)
            .map_err(|why| PullError::InvalidName { name: given.to_owned(), why })?;
        let place = name.place();
        let local = self.inner.store.find(&name);
        if policy != PullPolicy::Always
            && let Some(image) = &local
            && image.opens_to(&place, &[])
        {
            return self.ready(given, image, words, None).await;
        }
        if policy == PullPolicy::Never && local.is_none() {
            return Err(PullError::NeverPull(given.to_owned()));
        }
        let keyring = secrets.await;
        if policy != PullPolicy::Always
            && let Some(image) = &local
            && image.opens_to(&place, &self.fingerprints(&keyring, &name))
        {
            return self.ready(given, image, words, None).await;
        }
        if policy == PullPolicy::Never {
            return Err(PullError::NeverForThis(given.to_owned()));
        }
        pulling();
        let started = Instant::now();
        let lock = self.flight(&name);
        let _one_at_a_time = lock.lock().await;
        // Somebody else may have pulled it meanwhile.
        if policy == PullPolicy::IfNotPresent
            && let Some(image) = self.inner.store.find(&name)
            && image.opens_to(&place, &self.fingerprints(&keyring, &name))
        {
            return self.ready(given, &image, words, Some(started)).await;
        }
        // Never closed.
        let _permit = self.inner.pulls.acquire().await;
        let image = self.pull(given, &name, &keyring, words).await?;
        self.inner.pulled.notify_one();
        self.ready(given, &image, words, Some(started)).await
    }

    /// What runs an image that is here already; none where somebody else would have to be asked.
    pub fn kind(&self, wanted: Wanted<'_>) -> Option<Kind> {
        let image = self.inner.store.find(&ImageName::parse(wanted.name).ok()?)?;
        match pull::wants(wanted.name, &image, wanted.words).ok()? {
            pull::Wants::Program(_) => Some(Kind::Wasm),
            pull::Wants::Files => Some(Kind::Container),
        }
    }

    /// The Wasm file of that digest, if it is still here.
    pub fn program(&self, digest: &str) -> Option<Image> {
        let path = self.inner.store.blob(digest);
        path.is_file().then(|| Image { digest: digest.to_owned(), path, media_type: String::new() })
    }

    /// The image of that digest, if it is still here: what a container that was pulled starts from.
    pub async fn by_digest(
        &self,
        given: &str,
        digest: &str,
        words: Words<'_>,
    ) -> Result<Pulled, PullError> {
        match self.inner.store.get(digest) {
            Some(image) => self.ready(given, &image, words, None).await,
            None => Err(PullError::Registry {
                name: given.to_owned(),
                why: format!("{digest} was removed from this node before it was started"),
            }),
        }
    }

    async fn ready(
        &self,
        given: &str,
        image: &Arc<Stored>,
        words: Words<'_>,
        started: Option<Instant>,
    ) -> Result<Pulled, PullError> {
        let store = &self.inner.store;
        let workload = match pull::wants(given, image, words)? {
            pull::Wants::Program(path) => {
                Workload::Wasm(self.program_of(given, image, path).await?)
            }
            pull::Wants::Files => {
                let needed = image.diff_ids().chain(&image.blobs).cloned().collect();
                let _lease = store.lease(needed);
                self.unpacked(given, image).await?
            }
        };
        store.touch(&image.digest);
        Ok(Pulled {
            workload,
            manifest_digest: image.digest.clone(),
            size: image.size,
            run: image.run.clone(),
            took: started.map(|started| started.elapsed()),
        })
    }

    /// The Wasm file at `path` in the image, found if it was not yet.
    async fn program_of(
        &self,
        given: &str,
        image: &Arc<Stored>,
        path: String,
    ) -> Result<Image, PullError> {
        let store = &self.inner.store;
        let mut image = image.clone();
        if !image.programs.contains_key(&path) {
            let _lease = store.lease(image.blobs.clone());
            let next = self.with_program(given, Stored::clone(&image), path.clone()).await?;
            let (store, name) = (store.clone(), ImageName::parse(given));
            let name =
                name.map_err(|why| PullError::InvalidName { name: given.to_owned(), why })?;
            image = blocking(move || store.keep(next, &name)).await.map_err(|error| {
                let (path, source) = (error.path, error.source);
                PullError::Disk { name: given.to_owned(), path, source }
            })?;
        }
        let Some(program) = image.programs.get(&path) else {
            let why = format!("it has no file {path}");
            return Err(PullError::Program { name: given.to_owned(), why });
        };
        Ok(Image {
            path: store.blob(&program.digest),
            digest: program.digest.clone(),
            media_type: program.media_type.clone(),
        })
    }

    fn flight(&self, name: &ImageName) -> Arc<tokio::sync::Mutex<()>> {
        let mut pulling = self.inner.pulling.lock().unwrap_or_else(PoisonError::into_inner);
        let key = name.to_string();
        if let Some(flight) = pulling.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        pulling.retain(|_, flight| flight.strong_count() > 0);
        let flight = Arc::new(tokio::sync::Mutex::new(()));
        pulling.insert(key, Arc::downgrade(&flight));
        flight
    }

    /// Of all credentials that any of the places where `name` may be would be asked with.
    fn fingerprints(&self, keyring: &Keyring, name: &ImageName) -> Vec<String> {
        let mut all = Vec::new();
        for place in self.inner.registries.places(name) {
            for (who, _) in self.inner.registries.sessions(&place, keyring) {
                if let registry::Who::Secret { credential, .. } = who {
                    all.push(credential.fingerprint(self.inner.store.key()));
                }
            }
        }
        all
    }
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

#[cfg(test)]
mod noise;
#[cfg(test)]
mod tests;
