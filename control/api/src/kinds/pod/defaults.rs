//! Defaults of Pods and Pod templates (`pkg/apis/core/v1/defaults.go`).
//!
//! [`pod_spec`] is what a template gets too; a Pod gets a little more, which must not show up in the workloads that
//! made it: requests from limits, host ports, tolerations.

use serde_json::{Map, Value, json};

use crate::json::{
    Fields, Json, default_number, default_text, object, object_or_new, objects, set_default,
};
use crate::pod::{TOLERATION_SECONDS, tolerate_lost_nodes};
use crate::quantity::Quantity;

/// Defaults of a whole Pod.
pub(in crate::kinds) fn pod(pod: &mut Value) {
    let Some(spec) = pod.as_object_mut().and_then(|pod| object_or_new(pod, "spec")) else { return };
    pod_spec(spec);
    // As upstream, which took any number once.
    if spec.int(&["terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
        spec.insert("terminationGracePeriodSeconds".into(), 1.into());
    }
    for list in ["containers", "initContainers"] {
        for container in objects(spec, list) {
            requests_from_limits(container);
        }
    }
    if let Some(resources) = object(spec, "resources") {
        resource_requirements(resources);
    }
    set_default(spec, "enableServiceLinks", || true);
    if spec.flag(&["hostNetwork"]) {
        for list in ["containers", "initContainers"] {
            for container in objects(spec, list) {
                for port in objects(container, "ports") {
                    if let Some(number) = port.int(&["containerPort"]) {
                        default_number(port, "hostPort", number);
                    }
                }
            }
        }
    }
    tolerate_lost_nodes(spec, TOLERATION_SECONDS);
}

/// Defaults of a `PodTemplateSpec`.
pub(in crate::kinds) fn template(template: &mut Fields) {
    set_default(template, "metadata", Map::new);
    if let Some(spec) = object_or_new(template, "spec") {
        pod_spec(spec);
    }
}

/// Defaults of a Pod's spec, wherever it is.
fn pod_spec(spec: &mut Fields) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "schedulerName", "default-scheduler");
    set_default(spec, "securityContext", Map::new);
    set_default(spec, "terminationGracePeriodSeconds", || 30);
    mirror_service_account(spec);
    if let Some(overhead) = object(spec, "overhead") {
        quantities(overhead);
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for item in objects(spec, list) {
            container(item);
        }
    }
    for item in objects(spec, "volumes") {
        volume(item);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; each is filled from the other.
fn mirror_service_account(spec: &mut Fields) {
    let (name, old) = (spec.text(&["serviceAccountName"]), spec.text(&["serviceAccount"]));
    let name = if name.is_empty() { old } else { name };
    if !name.is_empty() && (spec.text(&["serviceAccountName"]), old) != (name, name) {
        let name = name.to_owned();
        for field in ["serviceAccountName", "serviceAccount"] {
            spec.insert(field.into(), name.as_str().into());
        }
    }
}

fn container(container: &mut Fields) {
    if container.text(&["imagePullPolicy"]).is_empty() {
        let policy = pull_policy(container.text(&["image"]));
        container.insert("imagePullPolicy".into(), policy.into());
    }
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    if let Some(resources) = object_or_new(container, "resources") {
        resource_requirements(resources);
    }
    for port in objects(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for env in objects(container, "env") {
        if let Some(from) = object(env, "valueFrom") {
            field_sources(from);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object(container, name) {
            default_number(probe, "timeoutSeconds", 1);
            default_number(probe, "periodSeconds", 10);
            default_number(probe, "successThreshold", 1);
            default_number(probe, "failureThreshold", 3);
            if let Some(grpc) = object(probe, "grpc") {
                set_default(grpc, "service", || "");
            }
            http_get(probe);
        }
    }
    if let Some(lifecycle) = object(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(handler) = object(lifecycle, name) {
                http_get(handler);
            }
        }
    }
}

/// `Always` for an image without tag or digest, or tagged `latest`.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    let moving = !image.contains('@')
        && match name.rsplit_once(':') {
            Some((_, tag)) => tag == "latest",
            None => true,
        };
    if moving { "Always" } else { "IfNotPresent" }
}

fn http_get(handler: &mut Fields) {
    if let Some(get) = object(handler, "httpGet") {
        default_text(get, "path", "/");
        default_text(get, "scheme", "HTTP");
    }
}

/// `fieldRef` and `resourceFieldRef` of an environment variable or of a file in a downward API volume.
fn field_sources(from: &mut Fields) {
    if let Some(field) = object(from, "fieldRef") {
        default_text(field, "apiVersion", "v1");
    }
    if let Some(field) = object(from, "resourceFieldRef") {
        set_default(field, "divisor", || "0");
        if let Some(divisor) = field.get_mut("divisor") {
            Quantity::canonicalise(divisor);
        }
    }
}

fn resource_requirements(resources: &mut Fields) {
    for name in ["limits", "requests"] {
        if let Some(list) = object(resources, name) {
            quantities(list);
        }
    }
}

/// Quantities of a resource list in canonical form, nothing finer than a thousandth.
pub(in crate::kinds) fn quantities(list: &mut Fields) {
    for value in list.values_mut() {
        if let Some(quantity) = Quantity::of(value)
            && quantity != Quantity::from_milli(quantity.milli())
            && quantity.milli().abs() < i64::MAX
        {
            *value = Quantity::from_milli(quantity.milli()).to_string().into();
        } else {
            Quantity::canonicalise(value);
        }
    }
}

fn requests_from_limits(container: &mut Fields) {
    let Some(resources) = object(container, "resources") else { return };
    let Some(limits) = resources.map(&["limits"]).cloned() else { return };
    if let Some(requests) = object_or_new(resources, "requests") {
        for (name, limit) in limits {
            set_default(requests, &name, || limit);
        }
    }
}

fn volume(volume: &mut Fields) {
    if volume.len() == usize::from(volume.contains_key("name")) {
        volume.insert("emptyDir".into(), json!({}));
    }
    if let Some(empty) = object(volume, "emptyDir")
        && let Some(limit) = empty.get_mut("sizeLimit")
    {
        Quantity::canonicalise(limit);
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = object(volume, name) {
            set_default(source, "defaultMode", || 0o644);
            for item in objects(source, "items") {
                field_sources(item);
            }
            for part in objects(source, "sources") {
                if let Some(token) = object(part, "serviceAccountToken") {
                    set_default(token, "expirationSeconds", || 3600);
                }
                if let Some(downward) = object(part, "downwardAPI") {
                    for item in objects(downward, "items") {
                        field_sources(item);
                    }
                }
            }
        }
    }
    if let Some(host) = object(volume, "hostPath") {
        set_default(host, "type", || "");
    }
    if let Some(image) = object(volume, "image")
        && image.text(&["pullPolicy"]).is_empty()
    {
        let policy = pull_policy(image.text(&["reference"]));
        image.insert("pullPolicy".into(), policy.into());
    }
    if let Some(spec) = object(volume, "ephemeral")
        .and_then(|e| object(e, "volumeClaimTemplate"))
        .and_then(|t| object(t, "spec"))
    {
        set_default(spec, "volumeMode", || "Filesystem");
    }
}
