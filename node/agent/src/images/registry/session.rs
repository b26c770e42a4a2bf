//! A conversation with one registry about one repository, with one credential or none (OCI distribution specification).
//!
//! Nothing is retried here: an error says whether it is worth it. A session's token lives and ends with it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, LOCATION, RANGE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;

use super::auth::{self, Challenge};
use super::chain;
use super::clients::Clients;
use crate::images::credentials::Credential;
use crate::images::manifest::{ACCEPT as MANIFESTS, MAX_MANIFEST};
use crate::images::reference::is_sha256;
use crate::images::settings::Endpoint;

/// How long an answer's first byte may take.
pub(super) const HEADERS: Duration = Duration::from_secs(30);
/// How long the next byte of a body may take.
const STALL: Duration = Duration::from_secs(30);
/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 5;

/// Why a registry did not give what was asked for.
#[derive(Debug, Clone, thiserror::Error, PartialEq)]
pub enum RegistryError {
    /// It wants to know who asks, or knows and does not allow it.
    #[error("{0}")]
    Unauthorized(String),
    /// It may go better next time.
    #[error("{0}")]
    Unreachable(String),
    /// It will not go better next time.
    #[error("{0}")]
    Refused(String),
}

/// A blob as it arrives.
pub struct BlobAnswer {
    /// Where in the blob this begins: what was asked for, or 0.
    pub offset: u64,
    stream: BoxStream<'static, Result<Bytes, String>>,
}

impl BlobAnswer {
    /// The next piece; `None` at the end. An error is a broken connection.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        match tokio::time::timeout(STALL, self.stream.next()).await {
            Ok(piece) => piece.transpose(),
            Err(_) => Err(format!("nothing came for {STALL:?}")),
        }
    }
}

/// One conversation.
pub struct Session {
    repository: String,
    way: Way,
}

enum Way {
    /// The agent's own connection to the API server.
    Cluster(kube::Client),
    Remote(Remote),
}

struct Remote {
    clients: Arc<Clients>,
    endpoint: Endpoint,
    credential: Option<Credential>,
    /// What was last answered to a challenge.
    authorization: Mutex<Option<HeaderValue>>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: BoxStream<'static, Result<Bytes, String>>,
}

impl Session {
    /// With the cluster's own registry.
    pub(super) fn cluster(client: kube::Client, repository: &str) -> Self {
        Self { repository: repository.to_owned(), way: Way::Cluster(client) }
    }

    /// With any other.
    pub(super) fn remote(
        clients: Arc<Clients>,
        endpoint: Endpoint,
        credential: Option<Credential>,
    ) -> Self {
        let repository = endpoint.repository.clone();
        let remote = Remote { clients, endpoint, credential, authorization: Mutex::default() };
        Self { repository, way: Way::Remote(remote) }
    }

    /// The digest that `reference` stands for: `None` if there is no such image, `Some(None)` if it does not say.
    pub async fn resolve(&self, reference: &str) -> Result<Option<Option<String>>, RegistryError> {
        let path = format!("manifests/{reference}");
        let answer = self.send(Method::HEAD, &path, &accept()).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            // Not every registry knows HEAD.
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(Some(None)),
            status if status.is_success() => {
                let digest = answer.headers.get("docker-content-digest");
                let digest = digest.and_then(|d| d.to_str().ok()).filter(|d| is_sha256(d));
                Ok(Some(digest.map(str::to_owned)))
            }
            _ => Err(refusal(answer).await),
        }
    }

    /// The bytes of a manifest; `None` if there is no such image.
    pub async fn manifest(&self, reference: &str) -> Result<Option<Bytes>, RegistryError> {
        let path = format!("manifests/{reference}");
        let answer = self.send(Method::GET, &path, &accept()).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => read(answer, MAX_MANIFEST).await.map(Some),
            _ => Err(refusal(answer).await),
        }
    }

    /// A blob from the byte `from` on, or from its beginning if the registry will not.
    pub async fn blob(&self, digest: &str, from: u64) -> Result<BlobAnswer, RegistryError> {
        let path = format!("blobs/{digest}");
        let mut headers = HeaderMap::new();
        if from > 0
            && let Ok(range) = HeaderValue::try_from(format!("bytes={from}-"))
        {
            headers.insert(RANGE, range);
        }
        let mut answer = self.send(Method::GET, &path, &headers).await?;
        if answer.status == StatusCode::RANGE_NOT_SATISFIABLE {
            answer = self.send(Method::GET, &path, &HeaderMap::new()).await?;
        }
        let offset = match answer.status {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.headers.get(CONTENT_RANGE).and_then(|r| r.to_str().ok());
                let first =
                    |range: &str| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok();
                let start: Option<u64> = range.and_then(first);
                match start {
                    Some(start) if start == from => from,
                    _ => {
                        return Err(RegistryError::Refused(
                            "it sent another range than was asked for".to_owned(),
                        ));
                    }
                }
            }
            StatusCode::NOT_FOUND => {
                return Err(RegistryError::Refused(format!(
                    "it names {digest} but does not have it"
                )));
            }
            _ => return Err(refusal(answer).await),
        };
        Ok(BlobAnswer { offset, stream: answer.body })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Answer, RegistryError> {
        let unreachable = |why: String| RegistryError::Unreachable(why);
        match &self.way {
            Way::Cluster(client) => {
                let mut request = Request::builder()
                    .method(method)
                    .uri(format!("/v2/{}/{path}", self.repository));
                if let Some(all) = request.headers_mut() {
                    all.extend(headers.clone());
                }
                let request = request
                    .body(kube::client::Body::empty())
                    .map_err(|e| RegistryError::Refused(e.to_string()))?;
                let answer = tokio::time::timeout(HEADERS, client.send(request)).await;
                let answer =
                    answer.map_err(|_| unreachable(format!("no answer within {HEADERS:?}")))?;
                let (parts, body) = answer.map_err(|e| unreachable(chain(&e)))?.into_parts();
                let body =
                    body.into_data_stream().map(|piece| piece.map_err(|e| chain(&e))).boxed();
                Ok(Answer { status: parts.status, headers: parts.headers, body })
            }
            Way::Remote(remote) => {
                let answer = remote.send(&method, &self.repository, path, headers).await?;
                let (parts, body) = answer.into_parts();
                let body =
                    body.into_data_stream().map(|piece| piece.map_err(|e| chain(&e))).boxed();
                Ok(Answer { status: parts.status, headers: parts.headers, body })
            }
        }
    }
}

impl Remote {
    async fn send(
        &self,
        method: &Method,
        repository: &str,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, RegistryError> {
        let Endpoint { plain, authority, prefix, stands_for, .. } = &self.endpoint;
        let scheme = if *plain { "http" } else { "https" };
        // A mirror's path is either what comes before the API or a place within it.
        let api = if prefix.starts_with("/v2") { "" } else { "/v2" };
        let mut url = format!("{scheme}://{authority}{prefix}{api}/{repository}/{path}");
        if let Some(registry) = stands_for {
            url = format!("{url}?ns={registry}");
        }
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = self.follow(method, &url, headers, known).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let Some(challenge) = Challenge::of(answer.headers()) else { return Ok(answer) };
        let scope = format!("repository:{repository}:pull");
        let credential = self.credential.as_ref();
        let header = auth::answer(&challenge, credential, &scope, *plain, &self.clients).await?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(header.clone());
        self.follow(method, &url, headers, Some(header)).await
    }

    /// Follows redirects; who we are is told to the registry alone.
    async fn follow(
        &self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let refused = |why: String| RegistryError::Refused(why);
        let mut url: Uri = url.parse().map_err(|e| refused(format!("{url}: {e}")))?;
        for _ in 0..=MAX_REDIRECTS {
            let host = url.authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
            let mut request = Request::builder().method(method.clone()).uri(url.clone());
            if let Some(all) = request.headers_mut() {
                all.extend(headers.clone());
                all.insert(
                    http::header::USER_AGENT,
                    HeaderValue::from_static(concat!("coracle/", env!("CARGO_PKG_VERSION"))),
                );
                if let Some(value) =
                    authorization.as_ref().filter(|_| host == self.endpoint.authority)
                {
                    all.insert(AUTHORIZATION, value.clone());
                }
            }
            let request = request.body(Full::default()).map_err(|e| refused(e.to_string()))?;
            let client = self.clients.client(&host).map_err(refused)?;
            let answer = tokio::time::timeout(HEADERS, client.request(request)).await;
            let unreachable = |why: String| RegistryError::Unreachable(format!("{host}: {why}"));
            let answer =
                answer.map_err(|_| unreachable(format!("no answer within {HEADERS:?}")))?;
            let answer = answer.map_err(|e| unreachable(chain(&e)))?;
            let moved = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let to = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let Some(to) = to.filter(|_| moved) else { return Ok(answer) };
            url = join(&url, to).ok_or_else(|| refused(format!("it redirects to \"{to}\"")))?;
            if !self.endpoint.plain && url.scheme_str() != Some("https") {
                return Err(refused(format!("it redirects to {url}, which is not https")));
            }
        }
        Err(refused(format!("it redirects more than {MAX_REDIRECTS} times")))
    }
}

/// A redirect's target: a URL, or a path on the same host.
fn join(from: &Uri, to: &str) -> Option<Uri> {
    if to.starts_with("https://") || to.starts_with("http://") {
        return to.parse().ok().filter(|uri: &Uri| {
            uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        });
    }
    let path = to.starts_with('/') && !to.starts_with("//");
    path.then(|| format!("{}://{}{to}", from.scheme_str()?, from.authority()?).parse().ok())?
}

fn accept() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(MANIFESTS))])
}

async fn read(answer: Answer, most: usize) -> Result<Bytes, RegistryError> {
    let mut content = Vec::new();
    let mut body = BlobAnswer { offset: 0, stream: answer.body };
    while let Some(piece) = body.next().await.map_err(RegistryError::Unreachable)? {
        if content.len() + piece.len() > most {
            return Err(RegistryError::Refused(format!("its answer is over {most} bytes")));
        }
        content.extend_from_slice(&piece);
    }
    Ok(content.into())
}

/// The error in a registry's answer (`{"errors":[{"code":…,"message":…}]}`), or a Kubernetes Status.
async fn refusal(answer: Answer) -> RegistryError {
    let status = answer.status;
    let text = read(answer, 64 << 10).await.unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let message = json["errors"][0]["message"].as_str().or(json["message"].as_str());
    let text = match message {
        Some(message) => {
            let message: String = message.chars().filter(|c| !c.is_control()).take(500).collect();
            format!("{message} ({status})")
        }
        None => format!("the registry answered {status}"),
    };
    match status.as_u16() {
        401 | 403 => RegistryError::Unauthorized(text),
        408 | 425 | 429 | 500.. => RegistryError::Unreachable(text),
        _ => RegistryError::Refused(text),
    }
}
