//! How a machine becomes a node: a token, a certificate request, and from then on its own identity.
//!
//! The token carries the hash of the cluster's CA, so that the first connection already knows whom it talks to. By the token
//! the machine gets a certificate as a node, by that one for its kubelet API ([`crate::identity`]). Both are kept under the
//! agent's data folder, and a restarted agent needs no token.

use std::path::{Path, PathBuf};

use coracle_api::bootstrap_token::JoinToken;
use coracle_api::csr::{self, NODE_CLIENT};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use rcgen::{KeyPair, SigningKey as _};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, RootCertStore};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::identity::{self, CLIENT, Identity, Pair};
use crate::images::hex;
use crate::request;
use crate::tls::{self, Presented};

/// File in which the network's facts are kept.
const NETWORK: &str = "network.json";
/// File of a key that a certificate was asked for, which has not come yet.
const ASKED: &str = "client.key";
/// Where machines ask for what they have to know.
const FACTS: &str = concat!("/coracle/v1/join?version=", env!("CARGO_PKG_VERSION"));
/// How long a node that returns waits for the server's word on that.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);

/// Why a machine could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There is no token, and no identity from an earlier join.
    #[error(
        "this machine has not joined yet: give --token (on the server, `coracle token create` prints one)"
    )]
    NoToken,
    /// Its identity does not hold.
    #[error(
        "this machine's certificate in {path} is valid from {from} to {to}, and its clock says {now}: if the clock is right, join again with --token (on the server, `coracle token create` prints one)"
    )]
    Expired {
        /// The file.
        path: PathBuf,
        /// Since when it is valid.
        from: Timestamp,
        /// Until when.
        to: Timestamp,
        /// This machine's time.
        now: Timestamp,
    },
    /// Its identity is another's.
    #[error(
        "{path} has the identity of another {what}; give another folder with --data, or join with --token (on the server, `coracle token create` prints one)"
    )]
    Other {
        /// The file.
        path: PathBuf,
        /// `node` or `cluster`.
        what: &'static str,
    },
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
    /// The cluster gives no certificate.
    #[error("the cluster gives this machine no certificate of {signer}: {why}")]
    Certificate {
        /// Who should have signed it.
        signer: &'static str,
        /// As it said.
        why: String,
    },
    /// Keys could not be made, read or written.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        why: String,
    },
}

impl JoinError {
    pub(crate) fn file(path: &Path, why: impl std::fmt::Display) -> Self {
        Self::File { path: path.to_owned(), why: why.to_string() }
    }
}

/// What the server tells whoever may join.
#[derive(Debug, Deserialize)]
struct Facts {
    /// The cluster's CA, PEM.
    ca: String,
    network: NetworkFacts,
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

/// What was kept in `dir` from an earlier join, or a new identity from the server by `token`.
///
/// # Errors
/// When there is neither, or the server refuses this machine; with what to do.
pub async fn join(
    server: &str,
    token: Option<&JoinToken>,
    node_name: &str,
    dir: &Path,
) -> Result<Joined, JoinError> {
    let uri: http::Uri = server
        .trim_end_matches('/')
        .parse()
        .map_err(|e: http::uri::InvalidUri| unreachable(server, e))?;
    std::fs::create_dir_all(dir).map_err(|e| JoinError::file(dir, e))?;
    take_over(dir)?;
    let kept = kept(node_name, token, dir).and_then(|kept| match (kept, token) {
        (Some(kept), _) if kept.expired.is_none() => Ok(Some(kept)),
        (kept, Some(_)) => Ok(kept),
        (Some(kept), None) => Err(kept.expired.unwrap_or(JoinError::NoToken)),
        (None, None) => Err(JoinError::NoToken),
    });
    let kept = match (kept, token) {
        (Ok(kept), _) => kept,
        // What is there is of no use, and another one is wanted.
        (Err(_), Some(_)) => None,
        (Err(error), None) => return Err(error),
    };
    let pair = match (kept, token) {
        (Some(Kept { pair, expired: None }), _) => {
            let joined = open(uri, node_name, dir, &pair).await?;
            still_fits(server, &joined.identity.client()).await?;
            return Ok(joined);
        }
        (kept, Some(token)) => ask(server, &uri, token, node_name, dir, kept).await?,
        (_, None) => return Err(JoinError::NoToken),
    };
    open(uri, node_name, dir, &pair).await
}

/// An identity that is there.
struct Kept {
    pair: Pair,
    /// Why it does not hold any more.
    expired: Option<JoinError>,
}

/// What is kept in `dir`, if it is that node's and, as far as a token tells, that cluster's.
fn kept(node: &str, token: Option<&JoinToken>, dir: &Path) -> Result<Option<Kept>, JoinError> {
    let path = dir.join(CLIENT);
    let Some(pair) = Pair::read(&path)? else { return Ok(None) };
    if read(dir, "name")? != node {
        return Err(JoinError::Other { path, what: "node" });
    }
    if token.is_some_and(|token| ca(dir).is_ok_and(|ca| token.ca_hash != hash(&ca))) {
        return Err(JoinError::Other { path, what: "cluster" });
    }
    let (from, to) = pair.validity().map_err(|why| JoinError::file(&path, why))?;
    let now = Timestamp::now();
    let expired = (now < from || now >= to).then_some(JoinError::Expired { path, from, to, now });
    Ok(Some(Kept { pair, expired }))
}

/// Older agents had certificates and keys in files apart.
fn take_over(dir: &Path) -> Result<(), JoinError> {
    for name in ["client", "serving"] {
        let [certificate, key] = ["crt", "key"].map(|end| dir.join(format!("{name}.{end}")));
        if let (Ok(pem), Ok(private)) =
            (std::fs::read_to_string(&certificate), std::fs::read_to_string(&key))
        {
            identity::write(&dir.join(format!("{name}.pem")), &format!("{pem}\n{private}"))?;
            let removed =
                std::fs::remove_file(&certificate).and_then(|()| std::fs::remove_file(&key));
            removed.map_err(|e| JoinError::file(&certificate, e))?;
        }
    }
    Ok(())
}

/// Asks the server by a token, and keeps what it gives. Whoever was that node before says so.
async fn ask(
    server: &str,
    uri: &http::Uri,
    token: &JoinToken,
    node: &str,
    dir: &Path,
    before: Option<Kept>,
) -> Result<Pair, JoinError> {
    let facts = facts(server, token).await?;
    let ca_path = dir.join("ca.crt");
    let ca = CertificateDer::from_pem_slice(facts.ca.as_bytes())
        .map_err(|e| JoinError::file(&ca_path, e))?;
    if hash(&ca) != token.ca_hash {
        return Err(unreachable(server, "it tells of another CA than the one that it has"));
    }
    let mut config = kube::Config::new(uri.clone());
    config.root_cert = Some(vec![ca.to_vec()]);
    config.auth_info.token = Some(token.bearer().into());
    let client = kube::Client::try_from(config).map_err(|e| unreachable(server, e))?;
    // Kept before it is asked for: if the answer is not heard, the same machine asks again, which the key shows.
    let asked = dir.join(ASKED);
    let key =
        match std::fs::read_to_string(&asked).ok().and_then(|pem| KeyPair::from_pem(&pem).ok()) {
            Some(key) => key,
            None => {
                let key = KeyPair::generate().map_err(|e| JoinError::file(&asked, e))?;
                identity::write(&asked, &key.serialize_pem())?;
                key
            }
        };
    let path = dir.join(CLIENT);
    let request = request::of(node, NODE_CLIENT, &key)?;
    let prove = |kept: Kept| {
        let pair = kept.pair;
        let signature = pair.key()?.sign(request.der()).map_err(|e| e.to_string())?;
        Ok(csr::renews(&pair.certificate()?, &signature))
    };
    let proof = before.map(prove).transpose();
    let proof = proof.map_err(|why: String| JoinError::file(&path, why))?;
    let certificate = request::certificate(&client, NODE_CLIENT, &request, proof).await?;
    let network = serde_json::to_string_pretty(&facts.network)
        .map_err(|e| JoinError::file(&dir.join(NETWORK), e))?;
    for (name, content) in [("ca.crt", facts.ca.as_str()), ("name", node), (NETWORK, &network)] {
        identity::write(&dir.join(name), content)?;
    }
    // Of an earlier identity.
    let _ = std::fs::remove_file(dir.join("serving.pem"));
    // Last: its presence says that the rest is there.
    let pair = Pair::keep(&path, &certificate, &key)?;
    let _ = std::fs::remove_file(&asked);
    Ok(pair)
}

async fn open(uri: http::Uri, node: &str, dir: &Path, pair: &Pair) -> Result<Joined, JoinError> {
    let identity = Identity::open(uri, node.to_owned(), dir.to_owned(), ca(dir)?, pair).await?;
    let network = serde_json::from_str(&read(dir, NETWORK)?)
        .map_err(|e| JoinError::file(&dir.join(NETWORK), e))?;
    Ok(Joined { identity, network })
}

/// Whether the server still takes this program, if it can be asked: Pods are not to wait for a server that is away.
async fn still_fits(server: &str, client: &kube::Client) -> Result<(), JoinError> {
    let Ok(request) = Request::get(FACTS).body(Vec::new()) else { return Ok(()) };
    let asked = tokio::time::timeout(PATIENCE, client.request::<serde_json::Value>(request));
    match asked.await {
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 401 | 403) => {
            Err(JoinError::Refused { url: server.to_owned(), why: status.message.clone() })
        }
        _ => Ok(()),
    }
}

fn read(dir: &Path, name: &str) -> Result<String, JoinError> {
    let path = dir.join(name);
    std::fs::read_to_string(&path).map_err(|e| JoinError::file(&path, e))
}

fn ca(dir: &Path) -> Result<CertificateDer<'static>, JoinError> {
    let pem = read(dir, "ca.crt")?;
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| JoinError::file(&dir.join("ca.crt"), e))
}

fn hash(ca: &CertificateDer<'_>) -> String {
    hex(&Sha256::digest(ca))
}

fn unreachable(url: &str, why: impl std::fmt::Display) -> JoinError {
    JoinError::Unreachable { url: url.to_owned(), why: why.to_string() }
}

/// What the server tells who shows a token; it is shown to a server of the cluster that it is for, and to no other.
async fn facts(server: &str, token: &JoinToken) -> Result<Facts, JoinError> {
    let failed = |why: String| unreachable(server, why);
    let ca_hash = token.ca_hash.clone();
    let tls = tls::client(move |shown: &Presented<'_>| pinned(&ca_hash, shown))
        .map_err(|e| failed(e.to_string()))?
        .with_no_client_auth();
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .build();
    let client: Client<_, Empty<bytes::Bytes>> =
        Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(format!("{}{FACTS}", server.trim_end_matches('/')))
        .header(http::header::AUTHORIZATION, format!("Bearer {}", token.bearer()))
        .body(Empty::new())
        .map_err(|e| failed(e.to_string()))?;
    let answer = client.request(request).await.map_err(|e| {
        let mut why = e.to_string();
        let mut source = std::error::Error::source(&e);
        while let Some(cause) = source {
            why = format!("{why}: {cause}");
            source = cause.source();
        }
        failed(why)
    })?;
    let status = answer.status();
    let bytes = answer.into_body().collect().await.map_err(|e| failed(e.to_string()))?.to_bytes();
    if status.is_success() {
        return serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()));
    }
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let why = json["message"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    Err(JoinError::Refused { url: server.to_owned(), why })
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
    let checked = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?
        .verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
    checked.map(drop).map_err(|error| by_the_clock(error, now))
}

/// What a wrong clock looks like.
fn by_the_clock(error: rustls::Error, now: UnixTime) -> rustls::Error {
    let seconds = |time: UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let time = |time: UnixTime| {
        Timestamp::from_second(seconds(time)).map_or_else(|e| e.to_string(), |t| t.to_string())
    };
    let valid = match &error {
        rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before,
            ..
        }) => format!("from {} on", time(*not_before)),
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after, ..
        }) => format!("until {}", time(*not_after)),
        _ => return error,
    };
    rustls::Error::General(format!(
        "the server's certificate is valid {valid}, and this machine's clock says {}: set the clock of the one that is wrong",
        time(now)
    ))
}

#[cfg(test)]
mod tests;
