//! HTTP clients, one per way of trusting a host: nearly always one for all.
//!
//! Made when first needed, since reading the system's certificates takes milliseconds and a cluster that uses its own
//! registry alone never needs them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::images::settings::{Settings, Tls};
use crate::tls::{self, Presented};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(60);

/// A client for registries.
pub(super) type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// All clients of this node.
pub(super) struct Clients {
    settings: Arc<Settings>,
    made: Mutex<HashMap<Tls, Http>>,
}

impl Clients {
    /// None made yet.
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, made: Mutex::default() }
    }

    /// The client for a host, which may have a port.
    pub(super) fn client(&self, host: &str) -> Result<Http, String> {
        let tls = self.settings.tls(host).cloned().unwrap_or_default();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.get(&tls) {
            return Ok(client.clone());
        }
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT));
        http.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(configure(&tls)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(8)
            .build(connector);
        made.insert(tls, client.clone());
        Ok(client)
    }
}

fn configure(settings: &Tls) -> Result<ClientConfig, String> {
    let builder = if settings.insecure_skip_verify {
        // Whoever answers is believed, as long as they hold the key of the certificate they show.
        tls::client(|_: &Presented<'_>| Ok(())).map_err(|e| e.to_string())?
    } else {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a certificate authority of the system is not readable");
        }
        roots.add_parsable_certificates(found.certs);
        if let Some(path) = &settings.ca_file {
            let error = |e: &dyn std::fmt::Display| format!("ca_file {}: {e}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| error(&e))? {
                let certificate = certificate.map_err(|e| error(&e))?;
                roots.add(certificate).map_err(|e| error(&e))?;
            }
        }
        builder.with_root_certificates(roots)
    };
    let (Some(certificate), Some(key)) = (&settings.cert_file, &settings.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|e| format!("cert_file {}: {e}", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| format!("key_file {}: {e}", key.display()))?;
    builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())
}
