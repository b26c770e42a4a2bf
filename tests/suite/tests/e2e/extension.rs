//! An API server of the cluster's users, behind the cluster's: a real one over TLS, which believes what it is told of callers
//! because of the certificate that the ConfigMap for extensions names, used with `kubectl`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle_test_cluster::{Cluster, eventually};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::access::as_stranger;
use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect};

const GROUP: &str = "/apis/sea.example.com/v1";
const BOATS: &str = "/apis/sea.example.com/v1/namespaces/default/boats";

type Boats = Arc<Mutex<BTreeMap<String, Value>>>;

/// Keeps boats, and writes on each who made it.
struct Extension {
    port: u16,
    ca: String,
    serving: JoinHandle<()>,
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Extension {
    async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let known = ["-n", "kube-system", "configmap", "extension-apiserver-authentication"];
        let known = cluster.get(&known).await?;
        let callers = known["data"]["requestheader-client-ca-file"].as_str().context("no CA")?;
        let mut roots = RootCertStore::empty();
        roots.add(rustls_pki_types::CertificateDer::from_pem_slice(callers.as_bytes())?)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let leaf =
            CertificateParams::new(vec!["boats.default.svc".to_owned()])?.signed_by(&key, &ca)?;
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der());
        let key = key.map_err(|why| anyhow::anyhow!(why))?;
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
        let tls = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
        let mut tls = tls.with_single_cert(vec![leaf.der().clone()], key)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let boats = Boats::default();
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, boats) = (acceptor.clone(), boats.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request| {
                        let boats = boats.clone();
                        async move { Ok::<_, Infallible>(answer(request, &boats).await) }
                    });
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { port, ca: STANDARD.encode(ca.pem()), serving })
    }

    /// What `kubectl apply` makes it known with.
    fn manifest(&self) -> String {
        let Self { port, ca, .. } = self;
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: boats}}
spec: {{ports: [{{name: tls, port: 443}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: boats, labels: {{kubernetes.io/service-name: boats}}}}
addressType: IPv4
endpoints: [{{addresses: [127.0.0.1]}}]
ports: [{{name: tls, port: {port}}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: v1.sea.example.com}}
spec:
  group: sea.example.com
  version: v1
  groupPriorityMinimum: 2000
  versionPriority: 10
  service: {{namespace: default, name: boats}}
  caBundle: {ca}
"
        )
    }
}

async fn answer(request: Request<Incoming>, boats: &Boats) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let who = parts.headers.get("x-remote-user").and_then(|who| who.to_str().ok());
    let mut boats = boats.lock().unwrap_or_else(PoisonError::into_inner);
    let missing = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
        "message": "there is no such boat"});
    let path = parts.uri.path();
    let (code, value) = if path == GROUP {
        let verbs = ["create", "delete", "get", "list"];
        let boats = json!({"name": "boats", "singularName": "boat", "namespaced": true, "kind": "Boat",
            "shortNames": ["bo"], "verbs": verbs});
        let all = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "sea.example.com/v1",
            "resources": [boats]});
        (StatusCode::OK, all)
    } else if path == BOATS && parts.method == Method::POST {
        let mut boat: Value = serde_json::from_slice(&body).unwrap_or_default();
        boat["metadata"]["annotations"] = json!({"made-by": who});
        boat["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        let name = boat["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        boats.insert(name, boat.clone());
        (StatusCode::CREATED, boat)
    } else if path == BOATS {
        let items: Vec<&Value> = boats.values().collect();
        let list = json!({"kind": "BoatList", "apiVersion": "sea.example.com/v1", "metadata": {}, "items": items});
        (StatusCode::OK, list)
    } else {
        let name = path.strip_prefix(BOATS).unwrap_or_default().trim_start_matches('/');
        let found = match parts.method {
            Method::DELETE => boats.remove(name),
            _ => boats.get(name).cloned(),
        };
        found.map_or((StatusCode::NOT_FOUND, missing), |boat| (StatusCode::OK, boat))
    };
    let mut answer = Response::new(Full::from(value.to_string()));
    *answer.status_mut() = code;
    let json = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
    answer
}

pub(crate) async fn kubectl_uses_it_like_any_other(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let extension = Extension::start(&cluster).await?;
    cluster.apply(&extension.manifest()).await?;
    let api = "apiservice/v1.sea.example.com";
    let wait = ["wait", "--for=condition=Available", api, "--timeout=60s"];
    cluster.kubectl(&wait).await?;
    let listed = cluster.kubectl(&["get", "apiservices"]).await?;
    let row = listed.lines().find(|line| line.starts_with("v1.sea.example.com"));
    expect(row.context("it is not listed")?, &["default/boats", "True"])?;
    let kinds = cluster.kubectl(&["api-resources", "--api-group=sea.example.com"]).await?;
    expect(&kinds, &["boats", "bo", "sea.example.com/v1", "true", "Boat"])?;

    let boat = "apiVersion: sea.example.com/v1\nkind: Boat\nmetadata: {name: currach}\n";
    let create = ["create", "--validate=false", "-f", "-"];
    expect(&cluster.kubectl_with(&create, boat).await?.ok()?, &["boat.sea.example.com/currach"])?;
    expect(&cluster.kubectl(&["get", "boats"]).await?, &["NAME", "currach"])?;
    let boat = cluster.get(&["bo", "currach"]).await?;
    let maker = boat["metadata"]["annotations"]["made-by"].as_str().context("nobody made it")?;
    let me = cluster.kubectl(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]);
    anyhow::ensure!(maker == me.await?, "{maker}");

    // Rights in it are given as in every group.
    cluster.kubectl(&["create", "serviceaccount", "robot"]).await?;
    let token = cluster.kubectl(&["create", "token", "robot"]).await?;
    let robot = ["--token", token.trim()];
    let denied = as_stranger(&cluster, &robot, &["get", "boats"]).await?.refused()?;
    let why = "cannot list resource \"boats\" in API group \"sea.example.com\" in the namespace \"default\"";
    expect(&denied, &[why])?;
    let role = ["create", "role", "looks", "--verb=list", "--resource=boats.sea.example.com"];
    cluster.kubectl(&role).await?;
    let binding = ["create", "rolebinding", "looks", "--role=looks"];
    let robot_account = ["--serviceaccount=default:robot"];
    cluster.kubectl(&[&binding[..], &robot_account].concat()).await?;
    expect(&as_stranger(&cluster, &robot, &["get", "boats"]).await?.ok()?, &["currach"])?;

    expect(&cluster.kubectl(&["delete", "boat", "currach", "--wait=false"]).await?, &["deleted"])?;
    let gone = cluster.kubectl_with(&["get", "boat", "currach"], "").await?.refused()?;
    expect(&gone, &["there is no such boat"])?;

    // It is away, and says so; the rest goes on.
    drop(extension);
    eventually(SOON, "its absence is seen", async || {
        let refused = cluster.kubectl_with(&["get", "--raw", BOATS], "").await?.refused()?;
        expect(&refused, &["the server is currently unable to handle the request"])?;
        let row = cluster.kubectl(&["get", "apiservice", "v1.sea.example.com"]).await?;
        expect(&row, &["False (FailedDiscoveryCheck)"])
    })
    .await?;
    cluster.kubectl(&["get", "pods"]).await?;
    cluster.kubectl(&["delete", "apiservice", "v1.sea.example.com"]).await?;
    let none = cluster.kubectl_with(&["get", "--raw", BOATS], "").await?.refused()?;
    expect(&none, &["the server could not find the requested resource"])?;
    let kinds = cluster.kubectl(&["api-resources", "--cached=false"]).await?;
    anyhow::ensure!(!kinds.contains("boats"), "{kinds}");
    Ok(())
}
