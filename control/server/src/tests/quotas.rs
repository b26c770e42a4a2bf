//! What namespaces limit: quotas, limits of containers, and what Pods may ask for.

use super::*;

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const LIMITS: &str = "/api/v1/namespaces/default/limitranges";

fn quota(name: &str, hard: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"hard": hard}})
}

fn warnings(answer: &Answer) -> Vec<&str> {
    let all = answer.headers.get_all("warning");
    all.iter().filter_map(|value| value.to_str().ok()).collect()
}

#[tokio::test]
async fn nothing_is_let_in_beyond_a_quota() {
    let fixture = Fixture::new().await;
    fixture.create(PODS, pod("before")).await;
    fixture.create(QUOTAS, quota("q", json!({"pods": "2"}))).await;
    fixture.create(PODS, pod("a")).await;
    let answer = fixture.post(PODS, pod("b")).await;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.message(),
        "pods \"b\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
    );
    // Who goes makes room; who ends too.
    assert_eq!(fixture.delete(&format!("{PODS}/a")).await.code, 200);
    fixture.create(PODS, pod("b")).await;
    let ended = json!({"status": {"phase": "Succeeded"}});
    assert_eq!(fixture.merge(&format!("{PODS}/b/status"), ended).await.code, 200);
    // Trying takes no room.
    for _ in 0..2 {
        assert_eq!(fixture.post(&format!("{PODS}?dryRun=All"), pod("c")).await.code, 201);
    }
    fixture.create(PODS, pod("c")).await;
    assert_eq!(fixture.post(PODS, pod("d")).await.code, 403);
    // What is refused otherwise takes none either.
    let more = json!({"spec": {"hard": {"pods": "3"}}});
    assert_eq!(fixture.merge(&format!("{QUOTAS}/q"), more).await.code, 200);
    assert_eq!(fixture.post(PODS, pod("c")).await.code, 409);
    fixture.create(PODS, pod("d")).await;
}

#[tokio::test]
async fn many_at_a_time_get_no_more_than_there_is() {
    let fixture = Fixture::new().await;
    fixture.create(QUOTAS, quota("q", json!({"count/configmaps": "10"}))).await;
    let creations = (0..40).map(|i| {
        let map = config_map(&format!("m{i}"));
        fixture.post(CONFIG_MAPS, map)
    });
    let codes: Vec<u16> =
        futures::future::join_all(creations).await.iter().map(|answer| answer.code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 10);
    assert_eq!(codes.iter().filter(|code| **code == 403).count(), 30);
    assert_eq!(fixture.get(CONFIG_MAPS).await.names().len(), 10);
}

#[tokio::test]
async fn quotas_oblige_and_follow_changes() {
    let fixture = Fixture::new().await;
    let hard = json!({"limits.cpu": "2", "services.nodeports": "1", "count/deployments.apps": "0"});
    fixture.create(QUOTAS, quota("q", hard)).await;
    let answer = fixture.post(PODS, pod("a")).await;
    assert_eq!(
        answer.message(),
        "pods \"a\" is forbidden: failed quota: q: must specify limits.cpu for: c"
    );
    let mut limited = pod("a");
    limited["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1500m"}});
    fixture.create(PODS, limited.clone()).await;
    limited["metadata"]["name"] = "b".into();
    assert_eq!(
        fixture.post(PODS, limited).await.message(),
        "pods \"b\" is forbidden: exceeded quota: q, requested: limits.cpu=1500m, used: limits.cpu=1500m, limited: limits.cpu=2"
    );
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod("p")["spec"]});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    let deployment = json!({"metadata": {"name": "d"}, "spec": spec});
    let answer = fixture.post("/apis/apps/v1/namespaces/default/deployments", deployment).await;
    assert_eq!(
        answer.message(),
        "deployments.apps \"d\" is forbidden: exceeded quota: q, requested: count/deployments.apps=1, used: count/deployments.apps=0, limited: count/deployments.apps=0"
    );
    let services = "/api/v1/namespaces/default/services";
    for name in ["one", "two"] {
        let spec = json!({"ports": [{"port": 80}]});
        fixture.create(services, json!({"metadata": {"name": name}, "spec": spec})).await;
    }
    let open = json!({"spec": {"type": "NodePort"}});
    assert_eq!(fixture.merge(&format!("{services}/one"), open.clone()).await.code, 200);
    assert_eq!(
        fixture.merge(&format!("{services}/two"), open).await.message(),
        "services \"two\" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1"
    );
}

#[tokio::test]
async fn the_status_of_a_quota_follows() {
    let fixture = Fixture::with(|config| config.scheduler = false).await;
    fixture.create(QUOTAS, quota("q", json!({"configmaps": "9"}))).await;
    let shows = async |expected: &str| {
        loop {
            let status = fixture.get(&format!("{QUOTAS}/q")).await.body["status"].take();
            if status["used"]["configmaps"] == expected {
                assert_eq!(status["hard"]["configmaps"], "9");
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // The one that every namespace has.
    shows("1").await;
    fixture.create(CONFIG_MAPS, config_map("a")).await;
    shows("2").await;
    assert_eq!(fixture.delete(&format!("{CONFIG_MAPS}/a")).await.code, 200);
    shows("1").await;
}

#[tokio::test]
async fn limit_ranges_give_and_refuse() {
    let fixture = Fixture::new().await;
    let limits = json!([
        {"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "100m"}, "defaultRequest": {"cpu": "200m"},
         "maxLimitRequestRatio": {"cpu": "4"}},
        {"type": "Pod", "max": {"cpu": "1500m"}},
    ]);
    fixture.create(LIMITS, json!({"metadata": {"name": "l"}, "spec": {"limits": limits}})).await;
    let answer = fixture.post(PODS, pod("a")).await;
    assert_eq!(
        answer.message(),
        "pods \"a\" is forbidden: cpu max limit to request ratio per Container is 4, but provided ratio is 5.000000"
    );
    let with = |name: &str, resources: &[Value]| {
        let mut pod = pod(name);
        let containers: Vec<Value> = resources
            .iter()
            .enumerate()
            .map(|(i, resources)| {
                json!({"name": format!("c{i}"), "image": "example", "resources": resources})
            })
            .collect();
        pod["spec"]["containers"] = containers.into();
        pod
    };
    let asks = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let made = fixture.create(PODS, with("a", &[asks("500m")])).await;
    assert_eq!(made["spec"]["containers"][0]["resources"]["limits"]["cpu"], "1");
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu limit for container c0"
    );
    for (resources, expected) in [
        (
            vec![json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}})],
            "[maximum cpu usage per Container is 1, but limit is 2, maximum cpu usage per Pod is 1500m, but limit is 2]",
        ),
        (
            vec![json!({"limits": {"cpu": "100m"}, "requests": {"cpu": "50m"}})],
            "minimum cpu usage per Container is 100m, but request is 50m",
        ),
        (vec![asks("500m"), asks("500m")], "maximum cpu usage per Pod is 1500m, but limit is 2"),
    ] {
        let answer = fixture.post(PODS, with("b", &resources)).await;
        assert_eq!(answer.message(), format!("pods \"b\" is forbidden: {expected}"));
    }
}

#[tokio::test]
async fn pods_must_meet_the_standard_of_their_namespace() {
    let fixture = Fixture::new().await;
    let namespace = "/api/v1/namespaces/default";
    fixture.create(PODS, pod("before")).await;
    let labels = |labels: Value| json!({"metadata": {"labels": labels}});
    let wrong = labels(json!({"pod-security.kubernetes.io/enforce": "strict"}));
    let answer = fixture.merge(namespace, wrong).await;
    assert_eq!(answer.code, 422);
    assert_eq!(
        answer.message(),
        "Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"
    );
    let set = labels(
        json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}),
    );
    let answer = fixture.merge(namespace, set).await;
    assert_eq!(answer.code, 200);
    assert_eq!(
        warnings(&answer),
        [
            "299 - \"existing pods in namespace \\\"default\\\" violate the new PodSecurity enforce level \\\"restricted:latest\\\"\"",
            "299 - \"before: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile\"",
        ]
    );
    let all = "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
               unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
               runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
               seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";
    let answer = fixture.post(PODS, pod("a")).await;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.message(),
        format!("pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": {all}")
    );
    // What makes such Pods is only warned of.
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod("p")["spec"]});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    let deployment = json!({"metadata": {"name": "d"}, "spec": spec});
    let answer = fixture.post("/apis/apps/v1/namespaces/default/deployments", deployment).await;
    assert_eq!(answer.code, 201);
    let text = format!("would violate PodSecurity \"restricted:latest\": {all}");
    assert_eq!(warnings(&answer), [format!("299 - \"{}\"", text.replace('"', "\\\""))]);
    let mut good = pod("good");
    good["spec"]["securityContext"] =
        json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    good["spec"]["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    fixture.create(PODS, good).await;
    // Who was there before may go on, and be told about.
    let status = json!({"status": {"phase": "Running"}});
    assert_eq!(fixture.merge(&format!("{PODS}/before/status"), status).await.code, 200);
    assert_eq!(fixture.merge(&format!("{PODS}/before"), labels(json!({"x": "y"}))).await.code, 200);
}

/// A request as somebody who is no administrator.
async fn merge_as(fixture: &Fixture, user: &str, path: &str, body: Value) -> Answer {
    // What was written before is authorized by only once it shows; a read waits for that.
    assert_eq!(fixture.get(path).await.code, 200);
    let request = Request::builder()
        .method("PATCH")
        .uri(path)
        .header("content-type", "application/merge-patch+json")
        .header("impersonate-user", user)
        .body(Body::from(body.to_string()))
        .expect("a request");
    read(fixture.send(request).await).await
}

#[tokio::test]
async fn who_blocks_an_owner_needs_rights_to_it() {
    let fixture = Fixture::new().await;
    let owner = fixture.create(CONFIG_MAPS, config_map("owner")).await;
    fixture.create(CONFIG_MAPS, config_map("owned")).await;
    let path = format!("{CONFIG_MAPS}/owned");
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let grant = |resources: &[&str], verbs: &[&str]| json!({"apiGroups": [""], "resources": resources, "verbs": verbs});
    let may_patch = grant(&["configmaps"], &["patch"]);
    let role = json!({"metadata": {"name": "r"}, "rules": [may_patch]});
    fixture.create(roles, role).await;
    let subjects =
        json!([{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "eve"}]);
    let to = json!({"kind": "Role", "apiGroup": "rbac.authorization.k8s.io", "name": "r"});
    let binding = json!({"metadata": {"name": "b"}, "roleRef": to, "subjects": subjects});
    fixture
        .create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding)
        .await;
    let owners = |blocks: bool| {
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
                           "uid": owner["metadata"]["uid"], "blockOwnerDeletion": blocks});
        json!({"metadata": {"ownerReferences": [owner]}})
    };
    let answer = merge_as(&fixture, "eve", &path, owners(false)).await;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.message(),
        "configmaps \"owned\" is forbidden: cannot set an ownerRef on a resource you can't delete: , <nil>"
    );
    let may_delete = grant(&["configmaps"], &["patch", "delete"]);
    let rules = json!({"rules": [may_delete]});
    assert_eq!(fixture.merge(&format!("{roles}/r"), rules).await.code, 200);
    assert_eq!(merge_as(&fixture, "eve", &path, owners(false)).await.code, 200);
    assert_eq!(
        merge_as(&fixture, "eve", &path, owners(true)).await.message(),
        "configmaps \"owned\" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>"
    );
    let may_block = grant(&["configmaps/finalizers"], &["update"]);
    let rules = json!({"rules": [may_delete, may_block]});
    assert_eq!(fixture.merge(&format!("{roles}/r"), rules).await.code, 200);
    assert_eq!(merge_as(&fixture, "eve", &path, owners(true)).await.code, 200);
    // Who leaves it as it is needs none of that.
    let more = json!({"data": {"more": "data"}});
    assert_eq!(merge_as(&fixture, "eve", &path, more).await.code, 200);
}

#[tokio::test]
async fn roles_are_made_of_their_parts() {
    let fixture = Fixture::with(|config| config.scheduler = false).await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let boats =
        json!({"apiGroups": ["boats.example.com"], "resources": ["coracles"], "verbs": ["get"]});
    let labels = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    fixture
        .create(roles, json!({"metadata": {"name": "boats", "labels": labels}, "rules": [boats]}))
        .await;
    for role in ["view", "edit", "admin"] {
        loop {
            let role = fixture.get(&format!("{roles}/{role}")).await.body;
            if role["rules"].as_array().is_some_and(|rules| rules.contains(&boats)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
