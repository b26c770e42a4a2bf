//! What a request is about, read from method, path and query (`apiserver/pkg/endpoints/request/requestinfo.go`).

use axum::extract::Query as AxumQuery;
use coracle_api::{ApiError, FieldSelector, Kind, kinds};
use http::{Method, Uri};

use super::other_versions::{self, OtherVersion};
use crate::auth::Attributes;
use crate::custom::{Definitions, Served};

/// A parsed request line.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestInfo {
    pub(crate) verb: &'static str,
    /// Whether it addresses resources; if not, only `path` and `verb` mean something.
    pub(crate) is_resource: bool,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    pub(crate) path: String,
    pub(crate) query: Query,
    /// The custom kind addressed, if it is one.
    pub(crate) custom: Option<Served>,
}

/// Decoded query parameters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// The first value of a parameter; `None` if absent or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, v)| k == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// All values of a parameter, in their order.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Go's idea of a true boolean parameter: present, and neither `0` nor `false`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|(k, v)| k == name && !matches!(v.as_str(), "0" | "false" | "False"))
    }

    /// A number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "strconv.ParseInt: parsing \"{text}\": invalid syntax (query parameter {name})"
                    ))
                })
            })
            .transpose()
    }

    /// `?dryRun=All`.
    pub(crate) fn dry_run(&self) -> Result<bool, ApiError> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(ApiError::new(
                422,
                "Invalid",
                format!("dryRun: Unsupported value: \"{other}\": supported values: \"All\""),
            )),
        }
    }
}

impl RequestInfo {
    /// Reads a request line.
    pub(crate) fn parse(method: &Method, uri: &Uri) -> Self {
        let query = AxumQuery::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|AxumQuery(pairs)| Query(pairs))
            .unwrap_or_default();
        let path = uri.path().to_owned();
        let decoded: Vec<String> =
            path.split('/').filter(|part| !part.is_empty()).map(percent_decode).collect();
        let mut parts = decoded.iter().map(String::as_str);
        let mut info = Self { query, path: path.clone(), ..Self::default() };
        let prefix = match parts.next() {
            Some("api") => {
                info.version = parts.next().unwrap_or_default().into();
                !info.version.is_empty()
            }
            Some("apis") => {
                info.group = parts.next().unwrap_or_default().into();
                info.version = parts.next().unwrap_or_default().into();
                !info.version.is_empty()
            }
            _ => false,
        };
        let mut rest: Vec<&str> = parts.collect();
        if !prefix || rest.is_empty() {
            info.verb = http_verb(method);
            return info;
        }
        info.is_resource = true;
        let watch = rest[0] == "watch" && rest.len() > 1;
        if watch {
            rest.remove(0);
        }
        if rest[0] == "namespaces" && rest.len() > 1 {
            info.namespace = rest[1].to_owned();
            // `namespaces/x`, `namespaces/x/status` and `…/finalize` are about the namespace itself.
            if rest.len() > 2 && !matches!(rest[2], "status" | "finalize") {
                rest.drain(..2);
            }
        }
        info.resource = rest[0].to_owned();
        info.name = rest.get(1).copied().unwrap_or_default().to_owned();
        info.subresource = rest.get(2..).unwrap_or_default().join("/");
        if info.resource == "namespaces" {
            info.namespace = info.name.clone();
        }
        info.verb = match *method {
            Method::GET | Method::HEAD if watch => "watch",
            // What is no collection and no object is read, whatever else is asked of it; of the proxied it is its own business.
            Method::GET | Method::HEAD
                if info.subresource.is_empty() && info.query.flag("watch") =>
            {
                "watch"
            }
            Method::GET | Method::HEAD if info.name.is_empty() => "list",
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if info.name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ => "",
        };
        info
    }

    /// What authorization decides on.
    pub(crate) fn attributes(&self) -> Attributes {
        Attributes {
            verb: self.verb.to_owned(),
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.resource.clone(),
            // What follows `proxy` is a path of the proxied, not a name here.
            subresource: match self.subresource.strip_prefix("proxy/") {
                Some(_) => "proxy".to_owned(),
                None => self.subresource.clone(),
            },
            namespace: self.namespace.clone(),
            name: self.selected_name().unwrap_or_else(|| self.name.clone()),
            path: if self.is_resource { String::new() } else { self.path.clone() },
        }
    }

    /// A list or watch of one object by `metadata.name` is about that object, for authorization too.
    pub(super) fn selected_name(&self) -> Option<String> {
        if !self.name.is_empty() || !matches!(self.verb, "list" | "watch") {
            return None;
        }
        FieldSelector::named(self.query.get("fieldSelector")?)
    }

    /// The kind addressed.
    pub(crate) fn kind(&self) -> Result<&'static Kind, ApiError> {
        kinds::by_resource(&self.group, &self.resource)
            .filter(|kind| kind.version == self.version)
            .or_else(|| Some(self.other_version()?.kind))
            .or_else(|| Some(self.custom.as_ref()?.kind()))
            .ok_or_else(not_found_here)
    }

    /// Whether it addresses a resource that is not built in. The groups of all custom kinds are domains.
    pub(crate) fn may_be_custom(&self) -> bool {
        self.is_resource
            && self.group.contains('.')
            && kinds::by_resource(&self.group, &self.resource).is_none()
    }

    /// Looks up the custom kind addressed.
    pub(crate) fn resolve(&mut self, definitions: &Definitions) {
        self.custom = definitions.addressed(&self.group, &self.version, &self.resource);
    }

    /// The other form of a stored kind that is addressed, if it is one.
    pub(crate) fn other_version(&self) -> Option<&'static OtherVersion> {
        other_versions::of(&self.group, &self.version, &self.resource)
    }

    /// The version addressed, with its group: `v1` or `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The namespace of the objects addressed: empty for cluster-scoped kinds and for all namespaces.
    pub(crate) fn scope(&self, kind: &Kind) -> &str {
        if kind.namespaced { &self.namespace } else { "" }
    }
}

/// Upstream's answer for a path that nothing serves.
pub(crate) fn not_found_here() -> ApiError {
    ApiError::new(404, "NotFound", "the server could not find the requested resource")
}

fn http_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

fn percent_decode(part: &str) -> String {
    if !part.contains('%') {
        return part.to_owned();
    }
    let bytes = part.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[i], hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 3;
            }
            (byte, ..) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
