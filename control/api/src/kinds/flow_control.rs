//! The priority levels and flow schemas that every cluster begins with (`apiserver/pkg/apis/flowcontrol/bootstrap`).
//!
//! The two `exempt` and the two `catch-all` are mandatory: they stay as they are here.

use serde_json::{Value, json};

/// A name, and the spec that the object of that name has for ever.
pub(super) type Fixed = (&'static str, fn() -> Value);

/// The mandatory priority levels.
pub(super) const MANDATORY_LEVELS: [Fixed; 2] = [
    (
        "exempt",
        || json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
    ),
    ("catch-all", || {
        let reject = json!({"type": "Reject"});
        json!({
            "type": "Limited",
            "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": reject},
        })
    }),
];

/// The mandatory flow schemas.
pub(super) const MANDATORY_SCHEMAS: [Fixed; 2] = [
    ("exempt", || schema("exempt", 1, "", everything(&[("Group", "system:masters")]))),
    ("catch-all", || schema("catch-all", 10_000, "ByUser", everything(&ANYBODY))),
];

/// Levels with queues: name, shares, percent that may be lent, queues, hand size.
const LEVELS: [(&str, i64, i64, i64, i64); 6] = [
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];

/// Requests that a queue of each of them holds.
const QUEUE_LENGTH: i64 = 50;

type Subjects<'a> = &'a [(&'a str, &'a str)];

const ANYBODY: [(&str, &str); 2] =
    [("Group", "system:unauthenticated"), ("Group", "system:authenticated")];
const NODES: Subjects<'static> = &[("Group", "system:nodes")];
const MANAGER: (&str, &str) = ("User", "system:kube-controller-manager");
const SCHEDULER: (&str, &str) = ("User", "system:kube-scheduler");
/// Accounts in `kube-system`.
const ACCOUNTS: (&str, &str) = ("ServiceAccount", "*");

/// The priority levels of a new cluster: names and specs, the mandatory ones first.
pub fn levels() -> Vec<(&'static str, Value)> {
    let with_queues = LEVELS.iter().map(|(name, shares, lendable, queues, hand)| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH});
        let limited = json!({
            "nominalConcurrencyShares": shares,
            "lendablePercent": lendable,
            "limitResponse": {"type": "Queue", "queuing": queuing},
        });
        (*name, json!({"type": "Limited", "limited": limited}))
    });
    MANDATORY_LEVELS.iter().map(|(name, spec)| (*name, spec())).chain(with_queues).collect()
}

/// The flow schemas of a new cluster: names and specs, the mandatory ones first.
pub fn schemas() -> Vec<(&'static str, Value)> {
    let leases = |verbs: &[&str]| resources(verbs, "coordination.k8s.io", &["leases"], false);
    let elect = || vec![leases(&["get", "create", "update"])];
    let suggested = [
        (
            "probes",
            schema("exempt", 2, "", {
                let urls =
                    json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]});
                json!({"subjects": subjects(&ANYBODY), "nonResourceRules": [urls]})
            }),
        ),
        (
            "system-leader-election",
            schema("leader-election", 100, "ByUser", {
                rule(&[MANAGER, SCHEDULER, ACCOUNTS], elect())
            }),
        ),
        (
            "endpoint-controller",
            schema("workload-high", 150, "ByUser", {
                let who = [
                    MANAGER,
                    ("ServiceAccount", "endpoint-controller"),
                    ("ServiceAccount", "endpointslicemirroring-controller"),
                ];
                rule(&who, vec![resources(&["get", "create", "update"], "", &["endpoints"], false)])
            }),
        ),
        (
            "workload-leader-election",
            schema("leader-election", 200, "ByUser", rule(&[ACCOUNTS], elect())),
        ),
        (
            "system-node-high",
            schema("node-high", 400, "ByUser", {
                let own = resources(&["*"], "", &["nodes", "nodes/status"], true);
                rule(NODES, vec![own, leases(&["*"])])
            }),
        ),
        ("system-nodes", schema("system", 500, "ByUser", everything(NODES))),
        ("kube-controller-manager", {
            schema("workload-high", 800, "ByNamespace", everything(&[MANAGER]))
        }),
        ("kube-scheduler", schema("workload-high", 800, "ByNamespace", everything(&[SCHEDULER]))),
        ("kube-system-service-accounts", {
            schema("workload-high", 900, "ByNamespace", everything(&[ACCOUNTS]))
        }),
        ("service-accounts", {
            let who = [("Group", "system:serviceaccounts")];
            schema("workload-low", 9000, "ByUser", everything(&who))
        }),
        ("global-default", schema("global-default", 9900, "ByUser", everything(&ANYBODY))),
    ];
    MANDATORY_SCHEMAS.iter().map(|(name, spec)| (*name, spec())).chain(suggested).collect()
}

fn schema(level: &str, precedence: i64, method: &str, rule: Value) -> Value {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "rules": [rule],
    });
    if !method.is_empty() {
        spec["distinguisherMethod"] = json!({"type": method});
    }
    spec
}

fn everything(who: Subjects<'_>) -> Value {
    let mut rule = rule(who, vec![resources(&["*"], "*", &["*"], true)]);
    rule["nonResourceRules"] = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    rule
}

fn rule(who: Subjects<'_>, what: Vec<Value>) -> Value {
    json!({"subjects": subjects(who), "resourceRules": what})
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({
        "verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"],
    });
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn subjects(who: Subjects<'_>) -> Vec<Value> {
    let one = |(kind, name): &(&str, &str)| match *kind {
        "ServiceAccount" => {
            json!({"kind": kind, "serviceAccount": {"namespace": "kube-system", "name": name}})
        }
        "User" => json!({"kind": kind, "user": {"name": name}}),
        _ => json!({"kind": kind, "group": {"name": name}}),
    };
    who.iter().map(one).collect()
}
