//! The host's images: compiled code, loaded when it is first needed, in the class that a container needs.
//!
//! Compiling is somebody else's work ([`crate::compile`], in a process of its own). Here code is found in a folder, by the
//! wasm's digest and a hash of everything that native code depends on (wasmtime's version, its configuration, the CPU):
//! whatever does not fit is not found, and the answer is [`ProblemCode::NotCompiled`]. Code is mapped, not read, so hosts
//! share its pages.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use coracle_sandbox as sandbox;
use coracle_sandbox::{ImageInfo, Problem, ProblemCode};
use tokio::sync::OnceCell;
use wasmtime::component::Component;

use crate::compile::{self, Job};
use crate::engine::{self, ClassKind, Engines};
use crate::program::{Interfaces, Program, link};

/// Images that are remembered though nothing runs them.
const IDLE: usize = 256;

/// A compiled image in one class.
pub(crate) struct Compiled {
    pub(crate) program: Program,
    pub(crate) info: ImageInfo,
    pub(crate) class: ClassKind,
}

/// An image, in each class in which it is used.
pub(crate) struct Image {
    digest: String,
    small: OnceCell<Arc<Compiled>>,
    large: OnceCell<Arc<Compiled>>,
    concurrent: OnceCell<Arc<Compiled>>,
    /// An instance wanted more memory than a small slot has.
    outgrown: AtomicBool,
}

impl Image {
    fn new(digest: &str) -> Image {
        Image {
            digest: digest.to_owned(),
            small: OnceCell::new(),
            large: OnceCell::new(),
            concurrent: OnceCell::new(),
            outgrown: AtomicBool::new(false),
        }
    }

    fn place(&self, kind: ClassKind) -> &OnceCell<Arc<Compiled>> {
        match kind {
            ClassKind::Small => &self.small,
            ClassKind::Large => &self.large,
            ClassKind::Async => &self.concurrent,
        }
    }

    /// To be called when an instance could not grow within its slot: the next ones get a large one.
    pub(crate) fn outgrew_small(&self) {
        self.outgrown.store(true, Relaxed);
    }
}

/// All images of this host.
pub(crate) struct Images {
    folder: PathBuf,
    /// Whether code that is missing is compiled here.
    compiles: bool,
    engines: Arc<Engines>,
    known: Mutex<HashMap<String, Arc<Image>>>,
}

impl Images {
    /// With the code in `folder`. A host that `compiles` does so itself where something is missing, and must trust its images.
    pub(crate) fn open(folder: PathBuf, compiles: bool, engines: Arc<Engines>) -> Images {
        Images { folder, compiles, engines, known: Mutex::default() }
    }

    /// The image, to be loaded when first needed.
    pub(crate) fn image(&self, spec: &sandbox::Image) -> Result<Arc<Image>, Problem> {
        compile::hex(&spec.digest)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = known.get(&spec.digest) {
            return Ok(image.clone());
        }
        if known.len() >= IDLE {
            known.retain(|_, image| Arc::strong_count(image) > 1);
        }
        let image = Arc::new(Image::new(&spec.digest));
        known.insert(spec.digest.clone(), image.clone());
        Ok(image)
    }

    /// Compiled code for a container with this memory limit, in the smallest class that will do.
    /// The path matters only to a host that compiles.
    pub(crate) async fn compiled(
        &self,
        image: &Arc<Image>,
        path: &Path,
        memory_limit: Option<u64>,
    ) -> Result<Arc<Compiled>, Problem> {
        let roomy = match memory_limit {
            Some(limit) => limit > ClassKind::Small.memory(),
            None => image.outgrown.load(Relaxed),
        };
        let wanted: &[ClassKind] = match roomy {
            false => &[ClassKind::Small, ClassKind::Large, ClassKind::Async],
            true => &[ClassKind::Large, ClassKind::Async],
        };
        let found = wanted.iter().find(|kind| image.place(**kind).initialized());
        let found = found.or_else(|| wanted.iter().find(|kind| self.file(image, **kind).exists()));
        let kind = match found {
            Some(kind) => *kind,
            None => {
                // Code for small guests is there: then it is not the class that is unknown.
                let large = roomy && self.file(image, ClassKind::Small).exists();
                let class = large.then_some(ClassKind::Large);
                if !self.compiles {
                    return Err(missing(image, class));
                }
                let kind = self.compile(image, path, class, memory_limit).await?;
                return self.load(image, kind, false).await;
            }
        };
        match self.load(image, kind, true).await {
            // What another wasmtime made, or what was damaged.
            Err(problem) if problem.code == ProblemCode::NotCompiled && self.compiles => {
                self.compile(image, path, Some(kind), memory_limit).await?;
                self.load(image, kind, false).await
            }
            result => result,
        }
    }

    async fn load(
        &self,
        image: &Arc<Image>,
        kind: ClassKind,
        cached: bool,
    ) -> Result<Arc<Compiled>, Problem> {
        Ok(image.place(kind).get_or_try_init(|| self.map(image, kind, cached)).await?.clone())
    }

    fn file(&self, image: &Image, kind: ClassKind) -> PathBuf {
        let hex = image.digest.trim_start_matches("sha256:");
        self.folder.join(compile::file_name(hex, kind))
    }

    async fn map(
        &self,
        image: &Arc<Image>,
        kind: ClassKind,
        cached: bool,
    ) -> Result<Arc<Compiled>, Problem> {
        let (engines, image, file) = (self.engines.clone(), image.clone(), self.file(image, kind));
        let hex = image.digest.trim_start_matches("sha256:");
        let info = self.folder.join(compile::info_name(hex));
        let work = tokio::task::spawn_blocking(move || {
            let class = engines.class(kind).map_err(|e| {
                let message = format!("cannot make the {} engine: {e:#}", kind.name());
                Problem::new(ProblemCode::Internal, message)
            })?;
            // SAFETY: that folder is the agent's, who alone writes there: what `compile` made, complete before it has its name.
            let component = unsafe { Component::deserialize_file(&class.engine, &file) };
            let component = component.map_err(|error| {
                tracing::warn!(file = %file.display(), %error, "compiled code is not usable");
                missing(&image, Some(kind))
            })?;
            let interfaces = Interfaces::of(class, &component);
            let (program, image_kind) = link(class, &component, &interfaces)?;
            let Interfaces { imports, exports } = interfaces;
            let written = std::fs::read(&info).ok();
            let written = written.and_then(|json| serde_json::from_slice::<ImageInfo>(&json).ok());
            let (adapted, languages) =
                written.map_or_else(Default::default, |info| (info.adapted, info.languages));
            let info = ImageInfo { kind: image_kind, imports, exports, cached, adapted, languages };
            Ok(Arc::new(Compiled { program, info, class: kind }))
        });
        work.await
            .map_err(|e| Problem::new(ProblemCode::Internal, format!("cannot load code: {e}")))?
    }

    /// In this process.
    async fn compile(
        &self,
        image: &Arc<Image>,
        path: &Path,
        class: Option<ClassKind>,
        memory_limit: Option<u64>,
    ) -> Result<ClassKind, Problem> {
        let job = Job {
            digest: image.digest.clone(),
            wasm: path.to_owned(),
            out: self.folder.clone(),
            class: class.map(|kind| kind.name().to_owned()),
            memory_limit,
        };
        let work = tokio::task::spawn_blocking(move || compile::compile(&job));
        let made = work
            .await
            .map_err(|e| Problem::new(ProblemCode::Internal, format!("cannot compile: {e}")))??;
        let kind = made.code.keys().next().and_then(|name| ClassKind::named(name));
        kind.ok_or_else(|| Problem::new(ProblemCode::Internal, "nothing was compiled"))
    }
}

fn missing(image: &Image, class: Option<ClassKind>) -> Problem {
    let name = class.map_or("any", ClassKind::name);
    let message = format!(
        "no code of {} for this host's engine (class {name}, {}): compile the image",
        image.digest,
        engine::hash(class.unwrap_or(ClassKind::Small)),
    );
    let class = class.map(|kind| kind.name().to_owned());
    Problem { class, ..Problem::new(ProblemCode::NotCompiled, message) }
}
