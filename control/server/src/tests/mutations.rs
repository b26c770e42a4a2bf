//! Policies that change what is written, from their being written to what they make.

use super::*;

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn apply(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

/// A policy with these mutations, and what else its spec has.
fn policy(
    name: &str,
    [group, version, plural]: [&str; 3],
    mutations: &[Value],
    more: Value,
) -> Value {
    let mut policy = json!({
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [group], "apiVersions": [version], "operations": ["CREATE", "UPDATE"],
                "resources": [plural],
            }]},
            "mutations": mutations,
            "reinvocationPolicy": "Never",
        },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        policy["spec"][field] = value.clone();
    }
    policy
}

fn binding(policy: &str, more: Value) -> Value {
    let mut binding =
        json!({"metadata": {"name": format!("{policy}-binding")}, "spec": {"policyName": policy}});
    for (field, value) in more.as_object().into_iter().flatten() {
        binding["spec"][field] = value.clone();
    }
    binding
}

const OF_PODS: [&str; 3] = ["", "v1", "pods"];
const OF_APPS: [&str; 3] = ["apps", "v1", "deployments"];
const OF_MAPS: [&str; 3] = ["", "v1", "configmaps"];

/// A server with one policy, bound.
async fn with(of: [&str; 3], mutations: &[Value], more: Value) -> Fixture {
    let server = Fixture::new().await;
    bind(&server, "p.example.com", of, mutations, more).await;
    server
}

async fn bind(server: &Fixture, name: &str, of: [&str; 3], mutations: &[Value], more: Value) {
    server.create(POLICIES, policy(name, of, mutations, more)).await;
    server.create(BINDINGS, binding(name, json!({}))).await;
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"y": "1"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [{"name": "a", "image": "example"}],
                    "volumes": [{"name": "x", "emptyDir": {}}],
                },
            },
        },
    })
}

/// What a dry run of a Deployment with two replicas becomes at a place under these mutations, or what is said against it.
async fn made(server: &Fixture, mutations: &[Value], at: &str) -> Value {
    let path = format!("{POLICIES}/p.example.com");
    let change = json!({"spec": {"mutations": mutations}});
    let changed = server.merge(&path, change).await;
    if changed.code != 200 {
        return changed.body["message"].clone();
    }
    let answer = server.post(&format!("{DEPLOYMENTS}?dryRun=All"), deployment("d", 2)).await;
    match answer.code {
        201 => answer.body.pointer(at).cloned().unwrap_or_default(),
        _ => answer.body["message"].clone(),
    }
}

#[tokio::test]
async fn what_mutations_make() {
    let more = json!({"variables": [{"name": "desired", "expression": "10"}]});
    let server = with(OF_APPS, &[patch("[JSONPatch{op: 'test', path: '/spec'}]")], more).await;
    let spec = "/spec/template/spec";
    let denied = |why: &str| {
        json!(format!(
            "policy 'p.example.com' with binding 'p.example.com-binding' denied request: {why}"
        ))
    };
    let cases = [
        (
            vec![apply(
                "Object{spec: Object.spec{replicas: object.spec.replicas % 2 == 0 ? object.spec.replicas + 1 : 1}}",
            )],
            "/spec/replicas".to_owned(),
            json!(3),
        ),
        (
            vec![
                apply("Object{spec: Object.spec{replicas: object.spec.replicas + 100}}"),
                patch(
                    "[JSONPatch{op: 'replace', path: '/spec/replicas', value: object.spec.replicas + variables.desired}]",
                ),
            ],
            "/spec/replicas".to_owned(),
            json!(112),
        ),
        (
            vec![apply("Object{metadata: Object.metadata{labels: {'x': '2'}}}")],
            "/metadata/labels".to_owned(),
            json!({"x": "2", "y": "1"}),
        ),
        (
            vec![apply(
                "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{volumes: [\
                 Object.spec.template.spec.volumes{name: 'y', emptyDir: Object.spec.template.spec.volumes.emptyDir{medium: 'Memory'}}]}}}}",
            )],
            format!("{spec}/volumes"),
            json!([{"name": "x", "emptyDir": {}}, {"name": "y", "emptyDir": {"medium": "Memory"}}]),
        ),
        (
            vec![patch(
                "[JSONPatch{op: 'test', path: '/spec/replicas', value: 100}, JSONPatch{op: 'replace', path: '/spec/replicas', value: 3}]",
            )],
            "/spec/replicas".to_owned(),
            json!(2),
        ),
        (
            vec![patch(
                "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a.b/c'), value: 'z'}, \
                 JSONPatch{op: 'move', from: '/metadata/labels/y', path: '/metadata/labels/w'}]",
            )],
            "/metadata/labels".to_owned(),
            json!({"a.b/c": "z", "w": "1"}),
        ),
        (
            vec![patch(
                "[JSONPatch{op: 'add', path: '/spec/template/spec/containers/-', value: Object.spec.template.spec.containers{\
                 name: 'b', image: 'other', ports: [Object.spec.template.spec.containers.ports{containerPort: 8080}]}}]",
            )],
            format!("{spec}/containers/1/ports"),
            json!([{"containerPort": 8080, "protocol": "TCP"}]),
        ),
        // What is refused when the request comes.
        (
            vec![apply("Object{spec: Object.specx{replicas: 1}}")],
            String::new(),
            denied(
                "type mismatch: unexpected type name \"Object.specx\", expected \"Object.spec\", which matches field name path from root Object type",
            ),
        ),
        (
            vec![apply("Object{spec: Object.spec{replicasx: 1}}")],
            String::new(),
            denied(
                "error applying patch: failed to convert patch object to typed object: .spec.replicasx: field not declared in schema",
            ),
        ),
        (
            vec![apply(
                "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'l': 'v'}}}}",
            )],
            String::new(),
            denied(
                "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
            ),
        ),
        (
            vec![patch(
                "[JSONPatch{op: 'replace', path: '/spec/template/spec/containers/-', value: {'name': 'x'}}]",
            )],
            String::new(),
            denied(
                "JSONPath: replace operation does not apply: doc is missing key: /spec/template/spec/containers/-: missing value",
            ),
        ),
        (
            vec![patch("[JSONPatch{op: 'add', path: '/spec/x', value: object.spec.missing}]")],
            String::new(),
            denied(
                "expression '[JSONPatch{op: 'add', path: '/spec/x', value: object.spec.missing}]' resulted in error: no such key: missing",
            ),
        ),
        (
            vec![patch("[JSONPatch{op: 'add', path: '/spec/replicasz', value: 1}]")],
            String::new(),
            json!(
                "Internal error occurred: strict decoding error: unknown field \"spec.replicasz\""
            ),
        ),
        // What is refused when the policy is written.
        (
            vec![apply("\"I'm a teapot!\"")],
            String::new(),
            json!(
                "MutatingAdmissionPolicy.admissionregistration.k8s.io \"p.example.com\" is invalid: \
                   spec.mutations[0].applyConfiguration.expression: Invalid value: \"\\\"I'm a teapot!\\\"\": must evaluate to \
                   Object but got string"
            ),
        ),
        (
            vec![
                json!({"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}}),
            ],
            String::new(),
            json!(
                "MutatingAdmissionPolicy.admissionregistration.k8s.io \"p.example.com\" is invalid: \
                   [spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when \
                   patchType is JSONPatch, spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch]"
            ),
        ),
    ];
    for (mutations, at, expected) in cases {
        assert_eq!(made(&server, &mutations, &at).await, expected, "{mutations:?}");
    }
}

/// The example of the documentation: a sidecar for every Pod that has none.
#[tokio::test]
async fn a_sidecar_is_added_to_pods() {
    let sidecar = "Object.spec.initContainers{name: 'mesh-proxy', image: 'mesh/proxy:v1.0.0', \
                   args: ['proxy', 'sidecar'], restartPolicy: 'Always'}";
    let expression = format!("Object{{spec: Object.spec{{initContainers: [{sidecar}]}}}}");
    let operations = format!(
        "[JSONPatch{{op: 'add', path: '/spec/initContainers', value: []}}, \
         JSONPatch{{op: 'add', path: '/spec/initContainers/-', value: {sidecar}}}]"
    );
    let without = "!object.spec.?initContainers.orValue([]).exists(c, c.name == 'mesh-proxy')";
    let conditions = json!({
        "matchConditions": [{"name": "no-sidecar", "expression": without}],
        "reinvocationPolicy": "IfNeeded", "failurePolicy": "Fail",
    });
    // Arguments are an atomic list, which a configuration may not write.
    let plain = expression.replace("args: ['proxy', 'sidecar'], ", "");
    for mutation in [apply(&plain), patch(&operations)] {
        let server = with(OF_PODS, std::slice::from_ref(&mutation), conditions.clone()).await;
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "example"}]}});
        let made = server.create("/api/v1/namespaces/default/pods", pod).await;
        let added = &made["spec"]["initContainers"];
        assert_eq!(added.as_array().map(Vec::len), Some(1), "{mutation}: {made}");
        assert_eq!(added[0]["name"], "mesh-proxy");
        assert_eq!(added[0]["restartPolicy"], "Always");
        // Like any container it has its defaults and its account's token.
        assert_eq!(added[0]["imagePullPolicy"], "IfNotPresent");
        assert_eq!(
            added[0]["volumeMounts"][0]["mountPath"],
            "/var/run/secrets/kubernetes.io/serviceaccount"
        );
    }
}

#[tokio::test]
async fn labels_come_from_params_each_of_which_is_a_turn() {
    let server = Fixture::new().await;
    let more = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}});
    let by_param = apply(
        "Object{metadata: Object.metadata{labels: {params.data.label: params.metadata.name}}}",
    );
    server.create(POLICIES, policy("p.example.com", OF_APPS, &[by_param], more)).await;
    let named = json!({"paramRef": {"name": "one", "parameterNotFoundAction": "Deny"}});
    server.create(BINDINGS, binding("p.example.com", named)).await;
    let refused = server.post(DEPLOYMENTS, deployment("d", 1)).await;
    assert_eq!((refused.code, refused.reason()), (403, "Forbidden"));
    let why = "policy 'p.example.com' with binding 'p.example.com-binding' denied request: failed to configure binding: \
               no params found for policy binding with `Deny` parameterNotFoundAction";
    assert_eq!(refused.message(), why);
    let param = |name: &str, label: &str| json!({"metadata": {"name": name, "labels": {"is": "param"}}, "data": {"label": label}});
    server.create(CONFIG_MAPS, param("one", "l")).await;
    let made = server.create(DEPLOYMENTS, deployment("d", 1)).await;
    assert_eq!(made["metadata"]["labels"], json!({"l": "one", "y": "1"}));

    let path = format!("{BINDINGS}/p.example.com-binding");
    let selected =
        json!({"spec": {"paramRef": {"name": null, "selector": {"matchLabels": {"is": "param"}}}}});
    assert_eq!(server.merge(&path, selected).await.code, 200);
    server.create(CONFIG_MAPS, param("two", "m")).await;
    let made = server.create(DEPLOYMENTS, deployment("e", 1)).await;
    assert_eq!(made["metadata"]["labels"], json!({"l": "one", "m": "two", "y": "1"}));

    // A kind that nobody defines is the policy's fault.
    let path = format!("{POLICIES}/p.example.com");
    let unknown = json!({"spec": {"paramKind": {"apiVersion": "example.com/v1", "kind": "Nope"}}});
    assert_eq!(server.merge(&path, unknown).await.code, 200);
    let refused = server.post(DEPLOYMENTS, deployment("f", 1)).await;
    let why = "policy \"p.example.com\" denied request: failed to configure policy: failed to find resource referenced by \
               paramKind: 'example.com/v1, Kind=Nope'";
    assert_eq!(refused.message(), why);
    // And forgiven where it says so.
    assert_eq!(server.merge(&path, json!({"spec": {"failurePolicy": "Ignore"}})).await.code, 200);
    server.create(DEPLOYMENTS, deployment("f", 1)).await;
}

#[tokio::test]
async fn changes_count_as_the_writers_but_for_who_owns_them() {
    let more =
        json!({"matchConditions": [{"name": "small", "expression": "object.spec.replicas < 5"}]});
    let server = with(OF_APPS, &[apply("Object{spec: Object.spec{replicas: 4}}")], more).await;
    let made = server.create(DEPLOYMENTS, deployment("d", 1)).await;
    assert_eq!(
        (&made["spec"]["replicas"], &made["metadata"]["generation"]),
        (&json!(4), &json!(1))
    );
    let path = format!("{DEPLOYMENTS}/d");
    // To ask for what a policy undoes changes nothing.
    let changed = server.merge(&path, json!({"spec": {"replicas": 2}})).await.body;
    assert_eq!(
        (&changed["spec"]["replicas"], &changed["metadata"]["generation"]),
        (&json!(4), &json!(1))
    );
    let changed = server.merge(&path, json!({"spec": {"replicas": 9}})).await.body;
    assert_eq!(
        (&changed["spec"]["replicas"], &changed["metadata"]["generation"]),
        (&json!(9), &json!(2))
    );

    // Nobody owns what a policy adds: who creates an object owns what they wrote.
    let label = apply("Object{metadata: Object.metadata{labels: {'added': 'x'}}}");
    bind(&server, "q.example.com", OF_MAPS, &[label], json!({})).await;
    let made = server.create(CONFIG_MAPS, config_map("m")).await;
    assert_eq!(made["metadata"]["labels"]["added"], "x");
    let owned = made["metadata"]["managedFields"].to_string();
    assert!(owned.contains("f:data") && !owned.contains("f:added"), "{owned}");
    // Nor by a name that it cannot give away.
    let rename = patch("[JSONPatch{op: 'replace', path: '/metadata/name', value: 'other'}]");
    bind(&server, "r.example.com", OF_MAPS, &[rename], json!({})).await;
    let made = server.create(CONFIG_MAPS, config_map("n")).await;
    assert_eq!(made["metadata"]["name"], "n");
}

#[tokio::test]
async fn policies_are_asked_by_name_and_again_where_they_want() {
    let server = Fixture::new().await;
    let note = |key: &str| {
        apply(&format!(
            "Object{{metadata: Object.metadata{{annotations: {{'{key}': \
             object.?metadata.annotations.{key}.orValue('') + string(size(object.?metadata.annotations.orValue({{}})))}}}}}}"
        ))
    };
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    bind(&server, "a.example.com", OF_MAPS, &[note("a")], again).await;
    bind(&server, "b.example.com", OF_MAPS, &[note("b")], json!({})).await;
    // The first sees none, then, being asked again, the two; the second is asked once.
    let made = server.create(CONFIG_MAPS, config_map("m")).await;
    assert_eq!(made["metadata"]["annotations"], json!({"a": "02", "b": "1"}));
}

#[tokio::test]
async fn what_is_exempt_or_no_object_is_left_alone() {
    let server = with(
        ["*", "*", "*"],
        &[apply("Object{metadata: Object.metadata{labels: {'x': 'y'}}}")],
        json!({}),
    )
    .await;
    let made = server
        .create(POLICIES, policy("q.example.com", OF_MAPS, &[apply("Object{}")], json!({})))
        .await;
    assert_eq!(made["metadata"]["labels"], Value::Null);
    let made = server.create(CONFIG_MAPS, config_map("m")).await;
    assert_eq!(made["metadata"]["labels"], json!({"x": "y"}));
    assert_eq!(server.delete(&format!("{CONFIG_MAPS}/m")).await.code, 200);
}

/// POST as somebody else.
async fn post_as(server: &Fixture, user: &str, groups: &[&str], path: &str, body: Value) -> Answer {
    let mut request = Request::post(path)
        .header("impersonate-user", user)
        .header("content-type", "application/json");
    for group in groups {
        request = request.header("impersonate-group", *group);
    }
    let request = request.body(Body::from(body.to_string())).expect("a request");
    read(server.send(request).await).await
}

/// Lets a user do these things to resources of a group, everywhere.
async fn allow(server: &Fixture, user: &str, verbs: &[&str], group: &str, resources: &[&str]) {
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
    let name = format!("{user}-{}", resources.join("-"));
    let rules = json!([{"apiGroups": [group], "resources": resources, "verbs": verbs}]);
    let role = json!({"metadata": {"name": name}, "rules": rules});
    server.create(&format!("{RBAC}/clusterroles"), role).await;
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
    });
    server.create(&format!("{RBAC}/clusterrolebindings"), binding).await;
}

/// What a write must not do was looked at before webhooks and policies changed it: who could have one of them do it for them had
/// what they have no right to.
#[tokio::test]
async fn policies_smuggle_nothing_in() {
    let server = Fixture::new().await;
    let rbac = "rbac.authorization.k8s.io";
    let all = patch(
        "[JSONPatch{op: 'add', path: '/rules', value: [{'apiGroups': ['*'], 'resources': ['*'], 'verbs': ['*']}]}]",
    );
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    allow(&server, "bob", &["create", "patch"], rbac, &["roles"]).await;
    let only = json!({"matchConditions": [{"name": "bob", "expression": "request.userInfo.username == 'bob'"}]});
    bind(&server, "roles.example.com", [rbac, "v1", "roles"], &[all], only).await;
    let refused =
        post_as(&server, "bob", &[], roles, json!({"metadata": {"name": "r"}, "rules": []})).await;
    assert_eq!(refused.code, 403);
    let why = "user \"bob\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held";
    assert!(refused.message().contains(why), "{}", refused.message());

    let label = apply(
        "Object{metadata: Object.metadata{labels: {'node-restriction.kubernetes.io/trusted': 'yes'}}}",
    );
    bind(&server, "nodes.example.com", ["", "v1", "nodes"], &[label], json!({})).await;
    let node = || json!({"metadata": {"name": "n"}});
    let refused =
        post_as(&server, "system:node:n", &["system:nodes"], "/api/v1/nodes", node()).await;
    let why = "node \"n\" is not allowed to set the following labels: node-restriction.kubernetes.io/trusted";
    assert_eq!(
        (refused.code, refused.message().contains(why)),
        (403, true),
        "{}",
        refused.message()
    );
    let made = server.create("/api/v1/nodes", node()).await;
    assert_eq!(made["metadata"]["labels"]["node-restriction.kubernetes.io/trusted"], "yes");

    let forged = patch("[JSONPatch{op: 'add', path: '/spec/username', value: 'root'}]");
    let of = ["certificates.k8s.io", "v1", "certificatesigningrequests"];
    bind(&server, "csrs.example.com", of, &[forged], json!({})).await;
    allow(&server, "bob", &["create"], of[0], &[of[2]]).await;
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
    let request = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(request.pem().expect("PEM"))
    };
    let csr = json!({
        "metadata": {"name": "c"},
        "spec": {"request": request, "signerName": "example.com/s", "usages": ["client auth"]},
    });
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let made = post_as(&server, "bob", &[], path, csr).await;
    assert_eq!((made.code, &made.body["spec"]["username"]), (201, &json!("bob")), "{}", made.body);
}

#[tokio::test]
async fn who_writes_policies_may_read_their_params() {
    let server = Fixture::new().await;
    let group = "admissionregistration.k8s.io";
    let resources = ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"];
    allow(&server, "bob", &["create"], group, &resources).await;
    let of_secrets = json!({"paramKind": {"apiVersion": "v1", "kind": "Secret"}});
    let with_params = |name: &str| policy(name, OF_MAPS, &[apply("Object{}")], of_secrets.clone());
    let refused = post_as(&server, "bob", &[], POLICIES, with_params("p.example.com")).await;
    assert_eq!((refused.code, refused.reason()), (422, "Invalid"));
    let why = "spec.paramKind: Forbidden: user bob must have \"get\" permission on all objects of the referenced paramKind \
               (kind=Secret, apiVersion=v1)";
    assert!(refused.message().ends_with(why), "{}", refused.message());
    server.create(POLICIES, with_params("p.example.com")).await;
    let named = json!({"paramRef": {"name": "s", "namespace": "default", "parameterNotFoundAction": "Deny"}});
    let refused =
        post_as(&server, "bob", &[], BINDINGS, binding("p.example.com", named.clone())).await;
    let why = "spec.paramRef: Forbidden: user bob does not have \"get\" permission on the object referenced by paramRef";
    assert!(refused.message().ends_with(why), "{}", refused.message());
    allow(&server, "bob", &["get"], "", &["secrets"]).await;
    assert_eq!(
        post_as(&server, "bob", &[], BINDINGS, binding("p.example.com", named)).await.code,
        201
    );
    assert_eq!(
        post_as(&server, "bob", &[], POLICIES, with_params("q.example.com")).await.code,
        201
    );
}
