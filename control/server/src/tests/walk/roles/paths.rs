//! Paths that are no resources: those that are served, and those that others serve, where nothing may be here.

use super::routes::Route;

/// Paths, whether they are open to everybody, and methods that they have.
const PATHS: &[(&str, bool, &[&str])] = &[
    ("/livez", true, &["GET", "HEAD"]),
    ("/readyz", true, &["GET", "HEAD"]),
    ("/healthz", true, &["GET", "HEAD"]),
    ("/version", false, &["GET", "HEAD"]),
    ("/version/", false, &["GET", "HEAD"]),
    ("/metrics", false, &["GET", "HEAD"]),
    ("/coracle/v1/join", false, &["GET", "HEAD"]),
    ("/coracle/v1/tunnel", false, &["GET", "HEAD"]),
    ("/coracle/v1/metrics", false, &["POST"]),
    ("/api", false, &["GET"]),
    ("/api/", false, &["GET"]),
    ("/api/v1", false, &["GET"]),
    ("/api/v1/", false, &["GET"]),
    ("/apis", false, &["GET"]),
    ("/apis/apps", false, &["GET"]),
    ("/apis/apps/v1", false, &["GET"]),
    ("/openapi/v2", false, &["GET"]),
    ("/openapi/v3", false, &["GET"]),
    ("/openapi/v3/api/v1", false, &["GET"]),
    ("/openapi/v3/apis/apps/v1", false, &["GET"]),
    ("/v2", false, &["GET", "HEAD"]),
    ("/v2/", false, &["GET", "HEAD"]),
    ("/v2/_catalog", false, &["GET"]),
    ("/v2/app/tags/list", false, &["GET"]),
    ("/v2/app/blobs/uploads/", false, &["POST"]),
    ("/v2/app/manifests/v1", false, &["GET", "HEAD", "PUT", "DELETE"]),
    // Other servers have these.
    ("/", false, &[]),
    ("/token", false, &[]),
    ("/logs", false, &[]),
    ("/logs/kube-apiserver.log", false, &[]),
    ("/configz", false, &[]),
    ("/debug/pprof", false, &[]),
    ("/debug/pprof/profile", false, &[]),
    ("/debug/flags/v", false, &[]),
    ("/swagger.json", false, &[]),
    ("/metrics/slis", false, &["GET", "HEAD"]),
    ("/readyz/ping", false, &["GET", "HEAD"]),
    ("/livez/ping", false, &["GET", "HEAD"]),
    ("/healthz/etcd", false, &[]),
    ("/.well-known/openid-configuration", false, &["GET", "HEAD"]),
    ("/openid/v1/jwks", false, &["GET", "HEAD"]),
    ("/coracle", false, &[]),
    ("/coracle/v1", false, &[]),
    ("/coracle/v1/secrets", false, &[]),
    ("/api/v2", false, &[]),
    ("/apis/nothing.example.com", false, &[]),
    ("/%6detrics", false, &[]),
    ("//metrics", false, &[]),
    ("/metrics%00", false, &[]),
];

const METHODS: [(&str, &str); 7] = [
    ("GET", "get"),
    ("HEAD", "head"),
    ("POST", "post"),
    ("PUT", "put"),
    ("PATCH", "patch"),
    ("DELETE", "delete"),
    ("OPTIONS", "options"),
];

/// Every path with every method.
pub(super) fn routes() -> Vec<Route> {
    let one = |(path, open, methods): &(&str, bool, &[&str]),
               (method, verb): &(&'static str, &'static str)| Route {
        method,
        path: (*path).to_owned(),
        media: "application/json",
        body: String::new(),
        verb,
        group: String::new(),
        resource: String::new(),
        namespace: String::new(),
        name: String::new(),
        served: methods.contains(method),
        open: *open,
    };
    // A tunnel refuses who is no node with the code that the gate has.
    let told = |route: &Route| route.verb != "head" || !route.path.ends_with("/tunnel");
    PATHS
        .iter()
        .flat_map(|line| METHODS.iter().map(move |method| one(line, method)))
        .filter(told)
        .collect()
}

/// Paths that the router has are in the table: it does not list them, so they are read from where they are written.
#[test]
fn every_path_has_a_line() {
    let constants = [
        ("coracle_api::tunnel::PATH", coracle_api::tunnel::PATH),
        ("PATH", coracle_api::metrics::PATH),
    ];
    let mut found = 0;
    for source in
        [include_str!("../../../http/mod.rs"), include_str!("../../../distribution/mod.rs")]
    {
        for call in source.split(".route(").skip(1) {
            let path = call.split(',').next().unwrap_or_default().trim();
            let known = constants.iter().find(|(name, _)| *name == path).map(|(_, path)| *path);
            let path = known.unwrap_or_else(|| path.trim_matches('"'));
            let prefix = path.split('{').next().unwrap_or_default();
            let has = |line: &&(&str, bool, &[&str])| {
                line.0 == path || prefix != path && line.0.starts_with(prefix)
            };
            assert!(PATHS.iter().any(|line| has(&line)), "{path} has no line here");
            found += 1;
        }
    }
    assert!(found >= 10, "only {found} routes were found: are they written otherwise by now?");
}
