//! POST, PUT and PATCH of objects and of their status, scale and finalizers.

use axum::body::Body;
use axum::response::Response;
use coracle_api::kinds::Subresource;
use coracle_api::patch::{self, PatchError, PatchType};
use coracle_api::schema::Schema;
use coracle_api::{ApiError, Kind, Object};
use http::request::Parts;
use serde_json::Value;
use std::sync::{Arc, Mutex};

use super::answer::{Answer, json_response, warn};
use super::apply;
use super::body::{self, FieldValidation, Shape};
use super::other_versions;
use super::render::Render;
use super::request::RequestInfo;
use crate::registry::{Part, Registry, scale_into, scale_of};

/// POST to a collection.
pub(crate) async fn create(
    registry: &Registry,
    info: &RequestInfo,
    kind: &'static Kind,
    parts: &Parts,
    body: Body,
) -> Answer {
    let render = Render::of(info, &parts.headers)?;
    let options = apply::options(info, parts)?;
    let bytes = body::read(&parts.headers, body).await?;
    let (value, warnings) = decode_as(info, kind, &bytes, parts)?;
    if kind.namespaced && info.namespace.is_empty() {
        return Err(
            ApiError::bad_request("an empty namespace may not be set during creation").into()
        );
    }
    other_versions::check(info.other_version(), info.scope(kind), &value, None)?;
    let object = registry.create(kind, info.scope(kind), value, options).await?;
    Ok(warn(render.answer(201, &object), &warnings))
}

/// PUT of an object or of one of its parts.
pub(crate) async fn update(
    registry: &Registry,
    info: &RequestInfo,
    kind: &'static Kind,
    part: Part,
    parts: &Parts,
    body: Body,
) -> Answer {
    let render = Render::of(info, &parts.headers)?;
    let options = apply::options(info, parts)?;
    let bytes = body::read(&parts.headers, body).await?;
    let (value, warnings) = decode_as(info, kind, &bytes, parts)?;
    if value["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
        return Err(ApiError::bad_request(
            "the name of the object must be set: metadata.name is empty",
        )
        .into());
    }
    let place = (info.scope(kind), info.name.as_str());
    let edit = |old: &Arc<Object>, _| {
        other_versions::check(info.other_version(), place.0, &value, Some(old))?;
        Ok(value.clone())
    };
    let object = registry.update(kind, place, part, options, edit).await?;
    Ok(warn(render.answer(200, &object), &warnings))
}

/// PATCH of an object or of its status.
pub(crate) async fn patch(
    registry: &Registry,
    info: &RequestInfo,
    kind: &'static Kind,
    part: Part,
    parts: &Parts,
    body: Body,
) -> Answer {
    let render = Render::of(info, &parts.headers)?;
    let options = apply::options(info, parts)?;
    apply::refuse_force(&info.query)?;
    let validation = FieldValidation::of(&info.query)?;
    let patch_type = patch_type(parts, kind)?;
    let bytes = body::read(&parts.headers, body).await?;
    let shape = Shape::of(info, kind)?;
    let schema = shape.schema()?;
    let complaints = Mutex::new(Vec::new());
    let place = (info.scope(kind), info.name.as_str());
    let object = registry
        .update(kind, place, part, options, |old, mut tree| {
            let other = info.other_version();
            if let Some(other) = other {
                (other.show)(&mut tree);
            }
            let patched = patched(patch_type, tree, &bytes, schema, kind)?;
            let (mut tree, warnings) = body::check(patched, shape, validation)?;
            if let Some(other) = other {
                (other.store)(&mut tree);
            }
            other_versions::check(other, place.0, &tree, Some(old))?;
            if let Ok(mut complaints) = complaints.lock() {
                *complaints = warnings;
            }
            Ok(tree)
        })
        .await?;
    let warnings = complaints.into_inner().unwrap_or_default();
    Ok(warn(render.answer(200, &object), &warnings))
}

/// GET, PUT and PATCH of `/scale`.
pub(crate) async fn scale(
    registry: &Registry,
    info: &RequestInfo,
    kind: &'static Kind,
    parts: &Parts,
    body: Body,
) -> Answer {
    let paths = info.custom.as_ref().and_then(|custom| custom.version().scale.as_ref());
    if info.verb == "get" {
        let object = super::read::fresh_object(registry, info, kind).await?;
        return Ok(json_response(200, &scale_of(&object, paths)));
    }
    let options = apply::options(info, parts)?;
    let schema = body::schema_of("autoscaling", "v1", "Scale")?;
    let validation = FieldValidation::of(&info.query)?;
    let place = (info.scope(kind), info.name.as_str());
    let object = if info.verb == "patch" {
        let patch_type = patch_type(parts, kind)?;
        let bytes = body::read(&parts.headers, body).await?;
        registry
            .update(kind, place, Part::Scale, options, |old, tree| {
                let patched = patched(patch_type, scale_of(old, paths), &bytes, schema, kind)?;
                let (scale, _) = body::check(patched, schema, validation)?;
                scale_into(old, paths, tree, &scale)
            })
            .await?
    } else {
        let bytes = body::read(&parts.headers, body).await?;
        let (scale, _) = body::decode(&bytes, &parts.headers, schema, validation)?;
        registry
            .update(kind, place, Part::Scale, options, |old, tree| {
                scale_into(old, paths, tree, &scale)
            })
            .await?
    };
    Ok(json_response(200, &scale_of(&object, paths)))
}

/// The part that a subresource writes to, for those that are parts.
pub(crate) fn part_of(kind: &Kind, subresource: &str) -> Option<Part> {
    match subresource {
        "" => Some(Part::Main),
        "status" if kind.has(Subresource::Status) => Some(Part::Status),
        "ephemeralcontainers" if kind.has(Subresource::EphemeralContainers) => {
            Some(Part::EphemeralContainers)
        }
        "resize" if kind.has(Subresource::Resize) => Some(Part::Resize),
        "finalize" if kind.has(Subresource::Finalize) => Some(Part::Finalize),
        "approval" if kind.has(Subresource::Approval) => Some(Part::Approval),
        _ => None,
    }
}

fn decode_as(
    info: &RequestInfo,
    kind: &Kind,
    bytes: &[u8],
    parts: &Parts,
) -> Result<(Value, Vec<String>), ApiError> {
    let validation = FieldValidation::of(&info.query)?;
    let shape = Shape::of(info, kind)?;
    let (mut value, warnings) = body::decode(bytes, &parts.headers, shape, validation)?;
    if let Some(other) = info.other_version() {
        (other.store)(&mut value);
    }
    Ok((value, warnings))
}

fn patch_type(parts: &Parts, kind: &Kind) -> Result<PatchType, ApiError> {
    let media = body::media_type(&parts.headers);
    // Of custom kinds nobody says how their lists merge.
    let known = PatchType::from_content_type(&media)
        .filter(|known| !(kind.custom && *known == PatchType::Strategic));
    known.ok_or_else(|| {
        let why = match media.as_str() {
            apply::MEDIA => format!("{media} is not supported by this subresource"),
            _ if kind.custom => "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
                .to_owned(),
            other => format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json, application/apply-patch+yaml (got {other})"
            ),
        };
        ApiError::new(415, "UnsupportedMediaType", why)
    })
}

fn patched(
    patch_type: PatchType,
    tree: Value,
    patch: &[u8],
    schema: Schema<'_>,
    kind: &Kind,
) -> Result<Value, ApiError> {
    patch::apply(patch_type, tree, patch, schema).map_err(|error| match error {
        PatchError::BadRequest(why) => ApiError::bad_request(why),
        PatchError::Unprocessable(why) => ApiError::new(
            422,
            "Invalid",
            format!(
                "the server rejected our request due to an error in our request: {} patch: {why}",
                kind.singular
            ),
        ),
        PatchError::TooLarge(why) => ApiError::new(413, "RequestEntityTooLarge", why),
    })
}

/// An empty success, as bindings and evictions answer.
pub(crate) fn created() -> Response {
    json_response(
        201,
        &serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        }),
    )
}
