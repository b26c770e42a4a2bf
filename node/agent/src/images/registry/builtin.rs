//! Pushing to the registry built into the API server: same address, same credentials.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use sha2::{Digest, Sha256};

use super::chain;
use crate::images::hex;
use crate::images::layout::Layout;
use crate::images::manifest::{
    Descriptor, MANIFEST, MAX_MANIFEST, Manifest, WASM_CONFIG, WASM_LAYER,
};
use crate::images::reference::ImageName;

/// Bytes of a blob sent at once.
const CHUNK: usize = 1 << 20;
/// Most manifests of one image, those of its indexes included.
const MAX_MANIFESTS: usize = 1000;

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
        for (content, told) in [(config, false), (component, true)] {
            let digest = describe("", &content).digest;
            let mut rest = content;
            let next = |most: usize| Ok(rest.split_to(most.min(rest.len())).to_vec());
            let report = |bytes| {
                if told {
                    progress(bytes)
                }
            };
            self.upload(name, &digest, next, report).await?;
        }
        let body = serde_json::to_vec(&manifest).map_err(|e| e.to_string())?;
        let digest = format!("sha256:{}", hex(&Sha256::digest(&body)));
        self.put_manifest(name, name.reference(), MANIFEST, body).await?;
        Ok(digest)
    }

    /// Pushes an image of a layout, with all that it names; returns the manifest's digest. `progress` is told how many
    /// bytes have been handed over.
    pub async fn push_layout(
        &self,
        name: &ImageName,
        layout: &Layout,
        progress: impl Fn(u64) + Send + Sync,
    ) -> Result<String, String> {
        let image = layout.image(name.reference()).map_err(|e| e.to_string())?;
        let mut sent = 0;
        // Depth first: a registry takes a manifest when it has what that names.
        let mut todo = vec![(image.clone(), false)];
        let mut seen = 0;
        while let Some((descriptor, ready)) = todo.pop() {
            let (bytes, manifest) = layout.manifest(&descriptor).map_err(|e| e.to_string())?;
            seen += 1;
            if seen > MAX_MANIFESTS {
                return Err(format!("it names more than {MAX_MANIFESTS} manifests"));
            }
            if !ready {
                todo.push((descriptor, true));
                // What a layout leaves out, of other platforms for instance, cannot be pushed.
                todo.extend(manifest.manifests.into_iter().map(|d| (d, false)));
                continue;
            }
            for blob in manifest.config.iter().chain(&manifest.layers) {
                let mut part = layout.blob(&blob.digest).map_err(|e| e.to_string())?;
                let next = |most| part.next(most).map_err(|e| format!("{}: {e}", blob.digest));
                self.upload(name, &blob.digest, next, |bytes| progress(sent + bytes)).await?;
                sent += blob.size;
            }
            let reference = if descriptor == image { name.reference() } else { &descriptor.digest };
            let media_type = match manifest.media_type.as_str() {
                "" => descriptor.media_type.as_str(),
                own => own,
            };
            self.put_manifest(name, reference, media_type, bytes).await?;
        }
        Ok(image.digest)
    }

    async fn put_manifest(
        &self,
        name: &ImageName,
        reference: &str,
        media_type: &str,
        body: Vec<u8>,
    ) -> Result<(), String> {
        let path = format!("/v2/{}/manifests/{reference}", name.repository);
        let request = Request::put(path).header(http::header::CONTENT_TYPE, media_type);
        let answer = self.send(request, body).await?;
        if answer.status().is_success() { Ok(()) } else { Err(refusal(answer).await) }
    }

    /// Uploads a blob, `next` handing out its bytes until there are none.
    async fn upload(
        &self,
        name: &ImageName,
        digest: &str,
        mut next: impl FnMut(usize) -> Result<Vec<u8>, String>,
        progress: impl Fn(u64),
    ) -> Result<(), String> {
        let blob = format!("/v2/{}/blobs/{digest}", name.repository);
        let there = Request::builder().method(Method::HEAD).uri(blob);
        if self.send(there, Vec::new()).await?.status().is_success() {
            return Ok(());
        }
        let start = Request::post(format!("/v2/{}/blobs/uploads/", name.repository));
        let answer = self.send(start, Vec::new()).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(refusal(answer).await);
        }
        let mut place = upload_path(&answer)?;
        let mut sent = 0;
        loop {
            let chunk = next(CHUNK)?;
            let length = chunk.len();
            if length == 0 {
                break;
            }
            let request = Request::patch(&place)
                .header(http::header::CONTENT_TYPE, "application/octet-stream")
                .header(http::header::CONTENT_RANGE, format!("{sent}-{}", sent + length - 1));
            let answer = self.send(request, chunk).await?;
            if answer.status() != StatusCode::ACCEPTED {
                return Err(refusal(answer).await);
            }
            place = upload_path(&answer)?;
            sent += length;
            progress(sent as u64);
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
        // By its header: a core module is one of preview 1, which nodes make into a component.
        "os": if component.get(4..8) == Some(b"\x01\0\0\0") { "wasip1" } else { "wasip2" },
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
