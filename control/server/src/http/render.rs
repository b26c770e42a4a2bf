//! Objects in the form that the client asked for.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use coracle_api::schema::protobuf::{self, encode};
use coracle_api::schema::{self, Schema};
use coracle_api::{ApiError, Kind, Object};
use http::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::accept::{self, Encoding, Form, Offer, meta_version};
use super::answer::bytes_response;
use super::other_versions::OtherVersion;
use super::request::RequestInfo;
use crate::cache::Wire;
use crate::custom::Served;

/// How this request wants its objects.
#[derive(Debug, Clone)]
pub(crate) struct Render {
    pub(crate) form: Form,
    pub(crate) encoding: Encoding,
    include: Include,
    other: Option<&'static OtherVersion>,
    custom: Option<Served>,
    /// Of the kind, where it is one that protobuf is known of.
    schema: Option<Schema<'static>>,
    pretty: bool,
}

/// `?includeObject=` of Tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Include {
    None,
    Metadata,
    Object,
}

impl Render {
    pub(crate) fn of(info: &RequestInfo, headers: &HeaderMap) -> Result<Self, ApiError> {
        // Custom kinds have no tags.
        let schema =
            || schema::builtin().by_gvk(&info.group, &info.version, info.kind().ok()?.kind);
        let schema = if accept::prefers_protobuf(headers) { schema() } else { None };
        let offer = Offer { protobuf: schema.is_some(), stream: info.verb == "watch", forms: true };
        let (form, encoding) = accept::negotiate(headers, offer)?;
        Ok(Self {
            form,
            encoding,
            include: match info.query.get("includeObject") {
                Some("None") => Include::None,
                Some("Object") => Include::Object,
                _ => Include::Metadata,
            },
            other: info.other_version(),
            custom: info.custom.clone(),
            schema,
            pretty: info.query.flag("pretty"),
        })
    }

    /// Whether stored bytes are what goes out.
    pub(crate) fn is_stored(&self) -> bool {
        self.form == Form::Plain
            && self.encoding == Encoding::Json
            && self.other.is_none()
            && !self.pretty
    }

    /// The form that events have for all who want them like this, if there is one.
    pub(crate) fn wire(&self) -> Option<Wire> {
        if self.other.is_some() {
            return None;
        }
        match (self.form, self.encoding) {
            (Form::Plain, Encoding::Json) => Some(Wire::Json),
            (Form::Plain, Encoding::Protobuf) => Some(Wire::Protobuf),
            (Form::Metadata { v1 }, Encoding::Json) => Some(Wire::MetadataJson { v1 }),
            (Form::Metadata { v1 }, Encoding::Protobuf) => Some(Wire::MetadataProtobuf { v1 }),
            // Tables tell ages.
            (Form::Table { .. }, _) | (_, Encoding::Yaml) => None,
        }
    }

    /// What a list of the kind is called.
    pub(crate) fn list_kind(&self, kind: &Kind) -> String {
        match &self.custom {
            Some(custom) => custom.version().list_kind.clone(),
            None => format!("{}List", kind.kind),
        }
    }

    /// One object, as an answer.
    pub(crate) fn answer(&self, code: u16, object: &Arc<Object>) -> Response {
        let body = match self.encoding {
            Encoding::Protobuf => self.protobuf(object),
            Encoding::Json | Encoding::Yaml => {
                let mut body = self.written(self.json(object, true));
                if self.encoding == Encoding::Json {
                    body.push(b'\n');
                }
                body
            }
        };
        bytes_response(code, self.media_type(), body.into())
    }

    /// One object of a stream: in JSON, or a body in protobuf; `columns` asks for a Table's header.
    pub(crate) fn object(&self, object: &Arc<Object>, columns: bool) -> Bytes {
        match self.encoding {
            Encoding::Protobuf => self.protobuf(object).into(),
            Encoding::Json | Encoding::Yaml => self.json(object, columns),
        }
    }

    /// A tree that stands for an object of the kind, such as a bookmark, as [`Self::object`] gives objects.
    pub(crate) fn tree(&self, tree: &Value) -> Vec<u8> {
        match (self.encoding, protobuf_of(tree)) {
            (Encoding::Protobuf, Some(body)) => body,
            _ => serde_json::to_vec(tree).unwrap_or_default(),
        }
    }

    /// A whole list, for the forms that are not stored bytes.
    pub(crate) fn list(
        &self,
        kind: &Kind,
        objects: &[Arc<Object>],
        metadata: &Value,
        api_version: &str,
    ) -> Vec<u8> {
        let (list_kind, list_version) = match self.form {
            Form::Table { .. } => {
                return self.written(self.table(kind, objects, metadata, true).into());
            }
            Form::Metadata { v1 } => {
                ("PartialObjectMetadataList".to_owned(), meta_version(v1).to_owned())
            }
            Form::Plain => (self.list_kind(kind), api_version.to_owned()),
        };
        if self.encoding == Encoding::Protobuf
            && let Some(schema) = schema::builtin().by_name(LIST_META)
        {
            let items = objects.iter().map(|object| self.message(object));
            let list = encode::list(metadata, schema, items);
            return encode::body(&list_version, &list_kind, &list);
        }
        let mut out = format!(
            "{{\"kind\":\"{list_kind}\",\"apiVersion\":\"{list_version}\",\"metadata\":{metadata},\"items\":["
        )
        .into_bytes();
        for (i, object) in objects.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&self.json(object, false));
        }
        out.extend_from_slice(b"]}");
        self.written(out.into())
    }

    /// The media type of what [`Self::answer`] and [`Self::list`] give.
    pub(crate) fn media_type(&self) -> &'static str {
        match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => protobuf::MEDIA_TYPE,
        }
    }

    /// JSON as it is wanted: in YAML, or with line breaks.
    fn written(&self, json: Bytes) -> Vec<u8> {
        let tree = || serde_json::from_slice::<Value>(&json);
        match self.encoding {
            Encoding::Yaml => tree()
                .ok()
                .and_then(|tree| serde_saphyr::to_string(&tree).ok())
                .unwrap_or_default()
                .into_bytes(),
            _ if self.pretty => {
                tree().and_then(|tree| serde_json::to_vec_pretty(&tree)).unwrap_or_default()
            }
            _ => json.into(),
        }
    }

    fn json(&self, object: &Arc<Object>, columns: bool) -> Bytes {
        match self.form {
            Form::Plain if self.other.is_none() => object.json().clone(),
            Form::Plain => serde_json::to_vec(&self.value(object)).unwrap_or_default().into(),
            Form::Metadata { v1 } => metadata_only(object, v1).into(),
            Form::Table { .. } => {
                let revision = object.meta.resource_version.to_string();
                let metadata = json!({"resourceVersion": revision});
                self.table(object.kind, std::slice::from_ref(object), &metadata, columns).into()
            }
        }
    }

    fn protobuf(&self, object: &Object) -> Vec<u8> {
        let message = self.message(object);
        let version = self.api_version(object.kind);
        match self.form {
            Form::Metadata { v1 } => {
                encode::body(meta_version(v1), "PartialObjectMetadata", &message)
            }
            _ => encode::body(&version, object.kind.kind, &message),
        }
    }

    /// Group and version in which objects are shown.
    pub(crate) fn api_version(&self, kind: &Kind) -> String {
        self.other.map_or_else(|| kind.api_version(), OtherVersion::api_version)
    }

    /// The object in protobuf, without envelope.
    fn message(&self, object: &Object) -> Vec<u8> {
        let value = self.value(object);
        match (self.form, self.schema, schema::builtin().by_name(OBJECT_META)) {
            (Form::Metadata { .. }, _, Some(schema)) => {
                encode::metadata_only(&encode::message(&value["metadata"], schema))
            }
            (_, Some(schema), _) => encode::message(&value, schema),
            // Not negotiated.
            (_, None, _) => Vec::new(),
        }
    }

    fn value(&self, object: &Object) -> Value {
        let mut value = object.value();
        if let Some(other) = self.other {
            (other.show)(&mut value);
        }
        value
    }

    fn table(
        &self,
        kind: &Kind,
        objects: &[Arc<Object>],
        metadata: &Value,
        columns: bool,
    ) -> String {
        let Form::Table { v1 } = self.form else { return String::new() };
        let definitions = match &self.custom {
            _ if !columns => json!([]),
            Some(custom) => custom.version().column_definitions(),
            None => column_definitions(kind),
        };
        let now = Timestamp::now();
        let mut out = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"columnDefinitions\":{definitions},\"rows\":[",
            meta_version(v1)
        );
        for (i, object) in objects.iter().enumerate() {
            let cells: Value = match &self.custom {
                Some(custom) => custom.version().cells(object, now).into(),
                None => cells(object, now).into(),
            };
            let comma = if i > 0 { "," } else { "" };
            // Writing to a String cannot fail.
            let _ = write!(out, "{comma}{{\"cells\":{cells}");
            match self.include {
                Include::None => {}
                Include::Metadata => {
                    out.push_str(",\"object\":");
                    out.push_str(&metadata_only(object, v1));
                }
                Include::Object => {
                    out.push_str(",\"object\":");
                    if self.other.is_some() {
                        let _ = write!(out, "{}", self.value(object));
                    } else {
                        out.push_str(&String::from_utf8_lossy(object.json()));
                    }
                }
            }
            out.push('}');
        }
        out.push_str("]}");
        out
    }
}

const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// A tree that says its kind, as a body in protobuf, if the kind is known there.
pub(crate) fn protobuf_of(tree: &Value) -> Option<Vec<u8>> {
    let (api_version, kind) = (tree["apiVersion"].as_str()?, tree["kind"].as_str()?);
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let message = match kind {
        "PartialObjectMetadata" => {
            let schema = schema::builtin().by_name(OBJECT_META)?;
            encode::metadata_only(&encode::message(&tree["metadata"], schema))
        }
        _ => encode::message(tree, schema::builtin().by_gvk(group, version, kind)?),
    };
    Some(encode::body(api_version, kind, &message))
}

fn column_definitions(kind: &Kind) -> Value {
    if kind.columns.is_empty() {
        return json!([
            {"name": "Name", "type": "string", "format": "name", "description": "Name", "priority": 0},
            {"name": "Created At", "type": "date", "format": "", "description": "Creation", "priority": 0},
        ]);
    }
    kind.columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.kind,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        })
        .collect()
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    if object.kind.columns.is_empty() {
        let created = object.meta.creation_timestamp.map(|t| t.to_string());
        return vec![object.meta.name.as_str().into(), created.into()];
    }
    (object.kind.cells)(object, now)
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// `PartialObjectMetadata` of an object, its metadata not re-encoded.
fn metadata_only(object: &Object, v1: bool) -> String {
    let version = meta_version(v1);
    let metadata = serde_json::from_slice::<Raw<'_>>(object.json());
    let metadata = metadata.as_ref().map_or("{}", |raw| raw.metadata.get());
    format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{version}\",\"metadata\":{metadata}}}"
    )
}
