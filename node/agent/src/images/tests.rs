//! Pulls from a registry of this test's own, which can be made to misbehave.

mod containers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::PoisonError;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;

const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// How a registry treats requests for blobs.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
enum Manner {
    #[default]
    Well,
    /// Breaks off after so many bytes, and goes on where asked to.
    Breaks(usize),
    /// The same, but only ever begins anew; well from the third time on.
    BreaksWithoutRanges(usize),
    /// Sends other bytes.
    Lies,
    /// Never ends.
    Endless,
    /// Ends early, every time at the same byte.
    Short(usize),
    /// Sends everybody elsewhere.
    Redirects(SocketAddr),
}

#[derive(Default)]
struct Fake {
    manifests: BTreeMap<String, Value>,
    blobs: BTreeMap<String, Bytes>,
    manner: Manner,
    /// Header that is wanted, and the challenge that says so.
    guard: Option<(String, String)>,
    /// What a request for a token must carry, and the token.
    token: Option<(String, String)>,
    requests: Vec<String>,
    headers: Vec<HeaderMap>,
}

#[derive(Clone, Default)]
struct Registry(Arc<Mutex<Fake>>);

impl Registry {
    async fn start(self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(serve).with_state(self);
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    fn with<T>(&self, change: impl FnOnce(&mut Fake) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, reference: &str, content: &[u8]) -> String {
        let layer = digest(content);
        self.with(|fake| {
            fake.blobs.insert(layer.clone(), Bytes::copy_from_slice(content));
            fake.manifests.insert(
                reference.to_owned(),
                json!({
                    "schemaVersion": 2, "mediaType": manifest::MANIFEST,
                    "config": {"mediaType": manifest::WASM_CONFIG, "digest": digest(b"{}"), "size": 2},
                    "layers": [{"mediaType": "application/wasm", "digest": layer, "size": content.len()}],
                }),
            );
        });
        layer
    }

    fn requests(&self) -> Vec<String> {
        self.with(|fake| std::mem::take(&mut fake.requests))
    }
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(content)))
}

async fn serve(State(registry): State<Registry>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let range = request.headers().get(header::RANGE).and_then(|r| r.to_str().ok());
    let from =
        range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let wanted = request.headers().get(header::AUTHORIZATION).and_then(|a| a.to_str().ok());
    let wanted = wanted.unwrap_or_default().to_owned();
    registry.with(|fake| {
        let line =
            from.map_or(format!("{method} {path}"), |from| format!("{method} {path} from {from}"));
        fake.requests.push(line);
        fake.headers.push(request.headers().clone());
        if path == "/token" {
            return match &fake.token {
                Some((needed, token)) if *needed == wanted => {
                    axum::Json(json!({"token": token})).into_response()
                }
                _ => StatusCode::UNAUTHORIZED.into_response(),
            };
        }
        if let Some((needed, challenge)) = &fake.guard
            && *needed != wanted
        {
            let headers = [(header::WWW_AUTHENTICATE, challenge.clone())];
            return (StatusCode::UNAUTHORIZED, headers).into_response();
        }
        if let Some((_, reference)) = path.split_once("/manifests/") {
            let found = fake
                .manifests
                .values()
                .map(Value::to_string)
                .find(|text| digest(text.as_bytes()) == reference);
            let text = fake.manifests.get(reference).map(Value::to_string).or(found);
            let Some(text) = text else { return StatusCode::NOT_FOUND.into_response() };
            let headers = [("docker-content-digest", digest(text.as_bytes()))];
            return match method {
                Method::HEAD => headers.into_response(),
                _ => (headers, text).into_response(),
            };
        }
        let blob =
            path.split_once("/blobs/").and_then(|(_, digest)| fake.blobs.get(digest)).cloned();
        let Some(blob) = blob else { return StatusCode::NOT_FOUND.into_response() };
        send(fake, &path, blob, from)
    })
}

/// A body that ends well, or breaks off when its bytes are on their way.
fn broken_off(sent: Bytes, whole: bool) -> Body {
    use futures::StreamExt as _;
    let first = futures::stream::iter([Ok(sent)]);
    let error = futures::stream::once(async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(std::io::Error::other("cut"))
    });
    Body::from_stream(first.chain(error).take(2 - usize::from(whole)))
}

fn send(fake: &mut Fake, path: &str, blob: Bytes, from: Option<usize>) -> Response {
    let ranged = |blob: Bytes, cut: usize| {
        let start = from.unwrap_or(0);
        let rest = blob.slice(start..);
        let sent = rest.slice(..cut.min(rest.len()));
        let whole = sent.len() == rest.len();
        let mut response = broken_off(sent, whole).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, rest.len().into());
        if from.is_some() {
            let range = format!("bytes {start}-{}/{}", blob.len() - 1, blob.len());
            headers.insert(header::CONTENT_RANGE, range.parse().unwrap());
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    };
    match fake.manner {
        Manner::Well => ranged(blob, usize::MAX),
        Manner::Breaks(bytes) => ranged(blob, bytes),
        Manner::BreaksWithoutRanges(bytes) => {
            let asked = fake.requests.iter().filter(|r| r.contains("/blobs/")).count();
            let cut = if asked < 3 { bytes } else { usize::MAX };
            let sent = blob.slice(..cut.min(blob.len()));
            let whole = sent.len() == blob.len();
            ([(header::CONTENT_LENGTH, blob.len())], broken_off(sent, whole)).into_response()
        }
        Manner::Lies => vec![7; blob.len()].into_response(),
        Manner::Endless => {
            let piece = Bytes::from(vec![0; 64 << 10]);
            let pieces =
                futures::stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()));
            Body::from_stream(pieces).into_response()
        }
        Manner::Short(bytes) => blob.slice(..bytes.min(blob.len())).into_response(),
        Manner::Redirects(to) => {
            let headers = [(header::LOCATION, format!("http://{to}{path}"))];
            (StatusCode::TEMPORARY_REDIRECT, headers).into_response()
        }
    }
}

struct Node {
    folder: tempfile::TempDir,
    images: Images,
    address: SocketAddr,
}

impl Node {
    async fn of(registry: &Registry) -> Self {
        let address = registry.clone().start().await;
        let folder = tempfile::tempdir().unwrap();
        let images = open(&folder);
        Self { folder, images, address }
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    async fn pull(&self, rest: &str, policy: PullPolicy) -> Result<Pulled, String> {
        self.pull_with(rest, policy, Keyring::default()).await
    }

    async fn pull_with(
        &self,
        rest: &str,
        policy: PullPolicy,
        keyring: Keyring,
    ) -> Result<Pulled, String> {
        let name = self.name(rest);
        let wanted = Wanted { name: &name, policy, words: Words::default() };
        let pulled = self.images.ensure(wanted, async { keyring }, || {}).await;
        pulled.map_err(|error| format!("{}: {error}", error.reason()))
    }

    async fn fails(&self, rest: &str, parts: &[&str]) {
        let error = self.pull(rest, PullPolicy::IfNotPresent).await.unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }
}

fn open(folder: &tempfile::TempDir) -> Images {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // The cluster's own registry plays no part here: nobody listens.
    let config = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
    let client = kube::Client::try_from(config).unwrap();
    Images::open(folder.path().to_owned(), client, Config::default()).unwrap()
}

fn wasm(pulled: &Pulled) -> Image {
    match &pulled.workload {
        Workload::Wasm(image) => image.clone(),
        other => panic!("{other:?} is no Wasm"),
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 42_u64;
    let noise = std::iter::repeat_with(move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    });
    COMPONENT.iter().copied().chain(noise).take(bytes).collect()
}

fn keyring(host: &str, user: &str, password: &str) -> Keyring {
    let auths = json!({"auths": {host: {"username": user, "password": password}}});
    let secret = Secret {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some(format!("of-{user}")),
            ..Default::default()
        },
        type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
        data: Some([(".dockerconfigjson".to_owned(), ByteString(auths.to_string().into()))].into()),
        ..Secret::default()
    };
    let mut keyring = Keyring::default();
    keyring.add(&secret).unwrap();
    keyring
}

#[tokio::test]
async fn an_image_is_fetched_once() {
    let registry = Registry::default();
    let layer = registry.push("v1", COMPONENT);
    let node = Node::of(&registry).await;
    let pulls = (0..10).map(|_| node.pull("team/app:v1", PullPolicy::IfNotPresent));
    for pulled in futures::future::join_all(pulls).await {
        let pulled = pulled.unwrap();
        assert_eq!(std::fs::read(&wasm(&pulled).path).unwrap(), COMPONENT);
        assert_eq!((wasm(&pulled).digest, pulled.size), (layer.clone(), COMPONENT.len() as u64));
    }
    let blob = format!("GET /v2/team/app/blobs/{layer}");
    assert_eq!(registry.requests(), ["GET /v2/team/app/manifests/v1".to_owned(), blob]);
    // Here already; and with Always, nothing but the digest is asked for.
    assert!(node.pull("team/app:v1", PullPolicy::IfNotPresent).await.unwrap().took.is_none());
    assert!(node.pull("team/app:v1", PullPolicy::Never).await.unwrap().took.is_none());
    assert_eq!(registry.requests(), [] as [&str; 0]);
    assert!(node.pull("team/app:v1", PullPolicy::Always).await.unwrap().took.is_some());
    assert_eq!(registry.requests(), ["HEAD /v2/team/app/manifests/v1"]);
    // The tag means something else now: those who do not ask have the old one.
    let other = registry.push("v1", b"\0asm other");
    let old = node.pull("team/app:v1", PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(wasm(&old).digest, layer);
    let new = node.pull("team/app:v1", PullPolicy::Always).await.unwrap();
    assert_eq!(wasm(&new).digest, other);
    // A container that was pulled before starts from what was pulled.
    let name = node.name("team/app:v1");
    let started = node.images.by_digest(&name, &old.manifest_digest, Words::default()).await;
    assert_eq!(wasm(&started.unwrap()).digest, layer);
    let error = node.pull("team/app:v2", PullPolicy::Never).await.unwrap_err();
    assert!(error.starts_with("ErrImageNeverPull"), "{error}");
}

#[tokio::test]
async fn digests_are_asked_for_and_held_to() {
    let registry = Registry::default();
    let layer = registry.push("v1", COMPONENT);
    let node = Node::of(&registry).await;
    let manifest = registry.with(|fake| digest(fake.manifests["v1"].to_string().as_bytes()));
    let by_digest = format!("team/app:ignored@{manifest}");
    let pulled = node.pull(&by_digest, PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!((wasm(&pulled).digest, pulled.manifest_digest), (layer, manifest.clone()));
    // Something else under a digest's name.
    let wrong = digest(b"something else");
    registry.with(|fake| {
        let text = fake.manifests["v1"].clone();
        fake.manifests.insert(wrong.clone(), text);
    });
    let by_digest = format!("team/other@{wrong}");
    node.fails(&by_digest, &["ErrImagePull", "does not match what the registry sent"]).await;
    node.fails("team/app:v9", &["ErrImagePull", "not found in 127.0.0.1"]).await;
    node.fails("Team/App", &["InvalidImageName"]).await;
}

#[tokio::test]
async fn a_broken_fetch_goes_on() {
    let registry = Registry::default();
    let content = noise(1 << 20);
    registry.push("v1", &content);
    registry.with(|fake| fake.manner = Manner::Breaks(300 << 10));
    let node = Node::of(&registry).await;
    let pulled = node.pull("app:v1", PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(std::fs::read(wasm(&pulled).path).unwrap(), content);
    let resumed = registry.requests().iter().filter(|r| r.contains(" from ")).count();
    assert!((3..=6).contains(&resumed), "{resumed}");
    // A registry that knows no ranges.
    let content = noise((1 << 20) + 1);
    registry.push("v2", &content);
    registry.with(|fake| fake.manner = Manner::BreaksWithoutRanges(300 << 10));
    let pulled = node.pull("app:v2", PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(std::fs::read(wasm(&pulled).path).unwrap(), content);
}

#[tokio::test]
async fn a_fetch_goes_on_after_the_agents_end() {
    let registry = Registry::default();
    let content = noise(1 << 20);
    let layer = registry.push("v1", &content);
    registry.with(|fake| fake.manner = Manner::Short(200 << 10));
    let node = Node::of(&registry).await;
    node.fails("app:v1", &["ErrImagePull", "of 1048576 bytes"]).await;
    let part = node.folder.path().join("parts").join(layer.trim_start_matches("sha256:"));
    assert_eq!(std::fs::metadata(&part).unwrap().len(), 200 << 10);
    registry.requests();
    registry.with(|fake| fake.manner = Manner::Well);
    let node = Node { images: open(&node.folder), ..node };
    let pulled = node.pull("app:v1", PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(std::fs::read(wasm(&pulled).path).unwrap(), content);
    assert_eq!(registry.requests()[1], format!("GET /v2/app/blobs/{layer} from 204800"));
    // What lies there may be damaged: then it is fetched anew.
    let content = noise((1 << 20) + 2);
    let layer = registry.push("v2", &content);
    let part = node.folder.path().join("parts").join(layer.trim_start_matches("sha256:"));
    std::fs::write(part, vec![0; 100_000]).unwrap();
    let pulled = node.pull("app:v2", PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(std::fs::read(wasm(&pulled).path).unwrap(), content);
}

#[tokio::test]
async fn what_a_registry_should_not_send_is_refused() {
    let registry = Registry::default();
    let node = Node::of(&registry).await;
    for (tag, manner, wanted) in [
        ("lies", Manner::Lies, "does not match what the registry sent"),
        ("endless", Manner::Endless, "is longer than the 200000 bytes"),
    ] {
        registry.push(tag, &noise(200_000));
        registry.with(|fake| fake.manner = manner);
        node.fails(&format!("app:{tag}"), &["ErrImagePull", wanted]).await;
    }
    let left = std::fs::read_dir(node.folder.path().join("parts")).unwrap().count();
    assert_eq!(left, 0, "what is wrong is not kept");
    registry.with(|fake| {
        let gone = json!({"mediaType": "application/wasm", "digest": digest(b"gone"), "size": 4});
        let mut missing = fake.manifests["lies"].clone();
        missing["layers"] = json!([gone]);
        fake.manifests.insert("missing".to_owned(), missing);
        fake.manifests.insert("text".to_owned(), json!("no manifest"));
        // An index that names an index that names …
        let mut inner = fake.manifests["lies"].clone();
        for depth in 0..6 {
            let (name, text) = (format!("depth{depth}"), inner.to_string());
            fake.manifests.insert(name, inner);
            inner = json!({"schemaVersion": 2, "mediaType": manifest::INDEX, "manifests": [{
                "mediaType": manifest::INDEX, "digest": digest(text.as_bytes()), "size": text.len(),
                "platform": {"os": "wasip2", "architecture": "wasm"},
            }]});
        }
        fake.manner = Manner::Well;
    });
    node.fails("app:missing", &["ErrImagePull", "but does not have it"]).await;
    node.fails("app:text", &["CreateContainerError", "not readable"]).await;
    node.fails("app:depth5", &["CreateContainerError", "more than 3 deep"]).await;
    node.pull("app:depth2", PullPolicy::IfNotPresent).await.unwrap();
}

#[tokio::test]
async fn who_asks_matters() {
    let registry = Registry::default();
    registry.push("v1", COMPONENT);
    let node = Node::of(&registry).await;
    let host = node.address.to_string();
    let basic = |user, password| credentials::Credential::new(user, password).header();
    registry.with(|fake| fake.guard = Some((basic("ann", "right"), "Basic realm=x".to_owned())));
    node.fails("app:v1", &["ErrImagePull", "needs credentials", "imagePullSecrets"]).await;
    let policy = PullPolicy::IfNotPresent;
    let wrong = || keyring(&host, "ann", "wrong");
    let error = node.pull_with("app:v1", policy, wrong()).await.unwrap_err();
    assert!(error.contains("secret \"of-ann\"") && error.contains("401"), "{error}");
    assert!(!error.contains("wrong"), "{error}");
    let right = || keyring(&host, "ann", "right");
    node.pull_with("app:v1", policy, right()).await.unwrap();
    registry.requests();
    // It lies here now, for those who may have it: nobody is asked for them, and the others are refused.
    assert!(node.pull_with("app:v1", policy, right()).await.unwrap().took.is_none());
    assert_eq!(registry.requests(), [] as [&str; 0]);
    assert!(node.pull_with("app:v1", policy, wrong()).await.is_err());
    node.fails("app:v1", &["needs credentials"]).await;
    let never = node.pull_with("app:v1", PullPolicy::Never, wrong()).await.unwrap_err();
    assert!(never.contains("does not have the proper credentials"), "{never}");
    node.pull_with("app:v1", PullPolicy::Never, right()).await.unwrap();
    // The same after a restart, and once the registry gives it to anybody, to anybody.
    let node = Node { images: open(&node.folder), ..node };
    assert!(node.pull_with("app:v1", policy, right()).await.unwrap().took.is_none());
    node.fails("app:v1", &["needs credentials"]).await;
    registry.with(|fake| fake.guard = None);
    node.pull("app:v1", policy).await.unwrap();
    assert!(node.pull("app:v1", PullPolicy::Never).await.is_ok());
}

#[tokio::test]
async fn tokens_are_fetched_from_where_the_registry_says() {
    let registry = Registry::default();
    registry.push("v1", COMPONENT);
    let node = Node::of(&registry).await;
    let host = node.address.to_string();
    registry.with(|fake| {
        let basic = credentials::Credential::new("ann", "right").header();
        fake.token = Some((basic, "t0ken".to_owned()));
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
        fake.guard = Some(("Bearer t0ken".to_owned(), challenge));
    });
    let policy = PullPolicy::IfNotPresent;
    node.fails("app:v1", &["needs credentials"]).await;
    let right = keyring(&host, "ann", "right");
    node.pull_with("app:v1", policy, right).await.unwrap();
    let requests = registry.requests();
    let tokens = requests.iter().filter(|r| r.starts_with("GET /token")).count();
    // One without and one with credentials: the token serves for all of a pull.
    assert_eq!(tokens, 2, "{requests:?}");
}

#[tokio::test]
async fn a_redirect_does_not_carry_credentials_elsewhere() {
    let registry = Registry::default();
    let layer = registry.push("v1", COMPONENT);
    let elsewhere = Registry::default();
    elsewhere.push("v1", COMPONENT);
    let other = elsewhere.clone().start().await;
    let node = Node::of(&registry).await;
    registry.with(|fake| {
        let basic = credentials::Credential::new("ann", "right").header();
        fake.guard = Some((basic, "Basic realm=x".to_owned()));
        fake.manner = Manner::Redirects(other);
    });
    let right = keyring(&node.address.to_string(), "ann", "right");
    node.pull_with("app:v1", PullPolicy::IfNotPresent, right).await.unwrap();
    assert_eq!(elsewhere.requests(), [format!("GET /v2/app/blobs/{layer}")]);
    let headers = elsewhere.with(|fake| fake.headers.clone());
    assert!(headers.iter().all(|all| !all.contains_key(header::AUTHORIZATION)), "{headers:?}");
    // In circles, it ends.
    registry.with(|fake| fake.manner = Manner::Redirects(node.address));
    registry.push("v2", b"\0asm two");
    let right = keyring(&node.address.to_string(), "ann", "right");
    let error = node.pull_with("app:v2", PullPolicy::IfNotPresent, right).await.unwrap_err();
    assert!(error.contains("redirects more than"), "{error}");
}
