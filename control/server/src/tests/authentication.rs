//! Whom others make known: a real issuer and a real webhook, over TLS, of our own.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

/// Made for these tests: rcgen makes no RSA keys.
const RSA: &str = "-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQCWSPVz84nQdDoz
rrewYX15nlQnd/TQTzfFJNJnX/i+CkOgQjQahxp71fDmsdy/7dVD5IS+QSnxYNVK
hO3OFHh0m+F5wTlulQOpvID2qpcFryGBcCVhTQ9XWPFgsewX9nGydyeCnB1pNdZ2
6NH/INRU2IOSS+o6HEUE8GX7l6l6s/GfOdMUSWm3H/p8qRr7wOKhKMKhQM9kRG3G
7RZ5FiAcfl7otbTck8DfyCo9g0hYBvPwVKcz9ofOukyuu7Q8VQebWKF/bnElrMWt
tqgqQmxY2xqT83H50q/z4VEK2PFDsMOZkvWLE8v4kP9CMrorO94kYwff0uz79Tbc
ekc0a2vfAgMBAAECggEAK6I7QdMv7EoSq/bKdneXyrvhiyQU/HZDpwWt4T3IJsUs
JVeTcTBQzCutqg1yHnebN/8dW2/oEaEfzGcT9IWVA6ZOrN8hIa46RgnpF7Un7AqR
G9fHwpxxG9dDHeQKvFpdYIef/Rf+ohFzl0q5ze1mOMw0R0GrW/vhPjHeKlI6btll
7ebUdvlZfAmcYuPUfXPHIlCMzUkLLgQKC4C0dh9i3lfC8xXdma7ji8jnYnneEgdh
4wlSGCuamlKsE6+8AlHqCNYZG0oExRJ1AK1FyOC3oo30mNiExSb2CLIuft5XeEJ5
8Vyoq7rFkmPmdOrEKOQGjcEyt1Uuku29R+iJtZrgQQKBgQDQbUk26S9wSk4twwmX
UhVdiA05TzmQ1EN0Vu5MVHa3MWajZF8DBpDnMcDL5yVQzmI/RThp5JbuPX0EZGAk
JVzv+Yq+7aWLhNoF5xve/ZCLZYsOjQ+EZgi8befxTdXeG2iwHSm6AD9rO6uBImTW
vJQVlRq5o4eXdZCaZFUzkCyhuQKBgQC4lllpIId7iDlH9KfdMcP/gAHFTMiLDAFL
443HF2LaqS/umnIhneAD45GvchCuPhElHC/rtK9e77jdOEc5huEbvSQEdFwHD1EU
cGpfZfmACeTN4t9wiqTUXmq4W7PTuk95F3jdk0k/W08svosWxts9C9CPWFVfNdO8
vIUPyrcmVwKBgQClM0oJrO/919d5bBKpDtWCafjZSNM+2Q+SIekFNRlXgF9y+HZa
ZpTpusSumUo5byvuLEZXoGiE8tWpaonNfJPaXXc8eA5ztFw+u3ya1W4BHv4GDYaU
EW+xMofZ+jCeuCjVFnhhRhr+OrBoTUOR9KyHIsSpCVXKldOEnCvwD8FgeQKBgBRf
9CqYfpvyI3B/3u+ZiKrxNEDVAuXmQ1ZfHc02FaFRP4s03Rg81vdW7UPScWjqTPYt
sFRyM1FlYKB6j9IXw01OiWU8etQEqsx4xCUXmny5mtnnCwbfJuaSLXGAHc9nJ1KU
drDuiw1FRO4JckznUlfgr/rCo1nJFUAmBwIBPEotAoGAc4QHFTuJ3C2+yk9SgWdr
PoZo00XZEM3LCOo2WfGNzql8NdQcSwgB5lyQ7dCc8yFoL3WquLCSCn+7Gxnn2Iee
RGmVWdDCTJMQAUbeg+gtW4tAwX8LIiP3x+JE1RSIFR0Tem92pDkTanZmMUja2kds
iA5cM+XLcbqP01LJDig8TfM=
-----END PRIVATE KEY-----";
const SELF: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

type Answer = dyn Fn(&str, &HeaderMap, &[u8]) -> (u16, Value) + Send + Sync;

/// An HTTPS server for `localhost`, which answers in JSON.
struct Remote {
    port: u16,
    ca: String,
    calls: Arc<AtomicUsize>,
    stalls: Arc<AtomicBool>,
    serving: JoinHandle<()>,
}

impl Remote {
    async fn new(
        answer: impl Fn(&str, &HeaderMap, &[u8]) -> (u16, Value) + Send + Sync + 'static,
    ) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        let ca = ca.expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let leaf = leaf.signed_by(&key, &ca).expect("a certificate");
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let tls = rustls::ServerConfig::builder().with_no_client_auth();
        let tls = tls.with_single_cert(vec![leaf.der().clone()], key).expect("a pair");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (calls, stalls): (Arc<AtomicUsize>, Arc<AtomicBool>) = Default::default();
        let (counted, stalling) = (calls.clone(), stalls.clone());
        let answer: Arc<Answer> = Arc::new(answer);
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                let (counted, stalling) = (counted.clone(), stalling.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
                        let (answer, counted) = (answer.clone(), counted.clone());
                        let stalling = stalling.clone();
                        async move {
                            counted.fetch_add(1, Ordering::SeqCst);
                            let (parts, body) = request.into_parts();
                            let body = body.collect().await.expect("a body").to_bytes();
                            while stalling.load(Ordering::SeqCst) {
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                            let (code, value) = answer(parts.uri.path(), &parts.headers, &body);
                            let body = Full::new(bytes::Bytes::from(value.to_string()));
                            let answer = http::Response::builder().status(code).body(body);
                            Ok::<_, Infallible>(answer.expect("an answer"))
                        }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { port, ca: ca.pem(), calls, stalls, serving }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What an issuer signs with, and publishes.
struct Signer {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    fn es256(id: &'static str) -> Self {
        let pair = KeyPair::generate().expect("a key");
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key");
        Self { id, algorithm: Algorithm::ES256, key }
    }

    fn rsa(id: &'static str, algorithm: Algorithm) -> Self {
        let key = EncodingKey::from_rsa_pem(RSA.as_bytes()).expect("a key");
        Self { id, algorithm, key }
    }

    fn published(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a JWK");
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).expect("JSON")
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.to_owned());
        jsonwebtoken::encode(&header, claims, &self.key).expect("a token")
    }
}

/// An issuer that publishes the keys that it is given.
async fn issuer(first: &[&Signer]) -> (Remote, Arc<Mutex<Vec<Value>>>) {
    let keys = Arc::new(Mutex::new(first.iter().map(|it| it.published()).collect::<Vec<_>>()));
    let published = keys.clone();
    let remote = Remote::new(move |path, headers, _| {
        let url = format!("https://{}", headers["host"].to_str().expect("text"));
        match path {
            "/.well-known/openid-configuration" => {
                (200, json!({"issuer": url, "jwks_uri": format!("{url}/keys")}))
            }
            "/keys" => {
                // One of a kind that nobody knows must not hide the others.
                let mut keys = vec![json!({"kty": "XYZ", "kid": "odd"})];
                keys.extend(published.lock().expect("no panic").iter().cloned());
                (200, json!({"keys": keys}))
            }
            _ => (404, json!({})),
        }
    });
    (remote.await, keys)
}

fn configuration(issuer: &Remote, mappings: &str, more: &str) -> String {
    let ca: String = issuer.ca.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: {}\n    \
         audiences: [us, them]\n    audienceMatchPolicy: MatchAny\n    certificateAuthority: |\n{ca}  claimMappings: {mappings}\n{more}",
        issuer.url()
    )
}

async fn fixture(config: &str) -> (Fixture, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("authentication.yaml");
    std::fs::write(&path, config).expect("a file");
    let it = Fixture::with(|it| {
        (it.controllers, it.scheduler) = (false, false);
        it.authentication.config = Some(path);
    });
    (it.await, folder)
}

impl Fixture {
    /// Who the bearer of a token is, to the whole server: code, and `userInfo`.
    async fn whoami(&self, token: &str) -> (u16, Value) {
        let request = Request::post(SELF)
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"))
            .body(Body::from("{}"))
            .expect("a request");
        let answer = router(self.server.app.clone()).oneshot(request).await;
        let answer = read(answer.unwrap_or_else(|never| match never {})).await;
        (answer.code, answer.body["status"]["userInfo"].clone())
    }

    /// The `status` of a TokenReview.
    async fn token_review(&self, token: &str, audiences: &[&str]) -> Value {
        let review = json!({"spec": {"token": token, "audiences": audiences}});
        self.create(REVIEWS, review).await["status"].clone()
    }

    /// As [`Self::whoami`], once the issuer's keys are known.
    async fn known(&self, token: &str) -> Value {
        for _ in 0..200 {
            let (code, who) = self.whoami(token).await;
            if code == 201 {
                return who;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not authenticated: {}", self.token_review(token, &[]).await)
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn claims(issuer: &Remote, more: Value) -> Value {
    let mut claims = json!({"iss": issuer.url(), "aud": "us", "sub": "jane", "exp": now() + 600});
    let more = more.as_object().expect("an object").clone();
    claims.as_object_mut().expect("an object").extend(more);
    claims
}

#[tokio::test]
async fn tokens_of_an_issuer_are_taken_and_their_claims_mapped() {
    let signer = Signer::es256("a");
    let (remote, _) = issuer(&[&signer]).await;
    let mappings = "{username: {claim: sub, prefix: 'id:'}, groups: {claim: groups, prefix: 'id:'}, uid: {claim: uid}, \
                    extra: [{key: example.com/tenant, valueExpression: claims.tenant}]}";
    let rules = "  claimValidationRules:\n  - {claim: hd, requiredValue: example.com}\n  - {expression: 'claims.level > 1', message: too low}\n  \
                 userValidationRules:\n  - {expression: \"!user.username.endsWith('root')\", message: not root}\n";
    let (it, _folder) = fixture(&configuration(&remote, mappings, rules)).await;
    let good = json!({"groups": ["dev", "ops"], "uid": "u1", "tenant": ["t"], "hd": "example.com", "level": 2});
    let who = it.known(&signer.sign(&claims(&remote, good.clone()))).await;
    let expected = json!({
        "username": "id:jane", "uid": "u1", "extra": {"example.com/tenant": ["t"]},
        "groups": ["id:dev", "id:ops", "system:authenticated"],
    });
    assert_eq!(who, expected);

    let refused = async |change: Value, expected: &str| {
        let mut all = claims(&remote, good.clone());
        for (claim, value) in change.as_object().expect("an object") {
            match value {
                Value::Null => {
                    all.as_object_mut().expect("an object").remove(claim);
                }
                value => all[claim] = value.clone(),
            }
        }
        let token = signer.sign(&all);
        assert_eq!(it.whoami(&token).await.0, 401, "{change}");
        let status = it.token_review(&token, &[]).await;
        assert_eq!(status["authenticated"], false);
        let why = status["error"].as_str().unwrap_or_default();
        assert!(
            why.starts_with("[invalid bearer token, oidc: ") && why.contains(expected),
            "{why}"
        );
    };
    refused(json!({"exp": now() - 5}), "oidc: token is expired").await;
    refused(json!({"exp": null}), "oidc: token is expired").await;
    refused(json!({"nbf": now() + 900}), "before the nbf (not before) time").await;
    refused(
        json!({"aud": ["other"]}),
        "oidc: expected audience in [\"us\", \"them\"] got [\"other\"]",
    )
    .await;
    refused(json!({"sub": null}), "oidc: parse username claims \"sub\": claim not present").await;
    refused(json!({"hd": null}), "oidc: required claim hd not present in ID token").await;
    refused(
        json!({"hd": "x"}),
        "oidc: required claim hd value does not match. Got = x, want = example.com",
    )
    .await;
    refused(json!({"level": 1}), "validation expression 'claims.level > 1' failed: too low").await;
    refused(
        json!({"sub": "root"}),
        "error evaluating user info validation rule: validation expression",
    )
    .await;
    // Of a clock that is a little ahead, and for one of several.
    let fine = json!({"nbf": now() + 60, "aud": ["x", "them"], "hd": "example.com", "level": 3, "uid": "u", "tenant": ""});
    it.known(&signer.sign(&claims(&remote, fine))).await;

    let token = signer.sign(&claims(&remote, good));
    let own = "https://kubernetes.default.svc.cluster.local";
    let status = it.token_review(&token, &[own]).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!([own])));
    assert_eq!(it.token_review(&token, &["elsewhere"]).await["authenticated"], false);
    // Signed by somebody else under the same name; not signed at all; and what is no token.
    let forged = Signer::es256("a").sign(&claims(&remote, json!({})));
    let (head, _) = token.rsplit_once('.').expect("a signature");
    for bad in [forged, format!("{head}."), head.to_owned(), "x".into(), "a.b.c".into()] {
        assert_eq!(it.whoami(&bad).await.0, 401, "{bad}");
    }
}

#[tokio::test]
async fn an_issuer_may_rotate_its_keys_stall_and_go_down() {
    let (first, second) = (Signer::es256("one"), Signer::rsa("two", Algorithm::RS256));
    let (remote, keys) = issuer(&[&first]).await;
    let mappings = "{username: {claim: sub, prefix: ''}}";
    // It does not answer when the server starts, which starts all the same.
    remote.stalls.store(true, Ordering::SeqCst);
    let (it, _folder) = fixture(&configuration(&remote, mappings, "")).await;
    let old = first.sign(&claims(&remote, json!({})));
    let why = it.token_review(&old, &[]).await["error"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("is not initialized"), "{why}");
    assert_eq!(it.get("/readyz").await.code, 200);
    remote.stalls.store(false, Ordering::SeqCst);
    assert_eq!(it.known(&old).await["username"], "jane");

    // A key that was not there before is found, in every form that RSA has.
    *keys.lock().expect("no panic") = vec![first.published(), second.published()];
    let new = second.sign(&claims(&remote, json!({})));
    assert_eq!(it.known(&new).await["username"], "jane");
    for algorithm in [Algorithm::RS384, Algorithm::PS256, Algorithm::PS512] {
        let mut other = Signer::rsa("three", algorithm).published();
        // As issuers publish keys for several algorithms.
        other.as_object_mut().expect("an object").remove("alg");
        *keys.lock().expect("no panic") = vec![other];
        it.known(&Signer::rsa("three", algorithm).sign(&claims(&remote, json!({})))).await;
    }

    // Keys are asked for at most once a second, however many tokens come that nobody signed.
    *keys.lock().expect("no panic") = vec![first.published()];
    let before = remote.calls();
    let began = Instant::now();
    let strange = Signer::es256("strange").sign(&claims(&remote, json!({})));
    for _ in 0..50 {
        assert_eq!(it.whoami(&strange).await.0, 401);
    }
    let most = began.elapsed().as_secs() as usize + 2;
    assert!(remote.calls() - before <= most, "{} calls", remote.calls() - before);

    // While it stalls, and when it is gone, known keys do.
    assert_eq!(it.known(&old).await["username"], "jane");
    remote.stalls.store(true, Ordering::SeqCst);
    let began = Instant::now();
    assert_eq!(it.whoami(&old).await.0, 201);
    assert!(began.elapsed() < Duration::from_secs(1));
    drop(remote);
    assert_eq!(it.whoami(&old).await.0, 201);
    assert_eq!(it.get("/readyz").await.code, 200);
}

#[tokio::test]
async fn nobody_is_admitted_only_where_that_is_said() {
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous:\n  enabled: true\n  \
                conditions: [{path: /version}, {path: /apis}]\n";
    let (it, _folder) = fixture(text).await;
    let call = async |path: &str, authorization: Option<&str>| {
        let mut request = Request::get(path);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let request = request.body(Body::empty()).expect("a request");
        let answer = router(it.server.app.clone()).oneshot(request).await;
        read(answer.unwrap_or_else(|never| match never {})).await
    };
    assert_eq!(call("/version", None).await.code, 200);
    // Known as nobody, who may not.
    let answer = call("/apis", None).await;
    assert_eq!(
        (answer.code, answer.message()),
        (403, "forbidden: User \"system:anonymous\" cannot get path \"/apis\"")
    );
    assert_eq!(call("/api", None).await.code, 401);
    // Bad credentials are not none.
    assert_eq!(call("/version", Some("Bearer nonsense")).await.code, 401);
    let plain = Fixture::new().await;
    let request = Request::get("/version").body(Body::empty()).expect("a request");
    let answer = router(plain.server.app.clone()).oneshot(request).await;
    assert_eq!(answer.unwrap_or_else(|never| match never {}).status(), 401);
}

#[tokio::test]
async fn a_webhook_and_a_file_tell_whose_tokens_are() {
    let remote = Remote::new(|_, headers, body| {
        let review: Value = serde_json::from_slice(body).expect("a review");
        assert_eq!(headers["authorization"], "Bearer caller");
        assert_eq!(review["kind"], "TokenReview");
        let user = json!({"username": "eve", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}});
        let status = match review["spec"]["token"].as_str() {
            Some("good") => json!({"authenticated": true, "user": user}),
            Some("for-others") => {
                json!({"authenticated": true, "user": user, "audiences": ["others"]})
            }
            Some("bad") => json!({"authenticated": false, "error": "it is bad"}),
            Some("broken") => return (500, json!({})),
            _ => json!({"authenticated": false}),
        };
        (
            200,
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}),
        )
    });
    let remote = remote.await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("ca.pem"), &remote.ca).expect("a file");
    let kubeconfig = folder.path().join("webhook.yaml");
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {{server: '{}/review', certificate-authority: ca.pem}}\n\
         users:\n- name: u\n  user: {{token: caller}}\ncontexts:\n- name: x\n  context: {{cluster: c, user: u}}\ncurrent-context: x\n",
        remote.url()
    );
    std::fs::write(&kubeconfig, text).expect("a file");
    let tokens = folder.path().join("tokens.csv");
    std::fs::write(&tokens, "# who\nt1,max,m1,\"a,b\"\nt2,\"mo \"\"x\"\"\",m2\n").expect("a file");
    let it = Fixture::with(|config| {
        (config.controllers, config.scheduler) = (false, false);
        config.authentication.webhook = Some(kubeconfig);
        config.authentication.token_file = Some(tokens);
    });
    let it = it.await;
    let (code, who) = it.whoami("good").await;
    assert_eq!(code, 201);
    let expected = json!({"username": "eve", "uid": "7", "groups": ["g", "system:authenticated"], "extra": {"k": ["v"]}});
    assert_eq!(who, expected);
    let calls = remote.calls();
    assert_eq!(it.whoami("good").await.1, expected);
    assert_eq!(remote.calls(), calls, "answers are remembered");
    for refused in ["for-others", "bad", "unknown"] {
        assert_eq!(it.whoami(refused).await.0, 401, "{refused}");
    }
    assert_eq!(it.token_review("bad", &[]).await["error"], "[invalid bearer token, it is bad]");
    let calls = remote.calls();
    assert_eq!(it.whoami("broken").await.0, 401);
    assert_eq!(remote.calls() - calls, 5, "it is asked again");
    assert_eq!(it.whoami("t1").await.1["groups"], json!(["a", "b", "system:authenticated"]));
    assert_eq!(it.whoami("t2").await.1["username"], "mo \"x\"");
}
