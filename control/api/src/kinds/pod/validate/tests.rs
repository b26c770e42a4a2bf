use serde_json::{Value, json};

use super::super::KIND;

fn errors_of(mut pod: Value) -> Vec<String> {
    (KIND.default)(&mut pod);
    (KIND.validate)(&pod).iter().map(ToString::to_string).collect()
}

/// Checks a Pod with the given spec.
#[track_caller]
fn check_spec(spec: Value, expected: &[&str]) {
    assert_eq!(errors_of(json!({"metadata": {"name": "p"}, "spec": spec})), expected, "{spec}");
}

/// Checks a Pod with one good container, with some fields added to it.
#[track_caller]
fn check_container(fields: Value, expected: &[&str]) {
    let mut container = json!({"name": "c", "image": "i"});
    for (name, value) in fields.as_object().expect("fields") {
        container[name] = value.clone();
    }
    check_spec(json!({"containers": [container], "volumes": [{"name": "v"}]}), expected);
}

/// Checks a Pod with one good container and some fields beside.
#[track_caller]
fn check_pod(fields: Value, expected: &[&str]) {
    let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
    for (name, value) in fields.as_object().expect("fields") {
        spec[name] = value.clone();
    }
    check_spec(spec, expected);
}

#[test]
fn containers() {
    check_container(json!({}), &[]);
    check_spec(json!({}), &["spec.containers: Required value"]);
    check_spec(
        json!({"containers": [{}]}),
        &["spec.containers[0].name: Required value", "spec.containers[0].image: Required value"],
    );
    check_spec(
        json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": " i"}]}),
        &[
            "spec.containers[1].image: Invalid value: \" i\": must not have leading or trailing whitespace",
            "spec.containers[1].name: Duplicate value: \"c\"",
        ],
    );
    check_container(
        json!({"imagePullPolicy": "Sometimes"}),
        &["spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\""],
    );
}

#[test]
fn stop_signals() {
    let at = "spec.containers[0].lifecycle.stopSignal";
    let check = |signal: &str, os: Value, expected: &[&str]| {
        let container = json!({"name": "c", "image": "i", "lifecycle": {"stopSignal": signal}});
        let spec = json!({"containers": [container], "os": os});
        let found = errors_of(json!({"metadata": {"name": "p"}, "spec": spec}));
        let matches = found.iter().zip(expected).all(|(found, start)| found.starts_with(start));
        assert!(found.len() == expected.len() && matches, "{signal}: {found:?}");
    };
    let linux = || json!({"name": "linux"});
    for good in ["SIGUSR1", "SIGRTMIN", "SIGRTMIN+15", "SIGRTMAX-14"] {
        check(good, linux(), &[]);
    }
    for bad in ["USR1", "SIGRTMIN+16", "SIGRTMIN+01", "SIGRTMAX-15", "9"] {
        check(bad, linux(), &[&format!("{at}: Unsupported value: \"{bad}\": supported values")]);
    }
    let forbidden = format!("{at}: Forbidden: may not be set for containers with empty `spec.os.name`");
    check("SIGUSR1", json!(null), &[&forbidden]);
}

#[test]
fn ports() {
    check_container(json!({"ports": [{"containerPort": 80, "name": "http"}]}), &[]);
    check_container(json!({"ports": [{}]}), &["spec.containers[0].ports[0].containerPort: Required value"]);
    check_container(
        json!({"ports": [{"containerPort": 70000, "name": "a", "protocol": "X"}, {"containerPort": 1, "name": "a"}]}),
        &[
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
        ],
    );
    check_container(
        json!({"ports": [{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]}),
        &["spec.containers[0].ports[1].hostPort: Duplicate value: \"/TCP/80\""],
    );
}

#[test]
fn environment() {
    check_container(
        json!({"env": [{"name": "A", "value": "1"},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "envFrom": [{"configMapRef": {"name": "m"}}]}),
        &[],
    );
    check_container(
        json!({"env": [{"value": "1"}, {"name": "A=B"}, {"name": "C", "valueFrom": {}},
            {"name": "D", "value": "1", "valueFrom": {"configMapKeyRef": {"name": "s"}}}],
            "envFrom": [{}]}),
        &[
            "spec.containers[0].env[0].name: Required value",
            "spec.containers[0].env[1].name: Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            "spec.containers[0].env[2].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            "spec.containers[0].env[3].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            "spec.containers[0].env[3].valueFrom.configMapKeyRef.key: Required value",
            "spec.containers[0].envFrom[0]: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
        ],
    );
}

#[test]
fn resources() {
    check_container(
        json!({"resources": {"limits": {"cpu": "500m", "memory": "256Mi", "example.com/gpu": 1}, "requests": {"cpu": "250m"}}}),
        &[],
    );
    check_container(
        json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2000m"}}}),
        &["spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
    );
    check_container(
        json!({"resources": {"limits": {"a.b/c": 2, "a.b/half": "500m", "storage": 1}, "requests": {"a.b/c": 1, "a.b/d": 1}}}),
        &[
            "spec.containers[0].resources.limits[a.b/half]: Invalid value: \"500m\": must be an integer",
            "spec.containers[0].resources.limits[storage]: Invalid value: \"storage\": must be a standard resource for containers",
            "spec.containers[0].resources.requests: Invalid value: \"1\": must be equal to a.b/c limit of 2",
            "spec.containers[0].resources.requests: Required value: Limit must be set for non overcommitable resources",
            "spec.containers[0].resources.requests[a.b/half]: Invalid value: \"500m\": must be an integer",
            "spec.containers[0].resources.requests[storage]: Invalid value: \"storage\": must be a standard resource for containers",
        ],
    );
    check_container(
        json!({"resources": {"requests": {"cpu": "-1", "memory": "lots", "speed": "1"}}}),
        &[
            "spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"lots\": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            "spec.containers[0].resources.requests[speed]: Invalid value: \"speed\": must be a standard resource type or fully qualified",
        ],
    );
}

#[test]
fn mounts_and_volumes() {
    check_container(json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "b/c"}]}), &[]);
    let both = json!([{"name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional"}]);
    check_container(json!({"volumeMounts": both, "securityContext": {"privileged": true}}), &[]);
    check_container(
        json!({"volumeMounts": both}),
        &[
            "spec.containers[0].volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
        ],
    );
    check_container(
        json!({"volumeMounts": [{"name": "w", "mountPath": "/a"}, {"name": "v", "mountPath": "/a", "subPath": "../b"}, {"name": "v"}]}),
        &[
            "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts[1].subPath: Invalid value: \"../b\": must not contain '..'",
            "spec.containers[0].volumeMounts[2].mountPath: Required value",
        ],
    );
    check_pod(
        json!({"volumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/x"}}, {"name": "a"}, {"secret": {"defaultMode": 1000}}]}),
        &[
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[1].name: Duplicate value: \"a\"",
            "spec.volumes[2].name: Required value",
            "spec.volumes[2].secret.secretName: Required value",
            "spec.volumes[2].secret.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive",
        ],
    );
}

#[test]
fn probes() {
    check_container(
        json!({"readinessProbe": {"httpGet": {"path": "/health", "port": 3000}, "initialDelaySeconds": 5, "successThreshold": 2}}),
        &[],
    );
    check_container(
        json!({"livenessProbe": {}, "readinessProbe": {"httpGet": {"port": 0}, "periodSeconds": -1},
            "startupProbe": {"exec": {}, "tcpSocket": {"port": "http"}, "successThreshold": 2}}),
        &[
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            "spec.containers[0].readinessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.containers[0].startupProbe.exec.command: Required value",
            "spec.containers[0].startupProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            "spec.containers[0].startupProbe.successThreshold: Invalid value: 2: must be 1",
        ],
    );
    check_pod(
        json!({"initContainers": [{"name": "i", "image": "i", "livenessProbe": {"tcpSocket": {"port": 1}}}]}),
        &["spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"],
    );
}

#[test]
fn policies_and_scheduling() {
    check_pod(
        json!({"restartPolicy": "Sometimes"}),
        &["spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\""],
    );
    check_pod(
        json!({"activeDeadlineSeconds": 0}),
        &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
    );
    check_pod(
        json!({"tolerations": [{"operator": "Exists", "value": "x"}, {"key": "a", "operator": "Like"}, {"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}]}),
        &[
            "spec.tolerations[0].operator: Invalid value: {\"operator\":\"Exists\",\"value\":\"x\"}: value must be empty when `operator` is 'Exists'",
            "spec.tolerations[1].operator: Unsupported value: \"Like\": supported values: \"Equal\", \"Exists\", \"Gt\", \"Lt\"",
            "spec.tolerations[2].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
        ],
    );
    check_pod(
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "In"}, {"key": "b", "operator": "is"}]}]}}}}),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].operator: Invalid value: \"is\": not a valid selector operator",
        ],
    );
}

#[test]
fn affinity_between_pods_and_ids() {
    check_pod(
        json!({"affinity": {"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {}}],
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 101, "podAffinityTerm": {"topologyKey": "zone"}}]}}}),
        &[
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100",
        ],
    );
    check_container(
        json!({"securityContext": {"runAsUser": -1}}),
        &["spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
    );
}

#[test]
fn users_of_a_pods_own() {
    check_pod(json!({"hostUsers": false}), &[]);
    check_pod(json!({"hostUsers": true, "hostNetwork": true, "hostPID": true, "hostIPC": true}), &[]);
    check_pod(
        json!({"hostUsers": false, "hostNetwork": true, "hostPID": true, "hostIPC": true}),
        &[
            "spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false",
            "spec.HostPID: Forbidden: when `pod.Spec.HostUsers` is false",
            "spec.HostIPC: Forbidden: when `pod.Spec.HostUsers` is false",
        ],
    );
    let unmasked = json!({"name": "c", "image": "i", "securityContext": {"procMount": "Unmasked"}});
    check_container(
        unmasked.clone(),
        &["spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"],
    );
    check_container(
        json!({"securityContext": {"procMount": "Bare"}}),
        &["spec.containers[0].securityContext.procMount: Unsupported value: \"Bare\": supported values: \"Default\", \"Unmasked\""],
    );
    check_container(json!({"securityContext": {"procMount": "Default"}}), &[]);
    check_pod(json!({"hostUsers": false, "containers": [unmasked]}), &[]);
}

#[test]
fn ephemeral_containers() {
    let debugger = json!({"name": "debugger", "image": "tools", "targetContainerName": "c"});
    check_pod(json!({"ephemeralContainers": [debugger.clone()]}), &[]);
    let with = |fields: Value, expected: &[&str]| {
        let mut container = debugger.clone();
        for (name, value) in fields.as_object().expect("fields") {
            container[name] = value.clone();
        }
        let spec = json!({"ephemeralContainers": [container], "volumes": [{"name": "v"}]});
        check_pod(spec, expected);
    };
    with(json!({"name": "c"}), &["spec.ephemeralContainers[0].name: Duplicate value: \"c\""]);
    with(json!({"image": ""}), &["spec.ephemeralContainers[0].image: Required value"]);
    with(
        json!({"targetContainerName": "d"}),
        &["spec.ephemeralContainers[0].targetContainerName: Not found: \"d\""],
    );
    with(json!({"stdin": true, "tty": true, "env": [{"name": "A", "value": "b"}]}), &[]);
    for (field, value) in [
        ("ports", json!([{"containerPort": 80}])),
        ("lifecycle", json!({"preStop": {"sleep": {"seconds": 1}}})),
        ("resources", json!({"limits": {"cpu": "1"}})),
        ("livenessProbe", json!({"tcpSocket": {"port": 80}})),
    ] {
        let path = format!(
            "spec.ephemeralContainers[0].{field}: Forbidden: cannot be set for an Ephemeral Container"
        );
        with(json!({field: value}), &[&path]);
    }
    with(
        json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x"}]}),
        &["spec.ephemeralContainers[0].volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container"],
    );

    let pod = |list: Value| json!({"spec": {"ephemeralContainers": list}});
    let on_create: Vec<_> =
        (KIND.validate_create)(&pod(json!([debugger]))).iter().map(ToString::to_string).collect();
    assert_eq!(on_create, ["spec.ephemeralContainers: Forbidden: cannot be set on create"]);
    assert_eq!((KIND.validate_create)(&json!({"spec": {}})), []);
    let other = json!({"name": "other", "image": "tools"});
    let mut changed = debugger.clone();
    changed["image"] = "others".into();
    for (new, expected) in [
        (json!([debugger, other]), None),
        (json!([other, debugger]), None),
        (json!([other]), Some("may not be removed")),
        (json!([changed]), Some("may not be changed")),
    ] {
        let errors = super::ephemeral_update(&pod(new), &pod(json!([debugger])));
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), usize::from(expected.is_some()), "{errors:?}");
        assert!(errors.iter().all(|e| e.contains(expected.unwrap_or_default())), "{errors:?}");
    }
}

#[test]
fn gated_pods_may_be_opened_and_narrowed() {
    let gates = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
    let pod = |gated: &[&str], spec: Value| {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "image": "a:1"}], "schedulingGates": gates(gated)}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        (KIND.default)(&mut pod);
        pod
    };
    let selecting = |labels: Value| json!({"nodeSelector": labels});
    let near = |kind: &str| json!({"affinity": {kind: {}}});
    for (old, new, expected) in [
        (pod(&["a", "b"], json!({})), pod(&["b"], json!({})), ""),
        (pod(&["a"], json!({})), pod(&[], json!({})), ""),
        (
            pod(&["a"], json!({})),
            pod(&["a", "b"], json!({})),
            "spec.schedulingGates[1].name: Forbidden: only deletion is allowed, but found new scheduling gate 'b'",
        ),
        (pod(&["a"], selecting(json!({"x": "1"}))), pod(&["a"], selecting(json!({"x": "1", "y": "2"}))), ""),
        (pod(&["a"], selecting(json!({"x": "1"}))), pod(&["a"], selecting(json!({"y": "2"}))), "spec: Forbidden"),
        (pod(&[], json!({})), pod(&[], selecting(json!({"y": "2"}))), "spec: Forbidden"),
        (pod(&["a"], json!({})), pod(&["a"], near("nodeAffinity")), ""),
        (pod(&["a"], json!({})), pod(&["a"], json!({"affinity": {"podAffinity": {"x": 1}}})), "spec: Forbidden"),
    ] {
        let errors = super::pod_update(&new, &old);
        let told = errors.first().map(ToString::to_string).unwrap_or_default();
        assert!(told.starts_with(expected) && (expected.is_empty() == told.is_empty()), "{told}");
    }
}

#[test]
fn updates() {
    let mut old = json!({"spec": {"containers": [{"name": "c", "image": "a:1"}], "activeDeadlineSeconds": 10}});
    (KIND.default)(&mut old);
    let check = |change: &dyn Fn(&mut Value), expected: &[&str]| {
        let mut new = old.clone();
        change(&mut new["spec"]);
        let errors: Vec<_> = (KIND.validate_update)(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        for (error, expected) in errors.iter().zip(expected) {
            assert!(error.starts_with(expected) || error.ends_with(expected), "{error}");
        }
    };
    check(&|_| {}, &[]);
    check(&|spec| spec["containers"][0]["image"] = json!("a:2"), &[]);
    check(&|spec| spec["containers"][0]["env"] = json!([]), &[]);
    check(&|spec| spec["activeDeadlineSeconds"] = json!(5), &[]);
    check(
        &|spec| spec["activeDeadlineSeconds"] = json!(11),
        &["spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value"],
    );
    check(
        &|spec| spec["tolerations"].as_array_mut().expect("a list").push(json!({"key": "x", "operator": "Exists"})),
        &[],
    );
    check(
        &|spec| spec["tolerations"] = json!([]),
        &["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"],
    );
    check(
        &|spec| spec["containers"][0]["env"] = json!([{"name": "A"}]),
        &["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"],
    );
    check(&|spec| spec["nodeName"] = json!("n"), &["\nchanged: spec.nodeName"]);
    check(
        &|spec| spec["containers"].as_array_mut().expect("a list").push(json!({"name": "d"})),
        &["spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
}
