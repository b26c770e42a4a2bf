//! A component that was compiled, linked with what its class offers: ready to be instantiated.

use coracle_sandbox::{ImageKind, Problem, ProblemCode};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3::bindings::CommandPre as AsyncCommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::engine::Class;
use crate::inspect;
use crate::instance::{self, State};

/// A component, ready to be instantiated in one class.
#[derive(Clone)]
pub(crate) enum Program {
    Http(ProxyPre<State>),
    Command(CommandPre<State>),
    AsyncHttp(ServicePre<State>),
    AsyncCommand(AsyncCommandPre<State>),
}

/// Interfaces of a component.
#[derive(Clone, Debug)]
pub(crate) struct Interfaces {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

impl Interfaces {
    pub(crate) fn of(class: &Class, component: &Component) -> Interfaces {
        let ty = component.component_type();
        let named = |name: &str, item: &ComponentItem| match item {
            ComponentItem::ComponentInstance(_) | ComponentItem::ComponentFunc(_) => {
                Some(name.to_owned())
            }
            _ => None,
        };
        let imports = ty.imports(&class.engine).filter_map(|(name, item)| named(name, &item.ty));
        let exports = ty.exports(&class.engine).filter_map(|(name, item)| named(name, &item.ty));
        Interfaces { imports: imports.collect(), exports: exports.collect() }
    }
}

/// Links a component; what it lacks or wants too much is the error.
pub(crate) fn link(
    class: &Class,
    component: &Component,
    interfaces: &Interfaces,
) -> Result<(Program, ImageKind), Problem> {
    let kind =
        inspect::kind(&interfaces.exports).ok_or_else(|| nothing_to_run(&interfaces.exports))?;
    let unfit = |e| unfit(&interfaces.imports, &e);
    let pre: InstancePre<State> = class.linker.instantiate_pre(component).map_err(unfit)?;
    let has = |interface| interfaces.exports.iter().any(|name| name.starts_with(interface));
    let program = if has(inspect::ASYNC_HTTP) {
        ServicePre::new(pre).map(Program::AsyncHttp)
    } else if has(inspect::HTTP) {
        ProxyPre::new(pre).map(Program::Http)
    } else if has(inspect::ASYNC_COMMAND) {
        AsyncCommandPre::new(pre).map(Program::AsyncCommand)
    } else {
        CommandPre::new(pre).map(Program::Command)
    };
    Ok((program.map_err(unfit)?, kind))
}

/// The component exports nothing that can be served or run.
pub(crate) fn nothing_to_run(exports: &[String]) -> Problem {
    let all = match exports {
        [] => "nothing".to_owned(),
        all if all.len() > 10 => format!("{} and {} more", all[..10].join(", "), all.len() - 10),
        all => all.join(", "),
    };
    let message = format!(
        "the component exports {all}: it needs wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3 to be \
         served, or wasi:cli/run@0.2 or @0.3 to be run"
    );
    Problem::new(ProblemCode::MissingExport, message)
}

fn unfit(imports: &[String], error: &wasmtime::Error) -> Problem {
    let unknown: Vec<&str> =
        imports.iter().filter(|name| !instance::offers(name)).map(String::as_str).collect();
    match unknown.as_slice() {
        [] => {
            let message = format!("the component cannot be linked: {error:#}");
            Problem::new(ProblemCode::UnknownImport, message)
        }
        names => not_offered(names),
    }
}

/// The component imports what nobody here offers.
pub(crate) fn not_offered(names: &[&str]) -> Problem {
    let shown = names[..names.len().min(10)].join(", ");
    let more = match names.len().saturating_sub(10) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!(
        "the component imports {shown}{more}, which Coracle does not offer: build it without, or compose it with a component \
         that exports it (`wac plug`); `coracle inspect` shows all that it imports"
    );
    Problem::new(ProblemCode::UnknownImport, message)
}
