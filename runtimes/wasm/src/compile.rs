//! Images: from a `.wasm` file to something that can be instantiated in microseconds.
//!
//! Compiling takes milliseconds to seconds, so it is done once, when the image is pulled, and the
//! code is kept in `DIR/compiled/`, named by the wasm's digest and by everything that native code
//! depends on (wasmtime's version, its configuration, the CPU): whatever does not fit is simply not
//! found. Compiled code is native code: it is only ever loaded from that folder, which nobody else
//! may write, and never taken from an image.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use coracle_sandbox as sandbox;
use coracle_sandbox::{ImageInfo, ImageKind, Problem, ProblemCode};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3::bindings::CommandPre as AsyncCommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::engine::{Class, ClassKind, Engines};
use crate::instance::{ASYNC_OFFERED, EXTRAS, OFFERED, State};

const HTTP: &str = "wasi:http/incoming-handler@0.2.";
const COMMAND: &str = "wasi:cli/run@0.2.";
const ASYNC_HTTP: &str = "wasi:http/handler@0.3.";
const ASYNC_COMMAND: &str = "wasi:cli/run@0.3.";
/// Images are megabytes; this is a bound on what a mistake can make the host read.
const MAX_WASM: u64 = 512 << 20;

/// A component, ready to be instantiated in one class.
#[derive(Clone)]
pub(crate) enum Program {
    Http(ProxyPre<State>),
    Command(CommandPre<State>),
    AsyncHttp(ServicePre<State>),
    AsyncCommand(AsyncCommandPre<State>),
}

/// A compiled image in one class.
pub(crate) struct Compiled {
    pub(crate) program: Program,
    pub(crate) info: ImageInfo,
    pub(crate) class: ClassKind,
}

/// An image; compiled for each class in which it is used.
pub(crate) struct Image {
    digest: String,
    small: OnceCell<Option<Arc<Compiled>>>,
    large: OnceCell<Arc<Compiled>>,
    concurrent: OnceCell<Option<Arc<Compiled>>>,
    /// An instance wanted more memory than a small slot has.
    outgrown: AtomicBool,
}

impl Image {
    /// To be called when an instance could not grow within its slot: the next ones get a large one.
    pub(crate) fn outgrew_small(&self) {
        self.outgrown.store(true, Relaxed);
    }
}

/// All images of this host, and the cache of compiled code.
pub(crate) struct Images {
    folder: PathBuf,
    engines: Arc<Engines>,
    known: Mutex<HashMap<String, Arc<Image>>>,
}

impl Images {
    /// With its cache in `data/compiled`.
    pub(crate) fn open(data: &Path, engines: Arc<Engines>) -> std::io::Result<Images> {
        let folder = data.join("compiled");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Images { folder, engines, known: Mutex::default() })
    }

    /// The image, to be compiled when first needed.
    pub(crate) fn image(&self, spec: &sandbox::Image) -> Result<Arc<Image>, Problem> {
        let hex = spec.digest.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            let message = format!("image digest {:?} is not sha256:<64 hex digits>", spec.digest);
            return Err(Problem::new(ProblemCode::InvalidSpec, message));
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let image = known.entry(spec.digest.clone()).or_insert_with(|| {
            Arc::new(Image {
                digest: spec.digest.clone(),
                small: OnceCell::new(),
                large: OnceCell::new(),
                concurrent: OnceCell::new(),
                outgrown: AtomicBool::new(false),
            })
        });
        Ok(image.clone())
    }

    /// Compiled code for a container with this memory limit, in the smallest class that will do.
    /// The path matters only while nothing is compiled.
    pub(crate) async fn compiled(
        &self,
        image: &Arc<Image>,
        path: &Path,
        memory_limit: Option<u64>,
    ) -> Result<Arc<Compiled>, Problem> {
        let small = self.class(ClassKind::Small)?;
        if self.is_concurrent(image, path) {
            let compiled =
                image.concurrent.get_or_try_init(|| self.compile(image, path, ClassKind::Async));
            if let Some(compiled) = compiled.await? {
                return Ok(compiled.clone());
            }
        }
        let wants_more = match memory_limit {
            Some(limit) => limit > small.memory,
            None => image.outgrown.load(Relaxed),
        };
        if !wants_more {
            let compiled =
                image.small.get_or_try_init(|| self.compile(image, path, ClassKind::Small));
            if let Some(compiled) = compiled.await? {
                return Ok(compiled.clone());
            }
        }
        let large = image.large.get_or_try_init(|| async {
            let compiled = self.compile(image, path, ClassKind::Large).await?;
            compiled.ok_or_else(|| {
                let message = format!(
                    "component {} needs more memories, tables or instances than the host's \
                     largest slot has",
                    image.digest
                );
                Problem::new(ProblemCode::NoCapacity, message)
            })
        });
        large.await.cloned()
    }

    /// Whether it is a guest of WASI 0.3. Other guests name no interface of that version.
    fn is_concurrent(&self, image: &Image, path: &Path) -> bool {
        let compiled = |cell: &OnceCell<Option<Arc<Compiled>>>| cell.get().is_some();
        if image.concurrent.get().is_some() {
            return true;
        }
        if compiled(&image.small) || image.large.get().is_some() {
            return false;
        }
        let wasm = fs::read(path).unwrap_or_default();
        wasmparser::Parser::new(0).parse_all(&wasm).map_while(Result::ok).any(|payload| {
            let wasmparser::Payload::ComponentExportSection(exports) = payload else {
                return false;
            };
            exports.into_iter().flatten().any(|export| export.name.name.contains("@0.3."))
        })
    }

    fn class(&self, kind: ClassKind) -> Result<&Class, Problem> {
        self.engines.class(kind).map_err(|e| {
            let message = format!("cannot make the {kind:?} engine: {e:#}");
            Problem::new(ProblemCode::Internal, message)
        })
    }

    async fn compile(
        &self,
        image: &Arc<Image>,
        path: &Path,
        kind: ClassKind,
    ) -> Result<Option<Arc<Compiled>>, Problem> {
        let engines = self.engines.clone();
        let folder = self.folder.clone();
        let spec = sandbox::Image {
            digest: image.digest.clone(),
            path: path.to_owned(),
            media_type: String::new(),
        };
        let work = tokio::task::spawn_blocking(move || {
            let class = engines.class(kind).map_err(|e| internal("make the engine", e))?;
            compile(class, kind, &folder, &spec)
        });
        work.await.map_err(|e| internal("compile", e.into()))?
    }
}

fn internal(what: &str, error: wasmtime::Error) -> Problem {
    Problem::new(ProblemCode::Internal, format!("cannot {what}: {error:#}"))
}

/// None where the component does not fit into the class's slots.
fn compile(
    class: &Class,
    kind: ClassKind,
    folder: &Path,
    spec: &sandbox::Image,
) -> Result<Option<Arc<Compiled>>, Problem> {
    let hex = spec.digest.trim_start_matches("sha256:");
    let cache = folder.join(format!("{hex}-{}.cwasm", class.hash));
    let (component, cached) = match load(class, &cache) {
        Some(component) => (component, true),
        None => (build(class, kind, &cache, spec)?, false),
    };
    if component.resources_required().is_some_and(|needs| !class.fits(&needs)) {
        return Ok(None);
    }
    let (imports, exports) = interfaces(class, &component);
    let program = link(class, spec, &component, &imports, &exports)?;
    let kind_of = match program {
        Program::Http(_) | Program::AsyncHttp(_) => ImageKind::Http,
        Program::Command(_) | Program::AsyncCommand(_) => ImageKind::Command,
    };
    let info = ImageInfo {
        kind: kind_of,
        imports,
        exports,
        cached,
        adapted: false,
        languages: Vec::new(),
    };
    Ok(Some(Arc::new(Compiled { program, info, class: kind })))
}

fn load(class: &Class, cache: &Path) -> Option<Component> {
    if !cache.exists() {
        return None;
    }
    // SAFETY: only this program writes into that folder (mode 0700, files 0600), only what wasmtime
    // compiled, complete before it gets its name.
    match unsafe { Component::deserialize_file(&class.engine, cache) } {
        Ok(component) => Some(component),
        Err(error) => {
            tracing::warn!(file = %cache.display(), %error, "compiling anew");
            None
        }
    }
}

fn build(
    class: &Class,
    kind: ClassKind,
    cache: &Path,
    spec: &sandbox::Image,
) -> Result<Component, Problem> {
    let wasm = read(spec)?;
    let problem = |message: String| Err(Problem::new(ProblemCode::NotAComponent, message));
    if !wasm.starts_with(b"\0asm") {
        return problem(format!(
            "image {} is not WebAssembly: it does not begin with \\0asm",
            spec.digest
        ));
    }
    if wasmparser::Parser::is_core_wasm(&wasm) {
        return problem(format!(
            "image {} is a core WebAssembly module, not a component: build it for wasm32-wasip2, \
             or wrap it with `wasm-tools component new`",
            spec.digest
        ));
    }
    let started = std::time::Instant::now();
    let component = match Component::from_binary(&class.engine, &wasm) {
        Ok(component) => component,
        Err(e) => return problem(format!("image {} does not compile: {e:#}", spec.digest)),
    };
    let took = started.elapsed();
    tracing::info!(digest = spec.digest, class = kind.name(), ?took, "compiled");
    // Without the cache everything works, only slower.
    if let Err(error) = store(&component, cache) {
        tracing::warn!(file = %cache.display(), %error, "compiled code is not kept");
    }
    Ok(component)
}

fn read(spec: &sandbox::Image) -> Result<Vec<u8>, Problem> {
    let path = spec.path.display();
    let missing = |e: std::io::Error| {
        let message = format!("image {} at {path}: {e}; pull it again", spec.digest);
        Problem::new(ProblemCode::ImageNotFound, message)
    };
    let size = fs::metadata(&spec.path).map_err(missing)?.len();
    if size > MAX_WASM {
        let message = format!("image {} has {size} bytes, more than {MAX_WASM}", spec.digest);
        return Err(Problem::new(ProblemCode::NotAComponent, message));
    }
    let wasm = fs::read(&spec.path).map_err(missing)?;
    let digest: String = Sha256::digest(&wasm).iter().map(|b| format!("{b:02x}")).collect();
    if spec.digest != format!("sha256:{digest}") {
        let message = format!("{path} has digest sha256:{digest}, not {}", spec.digest);
        return Err(Problem::new(ProblemCode::ImageNotFound, message));
    }
    Ok(wasm)
}

fn store(component: &Component, cache: &Path) -> anyhow::Result<()> {
    let code = component.serialize()?;
    let fresh = cache.with_extension(format!("{}.tmp", std::process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&code)?;
    file.sync_data()?;
    fs::rename(&fresh, cache)?;
    Ok(())
}

fn interfaces(class: &Class, component: &Component) -> (Vec<String>, Vec<String>) {
    let ty = component.component_type();
    let named = |name: &str, item: &ComponentItem| match item {
        ComponentItem::ComponentInstance(_) | ComponentItem::ComponentFunc(_) => {
            Some(name.to_owned())
        }
        _ => None,
    };
    let imports = ty.imports(&class.engine).filter_map(|(name, item)| named(name, &item.ty));
    let exports = ty.exports(&class.engine).filter_map(|(name, item)| named(name, &item.ty));
    (imports.collect(), exports.collect())
}

fn link(
    class: &Class,
    spec: &sandbox::Image,
    component: &Component,
    imports: &[String],
    exports: &[String],
) -> Result<Program, Problem> {
    let has = |interface| exports.iter().any(|name| name.starts_with(interface));
    if ![HTTP, COMMAND, ASYNC_HTTP, ASYNC_COMMAND].into_iter().any(has) {
        let exports = if exports.is_empty() { "nothing".into() } else { exports.join(", ") };
        let message = format!(
            "component {} exports {exports}: it needs wasi:http/incoming-handler@0.2 or \
             wasi:http/handler@0.3 to be served, or wasi:cli/run@0.2 or @0.3 to be run",
            spec.digest
        );
        return Err(Problem::new(ProblemCode::MissingExport, message));
    }
    let unfit = |e: wasmtime::Error| {
        let unknown: Vec<_> = imports.iter().filter(|name| !is_offered(name)).collect();
        let message = match unknown.as_slice() {
            [] => format!("component {} cannot be linked: {e:#}", spec.digest),
            names => {
                let names = names.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", ");
                format!("component {} imports {names}, which this host does not offer", spec.digest)
            }
        };
        Problem::new(ProblemCode::UnknownImport, message)
    };
    let pre: InstancePre<State> = class.linker.instantiate_pre(component).map_err(unfit)?;
    let program = if has(ASYNC_HTTP) {
        ServicePre::new(pre).map(Program::AsyncHttp)
    } else if has(HTTP) {
        ProxyPre::new(pre).map(Program::Http)
    } else if has(ASYNC_COMMAND) {
        AsyncCommandPre::new(pre).map(Program::AsyncCommand)
    } else {
        CommandPre::new(pre).map(Program::Command)
    };
    program.map_err(unfit)
}

fn is_offered(import: &str) -> bool {
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    match version.get(..4) {
        Some("0.2.") => OFFERED.contains(&name),
        Some("0.3.") => ASYNC_OFFERED.contains(&name),
        _ => EXTRAS.contains(&import),
    }
}
