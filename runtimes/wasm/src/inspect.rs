//! What a `.wasm` file is, read from its structure, without compiling or running any of it.
//!
//! The validator is given everything but the bodies of functions: so this takes milliseconds even for megabytes, and what
//! it says of types, imports and exports is right. Files come from strangers. What a mistake or malice can blow up (nesting,
//! numbers of imports, modules, types) is bounded here, before anything costs memory; time and memory are bounded by the
//! process that this runs in.

mod meaning;

use coracle_sandbox::{ImageKind, Problem, ProblemCode};
use serde::Serialize;
use wasmparser::{
    CanonicalFunction, ComponentAlias, ComponentDefinedType, ComponentType, Parser, Payload,
    TypeRef, ValidPayload, Validator, WasmFeatures,
};

pub use self::meaning::{Meaning, meaning};
use crate::adapt;
use crate::instance;

/// What is exported by components that are served, and by those that are run.
pub(crate) const HTTP: &str = "wasi:http/incoming-handler@0.2.";
pub(crate) const COMMAND: &str = "wasi:cli/run@0.2.";
pub(crate) const ASYNC_HTTP: &str = "wasi:http/handler@0.3.";
pub(crate) const ASYNC_COMMAND: &str = "wasi:cli/run@0.3.";

/// Components inside components inside components.
const MAX_DEPTH: usize = 16;
/// Imports, and exports, of the component itself.
const MAX_NAMES: usize = 1_000;
/// Core modules in all of a file.
const MAX_MODULES: u32 = 1_000;
/// Types, aliases and instances in all of a file, of each.
const MAX_ITEMS: u64 = 200_000;
/// Functions in all of a file.
const MAX_FUNCTIONS: u64 = 2_000_000;
/// Bytes of a name that is shown.
const MAX_SHOWN: usize = 200;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Form {
    /// A component.
    Component,
    /// A core module of WASI preview 1, which becomes a component when it is compiled.
    CoreModule,
}

/// What a `.wasm` file is and wants.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// Component or core module.
    pub form: Form,
    /// How it is run; None where it exports nothing that can be served or run.
    pub kind: Option<ImageKind>,
    /// The WASI that it was built for: `0.1`, `0.2` or `0.3`.
    pub wasi: Option<String>,
    /// Bytes of the file.
    pub size: u64,
    /// Interfaces that it imports; those of the adapter, for a core module.
    pub imports: Vec<String>,
    /// Interfaces that it exports.
    pub exports: Vec<String>,
    /// Imports that are not offered here: it cannot start.
    pub missing: Vec<String>,
    /// Whether it uses the component model's `async`.
    pub concurrent: bool,
    /// Core modules in it.
    pub core_modules: u32,
    /// Core instances that it makes, at least.
    pub core_instances: u32,
    /// Memories.
    pub memories: u32,
    /// Bytes that its largest memory starts with.
    pub memory_bytes: u64,
    /// Tables.
    pub tables: u32,
    /// Elements that its largest table starts with.
    pub table_elements: u64,
    /// Functions.
    pub functions: u64,
    /// What made it: languages and tools, with their versions.
    pub producers: Vec<String>,
    /// The same without versions.
    pub languages: Vec<String>,
}

/// Reads a file.
///
/// # Errors
/// [`ProblemCode::NotAComponent`] with what is wrong, for whatever is no usable WebAssembly.
pub fn inspect(wasm: &[u8]) -> Result<Inspection, Problem> {
    if let Some(other) = foreign(wasm) {
        return Err(refused(other));
    }
    let (mut found, core) = structure(wasm)?;
    if found.form == Form::Component {
        return Ok(found);
    }
    if !core.runs {
        // Without an entry point it can be shown, but not run.
        found.imports = core.modules;
        return Ok(found);
    }
    let component = adapt::adapt(wasm)?;
    let (adapted, _) = structure(&component)?;
    found.kind = adapted.kind;
    found.imports = adapted.imports;
    found.exports = adapted.exports;
    found.missing = adapted.missing;
    Ok(found)
}

fn refused(message: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::NotAComponent, message)
}

/// What a file is that is no WebAssembly.
fn foreign(wasm: &[u8]) -> Option<&'static str> {
    if wasm.starts_with(b"\0asm") {
        return None;
    }
    let text = wasm.trim_ascii_start();
    Some(match wasm {
        [] => "it is not WebAssembly: it is empty",
        _ if wasmtime::Engine::detect_precompiled(wasm).is_some() => {
            "it is compiled code (.cwasm), which is never loaded from an image since it would run unchecked: push the .wasm that it was made from"
        }
        [0x7f, b'E', b'L', b'F', ..] => "it is not WebAssembly but a native program (ELF)",
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [b'P', b'K', ..] => {
            "it is not WebAssembly but compressed: unpack it, then push the .wasm file"
        }
        _ if text.starts_with(b"(module") || text.starts_with(b"(component") => {
            "it is WebAssembly's text format: make it binary with `wasm-tools parse`, then push that"
        }
        _ => "it is not WebAssembly: it does not begin with \\0asm",
    })
}

/// What a core module says of itself.
#[derive(Default)]
struct Core {
    /// Modules that it imports from.
    modules: Vec<String>,
    /// It has an entry point.
    runs: bool,
}

fn structure(wasm: &[u8]) -> Result<(Inspection, Core), Problem> {
    let core = Parser::is_core_wasm(wasm);
    if !core && !Parser::is_component(wasm) {
        return Err(refused(match wasm.get(4..8) {
            None => "it is cut off within its first eight bytes".to_owned(),
            Some(version) => {
                format!("it is of a version of WebAssembly that is not known: {version:02x?}")
            }
        }));
    }
    let mut reader = Reader::new(wasm.len() as u64, core);
    let damaged = |e: wasmparser::BinaryReaderError| {
        let end =
            if e.message().contains("unexpected end") { "; it seems to be cut off" } else { "" };
        refused(format!("it is not valid WebAssembly: {e}{end}"))
    };
    // Proposals that the engine does not take are refused when it compiles.
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(damaged)?;
        reader.bound(&payload)?;
        if let ValidPayload::Func(..) = validator.payload(&payload).map_err(damaged)? {
            continue;
        }
        reader.read(payload).map_err(|e| match e {
            Unreadable::Damaged(e) => damaged(e),
            Unreadable::Refused(problem) => problem,
        })?;
    }
    Ok(reader.finish())
}

enum Unreadable {
    Damaged(wasmparser::BinaryReaderError),
    Refused(Problem),
}

impl From<wasmparser::BinaryReaderError> for Unreadable {
    fn from(e: wasmparser::BinaryReaderError) -> Unreadable {
        Unreadable::Damaged(e)
    }
}

impl From<Problem> for Unreadable {
    fn from(problem: Problem) -> Unreadable {
        Unreadable::Refused(problem)
    }
}

struct Reader {
    found: Inspection,
    core: Core,
    depth: usize,
    types: u64,
    aliases: u64,
    instances: u64,
}

impl Reader {
    fn new(size: u64, core: bool) -> Reader {
        Reader {
            found: Inspection {
                form: if core { Form::CoreModule } else { Form::Component },
                kind: None,
                wasi: None,
                size,
                imports: Vec::new(),
                exports: Vec::new(),
                missing: Vec::new(),
                concurrent: false,
                core_modules: u32::from(core),
                core_instances: 0,
                memories: 0,
                memory_bytes: 0,
                tables: 0,
                table_elements: 0,
                functions: 0,
                producers: Vec::new(),
                languages: Vec::new(),
            },
            core: Core::default(),
            depth: 0,
            types: 0,
            aliases: 0,
            instances: 0,
        }
    }

    /// Refuses what is too much, before the validator spends memory on it.
    fn bound(&mut self, payload: &Payload<'_>) -> Result<(), Problem> {
        let too = |what: &str, most: u64| {
            Err(refused(format!("it has more than {most} {what}, the most that is taken")))
        };
        let add = |count: &mut u64, more: u32| {
            *count += u64::from(more);
            *count > MAX_ITEMS
        };
        match payload {
            Payload::Version { .. } => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(refused(format!(
                        "its components are nested more than {MAX_DEPTH} deep"
                    )));
                }
            }
            Payload::ModuleSection { .. } => {
                self.found.core_modules += 1;
                if self.found.core_modules > MAX_MODULES {
                    return too("core modules", MAX_MODULES.into());
                }
            }
            Payload::TypeSection(types) if add(&mut self.types, types.count()) => {
                return too("types", MAX_ITEMS);
            }
            Payload::CoreTypeSection(types) if add(&mut self.types, types.count()) => {
                return too("types", MAX_ITEMS);
            }
            Payload::ComponentTypeSection(types) if add(&mut self.types, types.count()) => {
                return too("types", MAX_ITEMS);
            }
            Payload::ComponentAliasSection(aliases) if add(&mut self.aliases, aliases.count()) => {
                return too("aliases", MAX_ITEMS);
            }
            Payload::ComponentInstanceSection(all) if add(&mut self.instances, all.count()) => {
                return too("instances", MAX_ITEMS);
            }
            Payload::FunctionSection(functions) => {
                self.found.functions += u64::from(functions.count());
                if self.found.functions > MAX_FUNCTIONS {
                    return too("functions", MAX_FUNCTIONS);
                }
            }
            Payload::ComponentImportSection(all) if all.count() as usize > MAX_NAMES => {
                return too("imports", MAX_NAMES as u64);
            }
            Payload::ComponentExportSection(all) if all.count() as usize > MAX_NAMES => {
                return too("exports", MAX_NAMES as u64);
            }
            _ => {}
        }
        Ok(())
    }

    fn read(&mut self, payload: Payload<'_>) -> Result<(), Unreadable> {
        let found = &mut self.found;
        // The outermost component, or the module that is no component.
        let own = self.depth == 1;
        match payload {
            Payload::End(_) => self.depth -= 1,
            Payload::ComponentImportSection(imports) if own => {
                for import in imports {
                    let import = import?;
                    use wasmparser::ComponentTypeRef::{Component, Func, Instance, Module, Value};
                    if let Instance(_) | Func(_) | Module(_) | Component(_) | Value(_) = import.ty {
                        push(&mut found.imports, import.name.name, "imports")?;
                    }
                }
            }
            Payload::ComponentExportSection(exports) if own => {
                for export in exports {
                    let export = export?;
                    use wasmparser::ComponentExternalKind::{Func, Instance};
                    if let Instance | Func = export.kind {
                        push(&mut found.exports, export.name.name, "exports")?;
                    }
                }
            }
            Payload::ImportSection(imports) if own => {
                for import in imports.into_imports() {
                    let import = import?;
                    let module = shown(import.module);
                    if !self.core.modules.contains(&module) {
                        push(&mut self.core.modules, &module, "imported modules")?;
                    }
                    if let TypeRef::Memory(_) = import.ty {
                        found.memories += 1;
                    }
                }
            }
            Payload::ExportSection(exports) if own && found.form == Form::CoreModule => {
                for export in exports {
                    let name = export?.name;
                    self.core.runs |= name == adapt::ENTRY;
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    let memory = memory?;
                    let page = memory.page_size_log2.unwrap_or(16);
                    let bytes = memory.initial.checked_shl(page).unwrap_or(u64::MAX);
                    found.memories += 1;
                    found.memory_bytes = found.memory_bytes.max(bytes);
                }
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    found.tables += 1;
                    found.table_elements = found.table_elements.max(table?.ty.initial);
                }
            }
            Payload::InstanceSection(instances) => {
                for instance in instances {
                    if let wasmparser::Instance::Instantiate { .. } = instance? {
                        found.core_instances += 1;
                    }
                }
            }
            Payload::ComponentCanonicalSection(functions) => {
                for function in functions {
                    found.concurrent |= is_concurrent(&function?);
                }
            }
            Payload::ComponentTypeSection(types) => {
                for ty in types {
                    found.concurrent |= matches!(
                        ty?,
                        ComponentType::Func(wasmparser::ComponentFuncType { async_: true, .. })
                            | ComponentType::Defined(
                                ComponentDefinedType::Future(_) | ComponentDefinedType::Stream(_)
                            )
                    );
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                // Read to the end: a damaged one is told here.
                for alias in aliases {
                    let _: ComponentAlias<'_> = alias?;
                }
            }
            Payload::CustomSection(section) => match section.as_known() {
                wasmparser::KnownCustom::Producers(producers) => self.producers(producers),
                wasmparser::KnownCustom::Unknown
                    if own && section.name().starts_with("component-type") =>
                {
                    self.core.runs = true;
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// Informative, hence never a reason to refuse a file.
    fn producers(&mut self, producers: wasmparser::ProducersSectionReader<'_>) {
        for field in producers.into_iter().map_while(Result::ok) {
            for value in field.values.into_iter().map_while(Result::ok) {
                let text = shown(&format!("{} {}", value.name, value.version));
                let add = |all: &mut Vec<String>, text: &str| {
                    if all.len() < 32 && !all.iter().any(|known| known == text) {
                        all.push(text.to_owned());
                    }
                };
                add(&mut self.found.producers, text.trim());
                add(&mut self.found.languages, &shown(value.name));
            }
        }
    }

    fn finish(mut self) -> (Inspection, Core) {
        let found = &mut self.found;
        found.kind = kind(&found.exports);
        found.wasi = match found.form {
            Form::CoreModule => {
                let one = self.core.modules.iter().any(|module| module == adapt::MODULE);
                one.then(|| "0.1".to_owned())
            }
            Form::Component => {
                let all = || {
                    found
                        .imports
                        .iter()
                        .chain(&found.exports)
                        .filter(|name| name.starts_with("wasi:"))
                };
                let has = |version: &str| all().any(|name| name.contains(version));
                let version =
                    ["0.3", "0.2"].into_iter().find(|version| has(&format!("@{version}.")));
                version.map(str::to_owned)
            }
        };
        found.concurrent |= found.wasi.as_deref() == Some("0.3");
        found.missing =
            found.imports.iter().filter(|name| !instance::offers(name)).cloned().collect();
        (self.found, self.core)
    }
}

fn push(all: &mut Vec<String>, name: &str, what: &str) -> Result<(), Problem> {
    if all.len() >= MAX_NAMES {
        return Err(refused(format!(
            "it has more than {MAX_NAMES} {what}, the most that is taken"
        )));
    }
    all.push(shown(name));
    Ok(())
}

/// A stranger's text, short and without control characters.
fn shown(text: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(MAX_SHOWN).map(clean).collect()
}

/// How a component with these exports is run.
pub(crate) fn kind(exports: &[String]) -> Option<ImageKind> {
    let has = |names: &[&str]| {
        exports.iter().any(|export| names.iter().any(|name| export.starts_with(name)))
    };
    if has(&[HTTP, ASYNC_HTTP]) {
        Some(ImageKind::Http)
    } else if has(&[COMMAND, ASYNC_COMMAND]) {
        Some(ImageKind::Command)
    } else {
        None
    }
}

fn is_concurrent(function: &CanonicalFunction) -> bool {
    use wasmparser::CanonicalOption::{Async, Callback};
    match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
            options.iter().any(|option| matches!(option, Async | Callback(_)))
        }
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => false,
        // All others came with `async`.
        _ => true,
    }
}

#[cfg(test)]
mod tests;
