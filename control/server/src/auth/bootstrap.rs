//! The roles and bindings that every cluster starts with, as upstream's bootstrap policy names them.

use serde_json::{Value, json};

use super::BOOTSTRAPPERS;

/// ClusterRoles, complete but for server-set metadata.
pub fn cluster_roles() -> Vec<Value> {
    let all = rule(&["*"], &["*"], &["*"]);
    let anything = json!({"nonResourceURLs": ["*"], "verbs": ["*"]});
    let public = json!({
        "nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"],
        "verbs": ["get"],
    });
    let discovery = json!({
        "nonResourceURLs": [
            "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz",
            "/version", "/version/",
        ],
        "verbs": ["get"],
    });
    let monitoring = json!({
        "nonResourceURLs": [
            "/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis",
            "/readyz", "/readyz/*",
        ],
        "verbs": ["get"],
    });
    let issuer = json!({
        "nonResourceURLs": [
            "/.well-known/openid-configuration", "/.well-known/openid-configuration/",
            "/openid/v1/jwks", "/openid/v1/jwks/",
        ],
        "verbs": ["get"],
    });
    let basic = vec![
        rule(
            &["authorization.k8s.io"],
            &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            &["create"],
        ),
        rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
    ];
    let view = || {
        vec![
            rule(
                &[""],
                &[
                    "bindings",
                    "configmaps",
                    "endpoints",
                    "events",
                    "limitranges",
                    "namespaces",
                    "namespaces/status",
                    "persistentvolumeclaims",
                    "persistentvolumeclaims/status",
                    "pods",
                    "pods/log",
                    "pods/status",
                    "replicationcontrollers",
                    "replicationcontrollers/scale",
                    "replicationcontrollers/status",
                    "resourcequotas",
                    "resourcequotas/status",
                    "serviceaccounts",
                    "services",
                    "services/status",
                ],
                READ,
            ),
            rule(&["events.k8s.io"], &["events"], READ),
            rule(&["discovery.k8s.io"], &["endpointslices"], READ),
            rule(&["apps"], APPS, READ),
            rule(
                &["autoscaling"],
                &["horizontalpodautoscalers", "horizontalpodautoscalers/status"],
                READ,
            ),
            rule(&["batch"], &["cronjobs", "cronjobs/status", "jobs", "jobs/status"], READ),
            rule(
                &["networking.k8s.io"],
                &["ingresses", "ingresses/status", "networkpolicies"],
                READ,
            ),
            rule(&["policy"], &["poddisruptionbudgets", "poddisruptionbudgets/status"], READ),
            rule(
                &["resource.k8s.io"],
                &["resourceclaims", "resourceclaims/status", "resourceclaimtemplates"],
                READ,
            ),
            rule(&["metrics.k8s.io"], &["pods", "nodes"], READ),
        ]
    };
    let edit = || {
        vec![
            rule(
                &[""],
                &[
                    "configmaps",
                    "endpoints",
                    "events",
                    "persistentvolumeclaims",
                    "pods",
                    "pods/attach",
                    "pods/eviction",
                    "pods/exec",
                    "pods/portforward",
                    "pods/proxy",
                    "replicationcontrollers",
                    "replicationcontrollers/scale",
                    "secrets",
                    "serviceaccounts",
                    "services",
                    "services/proxy",
                ],
                WRITE,
            ),
            rule(
                &[""],
                &[
                    "secrets",
                    "pods/attach",
                    "pods/exec",
                    "pods/portforward",
                    "pods/proxy",
                    "services/proxy",
                ],
                READ,
            ),
            rule(&[""], &["serviceaccounts"], &["impersonate"]),
            rule(&[""], &["serviceaccounts/token"], &["create"]),
            rule(
                &["apps"],
                &[
                    "daemonsets",
                    "deployments",
                    "deployments/rollback",
                    "deployments/scale",
                    "replicasets",
                    "replicasets/scale",
                    "statefulsets",
                    "statefulsets/scale",
                ],
                WRITE,
            ),
            rule(&["autoscaling"], &["horizontalpodautoscalers"], WRITE),
            rule(&["batch"], &["cronjobs", "jobs"], WRITE),
            rule(&["networking.k8s.io"], &["ingresses", "networkpolicies"], WRITE),
            rule(&["policy"], &["poddisruptionbudgets"], WRITE),
            rule(&["resource.k8s.io"], &["resourceclaims", "resourceclaimtemplates"], WRITE),
        ]
    };
    let admin = || {
        vec![
            rule(&["rbac.authorization.k8s.io"], &["rolebindings", "roles"], &["*"]),
            rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], &["create"]),
        ]
    };
    vec![
        role("cluster-admin", vec![all, anything]),
        aggregated("admin", &[], [admin(), edit(), view()].concat()),
        aggregated("edit", &["admin"], [edit(), view()].concat()),
        aggregated("view", &["edit"], view()),
        labelled(role("system:aggregate-to-admin", admin()), &["admin"]),
        labelled(role("system:aggregate-to-edit", edit()), &["edit"]),
        labelled(role("system:aggregate-to-view", view()), &["view"]),
        role("system:basic-user", basic),
        role("system:discovery", vec![discovery]),
        role("system:public-info-viewer", vec![public]),
        role("system:monitoring", vec![monitoring]),
        role("system:service-account-issuer-discovery", vec![issuer]),
        // For API servers behind this one, which ask it who calls and what they may.
        role(
            "system:auth-delegator",
            vec![
                rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
                rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
            ],
        ),
        role(
            "system:node-bootstrapper",
            vec![rule(CERTIFICATES, &[REQUESTS], &["create", "get", "list", "watch"])],
        ),
        role(
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            vec![rule(CERTIFICATES, &["certificatesigningrequests/nodeclient"], &["create"])],
        ),
        role(
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            vec![rule(CERTIFICATES, &["certificatesigningrequests/selfnodeclient"], &["create"])],
        ),
        approver("kube-apiserver-client"),
        approver("kube-apiserver-client-kubelet"),
        approver("kubelet-serving"),
        // What machines that join ask beside their certificate.
        role(
            "coracle:node-joiner",
            vec![json!({"nonResourceURLs": ["/coracle/v1/join"], "verbs": ["get"]})],
        ),
        // For people and tools of the cluster's own: who may push to and pull from the built-in registry.
        role(
            "coracle:registry-reader",
            vec![json!({"nonResourceURLs": ["/v2", "/v2/*"], "verbs": ["get", "head"]})],
        ),
        role(
            "coracle:registry-writer",
            vec![json!({"nonResourceURLs": ["/v2", "/v2/*"], "verbs": ["*"]})],
        ),
    ]
}

/// The Role in `kube-system` of API servers behind this one: they read there how it says who makes a request.
pub fn authentication_reader() -> Value {
    let map = "extension-apiserver-authentication";
    json!({
        "metadata": {
            "name": "extension-apiserver-authentication-reader",
            "namespace": "kube-system",
            "annotations": {AUTOUPDATE: "true"},
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        },
        "rules": [{
            "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [map], "verbs": READ,
        }],
    })
}

/// ClusterRoleBindings, complete but for server-set metadata.
pub fn cluster_role_bindings() -> Vec<Value> {
    vec![
        binding("cluster-admin", "cluster-admin", "system:masters"),
        binding("system:basic-user", "system:basic-user", "system:authenticated"),
        binding("system:discovery", "system:discovery", "system:authenticated"),
        public_info(),
        binding("system:monitoring", "system:monitoring", "system:monitoring"),
        binding(
            "system:service-account-issuer-discovery",
            "system:service-account-issuer-discovery",
            "system:serviceaccounts",
        ),
        // As kubeadm binds its own; nodes' rights to renew are the Node authorizer's.
        binding("coracle:node-bootstrapper", "system:node-bootstrapper", BOOTSTRAPPERS),
        binding(
            "coracle:node-autoapprove-bootstrap",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            BOOTSTRAPPERS,
        ),
        binding("coracle:node-joiner", "coracle:node-joiner", BOOTSTRAPPERS),
    ]
}

/// Labels of roles that are part of the one whose name follows.
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";
/// What upstream annotates so is completed on each start, unless somebody says `false`.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const CERTIFICATES: &[&str] = &["certificates.k8s.io"];
const REQUESTS: &str = "certificatesigningrequests";
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const APPS: &[&str] = &[
    "controllerrevisions",
    "daemonsets",
    "daemonsets/status",
    "deployments",
    "deployments/scale",
    "deployments/status",
    "replicasets",
    "replicasets/scale",
    "replicasets/status",
    "statefulsets",
    "statefulsets/scale",
    "statefulsets/status",
];

/// Who has it may approve what that signer of `kubernetes.io/` signs.
fn approver(signer: &str) -> Value {
    let name = format!("system:certificates.k8s.io:{signer}-approver");
    let signer = format!("kubernetes.io/{signer}");
    let rule = json!({
        "apiGroups": CERTIFICATES, "resources": ["signers"], "resourceNames": [signer], "verbs": ["approve"],
    });
    role(&name, vec![rule])
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

/// A role that is made of those that say so, its rules as they are at first; and part of `of`.
fn aggregated(name: &str, of: &[&str], rules: Vec<Value>) -> Value {
    let mut role = labelled(role(name, rules), of);
    let labels = json!({format!("{AGGREGATE}{name}"): "true"});
    role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
    role
}

/// The role as a part of aggregated ones.
fn labelled(mut role: Value, of: &[&str]) -> Value {
    for name in of {
        role["metadata"]["labels"][format!("{AGGREGATE}{name}")] = "true".into();
    }
    role
}

fn role(name: &str, rules: Vec<Value>) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": metadata(name),
        "rules": rules,
    })
}

/// What everybody may read, nobody in particular too, where such callers are admitted.
fn public_info() -> Value {
    let name = "system:public-info-viewer";
    let mut binding = binding(name, name, "system:authenticated");
    let mut other = binding["subjects"][0].clone();
    other["name"] = "system:unauthenticated".into();
    if let Some(subjects) = binding["subjects"].as_array_mut() {
        subjects.push(other);
    }
    binding
}

fn binding(name: &str, role: &str, group: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": metadata(name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": group}],
    })
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    })
}
