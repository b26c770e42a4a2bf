//! The API over HTTPS with the admin's certificate: hyper on one connection, bodies as bytes; or as many nodes do, on few.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::client::conn::http2;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How to reach a cluster as its admin.
#[derive(Clone)]
pub(crate) struct Api {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

/// One connection; one request at a time.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Api {
    /// Reads what the kubeconfig says.
    pub(crate) fn open(kubeconfig: &Path) -> anyhow::Result<Self> {
        let config: Value = serde_saphyr::from_str(&std::fs::read_to_string(kubeconfig)?)?;
        let pem = |pointer: &str| {
            let text = config.pointer(pointer).and_then(Value::as_str);
            let text = text.with_context(|| format!("the kubeconfig has no {pointer}"))?;
            anyhow::Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
        };
        let mut roots = rustls::RootCertStore::empty();
        let ca = pem("/clusters/0/cluster/certificate-authority-data")?;
        roots.add(CertificateDer::from_pem_slice(&ca)?)?;
        let certificate = pem("/users/0/user/client-certificate-data")?;
        let certificate = CertificateDer::pem_slice_iter(&certificate).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)?;
        let tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(certificate, key)?;
        let url = config.pointer("/clusters/0/cluster/server").and_then(Value::as_str);
        let address = url.and_then(|url| url.strip_prefix("https://")).unwrap_or_default();
        Ok(Self { address: address.parse()?, tls: Arc::new(tls) })
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let (sender, connection) = handshake(self.dial(self.tls.clone()).await?).await?;
        tokio::spawn(connection);
        Ok(Connection { sender, host: self.address.to_string() })
    }

    /// A connection that carries many requests at a time.
    pub(crate) async fn share(&self) -> anyhow::Result<Shared> {
        let mut tls = ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let stream = self.dial(Arc::new(tls)).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        Ok(Shared { sender, host: self.address.to_string() })
    }

    async fn dial(&self, tls: Arc<ClientConfig>) -> anyhow::Result<TokioIo<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        Ok(TokioIo::new(TlsConnector::from(tls).connect(name, stream).await?))
    }
}

/// One HTTP/2 connection; clones share it.
#[derive(Clone)]
pub(crate) struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    host: String,
}

impl Shared {
    /// Asks as the admin for what the server has in one of its forms; the answer's body is still to be read.
    pub(crate) async fn get(
        &mut self,
        accept: &str,
        path: &str,
    ) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .uri(format!("https://{}{path}", self.host))
            .header("accept", accept)
            .body(Full::default())?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends a request as a node would; the answer's body is still to be read.
    pub(crate) async fn send(
        &mut self,
        node: &str,
        method: Method,
        path: &str,
        body: Option<(&str, String)>,
    ) -> anyhow::Result<Response<Incoming>> {
        let (kind, body) = body.unwrap_or(("application/json", String::new()));
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.host))
            .header("accept", "application/json")
            .header("content-type", kind)
            .header("impersonate-user", format!("system:node:{node}"))
            .header("impersonate-group", "system:nodes")
            .body(Full::new(body.into()))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Status and body of a request's answer.
    pub(crate) async fn call(
        &mut self,
        node: &str,
        method: Method,
        path: &str,
        body: Option<(&str, String)>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let response = self.send(node, method, path, body).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}

impl Connection {
    /// Sends a request; the answer's body is still to be read.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Response<Incoming>> {
        self.send_as(method, path, "application/json", body).await
    }

    async fn send_as(
        &mut self,
        method: Method,
        path: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("accept", "application/json")
            .header("content-type", kind)
            .body(Full::new(body.into()))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Status and body of a GET.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// The object at a path.
    pub(crate) async fn read(&mut self, path: &str) -> anyhow::Result<Value> {
        let (status, body) = self.get(path).await?;
        expect(status, &body, path)?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Creates an object; gives it back as text.
    pub(crate) async fn create(
        &mut self,
        path: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Bytes> {
        let response = self.send(Method::POST, path, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        expect(status, &body, path)?;
        Ok(body)
    }

    /// Creates an object unless it is there.
    pub(crate) async fn ensure(&mut self, path: &str, object: &Value) -> anyhow::Result<()> {
        let response = self.send(Method::POST, path, object.to_string()).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status == StatusCode::CONFLICT { Ok(()) } else { expect(status, &body, path) }
    }

    /// Changes an object; `kind` is the patch's media type.
    pub(crate) async fn patch(
        &mut self,
        path: &str,
        kind: &str,
        patch: impl Into<Bytes>,
    ) -> anyhow::Result<()> {
        let response = self.send_as(Method::PATCH, path, kind, patch).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        expect(status, &body, path)
    }

    /// Deletes an object at once.
    pub(crate) async fn delete(&mut self, path: &str) -> anyhow::Result<()> {
        let path = format!("{path}?gracePeriodSeconds=0");
        let response = self.send(Method::DELETE, &path, Bytes::new()).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        expect(status, &body, &path)
    }
}

pub(crate) fn expect(status: StatusCode, body: &[u8], path: &str) -> anyhow::Result<()> {
    if !status.is_success() {
        bail!("{path}: {status}: {}", String::from_utf8_lossy(&body[..body.len().min(500)]));
    }
    Ok(())
}
