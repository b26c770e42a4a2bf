//! Probes and lifecycle handlers: exactly one way to act, and numbers in range.

use serde_json::Value;

use super::{Errors, not_negative, one_of, port};
use crate::json::Json;
use crate::path::Path;
use crate::status::FieldError;

pub(super) fn probe(probe: &Value, readiness: bool, at: &Path<'_>, errors: &mut Errors) {
    handler(probe, at, errors);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        not_negative(probe, field, at, errors);
    }
    if !readiness
        && let Some(threshold) = probe.int(&["successThreshold"])
        && threshold != 1
    {
        errors.push(FieldError::invalid(at.child("successThreshold"), threshold, "must be 1"));
    }
    if let Some(seconds) = probe.int(&["terminationGracePeriodSeconds"]) {
        let at = at.child("terminationGracePeriodSeconds");
        if readiness {
            errors.push(FieldError::invalid(at, seconds, "must not be set for readinessProbes"));
        } else if seconds <= 0 {
            errors.push(FieldError::invalid(at, seconds, "must be greater than 0"));
        }
    }
}

/// One of `exec`, `httpGet`, `tcpSocket`, `grpc`, `sleep`.
pub(super) fn handler(handler: &Value, at: &Path<'_>, errors: &mut Errors) {
    let mut given = 0;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(action) = handler.at(&[kind]) else { continue };
        let at = at.child(kind);
        given += 1;
        if given > 1 {
            errors.push(FieldError::forbidden(at, "may not specify more than 1 handler type"));
            continue;
        }
        match kind {
            "exec" if action.list(&["command"]).is_empty() => {
                errors.push(FieldError::required(at.child("command"), ""));
            }
            "httpGet" => {
                if action.text(&["path"]).is_empty() {
                    errors.push(FieldError::required(at.child("path"), ""));
                }
                port(action, &at, errors);
                one_of(action, &["scheme"], &at, &["HTTP", "HTTPS"], errors);
                for (i, header) in action.list(&["httpHeaders"]).iter().enumerate() {
                    header_name(header.text(&["name"]), &at.child("httpHeaders").index(i), errors);
                }
            }
            "tcpSocket" | "grpc" => port(action, &at, errors),
            _ => {}
        }
    }
    if given == 0 {
        errors.push(FieldError::required(at, "must specify a handler type"));
    }
}

fn header_name(name: &str, at: &Path<'_>, errors: &mut Errors) {
    let fine = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !fine {
        errors.push(FieldError::invalid(
            at.child("name"),
            name,
            "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
        ));
    }
}
