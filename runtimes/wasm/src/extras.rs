//! What guests find beyond WASI: their configuration and a log with levels. The interfaces are
//! described for guests' authors in `wit/`.
//!
//! - `wasi:config/store` serves the container's environment, by exact name: what a manifest says
//!   in `env` and `envFrom`, whichever ConfigMap or Secret it comes from.
//! - `wasi:logging/logging` writes lines into the container's log: `LEVEL context: message`, to
//!   standard error from `warn` on, to standard output otherwise.

use wasmtime::component::{HasSelf, Linker};

use crate::instance::State;
use crate::logs::Stream;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "coracle:guest/extras",
        imports: { default: trappable },
    });
}

use bindings::wasi::config::store;
use bindings::wasi::logging::logging;

/// Makes them importable.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    store::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    logging::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
}

impl store::Host for State {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, store::Error>> {
        let found = self.container.env.iter().find(|(name, _)| *name == key);
        Ok(Ok(found.map(|(_, value)| value.clone())))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, store::Error>> {
        Ok(Ok(self.container.env.to_vec()))
    }
}

impl logging::Host for State {
    fn log(
        &mut self,
        level: logging::Level,
        context: String,
        message: String,
    ) -> wasmtime::Result<()> {
        let (name, stream) = match level {
            logging::Level::Trace => ("TRACE", Stream::Out),
            logging::Level::Debug => ("DEBUG", Stream::Out),
            logging::Level::Info => ("INFO", Stream::Out),
            logging::Level::Warn => ("WARN", Stream::Err),
            logging::Level::Error => ("ERROR", Stream::Err),
            logging::Level::Critical => ("CRITICAL", Stream::Err),
        };
        let text = match context.is_empty() {
            true => format!("{name} {message}"),
            false => format!("{name} {context}: {message}"),
        };
        self.container.log.write(stream, &text);
        Ok(())
    }
}
