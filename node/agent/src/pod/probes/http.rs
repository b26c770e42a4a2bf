//! HTTP for probes and hooks: GET, with redirects to the same host followed; TLS without looking at certificates, which
//! a Pod's own are nobody's business.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures::StreamExt as _;
use http::header::LOCATION;
use http::response::Parts;
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{USER_AGENT, address, connect, unknown_port};
use crate::pod::spec;
use crate::tls::{self, Presented};

/// Redirects that are followed.
const REDIRECTS: usize = 10;
/// As much of what comes with one that is not followed is told (upstream's `maxRespBodyLength`).
const MOST_SAID: usize = 10 << 10;

/// What is asked for.
pub struct Target {
    https: bool,
    /// As in the URL: a name, or an address.
    host: String,
    pod: IpAddr,
    port: u16,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Target {
    /// What an `httpGet` of a container of the Pod at `ip` names.
    pub fn new(ip: IpAddr, container: &Container, get: &HTTPGetAction) -> Result<Self, String> {
        let port = spec::port(container, &get.port).ok_or_else(|| unknown_port(&get.port))?;
        let path = get.path.as_deref().unwrap_or_default();
        let headers = get.http_headers.iter().flatten().map(|header| {
            let bad = |_| format!("httpGet.httpHeaders: {:?} is no valid header", header.name);
            let name =
                HeaderName::try_from(header.name.as_str()).map_err(|e| bad(e.to_string()))?;
            let value =
                HeaderValue::try_from(header.value.as_str()).map_err(|e| bad(e.to_string()))?;
            Ok((name, value))
        });
        let host = get.host.clone().filter(|h| !h.is_empty());
        Ok(Self {
            https: get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host: host.unwrap_or_else(|| match ip {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            }),
            pod: ip,
            port,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            headers: headers.collect::<Result<_, String>>()?,
        })
    }

    /// As people would write it.
    pub fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}:{}{}", self.host, self.port, self.path)
    }

    /// Where a redirect leads, if to the same host.
    fn redirected(&self, location: &str) -> Option<Target> {
        let location: Uri = location.parse().ok()?;
        let https = match location.scheme_str() {
            None => self.https,
            Some("http") => false,
            Some("https") => true,
            Some(_) => return None,
        };
        let port = match (location.host(), location.port_u16()) {
            (None, _) => self.port,
            (Some(host), _) if host != self.host => return None,
            (Some(_), Some(port)) => port,
            (Some(_), None) if https => 443,
            (Some(_), None) => 80,
        };
        let path = location.path_and_query().map_or("/", |p| p.as_str());
        let path = match path.starts_with('/') {
            true => path.to_owned(),
            // Relative to the folder of what was asked for.
            false => {
                let folder = self.path.split('?').next().unwrap_or_default();
                format!("{}/{path}", folder.rsplit_once('/').map_or("", |(folder, _)| folder))
            }
        };
        let (host, headers) = (self.host.clone(), self.headers.clone());
        Some(Target { https, host, pod: self.pod, port, path, headers })
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, String> {
        let mut request = Request::get(&self.path)
            .header(http::header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|e| format!("httpGet.path {:?}: {e}", self.path))?;
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        let mut default = |name, value: &str| {
            if !headers.contains_key(&name)
                && let Ok(value) = HeaderValue::try_from(value)
            {
                headers.insert(name, value);
            }
        };
        default(http::header::HOST, &format!("{}:{}", self.host, self.port));
        default(http::header::USER_AGENT, USER_AGENT);
        default(http::header::ACCEPT, "*/*");
        Ok(request)
    }
}

/// What came of it in the end.
pub struct Reply {
    /// The status of the answer.
    pub status: u16,
    /// What was said with a redirect, the beginning of it; other answers are not read.
    pub said: String,
}

/// The answer. A redirect to another host is an answer too. `port` is as for [`super::run`].
pub async fn get(target: &Target, port: impl Fn(u16) -> u16) -> Result<Reply, String> {
    let said = |target: &Target, error: String| format!("Get {:?}: {error}", target.url());
    let mut next: Option<Target> = None;
    for _ in 0..=REDIRECTS {
        let target = next.as_ref().unwrap_or(target);
        let (head, body) = ask(target, &port).await.map_err(|e| said(target, e))?;
        let location = head.headers.get(LOCATION).and_then(|location| location.to_str().ok());
        let location = location.filter(|_| is_redirect(&head));
        match location.and_then(|location| target.redirected(location)) {
            Some(redirected) => next = Some(redirected),
            None => return Ok(Reply { status: head.status.as_u16(), said: body }),
        }
    }
    Err(said(target, format!("stopped after {REDIRECTS} redirects")))
}

fn is_redirect(head: &Parts) -> bool {
    matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

async fn ask(target: &Target, port: impl Fn(u16) -> u16) -> Result<(Parts, String), String> {
    let host = target.host.trim_start_matches('[').trim_end_matches(']');
    let ip = address(Some(host), target.pod).await?;
    // Only the Pod's own ports are moved.
    let number = if ip == target.pod { port(target.port) } else { target.port };
    let stream = connect(SocketAddr::new(ip, number)).await?;
    let request = target.request()?;
    if !target.https {
        return exchange(stream, request).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let stream = TLS.connect(name, stream).await.map_err(|e| format!("tls: {e}"))?;
    exchange(stream, request).await
}

/// The answer's head, and what a redirect says.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<(Parts, String), String> {
    let io = TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
    let answer = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let mut said = Vec::new();
        if is_redirect(&head) {
            let mut pieces = body.into_data_stream();
            while said.len() < MOST_SAID
                && let Some(Ok(piece)) = pieces.next().await
            {
                said.extend_from_slice(&piece[..piece.len().min(MOST_SAID - said.len())]);
            }
        }
        Ok::<_, hyper::Error>((head, String::from_utf8_lossy(&said).into_owned()))
    };
    let mut answer = pin!(answer);
    // The connection is driven here, and closed by being dropped: only this much is wanted. One that ends may have brought
    // the answer just before.
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = connection => answer.await,
    };
    answer.map_err(|error| match error.is_incomplete_message() || error.is_canceled() {
        true => "EOF".to_owned(),
        false => error.to_string(),
    })
}

/// Takes every certificate, as the kubelet's probes do.
static TLS: LazyLock<TlsConnector> = LazyLock::new(|| {
    let config = tls::client(|_: &Presented<'_>| Ok(()))
        .unwrap_or_else(|error| unreachable!("ring offers the default versions: {error}"))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
});
