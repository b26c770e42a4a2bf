//! APIService: who serves a group's version.

use serde_json::json;

use super::common::{AGE, NAME, object_age, prepare_with_labels, text};
use super::*;
use crate::json::{Json, default_number, object};
use crate::names;
use crate::path::Path;

/// `apiservices.apiregistration.k8s.io`.
pub static KIND: Kind = Kind {
    group: "apiregistration.k8s.io",
    kind: "APIService",
    plural: "apiservices",
    singular: "apiservice",
    resource: "apiservices.apiregistration.k8s.io",
    categories: &["api-extensions"],
    namespaced: false,
    subresources: &[Subresource::Status],
    name_rule: NameRule::PathSegment,
    default: |api| {
        let spec = api.as_object_mut().and_then(|api| object(api, "spec"));
        if let Some(service) = spec.and_then(|spec| object(spec, "service")) {
            default_number(service, "port", 443);
        }
    },
    prepare: |prepare| match prepare {
        Prepare::Create(new) => {
            let Some(fields) = new.as_object_mut() else { return };
            fields.remove("status");
            // What this server serves itself is there at once.
            if !fields.has(&["spec", "service"]) {
                let since = fields.at(&["metadata", "creationTimestamp"]).cloned();
                let available = json!({
                    "type": "Available",
                    "status": "True",
                    "reason": "Local",
                    "message": "Local APIServices are always available",
                    "lastTransitionTime": since,
                });
                fields.insert("status".into(), json!({"conditions": [available]}));
            }
        }
        other => prepare_with_labels(other),
    },
    validate,
    columns: &[
        NAME,
        text("Service", "The Service that serves it, or this server."),
        text("Available", "Whether it can be asked."),
        AGE,
    ],
    cells: |object, now| {
        let api = object.value();
        let service = match api.at(&["spec", "service"]) {
            None => "Local".to_owned(),
            Some(service) => {
                format!("{}/{}", service.text(&["namespace"]), service.text(&["name"]))
            }
        };
        let conditions = api.list(&["status", "conditions"]);
        let available = conditions.iter().find(|c| c.text(&["type"]) == "Available");
        let available = match available.map(|c| (c.text(&["status"]), c.text(&["reason"]))) {
            None => "Unknown".to_owned(),
            Some(("True", _)) => "True".to_owned(),
            Some((status, reason)) => format!("{status} ({reason})"),
        };
        let name = object.meta.name.as_str().into();
        vec![name, service.into(), available.into(), object_age(object, now)]
    },
    ..Kind::BASE
};

/// The highest priorities of groups, and of versions.
const MAX_PRIORITIES: [(&str, i64); 2] =
    [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)];

fn validate(api: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let spec = api.at(&["spec"]).unwrap_or(&Value::Null);
    let (group, version) = (spec.text(&["group"]), spec.text(&["version"]));
    let (name, wanted) = (api.text(&["metadata", "name"]), format!("{version}.{group}"));
    if name != wanted {
        let why = format!("must be `spec.version+\".\"+spec.group`: \"{wanted}\"");
        errors.push(FieldError::invalid("metadata.name", name, why));
    }
    if group.is_empty() {
        if version != "v1" {
            let why = "only v1 may have an empty group and it better be legacy kube";
            errors.push(FieldError::required(at.child("group"), why));
        }
    } else if let Some(problem) = names::subdomain(group) {
        errors.push(FieldError::invalid(at.child("group"), group, problem));
    }
    if let Some(problem) = names::label_1035(version) {
        errors.push(FieldError::invalid(at.child("version"), version, problem));
    }
    for (field, most) in MAX_PRIORITIES {
        let priority = spec.int(&[field]).unwrap_or(0);
        if priority <= 0 || priority > most {
            let why = format!("must be positive and less than {most}");
            errors.push(FieldError::invalid(at.child(field), priority, why));
        }
    }
    let (bundle, insecure) = (spec.text(&["caBundle"]), spec.flag(&["insecureSkipTLSVerify"]));
    let skips = |why: &str| FieldError::invalid(at.child("insecureSkipTLSVerify"), true, why);
    match spec.at(&["service"]) {
        None => {
            if !bundle.is_empty() {
                let size = format!("{} bytes", bundle.len() / 4 * 3);
                let why = "local APIServices may not have a caBundle";
                errors.push(FieldError::invalid(at.child("caBundle"), size, why));
            }
            if insecure {
                errors.push(skips("local APIServices may not have insecureSkipTLSVerify"));
            }
        }
        Some(service) => {
            let at = at.child("service");
            for field in ["namespace", "name"] {
                if service.text(&[field]).is_empty() {
                    errors.push(FieldError::required(at.child(field), ""));
                }
            }
            let port = service.int(&["port"]).unwrap_or(0);
            if let Some(problem) = names::port_number(port) {
                let problem = format!("port is not valid: {problem}");
                errors.push(FieldError::invalid(at.child("port"), port, problem));
            }
            if insecure && !bundle.is_empty() {
                errors.push(skips("may not be true if caBundle is present"));
            }
        }
    }
    let list = Path::new("status.conditions");
    for (i, condition) in api.list(&["status", "conditions"]).iter().enumerate() {
        let status = condition.text(&["status"]);
        if !matches!(status, "True" | "False" | "Unknown") {
            let all = ["True", "False", "Unknown"];
            errors.push(FieldError::not_supported(list.index(i).child("status"), status, &all));
        }
    }
    errors
}
