//! What only a real connection shows: TLS, client certificates, restarts.

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::*;

/// GET over TLS, with the admin's certificate or without any.
async fn get(it: &Fixture, path: &str, admin: bool) -> (u16, String) {
    let pki = it.server.app.auth.pki();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.ca().clone()).expect("a CA");
    let builder = rustls::ClientConfig::builder().with_root_certificates(Arc::new(roots));
    let tls = if admin {
        let pair = pki.pair("admin").expect("a certificate");
        let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
        builder.with_client_auth_cert(vec![cert], key).expect("a configuration")
    } else {
        builder.with_no_client_auth()
    };
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_all_versions()
        .build();
    let client: Client<_, Full<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build(https);
    let uri = format!("{}{path}", it.server.url()).parse().expect("a URI");
    let response = client.get(uri).await.expect("an answer");
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (code, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn only_health_is_public() {
    let it = Fixture::new().await;
    for (path, admin, code) in [
        ("/readyz", false, 200),
        ("/livez", false, 200),
        ("/api", false, 401),
        ("/version", false, 401),
        ("/api/v1/namespaces", false, 401),
        ("/v2/", false, 401),
        ("/api/v1/namespaces", true, 200),
        ("/v2/", true, 200),
    ] {
        let (found, body) = get(&it, path, admin).await;
        assert_eq!(found, code, "{path} {admin}: {body}");
    }
}

#[tokio::test]
async fn a_second_start_finds_the_cluster_as_it_was() {
    let it = Fixture::new().await;
    let created = it.create(CONFIG_MAPS, config_map("a")).await;
    let kubeconfig = it.dir.path().join("admin.kubeconfig");
    let before = std::fs::read_to_string(&kubeconfig).expect("a kubeconfig");
    let Fixture { server, dir } = it;
    server.shutdown();
    server.join().await;
    let mut config = Config::new(dir.path());
    config.controllers = false;
    let it = Fixture { server: start(config).await.expect("a second start"), dir };
    assert_eq!(it.get(&format!("{CONFIG_MAPS}/a")).await.body, created);
    let ca = |text: &str| text.lines().find(|l| l.contains("authority")).map(str::to_owned);
    assert_eq!(ca(&before), ca(&std::fs::read_to_string(&kubeconfig).expect("a kubeconfig")));
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let it = Fixture::new().await;
    let mut config = Config::new(it.dir.path().join("other"));
    config.listen = it.server.addr();
    let error = start(config).await.err().expect("the port is in use").to_string();
    assert!(error.contains("cannot listen on") && error.contains("--listen"), "{error}");
    let error = start(Config::new(it.dir.path())).await.err().expect("in use").to_string();
    assert!(error.contains("in use by another process"), "{error}");
}
