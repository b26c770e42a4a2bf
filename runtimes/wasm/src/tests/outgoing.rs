//! Guests' requests to servers with TLS of their own, and how long they wait for whom.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_sandbox::*;
use futures::stream;
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fixture::*;

/// An authority that nobody knows.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A server's TLS for these names.
    fn server(&self, names: &[&str], expired: bool, protocols: &[&[u8]]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A server at an address of its own. `/late` begins its answer late, `/slow` goes on late; others
/// say what was asked.
async fn server(tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind((free_ip(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let service = hyper::service::service_fn(serve);
                match tls {
                    None => drop(builder.serve_connection(TokioIo::new(stream), service).await),
                    Some(tls) => {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        drop(builder.serve_connection(TokioIo::new(stream), service).await);
                    }
                }
            });
        }
    });
    address
}

type Slow = std::pin::Pin<Box<dyn futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

async fn serve(
    request: http::Request<Incoming>,
) -> Result<http::Response<StreamBody<Slow>>, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/late" {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    let authority = request.uri().authority().map(ToString::to_string);
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).map(str::to_owned);
    let said = format!("{:?} {} {path}", request.version(), authority.or(host).unwrap_or_default());
    let first = stream::iter([Ok(Frame::data(Bytes::from(said)))]);
    let rest = stream::once(async move {
        if path == "/slow" {
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        Ok(Frame::data(Bytes::from_static(b" end")))
    });
    Ok(http::Response::new(StreamBody::new(
        Box::pin(futures::StreamExt::chain(first, rest)) as Slow
    )))
}

/// A Service's name for a server.
fn named(name: &str, backend: SocketAddr, port: u16) -> ServiceRoute {
    let ports = vec![PortRoute { port, backends: vec![backend], ..Default::default() }];
    let namespace = if name == "kubernetes" { "default" } else { "test" };
    ServiceRoute {
        name: name.into(),
        namespace: namespace.into(),
        vip: Some(free_ip()),
        ports,
        ..Default::default()
    }
}

/// Serves the probe with certificates at `/own`, and with more in its environment.
async fn caller(host: &TestHost, name: &str, folder: &Path, env: &[(&str, &str)]) -> SocketAddr {
    let own = |guest: &str| Mount {
        host_path: folder.into(),
        guest_path: guest.into(),
        read_only: true,
        ..Default::default()
    };
    host.serve_with(name, example("probe-http"), |app| {
        app.mounts = vec![own("/own"), own("/var/run/secrets/kubernetes.io/serviceaccount")];
        app.env = env.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_says_whom_it_believes() {
    let host = TestHost::start().await;
    let (ours, theirs) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ours.pem"), &ours.pem).unwrap();
    std::fs::write(folder.path().join("ca.crt"), &theirs.pem).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("escape.pem")).unwrap();
    let both: &[&[u8]] = &[b"h2", b"http/1.1"];
    let good = server(Some(ours.server(&["good"], false, both))).await;
    let old = server(Some(ours.server(&["old"], true, both))).await;
    let plain = server(Some(ours.server(&["plain"], false, &[b"http/1.1"]))).await;
    let api =
        server(Some(theirs.server(&["kubernetes.default", "kubernetes.default.svc"], false, both)));
    let api = api.await;
    let rude = TcpListener::bind((free_ip(), 0)).await.unwrap();
    let rude_at = rude.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = rude.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"no TLS here\r\n\r\n").await;
            kept.push(stream);
        }
    });
    let routes = Routes {
        generation: 1,
        services: vec![
            named("good", good, 443),
            named("bad", good, 443),
            named("old", old, 443),
            named("plain", plain, 443),
            named("rude", rude_at, 443),
            named("kubernetes", api, 443),
        ],
        listen: Vec::new(),
    };
    host.client.put_routes(&routes).await.unwrap();
    let file = caller(&host, "file", folder.path(), &[("SSL_CERT_FILE", "/own/ours.pem")]).await;
    let all = caller(&host, "folder", folder.path(), &[("SSL_CERT_DIR", "/gone:/own")]).await;
    let none = caller(&host, "none", folder.path(), &[]).await;
    let away = caller(&host, "away", folder.path(), &[("SSL_CERT_FILE", "/own/escape.pem")]).await;
    let check = async |from: SocketAddr, url: &str, expected: &str| {
        let (_, said) = get(from, &format!("/fetch?url={url}")).await;
        assert!(said.contains(expected), "{url}: {said}");
    };
    for believing in [file, all] {
        check(believing, "https://good/a", "200\nHTTP/2.0 good /a end").await;
        check(believing, "https://plain/b", "200\nHTTP/1.1 plain /b end").await;
        check(believing, "https://bad/", "TlsCertificateError").await;
        check(believing, "https://old/", "TlsCertificateError").await;
        check(believing, "https://rude/", "TlsProtocolError").await;
    }
    check(none, "https://good/", "TlsCertificateError").await;
    check(away, "https://good/", "TlsCertificateError").await;
    assert!(host.log("away").contains("SSL_CERT_FILE: /own/escape.pem: "), "{}", host.log("away"));
    assert!(host.log("file").contains("TLS to old: "), "{}", host.log("file"));
    // The API is believed by what lies beside the token, whatever else is said.
    for from in [file, none] {
        check(from, "https://kubernetes.default.svc/version", "200\nHTTP/2.0 kubernetes.def").await;
        check(from, "https://kubernetes.default/version", "200\nHTTP/2.0 kubernetes.default").await;
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_time_are_kept() {
    let host = TestHost::start().await;
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), &authority.pem).unwrap();
    let from = caller(&host, "caller", folder.path(), &[("SSL_CERT_DIR", "/own")]).await;
    let plain = server(None).await;
    let secret = server(Some(authority.server(&["secret"], false, &[b"h2"]))).await;
    // It takes connections and says nothing.
    let mute = TcpListener::bind((free_ip(), 0)).await.unwrap();
    let mute_at = mute.local_addr().unwrap();
    let services = vec![
        named("plain", plain, 80),
        named("secret", secret, 443),
        named("mute", mute_at, 443),
        named("neighbour", host.serve("neighbour", example("probe-http")).await, 80),
    ];
    host.client.put_routes(&Routes { generation: 1, services, listen: Vec::new() }).await.unwrap();
    for (limit, url, expected) in [
        ("connect=200", "https://mute/", "ConnectionTimeout"),
        ("first=200", "http://plain/late", "ConnectionReadTimeout"),
        ("first=200", "https://secret/late", "ConnectionReadTimeout"),
        ("first=200", "http://neighbour/sleep?ms=30000", "ConnectionReadTimeout"),
        ("between=200", "http://plain/slow", "connection read timeout"),
        ("between=200", "https://secret/slow", "connection read timeout"),
        ("between=200", "http://neighbour/stream?chunks=3&ms=15000", "connection read timeout"),
        ("connect=20000&first=20000&between=20000", "http://plain/x", "200\n"),
    ] {
        let begun = Instant::now();
        let (_, said) = get(from, &format!("/fetch?{limit}&url={url}")).await;
        assert!(said.contains(expected), "{limit} {url}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(12), "{limit} {url}: {said}");
    }
    host.end().await;
}

/// Not a loopback address in disguise: only the API may be there.
#[tokio::test(flavor = "multi_thread")]
async fn the_machine_itself_is_the_apis_alone() {
    let host = TestHost::start().await;
    let listener = TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let services = vec![named("kubernetes", address, 443), named("other", address, 443)];
    host.client.put_routes(&Routes { generation: 1, services, listen: Vec::new() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let from = caller(&host, "caller", folder.path(), &[]).await;
    let (_, said) = get(from, "/fetch?connect=300&url=http://other:443/").await;
    assert!(said.contains("ConnectionRefused"), "{said}");
    let (_, said) = get(from, "/fetch?connect=300&url=https://kubernetes.default/").await;
    assert!(said.contains("ConnectionTimeout"), "{said}");
    drop(listener);
    host.end().await;
}
