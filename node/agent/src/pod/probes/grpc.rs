//! gRPC's health checking protocol (`grpc.health.v1.Health/Check`), over HTTP/2 without TLS: one call is too little to
//! bring a gRPC library for.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::{USER_AGENT, connect};

/// Longest answer that is read: a status is two bytes.
const ANSWER: usize = 4096;
/// gRPC's code for a method that the server does not have.
const UNIMPLEMENTED: &str = "12";

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// Whether the service is `SERVING`; in the kubelet's words where not.
pub(super) async fn check(
    address: SocketAddr,
    service: &str,
    limit: Duration,
) -> Result<(), String> {
    let end = tokio::time::Instant::now() + limit;
    let stream = match tokio::time::timeout_at(end, connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(format!(
                "error: failed to connect service at {:?}: {error}",
                address.to_string()
            ));
        }
        Err(_) => {
            return Err(format!(
                "timeout: failed to connect service {:?} within {}s: context deadline exceeded",
                address.to_string(),
                limit.as_secs()
            ));
        }
    };
    let io = TokioIo::new(stream);
    let called = async {
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .handshake(io)
            .await
            .map_err(|e| failed(&e.to_string()))?;
        let mut answer = pin!(call(sender, address, service));
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            // One that ends may have brought the answer just before.
            _ = connection => answer.await,
        }
    };
    tokio::time::timeout_at(end, called).await.unwrap_or_else(|_| {
        Err(format!("timeout: health rpc did not complete within {}s", limit.as_secs()))
    })
}

fn failed(why: &str) -> String {
    format!("error: health rpc probe failed: {why}")
}

async fn call(
    mut sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    address: SocketAddr,
    service: &str,
) -> Result<(), String> {
    let message = HealthCheckRequest { service: service.to_owned() };
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .header(http::header::USER_AGENT, USER_AGENT)
        .body(Full::new(framed(&message)))
        .map_err(|e| failed(&e.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|e| failed(&e.to_string()))?;
    let (status, message) = read(answer).await?;
    let (code, said) = status.ok_or_else(|| failed("the answer has no grpc-status"))?;
    match (code.as_str(), message) {
        ("0", Some(message)) => match message.status() {
            ServingStatus::Serving => Ok(()),
            other => Err(format!("service unhealthy (responded with {:?})", other.name())),
        },
        ("0", None) => Err(failed("the answer is empty")),
        (UNIMPLEMENTED, _) => Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {said}"
        )),
        (code, _) => Err(failed(&format!("rpc error: code = {code} desc = {said}"))),
    }
}

type Status = Option<(String, String)>;

/// `grpc-status` and `grpc-message`, from trailers or, where there is no message, from headers; and the message.
async fn read(answer: Response<Incoming>) -> Result<(Status, Option<HealthCheckResponse>), String> {
    let (head, body) = answer.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(failed(&format!(
            "unexpected HTTP status code received from server: {}",
            head.status
        )));
    }
    let body = Limited::new(body, ANSWER).collect().await.map_err(|e| failed(&e.to_string()))?;
    let status = body.trailers().and_then(status).or_else(|| status(&head.headers));
    let bytes = body.to_bytes();
    // A flag (compressed or not), the length in four bytes, the message.
    let message = bytes.split_at_checked(5).filter(|(head, _)| head[0] == 0);
    let message = message.and_then(|(_, message)| HealthCheckResponse::decode(message).ok());
    Ok((status, message))
}

fn status(headers: &HeaderMap) -> Status {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    Some((text("grpc-status")?, text("grpc-message").unwrap_or_default()))
}

fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(message.encoded_len().try_into().unwrap_or(u32::MAX));
    // A BytesMut grows as it needs to; encoding into it cannot fail.
    let _ = message.encode(&mut frame);
    frame.freeze()
}

impl ServingStatus {
    fn name(self) -> &'static str {
        match self {
            ServingStatus::Unknown => "UNKNOWN",
            ServingStatus::Serving => "SERVING",
            ServingStatus::NotServing => "NOT_SERVING",
            ServingStatus::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}
