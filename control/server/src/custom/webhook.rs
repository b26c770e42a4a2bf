//! Conversion by a webhook (`apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go`).

use std::time::Duration;

use coracle_api::ApiError;
use coracle_api::custom::Webhook;
use serde_json::{Map, Value, json};

use super::Served;
use crate::registry::Clients;

/// How long a webhook may take, as upstream.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Objects that are converted in one call, so that a long list does not make a body without bound.
const AT_ONCE: usize = 500;
const GROUP: &str = "apiextensions.k8s.io";
/// What of metadata a webhook may change; the rest must be, or is kept, as it was.
const FREE: [&str; 2] = ["labels", "annotations"];
/// What a webhook must give back as it got it.
const SAME: [&str; 3] = ["name", "namespace", "uid"];

/// Has the webhook bring objects to the wanted version.
///
/// # Errors
/// 500, in upstream's words, if it cannot be reached, refuses, or gives back what are no such objects.
pub(super) async fn convert(
    clients: &Clients,
    served: &Served,
    webhook: &Webhook,
    wanted: &str,
    trees: &mut [&mut Value],
) -> Result<(), ApiError> {
    for some in trees.chunks_mut(AT_ONCE) {
        let from = some.first().map(|tree| tree["apiVersion"].clone()).unwrap_or_default();
        let (from, kind) = (from.as_str().unwrap_or_default(), served.kind().kind);
        let what = format!("conversion webhook for {from}, Kind={kind}");
        some_of(clients, webhook, wanted, some)
            .await
            .map_err(|why| ApiError::internal(format!("{what} {why}")))?;
    }
    Ok(())
}

async fn some_of(
    clients: &Clients,
    webhook: &Webhook,
    wanted: &str,
    trees: &mut [&mut Value],
) -> Result<(), String> {
    let known = |version: &&String| matches!(version.as_str(), "v1" | "v1beta1");
    let version = webhook.review_versions.iter().find(known);
    let version = version.ok_or("failed: no supported conversion review versions")?;
    let uid = uuid::Uuid::new_v4().to_string();
    let objects: Vec<&Value> = trees.iter().map(|tree| &**tree).collect();
    let review = json!({
        "kind": "ConversionReview",
        "apiVersion": format!("{GROUP}/{version}"),
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
    });
    let body = review.to_string().into_bytes();
    let answer = clients.post(&url(webhook), &webhook.ca_bundle, TIMEOUT, body).await;
    let mut answer = answer.map_err(|why| format!("failed: {why}"))?;
    let response = &mut answer["response"];
    if !response.is_object() {
        return Err("failed: no response provided".to_owned());
    }
    if version == "v1" && response["uid"] != uid {
        return Err(format!("failed: expected response.uid={uid:?}, got {}", response["uid"]));
    }
    if response["result"]["status"] != "Success" {
        let status = response["result"]["status"].as_str().unwrap_or_default();
        return Err(match response["result"]["message"].as_str() {
            Some(message) if !message.is_empty() => format!("failed: {message}"),
            _ => format!("failed: response.result.status was '{status}', not 'Success'"),
        });
    }
    let converted = match response["convertedObjects"].take() {
        Value::Array(converted) => converted,
        _ => Vec::new(),
    };
    if converted.len() != trees.len() {
        let (got, expected) = (converted.len(), trees.len());
        return Err(format!("returned {got} objects, expected {expected}"));
    }
    for (i, (tree, new)) in trees.iter_mut().zip(converted).enumerate() {
        take(tree, new, wanted)
            .map_err(|why| format!("returned invalid converted object at index {i}: {why}"))?;
    }
    Ok(())
}

/// Puts the converted object in the other's place, if it is the same one.
fn take(tree: &mut Value, mut new: Value, wanted: &str) -> Result<(), String> {
    if new["apiVersion"] != wanted {
        let got = new["apiVersion"].as_str().unwrap_or_default();
        return Err(format!("invalid groupVersion (expected {wanted}, received {got})"));
    }
    if new["kind"] != tree["kind"] {
        return Err(format!("must have the same kind: {} != {}", tree["kind"], new["kind"]));
    }
    let metadata = new["metadata"].take();
    let mut kept = tree["metadata"].as_object().cloned().unwrap_or_default();
    for field in SAME {
        let (was, is) = (kept.get(field), metadata.get(field));
        if was != is {
            let shown = |value: Option<&Value>| value.cloned().unwrap_or_default();
            return Err(format!("must have the same {field}: {} != {}", shown(was), shown(is)));
        }
    }
    for field in FREE {
        match metadata.get(field).and_then(Value::as_object).filter(|map| !map.is_empty()) {
            Some(map) => _ = kept.insert(field.to_owned(), Value::Object(Map::clone(map))),
            None => _ = kept.remove(field),
        }
    }
    new["metadata"] = Value::Object(kept);
    *tree = new;
    Ok(())
}

/// Where the webhook is; a Service is found by its name.
fn url(webhook: &Webhook) -> String {
    match (&webhook.url, &webhook.service) {
        (Some(url), _) => url.clone(),
        (None, Some(service)) => {
            let path = service.path.trim_start_matches('/');
            let (name, namespace, port) = (&service.name, &service.namespace, service.port);
            format!("https://{name}.{namespace}.svc:{port}/{path}")
        }
        (None, None) => String::new(),
    }
}
