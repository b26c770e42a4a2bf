//! Exec, attach, port-forward and ephemeral containers, up to where a node is needed.

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    let container = |name: &str| json!({"name": name, "image": "hello:v1"});
    json!({
        "metadata": {"name": name},
        "spec": {"containers": [container("one"), container("two")], "initContainers": [container("zero")]},
    })
}

async fn refused(it: &Fixture, path: &str, code: u16, message: &str) {
    for method in ["GET", "POST"] {
        let answer = it.call(method, path, "", Body::empty()).await;
        let said = answer.body["message"].as_str().unwrap_or_default();
        assert_eq!((answer.code, said), (code, message), "{method} {path}");
    }
}

#[tokio::test]
async fn what_cannot_be_connected_to_is_named() {
    let it = Fixture::new().await;
    it.create(PODS, pod("pair")).await;
    let mut marked = pod("marked");
    marked["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "two"});
    marked["spec"]["nodeName"] = "nowhere".into();
    it.create(PODS, marked).await;
    let path = |rest: &str| format!("{PODS}/{rest}");
    refused(&it, &path("no/exec?command=ls"), 404, "pods \"no\" not found").await;
    refused(
        &it,
        &path("pair/attach?stdout=true"),
        400,
        "a container name must be specified for pod pair, choose one of: [one two] or one of the init containers: [zero]",
    )
    .await;
    let unknown = "container three is not valid for pod pair";
    refused(&it, &path("pair/exec?container=three"), 400, unknown).await;
    let unassigned = "pod pair does not have a host assigned";
    refused(&it, &path("pair/exec?container=one"), 400, unassigned).await;
    refused(&it, &path("pair/portforward"), 400, unassigned).await;
    let port = "ports: \"0\" is not a port: 1 to 65535";
    refused(&it, &path("pair/portforward?ports=80,0"), 400, port).await;
    // The default container is found; what is missing is the upgrade.
    refused(&it, &path("marked/exec?command=ls"), 400, "Upgrade request required").await;
    let put = it.put(&path("marked/exec"), json!({})).await;
    assert_eq!(put.code, 405, "{}", put.body);
}

/// Browsers open WebSockets by GET, which must not turn the right to read into the right to run.
#[tokio::test]
async fn a_websocket_needs_the_right_to_create() {
    let it = Fixture::new().await;
    it.create(PODS, pod("pair")).await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rules = json!([{"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get"]}]);
    it.create(&format!("{rbac}/roles"), json!({"metadata": {"name": "get"}, "rules": rules})).await;
    let binding = json!({
        "metadata": {"name": "get"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "get"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader"}],
    });
    it.create(&format!("{rbac}/rolebindings"), binding).await;
    // Whoever reads waits until what was written is seen, by authorization too.
    assert_eq!(it.get(&format!("{rbac}/rolebindings/get")).await.code, 200);
    let ask = async |upgrade: Option<&str>| {
        let mut request = Request::get(format!("{PODS}/pair/exec?container=one"));
        if let Some(upgrade) = upgrade {
            request = request.header("connection", "Upgrade").header("upgrade", upgrade);
        }
        let mut request = request.body(Body::empty()).expect("a request");
        let reader = Identity { user: "reader".into(), ..Identity::default() };
        request.extensions_mut().insert(reader);
        let answer = router(it.server.app.clone()).oneshot(request).await;
        read(answer.unwrap_or_else(|never| match never {})).await
    };
    assert_eq!(ask(None).await.code, 400);
    let refused = ask(Some("websocket")).await;
    assert_eq!(refused.code, 403);
    let message = refused.body["message"].as_str().unwrap_or_default();
    assert!(message.contains("cannot create resource \"pods/exec\""), "{message}");
}

#[tokio::test]
async fn ephemeral_containers_are_added_through_their_subresource_only() {
    let it = Fixture::new().await;
    let created = it.create(PODS, pod("debugged")).await;
    let own = format!("{PODS}/debugged");
    let path = format!("{own}/ephemeralcontainers");
    let debugger = json!({"name": "debugger", "image": "tools", "stdin": true, "tty": true});
    // As `kubectl debug` does it.
    let patch = json!({"spec": {"ephemeralContainers": [debugger]}});
    let strategic = "application/strategic-merge-patch+json";
    let patched = it.call("PATCH", &path, strategic, patch.to_string()).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let now = &patched.body["spec"]["ephemeralContainers"];
    assert_eq!(
        (&now[0]["name"], &now[0]["terminationMessagePolicy"]),
        (&json!("debugger"), &json!("File"))
    );
    assert_eq!(now.as_array().map(Vec::len), Some(1));
    let generation = |pod: &Value| pod["metadata"]["generation"].as_i64();
    assert_eq!(generation(&patched.body), generation(&created).map(|g| g + 1));
    // Another one joins it; nothing else is written this way.
    let more = json!({"metadata": {"labels": {"a": "b"}}, "spec": {
        "ephemeralContainers": [{"name": "second", "image": "tools"}], "activeDeadlineSeconds": 5,
    }});
    let patched = it.call("PATCH", &path, strategic, more.to_string()).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    assert_eq!(patched.body["spec"]["ephemeralContainers"].as_array().map(Vec::len), Some(2));
    assert_eq!(patched.body["spec"]["activeDeadlineSeconds"], Value::Null);
    assert_eq!(patched.body["metadata"]["labels"], Value::Null);
    assert_eq!(it.get(&path).await.body, it.get(&own).await.body);

    let mut without = patched.body.clone();
    without["spec"]["ephemeralContainers"] = json!([]);
    let refused = it.put(&path, without).await;
    assert_eq!(refused.code, 422);
    let message = refused.body["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("existing ephemeral containers \"debugger\" may not be removed"),
        "{message}"
    );
    let mut stale = created.clone();
    stale["spec"]["ephemeralContainers"] = json!([]);
    assert_eq!(it.put(&path, stale).await.code, 409);
    let direct = json!({"spec": {"ephemeralContainers": [{"name": "third", "image": "tools"}]}});
    let refused = it.call("PATCH", &own, strategic, direct.to_string()).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    let mut new = pod("new");
    new["spec"]["ephemeralContainers"] = json!([{"name": "early", "image": "tools"}]);
    let refused = it.post(PODS, new).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert_eq!(it.get(&format!("{path}s")).await.code, 404);
}
