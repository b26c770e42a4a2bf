//! `wasi:random` of WASI 0.2, with a bound: nothing can interrupt a call that asks for very much, and whoever shares the
//! thread would wait for it. (WASI 0.3 lets the host give less than was asked for.)

use wasmtime::component::{HasSelf, Linker};
use wasmtime_wasi::p2::bindings::random::{insecure, random};

use crate::instance::State;

/// Random bytes that one call may ask for.
pub(crate) const MOST: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
#[error(
    "{asked} random bytes were asked for with one call; at most {MOST} are given: ask several times"
)]
struct TooMany {
    asked: u64,
}

fn check(asked: u64) -> Result<(), TooMany> {
    if asked > MOST { Err(TooMany { asked }) } else { Ok(()) }
}

impl random::Host for State {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        check(len)?;
        random::Host::get_random_bytes(self.random(), len)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        random::Host::get_random_u64(self.random())
    }
}

impl insecure::Host for State {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        check(len)?;
        insecure::Host::get_insecure_random_bytes(self.random(), len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        insecure::Host::get_insecure_random_u64(self.random())
    }
}

/// Puts these in the place of wasmtime-wasi's.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    random::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    insecure::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
}
