use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use coracle_ingress::config::{Certificate, Protocol};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::backends::Endpoint;
use super::fixture::{Proxy, ask, certified, get, leads_to};

fn made(host: &str) -> (Certificate, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
    let certificate = Certificate { chain: made.cert.pem(), key: made.signing_key.serialize_pem() };
    (certificate, made.cert.der().clone())
}

/// Looks at what it gets, and takes everything.
#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

async fn connect(address: SocketAddr, name: &str, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut config = rustls::ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake")
}

fn served(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("certificates")[0].clone().into_owned()
}

/// The status that a host is answered with on a connection made for another.
async fn status(stream: TlsStream<TcpStream>, host: &str) -> u16 {
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(stream);
    let request = http::Request::get(format!("https://{host}/")).header("host", host);
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    if is_http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                .await
                .expect("HTTP/2");
        tokio::spawn(connection);
        sender.send_request(request).await.expect("an answer").status().as_u16()
    } else {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        sender.send_request(request).await.expect("an answer").status().as_u16()
    }
}

#[tokio::test]
async fn names_have_certificates_that_change_while_served() {
    let (proxy, endpoint) = (Proxy::start().await, Endpoint::start().await);
    let ((a, a_der), (wild, wild_der), (newer, newer_der)) =
        (made("a.example.com"), made("*.b.com"), made("a.example.com"));
    let base = leads_to("a.example.com", &[endpoint.address], Protocol::Http1);
    let config = certified(certified(base, "a.example.com", &a), "*.b.com", &wild);
    proxy.serve(&config).await;
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let stream = connect(proxy.https, "A.example.com", protocol).await;
        assert_eq!(served(&stream), a_der);
        assert_eq!(status(stream, "a.example.com").await, 200);
        // Asked for another host than the connection is for.
        let stream = connect(proxy.https, "x.b.com", protocol).await;
        assert_eq!(served(&stream), wild_der);
        assert_eq!(status(stream, "a.example.com").await, 421);
    }
    // Nobody's name, and a name below a wildcard's.
    let fallback = served(&connect(proxy.https, "elsewhere.com", b"h2").await);
    assert!(fallback != a_der && fallback != wild_der);
    assert_eq!(served(&connect(proxy.https, "x.y.b.com", b"h2").await), fallback);

    // A connection of before goes on; the next one has the new certificate.
    let before = connect(proxy.https, "a.example.com", b"h2").await;
    let renewed = certified(config.clone(), "a.example.com", &newer);
    proxy.serve(&renewed).await;
    assert_eq!(served(&connect(proxy.https, "a.example.com", b"h2").await), newer_der);
    assert_eq!(status(before, "a.example.com").await, 200);

    // Plain HTTP is for those who have none.
    let reply = ask(proxy.http, get("a.example.com", "/x")).await;
    assert_eq!(reply.status(), 308);
    proxy.serve(&leads_to("a.example.com", &[endpoint.address], Protocol::Http1)).await;
    assert_eq!(ask(proxy.http, get("a.example.com", "/x")).await.status(), 200);
    assert_eq!(served(&connect(proxy.https, "a.example.com", b"h2").await), fallback);
    proxy.end().await;
}

#[test]
fn certificates_that_cannot_be_served_are_told_apart() {
    let ((one, _), (other, _)) = (made("a"), made("b"));
    assert_eq!(coracle_ingress::check_certificate(&one.chain, &one.key), Ok(()));
    for (chain, key, part) in [
        (&one.chain, &other.key, "tls.key is not usable with tls.crt"),
        (&String::new(), &one.key, "tls.crt holds no certificate"),
        (&one.chain, &one.chain, "tls.key holds no private key"),
        (
            &"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
            &one.key,
            "no readable certificate",
        ),
    ] {
        let refused = coracle_ingress::check_certificate(chain, key).expect_err("refused");
        assert!(refused.contains(part), "{refused}");
    }
}
