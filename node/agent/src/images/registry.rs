//! Where images come from, and, for the built-in registry, how they get there (OCI distribution specification).

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::hex;
use super::reference::ImageName;

/// An OCI image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// A Docker image manifest, which reads the same.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Bytes of a blob sent at once.
const CHUNK: usize = 1 << 20;

/// Config of a CNCF Wasm artifact.
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// Layer of a CNCF Wasm artifact.
pub const WASM_LAYER: &str = "application/wasm";

/// The part of an image manifest that matters here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own media type.
    #[serde(default)]
    pub media_type: String,
    /// The image's configuration.
    #[serde(default)]
    pub config: Option<Descriptor>,
    /// The content.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

/// A reference to content by digest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:<hex>`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// A blob as it arrives.
pub struct Blob(BoxStream<'static, Result<Bytes, String>>);

impl Blob {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        self.0.next().await.transpose()
    }
}

/// All registries that a node reaches.
pub struct Registries {
    builtin: Builtin,
    external: OnceCell<oci_client::Client>,
}

impl Registries {
    /// The built-in registry is reached through `client`.
    pub fn new(client: kube::Client) -> Self {
        Self { builtin: Builtin::new(client), external: OnceCell::new() }
    }

    /// The bytes of an image's manifest; `None` if there is no such image.
    pub async fn manifest(&self, name: &ImageName) -> Result<Option<Bytes>, String> {
        if name.host.is_none() {
            return self.builtin.manifest(name).await;
        }
        let reference = external_reference(name)?;
        let accept = [MANIFEST, DOCKER_MANIFEST];
        let client = self.external(name).await?;
        match client.pull_manifest_raw(&reference, &RegistryAuth::Anonymous, &accept).await {
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(oci_client::errors::OciDistributionError::ImageManifestNotFoundError(_)) => {
                Ok(None)
            }
            Err(error) => Err(chain(&error)),
        }
    }

    /// Fetches a blob.
    pub async fn blob(&self, name: &ImageName, layer: &Descriptor) -> Result<Blob, String> {
        if name.host.is_none() {
            return self.builtin.blob(name, &layer.digest).await;
        }
        let reference = external_reference(name)?;
        let descriptor = oci_client::manifest::OciDescriptor {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: i64::try_from(layer.size).map_err(|e| e.to_string())?,
            ..Default::default()
        };
        let client = self.external(name).await?;
        let blob = client.pull_blob_stream(&reference, &descriptor).await.map_err(|e| chain(&e))?;
        Ok(Blob(blob.stream.map(|chunk| chunk.map_err(|e| e.to_string())).boxed()))
    }

    async fn external(&self, name: &ImageName) -> Result<&oci_client::Client, String> {
        let make = || async {
            // A registry on this machine is commonly plain HTTP, as other container tools assume too.
            let local =
                name.host.iter().filter(|h| h.starts_with("localhost") || h.starts_with("127."));
            let config = ClientConfig {
                protocol: ClientProtocol::HttpsExcept(local.cloned().collect()),
                platform_resolver: None,
                ..ClientConfig::default()
            };
            oci_client::Client::try_from(config).map_err(|e| chain(&e))
        };
        self.external.get_or_try_init(make).await
    }
}

fn external_reference(name: &ImageName) -> Result<oci_client::Reference, String> {
    name.to_string().parse().map_err(|e| format!("{e}"))
}

/// An error with its causes, which `reqwest` keeps apart.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

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

    async fn manifest(&self, name: &ImageName) -> Result<Option<Bytes>, String> {
        let path = format!("/v2/{}/manifests/{}", name.repository, name.reference());
        let request = Request::get(path)
            .header(http::header::ACCEPT, format!("{MANIFEST}, {DOCKER_MANIFEST}"));
        let answer = self.send(request, Vec::new()).await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(body(answer).await?)),
            _ => Err(refusal(answer).await),
        }
    }

    async fn blob(&self, name: &ImageName, digest: &str) -> Result<Blob, String> {
        let request = Request::get(format!("/v2/{}/blobs/{digest}", name.repository));
        let answer = self.send(request, Vec::new()).await?;
        if !answer.status().is_success() {
            return Err(refusal(answer).await);
        }
        let frames = answer.into_body().into_data_stream();
        Ok(Blob(frames.map(|chunk| chunk.map_err(|e| e.to_string())).boxed()))
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
    }
}

async fn body(answer: http::Response<Body>) -> Result<Bytes, String> {
    let limited = http_body_util::Limited::new(answer.into_body(), super::MAX_MANIFEST + 1);
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
