//! Ways around a right that are no route of discovery: each with who tries it, what that one may, and what is to come of it.

use super::callers::grant;
use super::*;

/// A user's one rule, where it holds, and a request that goes beyond it.
struct Probe {
    rule: Value,
    /// Empty for everywhere.
    namespace: &'static str,
    method: &'static str,
    path: &'static str,
    body: &'static str,
    /// The answer's code.
    code: u16,
}

/// Whoever may something, and what it may not therefore: a line each.
fn probes() -> Vec<Probe> {
    let lines = include_str!("probes.txt").lines().filter(|line| !line.starts_with('#'));
    let given = |text: &'static str| if text == "-" { "" } else { text };
    let read = |line: &'static str| {
        let mut parts = line.splitn(5, " | ");
        let mut next = || parts.next().unwrap_or_else(|| panic!("a part is missing: {line}"));
        let (rule, namespace, request, code, body) = (next(), next(), next(), next(), next());
        let (method, path) = request.split_once(' ').expect("a method and a path");
        let mut words = rule.split(" ; ").map(|part| -> Vec<&str> {
            let words = given(part).split(' ').filter(|word| !word.is_empty());
            words.map(|word| if word == "core" { "" } else { word }).collect()
        });
        let mut next = || words.next().expect("four parts of a rule");
        let rule = json!({"apiGroups": next(), "resources": next(), "resourceNames": next(), "verbs": next()});
        let code = code.parse().expect("a code");
        Probe { rule, namespace: given(namespace), method, path, body: given(body), code }
    };
    lines.map(read).collect()
}

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// Nodes, and what is another's.
const OF_NODES: &[(&str, &str, &str, u16)] = &[
    // The selector that a node has to name is not heeded beside a name.
    (
        "stranger",
        "GET",
        "/api/v1/namespaces/default/pods/walk?watch=1&fieldSelector=spec.nodeName%3Dstranger",
        400,
    ),
    (
        "stranger",
        "GET",
        "/api/v1/watch/namespaces/default/pods/walk?fieldSelector=spec.nodeName%3Dstranger",
        400,
    ),
    (
        "stranger",
        "GET",
        "/api/v1/watch/namespaces/default/pods/walk/status?fieldSelector=spec.nodeName%3Dstranger",
        403,
    ),
    ("stranger", "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dwalk", 403),
    (
        "stranger",
        "GET",
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dstranger%2Cmetadata.name%3Dwalk",
        403,
    ),
    ("stranger", "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dstranger", 200),
    ("stranger", "GET", "/api/v1/pods?watch=1", 403),
    ("stranger", "GET", "/api/v1/namespaces/default/secrets/walk", 403),
    ("walk", "GET", "/api/v1/namespaces/default/secrets/walk", 200),
    ("walk", "GET", "/api/v1/namespaces/other/secrets/walk", 403),
    ("walk", "GET", SECRETS, 403),
    ("walk", "GET", "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dwalk", 200),
    (
        "walk",
        "GET",
        "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%21%3Dwalk",
        403,
    ),
    (
        "walk",
        "GET",
        "/api/v1/namespaces/default/secrets?fieldSelector=type%21%3Dx%5C%2Cmetadata.name%3Dwalk",
        403,
    ),
    ("walk", "GET", "/api/v1/nodes/walk/proxy/pods", 403),
    ("walk", "GET", "/api/v1/namespaces/default/services/walk/proxy", 403),
    ("walk", "GET", "/apis/networking.k8s.io/v1/namespaces/default/ingresses/walk/status", 403),
    ("walk", "DELETE", "/api/v1/nodes/walk", 403),
    ("walk", "GET", "/metrics", 403),
    ("walk", "GET", "/apis/apps", 200),
    ("walk", "GET", "/version", 200),
];

pub(super) async fn run(world: &World) {
    let it = &world.it;
    it.create(SECRETS, json!({"metadata": {"name": "mine"}})).await;
    let mut wrong = Vec::new();
    for (i, probe) in probes().into_iter().enumerate() {
        let user = format!("probe-{i}");
        grant(it, probe.namespace, &user, &user, probe.rule).await;
        it.server.app.registry.catch_up().await.expect("the role is known");
        let (method, media, upgrade) = match probe.method {
            "APPLY" => ("PATCH", APPLY, false),
            "PATCH" => ("PATCH", MERGE, false),
            "UPGRADE" => ("GET", "", true),
            method => (method, "application/json", false),
        };
        let mut request =
            Request::builder().method(method).uri(probe.path).header("content-type", media);
        if upgrade {
            request = request.header("connection", "Upgrade").header("upgrade", "websocket");
        }
        let mut request = request.body(Body::from(probe.body)).expect("a request");
        request.extensions_mut().insert(Identity {
            user,
            groups: vec!["system:authenticated".into()],
            ..Identity::default()
        });
        wrong.extend(held(it, probe.path, request, probe.code, false).await);
    }
    for (name, method, path, code) in OF_NODES {
        let mut request =
            Request::builder().method(*method).uri(*path).body(Body::empty()).expect("a request");
        let caller = world.callers.iter().find(|caller| caller.name == *name).expect("a node");
        let peer = crate::serve::PeerCertificate(caller.certificate.clone());
        request.extensions_mut().insert(peer);
        wrong.extend(held(it, &format!("{name}: {path}"), request, *code, *code == 200).await);
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

/// What is wrong with the answer, if anything; `may` it tell of objects?
async fn held(
    it: &Fixture,
    what: &str,
    request: Request<Body>,
    code: u16,
    may: bool,
) -> Option<String> {
    let before = it.server.app.registry.store.revision();
    let answer = router(it.server.app.clone()).oneshot(request).await;
    let answer = read(answer.unwrap_or_else(|never| match never {})).await;
    let changed = it.server.app.registry.store.revision() != before;
    let (seen, text) = (answer.code, answer.body.to_string());
    let fine = seen == code && changed == (code == 201) && (may || !text.contains(MARKER));
    (!fine).then(|| format!("{what}: {seen} instead of {code}, changed: {changed}: {text:.300}"))
}
