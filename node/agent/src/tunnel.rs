//! One connection to the server that is kept open, through which the server calls this agent ([`coracle_api::tunnel`]): where
//! the machine is behind a NAT or a firewall, nobody could otherwise.

use std::convert::Infallible;
use std::time::Duration;

use coracle_api::tunnel::{PATH, PROTOCOL, STREAM_WINDOW, STREAMS, WINDOW};
use http::header::{CONNECTION, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::RngExt as _;
use tokio::time::Instant;

use crate::identity::{self, Identity};
use crate::join::JoinError;
use crate::kubelet::Kubelet;

/// How long it may take to open one.
const OPENING: Duration = Duration::from_secs(10);
/// How often the server is asked whether it is there, and how long the answer may take. Routers forget connections on which
/// nothing is said within minutes, and all of them when they are restarted.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// How long is waited until the next one is opened, at first and at last; a part of it is chance, so that the agents of a
/// server that was restarted do not come all at once.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// One that held so long was no failure.
const STEADY: Duration = Duration::from_secs(10);
/// How much is read of what the server says against it.
const REFUSAL: usize = 4 << 10;

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Identity(#[from] JoinError),
    #[error("the server does not answer: {0}")]
    Unreachable(#[from] hyper_util::client::legacy::Error),
    #[error("the server refuses it ({0}): {1}")]
    Refused(StatusCode, String),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("no answer within {OPENING:?}")]
    Silent,
}

/// Keeps one open for ever, and serves the kubelet API through it.
pub(crate) async fn keep_open(identity: Identity, kubelet: Kubelet) {
    let mut pause = PAUSE.0;
    let mut failing = false;
    loop {
        let opened = tokio::time::timeout(OPENING, open(&identity)).await;
        match opened.unwrap_or(Err(OpenError::Silent)) {
            Ok(connection) => {
                tracing::debug!("the tunnel to the server is open");
                failing = false;
                let begun = Instant::now();
                serve(connection, kubelet.clone()).await;
                if begun.elapsed() >= STEADY {
                    pause = PAUSE.0;
                }
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "no tunnel to the server; trying again");
                }
                failing = true;
            }
        }
        let chosen = rand::rng().random_range(pause / 2..=pause);
        tokio::time::sleep(chosen).await;
        pause = PAUSE.1.min(pause * 2);
    }
}

/// Asks for one, with the certificate that the node has at the time.
async fn open(identity: &Identity) -> Result<Upgraded, OpenError> {
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(identity.tls()?)
        .https_only()
        .enable_http1()
        .wrap_connector(identity::tcp());
    let client: Client<_, Empty<bytes::Bytes>> =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(https);
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = identity.url(PATH);
    let headers = request.headers_mut();
    headers.insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, http::HeaderValue::from_static(PROTOCOL));
    let answer = client.request(request).await?;
    let status = answer.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let said = Limited::new(answer.into_body(), REFUSAL).collect().await;
        let said = said.map(|said| said.to_bytes()).unwrap_or_default();
        return Err(OpenError::Refused(status, String::from_utf8_lossy(&said).into_owned()));
    }
    Ok(hyper::upgrade::on(answer).await?)
}

/// Until it ends.
async fn serve(connection: Upgraded, kubelet: Kubelet) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        let mut answer = Response::new(Empty::<bytes::Bytes>::new());
        if request.method() == Method::CONNECT {
            let (stream, kubelet) = (hyper::upgrade::on(&mut request), kubelet.clone());
            tokio::spawn(async move {
                if let Ok(stream) = stream.await {
                    kubelet.serve(TokioIo::new(stream), "the tunnel".to_owned()).await;
                }
            });
        } else {
            *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        }
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .serve_connection(connection, service)
        .await;
    tracing::info!(?served, "the tunnel to the server ended; opening another");
}
