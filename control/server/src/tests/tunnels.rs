//! Tunnels that agents open: whose they are, and what goes through them.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::sync::Arc;

use coracle_api::tunnel::{PATH, PROTOCOL};
use http::{Method, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tower::Service as _;

use super::*;
use crate::serve::PeerCertificate;
use crate::tunnels::{Connector, Tunnels};

/// A certificate of the cluster's CA.
fn certificate(it: &Fixture, user: &str, group: &str) -> CertificateDer<'static> {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.distinguished_name.push(DnType::CommonName, user);
    let csr = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    let csr = coracle_api::csr::Request::parse(csr.as_bytes()).expect("a request");
    let pem = it.server.app.auth.pki().sign(&csr, &["client auth"], 60).expect("a certificate");
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")
}

#[tokio::test]
async fn only_nodes_open_them() {
    let it = Fixture::new().await;
    let ask = async |certificate: Option<CertificateDer<'static>>, protocol: &str| {
        let mut request = Request::get(PATH)
            .header("connection", "Upgrade")
            .header("upgrade", protocol)
            .body(Body::empty())
            .expect("a request");
        // What the gate finds out does not count here: an administrator may act as a node, but is none.
        request.extensions_mut().insert(Identity {
            user: "system:node:n".into(),
            groups: vec![MASTERS.into(), crate::auth::NODES.into()],
            ..Identity::default()
        });
        request.extensions_mut().insert(PeerCertificate(certificate));
        let answer = router(it.server.app.clone()).oneshot(request).await;
        read(answer.unwrap_or_else(|never| match never {})).await
    };
    let node = certificate(&it, "system:node:n", "system:nodes");
    for (certificate, protocol, code) in [
        (None, PROTOCOL, 403),
        (Some(certificate(&it, "system:node:n", "others")), PROTOCOL, 403),
        (Some(certificate(&it, "admin", "system:masters")), PROTOCOL, 403),
        (Some(node.clone()), "websocket", 400),
        (Some(node), PROTOCOL, 101),
    ] {
        let answer = ask(certificate, protocol).await;
        assert_eq!(answer.code, code, "{protocol}: {}", answer.body);
    }
}

/// An agent's end: says `name`, then says again what it hears, on every stream.
fn agent(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, name: &'static str) {
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        assert_eq!(request.method(), Method::CONNECT);
        let stream = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(stream.await.expect("an upgrade"));
            stream.write_all(name.as_bytes()).await.expect("to write");
            let (mut from, mut to) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new())))
    });
    let served =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service);
    tokio::spawn(served);
}

/// Opens a tunnel; returns the task that keeps it.
fn open(tunnels: &Tunnels, name: &'static str) -> tokio::task::JoinHandle<()> {
    let (ours, theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(64 << 10);
    agent(theirs, name);
    let tunnels = tunnels.clone();
    let (go_on, stop) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let _go_on = go_on;
        tunnels.keep("n", TokioIo::new(ours), stop).await;
    })
}

#[tokio::test]
async fn the_newest_is_the_way() {
    let tunnels = Tunnels::default();
    let mut connector = Connector {
        tunnels: tunnels.clone(),
        address: Arc::new(|_| Err(ErrorKind::HostUnreachable.into())),
    };
    let mut connect = async |node: &str| {
        let node = format!("https://{node}:1").parse().expect("a URI");
        let way = connector.call(node).await?;
        let mut stream = TokioIo::new(way);
        stream.write_all(b"!").await?;
        let mut said = [0; 7];
        stream.read_exact(&mut said).await?;
        Ok::<_, std::io::Error>((stream, String::from_utf8_lossy(&said).into_owned()))
    };
    let nowhere = connect("n").await.err().map(|error| error.kind());
    assert_eq!(nowhere, Some(ErrorKind::HostUnreachable));
    let first = open(&tunnels, "first:");
    let (mut old, said) = loop {
        match connect("n").await {
            Ok(made) => break made,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(said, "first:!");
    assert!(connect("other").await.is_err(), "it is for its own node only");
    let second = open(&tunnels, "second");
    // The older one ends, and what went through it.
    first.await.expect("to end");
    let ended = old.read(&mut [0; 1]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let (_, said) = connect("n").await.expect("the newer one");
    assert_eq!(said, "second!");
    second.abort();
}
