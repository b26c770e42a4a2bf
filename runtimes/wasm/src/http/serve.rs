//! One connection, HTTP/1.1 or HTTP/2, from its first byte to its last.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::{HeaderValue, Request, Version, header};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;

use super::handle;
use super::traffic::Count;
use crate::container::{Container, Phase};
use crate::cpu::metered;

/// Serves one connection to its end.
pub(crate) async fn serve_connection(container: Arc<Container>, stream: TcpStream) {
    container.traffic.connections.fetch_add(1, Relaxed);
    let _count = Count(&container.traffic.connections);
    let is_http2 = AtomicBool::new(false);
    let seen = &is_http2;
    let guest = container.clone();
    let service = hyper::service::service_fn(move |request: Request<_>| {
        let http2 = request.version() == Version::HTTP_2;
        if http2 {
            seen.store(true, Relaxed);
        }
        let container = guest.clone();
        async move {
            let mut response = handle(&container, request).await;
            if !http2 && *container.phase.borrow() != Phase::Serving {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let builder = auto::Builder::new(Spawner(container.clone()));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
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
                Phase::Draining if !is_http2.load(Relaxed) => {}
                Phase::Draining | Phase::Closing | Phase::Over => {
                    connection.as_mut().graceful_shutdown();
                }
            },
        }
    }
}

/// Runs HTTP/2 streams, until the container is killed.
#[derive(Clone)]
struct Spawner(Arc<Container>);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let mut phases = self.0.phase.subscribe();
        tokio::spawn(metered(self.0.cpu.clone(), async move {
            tokio::select! {
                () = stream => {}
                _ = phases.wait_for(|phase| *phase == Phase::Killed) => {}
            }
        }));
    }
}
