//! How machines join: a secret in the data folder, shown to them as a token that also pins the CA.

use std::path::Path;

use coracle_api::{ApiError, status::FieldError};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::NODES;
use super::pki::{self, Pki, PkiError};

/// What a node must know of the cluster's network.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NetworkFacts {
    /// Tells clusters on one machine apart.
    pub cluster_id: String,
    /// The cluster's Pod range, of which that of every node is a part.
    pub pod_range: String,
    /// The cluster's Service range.
    pub service_range: String,
}

/// Body of `POST /coracle/v1/join`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// Name that the node wants.
    pub node_name: String,
    /// PEM request for the certificate it acts with.
    pub client_csr: String,
    /// PEM request for the certificate it is reached under.
    pub serving_csr: String,
}

/// Answer to it: PEM certificates, and the network.
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

/// The join secret, made on the first start; the whole token is kept in `data/token` for `coracle token create`.
pub(super) fn secret(data: &Path, pki: &Pki) -> Result<String, PkiError> {
    let path = data.join("token");
    if let Ok(text) = std::fs::read_to_string(&path)
        && let Some((head, secret)) = text.trim().rsplit_once('.')
        && head == format!("coracle1.{}", pki.ca_hash())
    {
        return Ok(secret.to_owned());
    }
    let secret = pki::hex(&rand::rng().random::<[u8; 16]>());
    pki::write(&path, &format!("{}\n", token(pki, &secret)))?;
    Ok(secret)
}

pub(super) fn token(pki: &Pki, secret: &str) -> String {
    format!("coracle1.{}.{secret}", pki.ca_hash())
}

pub(super) fn answer(
    pki: &Pki,
    secret: &str,
    network: &NetworkFacts,
    bearer: Option<&str>,
    body: &[u8],
) -> Result<JoinResponse, ApiError> {
    // Compared by hash, so that the time it takes says nothing about the secret.
    let same = |given: &str| Sha256::digest(given) == Sha256::digest(token(pki, secret));
    if !bearer.is_some_and(same) {
        return Err(ApiError::new(
            401,
            "Unauthorized",
            "the join token is not valid for this cluster; `coracle token create` on the server prints the right one",
        ));
    }
    let request: JoinRequest = serde_json::from_slice(body)
        .map_err(|e| ApiError::bad_request(format!("the join request is not readable: {e}")))?;
    let name = &request.node_name;
    if let Some(why) = coracle_api::names::subdomain(name) {
        let error = FieldError::invalid("node_name", name.as_str(), why);
        return Err(ApiError::new(422, "Invalid", error.to_string()));
    }
    let user = format!("system:node:{name}");
    let sign = |csr: &str, host| {
        pki.sign(csr, &user, &[NODES], host).map_err(|e| {
            ApiError::bad_request(format!("the certificate request cannot be signed: {e}"))
        })
    };
    Ok(JoinResponse {
        client_cert: sign(&request.client_csr, None)?,
        serving_cert: sign(&request.serving_csr, Some(name.as_str()))?,
        ca: pki.ca_pem().to_owned(),
        network: network.clone(),
    })
}
