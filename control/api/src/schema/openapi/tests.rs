use serde_json::{Value, json};

use super::*;
use crate::kinds;

fn resources(group: &str) -> Vec<Resource<'static>> {
    let all = kinds::ALL.iter().filter(|k| k.group == group);
    all.map(|k| Resource::builtin(k).unwrap_or_else(|| panic!("{k:?} has no schema"))).collect()
}

/// Every `$ref` of a document leads somewhere.
fn check_references(document: &Value, at: &Value) {
    match at {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let pointer = reference.strip_prefix('#').expect("a local reference");
                assert!(document.pointer(pointer).is_some_and(Value::is_object), "{reference}");
            }
            map.values().for_each(|v| check_references(document, v));
        }
        Value::Array(items) => items.iter().for_each(|v| check_references(document, v)),
        _ => {}
    }
}

#[test]
fn every_kind_is_in_both_versions() {
    let everything: Vec<_> = kinds::ALL.iter().filter_map(|k| Resource::builtin(k)).collect();
    assert_eq!(everything.len(), kinds::ALL.len());
    let document = v2(&everything, "v1.36.0");
    check_references(&document, &document);
    for group in ["", "apps", "coordination.k8s.io", "rbac.authorization.k8s.io"] {
        let document = v3(&resources(group), "v1.36.0");
        check_references(&document, &document);
    }
}

#[test]
fn patch_tells_what_kubectl_looks_for() {
    let document = v3(&resources("apps"), "v1.36.0");
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    let names: Vec<_> = patch["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    let scale =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"];
    assert_eq!(scale["operationId"], "readAppsV1NamespacedDeploymentScale");
    assert_eq!(scale["x-kubernetes-group-version-kind"]["kind"], "Scale");
}

#[test]
fn definitions_carry_merge_keys() {
    let document = v3(&resources(""), "v1.36.0");
    let schemas = &document["components"]["schemas"];
    let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    assert_eq!(ports["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(
        ports["items"],
        json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.ContainerPort"}], "default": {}})
    );
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
    assert_eq!(
        schemas["io.k8s.api.core.v1.PodList"]["x-kubernetes-group-version-kind"][0]["kind"],
        "PodList"
    );
    let volumes = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
    assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
}

/// Follows field numbers into length-delimited fields; gives the first match.
fn dig<'a>(mut bytes: &'a [u8], path: &[u64]) -> Option<&'a [u8]> {
    let varint = |bytes: &mut &'a [u8]| {
        let mut n = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = bytes.split_first()?;
            *bytes = rest;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Some(n)
    };
    let Some((wanted, rest)) = path.split_first() else { return Some(bytes) };
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let length = varint(&mut bytes)?;
        if key & 7 == 2 {
            let (value, after) = bytes.split_at_checked(length as usize)?;
            if key >> 3 == *wanted
                && let Some(found) = dig(value, rest)
            {
                return Some(found);
            }
            bytes = after;
        }
    }
    None
}

#[test]
fn v2_is_protobuf_too() {
    let encoded = gnostic::encode(&v2(&resources("apps"), "v1.36.0"));
    assert_eq!(dig(&encoded, &[1]), Some(&b"2.0"[..]));
    // paths.path.name; definitions.additional_properties.name
    assert_eq!(dig(&encoded, &[8, 2, 1]), Some(&b"/apis/apps/v1/controllerrevisions"[..]));
    assert_eq!(dig(&encoded, &[9, 1, 1]), Some(&b"io.k8s.api.apps.v1.ControllerRevision"[..]));
    // The first definition's type is one text.
    assert_eq!(dig(&encoded, &[9, 1, 2, 22, 1]), Some(&b"object"[..]));
    // Some operation's parameter, in the query, is `dryRun`.
    assert_eq!(dig(&encoded, &[8, 2, 2, 5, 8, 1, 2, 3, 4]), Some(&b"dryRun"[..]));
}
