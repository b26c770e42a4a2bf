//! Core modules of WASI preview 1 become components: what most compilers still make (Go, C, older Rust) runs like any other.
//!
//! The adapter is itself a small module, which offers preview 1 and imports WASI 0.2. Which one depends on how the module is
//! entered: a program has `_start`; a module that was built with bindings for a world brings that world along.
//!
//! The adapter knows exit codes as success and failure only. So a program's `proc_exit` is led past it, to `exit-with-code`
//! of `wasi:cli/exit`, which looks the same to the module: one number, and no return.

use coracle_sandbox::{Problem, ProblemCode};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasm_encoder::Encode as _;
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The module from which preview 1 is imported.
pub(crate) const MODULE: &str = WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME;
/// A program's entry point.
pub(crate) const ENTRY: &str = "_start";

/// To be raised with what becomes of core modules: compiled code of older revisions is then made anew.
pub(crate) const REVISION: u32 = 2;

/// The component that a core module becomes.
///
/// # Errors
/// [`ProblemCode::MissingExport`] where it has no entry point, [`ProblemCode::UnknownImport`] where it imports from elsewhere,
/// [`ProblemCode::NotAComponent`] where it is invalid.
pub(crate) fn adapt(module: &[u8]) -> Result<Vec<u8>, Problem> {
    let shape = Shape::of(module)?;
    if !shape.starts && !shape.has_world {
        let message = format!(
            "it is a core module without an entry point: it exports neither `{ENTRY}` (a program) nor a world (a component); \
             build it as a program for wasm32-wasip1, or as a component for wasm32-wasip2"
        );
        return Err(Problem::new(ProblemCode::MissingExport, message));
    }
    if !shape.foreign.is_empty() && !shape.has_world {
        let message = format!(
            "it is a core module that imports from {}, which Coracle does not offer: modules may import {MODULE} only{}",
            shape.foreign.join(", "),
            shape.advice()
        );
        return Err(Problem::new(ProblemCode::UnknownImport, message));
    }
    let adapter = match shape.starts {
        true => WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
        false => WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
    };
    let with_codes = if shape.starts { keep_exit_codes(module) } else { None };
    let encode = || {
        ComponentEncoder::default()
            .module(with_codes.as_deref().unwrap_or(module))
            .and_then(|encoder| encoder.adapter(MODULE, adapter))
            .and_then(|mut encoder| encoder.encode())
    };
    // The encoder is made for what compilers write; a stranger's module may be beyond what it expects.
    std::panic::catch_unwind(encode)
        .unwrap_or_else(|_| Err(anyhow::anyhow!("it is not laid out as compilers lay them out")))
        .map_err(|e| {
            let message = format!("this core module cannot be made into a component: {e:#}");
            Problem::new(ProblemCode::NotAComponent, message)
        })
}

/// A module that exits with a code which is kept; None if it does not exit that way, or is beyond understanding.
fn keep_exit_codes(module: &[u8]) -> Option<Vec<u8>> {
    const OLD: &[u8] = b"\x16wasi_snapshot_preview1\x09proc_exit\x00";
    const NEW: &[u8] = b"\x14wasi:cli/exit@0.2.12\x0eexit-with-code\x00";
    const WIT: &str = "package wasi:cli@0.2.12;
        interface exit { exit-with-code: func(status-code: u8); }
        world program { import exit; }";
    // Behind the module's magic number and version, sections follow each other.
    let mut begin = 8;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.ok()?;
        let Payload::ImportSection(imports) = &payload else {
            begin = payload.as_section().map_or(begin, |(_, range)| range.end);
            continue;
        };
        let range = imports.range();
        let imports = module.get(range.clone())?;
        let at = imports.windows(OLD.len()).position(|bytes| bytes == OLD)?;
        let size = imports.len() - OLD.len() + NEW.len();
        let mut changed = module.get(..begin)?.to_vec();
        changed.push(*module.get(begin)?);
        size.encode(&mut changed);
        for part in [&imports[..at], NEW, &imports[at + OLD.len()..], module.get(range.end..)?] {
            changed.extend_from_slice(part);
        }
        let mut resolve = Resolve::default();
        let package = resolve.push_source("exit.wit", WIT).ok()?;
        let world = resolve.select_world(&[package], None).ok()?;
        embed_component_metadata(&mut changed, &resolve, world, StringEncoding::UTF8).ok()?;
        return Some(changed);
    }
    None
}

#[derive(Default)]
struct Shape {
    starts: bool,
    has_world: bool,
    /// Modules other than preview 1 that it imports from.
    foreign: Vec<String>,
}

impl Shape {
    fn of(module: &[u8]) -> Result<Shape, Problem> {
        let invalid = |e| {
            Problem::new(ProblemCode::NotAComponent, format!("it is not valid WebAssembly: {e}"))
        };
        let mut shape = Shape::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload.map_err(invalid)? {
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        let from = import.map_err(invalid)?.module;
                        let known = from == MODULE || shape.foreign.iter().any(|name| name == from);
                        if !known && shape.foreign.len() < 10 {
                            shape.foreign.push(from.chars().take(80).collect());
                        }
                    }
                }
                Payload::ExportSection(exports) => {
                    for export in exports {
                        shape.starts |= export.map_err(invalid)?.name == ENTRY;
                    }
                }
                Payload::CustomSection(section) => {
                    shape.has_world |= section.name().starts_with("component-type")
                }
                // Exports come before the code, which may be long; only custom sections follow it.
                _ => {}
            }
        }
        Ok(shape)
    }

    /// What is known of some modules that are not WASI.
    fn advice(&self) -> &'static str {
        let has = |name: &str| self.foreign.iter().any(|module| module.contains(name));
        if has("wasi_unstable") {
            "; wasi_unstable is older than preview 1: build it with a current toolchain"
        } else if has("wasi_ephemeral") || has("wasix") {
            "; these are extensions of other runtimes"
        } else if has("gojs") || has("go") {
            "; build Go programs with GOOS=wasip1, not GOOS=js"
        } else if has("wbg") {
            "; this was built for browsers"
        } else if has("env") {
            "; functions in `env` were left undefined when it was linked"
        } else {
            ""
        }
    }
}
