use serde_json::{Value, json};

use super::*;
use crate::schema::builtin;

fn patched(kind: PatchType, current: Value, patch: &Value) -> Result<Value, PatchError> {
    let pod = builtin().by_gvk("", "v1", "Pod").expect("Pod is built in");
    apply(kind, current, patch.to_string().as_bytes(), pod)
}

fn check(kind: PatchType, current: Value, patch: Value, expected: Value) {
    assert_eq!(patched(kind, current, &patch).as_ref(), Ok(&expected), "{patch}");
}

#[test]
fn merge_patch() {
    // The table of RFC 7386, appendix A, where target and patch are objects.
    for (current, patch, expected) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        check(PatchType::Merge, current, patch, expected);
    }
    assert!(matches!(
        patched(PatchType::Merge, json!({}), &json!([1])),
        Err(PatchError::BadRequest(_))
    ));
}

#[test]
fn json_patch() {
    let current = json!({"spec": {"replicas": 1, "list": [1, 2]}});
    check(
        PatchType::Json,
        current.clone(),
        json!([{"op": "test", "path": "/spec/replicas", "value": 1}, {"op": "replace", "path": "/spec/replicas", "value": 3},
               {"op": "add", "path": "/spec/list/-", "value": 3}, {"op": "remove", "path": "/spec/list/0"}]),
        json!({"spec": {"replicas": 3, "list": [2, 3]}}),
    );
    let refused =
        |patch| patched(PatchType::Json, current.clone(), &patch).expect_err("a bad patch");
    assert!(matches!(
        refused(json!([{"op": "remove", "path": "/nope"}])),
        PatchError::Unprocessable(_)
    ));
    assert!(matches!(
        refused(json!([{"op": "test", "path": "/spec/replicas", "value": 2}])),
        PatchError::Unprocessable(_)
    ));
    assert!(matches!(refused(json!({"op": "x"})), PatchError::BadRequest(_)));
    assert!(matches!(
        refused(Value::Array(vec![json!({"op": "test", "path": "", "value": 1}); 10_001])),
        PatchError::TooLarge(_)
    ));
    let doubling: Vec<_> = (0..40)
        .map(|i| json!({"op": "copy", "from": "/spec", "path": format!("/spec/c{i}")}))
        .collect();
    assert!(matches!(refused(Value::Array(doubling)), PatchError::TooLarge(_)));
}

/// Strategic patches of a Pod's parts: current, patch, expected.
#[test]
fn strategic_patch() {
    for (current, patch, expected) in [
        // Objects merge, null deletes, replaced lists are replaced.
        (
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"nodeName": "n"}}),
            json!({"metadata": {"labels": {"b": null, "c": "3"}}}),
            json!({"metadata": {"labels": {"a": "1", "c": "3"}}, "spec": {"nodeName": "n"}}),
        ),
        (
            json!({"spec": {"tolerations": [{"key": "a"}]}}),
            json!({"spec": {"tolerations": [{"key": "b", "value": null}]}}),
            json!({"spec": {"tolerations": [{"key": "b"}]}}),
        ),
        // Lists of objects merge by key; new items go before what only the server has at the end.
        (
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "2"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}}),
        ),
        (
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c", "$retainKeys": ["name"]}]}}),
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "image": "2"}, {"name": "c"}]}}),
        ),
        // Directives as items.
        (
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
            json!({"spec": {"containers": [{"name": "b"}]}}),
        ),
        (
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "x"}, {"$patch": "replace"}]}}),
            json!({"spec": {"containers": [{"name": "x"}]}}),
        ),
        (
            json!({"spec": {}}),
            json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "b"}]}}),
        ),
        // Directives on objects.
        (
            json!({"spec": {"securityContext": {"runAsUser": 1}}}),
            json!({"spec": {"securityContext": {"$patch": "replace", "runAsGroup": 2}}}),
            json!({"spec": {"securityContext": {"runAsGroup": 2}}}),
        ),
        (
            json!({"spec": {"securityContext": {"runAsUser": 1}}}),
            json!({"spec": {"securityContext": {"$patch": "delete"}}}),
            json!({"spec": {"securityContext": {}}}),
        ),
        // A volume changes its kind: keys that are not retained go.
        (
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}}]}}),
        ),
        // Scalars unite; some are deleted.
        (
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["d", "a"],
                    "$setElementOrder/finalizers": ["d", "a"]}}),
            json!({"metadata": {"finalizers": ["d", "a", "c"]}}),
        ),
        (
            json!({"metadata": {}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}}),
            json!({"metadata": {}}),
        ),
        // Ordered lists, as kubectl apply sends them.
        (
            json!({"spec": {"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
            json!({"spec": {"containers": [{"name": "server"}, {"name": "b"}, {"name": "a"}]}}),
        ),
        (
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "n"}, {"name": "c"}, {"name": "a"}],
                    "containers": [{"name": "n", "image": "i"}, {"$patch": "delete", "name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "n", "image": "i"}, {"name": "c"}, {"name": "a"}]}}),
        ),
        (
            json!({"spec": {"containers": [{"name": "a"}]}}),
            json!({"spec": {"$setElementOrder/initContainers": [{"name": "i"}], "initContainers": [{"name": "i"}]}}),
            json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}}),
        ),
        // Ports merge by containerPort, env by name, deep inside.
        (
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}], "env": [{"name": "X", "value": "1"}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "web"}],
                    "env": [{"name": "X", "value": null, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "web"}],
                    "env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]}]}}),
        ),
    ] {
        check(PatchType::Strategic, current, patch, expected);
    }
}

#[test]
fn strategic_patches_refused() {
    let current = json!({"spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v"}]}});
    for (patch, expected) in [
        (json!({"spec": {"$patch": "explode"}}), "unknown patch type: \"explode\" in map: {}"),
        (
            json!({"spec": {"containers": [{"image": "i"}]}}),
            "map: {\"image\":\"i\"} does not contain declared merge key: name",
        ),
        (
            json!({"spec": {"$retainKeys": ["a"], "nodeName": "b"}}),
            "invalid patch format of retainKeys",
        ),
        (
            json!({"spec": {"containers": [{"name": "x"}], "$setElementOrder/containers": [{"name": "a"}]}}),
            "The order in patch list:\n[{\"name\":\"x\"}]\n doesn't match $setElementOrder/ list:\n[{\"name\":\"a\"}]\n",
        ),
        (
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}),
            "invalid patch format of primitive list",
        ),
    ] {
        let error =
            patched(PatchType::Strategic, current.clone(), &patch).expect_err("a bad patch");
        assert_eq!(error.to_string(), expected, "{patch}");
    }
}

/// Lists are as long as a body allows: merging them must not take quadratic time.
#[test]
fn long_lists_merge_quickly() {
    let names = |range: std::ops::Range<u32>| -> Vec<Value> {
        range.map(|i| json!({"name": i.to_string()})).collect()
    };
    let current = json!({"spec": {"containers": names(0..30_000)}, "metadata": {"finalizers": (0..30_000).map(|i| i.to_string()).collect::<Vec<_>>()}});
    let patch = json!({
        "spec": {"containers": names(15_000..45_000), "$setElementOrder/containers": names(15_000..45_000)},
        "metadata": {"finalizers": (15_000..45_000).map(|i| i.to_string()).collect::<Vec<_>>()},
    });
    let started = std::time::Instant::now();
    let merged = patched(PatchType::Strategic, current, &patch).unwrap();
    assert_eq!(merged["spec"]["containers"], json!(names(0..45_000)));
    assert_eq!(merged["metadata"]["finalizers"].as_array().map(Vec::len), Some(45_000));
    assert!(started.elapsed().as_secs() < 10, "took {:?}", started.elapsed());
}

#[test]
fn operations_of_policies() {
    let current = json!({"spec": {"replicas": 1, "list": [1, 2, 3]}, "labels": {"x": "1"}});
    let missing = |op: &str, path: &str| {
        Err(format!("{op} operation does not apply: doc is missing path: {path:?}: missing value"))
    };
    for (operations, expected) in [
        (
            json!([{"op": "test", "path": "/spec/replicas", "value": 1.0}, {"op": "replace", "path": "/spec/replicas", "value": 3}]),
            Ok(Some(json!({"spec": {"replicas": 3, "list": [1, 2, 3]}, "labels": {"x": "1"}}))),
        ),
        (
            json!([{"op": "replace", "path": "/spec/replicas", "value": 3}, {"op": "test", "path": "/spec/replicas", "value": 1}]),
            Ok(None),
        ),
        (
            json!([{"op": "test", "path": "/spec/none"}, {"op": "replace", "path": "/labels/y~1z", "value": "2"}]),
            Ok(Some(json!({"spec": {"replicas": 1, "list": [1, 2, 3]}, "labels": {"x": "1", "y/z": "2"}}))),
        ),
        (
            json!([{"op": "move", "path": "/spec/list/-", "from": "/spec/list/0"}, {"op": "remove", "path": "/spec/list/-1"},
                   {"op": "add", "path": "/spec/list/0", "value": 9}, {"op": "copy", "from": "/labels/x", "path": "/labels/y"}]),
            Ok(Some(json!({"spec": {"replicas": 1, "list": [9, 2, 3]}, "labels": {"x": "1", "y": "1"}}))),
        ),
        (json!([{"op": "add", "path": "/none/x", "value": 1}]), missing("add", "/none/x")),
        (json!([{"op": "add", "path": "", "value": 1}]), missing("add", "")),
        (
            json!([{"op": "remove", "path": "/labels/y"}]),
            Err("error in remove for path: '/labels/y': Unable to remove nonexistent key: y: missing value".into()),
        ),
        (
            json!([{"op": "replace", "path": "/spec/list/-", "value": 1}]),
            Err("replace operation does not apply: doc is missing key: /spec/list/-: missing value".into()),
        ),
        (
            json!([{"op": "add", "path": "/spec/list/9", "value": 1}]),
            Err("error in add for path: '/spec/list/9': Unable to access invalid index: 9: invalid array index".into()),
        ),
        (json!([{"op": "merge", "path": "/x"}]), Err("Unexpected kind: merge".into())),
    ] {
        let list = operations.as_array().cloned().unwrap_or_default();
        assert_eq!(apply_operations(current.clone(), &list), expected, "{operations}");
    }
}
