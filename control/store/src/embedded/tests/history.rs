//! Compaction by policy: history and file stay bounded under load.

use super::{Home, eventually, manual};
use crate::{Batch, Options, Range, Retention::Long, Store};
use std::time::Duration;

async fn overwrite(store: &Store, times: usize, value: usize) {
    let writes = (0..times).map(|n| {
        let batch = Batch::new().put(format!("/{}", n % 50), vec![1; value], Long);
        store.commit(batch)
    });
    for result in futures::future::join_all(writes).await {
        result.expect("commit");
    }
}

#[tokio::test]
async fn the_file_stays_bounded_under_overwrites() {
    let home = Home::new();
    let options = Options {
        keep_for: Duration::from_millis(400),
        keep_revisions: 10,
        max_history_bytes: 1 << 20,
        ..Options::default()
    };
    let store = home.open(options);
    for _ in 0..10 {
        overwrite(&store, 1000, 3000).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    // 30 MB went through 150 kB of live data.
    eventually(async || store.stats().await.unwrap().history_bytes < 1 << 20).await;
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.live_keys, stats.revision), (50, 10_001));
    assert!(stats.file_bytes < 20 << 20, "{stats:?}");
    // At rest, age alone takes all but the newest revisions.
    eventually(async || store.stats().await.unwrap().history_records <= 10).await;
    assert_eq!(store.range(Range::all(), None, None).await.unwrap().entries.len(), 50);
}

#[tokio::test]
async fn compaction_leaves_exactly_what_lives() {
    let home = Home::new();
    let store = home.open(manual());
    overwrite(&store, 2000, 100).await;
    for n in 0..25 {
        store.commit(Batch::new().delete(format!("/{n}"))).await.unwrap();
    }
    store.commit(Batch::new().put("/3", "again", Long)).await.unwrap();
    store.compact(store.revision()).await.unwrap();
    eventually(async || store.stats().await.unwrap().history_records == 0).await;
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.history_bytes, stats.live_keys), (0, 26));
    store.close().await;
    let database = redb::Database::open(home.path()).unwrap();
    let txn = redb::ReadableDatabase::begin_read(&database).unwrap();
    use super::super::tables::{GRAVES, KEYS, LOG, SHORT};
    use redb::ReadableTableMetadata;
    assert_eq!(txn.open_table(LOG).unwrap().len().unwrap(), 26);
    assert_eq!(txn.open_table(KEYS).unwrap().len().unwrap(), 26);
    assert_eq!(txn.open_table(SHORT).unwrap().len().unwrap(), 0);
    assert_eq!(txn.open_table(GRAVES).unwrap().len().unwrap(), 0);
}
