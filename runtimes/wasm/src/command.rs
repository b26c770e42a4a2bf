//! Components that export `wasi:cli/run`: one instance, from start to exit.
//!
//! Exit codes: what the component said; 1 for a `run` that returned an error; 134 (as after
//! SIGABRT) for a trap, with its backtrace in the log; 137 when it was out of memory or killed. A
//! component cannot be told to end: a stop leaves it running for the grace period, then drops it.

use std::sync::Arc;
use std::time::Duration;

use coracle_sandbox::NoticeKind;
use tokio::time::Instant;
use wasmtime::component::Accessor;
use wasmtime_wasi::I32Exit;

use crate::container::{Container, Exit, Phase};
use crate::http::trapped;
use crate::instance::State;
use crate::logs::failure;
use crate::memory::Verdict;
use crate::program::Program;
use crate::slots::Purpose;

/// How long a command waits for a free slot of the host's.
const PATIENCE: Duration = Duration::from_secs(30);

impl Container {
    /// Runs it, and publishes its exit.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut phases = self.phase.subscribe();
        let exit = tokio::select! {
            exit = self.instance() => exit,
            _ = phases.wait_for(|phase| *phase == Phase::Killed) => Exit::killed(""),
            () = self.grace_over() => Exit::killed("killed at the end of its grace period"),
        };
        self.exit(exit, Duration::ZERO).await;
    }

    async fn grace_over(&self) {
        let mut stop = self.stop.subscribe();
        loop {
            let deadline = *stop.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)),
                    if deadline.is_some() => return,
                changed = stop.changed() => if changed.is_err() { std::future::pending().await },
            }
        }
    }

    async fn instance(self: &Arc<Self>) -> Exit {
        let engines = &self.node.engines;
        let slots = match engines.class(self.compiled.class) {
            Ok(class) => class.slots.clone(),
            Err(e) => return Exit::error(128, format!("cannot make the engine: {e:#}")),
        };
        let slot = slots.take(&self.sandbox.slots, Purpose::Command);
        let Ok(_slot) = tokio::time::timeout(PATIENCE, slot).await else {
            return Exit::error(128, "the host has no free slot: too many components are running");
        };
        engines.wake_clock();
        let state = match State::new(self) {
            Ok(state) => state,
            Err(e) => return Exit::error(128, format!("cannot prepare its files: {e:#}")),
        };
        let (mut store, result) = match &self.compiled.program {
            Program::Command(pre) => {
                let mut store = state.store(pre.engine());
                let result = match pre.instantiate_async(&mut store).await {
                    Ok(command) => command.wasi_cli_run().call_run(&mut store).await,
                    Err(error) => Err(error),
                };
                (store, result)
            }
            Program::AsyncCommand(pre) => {
                let mut store = state.store(pre.engine());
                let result = match pre.instantiate_async(&mut store).await {
                    Ok(command) => {
                        let run = async |guest: &Accessor<State>| {
                            command.wasi_cli_run().call_run(guest).await
                        };
                        store.run_concurrent(run).await.and_then(|result| result)
                    }
                    Err(error) => Err(error),
                };
                (store, result)
            }
            Program::Http(_) | Program::AsyncHttp(_) => {
                return Exit::error(128, "not a command");
            }
        };
        let error = match result {
            Ok(Ok(())) => return Exit::completed(),
            Ok(Err(())) => return Exit::error(1, ""),
            Err(error) => error,
        };
        match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(0)) => return Exit::completed(),
            Some(I32Exit(code)) => return Exit::error(*code, ""),
            None => {}
        }
        let outgrew = store.data_mut().memory.outgrew_slot;
        match crate::memory::verdict(self, &error, outgrew) {
            Some(Verdict::OutOfMemory(message) | Verdict::Crowded(message)) => {
                Exit::out_of_memory(message)
            }
            None => {
                self.notice(NoticeKind::Trap, || trapped(&error));
                Exit::error(134, failure(&error))
            }
        }
    }
}
