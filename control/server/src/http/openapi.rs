//! `/openapi/v3`, one document per group and version, and `/openapi/v2`, one for everything.
//!
//! Documents are built when asked for and not kept: clients keep them, by the hash in their address, and an idle server
//! should not. The hashes are made on the first request, anew when a definition of custom kinds has changed.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use axum::response::Response;
use bytes::Bytes;
use coracle_api::schema::openapi::{self, Resource, gnostic};
use coracle_api::{ApiError, kinds, schema};
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

use super::answer::{bytes_response, json_response};
use super::request::not_found_here;
use crate::aggregation::Remotes;
use crate::custom::Table;

use super::{discovery, health, other_versions, reviews};

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v3`.
pub(crate) fn index(custom: &Arc<Table>, remotes: &Remotes) -> Response {
    let index = custom.hashes(|| {
        let mut paths = Map::new();
        for (group, version) in discovery::groups(custom) {
            let path = if group.is_empty() {
                format!("api/{version}")
            } else {
                format!("apis/{group}/{version}")
            };
            let hash = match custom.in_group(group, version).is_empty() {
                true => hash_of_built_in(custom, group, version),
                false => hash(custom, group, version),
            };
            let address = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({"serverRelativeURL": address}));
        }
        json!({"paths": paths})
    });
    let mut remotes = remotes.all().peekable();
    if remotes.peek().is_none() {
        return json_response(200, index);
    }
    let mut index = index.clone();
    for remote in remotes {
        let path = format!("apis/{}/{}", remote.group, remote.version);
        match &remote.openapi {
            Some(hash) => {
                let address = format!("/openapi/v3/{path}?hash={hash}");
                index["paths"][path] = json!({"serverRelativeURL": address});
            }
            // Whatever there is of this server's own is not what is served.
            None => _ = index["paths"].as_object_mut().map(|paths| paths.remove(&path)),
        }
    }
    json_response(200, &index)
}

fn hash(custom: &Table, group: &str, version: &str) -> String {
    hex(&document(custom, group, version))
}

fn hex(document: &[u8]) -> String {
    Sha256::digest(document).iter().take(16).map(|b| format!("{b:02X}")).collect()
}

/// The hash of a document that no definition changes: made once.
fn hash_of_built_in(custom: &Table, group: &'static str, version: &'static str) -> String {
    static KNOWN: LazyLock<Mutex<HashMap<(&str, &str), String>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry((group, version)).or_insert_with(|| hash(custom, group, version)).clone()
}

/// `/openapi/v3/api/v1` and `/openapi/v3/apis/G/V`.
pub(crate) fn of_group(
    custom: &Table,
    group: &str,
    version: &str,
    hash: Option<&str>,
) -> Result<Response, ApiError> {
    if !discovery::groups(custom).contains(&(group, version)) {
        return Err(not_found_here());
    }
    let mut response =
        bytes_response(200, "application/json", document(custom, group, version).into());
    if let Some(hash) = hash {
        response = tagged(response, &format!("\"{hash}\""));
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Ok(response)
}

/// `/openapi/v2`.
pub(crate) fn everything(custom: &Table, headers: &HeaderMap) -> Response {
    let groups = discovery::groups(custom);
    let defined: Vec<_> = groups.iter().flat_map(|(g, v)| custom.in_group(g, v)).collect();
    let mut all: Vec<_> = groups.iter().flat_map(|(g, v)| resources(g, v)).collect();
    all.extend(defined.iter().filter_map(|it| Resource::custom(it.version())));
    let make = || openapi::v2(&all, &health::release());
    let mut made = None;
    let tag = custom.v2(|| {
        let document = made.insert(make());
        format!("\"{}\"", hex(&serde_json::to_vec(document).unwrap_or_default()))
    });
    // Clients that wait for something to be published ask often.
    let mut known = headers.get_all(IF_NONE_MATCH).iter();
    let is_known =
        known.any(|it| it.to_str().is_ok_and(|it| it.split(',').any(|it| it.trim() == tag)));
    let document = match is_known {
        true => return tagged(bytes_response(304, "application/json", Bytes::new()), tag),
        false => made.unwrap_or_else(make),
    };
    let wants_protobuf = headers
        .get_all(ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains(V2_PROTOBUF)));
    let answer = if wants_protobuf {
        bytes_response(200, V2_PROTOBUF_ANSWER, gnostic::encode(&document).into())
    } else {
        json_response(200, &document)
    };
    tagged(answer, tag)
}

fn tagged(mut response: Response, tag: &str) -> Response {
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

fn document(custom: &Table, group: &str, version: &str) -> Vec<u8> {
    let defined = custom.in_group(group, version);
    let mut all: Vec<Resource<'_>> = resources(group, version);
    all.extend(defined.iter().filter_map(|it| Resource::custom(it.version())));
    let document = openapi::v3(&all, &health::release());
    serde_json::to_vec(&document).unwrap_or_default()
}

fn resources(group: &str, version: &str) -> Vec<Resource<'static>> {
    let mut all: Vec<_> = kinds::ALL
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .filter_map(|kind| Resource::builtin(kind))
        .collect();
    let mut add = |kind: &'static str, plural: &'static str, namespaced, group: &'static str| {
        // Whatever is not in the table of kinds has this version.
        all.extend(schema::builtin().by_gvk(group, "v1", kind).map(|schema| Resource {
            group: group.into(),
            version: "v1".into(),
            kind: kind.into(),
            plural: plural.into(),
            namespaced,
            schema,
            subresources: Vec::new(),
        }));
    };
    for other in other_versions::in_group(group, version) {
        add(other.kind.kind, other.kind.plural, other.kind.namespaced, other.group);
    }
    for review in reviews::ALL.iter().filter(|review| review.group == group) {
        add(review.kind, review.resource, review.namespaced, review.group);
    }
    all
}
