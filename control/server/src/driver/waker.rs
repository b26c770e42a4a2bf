//! Which controllers a change concerns, and with which keys: asked in one task for all of them.
//!
//! Most changes concern two or three of some forty controllers. If each followed every change itself, a Pod's four writes
//! would wake all of them each time, which cost more than what they then did.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coracle_api::plan::{Controller, Key};
use coracle_api::{Change, Cluster};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{Notify, broadcast};

use crate::cache::Cache;

/// Changes looked at under one lock of the cluster.
const BATCH: usize = 256;

/// What one controller is to look at.
#[derive(Default)]
pub(super) struct Mailbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

/// Each key once, so that there are never more than objects.
#[derive(Default)]
struct Waiting {
    keys: HashSet<Key>,
    everything: bool,
}

/// What was in a [`Mailbox`].
pub(super) enum Woken {
    /// These keys.
    Keys(HashSet<Key>),
    /// Changes were missed, so it may be any key.
    Everything,
}

impl Mailbox {
    /// Takes what is there, or waits for it. Cancel-safe.
    pub(super) async fn take(&self) -> Woken {
        loop {
            {
                let mut waiting = self.lock();
                if std::mem::take(&mut waiting.everything) {
                    return Woken::Everything;
                }
                if !waiting.keys.is_empty() {
                    return Woken::Keys(std::mem::take(&mut waiting.keys));
                }
            }
            self.filled.notified().await;
        }
    }

    fn put(&self, keys: impl IntoIterator<Item = Key>) {
        self.lock().keys.extend(keys);
        self.filled.notify_one();
    }

    fn put_everything(&self) {
        self.lock().everything = true;
        self.filled.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills the mailboxes until there are no more changes.
pub(super) async fn run(
    mut changes: broadcast::Receiver<Arc<Change>>,
    controllers: &[(Arc<dyn Controller>, Arc<Mailbox>)],
    cache: &Cache,
) {
    let everything = || controllers.iter().for_each(|(_, mailbox)| mailbox.put_everything());
    loop {
        let first = match changes.recv().await {
            Ok(first) => first,
            Err(RecvError::Lagged(_)) => {
                everything();
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        let mut batch = vec![first];
        while batch.len() < BATCH {
            match changes.try_recv() {
                Ok(change) => batch.push(change),
                Err(TryRecvError::Lagged(_)) => {
                    everything();
                    break;
                }
                Err(_) => break,
            }
        }
        let cluster = cache.read();
        for (controller, mailbox) in controllers {
            let keys: HashSet<Key> =
                batch.iter().flat_map(|change| woken(&**controller, &cluster, change)).collect();
            if !keys.is_empty() {
                mailbox.put(keys);
            }
        }
    }
}

/// A bug in one controller is no reason for all to stop.
fn woken(controller: &dyn Controller, cluster: &Cluster, change: &Change) -> Vec<Key> {
    let objects = [&change.old, &change.new].into_iter().flatten();
    let asking = AssertUnwindSafe(|| {
        objects.flat_map(|object| controller.wakes(cluster, object)).collect::<Vec<_>>()
    });
    std::panic::catch_unwind(asking).unwrap_or_else(|_| {
        tracing::error!(controller = controller.name(), ?change, "asking whom it wakes panicked");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn keys_are_taken_once_and_missed_changes_are_told() {
        let mailbox = Mailbox::default();
        let key = |name: &str| Key::new("ns", name);
        mailbox.put([key("a"), key("b")]);
        mailbox.put([key("a")]);
        let Woken::Keys(keys) = mailbox.take().await else { panic!("keys") };
        assert_eq!(keys, HashSet::from([key("a"), key("b")]));
        mailbox.put_everything();
        mailbox.put([key("c")]);
        assert!(matches!(mailbox.take().await, Woken::Everything));
        assert!(matches!(mailbox.take().await, Woken::Keys(keys) if keys.len() == 1));
        // What woke for that is no reason to wake again.
        let nothing = tokio::time::timeout(Duration::from_millis(20), mailbox.take()).await;
        assert!(nothing.is_err());
    }
}
