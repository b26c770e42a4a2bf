//! CertificateSigningRequest.

use super::common::{AGE, NAME, fields, object_age, or, status_and_labels, text};
use super::*;
use crate::age::human_duration;
use crate::csr;
use crate::json::{Json, keep};
use crate::path::Path;

/// `certificatesigningrequests.certificates.k8s.io`.
pub static KIND: Kind = Kind {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    resource: "certificatesigningrequests.certificates.k8s.io",
    short_names: &["csr"],
    namespaced: false,
    subresources: &[Subresource::Status, Subresource::Approval],
    name_rule: NameRule::PathSegment,
    prepare,
    validate,
    validate_create,
    validate_update,
    columns: &[
        NAME,
        AGE,
        text("SignerName", "Who is to sign it."),
        text("Requestor", "Who asked for it."),
        text("RequestedDuration", "For how long it is asked for."),
        text("Condition", "How far it is."),
    ],
    cells,
    fields: fields!["spec.signerName"],
    ..Kind::BASE
};

/// What a decision is told by; only those who approve write it.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];
/// Shortest lifetime that may be asked for, in seconds.
const SHORTEST: i64 = 600;
const USAGES: [&str; 23] = [
    "signing",
    "digital signature",
    "content commitment",
    "key encipherment",
    "key agreement",
    "data encipherment",
    "cert sign",
    "crl sign",
    "encipher only",
    "decipher only",
    "any",
    "server auth",
    "client auth",
    "code signing",
    "email protection",
    "s/mime",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "timestamping",
    "ocsp signing",
    "microsoft sgc",
    "netscape sgc",
];

/// The spec stays as it was asked for, and what is decided and issued is written through subresources alone.
fn prepare(prepare: Prepare<'_>) {
    match prepare {
        Prepare::Create(new) => {
            if let Some(new) = new.as_object_mut() {
                new.remove("status");
            }
        }
        Prepare::Update { new, old } => {
            if let Some(new) = new.as_object_mut() {
                keep(new, old, "spec");
                keep(new, old, "status");
            }
        }
        Prepare::Status { new, old } => {
            status_and_labels(new, old);
            // Who signs need not know what was decided.
            let decided = |kind: &&str| !csr::has(new, kind);
            let missing: Vec<&str> = DECISIONS.into_iter().filter(decided).collect();
            let kept: Vec<Value> = conditions(old)
                .iter()
                .filter(|c| missing.contains(&c.text(&["type"])))
                .cloned()
                .collect();
            if !kept.is_empty() {
                match &mut new["status"]["conditions"] {
                    Value::Array(list) => list.splice(0..0, kept).for_each(drop),
                    none => *none = kept.into(),
                }
            }
        }
    }
}

fn conditions(csr: &Value) -> &[Value] {
    csr.list(&["status", "conditions"])
}

fn validate_create(it: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    if let Err(why) = csr::Request::of(it) {
        let request = it.text(&["spec", "request"]);
        errors.push(FieldError::invalid(spec.child("request"), request, why));
    }
    errors
}

fn validate(it: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let signer = it.text(&["spec", "signerName"]);
    if signer.is_empty() {
        errors.push(FieldError::required(spec.child("signerName"), ""));
    } else if signer == "kubernetes.io/legacy-unknown" {
        let why = "the legacy signerName is not allowed via this API version";
        errors.push(FieldError::invalid(spec.child("signerName"), signer, why));
    } else {
        let domain = signer.split_once('/').filter(|(domain, path)| {
            domain.contains('.')
                && crate::names::subdomain(domain).is_none()
                && path.split('.').all(|part| crate::names::subdomain(part).is_none())
        });
        if domain.is_none() {
            let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.push(FieldError::invalid(spec.child("signerName"), signer, why));
        }
    }
    let usages = it.list(&["spec", "usages"]);
    let at = spec.child("usages");
    if usages.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else {
        for (i, usage) in usages.iter().enumerate() {
            if !usage.as_str().is_some_and(|usage| USAGES.contains(&usage)) {
                let known: Vec<&str> = USAGES.to_vec();
                let usage = usage.as_str().unwrap_or_default();
                errors.push(FieldError::not_supported(at.index(i), usage, &known));
            } else if usages[..i].contains(usage) {
                errors.push(FieldError::duplicate(at.index(i), usage.clone()));
            }
        }
    }
    if let Some(seconds) = it.int(&["spec", "expirationSeconds"])
        && seconds < SHORTEST
    {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(spec.child("expirationSeconds"), seconds, why));
    }
    let at = Path::new("status.conditions");
    for (i, condition) in conditions(it).iter().enumerate() {
        let (kind, status) = (condition.text(&["type"]), condition.text(&["status"]));
        let at = at.index(i);
        if kind.is_empty() {
            errors.push(FieldError::required(at.child("type"), ""));
        }
        match (kind, status) {
            (_, "") => errors.push(FieldError::required(at.child("status"), "")),
            ("Approved" | "Denied" | "Failed", status) if status != "True" => {
                errors.push(FieldError::not_supported(at.child("status"), status, &["True"]));
            }
            (_, "True" | "False" | "Unknown") => {}
            (_, status) => errors.push(FieldError::not_supported(
                at.child("status"),
                status,
                &["False", "True", "Unknown"],
            )),
        }
    }
    if DECISIONS.iter().all(|kind| csr::has(it, kind)) {
        let why = "Approved and Denied conditions are mutually exclusive";
        errors.push(FieldError::invalid("status.conditions", "Denied", why));
    }
    errors
}

/// What neither a status nor a decision may take back.
fn lasting(new: &Value, old: &Value) -> Vec<FieldError> {
    let gone = ["Approved", "Denied", "Failed"]
        .into_iter()
        .filter(|kind| csr::has(old, kind) && !csr::has(new, kind));
    let forbid = |kind: &str| {
        let why = format!("updates may not remove a condition of type \"{kind}\"");
        FieldError::forbidden("status.conditions", why)
    };
    gone.map(forbid).collect()
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = lasting(new, old);
    for kind in DECISIONS {
        let find = |it| conditions(it).iter().find(|c| c.text(&["type"]) == kind).cloned();
        let (is, was): (Option<Value>, Option<Value>) = (find(new), find(old));
        let what = match (&is, &was) {
            (Some(_), None) => "add",
            (Some(is), Some(was)) if is != was => "modify",
            _ => continue,
        };
        let why = format!("updates may not {what} a condition of type \"{kind}\"");
        errors.push(FieldError::forbidden("status.conditions", why));
    }
    let certificate = |it: &Value| it.text(&["status", "certificate"]).to_owned();
    if !certificate(old).is_empty() && certificate(new) != certificate(old) {
        let why = "updates may not modify existing certificate content";
        errors.push(FieldError::forbidden("status.certificate", why));
    }
    errors
}

/// A change through `/approval`, of which only the conditions are taken.
pub(super) fn approval_update(new: &Value, old: &Value) -> Vec<FieldError> {
    lasting(new, old)
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let it = object.value();
    let mut condition = ["Denied", "Approved"]
        .into_iter()
        .find(|kind| csr::has(&it, kind))
        .unwrap_or("Pending")
        .to_owned();
    if csr::has(&it, "Failed") {
        condition.push_str(",Failed");
    }
    if !it.text(&["status", "certificate"]).is_empty() {
        condition.push_str(",Issued");
    }
    let duration = it.int(&["spec", "expirationSeconds"]).map(human_duration);
    vec![
        object.meta.name.as_str().into(),
        object_age(object, now),
        or(it.text(&["spec", "signerName"]), "<none>").into(),
        it.text(&["spec", "username"]).into(),
        duration.as_deref().unwrap_or("<none>").into(),
        condition.into(),
    ]
}
