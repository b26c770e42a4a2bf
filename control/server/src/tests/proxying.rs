//! `proxy` of Pods and Services, with real HTTP behind it.

use std::convert::Infallible;

use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Answer, Fixture, PODS, pod, read};

const POD: &str = "/api/v1/namespaces/default/pods";
const SERVICE: &str = "/api/v1/namespaces/default/services";

/// Says what it was asked, or gives a page or a redirect.
struct Backend {
    port: u16,
    serving: JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Backend {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let service =
                        service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
                    let builder = hyper::server::conn::http1::Builder::new();
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { port, serving }
    }
}

async fn answer(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let respond = Response::builder();
    match parts.uri.path() {
        "/page" => respond
            .header("content-type", "text/html; charset=utf-8")
            .header("access-control-allow-origin", "*")
            .body(Body::from("<a href=\"/next\">next</a>")),
        "/moved" => respond.status(302).header("location", "/next?x=1").body(Body::empty()),
        path => {
            let header = |name: &str| {
                let value = parts.headers.get(name)?;
                Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
            };
            let told = json!({
                "method": parts.method.as_str(),
                "path": path,
                "query": parts.uri.query(),
                "body": String::from_utf8_lossy(&body),
                "host": header("host"),
                "authorization": header("authorization"),
                "uri": header("x-forwarded-uri"),
            });
            respond.status(207).header("x-own", "yes").body(Body::from(told.to_string()))
        }
    }
    .expect("an answer")
}

/// Where Pods have addresses of loopback, as without root.
async fn fixture() -> Fixture {
    let loopback = ([127, 0, 0, 0].into(), 8);
    Fixture::with(|config| {
        (config.controllers, config.scheduler, config.pod_network) = (false, false, loopback);
    })
    .await
}

async fn ask(fixture: &Fixture, method: &str, path: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "api.example.com")
        .header("authorization", "Bearer secret")
        .body(Body::from("said"))
        .expect("a request");
    read(fixture.send(request).await).await
}

#[tokio::test]
async fn whatever_is_asked_is_passed_on() {
    let fixture = fixture().await;
    let backend = Backend::new().await;
    let mut web = pod("web");
    web["spec"]["containers"][0]["ports"] =
        json!([{"name": "http", "containerPort": backend.port}]);
    fixture.create(PODS, web).await;
    let waits = ask(&fixture, "GET", &format!("{POD}/web/proxy/")).await;
    assert_eq!((waits.code, waits.message()), (400, "address not allowed"));
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    assert_eq!(fixture.merge(&format!("{PODS}/web/status"), status).await.code, 200);
    let ports = json!([{"name": "http", "port": 80}, {"name": "other", "port": 81}]);
    fixture.create(SERVICE, json!({"metadata": {"name": "web"}, "spec": {"ports": ports}})).await;
    let slice = json!({
        "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"], "targetRef": {"kind": "Pod", "name": "web"}}],
        "ports": [{"name": "http", "port": backend.port}],
    });
    fixture.create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await;
    let by_port = format!("{POD}/web:{}/proxy", backend.port);
    for base in [
        format!("{POD}/web/proxy"),
        by_port,
        format!("{POD}/http:web:/proxy"),
        format!("{POD}/web:http/proxy"),
        format!("{SERVICE}/web:http/proxy"),
        format!("{SERVICE}/web:80/proxy"),
        format!("{SERVICE}/http:web:80/proxy"),
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let path = format!("{base}/some%2Fpath//with/{method}/?q=1&watch=true");
            let told = ask(&fixture, method, &path).await;
            assert_eq!(told.code, 207, "{method} {path}: {}", told.body);
            assert_eq!(told.headers["x-own"], "yes");
            let expected = json!({
                "method": method,
                "path": format!("/some%2Fpath//with/{method}/"),
                "query": "q=1&watch=true",
                "body": "said",
                "host": "api.example.com",
                "authorization": null,
                "uri": format!("{base}/some%2Fpath//with/{method}/"),
            });
            assert_eq!(told.body, expected);
        }
        let head = ask(&fixture, "HEAD", &format!("{base}/")).await;
        assert_eq!((head.code, &head.body), (207, &Value::String(String::new())));
        // Without the slash, links of the page would lead elsewhere.
        let root = ask(&fixture, "GET", &format!("{base}?method=GET")).await;
        let expected = format!("{base}/?method=GET");
        assert_eq!(
            (root.code, &root.headers["location"]),
            (301, &expected.parse().expect("a value"))
        );
        assert_eq!(ask(&fixture, "POST", &base).await.body["path"], "/");
        let page = ask(&fixture, "GET", &format!("{base}/page")).await;
        assert_eq!(page.body, json!(format!("<a href=\"{base}/next\">next</a>")));
        assert!(!page.headers.contains_key("access-control-allow-origin"));
        let moved = ask(&fixture, "GET", &format!("{base}/moved")).await;
        let expected = format!("{base}/next?x=1");
        assert_eq!(
            (moved.code, &moved.headers["location"]),
            (302, &expected.parse().expect("a value"))
        );
    }
}

#[tokio::test]
async fn what_cannot_be_asked_says_so() {
    let fixture = fixture().await;
    let ports = json!([{"name": "http", "port": 80}]);
    fixture.create(SERVICE, json!({"metadata": {"name": "web"}, "spec": {"ports": &ports}})).await;
    fixture.create(PODS, pod("web")).await;
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    assert_eq!(fixture.merge(&format!("{PODS}/web/status"), status).await.code, 200);
    fixture.create(PODS, pod("far")).await;
    let status = json!({"status": {"podIP": "169.254.1.1", "podIPs": [{"ip": "169.254.1.1"}]}});
    assert_eq!(fixture.merge(&format!("{PODS}/far/status"), status).await.code, 200);
    // Whoever may write endpoints may not have this server ask whatever it reaches.
    fixture.create(SERVICE, json!({"metadata": {"name": "odd"}, "spec": {"ports": ports}})).await;
    for (name, endpoint) in [
        ("nobody", json!({"addresses": ["127.0.0.1"]})),
        ("other", json!({"addresses": ["127.0.0.2"], "targetRef": {"kind": "Pod", "name": "web"}})),
        ("none", json!({"addresses": ["127.0.0.1"], "targetRef": {"kind": "Pod", "name": "none"}})),
    ] {
        let slice = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "odd"}},
            "addressType": "IPv4",
            "endpoints": [endpoint],
            "ports": [{"name": "http", "port": 1}],
        });
        fixture.create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await;
    }
    for (path, code, message) in [
        (format!("{SERVICE}/odd:http/proxy/"), 503, "no endpoints available for service \"odd\""),
        (format!("{SERVICE}/none/proxy/"), 404, "services \"none\" not found"),
        (format!("{SERVICE}/web:81/proxy/"), 503, "no service port 81 found for service \"web\""),
        (format!("{SERVICE}/web:http/proxy/"), 503, "no endpoints available for service \"web\""),
        (format!("{SERVICE}/ftp:web:http/proxy/"), 400, "invalid service request \"ftp:web:http\""),
        (format!("{POD}/none/proxy/"), 404, "pods \"none\" not found"),
        (
            format!("{POD}/far/proxy/"),
            503,
            "error trying to reach service: dial tcp 169.254.1.1:80: the address is none of the cluster's Pods'",
        ),
        (format!("{POD}/a:b:c:d/proxy/"), 400, "invalid pod request \"a:b:c:d\""),
        (
            format!("{POD}/web:1/proxy/"),
            503,
            "error trying to reach service: dial tcp 127.0.0.1:1: connect: connection refused",
        ),
    ] {
        let refused = ask(&fixture, "GET", &path).await;
        assert_eq!((refused.code, refused.message()), (code, message), "{path}");
    }
}
