//! Processes in containers: what is executed there, and the streams of those that run. Their shim carries them.

use coracle_sandbox::stream::{Input, Output, Session, Size};
use coracle_sandbox::{AttachSpec, Client, ClientError, ExecSpec, Problem};
use futures::future::BoxFuture;
use http::StatusCode;
use tokio::task::JoinSet;

use super::remote_command::{Io, RemoteCommand, Wanted};
use super::routes::Refusal;
use super::wasm::{self, ATTACHING};
use crate::pod::worker::Workers;

/// A container that runs in its Pod's shim.
pub(super) struct Container {
    client: Client,
    uid: String,
    name: String,
}

/// The container that a path names, if it runs and is no Wasm component.
pub(super) fn find(workers: &Workers, names: &[String]) -> Option<Container> {
    let (pod, name, _) = wasm::running(workers, names).ok()?;
    let hosts = workers.hosts();
    let client = hosts.is_in_shim(&pod.uid, &name).then(|| hosts.shim(&pod.uid))??;
    Some(Container { client, uid: pod.uid, name })
}

/// A shim's refusal in its own words; anything else in full.
pub(super) fn said(error: &ClientError) -> String {
    match error {
        ClientError::Problem(problem) => problem.message.clone(),
        other => other.to_string(),
    }
}

impl Container {
    /// A program to be run in it; `query` has its arguments.
    pub(super) fn exec(self, wanted: Wanted, query: &[(String, String)]) -> Execution {
        let words = query.iter().filter(|(key, _)| key == "command");
        let Wanted { stdin, stdout, stderr, tty } = wanted;
        let args = words.map(|(_, word)| word.clone()).collect();
        let spec = ExecSpec { args, stdin, stdout, stderr, tty };
        Execution { container: self, spec }
    }

    /// Its own streams, from now on: nothing that it writes once the client is told that it is connected is missed.
    ///
    /// # Errors
    /// What its shim says against it.
    pub(super) async fn attach(self, wanted: Wanted) -> Result<Attached, Refusal> {
        let Wanted { stdin, stdout, stderr, .. } = wanted;
        let spec = AttachSpec { stdin, stdout, stderr };
        let session = self.client.attach(&self.uid, &self.name, &spec).await;
        let session = session.map_err(|error| Refusal {
            code: StatusCode::INTERNAL_SERVER_ERROR,
            reason: None,
            message: format!("{ATTACHING}: {}", said(&error)),
        })?;
        Ok(Attached(session))
    }
}

/// A program that is to be run in a container.
pub(super) struct Execution {
    container: Container,
    spec: ExecSpec,
}

/// The streams of a container that runs.
pub(super) struct Attached(Session);

impl RemoteCommand for Attached {
    fn what(&self) -> &'static str {
        ATTACHING
    }

    fn run(self: Box<Self>, io: Io) -> BoxFuture<'static, Result<Option<i32>, String>> {
        // How a container ends, its status tells.
        Box::pin(async move { carry(self.0, io).await.map(|_| None) })
    }
}

impl RemoteCommand for Execution {
    fn what(&self) -> &'static str {
        "error executing command in container"
    }

    fn run(self: Box<Self>, io: Io) -> BoxFuture<'static, Result<Option<i32>, String>> {
        Box::pin(async move {
            let Container { client, uid, name } = &self.container;
            let session = match client.exec(uid, name, &self.spec).await {
                Err(ClientError::Problem(Problem { exit_code: Some(code), message, .. })) => {
                    // As a shell has it: said where complaints go, and the code that scripts know.
                    if let Some(to) = io.stderr.as_ref().or(io.stdout.as_ref()) {
                        let _ = to.send(format!("{message}\r\n").into()).await;
                    }
                    return Ok(Some(code));
                }
                session => session.map_err(|error| said(&error))?,
            };
            carry(session, io).await
        })
    }
}

/// Carries both ways until the process or the client is gone.
async fn carry(session: Session, io: Io) -> Result<Option<i32>, String> {
    let Session { input, mut output } = session;
    let Io { stdin, stdout, stderr, resizes, gone } = io;
    // Ended with this function: streams that the client leaves open would be read for ever.
    let mut feeding = JoinSet::new();
    if let Some(mut stdin) = stdin {
        let input = input.clone();
        feeding.spawn(async move {
            while let Ok(Some(bytes)) = stdin.next().await {
                if input.send(Input::Stdin(bytes)).await.is_err() {
                    return;
                }
            }
            let _ = input.send(Input::StdinEnd).await;
        });
    }
    if let Some(mut resizes) = resizes {
        let input = input.clone();
        feeding.spawn(async move {
            while let Some(size) = resizes.next().await {
                let size = Size { columns: size.width, rows: size.height };
                if input.send(Input::Resize(size)).await.is_err() {
                    return;
                }
            }
        });
    }
    loop {
        let next = tokio::select! {
            next = output.recv() => next,
            () = gone.cancelled() => return Ok(None),
        };
        let (to, bytes) = match next {
            Some(Output::Stdout(bytes)) => (&stdout, bytes),
            Some(Output::Stderr(bytes)) => (&stderr, bytes),
            Some(Output::Exit(code)) => return Ok(Some(code)),
            Some(Output::Failed(problem)) => return Err(problem.message),
            None => return Err("the container's host is gone".to_owned()),
        };
        if let Some(to) = to
            && to.send(bytes).await.is_err()
        {
            return Ok(None);
        }
    }
}
