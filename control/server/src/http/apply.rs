//! Server-side apply: PATCH of `application/apply-patch+yaml`, and on whose account other writes are.

use std::sync::Arc;

use axum::body::Body;
use coracle_api::fields::{ApplyError, Managers, Writer};
use coracle_api::status::Details;
use coracle_api::{ApiError, Kind, Object};
use http::header::USER_AGENT;
use http::request::Parts;
use serde_json::Value;

use super::App;
use super::answer::{Answer, warn};
use super::body::{self, FieldValidation, Shape};
use super::other_versions;
use super::render::Render;
use super::request::{Query, RequestInfo};
use super::yaml;
use crate::auth::{Identity, node};
use crate::registry::{
    Caller, FieldWriter, Gv, Part, Requested, WriteOptions, ignored_fields, now,
};

/// The media type of an applied configuration.
pub(crate) const MEDIA: &str = "application/apply-patch+yaml";
/// Bytes of a field manager's name.
const LONGEST_MANAGER: usize = 128;
/// An object that comes and goes while it is applied is tried this often.
const ATTEMPTS: usize = 5;

/// How a request writes: dry or not, and on whose account.
pub(crate) fn options(info: &RequestInfo, parts: &Parts) -> Result<WriteOptions, ApiError> {
    let fields = if parts.extensions.get::<Identity>().and_then(node::name).is_some() {
        FieldWriter::Own
    } else {
        let manager = match manager(&info.query)? {
            Some(manager) => manager,
            None => from_user_agent(parts),
        };
        let subresource = info.subresource.as_str().into();
        FieldWriter::Client { manager: manager.into(), subresource }
    };
    Ok(WriteOptions {
        dry_run: info.query.dry_run()?,
        fields,
        caller: caller(parts),
        requested: requested(info),
    })
}

/// Who sent the request.
pub(crate) fn caller(parts: &Parts) -> Caller {
    parts.extensions.get().cloned().unwrap_or_default()
}

/// The other version that is written to, if it is one.
fn requested(info: &RequestInfo) -> Option<Requested> {
    let other = info.other_version()?;
    let resource = Gv { group: other.group, version: other.version, name: other.kind.plural };
    Some(Requested { resource, show: other.show, store: other.store })
}

/// `?fieldManager=`.
fn manager(query: &Query) -> Result<Option<&str>, ApiError> {
    let Some(manager) = query.get("fieldManager") else { return Ok(None) };
    let wrong = if manager.len() > LONGEST_MANAGER {
        format!("Too long: may not be more than {LONGEST_MANAGER} bytes")
    } else if manager.chars().any(char::is_control) {
        format!("Invalid value: {manager:?}: should only contain printable characters")
    } else {
        return Ok(Some(manager));
    };
    Err(invalid_options(&format!("fieldManager: {wrong}")))
}

/// The client's name for itself, as upstream takes it where no manager is named.
fn from_user_agent(parts: &Parts) -> &str {
    let agent = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
    let name = agent.unwrap_or_default().split('/').next().unwrap_or_default();
    let name = name.get(..LONGEST_MANAGER).unwrap_or(name);
    if name.is_empty() { "unknown" } else { name }
}

/// Refuses `?force=` of what is no apply.
pub(crate) fn refuse_force(query: &Query) -> Result<(), ApiError> {
    match query.get("force") {
        None => Ok(()),
        Some(_) => {
            Err(invalid_options("force: Forbidden: may not be specified for non-apply patch"))
        }
    }
}

fn invalid_options(why: &str) -> ApiError {
    let text = format!("PatchOptions.meta.k8s.io \"\" is invalid: {why}");
    ApiError::new(422, "Invalid", text)
}

/// Applies a configuration to an object or its status, and makes the object if it is not there.
pub(crate) async fn apply(
    app: &App,
    info: &RequestInfo,
    kind: &'static Kind,
    part: Part,
    parts: &Parts,
    body: Body,
) -> Answer {
    let registry = &app.registry;
    let render = Render::of(info, &parts.headers)?;
    let manager = manager(&info.query)?.ok_or_else(|| {
        invalid_options("fieldManager: Required value: is required for apply patch")
    })?;
    let force = info.query.flag("force");
    let shape = Shape::of(info, kind)?;
    let schema = shape.schema()?;
    let bytes = body::read(&parts.headers, body).await?;
    let (config, warnings) = configuration(info, kind, shape, &bytes)?;
    let options = WriteOptions { fields: FieldWriter::Applied, ..options(info, parts)? };
    let (now, ignored) = (now(), ignored_fields(kind, &info.subresource));
    let version = info.api_version();
    let writer = Writer {
        manager,
        api_version: &version,
        subresource: &info.subresource,
        ignored: &ignored,
        now: &now,
    };
    let (namespace, name) = (info.scope(kind), info.name.as_str());
    let applied = |mut live: Value| {
        let known = match live.get_mut("metadata").and_then(Value::as_object_mut) {
            Some(metadata) => metadata.remove("managedFields").unwrap_or_default(),
            None => Value::Null,
        };
        let managers = Managers::decode(&known).unwrap_or_default();
        let other = info.other_version();
        if let Some(other) = other
            && live.get("metadata").is_some()
        {
            (other.show)(&mut live);
        }
        let applied =
            managers.apply(&writer, &live, &config, schema, force).map_err(|e| refused(info, e))?;
        let (mut tree, _) = body::check(applied.object, shape, FieldValidation::Ignore)?;
        tree["metadata"]["managedFields"] = applied.managers.encode();
        if let Some(other) = other {
            (other.store)(&mut tree);
        }
        Ok::<_, ApiError>(tree)
    };
    let other = info.other_version();
    for _ in 0..ATTEMPTS {
        registry.catch_up().await?;
        let found = registry.cache.get(kind, namespace, name).is_some();
        let (code, written) = if found || part != Part::Main {
            let edit = |old: &Arc<Object>, live| {
                let tree = applied(live)?;
                other_versions::check(other, namespace, &tree, Some(old))?;
                Ok(tree)
            };
            (200, registry.update(kind, (namespace, name), part, options.clone(), edit).await)
        } else {
            may_create(app, info, parts)?;
            let tree = applied(Value::Object(serde_json::Map::new()))?;
            other_versions::check(other, namespace, &tree, None)?;
            (201, registry.create(kind, namespace, tree, options.clone()).await)
        };
        match written {
            Ok(object) => return Ok(warn(render.answer(code, &object), &warnings)),
            Err(error) if code == 201 && error.reason == "AlreadyExists" => {}
            Err(error) if found && part == Part::Main && error.reason == "NotFound" => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::modified(kind, name).into())
}

/// The applied configuration, of this kind and with nothing in it that the kind does not have, and what to warn of.
fn configuration(
    info: &RequestInfo,
    kind: &Kind,
    shape: Shape<'_>,
    bytes: &[u8],
) -> Result<(Value, Vec<String>), ApiError> {
    let (config, warnings) = match well_formed(info, kind, shape, bytes) {
        Some(config) => (config, Vec::new()),
        None => from_yaml(info, kind, shape, bytes)?,
    };
    Ok((named(info, config)?, warnings))
}

/// A configuration in JSON with nothing to complain of, as programs send it: YAML is many times slower to read.
fn well_formed(info: &RequestInfo, kind: &Kind, shape: Shape<'_>, bytes: &[u8]) -> Option<Value> {
    let decoded = shape.decode_json(bytes).ok().filter(|decoded| decoded.strict.is_empty())?;
    let config = decoded.value;
    let is_of_kind = config["apiVersion"].as_str() == Some(info.api_version().as_str())
        && config["kind"].as_str() == Some(kind.kind);
    (is_of_kind && config["metadata"]["managedFields"].is_null()).then_some(config)
}

/// A configuration in YAML, which JSON is as well, or what is wrong with it.
fn from_yaml(
    info: &RequestInfo,
    kind: &Kind,
    shape: Shape<'_>,
    bytes: &[u8],
) -> Result<(Value, Vec<String>), ApiError> {
    let document = yaml::read(bytes)
        .map_err(|why| ApiError::bad_request(format!("error decoding YAML: {why}")))?;
    let tree = document.tree;
    let mut warnings = Vec::new();
    match (document.strict, FieldValidation::of(&info.query)?) {
        (None, _) | (_, FieldValidation::Ignore) => {}
        (Some(why), FieldValidation::Warn) => warnings.push(why),
        (Some(why), FieldValidation::Strict) => {
            return Err(ApiError::bad_request(format!(
                "error strict decoding YAML: error converting YAML to JSON: {}",
                yaml::error(&why)
            )));
        }
    }
    if !tree.is_object() {
        return Err(ApiError::bad_request("error decoding YAML: the configuration is no object"));
    }
    let text = |field: &str| tree[field].as_str().unwrap_or_default();
    let version = info.api_version();
    if text("apiVersion") != version {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {version}",
            text("apiVersion")
        )));
    }
    if text("kind") != kind.kind {
        return Err(ApiError::bad_request(format!(
            "Incorrect kind specified in apply patch. Specified kind: {}, expected: {}",
            text("kind"),
            kind.kind
        )));
    }
    let managers = &tree["metadata"]["managedFields"];
    if !managers.is_null() && managers.as_array().is_none_or(|list| !list.is_empty()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let (config, unknown) = body::check(tree, shape, FieldValidation::Warn)?;
    if let Some(complaint) = unknown.first() {
        // `unknown field "spec.foo"`
        let field = complaint.split('"').nth(1).unwrap_or(complaint);
        return Err(untyped(info, &format!(".{field}: field not declared in schema")));
    }
    Ok((config, warnings))
}

/// The configuration, if it is the addressed object's.
fn named(info: &RequestInfo, mut config: Value) -> Result<Value, ApiError> {
    let metadata = &mut config["metadata"];
    match metadata["name"].as_str().unwrap_or_default() {
        "" => metadata["name"] = info.name.clone().into(),
        name if name == info.name => {}
        name => {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                info.name
            )));
        }
    }
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("managedFields");
    }
    Ok(config)
}

/// Upstream's words for a configuration that is none of its kind.
fn untyped(info: &RequestInfo, why: &str) -> ApiError {
    let RequestInfo { namespace, name, .. } = info;
    let version = info.api_version();
    ApiError::bad_request(format!(
        "failed to create typed patch object ({namespace}/{name}; {version}): {why}"
    ))
}

fn refused(info: &RequestInfo, error: ApplyError) -> ApiError {
    let text = error.to_string();
    let conflicts = match error {
        ApplyError::Conflicts(conflicts) => conflicts,
        ApplyError::Invalid(why) => return untyped(info, &why),
    };
    let causes = conflicts.into_iter().map(|conflict| {
        let text = format!("conflict with {}", conflict.manager);
        ("FieldManagerConflict".to_owned(), text, conflict.path)
    });
    let mut error = ApiError::new(409, "Conflict", text);
    error.details = Some(Box::new(Details { causes: causes.collect(), ..Details::default() }));
    error
}

/// Who applies to what is not there creates it, and must be allowed to.
fn may_create(app: &App, info: &RequestInfo, parts: &Parts) -> Result<(), ApiError> {
    let Some(identity) = parts.extensions.get::<Identity>() else { return Ok(()) };
    let mut attributes = info.attributes();
    attributes.verb = "create".to_owned();
    app.auth.authorize(&app.registry.cache.read(), identity, &attributes)
}
