//! Tests of the embedded store, against a model, a disk that loses power and one that is full,
//! and a process that is killed.

mod basic;
mod crash;
mod disk;
mod history;
mod model;
mod open;

use crate::{Change, Options, Store, Watch};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// A store in a folder of its own.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Home {
        Home { folder: tempfile::tempdir().expect("temporary folder") }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store/store.redb")
    }

    fn open(&self, options: Options) -> Store {
        Store::open(self.path(), options).expect("open")
    }
}

/// Compacts only when told.
fn manual() -> Options {
    Options { auto_compact: false, ..Options::default() }
}

fn open_on(disk: Arc<disk::TestDisk>, options: Options) -> Store {
    let backend = super::Embedded::open_on("test".as_ref(), disk, options).expect("open");
    Store { backend: Arc::new(backend) }
}

/// All changes up to `revision`, without the reports of progress.
async fn read_to(watch: &mut Watch, revision: u64) -> Vec<Change> {
    let mut changes = Vec::new();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
        let change = next.expect("a change in time").expect("an open watch").expect("a change");
        let reached = change.revision;
        if !change.events.is_empty() {
            changes.push(change);
        }
        if reached >= revision {
            return changes;
        }
    }
}

/// Polls until `done` holds.
async fn eventually(mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..2000 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not come to pass within 10 s");
}
