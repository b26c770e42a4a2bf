//! Requests that guests make (`wasi:http/outgoing-handler`).
//!
//! Names and ClusterIPs of Services are resolved here, in the agent's table; a backend in this very
//! host is called without a socket. Everything else is looked up and connected to as usual, from
//! within the Pods' namespace. [`trust`] says which TLS servers are believed, [`exchange`] speaks
//! HTTP.

mod exchange;
mod trust;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderName, Request, Response};
use http_body_util::BodyExt;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
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
use crate::logs::Stream;
use crate::sockets;
use exchange::{Connection, Paced, exchange};

pub(crate) use trust::Trust;

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

/// How long the parts of a request may take; what the guest says, or else the host.
struct Limits {
    /// When looking up, connecting and TLS must be done.
    connected: Instant,
    first_byte: Duration,
    /// No limit of its own unless the guest wants one: answers may be watched for hours.
    between_bytes: Option<Duration>,
}

impl Limits {
    fn new(options: RequestOptions) -> Limits {
        Limits {
            connected: Instant::now() + options.connect_timeout.unwrap_or(CONNECT),
            first_byte: options.first_byte_timeout.unwrap_or(FIRST_BYTE),
            between_bytes: options.between_bytes_timeout,
        }
    }
}

/// Where a request is to go.
enum Target {
    Here(Arc<Container>),
    /// The Kubernetes API of this cluster.
    Api(Vec<SocketAddr>),
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
    let limits = Limits::new(options);
    let target = tokio::time::timeout_at(limits.connected, resolve(container, &host, port, tls));
    let target = target.await.map_err(|_| Error::DnsTimeout)??;
    if let Target::Here(backend) = target {
        let answer = metered(backend.cpu.clone(), handle(&backend, request));
        let answer = tokio::time::timeout(limits.first_byte, answer).await;
        let response = answer.map_err(|_| Error::ConnectionReadTimeout)?;
        let body = |body| Paced::new(body, limits.between_bytes).boxed_unsync();
        return Ok((response.map(body), Box::new(async { Ok(()) })));
    }
    let connection = tokio::time::timeout_at(limits.connected, async {
        let api = matches!(target, Target::Api(_));
        let (stream, handle) = connect(container, &target).await?;
        let connection = match tls {
            true => secure(container, stream, &host, api).await?,
            false => Connection::Plain(stream),
        };
        Ok::<_, Error>((connection, handle))
    });
    let (connection, handle) = connection.await.map_err(|_| Error::ConnectionTimeout)??;
    exchange(connection, handle, request, &limits).await
}

async fn resolve(container: &Container, host: &str, port: u16, tls: bool) -> Result<Target, Error> {
    let node = &container.node;
    let ip = host.parse::<IpAddr>().ok();
    let service = match ip {
        Some(ip) => node.routes.by_vip(ip, port),
        None if container.aliases(host).is_some() => None,
        None => node.routes.by_name(&container.sandbox.namespace, host, port),
    };
    let addresses: Vec<SocketAddr> = match (&service, ip) {
        (Some(backends), _) => match container.sandbox.spec.ips.first() {
            Some(caller) => backends.for_caller(*caller),
            None => backends.in_turn().collect(),
        },
        (None, Some(ip)) => vec![SocketAddr::new(ip, port)],
        (None, None) => {
            let found = container.look_up(host).await.map_err(|error| Error::DnsError {
                rcode: Some(error.to_string()),
                info_code: None,
            })?;
            found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
        }
    };
    if addresses.is_empty() {
        return Err(Error::ConnectionRefused);
    }
    if service.is_some_and(|backends| backends.is_api()) {
        return Ok(Target::Api(addresses));
    }
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
    Ok(Target::Addresses(addresses))
}

async fn connect(
    container: &Arc<Container>,
    target: &Target,
) -> Result<(TcpStream, Handle), Error> {
    let (addresses, api) = match target {
        Target::Here(_) => (&[][..], false),
        Target::Api(addresses) => (&addresses[..], true),
        Target::Addresses(addresses) => (&addresses[..], false),
    };
    let mut last = Error::ConnectionRefused;
    for address in addresses {
        let connected = match api {
            // It may be on the machine's own loopback address, which guests reach in no other way.
            true => sockets::connect_directly(container, *address).await,
            false => sockets::connect(container, *address).await,
        };
        match connected {
            Ok((stream, handle)) => {
                let _ = stream.set_nodelay(true);
                return Ok((stream, handle));
            }
            Err(e) if e.raw_os_error() == Some(libc::EMFILE) => {
                return Err(Error::ConnectionLimitReached);
            }
            Err(e) => {
                last = match e.kind() {
                    io::ErrorKind::TimedOut => Error::ConnectionTimeout,
                    io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                        Error::DestinationIpUnroutable
                    }
                    _ => Error::Connect(e),
                }
            }
        }
    }
    Err(last)
}

async fn secure(
    container: &Arc<Container>,
    stream: TcpStream,
    host: &str,
    api: bool,
) -> Result<Connection, Error> {
    let connector = TlsConnector::from(trust::config(container, api).await);
    let name = ServerName::try_from(host.to_owned())?;
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Connection::Tls(Box::new(stream))),
        Err(error) => {
            // The code that the guest gets does not say what is wrong with a certificate.
            container.log.write(Stream::Err, &format!("TLS to {host}: {error}"));
            Err(tls_error(&error).unwrap_or(Error::ConnectionTerminated))
        }
    }
}

/// What guests are told of a failure of TLS; None if it is one of the connection.
fn tls_error(error: &io::Error) -> Option<Error> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(_)
        | rustls::Error::NoCertificatesPresented
        | rustls::Error::UnsupportedNameType => Error::TlsCertificateError,
        rustls::Error::AlertReceived(alert) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        _ => Error::TlsProtocolError,
    })
}
