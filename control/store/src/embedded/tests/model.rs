//! Random work against the store and a model that simply keeps everything.

use super::{Home, manual, read_to};
use crate::{
    Batch, Change, CommitError, Entry, Event, Expect, Options, Range, ReadError, Retention,
    Revision, Store,
};
use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{collections::BTreeMap, time::Duration};

/// Every state that there ever was, and every change.
struct Model {
    states: Vec<BTreeMap<Bytes, Entry>>,
    changes: Vec<Change>,
}

/// The store's first revision, which is the model's first state.
const FIRST: Revision = 1;

impl Model {
    fn new() -> Model {
        Model { states: vec![BTreeMap::new()], changes: Vec::new() }
    }

    fn revision(&self) -> Revision {
        FIRST + self.states.len() as u64 - 1
    }

    fn at(&self, revision: Revision) -> &BTreeMap<Bytes, Entry> {
        &self.states[(revision - FIRST) as usize]
    }

    fn range(&self, range: &Range, revision: Revision) -> Vec<Entry> {
        self.at(revision).values().filter(|e| range.contains(&e.key)).cloned().collect()
    }

    fn changes(&self, range: &Range, after: Revision) -> Vec<Change> {
        let inside = |change: &Change| {
            let events: Vec<_> =
                change.events.iter().filter(|e| range.contains(&e.key)).cloned().collect();
            (!events.is_empty()).then_some(Change { revision: change.revision, events })
        };
        self.changes.iter().filter(|c| c.revision > after).filter_map(inside).collect()
    }

    fn apply(&mut self, batch: &Batch) -> Result<Revision, CommitError> {
        let mut state = self.at(self.revision()).clone();
        for condition in &batch.conditions {
            let found = state.get(&condition.key);
            let holds = match condition.expect {
                Expect::Absent => found.is_none(),
                Expect::Present => found.is_some(),
                Expect::Revision(r) => found.is_some_and(|e| e.mod_revision == r),
            };
            if !holds {
                let (key, found) = (condition.key.clone(), found.cloned());
                return Err(CommitError::Conflict { key, found });
            }
        }
        let revision = self.revision() + 1;
        let mut events = Vec::new();
        for op in &batch.ops {
            let key = op.key().clone();
            let old = state.remove(&key);
            let create_revision = old.as_ref().map_or(revision, |e| e.create_revision);
            let version = old.as_ref().map_or(1, |e| e.version + 1);
            let prev = old.map(|e| (e.value, e.mod_revision));
            let value = match op {
                crate::Op::Put { value, .. } => {
                    let value = value.clone();
                    let mod_revision = revision;
                    let entry =
                        Entry { key: key.clone(), value, create_revision, mod_revision, version };
                    let value = entry.value.clone();
                    state.insert(key.clone(), entry);
                    Some(value)
                }
                crate::Op::Delete { .. } if prev.is_none() => continue,
                crate::Op::Delete { .. } => None,
            };
            events.push(Event { key, value, prev, create_revision });
        }
        if events.is_empty() {
            return Ok(self.revision());
        }
        self.states.push(state);
        self.changes.push(Change { revision, events });
        Ok(revision)
    }
}

/// Keys are few, so that they meet; those below `/s` have short retention, those below `/m` now
/// this, now that.
fn key(rng: &mut StdRng) -> String {
    let folder = ["/a/", "/b/", "/s/", "/m/"][rng.random_range(0..4)];
    format!("{folder}{}", rng.random_range(0..6))
}

fn class(rng: &mut StdRng, key: &str) -> Retention {
    match key.as_bytes()[1] {
        b's' => Retention::Short,
        b'm' if rng.random_bool(0.5) => Retention::Short,
        _ => Retention::Long,
    }
}

fn batch(rng: &mut StdRng, model: &Model) -> Batch {
    let mut batch = Batch::new();
    let mut keys: Vec<String> = (0..rng.random_range(1..4)).map(|_| key(rng)).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        if rng.random_bool(0.3) {
            let found = model.at(model.revision()).get(key.as_bytes());
            let expect = match (rng.random_range(0..4), found) {
                (0, _) => Expect::Absent,
                (1, _) => Expect::Present,
                (_, Some(e)) => Expect::Revision(e.mod_revision),
                (_, None) => Expect::Absent,
            };
            batch = batch.expect(key.clone(), expect);
        }
        if rng.random_bool(0.3) {
            batch = batch.delete(key);
        } else {
            let value = vec![rng.random(); rng.random_range(0..3000)];
            let class = class(rng, &key);
            batch = batch.put(key, value, class);
        }
    }
    batch
}

fn some_range(rng: &mut StdRng) -> Range {
    match rng.random_range(0..6) {
        0 => Range::all(),
        1 => Range::key(key(rng)),
        2 => Range { start: key(rng).into(), end: Some(key(rng).into()) },
        n => Range::prefix(["/a/", "/b/", "/s/"][n - 3]),
    }
}

/// Compares one random read; `early` says that short-lived history may be gone already.
async fn check_read(rng: &mut StdRng, store: &Store, model: &Model, oldest: Revision, early: bool) {
    let at = rng.random_range(FIRST..=model.revision());
    let range = some_range(rng);
    let limit = rng.random_bool(0.5).then(|| rng.random_range(1..5));
    let touches_short = !range.is_empty()
        && (range == Range::all() || range.end.as_ref().is_none_or(|end| end[..] > b"/m"[..]));
    match store.range(range.clone(), Some(at), limit).await {
        Ok(found) => {
            assert!(at >= oldest, "{at} is compacted");
            let mut expected = model.range(&range, at);
            let cut = limit.is_some_and(|limit| expected.len() > limit);
            expected.truncate(limit.unwrap_or(usize::MAX));
            assert_eq!((found.entries, found.more), (expected, cut), "{range:?} at {at}");
        }
        Err(ReadError::Compacted { .. }) => {
            assert!(
                at < oldest || (early && touches_short),
                "{range:?} at {at}, kept from {oldest}"
            );
        }
        Err(error) => panic!("{error}"),
    }
    let after = rng.random_range(FIRST..=model.revision());
    match store.watch(range.clone(), after).await {
        Ok(mut watch) => {
            let found = match after == model.revision() {
                true => Some(Vec::new()),
                false => read_or_compacted(&mut watch, model.revision()).await,
            };
            let Some(found) = found else {
                assert!(early && touches_short, "compacted while it was read");
                return;
            };
            assert_eq!(found, model.changes(&range, after), "{range:?} after {after}");
        }
        Err(ReadError::Compacted { .. }) => {
            assert!(after < oldest || (early && touches_short), "{range:?} after {after}");
        }
        Err(error) => panic!("{error}"),
    }
}

async fn read_or_compacted(watch: &mut crate::Watch, revision: Revision) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    loop {
        match watch.next().await.expect("an open watch") {
            Ok(change) => {
                let reached = change.revision;
                changes.extend((!change.events.is_empty()).then_some(change));
                if reached >= revision {
                    return Some(changes);
                }
            }
            Err(ReadError::Compacted { .. }) => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn run(seed: u64, early: bool) {
    let mut rng = StdRng::seed_from_u64(seed);
    let home = Home::new();
    let options =
        Options { recent_bytes: rng.random_range(0..100_000), cache_bytes: 1 << 20, ..manual() };
    // Short-lived history goes at once, other history never by itself.
    let options = match early {
        true => Options {
            auto_compact: true,
            keep_short_for: Duration::ZERO,
            keep_for: Duration::from_secs(3600),
            keep_revisions: 0,
            ..options
        },
        false => options,
    };
    let mut store = home.open(options.clone());
    let mut model = Model::new();
    let mut oldest = FIRST;
    let mut live = store.watch(Range::all(), FIRST).await.unwrap();
    let mut live_from = FIRST;
    for _ in 0..400 {
        match rng.random_range(0..100) {
            0..60 => {
                let batch = batch(&mut rng, &model);
                let expected = model.apply(&batch);
                let found = store.commit(batch).await.map(|committed| committed.revision);
                assert_eq!(found, expected, "seed {seed}");
            }
            60..95 => check_read(&mut rng, &store, &model, oldest, early).await,
            95..98 => {
                oldest = rng.random_range(oldest..=model.revision());
                store.compact(oldest).await.unwrap();
            }
            _ => {
                if !early && model.revision() > live_from {
                    let found = read_to(&mut live, model.revision()).await;
                    assert_eq!(found, model.changes(&Range::all(), live_from), "seed {seed}");
                }
                drop((store, live));
                store = home.open(options.clone());
                live_from = model.revision();
                live = store.watch(Range::all(), live_from).await.unwrap();
                assert_eq!(store.revision(), model.revision());
                oldest = oldest.max(store.stats().await.unwrap().compacted);
            }
        }
        // A live watcher that keeps up sees everything, of any class.
        if model.revision() > live_from && (early || rng.random_bool(0.5)) {
            let found = read_or_compacted(&mut live, model.revision()).await;
            match found {
                Some(found) => {
                    assert_eq!(found, model.changes(&Range::all(), live_from), "seed {seed}");
                }
                None => {
                    assert!(oldest > live_from || (early && options.recent_bytes < 20_000));
                    live = store.watch(Range::all(), model.revision()).await.unwrap();
                }
            }
            live_from = model.revision();
        }
    }
    let state = model.range(&Range::all(), model.revision());
    assert_eq!(store.range(Range::all(), None, None).await.unwrap().entries, state);
    store.compact(model.revision()).await.unwrap();
    super::eventually(async || store.stats().await.unwrap().history_records == 0).await;
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.live_keys, stats.history_bytes), (state.len() as u64, 0), "seed {seed}");
    assert_eq!(store.range(Range::all(), None, None).await.unwrap().entries, state);
}

#[tokio::test]
async fn the_store_is_its_model() {
    for seed in 0..12 {
        run(seed, false).await;
    }
}

#[tokio::test]
async fn the_store_is_its_model_when_short_lived_history_goes_early() {
    for seed in 100..112 {
        run(seed, true).await;
    }
}
