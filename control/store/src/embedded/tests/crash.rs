//! `kill -9` in the middle of writes, again and again, on one file.

use super::{Home, manual, read_to};
use crate::{Batch, Expect, Options, Range, ReadError, Retention, Store};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::Duration,
};

const PATH: &str = "CORACLE_STORE_CRASH_TEST";
const WRITERS: u64 = 8;

fn options() -> Options {
    Options {
        keep_for: Duration::from_millis(300),
        keep_short_for: Duration::from_millis(100),
        keep_revisions: 50,
        ..Options::default()
    }
}

/// Not a test but the process that the test kills: it writes until then, and says on its
/// standard output what was acknowledged.
#[test]
#[ignore = "the child process of the test below"]
fn child() {
    let Ok(path) = std::env::var(PATH) else { return };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(async {
        let store = Store::open(path, options()).expect("open");
        let round = store.revision();
        let writers = (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer, round)));
        futures::future::join_all(writers).await;
    });
}

async fn write(store: Store, writer: u64, round: u64) {
    for n in 0.. {
        let new = format!("/new/{round}-{writer}-{n}");
        let batch = Batch::new()
            .expect(new.clone(), Expect::Absent)
            .put(new.clone(), vec![n as u8; 1000], Retention::Long)
            .put(format!("/last/{writer}"), new.clone(), Retention::Long)
            .put(format!("/a-lease/{writer}"), new.clone(), Retention::Short);
        let revision = store.commit(batch).await.expect("commit").revision;
        // One write call a line: a line is there whole or not at all.
        let line = format!("acknowledged {new} {revision}\n");
        let written = std::io::stdout().lock().write_all(line.as_bytes());
        written.expect("write to the test");
    }
}

#[tokio::test]
async fn kill_9_loses_nothing_acknowledged() {
    let home = Home::new();
    let mut rng = StdRng::seed_from_u64(9);
    let mut all: Vec<(String, u64)> = Vec::new();
    let mut last_revision = 1;
    for round in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::tests::crash::child", "--ignored", "--nocapture"])
            .env(PATH, home.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let patience = Duration::from_millis(rng.random_range(10..120));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(patience);
            child.kill().unwrap();
            child.wait().unwrap()
        });
        let acknowledged: Vec<(String, u64)> = lines
            .filter_map(|line| {
                let line = line.ok()?;
                // The test harness may have begun the same line.
                let mut words = line.split("acknowledged ").nth(1)?.split(' ');
                Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
            })
            .collect();
        killer.join().unwrap();
        // What is checked must not be compacted meanwhile.
        let store = home.open(manual());
        let revision = store.revision();
        assert!(revision >= last_revision, "round {round}: {revision} after {last_revision}");
        all.extend(acknowledged);
        for (key, acknowledged) in &all {
            let entry = store.get(key).await.unwrap();
            let found = entry.map(|entry| (entry.create_revision, entry.mod_revision));
            assert_eq!(found, Some((*acknowledged, *acknowledged)), "round {round}: {key}");
        }
        let compacted = store.stats().await.unwrap().compacted;
        for from in [compacted, (compacted + revision) / 2, revision.saturating_sub(1)] {
            check_resume(&store, from.max(compacted), revision).await;
        }
        last_revision = revision;
        store.close().await;
    }
    assert!(all.len() > 500, "only {} acknowledged: the test shows little", all.len());
}

/// Every revision after `from` is there once, in order, and whole. Short-lived keys may be
/// refused, but what is delivered of them has no gap either.
async fn check_resume(store: &Store, from: u64, revision: u64) {
    if from == revision {
        return;
    }
    let long = Range { start: "/l".into(), end: None };
    let mut watch = store.watch(long, from).await.expect("resume");
    let changes = read_to(&mut watch, revision).await;
    let found: Vec<u64> = changes.iter().map(|change| change.revision).collect();
    assert_eq!(found, (from + 1..=revision).collect::<Vec<_>>());
    for change in changes {
        let [new, last] = &change.events[..] else { panic!("half a batch: {change:?}") };
        assert!(new.prev.is_none() && new.value.is_some(), "{change:?}");
        assert_eq!(last.value.as_ref(), Some(&new.key));
    }
    let Ok(mut leases) = store.watch(Range::prefix("/a-lease/"), from).await else { return };
    for expected in from + 1..=revision {
        match leases.next().await.expect("an open watch") {
            Ok(change) => assert_eq!((change.revision, change.events.len()), (expected, 1)),
            Err(error) => return assert!(matches!(error, ReadError::Compacted { .. }), "{error}"),
        }
    }
}
