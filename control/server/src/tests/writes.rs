use serde_json::{Value, json};

use super::*;

/// Method, path, media type, body; expected code, reason and a part of the message.
type Case<'a> = (&'a str, &'a str, &'a str, &'a str, u16, &'a str, &'a str);

#[tokio::test]
async fn bad_requests_get_the_status_that_clients_know() {
    let it = Fixture::new().await;
    it.create(CONFIG_MAPS, config_map("there")).await;
    let deep = format!("{{\"data\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    let large = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20));
    let json = "application/json";
    let merge = "application/merge-patch+json";
    let there = &format!("{CONFIG_MAPS}/there");
    let cases: &[Case<'_>] = &[
        (
            "GET",
            &format!("{CONFIG_MAPS}/no"),
            "",
            "",
            404,
            "NotFound",
            "configmaps \"no\" not found",
        ),
        (
            "GET",
            "/api/v1/nothings",
            "",
            "",
            404,
            "NotFound",
            "could not find the requested resource",
        ),
        ("GET", "/apis/apps/v2/deployments", "", "", 404, "NotFound", "could not find"),
        ("POST", CONFIG_MAPS, json, "{", 400, "BadRequest", "ConfigMap"),
        ("POST", CONFIG_MAPS, json, &deep, 400, "BadRequest", ""),
        ("POST", CONFIG_MAPS, json, &large, 413, "RequestEntityTooLarge", "limit is 3145728"),
        ("POST", CONFIG_MAPS, "text/csv", "a,b", 415, "UnsupportedMediaType", "text/csv"),
        (
            "POST",
            CONFIG_MAPS,
            json,
            r#"{"metadata":{"name":"Bad_Name"}}"#,
            422,
            "Invalid",
            "metadata.name: Invalid value: \"Bad_Name\"",
        ),
        ("POST", CONFIG_MAPS, json, "{}", 422, "Invalid", "name or generateName is required"),
        (
            "POST",
            CONFIG_MAPS,
            json,
            r#"{"metadata":{"name":"a","namespace":"other"}}"#,
            400,
            "BadRequest",
            "does not match",
        ),
        (
            "POST",
            CONFIG_MAPS,
            json,
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#,
            400,
            "BadRequest",
            "Pod in version \"v1\" cannot be handled as a ConfigMap",
        ),
        (
            "POST",
            CONFIG_MAPS,
            json,
            r#"{"metadata":{"name":"a"},"data":{"x":5}}"#,
            400,
            "BadRequest",
            "cannot unmarshal number",
        ),
        (
            "POST",
            &format!("{CONFIG_MAPS}?fieldValidation=Strict"),
            json,
            r#"{"metadata":{"name":"a"},"dta":{}}"#,
            400,
            "BadRequest",
            "unknown field \"dta\"",
        ),
        (
            "POST",
            CONFIG_MAPS,
            json,
            r#"{"metadata":{"name":"there"}}"#,
            409,
            "AlreadyExists",
            "configmaps \"there\" already exists",
        ),
        (
            "POST",
            "/api/v1/namespaces/no/configmaps",
            json,
            r#"{"metadata":{"name":"a"}}"#,
            404,
            "NotFound",
            "namespaces \"no\" not found",
        ),
        (
            "PUT",
            there,
            json,
            r#"{"metadata":{"name":"other"}}"#,
            400,
            "BadRequest",
            "does not match the name on the URL",
        ),
        (
            "PUT",
            there,
            json,
            r#"{"metadata":{"name":"there","resourceVersion":"1"}}"#,
            409,
            "Conflict",
            "the object has been modified",
        ),
        (
            "PUT",
            there,
            json,
            r#"{"metadata":{"name":"there","uid":"x"}}"#,
            409,
            "Conflict",
            "Precondition failed: UID",
        ),
        (
            "PATCH",
            there,
            merge,
            r#"{"metadata":{"resourceVersion":"1"}}"#,
            409,
            "Conflict",
            "the object has been modified",
        ),
        ("PATCH", there, merge, "[]", 400, "BadRequest", "patch"),
        (
            "PATCH",
            there,
            "application/json-patch+json",
            r#"[{"op":"test","path":"/data/a","value":"no"}]"#,
            422,
            "Invalid",
            "",
        ),
        ("PATCH", there, json, "{}", 415, "UnsupportedMediaType", "application/json"),
        (
            "DELETE",
            &format!("{CONFIG_MAPS}/no"),
            "",
            "",
            404,
            "NotFound",
            "configmaps \"no\" not found",
        ),
        ("PUT", CONFIG_MAPS, json, "{}", 405, "MethodNotAllowed", ""),
        (
            "POST",
            PODS,
            json,
            r#"{"metadata":{"name":"a"},"spec":{"priorityClassName":"no","containers":[{"name":"c","image":"i"}]}}"#,
            403,
            "Forbidden",
            "no PriorityClass with name no was found",
        ),
        (
            "POST",
            PODS,
            json,
            r#"{"metadata":{"name":"a"},"spec":{"runtimeClassName":"no","containers":[{"name":"c","image":"i"}]}}"#,
            403,
            "Forbidden",
            "RuntimeClass \"no\" not found",
        ),
    ];
    let before = it.get(CONFIG_MAPS).await.body["metadata"]["resourceVersion"].clone();
    for (method, path, media, body, code, reason, message) in cases {
        let answer = it.call(method, path, media, (*body).to_owned()).await;
        assert_eq!(
            (answer.code, answer.reason()),
            (*code, *reason),
            "{method} {path} {}: {}",
            &body[..body.len().min(80)],
            answer.body
        );
        assert!(answer.message().contains(message), "{method} {path}: {}", answer.message());
    }
    let after = it.get(CONFIG_MAPS).await.body["metadata"]["resourceVersion"].clone();
    assert_eq!(before, after, "refused requests stored something");
}

#[tokio::test]
async fn unknown_fields_warn_by_default_and_are_dropped() {
    let it = Fixture::new().await;
    let answer = it.post(CONFIG_MAPS, json!({"metadata": {"name": "a"}, "dta": 1})).await;
    assert_eq!(answer.code, 201);
    assert_eq!(answer.body.get("dta"), None);
    let warning = answer.headers["warning"].to_str().expect("text");
    assert_eq!(warning, r#"299 - "unknown field \"dta\"""#);
    let quiet = format!("{CONFIG_MAPS}?fieldValidation=Ignore");
    let answer = it.post(&quiet, json!({"metadata": {"name": "b"}, "dta": 1})).await;
    assert_eq!((answer.code, answer.headers.get("warning")), (201, None));
}

#[tokio::test]
async fn yaml_bodies_and_answers() {
    let it = Fixture::new().await;
    let body = "metadata:\n  name: a\ndata:\n  x: 'y'\n";
    let answer = it.call("POST", CONFIG_MAPS, "application/yaml", body).await;
    assert_eq!((answer.code, &answer.body["data"]["x"]), (201, &json!("y")));
    let request = Request::get(format!("{CONFIG_MAPS}/a"))
        .header("accept", "application/yaml")
        .body(Body::empty())
        .expect("a request");
    let answer = read(it.send(request).await).await;
    assert!(answer.body.as_str().expect("no JSON").contains("name: a\n"), "{}", answer.body);
}

#[tokio::test]
async fn the_three_patches() {
    let it = Fixture::new().await;
    it.create(PODS, pod("p")).await;
    let path = &format!("{PODS}/p");
    let answer = it
        .call(
            "PATCH",
            path,
            "application/strategic-merge-patch+json",
            r#"{"spec":{"containers":[{"name":"c","image":"two"}]}}"#,
        )
        .await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    assert_eq!(answer.body["spec"]["containers"][0]["image"], "two");
    assert_eq!(answer.body["metadata"]["generation"], 2);
    let answer = it.merge(path, json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(answer.body["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(answer.body["metadata"]["generation"], 2, "labels are not specified");
    let patch = r#"[{"op":"remove","path":"/metadata/labels/a"}]"#;
    let answer = it.call("PATCH", path, "application/json-patch+json", patch).await;
    assert_eq!(answer.body["metadata"].get("labels"), None, "{}", answer.body);
}

#[tokio::test]
async fn a_write_that_changes_nothing_makes_no_revision() {
    let it = Fixture::new().await;
    let created = it.create(CONFIG_MAPS, config_map("a")).await;
    let path = &format!("{CONFIG_MAPS}/a");
    let put = it.put(path, created.clone()).await;
    assert_eq!((put.code, &put.body), (200, &created));
    let patched = it.merge(path, json!({"data": {"a": "b"}})).await;
    assert_eq!(patched.body, created);
    let status = it.merge(&format!("{path}?dryRun=All"), json!({"data": {"a": "c"}})).await;
    assert_eq!(status.body["data"]["a"], "c");
    assert_eq!(it.get(path).await.body, created, "a dry run stored something");
}

#[tokio::test]
async fn generated_names() {
    let it = Fixture::new().await;
    let object = it.create(CONFIG_MAPS, json!({"metadata": {"generateName": "a-"}})).await;
    let name = object["metadata"]["name"].as_str().expect("a name");
    assert_eq!((name.len(), &name[..2]), (7, "a-"));
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let it = Fixture::new().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({
        "metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    let body = json!({
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
        "status": {"replicas": 7},
    });
    let created = it.create(path, body).await;
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(created["status"].get("replicas"), None, "status is not for creators");
    let one = &format!("{path}/d");
    let both = json!({"spec": {"replicas": 3}, "status": {"replicas": 3}});
    let main = it.merge(one, both.clone()).await.body;
    assert_eq!((&main["spec"]["replicas"], main["status"].get("replicas")), (&json!(3), None));
    let status = it
        .merge(
            &format!("{one}/status"),
            json!({"spec": {"replicas": 9}, "status": {"replicas": 3}}),
        )
        .await;
    assert_eq!(status.body["spec"]["replicas"], 3);
    assert_eq!(status.body["status"]["replicas"], 3);
    assert_eq!(status.body["metadata"]["generation"], 2);

    let scale = it.get(&format!("{one}/scale")).await.body;
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(3)));
    assert_eq!(scale["status"]["selector"], "a=b");
    let scaled = it.merge(&format!("{one}/scale"), json!({"spec": {"replicas": 5}})).await;
    assert_eq!((scaled.code, &scaled.body["spec"]["replicas"]), (200, &json!(5)));
    assert_eq!(it.get(one).await.body["spec"]["replicas"], 5);
}

#[tokio::test]
async fn events_have_two_names() {
    let it = Fixture::new().await;
    let core = "/api/v1/namespaces/default/events";
    let named = "/apis/events.k8s.io/v1/namespaces/default/events";
    let involved = json!({"kind": "Pod", "namespace": "default", "name": "p"});
    it.create(core, json!({"metadata": {"name": "e"}, "involvedObject": involved, "message": "m", "reason": "R", "type": "Normal"}))
        .await;
    let shown = it.get(&format!("{named}/e")).await.body;
    assert_eq!(
        (&shown["apiVersion"], &shown["note"], &shown["regarding"]["name"]),
        (&json!("events.k8s.io/v1"), &json!("m"), &json!("p"))
    );
    let series = json!({"series": {"count": 2, "lastObservedTime": "2024-01-01T00:00:00.000000Z"}});
    let patched = it.merge(&format!("{named}/e"), series).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    assert_eq!(it.get(&format!("{core}/e")).await.body["series"]["count"], 2);
    it.merge(&format!("{core}/e"), json!({"message": "n"})).await;
    assert_eq!(it.get(named).await.body["items"][0]["note"], "n");
}

#[tokio::test]
async fn a_binding_binds_once() {
    let it = Fixture::new().await;
    it.create(PODS, pod("p")).await;
    let binding = |node: &str| json!({"target": {"kind": "Node", "name": node}});
    let answer = it.post(&format!("{PODS}/p/binding"), binding("n")).await;
    assert_eq!((answer.code, &answer.body["status"]), (201, &json!("Success")));
    let bound = it.get(&format!("{PODS}/p")).await.body;
    assert_eq!(bound["spec"]["nodeName"], "n");
    let condition = &bound["status"]["conditions"][0];
    assert_eq!(condition["type"], "PodScheduled");
    assert_eq!(condition["observedGeneration"], 1);
    let again = it.post(&format!("{PODS}/p/binding"), binding("m")).await;
    assert_eq!(again.code, 409);
    assert!(again.message().contains("already assigned to node \"n\""), "{}", again.message());
}

#[tokio::test]
async fn acting_as_somebody_else_has_their_rights_only() {
    let it = Fixture::new().await;
    let get = |path: &'static str, headers: &[(&'static str, &'static str)]| {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        it.send(request.body(Body::empty()).expect("a request"))
    };
    let bob = ("impersonate-user", "bob");
    assert_eq!(read(get("/api", &[bob]).await).await.code, 200, "discovery is for everybody");
    let refused = read(get(CONFIG_MAPS, &[bob]).await).await;
    assert_eq!(refused.code, 403);
    assert!(refused.message().contains("User \"bob\" cannot list"), "{}", refused.message());
    let masters = ("impersonate-group", MASTERS);
    assert_eq!(read(get(CONFIG_MAPS, &[bob, masters]).await).await.code, 200);
    assert_eq!(read(get(CONFIG_MAPS, &[masters]).await).await.code, 400);
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let it = Fixture::new().await;
    let role = |name: &str, verbs: &[&str], group: &str, resource: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": name},
            "rules": [{"apiGroups": [group], "resources": [resource], "verbs": verbs}],
        })
    };
    let bind = |name: &str, role: &str, user: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
        })
    };
    let rbac = "rbac.authorization.k8s.io";
    for (role, user) in [
        (role("granter", &["create", "update", "patch"], rbac, "roles"), "bob"),
        (role("binder", &["create"], rbac, "rolebindings"), "bob"),
        (role("reader", &["get", "list"], "", "configmaps"), "bob"),
        (role("escalator", &["create", "escalate"], rbac, "roles"), "eve"),
        (role("secrets", &["get"], "", "secrets"), "nobody"),
    ] {
        assert_eq!(it.post(ROLES, role.clone()).await.code, 201);
        let name = role["metadata"]["name"].as_str().expect("a name");
        assert_eq!(it.post(BINDINGS, bind(name, name, user)).await.code, 201);
    }
    let post = |user: &'static str, path: &'static str, body: Value| {
        let request = Request::post(path)
            .header("impersonate-user", user)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .expect("a request");
        it.send(request)
    };
    let cases = [
        ("bob", ROLES, role("same", &["list"], "", "configmaps"), 201),
        ("bob", ROLES, role("more", &["delete"], "", "configmaps"), 403),
        ("bob", ROLES, role("other", &["get"], "", "secrets"), 403),
        ("bob", ROLES, role("all", &["*"], "*", "*"), 403),
        ("bob", BINDINGS, bind("mine", "reader", "carol"), 201),
        ("bob", BINDINGS, bind("theirs", "secrets", "bob"), 403),
        ("bob", BINDINGS, bind("nothing", "no-such-role", "bob"), 404),
        ("eve", ROLES, role("any", &["*"], "*", "*"), 201),
    ];
    for (user, path, body, code) in cases {
        let answer = read(post(user, path, body.clone()).await).await;
        assert_eq!(answer.code, code, "{user} {body}: {}", answer.message());
        if code == 403 {
            let why = "is attempting to grant RBAC permissions not currently held";
            assert!(answer.message().contains(why), "{}", answer.message());
        }
    }
    let patch = Request::patch("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/same")
        .header("impersonate-user", "bob")
        .header("content-type", "application/merge-patch+json")
        .body(Body::from(
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]})
                .to_string(),
        ))
        .expect("a request");
    assert_eq!(read(it.send(patch).await).await.code, 403);
}
