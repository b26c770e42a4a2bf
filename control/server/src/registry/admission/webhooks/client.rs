//! Calling webhooks: HTTPS with the trust that a configuration names, to a URL or to a ready endpoint of a Service.
//!
//! Connections are kept and shared by all webhooks with the same trust; [`Reach`] makes them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;

use crate::reach::Reach;

/// An answer may have so many bytes: a patch may hold an object anew, in base64.
const ANSWER: usize = 8 << 20;
/// How much of an answer that is no AdmissionReview is told.
const TOLD: usize = 512;
/// Trusts for which connections are kept; beyond, all are made anew.
const KEPT: usize = 64;
const IDLE: Duration = Duration::from_secs(30);
const IDLE_PER_HOST: usize = 16;

type HttpsClient = Client<HttpsConnector<Reach>, Full<Bytes>>;

/// Whom a client trusts, and as whom it calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Trust {
    /// Certificates, PEM; none: those that this machine trusts.
    pub(crate) ca: Vec<u8>,
    /// The client's own certificate and its key, PEM.
    pub(crate) certificate: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the other side's certificate must have; none: that in the URL.
    pub(crate) name: String,
}

/// Clients by the trust that they have.
pub(crate) struct Clients {
    reach: Reach,
    known: Mutex<HashMap<Trust, HttpsClient>>,
}

impl Clients {
    pub(crate) fn new(reach: Reach) -> Self {
        Self { reach, known: Mutex::default() }
    }

    /// Sends a request, and reads the answer whatever it is.
    ///
    /// # Errors
    /// Why there is none, in the words that upstream's users know where there are such.
    pub(crate) async fn send(
        &self,
        trust: &Trust,
        request: http::request::Builder,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), String> {
        let request =
            request.body(Full::from(body)).map_err(|error| format!("the request: {error}"))?;
        let what = match request.method() {
            &http::Method::POST => "Post",
            _ => "Get",
        };
        let what = format!("{what} \"{}\"", request.uri());
        let failed = |why: String| format!("{what}: {why}");
        let client = self.of(trust).map_err(failed)?;
        let call = async {
            let answer = client.request(request).await.map_err(|error| failed(cause(&error)))?;
            let status = answer.status();
            let read = Limited::new(answer.into_body(), ANSWER).collect().await;
            let read = read.map_err(|error| failed(cause(&*error)))?.to_bytes();
            Ok::<_, String>((status, read))
        };
        match tokio::time::timeout(timeout, call).await {
            Ok(answer) => answer,
            Err(_) => Err(failed("context deadline exceeded".into())),
        }
    }

    /// POSTs a body and reads a JSON answer.
    ///
    /// # Errors
    /// What went wrong, in the words that upstream's users know where there are such.
    pub(crate) async fn post(
        &self,
        url: &str,
        ca: &[u8],
        timeout: Duration,
        body: Vec<u8>,
    ) -> Result<Value, String> {
        // As upstream tells the webhook how long there is.
        let url = format!("{url}?timeout={}s", timeout.as_secs());
        let trust = Trust { ca: ca.to_vec(), ..Trust::default() };
        let request = Request::post(url.as_str())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*");
        let (status, read) = self.send(&trust, request, body, timeout).await?;
        if !status.is_success() {
            return Err(refused(status, &read));
        }
        serde_json::from_slice(&read)
            .map_err(|error| format!("the answer is no JSON: {error}: {}", told(&read)))
    }

    fn of(&self, trust: &Trust) -> Result<HttpsClient, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(trust) {
            return Ok(client.clone());
        }
        if known.len() >= KEPT {
            known.clear();
        }
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots(&trust.ca)?);
        let tls = match &trust.certificate {
            None => tls.with_no_client_auth(),
            Some((chain, key)) => {
                let bad = |error: String| format!("unable to load the client certificate: {error}");
                let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
                let chain = chain.map_err(|error| bad(error.to_string()))?;
                let key =
                    PrivateKeyDer::from_pem_slice(key).map_err(|error| bad(error.to_string()))?;
                tls.with_client_auth_cert(chain, key).map_err(|error| bad(error.to_string()))?
            }
        };
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
        let https = match trust.name.as_str() {
            "" => https,
            name => {
                let name = ServerName::try_from(name.to_owned())
                    .map_err(|error| format!("tls-server-name \"{name}\": {error}"))?;
                https.with_server_name_resolver(FixedServerNameResolver::new(name))
            }
        };
        let https = https.enable_all_versions().wrap_connector(self.reach.clone());
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .build(https);
        known.insert(trust.clone(), client.clone());
        Ok(client)
    }
}

/// The certificates of a bundle, or those that this machine trusts.
pub(crate) fn roots(ca: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if ca.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    }
    for certificate in CertificateDer::pem_slice_iter(ca) {
        let certificate =
            certificate.map_err(|e| format!("unable to load root certificates: {e}"))?;
        roots.add(certificate).map_err(|e| format!("unable to load root certificates: {e}"))?;
    }
    if roots.is_empty() {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".into());
    }
    Ok(roots)
}

fn refused(status: StatusCode, body: &[u8]) -> String {
    match status.as_u16() {
        404 => "the server could not find the requested resource".into(),
        503 => "the server is currently unable to handle the request".into(),
        _ => format!(
            "an error on the server ({:?}) has prevented the request from succeeding",
            told(body)
        ),
    }
}

fn told(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(TOLD)]).trim().to_owned()
}

/// The innermost cause, in Go's words for the usual one.
pub(crate) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    let text = inner.to_string();
    if text.contains("UnknownIssuer") {
        return "tls: failed to verify certificate: x509: certificate signed by unknown authority"
            .into();
    }
    text
}
