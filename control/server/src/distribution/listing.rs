//! Lists: tags, repositories, and what refers to a manifest.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, header};
use serde_json::{Value, json};

use super::error::{Code, Refusal};
use super::manifests::Document;
use super::names::{Digest, Name, Reference};
use super::{Answer, Parameters, Registry, value};

const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Entries in one answer.
const MAX_PAGE: usize = 10_000;

/// The tags of a repository.
pub(super) async fn tags(registry: &Registry, name: Name, query: &Parameters) -> Answer {
    let of = name.clone();
    let (tags, known) = registry
        .blocking(move |disk| Ok((disk.tags(&of)?, !disk.manifests(&of)?.is_empty())))
        .await?;
    if tags.is_empty() && !known {
        return Err(Refusal::new(Code::NameUnknown, format!("there is no repository {name}")));
    }
    let tags = tags.iter().map(|tag| tag.as_str().to_owned()).collect();
    let (tags, next) = page(tags, query, &format!("/v2/{name}/tags/list"))?;
    Ok(listed(&json!({"name": name.as_str(), "tags": tags}), next))
}

/// All repositories.
pub(super) async fn catalog(registry: &Registry, query: &Parameters) -> Answer {
    let names = registry.blocking(|disk| disk.repositories()).await?;
    let (names, next) = page(names, query, "/v2/_catalog")?;
    Ok(listed(&json!({"repositories": names}), next))
}

/// At most `n` entries after `last`, and the path of what follows.
fn page(
    mut sorted: Vec<String>,
    query: &Parameters,
    path: &str,
) -> Result<(Vec<String>, Option<String>), Refusal> {
    if let Some(last) = query.get("last") {
        sorted.retain(|entry| entry > last);
    }
    let most = match query.get("n").map(|n| n.parse::<usize>()) {
        None => MAX_PAGE,
        Some(Ok(n)) => n.min(MAX_PAGE),
        Some(Err(_)) => {
            return Err(Refusal::new(Code::SizeInvalid, "the parameter n must be a number"));
        }
    };
    let more = sorted.len() > most;
    sorted.truncate(most);
    // Names and tags need no escaping in a query, but for the slash, which is allowed there.
    let next = sorted.last().filter(|_| more).map(|last| format!("{path}?n={most}&last={last}"));
    Ok((sorted, next))
}

fn listed(list: &Value, next: Option<String>) -> Response {
    let mut response =
        ([(header::CONTENT_TYPE, "application/json")], list.to_string()).into_response();
    if let Some(next) = next {
        response.headers_mut().insert(header::LINK, value(format!("<{next}>; rel=\"next\"")));
    }
    response
}

/// The manifests of a repository whose subject is `digest`.
pub(super) async fn referrers(
    registry: &Registry,
    name: Name,
    digest: Digest,
    query: &Parameters,
) -> Answer {
    let wanted = query.get("artifactType").cloned();
    let filtered = wanted.is_some();
    let found = registry
        .blocking(move |disk| {
            let mut found = Vec::new();
            for referrer in disk.manifests(&name)? {
                let Some(manifest) = disk.manifest(&name, &Reference::Digest(referrer))? else {
                    continue;
                };
                found.extend(referrer_of(
                    &digest,
                    &referrer,
                    &manifest.media_type,
                    &manifest.content,
                ));
            }
            found.retain(|d: &Value| wanted.as_deref().is_none_or(|w| d["artifactType"] == w));
            Ok(found)
        })
        .await?;
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": found});
    let mut response = ([(header::CONTENT_TYPE, INDEX)], index.to_string()).into_response();
    if filtered {
        response.headers_mut().insert(FILTERS, value("artifactType"));
    }
    Ok(response)
}

/// The descriptor of a manifest, if its subject is `subject`.
fn referrer_of(subject: &Digest, own: &Digest, media_type: &str, content: &[u8]) -> Option<Value> {
    let document: Document = serde_json::from_slice(content).ok()?;
    if Digest::parse(&document.subject?.digest).ok()? != *subject {
        return None;
    }
    let mut descriptor = json!({
        "mediaType": media_type,
        "digest": own.to_string(),
        "size": content.len(),
    });
    let artifact = document.artifact_type.or(document.config.map(|config| config.media_type));
    if let Some(artifact) = artifact {
        descriptor["artifactType"] = artifact.into();
    }
    if let Some(annotations) = document.annotations {
        descriptor["annotations"] = annotations;
    }
    Some(descriptor)
}
