//! Probes: one question to a container over the network, within a time limit (`core/v1 Probe`).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::net::TcpStream;

use crate::pod::spec;

/// How much of a failing answer is shown.
const EXCERPT: usize = 200;

/// Asks; `Err` says why the probe failed. `port` maps a Pod's port to the one that this node really serves it on.
pub async fn run(
    ip: IpAddr,
    container: &Container,
    probe: &Probe,
    port: impl Fn(u16) -> u16,
) -> Result<(), String> {
    let limit = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1) as u64);
    let named = |target| {
        spec::port(container, target)
            .map(&port)
            .ok_or_else(|| format!("port {target:?} is not among the container's ports"))
    };
    if let Some(get) = &probe.http_get {
        let host = get.host.as_deref().filter(|h| !h.is_empty());
        let ip = match host.map(str::parse) {
            None => ip,
            Some(Ok(ip)) => ip,
            Some(Err(_)) => {
                return Err("httpGet.host must be an IP address on this node".to_owned());
            }
        };
        if get.scheme.as_deref() == Some("HTTPS") {
            return Err(
                "httpGet.scheme HTTPS is not supported: components are served over HTTP".to_owned()
            );
        }
        let address = SocketAddr::new(ip, named(&get.port)?);
        let path = get.path.as_deref().unwrap_or("/");
        let mut request =
            Request::get(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
                .header(http::header::USER_AGENT, "kube-probe/1.36")
                .header(http::header::ACCEPT, "*/*")
                .header(http::header::CONNECTION, "close");
        let headers = get.http_headers.iter().flatten();
        let (mut has_host, headers) = (false, headers.collect::<Vec<_>>());
        for header in headers {
            has_host |= header.name.eq_ignore_ascii_case("host");
            request = request.header(&header.name, &header.value);
        }
        if !has_host {
            request = request.header(http::header::HOST, address.to_string());
        }
        let request = request.body(Empty::new()).map_err(|e| e.to_string())?;
        return within(limit, address, http_get(address, request)).await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        let address = SocketAddr::new(ip, named(&tcp.port)?);
        return within(limit, address, async { connect(address).await.map(drop) }).await;
    }
    if probe.exec.is_some() {
        return Err("exec probes need a container with a shell; a Wasm component is probed with httpGet or tcpSocket".to_owned());
    }
    Err("this kind of probe is not supported; use httpGet or tcpSocket".to_owned())
}

async fn within(
    limit: Duration,
    address: SocketAddr,
    work: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    let timeout =
        || format!("{address}: context deadline exceeded (no answer within {} s)", limit.as_secs());
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(timeout()))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|e| format!("dial tcp {address}: {e}"))
}

async fn http_get(address: SocketAddr, request: Request<Empty<Bytes>>) -> Result<(), String> {
    let stream = connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| format!("GET {address}: {e}"));
    let result = match answer {
        Ok(answer) if (200..400).contains(&answer.status().as_u16()) => Ok(()),
        Ok(answer) => {
            let code = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), EXCERPT).collect().await;
            let excerpt = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned());
            Err(match excerpt {
                Ok(text) if !text.is_empty() => {
                    format!("HTTP probe failed with statuscode: {code}: {text}")
                }
                _ => format!("HTTP probe failed with statuscode: {code}"),
            })
        }
        Err(error) => Err(error),
    };
    connection.abort();
    result
}
