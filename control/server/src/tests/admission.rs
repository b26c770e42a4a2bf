//! Admission: webhooks, asked over TLS by the whole server.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

type Answers = Box<dyn Fn(&str, &Value) -> Value + Send + Sync>;

/// A webhook server of our own, for `localhost` and for Services of the namespace `default`.
pub(super) struct Webhook {
    pub(super) port: u16,
    pub(super) ca: String,
    /// What was asked, by path.
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    serving: JoinHandle<()>,
}

impl Webhook {
    /// `answer` makes the `response` of what is asked at a path.
    pub(super) async fn new(
        answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        let ca = ca.expect("a CA");
        let names = vec!["localhost".to_owned(), "hook.default.svc".to_owned()];
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(names).expect("parameters").signed_by(&key, &ca);
        let leaf = leaf.expect("a certificate");
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let tls = rustls::ServerConfig::builder().with_no_client_auth();
        let tls = tls.with_single_cert(vec![leaf.der().clone()], key).expect("a pair");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let (answer, seen): (Arc<Answers>, _) = (Arc::new(Box::new(answer)), asked.clone());
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer, seen) = (acceptor.clone(), answer.clone(), seen.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
                        let (answer, seen) = (answer.clone(), seen.clone());
                        async move {
                            let path = request.uri().path().to_owned();
                            let body = request.into_body().collect().await.expect("a body");
                            let review: Value =
                                serde_json::from_slice(&body.to_bytes()).expect("a review");
                            let mut response = answer(&path, &review["request"]);
                            if response["uid"].is_null() {
                                response["uid"] = review["request"]["uid"].clone();
                            }
                            seen.lock().expect("no panic").push((path, review["request"].clone()));
                            let body = json!({
                                "apiVersion": review["apiVersion"],
                                "kind": review["kind"],
                                "response": response,
                            });
                            let body = Full::new(bytes::Bytes::from(body.to_string()));
                            Ok::<_, Infallible>(Response::new(body))
                        }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { port, ca: STANDARD.encode(ca.pem()), asked, serving }
    }

    /// A webhook for what `rule` says, at that path.
    fn at(&self, path: &str, rule: Value, more: Value) -> Value {
        let mut hook = json!({
            "name": format!("{path}.example.com"),
            "clientConfig": {
                "url": format!("https://localhost:{}/{path}", self.port),
                "caBundle": self.ca,
            },
            "rules": [{
                "operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["configmaps"],
            }],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        });
        merge(&mut hook["rules"][0], rule);
        merge(&mut hook, more);
        hook
    }

    fn asked(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.asked.lock().expect("no panic"))
    }

    /// The paths that were asked at, sorted, with the operations.
    fn calls(&self) -> Vec<String> {
        let asked = self.asked();
        let text = |(path, request): &(String, Value)| {
            format!("{path} {}", request["operation"].as_str().unwrap_or_default())
        };
        let mut calls: Vec<_> = asked.iter().map(text).collect();
        calls.sort();
        calls
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn merge(into: &mut Value, more: Value) {
    let Value::Object(more) = more else { return };
    for (field, value) in more {
        into[field] = value;
    }
}

fn configuration(name: &str, hooks: &[Value]) -> Value {
    json!({"metadata": {"name": name}, "webhooks": hooks})
}

fn allow() -> Value {
    json!({"allowed": true})
}

fn patched(patch: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())})
}

fn warnings(answer: &Answer) -> Vec<&str> {
    let all = answer.headers.get_all("warning");
    all.iter().filter_map(|value| value.to_str().ok()).collect()
}

#[tokio::test]
async fn a_validating_webhook_denies_in_its_own_words() {
    let webhook = Webhook::new(|_, request| {
        if request["object"]["data"]["a"] == "bad" {
            return json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "it is bad"}});
        }
        if request["object"]["data"]["a"] == "silent" {
            return json!({"allowed": false});
        }
        json!({"allowed": true, "warnings": ["take care"], "auditAnnotations": {"seen": "yes"}})
    })
    .await;
    let fixture = Fixture::new().await;
    let rule = json!({"operations": ["CREATE", "DELETE"]});
    let hooks = [webhook.at("check", rule, json!({}))];
    fixture.create(VALIDATING, configuration("check", &hooks)).await;

    let mut bad = config_map("a");
    bad["data"]["a"] = "bad".into();
    let answer = fixture.post(CONFIG_MAPS, bad.clone()).await;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.message(),
        "admission webhook \"check.example.com\" denied the request: it is bad"
    );
    assert_eq!(answer.body["reason"], "Forbidden");
    bad["data"]["a"] = "silent".into();
    let answer = fixture.post(CONFIG_MAPS, bad).await;
    assert_eq!(answer.code, 400);
    assert_eq!(
        answer.message(),
        "admission webhook \"check.example.com\" denied the request without explanation"
    );

    let answer = fixture.post(CONFIG_MAPS, config_map("a")).await;
    assert_eq!(answer.code, 201);
    assert_eq!(warnings(&answer), ["299 - \"take care\""]);
    let asked = webhook.asked();
    let (_, request) = asked.last().expect("a request");
    assert_eq!(request["name"], "a");
    assert_eq!(request["namespace"], "default");
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(
        request["resource"],
        json!({"group": "", "version": "v1", "resource": "configmaps"})
    );
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!(request["options"]["kind"], "CreateOptions");
    assert_eq!(request["object"]["data"]["a"], "b");
    assert!(request["oldObject"].is_null());

    // Not for an update; for a deletion with what goes.
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(fixture.merge(&path, json!({"data": {"a": "bad"}})).await.code, 200);
    assert!(webhook.asked().is_empty());
    assert_eq!(fixture.delete(&path).await.code, 200);
    let asked = webhook.asked();
    assert_eq!(asked[0].1["operation"], "DELETE");
    assert_eq!(asked[0].1["oldObject"]["data"]["a"], "bad");
    assert!(asked[0].1["object"].is_null());
}

#[tokio::test]
async fn mutating_webhooks_see_what_those_before_them_made() {
    let webhook = Webhook::new(|path, request| {
        let labels = &request["object"]["metadata"]["labels"];
        match path {
            "/first" if labels.is_null() => patched(
                json!([{"op": "add", "path": "/metadata/labels", "value": {"first": "yes"}}]),
            ),
            "/first" => {
                patched(json!([{"op": "add", "path": "/metadata/labels/again", "value": "yes"}]))
            }
            _ => patched(
                json!([{"op": "add", "path": "/metadata/labels/second", "value": labels["first"]}]),
            ),
        }
    })
    .await;
    let fixture = Fixture::new().await;
    let create = || json!({"operations": ["CREATE"]});
    let hooks = [
        webhook.at("first", create(), json!({"reinvocationPolicy": "IfNeeded"})),
        webhook.at("second", create(), json!({})),
    ];
    let made = fixture.create(MUTATING, configuration("change", &hooks)).await;
    assert_eq!(made["webhooks"][1]["reinvocationPolicy"], "Never");
    let made = fixture.create(CONFIG_MAPS, config_map("a")).await;
    let expected = json!({"first": "yes", "second": "yes", "again": "yes"});
    assert_eq!(made["metadata"]["labels"], expected);
    assert_eq!(webhook.calls(), ["/first CREATE", "/first CREATE", "/second CREATE"]);
}

#[tokio::test]
async fn what_an_injector_adds_to_a_pod_is_defaulted_and_validated() {
    let webhook = Webhook::new(|_, request| {
        let name = match request["object"]["metadata"]["name"].as_str() {
            Some("wrong") => "Not A Name",
            _ => "sidecar",
        };
        let container = json!({"name": name, "image": "proxy"});
        patched(json!([{"op": "add", "path": "/spec/containers/-", "value": container}]))
    })
    .await;
    let fixture = Fixture::new().await;
    let rule = json!({"operations": ["CREATE"], "resources": ["pods"]});
    fixture
        .create(MUTATING, configuration("inject", &[webhook.at("inject", rule, json!({}))]))
        .await;
    let made = fixture.create(PODS, pod("a")).await;
    let sidecar = &made["spec"]["containers"][1];
    assert_eq!(sidecar["name"], "sidecar");
    assert_eq!(sidecar["imagePullPolicy"], "Always");
    assert_eq!(
        sidecar["volumeMounts"][0]["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    let answer = fixture.post(PODS, pod("wrong")).await;
    assert_eq!(answer.code, 422, "{}", answer.body);
    assert!(answer.message().contains("spec.containers[1].name"), "{}", answer.message());
}

#[tokio::test]
async fn failures_are_told_or_ignored_as_the_policy_says() {
    let webhook = Webhook::new(|path, _| match path {
        "/other" => json!({"uid": "another", "allowed": true}),
        "/patches" => patched(json!([])),
        _ => allow(),
    })
    .await;
    let fixture = Fixture::new().await;
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("an address").port()
    };
    let nowhere = json!({"clientConfig": {"url": format!("https://localhost:{gone}/x"), "caBundle": webhook.ca}});
    let service = |name: &str| json!({"clientConfig": {"service": {"namespace": "default", "name": name, "path": "/ok"}, "caBundle": webhook.ca}});
    let untrusted = json!({"clientConfig": {"url": format!("https://localhost:{}/ok", webhook.port),
                                            "caBundle": STANDARD.encode(fixture.server.app.auth.pki().ca_pem())}});
    let port = webhook.port;
    let cases: &[(&str, Value, String)] = &[
        ("nowhere", nowhere.clone(), format!("failed to call webhook: Post \"https://localhost:{gone}/x?timeout=10s\": dial tcp")),
        ("service", service("absent"), "failed to call webhook: Post \"https://absent.default.svc:443/ok?timeout=10s\": service \"absent\" not found".into()),
        ("untrusted", untrusted, format!("failed to call webhook: Post \"https://localhost:{port}/ok?timeout=10s\": tls: failed to verify certificate: x509: certificate signed by unknown authority")),
        ("other", json!({}), "received invalid webhook response: expected response.uid=".into()),
        ("patches", json!({}), "received invalid webhook response: validating webhook may not return response.patch".into()),
    ];
    for (path, more, expected) in cases {
        let hooks = [webhook.at(path, json!({"operations": ["CREATE"]}), more.clone())];
        fixture.create(VALIDATING, configuration("check", &hooks)).await;
        let answer = fixture.post(CONFIG_MAPS, config_map("a")).await;
        assert_eq!((answer.code, &answer.body["reason"]), (500, &json!("InternalError")), "{path}");
        let start = format!(
            "Internal error occurred: failed calling webhook \"{path}.example.com\": {expected}"
        );
        assert!(answer.message().starts_with(&start), "{path}: {}", answer.message());
        assert_eq!(fixture.delete(&format!("{VALIDATING}/check")).await.code, 200);
    }
    let mut ignored = nowhere;
    ignored["failurePolicy"] = "Ignore".into();
    let hooks = [webhook.at("nowhere", json!({}), ignored)];
    fixture.create(VALIDATING, configuration("check", &hooks)).await;
    fixture.create(CONFIG_MAPS, config_map("a")).await;
}

#[tokio::test]
async fn selectors_scopes_and_subresources_say_who_is_asked() {
    let webhook = Webhook::new(|_, _| allow()).await;
    let fixture = Fixture::new().await;
    let namespaces = "/api/v1/namespaces";
    let marked = json!({"metadata": {"name": "marked", "labels": {"hooks": "yes"}}});
    let selector = json!({"matchLabels": {"hooks": "yes"}});
    let any =
        |resources: &[&str]| json!({"operations": ["CREATE", "UPDATE"], "resources": resources});
    let hooks = [
        webhook.at("namespaced", any(&["*"]), json!({"namespaceSelector": selector})),
        webhook.at("objects", any(&["*/*"]), json!({"objectSelector": selector})),
        webhook.at("status", any(&["pods/status", "deployments/scale"]), json!({})),
        webhook.at(
            "cluster",
            json!({"operations": ["CREATE"], "resources": ["*"], "scope": "Cluster"}),
            json!({}),
        ),
    ];
    fixture.create(VALIDATING, configuration("check", &hooks)).await;
    // Never of configurations of webhooks themselves.
    assert!(webhook.calls().is_empty());
    fixture.create(namespaces, marked).await;
    assert_eq!(webhook.calls(), ["/cluster CREATE", "/namespaced CREATE", "/objects CREATE"]);
    fixture.create("/api/v1/namespaces/marked/configmaps", config_map("a")).await;
    assert_eq!(webhook.calls(), ["/namespaced CREATE"]);
    let mut labelled = config_map("a");
    labelled["metadata"]["labels"] = json!({"hooks": "yes"});
    fixture.create(CONFIG_MAPS, labelled).await;
    assert_eq!(webhook.calls(), ["/objects CREATE"]);
    // The one that was matched as it was is told of what it becomes.
    let unlabel = json!({"metadata": {"labels": null}});
    assert_eq!(fixture.merge(&format!("{CONFIG_MAPS}/a"), unlabel).await.code, 200);
    assert_eq!(webhook.calls(), ["/objects UPDATE"]);
    fixture.create(PODS, pod("p")).await;
    assert!(webhook.calls().is_empty());
    let status = json!({"status": {"phase": "Running"}});
    assert_eq!(fixture.merge(&format!("{PODS}/p/status"), status).await.code, 200);
    assert_eq!(webhook.calls(), ["/status UPDATE"]);
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod("p")["spec"]});
    let spec =
        json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    fixture.create(deployments, json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let scale = json!({"spec": {"replicas": 3}});
    assert_eq!(fixture.merge(&format!("{deployments}/d/scale"), scale).await.code, 200);
    let asked = webhook.asked();
    let (path, request) = &asked[0];
    assert_eq!((path.as_str(), &request["subResource"]), ("/status", &json!("scale")));
    assert_eq!(request["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(request["object"]["spec"]["replicas"], 3);
    assert_eq!(request["oldObject"]["spec"]["replicas"], 1);
}

#[tokio::test]
async fn controllers_are_asked_for_by_their_accounts() {
    let webhook = Webhook::new(|_, _| allow()).await;
    let fixture = Fixture::with(|config| config.scheduler = false).await;
    let rule = json!({"operations": ["CREATE"], "resources": ["pods", "replicasets"]});
    fixture
        .create(VALIDATING, configuration("check", &[webhook.at("check", rule, json!({}))]))
        .await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod("p")["spec"]});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    fixture.create(deployments, json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let mut users = BTreeMap::new();
    while users.len() < 2 {
        for (_, request) in webhook.asked() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            users.insert(text(&request["kind"]["kind"]), text(&request["userInfo"]["username"]));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let account = |name: &str| format!("system:serviceaccount:kube-system:{name}-controller");
    assert_eq!(users["ReplicaSet"], account("deployment"));
    assert_eq!(users["Pod"], account("replicaset"));
}

#[tokio::test]
async fn dry_runs_are_for_webhooks_without_side_effects() {
    let webhook = Webhook::new(|_, _| allow()).await;
    let fixture = Fixture::new().await;
    let hooks = [webhook.at("check", json!({}), json!({"sideEffects": "None"}))];
    fixture.create(VALIDATING, configuration("check", &hooks)).await;
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    assert_eq!(fixture.post(&dry, config_map("a")).await.code, 201);
    assert_eq!(webhook.asked()[0].1["dryRun"], true);
}

#[tokio::test]
async fn a_service_is_called_at_a_ready_endpoint() {
    let webhook = Webhook::new(|_, _| allow()).await;
    let fixture = Fixture::new().await;
    let services = "/api/v1/namespaces/default/services";
    let ports = json!([{"name": "tls", "port": 8443}]);
    fixture.create(services, json!({"metadata": {"name": "hook"}, "spec": {"ports": ports}})).await;
    let slice = |name: &str, ready: bool, port: u16| {
        json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "hook"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": ready}}],
            "ports": [{"name": "tls", "port": port}],
        })
    };
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    fixture.create(slices, slice("hook-down", false, 1)).await;
    fixture.create(slices, slice("hook-up", true, webhook.port)).await;
    let service = json!({"namespace": "default", "name": "hook", "port": 8443, "path": "/a/b"});
    let client = json!({"clientConfig": {"service": service, "caBundle": webhook.ca}});
    let hooks = [webhook.at("check", json!({"operations": ["CREATE"]}), client)];
    fixture.create(VALIDATING, configuration("check", &hooks)).await;
    fixture.create(CONFIG_MAPS, config_map("a")).await;
    assert_eq!(webhook.calls(), ["/a/b CREATE"]);
}

#[tokio::test]
async fn custom_objects_are_changed_and_counted_too() {
    let webhook = Webhook::new(|_, _| {
        patched(json!([
            {"op": "add", "path": "/spec/paint", "value": "blue"},
            {"op": "add", "path": "/spec/unknown", "value": 1},
        ]))
    })
    .await;
    let spec = json!({"type": "object", "properties": {
        "paint": {"type": "string"}, "seats": {"type": "integer", "default": 1}}});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}});
    let definition = json!({
        "metadata": {"name": "boats.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    });
    let fixture = Fixture::defining(definition).await;
    let rule =
        json!({"operations": ["CREATE"], "apiGroups": ["example.com"], "resources": ["boats"]});
    fixture.create(MUTATING, configuration("paint", &[webhook.at("paint", rule, json!({}))])).await;
    let quota =
        json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/boats.example.com": "1"}}});
    fixture.create("/api/v1/namespaces/default/resourcequotas", quota).await;
    let boats = "/apis/example.com/v1/namespaces/default/boats";
    let boat = |name: &str| json!({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": name}, "spec": {}});
    let made = fixture.create(boats, boat("one")).await;
    assert_eq!(made["spec"], json!({"paint": "blue", "seats": 1}));
    assert_eq!(
        fixture.post(boats, boat("two")).await.message(),
        "boats.example.com \"two\" is forbidden: exceeded quota: q, requested: count/boats.example.com=1, used: count/boats.example.com=1, limited: count/boats.example.com=1"
    );
}

#[tokio::test]
async fn conditions_say_who_is_asked() {
    let webhook = Webhook::new(|_, _| allow()).await;
    let fixture = Fixture::new().await;
    let conditions =
        |expression: &str| json!({"matchConditions": [{"name": "c", "expression": expression}]});
    let rule = || json!({"operations": ["CREATE"]});
    let not_leases = "object.metadata.name != 'quiet' && request.userInfo.username == 'admin'";
    let hooks = [webhook.at("check", rule(), conditions(not_leases))];
    fixture.create(VALIDATING, configuration("check", &hooks)).await;
    fixture.create(CONFIG_MAPS, config_map("quiet")).await;
    assert!(webhook.calls().is_empty());
    fixture.create(CONFIG_MAPS, config_map("loud")).await;
    assert_eq!(webhook.calls(), ["/check CREATE"]);
    let hooks = [webhook.at("wrong", rule(), conditions("object.metadata.name +"))];
    let answer = fixture.post(VALIDATING, configuration("wrong", &hooks)).await;
    assert_eq!(answer.code, 422);
    assert!(
        answer.message().contains("webhooks[0].matchConditions[0].expression: Invalid value"),
        "{}",
        answer.message()
    );
    // What cannot be decided is refused, or not asked.
    let hooks = [webhook.at("odd", rule(), conditions("object.data.absent == 'x'"))];
    fixture.create(VALIDATING, configuration("odd", &hooks)).await;
    assert_eq!(fixture.post(CONFIG_MAPS, config_map("other")).await.code, 403);
}
