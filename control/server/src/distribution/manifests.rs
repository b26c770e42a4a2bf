//! Manifests: of an image, or an index of several.

use axum::body::Body;
use axum::response::IntoResponse;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use serde_json::Value;

use super::disk::{Disk, MAX_MANIFEST, Manifest};
use super::error::{Code, Refusal};
use super::names::{Digest, Name, Reference};
use super::{Answer, DIGEST, Registry, created, value};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// The parts of a manifest or an index that name other content.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    pub(super) artifact_type: Option<String>,
    #[serde(default)]
    pub(super) config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    pub(super) subject: Option<Descriptor>,
    #[serde(default)]
    pub(super) annotations: Option<Value>,
}

/// A reference to content.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: String,
    size: u64,
    /// Where content lies that is not in the registry.
    #[serde(default)]
    urls: Vec<String>,
}

/// `GET` or `HEAD` of a manifest.
pub(super) async fn get(
    registry: &Registry,
    name: Name,
    reference: Reference,
    method: &Method,
) -> Answer {
    let (of, by) = (name.clone(), reference.clone());
    let found = registry.blocking(move |disk| disk.manifest(&of, &by)).await?;
    let manifest = found.ok_or_else(|| unknown(&name, &reference))?;
    let headers = [
        (header::CONTENT_TYPE, value(manifest.media_type)),
        (header::CONTENT_LENGTH, value(manifest.content.len().to_string())),
        (header::ETAG, value(format!("\"{}\"", manifest.digest))),
        (DIGEST, value(manifest.digest.to_string())),
    ];
    let body = if method == Method::HEAD { Vec::new() } else { manifest.content };
    Ok((headers, body).into_response())
}

fn unknown(name: &Name, reference: &Reference) -> Refusal {
    Refusal::new(Code::ManifestUnknown, format!("repository {name} has no manifest {reference}"))
}

/// Deletes a tag, or a manifest with its tags.
pub(super) async fn delete(registry: &Registry, name: Name, reference: Reference) -> Answer {
    let (of, by) = (name.clone(), reference.clone());
    match registry.blocking(move |disk| disk.drop_manifest(&of, &by)).await? {
        true => Ok(StatusCode::ACCEPTED.into_response()),
        false => Err(unknown(&name, &reference)),
    }
}

/// Stores a manifest whose content is all there.
pub(super) async fn put(
    registry: &Registry,
    name: Name,
    reference: Reference,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    let content = read(body).await?;
    let document: Document = serde_json::from_slice(&content)
        .map_err(|error| invalid(format!("the manifest cannot be read: {error}")))?;
    let media_type = media_type(&document, headers)?;
    let digest = Digest::of(&content);
    if let Reference::Digest(announced) = reference
        && announced != digest
    {
        let message = format!("the manifest has digest {digest}, not {announced}");
        return Err(Refusal::new(Code::DigestInvalid, message));
    }
    let subject = document.subject.as_ref().map(|s| Digest::parse(&s.digest)).transpose()?;
    let location = format!("/v2/{name}/manifests/{reference}");
    registry
        .blocking(move |disk| {
            check_content(disk, &name, &document)?;
            let tag = match &reference {
                Reference::Tag(tag) => Some(tag),
                Reference::Digest(_) => None,
            };
            disk.keep_manifest(&name, &Manifest { digest, media_type, content }, tag)
        })
        .await?;
    let mut response = created(location, &digest);
    if let Some(subject) = subject {
        response.headers_mut().insert(SUBJECT, value(subject.to_string()));
    }
    Ok(response)
}

async fn read(body: Body) -> Result<Vec<u8>, Refusal> {
    match Limited::new(body, MAX_MANIFEST).collect().await {
        Ok(content) => Ok(content.to_bytes().to_vec()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("a manifest has at most {MAX_MANIFEST} bytes");
            let refusal = Refusal::new(Code::SizeInvalid, message);
            Err(refusal.status(StatusCode::PAYLOAD_TOO_LARGE))
        }
        Err(error) => Err(invalid(format!("the manifest broke off: {error}"))),
    }
}

/// What the request says it is, which must be what it says itself.
fn media_type(document: &Document, headers: &HeaderMap) -> Result<String, Refusal> {
    if document.schema_version != 2 {
        let version = document.schema_version;
        return Err(invalid(format!("schemaVersion is {version}; only 2 is known")));
    }
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    match (declared, &document.media_type) {
        (Some(declared), Some(own)) if declared != own => Err(invalid(format!(
            "the manifest's mediaType is {own:?}, but Content-Type is {declared:?}"
        ))),
        (Some(text), _) => Ok(text.to_owned()),
        (None, Some(text)) if header::HeaderValue::from_str(text).is_ok() => Ok(text.clone()),
        _ => Err(invalid("neither Content-Type nor mediaType says what the manifest is")),
    }
}

/// Everything that a manifest names must be in its repository, at the length that it gives. The subject alone may come
/// later.
fn check_content(disk: &Disk, name: &Name, document: &Document) -> Result<(), Refusal> {
    let blobs = document.config.iter().chain(&document.layers);
    for descriptor in blobs.chain(&document.manifests).filter(|d| d.urls.is_empty()) {
        let digest = Digest::parse(&descriptor.digest)?;
        let (_, size) = disk.blob(name, &digest).map_err(|refusal| match refusal.is_unknown() {
            true => {
                let message = format!("repository {name} has no {digest}: push it first");
                Refusal::new(Code::ManifestBlobUnknown, message)
            }
            false => refusal,
        })?;
        if size != descriptor.size {
            let given = descriptor.size;
            return Err(invalid(format!("{digest} has {size} bytes; the manifest says {given}")));
        }
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::ManifestInvalid, message)
}
