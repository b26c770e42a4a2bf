//! `componentstatuses`: whether the parts of the control plane are well, for what still asks so (`kubectl get cs`). They are parts of
//! this process; nothing of it is stored.

use coracle_api::ApiError;
use http::HeaderMap;
use serde_json::{Value, json};

use super::App;
use super::accept::{self, Form, Offer};
use super::answer::{self, Answer, json_response, warn};
use super::method_not_allowed;
use super::request::{RequestInfo, not_found_here};

/// Its plural.
pub(crate) const RESOURCE: &str = "componentstatuses";
/// Its singular and its kind.
pub(crate) const SINGULAR: &str = "componentstatus";
pub(crate) const KIND: &str = "ComponentStatus";
pub(crate) const SHORT_NAME: &str = "cs";
const DEPRECATED: &str = "v1 ComponentStatus is deprecated in v1.19+";

/// Whether a request is for it.
pub(super) fn is_for(info: &RequestInfo) -> bool {
    info.group.is_empty() && info.version == "v1" && info.resource == RESOURCE
}

/// GET of one or all.
pub(super) fn serve(app: &App, info: &RequestInfo, headers: &HeaderMap) -> Answer {
    if !info.namespace.is_empty() || !info.subresource.is_empty() {
        return Err(not_found_here().into());
    }
    if !matches!(info.verb, "get" | "list") {
        return Err(method_not_allowed().into());
    }
    let (form, _) = accept::negotiate(headers, Offer::JSON)?;
    let all = statuses(app);
    let chosen: Vec<Value> = match info.name.as_str() {
        "" => all,
        name => {
            let one = all.into_iter().find(|status| status["metadata"]["name"] == name);
            let missing = || {
                let why = format!("{RESOURCE} \"{name}\" not found");
                ApiError::new(404, "NotFound", why)
            };
            vec![one.ok_or_else(missing)?]
        }
    };
    let answer = match form {
        Form::Table { v1 } => table(&chosen, v1),
        _ if info.verb == "get" => {
            let mut one = chosen.into_iter().next().unwrap_or_default();
            one["kind"] = KIND.into();
            one["apiVersion"] = "v1".into();
            one
        }
        _ => json!({
            "kind": format!("{KIND}List"), "apiVersion": "v1", "metadata": {}, "items": chosen,
        }),
    };
    Ok(warn(json_response(200, &answer), &[DEPRECATED.to_owned()]))
}

/// Under the names that upstream's have. What runs in this process runs as long as it answers; the store may fail by itself.
fn statuses(app: &App) -> Vec<Value> {
    let parts = app.components.iter().map(|name| (*name, None));
    let store = ("etcd-0", app.registry.cache.failure());
    let all = parts.chain([store]).map(|(name, failure)| {
        let mut condition = json!({"type": "Healthy", "status": "True", "message": "ok"});
        if let Some(why) = failure {
            condition = json!({"type": "Healthy", "status": "False", "error": why});
        }
        json!({"metadata": {"name": name, "creationTimestamp": null}, "conditions": [condition]})
    });
    all.collect()
}

fn table(items: &[Value], v1: bool) -> Value {
    let columns = [("Name", "name"), ("Status", ""), ("Message", ""), ("Error", "")];
    let columns = columns.map(|(name, format)| (name, "string", format));
    answer::table(v1, &columns, items, |item| {
        let condition = &item["conditions"][0];
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        let status = if condition["status"] == "True" { "Healthy" } else { "Unhealthy" };
        json!([item["metadata"]["name"], status, text("message"), text("error")])
    })
}
