//! Objects in the form that the client asked for.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use coracle_api::{Kind, Object};
use http::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::accept::Form;
use super::answer::bytes_response;
use super::other_versions::OtherVersion;
use super::request::RequestInfo;
use coracle_api::ApiError;

/// How this request wants its objects.
#[derive(Debug, Clone)]
pub(crate) struct Render {
    pub(crate) form: Form,
    include: Include,
    other: Option<&'static OtherVersion>,
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
        Ok(Self {
            form: Form::of(headers)?,
            include: match info.query.get("includeObject") {
                Some("None") => Include::None,
                Some("Object") => Include::Object,
                _ => Include::Metadata,
            },
            other: info.other_version(),
            pretty: info.query.flag("pretty"),
        })
    }

    /// Whether stored bytes are what goes out.
    pub(crate) fn is_stored(&self) -> bool {
        self.form == Form::Plain && self.other.is_none() && !self.pretty
    }

    /// One object, as an answer.
    pub(crate) fn answer(&self, code: u16, object: &Arc<Object>) -> Response {
        if self.form == Form::Yaml {
            let text = serde_saphyr::to_string(&self.value(object)).unwrap_or_default();
            return bytes_response(code, "application/yaml", text.into());
        }
        let mut body = if self.pretty {
            serde_json::from_slice::<Value>(&self.object(object, true))
                .and_then(|tree| serde_json::to_vec_pretty(&tree))
                .unwrap_or_default()
        } else {
            self.object(object, true).to_vec()
        };
        body.push(b'\n');
        bytes_response(code, "application/json", body.into())
    }

    /// One object, in JSON; `columns` asks for a Table's header.
    pub(crate) fn object(&self, object: &Arc<Object>, columns: bool) -> Bytes {
        match self.form {
            Form::Plain | Form::Yaml if self.other.is_none() => object.json().clone(),
            Form::Plain | Form::Yaml => {
                serde_json::to_vec(&self.value(object)).unwrap_or_default().into()
            }
            Form::Metadata { v1 } => metadata_only(object, v1).into(),
            Form::Table { .. } => {
                let revision = object.meta.resource_version.to_string();
                let metadata = json!({"resourceVersion": revision});
                self.table(object.kind, std::slice::from_ref(object), &metadata, columns).into()
            }
        }
    }

    /// A whole list in JSON, for the forms that are not stored bytes.
    pub(crate) fn list(
        &self,
        kind: &Kind,
        objects: &[Arc<Object>],
        metadata: &Value,
        api_version: &str,
    ) -> Vec<u8> {
        let (list_kind, list_version) = match self.form {
            Form::Table { .. } => return self.table(kind, objects, metadata, true).into_bytes(),
            Form::Metadata { v1 } => {
                ("PartialObjectMetadataList".to_owned(), Form::meta_version(v1).to_owned())
            }
            Form::Plain | Form::Yaml => (format!("{}List", kind.kind), api_version.to_owned()),
        };
        let mut out = format!(
            "{{\"kind\":\"{list_kind}\",\"apiVersion\":\"{list_version}\",\"metadata\":{metadata},\"items\":["
        )
        .into_bytes();
        for (i, object) in objects.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&self.object(object, false));
        }
        out.extend_from_slice(b"]}");
        match self.form {
            Form::Yaml => serde_json::from_slice::<Value>(&out)
                .ok()
                .and_then(|tree| serde_saphyr::to_string(&tree).ok())
                .unwrap_or_default()
                .into_bytes(),
            _ if self.pretty => serde_json::from_slice::<Value>(&out)
                .and_then(|tree| serde_json::to_vec_pretty(&tree))
                .unwrap_or_default(),
            _ => out,
        }
    }

    /// The media type of what [`Self::list`] gives.
    pub(crate) fn media_type(&self) -> &'static str {
        if self.form == Form::Yaml { "application/yaml" } else { "application/json" }
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
        let definitions = if columns { column_definitions(kind) } else { json!([]) };
        let now = Timestamp::now();
        let mut out = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"columnDefinitions\":{definitions},\"rows\":[",
            Form::meta_version(v1)
        );
        for (i, object) in objects.iter().enumerate() {
            let cells: Value = cells(object, now).into();
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
    let version = Form::meta_version(v1);
    let metadata = serde_json::from_slice::<Raw<'_>>(object.json());
    let metadata = metadata.as_ref().map_or("{}", |raw| raw.metadata.get());
    format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{version}\",\"metadata\":{metadata}}}"
    )
}
