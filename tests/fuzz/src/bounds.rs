//! How much memory and processor time a case may take.
//!
//! Both are the thread's: tests run beside each other. Memory is counted where it is taken, by the allocator of every program
//! that links this; a case that takes much for a moment is found like one that keeps it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

/// The most that a case may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes at a time, beyond what there was before.
    pub memory: isize,
    /// Of the processor; tests are compiled without optimisation.
    pub time: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { memory: 64 << 20, time: Duration::from_secs(5) }
    }
}

impl Bounds {
    /// For an input of that length: a small multiple of it.
    pub fn of(length: usize) -> Self {
        let length = isize::try_from(length).unwrap_or(isize::MAX);
        Self { memory: (8 << 20) + length.saturating_mul(1024), ..Self::default() }
    }

    /// Runs it; its result, and which bound it exceeded.
    pub(crate) fn hold<T>(self, run: impl FnOnce() -> T) -> (T, Option<String>) {
        let before = USED.with(Cell::get);
        PEAK.with(|peak| peak.set(before));
        let began = processor_time();
        let result = run();
        let took = processor_time().saturating_sub(began);
        let memory = PEAK.with(Cell::get) - before;
        let exceeded = if memory > self.memory {
            Some(format!("it took {memory} bytes of memory, more than {}", self.memory))
        } else if took > self.time {
            Some(format!("it took {took:?} of processor time, more than {:?}", self.time))
        } else {
            None
        };
        (result, exceeded)
    }
}

/// What this thread has had of a processor.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists, and `time` is valid for the call to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

thread_local! {
    static USED: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // A thread that ends has no cells any more.
    let _ = USED.try_with(|used| {
        let now = used.get() + change;
        used.set(now);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
    });
}

/// The system's, with a count.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: all of it is the system allocator's; counting touches cells of the thread that need no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: what the caller promises is what is required.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}
