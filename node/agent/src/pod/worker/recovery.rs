//! After a host was lost, its Pods come first.
//!
//! Ten thousand Pods of a lost host are ten thousand things to tell the API, each of which costs more than starting the Pod
//! again. So nothing is told until they run (or a while has passed): clients of the Pods wait for the start, and people who
//! look at the API learn a moment later that there was one.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Workers;
use crate::pod::lifecycle::{Event, Phase, PodState, Sandbox};

/// How long the API may wait for news at most.
const MOST: Duration = Duration::from_secs(5);

/// What their clients, who all ask again at once, have before the API is told.
const HEAD_START: Duration = Duration::from_secs(1);

/// Pods of lost hosts that do not run again yet.
#[derive(Default)]
pub(super) struct Recovery {
    waiting: Mutex<HashSet<String>>,
}

impl Recovery {
    /// Whether reports are to wait.
    pub(super) fn is_on(&self) -> bool {
        !self.waiting().is_empty()
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Workers {
    /// Starts these Pods again, whose host is gone.
    pub(super) fn recover(&self, uids: Vec<String>) {
        if uids.is_empty() {
            return;
        }
        self.inner.recovery.waiting().extend(uids.iter().cloned());
        self.inner.parts.recorder.hold(true);
        for uid in &uids {
            self.post(uid, Event::HostLost);
        }
        let workers = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(MOST).await;
            for uid in &uids {
                workers.recovered(uid, false);
            }
        });
    }

    /// To be called with each new state of a Pod: the last one that runs again ends the wait.
    pub(super) fn recovered(&self, uid: &str, is_on_its_way: bool) {
        let mut waiting = self.inner.recovery.waiting();
        let was_last = !is_on_its_way && waiting.remove(uid) && waiting.is_empty();
        drop(waiting);
        if was_last {
            let workers = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(HEAD_START).await;
                // Meanwhile another host may have been lost: whoever is the last of its Pods tells of these, too.
                if !workers.inner.recovery.is_on() {
                    workers.tell_all();
                }
            });
        }
    }

    fn tell_all(&self) {
        self.inner.parts.recorder.hold(false);
        for uid in self.uids() {
            self.report(&uid);
        }
    }
}

/// Whether something is being done to make its containers run.
pub(super) fn is_on_its_way(state: &PodState) -> bool {
    matches!(state.sandbox, Sandbox::Absent { until: None, .. } | Sandbox::Creating)
        || state.containers.iter().any(|c| matches!(c.phase, Phase::Pulling | Phase::Starting))
}
