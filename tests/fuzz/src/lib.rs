//! Random cases against one piece of code after the other: whatever comes in, nothing panics, nothing takes more memory or time
//! than it may, and what the piece promises holds.
//!
//! A target is a function of a [`Random`] ([`cases`]), or of bytes that are made by changing good and formerly bad ones
//! ([`bytes`]). Ordinary test runs take the same few cases each time, within a second or two for each target;
//! `CORACLE_FUZZ_SECONDS=600` goes on with new ones for as long. A failure names its case: `CORACLE_FUZZ_CASE=…` runs that one
//! alone; bytes that fail are made as small as they get, and are written down, to be put beside the others in `corpus`.
//!
//! Of its own, rather than of a fuzzing library: it needs no other toolchain, no coverage and no more than a stable compiler,
//! costs nothing to build, and bounds each case's memory and processor time, which is half of what is asked.

pub mod bounds;
mod mutate;
pub mod random;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

pub use bounds::Bounds;
pub use random::Random;

/// How long a target goes on, in seconds, with cases that differ each time.
const SECONDS: &str = "CORACLE_FUZZ_SECONDS";
/// The one case that is to run.
const CASE: &str = "CORACLE_FUZZ_CASE";
/// What an ordinary run takes at most of a target.
const USUAL: (u64, Duration) = (3000, Duration::from_millis(1500));
/// Attempts at making a failing input smaller.
const SMALLER: usize = 2000;

/// Runs a target on random cases within [`Bounds::default`].
///
/// # Panics
/// A case failed: the message names it.
pub fn cases(name: &str, one: impl Fn(&mut Random)) {
    cases_within(name, Bounds::default(), one);
}

/// The same within other bounds.
///
/// # Panics
/// A case failed: the message names it.
pub fn cases_within(name: &str, bounds: Bounds, one: impl Fn(&mut Random)) {
    run(name, |case| {
        let failed = tried(bounds, || one(&mut Random::new(case))).err();
        failed.map(|why| format!("{name}: {why}\nagain with {CASE}={case}"))
    });
}

/// Runs a target on `good` inputs, on those of the corpus, and on what changes make of them. `words` are what inputs are made of
/// that chance would not find.
///
/// # Panics
/// An input failed: the message says where it was written.
pub fn bytes(name: &str, good: &[&[u8]], words: &[&str], one: impl Fn(&[u8])) {
    let mut inputs: Vec<Vec<u8>> = good.iter().map(|it| it.to_vec()).collect();
    inputs.extend(corpus(name));
    let check = |input: &[u8]| tried(Bounds::of(input.len()), || one(input)).err();
    for input in &inputs {
        if let Some(why) = check(input) {
            panic!("{name}: {why}\non {}", shown(input));
        }
    }
    run(name, |case| {
        let input = mutate::changed(&mut Random::new(case), &inputs, words);
        let why = check(&input)?;
        let (small, why) = smaller(input, why, check);
        let path = std::env::temp_dir().join(format!("coracle-fuzz-{name}-{case}"));
        let kept =
            std::fs::write(&path, &small).map(|()| format!("; written to {}", path.display()));
        Some(format!(
            "{name}: {why}\non {}{}\nagain with {CASE}={case}",
            shown(&small),
            kept.unwrap_or_default()
        ))
    });
}

/// The inputs that are kept for a target: those that once failed, and those by which others are found.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()).collect();
    files.sort();
    files.iter().filter_map(|file| std::fs::read(file).ok()).collect()
}

/// Case after case until the count or the time is over; `one` says what is wrong with one.
fn run(name: &str, one: impl Fn(u64) -> Option<String>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(case) = number(CASE) {
        if let Some(why) = one(case) {
            panic!("{why}");
        }
        return;
    }
    // The same for a name each time; far from those of others.
    let mut seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let (mut count, mut time) = USUAL;
    if let Some(seconds) = number(SECONDS) {
        (count, time) = (u64::MAX, Duration::from_secs(seconds));
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        seed ^= u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    }
    let ends = Instant::now() + time;
    for i in 0..count {
        if let Some(why) = one(seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))) {
            panic!("{why}");
        }
        if Instant::now() >= ends {
            break;
        }
    }
}

/// Runs it within bounds; why that failed, if it did.
fn tried(bounds: Bounds, one: impl FnOnce()) -> Result<(), String> {
    match bounds.hold(|| catch_unwind(AssertUnwindSafe(one))) {
        (_, Some(exceeded)) => Err(exceeded),
        (Ok(()), None) => Ok(()),
        (Err(panic), None) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(text.unwrap_or("it panicked").to_owned())
        }
    }
}

/// A part of a failing input that still fails.
fn smaller(
    mut input: Vec<u8>,
    mut why: String,
    check: impl Fn(&[u8]) -> Option<String>,
) -> (Vec<u8>, String) {
    let mut piece = input.len() / 2;
    let mut tries = 0;
    while piece > 0 {
        let mut at = 0;
        while at < input.len() && tries < SMALLER {
            tries += 1;
            let mut less = input.clone();
            less.drain(at..(at + piece).min(input.len()));
            match check(&less) {
                Some(still) => (input, why) = (less, still),
                None => at += piece,
            }
        }
        piece /= 2;
    }
    (input, why)
}

fn shown(input: &[u8]) -> String {
    let start = &input[..input.len().min(400)];
    format!("{} bytes: \"{}\"", input.len(), start.escape_ascii())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::catch_unwind;

    use super::*;

    fn said(run: impl FnOnce() + std::panic::UnwindSafe) -> String {
        let panic = catch_unwind(run).expect_err("a failure");
        panic.downcast_ref::<String>().cloned().expect("its text")
    }

    #[test]
    fn what_fails_is_found_and_made_small() {
        let why = said(|| {
            bytes("example", &[b"abcdefgh"], &["needle"], |input| {
                assert!(!input.windows(6).any(|w| w == b"needle"), "there it is");
            });
        });
        assert!(why.contains("there it is") && why.contains("6 bytes: \"needle\""), "{why}");
        let written = why.split_once("written to ").and_then(|(_, rest)| rest.lines().next());
        let written = Path::new(written.expect("where it was written"));
        assert_eq!(std::fs::read(written).expect("read"), b"needle");
        std::fs::remove_file(written).expect("removed");
        let why = said(|| cases("numbers", |random| assert!(random.below(100) != 7, "seven")));
        assert!(why.contains("seven") && why.contains(CASE), "{why}");
    }

    #[test]
    fn what_takes_too_much_is_found() {
        let memory = Bounds { memory: 1 << 20, ..Bounds::default() };
        let why = said(move || cases_within("memory", memory, |_| drop(vec![1_u8; 2 << 20])));
        assert!(why.contains("bytes of memory"), "{why}");
        let time = Bounds { time: Duration::from_millis(20), ..Bounds::default() };
        let why = said(move || {
            cases_within("time", time, |random| {
                let end = Instant::now() + Duration::from_secs(1);
                while Instant::now() < end {
                    std::hint::black_box(random.bits());
                }
            });
        });
        assert!(why.contains("processor time"), "{why}");
    }

    #[test]
    fn ordinary_runs_are_the_same_each_time() {
        let sum = || {
            let sum = Cell::new(0_u64);
            cases("same", |random| sum.set(sum.get().wrapping_mul(31).wrapping_add(random.bits())));
            sum.get()
        };
        if std::env::var_os(SECONDS).is_none() {
            assert_eq!(sum(), sum());
        }
    }
}
