use serde_json::{Value, json};

use super::*;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            },
        },
    })
}

impl Fixture {
    async fn apply(&self, path: &str, query: &str, config: &Value) -> Answer {
        let path = format!("{path}?{query}");
        self.call("PATCH", &path, "application/apply-patch+yaml", config.to_string()).await
    }
}

/// Manager, operation and subresource of every entry.
fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let words = |entry| ["manager", "operation", "subresource"].map(|field| text(entry, field));
    entries.map(|entry| words(entry).join(" ").trim_end().to_owned()).collect()
}

#[tokio::test]
async fn an_apply_makes_changes_and_contends() {
    let it = Fixture::new().await;
    let web = &format!("{DEPLOYMENTS}/web");
    let made = it.apply(web, "fieldManager=one", &deployment(1)).await;
    assert_eq!((made.code, managers(&made.body)), (201, vec!["one Apply".to_owned()]));
    assert_eq!(made.body["spec"]["revisionHistoryLimit"], 10, "defaults are filled in");
    let fields = &made.body["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"];
    assert!(fields["f:revisionHistoryLimit"].is_null(), "and are nobody's: {fields}");

    let again = it.apply(web, "fieldManager=one", &deployment(1)).await;
    assert_eq!((again.code, &again.body), (200, &made.body), "the same again is no change");

    let refused = it.apply(web, "fieldManager=two", &deployment(2)).await;
    assert_eq!((refused.code, refused.reason()), (409, "Conflict"));
    assert_eq!(
        refused.message(),
        "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
    );
    let cause = &refused.body["details"]["causes"][0];
    let expected = json!({"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".spec.replicas"});
    assert_eq!(cause, &expected);

    let dry = it.apply(web, "fieldManager=two&force=true&dryRun=All", &deployment(2)).await;
    assert_eq!((dry.code, &dry.body["spec"]["replicas"]), (200, &json!(2)));
    assert_eq!(it.get(web).await.body, made.body);
    let forced = it.apply(web, "fieldManager=two&force=true", &deployment(2)).await;
    assert_eq!(forced.body["metadata"]["generation"], 2);
    assert_eq!(managers(&forced.body), ["one Apply", "two Apply"]);

    // A scale takes the field over, and so does whoever writes it otherwise.
    let scaled = it
        .merge(&format!("{web}/scale?fieldManager=scaler"), json!({"spec": {"replicas": 3}}))
        .await;
    assert_eq!(scaled.code, 200, "{}", scaled.body);
    let now = it.get(web).await.body;
    assert_eq!(managers(&now), ["one Apply", "two Apply", "scaler Update scale"]);
    let refused = it.apply(web, "fieldManager=two", &deployment(2)).await;
    let text = "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using apps/v1: .spec.replicas";
    assert_eq!(refused.message(), text);
}

#[tokio::test]
async fn writes_are_on_their_clients_accounts() {
    let it = Fixture::new().await;
    let request = Request::post(CONFIG_MAPS)
        .header("content-type", "application/json")
        .header("user-agent", "kubectl/v1.33.0 (linux/amd64)")
        .body(config_map("a").to_string().into())
        .unwrap();
    let made = read(it.send(request).await).await.body;
    assert_eq!(managers(&made), ["kubectl Update"]);
    let a = &format!("{CONFIG_MAPS}/a");
    let changed = it.merge(&format!("{a}?fieldManager=two"), json!({"data": {"c": "d"}})).await;
    assert_eq!(managers(&changed.body), ["kubectl Update", "two Update"]);
    let entry = &changed.body["metadata"]["managedFields"][1];
    assert_eq!(entry["fieldsV1"], json!({"f:data": {"f:c": {}}}));
    assert_eq!(entry["apiVersion"], "v1");
    let dropped = it.merge(a, json!({"metadata": {"managedFields": [{}]}})).await;
    assert_eq!(managers(&dropped.body), Vec::<String>::new());
    // Not tracked until somebody applies, and then everything was somebody's before.
    let untracked = it.merge(a, json!({"data": {"e": "f"}})).await;
    assert_eq!(managers(&untracked.body), Vec::<String>::new());
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y"}});
    let applied = it.apply(a, "fieldManager=three", &config).await;
    assert_eq!(managers(&applied.body), ["three Apply", "before-first-apply Update"]);
    assert_eq!(applied.body["data"], json!({"a": "b", "c": "d", "e": "f", "x": "y"}));
}

#[tokio::test]
async fn what_admission_fills_in_is_nobodys() {
    let it = Fixture::new().await;
    let made = it.create(PODS, pod("p")).await;
    let spec = &made["spec"];
    let fields = &made["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"];
    assert!(fields["f:containers"].is_object(), "{fields}");
    assert!(fields["f:restartPolicy"].is_object(), "defaults are the creator's: {fields}");
    assert!(!spec["priority"].is_null(), "it is filled in: {spec}");
    assert!(fields["f:priority"].is_null(), "and is owned: {fields}");
    // Nor does a later writer come to own it.
    let changed = it.merge(&format!("{PODS}/p"), json!({"metadata": {"labels": {"a": "b"}}})).await;
    let entry = &changed.body["metadata"]["managedFields"][0]["fieldsV1"];
    assert!(entry["f:metadata"]["f:labels"]["f:a"].is_object(), "{entry}");
    assert_eq!(&entry["f:spec"], fields);
}

#[tokio::test]
async fn status_is_applied_apart() {
    let it = Fixture::new().await;
    it.create(PODS, pod("p")).await;
    let p = &format!("{PODS}/p");
    let condition = json!({"type": "example.com/warm", "status": "True"});
    let mut config = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "status": {"conditions": [condition]},
    });
    let applied = it.apply(&format!("{p}/status"), "fieldManager=warmer", &config).await;
    assert_eq!(applied.code, 200, "{}", applied.body);
    let entries = managers(&applied.body);
    assert!(entries.contains(&"warmer Apply status".to_owned()), "{entries:?}");
    let conditions = applied.body["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "example.com/warm"), "{conditions:?}");
    config["metadata"]["name"] = "q".into();
    let missing = it.apply(&format!("{PODS}/q/status"), "fieldManager=warmer", &config).await;
    assert_eq!(missing.code, 404, "{}", missing.body);
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused() {
    let it = Fixture::new().await;
    let map = |change: Value| {
        let mut config =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        config = crate::registry::merge(config, change);
        config
    };
    let good = map(json!({}));
    let long = "x".repeat(200);
    for (query, config, code, text) in [
        ("", &good, 422, "fieldManager: Required value: is required for apply patch"),
        (&format!("fieldManager={long}"), &good, 422, "may not be more than 128 bytes"),
        ("fieldManager=m", &json!([]), 400, "no object"),
        (
            "fieldManager=m",
            &map(json!({"apiVersion": "v2"})),
            400,
            "Specified patch version: v2, expected: v1",
        ),
        ("fieldManager=m", &map(json!({"kind": "Pod"})), 400, "kind"),
        (
            "fieldManager=m",
            &map(json!({"metadata": {"name": "b"}})),
            400,
            "does not match the name on the URL",
        ),
        (
            "fieldManager=m",
            &map(json!({"metadata": {"managedFields": [{}]}})),
            400,
            "metadata.managedFields must be nil",
        ),
        ("fieldManager=m", &map(json!({"dota": {}})), 400, ".dota: field not declared in schema"),
        ("fieldManager=m", &map(json!({"data": {"a": 1}})), 400, "cannot unmarshal number"),
        ("fieldManager=m", &map(json!({"data": {"a b": "1"}})), 422, "data[a b]"),
    ] {
        let answer = it.apply(&format!("{CONFIG_MAPS}/a"), query, config).await;
        assert_eq!(answer.code, code, "{config}: {}", answer.body);
        assert!(answer.message().contains(text), "{config}: {}", answer.message());
    }
    let answer = it.merge(&format!("{CONFIG_MAPS}/a?force=true"), json!({})).await;
    assert_eq!(answer.code, 422, "{}", answer.body);
    assert_eq!(it.get(CONFIG_MAPS).await.names(), Vec::<&str>::new());
}
