//! DELETE of objects and of collections.

use axum::body::Body;
use axum::response::Response;
use coracle_api::plan::Propagation;
use coracle_api::{ApiError, Kind};
use http::request::Parts;
use serde_json::{Value, json};

use super::App;
use super::answer::{Answer, json_response, success};
use super::apply;
use super::body::{self, FieldValidation};
use super::read::{self, Selection};
use super::render::Render;
use super::request::RequestInfo;
use crate::auth::{Attributes, Identity};
use crate::registry::{
    Caller, DeleteOptions, Deleted, Preconditions, Registry, answers_with_object,
};

/// Deletes what cannot be read, finalizers or not.
const IGNORE_READ_ERROR: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// DELETE of one object.
pub(crate) async fn delete(
    registry: &Registry,
    info: &RequestInfo,
    kind: &'static Kind,
    parts: &Parts,
    body: Body,
) -> Answer {
    let render = Render::of(info, &parts.headers)?;
    let options = options(info, parts, body).await?;
    let place = (info.scope(kind), info.name.as_str());
    let deleted = registry.delete(kind, place, &options).await?;
    let deleted = match deleted {
        Deleted::Waiting(object) => Deleted::Waiting(registry.show(kind, object).await?),
        gone => gone,
    };
    Ok(answer(kind, &deleted, &render))
}

fn answer(kind: &Kind, deleted: &Deleted, render: &Render) -> Response {
    match deleted {
        Deleted::Gone(object) if !answers_with_object(kind) => json_response(200, &success(object)),
        deleted => render.answer(200, deleted.object()),
    }
}

/// DELETE of an object that cannot be read: of nobody who does not insist, and may.
pub(crate) async fn unreadable(
    app: &App,
    info: &RequestInfo,
    kind: &'static Kind,
    identity: &Identity,
    parts: &Parts,
    body: Body,
    why: ApiError,
) -> Answer {
    const VERB: &str = "unsafe-delete-ignore-read-errors";
    let options = options(info, parts, body).await?;
    if !options.ignore_read_error {
        return Err(why.into());
    }
    let wanted = Attributes { verb: VERB.to_owned(), ..info.attributes() };
    if app.auth.authorize(&app.registry.cache.read(), identity, &wanted).is_err() {
        let why = format!("not permitted to do \"{VERB}\"");
        return Err(ApiError::forbidden(kind, &info.name, &why).into());
    }
    if !options.dry_run {
        app.registry.remove_unreadable(kind, (info.scope(kind), &info.name)).await?;
    }
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": info.name, "group": kind.group, "kind": kind.plural},
    });
    Ok(json_response(200, &status))
}

/// DELETE of a collection.
pub(crate) async fn delete_collection(
    registry: &Registry,
    info: &RequestInfo,
    kind: &'static Kind,
    parts: &Parts,
    body: Body,
) -> Answer {
    let options = options(info, parts, body).await?;
    let selection = Selection::of(info, kind)?;
    let objects = read::selected(registry, &selection).await?;
    for object in &objects {
        let place = (object.meta.namespace.as_str(), object.meta.name.as_str());
        let mut options = options.clone();
        options.preconditions.uid = Some(object.meta.uid.clone());
        match registry.delete(kind, place, &options).await {
            // Somebody else was first.
            Err(error) if matches!(error.code, 404 | 409) => {}
            other => {
                other?;
            }
        }
    }
    let metadata = json!({"resourceVersion": registry.cache.revision().to_string()});
    let render = Render::of(info, &parts.headers)?;
    let objects = registry.show_all(kind, objects).await?;
    let body = render.list(kind, &objects, &metadata, &kind.api_version());
    Ok(super::answer::bytes_response(200, render.media_type(), body.into()))
}

/// Options from the body, where there is one, else from the query.
pub(crate) async fn options(
    info: &RequestInfo,
    parts: &Parts,
    body: Body,
) -> Result<DeleteOptions, ApiError> {
    let bytes = body::read(&parts.headers, body).await?;
    let given = if bytes.is_empty() {
        Value::Null
    } else {
        let schema = body::schema_of("", "v1", "DeleteOptions")?;
        body::decode(&bytes, &parts.headers, schema, FieldValidation::Ignore)?.0
    };
    let mut options = from_value(&given)?;
    let query = &info.query;
    options.ignore_read_error |= query.flag(IGNORE_READ_ERROR);
    options.caller = apply::caller(parts);
    options.dry_run |= query.dry_run()?;
    options.grace_seconds = options.grace_seconds.or(query.number("gracePeriodSeconds")?);
    if options.propagation.is_none() {
        let orphan = query.get("orphanDependents").map(|_| query.flag("orphanDependents"));
        options.propagation = propagation(query.get("propagationPolicy"), orphan)?;
    }
    Ok(options)
}

/// From `metav1.DeleteOptions`.
pub(crate) fn from_value(given: &Value) -> Result<DeleteOptions, ApiError> {
    let revision = given["preconditions"]["resourceVersion"].as_str().map(read::revision);
    Ok(DeleteOptions {
        grace_seconds: given["gracePeriodSeconds"].as_i64(),
        propagation: propagation(
            given["propagationPolicy"].as_str(),
            given["orphanDependents"].as_bool(),
        )?,
        preconditions: Preconditions {
            uid: given["preconditions"]["uid"].as_str().map(str::to_owned),
            revision: revision.transpose()?,
        },
        ignore_read_error: given[IGNORE_READ_ERROR].as_bool() == Some(true),
        dry_run: given["dryRun"].as_array().is_some_and(|list| list.iter().any(|v| v == "All")),
        caller: Caller::default(),
    })
}

fn propagation(
    policy: Option<&str>,
    orphan: Option<bool>,
) -> Result<Option<Propagation>, ApiError> {
    Ok(match (policy, orphan) {
        (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), _) => Some(Propagation::Foreground),
        (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
        (None, None) => None,
        (Some(other), _) => {
            return Err(ApiError::new(
                422,
                "Invalid",
                format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"{other}\": \
                     supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                ),
            ));
        }
    })
}
