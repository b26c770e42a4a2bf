//! Measures the embedded store: `cargo run --release -p coracle-store --example commit_rate [DIR]`.
//! Prints commits per second of concurrent callers, each waiting for its own commit, with values
//! of 3 kB; the disk's own sync rate beside it; and the times of opening and of reads.

#![allow(clippy::print_stdout, reason = "printing is its purpose")]

use coracle_store::{Batch, Expect, Options, Range, Retention, Store};
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const VALUE: usize = 3 << 10;
const RUN: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = base.join(format!("coracle-commit-rate-{}", std::process::id()));
    let path = folder.join("store.redb");
    let started = Instant::now();
    let store = Store::open(&path, Options::default()).expect("open");
    println!("open, empty folder          {:>10.1?}", started.elapsed());
    println!(
        "sync of 4 kB, 128 kB        {:>10.1?} {:>10.1?}",
        sync(&folder, 4),
        sync(&folder, 128)
    );
    for callers in [1, 32, 256] {
        let (rate, slowest) = commits(&store, callers).await;
        println!("commits/s, {callers:>3} callers      {rate:>10.0}   slowest {slowest:.1?}");
    }
    println!("resident memory             {:>7} KiB", resident_kib());
    let entries = store.stats().await.expect("stats").live_keys;
    let started = Instant::now();
    store.range(Range::all(), None, Some(12_500)).await.expect("range");
    println!("range of 12,500 of {entries:<8} {:>10.1?}", started.elapsed());
    let started = Instant::now();
    let mut watch = store.watch(Range::all(), 1).await.expect("watch");
    let mut revision = 1;
    while revision < store.revision() {
        revision = watch.next().await.expect("open").expect("not compacted").revision;
    }
    println!("replay of {revision:<8} revisions {:>10.1?}", started.elapsed());
    println!("{:#?}", store.stats().await.expect("stats"));
    println!("resident memory             {:>7} KiB", resident_kib());
    drop(watch);
    store.close().await;
    let started = Instant::now();
    let store = Store::open(&path, Options::default()).expect("open again");
    println!("open, after a clean close   {:>10.1?}", started.elapsed());
    drop(store);
    std::fs::remove_dir_all(folder).expect("remove");
}

/// Commits per second, and the slowest, of `callers` that each create keys one after the other.
async fn commits(store: &Store, callers: usize) -> (f64, Duration) {
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let store = store.clone();
            tokio::spawn(async move {
                let (mut count, mut slowest) = (0, Duration::ZERO);
                while started.elapsed() < RUN {
                    let key = format!("/registry/core/pods/of-{callers}-{caller}/{count:06}");
                    let batch = Batch::new().expect(key.clone(), Expect::Absent).put(
                        key,
                        vec![b'x'; VALUE],
                        Retention::Long,
                    );
                    let began = Instant::now();
                    store.commit(batch).await.expect("commit");
                    slowest = slowest.max(began.elapsed());
                    count += 1;
                }
                (count, slowest)
            })
        })
        .collect();
    let (mut count, mut slowest) = (0, Duration::ZERO);
    for task in tasks {
        let (n, slow) = task.await.expect("caller");
        count += n;
        slowest = slowest.max(slow);
    }
    (count as f64 / started.elapsed().as_secs_f64(), slowest)
}

/// The mean time to write and sync `kb` kilobytes: the floor under one group.
fn sync(folder: &Path, kb: usize) -> Duration {
    let path = folder.join("sync");
    let mut file = File::create(&path).expect("create");
    let data = vec![7; kb << 10];
    let started = Instant::now();
    for _ in 0..100 {
        file.write_all(&data).expect("write");
        file.sync_data().expect("sync");
    }
    let mean = started.elapsed() / 100;
    std::fs::remove_file(path).expect("remove");
    mean
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
