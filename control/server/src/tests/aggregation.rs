//! Another API server behind this one: a real one over TLS, which believes what it is told of callers because of the certificate
//! that is shown to it, and nobody else.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response, StatusCode};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Fixture, read};
use crate::auth::{AUTHENTICATED, Identity};

const BOATS: &str = "/apis/sea.example.com/v1/namespaces/default/boats";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const API: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1.sea.example.com";

/// Serves `boats` of `sea.example.com/v1`, and echoes who asked and how.
struct Extension {
    port: u16,
    ca: String,
    /// Bytes are held back until this is set.
    go_on: Arc<AtomicBool>,
    serving: JoinHandle<()>,
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Extension {
    async fn new(fixture: &Fixture) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        // Who has the same name would be taken for another with the wrong key.
        let name = uuid::Uuid::new_v4().to_string();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        let ca = ca.expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let leaf =
            CertificateParams::new(vec!["boats.default.svc".to_owned()]).expect("parameters");
        let leaf = leaf.signed_by(&key, &ca).expect("a certificate");
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let pem = std::fs::read(fixture.dir.path().join("pki/front-proxy-ca.crt")).expect("a CA");
        let mut roots = RootCertStore::empty();
        let front = rustls_pki_types::CertificateDer::from_pem_slice(&pem).expect("a certificate");
        roots.add(front).expect("a CA");
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
        let tls = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
        let mut tls = tls.with_single_cert(vec![leaf.der().clone()], key).expect("a pair");
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let go_on = Arc::new(AtomicBool::new(false));
        let held = go_on.clone();
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, held) = (acceptor.clone(), held.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request| {
                        let held = held.clone();
                        async move { Ok::<_, Infallible>(answer(request, held).await) }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let io = TokioIo::new(stream);
                    let _ = builder.serve_connection_with_upgrades(io, service).await;
                });
            }
        });
        Self { port, ca: STANDARD.encode(ca.pem()), go_on, serving }
    }

    fn api(&self, more: Value) -> Value {
        let mut spec = json!({
            "group": "sea.example.com",
            "version": "v1",
            "groupPriorityMinimum": 2000,
            "versionPriority": 10,
            "service": {"namespace": "default", "name": "boats", "port": 443},
            "caBundle": self.ca,
        });
        spec.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
        json!({"metadata": {"name": "v1.sea.example.com"}, "spec": spec})
    }
}

async fn answer(mut request: Request<Incoming>, held: Arc<AtomicBool>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let json = |value: Value| {
        let body = Body::from(value.to_string());
        Response::builder()
            .header("content-type", "application/json")
            .body(body)
            .expect("an answer")
    };
    match path.as_str() {
        "/apis/sea.example.com/v1" => json(json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "sea.example.com/v1",
            "resources": [
                {"name": "boats", "singularName": "boat", "namespaced": true, "kind": "Boat", "shortNames": ["bo"],
                 "verbs": ["create", "delete", "deletecollection", "get", "list", "watch"]},
                {"name": "boats/horn", "singularName": "", "namespaced": true, "kind": "Horn", "verbs": ["create"]},
            ],
        })),
        "/openapi/v3" => json(json!({"paths": {"apis/sea.example.com/v1": {
            "serverRelativeURL": "/openapi/v3/apis/sea.example.com/v1?hash=ABC123"}}})),
        "/openapi/v3/apis/sea.example.com/v1" => json(json!({"openapi": "3.0.0", "who": "boats"})),
        BOATS if query.contains("watch") => {
            let frame = |text: &'static str| Ok::<_, Infallible>(Frame::data(Bytes::from(text)));
            let first = futures::stream::once(async move { frame("{\"type\":\"ADDED\"}\n") });
            let second = futures::stream::once(async move {
                while !held.load(SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                frame("{\"type\":\"DELETED\"}\n")
            });
            Response::new(Body::new(http_body_util::StreamBody::new(first.chain(second))))
        }
        p if p.ends_with("/elsewhere") => Response::builder()
            .status(StatusCode::FOUND)
            .header("location", "https://elsewhere.example.com/")
            .body(Body::empty())
            .expect("an answer"),
        p if p.ends_with("/horn") => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.expect("an upgrade"));
                let mut said = [0; 4];
                io.read_exact(&mut said).await.expect("four bytes");
                io.write_all(b"toot:").await.expect("it is read");
                io.write_all(&said).await.expect("it is read");
            });
            Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("connection", "Upgrade")
                .header("upgrade", "horn")
                .body(Body::empty())
                .expect("an answer")
        }
        _ => {
            let headers: serde_json::Map<String, Value> = request
                .headers()
                .keys()
                .map(|name| {
                    let all = request.headers().get_all(name).iter();
                    let all: Vec<_> =
                        all.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect();
                    (name.to_string(), json!(all))
                })
                .collect();
            json(
                json!({"path": path, "query": query, "method": request.method().as_str(), "headers": headers}),
            )
        }
    }
}

/// Until the condition is that.
async fn condition(fixture: &Fixture, status: &str, reason: &str) -> Value {
    for _ in 0..400 {
        let api = fixture.get(API).await.body;
        let known = &api["status"]["conditions"][0];
        if known["status"] == status && known["reason"] == reason {
            return known.clone();
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not {status} {reason}: {}", fixture.get(API).await.body);
}

async fn service(fixture: &Fixture, extension: &Extension) {
    let ports = json!([{"name": "tls", "port": 443}]);
    let services = "/api/v1/namespaces/default/services";
    fixture
        .create(services, json!({"metadata": {"name": "boats"}, "spec": {"ports": ports}}))
        .await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    fixture.create(slices, slice(extension.port)).await;
}

fn slice(port: u16) -> Value {
    json!({
        "metadata": {"name": "boats", "labels": {"kubernetes.io/service-name": "boats"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"]}],
        "ports": [{"name": "tls", "port": port}],
    })
}

#[tokio::test]
async fn requests_are_passed_on_with_who_makes_them() {
    let fixture = Fixture::new().await;
    let extension = Extension::new(&fixture).await;
    service(&fixture, &extension).await;
    fixture.create(SERVICES, extension.api(json!({}))).await;
    assert_eq!(condition(&fixture, "True", "Passed").await["message"], "all checks passed");

    let mut request = Request::post(format!("{BOATS}/a%2Fb?x=1&x=2"))
        .header("authorization", "Bearer secret")
        .header("x-remote-user", "root")
        .header("x-remote-extra-evil", "yes")
        .header("connection", "x-hop")
        .header("x-hop", "yes")
        .header("x-kept", "yes")
        .body(Body::from("{}"))
        .expect("a request");
    request.extensions_mut().insert(Identity {
        user: "ann".into(),
        groups: vec!["system:masters".into(), AUTHENTICATED.into()],
        ..Identity::default()
    });
    let app = fixture.server.app.clone();
    let answer = tower::ServiceExt::oneshot(crate::http::router(app), request).await;
    let told = read(answer.unwrap_or_else(|never| match never {})).await;
    assert_eq!(told.code, 200, "{}", told.body);
    assert_eq!(told.body["path"], format!("{BOATS}/a%2Fb"));
    assert_eq!((&told.body["query"], &told.body["method"]), (&json!("x=1&x=2"), &json!("POST")));
    let headers = &told.body["headers"];
    assert_eq!(headers["x-remote-user"], json!(["ann"]));
    assert_eq!(headers["x-remote-group"], json!(["system:masters", AUTHENTICATED]));
    assert_eq!(headers["x-kept"], json!(["yes"]));
    for gone in ["authorization", "x-remote-extra-evil", "x-hop"] {
        assert_eq!(headers[gone], Value::Null, "{gone}");
    }
    let sent = fixture.get(&format!("{BOATS}/elsewhere")).await;
    let why = "the backend attempted to redirect this request, which is not permitted";
    assert_eq!((sent.code, sent.body), (502, json!(why)));

    // A watch comes as it is said.
    let mut events = fixture.watch(&format!("{BOATS}?watch=true")).await;
    assert_eq!(events.next().await.expect("an event")["type"], "ADDED");
    extension.go_on.store(true, SeqCst);
    assert_eq!(events.next().await.expect("an event")["type"], "DELETED");
}

#[tokio::test]
async fn it_is_in_discovery_and_becomes_stale() {
    let fixture = Fixture::new().await;
    let extension = Extension::new(&fixture).await;
    service(&fixture, &extension).await;
    fixture.create(SERVICES, extension.api(json!({}))).await;
    condition(&fixture, "True", "Passed").await;
    let plain = fixture.get("/apis/sea.example.com").await;
    assert_eq!(plain.body["preferredVersion"]["groupVersion"], "sea.example.com/v1");
    let resources = fixture.get("/apis/sea.example.com/v1").await;
    assert_eq!(resources.body["resources"][0]["name"], "boats");
    let version = async || {
        let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let request = Request::get("/apis").header("accept", media).body(Body::empty());
        let all = read(fixture.send(request.expect("a request")).await).await.body;
        let groups = all["items"].as_array().expect("groups").iter();
        let mut ours = groups.filter(|group| group["metadata"]["name"] == "sea.example.com");
        ours.next().expect("the group")["versions"][0].clone()
    };
    let now = version().await;
    assert_eq!(now["freshness"], "Current");
    assert_eq!(now["resources"][0]["resource"], "boats");
    assert_eq!(now["resources"][0]["scope"], "Namespaced");
    assert_eq!(
        now["resources"][0]["responseKind"],
        json!({"group": "sea.example.com", "version": "v1", "kind": "Boat"})
    );
    assert_eq!(now["resources"][0]["subresources"][0]["subresource"], "horn");
    let index = fixture.get("/openapi/v3").await.body;
    assert_eq!(
        index["paths"]["apis/sea.example.com/v1"]["serverRelativeURL"],
        "/openapi/v3/apis/sea.example.com/v1?hash=ABC123"
    );
    let document = fixture.get("/openapi/v3/apis/sea.example.com/v1?hash=ABC123").await;
    assert_eq!(document.body["who"], "boats");

    drop(extension);
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/boats";
    assert_eq!(fixture.delete(slices).await.code, 200);
    let why = condition(&fixture, "False", "EndpointsNotFound").await;
    assert_eq!(why["message"], "cannot find endpointslices for service/boats in \"default\"");
    let refused = fixture.get(BOATS).await;
    assert_eq!((refused.code, refused.body), (503, json!("service unavailable\n")));
    let stale = version().await;
    assert_eq!(
        (&stale["freshness"], &stale["resources"][0]["resource"]),
        (&json!("Stale"), &json!("boats"))
    );
    assert_eq!(fixture.delete(API).await.code, 200);
    assert_eq!(fixture.get("/apis/sea.example.com").await.code, 404);
}

#[tokio::test]
async fn conditions_say_what_is_missing() {
    let fixture = Fixture::new().await;
    let extension = Extension::new(&fixture).await;
    let other = Extension::new(&fixture).await;
    fixture.create(SERVICES, extension.api(json!({"caBundle": other.ca}))).await;
    let why = condition(&fixture, "False", "ServiceNotFound").await;
    assert_eq!(why["message"], "service/boats in \"default\" is not present");
    let services = "/api/v1/namespaces/default/services";
    let ports = json!([{"name": "tls", "port": 8443}]);
    fixture
        .create(services, json!({"metadata": {"name": "boats"}, "spec": {"ports": ports}}))
        .await;
    let why = condition(&fixture, "False", "ServicePortError").await;
    assert_eq!(why["message"], "service/boats in \"default\" is not listening on port 443");
    let ports = json!({"spec": {"ports": [{"name": "tls", "port": 443}]}});
    assert_eq!(fixture.merge(&format!("{services}/boats"), ports).await.code, 200);
    condition(&fixture, "False", "EndpointsNotFound").await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let mut none = slice(extension.port);
    none["endpoints"][0]["conditions"] = json!({"ready": false});
    fixture.create(slices, none).await;
    let why = condition(&fixture, "False", "MissingEndpoints").await;
    let said =
        "endpoints for service/boats in \"default\" have no addresses with port name \"tls\"";
    assert_eq!(why["message"], said);
    // It shows a certificate of another CA than the one that is asked for.
    let ready = json!({"endpoints": [{"addresses": ["127.0.0.1"]}]});
    assert_eq!(fixture.merge(&format!("{slices}/boats"), ready).await.code, 200);
    let why = condition(&fixture, "False", "FailedDiscoveryCheck").await;
    let said = "failing or missing response from https://boats.default.svc:443/apis/sea.example.com/v1: Get \
                \"https://boats.default.svc:443/apis/sea.example.com/v1\": tls: failed to verify certificate: x509: \
                certificate signed by unknown authority";
    assert_eq!(why["message"], said);
    let any = json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}});
    assert_eq!(fixture.merge(API, any).await.code, 200);
    condition(&fixture, "True", "Passed").await;
    // Back to this server, which serves nothing there.
    let none = json!({"spec": {"service": null, "insecureSkipTLSVerify": null}});
    assert_eq!(fixture.merge(API, none).await.code, 200);
    condition(&fixture, "True", "Local").await;
    assert_eq!(fixture.get(BOATS).await.code, 404);
}

#[tokio::test]
async fn who_may_not_is_refused_here() {
    let fixture = Fixture::new().await;
    let extension = Extension::new(&fixture).await;
    service(&fixture, &extension).await;
    fixture.create(SERVICES, extension.api(json!({}))).await;
    condition(&fixture, "True", "Passed").await;
    let ask = async |who: Option<&str>| {
        let mut request = Request::get(BOATS).body(Body::empty()).expect("a request");
        let identity = who.map(|user| Identity {
            user: user.into(),
            groups: vec![AUTHENTICATED.into()],
            ..Identity::default()
        });
        identity.map(|identity| request.extensions_mut().insert(identity));
        let router = crate::http::router(fixture.server.app.clone());
        let answer = tower::ServiceExt::oneshot(router, request).await;
        read(answer.unwrap_or_else(|never| match never {})).await
    };
    assert_eq!(ask(None).await.code, 401);
    let refused = ask(Some("bob")).await;
    let why = "boats.sea.example.com is forbidden: User \"bob\" cannot list resource \"boats\" in API group \
               \"sea.example.com\" in the namespace \"default\"";
    assert_eq!((refused.code, refused.message()), (403, why));
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rule = json!({"apiGroups": ["sea.example.com"], "resources": ["boats"], "verbs": ["list"]});
    fixture
        .create(&format!("{roles}/roles"), json!({"metadata": {"name": "r"}, "rules": [rule]}))
        .await;
    let binding = json!({
        "metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}],
    });
    fixture.create(&format!("{roles}/rolebindings"), binding).await;
    let told = ask(Some("bob")).await;
    assert_eq!((told.code, &told.body["headers"]["x-remote-user"]), (200, &json!(["bob"])));
}

#[tokio::test]
async fn connections_are_upgraded_through_it() {
    let fixture = Fixture::new().await;
    let extension = Extension::new(&fixture).await;
    service(&fixture, &extension).await;
    fixture.create(SERVICES, extension.api(json!({}))).await;
    condition(&fixture, "True", "Passed").await;
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let token = fixture.create(token, json!({"spec": {}})).await["status"]["token"].clone();
    let binding = json!({
        "metadata": {"name": "all"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "default"}],
    });
    fixture.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let tls = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(crate::tls::anybody())
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(fixture.server.addr()).await.expect("it listens");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let name = rustls_pki_types::ServerName::try_from("localhost").expect("a name");
    let mut stream = connector.connect(name, stream).await.expect("TLS");
    let request = format!(
        "POST {BOATS}/a/horn HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: horn\r\nAuthorization: Bearer {}\r\n\r\n",
        token.as_str().expect("a token")
    );
    stream.write_all(request.as_bytes()).await.expect("it is read");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: horn"), "{head}");
    stream.write_all(b"hoot").await.expect("it is read");
    let mut said = [0; 9];
    stream.read_exact(&mut said).await.expect("nine bytes");
    assert_eq!(&said, b"toot:hoot");
}

#[tokio::test]
async fn a_namespace_waits_for_what_others_hold_in_it() {
    let fixture = Fixture::with(|config| config.scheduler = false).await;
    let extension = Extension::new(&fixture).await;
    fixture.create("/api/v1/namespaces", json!({"metadata": {"name": "gone"}})).await;
    fixture.create(SERVICES, extension.api(json!({}))).await;
    condition(&fixture, "False", "ServiceNotFound").await;
    assert_eq!(fixture.delete("/api/v1/namespaces/gone").await.code, 200);
    let mut told = Value::Null;
    for _ in 0..200 {
        told = fixture.get("/api/v1/namespaces/gone").await.body;
        if told["status"]["conditions"][0]["status"] == "True" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let condition = &told["status"]["conditions"][0];
    assert_eq!(condition["type"], "NamespaceDeletionDiscoveryFailure", "{told}");
    assert_eq!(condition["reason"], "DiscoveryFailed");
    let why = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: \
               sea.example.com/v1: the server is currently unable to handle the request";
    assert_eq!(condition["message"], why);
    assert_eq!(fixture.delete(API).await.code, 200);
    for _ in 0..200 {
        if fixture.get("/api/v1/namespaces/gone").await.code == 404 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{}", fixture.get("/api/v1/namespaces/gone").await.body);
}

#[tokio::test]
async fn definitions_have_api_services_and_deleted_ones_come_back() {
    let fixture = Fixture::with(|config| config.scheduler = false).await;
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let definition = json!({
        "metadata": {"name": "cars.road.example.com"},
        "spec": {
            "group": "road.example.com", "scope": "Namespaced",
            "names": {"plural": "cars", "singular": "car", "kind": "Car", "listKind": "CarList"},
            "versions": [{"name": "v2", "served": true, "storage": true, "schema": schema}],
        },
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let there = async |name: &str, wanted: u16| {
        for _ in 0..200 {
            let api = fixture.get(&format!("{SERVICES}/{name}")).await;
            if api.code == wanted {
                return api.body;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{name} is not {wanted}")
    };
    fixture.create(definitions, definition).await;
    let api = there("v2.road.example.com", 200).await;
    assert_eq!(api["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "true");
    assert_eq!(api["spec"]["groupPriorityMinimum"], 1000);
    for name in ["v2.road.example.com", "v1beta1.metrics.k8s.io"] {
        let before = there(name, 200).await["metadata"]["uid"].clone();
        assert_eq!(fixture.delete(&format!("{SERVICES}/{name}")).await.code, 200);
        for _ in 0..200 {
            let now = fixture.get(&format!("{SERVICES}/{name}")).await;
            if now.code == 200 && now.body["metadata"]["uid"] != before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        assert_ne!(there(name, 200).await["metadata"]["uid"], before, "{name}");
    }
    assert_eq!(fixture.delete(&format!("{definitions}/cars.road.example.com")).await.code, 200);
    there("v2.road.example.com", 404).await;
    let maps = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let map = fixture.get(maps).await.body;
    assert_eq!(map["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    let ca = std::fs::read_to_string(fixture.dir.path().join("pki/front-proxy-ca.crt"));
    assert_eq!(map["data"]["requestheader-client-ca-file"], ca.expect("a CA"));
}
