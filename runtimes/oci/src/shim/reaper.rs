//! The only source of exit codes: everything that ends below this process is waited for here, once.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::sync::oneshot;

/// Exit codes by process; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Reaper {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    waiting: HashMap<i32, oneshot::Sender<i32>>,
    /// Ends that nobody has asked for yet, kept while something is being started: it may end before its number is known.
    early: HashMap<i32, i32>,
    starting: usize,
}

/// Something is being started.
pub(super) struct Starting(Reaper);

impl Reaper {
    /// Waits from now on. SIGCHLD is blocked for it, which launchers undo.
    pub(super) fn start() -> io::Result<Reaper> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        set.thread_block()?;
        // A handler of the event loop's own would share a pipe with the zygote's.
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = crate::readiness::watch(SignalFd::with_flags(&set, flags)?)?;
        let reaper = Reaper::default();
        let own = reaper.clone();
        tokio::spawn(async move {
            loop {
                own.reap();
                let Ok(mut ready) = signals.readable().await else { return };
                // Many ends may be one signal.
                let _ = ready.try_io(|fd| match fd.get_ref().read_signal() {
                    Ok(Some(_)) => Ok(()),
                    Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
                    Err(error) => Err(error.into()),
                });
            }
        });
        Ok(reaper)
    }

    /// To be held while something is started and until its end is asked for.
    pub(super) fn starting(&self) -> Starting {
        self.lock().starting += 1;
        Starting(self.clone())
    }

    /// The exit code of a child, as shells count: 128 and the signal where one ended it.
    pub(super) fn end_of(&self, pid: i32) -> oneshot::Receiver<i32> {
        let (send, receive) = oneshot::channel();
        let mut inner = self.lock();
        match inner.early.remove(&pid) {
            Some(code) => drop(send.send(code)),
            None => drop(inner.waiting.insert(pid, send)),
        }
        receive
    }

    fn reap(&self) {
        loop {
            let (pid, code) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            let mut inner = self.lock();
            match inner.waiting.remove(&pid) {
                Some(waiting) => drop(waiting.send(code)),
                None if inner.starting > 0 => drop(inner.early.insert(pid, code)),
                None => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.starting -= 1;
        if inner.starting == 0 {
            inner.early = HashMap::new();
        }
    }
}
