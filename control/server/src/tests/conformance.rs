//! What upstream's conformance tests ask of an API server and nothing else here does: each test names those that it stands for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{ACCEPT, ETAG};
use rcgen::{CertificateParams, KeyPair};

use super::*;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const NOXUS: &str = "/apis/mygroup.example.com/v1/noxus";
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
/// Of what is stored as `mygroup.example.com/v1`.
const NOXU_HASH: &str = "c9rVVf6wRBs=";

/// A definition of a kind of the cluster's, with that schema.
fn noxus(schema: Value) -> Value {
    json!({
        "metadata": {"name": "noxus.mygroup.example.com"},
        "spec": {
            "group": "mygroup.example.com", "scope": "Cluster",
            "names": {"plural": "noxus", "singular": "noxu", "kind": "Noxu", "listKind": "NoxuList"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}

fn open() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

impl Fixture {
    async fn get_with(&self, path: &str, headers: &[(http::HeaderName, &str)]) -> Answer {
        self.send_with("GET", path, headers, Body::empty()).await
    }

    async fn send_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(http::HeaderName, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        read(self.send(request.body(body.into()).expect("a request")).await).await
    }

    async fn apply_text(&self, path: &str, query: &str, body: &str) -> Answer {
        let media = "application/apply-patch+yaml";
        self.call("PATCH", &format!("{path}?fieldManager=f{query}"), media, body.to_owned()).await
    }
}

/// `Namespaces should apply changes to a namespace status`, `ResourceQuota should apply changes to a resourcequota status`,
/// `Deployment should validate Deployment Status endpoints`, `ValidatingAdmissionPolicy … API operations` and their like: who
/// writes a status may annotate the object. Of Deployments alone it may not label it.
#[tokio::test]
async fn statuses_come_with_annotations() {
    let it = Fixture::new().await;
    let quota = json!({"metadata": {"name": "x"}, "spec": {"hard": {"pods": "1"}}});
    let workload = |kind: &str| {
        let labels = json!({"app": "x"});
        let selector = match kind {
            "replicationcontrollers" => labels.clone(),
            _ => json!({"matchLabels": labels}),
        };
        json!({"metadata": {"name": "x", "labels": labels}, "spec": {
            "selector": selector,
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        }})
    };
    let policy = json!({"metadata": {"name": "x"}, "spec": {
        "validations": [{"expression": "true"}],
        "matchConstraints": {"resourceRules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
    }});
    for (collection, body, labels) in [
        ("/api/v1/namespaces", json!({"metadata": {"name": "x"}}), true),
        ("/api/v1/namespaces/default/resourcequotas", quota, true),
        (
            "/api/v1/namespaces/default/replicationcontrollers",
            workload("replicationcontrollers"),
            true,
        ),
        ("/apis/apps/v1/namespaces/default/replicasets", workload("replicasets"), true),
        ("/apis/apps/v1/namespaces/default/deployments", workload("deployments"), false),
        (POLICIES, policy, true),
    ] {
        it.create(collection, body).await;
        let patch = json!({"metadata": {"annotations": {"told": "yes"}, "labels": {"told": "yes"}},
            "spec": {"paused": true}});
        let answer = it.merge(&format!("{collection}/x/status"), patch).await;
        assert_eq!(answer.code, 200, "{collection}: {}", answer.body);
        let metadata = &answer.body["metadata"];
        assert_eq!(metadata["annotations"]["told"], "yes", "{collection}");
        assert_eq!(metadata["labels"]["told"] == "yes", labels, "{collection}");
        assert_eq!(answer.body["spec"]["paused"], Value::Null, "{collection}");
    }
}

/// Upstream's status strategies of these three (`ResetObjectMetaForStatus` and its like) let nothing but the status through.
#[tokio::test]
async fn some_statuses_come_alone() {
    let it = Fixture::defining(noxus(json!({"type": "object"}))).await;
    for path in [
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/noxus.mygroup.example.com",
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/catch-all",
        "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/catch-all",
    ] {
        let before = it.get(path).await.body;
        let condition = json!({"type": "Told", "status": "True", "reason": "Told", "message": "",
            "lastTransitionTime": "2030-01-01T00:00:00Z"});
        let patch = json!({
            "metadata": {"annotations": {"told": "yes"}, "labels": {"told": "yes"}, "finalizers": ["example.com/told"]},
            "spec": {"group": "told", "matchingPrecedence": 1, "type": "Exempt"},
            "status": {"conditions": [condition]},
        });
        let answer = it.merge(&format!("{path}/status"), patch).await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.body);
        for field in ["labels", "annotations", "finalizers"] {
            assert_eq!(answer.body["metadata"][field], before["metadata"][field], "{path}");
        }
        assert_eq!(answer.body["spec"], before["spec"], "{path}");
        assert_eq!(answer.body["status"]["conditions"][0]["type"], "Told", "{path}");
    }
}

/// `Certificates API [Privileged:ClusterAdmin] should support CSR API operations`.
#[tokio::test]
async fn decisions_and_certificates_come_with_annotations() {
    let it = Fixture::new().await;
    let all = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(Vec::new()).expect("parameters");
    let pem = params.serialize_request(&key).and_then(|request| request.pem());
    let request = json!({
        "metadata": {"name": "x"},
        "spec": {
            "request": STANDARD.encode(pem.expect("a request")),
            "signerName": "e2e.example.com/signer",
            "usages": ["client auth"],
        },
    });
    it.create(all, request).await;
    for (subresource, told) in [("approval", "a"), ("status", "b")] {
        let patch = json!({"metadata": {"annotations": {told: "yes"}},
            "status": {"conditions": [{"type": "Odd", "status": "True", "reason": "e2e"}]}});
        let answer = it.merge(&format!("{all}/x/{subresource}"), patch).await;
        assert_eq!(answer.code, 200, "{}", answer.body);
        assert_eq!(answer.body["metadata"]["annotations"][told], "yes", "{subresource}");
        assert_eq!(answer.body["status"]["conditions"][0]["type"], "Odd");
    }
}

/// `FieldValidation should detect duplicates in a CR when preserving unknown fields`, and `… should create/apply a CR with unknown
/// fields for CRD with no validation schema`, whose finalizer has no domain.
#[tokio::test]
async fn yaml_with_a_key_twice() {
    let it = Fixture::defining(noxus(open())).await;
    let body = "\napiVersion: mygroup.example.com/v1\nkind: Noxu\nmetadata:\n  name: a\n  finalizers:\n  - test-finalizer\n\
                spec:\n  foo: foo1\n  foo: foo2\n";
    let path = format!("{NOXUS}/a");
    let strict = it.apply_text(&path, "&fieldValidation=Strict", body).await;
    assert_eq!(
        (strict.code, strict.message()),
        (
            400,
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 10: key \"foo\" \
             already set in map"
        )
    );
    for (query, warned) in
        [("", true), ("&fieldValidation=Warn", true), ("&fieldValidation=Ignore", false)]
    {
        let answer = it.apply_text(&path, query, body).await;
        assert!(matches!(answer.code, 200 | 201), "{}", answer.body);
        assert_eq!(answer.body["spec"]["foo"], "foo2");
        assert_eq!(answer.body["metadata"]["finalizers"], json!(["test-finalizer"]));
        let expected = "299 - \"line 10: key \\\"foo\\\" already set in map\"";
        let warning = answer.headers.get("warning").and_then(|it| it.to_str().ok());
        assert_eq!(warning, warned.then_some(expected));
    }
    // The same of what is no patch, and of built-in kinds.
    let twice = "kind: ConfigMap\nmetadata:\n  name: a\ndata:\n  a: b\n  a: c\n";
    let post = async |query: &str| {
        it.call("POST", &format!("{CONFIG_MAPS}{query}"), "application/yaml", twice).await
    };
    let strict = post("?fieldValidation=Strict").await;
    let expected =
        "strict decoding error: yaml: unmarshal errors:\n  line 6: key \"a\" already set in map";
    assert!(strict.code == 400 && strict.message().ends_with(expected), "{}", strict.body);
    let lax = post("").await;
    assert_eq!((lax.code, &lax.body["data"]), (201, &json!({"a": "c"})));
    // Built-in kinds want a domain.
    let mut map = config_map("b");
    map["metadata"]["finalizers"] = json!(["test-finalizer"]);
    assert_eq!(it.post(CONFIG_MAPS, map).await.code, 422);
}

/// `CustomResourcePublishOpenAPI … works for CRD without validation schema`, `… preserving unknown fields at the schema root`,
/// `… in an embedded object`, which compare what is published, and ask with the tag that they have.
#[tokio::test]
async fn what_is_published_of_open_kinds() {
    let nested = json!({"type": "object", "description": "nested", "properties": {
        "spec": {"type": "object", "description": "open", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"dummy": {"type": "object"}}},
        "status": {"type": "object", "required": ["a", "b"], "properties": {
            "a": {"type": "string", "nullable": true}, "b": {"type": "string"}}},
    }});
    let mut at_root = nested.clone();
    at_root["x-kubernetes-preserve-unknown-fields"] = true.into();
    let published = json!({"type": "object", "description": "nested", "properties": {
        "spec": {"description": "open", "x-kubernetes-preserve-unknown-fields": true},
        "status": {"type": "object", "required": ["b"], "properties": {"a": {}, "b": {"type": "string"}}},
    }});
    for (schema, expected) in [
        (open(), json!({"type": "object"})),
        (at_root, json!({"type": "object"})),
        (nested, published),
    ] {
        let it = Fixture::defining(noxus(schema)).await;
        let answer = it.get("/openapi/v2").await;
        let mut found = answer.body["definitions"]["com.example.mygroup.v1.Noxu"].clone();
        found.as_object_mut().expect("a schema").remove("x-kubernetes-group-version-kind");
        if let Some(properties) = found.get_mut("properties").and_then(Value::as_object_mut) {
            properties
                .retain(|name, _| !["metadata", "apiVersion", "kind"].contains(&name.as_str()));
        }
        assert_eq!(found, expected);

        let tag = |headers: &HeaderMap| headers[ETAG].to_str().expect("a tag").to_owned();
        let known = tag(&answer.headers);
        let asked = |tag: &str| [(http::header::IF_NONE_MATCH, tag.to_owned())];
        let again = async |tag: &str| {
            let [(name, value)] = asked(tag);
            it.get_with("/openapi/v2", &[(name, &value)]).await
        };
        assert_eq!(again(&known).await.code, 304);
        it.delete(&format!("{DEFINITIONS}/noxus.mygroup.example.com")).await;
        let mut tries = 0;
        let gone = loop {
            let answer = again(&known).await;
            if answer.code == 200 || tries == 100 {
                break answer;
            }
            tries += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(gone.body["definitions"]["com.example.mygroup.v1.Noxu"].is_null(), "{}", gone.code);
        assert_ne!(tag(&gone.headers), known);
    }
}

/// `OpenAPIV3 should round trip OpenAPI V3 for all built-in group versions`: Go forgets of a list that it was empty.
#[tokio::test]
async fn documents_have_no_empty_lists() {
    fn look(value: &Value, at: &str) {
        match value {
            Value::Array(items) => {
                assert!(!items.is_empty(), "{at} is empty");
                items.iter().enumerate().for_each(|(i, item)| look(item, &format!("{at}[{i}]")));
            }
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| look(value, &format!("{at}.{name}")));
            }
            _ => {}
        }
    }
    let it = Fixture::new().await;
    let index = it.get("/openapi/v3").await.body;
    for (path, place) in index["paths"].as_object().expect("paths") {
        let address = place["serverRelativeURL"].as_str().expect("an address");
        look(&it.get(address).await.body, path);
    }
}

/// `Servers with support for Table transformation should return a 406 for a backend which does not implement metadata`.
#[tokio::test]
async fn reviews_have_no_rows() {
    let it = Fixture::new().await;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let body =
        json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}).to_string();
    for (accept, code) in [
        ("application/json;as=Table;v=v1;g=meta.k8s.io", 406),
        ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", 406),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", 201),
        ("application/vnd.kubernetes.protobuf,application/json", 201),
    ] {
        let answer = it.send_with("POST", path, &[(ACCEPT, accept)], body.clone()).await;
        assert_eq!(answer.code, code, "{accept}: {}", answer.body);
        assert!(code != 406 || answer.reason() == "NotAcceptable");
    }
}

/// `Servers with support for API chunking should support continue listing from the last key if the original version has been
/// compacted away, though the list is inconsistent`.
#[tokio::test]
async fn a_list_expires_though_nothing_happened() {
    let it = Fixture::new().await;
    for i in 0..6 {
        it.create(CONFIG_MAPS, config_map(&format!("m{i}"))).await;
    }
    let page = async |token: &str| it.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await;
    let token = |answer: &Answer| answer.body["metadata"]["continue"].as_str().map(str::to_owned);
    let revision = |answer: &Answer| answer.body["metadata"]["resourceVersion"].clone();
    let first = it.get(&format!("{CONFIG_MAPS}?limit=2")).await;
    assert_eq!(first.body["metadata"]["remainingItemCount"], 4);
    let old = token(&first).expect("a token");
    assert_eq!(page(&old).await.names(), ["m2", "m3"]);

    it.create(PODS, pod("other")).await;
    let store = &it.server.app.registry.store;
    store.compact(store.revision()).await.expect("to be compacted");
    let gone = page(&old).await;
    assert_eq!((gone.code, gone.reason()), (410, "Expired"), "{}", gone.body);
    let second = page(&token(&gone).expect("a token to go on with")).await;
    assert_eq!(second.names(), ["m2", "m3"]);
    assert_eq!(second.body["metadata"]["remainingItemCount"], 2);
    assert_ne!(revision(&second), revision(&first));
    // From there on, all pages show the same moment, and say what is left, whatever happens.
    it.create(CONFIG_MAPS, config_map("m9")).await;
    let third = it
        .get(&format!("{CONFIG_MAPS}?limit=1&continue={}", token(&second).expect("a token")))
        .await;
    assert_eq!(third.names(), ["m4"]);
    assert_eq!(revision(&third), revision(&second));
    assert!(third.body["metadata"]["remainingItemCount"].as_u64() >= Some(1), "{}", third.body);
    let last = page(&token(&third).expect("a token")).await;
    assert_eq!((last.names(), token(&last)), (vec!["m5"], None));
    assert!(last.body["metadata"]["remainingItemCount"].is_null());
}

/// `Events API should ensure that an event can be fetched, patched, deleted, and listed`: by fields as that version calls them.
#[tokio::test]
async fn events_by_their_newer_names() {
    let it = Fixture::new().await;
    let newer = "/apis/events.k8s.io/v1/namespaces/default/events";
    for (name, controller) in [("a", "test-controller"), ("b", "other")] {
        let event = json!({
            "metadata": {"name": name}, "regarding": {"namespace": "default", "name": name},
            "eventTime": "2017-09-19T13:49:16.000000Z", "note": "This is a", "action": "Do",
            "reason": "Test", "type": "Normal", "reportingController": controller,
            "reportingInstance": "test-node",
        });
        it.create(newer, event).await;
    }
    let older = "/api/v1/namespaces/default/events";
    for (path, selector, expected) in [
        (newer, "reportingController%3Dtest-controller", vec!["a"]),
        (newer, "regarding.name%3Db,reason%3DTest", vec!["b"]),
        (older, "source%3Dtest-controller", vec!["a"]),
        (older, "reportingComponent!%3Dtest-controller", vec!["b"]),
    ] {
        let answer = it.get(&format!("{path}?fieldSelector={selector}")).await;
        assert_eq!(answer.names(), expected, "{selector}: {}", answer.body);
    }
    assert_eq!(it.get(&format!("{older}?fieldSelector=reportingController%3Dx")).await.code, 400);
}

/// `ServiceAccounts ServiceAccountIssuerDiscovery should support OIDC discovery of service account issuer`: what is told is enough
/// to verify a token.
#[tokio::test]
async fn others_can_verify_tokens() {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};

    let it = Fixture::new().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let asked = json!({"spec": {"audiences": ["oidc-discovery-test"]}});
    let token =
        it.create(path, asked).await["status"]["token"].as_str().expect("a token").to_owned();

    let found = it.get("/.well-known/openid-configuration").await;
    assert_eq!(found.headers["content-type"], "application/json");
    assert_eq!(found.body["id_token_signing_alg_values_supported"], json!(["ES256"]));
    let issuer = found.body["issuer"].as_str().expect("an issuer");
    let keys = found.body["jwks_uri"].as_str().and_then(|uri| uri.strip_prefix(issuer));
    let keys = it.get(keys.expect("keys of the issuer")).await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");

    let keys: JwkSet = serde_json::from_value(keys.body).expect("a set of keys");
    let kid = decode_header(&token).expect("a head").kid.expect("a key's name");
    let key = DecodingKey::from_jwk(keys.find(&kid).expect("that key")).expect("a key");
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_issuer(&[issuer]);
    validation.set_audience(&["oidc-discovery-test"]);
    let read = decode::<Value>(&token, &key, &validation).expect("a token that holds");
    assert_eq!(read.claims["sub"], "system:serviceaccount:default:default");
}

/// `health handlers should contain necessary checks`, as far as there are such checks, and monitoring's way of asking for one.
#[tokio::test]
async fn checks_one_by_one() {
    let it = Fixture::new().await;
    for (path, code, said) in [
        ("/readyz/ping", 200, "ok"),
        ("/livez/ping", 200, "ok"),
        ("/readyz/informer-sync?verbose=1", 200, "[+]informer-sync ok\nreadyz check passed\n"),
        ("/livez/informer-sync", 404, "could not find the requested resource"),
        ("/livez?verbose&exclude=ping", 200, "[+]ping excluded: ok\nlivez check passed\n"),
        ("/livez?exclude=etcd&verbose=1", 200, "no matches for \"etcd\""),
    ] {
        let answer = it.get(path).await;
        let text = answer.body.as_str().map_or_else(|| answer.message().to_owned(), str::to_owned);
        assert_eq!(answer.code, code, "{path}: {text}");
        assert!(text.contains(said), "{path}: {text}");
    }
}

/// `ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should type check a CRD`.
#[tokio::test]
async fn policies_are_checked_against_custom_types() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "cronSpec": {"type": "string"}, "image": {"type": "string"}, "replicas": {"type": "integer"},
    }}}});
    let it = Fixture::defining(noxus(schema)).await;
    let policy = |name: &str, expressions: &[&str]| {
        let validations: Vec<_> = expressions.iter().map(|it| json!({"expression": it})).collect();
        json!({"metadata": {"name": name}, "spec": {
            "validations": validations,
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["mygroup.example.com"], "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE"], "resources": ["noxus"]}]},
        }})
    };
    let right = ["object.spec.replicas > 1", "object.metadata.labels['a'] == 'b'"];
    let made = it.create(POLICIES, policy("right", &right)).await;
    assert_eq!(made["status"]["typeChecking"], json!({}));
    let wrong = ["object.spec.replicas > '1'", "object.spec.maxRetries < 10"];
    let made = it.create(POLICIES, policy("wrong", &wrong)).await;
    let warnings =
        made["status"]["typeChecking"]["expressionWarnings"].as_array().expect("warnings");
    let expected = [
        (
            "spec.validations[0].expression",
            "found no matching overload for '_>_' applied to '(int, string)'",
        ),
        ("spec.validations[1].expression", "undefined field 'maxRetries'"),
    ];
    assert_eq!(warnings.len(), expected.len());
    for (warning, (field, said)) in warnings.iter().zip(expected) {
        assert_eq!(warning["fieldRef"], field);
        let text = warning["warning"].as_str().expect("a text");
        assert!(
            text.starts_with("mygroup.example.com/v1, Kind=Noxu: ERROR: ") && text.contains(said),
            "{text}"
        );
    }
}

/// `[sig-api-machinery] API priority and fairness should ensure that requests can be classified…`, which looks for the level's
/// metric, and `[sig-instrumentation] MetricsGrabber should grab all metrics slis from API server`.
#[tokio::test]
async fn metrics_tell_of_levels_and_of_health() {
    let it = Fixture::new().await;
    let level = json!({"metadata": {"name": "test"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}});
    let levels = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
    it.create(levels, level).await;
    let metric = "\napiserver_flowcontrol_nominal_limit_seats{priority_level=\"test\"} ";
    let mut text = String::new();
    for _ in 0..500 {
        text = it.get("/metrics").await.body.as_str().unwrap_or_default().to_owned();
        if text.contains(metric) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(text.contains(metric), "{text}");
    let health = it.get("/metrics/slis").await.body;
    let health = health.as_str().unwrap_or_default();
    let ping = "\nkubernetes_healthcheck{name=\"ping\",type=\"readyz\"} 1\n";
    assert!(health.contains(ping), "{health}");
}

/// `[sig-api-machinery] Discovery Custom resource should have storage version hash`, and those of built-in kinds.
#[tokio::test]
async fn discovery_tells_how_things_are_stored() {
    let mut definition = noxus(open());
    let mut other = definition["spec"]["versions"][0].clone();
    (other["name"], other["storage"]) = ("v2".into(), false.into());
    definition["spec"]["versions"].as_array_mut().expect("a list").push(other);
    let it = Fixture::defining(definition).await;
    for (path, resource, hash) in [
        ("/api/v1", "pods", "xPOwRZ+Yhw8="),
        ("/apis/apps/v1", "deployments", "8aSe+NMegvE="),
        // However it is asked for, it is stored in one way.
        ("/api/v1", "events", "r2yiGXH7wu8="),
        ("/apis/events.k8s.io/v1", "events", "r2yiGXH7wu8="),
        ("/apis/mygroup.example.com/v1", "noxus", NOXU_HASH),
        ("/apis/mygroup.example.com/v2", "noxus", NOXU_HASH),
    ] {
        let list = it.get(path).await.body;
        let all = list["resources"].as_array().expect("a list");
        let of = all.iter().find(|entry| entry["name"] == resource).expect("the resource");
        assert_eq!(of["storageVersionHash"], hash, "{path} {resource}");
    }
    let list = it.get("/api/v1").await.body;
    let all = list["resources"].as_array().expect("a list");
    let status = all.iter().find(|entry| entry["name"] == "pods/status").expect("the resource");
    assert_eq!(status.get("storageVersionHash"), None);
}

/// Numbers come back as they were sent: of those with as many digits as there may be, a quick reading makes others in one of eight.
#[tokio::test]
async fn numbers_with_many_digits_stay_what_they_are() {
    let number = json!({"type": "number"});
    let mut with_default = number.clone();
    with_default["default"] = json!(95115.08690325615);
    let schema = json!({"type": "object", "properties": {"a": number, "b": with_default}});
    let it = Fixture::defining(noxus(schema)).await;
    for (media, name, body) in [
        (
            "application/json",
            "x",
            r#"{"kind": "Noxu", "apiVersion": "mygroup.example.com/v1", "metadata": {"name": "x"}, "a": 97892.98067282855}"#,
        ),
        (
            "application/yaml",
            "z",
            "kind: Noxu\napiVersion: mygroup.example.com/v1\nmetadata: {name: z}\na: 97892.98067282855\n",
        ),
    ] {
        let made = it.call("POST", NOXUS, media, body).await;
        assert_eq!(made.code, 201, "{}", made.body);
        let request = Request::get(format!("{NOXUS}/{name}")).body(Body::empty());
        let answer = it.send(request.expect("a request")).await;
        let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
        let text = String::from_utf8_lossy(&bytes);
        for number in ["\"a\":97892.98067282855,", "\"b\":95115.08690325615"] {
            assert!(text.contains(number), "{number} is not in {text}");
        }
    }
}
