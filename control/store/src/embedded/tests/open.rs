//! Opening: locks, formats, permissions, and what is said when it fails.

use super::{super::tables::META, Home};
use crate::{Batch, OpenError, Options, Retention::Long, Store};
use std::{fs, os::unix::fs::PermissionsExt};

fn refused(home: &Home) -> OpenError {
    Store::open(home.path(), Options::default()).expect_err("opened")
}

#[tokio::test]
async fn everything_is_found_again() {
    let home = Home::new();
    let store = home.open(Options::default());
    store.commit(Batch::new().put("/a", "1", Long)).await.unwrap();
    let before = store.stats().await.unwrap();
    drop(store);
    let store = home.open(Options::default());
    let after = store.stats().await.unwrap();
    assert_eq!((after.revision, after.live_keys, after.live_bytes), (2, 1, before.live_bytes));
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "1");
}

#[tokio::test]
async fn one_process_at_a_time() {
    let home = Home::new();
    let store = home.open(Options::default());
    assert!(matches!(refused(&home), OpenError::InUse { .. }));
    let watch = store.watch(crate::Range::all(), 1).await.unwrap();
    drop(store);
    home.open(Options::default());
    drop(watch);
}

#[test]
fn a_newer_format_is_refused() {
    let home = Home::new();
    drop(home.open(Options::default()));
    let database = redb::Database::open(home.path()).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(META).unwrap().insert("format", &9u32.to_le_bytes()[..]).unwrap();
    txn.commit().unwrap();
    drop(database);
    let error = refused(&home);
    assert!(matches!(error, OpenError::TooNew { found: 9, supported: 1, .. }), "{error}");
}

#[test]
fn what_is_no_store_is_refused() {
    let home = Home::new();
    fs::create_dir_all(home.path().parent().unwrap()).unwrap();
    fs::write(home.path(), vec![b'x'; 10_000]).unwrap();
    assert!(matches!(refused(&home), OpenError::Corrupt { .. }), "{}", refused(&home));
    fs::write(home.path(), b"short").unwrap();
    assert!(matches!(refused(&home), OpenError::Corrupt { .. }), "{}", refused(&home));
    fs::remove_file(home.path()).unwrap();
    let database = redb::Database::create(home.path()).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(redb::TableDefinition::<u8, u8>::new("other")).unwrap();
    txn.commit().unwrap();
    drop(database);
    assert!(matches!(refused(&home), OpenError::Corrupt { .. }), "{}", refused(&home));
    fs::remove_file(home.path()).unwrap();
    fs::create_dir(home.path()).unwrap();
    assert!(matches!(refused(&home), OpenError::Io { .. }), "{}", refused(&home));
}

#[test]
fn files_are_private() {
    let home = Home::new();
    let store = home.open(Options::default());
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(home.path()), 0o600);
    assert_eq!(mode(home.path().parent().unwrap().to_path_buf()), 0o700);
    drop(store);
    // What is left behind is the store and nothing half-made.
    for entry in fs::read_dir(home.path().parent().unwrap()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(["store.redb", "store.redb.reserve"].iter().any(|n| name == *n), "{name:?}");
    }
}
