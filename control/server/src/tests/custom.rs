//! Custom resources: a definition, its kind, its objects.

use super::*;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRON_TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

/// The example of the Kubernetes documentation, with what tests need beside.
fn cron_tabs() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com",
            "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab",
                "shortNames": ["ct"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {
                            "type": "object",
                            "required": ["image"],
                            "properties": {
                                "cronSpec": {"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$", "default": "5 0 * * *"},
                                "image": {"type": "string"},
                                "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
                                "color": {"type": "string", "enum": ["red", "green"], "nullable": true},
                                "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                                    "items": {"type": "object", "required": ["name"], "properties": {
                                        "name": {"type": "string"}, "port": {"x-kubernetes-int-or-string": true}}}},
                                "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                            },
                        },
                        "status": {"type": "object", "properties": {
                            "replicas": {"type": "integer"}, "labelSelector": {"type": "string"}}},
                    },
                }},
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.labelSelector"}},
                "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
                "selectableFields": [{"jsonPath": ".spec.color"}],
            }],
        },
    })
}

fn cron_tab(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec})
}

impl Fixture {
    /// A server with controllers, and with a definition that is served.
    pub(super) async fn defining(definition: Value) -> Self {
        let it = Self::with(|config| config.scheduler = false).await;
        it.define(definition).await;
        it
    }

    /// Creates a definition and waits until it is established.
    pub(super) async fn define(&self, definition: Value) -> Value {
        let made = self.create(DEFINITIONS, definition).await;
        let name = made["metadata"]["name"].as_str().expect("a name");
        let revision = made["metadata"]["resourceVersion"].as_str().expect("a revision");
        let path = format!(
            "{DEFINITIONS}?watch=true&fieldSelector=metadata.name={name}&resourceVersion={revision}"
        );
        let mut events = self.watch(&path).await;
        loop {
            let event = events.next().await.expect("a change of the definition");
            let conditions = event["object"]["status"]["conditions"].as_array().cloned();
            let mut conditions = conditions.into_iter().flatten();
            if conditions.any(|c| c["type"] == "Established" && c["status"] == "True") {
                return event["object"].clone();
            }
        }
    }
}

#[tokio::test]
async fn objects_of_a_defined_kind_live_like_any() {
    let it = Fixture::defining(cron_tabs()).await;
    let mut events = it.watch(&format!("{CRON_TABS}?watch=true")).await;
    let made = it.create(CRON_TABS, cron_tab("a", json!({"image": "i", "unknown": 1}))).await;
    assert_eq!(made["spec"], json!({"image": "i", "cronSpec": "5 0 * * *", "replicas": 1}));
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(events.step().await, ("ADDED".into(), "a".into()));

    let refused =
        it.post(CRON_TABS, cron_tab("b", json!({"image": "i", "replicas": "many"}))).await;
    assert_eq!(refused.code, 422);
    assert_eq!(
        refused.message(),
        "CronTab.stable.example.com \"b\" is invalid: spec.replicas: Invalid value: \"string\": \
         spec.replicas in body must be of type integer: \"string\""
    );
    let path = format!("{CRON_TABS}/a");
    let patched = it.merge(&path, json!({"spec": {"replicas": 3}})).await;
    assert_eq!((patched.code, &patched.body["metadata"]["generation"]), (200, &json!(2)));
    assert_eq!(events.step().await, ("MODIFIED".into(), "a".into()));
    let strategic =
        it.call("PATCH", &path, "application/strategic-merge-patch+json", r#"{"spec":{}}"#).await;
    assert_eq!(strategic.code, 415);

    let list = it.get(CRON_TABS).await;
    assert_eq!((list.names(), &list.body["kind"]), (vec!["a"], &json!("CronTabList")));
    let all = it.get("/apis/stable.example.com/v1/crontabs").await;
    assert_eq!(all.names(), ["a"]);
    assert_eq!(it.delete(&path).await.code, 200);
    assert_eq!(events.step().await, ("DELETED".into(), "a".into()));
    assert_eq!(it.get(&path).await.message(), "crontabs.stable.example.com \"a\" not found");
    assert_eq!(it.get("/apis/stable.example.com/v2/crontabs").await.code, 404);
}

#[tokio::test]
async fn status_and_scale_are_parts_of_their_own() {
    let it = Fixture::defining(cron_tabs()).await;
    let path = &format!("{CRON_TABS}/a");
    let mut tree = cron_tab("a", json!({"image": "i", "replicas": 2}));
    tree["status"] = json!({"replicas": 7});
    let made = it.create(CRON_TABS, tree).await;
    assert_eq!(made.get("status"), None, "only /status writes it");

    let told = json!({"status": {"replicas": 2, "labelSelector": "app=a", "more": 1},
        "metadata": {"labels": {"a": "b"}}, "spec": {"image": "other"}});
    let told = it.merge(&format!("{path}/status"), told).await;
    assert_eq!(told.code, 200, "{}", told.body);
    assert_eq!(told.body["status"], json!({"replicas": 2, "labelSelector": "app=a"}));
    assert_eq!(told.body["spec"]["image"], "i");
    assert_eq!(told.body["metadata"]["labels"], Value::Null);
    assert_eq!(told.body["metadata"]["generation"], 1);

    let scale = it.get(&format!("{path}/scale")).await;
    assert_eq!(scale.body["spec"], json!({"replicas": 2}));
    assert_eq!(scale.body["status"], json!({"replicas": 2, "selector": "app=a"}));
    let scaled = it.merge(&format!("{path}/scale"), json!({"spec": {"replicas": 5}})).await;
    assert_eq!((scaled.code, &scaled.body["spec"]), (200, &json!({"replicas": 5})));
    assert_eq!(it.get(path).await.body["spec"]["replicas"], 5);
    let refused = it.merge(&format!("{path}/scale"), json!({"spec": {"replicas": 11}})).await;
    assert_eq!(
        refused.message(),
        "CronTab.stable.example.com \"a\" is invalid: spec.replicas: Invalid value: 11: \
         spec.replicas in body should be less than or equal to 10"
    );
}

#[tokio::test]
async fn unknown_fields_are_dropped_told_of_or_refused() {
    let it = Fixture::defining(cron_tabs()).await;
    let body = r#"{"apiVersion":"stable.example.com/v1","kind":"CronTab",
        "metadata":{"name":"NAME","odd":1},"spec":{"image":"i","image":"j","nope":{"a":1},
        "extra":{"kept":{"deep":[{"a":null}]}},"ports":[{"name":"a","more":1}]}}"#;
    let post = async |name: &str, validation: &str| {
        let path = format!("{CRON_TABS}?fieldValidation={validation}");
        it.call("POST", &path, "application/json", body.replace("NAME", name)).await
    };
    let complaints = [
        "duplicate field \"spec.image\"",
        "unknown field \"metadata.odd\"",
        "unknown field \"spec.nope\"",
        "unknown field \"spec.ports[0].more\"",
    ];
    let refused = post("a", "Strict").await;
    assert_eq!(refused.code, 400);
    for complaint in complaints {
        assert!(refused.message().contains(complaint), "{complaint}: {}", refused.message());
    }
    let warned = post("b", "Warn").await;
    assert_eq!(warned.code, 201);
    let told: Vec<_> = warned.headers.get_all("warning").iter().collect();
    assert_eq!(told.len(), complaints.len());
    let expected = json!({"image": "j", "extra": {"kept": {"deep": [{"a": null}]}}, "ports": [{"name": "a"}],
        "cronSpec": "5 0 * * *", "replicas": 1});
    assert_eq!(warned.body["spec"], expected);
    let silent = post("c", "Ignore").await;
    assert_eq!((silent.code, silent.headers.get("warning")), (201, None));
    let dry =
        it.post(&format!("{CRON_TABS}?dryRun=All"), cron_tab("d", json!({"image": "i"}))).await;
    assert_eq!((dry.code, &dry.body["spec"]["replicas"]), (201, &json!(1)));
    assert_eq!(it.get(CRON_TABS).await.names(), ["b", "c"]);
}

#[tokio::test]
async fn applies_merge_by_the_definitions_lists() {
    let it = Fixture::defining(cron_tabs()).await;
    let apply = async |manager: &str, spec: Value| {
        let path = format!("{CRON_TABS}/a?fieldManager={manager}");
        let config = cron_tab("a", spec).to_string();
        it.call("PATCH", &path, "application/apply-patch+yaml", config).await
    };
    let port = |name: &str, port: Value| json!({"name": name, "port": port});
    let one = json!({"image": "i", "tags": ["x"], "ports": [port("a", json!(1))], "extra": {"a": {"b": 1}}});
    let made = apply("one", one).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let two = json!({"image": "i", "tags": ["y"], "ports": [port("b", json!("http"))], "extra": {"a": {"c": [1]}}});
    let both = apply("two", two).await;
    assert_eq!(both.code, 200, "{}", both.body);
    let spec = &both.body["spec"];
    assert_eq!(spec["tags"], json!(["x", "y"]));
    assert_eq!(spec["ports"], json!([port("a", json!(1)), port("b", json!("http"))]));
    assert_eq!(spec["extra"], json!({"a": {"b": 1, "c": [1]}}));
    let left = apply("two", json!({"image": "i"})).await;
    let spec = &left.body["spec"];
    assert_eq!((&spec["tags"], &spec["extra"]), (&json!(["x"]), &json!({"a": {"b": 1}})));
    assert_eq!(spec["ports"], json!([port("a", json!(1))]));
    let refused = apply("two", json!({"image": "other"})).await;
    assert_eq!(
        (refused.code, refused.message()),
        (409, "Apply failed with 1 conflict: conflict with \"one\": .spec.image")
    );
    let unknown = apply("two", json!({"image": "i", "nope": 1})).await;
    assert_eq!(unknown.code, 400, "{}", unknown.body);
}

#[tokio::test]
async fn discovery_and_openapi_follow() {
    let it = Fixture::with(|config| config.scheduler = false).await;
    let hash = async |group: &str| {
        let index = it.get("/openapi/v3").await.body;
        index["paths"][group]["serverRelativeURL"].as_str().map(str::to_owned)
    };
    let apps = hash("apis/apps/v1").await;
    assert_eq!(hash("apis/stable.example.com/v1").await, None);
    it.define(cron_tabs()).await;
    let before = hash("apis/stable.example.com/v1").await.expect("a document");
    assert_eq!(hash("apis/apps/v1").await, apps, "what has not changed is not fetched anew");

    let list = it.get("/apis/stable.example.com/v1").await.body;
    let names: Vec<_> =
        list["resources"].as_array().unwrap().iter().map(|r| r["name"].clone()).collect();
    assert_eq!(names, ["crontabs", "crontabs/status", "crontabs/scale"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["ct"]));
    assert_eq!(list["resources"][0]["categories"], json!(["all"]));
    let groups = it.get("/apis").await.body;
    let is_it = |group: &&Value| group["name"] == "stable.example.com";
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| is_it(&group)));

    let document = it.get(&before).await.body;
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["replicas"]["maximum"], 10);
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "CronTab");
    let metadata = &schema["properties"]["metadata"]["allOf"][0]["$ref"];
    assert_eq!(metadata, "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    // kubectl apply sends the best patch that is named here.
    let path = "/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}";
    let patches = document["paths"][path]["patch"]["requestBody"]["content"].as_object().unwrap();
    assert!(patches.contains_key("application/merge-patch+json"), "{patches:?}");
    assert!(!patches.contains_key("application/strategic-merge-patch+json"), "{patches:?}");
    let v2 = it.get("/openapi/v2").await.body;
    let port = &v2["definitions"]["com.example.stable.v1.CronTab"]["properties"]["spec"]["properties"]
        ["ports"]["items"]["properties"]["port"];
    assert_eq!(port.get("type"), None, "old clients know no integers that may be texts");

    let mut changed = it.get(&format!("{DEFINITIONS}/crontabs.stable.example.com")).await.body;
    let schema = &mut changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["properties"]["spec"]["properties"]["added"] = json!({"type": "string"});
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    assert_eq!(it.put(&path, changed).await.code, 200);
    assert_ne!(hash("apis/stable.example.com/v1").await, Some(before));
}

#[tokio::test]
async fn tables_have_the_definitions_columns() {
    let it = Fixture::defining(cron_tabs()).await;
    it.create(CRON_TABS, cron_tab("a", json!({"image": "i"}))).await;
    let request = Request::get(CRON_TABS)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Body::empty())
        .expect("a request");
    let table = read(it.send(request).await).await.body;
    let columns: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(columns, ["Name", "Spec", "Replicas", "Age"]);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..3], [json!("a"), json!("5 0 * * *"), json!(1)]);
    assert!(cells[3].as_str().is_some_and(|age| age.ends_with('s')), "{cells:?}");
}

#[tokio::test]
async fn definitions_go_with_their_objects() {
    let it = Fixture::defining(cron_tabs()).await;
    let mut held = cron_tab("held", json!({"image": "i"}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    it.create(CRON_TABS, held).await;
    it.create(CRON_TABS, cron_tab("a", json!({"image": "i"}))).await;
    let definition = &format!("{DEFINITIONS}/crontabs.stable.example.com");
    let mut events =
        it.watch(&format!("{CRON_TABS}?watch=true&fieldSelector=metadata.name=held")).await;
    assert_eq!(events.step().await.0, "ADDED");
    assert_eq!(it.delete(definition).await.code, 200);
    assert_eq!(events.step().await.0, "MODIFIED", "it waits for its finalizer");
    let left = it.get(definition).await.body;
    let terminating = left["status"]["conditions"].as_array().unwrap().iter();
    assert!(terminating.clone().any(|c| c["type"] == "Terminating" && c["status"] == "True"));
    let refused = it.post(CRON_TABS, cron_tab("b", json!({"image": "i"}))).await;
    assert_eq!(
        (refused.code, refused.message()),
        (405, "create not allowed while custom resource definition is terminating")
    );
    let mut gone = it.watch(&format!("{DEFINITIONS}?watch=true")).await;
    assert_eq!(gone.step().await.0, "ADDED");
    let let_go =
        it.merge(&format!("{CRON_TABS}/held"), json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(let_go.code, 200);
    while gone.step().await.0 != "DELETED" {}
    assert_eq!(it.get(CRON_TABS).await.code, 404);
}

#[tokio::test]
async fn a_namespace_takes_its_custom_objects_with_it_and_owners_theirs() {
    let it = Fixture::defining(cron_tabs()).await;
    it.create("/api/v1/namespaces", json!({"metadata": {"name": "gone"}})).await;
    let theirs = "/apis/stable.example.com/v1/namespaces/gone/crontabs";
    it.create(theirs, cron_tab("a", json!({"image": "i"}))).await;
    let mut events = it.watch("/apis/stable.example.com/v1/crontabs?watch=true").await;
    assert_eq!(events.step().await, ("ADDED".into(), "a".into()));
    assert_eq!(it.delete("/api/v1/namespaces/gone").await.code, 200);
    assert_eq!(events.step().await, ("DELETED".into(), "a".into()));

    let owner = it.create(CRON_TABS, cron_tab("owner", json!({"image": "i"}))).await;
    let mut owned = config_map("owned");
    owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "stable.example.com/v1",
        "kind": "CronTab", "name": "owner", "uid": owner["metadata"]["uid"]}]);
    it.create(CONFIG_MAPS, owned).await;
    let path = format!("{CONFIG_MAPS}?watch=true&fieldSelector=metadata.name=owned");
    let mut events = it.watch(&path).await;
    assert_eq!(events.step().await.0, "ADDED");
    assert_eq!(it.delete(&format!("{CRON_TABS}/owner")).await.code, 200);
    assert_eq!(events.step().await.0, "DELETED");
}

#[tokio::test]
async fn definitions_and_objects_survive_a_restart() {
    let it = Fixture::defining(cron_tabs()).await;
    it.create(CRON_TABS, cron_tab("a", json!({"image": "i"}))).await;
    let Fixture { server, dir } = it;
    server.shutdown();
    server.join().await;
    let mut config = Config::new(dir.path());
    config.controllers = false;
    config.scheduler = false;
    let it = Fixture { server: start(config).await.expect("the server starts"), dir };
    assert_eq!(it.get(CRON_TABS).await.names(), ["a"]);
    it.create(CRON_TABS, cron_tab("b", json!({"image": "i"}))).await;
}

#[tokio::test]
async fn names_are_given_once() {
    let it = Fixture::defining(cron_tabs()).await;
    let mut other = cron_tabs();
    other["metadata"]["name"] = "others.stable.example.com".into();
    other["spec"]["names"] = json!({"plural": "others", "singular": "other", "kind": "CronTab", "listKind": "OtherList", "shortNames": ["ct"]});
    let path =
        format!("{DEFINITIONS}?watch=true&fieldSelector=metadata.name=others.stable.example.com");
    let mut events = it.watch(&path).await;
    it.create(DEFINITIONS, other).await;
    events.next().await;
    let seen = events.next().await.expect("its status")["object"]["status"].clone();
    let condition = |status: &Value, kind: &str| {
        let all = status["conditions"].as_array().unwrap().iter();
        let found = all.clone().find(|c| c["type"] == kind).expect("a condition");
        ["status", "reason", "message"].map(|f| found[f].as_str().unwrap().to_owned())
    };
    assert_eq!(
        condition(&seen, "NamesAccepted"),
        ["False", "KindConflict", "\"CronTab\" is already in use"]
    );
    assert_eq!(condition(&seen, "Established")[1], "NotAccepted");
    assert_eq!(it.get("/apis/stable.example.com/v1/others").await.code, 404);
    // Free again once the other is gone.
    assert_eq!(it.delete(&format!("{DEFINITIONS}/crontabs.stable.example.com")).await.code, 200);
    let freed = events.next().await.expect("its status")["object"]["status"].clone();
    assert_eq!(condition(&freed, "Established")[0], "True");
    assert_eq!(it.get("/apis/stable.example.com/v1/others").await.code, 200);
}

#[tokio::test]
async fn fields_that_a_definition_makes_selectable_select() {
    let it = Fixture::defining(cron_tabs()).await;
    for (name, color) in [("a", json!("red")), ("b", json!("green")), ("c", Value::Null)] {
        it.create(CRON_TABS, cron_tab(name, json!({"image": "i", "color": color}))).await;
    }
    let red = it.get(&format!("{CRON_TABS}?fieldSelector=spec.color=red")).await;
    assert_eq!(red.names(), ["a"]);
    let others = it.get(&format!("{CRON_TABS}?fieldSelector=spec.color!=red")).await;
    assert_eq!(others.names(), ["b", "c"]);
    let refused = it.get(&format!("{CRON_TABS}?fieldSelector=spec.image=i")).await;
    assert_eq!((refused.code, refused.message()), (400, "field label not supported: spec.image"));
    let mut events =
        it.watch(&format!("{CRON_TABS}?watch=true&fieldSelector=spec.color=green")).await;
    assert_eq!(events.step().await, ("ADDED".into(), "b".into()));
    it.merge(&format!("{CRON_TABS}/a"), json!({"spec": {"color": "green"}})).await;
    assert_eq!(events.step().await, ("ADDED".into(), "a".into()));
    it.merge(&format!("{CRON_TABS}/b"), json!({"spec": {"color": "red"}})).await;
    assert_eq!(events.step().await, ("DELETED".into(), "b".into()));
    let all =
        it.call("DELETE", &format!("{CRON_TABS}?fieldSelector=spec.color=green"), "", "").await;
    assert_eq!((all.code, it.get(CRON_TABS).await.names()), (200, vec!["b", "c"]));
}

/// Two versions: the old one has one text where the new one, which is stored, has two.
fn hosts(conversion: Value) -> Value {
    let version = |name: &str, storage: bool, fields: &[&str]| {
        let fields: serde_json::Map<_, _> =
            fields.iter().map(|f| ((*f).to_owned(), json!({"type": "string"}))).collect();
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}}})
    };
    let mut old = version("v1beta1", false, &["hostPort", "common"]);
    old["deprecated"] = true.into();
    json!({
        "metadata": {"name": "hosts.example.com"},
        "spec": {
            "group": "example.com", "scope": "Cluster", "conversion": conversion,
            "names": {"plural": "hosts", "kind": "Host"},
            "versions": [old, version("v1", true, &["host", "port", "common"])],
        },
    })
}

#[tokio::test]
async fn versions_without_conversion_differ_in_name_only() {
    let it = Fixture::defining(hosts(json!({"strategy": "None"}))).await;
    let old = "/apis/example.com/v1beta1/hosts";
    let new = "/apis/example.com/v1/hosts";
    let spec = json!({"common": "c", "hostPort": "a:1"});
    let body = json!({"apiVersion": "example.com/v1beta1", "kind": "Host", "metadata": {"name": "a"}, "spec": spec});
    let made = it.post(old, body).await;
    assert_eq!((made.code, &made.body["apiVersion"]), (201, &json!("example.com/v1beta1")));
    let warning = made.headers["warning"].to_str().unwrap();
    assert_eq!(warning, "299 - \"example.com/v1beta1 Host is deprecated\"");
    let shown = it.get(&format!("{new}/a")).await.body;
    assert_eq!(shown["apiVersion"], "example.com/v1");
    assert_eq!(shown["spec"], json!({"common": "c"}), "pruned by what it was stored as");
    let mut events = it.watch(&format!("{old}?watch=true")).await;
    assert_eq!(events.next().await.unwrap()["object"]["apiVersion"], "example.com/v1beta1");
    let list = it.get(old).await.body;
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v1beta1");

    // Another storage version: what is stored is shown as before, and comes over when it is written.
    let path = &format!("{DEFINITIONS}/hosts.example.com");
    let mut definition = it.get(path).await.body;
    assert_eq!(definition["spec"]["names"]["singular"], "host");
    for version in definition["spec"]["versions"].as_array_mut().unwrap() {
        version["storage"] = (version["name"] == "v1beta1").into();
    }
    let put = it.put(path, definition.clone()).await;
    assert_eq!(put.body["status"]["storedVersions"], json!(["v1", "v1beta1"]), "{}", put.body);
    let before = it.get(&format!("{new}/a")).await.body;
    assert_eq!(before["spec"], json!({"common": "c"}));
    let same = it.put(&format!("{new}/a"), before.clone()).await.body;
    assert_ne!(same["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);

    let mut gone = put.body;
    gone["spec"]["versions"].as_array_mut().unwrap().retain(|v| v["name"] != "v1");
    let refused = it.put(path, gone).await;
    assert!(
        refused.message().contains(
            "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"
        ),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn a_webhook_converts_both_ways() {
    let hook = super::admission::Webhook::new(|_, request| {
        let wanted = request["desiredAPIVersion"].clone();
        let convert = |object: &Value| {
            let mut object = object.clone();
            let spec = object["spec"].as_object_mut().expect("a spec");
            if wanted == "example.com/v1" {
                let both = spec.remove("hostPort").unwrap_or_default();
                let (host, port) = both.as_str().unwrap_or(":").split_once(':').expect("two");
                spec.insert("host".into(), host.into());
                spec.insert("port".into(), port.into());
            } else {
                let text = |value: Option<Value>| value.and_then(|v| v.as_str().map(str::to_owned));
                let host = text(spec.remove("host")).unwrap_or_default();
                let port = text(spec.remove("port")).unwrap_or_default();
                spec.insert("hostPort".into(), format!("{host}:{port}").into());
            }
            if object["metadata"]["name"] == "cursed" {
                object["metadata"]["name"] = "other".into();
            }
            object["apiVersion"] = wanted.clone();
            object
        };
        let objects: Vec<_> = request["objects"].as_array().unwrap().iter().map(convert).collect();
        json!({"result": {"status": "Success"}, "convertedObjects": objects})
    })
    .await;
    let client =
        json!({"url": format!("https://localhost:{}/convert", hook.port), "caBundle": hook.ca});
    let conversion = json!({"strategy": "Webhook",
        "webhook": {"clientConfig": client, "conversionReviewVersions": ["v2", "v1"]}});
    let it = Fixture::defining(hosts(conversion)).await;
    let old = "/apis/example.com/v1beta1/hosts";
    let new = "/apis/example.com/v1/hosts";
    let body = |name: &str| json!({"apiVersion": "example.com/v1beta1", "kind": "Host", "metadata": {"name": name}, "spec": {"hostPort": "a:1"}});
    let mut events = it.watch(&format!("{old}?watch=true")).await;
    let made = it.create(old, body("a")).await;
    assert_eq!(made["spec"], json!({"hostPort": "a:1"}));
    assert_eq!(events.next().await.unwrap()["object"]["spec"], json!({"hostPort": "a:1"}));
    assert_eq!(it.get(&format!("{new}/a")).await.body["spec"], json!({"host": "a", "port": "1"}));
    let patched = it.merge(&format!("{old}/a"), json!({"spec": {"hostPort": "b:2"}})).await;
    assert_eq!(patched.body["spec"], json!({"hostPort": "b:2"}));
    assert_eq!(it.get(new).await.body["items"][0]["spec"], json!({"host": "b", "port": "2"}));
    assert_eq!(it.get(old).await.body["items"][0]["spec"], json!({"hostPort": "b:2"}));
    let refused = it.post(old, body("cursed")).await;
    assert_eq!(refused.code, 500);
    let why = "returned invalid converted object at index 0: must have the same name: \"cursed\" != \"other\"";
    assert!(refused.message().contains(why), "{}", refused.message());
}

#[tokio::test]
async fn definitions_are_checked_in_upstreams_words() {
    let it = Fixture::new().await;
    let schema = |change: &dyn Fn(&mut Value)| {
        let mut definition = cron_tabs();
        change(&mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
        definition
    };
    let spec = "spec.validation.openAPIV3Schema.properties[spec]";
    let whole = |change: &dyn Fn(&mut Value)| {
        let mut definition = cron_tabs();
        change(&mut definition);
        definition
    };
    let cases: Vec<(Value, Vec<String>)> = vec![
        (
            whole(&|d| d["metadata"]["name"] = "other.example.com".into()),
            vec!["metadata.name: Invalid value: \"other.example.com\": must be spec.names.plural+\".\"+spec.group".into()],
        ),
        (
            whole(&|d| d["spec"]["scope"] = "Galaxy".into()),
            vec!["spec.scope: Unsupported value: \"Galaxy\": supported values: \"Cluster\", \"Namespaced\"".into()],
        ),
        (
            whole(&|d| d["spec"]["versions"][0]["storage"] = false.into()),
            vec!["must have exactly one version marked as storage version".into()],
        ),
        (
            whole(&|d| _ = d["spec"]["versions"][0].as_object_mut().unwrap().remove("schema")),
            vec!["spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required".into()],
        ),
        (
            schema(&|s| s["properties"]["spec"]["properties"]["x"] = json!({})),
            vec![format!("{spec}.properties[x].type: Required value: must not be empty for specified object fields")],
        ),
        (
            schema(&|s| s["properties"]["spec"]["properties"]["x"] = json!({"type": "array"})),
            vec![format!("{spec}.properties[x].items: Required value: must be specified")],
        ),
        (
            schema(&|s| s["properties"]["spec"]["anyOf"] = json!([{"properties": {"nope": {"minimum": 1}}}])),
            vec![format!("{spec}.properties[nope]: Required value: because it is defined in {spec}.anyOf[0].properties[nope]")],
        ),
        (
            schema(&|s| s["properties"]["spec"]["not"] = json!({"type": "object"})),
            vec![format!("{spec}.not.type: Forbidden: must be empty to be structural")],
        ),
        (
            schema(&|s| s["properties"]["spec"]["properties"]["replicas"]["default"] = "many".into()),
            vec![format!("{spec}.properties[replicas].default: Invalid value: \"string\"")],
        ),
        (
            schema(&|s| s["properties"]["spec"]["properties"]["cronSpec"]["pattern"] = "(".into()),
            vec![format!("{spec}.properties[cronSpec].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't")],
        ),
        (
            schema(&|s| s["properties"]["metadata"] = json!({"type": "object", "properties": {"labels": {"type": "object"}}})),
            vec!["spec.validation.openAPIV3Schema.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified".into()],
        ),
        (
            schema(&|s| s["properties"]["spec"]["properties"]["ports"]["items"]["required"] = json!([])),
            vec![format!("{spec}.properties[ports].items.properties[name].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property")],
        ),
        (
            schema(&|s| s["properties"]["spec"]["properties"]["tags"]["uniqueItems"] = true.into()),
            vec![format!("{spec}.properties[tags].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic")],
        ),
        (
            whole(&|d| d["spec"]["versions"][0]["subresources"]["scale"]["specReplicasPath"] = ".status.x".into()),
            vec!["spec.subresources.scale.specReplicasPath: Invalid value: \".status.x\": should be a json path under .spec".into()],
        ),
        (
            whole(&|d| d["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.tags"}])),
            vec!["spec.selectableFields[0].jsonPath: Invalid value: \".spec.tags\": must point to a field of type string, boolean or integer.".into()],
        ),
        (
            whole(&|d| d["spec"]["conversion"] = json!({"strategy": "Webhook"})),
            vec![
                "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook".into(),
                "spec.conversion.conversionReviewVersions: Required value".into(),
            ],
        ),
        (
            whole(&|d| {
                d["spec"]["group"] = "apps.k8s.io".into();
                d["metadata"]["name"] = "crontabs.apps.k8s.io".into();
            }),
            vec!["metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation".into()],
        ),
    ];
    for (definition, expected) in cases {
        let answer = it.post(DEFINITIONS, definition).await;
        assert_eq!(answer.code, 422, "{expected:?}: {}", answer.body);
        for text in expected {
            assert!(answer.message().contains(&text), "{text}\nis not in\n{}", answer.message());
        }
    }
    it.create(DEFINITIONS, cron_tabs()).await;
}
