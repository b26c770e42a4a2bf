//! Subresources that are actions rather than parts: scale, binding, eviction, log, token, exec, attach, portforward.

use std::sync::Arc;

use axum::body::Body;
use coracle_api::kinds::{self, Subresource};
use coracle_api::{ApiError, FieldError, Kind, Object};
use http::request::Parts;
use serde_json::Value;

use super::answer::{Answer, json_response};
use super::body::{self, FieldValidation};
use super::request::{RequestInfo, not_found_here};
use super::{App, apply, connect, eviction, logs, method_not_allowed, write};
use crate::auth::tokens::{Issue, SHORTEST};
use crate::auth::{Identity, node};
use crate::registry::{Operation, Request, WriteOptions, seconds};

/// Lifetime of tokens that ask for none.
const HOUR: i64 = 3600;
/// The first that is too long.
const LONGEST: i64 = (1 << 32) + 1;

/// Whatever the path names that is no part of the object.
pub(crate) async fn serve(
    app: &App,
    info: &RequestInfo,
    kind: &'static Kind,
    parts: &Parts,
    body: Body,
) -> Answer {
    let wanted = match info.subresource.as_str() {
        "scale" => Subresource::Scale,
        "binding" => Subresource::Binding,
        "eviction" => Subresource::Eviction,
        "log" => Subresource::Log,
        "token" => Subresource::Token,
        "exec" => Subresource::Exec,
        "attach" => Subresource::Attach,
        "portforward" => Subresource::PortForward,
        _ => return Err(not_found_here().into()),
    };
    if !kind.has(wanted) {
        return Err(not_found_here().into());
    }
    match (wanted, info.verb) {
        (Subresource::Scale, "get" | "update" | "patch") => {
            write::scale(&app.registry, info, kind, parts, body).await
        }
        (Subresource::Binding, "create") => bind(app, info, parts, body).await,
        (Subresource::Log, "get") => logs::get(app, info, parts).await,
        (Subresource::Token, "create") => token(app, info, parts, body).await,
        (Subresource::Eviction, "create") => eviction::evict(app, info, parts, body).await,
        (Subresource::Exec | Subresource::Attach | Subresource::PortForward, "get" | "create") => {
            connect::connect(app, info, wanted, parts.extensions.get(), parts).await
        }
        _ => Err(method_not_allowed().into()),
    }
}

/// POST of a Binding, to a Pod's `/binding` or to `/bindings`.
pub(crate) async fn bind(app: &App, info: &RequestInfo, parts: &Parts, body: Body) -> Answer {
    if info.resource == "bindings" && !info.name.is_empty() {
        return Err(not_found_here().into());
    }
    if info.verb != "create" {
        return Err(method_not_allowed().into());
    }
    let options = WriteOptions {
        dry_run: info.query.dry_run()?,
        caller: apply::caller(parts),
        ..WriteOptions::default()
    };
    let bytes = body::read(&parts.headers, body).await?;
    let schema = body::schema_of("", "v1", "Binding")?;
    let (binding, _) =
        body::decode(&bytes, &parts.headers, schema, FieldValidation::of(&info.query)?)?;
    let named = binding["metadata"]["name"].as_str().unwrap_or_default();
    let name = if info.name.is_empty() { named } else { info.name.as_str() };
    let target = &binding["target"];
    let node = target["name"].as_str().unwrap_or_default();
    if !matches!(target["kind"].as_str(), None | Some("" | "Node")) || node.is_empty() {
        return Err(
            ApiError::bad_request("target: the binding must name a Node in target.name").into()
        );
    }
    app.registry.bind((&info.namespace, name), node, None, options).await?;
    Ok(write::created())
}

/// What a token is to be bound to, if anything.
fn bound_to(app: &App, namespace: &str, bound: &Value) -> Result<Option<Arc<Object>>, ApiError> {
    let (kind, namespace): (&Kind, _) = match bound["kind"].as_str() {
        None | Some("") => return Ok(None),
        Some("Pod") => (&kinds::POD, namespace),
        Some("Secret") => (&kinds::SECRET, namespace),
        Some("Node") => (&kinds::NODE, ""),
        Some(other) => {
            let why = format!("cannot bind token to object of type {other}");
            return Err(ApiError::bad_request(why));
        }
    };
    let name = bound["name"].as_str().unwrap_or_default();
    let found = app.registry.cache.get(kind, namespace, name);
    let found = found.ok_or_else(|| ApiError::not_found(kind, name))?;
    let uid = bound["uid"].as_str().filter(|uid| !uid.is_empty());
    if let Some(uid) = uid.filter(|uid| *uid != found.meta.uid) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(kind, name, &why));
    }
    Ok(Some(found))
}

/// POST of a TokenRequest.
async fn token(app: &App, info: &RequestInfo, parts: &Parts, body: Body) -> Answer {
    let bytes = body::read(&parts.headers, body).await?;
    let schema = body::schema_of("authentication.k8s.io", "v1", "TokenRequest")?;
    let (mut request, _) =
        body::decode(&bytes, &parts.headers, schema, FieldValidation::of(&info.query)?)?;
    let account = super::read::fresh_object(&app.registry, info, &kinds::SERVICE_ACCOUNT).await?;
    let (caller, place) = (apply::caller(parts), (info.namespace.as_str(), info.name.as_str()));
    let mut admitted = Request::new(Operation::Create, &kinds::SERVICE_ACCOUNT, place, &caller);
    admitted.dry_run = info.query.dry_run()?;
    app.registry.admit_action(&admitted.of("token"), &mut request).await?;
    let spec = &request["spec"];
    let bound = &spec["boundObjectRef"];
    let object = bound_to(app, &info.namespace, bound)?;
    let of_kind = |kind: &Kind| object.as_ref().filter(|it| it.kind.resource == kind.resource);
    let pod = of_kind(&kinds::POD);
    if let Some(pod) = pod
        && pod.value()["spec"]["serviceAccountName"] != info.name.as_str()
    {
        return Err(ApiError::bad_request(format!(
            "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
            info.name
        ))
        .into());
    }
    if let Some(identity) = parts.extensions.get::<Identity>() {
        node::may_have_token(identity, &info.name, pod.map(|pod| &**pod))
            .map_err(|why| ApiError::forbidden(&kinds::SERVICE_ACCOUNT, &info.name, &why))?;
    }
    let lifetime = spec["expirationSeconds"].as_i64().unwrap_or(HOUR);
    let wrong = match lifetime {
        ..SHORTEST => Some("may not specify a duration less than 10 minutes"),
        LONGEST.. => Some("may not specify a duration larger than 2^32 seconds"),
        _ => None,
    };
    if let Some(why) = wrong {
        let error = FieldError::invalid("spec.expirationSeconds", lifetime, why);
        let of = ("authentication.k8s.io", "TokenRequest");
        return Err(ApiError::invalid_as(of, &info.name, &[error]).into());
    }
    let machine = match pod {
        Some(pod) => {
            pod.node_name.as_deref().and_then(|name| app.registry.cache.get(&kinds::NODE, "", name))
        }
        None => of_kind(&kinds::NODE).cloned(),
    };
    let named = |it: &'_ Arc<Object>| (it.meta.name.clone(), it.meta.uid.clone());
    let (pod, machine) = (pod.map(named), machine.as_ref().map(named));
    let secret = of_kind(&kinds::SECRET).map(named);
    fn borrowed(pair: &Option<(String, String)>) -> Option<(&str, &str)> {
        pair.as_ref().map(|(name, uid)| (name.as_str(), uid.as_str()))
    }
    let audiences = spec["audiences"].as_array().into_iter().flatten();
    let issued = app.auth.issue(&Issue {
        namespace: &info.namespace,
        name: &info.name,
        uid: &account.meta.uid,
        audiences: audiences.filter_map(|a| a.as_str().map(str::to_owned)).collect(),
        seconds: lifetime,
        pod: borrowed(&pod),
        node: borrowed(&machine),
        secret: borrowed(&secret),
    })?;
    request["kind"] = "TokenRequest".into();
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    request["spec"]["audiences"] = issued.audiences.into();
    request["status"] = serde_json::json!({
        "token": issued.token,
        "expirationTimestamp": seconds(issued.expires),
    });
    Ok(json_response(201, &request))
}
