//! A store that is full before a cluster starts on it: what works in an empty cluster must work among many objects, too.
//!
//! A real server is given one [`unit`] of objects through its API (an application with its Deployment, Pods, Service and
//! configuration) and writes them with its controllers; then each is copied as it was stored, with names and UIDs of its own,
//! a commit each, until there are as many as wanted. That is the server's own way of writing without the price of a request,
//! so that a hundred thousand take seconds also in a build that is not optimised. Nothing of the server's own is copied:
//! whichever cluster starts on the store makes that itself.
//!
//! Objects stay as they are, whatever controllers think: Pods wait behind a scheduling gate or have ended, Services have no
//! address and EndpointSlices are somebody else's. Only the few Pods bound to a node that does not exist are collected.

mod unit;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use coracle_store::{Batch, Entry, Expect, Range, Retention, Store};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::cluster::{Cluster, Options, User};
pub(crate) use unit::PREFIX;
use unit::{NAMESPACE, NUMBER, WITHOUT_NODE};

/// Namespaces over which units are spread.
const NAMESPACES: usize = 20;
/// Of so many units one has a Pod bound to a node that does not exist.
const LOST: usize = 20;
/// Commits under way at a time; the store syncs them together.
const AT_ONCE: usize = 1024;
/// How long a store is used again: Events are forgotten after an hour.
const FRESH: Duration = Duration::from_secs(40 * 60);

/// How many objects clusters start with, as `$CORACLE_TEST_FILLED` says; none if it is not set.
pub(crate) fn from_environment() -> Option<usize> {
    let wanted = std::env::var("CORACLE_TEST_FILLED").ok()?.parse().ok()?;
    (wanted > 0).then_some(wanted)
}

/// Makes a new store at `path` with about so many objects, such as this binary writes.
///
/// # Errors
/// When a server of it cannot be started, or does not take the objects.
pub async fn fill(binary: &Path, objects: usize, path: &Path) -> anyhow::Result<()> {
    let samples = samples(binary).await?;
    let store = Store::open(path, coracle_store::Options::default())?;
    let filled = copies(&store, &samples, objects).await;
    store.close().await;
    filled
}

/// Puts a copy of such a store at `path`. It is made once for a binary, beside this test, and used again while it is fresh.
pub(crate) async fn place(binary: &Path, objects: usize, path: &Path) -> anyhow::Result<()> {
    let folder = kept_in(objects)?;
    fs::create_dir_all(&folder)?;
    // Tests run in many processes.
    let lock = File::create(folder.join("lock"))?;
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
    let store = folder.join("store.redb");
    if !is_fresh(binary, &store) {
        let draft = folder.join("draft");
        let _ = fs::remove_dir_all(&draft);
        fs::create_dir(&draft)?;
        let made = draft.join("store.redb");
        fill(binary, objects, &made).await.context("filling a store")?;
        fs::rename(&made, &store)?;
        fs::remove_dir_all(&draft)?;
    }
    fs::copy(&store, path)?;
    drop(lock);
    Ok(())
}

/// In the target folder, where this test's program is.
fn kept_in(objects: usize) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().context("this program is nowhere")?;
    Ok(folder.join(format!("filled-{objects}")))
}

fn is_fresh(binary: &Path, store: &Path) -> bool {
    let written = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified());
    let (Ok(binary), Ok(store)) = (written(binary), written(store)) else { return false };
    binary <= store && SystemTime::now().duration_since(store).is_ok_and(|age| age < FRESH)
}

/// Secrets as they are.
const PLAIN: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
                     resources: [{resources: [secrets], providers: [{identity: {}}]}]\n";

/// What a server stores of one unit.
async fn samples(binary: &Path) -> anyhow::Result<Vec<Entry>> {
    // What is encrypted could not be copied: it knows its own key.
    let folder = tempfile::tempdir()?;
    let plain = folder.path().join("plain.yaml");
    fs::write(&plain, PLAIN)?;
    let plain = format!("--encryption-provider-config={}", plain.display());
    let args = vec!["--no-scheduler".to_owned(), plain];
    let cluster = Cluster::server_of(Options { args, ..User::current().into() }, binary).await?;
    let made = unit::make(&cluster.client().await?).await;
    let stopped = cluster.stop().await;
    made?;
    stopped?;
    let store = Store::open(cluster.data().join("store.redb"), coracle_store::Options::default())?;
    let everything = store.range(Range::all(), None, None).await?;
    store.close().await;
    let ours = |entry: &Entry| {
        let key = String::from_utf8_lossy(&entry.key);
        // Of its cluster, and made anew in each.
        (key.contains(NAMESPACE) || key.ends_with(unit::DEFINITION))
            && !key.ends_with("/kube-root-ca.crt")
    };
    Ok(everything.entries.into_iter().filter(ours).collect())
}

/// How an object is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Per {
    Cluster,
    Namespace,
    Unit,
    FewUnits,
}

/// A stored object that others are made of.
struct Sample {
    key: String,
    text: String,
    retention: Retention,
}

impl Sample {
    fn of(entry: &Entry) -> anyhow::Result<(Per, Self)> {
        let key = String::from_utf8(entry.key.to_vec())?;
        let text = String::from_utf8(entry.value.to_vec())?;
        let per = if !key.contains(NAMESPACE) {
            Per::Cluster
        } else if key.contains(WITHOUT_NODE) {
            Per::FewUnits
        } else if key.contains(NUMBER) {
            Per::Unit
        } else {
            Per::Namespace
        };
        let is_short = key.contains("/events/") || key.contains("/leases/");
        let retention = if is_short { Retention::Short } else { Retention::Long };
        Ok((per, Self { key, text, retention }))
    }

    /// The same of another unit, with other UIDs wherever one of `uids` is.
    fn copy(&self, number: usize, uids: &[String]) -> Batch {
        let namespace = format!("{PREFIX}{:02}", number % NAMESPACES);
        let name = |text: &str| {
            text.replace(NAMESPACE, &namespace).replace(NUMBER, &format!("x{number:05}"))
        };
        let mut text = name(&self.text);
        for uid in uids {
            text = text.replace(uid, &format!("{number:08x}{}", &uid[8..]));
        }
        let key = name(&self.key);
        Batch::new().expect(key.clone(), Expect::Absent).put(key, text, self.retention)
    }
}

async fn copies(store: &Store, samples: &[Entry], objects: usize) -> anyhow::Result<()> {
    let mut by: BTreeMap<Per, Vec<Sample>> = BTreeMap::new();
    let mut uids = Vec::new();
    for entry in samples {
        let (per, sample) = Sample::of(entry)?;
        let tree: serde_json::Value = serde_json::from_str(&sample.text)?;
        let uid = tree["metadata"]["uid"].as_str().unwrap_or_default();
        // A definition stays the one that it is.
        if per != Per::Cluster && uid.len() > 8 {
            uids.push(uid.to_owned());
        }
        by.entry(per).or_default().push(sample);
    }
    let of = |per: Per| by.get(&per).map(Vec::as_slice).unwrap_or_default();
    let each = of(Per::Unit).len();
    if each == 0 || of(Per::Namespace).is_empty() || of(Per::Cluster).is_empty() {
        bail!("the server stored no unit: {} objects", samples.len());
    }
    let once = of(Per::Cluster).iter().map(|sample| sample.copy(0, &[]));
    let namespaces = (0..NAMESPACES)
        .flat_map(|number| of(Per::Namespace).iter().map(move |sample| (sample, number)));
    let units = (0..objects.div_ceil(each)).flat_map(|number| {
        let few = if number % LOST == 0 { of(Per::FewUnits) } else { &[] };
        of(Per::Unit).iter().chain(few).map(move |sample| (sample, number))
    });
    let copied = namespaces.chain(units).map(|(sample, number)| sample.copy(number, &uids));
    stream::iter(once.chain(copied).map(|batch| store.commit(batch)))
        .buffer_unordered(AT_ONCE)
        .try_for_each(async |_| Ok(()))
        .await?;
    Ok(())
}
