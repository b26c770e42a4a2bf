//! What the audit log says of requests.

use serde_json::json;

use super::*;
use crate::LogOptions;

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
- level: RequestResponse
  verbs: [create, update, patch, delete]
  omitManagedFields: true
- level: Request
"#;

pub(super) async fn audited(
    policy: Option<&str>,
) -> (Fixture, std::path::PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("audit.log");
    let file = policy.map(|policy| {
        let file = dir.path().join("policy.yaml");
        std::fs::write(&file, policy).expect("a file");
        file
    });
    let path = log.clone();
    let it = Fixture::with(|config| {
        config.controllers = false;
        config.scheduler = false;
        config.audit_log = Some(LogOptions { path, ..LogOptions::default() });
        config.audit_policy = file;
    })
    .await;
    (it, log, dir)
}

pub(super) fn events(log: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).expect("a log");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn as_much_as_the_policy_says() {
    let (it, log, _dir) = audited(Some(POLICY)).await;
    let before = events(&log).len();
    let answer = it.post(CONFIG_MAPS, config_map("a")).await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    it.create("/api/v1/namespaces/default/secrets", secret).await;
    it.get(&format!("{CONFIG_MAPS}/none?pretty=1")).await;
    it.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"c": "d"}})).await;
    let all = events(&log).split_off(before);
    let told: Vec<_> = all
        .iter()
        .map(|it| {
            [&it["stage"], &it["level"], &it["verb"]]
                .map(|it| it.as_str().unwrap_or_default().to_owned())
        })
        .collect();
    let stages = |level: &str, verb: &str| {
        ["RequestReceived", "ResponseComplete"].map(|stage| [stage, level, verb].map(str::to_owned))
    };
    let expected = [
        stages("RequestResponse", "create"),
        stages("Metadata", "create"),
        stages("Request", "get"),
        stages("RequestResponse", "patch"),
    ];
    assert_eq!(told, expected.concat());

    let [_, created, _, secret, _, missing, _, patched] = &all[..] else { panic!("{all:?}") };
    assert_eq!(
        (&created["kind"], &created["apiVersion"]),
        (&json!("Event"), &json!("audit.k8s.io/v1"))
    );
    assert_eq!(created["auditID"], answer.headers["audit-id"].to_str().expect("text"));
    assert_eq!(created["auditID"], all[0]["auditID"]);
    assert_eq!(created["requestURI"], CONFIG_MAPS);
    assert_eq!(created["user"], json!({"username": "admin", "groups": ["system:masters"]}));
    assert_eq!(
        created["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "apiVersion": "v1"})
    );
    assert_eq!(created["requestObject"], config_map("a"));
    assert_eq!(created["responseObject"]["data"], json!({"a": "b"}));
    assert_eq!(created["responseObject"]["metadata"].get("managedFields"), None);
    assert_eq!(created["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(created["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!((secret.get("requestObject"), secret.get("responseObject")), (None, None));
    assert!(!std::fs::read_to_string(&log).expect("a log").contains("hunter2"));
    assert_eq!(
        (&missing["responseStatus"]["code"], &missing["responseStatus"]["reason"]),
        (&json!(404), &json!("NotFound"))
    );
    assert_eq!(missing.get("responseObject"), None);
    assert_eq!(
        (&patched["requestObject"], &patched["objectRef"]["name"]),
        (&json!({"data": {"c": "d"}}), &json!("a"))
    );
}

#[tokio::test]
async fn without_a_policy_who_did_what_and_nothing_that_was_sent() {
    let (it, log, _dir) = audited(None).await;
    let before = events(&log).len();
    it.create(CONFIG_MAPS, config_map("a")).await;
    let mut watch = it.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    watch.step().await;
    drop(watch);
    // Nobody.
    let request =
        Request::get(PODS).header("user-agent", "test/1").body(Body::empty()).expect("a request");
    let answer =
        router(it.server.app.clone()).oneshot(request).await.unwrap_or_else(|never| match never {});
    assert_eq!(answer.status(), 401);
    // Somebody who acts as somebody else, and may not do it.
    let request = Request::delete(format!("{CONFIG_MAPS}/a"))
        .header("impersonate-user", "jane")
        .body(Body::empty())
        .expect("a request");
    assert_eq!(it.send(request).await.status(), 403);
    let all = events(&log).split_off(before);
    let told: Vec<_> = all
        .iter()
        .map(|it| {
            (
                it["stage"].as_str().unwrap_or_default(),
                it["verb"].as_str().unwrap_or_default(),
                it["responseStatus"]["code"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("ResponseComplete", "create", Some(201)),
            ("ResponseStarted", "watch", Some(200)),
            ("ResponseComplete", "watch", Some(200)),
            ("ResponseComplete", "list", Some(401)),
            ("ResponseComplete", "delete", Some(403)),
        ]
    );
    assert!(all.iter().all(|it| it["level"] == "Metadata" && it.get("requestObject").is_none()));
    assert_eq!((&all[3]["user"], &all[3]["userAgent"]), (&json!({}), &json!("test/1")));
    assert_eq!(
        (&all[4]["user"]["username"], &all[4]["impersonatedUser"]["username"]),
        (&json!("admin"), &json!("jane"))
    );
    assert_eq!(all[4]["annotations"]["authorization.k8s.io/decision"], "forbid");
}
