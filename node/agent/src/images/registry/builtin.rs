//! Pushing to the registry built into the API server: same address, same credentials.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use sha2::{Digest, Sha256};

use super::chain;
use crate::images::hex;
use crate::images::manifest::{
    Descriptor, MANIFEST, MAX_MANIFEST, Manifest, WASM_CONFIG, WASM_LAYER,
};
use crate::images::reference::ImageName;

/// Bytes of a blob sent at once.
const CHUNK: usize = 1 << 20;

/// The registry built into the API server: same address, same credentials.
#[derive(Clone)]
pub struct Builtin {
    client: kube::Client,
}

impl Builtin {
    /// Reached through `client`.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// Pushes a component as a CNCF Wasm artifact; returns the manifest's digest. `progress` is told how many bytes
    /// of the component have been handed over.
    pub async fn push(
        &self,
        name: &ImageName,
        component: Bytes,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<String, String> {
        let config = Bytes::from(config_json(&component));
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            config: Some(describe(WASM_CONFIG, &config)),
            layers: vec![describe(WASM_LAYER, &component)],
            manifests: Vec::new(),
            annotations: None,
        };
        self.upload(name, config, |_| {}).await?;
        self.upload(name, component, progress).await?;
        let body = serde_json::to_vec(&manifest).map_err(|e| e.to_string())?;
        let digest = format!("sha256:{}", hex(&Sha256::digest(&body)));
        let path = format!("/v2/{}/manifests/{}", name.repository, name.reference());
        let request = Request::put(path).header(http::header::CONTENT_TYPE, MANIFEST);
        let answer = self.send(request, body).await?;
        if answer.status().is_success() { Ok(digest) } else { Err(refusal(answer).await) }
    }

    async fn upload(
        &self,
        name: &ImageName,
        content: Bytes,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<(), String> {
        let digest = describe("", &content).digest;
        let blob = format!("/v2/{}/blobs/{digest}", name.repository);
        let there = Request::builder().method(Method::HEAD).uri(blob);
        if self.send(there, Vec::new()).await?.status().is_success() {
            progress(content.len() as u64);
            return Ok(());
        }
        let start = Request::post(format!("/v2/{}/blobs/uploads/", name.repository));
        let answer = self.send(start, Vec::new()).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(refusal(answer).await);
        }
        let mut place = upload_path(&answer)?;
        for (index, chunk) in content.chunks(CHUNK).enumerate() {
            let start = index * CHUNK;
            let request = Request::patch(&place)
                .header(http::header::CONTENT_TYPE, "application/octet-stream")
                .header(
                    http::header::CONTENT_RANGE,
                    format!("{start}-{}", start + chunk.len() - 1),
                );
            let answer = self.send(request, chunk.to_vec()).await?;
            if answer.status() != StatusCode::ACCEPTED {
                return Err(refusal(answer).await);
            }
            place = upload_path(&answer)?;
            progress((start + chunk.len()) as u64);
        }
        let separator = if place.contains('?') { '&' } else { '?' };
        let request = Request::put(format!("{place}{separator}digest={digest}"));
        let answer = self.send(request, Vec::new()).await?;
        if answer.status() == StatusCode::CREATED { Ok(()) } else { Err(refusal(answer).await) }
    }

    async fn send(
        &self,
        request: http::request::Builder,
        body: Vec<u8>,
    ) -> Result<http::Response<Body>, String> {
        let request = request.body(Body::from(body)).map_err(|e| e.to_string())?;
        self.client.send(request).await.map_err(|e| chain(&e))
    }
}

/// Where the upload goes on. The client has the server's address already; only the path is wanted.
fn upload_path(answer: &http::Response<Body>) -> Result<String, String> {
    let location = answer.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok());
    let location = location.ok_or("the registry named no place to upload to")?;
    let location: http::Uri = location.parse().map_err(|e| format!("{location}: {e}"))?;
    Ok(location.path_and_query().map(|p| p.to_string()).unwrap_or_default())
}

/// The config of a Wasm artifact (CNCF TAG Runtime's "Wasm OCI artifact layout").
fn config_json(component: &[u8]) -> String {
    serde_json::json!({
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [format!("sha256:{}", hex(&Sha256::digest(component)))],
    })
    .to_string()
}

fn describe(media_type: &str, content: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: format!("sha256:{}", hex(&Sha256::digest(content))),
        size: content.len() as u64,
        platform: None,
        annotations: None,
    }
}

async fn body(answer: http::Response<Body>) -> Result<Bytes, String> {
    let limited = http_body_util::Limited::new(answer.into_body(), MAX_MANIFEST + 1);
    Ok(limited.collect().await.map_err(|e| e.to_string())?.to_bytes())
}

/// The error in a registry's answer (`{"errors":[{"code":…,"message":…}]}`), or a Kubernetes Status.
async fn refusal(answer: http::Response<Body>) -> String {
    let status = answer.status();
    let text = body(answer).await.unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let message = json["errors"][0]["message"].as_str().or(json["message"].as_str());
    match message {
        Some(message) => format!("{message} ({status})"),
        None => format!("the registry answered {status}"),
    }
}
