//! TLS towards clients and towards agents, both under the cluster's own CA; and towards those of whom somebody says that they
//! may be anybody.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::auth::Pki;
use crate::config::StartError;

fn roots(pki: &Pki) -> Result<Arc<RootCertStore>, StartError> {
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca().clone()).map_err(refused)?;
    Ok(Arc::new(roots))
}

fn refused(error: impl std::fmt::Display) -> StartError {
    StartError::Tls(error.to_string())
}

/// For the server: client certificates are verified where one is shown.
pub(crate) fn server(pki: &Pki) -> Result<Arc<ServerConfig>, StartError> {
    let verifier = WebPkiClientVerifier::builder(roots(pki)?)
        .allow_unauthenticated()
        .build()
        .map_err(refused)?;
    let (chain, key) = pki.rustls_pair("apiserver")?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(refused)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For calls to agents.
pub(crate) fn kubelet_client(pki: &Pki) -> Result<ClientConfig, StartError> {
    let (chain, key) = pki.rustls_pair("kubelet-client")?;
    ClientConfig::builder()
        .with_root_certificates(roots(pki)?)
        .with_client_auth_cert(chain, key)
        .map_err(refused)
}

/// Lets everybody in who has the key of whatever certificate is shown: where somebody has asked for that.
#[derive(Debug)]
struct Anybody(CryptoProvider);

/// See [`Anybody`].
pub(crate) fn anybody() -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anybody(ring::default_provider()))
}

impl ServerCertVerifier for Anybody {
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
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
