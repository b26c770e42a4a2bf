//! Disks that lose power or run full, below the real engine.

use super::{super::disk::Disk, eventually, manual, open_on};
use crate::{Batch, CommitError, FullReason, Options, Range, Retention::Long, Store};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redb::StorageBackend;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

/// A disk in memory that knows what a power cut would leave.
#[derive(Debug, Default)]
pub(super) struct TestDisk {
    inner: Mutex<Inner>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    /// What reads see.
    now: Vec<u8>,
    /// What was synced.
    durable: Vec<u8>,
    /// Done since the last sync, in order.
    since: Vec<Step>,
    /// Pages ever written; only these take room.
    pages: BTreeMap<u64, ()>,
    /// Pages that fit; `None` is no bound.
    capacity: Option<usize>,
    /// Whether `room` tells the truth.
    honest: bool,
    reserve: bool,
    fail_sync: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Length(usize),
}

const PAGE: u64 = 4096;
const RESERVE_PAGES: usize = 256;

impl Inner {
    fn free(&self) -> usize {
        let reserve = if self.reserve { RESERVE_PAGES } else { 0 };
        self.capacity.map_or(usize::MAX, |all| all.saturating_sub(self.pages.len() + reserve))
    }
}

impl TestDisk {
    fn with(set: impl FnOnce(&mut Inner)) -> Arc<TestDisk> {
        let mut inner = Inner { honest: true, ..Inner::default() };
        set(&mut inner);
        Arc::new(TestDisk { inner: Mutex::new(inner) })
    }

    fn set<T>(&self, set: impl FnOnce(&mut Inner) -> T) -> T {
        set(&mut self.inner.lock().unwrap())
    }

    /// The disk after a power cut now: of what was not synced, any part may have arrived, writes
    /// even by halves.
    fn cut_power(&self, rng: &mut StdRng) -> Arc<TestDisk> {
        let inner = self.inner.lock().unwrap().clone();
        let mut image = inner.durable;
        for step in inner.since {
            match step {
                _ if rng.random_bool(0.3) => {}
                Step::Length(length) => image.resize(length.max(image.len()), 0),
                Step::Write(offset, mut data) => {
                    if rng.random_bool(0.2) {
                        data.truncate(rng.random_range(0..=data.len()) / 512 * 512);
                    }
                    let (start, end) = (offset as usize, offset as usize + data.len());
                    // What lies beyond the end as it became durable is lost.
                    if end <= image.len() {
                        image[start..end].copy_from_slice(&data);
                    }
                }
            }
        }
        TestDisk::with(|inner| {
            inner.now = image.clone();
            inner.durable = image;
        })
    }
}

impl StorageBackend for TestDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.set(|inner| inner.now.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.set(|inner| {
            let end = offset as usize + out.len();
            let bytes = inner.now.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.set(|inner| {
            inner.now.resize(len as usize, 0);
            inner.pages.retain(|page, ()| *page < len.div_ceil(PAGE));
            inner.since.push(Step::Length(len as usize));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.set(|inner| {
            if inner.fail_sync {
                return Err(io::Error::other("the disk is on fire"));
            }
            inner.durable = inner.now.clone();
            inner.since.clear();
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.set(|inner| {
            for page in offset / PAGE..(offset + data.len() as u64).div_ceil(PAGE) {
                if !inner.pages.contains_key(&page) {
                    if inner.free() == 0 {
                        return Err(io::ErrorKind::StorageFull.into());
                    }
                    inner.pages.insert(page, ());
                }
            }
            let start = offset as usize;
            inner.now[start..start + data.len()].copy_from_slice(data);
            inner.since.push(Step::Write(offset, data.to_vec()));
            Ok(())
        })
    }
}

impl Disk for TestDisk {
    fn room(&self) -> u64 {
        self.set(|inner| match inner.honest {
            true => (inner.free() as u64).saturating_mul(PAGE),
            false => u64::MAX,
        })
    }

    fn allocated(&self) -> u64 {
        self.set(|inner| inner.pages.len() as u64 * PAGE)
    }

    fn hold_reserve(&self) -> bool {
        self.set(|inner| {
            inner.reserve |= inner.free() >= RESERVE_PAGES;
            inner.reserve
        })
    }

    fn drop_reserve(&self) {
        self.set(|inner| inner.reserve = false);
    }

    fn release(&self) {}
}

async fn put(store: &Store, n: usize) -> Result<u64, CommitError> {
    let batch = Batch::new().put(format!("/{n:04}"), vec![n as u8; 3000], Long);
    Ok(store.commit(batch).await?.revision)
}

/// Power is cut at random moments of concurrent writing; each image is opened and must hold all
/// that was acknowledged when it was taken, whole batches only, and a gap-free history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_in_a_power_cut() {
    let mut rng = StdRng::seed_from_u64(7);
    let disk = TestDisk::with(|_| {});
    let store = open_on(disk.clone(), manual());
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, acknowledged) = (store.clone(), acknowledged.clone());
            tokio::spawn(async move {
                for n in 0..150 {
                    let key = format!("/{writer}/{n}");
                    let batch = Batch::new().put(key.clone(), vec![n as u8; 2500], Long).put(
                        format!("/last/{writer}"),
                        n.to_string(),
                        Long,
                    );
                    let revision = store.commit(batch).await.expect("commit").revision;
                    acknowledged.lock().unwrap().push((key, revision));
                }
            })
        })
        .collect();
    let mut images = Vec::new();
    while images.len() < 40 {
        let acknowledged = acknowledged.lock().unwrap().clone();
        images.push((acknowledged, disk.cut_power(&mut rng)));
        tokio::time::sleep(std::time::Duration::from_millis(rng.random_range(0..8))).await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for (acknowledged, image) in images {
        let store = open_on(image, manual());
        for (key, revision) in &acknowledged {
            let found = store.get(key).await.unwrap();
            assert_eq!(found.map(|e| e.mod_revision), Some(*revision), "{key}");
        }
        let revision = store.revision();
        let mut watch = store.watch(Range::all(), 1).await.unwrap();
        let changes = match revision {
            1 => Vec::new(),
            _ => super::read_to(&mut watch, revision).await,
        };
        let found: Vec<_> = changes.iter().map(|c| (c.revision, c.events.len())).collect();
        assert_eq!(found, (2..=revision).map(|r| (r, 2)).collect::<Vec<_>>());
    }
}

/// Fills a disk, with or without warning; checks that reads go on, that nothing acknowledged is
/// missing, and that writing goes on once there is room.
async fn run_full(honest: bool) {
    let disk = TestDisk::with(|inner| {
        inner.honest = honest;
        inner.capacity = Some(2000);
    });
    let options = Options { cache_bytes: 256 << 10, ..manual() };
    let store = open_on(disk.clone(), options.clone());
    let mut watch = store.watch(Range::all(), 1).await.unwrap();
    let mut acknowledged = Vec::new();
    let mut refusals = 0;
    for n in 0..3000 {
        match put(&store, n).await {
            Ok(revision) => acknowledged.push((n, revision)),
            Err(CommitError::Full(FullReason::Disk)) => refusals += 1,
            Err(error) => panic!("{error}"),
        }
        if refusals > 0 {
            let (n, revision) = acknowledged[n % acknowledged.len()];
            let entry = store.get(format!("/{n:04}")).await.expect("reads go on").expect("entry");
            assert_eq!(entry.mod_revision, revision);
        }
        if refusals == 20 {
            break;
        }
    }
    assert!(acknowledged.len() > 200, "full after {}", acknowledged.len());
    assert_eq!(refusals, 20);
    disk.set(|inner| inner.capacity = Some(4000));
    eventually(async || put(&store, 9999).await.is_ok()).await;
    let last = store.revision();
    let changes = super::read_to(&mut watch, last).await;
    let seen: Vec<_> = changes.iter().map(|change| change.revision).collect();
    assert_eq!(seen, (2..=last).collect::<Vec<_>>(), "a gap in the watch");
    drop((store, watch));
    let store = open_on(disk, options);
    assert_eq!(store.revision(), last);
    for (n, revision) in acknowledged {
        let entry = store.get(format!("/{n:04}")).await.unwrap().expect("acknowledged");
        assert_eq!((entry.mod_revision, entry.value.len()), (revision, 3000));
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_serves_reads() {
    run_full(true).await;
}

/// The same when the disk fills up unforeseen (a quota, another writer), in mid-transaction.
#[tokio::test]
async fn a_disk_that_fills_unforeseen_does_no_more_harm() {
    run_full(false).await;
}

#[tokio::test]
async fn a_failing_disk_is_reported_and_survived() {
    let disk = TestDisk::with(|_| {});
    let store = open_on(disk.clone(), manual());
    let mut live = store.watch(Range::all(), 1).await.unwrap();
    put(&store, 1).await.unwrap();
    disk.set(|inner| inner.fail_sync = true);
    let error = put(&store, 2).await.unwrap_err();
    assert!(matches!(&error, CommitError::Storage { .. }), "{error}");
    disk.set(|inner| inner.fail_sync = false);
    eventually(async || put(&store, 3).await.is_ok()).await;
    assert_eq!(store.get("/0001").await.unwrap().unwrap().mod_revision, 2);
    let mut watch = store.watch(Range::all(), 1).await.unwrap();
    let changes = super::read_to(&mut watch, store.revision()).await;
    assert_eq!(changes.last().unwrap().events[0].key, "/0003");
    // Also if the second arrived after all: who watched all along knows of it.
    assert_eq!(super::read_to(&mut live, store.revision()).await, changes);
}
