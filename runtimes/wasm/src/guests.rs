//! The threads that guests run on: a tokio runtime of their own, apart from the host's, and one
//! for each network namespace. Its threads live inside that namespace, so whatever a guest opens is
//! in it without further care. All Pods of a node share one namespace, hence one runtime; only a
//! Pod with a namespace to itself has threads to itself.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::sched::{CloneFlags, setns};
use tokio::runtime::{Builder, Handle, Runtime};

/// The runtimes, made and ended on demand.
pub(crate) struct Guests {
    threads: usize,
    groups: Mutex<HashMap<Option<PathBuf>, Weak<Group>>>,
}

/// The guests of one network namespace.
pub(crate) struct Group {
    runtime: Option<Runtime>,
    pub(crate) netns: Option<PathBuf>,
}

impl Guests {
    /// Each runtime will have this many threads.
    pub(crate) fn new(threads: usize) -> Guests {
        Guests { threads: threads.max(1), groups: Mutex::default() }
    }

    /// The runtime of a namespace (None: the host's own).
    pub(crate) fn group(&self, netns: Option<&Path>) -> io::Result<Arc<Group>> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let key = netns.map(Path::to_owned);
        if let Some(group) = groups.get(&key).and_then(Weak::upgrade) {
            return Ok(group);
        }
        groups.retain(|_, group| group.strong_count() > 0);
        let group = Arc::new(Group { runtime: Some(self.runtime(netns)?), netns: key.clone() });
        groups.insert(key, Arc::downgrade(&group));
        Ok(group)
    }

    fn runtime(&self, netns: Option<&Path>) -> io::Result<Runtime> {
        let mut builder = Builder::new_multi_thread();
        builder
            .worker_threads(self.threads)
            .thread_name("guest")
            .enable_all()
            // A guest may run for a whole tick per poll; look for input more often than usual.
            .event_interval(31);
        if let Some(path) = netns {
            let name = |e: io::Error| {
                let message = format!("cannot enter network namespace {}: {e}", path.display());
                io::Error::new(e.kind(), message)
            };
            let file = File::open(path).map_err(name)?;
            // Try it where failing is an error, not a panic.
            std::thread::scope(|scope| {
                scope.spawn(|| setns(&file, CloneFlags::CLONE_NEWNET)).join().expect("no panic")
            })
            .map_err(|e| name(e.into()))?;
            builder.on_thread_start(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).expect("entered it a moment ago");
            });
        }
        builder.build()
    }
}

impl Deref for Group {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        self.runtime.as_ref().expect("taken only when dropped").handle()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
