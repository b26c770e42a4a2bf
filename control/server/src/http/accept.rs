//! In which form the client wants objects: as they are, as rows of a Table, or their metadata only.

use coracle_api::ApiError;
use http::HeaderMap;
use http::header::ACCEPT;

/// A form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// JSON of the objects themselves.
    Plain,
    /// The same in YAML.
    Yaml,
    /// `meta.k8s.io` Table.
    Table {
        /// `v1`, else `v1beta1`.
        v1: bool,
    },
    /// `PartialObjectMetadata` and its list.
    Metadata {
        /// `v1`, else `v1beta1`.
        v1: bool,
    },
}

impl Form {
    /// The first form in `Accept` that is served.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut asked = false;
        for header in headers.get_all(ACCEPT) {
            for clause in header.to_str().unwrap_or_default().split(',') {
                asked = true;
                if let Some(form) = Self::clause(clause) {
                    return Ok(form);
                }
            }
        }
        if asked {
            return Err(ApiError::new(
                406,
                "NotAcceptable",
                "only the following media types are accepted: application/json, application/yaml",
            ));
        }
        Ok(Form::Plain)
    }

    fn clause(clause: &str) -> Option<Self> {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let (mut form, mut version, mut group) = ("", "", "");
        for part in parts {
            match part.split_once('=') {
                Some(("as", value)) => form = value,
                Some(("v", value)) => version = value,
                Some(("g", value)) => group = value,
                _ => {}
            }
        }
        let v1 = version == "v1";
        let known = group == "meta.k8s.io" && (v1 || version == "v1beta1");
        match (media, form) {
            ("application/json" | "application/*" | "*/*" | "", "") => Some(Form::Plain),
            ("application/yaml", "") => Some(Form::Yaml),
            ("application/json", "Table") if known => Some(Form::Table { v1 }),
            ("application/json", "PartialObjectMetadata" | "PartialObjectMetadataList")
                if known =>
            {
                Some(Form::Metadata { v1 })
            }
            _ => None,
        }
    }

    /// `meta.k8s.io/v1` or `…/v1beta1`.
    pub(crate) fn meta_version(v1: bool) -> &'static str {
        if v1 { "meta.k8s.io/v1" } else { "meta.k8s.io/v1beta1" }
    }
}
