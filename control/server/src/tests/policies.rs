//! Policies in CEL, from their being written to what they let through.

use http::header::WARNING;

use super::*;

pub(super) const POLICIES: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
pub(super) const BINDINGS: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// A policy for what is created and changed of one resource.
pub(super) fn policy(name: &str, resource: [&str; 3], spec: Value) -> Value {
    let [group, version, plural] = resource;
    let mut policy = json!({
        "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": [{
            "apiGroups": [group], "apiVersions": [version], "operations": ["CREATE", "UPDATE", "DELETE"],
            "resources": [plural],
        }]}},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        match (field.as_str(), value.as_object()) {
            ("matchConstraints", Some(more)) => {
                for (field, value) in more {
                    policy["spec"]["matchConstraints"][field] = value.clone();
                }
            }
            _ => policy["spec"][field] = value.clone(),
        }
    }
    policy
}

pub(super) fn binding(policy: &str, spec: Value) -> Value {
    let mut binding = json!({
        "metadata": {"name": format!("{policy}-binding")},
        "spec": {"policyName": policy, "validationActions": ["Deny"]},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        binding["spec"][field] = value.clone();
    }
    binding
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "example"}]},
            },
        },
    })
}

const OF_APPS: [&str; 3] = ["apps", "v1", "deployments"];
pub(super) const OF_MAPS: [&str; 3] = ["", "v1", "configmaps"];

#[tokio::test]
async fn a_policy_denies_only_what_is_bound_to_it() {
    let server = Fixture::new().await;
    let rules =
        json!({"validations": [{"expression": "object == null || object.spec.replicas <= 5"}]});
    let made = server.create(POLICIES, policy("few.example.com", OF_APPS, rules)).await;
    assert_eq!(made["spec"]["failurePolicy"], "Fail");
    assert_eq!(made["spec"]["matchConstraints"]["matchPolicy"], "Equivalent");
    assert_eq!(made["status"], json!({"observedGeneration": 1, "typeChecking": {}}));
    server.create(DEPLOYMENTS, deployment("before", 9)).await;

    server.create(BINDINGS, binding("few.example.com", json!({}))).await;
    let refused = server.post(DEPLOYMENTS, deployment("many", 6)).await;
    let message = "ValidatingAdmissionPolicy 'few.example.com' with binding 'few.example.com-binding' denied request: \
                   failed expression: object == null || object.spec.replicas <= 5";
    assert_eq!(refused.code, 422);
    assert_eq!(refused.reason(), "Invalid");
    assert_eq!(refused.message(), format!("deployments.apps \"many\" is forbidden: {message}"));
    assert_eq!(refused.body["details"]["causes"][0]["message"], message);
    server.create(DEPLOYMENTS, deployment("few", 5)).await;
    let path = format!("{DEPLOYMENTS}/few");
    assert_eq!(server.merge(&path, json!({"spec": {"replicas": 6}})).await.code, 422);
    assert_eq!(server.merge(&path, json!({"spec": {"replicas": 4}})).await.code, 200);
    assert_eq!(server.delete(&path).await.code, 200);

    // Without its binding it says nothing any more.
    assert_eq!(server.delete(&format!("{BINDINGS}/few.example.com-binding")).await.code, 200);
    server.create(DEPLOYMENTS, deployment("many", 6)).await;
}

#[tokio::test]
async fn messages_reasons_variables_and_conditions() {
    let server = Fixture::new().await;
    let rules = json!({
        "matchConditions": [
            {"name": "not-exempt", "expression": "!('exempt' in object.data)"},
            {"name": "not-masters", "expression": "request.userInfo.username != 'nobody'"},
        ],
        "variables": [
            {"name": "keys", "expression": "object.data.map(k, k)"},
            {"name": "long", "expression": "variables.keys.filter(k, size(k) > 3)"},
        ],
        "validations": [
            {"expression": "variables.keys.size() < 4", "message": "too many keys", "reason": "RequestEntityTooLarge"},
            {
                "expression": "variables.long.size() == 0",
                "messageExpression": "'long keys: ' + variables.long.join(', ') + ' in ' + namespaceObject.metadata.name",
                "reason": "Forbidden",
            },
            {"expression": "request.operation == 'CREATE' && request.kind.kind == 'ConfigMap' && oldObject == null"},
            {"expression": "authorizer.group('').resource('pods').namespace('default').check('list').allowed()"},
            {"expression": "authorizer.requestResource.check('delete').allowed()"},
        ],
    });
    server.create(POLICIES, policy("keys.example.com", OF_MAPS, rules)).await;
    server.create(BINDINGS, binding("keys.example.com", json!({}))).await;
    let map = |name: &str, keys: &[&str]| {
        let data: serde_json::Map<_, _> = keys.iter().map(|k| ((*k).into(), "".into())).collect();
        json!({"metadata": {"name": name}, "data": data})
    };
    let denied = "ValidatingAdmissionPolicy 'keys.example.com' with binding 'keys.example.com-binding' denied request";
    for (name, keys, code, message) in [
        ("m", &["a", "b"][..], 201, String::new()),
        (
            "n",
            &["a", "b", "c", "d"],
            413,
            format!("configmaps \"n\" is forbidden: {denied}: too many keys"),
        ),
        (
            "o",
            &["abcd", "b"],
            403,
            format!("configmaps \"o\" is forbidden: {denied}: long keys: abcd in default"),
        ),
        ("p", &["exempt", "a", "b", "c"], 201, String::new()),
    ] {
        let answer = server.post(CONFIG_MAPS, map(name, keys)).await;
        assert_eq!((answer.code, answer.message()), (code, message.as_str()), "{keys:?}");
    }
}

#[tokio::test]
async fn params_by_name_and_selector() {
    let server = Fixture::new().await;
    let rules = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{
            "expression": "object.spec.replicas <= int(params.data.most)",
            "messageExpression": "'at most ' + params.data.most",
        }],
    });
    server.create(POLICIES, policy("most.example.com", OF_APPS, rules)).await;
    let param = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    server.create(BINDINGS, binding("most.example.com", param)).await;
    let refused = server.post(DEPLOYMENTS, deployment("d", 3)).await;
    assert!(
        refused.message().ends_with(
            "denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
        ),
        "{}",
        refused.body
    );
    let limits = |name: &str, most: &str| json!({"metadata": {"name": name, "labels": {"is": "limit"}}, "data": {"most": most}});
    server.create(CONFIG_MAPS, limits("limits", "2")).await;
    let refused = server.post(DEPLOYMENTS, deployment("d", 3)).await;
    assert!(refused.message().ends_with("denied request: at most 2"), "{}", refused.body);
    server.create(DEPLOYMENTS, deployment("d", 2)).await;

    let selected = json!({"paramRef": {
        "selector": {"matchLabels": {"is": "limit"}}, "parameterNotFoundAction": "Allow",
    }});
    let path = format!("{BINDINGS}/most.example.com-binding");
    assert_eq!(server.merge(&path, json!({"spec": {"paramRef": null}})).await.code, 200);
    assert_eq!(server.merge(&path, json!({"spec": selected})).await.code, 200);
    server.create(CONFIG_MAPS, limits("stricter", "1")).await;
    let refused = server.post(DEPLOYMENTS, deployment("e", 2)).await;
    assert!(refused.message().ends_with("denied request: at most 1"), "{}", refused.body);
}

#[tokio::test]
async fn what_is_for_whom() {
    let server = Fixture::new().await;
    let never = |matches: Value| json!({"matchConstraints": matches, "validations": [{"expression": "false"}]});
    let cases = [
        (
            json!({"objectSelector": {"matchLabels": {"checked": "yes"}}}),
            json!({"checked": "yes"}),
            422,
        ),
        (json!({"objectSelector": {"matchLabels": {"checked": "yes"}}}), json!({}), 201),
        (
            json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}),
            json!({}),
            422,
        ),
        (
            json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}),
            json!({}),
            201,
        ),
        (
            json!({"excludeResourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"],
                "resourceNames": ["m"],
            }]}),
            json!({}),
            201,
        ),
    ];
    for (matches, labels, code) in cases {
        let text = matches.to_string();
        server.create(POLICIES, policy("never.example.com", OF_MAPS, never(matches))).await;
        server.create(BINDINGS, binding("never.example.com", json!({}))).await;
        let map = json!({"metadata": {"name": "m", "labels": labels}});
        assert_eq!(server.post(CONFIG_MAPS, map).await.code, code, "{text}");
        server.delete(&format!("{BINDINGS}/never.example.com-binding")).await;
        server.delete(&format!("{POLICIES}/never.example.com")).await;
        server.delete(&format!("{CONFIG_MAPS}/m")).await;
    }
}

#[tokio::test]
async fn warnings_do_not_stand_in_the_way() {
    let server = Fixture::new().await;
    let rules = json!({"validations": [{"expression": "object.data.a == 'c'", "message": "a should be c"}]});
    server.create(POLICIES, policy("soft.example.com", OF_MAPS, rules)).await;
    let actions = json!({"validationActions": ["Warn", "Audit"]});
    server.create(BINDINGS, binding("soft.example.com", actions)).await;
    let answer = server.post(CONFIG_MAPS, config_map("m")).await;
    assert_eq!(answer.code, 201);
    let warning = answer.headers.get(WARNING).expect("a warning").to_str().expect("text");
    assert!(
        warning.contains(
            "Validation failed for ValidatingAdmissionPolicy 'soft.example.com' with binding 'soft.example.com-binding': a should be c"
        ),
        "{warning}"
    );
}

#[tokio::test]
async fn errors_are_as_the_failure_policy_has_it() {
    let server = Fixture::new().await;
    let rules = |failure: &str| json!({"failurePolicy": failure, "validations": [{"expression": "object.data.missing == 'x'"}]});
    server.create(POLICIES, policy("strict.example.com", OF_MAPS, rules("Fail"))).await;
    server.create(BINDINGS, binding("strict.example.com", json!({}))).await;
    let refused = server.post(CONFIG_MAPS, config_map("m")).await;
    let why = "denied request: expression 'object.data.missing == 'x'' resulted in error: no such key: missing";
    assert!(refused.message().ends_with(why), "{}", refused.body);
    let path = format!("{POLICIES}/strict.example.com");
    assert_eq!(server.merge(&path, json!({"spec": {"failurePolicy": "Ignore"}})).await.code, 200);
    server.create(CONFIG_MAPS, config_map("m")).await;

    // Work without end is an error too.
    let endless = json!({"validations": [{
        "expression": "lists.range(1000).all(a, lists.range(1000).all(b, lists.range(1000).all(c, a + b + c >= 0)))",
    }]});
    server.create(POLICIES, policy("endless.example.com", OF_MAPS, endless)).await;
    server.create(BINDINGS, binding("endless.example.com", json!({}))).await;
    let refused = server.post(CONFIG_MAPS, config_map("n")).await;
    let why = "resulted in error: operation cancelled: actual cost limit exceeded";
    assert!(refused.message().ends_with(why), "{}", refused.body);
}

#[tokio::test]
async fn policies_that_do_not_compile_are_refused() {
    let server = Fixture::new().await;
    let refused = |rules: Value| {
        let server = &server;
        async move {
            let answer = server.post(POLICIES, policy("bad.example.com", OF_APPS, rules)).await;
            assert_eq!(answer.code, 422, "{}", answer.body);
            let causes = answer.body["details"]["causes"].as_array().cloned().unwrap_or_default();
            let cause = |cause: &Value| {
                let text = |field: &str| cause[field].as_str().unwrap_or_default().to_owned();
                format!("{}: {}", text("field"), text("message"))
            };
            causes.iter().map(cause).collect::<Vec<_>>().join("\n")
        }
    };
    assert_eq!(
        refused(json!({"validations": [{"expression": "object.spec.replicas <= most"}]})).await,
        "spec.validations[0].expression: Invalid value: \"object.spec.replicas <= most\": compilation failed: ERROR: \
         <input>:1:25: undeclared reference to 'most' (in container '')\n | object.spec.replicas <= most\n | \
         ........................^"
    );
    assert_eq!(
        refused(json!({"validations": [{"expression": "object.spec.replicas"}]})).await,
        "spec.validations[0].expression: Invalid value: \"object.spec.replicas\": must evaluate to bool but got dyn"
    );
    assert_eq!(
        refused(json!({"validations": [{"expression": "true", "messageExpression": "authorizer.path('/x').check('get').reason()"}]})).await,
        "spec.validations[0].messageExpression: Invalid value: \"authorizer.path('/x').check('get').reason()\": compilation \
         failed: ERROR: <input>:1:1: undeclared reference to 'authorizer' (in container '')\n | \
         authorizer.path('/x').check('get').reason()\n | ^"
    );
    assert_eq!(
        refused(json!({"variables": [{"name": "1a", "expression": "1"}], "validations": [{"expression": "true"}]})).await,
        "spec.variables[0].name: Invalid value: \"1a\": name is not a valid CEL identifier"
    );
    assert_eq!(
        refused(json!({})).await,
        "spec.validations: Required value: validations or auditAnnotations must contain at least one item\n\
         spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item"
    );
    let both = binding("x.example.com", json!({"validationActions": ["Deny", "Warn"]}));
    let answer = server.post(BINDINGS, both).await;
    assert!(answer.message().contains("must not contain both Deny and Warn"), "{}", answer.body);
}

#[tokio::test]
async fn a_status_tells_what_the_types_say() {
    let server = Fixture::new().await;
    let rules = json!({"validations": [
        {"expression": "object.spec.replicas > '1'"},
        {"expression": "object.spec.template.spec.containers.all(c, c.image != '')"},
        {"expression": "object.spec.replicsa > 1"},
    ]});
    let made = server.create(POLICIES, policy("typed.example.com", OF_APPS, rules)).await;
    let warnings = &made["status"]["typeChecking"]["expressionWarnings"];
    assert_eq!(
        *warnings,
        json!([
            {
                "fieldRef": "spec.validations[0].expression",
                "warning": "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to \
                            '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n",
            },
            {
                "fieldRef": "spec.validations[2].expression",
                "warning": "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'replicsa'\n | \
                            object.spec.replicsa > 1\n | ...........^\n",
            },
        ])
    );
    // What is corrected is looked at again.
    let path = format!("{POLICIES}/typed.example.com");
    let rules = json!({"spec": {"validations": [{"expression": "object.spec.replicas > 1"}]}});
    let changed = server.merge(&path, rules).await;
    assert_eq!(changed.body["status"], json!({"observedGeneration": 2, "typeChecking": {}}));
}

/// Rules name one version; what is written in another is the same, and is shown as the rules have it.
#[tokio::test]
async fn other_versions_are_the_same_objects() {
    let server = Fixture::new().await;
    let autoscalers = |version: &str| {
        format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers")
    };
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let v1 = |name: &str, percent: i64| {
        json!({
            "metadata": {"name": name},
            "spec": {"scaleTargetRef": target, "maxReplicas": 3, "targetCPUUtilizationPercentage": percent},
        })
    };
    let v2 = |name: &str, percent: i64| {
        json!({
            "metadata": {"name": name},
            "spec": {"scaleTargetRef": target, "maxReplicas": 3, "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent},
            }}]},
        })
    };
    let seen = "request.requestKind.version + ' as ' + request.kind.version";
    for (version, expression) in [
        ("v1", "object.spec.targetCPUUtilizationPercentage < 90"),
        ("v2", "object.spec.metrics.all(m, m.resource.target.averageUtilization < 80)"),
    ] {
        let name = format!("{version}.example.com");
        let rules = json!({"validations": [{"expression": expression, "messageExpression": seen}]});
        let of = ["autoscaling", version, "horizontalpodautoscalers"];
        server.create(POLICIES, policy(&name, of, rules)).await;
        server.create(BINDINGS, binding(&name, json!({}))).await;
    }
    for (written, body, said) in [
        ("v1", v1("a", 95), "v1 as v1"),
        ("v1", v1("a", 85), "v1 as v2"),
        ("v2", v2("a", 95), "v2 as v1"),
        ("v2", v2("a", 85), "v2 as v2"),
    ] {
        let refused = server.post(&autoscalers(written), body).await;
        assert!(
            refused.message().ends_with(&format!("denied request: {said}")),
            "{said}: {}",
            refused.body
        );
    }
    server.create(&autoscalers("v1"), v1("a", 50)).await;
}

#[tokio::test]
async fn versions_of_custom_kinds_are_the_same_objects() {
    let server = Fixture::with(|config| config.scheduler = false).await;
    let seen = "request.requestKind.version + ' as ' + request.kind.version";
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"size": {"type": "integer"}}}},
        })
    };
    let definition = json!({
        "metadata": {"name": "walks.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "walks", "singular": "walk", "kind": "Walk", "listKind": "WalkList"},
            "versions": [version("v1", true), version("v2", false)],
        },
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    server.create(definitions, definition).await;
    let mut events = server.watch(&format!("{definitions}?watch=true")).await;
    while let Some(event) = events.next().await {
        let conditions = event["object"]["status"]["conditions"].as_array().cloned();
        let established = |c: &Value| c["type"] == "Established" && c["status"] == "True";
        if conditions.is_some_and(|all| all.iter().any(established)) {
            break;
        }
    }
    let rules = json!({
        "validations": [{"expression": "object.size < 3 && object.apiVersion == 'example.com/v1'", "messageExpression": seen}],
    });
    server
        .create(POLICIES, policy("walks.example.com", ["example.com", "v1", "walks"], rules))
        .await;
    let exact = json!({"matchConstraints": {"matchPolicy": "Exact"}, "validations": [{"expression": "false"}]});
    server
        .create(POLICIES, policy("never.example.com", ["example.com", "v1", "walks"], exact))
        .await;
    for name in ["walks.example.com", "never.example.com"] {
        server.create(BINDINGS, binding(name, json!({}))).await;
    }
    let walks = "/apis/example.com/v2/namespaces/default/walks";
    let walk = |size: i64| json!({"apiVersion": "example.com/v2", "kind": "Walk", "metadata": {"name": "w"}, "size": size});
    let refused = server.post(walks, walk(3)).await;
    assert!(refused.message().ends_with("denied request: v2 as v1"), "{}", refused.body);
    let made = server.create(walks, walk(2)).await;
    assert_eq!(made["apiVersion"], "example.com/v2");
}
