//! Tests of the whole server through its router: the same path as HTTP, without a network.

mod admission;
mod aggregation;
mod applies;
mod audits;
mod authentication;
mod conflicts;
mod conformance;
mod custom;
mod deletion;
mod encryption;
mod fairness;
mod full;
mod ingresses;
mod lists;
mod logs;
mod mutations;
mod network;
mod noise;
mod policies;
mod policy_actions;
mod protobuf;
mod proxying;
mod quotas;
mod ratcheting;
mod replicas;
mod rules;
mod selectable;
mod services;
mod streams;
mod tunnels;
mod walk;
mod watches;
mod writes;

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::StreamExt;
use http::Request;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::auth::{Identity, MASTERS};
use crate::http::router;
use crate::{Config, Server, start};

/// A server in a folder of its own, without controllers and scheduler unless asked for.
struct Fixture {
    server: Server,
    dir: tempfile::TempDir,
}

/// An answer, read whole.
struct Answer {
    code: u16,
    body: Value,
    headers: http::HeaderMap,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(|config| {
            config.controllers = false;
            config.scheduler = false;
        })
        .await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config::new(dir.path());
        change(&mut config);
        let controllers = config.controllers;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = start(config).await.expect("the server starts");
        let fixture = Self { server, dir };
        if !controllers {
            let account = json!({"metadata": {"name": "default"}});
            let path = "/api/v1/namespaces/default/serviceaccounts";
            assert_eq!(fixture.post(path, account).await.code, 201);
        }
        fixture
    }

    /// Stops the server; what it leaves on the disk.
    async fn stop(self) -> tempfile::TempDir {
        self.server.shutdown();
        self.server.join().await;
        self.dir
    }

    /// A server over what another one left.
    async fn again(
        dir: tempfile::TempDir,
        change: impl FnOnce(&mut Config),
    ) -> Result<Self, (crate::StartError, tempfile::TempDir)> {
        let mut config = Config::new(dir.path());
        config.controllers = false;
        config.scheduler = false;
        change(&mut config);
        match start(config).await {
            Ok(server) => Ok(Self { server, dir }),
            Err(error) => Err((error, dir)),
        }
    }

    /// A request as a member of `system:masters`.
    async fn send(&self, mut request: Request<Body>) -> Response {
        request.extensions_mut().insert(Identity {
            user: "admin".into(),
            groups: vec![MASTERS.into()],
            ..Identity::default()
        });
        let answer = router(self.server.app.clone()).oneshot(request).await;
        answer.unwrap_or_else(|never| match never {})
    }

    async fn call(&self, method: &str, path: &str, media: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media)
            .body(body.into())
            .expect("a request");
        read(self.send(request).await).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", Body::empty()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, "application/json", body.to_string()).await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        self.call("PUT", path, "application/json", body.to_string()).await
    }

    async fn merge(&self, path: &str, body: Value) -> Answer {
        self.call("PATCH", path, "application/merge-patch+json", body.to_string()).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, "", Body::empty()).await
    }

    /// Creates what must be possible to create.
    async fn create(&self, path: &str, body: Value) -> Value {
        let answer = self.post(path, body).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
        answer.body
    }

    async fn watch(&self, path: &str) -> Events {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = self.send(request).await;
        assert_eq!(response.status(), 200, "{path}");
        Events { stream: response.into_body().into_data_stream(), pending: Vec::new() }
    }
}

/// The events of a watch, one after the other.
struct Events {
    stream: axum::body::BodyDataStream,
    pending: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the watch has ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a line of JSON"));
            }
            let chunk = tokio::time::timeout(Duration::from_secs(10), self.stream.next())
                .await
                .expect("an event within ten seconds")?;
            self.pending.extend_from_slice(&chunk.expect("a readable stream"));
        }
    }

    /// Type and name of the next event.
    async fn step(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

async fn read(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("a readable body");
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Answer { code: parts.status.as_u16(), body, headers: parts.headers }
}

impl Answer {
    fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }

    fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    /// Names of the items of a list.
    fn names(&self) -> Vec<&str> {
        let items = self.body["items"].as_array().into_iter().flatten();
        items.filter_map(|item| item["metadata"]["name"].as_str()).collect()
    }
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "b"}})
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "example"}]},
    })
}
