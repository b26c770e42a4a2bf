//! Tests of the embedded store.

use crate::{Batch, CommitError, Expect, Options, Range, Retention::Long, Store};

#[tokio::test]
async fn commits_conditions_reads_and_watches() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("s/store.redb"), Options::default()).unwrap();
    assert_eq!(store.revision(), 1);
    let mut watch = store.watch(Range::prefix("/a/"), 1).await.unwrap();
    let create = Batch::new().expect("/a/x", Expect::Absent).put("/a/x", "1", Long);
    assert_eq!(store.commit(create.clone()).await.unwrap().revision, 2);
    let again = store.commit(create).await.unwrap_err();
    assert!(matches!(again, CommitError::Conflict { found: Some(e), .. } if e.mod_revision == 2));
    let update = Batch::new().expect("/a/x", Expect::Revision(2)).put("/a/x", "2", Long);
    assert_eq!(store.commit(update).await.unwrap().revision, 3);
    assert_eq!(store.commit(Batch::new().delete("/a/x")).await.unwrap().revision, 4);
    assert_eq!(store.commit(Batch::new().delete("/a/x")).await.unwrap().revision, 4);
    assert_eq!(store.get("/a/x").await.unwrap(), None);
    assert_eq!(store.get_at("/a/x", 3).await.unwrap().unwrap().value, "2");
    for revision in 2..=4 {
        let change = watch.next().await.unwrap().unwrap();
        assert_eq!((change.revision, change.events.len()), (revision, 1), "{change:?}");
    }
}
