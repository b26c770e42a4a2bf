//! Whether one of the API servers behind this one is there, and what it serves: upstream's availability controller, in its order
//! and its words.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_api::json::Json as _;
use coracle_api::{Cluster, kinds};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::header::ACCEPT;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};

use super::front_proxy::identify;
use super::remote::Remote;
use crate::auth::{Identity, MASTERS};
use crate::cache::Cache;
use crate::reach::SERVICE_NAME;
use crate::registry::cause;

/// How long one answer may take, and how many are waited for before one of these is said not to be there.
const TIME: Duration = Duration::from_secs(5);
const ATTEMPTS: usize = 5;
/// Bytes of an answer that are read here.
const LONGEST: usize = 8 << 20;

/// What was found out.
#[derive(Debug, Clone)]
pub(super) struct Found {
    status: &'static str,
    reason: &'static str,
    message: String,
    /// What it serves; none if it did not say.
    pub(super) resources: Option<Arc<Vec<Value>>>,
    /// What its OpenAPI document is known by.
    pub(super) openapi: Option<String>,
}

impl Found {
    fn missing(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message, resources: None, openapi: None }
    }

    /// Of an APIService that this server answers for itself.
    pub(super) fn local() -> Self {
        let message = "Local APIServices are always available".to_owned();
        Self { status: "True", reason: "Local", message, resources: None, openapi: None }
    }

    pub(super) fn available(&self) -> bool {
        self.status == "True"
    }

    /// The conditions of an APIService with this among them; none if nothing changes.
    pub(super) fn among(&self, conditions: &[Value], now: &str) -> Option<Vec<Value>> {
        let known = conditions.iter().find(|c| c["type"] == "Available");
        let same = |field: &str, value: &str| known.is_some_and(|known| known[field] == value);
        if same("status", self.status)
            && same("reason", self.reason)
            && same("message", &self.message)
        {
            return None;
        }
        let since = match known {
            Some(known) if known["status"] == self.status => known["lastTransitionTime"].clone(),
            _ => now.into(),
        };
        let told = json!({
            "type": "Available",
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "lastTransitionTime": since,
        });
        let others = conditions.iter().filter(|c| c["type"] != "Available");
        Some(others.cloned().chain([told]).collect())
    }
}

/// Looks for its Service and endpoints, then asks it what it serves.
pub(super) async fn check(cache: &Cache, remote: &Remote) -> Found {
    if let Some(missing) = missing(&cache.read(), remote) {
        return missing;
    }
    let mut answer = discovery(remote).await;
    if answer.is_err() {
        // One of several endpoints may be at fault.
        let mut others: FuturesUnordered<_> = (1..ATTEMPTS).map(|_| discovery(remote)).collect();
        while let Some(other) = others.next().await {
            answer = other;
            if answer.is_ok() {
                break;
            }
        }
    }
    match answer {
        Err(why) => Found::missing("FailedDiscoveryCheck", why),
        Ok(body) => {
            let list: Option<Value> = serde_json::from_slice(&body).ok();
            let resources = list.map(|mut list| match list["resources"].take() {
                Value::Array(resources) => resources,
                _ => Vec::new(),
            });
            Found {
                status: "True",
                reason: "Passed",
                message: "all checks passed".to_owned(),
                resources: resources.map(Arc::new),
                openapi: openapi(remote).await,
            }
        }
    }
}

/// What keeps it from being asked at all.
fn missing(cluster: &Cluster, remote: &Remote) -> Option<Found> {
    let (namespace, name, port) = &remote.service;
    let Some(service) = cluster.get(&kinds::SERVICE, namespace, name) else {
        let why = format!("service/{name} in \"{namespace}\" is not present");
        return Some(Found::missing("ServiceNotFound", why));
    };
    let service = service.value();
    if service.text(&["spec", "type"]) != "ClusterIP" {
        return None;
    }
    let ports = service.list(&["spec", "ports"]);
    let Some(wanted) = ports.iter().find(|p| p.int(&["port"]) == Some((*port).into())) else {
        let why = format!("service/{name} in \"{namespace}\" is not listening on port {port}");
        return Some(Found::missing("ServicePortError", why));
    };
    let mut slices = cluster
        .list_in(&kinds::ENDPOINT_SLICE, namespace)
        .filter(|slice| slice.meta.labels.get(SERVICE_NAME).is_some_and(|of| of == name))
        .peekable();
    if slices.peek().is_none() {
        let why = format!("cannot find endpointslices for service/{name} in \"{namespace}\"");
        return Some(Found::missing("EndpointsNotFound", why));
    }
    let port = wanted.text(&["name"]);
    let is_ready = |endpoint: &Value| {
        endpoint.at(&["conditions", "ready"]) != Some(&Value::Bool(false))
            && !endpoint.list(&["addresses"]).is_empty()
    };
    let has = slices.any(|slice| {
        let slice = slice.value();
        slice.list(&["ports"]).iter().any(|p| p.text(&["name"]) == port)
            && slice.list(&["endpoints"]).iter().any(is_ready)
    });
    (!has).then(|| {
        let why = format!(
            "endpoints for service/{name} in \"{namespace}\" have no addresses with port name \"{port}\""
        );
        Found::missing("MissingEndpoints", why)
    })
}

async fn discovery(remote: &Remote) -> Result<Bytes, String> {
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let url = remote.uri(&path)?;
    let failed = |why: String| format!("failing or missing response from {url}: {why}");
    let (status, body) = ask(remote, Method::GET, &path).await.map_err(failed)?;
    if status.is_success() {
        return Ok(body);
    }
    Err(failed(format!("bad status from {url}: {}", status.as_u16())))
}

/// What its document of the group and version is known by, if it has one.
async fn openapi(remote: &Remote) -> Option<String> {
    let (status, body) = ask(remote, Method::GET, "/openapi/v3").await.ok()?;
    let index: Value = serde_json::from_slice(&body).ok().filter(|_| status.is_success())?;
    let path = format!("apis/{}/{}", remote.group, remote.version);
    let address = index["paths"][path]["serverRelativeURL"].as_str()?;
    let (_, hash) = address.split_once("hash=")?;
    let hash = hash.split('&').next().unwrap_or_default();
    let plain = hash.bytes().all(|byte| byte.is_ascii_alphanumeric()) && hash.len() <= 256;
    plain.then(|| hash.to_owned())
}

/// A request of this server's own, and all of the answer.
///
/// # Errors
/// In Go's words, which people search for.
pub(super) async fn ask(
    remote: &Remote,
    method: Method,
    path: &str,
) -> Result<(StatusCode, Bytes), String> {
    let uri = remote.uri(path)?;
    let verb = match method {
        Method::DELETE => "Delete",
        _ => "Get",
    };
    let failed = |why: String| format!("{verb} \"{uri}\": {why}");
    let (client, _) = remote.clients().map_err(failed)?;
    let who = Identity {
        user: "system:kube-aggregator".to_owned(),
        groups: vec![MASTERS.to_owned()],
        ..Identity::default()
    };
    let mut headers: HeaderMap = identify(&who)?;
    headers.insert(ACCEPT, http::HeaderValue::from_static("application/json"));
    let mut request = Request::new(axum::body::Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers;
    let call = async {
        let answer = client.request(request).await.map_err(|error| failed(cause(&error)))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        Ok::<_, String>((status, body.map_err(|error| failed(cause(&*error)))?.to_bytes()))
    };
    let late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    tokio::time::timeout(TIME, call).await.unwrap_or_else(|_| Err(failed(late.to_owned())))
}
