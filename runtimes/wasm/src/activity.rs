//! Which Pods used CPU lately: all that somebody who asks every second has to hear of.
//!
//! A Pod is noted when it is charged for the first time since it was forgotten, which costs the others that run a look at a
//! flag. So who asks pays for what ran, not for what is there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long after its last use a Pod is still told of: an answer may be lost, and there may be several who ask.
const LATELY: Duration = Duration::from_secs(10);

/// The Pods of a host that were noted, by their sandboxes' ids.
#[derive(Debug, Default)]
pub(crate) struct Activity(Mutex<HashMap<String, Seen>>);

/// One of them, as it was when somebody asked last.
#[derive(Debug)]
struct Seen {
    cpu: u64,
    moved: Instant,
}

/// A Pod's place in it.
#[derive(Debug)]
pub(crate) struct Note {
    activity: Arc<Activity>,
    id: String,
    is_noted: AtomicBool,
}

impl Note {
    pub(crate) fn new(activity: Arc<Activity>, id: String) -> Note {
        Note { activity, id, is_noted: AtomicBool::new(false) }
    }

    /// The Pod used CPU.
    pub(crate) fn note(&self) {
        if self.is_noted.load(Relaxed) || self.is_noted.swap(true, Relaxed) {
            return;
        }
        let seen = Seen { cpu: 0, moved: Instant::now() };
        self.activity.noted().insert(self.id.clone(), seen);
    }

    /// To be noted anew.
    pub(crate) fn forget(&self) {
        self.is_noted.store(false, Relaxed);
    }
}

impl Activity {
    /// Every noted Pod that is not forgotten now. `look` gives what it used and whether it is busy without using any, and
    /// none for one that is gone; `forget` is told of those that have been quiet for long, and gives what they used.
    pub(crate) fn recent(
        &self,
        mut look: impl FnMut(&str) -> Option<(u64, bool)>,
        mut forget: impl FnMut(&str) -> u64,
    ) {
        self.noted().retain(|id, seen| {
            let Some((cpu, busy)) = look(id) else { return false };
            if cpu != seen.cpu || busy {
                *seen = Seen { cpu, moved: Instant::now() };
            }
            // Charged between the look and the forgetting, it would be missed.
            seen.moved.elapsed() < LATELY || forget(id) != cpu
        });
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, HashMap<String, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_told_of_until_it_has_been_quiet_and_again_once_it_runs() {
        let activity = Arc::new(Activity::default());
        let note = Note::new(activity.clone(), "a".into());
        let told = |cpu: u64, busy: bool| {
            let mut told = 0;
            activity.recent(
                |_| {
                    told += 1;
                    Some((cpu, busy))
                },
                |_| {
                    note.forget();
                    cpu
                },
            );
            told
        };
        let rest = || {
            for seen in activity.noted().values_mut() {
                seen.moved = Instant::now().checked_sub(LATELY).expect("the machine is up so long");
            }
        };
        assert_eq!(told(0, false), 0);
        note.note();
        note.note();
        assert_eq!((told(5, false), told(5, false)), (1, 1));
        rest();
        assert_eq!((told(5, true), told(6, false)), (1, 1), "it is busy, and runs");
        rest();
        assert_eq!((told(6, false), told(6, false)), (1, 0), "it is quiet");
        note.note();
        assert_eq!(told(7, false), 1);
        activity.recent(|_| None, |_| 0);
        assert_eq!(told(8, false), 0, "it is gone");
    }
}
