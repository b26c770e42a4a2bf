//! The threads that guests run on: a tokio runtime of their own, apart from the host's, so that no
//! guest delays the host's work. They start in the network namespace that the process lives in, and
//! whatever a guest opens is in it without further care.

use std::io;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};

/// The guests' runtime.
pub(crate) struct Guests {
    runtime: Option<Runtime>,
    /// The namespace's name: Pods' addresses are there by themselves, and nobody else's are. None
    /// where Pods have addresses among the machine's own.
    pub(crate) netns: Option<PathBuf>,
}

impl Guests {
    /// Starts so many threads, from one that is in the namespace.
    pub(crate) fn start(threads: usize, netns: Option<PathBuf>) -> io::Result<Arc<Guests>> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("guest")
            .enable_all()
            // A guest may run for a whole tick per poll; look for input more often than usual.
            .event_interval(31)
            .build()?;
        Ok(Arc::new(Guests { runtime: Some(runtime), netns }))
    }
}

impl Deref for Guests {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        self.runtime.as_ref().expect("taken only when dropped").handle()
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
