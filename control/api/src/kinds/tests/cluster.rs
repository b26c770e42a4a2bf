//! Namespaces, nodes, classes, and what is counted in them.

use super::*;

#[test]
fn classes() {
    let class = json!({"metadata": {"name": "high"}, "value": 1000});
    check(&PRIORITY_CLASS, class.clone(), &[]);
    check(
        &PRIORITY_CLASS,
        json!({"metadata": {"name": "x"}, "value": 1_000_000_001, "preemptionPolicy": "Maybe"}),
        &[
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
            "preemptionPolicy: Unsupported value: \"Maybe\": supported values: \"Never\", \"PreemptLowerPriority\"",
        ],
    );
    check(
        &PRIORITY_CLASS,
        json!({"metadata": {"name": "system-x"}}),
        &[
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only",
        ],
    );
    check(
        &PRIORITY_CLASS,
        json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000}),
        &[],
    );
    check_update(
        &PRIORITY_CLASS,
        json!({"value": 2}),
        json!({"value": 1}),
        &["value: Forbidden: may not be changed in an update."],
    );
    check_cells(&PRIORITY_CLASS, class, json!(["high", 1000, false, "<unknown>", ""]));

    check(&RUNTIME_CLASS, json!({"handler": "wasm"}), &[]);
    assert_eq!((RUNTIME_CLASS.validate)(&json!({"handler": "Wasm"})).len(), 1);
    check_update(
        &RUNTIME_CLASS,
        json!({"handler": "oci"}),
        json!({"handler": "wasm"}),
        &["handler: Invalid value: \"oci\": field is immutable"],
    );
}

#[test]
fn leases_and_endpoints() {
    check(&LEASE, json!({"spec": {"holderIdentity": "n", "leaseDurationSeconds": 40}}), &[]);
    check(
        &LEASE,
        json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}}),
        &[
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    check_cells(
        &LEASE,
        json!({"metadata": {"name": "n"}, "spec": {"holderIdentity": "h"}}),
        json!(["n", "h", "<unknown>"]),
    );

    let addresses = |n: usize| {
        (1..=n).map(|i| json!({"addresses": [format!("10.0.0.{i}")]})).collect::<Vec<_>>()
    };
    let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": addresses(5), "ports": [{"port": 80}]});
    check(&ENDPOINT_SLICE, slice.clone(), &[]);
    check_cells(
        &ENDPOINT_SLICE,
        slice,
        json!(["s", "IPv4", "80", "10.0.0.1,10.0.0.2,10.0.0.3 + 2 more...", "<unknown>"]),
    );
    check(
        &ENDPOINT_SLICE,
        json!({"endpoints": [{"addresses": []}], "ports": [{}, {}]}),
        &[
            "addressType: Required value",
            "endpoints[0].addresses: Required value: must contain at least 1 address",
            "ports[1].name: Duplicate value: \"\"",
        ],
    );

    let endpoints = json!({"metadata": {"name": "e"}, "subsets": [
        {"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 81}]}]});
    check(&ENDPOINTS, endpoints.clone(), &[]);
    check_cells(
        &ENDPOINTS,
        endpoints,
        json!(["e", "10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more...", "<unknown>"]),
    );
    check_cells(
        &ENDPOINTS,
        json!({"metadata": {"name": "e"}}),
        json!(["e", "<none>", "<unknown>"]),
    );
}

#[test]
fn events() {
    let event = json!({
        "metadata": {"name": "p.1", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default", "fieldPath": "spec.containers{c}"},
        "reason": "Pulled", "type": "Normal", "message": "Image pulled\n",
        "source": {"component": "agent", "host": "n"},
        "firstTimestamp": "2024-05-06T11:50:00Z", "lastTimestamp": "2024-05-06T11:59:30Z", "count": 4
    });
    check(&EVENT, event.clone(), &[]);
    check_cells(
        &EVENT,
        event.clone(),
        json!([
            "30s",
            "Normal",
            "Pulled",
            "pod/p",
            "spec.containers{c}",
            "agent, n",
            "Image pulled",
            "10m",
            4,
            "p.1"
        ]),
    );
    let object = Object::from_value(&EVENT, &event).expect("an event");
    for (selector, expected) in [
        (
            "involvedObject.kind=Pod,involvedObject.name=p,type!=Warning,reason=Pulled,source=agent",
            true,
        ),
        ("involvedObject.uid=1", false),
    ] {
        let selector = crate::FieldSelector::parse(selector, &EVENT).expect(selector);
        assert_eq!(selector.matches(&object), expected);
    }
}

#[test]
fn namespaces_and_nodes() {
    check(
        &NODE,
        json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b"}]}}),
        &[
            "spec.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}",
            "spec.taints[2].effect: Required value",
        ],
    );
    let mut namespace = json!({"metadata": {"name": "n"}});
    (NAMESPACE.default)(&mut namespace);
    (NAMESPACE.prepare)(Prepare::Create(&mut namespace));
    assert_eq!(
        namespace,
        json!({"metadata": {"name": "n", "labels": {"kubernetes.io/metadata.name": "n"}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
    );
    check_cells(&NAMESPACE, namespace, json!(["n", "Active", "<unknown>"]));

    let mut node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true},
        "status": {"capacity": {"cpu": 2, "memory": "4096Mi"}, "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "nodeInfo": {"kubeletVersion": "v1"}}});
    (NODE.default)(&mut node);
    assert_eq!(node["status"]["allocatable"], json!({"cpu": "2", "memory": "4Gi"}));
    (NODE.prepare)(Prepare::Create(&mut node));
    check_cells(
        &NODE,
        node,
        json!([
            "n",
            "Ready,SchedulingDisabled",
            "control-plane,worker",
            "<unknown>",
            "v1",
            "10.0.0.1",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]),
    );
}

#[test]
fn quotas_and_limits() {
    let quota = |spec: Value| json!({"metadata": {"name": "q"}, "spec": spec});
    for (spec, expected) in [
        (
            json!({"hard": {"pods": "2", "requests.cpu": "1", "count/deployments.apps": "3", "requests.example.com/x": "1"}}),
            &[][..],
        ),
        (
            json!({"hard": {"apples": "2"}}),
            &[
                "spec.hard[apples]: Invalid value: \"apples\": must be a standard resource for quota",
            ],
        ),
        (
            json!({"hard": {"pods": "-1"}}),
            &["spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"],
        ),
        (
            json!({"hard": {"pods": "1500m"}}),
            &["spec.hard[pods]: Invalid value: \"1500m\": must be an integer"],
        ),
        (
            json!({"hard": {"pods": "1"}, "scopes": ["Terminating", "NotTerminating"]}),
            &[
                "spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes",
            ],
        ),
        (
            json!({"hard": {"requests.cpu": "1"}, "scopes": ["BestEffort"]}),
            &[
                "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
            ],
        ),
        (
            json!({"hard": {"pods": "1"}, "scopes": ["Sometimes"]}),
            &["spec.scopes: Invalid value: [\"Sometimes\"]: unsupported scope"],
        ),
    ] {
        check(&RESOURCE_QUOTA, quota(spec), expected);
    }
    let other = quota(json!({"scopes": ["Terminating"]}));
    check_update(
        &RESOURCE_QUOTA,
        other,
        quota(json!({})),
        &["spec.scopes: Invalid value: [\"Terminating\"]: field is immutable"],
    );

    let limits = |item: Value| json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}});
    for (item, expected) in [
        (
            json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
        ),
        (
            json!({"type": "Pod", "default": {"cpu": "2"}}),
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
        ),
        (
            json!({"type": "PersistentVolumeClaim"}),
            "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
        ),
        (
            json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}}),
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
        ),
    ] {
        let errors: Vec<_> =
            (LIMIT_RANGE.validate)(&limits(item)).iter().map(ToString::to_string).collect();
        assert_eq!(errors, [expected]);
    }
    let mut item = limits(
        json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "100m", "memory": "1Mi"}}),
    );
    (LIMIT_RANGE.default)(&mut item);
    let item = &item["spec"]["limits"][0];
    assert_eq!(item["default"], json!({"cpu": "1"}));
    assert_eq!(item["defaultRequest"], json!({"cpu": "1", "memory": "1Mi"}));
}
