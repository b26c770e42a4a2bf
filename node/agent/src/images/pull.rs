//! One image from its name to the store: ask each place in turn, pick the manifest, fetch what it names, find the program.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use sha2::{Digest, Sha256};

use super::credentials::Keyring;
use super::error::PullError;
use super::fetch::{FetchError, blocking};
use super::layers::{self, Layer};
use super::manifest::{
    self, ConfigSection, Content, Descriptor, ImageConfig, Manifest, Packing, Platform, Run, Unfit,
    Words,
};
use super::reference::ImageName;
use super::registry::{Place, RegistryError, Session, Who};
use super::store::{Files, FilesLayer, Program, Stored};
use super::{Images, Workload, hex, implied};

/// Blobs of one image fetched at once.
const LAYERS: usize = 3;
/// Attempts at a manifest.
const TRIES: u32 = 3;
/// First pause between them; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// How deep indexes may name indexes.
const MAX_INDEXES: usize = 3;

/// What became of asking one place.
enum Asked {
    Found(Arc<Stored>),
    NotThere,
    /// Something else may have it.
    Failed(String),
}

impl Images {
    /// Fetches the image from the first place that has it.
    pub(super) async fn pull(
        &self,
        given: &str,
        name: &ImageName,
        keyring: &Keyring,
        words: Words<'_>,
    ) -> Result<Arc<Stored>, PullError> {
        let mut missing = Vec::new();
        let mut failed = Vec::new();
        for place in self.inner.registries.places(name) {
            match self.ask(given, name, &place, keyring, words).await? {
                Asked::Found(image) => return Ok(image),
                Asked::NotThere => missing.push(place.title().to_owned()),
                Asked::Failed(why) => failed.push(format!("{}: {why}", place.title())),
            }
        }
        let registries = missing.join(", ");
        let hint = match &name.host {
            None => format!("; push it there: coracle push FILE.wasm {given}"),
            Some(_) => String::new(),
        };
        Err(match (missing.is_empty(), failed.is_empty()) {
            (false, true) => PullError::NotFound { name: given.to_owned(), registries, hint },
            (false, false) => {
                let why = format!("not found in {registries}{hint}; {}", failed.join("; "));
                PullError::Registry { name: given.to_owned(), why }
            }
            (true, _) => PullError::Registry { name: given.to_owned(), why: failed.join("; ") },
        })
    }

    async fn ask(
        &self,
        given: &str,
        name: &ImageName,
        place: &Place,
        keyring: &Keyring,
        words: Words<'_>,
    ) -> Result<Asked, PullError> {
        let mut failures = Vec::new();
        let sessions = self.inner.registries.sessions(place, keyring);
        for (who, session) in sessions {
            let error = match self.pull_from(given, name, &session, &who, words).await {
                Ok(Some(image)) => return Ok(Asked::Found(image)),
                Ok(None) => return Ok(Asked::NotThere),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Registry(error)) => error,
            };
            let unauthorized = matches!(error, RegistryError::Unauthorized(_));
            failures.push(explain(&error, &who, place, keyring));
            if !unauthorized {
                break;
            }
        }
        Ok(Asked::Failed(failures.join("; ")))
    }

    async fn pull_from(
        &self,
        given: &str,
        name: &ImageName,
        session: &Session,
        who: &Who,
        words: Words<'_>,
    ) -> Result<Option<Arc<Stored>>, Failure> {
        let store = &self.inner.store;
        let known = store.find(name).is_some()
            || name.digest.as_ref().is_some_and(|d| store.get(d).is_some());
        let mut reference = name.reference().to_owned();
        if known {
            // Most likely nothing changed, and then its digest is all that is needed.
            let resolved = patiently(|| session.resolve(&reference)).await?;
            let Some(digest) = resolved else { return Ok(None) };
            if let Some(digest) = digest {
                if let Some(image) = store.get(&digest) {
                    return self.admit(given, name, image, who).await.map(Some);
                }
                reference = digest;
            }
        }
        let Some(bytes) = patiently(|| session.manifest(&reference)).await? else {
            return Ok(None);
        };
        let digest = digest_of(&bytes);
        let wanted =
            [name.digest.as_deref(), Some(&*reference).filter(|r| r.starts_with("sha256:"))];
        if let Some(wanted) = wanted.into_iter().flatten().find(|wanted| **wanted != digest) {
            let (name, digest, found) = (given.to_owned(), wanted.to_owned(), digest);
            return Err(Failure::Final(PullError::Digest { name, digest, found }));
        }
        if let Some(image) = store.get(&digest) {
            return self.admit(given, name, image, who).await.map(Some);
        }
        let unfit = |why| Failure::Final(PullError::unfit(given, why));
        let mut manifest = Manifest::read(&bytes).map_err(unfit)?;
        let mut compat = false;
        for _ in 0..MAX_INDEXES {
            if !manifest.is_index() {
                break;
            }
            let picked = manifest::pick(&manifest).map_err(unfit)?.clone();
            compat |= picked.is_compat();
            let found = patiently(|| session.manifest(&picked.digest)).await?;
            let Some(bytes) = found else {
                let why = format!("it names the manifest {} but does not have it", picked.digest);
                return Err(RegistryError::Refused(why).into());
            };
            let found = digest_of(&bytes);
            if found != picked.digest {
                let (name, digest) = (given.to_owned(), picked.digest);
                return Err(Failure::Final(PullError::Digest { name, digest, found }));
            }
            manifest = Manifest::read(&bytes).map_err(unfit)?;
        }
        if manifest.is_index() {
            let why = format!("its indexes name indexes more than {MAX_INDEXES} deep");
            return Err(unfit(Unfit::Limit(why)));
        }
        let content = manifest::classify(&manifest, compat).map_err(unfit)?;
        let mut wanted = Vec::new();
        match &content {
            Content::Artifact { component, config } => {
                wanted.extend(config.clone());
                wanted.push(component.clone());
            }
            Content::Image { config, layers, .. } => {
                wanted.push(config.clone());
                wanted.extend(layers.iter().cloned());
            }
        }
        let lease = store.lease(wanted.iter().map(|d| d.digest.clone()).collect());
        self.fetch(given, session, &wanted).await?;
        let image = self.describe(given, digest, content, &wanted).await?;
        // Programs and files are found before anything is told: a record is of an image that can be run.
        let layers = store.lease(image.diff_ids().cloned().collect());
        let image = self.prepare(given, image, words).await.map_err(Failure::Final)?;
        let image = self.admit(given, name, Arc::new(image), who).await;
        drop((lease, layers));
        image.map(Some)
    }

    async fn fetch(
        &self,
        given: &str,
        session: &Session,
        wanted: &[Descriptor],
    ) -> Result<(), Failure> {
        // Boxed, since the compiler cannot tell that a stream of such borrows may move between threads.
        let fetch = |blob| self.inner.fetcher.fetch(session, blob).boxed();
        let fetches: Vec<_> = wanted.iter().map(fetch).collect();
        let all = futures::stream::iter(fetches).buffer_unordered(LAYERS).try_collect::<()>().await;
        if all.as_ref().is_err_and(FetchError::is_full_disk) {
            self.find_room();
        }
        all.map_err(|error| {
            let name = given.to_owned();
            match error {
                FetchError::Registry(error) => Failure::Registry(error),
                FetchError::Digest { digest, found } => {
                    Failure::Final(PullError::Digest { name, digest, found })
                }
                FetchError::Disk { path, source } => {
                    Failure::Final(PullError::Disk { name, path, source })
                }
            }
        })
    }

    async fn describe(
        &self,
        given: &str,
        digest: String,
        content: Content,
        fetched: &[Descriptor],
    ) -> Result<Stored, Failure> {
        let config = match &content {
            Content::Artifact { config, .. } => config.as_ref(),
            Content::Image { config, .. } => Some(config),
        };
        let config = match config {
            Some(config) => Some(self.config(given, config).await?),
            None => None,
        };
        let mut image = Stored {
            digest,
            size: fetched.iter().map(|d| d.size).sum(),
            blobs: fetched.iter().map(|d| d.digest.clone()).collect(),
            programs: BTreeMap::new(),
            run: Run::default(),
            files: None,
            access: BTreeMap::new(),
        };
        match content {
            Content::Artifact { component, .. } => {
                let Descriptor { digest, media_type, size, .. } = component;
                image.size = size;
                image.programs.insert(String::new(), Program { digest, media_type });
                image.run = run(given, config.and_then(|c| c.config))?;
            }
            Content::Image { layers, compat, .. } => {
                let config = config.unwrap_or_default();
                let diff_ids = config.rootfs.unwrap_or_default().diff_ids;
                if diff_ids.len() != layers.len() {
                    let why = Unfit::Unreadable(format!(
                        "it has {} layers, and its configuration {} diff ids",
                        layers.len(),
                        diff_ids.len()
                    ));
                    return Err(Failure::Final(PullError::unfit(given, why)));
                }
                let layers = layers.into_iter().zip(diff_ids).map(|(layer, diff_id)| FilesLayer {
                    digest: layer.digest,
                    media_type: layer.media_type,
                    diff_id,
                });
                image.files = Some(Files {
                    architecture: config.architecture,
                    os: config.os,
                    variant: config.variant,
                    compat,
                    layers: layers.collect(),
                });
                image.run = run(given, config.config)?;
            }
        }
        Ok(image)
    }

    async fn config(&self, given: &str, config: &Descriptor) -> Result<ImageConfig, Failure> {
        let path = self.inner.store.blob(&config.digest);
        let read = tokio::fs::read(&path).await;
        let bytes = read.map_err(|source| {
            Failure::Final(PullError::Disk { name: given.to_owned(), path: path.clone(), source })
        })?;
        serde_json::from_slice(&bytes).map_err(|e| {
            let why = Unfit::Unreadable(format!("its configuration: {e}"));
            Failure::Final(PullError::unfit(given, why))
        })
    }

    /// The image with what is to be run of it: a Wasm file that is found, or layers that are unpacked.
    pub(super) async fn prepare(
        &self,
        given: &str,
        image: Stored,
        words: Words<'_>,
    ) -> Result<Stored, PullError> {
        match wants(given, &image, words)? {
            Wants::Program(path) => self.with_program(given, image, path).await,
            Wants::Files => self.unpacked(given, &image).await.map(|_| image),
        }
    }

    /// Folders of the image's layers, lowest first, unpacked if they were not yet.
    pub(super) async fn unpacked(
        &self,
        given: &str,
        image: &Stored,
    ) -> Result<Workload, PullError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(PullError::NeedsRoot(given.to_owned()));
        }
        let layers = image.files.as_ref().map(|files| &files.layers[..]).unwrap_or_default();
        let unpacked = self.inner.unpacker.ensure(given, layers).await;
        if unpacked.as_ref().is_err_and(PullError::is_full_disk) {
            self.find_room();
        }
        let layers = unpacked?;
        blocking(move || {
            let folders = implied::attributes(&layers);
            let layers = layers.into_iter().map(|layer| layer.folder).collect();
            Ok(Workload::Container { layers, folders })
        })
        .await
    }

    /// There may be images that nobody uses.
    fn find_room(&self) {
        self.inner.pulled.notify_one();
    }

    /// The image with the Wasm file that lies at `path` in it.
    pub(super) async fn with_program(
        &self,
        given: &str,
        mut image: Stored,
        path: String,
    ) -> Result<Stored, PullError> {
        if image.programs.contains_key(&path) {
            return Ok(image);
        }
        let store = self.inner.store.clone();
        let files = image.files.iter().flat_map(|files| &files.layers);
        let found: Vec<Layer> = files
            .filter_map(|layer| {
                Some(Layer {
                    path: store.blob(&layer.digest),
                    digest: layer.digest.clone(),
                    packing: Packing::of(&layer.media_type)?,
                    diff_id: layer.diff_id.clone(),
                })
            })
            .collect();
        let unnamed = store.unnamed();
        let (wanted, to) = (path.clone(), unnamed.clone());
        // At most a few at once: each keeps a core busy.
        let _one = self.inner.unpacking.acquire().await;
        let extracted = blocking(move || layers::extract(&found, &wanted, &to)).await;
        let extracted = match extracted {
            Ok(found) => found,
            Err(why) => {
                let _ = tokio::fs::remove_file(&unnamed).await;
                return Err(PullError::Layers { name: given.to_owned(), why });
            }
        };
        let (digest, _) = extracted;
        let blob = store.blob(&digest);
        tokio::fs::rename(&unnamed, &blob).await.map_err(|source| PullError::Disk {
            name: given.to_owned(),
            path: blob.clone(),
            source,
        })?;
        if !image.blobs.contains(&digest) {
            image.blobs.push(digest.clone());
        }
        let media_type = manifest::WASM_LAYER.to_owned();
        image.programs.insert(path, Program { digest, media_type });
        Ok(image)
    }

    /// Remembers that `name` means `image`, and that `who` may use it.
    async fn admit(
        &self,
        given: &str,
        name: &ImageName,
        image: Arc<Stored>,
        who: &Who,
    ) -> Result<Arc<Stored>, Failure> {
        let store = self.inner.store.clone();
        let fingerprint = match who {
            Who::Secret { credential, .. } => Some(credential.fingerprint(store.key())),
            Who::Anyone | Who::Node => None,
        };
        let mut next = Stored::clone(&image);
        let granted = next.grant(&name.place(), fingerprint);
        let named = store.find(name).is_some_and(|known| known.digest == image.digest);
        if !granted && named && store.get(&image.digest).is_some() {
            return Ok(image);
        }
        let (name, given) = (name.clone(), given.to_owned());
        let kept = blocking(move || store.keep(next, &name)).await;
        kept.map_err(|error| {
            let (path, source) = (error.path, error.source);
            Failure::Final(PullError::Disk { name: given, path, source })
        })
    }
}

/// What of an image is to be run.
pub(super) enum Wants {
    /// The Wasm file at this path in it; none for an artifact, which is the program.
    Program(String),
    /// All of it, as a root filesystem.
    Files,
}

/// What of `image` a container with these words is to run.
pub(super) fn wants(given: &str, image: &Stored, words: Words<'_>) -> Result<Wants, PullError> {
    let Some(files) = &image.files else { return Ok(Wants::Program(String::new())) };
    let config = files.config();
    let program = manifest::program(&config, &image.run, files.compat, words);
    match program.map_err(|why| PullError::Program { name: given.to_owned(), why })? {
        Some(path) => Ok(Wants::Program(path)),
        None => {
            let ImageConfig { architecture, os, variant, .. } = config;
            let platform = Platform { architecture, os, variant };
            // Some builders say nothing.
            let told = !platform.architecture.is_empty() && !platform.os.is_empty();
            if told && platform.rank().is_none() {
                let found = platform.to_string();
                return Err(PullError::Platform { name: given.to_owned(), found });
            }
            Ok(Wants::Files)
        }
    }
}

fn run(given: &str, section: Option<ConfigSection>) -> Result<Run, Failure> {
    let run = section.map(Run::read).transpose();
    Ok(run.map_err(|why| Failure::Final(PullError::unfit(given, why)))?.unwrap_or_default())
}

enum Failure {
    Registry(RegistryError),
    Final(PullError),
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

/// Tries again what may go better next time.
async fn patiently<T, F>(mut ask: impl FnMut() -> F) -> Result<T, RegistryError>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    let mut tries = 1;
    loop {
        match ask().await {
            Err(RegistryError::Unreachable(_)) if tries < TRIES => {
                tokio::time::sleep(PAUSE * 2_u32.pow(tries - 1)).await;
                tries += 1;
            }
            result => return result,
        }
    }
}

/// What went wrong, and whose credentials would have to be others.
fn explain(error: &RegistryError, who: &Who, place: &Place, keyring: &Keyring) -> String {
    if !matches!(error, RegistryError::Unauthorized(_)) {
        return error.to_string();
    }
    let registry = place.title();
    match who {
        Who::Secret { name, credential } => format!(
            "{error}: {registry} does not take the credentials of secret \"{name}\" (user \"{}\"); correct that secret",
            credential.user()
        ),
        Who::Node if place.is_cluster() => error.to_string(),
        Who::Node => format!(
            "{error}: {registry} does not take the credentials that the node's registries.yaml has for it"
        ),
        Who::Anyone if keyring.secrets.is_empty() => format!(
            "{error}: it does not exist or needs credentials; name a secret of type kubernetes.io/dockerconfigjson for {registry} in imagePullSecrets of the Pod or of its ServiceAccount"
        ),
        Who::Anyone => format!(
            "{error}: it does not exist or needs credentials, and none of the secrets {} has any for {}",
            keyring.secrets.join(", "),
            place.name.place()
        ),
    }
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}
