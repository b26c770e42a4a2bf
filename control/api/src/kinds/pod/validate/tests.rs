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

#[test]
fn resizes() {
    let requests = |list: &str, cpu: &str, memory: &str| json!({list: {"cpu": cpu, "memory": memory}});
    let of = |name: &str, resources: Value| json!({"name": name, "image": "a:1", "resources": resources});
    let both = |cpu: &str, memory: &str| {
        json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
    };
    let pod = |containers: Value, init: Value| {
        let mut pod = json!({"spec": {"containers": containers}});
        if init != json!([]) {
            pod["spec"]["initContainers"] = init;
        }
        (KIND.default)(&mut pod);
        pod
    };
    let check = |old: &Value, asked: &Value, expected: &[&str]| {
        let new = super::resized(old, asked);
        let errors: Vec<_> = super::resize_update(&new, old).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected, "{asked}");
        new
    };
    let plain = |resources: Value| pod(json!([of("c", resources)]), json!([]));
    let burstable = plain(requests("requests", "100m", "1Gi"));
    // All but resources stays as it was, whatever is asked for.
    let mut asked = plain(requests("requests", "200m", "2Gi"));
    asked["spec"]["containers"][0]["image"] = json!("b:1");
    asked["spec"]["nodeName"] = json!("n");
    asked["metadata"] = json!({"labels": {"a": "b"}});
    assert_eq!(check(&burstable, &asked, &[]), plain(requests("requests", "200m", "2Gi")));
    // Limits may be added, and shrink.
    let limited = plain(json!({"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}));
    check(&burstable, &limited, &[]);
    let less = plain(json!({"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}));
    check(&limited, &less, &[]);
    check(
        &limited,
        &burstable,
        &["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"],
    );
    check(
        &burstable,
        &plain(json!({"requests": {"cpu": "100m"}})),
        &["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
    );
    let kept = "Pod QOS Class may not change as a result of resizing";
    check(
        &plain(json!({})),
        &plain(json!({"requests": {"cpu": "1"}})),
        &[&format!("spec: Invalid value: \"BestEffort\": {kept}")],
    );
    check(
        &burstable,
        &plain(both("1", "1Gi")),
        &[&format!("spec: Invalid value: \"Burstable\": {kept}")],
    );
    let storage = |amount: &str| plain(json!({"requests": {"cpu": "1", "ephemeral-storage": amount}}));
    let only = "spec: Forbidden: only cpu and memory resources are mutable";
    check(&storage("1"), &storage("3"), &[only]);
    let mut strict = burstable.clone();
    strict["spec"]["containers"][0]["resizePolicy"] = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    check(&burstable, &strict, &[only]);

    let (a, b) = (of("a", both("1", "1Gi")), of("b", both("1", "1Gi")));
    let two = pod(json!([a, b]), json!([]));
    let moved = |at: &str| format!("spec.containers[{at}].name: Forbidden: containers may not be renamed or reordered on resize");
    check(&two, &pod(json!([b, a]), json!([])), &[&moved("0"), &moved("1")]);
    check(
        &two,
        &pod(json!([a]), json!([])),
        &["spec.containers: Forbidden: containers may not be added or removed on resize"],
    );

    let init = |cpu: &str, always: bool| {
        let mut init = of("i", requests("requests", cpu, "1Gi"));
        if always {
            init["restartPolicy"] = json!("Always");
        }
        pod(json!([of("c", requests("requests", "1", "1Gi"))]), json!([init]))
    };
    check(&init("1", true), &init("2", true), &[]);
    check(
        &init("1", false),
        &init("2", false),
        &["spec: Forbidden: resources for non-sidecar init containers are immutable"],
    );
    let mut windows = burstable.clone();
    windows["spec"]["os"] = json!({"name": "windows"});
    check(&windows, &windows, &[": Forbidden: windows pods cannot be resized"]);
    let mut old = burstable.clone();
    old["status"] = json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]});
    check(&old, &old, &["spec: Forbidden: Pod running on node without support for resize"]);
}

#[test]
fn names_of_sysctls() {
    let at = "spec.securityContext.sysctls";
    let context = |names: &[&str]| {
        let list = names.iter().map(|name| json!({"name": name, "value": "1"}));
        json!({"sysctls": list.collect::<Vec<_>>()})
    };
    let syntax = r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let invalid = |i: usize, name: &str| format!("{at}[{i}].name: Invalid value: \"{name}\": {syntax}");
    check_pod(
        json!({"securityContext": context(&["foo-", "kernel.shmmax", "safe-and-unsafe", "bar..", "net/ipv4/a_b", "", "kernel.shmmax"])}),
        &[
            &invalid(0, "foo-"),
            &invalid(3, "bar.."),
            &format!("{at}[5].name: Required value"),
            &format!("{at}[6].name: Duplicate value: \"kernel.shmmax\""),
        ],
    );
    let hosts = |field: &str, name: &str| {
        format!("{at}[0].name: Invalid value: \"{name}\": may not be specified when '{field}' is true")
    };
    for (field, name) in [("hostNetwork", "net.ipv4.ip_local_port_range"), ("hostIPC", "kernel/sem")] {
        check_pod(
            json!({field: true, "securityContext": context(&[name, "vm.swappiness"])}),
            &[&hosts(field, name)],
        );
    }
}

#[test]
fn a_grace_period_below_zero_is_one_second() {
    let mut pod = json!({"spec": {"containers": [], "terminationGracePeriodSeconds": -1}});
    (KIND.default)(&mut pod);
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 1);
}

#[test]
fn policies_of_resizing() {
    let at = "spec.containers[0].resizePolicy";
    let policy = |name: &str, wants: &str| json!({"resourceName": name, "restartPolicy": wants});
    let good = [policy("cpu", "NotRequired"), policy("memory", "RestartContainer")];
    check_container(json!({"resizePolicy": good}), &[]);
    check_container(
        json!({"resizePolicy": [policy("cpu", "NotRequired"), policy("cpu", "Often"), policy("disk", "")]}),
        &[
            &format!("{at}[1]: Duplicate value: \"cpu\""),
            &format!("{at}: Unsupported value: \"Often\": supported values: \"NotRequired\", \"RestartContainer\""),
            &format!("{at}: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\""),
            &format!("{at}: Required value"),
        ],
    );
    let container = json!({"name": "c", "image": "i", "resizePolicy": good});
    let never = format!("{at}: Invalid value: \"RestartContainer\": must be 'NotRequired' when `restartPolicy` is 'Never'");
    check_spec(json!({"containers": [container], "restartPolicy": "Never"}), &[&never]);
}
