//! What callers may, computed anew from the roles and bindings as they are stored, and from a table of what nodes may.

use super::*;

/// What a request wants.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) verb: String,
    pub(super) group: String,
    /// With its subresource: `pods/log`. Empty for a path.
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) path: String,
}

/// One rule, for whom, and where: no namespace is everywhere.
struct Grant {
    subjects: Vec<(String, String, String)>,
    namespace: Option<String>,
    rule: Value,
}

pub(super) struct Oracle {
    grants: Vec<Grant>,
}

/// What nodes may: verbs, resource, and of which objects.
const NODES: &[(&str, &str, Of)] = &[
    ("get list watch create", "nodes", Of::All),
    ("update patch", "nodes", Of::Named),
    ("get", "nodes/status", Of::All),
    ("update patch", "nodes/status", Of::Named),
    ("get delete", "pods", Of::Own),
    ("get update patch", "pods/status", Of::Own),
    ("create", "pods/eviction", Of::Own),
    ("get list watch", "namespaces", Of::All),
    ("get list watch", "services", Of::All),
    ("get list watch", "endpoints", Of::All),
    ("get list watch", "endpointslices.discovery.k8s.io", Of::All),
    ("get list watch", "ingresses.networking.k8s.io", Of::All),
    ("get list watch", "ingressclasses.networking.k8s.io", Of::All),
    ("get list watch", "runtimeclasses.node.k8s.io", Of::All),
    ("create update patch", "events", Of::All),
    ("create update patch", "events.events.k8s.io", Of::All),
    ("get list watch", "configmaps", Of::Own),
    ("get list watch", "secrets", Of::Own),
    ("get", "persistentvolumeclaims", Of::Own),
    ("create", "serviceaccounts/token", Of::Own),
    ("create get list watch", "certificatesigningrequests.certificates.k8s.io", Of::All),
    ("create", "tokenreviews.authentication.k8s.io", Of::All),
    ("create", "selfsubjectreviews.authentication.k8s.io", Of::All),
    ("create", "subjectaccessreviews.authorization.k8s.io", Of::All),
    ("create", "localsubjectaccessreviews.authorization.k8s.io", Of::All),
    ("create", "selfsubjectaccessreviews.authorization.k8s.io", Of::All),
    ("create", "selfsubjectrulesreviews.authorization.k8s.io", Of::All),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    All,
    /// The one called as the node.
    Named,
    /// What its Pods are or refer to: of what is in this world, everything called `walk`.
    Own,
}

/// Paths that are nodes' own; others are as for everybody.
fn is_nodes(wanted: &Wanted) -> bool {
    match wanted.verb.as_str() {
        "get" | "head" => {
            wanted.path == "/v2"
                || wanted.path.starts_with("/v2/")
                || wanted.path == "/coracle/v1/join"
                || wanted.path == "/coracle/v1/tunnel"
        }
        "post" => wanted.path == "/coracle/v1/metrics",
        _ => false,
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Oracle {
    pub(super) async fn read(it: &Fixture) -> Self {
        let root = "/apis/rbac.authorization.k8s.io/v1";
        let items = async |plural: &str| {
            let list = it.get(&format!("{root}/{plural}")).await;
            list.body["items"].as_array().cloned().expect("a list")
        };
        let (roles, cluster_roles) = (items("roles").await, items("clusterroles").await);
        let mut grants = Vec::new();
        let bindings =
            items("rolebindings").await.into_iter().chain(items("clusterrolebindings").await);
        for binding in bindings {
            let within = binding["metadata"]["namespace"].as_str().map(str::to_owned);
            let reference = &binding["roleRef"];
            let role = match reference["kind"].as_str() {
                Some("ClusterRole") => {
                    cluster_roles.iter().find(|r| r["metadata"]["name"] == reference["name"])
                }
                _ => roles.iter().find(|r| {
                    r["metadata"]["name"] == reference["name"]
                        && r["metadata"]["namespace"].as_str() == within.as_deref()
                }),
            };
            let subjects = binding["subjects"].as_array().cloned().unwrap_or_default();
            let subjects: Vec<_> = subjects
                .iter()
                .map(|s| (text(&s["kind"]), text(&s["namespace"]), text(&s["name"])))
                .collect();
            let rules = role.map(|role| role["rules"].clone()).unwrap_or_default();
            for rule in rules.as_array().into_iter().flatten() {
                grants.push(Grant {
                    subjects: subjects.clone(),
                    namespace: within.clone(),
                    rule: rule.clone(),
                });
            }
        }
        Self { grants }
    }

    pub(super) fn allows(&self, caller: &Caller, wanted: &Wanted) -> bool {
        match &caller.who {
            Who::Nobody | Who::Refused => false,
            Who::User(user, groups) => {
                groups.iter().any(|g| g == "system:masters") || self.granted(user, groups, wanted)
            }
            Who::Node(node) if wanted.resource.is_empty() => {
                let groups = ["system:nodes", "system:authenticated"].map(str::to_owned);
                is_nodes(wanted) || self.granted(&format!("system:node:{node}"), &groups, wanted)
            }
            Who::Node(node) => {
                let lines = NODES.iter().filter(|(verbs, resource, _)| {
                    *resource == wanted.resource_and_group()
                        && verbs.split(' ').any(|verb| verb == wanted.verb)
                });
                lines.into_iter().any(|(.., of)| match of {
                    Of::All => true,
                    Of::Named => wanted.name == *node,
                    Of::Own => {
                        *node == "walk" && wanted.name == "walk" && wanted.namespace == "default"
                    }
                })
            }
        }
    }

    fn granted(&self, user: &str, groups: &[String], wanted: &Wanted) -> bool {
        self.grants.iter().any(|grant| {
            let here = grant.namespace.as_ref().is_none_or(|ns| {
                !wanted.namespace.is_empty()
                    && *ns == wanted.namespace
                    && !wanted.resource.is_empty()
            });
            let subject =
                grant.subjects.iter().any(|(kind, namespace, name)| match kind.as_str() {
                    "User" => name == user,
                    "Group" => groups.contains(name),
                    "ServiceAccount" => user == format!("system:serviceaccount:{namespace}:{name}"),
                    other => panic!("a subject of kind {other}"),
                });
            here && subject && wanted.is_in(&grant.rule)
        })
    }
}

impl Wanted {
    /// `deployments/scale` of `apps` is `deployments/scale.apps`.
    fn resource_and_group(&self) -> String {
        match self.group.as_str() {
            "" => self.resource.clone(),
            group => format!("{}.{group}", self.resource),
        }
    }

    fn is_in(&self, rule: &Value) -> bool {
        let has = |field: &str, value: &str| {
            strings(&rule[field]).iter().any(|known| known == "*" || known == value)
        };
        if !has("verbs", &self.verb) {
            return false;
        }
        if self.resource.is_empty() {
            return strings(&rule["nonResourceURLs"]).iter().any(|url| {
                *url == self.path
                    || url.ends_with('*') && self.path.starts_with(&url[..url.len() - 1])
            });
        }
        let any_part = self.resource.split_once('/').map(|(_, part)| format!("*/{part}"));
        let names = strings(&rule["resourceNames"]);
        has("apiGroups", &self.group)
            && (has("resources", &self.resource)
                || any_part.is_some_and(|any| strings(&rule["resources"]).contains(&any)))
            && (names.is_empty() || !self.name.is_empty() && names.contains(&self.name))
    }
}
