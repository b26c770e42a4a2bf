//! Connections on which anything may be said: bytes as they are, and frames of HTTP/2 by hand.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_test_cluster::Cluster;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(20);
/// Of an answer, as much as tells what it is.
const MOST: usize = 256 << 10;

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Where, as whom, and in which protocol.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    tls: Option<TlsConnector>,
}

impl Target {
    /// The API server, as an administrator or as nobody.
    pub(super) fn api(cluster: &Cluster, admin: bool, protocol: &str) -> anyhow::Result<Self> {
        Self::secure(cluster, cluster.api(), admin, protocol)
    }

    /// Whatever has a certificate of the cluster's.
    pub(super) fn secure(
        cluster: &Cluster,
        address: SocketAddr,
        admin: bool,
        protocol: &str,
    ) -> anyhow::Result<Self> {
        let pki = cluster.data().join("pki");
        let read = |name: &str| -> anyhow::Result<CertificateDer<'static>> {
            Ok(CertificateDer::from_pem_file(Path::new(&pki).join(name))?)
        };
        let mut roots = RootCertStore::empty();
        roots.add(read("ca.crt")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match admin {
            true => {
                let key = PrivateKeyDer::from_pem_file(pki.join("admin.key"))?;
                config.with_client_auth_cert(vec![read("admin.crt")?], key)?
            }
            false => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Ok(Self { address, tls: Some(TlsConnector::from(Arc::new(config))) })
    }

    /// Without TLS.
    pub(super) fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    pub(super) async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.address).await?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::from(self.address.ip());
                Box::new(tls.connect(name, stream).await?)
            }
        })
    }

    /// Says that, and what comes back until the connection is closed or nothing comes any more.
    pub(super) async fn say(&self, bytes: &[u8]) -> anyhow::Result<String> {
        let mut stream = self.connect().await?;
        // It may be closed while this is being said: what was answered still counts.
        let said = tokio::time::timeout(ANSWER, stream.write_all(bytes)).await;
        let _ = (said, stream.flush().await);
        Ok(String::from_utf8_lossy(&heard(&mut stream).await).into_owned())
    }
}

/// What comes until there is nothing for a moment.
pub(super) async fn heard(stream: &mut dyn Stream) -> Vec<u8> {
    let mut out = Vec::new();
    let mut piece = vec![0; 16 << 10];
    let mut patience = ANSWER;
    while out.len() < MOST
        && let Ok(Ok(length @ 1..)) = tokio::time::timeout(patience, stream.read(&mut piece)).await
    {
        out.extend_from_slice(&piece[..length]);
        patience = Duration::from_millis(700);
    }
    out
}

/// How HTTP/2 begins, with empty settings.
pub(super) fn preface() -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    out.extend(frame(4, 0, 0, &[]));
    out
}

/// A frame: kind, flags, stream, payload.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// The fields of a request, without compression.
pub(super) fn fields(method: &str, path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in
        [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
    {
        out.push(0);
        for text in [name, value] {
            // Up to 126 bytes: in one byte.
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// Kinds of the frames that came, and whether the server ended the connection.
pub(super) fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        kinds.push(bytes[3]);
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    kinds
}
