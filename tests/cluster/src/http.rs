//! Plain HTTP to an address, one request per connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest that a request may take.
const LIMIT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its content, as text.
    pub body: String,
}

/// Gets `path` from `address`.
///
/// # Errors
/// When there is no connection or no whole answer.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Reply> {
    let exchange = async {
        let mut connection = connect(address).await?;
        send(&mut connection, address, path).await
    };
    let reply = tokio::time::timeout(LIMIT, exchange).await;
    reply.context("no answer in time").flatten().with_context(|| format!("http://{address}{path}"))
}

pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

pub(crate) async fn send(
    connection: &mut SendRequest<Full<Bytes>>,
    address: SocketAddr,
    path: &str,
) -> anyhow::Result<Reply> {
    let request = Request::get(path)
        .header(hyper::header::HOST, address.to_string())
        .body(Full::new(Bytes::new()))?;
    let (parts, body) = connection.send_request(request).await?.into_parts();
    let body = body.collect().await.context("the answer broke off")?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Reply { status: parts.status, headers: parts.headers, body })
}
