//! `pods/log` against an agent that has joined, over TLS in both directions.

use std::sync::Arc;

use http::Uri;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// An agent's kubelet API that answers with what it was asked; returns its port.
async fn agent(it: &Fixture) -> u16 {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::DnsName("n".try_into().expect("a name"))];
    let csr = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    let csr = coracle_api::csr::Request::parse(csr.as_bytes()).expect("a request");
    let usages = ["digital signature", "server auth"];
    let pem = it.server.app.auth.pki().sign(&csr, &usages, 60).expect("a certificate");
    let cert = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("PEM");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(it.server.app.auth.pki().ca().clone()).expect("a CA");
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
    let tls = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![cert], key)
        .expect("a configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = acceptor.accept(stream).await.expect("TLS with the server's certificate");
            let service = hyper::service::service_fn(async |request: Request<_>| {
                let _: &hyper::body::Incoming = request.body();
                let uri: &Uri = request.uri();
                let (code, text) = match uri.path().ends_with("/waits") {
                    true => {
                        (400, "container \"waits\" in pod \"p\" is waiting to start".to_owned())
                    }
                    false => (200, format!("asked for {uri}\n")),
                };
                let answer = http::Response::builder().status(code).body(text);
                Ok::<_, std::convert::Infallible>(answer.expect("an answer"))
            });
            let io = hyper_util::rt::TokioIo::new(tls);
            let served = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
            tokio::spawn(served);
        }
    });
    port
}

#[tokio::test]
async fn the_right_container_of_the_right_agent() {
    let it = Fixture::new().await;
    let port = agent(&it).await;
    let node = json!({
        "metadata": {"name": "n"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        },
    });
    it.create("/api/v1/nodes", node).await;
    let mut two = pod("p");
    two["spec"]["nodeName"] = "n".into();
    two["spec"]["containers"] = json!([
        {"name": "a", "image": "i"}, {"name": "b", "image": "i"}, {"name": "waits", "image": "i"},
    ]);
    it.create(PODS, two).await;
    it.create(PODS, pod("unbound")).await;
    for (query, code, said) in [
        ("p/log", 400, "a container name must be specified for pod p, choose one of: [a b waits]"),
        ("p/log?container=x", 400, "container x is not valid for pod p"),
        ("p/log?container=waits", 400, "is waiting to start"),
        (
            "p/log?container=b&tailLines=5&follow=true&sinceTime=2026-01-01T00%3A00%3A00Z&x=y",
            200,
            "asked for /containerLogs/default/p/b?follow=true&sinceTime=2026-01-01T00:00:00Z&tailLines=5",
        ),
        ("unbound/log", 200, ""),
        ("none/log", 404, "pods \"none\" not found"),
    ] {
        let answer = it.get(&format!("{PODS}/{query}")).await;
        let text = answer.body.as_str().unwrap_or_else(|| answer.message());
        assert_eq!(answer.code, code, "{query}: {text}");
        assert!(text.contains(said), "{query}: {text}");
    }
}
