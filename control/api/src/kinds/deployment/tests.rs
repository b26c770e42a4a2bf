use serde_json::json;

use super::*;

fn deployment(spec: Value) -> Value {
    let mut whole = json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"app": "nginx"}},
        "template": {"metadata": {"labels": {"app": "nginx"}},
            "spec": {"containers": [{"name": "nginx", "image": "nginx:1.14.2", "ports": [{"containerPort": 80}]}]}}}});
    for (name, value) in spec.as_object().expect("fields") {
        whole["spec"][name] = value.clone();
    }
    (KIND.default)(&mut whole);
    whole
}

#[track_caller]
fn check(spec: Value, expected: &[&str]) {
    let errors: Vec<_> =
        (KIND.validate)(&deployment(spec)).iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected);
}

#[test]
fn defaults() {
    let deployment = deployment(json!({"replicas": 3}));
    assert_eq!(
        deployment["spec"],
        json!({
            "replicas": 3,
            "revisionHistoryLimit": 10,
            "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "selector": {"matchLabels": {"app": "nginx"}},
            "template": {
                "metadata": {"labels": {"app": "nginx"}},
                "spec": {
                    "dnsPolicy": "ClusterFirst",
                    "restartPolicy": "Always",
                    "schedulerName": "default-scheduler",
                    "securityContext": {},
                    "terminationGracePeriodSeconds": 30,
                    "containers": [{
                        "name": "nginx",
                        "image": "nginx:1.14.2",
                        "imagePullPolicy": "IfNotPresent",
                        "ports": [{"containerPort": 80, "protocol": "TCP"}],
                        "resources": {},
                        "terminationMessagePath": "/dev/termination-log",
                        "terminationMessagePolicy": "File"
                    }]
                }
            }
        })
    );
}

#[test]
fn validation() {
    check(json!({}), &[]);
    check(
        json!({"selector": null}),
        &[
            "spec.selector: Required value",
            "spec.template.metadata.labels: Invalid value: {\"app\":\"nginx\"}: `selector` does not match template `labels`",
        ],
    );
    check(
        json!({"selector": {}}),
        &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
    );
    check(
        json!({"selector": {"matchLabels": {"app": "web"}}}),
        &["spec.template.metadata.labels: Invalid value: {\"app\":\"nginx\"}: `selector` does not match template `labels`"],
    );
    check(
        json!({"selector": {"matchExpressions": [{"key": "app", "operator": "Is"}]}}),
        &["spec.selector.matchExpressions[0].operator: Invalid value: \"Is\": not a valid selector operator"],
    );
    check(
        json!({"replicas": -1, "minReadySeconds": 600}),
        &[
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
        ],
    );
    check(json!({"template": null}), &[
        "spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`",
        "spec.template: Required value",
    ]);
    check(
        json!({"template": {"metadata": {"labels": {"app": "nginx"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}}),
        &[
            "spec.template.spec.containers[0].image: Required value",
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ],
    );
}

#[test]
fn strategies() {
    let strategy = |strategy: Value| json!({"strategy": strategy});
    check(strategy(json!({"type": "Recreate"})), &[]);
    check(strategy(json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})), &[]);
    check(
        strategy(json!({"type": "Recreate", "rollingUpdate": {}})),
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    check(
        strategy(json!({"type": "Canary"})),
        &["spec.strategy.type: Unsupported value: \"Canary\": supported values: \"Recreate\", \"RollingUpdate\""],
    );
    check(
        strategy(json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}})),
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"],
    );
    check(
        strategy(json!({"rollingUpdate": {"maxSurge": "10", "maxUnavailable": "101%"}})),
        &[
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
            "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"10\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
        ],
    );
}

#[test]
fn the_selector_is_immutable() {
    let old = deployment(json!({}));
    let new = deployment(json!({"selector": {"matchLabels": {"app": "web"}}}));
    let errors: Vec<_> =
        (KIND.validate_update)(&new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\"}}: field is immutable"]
    );
    assert_eq!((KIND.validate_update)(&old, &old), []);
}

#[test]
fn rows() {
    let mut deployment = deployment(json!({"replicas": 3}));
    deployment["status"] = json!({"readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2});
    let object = Object::from_value(&KIND, &deployment).expect("a deployment");
    let cells = (KIND.cells)(&object, "2024-01-01T00:00:00Z".parse().expect("a time"));
    assert_eq!(
        cells,
        [
            json!("d"),
            json!("2/3"),
            json!(1),
            json!(2),
            json!("<unknown>"),
            json!("nginx"),
            json!("nginx:1.14.2"),
            json!("app=nginx")
        ]
    );
}
