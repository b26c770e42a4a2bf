//! Limits of requests, and whose turn it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::*;
use crate::auth::Attributes;

const FLOW_CONTROL: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const LEVEL: &str = "x-kubernetes-pf-prioritylevel-uid";

fn tester(name: &str) -> Identity {
    let groups = ["testers", "system:authenticated"].map(str::to_owned).to_vec();
    Identity { user: name.into(), groups, ..Identity::default() }
}

async fn list_as(it: &Fixture, who: &str) -> Response {
    let mut request = Request::get(CONFIG_MAPS).body(Body::empty()).expect("a request");
    request.extensions_mut().insert(tester(who));
    let answer = router(it.server.app.clone()).oneshot(request).await;
    answer.unwrap_or_else(|never| match never {})
}

// On one thread: where one of several is held up by other processes, answers are counted in another order than they were given.
#[tokio::test]
async fn a_noisy_client_does_not_starve_a_quiet_one() {
    const NOISY: usize = 150;
    const QUIET: usize = 5;
    let it = Arc::new(Fixture::new().await);
    it.create(CONFIG_MAPS, config_map("a")).await;
    let level = json!({"metadata": {"name": "test"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 4, "queueLengthLimit": 30}}}}});
    let level = it.create(&format!("{FLOW_CONTROL}/prioritylevelconfigurations"), level).await;
    let rule = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]});
    let schema = json!({"metadata": {"name": "test"}, "spec": {
        "priorityLevelConfiguration": {"name": "test"}, "matchingPrecedence": 10,
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "Group", "group": {"name": "testers"}}], "resourceRules": [rule]}]}});
    it.create(&format!("{FLOW_CONTROL}/flowschemas"), schema).await;
    let role = json!({"metadata": {"name": "testers"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "testers"}]});
    it.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", role).await;
    // Flow control follows what the API is told.
    let uid = level["metadata"]["uid"].as_str().expect("a UID");
    while list_as(&it, "quiet").await.headers().get(LEVEL).is_none_or(|level| level != uid) {
        tokio::task::yield_now().await;
    }

    let flow = &it.server.app.flow;
    let wanted = Attributes {
        verb: "get".into(),
        resource: "configmaps".into(),
        namespace: "default".into(),
        ..Attributes::default()
    };
    // All seats are taken while they gather.
    let mut held = Vec::new();
    while let Some(entered) = flow.enter_at_once(&tester("holder"), &wanted) {
        held.push(entered);
    }
    assert!(!held.is_empty());
    let done = [const { AtomicUsize::new(0) }; 2].map(Arc::new);
    let mut clients = tokio::task::JoinSet::new();
    let start = |clients: &mut tokio::task::JoinSet<_>, who: &'static str| {
        let (it, done) = (it.clone(), done.clone());
        clients.spawn(async move {
            let code = list_as(&it, who).await.status().as_u16();
            done[usize::from(who == "quiet")].fetch_add(1, Ordering::SeqCst);
            (who, code, done[0].load(Ordering::SeqCst))
        });
    };
    for _ in 0..NOISY {
        start(&mut clients, "noisy");
    }
    // Four queues of thirty hold 120 of them, or somewhat fewer where the holder's requests are of the same queues; the others
    // are turned away at once.
    while flow.waiting() + done[0].load(Ordering::SeqCst) < NOISY {
        tokio::task::yield_now().await;
    }
    let turned_away = done[0].load(Ordering::SeqCst);
    let queued = NOISY - turned_away;
    assert!((60..=120).contains(&queued), "{queued} wait");
    for _ in 0..QUIET {
        start(&mut clients, "quiet");
    }
    while flow.waiting() < queued + QUIET {
        tokio::task::yield_now().await;
    }
    drop(held);
    let mut refused = 0;
    while let Some(answer) = clients.join_next().await {
        let (who, code, noisy_before) = answer.expect("an answer");
        refused += usize::from(code == 429);
        if who == "quiet" {
            assert_eq!(code, 200);
            let before = noisy_before - turned_away;
            assert!(before < queued * 3 / 4, "{before} of {queued} noisy requests came before");
        }
    }
    assert_eq!(refused, turned_away);
}

#[tokio::test]
async fn who_is_turned_away_is_told_when_to_try_again() {
    let it = Fixture::new().await;
    let level = json!({"metadata": {"name": "none"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    let level = it.create(&format!("{FLOW_CONTROL}/prioritylevelconfigurations"), level).await;
    let rule = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]});
    let schema = json!({"metadata": {"name": "none"}, "spec": {
        "priorityLevelConfiguration": {"name": "none"}, "matchingPrecedence": 10,
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "nobody"}}], "resourceRules": [rule]}]}});
    it.create(&format!("{FLOW_CONTROL}/flowschemas"), schema).await;
    let role = json!({"metadata": {"name": "all"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "nobody"}]});
    it.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", role).await;
    let answer = loop {
        let answer = list_as(&it, "nobody").await;
        if answer.status() == 429 {
            break read(answer).await;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers[LEVEL], level["metadata"]["uid"].as_str().expect("a UID"));
    assert_eq!(
        (answer.reason(), answer.message()),
        ("TooManyRequests", "Too many requests, please try again later.")
    );
}

#[tokio::test]
async fn requests_have_an_end() {
    let it = Fixture::new().await;
    // A body that never comes.
    let never =
        Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    let slow =
        it.call("POST", &format!("{CONFIG_MAPS}?timeout=50ms"), "application/json", never).await;
    assert_eq!((slow.code, slow.reason()), (504, "Timeout"));
    assert_eq!(slow.message(), "Timeout: request did not complete within the allotted timeout");
    for bad in ["x", "-1s"] {
        let bad = it.get(&format!("{CONFIG_MAPS}?timeout={bad}")).await;
        assert_eq!(
            (bad.code, bad.message()),
            (400, "invalid timeout specified in the request URL")
        );
    }
    assert_eq!(it.get(&format!("{CONFIG_MAPS}?timeout=0s")).await.code, 200);
    assert_eq!(it.get(&format!("{CONFIG_MAPS}?timeout=1h")).await.code, 200);
    let large = it.call("POST", CONFIG_MAPS, "application/json", vec![b' '; (3 << 20) + 1]).await;
    assert_eq!((large.code, large.message()), (413, "Request entity too large: limit is 3145728"));
    for media in ["application/json", "application/yaml"] {
        let deep = it.call("POST", CONFIG_MAPS, media, "[".repeat(1 << 20)).await;
        assert_eq!(deep.code, 400, "{media}");
    }
}
