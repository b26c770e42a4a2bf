//! From a `.wasm` file to native code, once for each image: milliseconds to seconds, and the most that a stranger's file can make
//! a node do before anything runs. So it is a process of its own (`coracle host compile`), [`confined`] to reading that file and
//! writing into one folder, with limits on memory and time; hosts only load what it made.
//!
//! The result is `OUT/<hex>-<class>-<hash>.cwasm`: the wasm's digest, the class of guests, and a hash of all that native code
//! depends on. Beside it, `OUT/<hex>.info` says what the image is. Compiled code is only ever loaded from the agent's folder, and never taken from an image.

pub(crate) mod confined;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use coracle_sandbox::{CompiledImage, ImageInfo, Problem, ProblemCode};
use sha2::{Digest, Sha256};
use wasmtime::component::Component;

use crate::adapt;
use crate::engine::{self, Class, ClassKind};
use crate::inspect::{Form, Inspection, inspect};
use crate::program::{Interfaces, link, not_offered, nothing_to_run};

/// Largest file that is compiled, in bytes.
pub const MAX_WASM: u64 = 256 << 20;

/// What to compile, and for whom.
#[derive(Clone, Debug)]
pub struct Job {
    /// Digest that the file must have: `sha256:<hex>`.
    pub digest: String,
    /// The file.
    pub wasm: PathBuf,
    /// The folder that the code goes to.
    pub out: PathBuf,
    /// The class to compile for; the smallest that fits where none is given.
    pub class: Option<String>,
    /// Memory limit of the container that needs it: a larger class for a higher one.
    pub memory_limit: Option<u64>,
}

/// Compiles, in this process.
///
/// # Errors
/// A problem with the file, in words that name what is wrong and what to do; the caller says which image it is.
pub fn compile(job: &Job) -> Result<CompiledImage, Problem> {
    hex(&job.digest)?;
    compile_file(job, open(job)?)
}

/// The same of a file that is open.
pub(crate) fn compile_file(job: &Job, file: File) -> Result<CompiledImage, Problem> {
    let hex = hex(&job.digest)?;
    let wasm = read(job, file)?;
    let found = inspect(&wasm)?;
    if found.kind.is_none() && found.form == Form::Component {
        return Err(nothing_to_run(&found.exports));
    }
    if !found.missing.is_empty() {
        let missing: Vec<&str> = found.missing.iter().map(String::as_str).collect();
        return Err(not_offered(&missing));
    }
    let adapted = found.form == Form::CoreModule;
    let component = if adapted { adapt::adapt(&wasm)? } else { wasm };
    for kind in classes(job, &found)? {
        let Some((code, mut info)) = build(kind, &component, adapted)? else { continue };
        info.languages.clone_from(&found.languages);
        let name = file_name(hex, kind);
        let write = |name: &str, content: &[u8]| {
            store(content, &job.out.join(name)).map_err(|e| {
                let message =
                    format!("compiled code cannot be written to {}: {e}", job.out.display());
                Problem::new(ProblemCode::Internal, message)
            })
        };
        write(&info_name(hex), &serde_json::to_vec(&info).unwrap_or_default())?;
        write(&name, &code)?;
        return Ok(CompiledImage {
            digest: job.digest.clone(),
            info,
            bytes: code.len() as u64,
            code: [(kind.name().to_owned(), name)].into(),
        });
    }
    let message = format!(
        "the component needs more than the largest instance has: {} memories, {} tables with {} elements, {} core instances",
        found.memories, found.tables, found.table_elements, found.core_instances
    );
    Err(Problem::new(ProblemCode::NotAComponent, message))
}

/// The classes to try, the smallest first.
fn classes(job: &Job, found: &Inspection) -> Result<Vec<ClassKind>, Problem> {
    if let Some(name) = &job.class {
        let kind = ClassKind::named(name).ok_or_else(|| {
            let message =
                format!("there is no class \"{name}\" of guests: there are small, large and async");
            Problem::new(ProblemCode::InvalidSpec, message)
        })?;
        return Ok(vec![kind]);
    }
    if found.concurrent {
        return Ok(vec![ClassKind::Async]);
    }
    let roomy = job.memory_limit.is_some_and(|limit| limit > ClassKind::Small.memory());
    // Compiling in vain costs seconds for those that are large.
    match roomy || !ClassKind::Small.may_fit(found) {
        true => Ok(vec![ClassKind::Large]),
        false => Ok(vec![ClassKind::Small, ClassKind::Large]),
    }
}

/// None where the component does not fit into the class's slots.
fn build(
    kind: ClassKind,
    component: &[u8],
    adapted: bool,
) -> Result<Option<(Vec<u8>, ImageInfo)>, Problem> {
    let internal = |what: &str, e: wasmtime::Error| {
        Problem::new(ProblemCode::Internal, format!("cannot {what}: {e:#}"))
    };
    // One slot: its pool holds the component to the class's limits.
    let class = Class::new(kind, 1, false).map_err(|e| internal("make the engine", e))?;
    let started = Instant::now();
    let component = match Component::from_binary(&class.engine, component) {
        Ok(component) => component,
        Err(e) if format!("{e:#}").contains("pooling allocator") => return Ok(None),
        Err(e) => {
            let message = format!("it does not compile: {e:#}");
            return Err(Problem::new(ProblemCode::NotAComponent, message));
        }
    };
    if component.resources_required().is_none_or(|needs| !class.fits(&needs)) {
        return Ok(None);
    }
    let interfaces = Interfaces::of(&class, &component);
    let (_, image_kind) = link(&class, &component, &interfaces)?;
    let code = component.serialize().map_err(|e| internal("write compiled code", e))?;
    tracing::info!(class = kind.name(), took = ?started.elapsed(), bytes = code.len(), "compiled");
    let Interfaces { imports, exports } = interfaces;
    let info = ImageInfo {
        kind: image_kind,
        imports,
        exports,
        cached: false,
        adapted,
        languages: Vec::new(),
    };
    Ok(Some((code, info)))
}

/// The 64 digits of a digest.
pub(crate) fn hex(digest: &str) -> Result<&str, Problem> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        let message = format!("image digest {digest:?} is not sha256:<64 hex digits>");
        return Err(Problem::new(ProblemCode::InvalidSpec, message));
    }
    Ok(hex)
}

/// Where code of a class is found.
pub(crate) fn file_name(hex: &str, kind: ClassKind) -> String {
    format!("{hex}-{}.cwasm", engine::hash(kind))
}

/// Where is told what code does not tell: what it was made from. It is there before the code is.
pub(crate) fn info_name(hex: &str) -> String {
    format!("{hex}.info")
}

/// The image's file.
pub(crate) fn open(job: &Job) -> Result<File, Problem> {
    File::open(&job.wasm).map_err(|e| unreadable(job, &e))
}

fn unreadable(job: &Job, error: &std::io::Error) -> Problem {
    let path = job.wasm.display();
    let message = format!("the image's file {path} cannot be read: {error}; pull it again");
    Problem::new(ProblemCode::ImageNotFound, message)
}

fn read(job: &Job, mut file: File) -> Result<Vec<u8>, Problem> {
    let path = job.wasm.display();
    let size = file.metadata().map_err(|e| unreadable(job, &e))?.len();
    if size > MAX_WASM {
        let message = format!("it has {size} bytes, more than the {MAX_WASM} that are compiled");
        return Err(Problem::new(ProblemCode::NotAComponent, message));
    }
    let mut wasm = Vec::with_capacity(size as usize);
    file.read_to_end(&mut wasm).map_err(|e| unreadable(job, &e))?;
    let digest: String = Sha256::digest(&wasm).iter().map(|b| format!("{b:02x}")).collect();
    if job.digest != format!("sha256:{digest}") {
        let message =
            format!("{path} has digest sha256:{digest}, not {}; pull it again", job.digest);
        return Err(Problem::new(ProblemCode::ImageNotFound, message));
    }
    Ok(wasm)
}

/// Readable by hosts, whoever they run as; nobody else gets into the agent's folder.
fn store(code: &[u8], path: &Path) -> std::io::Result<()> {
    let fresh = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&fresh)?;
    let written = file.write_all(code).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
mod tests;
