//! `AdmissionReview`: what a webhook is asked, and what it may answer (`admission.k8s.io/v1`, and `v1beta1`, which differs in that
//! it forgives more).

use base64::Engine as _;
use coracle_api::ApiError;
use coracle_api::json::Json;
use coracle_api::status::Details;
use serde_json::{Map, Value, json};

use super::hook::Hook;
use crate::registry::admission::{Gv, Request};

/// Reasons that a denial may have; clients tell errors apart by them.
const REASONS: [&str; 17] = [
    "Unauthorized",
    "Forbidden",
    "NotFound",
    "AlreadyExists",
    "Conflict",
    "Gone",
    "Invalid",
    "ServerTimeout",
    "Timeout",
    "TooManyRequests",
    "BadRequest",
    "MethodNotAllowed",
    "NotAcceptable",
    "RequestEntityTooLarge",
    "UnsupportedMediaType",
    "InternalError",
    "ServiceUnavailable",
];

/// An answer that is one.
pub(super) struct Verdict {
    /// What it has against the request.
    pub(super) denied: Option<ApiError>,
    /// RFC 6902, if it wants to change the object.
    pub(super) patch: Option<Vec<u8>>,
    pub(super) warnings: Vec<String>,
    pub(super) annotations: Vec<(String, String)>,
}

/// What `hook` is asked, in its version; `resource` is the version of the resource that the objects are shown in.
pub(super) fn ask(
    hook: &Hook,
    request: &Request<'_>,
    resource: Gv<'_>,
    uid: &str,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Vec<u8> {
    let named =
        |gv: Gv<'_>, what: &str| json!({"group": gv.group, "version": gv.version, what: gv.name});
    let shown = |version: Gv<'_>| {
        let kind = request.object_kind();
        // Only objects of the collection's own kind have other versions.
        if kind.name == request.kind.kind {
            named(Gv { name: kind.name, ..version }, "kind")
        } else {
            named(kind, "kind")
        }
    };
    let asked = request.asked();
    let identity = request.caller.identity();
    let mut user = json!({"username": identity.user, "groups": identity.groups});
    if !identity.uid.is_empty() {
        user["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        user["extra"] = json!(identity.extra);
    }
    let mut out = json!({
        "uid": uid,
        "kind": shown(resource),
        "resource": named(resource, "resource"),
        "requestKind": shown(asked),
        "requestResource": named(asked, "resource"),
        "operation": request.operation.name(),
        "userInfo": user,
        "object": new,
        "oldObject": old,
        "dryRun": request.dry_run,
        "options": request.options(),
    });
    for (field, value) in [
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
        ("name", request.name),
        ("namespace", request.namespace),
    ] {
        if !value.is_empty() {
            out[field] = value.into();
        }
    }
    let review = json!({
        "kind": "AdmissionReview",
        "apiVersion": format!("admission.k8s.io/{}", hook.review),
        "request": out,
    });
    // Encoding a tree cannot fail.
    serde_json::to_vec(&review).unwrap_or_default()
}

/// What an answer says.
///
/// # Errors
/// Why it is none.
pub(super) fn read(
    hook: &Hook,
    uid: &str,
    mutating: bool,
    answer: &Value,
) -> Result<Verdict, String> {
    let response = answer.at(&["response"]).ok_or("webhook response was absent")?;
    let (patch, patch_type) = (response.text(&["patch"]), response.text(&["patchType"]));
    if hook.review == "v1" {
        let said = response.text(&["uid"]);
        if said != uid {
            return Err(format!("expected response.uid=\"{uid}\", got \"{said}\""));
        }
        let (version, kind) = (answer.text(&["apiVersion"]), answer.text(&["kind"]));
        if (version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {version}, Kind={kind}"
            ));
        }
        let wrong = match (mutating, patch.is_empty(), patch_type) {
            (true, false, "") => "webhook returned response.patch but not response.patchType",
            (true, true, given) if !given.is_empty() => {
                "webhook returned response.patchType but not response.patch"
            }
            (false, false, _) => "validating webhook may not return response.patch",
            (false, _, given) if !given.is_empty() => {
                "validating webhook may not return response.patchType"
            }
            _ => "",
        };
        if !wrong.is_empty() {
            return Err(wrong.to_owned());
        }
    }
    if !matches!(patch_type, "" | "JSONPatch") {
        return Err(format!("webhook returned invalid response.patchType of \"{patch_type}\""));
    }
    let patch = match patch {
        "" => None,
        patch => Some(
            base64::engine::general_purpose::STANDARD
                .decode(patch)
                .map_err(|error| format!("response.patch is no base64: {error}"))?,
        ),
    };
    let warnings = response.list(&["warnings"]).iter().filter_map(Value::as_str);
    let annotations = response.map(&["auditAnnotations"]).into_iter().flatten();
    let texts = annotations.filter_map(|(key, value)| {
        Some((format!("{}/{key}", hook.name), value.as_str()?.to_owned()))
    });
    Ok(Verdict {
        denied: (!response.flag(&["allowed"]))
            .then(|| denied(&hook.name, response.map(&["status"]))),
        patch: patch.filter(|_| mutating),
        warnings: warnings.map(str::to_owned).collect(),
        annotations: texts.collect(),
    })
}

fn denied(name: &str, status: Option<&Map<String, Value>>) -> ApiError {
    let none = Map::new();
    let status = status.unwrap_or(&none);
    let (message, reason) = (status.text(&["message"]), status.text(&["reason"]));
    let by = format!("admission webhook \"{name}\" denied the request");
    let text = match (message, reason) {
        ("", "") => format!("{by} without explanation"),
        ("", why) | (why, _) => format!("{by}: {why}"),
    };
    let code = status.int(&["code"]).and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
    let reason = REASONS.into_iter().find(|known| *known == reason).unwrap_or_default();
    let mut error = ApiError::new(code, reason, text);
    if let Some(details) = status.map(&["details"]) {
        let causes = details.list(&["causes"]).iter().map(|cause| {
            let text = |field: &str| cause.text(&[field]).to_owned();
            (text("reason"), text("message"), text("field"))
        });
        error.details = Some(Box::new(Details {
            name: details.text(&["name"]).to_owned(),
            group: details.text(&["group"]).to_owned(),
            kind: details.text(&["kind"]).to_owned(),
            causes: causes.collect(),
            retry_after_seconds: details
                .int(&["retryAfterSeconds"])
                .and_then(|s| s.try_into().ok()),
            ..Details::default()
        }));
    }
    error
}
