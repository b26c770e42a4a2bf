//! The image intake against files that nobody thought of: whatever comes in, an answer comes out, in bounded time.
//!
//! Inputs are real components with bytes changed, cut and repeated, and modules that `wasm-smith` makes up, alone and in components. A few seconds
//! of that run with all tests; `CORACLE_FUZZ_SECONDS` makes it longer, and `CORACLE_FUZZ_SEED` repeats a run.

use std::time::{Duration, Instant};

use coracle_sandbox::ProblemCode;
use sha2::{Digest, Sha256};
use wasm_smith::{Config, Module};

use crate::{Job, compile, inspect};

/// Deterministic, small, and good enough (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }
}

/// Changes a file in one of the ways in which files get broken.
fn mutate(random: &mut Random, file: &mut Vec<u8>) {
    for _ in 0..=random.below(8) {
        let at = random.below(file.len());
        match random.below(6) {
            0 => file.truncate(at),
            1 => file.insert(at, random.next() as u8),
            2 if !file.is_empty() => drop(file.remove(at)),
            3 => {
                let end = (at + random.below(64)).min(file.len());
                let piece = file[at..end].to_vec();
                let to = random.below(file.len() + 1);
                file.splice(to..to, piece);
            }
            // A large number, where sizes and counts are.
            4 if at + 5 <= file.len() => file[at..at + 5].copy_from_slice(b"\xff\xff\xff\xff\x0f"),
            _ if !file.is_empty() => file[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
}

fn made_up(random: &mut Random) -> Option<Vec<u8>> {
    let seed: Vec<u8> = (0..2_048).map(|_| random.next() as u8).collect();
    let mut input = arbitrary::Unstructured::new(&seed);
    let config = Config { max_memories: 8, max_tables: 8, ..Config::default() };
    let module = Module::new(config, &mut input).ok()?.to_bytes();
    if random.below(2) == 0 {
        return Some(module);
    }
    // A component that holds nothing but that module.
    let mut file = b"\0asm\x0d\0\x01\0\x01".to_vec();
    let mut size = module.len();
    while size > 0x7f {
        file.push(size as u8 | 0x80);
        size >>= 7;
    }
    file.push(size as u8);
    file.extend(module);
    Some(file)
}

#[test]
fn whatever_comes_in_an_answer_comes_out() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let patience = Duration::from_secs(number("CORACLE_FUZZ_SECONDS").unwrap_or(4));
    let seed = number("CORACLE_FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()) + 1);
    let mut random = Random(seed.max(1));
    let examples = ["hello-c", "hello-v1", "hello-command"]
        .map(|name| std::fs::read(super::fixture::example(name).path).expect("a prebuilt example"));
    let folder = tempfile::tempdir().expect("a folder");
    let (begun, mut tried, mut taken, mut compiled) = (Instant::now(), 0, 0, 0);
    while begun.elapsed() < patience {
        let file = match random.below(3) {
            0 => made_up(&mut random),
            _ => {
                let mut file = examples[random.below(examples.len())].clone();
                mutate(&mut random, &mut file);
                Some(file)
            }
        };
        let Some(file) = file else { continue };
        tried += 1;
        let one = Instant::now();
        match inspect(&file) {
            Ok(_) => taken += 1,
            Err(problem) => {
                let bounded = !problem.message.is_empty() && problem.message.len() < 20_000;
                assert!(bounded, "seed {seed}, file {tried}: {problem}");
            }
        }
        // The whole way, for some: compiling takes a hundred times as long.
        if random.below(10) == 0 {
            let wasm = folder.path().join("image.wasm");
            std::fs::write(&wasm, &file).expect("written");
            let digest: String = Sha256::digest(&file).iter().map(|b| format!("{b:02x}")).collect();
            let job = Job {
                digest: format!("sha256:{digest}"),
                wasm,
                out: folder.path().to_owned(),
                class: None,
                memory_limit: None,
            };
            match compile(&job) {
                Ok(_) => compiled += 1,
                Err(problem) => {
                    let known =
                        !matches!(problem.code, ProblemCode::Internal | ProblemCode::Unknown);
                    assert!(known, "seed {seed}, file {tried}: {problem}");
                }
            }
        }
        let took = one.elapsed();
        assert!(took < Duration::from_secs(60), "seed {seed}, file {tried} took {took:?}");
    }
    assert!(tried > 0, "nothing was tried");
    let _ = (taken, compiled);
}
