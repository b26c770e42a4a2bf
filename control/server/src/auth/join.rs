//! How machines join: what they get for their token.

use coracle_api::{ApiError, status::FieldError};
use serde::{Deserialize, Serialize};

use super::NODES;
use super::pki::Pki;

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

pub(super) fn answer(
    pki: &Pki,
    network: &NetworkFacts,
    body: &[u8],
) -> Result<JoinResponse, ApiError> {
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
