//! What is remembered of one request until its answer has left: for the counters, and for the access
//! log of a container that asked for one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{Method, Request, Uri, Version};
use serde::Serialize;
use tokio::time::Instant;

use super::client::Client;
use super::refusal::Refusal;
use super::upload::Progress;
use crate::container::Container;
use crate::logs::Stream;

/// A request from its head to its answer's last byte. Dropping it counts it.
pub(super) struct Record {
    container: Arc<Container>,
    client: Option<Arc<Client>>,
    pub(super) begun: Instant,
    /// When the answer must be complete.
    pub(super) deadline: Instant,
    pub(super) status: u16,
    pub(super) refusal: Option<Refusal>,
    /// Why the answer was not completed.
    pub(super) broken: Option<Refusal>,
    pub(super) sent: u64,
    pub(super) upload: Option<Arc<Progress>>,
    asked: Option<Box<Asked>>,
}

/// What the access log tells of the request.
struct Asked {
    method: Method,
    uri: Uri,
    version: Version,
}

impl Record {
    /// A request from outside (with its connection's client) or from a guest of this host.
    pub(super) fn begin<B>(
        container: &Arc<Container>,
        client: Option<&Arc<Client>>,
        request: &Request<B>,
    ) -> Record {
        let begun = Instant::now();
        let deadline = begun + container.timeout();
        container.traffic.open.fetch_add(1, Relaxed);
        container.traffic.counts().begin(begun.into_std());
        if let Some(client) = client {
            client.begin(deadline);
        }
        let asked = container.spec.http.access_log.then(|| {
            Box::new(Asked {
                method: request.method().clone(),
                uri: request.uri().clone(),
                version: request.version(),
            })
        });
        Record {
            container: container.clone(),
            client: client.cloned(),
            begun,
            deadline,
            status: 0,
            refusal: None,
            broken: None,
            sent: 0,
            upload: None,
            asked,
        }
    }

    pub(super) fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// Why the answer was not the guest's, or not complete.
    fn reason(&self, took: Duration) -> Option<Refusal> {
        let late = self.begun + took >= self.deadline;
        self.broken.or(self.refusal).or(late.then_some(Refusal::TimedOut))
    }

    /// Bytes of the request's body so far.
    fn received(&self) -> u64 {
        self.upload.as_ref().map_or(0, |upload| upload.received())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        let counts = self.container.traffic.counts();
        counts.finish(self.status, self.begun.into_std(), took);
        let received = self.received();
        if received > 0 {
            counts.received.fetch_add(received, Relaxed);
        }
        if self.sent > 0 {
            counts.sent.fetch_add(self.sent, Relaxed);
        }
        if let Some(asked) = &self.asked {
            let line = Line {
                time: jiff::Timestamp::now(),
                method: asked.method.as_str(),
                path: asked.uri.path(),
                status: self.status,
                bytes_in: received,
                bytes_out: self.sent,
                duration_ms: (took.as_micros() as f64) / 1000.0,
                peer: self.client.as_ref().map(|client| client.peer),
                protocol: protocol(asked.version),
                reason: self.reason(took).map(Refusal::as_str),
            };
            if let Ok(line) = serde_json::to_string(&line) {
                self.container.log.write(Stream::Out, &line);
            }
        }
        if let Some(client) = &self.client {
            client.finish();
        }
        self.container.traffic.open.fetch_sub(1, Relaxed);
    }
}

/// A line of the access log. The query is left out, as are headers: secrets travel in both.
#[derive(Serialize)]
struct Line<'a> {
    time: jiff::Timestamp,
    method: &'a str,
    path: &'a str,
    /// 0 where the client left before there was an answer.
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: f64,
    /// None for a guest of the same host.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<SocketAddr>,
    protocol: &'static str,
    /// Why the host answered in the guest's stead, or broke its answer off.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}
