use coracle_api::Kind;
use coracle_api::kinds::flow_control;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

fn cluster(levels: Vec<(&str, Value)>, schemas: Vec<(&str, Value)>) -> Cluster {
    let mut cluster = Cluster::new(Timestamp::now());
    let mut put = |kind: &'static Kind, objects: Vec<(&str, Value)>| {
        for (name, spec) in objects {
            let tree =
                json!({"metadata": {"name": name, "uid": format!("uid-of-{name}")}, "spec": spec});
            cluster.put(Arc::new(Object::from_value(kind, &tree).expect("an object")));
        }
    };
    put(&kinds::PRIORITY_LEVEL_CONFIGURATION, levels);
    put(&kinds::FLOW_SCHEMA, schemas);
    cluster
}

fn bootstrapped() -> Cluster {
    cluster(flow_control::levels(), flow_control::schemas())
}

fn who(user: &str, groups: &[&str]) -> Identity {
    let groups =
        groups.iter().chain(&["system:authenticated"]).map(|group| (*group).to_owned()).collect();
    Identity { user: user.into(), groups, ..Identity::default() }
}

fn wants(verb: &str, group: &str, resource: &str, namespace: &str) -> Attributes {
    Attributes {
        verb: verb.into(),
        group: group.into(),
        resource: resource.into(),
        namespace: namespace.into(),
        ..Attributes::default()
    }
}

async fn enter(
    flow: &Flow,
    who: &Identity,
    wanted: &Attributes,
    objects: u64,
) -> Result<Entered, Refused> {
    flow.enter(Request { who, wanted, objects }).await
}

#[tokio::test]
async fn requests_belong_to_the_levels_that_upstreams_schemas_say() {
    let flow = Flow::new(600);
    flow.configure(&bootstrapped());
    let pods = wants("list", "", "pods", "shop");
    let leases = wants("update", "coordination.k8s.io", "leases", "kube-system");
    let node_lease = wants("update", "coordination.k8s.io", "leases", "kube-node-lease");
    let health = Attributes { verb: "get".into(), path: "/livez".into(), ..Attributes::default() };
    for (user, groups, wanted, level) in [
        ("root", &["system:masters"][..], &pods, "exempt"),
        ("system:node:a", &["system:nodes"], &pods, "system"),
        ("system:node:a", &["system:nodes"], &node_lease, "node-high"),
        ("system:kube-scheduler", &[], &leases, "leader-election"),
        (
            "system:serviceaccount:kube-system:x",
            &["system:serviceaccounts"],
            &pods,
            "workload-high",
        ),
        ("system:serviceaccount:shop:x", &["system:serviceaccounts"], &pods, "workload-low"),
        ("jane", &[], &pods, "global-default"),
        ("jane", &[], &health, "exempt"),
    ] {
        let entered = enter(&flow, &who(user, groups), wanted, 0).await;
        let Ok(entered) = entered else { panic!("{user} is turned away") };
        assert_eq!(entered.level, level, "{user}: {wanted:?}");
        assert_eq!(entered.uids.level, format!("uid-of-{level}"));
    }
}

/// One level with few seats, so that everything is contended.
fn narrow(queues: Value) -> (Flow, Cluster) {
    let flow = Flow::new(4);
    let limited = json!({"nominalConcurrencyShares": 1, "limitResponse": queues});
    let rule = json!({
        "subjects": [{"kind": "Group", "group": {"name": "*"}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
    });
    let schema = json!({
        "priorityLevelConfiguration": {"name": "all"},
        "matchingPrecedence": 5,
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [rule],
    });
    let cluster = cluster(
        vec![("all", json!({"type": "Limited", "limited": limited}))],
        vec![("all", schema)],
    );
    flow.configure(&cluster);
    (flow, cluster)
}

#[tokio::test]
async fn lists_take_seats_by_their_size_and_give_them_back() {
    let (flow, _) = narrow(json!({"type": "Reject"}));
    let jane = who("jane", &[]);
    let pods = wants("list", "", "pods", "shop");
    let wide = enter(&flow, &jane, &pods, 250).await.ok().expect("three of four seats");
    let one = enter(&flow, &jane, &pods, 0).await.ok().expect("the last");
    let Err(refused) = enter(&flow, &jane, &pods, 0).await else { panic!("none is left") };
    assert_eq!((refused.error.code, refused.error.reason), (429, "TooManyRequests"));
    drop(wide);
    let again = enter(&flow, &jane, &pods, 100_000).await;
    assert!(again.is_err(), "one that takes all seats waits for all of them");
    drop(one);
    assert!(enter(&flow, &jane, &pods, 100_000).await.is_ok());
}

#[tokio::test]
async fn who_waits_is_let_in_in_turn_and_who_gives_up_takes_no_seat() {
    let queuing = json!({"queues": 16, "handSize": 4, "queueLengthLimit": 100});
    let (flow, cluster) = narrow(json!({"type": "Queue", "queuing": queuing}));
    let pods = wants("get", "", "pods", "shop");
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(enter(&flow, &who("noisy", &[]), &pods, 0).await.ok().expect("a seat"));
    }
    let (told, mut served) = tokio::sync::mpsc::unbounded_channel();
    let mut ask = tokio::task::JoinSet::new();
    for user in std::iter::repeat_n("noisy", 100).chain(std::iter::repeat_n("quiet", 5)) {
        let (flow, pods, told) = (flow.clone(), pods.clone(), told.clone());
        ask.spawn(async move {
            let entered = enter(&flow, &who(user, &[]), &pods, 0).await;
            told.send(user).expect("somebody listens");
            drop(entered);
        });
        tokio::task::yield_now().await;
    }
    // One that waits and goes away again.
    let gone = tokio::spawn({
        let (flow, pods) = (flow.clone(), pods.clone());
        async move { enter(&flow, &who("gone", &[]), &pods, 0).await.is_ok() }
    });
    while flow.state().waiting.len() < 106 {
        tokio::task::yield_now().await;
    }
    gone.abort();
    assert!(gone.await.expect_err("given up").is_cancelled());
    assert_eq!(flow.state().waiting.len(), 105);
    drop(held);
    let mut order = Vec::new();
    for _ in 0..105 {
        order.push(served.recv().await.expect("all are served"));
    }
    while ask.join_next().await.is_some() {}
    let last = order.iter().rposition(|user| *user == "quiet").expect("served");
    assert!(last < 50, "the quiet one's were all served among the first {last}");
    // A new configuration keeps what is counted.
    let one = enter(&flow, &who("a", &[]), &pods, 0).await.ok().expect("a seat");
    flow.configure(&cluster);
    assert_eq!(flow.state().levels["all"].queues.seated(), 1);
    drop(one);
    assert_eq!(flow.state().levels["all"].queues.seated(), 0);
}

#[tokio::test]
async fn idle_seats_are_lent_within_limits() {
    let flow = Flow::new(10);
    let level = |lendable: u64, limit: Value| {
        let response = json!({"type": "Reject"});
        json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": 5, "lendablePercent": lendable, "borrowingLimitPercent": limit, "limitResponse": response}})
    };
    let schema = |level: &str, user: &str| {
        let rule =
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]});
        json!({
            "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": 5,
            "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}], "resourceRules": [rule]}],
        })
    };
    let levels = vec![("a", level(60, Value::Null)), ("b", level(0, json!(40)))];
    flow.configure(&cluster(levels, vec![("a", schema("a", "a")), ("b", schema("b", "b"))]));
    let pods = wants("get", "", "pods", "shop");
    let mut b = Vec::new();
    while let Ok(entered) = enter(&flow, &who("b", &[]), &pods, 0).await {
        b.push(entered);
    }
    assert_eq!(b.len(), 7, "its five and two of the three that are lent");
    let mut a = Vec::new();
    while let Ok(entered) = enter(&flow, &who("a", &[]), &pods, 0).await {
        a.push(entered);
    }
    assert_eq!(a.len(), 5, "its own, whoever else has what it lent");
}
