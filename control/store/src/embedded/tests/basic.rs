//! Commits, conditions, reads, watches: the contract, one piece at a time.

use super::{Home, manual, read_to};
use crate::{
    Batch, CommitError, Expect, FullReason, Options, Range, ReadError,
    Retention::{Long, Short},
    Store,
};
use std::time::Duration;

async fn put(store: &Store, key: &str, value: &str) -> u64 {
    let batch = Batch::new().put(key.to_owned(), value.to_owned(), Long);
    store.commit(batch).await.expect("commit").revision
}

#[tokio::test]
async fn conditions_decide_and_report_what_is_there() {
    let home = Home::new();
    let store = home.open(Options::default());
    assert_eq!(store.revision(), 1);
    let create = Batch::new().expect("/a", Expect::Absent).put("/a", "1", Long);
    assert_eq!(store.commit(create.clone()).await.unwrap().revision, 2);
    let Err(CommitError::Conflict { key, found: Some(found) }) = store.commit(create).await else {
        panic!("created twice");
    };
    assert_eq!((&key[..], &found.value[..], found.mod_revision), (&b"/a"[..], &b"1"[..], 2));
    // The first condition holds, the second does not: nothing of the batch may be done.
    let half = Batch::new()
        .expect("/a", Expect::Present)
        .expect("/b", Expect::Revision(2))
        .put("/a", "2", Long)
        .delete("/b");
    let refused = store.commit(half).await;
    assert_eq!(refused, Err(CommitError::Conflict { key: "/b".into(), found: None }));
    assert_eq!(store.get("/a").await.unwrap().unwrap().version, 1);
    let update = Batch::new().expect("/a", Expect::Revision(2)).put("/a", "2", Long);
    assert_eq!(store.commit(update.clone()).await.unwrap().revision, 3);
    assert!(matches!(store.commit(update).await, Err(CommitError::Conflict { .. })));
    let found = store.get("/a").await.unwrap().unwrap();
    assert_eq!((found.create_revision, found.mod_revision, found.version), (2, 3, 2));
    // Deleting what does not exist changes nothing.
    assert_eq!(store.commit(Batch::new().delete("/nothing")).await.unwrap().revision, 3);
}

#[tokio::test]
async fn conditions_see_earlier_batches_of_the_same_group() {
    let home = Home::new();
    let store = home.open(Options::default());
    // All are queued before the first is durable; exactly one may create the key.
    let tries = (0..64).map(|n| {
        let store = store.clone();
        let batch = Batch::new().expect("/a", Expect::Absent).put("/a", format!("{n}"), Long);
        async move { store.commit(batch).await.is_ok() }
    });
    let created = futures::future::join_all(tries).await;
    assert_eq!(created.iter().filter(|ok| **ok).count(), 1);
    assert_eq!(store.revision(), 2);
}

#[tokio::test]
async fn one_revision_per_batch_and_events_in_its_order() {
    let home = Home::new();
    let store = home.open(Options::default());
    put(&store, "/a/1", "old").await;
    let mut watch = store.watch(Range::prefix("/a/"), 2).await.unwrap();
    let batch = Batch::new().put("/a/2", "x", Long).delete("/a/1").put("/b", "y", Long);
    assert_eq!(store.commit(batch).await.unwrap().revision, 3);
    let changes = read_to(&mut watch, 3).await;
    assert_eq!(changes.len(), 1);
    let [created, deleted] = &changes[0].events[..] else { panic!("{changes:?}") };
    assert_eq!(
        (&created.key[..], &created.prev, created.create_revision),
        (&b"/a/2"[..], &None, 3)
    );
    assert_eq!((&deleted.key[..], &deleted.value), (&b"/a/1"[..], &None));
    assert_eq!((deleted.prev.clone(), deleted.create_revision), (Some(("old".into(), 2)), 2));
    // What happens elsewhere is progress.
    put(&store, "/b", "z").await;
    let progress = watch.next().await.unwrap().unwrap();
    assert_eq!((progress.revision, progress.events.len()), (4, 0));
}

#[tokio::test]
async fn ranges_page_at_one_revision() {
    let home = Home::new();
    let store = home.open(Options::default());
    for n in 0..10 {
        put(&store, &format!("/p/{n}"), "v").await;
    }
    put(&store, "/q", "v").await;
    let range = Range::prefix("/p/");
    let first = store.range(range.clone(), None, Some(4)).await.unwrap();
    assert!(first.more);
    store.commit(Batch::new().delete("/p/5").put("/p/45", "new", Long)).await.unwrap();
    let rest = range.after(&first.entries[3].key);
    let rest = store.range(rest, Some(first.revision), None).await.unwrap();
    assert!(!rest.more);
    let keys: Vec<_> = first.entries.iter().chain(&rest.entries).map(|e| &e.key[..]).collect();
    let expected: Vec<_> = (0..10).map(|n| format!("/p/{n}")).collect();
    assert_eq!(keys, expected.iter().map(String::as_bytes).collect::<Vec<_>>());
    // Exactly as many as the limit is not more.
    assert!(!store.range(Range::key("/q"), None, Some(1)).await.unwrap().more);
    let backwards = Range { start: "/z".into(), end: Some("/a".into()) };
    assert!(store.range(backwards, None, None).await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn revisions_out_of_reach_are_refused() {
    let home = Home::new();
    let store = home.open(manual());
    for n in 0..5 {
        put(&store, "/a", &n.to_string()).await;
    }
    store.compact(4).await.unwrap();
    let compacted = ReadError::Compacted { requested: 3, oldest: 4 };
    assert_eq!(store.get_at("/a", 3).await, Err(compacted.clone()));
    assert_eq!(store.range(Range::all(), Some(3), None).await.unwrap_err(), compacted);
    assert_eq!(store.watch(Range::all(), 3).await.unwrap_err(), compacted);
    assert_eq!(store.get_at("/a", 4).await.unwrap().unwrap().value, "2");
    let future = ReadError::Future { requested: 7, latest: 6 };
    assert_eq!(store.get_at("/a", 7).await, Err(future.clone()));
    assert_eq!(store.watch(Range::all(), 7).await.unwrap_err(), future);
    assert!(store.compact(7).await.is_err());
    store.compact(2).await.expect("compacting less is no error");
    let mut watch = store.watch(Range::all(), 4).await.unwrap();
    let changes = read_to(&mut watch, 6).await;
    assert_eq!(changes.iter().map(|c| c.revision).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(changes[0].events[0].prev, Some(("2".into(), 4)));
}

#[tokio::test]
async fn limits_are_named() {
    let home = Home::new();
    let options = Options {
        max_key_bytes: 8,
        max_value_bytes: 100,
        max_batch_ops: 2,
        max_bytes: 2000,
        ..manual()
    };
    let store = home.open(options);
    let check = async |batch: Batch, expected: &str| {
        let error = store.commit(batch).await.expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(Batch::new().put("/too/long", "", Long), "size of a key is 9, the limit is 8").await;
    check(Batch::new().put("/a", vec![0; 101], Long), "size of a value is 101").await;
    check(Batch::new().delete("a").delete("b").delete("c"), "number of operations is 3").await;
    check(Batch::new().delete("a").put("a", "", Long), "a is changed twice").await;
    assert_eq!(store.revision(), 1);
    // The bound on everything: puts are refused, deletes make room once compacted.
    let mut n = 0;
    let full = loop {
        let batch = Batch::new().put(format!("/{n}"), vec![0; 100], Long);
        match store.commit(batch).await {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, CommitError::Full(FullReason::Limit { limit: 2000, .. })), "{full}");
    assert!(n > 5, "full after {n}");
    for n in 0..n {
        store.commit(Batch::new().delete(format!("/{n}"))).await.expect("deletes are accepted");
    }
    store.compact(store.revision()).await.unwrap();
    super::eventually(async || store.stats().await.unwrap().history_bytes == 0).await;
    store.commit(Batch::new().put("/again", "x", Long)).await.expect("room again");
}

#[tokio::test]
async fn a_slow_watcher_reads_from_disk_what_memory_forgot() {
    let home = Home::new();
    let store = home.open(Options { recent_bytes: 1000, ..manual() });
    let mut watch = store.watch(Range::prefix("/a"), 1).await.unwrap();
    for n in 0..1500 {
        let key = if n % 3 == 0 { "/b" } else { "/a" };
        let (store, batch) = (store.clone(), Batch::new().put(key, n.to_string(), Long));
        // Many at once, to share syncs.
        tokio::spawn(async move { store.commit(batch).await.unwrap() });
    }
    super::eventually(async || store.revision() == 1501).await;
    let changes = read_to(&mut watch, 1501).await;
    assert_eq!(changes.len(), 1000);
    assert!(changes.is_sorted_by(|a, b| a.revision < b.revision));
    let mut last = None;
    for change in &changes {
        let event = &change.events[0];
        assert_eq!(event.prev, last, "at {}", change.revision);
        last = Some((event.value.clone().unwrap(), change.revision));
    }
}

#[tokio::test]
async fn a_watcher_that_falls_behind_compaction_is_told() {
    let home = Home::new();
    let store = home.open(Options { recent_bytes: 100, ..manual() });
    let mut watch = store.watch(Range::all(), 1).await.unwrap();
    for n in 0..20 {
        put(&store, "/a", &n.to_string()).await;
    }
    store.compact(15).await.unwrap();
    let error = watch.next().await.unwrap().unwrap_err();
    assert_eq!(error, ReadError::Compacted { requested: 1, oldest: 15 });
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn short_retention_forgets_early_and_only_where_it_was_used() {
    let home = Home::new();
    let options = Options {
        keep_short_for: Duration::from_millis(50),
        keep_for: Duration::from_secs(3600),
        ..Options::default()
    };
    let store = home.open(options);
    put(&store, "/pods/a", "1").await;
    for n in 0..50 {
        let lease = Batch::new().put("/leases/n", n.to_string(), Short).put(
            format!("/leases/{n:02}"),
            "x",
            Short,
        );
        store.commit(lease).await.unwrap();
        store.commit(Batch::new().delete(format!("/leases/{n:02}"))).await.unwrap();
    }
    let last = put(&store, "/pods/a", "2").await;
    // Superseded: 49 leases, and 50 with their deletions; and one Pod, which stays.
    super::eventually(async || store.stats().await.unwrap().history_records == 1).await;
    let mut pods = store.watch(Range::prefix("/pods/"), 1).await.unwrap();
    let changes = read_to(&mut pods, last).await;
    assert_eq!(changes.iter().map(|c| c.revision).collect::<Vec<_>>(), [2, last]);
    assert_eq!(store.get_at("/pods/a", 2).await.unwrap().unwrap().value, "1");
    let refused = store.watch(Range::prefix("/leases/"), 2).await.unwrap_err();
    assert!(matches!(refused, ReadError::Compacted { requested: 2, .. }), "{refused}");
    let refused = store.get_at("/leases/n", 5).await.unwrap_err();
    assert!(matches!(refused, ReadError::Compacted { requested: 5, .. }), "{refused}");
    assert_eq!(store.get("/leases/n").await.unwrap().unwrap().value, "49");
    store.watch(Range::prefix("/leases/"), last).await.expect("from the latest on");
}

#[tokio::test]
async fn closing_ends_watches_and_refuses_work() {
    let home = Home::new();
    let store = home.open(Options::default());
    let mut watch = store.watch(Range::all(), 1).await.unwrap();
    let pending = tokio::spawn(async move { watch.next().await });
    store.close().await;
    assert_eq!(pending.await.unwrap().unwrap().unwrap_err(), ReadError::Closed);
    assert_eq!(store.get("/a").await, Err(ReadError::Closed));
    assert_eq!(store.commit(Batch::new().delete("/a")).await, Err(CommitError::Closed));
    home.open(Options::default());
}
