//! A command as a Wasm component: what a Pod's `args`, `env`, logs and exit code look like from
//! inside. It exports `wasi:cli/run`; the node runs it once per container start.
//!
//! ```text
//! --lines N     print N numbered lines
//! --read PATH   print a file of a mounted volume
//! --write PATH=TEXT  write a file in a mounted volume, or the Pod's termination message
//! --sleep S     wait for S seconds, using no CPU
//! --exit N      end with exit code N
//! --tick MS     wake every MS milliseconds, for ever
//! ```
//! Options are followed in order; other arguments are only printed. All but the last are in
//! `../steps`, which the tests' commands have in common with this one.

use std::time::Duration;

use steps::{Step, number, sleep};
use wasip2::exports::cli::run::Guest;

struct Hello;

wasip2::cli::command::export!(Hello);

impl Guest for Hello {
    fn run() -> Result<(), ()> {
        steps::run("hello-command", &[TICK])
    }
}

const TICK: Step = ("--tick", |value| {
    let period = Duration::from_millis(number(value)?);
    loop {
        sleep(period);
    }
});
