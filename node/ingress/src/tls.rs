//! TLS: which certificate a client gets, by the name that it asks for; and to endpoints.
//!
//! Certificates are looked up at each handshake, so that a Secret that changes is in force for the next connection and
//! disturbs none that there is. A name without a certificate gets one that nobody trusts, made when the process started.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use crate::state::State;

/// Whom the fallback's certificate is for.
const NOBODY: &str = "ingress.coracle.invalid";

/// The key and the chain of a Secret, PEM; what is wrong with them otherwise.
pub(crate) fn parse(chain: &str, key: &str) -> Result<CertifiedKey, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt is no PEM: {error}"))?;
    let Some(first) = certificates.first() else {
        return Err("tls.crt holds no certificate".to_owned());
    };
    x509_parser::parse_x509_certificate(first)
        .map_err(|error| format!("tls.crt holds no readable certificate: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| format!("tls.key holds no private key without a passphrase: {error}"))?;
    CertifiedKey::from_der(certificates, key, &ring::default_provider())
        .map_err(|error| format!("tls.key is not usable with tls.crt: {error}"))
}

/// Whether a Secret's certificate can be served.
///
/// # Errors
/// What is wrong with it.
pub fn check(chain: &str, key: &str) -> Result<(), String> {
    parse(chain, key).map(drop)
}

/// A certificate for nobody.
fn fallback() -> anyhow::Result<CertifiedKey> {
    let made = rcgen::generate_simple_self_signed([NOBODY.to_owned()])?;
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes())
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(CertifiedKey::from_der(vec![made.cert.der().clone()], key, &ring::default_provider())?)
}

/// How the process does TLS.
pub(crate) fn config(state: Arc<State>) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let resolver = Arc::new(Resolver { state, fallback: Arc::new(fallback()?) });
    let mut config = rustls::ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = ring::Ticketer::new().map_err(io::Error::other)?;
    Ok(Arc::new(config))
}

/// How endpoints are spoken to in TLS. Their certificates are nobody's business, as in ingress-nginx: they are called by
/// address, and made by whoever made the Pod.
pub(crate) struct ToEndpoints {
    pub(crate) http1: TlsConnector,
    pub(crate) h2: TlsConnector,
}

impl ToEndpoints {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let config = |protocol: &[u8]| {
            let builder = rustls::ClientConfig::builder_with_provider(provider.clone());
            let mut config = builder
                .with_safe_default_protocol_versions()?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Whoever(provider.clone())))
                .with_no_client_auth();
            config.alpn_protocols = vec![protocol.to_vec()];
            anyhow::Ok(TlsConnector::from(Arc::new(config)))
        };
        Ok(Self { http1: config(b"http/1.1")?, h2: config(b"h2")? })
    }
}

/// Takes every certificate whose key the endpoint has.
#[derive(Debug)]
struct Whoever(Arc<CryptoProvider>);

impl ServerCertVerifier for Whoever {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

struct Resolver {
    state: Arc<State>,
    fallback: Arc<CertifiedKey>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        let found = self.state.certificate_of(&name).and_then(|name| self.state.certificate(&name));
        Some(found.unwrap_or_else(|| self.fallback.clone()))
    }
}
