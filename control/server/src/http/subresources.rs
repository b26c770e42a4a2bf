//! Subresources that are actions rather than parts: scale, binding, eviction, log, token, exec, attach, portforward.

use axum::body::Body;
use coracle_api::kinds::{self, Subresource};
use coracle_api::{ApiError, Kind};
use http::request::Parts;

use super::answer::{Answer, json_response};
use super::body::{self, FieldValidation};
use super::request::{RequestInfo, not_found_here};
use super::{App, apply, connect, eviction, logs, method_not_allowed, write};
use crate::auth::tokens::{Issue, SHORTEST};
use crate::auth::{Identity, node};
use crate::registry::{Operation, Request, WriteOptions, seconds};

/// Lifetime of tokens that ask for none.
const HOUR: i64 = 3600;

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
        (Subresource::Log, "get") => logs::get(&app.registry, &app.kubelets, info).await,
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
    let pod = match bound["kind"].as_str() {
        None | Some("") => None,
        Some("Pod") => {
            let name = bound["name"].as_str().unwrap_or_default();
            let pod = app
                .registry
                .cache
                .get(&kinds::POD, &info.namespace, name)
                .ok_or_else(|| ApiError::not_found(&kinds::POD, name))?;
            let uid = bound["uid"].as_str().filter(|uid| !uid.is_empty());
            if uid.is_some_and(|uid| uid != pod.meta.uid) {
                let why = "the UID in the bound object reference does not match the UID in record";
                return Err(ApiError::conflict(&kinds::POD, name, why).into());
            }
            Some(pod)
        }
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {other}: only Pods can be named in spec.boundObjectRef"
            ))
            .into());
        }
    };
    if let Some(identity) = parts.extensions.get::<Identity>() {
        node::may_have_token(identity, &info.name, pod.as_deref())
            .map_err(|why| ApiError::forbidden(&kinds::SERVICE_ACCOUNT, &info.name, &why))?;
    }
    let lifetime = spec["expirationSeconds"].as_i64().unwrap_or(HOUR);
    if lifetime < SHORTEST {
        return Err(ApiError::new(
            422,
            "Invalid",
            format!(
                "TokenRequest.authentication.k8s.io \"{}\" is invalid: spec.expirationSeconds: Invalid value: \
                 {lifetime}: may not specify a duration less than 10 minutes",
                info.name
            ),
        )
        .into());
    }
    let machine = pod
        .as_ref()
        .and_then(|pod| app.registry.cache.get(&kinds::NODE, "", pod.node_name.as_deref()?));
    let audiences = spec["audiences"].as_array().into_iter().flatten();
    let issued = app.auth.issue(&Issue {
        namespace: &info.namespace,
        name: &info.name,
        uid: &account.meta.uid,
        audiences: audiences.filter_map(|a| a.as_str().map(str::to_owned)).collect(),
        seconds: lifetime,
        pod: pod.as_ref().map(|pod| (pod.meta.name.as_str(), pod.meta.uid.as_str())),
        node: machine.as_ref().map(|node| (node.meta.name.as_str(), node.meta.uid.as_str())),
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
