//! Endpoints that tell what they were asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A running endpoint.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) heard: Arc<Heard>,
    task: tokio::task::JoinHandle<()>,
}

/// What it was asked.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) requests: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) targets: Mutex<Vec<String>>,
}

impl Endpoint {
    pub(crate) async fn start() -> Self {
        Self::listen(None).await
    }

    /// One that speaks TLS, with a certificate that nobody trusts.
    pub(crate) async fn secure() -> Self {
        let made = rcgen::generate_simple_self_signed(["pod".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes());
        let provider = rustls::crypto::ring::default_provider().into();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.expect("a key"))
            .expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::listen(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let heard = Arc::<Heard>::default();
        let told = heard.clone();
        let task = tokio::spawn(async move {
            let mut all = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                told.connections.fetch_add(1, Relaxed);
                let (told, tls) = (told.clone(), tls.clone());
                all.spawn(async move {
                    let service = service_fn(move |request| answer(told.clone(), request));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = match tls {
                        None => {
                            let stream = TokioIo::new(stream);
                            builder.serve_connection_with_upgrades(stream, service).await
                        }
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            let stream = TokioIo::new(stream);
                            builder.serve_connection_with_upgrades(stream, service).await
                        }
                    };
                });
            }
        });
        Self { address, heard, task }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.heard.requests.load(Relaxed)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Body = BoxBody<Bytes, hyper::Error>;

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// `/echo` gives the body back piece by piece, with trailers; `/slow` waits; `/ws` changes the protocol and echoes; `/early`
/// does not read; anything else tells the request's head.
async fn answer(
    heard: Arc<Heard>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    heard.requests.fetch_add(1, Relaxed);
    heard.targets.lock().expect("no panic").push(request.uri().path().to_owned());
    let mut response = match request.uri().path() {
        "/echo" => {
            let frames = request.into_body().into_data_stream();
            let frames = frames.map(|data| data.map(Frame::data));
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-sum", "1".parse().expect("a value"));
            let last = futures::stream::once(async { Ok(Frame::trailers(trailers)) });
            Response::new(BodyExt::boxed(StreamBody::new(frames.chain(last))))
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Response::new(full("slow"))
        }
        "/never" => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Response::new(full(""))
        }
        "/early" => Response::new(full("early")),
        "/ws" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let Ok(stream) = upgrade.await else { return };
                let mut stream = TokioIo::new(stream);
                let mut piece = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut piece).await {
                    if stream.write_all(&piece[..length]).await.is_err() {
                        return;
                    }
                }
            });
            let mut response = Response::new(full(""));
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "upgrade".parse().expect("a value"));
            response.headers_mut().insert("upgrade", "websocket".parse().expect("a value"));
            response
        }
        _ => {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let mut text = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
            for (name, value) in &parts.headers {
                text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
            }
            text.push_str(&format!("\n{}", String::from_utf8_lossy(&body)));
            Response::new(full(text))
        }
    };
    response.headers_mut().insert("keep-alive", "timeout=5".parse().expect("a value"));
    if response.status() == 200 && response.version() < http::Version::HTTP_2 {
        response.headers_mut().insert("x-endpoint", "yes".parse().expect("a value"));
    }
    Ok(response)
}
