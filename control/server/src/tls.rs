//! TLS towards clients and towards agents, both under the cluster's own CA.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

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
