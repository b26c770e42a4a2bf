//! Names of `spec.securityContext.sysctls`. Whether a node allows one is for the node to say.

use std::collections::HashSet;

use serde_json::Value;

use super::Errors;
use crate::json::Json;
use crate::path::Path;
use crate::status::FieldError;

const LONGEST: usize = 253;
const SYNTAX: &str =
    r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// Checks those of a Pod's spec.
pub(super) fn sysctls(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child("securityContext");
    let at = at.child("sysctls");
    let mut seen = HashSet::new();
    for (i, sysctl) in spec.list(&["securityContext", "sysctls"]).iter().enumerate() {
        let name = sysctl.text(&["name"]);
        let at = at.index(i);
        let at = at.child("name");
        if name.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        if !is_valid(name) {
            let detail = format!("must have at most {LONGEST} characters and match regex {SYNTAX}");
            errors.push(FieldError::invalid(at, name, detail));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(at, name));
        }
        // A Pod that is in the host's namespace would change it for all.
        if let Some(whose) = namespace(name).filter(|field| spec.flag(&[field])) {
            let detail = format!("may not be specified when '{whose}' is true");
            errors.push(FieldError::invalid(at, name, detail));
        }
    }
}

fn is_valid(name: &str) -> bool {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= LONGEST
        && name.split(['.', '/']).map(str::as_bytes).all(|segment| {
            segment.first().is_some_and(edge)
                && segment.last().is_some_and(edge)
                && segment.iter().all(|byte| edge(byte) || matches!(byte, b'-' | b'_'))
        })
}

/// The field by which a Pod shares the namespace that has it.
fn namespace(name: &str) -> Option<&'static str> {
    let name = name.replace('/', ".");
    let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
    match () {
        () if name.starts_with("net.") => Some("hostNetwork"),
        () if ipc.iter().any(|start| name.starts_with(start)) => Some("hostIPC"),
        () => None,
    }
}
