//! Every route of discovery, and every path beside it, by every kind of caller. What each may do is computed here, from the
//! roles as they are stored and from a table of what nodes may, never by the code under test: who may not is told so, changes
//! nothing, and sees nothing of the objects.
//!
//! A new resource needs a line in [`samples.json`](super::samples), a new subresource one in [`routes`], a new path one in
//! [`paths`]: without, these tests fail.

mod callers;
mod oracle;
mod paths;
mod probes;
mod routes;

use std::fmt::Write as _;

use self::callers::{Caller, Who};
use self::oracle::{Oracle, Wanted};
use self::routes::Route;
use super::*;

/// In every object that the callers ask for. No refusal may hold it.
const MARKER: &str = "marker-7f3a9c51";
/// Complaints that one run shows.
const SHOWN: usize = 40;

/// A server with an object of every kind, and everybody who calls.
struct World {
    it: Fixture,
    callers: Vec<Caller>,
    complaints: Vec<String>,
}

/// What came back.
struct Seen {
    code: u16,
    text: String,
}

impl Seen {
    /// Refused for want of a right to that verb, rather than for what was asked.
    fn is_refused(&self, verb: &str) -> bool {
        self.code == 403
            // The answer to HEAD has no body.
            && (verb == "head"
                || ["resource", "path"]
                    .iter()
                    .any(|what| self.text.contains(&format!("cannot {verb} {what} ")))
                || self.text.contains("cannot impersonate ")
                || self.text.contains("may list and watch only with fieldSelector"))
    }
}

impl World {
    async fn new() -> Self {
        let it = Fixture::new().await;
        // Quotas count from then on what is created.
        let (last, first): (Vec<_>, Vec<_>) = served()
            .into_iter()
            .filter(|served| served.line == served.kind.resource)
            .partition(|served| served.kind.resource == kinds::RESOURCE_QUOTA.resource);
        Self::samples(&it, first).await;
        // The node called as all samples are has a Pod that refers to them.
        let refers = json!({
            "metadata": {"name": "refers", "annotations": {"marker": MARKER}},
            "spec": {
                "nodeName": "walk",
                "serviceAccountName": "walk",
                "containers": [{"name": "c", "image": "i", "envFrom": [
                    {"secretRef": {"name": "walk"}}, {"configMapRef": {"name": "walk"}},
                ], "resources": {"limits": {"cpu": "1"}}}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "walk"}}],
            },
        });
        it.create(PODS, refers).await;
        Self::samples(&it, last).await;
        let bind = json!({"target": {"kind": "Node", "name": "walk"}});
        it.create(&format!("{PODS}/walk/binding"), bind).await;
        let callers = callers::all(&it).await;
        Self { it, callers, complaints: Vec::new() }
    }

    async fn samples(it: &Fixture, of: Vec<Served>) {
        for served in of {
            let sample = samples().remove(&served.line).expect("a sample of each kind");
            let walk = Walk { it, served, sample };
            let mut object = walk.object(walk.name());
            object["metadata"]["annotations"] = json!({"marker": MARKER});
            let answer = it.post(&walk.collection(), object).await;
            assert_eq!(answer.code, 201, "{}: {}", walk.served.line, answer.body);
        }
    }

    async fn send(&self, caller: &Caller, route: &Route) -> Seen {
        let mut request = Request::builder()
            .method(route.method)
            .uri(&route.path)
            .header("content-type", route.media)
            .body(Body::from(route.body.clone()))
            .expect("a request");
        request.headers_mut().extend(caller.headers.clone());
        request.extensions_mut().insert(crate::serve::PeerCertificate(caller.certificate.clone()));
        let answer = router(self.it.server.app.clone()).oneshot(request).await;
        let (parts, body) = answer.unwrap_or_else(|never| match never {}).into_parts();
        let code = parts.status.as_u16();
        // What was allowed may go on for ever.
        let text = match code {
            200..300 => String::new(),
            _ => {
                let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
                String::from_utf8_lossy(&bytes).into_owned()
            }
        };
        Seen { code, text }
    }

    /// Sends it, and holds the answer against what was to be expected.
    async fn hold(&mut self, at: usize, route: &Route, allowed: bool) {
        let before = self.it.server.app.registry.store.revision();
        let seen = self.send(&self.callers[at], route).await;
        let changed = self.it.server.app.registry.store.revision() != before;
        let caller = &self.callers[at];
        let what = match (&caller.who, allowed) {
            (Who::Nobody, _) if route.open => (seen.code == 401).then_some("asked who it is"),
            (Who::Nobody, _) => (seen.code != 401).then_some("not asked who it is"),
            (_, false) => (!seen.is_refused(route.verb)).then_some("not refused"),
            (_, true) => (seen.is_refused(route.verb) || seen.code == 401).then_some("refused"),
        };
        let what = what.or(changed.then_some("changed something"));
        let what = what.or(seen.text.contains(MARKER).then_some("told of the object"));
        // Of what discovery says that there is, nothing is missing; and nothing else is there.
        let missing = seen.code == 405 || seen.text.contains("could not find the requested");
        let tells = caller.name == "master" && route.verb != "head";
        let what =
            what.or((tells && missing == route.served).then_some("discovery says otherwise"));
        if let Some(what) = what {
            let Route { method, path, .. } = route;
            let text = seen.text.chars().take(300).collect::<String>();
            self.complaints
                .push(format!("{}: {method} {path}: {what}: {} {text}", caller.name, seen.code));
        }
    }

    fn done(self) {
        let mut text = String::new();
        for complaint in self.complaints.iter().take(SHOWN) {
            let _ = writeln!(text, "{complaint}");
        }
        assert!(self.complaints.is_empty(), "{} complaints:\n{text}", self.complaints.len());
    }
}

#[tokio::test]
async fn nobody_gets_past_the_roles() {
    let mut world = World::new().await;
    let mut asked = (0, 0);
    for resource in routes::resources(&world.it).await {
        // Somebody may read exactly this.
        callers::let_read(&world.it, &resource).await;
        let oracle = Oracle::read(&world.it).await;
        for route in resource.routes() {
            for at in 0..world.callers.len() {
                let caller = &world.callers[at];
                // Of what is not served, the table of what nodes may does not speak.
                if !route.served && matches!(caller.who, Who::Node(_)) {
                    continue;
                }
                let allowed = oracle.allows(caller, &route.wanted());
                asked = (asked.0 + usize::from(allowed), asked.1 + usize::from(!allowed));
                // What is allowed is not done.
                let route = if allowed { route.dry() } else { route.clone() };
                world.hold(at, &route, allowed).await;
            }
        }
    }
    // Both happened, many times.
    assert!(asked.0 > 1000 && asked.1 > 5000, "{asked:?}");
    world.done();
}

#[tokio::test]
async fn paths_that_are_no_resources_have_their_roles() {
    let mut world = World::new().await;
    let oracle = Oracle::read(&world.it).await;
    for route in paths::routes() {
        for at in 0..world.callers.len() {
            let allowed = route.open || oracle.allows(&world.callers[at], &route.wanted());
            world.hold(at, &route, allowed).await;
        }
    }
    world.done();
}

#[tokio::test]
async fn what_a_path_hides_needs_its_own_right() {
    let world = World::new().await;
    probes::run(&world).await;
}
