//! Exec and attach: the standard streams of a process, carried by streams or channels.
//!
//! A client says in its query which streams it wants, and opens them; the first of all is for how it ended. From version 4
//! of the protocol on that is a `Status`, with the exit code in it; before, it was a line of text when something failed.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::spdy::Opened;
use super::stream::{Connection, Incoming, Outgoing};
use super::terminal::Resizes;

/// How long a client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);

/// What SPDY clients may speak.
pub(crate) const SPDY: &[&str] =
    &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// What WebSocket clients may speak.
pub(crate) const WEBSOCKET: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

impl Wanted {
    /// From a request's query.
    ///
    /// # Errors
    /// When it names none.
    pub(crate) fn of(query: &[(String, String)]) -> Result<Self, String> {
        let flag = |name| query.iter().any(|(key, value)| key == name && value == "1");
        let tty = flag("tty");
        let wanted = Self {
            stdin: flag("input"),
            stdout: flag("output"),
            // A terminal has one output.
            stderr: flag("error") && !tty,
            tty,
        };
        if !wanted.stdin && !wanted.stdout && !wanted.stderr {
            return Err("you must specify at least 1 of stdin, stdout, stderr".to_owned());
        }
        Ok(wanted)
    }
}

/// The streams of a session.
pub(crate) struct Io {
    /// What the process reads.
    pub(crate) stdin: Option<Incoming>,
    /// What it writes.
    pub(crate) stdout: Option<Outgoing>,
    /// What it complains about.
    pub(crate) stderr: Option<Outgoing>,
    /// Sizes of the client's terminal.
    pub(crate) resizes: Option<Resizes>,
    /// Cancelled when the client is gone.
    pub(crate) gone: CancellationToken,
}

/// A process that a client works with.
pub(crate) trait RemoteCommand: Send + 'static {
    /// What failures are said to be failures of.
    fn what(&self) -> &'static str;

    /// Runs to its end, or until `io.gone`; the exit code, if there is one.
    fn run(self: Box<Self>, io: Io) -> BoxFuture<'static, Result<Option<i32>, String>>;
}

/// Runs over SPDY.
pub(crate) async fn over_spdy(
    connection: Connection,
    mut accepting: mpsc::Receiver<Opened>,
    protocol: &'static str,
    wanted: Wanted,
    command: Box<dyn RemoteCommand>,
) {
    let resizes = wanted.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    let expected = [true, wanted.stdin, wanted.stdout, wanted.stderr, resizes];
    let mut streams: [Option<Opened>; 5] = Default::default();
    let opening = async {
        while (0..5).any(|n| expected[n] && streams[n].is_none()) {
            let opened = accepting.recv().await?;
            let name = opened.headers.get("streamtype").unwrap_or_default();
            let names = ["error", "stdin", "stdout", "stderr", "resize"];
            let number = names.iter().position(|known| *known == name);
            match number.filter(|number| expected[*number] && streams[*number].is_none()) {
                Some(number) => {
                    opened.accept().await.ok()?;
                    streams[number] = Some(opened);
                }
                None => opened.reject().await,
            }
        }
        Some(())
    };
    let Ok(Some(())) = tokio::time::timeout(OPENING, opening).await else {
        // Gone, or too slow; there may be no stream to say so on.
        return connection.close().await;
    };
    // Streams that come now are of no use. While nobody takes them, nothing else would arrive.
    tokio::spawn(async move {
        while let Some(opened) = accepting.recv().await {
            opened.reject().await;
        }
    });
    let [error, stdin, stdout, stderr, resize] = streams;
    let Some(error) = error.map(|stream| stream.outgoing) else { return };
    let io = Io {
        stdin: stdin.map(|stream| stream.incoming),
        stdout: stdout.map(|stream| stream.outgoing),
        stderr: stderr.map(|stream| stream.outgoing),
        resizes: resize.map(|stream| Resizes::new(stream.incoming)),
        gone: connection.gone().clone(),
    };
    let tells_status = protocol == "v4.channel.k8s.io";
    serve(connection, io, error, tells_status, command).await;
}

/// Runs over channels: standard input, output and error, how it ended, and sizes of the terminal.
pub(crate) async fn over_channels(
    connection: Connection,
    streams: Vec<(Incoming, Outgoing)>,
    protocol: &'static str,
    wanted: Wanted,
    command: Box<dyn RemoteCommand>,
) {
    let Ok([stdin, stdout, stderr, error, resize]) = <[_; 5]>::try_from(streams) else { return };
    let (stdout, stderr, error) = (stdout.1, stderr.1, error.1);
    let io = Io {
        stdin: wanted.stdin.then_some(stdin.0),
        stdout: wanted.stdout.then_some(stdout),
        stderr: wanted.stderr.then_some(stderr),
        resizes: wanted.tty.then(|| Resizes::new(resize.0)),
        gone: connection.gone().clone(),
    };
    // An empty message tells clients that they are connected.
    let first = io.stdout.as_ref().or(io.stderr.as_ref()).unwrap_or(&error);
    if first.announce().await.is_err() {
        return;
    }
    let tells_status = protocol.starts_with("v4.") || protocol.starts_with("v5.");
    serve(connection, io, error, tells_status, command).await;
}

async fn serve(
    connection: Connection,
    io: Io,
    error: Outgoing,
    tells_status: bool,
    command: Box<dyn RemoteCommand>,
) {
    let outputs: Vec<Outgoing> = [&io.stdout, &io.stderr].into_iter().flatten().cloned().collect();
    let what = command.what();
    let outcome = command.run(io).await;
    for output in outputs {
        output.finish().await;
    }
    if let Some(told) = ending(&outcome, what, tells_status) {
        let _ = error.send(told).await;
    }
    error.finish().await;
    connection.close().await;
}

/// What the client is told of the end.
fn ending(outcome: &Result<Option<i32>, String>, what: &str, tells_status: bool) -> Option<Bytes> {
    let status: Value = match outcome {
        Ok(None | Some(0)) => json!({"metadata": {}, "status": "Success"}),
        Ok(Some(code)) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!(
                "command terminated with non-zero exit code: exit status {code}"
            ),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(why) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: {what}: {why}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": format!("{what}: {why}")}]},
            "code": 500,
        }),
    };
    if tells_status {
        return Some(status.to_string().into());
    }
    status["message"].as_str().map(|message| message.to_owned().into())
}

#[cfg(test)]
mod tests;
