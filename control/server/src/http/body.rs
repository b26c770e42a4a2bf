//! Request bodies: size, media type, schema.

use axum::body::Body;
use bytes::Bytes;
use coracle_api::custom::Version;
use coracle_api::schema::{self, DecodeError, Decoded, Schema, cannot_be_handled};
use coracle_api::{ApiError, Kind};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::Value;

use super::request::{Query, RequestInfo};
use super::yaml;

/// The largest body accepted, as upstream.
pub(crate) const LIMIT: usize = 3 << 20;

/// What to do about fields that the schema does not know or that occur twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and say so in `Warning` headers.
    Warn,
    /// Refuse.
    Strict,
}

impl FieldValidation {
    /// `?fieldValidation=`.
    pub(crate) fn of(query: &Query) -> Result<Self, ApiError> {
        match query.get("fieldValidation") {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(ApiError::new(
                422,
                "Invalid",
                format!(
                    "fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
                ),
            )),
        }
    }
}

/// Reads a body up to the limit.
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let declared = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(0);
    if declared > LIMIT {
        return Err(ApiError::too_large(LIMIT));
    }
    axum::body::to_bytes(body, LIMIT).await.map_err(|error| {
        use std::error::Error as _;
        let limited = error.source().is_some_and(|e| e.is::<http_body_util::LengthLimitError>());
        if limited {
            ApiError::too_large(LIMIT)
        } else {
            ApiError::bad_request(format!("the body could not be read: {error}"))
        }
    })
}

/// What a body is read as.
#[derive(Clone, Copy)]
pub(crate) enum Shape<'a> {
    /// A message of the built-in schemas.
    BuiltIn(Schema<'a>),
    /// A custom kind.
    Custom(&'a Version),
}

impl<'a> From<Schema<'a>> for Shape<'a> {
    fn from(schema: Schema<'a>) -> Self {
        Self::BuiltIn(schema)
    }
}

impl<'a> Shape<'a> {
    /// As what requests on this kind are read.
    pub(crate) fn of(info: &'a RequestInfo, kind: &Kind) -> Result<Self, ApiError> {
        match &info.custom {
            Some(custom) => Ok(Self::Custom(custom.version())),
            None => schema_of(&info.group, &info.version, kind.kind).map(Self::BuiltIn),
        }
    }

    /// The schema that patches walk.
    pub(crate) fn schema(self) -> Result<Schema<'a>, ApiError> {
        match self {
            Self::BuiltIn(schema) => Ok(schema),
            Self::Custom(version) => version.schema().ok_or_else(|| {
                ApiError::internal(format!("no schema for {}", version.kind.resource))
            }),
        }
    }

    /// JSON, read and checked in one go.
    pub(crate) fn decode_json(self, bytes: &[u8]) -> Result<Decoded, DecodeError> {
        match self {
            Self::BuiltIn(schema) => schema::decode_json(bytes, schema),
            Self::Custom(version) => version.decode_json(bytes),
        }
    }

    fn check(self, tree: Value) -> Result<Decoded, DecodeError> {
        match self {
            Self::BuiltIn(schema) => schema::check(tree, schema),
            Self::Custom(version) => version.check(tree),
        }
    }
}

/// The schema of a kind that this server handles.
pub(crate) fn schema_of(
    group: &str,
    version: &str,
    kind: &str,
) -> Result<Schema<'static>, ApiError> {
    schema::builtin()
        .by_gvk(group, version, kind)
        .ok_or_else(|| ApiError::internal(format!("no schema for {group}/{version} {kind}")))
}

/// Decodes a body as the kind; complaints of strict validation become the second value, or an error.
pub(crate) fn decode<'a>(
    bytes: &[u8],
    headers: &HeaderMap,
    shape: impl Into<Shape<'a>>,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let shape = shape.into();
    let media = media_type(headers);
    let decoded = match media.as_str() {
        "" | "application/json" | "*/*" => shape.decode_json(bytes),
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            let document = yaml::read(bytes).map_err(|why| {
                ApiError::bad_request(format!("error converting YAML to JSON: yaml: {why}"))
            })?;
            let strict = document.strict.map(|why| match validation {
                FieldValidation::Strict => yaml::error(&why),
                _ => why,
            });
            shape.check(document.tree).map(|mut decoded| {
                decoded.strict.splice(0..0, strict);
                decoded
            })
        }
        "application/vnd.kubernetes.protobuf" if let Shape::BuiltIn(schema) = shape => {
            let envelope = schema::protobuf::Envelope::parse(bytes)
                .map_err(|e| ApiError::bad_request(e.to_string()))?;
            expect(envelope.api_version, envelope.kind, shape)?;
            let tree = envelope.decode(schema).map_err(|e| ApiError::bad_request(e.to_string()))?;
            return Ok((tree, Vec::new()));
        }
        other => {
            return Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                format!(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json, application/yaml, application/vnd.kubernetes.protobuf (got {other})"
                ),
            ));
        }
    };
    let decoded = match decoded {
        Ok(decoded) => decoded,
        Err(error) => {
            if let Ok(head) = serde_json::from_slice::<Head>(bytes) {
                expect(&head.api_version, &head.kind, shape)?;
            }
            return Err(refused(&error, shape));
        }
    };
    let field = |name: &str| decoded.value[name].as_str().unwrap_or_default();
    expect(field("apiVersion"), field("kind"), shape)?;
    let complaints = complaints(decoded.strict, validation, shape)?;
    Ok((decoded.value, complaints))
}

/// Checks a tree that a patch has made.
pub(crate) fn check<'a>(
    tree: Value,
    shape: impl Into<Shape<'a>>,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let shape = shape.into();
    let decoded = shape.check(tree).map_err(|error| refused(&error, shape))?;
    let complaints = complaints(decoded.strict, validation, shape)?;
    Ok((decoded.value, complaints))
}

fn complaints(
    strict: Vec<String>,
    validation: FieldValidation,
    shape: Shape<'_>,
) -> Result<Vec<String>, ApiError> {
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(strict),
        FieldValidation::Strict if strict.is_empty() => Ok(strict),
        FieldValidation::Strict => {
            let text = format!("strict decoding error: {}", strict.join(", "));
            let (version, kind) = names(shape);
            Err(ApiError::bad_request(cannot_be_handled(version, kind, &text)))
        }
    }
}

fn refused(error: &DecodeError, shape: Shape<'_>) -> ApiError {
    let (version, kind) = names(shape);
    match error {
        DecodeError::Syntax(why) => ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {why}"
        )),
        other => ApiError::bad_request(cannot_be_handled(version, kind, other)),
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Head {
    api_version: String,
    kind: String,
}

/// The body must be of the kind that the URL names, where it says its kind at all.
fn expect(api_version: &str, kind: &str, shape: Shape<'_>) -> Result<(), ApiError> {
    let schema = shape.schema()?;
    let Some(gvk) = &schema.message().gvk else { return Ok(()) };
    let wanted = gvk.api_version();
    // The same in every group.
    if gvk.kind == "DeleteOptions" {
        return Ok(());
    }
    if !api_version.is_empty() && api_version != wanted {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
        )));
    }
    if !kind.is_empty() && kind != gvk.kind {
        let version = gvk.version.to_string();
        return Err(ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: the kind in the data does not match the URL",
            gvk.kind
        )));
    }
    Ok(())
}

fn names(shape: Shape<'_>) -> (&str, &str) {
    let schema = match shape {
        Shape::BuiltIn(schema) => schema,
        Shape::Custom(version) => return (version.kind.version, version.kind.kind),
    };
    match &schema.message().gvk {
        Some(gvk) => (&gvk.version, &gvk.kind),
        None => ("v1", schema.message().short_name()),
    }
}

/// The media type of the body, without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
        .unwrap_or_default()
}
