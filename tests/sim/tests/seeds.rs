//! Hundreds of clusters, each different. See the crate's documentation for what is done to them.

use coracle_sim::{Options, Report, run};

/// Seeds from that one on: so many, or as many as `CORACLE_SIM_SEEDS` says.
fn seeds(from: u64, many: u64) -> std::ops::Range<u64> {
    let told = std::env::var("CORACLE_SIM_SEEDS").ok();
    let many = told.map_or(many, |told| told.parse().expect("CORACLE_SIM_SEEDS is a number"));
    from..from + many
}

/// Runs seeds in a few threads; panics with all that failed.
fn check(name: &str, options: impl IntoIterator<Item = Options>) -> Report {
    let mut options: Vec<_> = options.into_iter().collect();
    if let Ok(seed) = std::env::var("CORACLE_SIM_SEED") {
        let seed: u64 = seed.parse().expect("CORACLE_SIM_SEED is a number");
        options.retain(|options| options.seed == seed);
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let worker = || {
        let (mut total, mut failures) = (Report::default(), Vec::new());
        while let Some(options) =
            options.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        {
            match run(*options) {
                Ok(report) => {
                    total.writes += report.writes;
                    total.conflicts += report.conflicts;
                    total.crashes += report.crashes;
                }
                Err(why) => failures.push((options.seed, why)),
            }
        }
        (total, failures)
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    let (mut total, mut failures) = (Report::default(), Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            let (report, failed) = worker.join().expect("a worker");
            total.writes += report.writes;
            total.conflicts += report.conflicts;
            total.crashes += report.crashes;
            failures.extend(failed);
        }
    });
    if let Some((_, first)) = failures.first() {
        let failed: Vec<_> = failures.iter().map(|(seed, _)| seed).collect();
        panic!("{name}: of {} runs failed those of {failed:?}, the first: {first}", options.len());
    }
    total
}

#[test]
fn rollouts_keep_their_limits() {
    let calm = |seed| Options { seed, calm: true, crash_after: None, actions: 12 };
    let total = check("calm", seeds(0, 150).map(calm));
    assert!(std::env::var("CORACLE_SIM_SEED").is_ok() || total.conflicts > 0 && total.crashes > 0);
}

#[test]
fn everything_converges() {
    let wild = |seed| Options { seed, calm: false, crash_after: None, actions: 25 };
    let total = check("wild", seeds(1000, 150).map(wild));
    assert!(std::env::var("CORACLE_SIM_SEED").is_ok() || total.conflicts > 0 && total.crashes > 0);
}

/// Otherwise the seed of a failure would say nothing.
#[test]
fn a_seed_is_one_run() {
    for seed in 2000..2006 {
        let options = Options { seed, calm: seed % 2 == 0, crash_after: None, actions: 25 };
        let reports: Vec<_> = (0..2).map(|_| run(options)).collect();
        assert_eq!(reports[0], reports[1], "{options:?}");
    }
}

/// One run, ended at each of its first writes in turn.
#[test]
fn a_crash_after_any_write() {
    let crash = |n| Options { seed: 7, calm: true, crash_after: Some(n), actions: 4 };
    check("crash", (1..120).map(crash));
}
