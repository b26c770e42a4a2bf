//! A certificate by a CertificateSigningRequest, as kubelets ask for theirs.

use std::time::Duration;

use coracle_api::csr::{NODE_CLIENT, NODE_USER, NODES, RENEWS};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use rcgen::{
    CertificateParams, CertificateSigningRequest as Request, DistinguishedName, DnType, KeyPair,
};

use crate::join::JoinError;

/// How long a decision may take that nobody has to think about.
const AT_ONCE: Duration = Duration::from_secs(10);
/// How long somebody may think about it.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// A request for a node's certificate of [`NODE_CLIENT`] or [`coracle_api::csr::NODE_SERVING`]. The server calls the node by its
/// name, whatever its address, so that is what it is reached under.
///
/// # Errors
/// When the name cannot be in a certificate.
pub(crate) fn of(node: &str, signer: &'static str, key: &KeyPair) -> Result<Request, JoinError> {
    let names = if signer == NODE_CLIENT { Vec::new() } else { vec![node.to_owned()] };
    let make = || {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, NODES);
        params.distinguished_name.push(DnType::CommonName, format!("{NODE_USER}{node}"));
        params.serialize_request(key)
    };
    make().map_err(|e: rcgen::Error| JoinError::Certificate { signer, why: e.to_string() })
}

/// Asks for a certificate, and waits for it; PEM. `proof` shows that this is the node that it was ([`RENEWS`]).
///
/// # Errors
/// When it is denied, cannot be signed, or nobody decides.
pub(crate) async fn certificate(
    client: &kube::Client,
    signer: &'static str,
    request: &Request,
    proof: Option<String>,
) -> Result<String, JoinError> {
    let failed = |why: String| JoinError::Certificate { signer, why };
    let pem = request.pem().map_err(|e| failed(e.to_string()))?;
    let usage = if signer == NODE_CLIENT { "client auth" } else { "server auth" };
    let object = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("node-csr-".to_owned()),
            annotations: proof.map(|proof| [(RENEWS.to_owned(), proof)].into()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), usage.to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let said = |error: kube::Error| match error {
        kube::Error::Api(status) => failed(status.message.clone()),
        error => failed(error.to_string()),
    };
    let made = api.create(&PostParams::default(), &object).await.map_err(said)?;
    let name = made.metadata.name.unwrap_or_default();
    let decided = await_condition(api, &name, |csr: Option<&CertificateSigningRequest>| {
        csr.is_none_or(|csr| outcome(csr).is_some())
    });
    tokio::pin!(decided);
    let csr = match tokio::time::timeout(AT_ONCE, &mut decided).await {
        Ok(csr) => csr,
        Err(_) => {
            tracing::warn!(
                "nobody has decided on this machine's certificate yet: `kubectl certificate approve {name}` does"
            );
            let waited = tokio::time::timeout(PATIENCE, decided).await;
            waited.map_err(|_| failed(format!("nobody has approved the request {name}")))?
        }
    };
    let csr = csr.map_err(|e| failed(e.to_string()))?;
    let outcome = csr.as_ref().and_then(outcome);
    outcome.unwrap_or_else(|| Err(format!("the request {name} was removed"))).map_err(failed)
}

/// The certificate, or why there will be none; None while neither is known.
fn outcome(csr: &CertificateSigningRequest) -> Option<Result<String, String>> {
    let status = csr.status.as_ref()?;
    if let Some(pem) = &status.certificate {
        return Some(String::from_utf8(pem.0.clone()).map_err(|e| e.to_string()));
    }
    let is_bad =
        |c: &&CertificateSigningRequestCondition| ["Denied", "Failed"].contains(&&*c.type_);
    let condition = status.conditions.iter().flatten().find(is_bad)?;
    let reason = condition.reason.clone().unwrap_or_default();
    Some(Err(condition.message.clone().filter(|said| !said.is_empty()).unwrap_or(reason)))
}
