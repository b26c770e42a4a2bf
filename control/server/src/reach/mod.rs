//! Connections to what runs in the cluster: webhooks, extension API servers, and Pods, Services that this server is a proxy of.
//!
//! Services are found in the watch cache ([`endpoints`]), not by DNS, which this process need not be able to ask. A Pod is dialled
//! by its node's agent ([`coracle_api::tunnel::DIAL`]), which this server reaches in any case: the machine of a control plane
//! need not be a node, its nodes may be behind a NAT, and without root a Pod's address means something on its own machine only.
//! What is no Pod's is dialled from here.

mod endpoints;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use coracle_api::kinds;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rand::seq::IndexedRandom as _;
use tokio::net::TcpStream;

pub(crate) use endpoints::{Endpoint, Port, SERVICE_NAME, of_service};

use crate::cache::Cache;
use crate::http::Kubelets;
use crate::tunnels::Way;

/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(10);

/// Connects to hosts; to Services by `NAME.NAMESPACE.svc`, to Pods by `NAME.NAMESPACE.pod`. Clones are the same.
#[derive(Clone)]
pub(crate) struct Reach {
    cache: Cache,
    /// The range of the cluster's Pods: an address, and the length of its prefix.
    pods: (Ipv4Addr, u8),
    /// Known once the server has been put together.
    kubelets: Arc<OnceLock<Kubelets>>,
}

impl Reach {
    pub(crate) fn new(cache: Cache, pods: (Ipv4Addr, u8)) -> Self {
        Self { cache, pods, kubelets: Arc::default() }
    }

    /// Has agents dial what runs on their nodes from now on.
    pub(crate) fn through(&self, kubelets: Kubelets) {
        // Set once, when the server starts.
        let _ = self.kubelets.set(kubelets);
    }

    fn is_of_pods(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        let (range, prefix) = self.pods;
        let network = |ip: Ipv4Addr| u32::from(ip).checked_shr(32 - u32::from(prefix.min(32)));
        network(address) == network(range)
    }

    /// An endpoint of a Service, any of those that are ready.
    pub(crate) fn service(
        &self,
        namespace: &str,
        name: &str,
        port: Port<'_>,
    ) -> Result<Endpoint, String> {
        let found = of_service(&self.cache.read(), namespace, name, port)?;
        let chosen = found.choose(&mut rand::rng()).cloned();
        chosen.ok_or_else(|| format!("no endpoints available for service \"{name}\""))
    }

    /// An endpoint of a Service that is one of its namespace's Pods, at that Pod's own address: whoever may write endpoints may not
    /// have this server call whatever it likes for them.
    pub(crate) fn service_pod(
        &self,
        namespace: &str,
        name: &str,
        port: Port<'_>,
    ) -> Result<Endpoint, String> {
        let cluster = self.cache.read();
        let mut found = of_service(&cluster, namespace, name, port)?;
        found.retain(|endpoint| endpoints::is_pods(&cluster, endpoint));
        let chosen = found.choose(&mut rand::rng()).cloned();
        chosen.ok_or_else(|| format!("no endpoints available for service \"{name}\""))
    }

    /// A connection to an endpoint.
    pub(crate) async fn dial(&self, endpoint: &Endpoint) -> io::Result<Way> {
        let Endpoint { address, pod } = endpoint;
        let node = pod.as_ref().and_then(|(namespace, name)| {
            self.cache.get(&kinds::POD, namespace, name)?.node_name.clone()
        });
        match (pod, node, self.kubelets.get()) {
            (Some((namespace, name)), Some(node), Some(kubelets)) => {
                let dialled = kubelets.dial(&node, namespace, name, address.port());
                match tokio::time::timeout(CONNECT, dialled).await {
                    Ok(done) => done.map(Way::new),
                    Err(_) => Err(failed(*address, "i/o timeout")),
                }
            }
            // Of a Pod that is nowhere, an address is what somebody said of it.
            (Some(_), ..) if !self.is_of_pods(address.ip()) => {
                Err(failed(*address, "the address is none of the cluster's Pods'"))
            }
            _ => direct(*address).await,
        }
    }
}

async fn direct(address: SocketAddr) -> io::Result<Way> {
    let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(failed(address, "connect: connection refused"));
        }
        Ok(Err(error)) => return Err(failed(address, &format!("connect: {error}"))),
        Err(_) => return Err(failed(address, "i/o timeout")),
    };
    let _ = stream.set_nodelay(true);
    Ok(Way::new(TokioIo::new(stream)))
}

/// In Go's words, which people search for.
fn failed(address: SocketAddr, why: &str) -> io::Error {
    io::Error::other(format!("dial tcp {address}: {why}"))
}

impl tower::Service<Uri> for Reach {
    type Response = Way;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Way>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let reach = self.clone();
        async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let usual = if uri.scheme_str() == Some("http") { 80 } else { 443 };
            let port = uri.port_u16().unwrap_or(usual);
            if let Some((name, namespace)) = of_kind(host, ".svc") {
                let endpoint = reach.service(namespace, name, Port::Number(port));
                return reach.dial(&endpoint.map_err(io::Error::other)?).await;
            }
            if let Some((name, namespace)) = of_kind(host, ".pod") {
                let pod = endpoints::of_pod(&reach.cache.read(), namespace, name, port);
                return reach.dial(&pod.map_err(io::Error::other)?).await;
            }
            let found = tokio::net::lookup_host((host, port)).await?;
            let mut last = io::Error::other(format!("lookup {host}: no such host"));
            for address in found {
                match direct(address).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        .boxed()
    }
}

/// Name and namespace in such a host.
fn of_kind<'a>(host: &'a str, suffix: &str) -> Option<(&'a str, &'a str)> {
    // Names of Pods may have dots, those of namespaces not.
    host.strip_suffix(suffix)?.rsplit_once('.')
}
