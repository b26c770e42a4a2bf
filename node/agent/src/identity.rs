//! Who a node is: a certificate that it acts with and one that it is reached under, both from the cluster's CA, kept in its
//! folder, and made anew before they expire.
//!
//! Nothing is restarted for that. Requests are sent through whatever client there is at the time: those under way go on over
//! their connection, the next ones show the new certificate; and so it is with connections to the kubelet API.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use coracle_api::csr::{NODE_CLIENT, NODE_SERVING};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::{SignedDuration, Timestamp};
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt as _};
use rand::RngExt as _;
use rcgen::KeyPair;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tower::ServiceBuilder;
use tower::retry::RetryLayer;

use crate::join::JoinError;
use crate::request;

/// File of the certificate that the node acts with, and its key.
pub(crate) const CLIENT: &str = "client.pem";
/// File of the certificate that it is reached under, and its key.
const SERVING: &str = "serving.pem";
/// How soon it is tried again what failed, at first and at last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often the certificates are looked at, at least: a machine may sleep, and its clock may be set.
const LOOK: Duration = Duration::from_secs(3600);
/// How long it may take to connect to the server.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a connection may be silent until the server is asked whether it knows it, how soon it is asked again, and when it
/// is given up, whoever spoke last.
const SILENT: Duration = Duration::from_secs(10);
const PROBE: Duration = Duration::from_secs(5);
const LOST: Duration = Duration::from_secs(20);
/// Which part of a certificate's time passes before the next one is asked for, in percent; where in between is chance, so
/// that machines that joined at once do not come back at once.
const RENEW: std::ops::Range<i64> = 70..90;

/// Who a node is; clones are the same.
#[derive(Clone)]
pub struct Identity {
    at: Arc<Place>,
    client: watch::Sender<Held<kube::Client>>,
    serving: watch::Sender<Held<Arc<rustls::ServerConfig>>>,
}

/// Where it belongs.
struct Place {
    server: http::Uri,
    node: String,
    dir: PathBuf,
    ca: CertificateDer<'static>,
}

/// What is made of a certificate, and when the next one is asked for.
#[derive(Clone)]
struct Held<T> {
    value: T,
    due: Timestamp,
}

/// A certificate and its key, PEM.
pub(crate) struct Pair(Vec<u8>);

impl Pair {
    /// Of a file; None if there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, JoinError> {
        match std::fs::read(path) {
            Ok(pem) => Ok(Some(Self(pem))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(JoinError::file(path, error)),
        }
    }

    /// A new certificate, which is put in the place of any older one, key and all at once.
    pub(crate) fn keep(path: &Path, certificate: &str, key: &KeyPair) -> Result<Self, JoinError> {
        let pem = format!("{}\n{}", certificate.trim_end(), key.serialize_pem());
        write(path, &pem)?;
        Ok(Self(pem.into_bytes()))
    }

    /// The certificate.
    pub(crate) fn certificate(&self) -> Result<CertificateDer<'static>, String> {
        CertificateDer::from_pem_slice(&self.0).map_err(|e| format!("no certificate: {e}"))
    }

    /// The key, as what signs requests.
    pub(crate) fn key(&self) -> Result<KeyPair, String> {
        let key = PrivateKeyDer::from_pem_slice(&self.0).map_err(|e| format!("no key: {e}"))?;
        KeyPair::try_from(&key).map_err(|e| e.to_string())
    }

    /// From when to when it holds.
    pub(crate) fn validity(&self) -> Result<(Timestamp, Timestamp), String> {
        let certificate = self.certificate()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|e| format!("no certificate: {e}"))?;
        let time = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|e| e.to_string())
        };
        let validity = certificate.validity();
        Ok((time(validity.not_before)?, time(validity.not_after)?))
    }

    /// When the next one is to be asked for.
    fn due(&self) -> Result<Timestamp, String> {
        let (from, to) = self.validity()?;
        let part = rand::rng().random_range(RENEW);
        let lifetime = to.duration_since(from).as_secs();
        Ok(from + SignedDuration::from_secs(lifetime / 100 * part + lifetime % 100 * part / 100))
    }
}

impl Identity {
    /// Of a node that has a certificate to act with. One to be reached under is asked for if it has none.
    ///
    /// # Errors
    /// When what is kept is not usable, or the server gives no certificate.
    pub(crate) async fn open(
        server: http::Uri,
        node: String,
        dir: PathBuf,
        ca: CertificateDer<'static>,
        pair: &Pair,
    ) -> Result<Self, JoinError> {
        let at = Arc::new(Place { server, node, dir, ca });
        let client = at.client(pair)?;
        let path = at.dir.join(SERVING);
        let pair = match Pair::read(&path)? {
            Some(pair) => pair,
            None => at.ask(&client.value, NODE_SERVING).await?,
        };
        let serving = at.serving(&pair)?;
        let (client, serving) = (watch::Sender::new(client), watch::Sender::new(serving));
        Ok(Self { at, client, serving })
    }

    /// A client of the API server, which acts as the node whatever its certificate is at the time.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(Current(self.client.subscribe()), "default")
    }

    /// How the kubelet API is served: with the node's certificate, and only to who shows one of the cluster's CA.
    pub(crate) fn serving(&self) -> impl Fn() -> Arc<rustls::ServerConfig> + Send + Sync + use<> {
        let serving = self.serving.subscribe();
        move || serving.borrow().value.clone()
    }

    /// Where the server has that path.
    pub(crate) fn url(&self, path: &str) -> http::Uri {
        let server = self.at.server.to_string();
        let url = format!("{}{path}", server.trim_end_matches('/')).parse();
        url.unwrap_or_else(|_| self.at.server.clone())
    }

    /// How it connects to the server with the certificate that it has now.
    ///
    /// # Errors
    /// When what is kept is not usable.
    pub(crate) fn tls(&self) -> Result<rustls::ClientConfig, JoinError> {
        let path = self.at.dir.join(CLIENT);
        let pair = Pair::read(&path)?.ok_or(JoinError::NoToken)?;
        let make = || {
            let mut roots = RootCertStore::empty();
            roots.add(self.at.ca.clone()).map_err(|e| e.to_string())?;
            let key = PrivateKeyDer::from_pem_slice(&pair.0).map_err(|e| format!("no key: {e}"))?;
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|e| e.to_string())?
                .with_root_certificates(roots)
                .with_client_auth_cert(vec![pair.certificate()?], key)
                .map_err(|e| e.to_string())
        };
        make().map_err(|why: String| JoinError::file(&path, why))
    }

    /// Asks for new certificates in time, for ever.
    pub async fn keep_fresh(self) {
        let mut retry = RETRY.0;
        loop {
            let due = self.client.borrow().due.min(self.serving.borrow().due);
            let left = Duration::try_from(due.duration_since(Timestamp::now()));
            if let Some(left) = left.ok().filter(|left| !left.is_zero()) {
                tokio::time::sleep(left.min(LOOK)).await;
                continue;
            }
            match self.renew().await {
                Ok(()) => retry = RETRY.0,
                Err(error) => {
                    tracing::warn!(%error, "the node's certificates cannot be renewed; trying again");
                    tokio::time::sleep(retry).await;
                    retry = RETRY.1.min(retry * 2);
                }
            }
        }
    }

    /// Asks for those that are due.
    async fn renew(&self) -> Result<(), JoinError> {
        let now = Timestamp::now();
        let client = self.client.borrow().clone();
        if client.due <= now {
            let pair = self.at.ask(&client.value, NODE_CLIENT).await?;
            self.client.send_replace(self.at.client(&pair)?);
            tracing::info!("the node acts with a new certificate");
        }
        if self.serving.borrow().due <= now {
            let client = self.client.borrow().value.clone();
            let pair = self.at.ask(&client, NODE_SERVING).await?;
            self.serving.send_replace(self.at.serving(&pair)?);
            tracing::info!("the node is reached under a new certificate");
        }
        Ok(())
    }
}

impl Place {
    /// Asks for a certificate as the node itself, and keeps it.
    async fn ask(&self, client: &kube::Client, signer: &'static str) -> Result<Pair, JoinError> {
        let file = if signer == NODE_CLIENT { CLIENT } else { SERVING };
        let path = self.dir.join(file);
        let key = KeyPair::generate().map_err(|e| JoinError::file(&path, e))?;
        let request = request::of(&self.node, signer, &key)?;
        Pair::keep(&path, &request::certificate(client, signer, &request, None).await?, &key)
    }

    fn client(&self, pair: &Pair) -> Result<Held<kube::Client>, JoinError> {
        let mut config = kube::Config::new(self.server.clone());
        config.root_cert = Some(vec![self.ca.to_vec()]);
        // Certificate and key are found in the same text.
        let inline = base64::engine::general_purpose::STANDARD.encode(&pair.0);
        config.auth_info.client_certificate_data = Some(inline.clone());
        config.auth_info.client_key_data = Some(inline.into());
        let make = || {
            let https = config.rustls_https_connector_with_connector(tcp())?;
            let client = Client::builder(TokioExecutor::new()).build(https);
            let again = RetryLayer::new(RetryPolicy::server_retry());
            let service = ServiceBuilder::new()
                .layer(config.base_uri_layer())
                .layer(again)
                .map_err(tower::BoxError::from)
                .service(client);
            Ok(kube::client::ClientBuilder::new(service, "default").build())
        };
        self.held(CLIENT, pair, make().map_err(|e: kube::Error| e.to_string()))
    }

    fn serving(&self, pair: &Pair) -> Result<Held<Arc<rustls::ServerConfig>>, JoinError> {
        let make = || {
            let mut roots = RootCertStore::empty();
            roots.add(self.ca.clone()).map_err(|e| e.to_string())?;
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                provider.clone(),
            );
            let key = PrivateKeyDer::from_pem_slice(&pair.0).map_err(|e| format!("no key: {e}"))?;
            let config = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|e| e.to_string())?
                .with_client_cert_verifier(verifier.build().map_err(|e| e.to_string())?)
                .with_single_cert(vec![pair.certificate()?], key)
                .map_err(|e| e.to_string())?;
            Ok(Arc::new(config))
        };
        self.held(SERVING, pair, make())
    }

    fn held<T>(
        &self,
        file: &str,
        pair: &Pair,
        value: Result<T, String>,
    ) -> Result<Held<T>, JoinError> {
        let held = value.and_then(|value| Ok(Held { value, due: pair.due()? }));
        held.map_err(|why| JoinError::file(&self.dir.join(file), why))
    }
}

/// Connections to the server, which end when it, or a router in between, has forgotten them: on one on which the server alone
/// speaks, as a watch's, that would be waited for in vain.
pub(crate) fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    // What is said in a terminal comes in small pieces.
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(SILENT));
    tcp.set_keepalive_interval(Some(PROBE));
    tcp.set_tcp_user_timeout(Some(LOST));
    tcp
}

/// Sends through whatever client there is at the time.
struct Current(watch::Receiver<Held<kube::Client>>);

impl tower::Service<Request<Body>> for Current {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.0.borrow().value.clone();
        async move { client.send(request).await }.boxed()
    }
}

/// Writes a file that only its owner can read, in place of any older one at once.
pub(crate) fn write(path: &Path, content: &str) -> Result<(), JoinError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let part = path.with_extension("part");
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&part);
    file.and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&part, path))
        .map_err(|error| JoinError::file(path, error))
}
