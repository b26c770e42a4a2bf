//! How a machine becomes a node: a token, two certificate requests, and from then on its own identity.
//!
//! The token carries the hash of the cluster's CA, so that the first connection already knows whom it talks to. What
//! comes back is kept under the agent's data folder, and a restarted agent needs no token.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use coracle_api::bootstrap_token::JoinToken;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::images::hex;
use crate::tls::{self, Presented};

/// File in which the network's facts are kept.
const NETWORK: &str = "network.json";

/// Why a machine could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There is no token, and no identity from an earlier join.
    #[error(
        "this machine has not joined yet: give --token (on the server, `coracle token create` prints one)"
    )]
    NoToken,
    /// The server could not be reached.
    #[error("cannot reach the server at {url}: {why}")]
    Unreachable {
        /// Its address.
        url: String,
        /// What happened.
        why: String,
    },
    /// The server refused.
    #[error("the server at {url} refused this machine: {why}")]
    Refused {
        /// Its address.
        url: String,
        /// As it said.
        why: String,
    },
    /// Keys could not be made, read or written.
    #[error("{path}: {why}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What happened.
        why: String,
    },
}

/// Body of `POST /coracle/v1/join`.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Name that the node wants.
    pub node_name: String,
    /// PEM request for the certificate it acts with.
    pub client_csr: String,
    /// PEM request for the certificate it is reached under.
    pub serving_csr: String,
}

/// Answer to it: PEM certificates.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinResponse {
    /// `CN=system:node:NAME, O=system:nodes`.
    pub client_cert: String,
    /// For the kubelet API.
    pub serving_cert: String,
    /// The cluster's CA.
    pub ca: String,
    /// The network.
    pub network: NetworkFacts,
}

/// What a node must know of the cluster's network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NetworkFacts {
    /// Tells clusters on one machine apart.
    pub cluster_id: String,
    /// The cluster's Pod range, of which that of every node is a part.
    pub pod_range: String,
    /// The cluster's Service range.
    pub service_range: String,
}

/// What joining brings.
pub struct Joined {
    /// Who the node is.
    pub identity: Identity,
    /// The network it is part of.
    pub network: NetworkFacts,
}

/// Who a node is: everything it needs to speak and to be spoken to.
pub struct Identity {
    /// For the client of the API server.
    pub kube: kube::Config,
    /// For the kubelet API: serves with the node's certificate, and asks for one of the cluster's CA.
    pub serving: Arc<rustls::ServerConfig>,
}

/// What was kept in `dir` from an earlier join, or a new identity from the server by `token`. The server calls the node
/// by its name, whatever its address, so that is what the serving certificate is for.
pub async fn join(
    server: &str,
    token: Option<&JoinToken>,
    node_name: &str,
    dir: &Path,
) -> Result<Joined, JoinError> {
    if dir.join("client.crt").exists()
        && let Ok(joined) = load(server, node_name, token, dir)
    {
        return Ok(joined);
    }
    let token = token.ok_or(JoinError::NoToken)?;
    std::fs::create_dir_all(dir).map_err(|e| identity_error(dir, e))?;
    let mut keys = Vec::new();
    let mut request = |common_name: &str, usage, sans: Vec<SanType>| {
        let fail = |e: rcgen::Error| identity_error(dir, e);
        let key = KeyPair::generate().map_err(fail)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![usage];
        params.subject_alt_names = sans;
        let csr = params.serialize_request(&key).and_then(|r| r.pem()).map_err(fail)?;
        keys.push(key.serialize_pem());
        Ok::<_, JoinError>(csr)
    };
    let name = format!("system:node:{node_name}");
    let sans: Vec<SanType> = node_name.try_into().ok().map(SanType::DnsName).into_iter().collect();
    let body = JoinRequest {
        node_name: node_name.to_owned(),
        client_csr: request(&name, ExtendedKeyUsagePurpose::ClientAuth, vec![])?,
        serving_csr: request(&name, ExtendedKeyUsagePurpose::ServerAuth, sans)?,
    };
    let answer = ask(server, token, &body).await?;
    let path = dir.join(NETWORK);
    let network =
        serde_json::to_string_pretty(&answer.network).map_err(|e| identity_error(&path, e))?;
    let files = [
        ("client.key", &keys[0]),
        ("serving.key", &keys[1]),
        ("serving.crt", &answer.serving_cert),
        ("ca.crt", &answer.ca),
        ("name", &node_name.to_owned()),
        (NETWORK, &network),
        // Last: its presence says that the rest is there.
        ("client.crt", &answer.client_cert),
    ];
    for (name, content) in files {
        write(&dir.join(name), content)?;
    }
    load(server, node_name, None, dir)
}

async fn ask(
    server: &str,
    token: &JoinToken,
    body: &JoinRequest,
) -> Result<JoinResponse, JoinError> {
    let unreachable = |why: String| JoinError::Unreachable { url: server.to_owned(), why };
    let ca_hash = token.ca_hash.clone();
    let tls = tls::client(move |shown: &Presented<'_>| pinned(&ca_hash, shown))
        .map_err(|e| unreachable(e.to_string()))?
        .with_no_client_auth();
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .build();
    let client: Client<_, Full<bytes::Bytes>> =
        Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::post(format!("{}/coracle/v1/join", server.trim_end_matches('/')))
        .header(http::header::AUTHORIZATION, format!("Bearer {}", token.bearer()))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(serde_json::to_vec(body).map_err(|e| unreachable(e.to_string()))?.into()))
        .map_err(|e| unreachable(e.to_string()))?;
    let answer = client.request(request).await.map_err(|e| {
        let mut why = e.to_string();
        let mut source = std::error::Error::source(&e);
        while let Some(cause) = source {
            why = format!("{why}: {cause}");
            source = cause.source();
        }
        unreachable(why)
    })?;
    let status = answer.status();
    let bytes =
        answer.into_body().collect().await.map_err(|e| unreachable(e.to_string()))?.to_bytes();
    if status.is_success() {
        return serde_json::from_slice(&bytes).map_err(|e| unreachable(e.to_string()));
    }
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let why = json["message"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    Err(JoinError::Refused { url: server.to_owned(), why })
}

/// Fails also where what was kept is another node's, or (as far as a token tells) another cluster's.
fn load(
    server: &str,
    node_name: &str,
    token: Option<&JoinToken>,
    dir: &Path,
) -> Result<Joined, JoinError> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).map_err(|e| identity_error(&path, e))
    };
    let pem_error =
        |name: &str, e: rustls::pki_types::pem::Error| identity_error(&dir.join(name), e);
    let ca_pem = read("ca.crt")?;
    let ca = CertificateDer::from_pem_slice(&ca_pem).map_err(|e| pem_error("ca.crt", e))?;
    let uri = server
        .parse::<http::Uri>()
        .map_err(|e| JoinError::Unreachable { url: server.to_owned(), why: e.to_string() })?;
    if read("name")? != node_name.as_bytes() {
        return Err(identity_error(&dir.join("name"), "the identity kept here is another node's"));
    }
    if token.is_some_and(|t| t.ca_hash != hex(&Sha256::digest(&ca))) {
        return Err(identity_error(
            &dir.join("ca.crt"),
            "the identity kept here is another cluster's",
        ));
    }
    let network = serde_json::from_slice(&read(NETWORK)?)
        .map_err(|e| identity_error(&dir.join(NETWORK), e))?;
    let mut kube = kube::Config::new(uri);
    kube.root_cert = Some(vec![ca.to_vec()]);
    let inline = |pem: Vec<u8>| base64::engine::general_purpose::STANDARD.encode(pem);
    kube.auth_info.client_certificate_data = Some(inline(read("client.crt")?));
    kube.auth_info.client_key_data = Some(inline(read("client.key")?).into());

    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|e| identity_error(&dir.join("ca.crt"), e))?;
    let chain = CertificateDer::pem_slice_iter(&read("serving.crt")?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| pem_error("serving.crt", e))?;
    let key = PrivateKeyDer::from_pem_slice(&read("serving.key")?)
        .map_err(|e| pem_error("serving.key", e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls_error = |e: &dyn std::fmt::Display| identity_error(dir, e);
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        provider.clone(),
    )
    .build()
    .map_err(|e| tls_error(&e))?;
    let serving = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| tls_error(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| tls_error(&e))?;
    Ok(Joined { identity: Identity { kube, serving: Arc::new(serving) }, network })
}

pub(crate) fn write(path: &Path, content: &str) -> Result<(), JoinError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut f| f.write_all(content.as_bytes())).map_err(|e| identity_error(path, e))
}

fn identity_error(path: &Path, why: impl std::fmt::Display) -> JoinError {
    JoinError::Identity { path: path.to_owned(), why: why.to_string() }
}

/// Trusts the chain that holds the pinned CA, and checks the server's certificate against that CA as usual.
fn pinned(ca_hash: &str, shown: &Presented<'_>) -> Result<(), rustls::Error> {
    let ca = shown.intermediates.iter().find(|c| hex(&Sha256::digest(c)) == ca_hash);
    let ca = ca.ok_or_else(|| {
        rustls::Error::General("the token is for another cluster than this server's; on this server, `coracle token create` prints one for it".to_owned())
    })?;
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    let Presented { end_entity, intermediates, name, ocsp_response, now, provider } = *shown;
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?
        .verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        .map(drop)
}
