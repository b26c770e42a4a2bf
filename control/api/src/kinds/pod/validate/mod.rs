//! Checks of Pods and Pod templates (`pkg/apis/core/validation` upstream), run after defaults.

mod container;
mod ephemeral;
mod probe;
mod resize;
mod scheduling;
mod sysctl;
mod update;
mod volume;

use std::collections::HashSet;

use serde_json::Value;

use crate::json::Json;
use crate::kinds::workload::not_negative;
use crate::meta::{validate_annotations, validate_labels};
use crate::names;
use crate::path::Path;
use crate::quantity::Quantity;
use crate::status::FieldError;

pub(in crate::kinds) use ephemeral::{on_create as pod_create, update as ephemeral_update};
pub(in crate::kinds) use resize::{only as resized, update as resize_update};
pub(in crate::kinds) use scheduling::node_selector;
pub(in crate::kinds) use update::pod as pod_update;
pub(in crate::kinds) use volume::source as volume_source;

/// What is wrong so far. Checks add to it and go on, so that a user sees everything at once.
pub(super) type Errors = Vec<FieldError>;

/// Checks a Pod.
pub(in crate::kinds) fn pod(pod: &Value) -> Errors {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    pod_spec(pod.at(&["spec"]).unwrap_or(&Value::Null), &at, &mut errors);
    one_of(pod, &["spec", "restartPolicy"], &at, &["Always", "Never", "OnFailure"], &mut errors);
    errors
}

/// Checks a template of Pods that run for as long as their owner wants them.
pub(in crate::kinds) fn template(template: &Value, at: &Path<'_>, errors: &mut Errors) {
    template_spec(template, at, errors);
    let at = at.child("spec");
    one_of(template, &["spec", "restartPolicy"], &at, &["Always"], errors);
    if template.has(&["spec", "activeDeadlineSeconds"]) {
        errors.push(FieldError::forbidden(
            at.child("activeDeadlineSeconds"),
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        ));
    }
}

/// Checks a template of Pods, whatever their restart policy.
pub(in crate::kinds) fn template_spec(template: &Value, at: &Path<'_>, errors: &mut Errors) {
    let meta = at.child("metadata");
    errors.extend(validate_labels(template.at(&["metadata", "labels"]), &meta.child("labels")));
    errors.extend(validate_annotations(
        template.at(&["metadata", "annotations"]),
        &meta.child("annotations"),
    ));
    pod_spec(template.at(&["spec"]).unwrap_or(&Value::Null), &at.child("spec"), errors);
}

fn pod_spec(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let volumes = volume::volumes(spec.list(&["volumes"]), &at.child("volumes"), errors);
    let containers = spec.list(&["containers"]);
    if containers.is_empty() {
        errors.push(FieldError::required(at.child("containers"), ""));
    }
    let mut seen = HashSet::new();
    let own_users = spec["hostUsers"] == false;
    let context = container::Context {
        volumes,
        host_network: spec.flag(&["hostNetwork"]),
        os: spec.text(&["os", "name"]),
        own_users,
    };
    let starts_again = spec.text(&["restartPolicy"]) != "Never";
    for list in ["containers", "initContainers"] {
        let at = at.child(list);
        for (i, item) in spec.list(&[list]).iter().enumerate() {
            let at = at.index(i);
            container::container(item, list == "initContainers", &context, &at, errors);
            resize::policies(item, starts_again, &at, errors);
            let name = item.text(&["name"]);
            if !name.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(at.child("name"), name));
            }
        }
    }
    ephemeral::containers(spec, &mut seen, &context, at, errors);
    container::host_port_conflicts(containers, &at.child("containers"), errors);

    one_of(
        spec,
        &["dnsPolicy"],
        at,
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        errors,
    );
    if spec.text(&["dnsPolicy"]) == "None"
        && spec.list(&["dnsConfig", "nameservers"]).is_empty()
    {
        errors.push(FieldError::required(
            at.child("dnsConfig").child("nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        ));
    }
    for (field, check) in [
        ("serviceAccountName", names::subdomain as fn(&str) -> names::Problem),
        ("nodeName", names::subdomain),
        ("priorityClassName", names::subdomain),
        ("runtimeClassName", names::subdomain),
        ("hostname", names::label_1123),
        ("subdomain", names::label_1123),
        ("schedulerName", names::qualified),
    ] {
        let value = spec.text(&[field]);
        if !value.is_empty()
            && let Some(problem) = check(value)
        {
            errors.push(FieldError::invalid(at.child(field), value, problem));
        }
    }
    if let Some(seconds) = spec.int(&["activeDeadlineSeconds"])
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.push(FieldError::invalid(
            at.child("activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        ));
    }
    for (i, alias) in spec.list(&["hostAliases"]).iter().enumerate() {
        let ip = alias.text(&["ip"]);
        if let Some(problem) = names::ip(ip) {
            errors.push(FieldError::invalid(
                at.child("hostAliases").index(i).child("ip"),
                ip,
                problem,
            ));
        }
    }
    if let Some(overhead) = spec.map(&["overhead"]) {
        for (name, value) in overhead {
            quantity(value, &at.child("overhead").key(name), errors);
        }
    }
    security_ids(spec, at, errors);
    sysctl::sysctls(spec, at, errors);
    if own_users {
        // The names of the last two are upstream's.
        for (field, name) in
            [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
        {
            if spec.flag(&[field]) {
                let detail = "when `pod.Spec.HostUsers` is false";
                errors.push(FieldError::forbidden(at.child(name), detail));
            }
        }
    }
    scheduling::scheduling(spec, at, errors);
}

/// User and group numbers of a Pod's or container's security context.
fn security_ids(object: &Value, at: &Path<'_>, errors: &mut Errors) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(id) = object.int(&["securityContext", field])
            && !(0..=i64::from(i32::MAX)).contains(&id)
        {
            errors.push(FieldError::invalid(
                at.child("securityContext").child(field),
                id,
                "must be between 0 and 2147483647, inclusive",
            ));
        }
    }
}

/// A required text out of an enumeration; the path ends in the field.
fn one_of(object: &Value, path: &[&str], at: &Path<'_>, allowed: &[&str], errors: &mut Errors) {
    let value = object.text(path);
    let at = at.child(path.last().copied().unwrap_or(""));
    if value.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if !allowed.contains(&value) {
        errors.push(FieldError::not_supported(at, value, allowed));
    }
}

/// A quantity that is none, or below zero.
pub(in crate::kinds) fn quantity(value: &Value, at: &Path<'_>, errors: &mut Errors) {
    if let Some(problem) = Quantity::problem(value) {
        errors.push(FieldError::invalid(at, value.clone(), problem.to_string()));
    } else if Quantity::of(value).is_some_and(|q| q.is_negative()) {
        errors.push(FieldError::invalid(
            at,
            value.clone(),
            "must be greater than or equal to 0",
        ));
    }
}

/// A required port: a number, or the name of one.
fn port(object: &Value, at: &Path<'_>, errors: &mut Errors) {
    let problem = match object.get("port") {
        Some(Value::String(name)) => names::port_name(name),
        Some(number) => names::port_number(number.as_i64().unwrap_or(0)),
        None => names::port_number(0),
    };
    if let Some(problem) = problem {
        let value = object.get("port").cloned().unwrap_or(Value::from(0));
        errors.push(FieldError::invalid(at.child("port"), value, problem));
    }
}

#[cfg(test)]
mod tests;
