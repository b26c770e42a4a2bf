//! Requests by chance, through the whole server: paths, queries, headers and bodies that nobody wrote by hand. Each is answered,
//! none with an error of the server's own, and what is stored of them is what the kind's own checks allow.

use coracle_fuzz::{Bounds, Random, cases_within};
use http::{HeaderValue, header};

use super::*;

const ROOTS: &[&str] = &[
    "/api/v1",
    "/apis/apps/v1",
    "/apis/batch/v1",
    "/apis/events.k8s.io/v1",
    "/apis/rbac.authorization.k8s.io/v1",
    "/apis/metrics.k8s.io/v1beta1",
    "/apis/authorization.k8s.io/v1",
    "/apis/autoscaling/v1",
];
const WITHIN: &[&str] = &[
    "",
    "/namespaces/default",
    "/namespaces/none",
    "/watch",
    "/watch/namespaces/default",
    "/namespaces/%00",
    "/namespaces//",
];
const WHAT: &[&str] = &[
    "/pods",
    "/configmaps",
    "/deployments",
    "/jobs",
    "/nodes",
    "/events",
    "/secrets",
    "/namespaces",
    "/services",
    "/roles",
    "/bindings",
    "/selfsubjectaccessreviews",
    "/horizontalpodautoscalers",
    "/%ff",
    "/..",
];
const NAMES: &[&str] = &[
    "",
    "",
    "",
    "/a",
    "/b",
    "/a%2Fb",
    "/%e2%82",
    "/a/status",
    "/a/scale",
    "/a/log",
    "/a/token",
    "/a/eviction",
    "/a/finalize",
    "/a/status/x",
    "/",
];
const OPTIONS: &[&str] = &[
    "watch",
    "limit",
    "continue",
    "resourceVersion",
    "resourceVersionMatch",
    "fieldSelector",
    "labelSelector",
    "timeoutSeconds",
    "sendInitialEvents",
    "allowWatchBookmarks",
    "dryRun",
    "fieldManager",
    "force",
    "fieldValidation",
    "pretty",
    "gracePeriodSeconds",
    "propagationPolicy",
    "orphanDependents",
    "timeout",
    "container",
    "mount",
    "from",
];
const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "-1",
    "true",
    "false",
    "All",
    "Exact",
    "NotOlderThan",
    "Strict",
    "Background",
    "metadata.name%3Da",
    "metadata.name!%3Da",
    "a%3Db",
    "a+in+(b,c)",
    "%25",
    "%00",
    "%ff",
    "9223372036854775807",
    "-9223372036854775808",
    "1h",
    "eyJydiI6MSwiYWZ0ZXIiOiIifQ",
    "eyJydiI6MCwiYWZ0ZXIiOiJ6enoifQ",
    "null",
    "a,b,,",
    "%F0%9F%98%80",
];
const ACCEPTS: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "*/*",
    ";as=Table",
    ";v=v1",
    ";g=meta.k8s.io",
    ";as=PartialObjectMetadata",
    ";q=0",
    ";q=0.5",
    ";q=NaN",
    ";q=1e99",
    ",",
    ";",
    "=",
    "text/html",
    ";as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io",
    "\u{7f}",
    "é",
];
const MEDIA: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/json-patch+json",
    "application/apply-patch+yaml",
    "",
    "a;b",
    "APPLICATION/JSON; charset=utf-8",
];

fn body(random: &mut Random) -> Vec<u8> {
    let object = |random: &mut Random| {
        let (kind, version) = *random.pick(&[
            ("Pod", "v1"),
            ("ConfigMap", "v1"),
            ("Deployment", "apps/v1"),
            ("Job", "batch/v1"),
            ("Namespace", "v1"),
            ("Role", "rbac.authorization.k8s.io/v1"),
        ]);
        let mut object = json!({"kind": kind, "apiVersion": version, "metadata": {"name": random.pick(&["a", "b", ""])}});
        for field in ["metadata", "spec", "data", "status", "rules"] {
            if random.once_in(3) {
                let (name, value) = (random.text(), random.json(3));
                match &mut object[field] {
                    Value::Object(map) => drop(map.insert(name, value)),
                    other => *other = value,
                }
            }
        }
        object
    };
    match random.below(6) {
        0 => Vec::new(),
        1 => random.text().into_bytes(),
        2 => random.json(4).to_string().into_bytes(),
        3 => json!([{"op": random.pick(&["add", "remove", "replace", "copy", "move", "test"]), "path": random.pick(&["/metadata", "/spec/x", "/data/-", "", "/metadata/name"]), "from": "/spec", "value": random.json(2)}]).to_string().into_bytes(),
        _ => object(random).to_string().into_bytes(),
    }
}

fn request(random: &mut Random) -> Option<Request<Body>> {
    let method =
        *random.pick(&["GET", "GET", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]);
    let mut path = match random.below(8) {
        0 => random
            .pick(&[
                "/openapi/v3",
                "/openapi/v2",
                "/apis",
                "/api",
                "/v2/a/tags/list",
                "/v2/a/blobs/uploads/",
                "/v2/%2e%2e/manifests/x",
                "/metrics",
                "/readyz",
                "/version",
            ])
            .to_string(),
        _ => format!(
            "{}{}{}{}",
            random.pick(ROOTS),
            random.pick(WITHIN),
            random.pick(WHAT),
            random.pick(NAMES)
        ),
    };
    for i in 0..random.below(4) {
        path.push(if i == 0 { '?' } else { '&' });
        path.push_str(&format!("{}={}", random.pick(OPTIONS), random.pick(VALUES)));
    }
    // What nobody has written yet is waited for, for some seconds.
    if path.contains("resourceVersion=9") {
        return None;
    }
    let mut request = Request::builder().method(method).uri(path);
    let headers = request.headers_mut()?;
    for (name, pieces) in [(header::ACCEPT, ACCEPTS), (header::CONTENT_TYPE, MEDIA)] {
        let most = if name == header::ACCEPT { 5 } else { 1 };
        if let Ok(value) = HeaderValue::from_bytes(random.of(pieces, most).as_bytes()) {
            headers.insert(name, value);
        }
    }
    request.body(Body::from(body(random))).ok()
}

#[test]
fn whatever_is_asked_is_answered() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let it = runtime.block_on(Fixture::new());
    runtime.block_on(async {
        it.create(CONFIG_MAPS, config_map("a")).await;
        it.create(PODS, pod("a")).await;
    });
    let bounds = Bounds { memory: 256 << 20, ..Bounds::default() };
    cases_within("requests", bounds, |random| {
        let Some(request) = request(random) else { return };
        let what = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
        let (code, text) = runtime.block_on(async {
            let answer = it.send(request).await;
            let code = answer.status().as_u16();
            // A watch goes on.
            let text = match code {
                200..300 => String::new(),
                _ => read(answer).await.body.to_string(),
            };
            (code, text)
        });
        assert!(code < 500 || matches!(code, 503 | 504), "{what}: {code} {text}");
    });
    // Whatever came to be stored can be read, in every form, and passes its own checks.
    runtime.block_on(async {
        for path in [
            PODS,
            CONFIG_MAPS,
            "/apis/apps/v1/deployments",
            "/apis/batch/v1/jobs",
            "/api/v1/namespaces",
        ] {
            let list = it.get(path).await;
            assert_eq!(list.code, 200, "{path}");
            for item in list.body["items"].as_array().into_iter().flatten() {
                let name = item["metadata"]["name"].as_str().expect("a name");
                let namespace = item["metadata"]["namespace"].as_str();
                let path = match namespace {
                    Some(namespace) if !path.contains("/namespaces/") => {
                        path.replace("v1/", &format!("v1/namespaces/{namespace}/"))
                    }
                    _ => path.to_owned(),
                };
                let mut kept = item.clone();
                kept["metadata"]["labels"] = json!({"kept": "yes"});
                let put = it.put(&format!("{path}/{name}?dryRun=All"), kept).await;
                assert_eq!(put.code, 200, "{path}/{name}: {}", put.body);
            }
        }
    });
}
