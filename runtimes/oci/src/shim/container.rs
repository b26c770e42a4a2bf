//! One attempt at a container, from its start to its end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use coracle_sandbox::logs::{Lines, LogFile, Stream};
use coracle_sandbox::stream::{Input, Output, Serving};
use coracle_sandbox::{
    AttachSpec, ContainerSpec, ContainerState, ContainerStatus, ContainerUsage, Events, ExitReason,
    OciContainer, Process, Usage,
};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::io::{End, Ends, READ};
use super::runtime::signal_name;
use crate::cgroup::Group;
use crate::user::User;

/// How long the output of a container that ended is read on: whoever else holds it is not waited for.
const DRAIN: Duration = Duration::from_secs(1);
/// How long somebody who attached may be behind before he is let go, as the container waits for him.
const SLOW: Duration = Duration::from_secs(10);
const KILLED: i32 = 137;

/// An attempt that was started.
pub(super) struct Container {
    pub(super) spec: ContainerSpec,
    pub(super) oci: OciContainer,
    pub(super) folder: PathBuf,
    pub(super) group: Group,
    pub(super) user: User,
    pub(super) pid: i32,
    pub(super) started_at: Timestamp,
    pub(super) sandbox: String,
    life: Mutex<ContainerState>,
    /// What it used in the end.
    used: Mutex<Option<Usage>>,
    /// When it will be killed.
    stop: watch::Sender<Option<Instant>>,
    log: LogFile,
    attached: Mutex<Vec<Attached>>,
    stdin: Mutex<Option<End>>,
    terminal: Option<End>,
    /// Becomes true when nothing of it is left.
    gone: watch::Sender<bool>,
}

/// Somebody who reads along.
#[derive(Clone)]
struct Attached {
    stdout: bool,
    stderr: bool,
    output: mpsc::Sender<Output>,
}

/// What a new container is made of.
pub(super) struct Parts {
    pub(super) spec: ContainerSpec,
    pub(super) oci: OciContainer,
    pub(super) sandbox: String,
    pub(super) folder: PathBuf,
    pub(super) group: Group,
    pub(super) user: User,
    pub(super) pid: i32,
    pub(super) ends: Ends,
    pub(super) terminal: Option<End>,
    pub(super) end: oneshot::Receiver<i32>,
    pub(super) events: Arc<Events>,
}

impl Container {
    /// Follows a container that has just been started.
    pub(super) fn follow(parts: Parts) -> Arc<Container> {
        let Parts { spec, oci, sandbox, folder, group, user, pid, ends, terminal, end, events } =
            parts;
        let started_at = Timestamp::now();
        let container = Arc::new(Container {
            log: LogFile::new(spec.log_path.clone(), spec.log_limit),
            life: Mutex::new(ContainerState::Running { started_at }),
            used: Mutex::default(),
            stop: watch::Sender::new(None),
            attached: Mutex::default(),
            stdin: Mutex::new(ends.stdin.or_else(|| terminal.clone().filter(|_| oci.stdin))),
            gone: watch::Sender::new(false),
            spec,
            oci,
            folder,
            group,
            user,
            pid,
            started_at,
            sandbox,
            terminal,
        });
        let mut readers = Vec::new();
        let streams = match &container.terminal {
            Some(terminal) => [Some((terminal.clone(), Stream::Out)), None],
            None => [ends.stdout.map(|e| (e, Stream::Out)), ends.stderr.map(|e| (e, Stream::Err))],
        };
        for (end, stream) in streams.into_iter().flatten() {
            readers.push(tokio::spawn(container.clone().read(end, stream)));
        }
        tokio::spawn(container.clone().see_to_its_end(end, readers, events));
        container
    }

    pub(super) fn state(&self) -> ContainerState {
        lock(&self.life).clone()
    }

    pub(super) fn is_exited(&self) -> bool {
        lock(&self.life).is_exited()
    }

    pub(super) fn status(&self) -> ContainerStatus {
        let state = self.state();
        ContainerStatus {
            name: self.spec.name.clone(),
            attempt: self.spec.attempt,
            image_digest: self.spec.image.digest.clone(),
            bound: Vec::new(),
            usage: self.used(),
            pid: (!state.is_exited()).then_some(self.pid.unsigned_abs()),
            process: Some(Box::new(self.process())),
            state,
        }
    }

    fn process(&self) -> Process {
        let User { uid, gid, groups, .. } = &self.user;
        let others = groups.iter().copied().filter(|group| group != gid);
        let signal = self.spec.stop_signal.as_deref().filter(|name| !name.is_empty());
        Process {
            user: *uid,
            group: *gid,
            groups: std::iter::once(*gid).chain(others).collect(),
            stop_signal: signal_name(signal.unwrap_or("TERM")),
        }
    }

    pub(super) fn usage(&self) -> ContainerUsage {
        ContainerUsage {
            sandbox: self.sandbox.clone(),
            container: self.spec.name.clone(),
            attempt: self.spec.attempt,
            started_at: self.started_at,
            connections: 0,
            open_connections: 0,
            usage: self.used(),
        }
    }

    fn used(&self) -> Usage {
        let last = *lock(&self.used);
        last.unwrap_or_else(|| self.group.usage())
    }

    /// Begins to end it; a second time, with less grace, shortens the first.
    pub(super) fn stop(self: &Arc<Self>, grace: Duration, signal: i32) {
        if self.is_exited() {
            return;
        }
        let deadline = Instant::now() + grace;
        let mut first = false;
        self.stop.send_modify(|end| {
            first = end.is_none();
            *end = Some(end.map_or(deadline, |before| before.min(deadline)));
        });
        if !first {
            return;
        }
        if !grace.is_zero() {
            self.signal(signal);
        }
        let container = self.clone();
        tokio::spawn(async move {
            let mut stop = container.stop.subscribe();
            let mut gone = container.gone.subscribe();
            loop {
                let Some(deadline) = *stop.borrow_and_update() else { return };
                tokio::select! {
                    () = tokio::time::sleep_until(deadline) => break,
                    changed = stop.changed() => if changed.is_err() { return },
                    _ = gone.wait_for(|gone| *gone) => return,
                }
            }
            container.kill();
        });
    }

    /// Ends all its processes by force.
    pub(super) fn kill(&self) {
        if !self.is_exited() {
            self.signal(libc::SIGKILL);
            self.group.kill();
        }
    }

    fn signal(&self, signal: i32) {
        // Its number is not given to others before its end is reaped, which is when it counts as exited.
        // SAFETY: a call with plain numbers; one that is gone already is as good as told.
        unsafe { libc::kill(self.pid, signal) };
    }

    /// Waits until nothing of it is left.
    pub(super) async fn gone(&self) {
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    pub(super) fn close_quiet_log(&self) {
        self.log.close_if_quiet();
    }

    /// Lets somebody take part in its streams, until either ends.
    pub(super) fn attach(self: &Arc<Self>, wanted: &AttachSpec, serving: Serving) {
        let Serving { mut input, output } = serving;
        lock(&self.attached).push(Attached {
            stdout: wanted.stdout,
            stderr: wanted.stderr,
            output: output.clone(),
        });
        if self.is_exited() {
            lock(&self.attached).clear();
        }
        let mut stdin = if wanted.stdin { lock(&self.stdin).clone() } else { None };
        let container = self.clone();
        tokio::spawn(async move {
            while let Some(frame) = input.recv().await {
                match (frame, &stdin, &container.terminal) {
                    (Input::Stdin(bytes), Some(stdin), _)
                        if stdin.write_all(&bytes).await.is_err() =>
                    {
                        break;
                    }
                    (Input::StdinEnd, Some(_), None) => {
                        stdin = None;
                        container.end_stdin();
                    }
                    (Input::Resize(size), _, Some(terminal)) => terminal.resize(size),
                    _ => {}
                }
            }
            if stdin.take().is_some() {
                container.end_stdin();
            }
            lock(&container.attached).retain(|other| !other.output.same_channel(&output));
        });
    }

    /// Whoever attached has no more to say; that is its end where it was to be the only one.
    fn end_stdin(&self) {
        if self.oci.stdin_once {
            *lock(&self.stdin) = None;
        }
    }

    async fn read(self: Arc<Self>, end: End, stream: Stream) {
        let mut lines = Lines::default();
        let mut buffer = vec![0; READ];
        loop {
            match end.read(&mut buffer).await {
                Ok(count) if count > 0 => {
                    let bytes = &buffer[..count];
                    self.log.append(&lines.push(stream, bytes));
                    self.pass_on(bytes, stream).await;
                }
                _ => break,
            }
        }
        self.log.append(&lines.finish(stream));
    }

    async fn pass_on(&self, bytes: &[u8], stream: Stream) {
        let readers: Vec<Attached> = {
            let attached = lock(&self.attached);
            let wants = |a: &&Attached| if stream == Stream::Out { a.stdout } else { a.stderr };
            attached.iter().filter(wants).cloned().collect()
        };
        for reader in readers {
            let bytes = Bytes::copy_from_slice(bytes);
            let frame = match stream {
                Stream::Out => Output::Stdout(bytes),
                Stream::Err => Output::Stderr(bytes),
            };
            if reader.output.send_timeout(frame, SLOW).await.is_err() {
                lock(&self.attached).retain(|other| !other.output.same_channel(&reader.output));
            }
        }
    }

    async fn see_to_its_end(
        self: Arc<Self>,
        end: oneshot::Receiver<i32>,
        readers: Vec<JoinHandle<()>>,
        events: Arc<Events>,
    ) {
        let code = end.await.unwrap_or(KILLED);
        // The rest of its processes go with the first.
        let mut tries = 0;
        while !self.group.is_empty() && tries < 400 {
            if tries < 20 {
                self.group.kill()
            } else {
                self.group.kill_frozen()
            }
            tries += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let stops: Vec<_> = readers.iter().map(JoinHandle::abort_handle).collect();
        let drained = async {
            for reader in readers {
                let _ = reader.await;
            }
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            stops.iter().for_each(tokio::task::AbortHandle::abort);
        }
        let usage = Usage { pids: 0, memory_bytes: 0, ..self.group.usage() };
        *lock(&self.used) = Some(usage);
        let reason = match code {
            _ if code != 0 && self.group.oom_kills() > 0 => ExitReason::OOMKilled,
            0 => ExitReason::Completed,
            _ => ExitReason::Error,
        };
        *lock(&self.stdin) = None;
        *lock(&self.life) = ContainerState::Exited {
            code,
            reason,
            message: String::new(),
            started_at: self.started_at,
            finished_at: Timestamp::now(),
        };
        events.push(&self.sandbox, self.status());
        let attached = std::mem::take(&mut *lock(&self.attached));
        for reader in attached {
            let _ = reader.output.try_send(Output::Exit(code));
        }
        self.clean_up().await;
        self.gone.send_replace(true);
    }

    /// Removes what its attempt had of its own.
    async fn clean_up(&self) {
        remove_group(&self.group).await;
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "a container's folder was not removed");
        }
    }
}

/// Removes a group whose processes may take a moment to be gone.
pub(super) async fn remove_group(group: &Group) {
    const TRIES: u32 = 400;
    for attempt in 0..TRIES {
        if group.remove() {
            return;
        }
        if attempt > 2 {
            group.kill_frozen();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tracing::warn!(?group, "a cgroup was not removed: its processes do not end");
}

/// Nothing that holds one of these locks can panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
