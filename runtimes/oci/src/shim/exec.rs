//! Further processes in a container: with streams, or to their end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_sandbox::stream::{Input, Output, Serving, Session};
use coracle_sandbox::{ExecSpec, Problem, ProblemCode, RunResult, RunSpec};
use tokio::sync::{mpsc, oneshot};

use super::container::Container;
use super::io::{End, Ends, READ, pipes};
use super::pod::Shim;
use crate::launch::{Job, Started, Streams};

/// The kubelet's `maxProbeOutput`.
const MOST_OUTPUT: usize = 10 << 10;
/// How long a program may run that says nothing of it.
const USUAL: Duration = Duration::from_secs(60);
/// How long the output of a program that ended is read on: whoever else holds it is not waited for.
const DRAIN: Duration = Duration::from_millis(500);

impl Shim {
    /// Starts a program with streams.
    pub(super) async fn exec_in(
        &self,
        sandbox: &str,
        container: &Arc<Container>,
        spec: ExecSpec,
    ) -> Result<Session, Problem> {
        let internal =
            |e: std::io::Error| Problem::new(ProblemCode::Internal, format!("cannot execute: {e}"));
        let (mut ends, streams) = match spec.tty {
            true => Default::default(),
            false => pipes(spec.stdin, spec.stdout, spec.stderr).map_err(internal)?,
        };
        let (started, end) = self.enter(sandbox, container, &spec.args, spec.tty, streams).await?;
        let terminal = started.terminal.map(End::new).transpose().map_err(internal)?;
        if let Some(terminal) = &terminal {
            ends.stdin = Some(terminal.clone()).filter(|_| spec.stdin);
            ends.stdout = Some(terminal.clone());
        }
        let (session, serving) = Session::pair();
        tokio::spawn(carry(serving, ends, terminal, end));
        Ok(session)
    }

    /// Runs a program to its end.
    pub(super) async fn run_in(
        &self,
        sandbox: &str,
        container: &Arc<Container>,
        spec: RunSpec,
    ) -> Result<RunResult, Problem> {
        let internal =
            |e: std::io::Error| Problem::new(ProblemCode::Internal, format!("cannot execute: {e}"));
        // Both streams are one pipe, so that what comes first stays first.
        let (ends, mut streams) = pipes(false, true, false).map_err(internal)?;
        let out: &OwnedFd =
            streams.stdout.as_ref().ok_or_else(|| internal(std::io::Error::other("no pipe")))?;
        streams.stderr = Some(out.try_clone().map_err(internal)?);
        let (started, mut end) = self.enter(sandbox, container, &spec.args, false, streams).await?;
        let patience = match spec.timeout_milliseconds {
            0 => USUAL,
            milliseconds => Duration::from_millis(milliseconds),
        };
        let mut output = Vec::new();
        let (code, timed_out) = {
            let mut reading = std::pin::pin!(read_some(ends.stdout, &mut output));
            let mut read = false;
            let deadline = tokio::time::sleep(patience);
            let mut deadline = std::pin::pin!(deadline);
            let mut timed_out = false;
            let code = loop {
                tokio::select! {
                    code = &mut end => break code.unwrap_or(137),
                    () = &mut reading, if !read => read = true,
                    () = &mut deadline, if !timed_out => {
                        timed_out = true;
                        // It leads a session of its own: what it started goes with it.
                        // SAFETY: calls with plain numbers; the process was not reaped yet.
                        unsafe {
                            libc::kill(-started.pid, libc::SIGKILL);
                            libc::kill(started.pid, libc::SIGKILL);
                        }
                    }
                }
            };
            if !read {
                let _ = tokio::time::timeout(DRAIN, reading).await;
            }
            (code, timed_out)
        };
        let output = String::from_utf8_lossy(&output).into_owned();
        Ok(RunResult { code, timed_out, output })
    }

    async fn enter(
        &self,
        sandbox: &str,
        container: &Arc<Container>,
        args: &[String],
        tty: bool,
        streams: Streams,
    ) -> Result<(Started, oneshot::Receiver<i32>), Problem> {
        if args.is_empty() {
            let message = "args: there is no program to execute";
            return Err(Problem::new(ProblemCode::InvalidSpec, message));
        }
        let pod = self.pod(sandbox)?;
        let subject = self.subject(&pod, &container.spec, &container.oci, &container.folder);
        let (user, pid) = (&container.user, container.pid);
        let job = Job::Enter { args, tty, user, pid };
        self.launch(&job, &subject, streams).await
    }
}

/// Reads to the end, and keeps the beginning.
async fn read_some(end: Option<End>, output: &mut Vec<u8>) {
    let Some(end) = end else { return };
    let mut buffer = vec![0; READ];
    while let Ok(count) = end.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        let room = MOST_OUTPUT.saturating_sub(output.len());
        output.extend_from_slice(&buffer[..count.min(room)]);
    }
}

/// Carries streams until the process has ended and all is said. A client that goes leaves the process without a reader,
/// or without its terminal, which ends most programs.
async fn carry(serving: Serving, ends: Ends, terminal: Option<End>, end: oneshot::Receiver<i32>) {
    let Serving { mut input, output } = serving;
    let Ends { mut stdin, stdout, stderr } = ends;
    let incoming = async move {
        while let Some(frame) = input.recv().await {
            match (frame, &stdin, &terminal) {
                (Input::Stdin(bytes), Some(to), _) if to.write_all(&bytes).await.is_err() => {
                    stdin = None;
                }
                // A terminal's end of file is a key (Ctrl-D), as everywhere.
                (Input::StdinEnd, Some(_), None) => stdin = None,
                (Input::StdinEnd, Some(to), Some(_)) => drop(to.write_all(&[4]).await),
                (Input::Resize(size), _, Some(terminal)) => terminal.resize(size),
                _ => {}
            }
        }
    };
    let outgoing = async {
        let streams = async {
            tokio::join!(
                pass(stdout, output.clone(), Output::Stdout),
                pass(stderr, output.clone(), Output::Stderr),
            )
        };
        let mut streams = std::pin::pin!(streams);
        let mut read = false;
        let mut end = end;
        let code = loop {
            tokio::select! {
                code = &mut end => break code.unwrap_or(137),
                _ = &mut streams, if !read => read = true,
            }
        };
        if !read {
            let _ = tokio::time::timeout(DRAIN, streams).await;
        }
        let _ = output.send(Output::Exit(code)).await;
    };
    tokio::select! {
        () = incoming => {}
        () = outgoing => {}
    }
}

async fn pass(end: Option<End>, output: mpsc::Sender<Output>, frame: fn(Bytes) -> Output) {
    let Some(end) = end else { return };
    let mut buffer = vec![0; READ];
    while let Ok(count) = end.read(&mut buffer).await {
        if count == 0 || output.send(frame(Bytes::copy_from_slice(&buffer[..count]))).await.is_err()
        {
            return;
        }
    }
}
