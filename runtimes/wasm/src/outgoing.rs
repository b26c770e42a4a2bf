//! Requests that guests make (`wasi:http/outgoing-handler`).
//!
//! Names and ClusterIPs of Services are resolved here, in the agent's table; a backend in this very
//! host is called without a socket. Everything else is looked up and connected to as usual, from
//! within the Pods' namespace.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderName, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody,
    WasiHttpHooks,
};

use crate::container::{Container, Phase};
use crate::cpu::metered;
use crate::denied::Import;
use crate::handles::Handle;
use crate::http::handle;
use crate::sockets;

const CONNECT: Duration = Duration::from_secs(30);
/// Bytes of a body that are held between a guest and its reader, twice.
const CHUNK: usize = 64 << 10;
const FIRST_BYTE: Duration = Duration::from_secs(300);

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(Response<WasiBody>, Io), Error>;

/// A guest's way out.
pub(crate) struct Outgoing {
    container: Arc<Container>,
}

impl Outgoing {
    pub(crate) fn new(container: Arc<Container>) -> Outgoing {
        Outgoing { container }
    }
}

impl WasiHttpHooks for Outgoing {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    /// What a guest may write ahead of whoever reads it: it is the host's memory.
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        static FILTER: LazyLock<ForbiddenHeaderFilter> =
            LazyLock::new(|| Arc::new(|name| DEFAULT_FORBIDDEN_HEADERS.contains(name)));
        FILTER.clone()
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Io,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let container = self.container.clone();
        if !container.spec.grants.http {
            container.denied(Import::Http);
            return Box::new(async { Err(Error::HttpRequestDenied) });
        }
        Box::new(async move { send(&container, request, options.unwrap_or_default()).await })
    }
}

/// Where a request is to go.
enum Target {
    Here(Arc<Container>),
    Addresses(Vec<SocketAddr>),
}

async fn send(
    container: &Arc<Container>,
    request: Request<WasiBody>,
    options: RequestOptions,
) -> Sent {
    let authority = request.uri().authority().ok_or(Error::HttpRequestUriInvalid)?.clone();
    let tls = request.uri().scheme() == Some(&Scheme::HTTPS);
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let target = resolve(container, &host, port, tls).await?;
    let first_byte = options.first_byte_timeout.unwrap_or(FIRST_BYTE);
    let addresses = match target {
        Target::Here(backend) => {
            let answer = metered(backend.cpu.clone(), handle(&backend, request));
            let answer = tokio::time::timeout(first_byte, answer).await;
            let response = answer.map_err(|_| Error::ConnectionReadTimeout)?;
            return Ok((response.map(BodyExt::boxed_unsync), Box::new(async { Ok(()) })));
        }
        Target::Addresses(addresses) => addresses,
    };
    let connecting = options.connect_timeout.unwrap_or(CONNECT);
    let stream = tokio::time::timeout(connecting, async {
        let (stream, handle) = connect(container, &addresses).await?;
        let stream: Box<dyn Stream> =
            if tls { secure(stream, &host).await? } else { Box::new(stream) };
        Ok::<_, Error>((stream, handle))
    });
    let (stream, handle) = stream.await.map_err(|_| Error::ConnectionTimeout)??;
    exchange(stream, handle, request, first_byte).await
}

async fn resolve(container: &Container, host: &str, port: u16, tls: bool) -> Result<Target, Error> {
    let node = &container.node;
    let ip = host.parse::<IpAddr>().ok();
    let service = match ip {
        Some(ip) => node.routes.by_vip(ip, port),
        None if container.aliases(host).is_some() => None,
        None => node.routes.by_name(&container.sandbox.namespace, host, port),
    };
    let addresses: Vec<SocketAddr> = match (service, ip) {
        (Some(backends), _) => backends.in_turn().collect(),
        (None, Some(ip)) => vec![SocketAddr::new(ip, port)],
        (None, None) => {
            let found = container.look_up(host).await.map_err(|error| Error::DnsError {
                rcode: Some(error.to_string()),
                info_code: None,
            })?;
            found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
        }
    };
    if !tls {
        let here = addresses.iter().filter_map(|address| node.listeners.at(*address));
        let mut here: Vec<_> = here.collect();
        here.sort_by_key(|container| *container.phase.borrow() != Phase::Serving);
        // Only if all are here: otherwise this host would get more than its part of the calls.
        if here.len() == addresses.len()
            && let Some(backend) = here.into_iter().next()
        {
            return Ok(Target::Here(backend));
        }
    }
    if addresses.is_empty() {
        return Err(Error::ConnectionRefused);
    }
    Ok(Target::Addresses(addresses))
}

async fn connect(
    container: &Arc<Container>,
    addresses: &[SocketAddr],
) -> Result<(TcpStream, Handle), Error> {
    let mut last = Error::ConnectionRefused;
    for address in addresses {
        match sockets::connect(container, *address).await {
            Ok((stream, handle)) => {
                let _ = stream.set_nodelay(true);
                return Ok((stream, handle));
            }
            Err(e) if e.raw_os_error() == Some(libc::EMFILE) => {
                return Err(Error::ConnectionLimitReached);
            }
            Err(e) => last = Error::Connect(e),
        }
    }
    Err(last)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn secure(stream: TcpStream, host: &str) -> Result<Box<dyn Stream>, Error> {
    static CONNECTOR: LazyLock<TlsConnector> = LazyLock::new(|| {
        let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        // And whom the machine believes besides: SSL_CERT_FILE, SSL_CERT_DIR or its own store.
        let own = rustls_native_certs::load_native_certs();
        for error in own.errors {
            tracing::warn!(%error, "a certificate of the machine's store is passed over");
        }
        roots.add_parsable_certificates(own.certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    });
    let name = ServerName::try_from(host.to_owned())?;
    let stream = CONNECTOR.connect(name, stream).await.map_err(Error::Tls)?;
    Ok(Box::new(stream))
}

async fn exchange(
    stream: Box<dyn Stream>,
    handle: Handle,
    mut request: Request<WasiBody>,
    first_byte: Duration,
) -> Sent {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, WasiBody>(TokioIo::new(stream)).await?;
    // A request to the server itself names no scheme and no authority; Host is a header.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    *request.uri_mut() = Uri::try_from(path).map_err(|_| Error::HttpRequestUriInvalid)?;
    let driver = tokio::spawn(async move {
        // As long as there is the socket.
        let _handle = handle;
        connection.await
    });
    let aborter = AbortOnDrop(driver.abort_handle());
    let answer = tokio::time::timeout(first_byte, sender.send_request(request)).await;
    let response = answer.map_err(|_| Error::ConnectionReadTimeout)??;
    let response = response.map(|body| body.map_err(Error::from).boxed_unsync());
    let io = async move {
        let _aborter = aborter;
        let _sender = sender;
        match driver.await {
            Ok(result) => result.map_err(Error::from),
            Err(_) => Ok(()),
        }
    };
    Ok((response, Box::new(io)))
}

/// Ends the connection's task when nobody wants its answer any more.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
