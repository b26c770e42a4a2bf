//! Probes: one question to a container over the network, within a time limit (`core/v1 Probe`), as the kubelet asks it.
//!
//! A probe is a future of its own, connection and all: nothing is left of it, and nothing exists between two.

mod grpc;
pub mod http;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::net::TcpStream;

use crate::pod::spec;

/// Whom this node's probes and hooks come from.
const USER_AGENT: &str = "kube-probe/1.36";

/// Asks; `Err` says why the probe failed, and `Ok` what people should know although it did not. `port` maps a Pod's port to
/// the one that this node really serves it on.
pub async fn run(
    ip: IpAddr,
    container: &Container,
    probe: &Probe,
    port: impl Fn(u16) -> u16,
) -> Result<Option<String>, String> {
    let limit = probe.timeout_seconds.unwrap_or(1).max(1).unsigned_abs();
    let limit = Duration::from_secs(limit.into());
    if let Some(get) = &probe.http_get {
        let target = http::Target::new(ip, container, get)?;
        let asked = http::get(&target, &port);
        let reply = tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| {
            Err(format!(
                "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                target.url()
            ))
        })?;
        return match reply.status {
            200..300 => Ok(None),
            300..400 => {
                Ok(Some(format!("Probe terminated redirects, Response body: {}", reply.said)))
            }
            code => Err(format!("HTTP probe failed with statuscode: {code}")),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let number = spec::port(container, &tcp.port).ok_or_else(|| unknown_port(&tcp.port))?;
        let ip = address(tcp.host.as_deref(), ip).await?;
        let asked = connect(SocketAddr::new(ip, port(number)));
        return match tokio::time::timeout(limit, asked).await {
            Ok(connected) => connected.map(|_| None),
            Err(_) => Err(format!("dial tcp {ip}:{number}: i/o timeout")),
        };
    }
    if let Some(rpc) = &probe.grpc {
        let number = u16::try_from(rpc.port).map_err(|_| format!("invalid port {}", rpc.port))?;
        let address = SocketAddr::new(ip, port(number));
        let service = rpc.service.as_deref().unwrap_or_default();
        return grpc::check(address, service, limit).await.map(|()| None);
    }
    Err("missing probe handler: use httpGet, tcpSocket or grpc".to_owned())
}

/// What a port that cannot be found is answered with.
fn unknown_port(port: &k8s_openapi::apimachinery::pkg::util::intstr::IntOrString) -> String {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port: {name:?}"),
    }
}

/// The host that a probe names, else the Pod.
async fn address(host: Option<&str>, pod: IpAddr) -> Result<IpAddr, String> {
    let Some(host) = host.filter(|h| !h.is_empty()) else { return Ok(pod) };
    if let Ok(ip) = host.parse() {
        return Ok(ip);
    }
    let mut found =
        tokio::net::lookup_host((host, 0)).await.map_err(|e| format!("lookup {host}: {e}"))?;
    found.next().map(|a| a.ip()).ok_or_else(|| format!("lookup {host}: no such host"))
}

/// Opens a connection; errors read as Go's do, since that is what people search for.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
            _ => format!("connect: {error}"),
        };
        format!("dial tcp {address}: {why}")
    })
}

#[cfg(test)]
mod tests;
