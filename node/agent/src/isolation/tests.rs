use super::*;
use serde_json::{Value, json};

fn check(pod: Option<&str>, namespace: Option<&str>, spec: Value, expected: Result<Group, &str>) {
    let annotations = |value: Option<&str>| -> Annotations {
        value.map(|v| ("coracle.dev/isolation".to_owned(), v.to_owned())).into_iter().collect()
    };
    let metadata = json!({"namespace": "ns", "uid": "u", "annotations": annotations(pod)});
    let tree: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
    match (group(&tree, &annotations(namespace)), expected) {
        (Ok(found), Ok(wanted)) => assert_eq!(found, wanted, "{pod:?} in {namespace:?}"),
        (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
        (found, wanted) => panic!("{pod:?} in {namespace:?}: {found:?} instead of {wanted:?}"),
    }
}

#[test]
fn who_is_heard_before_whom() {
    let (shared, namespace) = (|| Ok(Group::Shared), || Ok(Group::Namespace("ns".to_owned())));
    let pod = || Ok(Group::Pod("u".to_owned()));
    let class = |name: &str| json!({"containers": [], "runtimeClassName": name});
    let plain = || json!({"containers": []});
    check(None, None, plain(), shared());
    check(None, None, class("wasm"), shared());
    check(None, None, class("wasm-namespace"), namespace());
    check(None, None, class("wasm-pod"), pod());
    check(Some("namespace"), None, plain(), namespace());
    check(Some("pod"), Some("namespace"), plain(), pod());
    check(None, Some("namespace"), plain(), namespace());
    // A class may ask for more than the Namespace, not for less.
    check(None, Some("namespace"), class("wasm-pod"), pod());
    check(None, Some("pod"), class("wasm-namespace"), pod());
    check(Some("shared"), None, class("wasm-pod"), shared());
    check(Some("shared"), Some("shared"), plain(), shared());
    check(
        Some("shared"),
        Some("namespace"),
        plain(),
        Err("\"shared\" is weaker than \"namespace\""),
    );
    check(Some("namespace"), Some("pod"), plain(), Err("ask for \"pod\" or more"));
    check(Some("own"), None, plain(), Err("coracle.dev/isolation"));
    check(None, Some("own"), plain(), Err("Namespace"));
    let mounts =
        json!({"containers": [], "volumes": [{"name": "v", "hostPath": {"path": "/srv"}}]});
    check(None, None, mounts.clone(), pod());
    check(Some("shared"), None, mounts, pod());
}
