//! One connection, HTTP/1.1 or HTTP/2, from its first byte to its last.
//!
//! hyper refuses what is no HTTP (400, 414, 431) and closes the connection. Requests on whose length
//! two servers could disagree are refused as well: see [`coracle_sandbox::framing`], and `check` in the module.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use coracle_sandbox::framing::Framed;
use http::{HeaderValue, Request, Version, header};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;

use super::client::{Client, GRACE, Verdict, Watch};
use super::handle_from;
use super::traffic::Count;
use crate::container::{Container, Phase};
use crate::cpu::metered;

/// Connections of one container; more are closed at once.
const MOST_CONNECTIONS: usize = 10_000;
/// Bytes of a request's head, and of what is buffered of its body.
const MOST_BUFFERED: usize = 64 << 10;
/// Requests at once on one HTTP/2 connection.
const MOST_STREAMS: u32 = 128;
/// Bytes that a client may send ahead of its guest: per stream, and per connection.
const WINDOW: (u32, u32) = (256 << 10, 1 << 20);
/// Bytes of an answer that are held for a client which does not read.
const MOST_UNSENT: usize = 64 << 10;
/// Streams that a client has reset but the host has not yet forgotten (CVE-2023-44487).
const MOST_RESET: usize = 32;

/// Serves one connection to its end.
pub(crate) async fn serve_connection(container: Arc<Container>, stream: TcpStream) {
    let _count = Count::one(&container.traffic.connections);
    container.traffic.counts().accepted.fetch_add(1, Relaxed);
    if container.traffic.connections.load(Relaxed) > MOST_CONNECTIONS {
        return;
    }
    let Ok(peer) = stream.peer_addr() else { return };
    let client = Arc::new(Client::new(peer));
    let served = (container.clone(), client.clone());
    let service = hyper::service::service_fn(move |request: Request<_>| {
        let (container, client) = served.clone();
        async move {
            let http2 = request.version() == Version::HTTP_2;
            if http2 {
                client.http2.store(true, Relaxed);
            }
            let mut response = handle_from(&container, request, Some(&client)).await;
            let refused = response.body().ends_connection();
            if refused {
                client.refuse();
            }
            let leave = *container.phase.borrow() != Phase::Serving;
            if !http2 && (leave || refused) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(Spawner(container.clone()));
    builder.http1().max_buf_size(MOST_BUFFERED);
    builder
        .http2()
        .max_concurrent_streams(MOST_STREAMS)
        .initial_stream_window_size(WINDOW.0)
        .initial_connection_window_size(WINDOW.1)
        .max_send_buf_size(MOST_UNSENT)
        .max_pending_accept_reset_streams(MOST_RESET);
    let stream = Framed::new(stream, client.clone());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut watch = Watch::new();
    let mut phases = container.phase.subscribe();
    loop {
        tokio::select! {
            biased;
            // Errors are the client's: it broke off, or spoke no HTTP.
            _ = connection.as_mut() => return,
            changed = phases.changed() => match *phases.borrow_and_update() {
                Phase::Killed => return,
                _ if changed.is_err() => return,
                Phase::Serving => {}
                Phase::Draining if !client.http2.load(Relaxed) => {}
                Phase::Draining | Phase::Closing | Phase::Over => {
                    connection.as_mut().graceful_shutdown();
                }
            },
            verdict = std::future::poll_fn(|cx| watch.poll(&client, cx)) => match verdict {
                Verdict::Idle => connection.as_mut().graceful_shutdown(),
                Verdict::Stuck => return,
            },
        }
    }
}

/// Runs HTTP/2 streams, until the container is killed or a stream's time is over.
#[derive(Clone)]
struct Spawner(Arc<Container>);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let mut phases = self.0.phase.subscribe();
        let timeout = self.0.timeout();
        tokio::spawn(metered(self.0.cpu.clone(), async move {
            let late = async {
                tokio::time::sleep(timeout + GRACE).await;
                // Both may have fired in the same moment; see the connection's.
                tokio::time::sleep(GRACE).await;
            };
            tokio::select! {
                biased;
                () = stream => {}
                _ = phases.wait_for(|phase| *phase == Phase::Killed) => {}
                // The answer's own timer is first; this one is for a client that does not read.
                () = late => {}
            }
        }));
    }
}
