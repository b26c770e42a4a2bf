//! Roles, certificates and webhooks.

use super::*;

#[test]
fn roles_and_bindings() {
    check(
        &ROLE,
        json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        &[],
    );
    check(
        &CLUSTER_ROLE,
        json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz"]}]}),
        &[],
    );
    check(
        &ROLE,
        json!({"rules": [{"nonResourceURLs": ["/x"]}, {"verbs": ["get"]}]}),
        &[
            "rules[0].verbs: Required value: verbs must contain at least one value",
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
            "rules[1].apiGroups: Required value: resource rules must supply at least one api group",
            "rules[1].resources: Required value: resource rules must supply at least one resource",
        ],
    );
    let binding = json!({
        "metadata": {"name": "b"},
        "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]
    });
    check(&ROLE_BINDING, binding.clone(), &[]);
    check(&CLUSTER_ROLE_BINDING, binding.clone(), &[]);
    check(
        &CLUSTER_ROLE_BINDING,
        json!({"roleRef": {"kind": "Role", "name": "a/b"}, "subjects": [{"kind": "ServiceAccount", "name": "s"}, {"kind": "Robot", "name": "r"}]}),
        &[
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
            "roleRef.name: Invalid value: \"a/b\": may not contain '/'",
            "subjects[0].namespace: Required value",
            "subjects[1].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
        ],
    );
    check_update(
        &ROLE_BINDING,
        json!({"roleRef": {"kind": "Role", "name": "b"}}),
        json!({"roleRef": {"kind": "Role", "name": "a"}}),
        &["roleRef: Invalid value: {\"kind\":\"Role\",\"name\":\"b\"}: cannot change roleRef"],
    );
    check_cells(
        &ROLE_BINDING,
        binding,
        json!(["b", "ClusterRole/view", "<unknown>", "u", "", "n/s"]),
    );
    check_cells(
        &CLUSTER_ROLE,
        json!({"metadata": {"name": "r", "creationTimestamp": "2024-05-06T11:59:00Z"}}),
        json!(["r", "2024-05-06T11:59:00Z"]),
    );
}

#[test]
fn certificate_requests_are_decided_once() {
    let kind = &CERTIFICATE_SIGNING_REQUEST;
    let asks = |spec: Value| {
        let mut asks = json!({"spec": {"signerName": "example.com/x", "usages": ["client auth"]}});
        for (field, value) in spec.as_object().expect("fields") {
            asks["spec"][field] = value.clone();
        }
        asks
    };
    check(kind, asks(json!({})), &[]);
    check(kind, asks(json!({"signerName": ""})), &["spec.signerName: Required value"]);
    check(
        kind,
        asks(json!({"signerName": "x/y"})),
        &[
            "spec.signerName: Invalid value: \"x/y\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ],
    );
    check(kind, asks(json!({"usages": []})), &["spec.usages: Required value"]);
    check(
        kind,
        asks(json!({"usages": ["any", "any"]})),
        &["spec.usages[1]: Duplicate value: \"any\""],
    );
    check(
        kind,
        asks(json!({"expirationSeconds": 599})),
        &[
            "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
        ],
    );
    let with = |conditions: &[&str]| {
        let conditions: Vec<Value> =
            conditions.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
        let mut asks = asks(json!({}));
        asks["status"] = json!({"conditions": conditions});
        asks
    };
    check(
        kind,
        with(&["Approved", "Denied"]),
        &[
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
        ],
    );
    // By `/status`, nobody decides; what is decided stays.
    check_update(kind, with(&["Failed"]), with(&[]), &[]);
    for (new, old, expected) in [
        (
            with(&["Approved"]),
            with(&[]),
            "status.conditions: Forbidden: updates may not add a condition of type \"Approved\"",
        ),
        (
            with(&[]),
            with(&["Denied"]),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Denied\"",
        ),
    ] {
        check_update(kind, new, old, &[expected]);
    }
    let approved = validate_approval_update(&with(&["Approved"]), &with(&[]));
    assert!(approved.is_empty(), "{approved:?}");
    let taken_back = validate_approval_update(&with(&[]), &with(&["Approved"]));
    assert_eq!(taken_back.len(), 1, "{taken_back:?}");
    let issued = |certificate: &str| {
        let mut asks = with(&["Approved"]);
        asks["status"]["certificate"] = certificate.into();
        asks
    };
    check_update(kind, issued("eA=="), with(&["Approved"]), &[]);
    check_update(
        kind,
        issued("eQ=="),
        issued("eA=="),
        &["status.certificate: Forbidden: updates may not modify existing certificate content"],
    );
    // Who writes a status need not know what was decided, and changes nothing that was asked for.
    let mut new = json!({"spec": {"usages": []}, "status": {"conditions": [{"type": "Failed"}]}});
    let old = with(&["Approved"]);
    (kind.prepare)(Prepare::Status { new: &mut new, old: &old });
    assert_eq!(new["spec"], old["spec"]);
    let kinds: Vec<&str> = new["status"]["conditions"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|c| c["type"].as_str())
        .collect();
    assert_eq!(kinds, ["Approved", "Failed"]);
    check_cells(
        kind,
        json!({"metadata": {"name": "c", "creationTimestamp": "2024-05-06T11:59:00Z"},
               "spec": {"signerName": "example.com/x", "username": "jane", "expirationSeconds": 3600},
               "status": {"conditions": [{"type": "Approved"}], "certificate": "eA=="}}),
        json!(["c", "60s", "example.com/x", "jane", "60m", "Approved,Issued"]),
    );
}

#[test]
fn webhook_configurations() {
    let base = json!({"metadata": {"name": "w"}, "webhooks": [{
        "name": "a.example.com",
        "clientConfig": {"url": "https://localhost:8443/x"},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
    }]});
    let kind = &MUTATING_WEBHOOK_CONFIGURATION;
    check(kind, base.clone(), &[]);
    let with = |field: &str, value: Value| {
        let mut object = base.clone();
        object["webhooks"][0][field] = value;
        object
    };
    let rule = |field: &str, value: Value| {
        let mut object = base.clone();
        object["webhooks"][0]["rules"][0][field] = value;
        object
    };
    for (object, expected) in [
        (
            with("name", json!("short")),
            "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three segments separated by dots",
        ),
        (
            with("sideEffects", json!("Some")),
            "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
        ),
        (
            with("timeoutSeconds", json!(31)),
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        ),
        (
            with("admissionReviewVersions", json!(["v2"])),
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
        ),
        (
            with("clientConfig", json!({})),
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        ),
        (
            with("clientConfig", json!({"url": "http://x/"})),
            "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
        ),
        (
            with("clientConfig", json!({"url": "https://x/?a"})),
            "webhooks[0].clientConfig.url: Invalid value: \"a\": query parameters are not permitted in the URL; desired format: https://host[/path]",
        ),
        (
            with("clientConfig", json!({"service": {"name": "s", "namespace": "n", "path": "x"}})),
            "webhooks[0].clientConfig.service.path: Invalid value: \"x\": must start with a '/'",
        ),
        (
            with("clientConfig", json!({"service": {"namespace": "n"}})),
            "webhooks[0].clientConfig.service.name: Required value: service name is required",
        ),
        (
            rule("operations", json!(["READ"])),
            "webhooks[0].rules[0].operations[0]: Unsupported value: \"READ\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
        ),
        (
            rule("apiGroups", json!(["*", "apps"])),
            "webhooks[0].rules[0].apiGroups: Invalid value: [\"*\",\"apps\"]: if '*' is present, must not specify other API groups",
        ),
        (
            rule("resources", json!(["pods/*", "pods/log"])),
            "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
        ),
        (
            rule("resources", json!(["*", "pods"])),
            "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
        ),
        (
            rule("scope", json!("Some")),
            "webhooks[0].rules[0].scope: Unsupported value: \"Some\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
        ),
    ] {
        check(kind, object, &[expected]);
    }
}
