//! Who asks for certificates, and who may decide on them and issue them (upstream's admission plugins
//! CertificateSubjectRestriction, CertificateApproval and CertificateSigning).

use coracle_api::csr::{CLIENT, Request};
use coracle_api::json::Json;
use coracle_api::kinds::CERTIFICATE_SIGNING_REQUEST as CSR;
use coracle_api::{ApiError, Cluster};
use serde_json::{Value, json};

use crate::auth::{Attributes, Identity, MASTERS, rbac};

/// Refuses certificates that nobody may have.
///
/// # Errors
/// 403 for such a one.
pub(super) fn check(new: &Value) -> Result<(), ApiError> {
    let signer = new.text(&["spec", "signerName"]);
    let masters = |request: Request| request.organizations.iter().any(|group| group == MASTERS);
    if signer == CLIENT && Request::of(new).is_ok_and(masters) {
        let why = format!("use of {CLIENT} signer with {MASTERS} group is not allowed");
        return Err(refused(new, &why));
    }
    Ok(())
}

/// Writes into a new request who asks, whatever it says itself.
pub(in crate::registry) fn sign_as(identity: &Identity, new: &mut Value) {
    if !new["spec"].is_object() {
        return;
    }
    new["spec"]["username"] = json!(identity.user);
    new["spec"]["groups"] = json!(identity.groups);
    for spec in new["spec"].as_object_mut().into_iter() {
        for (field, value, is_empty) in [
            ("uid", json!(identity.uid), identity.uid.is_empty()),
            ("extra", json!(identity.extra), identity.extra.is_empty()),
        ] {
            match is_empty {
                true => spec.remove(field),
                false => spec.insert(field.to_owned(), value),
            };
        }
    }
}

/// Whether somebody may decide on a request, or issue its certificate.
///
/// # Errors
/// 403 for who may not.
pub(super) fn change(
    cluster: &Cluster,
    identity: &Identity,
    subresource: &str,
    old: &Value,
) -> Result<(), ApiError> {
    let verb = match subresource {
        "approval" => "approve",
        "status" => "sign",
        _ => return Ok(()),
    };
    let signer = old.text(&["spec", "signerName"]);
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    let may = |name: String| {
        let wanted = Attributes {
            verb: verb.to_owned(),
            group: CSR.group.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Attributes::default()
        };
        rbac::allows(cluster, identity, &wanted)
    };
    let is_master = identity.groups.iter().any(|group| group == MASTERS);
    if is_master || may(signer.to_owned()) || may(format!("{domain}/*")) {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName \"{signer}\"");
    Err(refused(old, &why))
}

fn refused(csr: &Value, why: &str) -> ApiError {
    ApiError::forbidden(&CSR, csr.text(&["metadata", "name"]), why)
}
