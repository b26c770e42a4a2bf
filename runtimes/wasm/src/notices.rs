//! What people should know of a container that runs on: one notice of a kind every few seconds, with
//! a count of those that it stands for. A guest that traps ten thousand times a second costs ten
//! thousand additions and one message.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use coracle_sandbox::{Notice, NoticeKind};

use crate::container::Container;

/// Between two notices of a kind.
const EVERY: Duration = Duration::from_secs(10);

/// When what was said last; nothing before the first.
#[derive(Default)]
pub(crate) struct Notices(OnceLock<Box<Mutex<[Said; 4]>>>);

#[derive(Clone, Copy, Default)]
struct Said {
    at: Option<Instant>,
    unsaid: u64,
}

impl Notices {
    /// Whether to speak now; if so, how many times it was kept silent since the last.
    fn due(&self, kind: NoticeKind, now: Instant) -> Option<u64> {
        let kind = match kind {
            NoticeKind::Trap => 0,
            NoticeKind::Denied => 1,
            NoticeKind::Limit => 2,
            NoticeKind::NotReused | NoticeKind::Unknown => 3,
        };
        let said = self.0.get_or_init(Box::default);
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = &mut said[kind];
        if said.at.is_some_and(|at| now.duration_since(at) < EVERY) {
            said.unsaid += 1;
            return None;
        }
        said.at = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

impl Container {
    /// Tells people; the message is made only if it is said.
    pub(crate) fn notice(&self, kind: NoticeKind, message: impl FnOnce() -> String) {
        let Some(unsaid) = self.notices.due(kind, Instant::now()) else { return };
        let mut message = message();
        if unsaid > 0 {
            message.push_str(&format!(" (and {unsaid} more since this was last told)"));
        }
        self.node.events.notice(Notice {
            sandbox: self.sandbox.spec.id.clone(),
            container: self.spec.name.clone(),
            kind,
            message,
        });
    }
}

#[cfg(test)]
mod tests;
