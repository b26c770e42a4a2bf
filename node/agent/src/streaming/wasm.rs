//! What Wasm Pods have to offer: their ports, and what their containers write. There is nothing in them to exec.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::StatusCode;
use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::port_forward::{Target, Wire};
use super::remote_command::{Io, RemoteCommand, Wanted};
use super::routes::Refusal;
use super::stream::Outgoing;
use crate::logs::{self, LogOptions};
use crate::pod::probes;
use crate::pod::worker::{Located, Presence, Workers};

/// What failures to attach are said to be failures of.
pub(super) const ATTACHING: &str = "error attaching to container";
/// How long a Pod may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Lines of a log that wait to be sent.
const LINES: usize = 16;

/// A Pod, by namespace, name and, where the path has it, UID.
fn locate(workers: &Workers, names: &[String], has_uid: bool) -> Result<Located, Refusal> {
    let uid = names.get(2).filter(|_| has_uid).map(String::as_str);
    let located = match names {
        [namespace, pod, ..] => workers.locate(namespace, pod, uid),
        _ => None,
    };
    located.ok_or_else(|| Refusal {
        code: StatusCode::NOT_FOUND,
        reason: None,
        message: "pod does not exist".to_owned(),
    })
}

/// The Pod and the container that a path names, and the attempt that runs.
pub(super) fn running(
    workers: &Workers,
    names: &[String],
) -> Result<(Located, String, u32), Refusal> {
    let pod = locate(workers, names, names.len() > 3)?;
    let container = names.last().cloned().unwrap_or_default();
    let refuse =
        |message| Err(Refusal { code: StatusCode::INTERNAL_SERVER_ERROR, reason: None, message });
    match workers.presence(&pod.uid, &container) {
        Presence::Running(attempt) => Ok((pod, container, attempt)),
        Presence::Missing => refuse(format!("container not found (\"{container}\")")),
        Presence::Waits => refuse(format!(
            "container not found (\"{container}\"): it waits to start in pod \"{}\", which is not running yet",
            pod.name
        )),
        Presence::Ended => refuse(format!(
            "container \"{container}\" in pod \"{}\" is not running: it has ended",
            pod.name
        )),
    }
}

/// Why nothing is run in a Wasm container.
pub(super) fn no_exec(workers: &Workers, names: &[String]) -> Refusal {
    match running(workers, names) {
        Err(refusal) => refusal,
        Ok((_, container, _)) => Refusal {
            code: StatusCode::BAD_REQUEST,
            reason: Some("BadRequest"),
            message: format!(
                "container \"{container}\" is a Wasm component: it has no shell or other program to exec; use \
                 `kubectl logs` or `kubectl attach` to see what it writes, and `kubectl port-forward` to call it"
            ),
        },
    }
}

/// What a container writes from now on.
pub(super) fn attach(
    workers: &Workers,
    names: &[String],
    wanted: Wanted,
) -> Result<Attachment, Refusal> {
    let (pod, container, attempt) = running(workers, names)?;
    let (workers, since, both_in_one) = (workers.clone(), Timestamp::now(), wanted.tty);
    Ok(Attachment { workers, pod, container, attempt, since, both_in_one })
}

/// The output of an attempt of a container, read from its log as it is written.
pub(super) struct Attachment {
    workers: Workers,
    pod: Located,
    container: String,
    attempt: u32,
    /// When the client asked.
    since: Timestamp,
    /// A terminal shows both streams, as one.
    both_in_one: bool,
}

impl RemoteCommand for Attachment {
    fn what(&self) -> &'static str {
        ATTACHING
    }

    fn run(self: Box<Self>, io: Io) -> BoxFuture<'static, Result<Option<i32>, String>> {
        Box::pin(self.follow(io))
    }
}

impl Attachment {
    async fn follow(self: Box<Self>, io: Io) -> Result<Option<i32>, String> {
        let Io { stdin, stdout, stderr, resizes, gone } = io;
        // There is no terminal.
        drop(resizes);
        let mut tasks = JoinSet::new();
        if let Some(mut stdin) = stdin {
            if let Some(out) = stderr.as_ref().or(stdout.as_ref()) {
                let note = format!(
                    "Container \"{}\" is a Wasm component, which has no standard input: what you type goes nowhere.\r\n",
                    self.container
                );
                let _ = out.send(note.into()).await;
            }
            tokio::spawn(async move { while let Ok(Some(_)) = stdin.next().await {} });
        }
        let of_stdout = if self.both_in_one { None } else { Some("Stdout") };
        for (out, stream) in [(stdout, of_stdout), (stderr, Some("Stderr"))] {
            if let Some(out) = out {
                self.copy(&mut tasks, out, stream)?;
            }
        }
        // Whoever wants no output, waits for the end.
        while tasks.is_empty() && self.is_running() && !gone.is_cancelled() {
            tokio::time::sleep(logs::FOLLOW_INTERVAL).await;
        }
        tokio::select! {
            () = async { while tasks.join_next().await.is_some() {} } => {}
            () = gone.cancelled() => {}
        }
        Ok(None)
    }

    fn is_running(&self) -> bool {
        let Located { namespace, name, .. } = &self.pod;
        self.workers.is_running(namespace, name, &self.container, self.attempt)
    }

    fn copy(
        &self,
        tasks: &mut JoinSet<()>,
        out: Outgoing,
        stream: Option<&str>,
    ) -> Result<(), String> {
        let Located { namespace, name, .. } = self.pod.clone();
        let (workers, container, attempt) =
            (self.workers.clone(), self.container.clone(), self.attempt);
        let source = workers.log(&namespace, &name, &container, false);
        let path = source.ok_or("its log is gone")?.path;
        let options = LogOptions {
            follow: true,
            since_time: Some(self.since),
            stream: stream.map(str::to_owned),
            ..LogOptions::default()
        };
        let (send, mut lines) = mpsc::channel::<Bytes>(LINES);
        tasks.spawn(async move {
            let is_running = move || workers.is_running(&namespace, &name, &container, attempt);
            logs::read(path, options, send, is_running).await;
        });
        tasks.spawn(async move {
            while let Some(line) = lines.recv().await {
                if out.send(line).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }
}

/// The Pod whose ports are forwarded.
pub(super) fn target(workers: &Workers, names: &[String]) -> Result<Address, Refusal> {
    let pod = locate(workers, names, names.len() > 2)?;
    match pod.address {
        Some(address) => Ok(Address { workers: workers.clone(), pod, address }),
        None => Err(Refusal {
            code: StatusCode::BAD_REQUEST,
            reason: Some("BadRequest"),
            message: format!(
                "unable to forward port because pod \"{}\" is not running. Current status={}",
                pod.name, pod.phase
            ),
        }),
    }
}

/// A Pod's address: a Wasm component listens there and nowhere else, on its localhost neither. In a Pod with containers it is
/// localhost that is forwarded to.
pub(super) struct Address {
    workers: Workers,
    pod: Located,
    address: IpAddr,
}

impl Address {
    /// Connects to a port at the Pod's address, as somebody who comes over the network.
    pub(super) async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let address = SocketAddr::new(self.address, self.workers.listen_port(port));
        let stream = tokio::time::timeout(CONNECT, probes::connect(address)).await;
        let stream = stream.unwrap_or_else(|_| Err(format!("dial tcp {address}: i/o timeout")))?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

impl Target for Address {
    fn name(&self) -> String {
        format!("pod {}, uid {}", self.pod.name, self.pod.uid)
    }

    fn is_there(&self) -> bool {
        self.workers.is_up(&self.pod.uid)
    }

    fn dial(&self, port: u16) -> BoxFuture<'_, Result<Box<dyn Wire>, String>> {
        Box::pin(async move {
            if let Some(shim) = self.workers.hosts().shim(&self.pod.uid) {
                let stream = shim.forward(&self.pod.uid, port).await;
                let stream = stream.map_err(|why| super::processes::said(&why))?;
                return Ok(Box::new(stream) as Box<dyn Wire>);
            }
            let address = SocketAddr::new(self.address, self.workers.listen_port(port));
            let stream = probes::connect(address).await;
            let stream =
                stream.map_err(|why| format!("failed to connect to port {port}: {why}"))?;
            // What is typed is to arrive; what is sent in bulk fills packets anyway.
            let _ = stream.set_nodelay(true);
            Ok(Box::new(stream) as Box<dyn Wire>)
        })
    }
}
