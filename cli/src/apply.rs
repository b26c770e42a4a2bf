//! Manifests, as `up -f` and `run` apply them: created, or merged into what is there.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use coracle_api::{Kind, kinds};
use http::{Method, Request, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

/// The annotation in which `kubectl apply` looks for what was applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object that was applied.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    /// Its kind.
    pub kind: &'static Kind,
    /// Its namespace; empty if cluster-scoped.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The objects in a YAML or JSON file; a folder is all its files.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Value>> {
    if path.is_dir() {
        let mut files: Vec<_> =
            std::fs::read_dir(path)?.filter_map(|e| Some(e.ok()?.path())).collect();
        files.retain(|f| f.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
        files.sort();
        return files
            .iter()
            .map(|f| read(f))
            .collect::<anyhow::Result<Vec<_>>>()
            .map(|all| all.concat());
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
        .with_context(|| format!("{} is not valid YAML", path.display()))?;
    let mut objects = Vec::new();
    for document in documents.into_iter().filter(|d| !d.is_null()) {
        match document["items"].as_array() {
            Some(items) if document["kind"].as_str().is_some_and(|k| k.ends_with("List")) => {
                objects.extend(items.iter().cloned());
            }
            _ => objects.push(document),
        }
    }
    Ok(objects)
}

/// Applies one object.
pub(crate) async fn apply(
    client: &kube::Client,
    mut object: Value,
    namespace: &str,
) -> anyhow::Result<Applied> {
    let (version, kind_name) = (text(&object, "apiVersion"), text(&object, "kind"));
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        bail!("an object of kind \"{kind_name}\" has no metadata.name");
    }
    let kind = kinds::by_kind(&version, &kind_name).ok_or_else(|| {
        anyhow!("this cluster has no kind \"{kind_name}\" in version \"{version}\"")
    })?;
    let namespace = match kind.namespaced {
        true => object["metadata"]["namespace"].as_str().unwrap_or(namespace).to_owned(),
        false => String::new(),
    };
    let last = object.to_string();
    object["metadata"]["annotations"][LAST_APPLIED] = json!(last);
    let what = || format!("cannot apply {} \"{name}\"", kind.resource);
    let url = collection(kind, &namespace);
    let create = Request::post(format!("{url}?fieldValidation=Strict&fieldManager=coracle"));
    match send(client, create, "application/json", &object).await.with_context(what)? {
        Ok(()) => {}
        Err((StatusCode::CONFLICT, _)) => {
            let patch = Request::builder()
                .method(Method::PATCH)
                .uri(format!("{url}/{name}?fieldValidation=Strict&fieldManager=coracle"));
            let merge = "application/strategic-merge-patch+json";
            send(client, patch, merge, &object)
                .await
                .with_context(what)?
                .map_err(|(_, why)| anyhow!(why))?;
        }
        Err((_, why)) => bail!(why),
    }
    Ok(Applied { kind, namespace, name })
}

/// The path of a kind's collection.
pub(crate) fn collection(kind: &Kind, namespace: &str) -> String {
    let root = match kind.group {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    match namespace {
        "" => format!("{root}/{}", kind.plural),
        namespace => format!("{root}/namespaces/{namespace}/{}", kind.plural),
    }
}

async fn send(
    client: &kube::Client,
    request: http::request::Builder,
    content_type: &str,
    object: &Value,
) -> anyhow::Result<Result<(), (StatusCode, String)>> {
    let request = request
        .header(http::header::CONTENT_TYPE, content_type)
        .body(Body::from(object.to_string().into_bytes()))?;
    let answer = client.send(request).await.map_err(crate::client::explain)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(Ok(()));
    }
    let body = answer.into_body().collect_bytes().await?;
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    let why = json["message"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    Ok(Err((status, why)))
}

fn text(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_default().to_owned()
}
