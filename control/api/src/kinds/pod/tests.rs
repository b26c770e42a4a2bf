use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2024-05-06T12:00:00Z".parse().expect("a time")
}

/// READY, STATUS and RESTARTS of a Pod.
#[track_caller]
fn check_row(pod: Value, expected: [&str; 3]) {
    let object = Object::from_value(&KIND, &pod).expect("a pod");
    let cells = (KIND.cells)(&object, now());
    assert_eq!(cells.len(), KIND.columns.len());
    let shown: Vec<_> = cells[1..4].iter().map(|c| c.as_str().unwrap_or("?")).collect();
    assert_eq!(shown, expected, "{pod}");
}

fn pod_with(status: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": status})
}

#[test]
fn rows_of_running_and_failing_pods() {
    let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
    let waiting = |reason: &str| json!({"ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}});
    let ended = |code: i64, reason: &str| json!({"restartCount": 0, "state": {"terminated": {"exitCode": code, "reason": reason}}});
    let crashing = json!({"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2024-05-06T11:55:00Z"}}});

    check_row(pod_with(json!({"phase": "Pending"})), ["0/2", "Pending", "0"]);
    check_row(
        pod_with(json!({"phase": "Pending", "containerStatuses": [waiting("ContainerCreating"), waiting("ContainerCreating")]})),
        ["0/2", "ContainerCreating", "0"],
    );
    check_row(
        pod_with(json!({"phase": "Running", "containerStatuses": [running, running]})),
        ["2/2", "Running", "0"],
    );
    check_row(
        pod_with(json!({"phase": "Running", "containerStatuses": [crashing, running]})),
        ["1/2", "CrashLoopBackOff", "3 (5m ago)"],
    );
    check_row(
        pod_with(json!({"phase": "Pending", "containerStatuses": [waiting("ErrImagePull"), waiting("ErrImagePull")]})),
        ["0/2", "ErrImagePull", "0"],
    );
    check_row(
        pod_with(json!({"phase": "Succeeded", "containerStatuses": [ended(0, "Completed"), ended(0, "Completed")]})),
        ["0/2", "Completed", "0"],
    );
    check_row(
        pod_with(json!({"phase": "Failed", "containerStatuses": [ended(1, ""), ended(0, "Completed")]})),
        ["0/2", "ExitCode:1", "0"],
    );
    check_row(
        pod_with(json!({"phase": "Failed", "containerStatuses": [ended(1, "Error"), ended(0, "Completed")]})),
        ["0/2", "Error", "0"],
    );
    // One container is done, the other still serves.
    let done_and_running = |ready: &str| {
        pod_with(json!({"phase": "Running", "containerStatuses": [ended(0, "Completed"), running],
            "conditions": [{"type": "Ready", "status": ready}]}))
    };
    check_row(done_and_running("False"), ["1/2", "NotReady", "0"]);
    check_row(done_and_running("True"), ["1/2", "Running", "0"]);
    check_row(pod_with(json!({"phase": "Failed", "reason": "Evicted"})), ["0/2", "Evicted", "0"]);
    check_row(
        pod_with(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]})),
        ["0/2", "SchedulingGated", "0"],
    );

    let deleting = |status: Value| {
        let mut pod = pod_with(status);
        pod["metadata"]["deletionTimestamp"] = json!("2024-05-06T12:00:30Z");
        pod
    };
    check_row(
        deleting(json!({"phase": "Running", "containerStatuses": [running, running]})),
        ["2/2", "Terminating", "0"],
    );
    check_row(deleting(json!({"phase": "Running", "reason": "NodeLost"})), ["0/2", "Unknown", "0"]);
    check_row(deleting(json!({"phase": "Succeeded"})), ["0/2", "Succeeded", "0"]);
}

#[test]
fn rows_of_initialising_pods() {
    let spec = json!({"containers": [{"name": "a"}],
        "initContainers": [{"name": "i", "restartPolicy": "Always"}, {"name": "j"}]});
    let check = |statuses: Value, expected| {
        check_row(
            json!({"metadata": {"name": "p"}, "spec": spec.clone(),
                "status": {"phase": "Pending", "initContainerStatuses": statuses}}),
            expected,
        );
    };
    let sidecar = json!({"name": "i", "started": true, "ready": true, "restartCount": 0, "state": {"running": {}}});
    check(json!([{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]), ["0/2", "Init:0/2", "0"]);
    check(json!([sidecar, {"name": "j", "state": {"running": {}}}]), ["1/2", "Init:1/2", "0"]);
    check(
        json!([sidecar, {"name": "j", "restartCount": 2, "state": {"terminated": {"exitCode": 3}}}]),
        ["1/2", "Init:ExitCode:3", "2"],
    );
    check(
        json!([sidecar, {"name": "j", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]),
        ["1/2", "Init:CrashLoopBackOff", "0"],
    );
}

#[test]
fn wide_cells() {
    let object = Object::from_value(
        &KIND,
        &json!({"metadata": {"name": "p", "creationTimestamp": "2024-05-01T09:00:00Z"},
            "spec": {"nodeName": "n", "readinessGates": [{"conditionType": "x"}, {"conditionType": "y"}]},
            "status": {"podIP": "10.0.0.1", "conditions": [{"type": "x", "status": "True"}]}}),
    )
    .expect("a pod");
    let cells = (KIND.cells)(&object, now());
    assert_eq!(cells[4..], [json!("5d3h"), json!("10.0.0.1"), json!("n"), json!("<none>"), json!("1/2")]);
}

#[test]
fn a_pod_with_everything_left_out() {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {
        "serviceAccountName": "me",
        "hostNetwork": true,
        "containers": [{
            "name": "c", "image": "reg:5000/app",
            "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
            "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}, "requests": {"cpu": "0.0001"}},
            "readinessProbe": {"httpGet": {"port": 3000}, "periodSeconds": 5}}],
        "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}});
    (KIND.default)(&mut pod);
    let toleration = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    let expected = json!({"metadata": {"name": "p"}, "spec": {
        "serviceAccountName": "me",
        "serviceAccount": "me",
        "hostNetwork": true,
        "dnsPolicy": "ClusterFirst",
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
        "enableServiceLinks": true,
        "tolerations": [toleration("node.kubernetes.io/not-ready"), toleration("node.kubernetes.io/unreachable")],
        "containers": [{
            "name": "c", "image": "reg:5000/app",
            "imagePullPolicy": "Always",
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v1"}}},
                    {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}}],
            "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "1m", "memory": "1Gi"}},
            "readinessProbe": {"httpGet": {"port": 3000, "path": "/", "scheme": "HTTP"},
                "timeoutSeconds": 1, "periodSeconds": 5, "successThreshold": 1, "failureThreshold": 3}}],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
            {"name": "p", "projected": {"defaultMode": 420,
                "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}]}});
    assert_eq!(pod, expected);
    let once = pod.clone();
    (KIND.default)(&mut pod);
    assert_eq!(pod, once, "defaults are stable");
}

#[test]
fn pull_policy_follows_the_tag() {
    for (image, expected) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.14.2", "IfNotPresent"),
        ("reg:5000/a/b", "Always"),
        ("reg:5000/a/b:1", "IfNotPresent"),
        ("a@sha256:00", "IfNotPresent"),
        ("a:latest@sha256:00", "IfNotPresent"),
    ] {
        let mut pod = json!({"spec": {"containers": [{"image": image}]}});
        (KIND.default)(&mut pod);
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], expected, "{image}");
    }
}

#[test]
fn tolerations_already_there_are_kept() {
    for tolerations in [
        json!([{"operator": "Exists"}]),
        json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}, {"key": "node.kubernetes.io/unreachable"}]),
    ] {
        let mut pod = json!({"spec": {"containers": [], "tolerations": tolerations}});
        (KIND.default)(&mut pod);
        assert_eq!(pod["spec"]["tolerations"], tolerations);
    }
}

#[test]
fn create_update_and_status() {
    let mut pod = json!({"spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running"}});
    (KIND.prepare)(Prepare::Create(&mut pod));
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(pod["spec"]["serviceAccountName"], "default");

    let old = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"priority": 7, "serviceAccountName": "me"},
        "status": {"phase": "Running", "qosClass": "Burstable"}});
    let mut new = json!({"metadata": {"labels": {"a": "c"}}, "spec": {}, "status": {"phase": "Failed"}});
    (KIND.prepare)(Prepare::Update { new: &mut new, old: &old });
    assert_eq!(new["status"], old["status"]);
    assert_eq!(new["spec"], json!({"priority": 7, "serviceAccountName": "me", "serviceAccount": "me"}));
    assert_eq!(new["metadata"]["labels"]["a"], "c");

    let mut new = json!({"metadata": {"resourceVersion": "9", "labels": {"a": "c"}}, "spec": {}, "status": {"phase": "Failed"}});
    (KIND.prepare)(Prepare::Status { new: &mut new, old: &old });
    assert_eq!(
        new,
        json!({"metadata": {"resourceVersion": "9", "labels": {"a": "c"}}, "spec": old["spec"],
            "status": {"phase": "Failed", "qosClass": "Burstable"}})
    );
}

#[test]
fn fields() {
    let object = Object::from_value(
        &KIND,
        &json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}}),
    )
    .expect("a pod");
    for (selector, expected) in [
        ("spec.nodeName=n,status.phase=Running", true),
        ("status.phase!=Running", false),
        ("spec.hostNetwork=false", true),
        ("status.podIP=", true),
    ] {
        let selector = crate::FieldSelector::parse(selector, &KIND).expect(selector);
        assert_eq!(selector.matches(&object), expected);
    }
    let error = crate::FieldSelector::parse("spec.x=1", &KIND).expect_err("unknown").to_string();
    assert_eq!(error, "field label not supported: spec.x");
}
