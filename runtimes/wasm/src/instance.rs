//! What an instance sees of the world: WASI, cut down to its container.
//!
//! A State is made for every request, so making one must cost next to nothing: environment,
//! arguments and output are served here from what all instances of the container share, instead of
//! being copied into wasmtime-wasi's context.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker, Resource, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::DynOutputStream;
use wasmtime_wasi::p2::bindings::cli::{stderr, stdout};
use wasmtime_wasi::random::WasiRandomCtx;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::container::{Container, Phase};
use crate::cpu::Run;
use crate::denied::Import;
use crate::extras;
use crate::files::{self, Files};
use crate::folders;
use crate::logs::{Output, Stream};
use crate::memory::Hold;
use crate::outgoing::Outgoing;
use crate::program::Program;
use crate::random;
use crate::sockets::{self, Known};
use crate::timers;

/// Things of the host's (streams, sockets, files, pollables, header fields, …) that one instance may have.
const MOST_RESOURCES: usize = 16 << 10;
/// The interface of WASI 0.2 that is not wasmtime-wasi's here; the version is the one that it has there.
const ENVIRONMENT: &str = "wasi:cli/environment@0.2.12";
/// Bytes that one call may pass from the guest to the host: nothing can interrupt the copying.
const MOST_PER_CALL: usize = 32 << 20;

/// The store's data.
pub(crate) struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    pub(crate) table: ResourceTable,
    outgoing: Outgoing,
    pub(crate) memory: Hold,
    run: Run,
    pub(crate) container: Arc<Container>,
    /// What is known of UDP sockets and their streams, by number.
    pub(crate) datagrams: BTreeMap<u32, Arc<Known>>,
    pub(crate) files: Files,
    out: Option<Output>,
    err: Option<Output>,
}

/// A trap's cause where the guest was ended on purpose.
#[derive(Debug, thiserror::Error)]
#[error("ended by force")]
pub(crate) struct Killed;

impl State {
    /// The state of a fresh instance.
    pub(crate) fn new(container: &Arc<Container>) -> wasmtime::Result<State> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MOST_RESOURCES);
        Ok(State {
            wasi: context(container),
            http: WasiHttpCtx::new(),
            table,
            outgoing: Outgoing::new(container.clone()),
            memory: Hold::new(container.memory.clone()),
            run: Run::default(),
            container: container.clone(),
            datagrams: BTreeMap::new(),
            files: Files::default(),
            out: None,
            err: None,
        })
    }

    /// To be called before an instance serves another request: what it used is counted anew.
    pub(crate) fn begin_again(&mut self) {
        self.run = Run::default();
    }

    /// A store for it, interrupted at every tick and held to its memory.
    pub(crate) fn store(self, engine: &Engine) -> Store<State> {
        let mut store = Store::new(engine, self);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(MOST_PER_CALL);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut context| {
            let state = context.data_mut();
            if *state.container.phase.borrow() == Phase::Killed {
                return Err(Killed.into());
            }
            let State { run, container, .. } = state;
            Ok(run.tick(&container.cpu))
        });
        store
    }

    pub(crate) fn random(&mut self) -> &mut WasiRandomCtx {
        self.wasi.random()
    }

    fn output(&mut self, stream: Stream) -> wasmtime::Result<Resource<DynOutputStream>> {
        let log = &self.container.log;
        let output = match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        let output = output.get_or_insert_with(|| Output::new(log.clone(), stream)).clone();
        Ok(self.table.push(Box::new(output) as DynOutputStream)?)
    }
}

/// Clocks, and what WASI 0.3 has of a program's surroundings.
fn context(container: &Arc<Container>) -> WasiCtx {
    let clocks = container.spec.grants.clocks;
    let concurrent =
        matches!(container.compiled.program, Program::AsyncHttp(_) | Program::AsyncCommand(_));
    if clocks && !concurrent {
        return WasiCtx::default();
    }
    let mut builder = WasiCtx::builder();
    builder.max_random_size(random::MOST);
    if !clocks {
        builder.wall_clock(Still(container.clone())).monotonic_clock(Still(container.clone()));
    }
    if concurrent {
        // Those of WASI 0.3 are wasmtime-wasi's own.
        builder.envs(&container.env[..]).args(&container.spec.args);
        if let Some(folder) = &container.spec.working_dir {
            builder.initial_cwd(folder.to_string_lossy());
        }
        builder.stdout(Output::new(container.log.clone(), Stream::Out));
        builder.stderr(Output::new(container.log.clone(), Stream::Err));
    }
    builder.build()
}

/// The clocks of a container that was granted none: it is for ever the moment at which it started.
/// Waiting for a time to pass works; how much has passed is not told.
struct Still(Arc<Container>);

impl HostWallClock for Still {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        self.0.denied(Import::Clocks);
        Duration::from_secs(self.0.started_at.as_second().max(0) as u64)
    }
}

impl HostMonotonicClock for Still {
    fn resolution(&self) -> u64 {
        1_000_000_000
    }

    fn now(&self) -> u64 {
        self.0.denied(Import::Clocks);
        0
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outgoing }
    }
}

/// `wasi:cli/environment`, without a copy: services ask for it with each request, and it names each Service of the namespace.
fn add_environment(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(ENVIRONMENT)?;
    interface
        .func_wrap("get-environment", |store, ()| Ok((store.data().container.env.clone(),)))?;
    interface
        .func_wrap("get-arguments", |store, ()| Ok((store.data().container.spec.args.clone(),)))?;
    interface.func_wrap("initial-cwd", |store, ()| {
        let folder = store.data().container.spec.working_dir.as_ref();
        Ok((folder.map(|folder| folder.to_string_lossy().into_owned()),))
    })
}

impl stdout::Host for State {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.output(Stream::Out)
    }
}

impl stderr::Host for State {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.output(Stream::Err)
    }
}

/// Everything that guests may import.
pub(crate) fn linker(engine: &Engine, concurrency: bool) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    extras::add_to_linker(&mut linker)?;
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    linker.allow_shadowing(true);
    add_environment(&mut linker)?;
    stdout::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    stderr::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    random::add_to_linker(&mut linker)?;
    timers::add_to_linker(&mut linker)?;
    files::add_p2(&mut linker)?;
    folders::add_p2(&mut linker)?;
    sockets::add_p2(&mut linker)?;
    if concurrency {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        files::add_p3(&mut linker)?;
        folders::add_p3(&mut linker)?;
        sockets::add_p3(&mut linker)?;
    }
    linker.allow_shadowing(false);
    Ok(linker)
}

/// Whether [`linker`] has an interface, for some class of guests.
pub(crate) fn offers(import: &str) -> bool {
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    // Their versions may look like those of WASI.
    EXTRAS.contains(&import)
        || match version.get(..4) {
            Some("0.2.") => OFFERED.contains(&name),
            Some("0.3.") => ASYNC_OFFERED.contains(&name),
            _ => false,
        }
}

/// The interfaces of WASI 0.2 behind [`linker`], for messages about components that want others.
pub(crate) const OFFERED: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// The same for WASI 0.3.
pub(crate) const ASYNC_OFFERED: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/types",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/system-clock",
    "wasi:clocks/types",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/client",
    "wasi:http/types",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/types",
];

/// What hosts of WASI offer beyond it, at the one version that there is of each.
pub(crate) const EXTRAS: &[&str] =
    &["wasi:config/store@0.2.0-rc.1", "wasi:logging/logging@0.1.0-draft"];
