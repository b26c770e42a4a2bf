//! Being told to end. The first process of a container has no default action for a signal: without this it would have to be
//! killed.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static ENDING: AtomicBool = AtomicBool::new(false);

const SIGTERM: i32 = 15;

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(code: i32) -> !;
}

/// Ends at once when told to, as a program without an action of its own does outside of a container.
pub(crate) fn end_at_once() {
    extern "C" fn end(number: i32) {
        // SAFETY: may be called in a handler; nothing of this process is used afterwards.
        unsafe { _exit(128 + number) }
    }
    // SAFETY: the handler does nothing but what a handler may.
    unsafe { signal(SIGTERM, end) };
}

/// Goes on when told to end, but [`is_ending`] tells.
pub(crate) fn end_later() {
    extern "C" fn note(_: i32) {
        ENDING.store(true, Relaxed);
    }
    // SAFETY: the handler does nothing but what a handler may.
    unsafe { signal(SIGTERM, note) };
}

/// Whether this process was told to end.
pub(crate) fn is_ending() -> bool {
    ENDING.load(Relaxed)
}
