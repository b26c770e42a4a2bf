//! Timers of WASI 0.2's guests (`wasi:clocks/monotonic-clock`).
//!
//! Thousands of guests that each wake once a second would wake the machine thousands of times. So a timer comes due a little later
//! than it could, by at most a 64th of its time and [`MOST`], together with others of that moment (Linux' timer slack, and
//! `AccuracySec` of systemd, do the same). Never earlier, and short ones not later.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use wasmtime::component::Linker;
use wasmtime_wasi::clocks::WasiClocksCtxView;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock::Host as _;

use crate::instance::State;

const CLOCK: &str = "wasi:clocks/monotonic-clock@0.2.12";
/// The most that a timer is later. Powers of two divide each other: shorter waits meet longer ones' moments.
const MOST: u64 = 16_777_216;
/// Less would be lost in the millisecond that timers are exact to.
const LEAST: u64 = 2_097_152;

/// When moments are counted from.
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Has timers come due together.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(CLOCK)?;
    interface.func_wrap("subscribe-duration", |mut store, (nanos,): (u64,)| {
        let wait = later(BEGUN.elapsed(), nanos);
        Ok((clocks(store.data_mut()).subscribe_duration(wait)?,))
    })?;
    interface.func_wrap("subscribe-instant", |mut store, (when,): (u64,)| {
        let mut clocks = clocks(store.data_mut());
        let nanos = when.saturating_sub(clocks.now()?);
        Ok((clocks.subscribe_duration(later(BEGUN.elapsed(), nanos))?,))
    })
}

fn clocks(state: &mut State) -> WasiClocksCtxView<'_> {
    wasmtime_wasi::clocks::WasiClocksView::clocks(state)
}

/// How many nanoseconds to wait for a timer of `nanos`, that long after [`BEGUN`].
fn later(now: Duration, nanos: u64) -> u64 {
    let slack = match (nanos / 64).checked_ilog2() {
        Some(bits) => (1 << bits).min(MOST),
        None => 0,
    };
    if slack < LEAST {
        return nanos;
    }
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    // Whoever waits for ever may.
    let due = now.checked_add(nanos).and_then(|due| due.checked_next_multiple_of(slack));
    due.map_or(nanos, |due| due - now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_a_little_late_and_never_early() {
        for (seconds, wait) in [(0.0, 0.0), (3.3, 0.001), (7.7, 0.1), (0.0, 0.134)] {
            let nanos = (wait * 1e9) as u64;
            assert_eq!(later(Duration::from_secs_f64(seconds), nanos), nanos, "{wait}");
        }
        let mut moments = std::collections::BTreeSet::new();
        for number in 0..1000 {
            let now = Duration::from_micros(3_000_000 + number * 997);
            let waited = later(now, 1_000_000_000);
            assert!((1_000_000_000..1_000_000_000 + 1_000_000_000 / 64).contains(&waited));
            moments.insert(now + Duration::from_nanos(waited));
        }
        // A thousand within a second.
        assert!(moments.len() <= 122, "{}", moments.len());
        let day = 86_400_000_000_000;
        assert!(later(Duration::ZERO, day) - day <= MOST);
        assert_eq!(later(Duration::from_secs(1), u64::MAX), u64::MAX);
    }
}
