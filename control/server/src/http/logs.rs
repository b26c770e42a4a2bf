//! `pods/log`: which container of which node's agent is meant, and its bytes passed on as they come.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use axum::body::Body;
use axum::response::Response;
use coracle_api::tunnel::DIAL;
use coracle_api::{ApiError, Object, kinds};
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::answer::{Answer, body_response, text};
use super::request::{Query, RequestInfo};
use super::{App, connect};
use crate::cache::Cache;
use crate::tunnels::{Address, Connector, Tunnels};

/// How much of an agent's error is passed on.
pub(crate) const ERROR_LIMIT: usize = 64 << 10;
/// Parameters that are the agent's business.
const PASSED_ON: &[&str] = &[
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "stream",
];

/// Calls agents' kubelet API. An agent is called by its node's name, which its certificate is for: whoever answers at
/// the address that a node reports, or through its tunnel, must be that node.
#[derive(Clone)]
pub(crate) struct Kubelets {
    cache: Cache,
    tunnels: Tunnels,
    /// Made anew with the certificate that it shows.
    client: Arc<RwLock<HttpsClient>>,
}

pub(super) type HttpsClient = Client<HttpsConnector<Connector>, Body>;

impl Kubelets {
    pub(crate) fn new(tls: rustls::ClientConfig, cache: Cache) -> Self {
        let tunnels = Tunnels::default();
        let client = Arc::new(RwLock::new(Self::connected(tls, cache.clone(), tunnels.clone())));
        Self { cache, tunnels, client }
    }

    /// The ways that agents have opened.
    pub(crate) fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// Calls agents by their nodes' names.
    pub(super) fn client(&self) -> HttpsClient {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls with another certificate from now on; what is under way goes on.
    pub(crate) fn renew(&self, tls: rustls::ClientConfig) {
        let client = Self::connected(tls, self.cache.clone(), self.tunnels.clone());
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn connected(tls: rustls::ClientConfig, cache: Cache, tunnels: Tunnels) -> HttpsClient {
        let address: Address = Arc::new(move |node: &str| {
            let found = kubelet_address(&cache, node).map_err(io::Error::other);
            found.map(SocketAddr::from)
        });
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .wrap_connector(Connector { tunnels, address });
        Client::builder(TokioExecutor::new()).build(https)
    }
}

impl Kubelets {
    /// A connection to a port of a Pod, made by its node's agent.
    pub(crate) async fn dial(
        &self,
        node: &str,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> io::Result<Upgraded> {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(DIAL));
        let path = format!("/dial/{namespace}/{pod}?port={port}");
        let request = request(&self.cache, node, Method::GET, &path, headers);
        let answer = send(self, node, request.map_err(io::Error::other)?).await;
        let answer = answer.map_err(io::Error::other)?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return hyper::upgrade::on(answer).await.map_err(io::Error::other);
        }
        let said = axum::body::to_bytes(Body::new(answer.into_body()), ERROR_LIMIT).await;
        let said = String::from_utf8_lossy(&said.unwrap_or_default()).trim().to_owned();
        Err(io::Error::other(said))
    }
}

/// GET of a Pod's log, by plain HTTP or over WebSocket.
pub(crate) async fn get(app: &App, info: &RequestInfo, parts: &Parts) -> Answer {
    let registry = &app.registry;
    registry.catch_up().await?;
    let missing = || ApiError::not_found(&kinds::POD, &info.name);
    let pod = registry.cache.get(&kinds::POD, &info.namespace, &info.name).ok_or_else(missing)?;
    let container = container(&pod, info.query.get("container"))?;
    let Some(node) = &pod.node_name else {
        // Nothing has run yet, so nothing has been said.
        return Ok(text(200, ""));
    };
    let path = format!(
        "/containerLogs/{}/{}/{container}{}",
        info.namespace,
        info.name,
        passed_on(&info.query)
    );
    if connect::is_websocket(&parts.headers) {
        return connect::pass_on(app, node, &path, parts).await;
    }
    let request = request(&registry.cache, node, Method::GET, &path, HeaderMap::new())?;
    let response = send(&app.kubelets, node, request).await?;
    let status = response.status();
    if status.is_success() {
        return Ok(body_response(200, "text/plain", Body::new(response.into_body())));
    }
    let body = axum::body::to_bytes(Body::new(response.into_body()), ERROR_LIMIT).await;
    Ok(refused(status.as_u16(), &String::from_utf8_lossy(&body.unwrap_or_default()))?)
}

/// A request to a path of a node's kubelet API.
pub(crate) fn request(
    cache: &Cache,
    node: &str,
    method: Method,
    path: &str,
    headers: HeaderMap,
) -> Result<Request<Body>, ApiError> {
    let (_, port) = kubelet_address(cache, node)?;
    let uri = format!("https://{node}:{port}{path}");
    let uri: Uri = uri.parse().map_err(ApiError::internal)?;
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// A node's answer.
pub(crate) async fn send(
    kubelets: &Kubelets,
    node: &str,
    request: Request<Body>,
) -> Result<http::Response<Incoming>, ApiError> {
    let (ip, port) = kubelet_address(&kubelets.cache, node)?;
    kubelets.client().request(request).await.map_err(|error| {
        ApiError::internal(format!(
            "the agent of node \"{node}\" at {ip}:{port} does not answer: {}",
            causes(&error)
        ))
    })
}

/// What the agent says is wrong, as a Status.
fn refused(code: u16, said: &str) -> Result<Response, ApiError> {
    let status: Option<Value> = serde_json::from_str(said).ok();
    let message = status.as_ref().and_then(|s| s["message"].as_str()).unwrap_or(said.trim());
    let reason = match code {
        400 => "BadRequest",
        403 => "Forbidden",
        404 => "NotFound",
        _ => "InternalError",
    };
    Err(ApiError::new(code, reason, message))
}

/// Which container of a Pod is meant: the one asked for, or the only one, or the one that is marked as the default.
pub(crate) fn container(pod: &Object, asked: Option<&str>) -> Result<String, ApiError> {
    let tree = pod.value();
    let names = |field: &str| -> Vec<String> {
        let list = tree["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let (own, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let name = &pod.meta.name;
    if let Some(asked) = asked {
        let known = [&own, &init, &ephemeral].into_iter().any(|l| l.iter().any(|c| c == asked));
        return if known {
            Ok(asked.to_owned())
        } else {
            Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")))
        };
    }
    let preferred = pod.meta.annotations.get("kubectl.kubernetes.io/default-container");
    match own.as_slice() {
        [only] if init.is_empty() && ephemeral.is_empty() => Ok(only.clone()),
        _ if preferred.is_some_and(|p| own.contains(p)) => {
            Ok(preferred.cloned().unwrap_or_default())
        }
        [only] if init.is_empty() => Ok(only.clone()),
        _ => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                own.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(ApiError::bad_request(message))
        }
    }
}

/// An error with what caused it, which the client keeps apart.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// An address before a port.
pub(super) fn in_authority(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// Where a node says that its kubelet API is.
pub(super) fn kubelet_address(cache: &Cache, node: &str) -> Result<(IpAddr, u16), ApiError> {
    let object =
        cache.get(&kinds::NODE, "", node).ok_or_else(|| ApiError::not_found(&kinds::NODE, node))?;
    let status = object.value()["status"].take();
    let address = |wanted: &str| {
        let list = status["addresses"].as_array()?;
        list.iter().find(|a| a["type"] == wanted)?["address"].as_str().map(str::to_owned)
    };
    let host = ["InternalIP", "ExternalIP"]
        .into_iter()
        .find_map(address)
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| ApiError::internal(format!("node \"{node}\" reports no address")))?;
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .ok_or_else(|| ApiError::internal(format!("node \"{node}\" reports no kubelet port")))?;
    Ok((host, port))
}

fn passed_on(asked: &Query) -> String {
    let passed = PASSED_ON.iter().filter_map(|name| Some((*name, asked.get(name)?.to_owned())));
    query(&passed.collect::<Vec<_>>())
}

/// A query, with its question mark.
pub(crate) fn query(pairs: &[(&str, String)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        out.push(if out.is_empty() { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' => {
                    out.push(char::from(byte));
                }
                other => out.push_str(&format!("%{other:02X}")),
            }
        }
    }
    out
}
