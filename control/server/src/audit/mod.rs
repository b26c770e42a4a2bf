//! The audit log: who asked for what, when, and what came of it, as far as the [`policy`] says, in `audit.k8s.io/v1` Events.
//!
//! A request is noted at the gate, before anybody knows whether it is allowed; its events are written while it is under way,
//! to a [`log`], and a request is not answered before its event is written.

mod log;
mod policy;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use coracle_api::schema::{self, protobuf};
use http::header::{CONTENT_TYPE, HeaderName, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use self::log::Log;
pub use self::log::LogOptions;
use self::policy::{Decision, Level, Policy, PolicyError, Stage};
use crate::auth::{Attributes, Identity};
use crate::http::RequestInfo;
use crate::serve::PeerAddress;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// Characters of an ID that a client gives.
const LONGEST_ID: usize = 64;
/// Bytes of an answer that are written down.
const LARGEST: u64 = 4 << 20;

/// Auditing, or none; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Audit(Option<Arc<Inner>>);

struct Inner {
    policy: Policy,
    log: Log,
}

/// Auditing could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The file.
    #[error("the audit log {0} cannot be written: {1}")]
    Log(String, std::io::Error),
}

impl Audit {
    /// To that file, by that policy; without a policy, of every request that it happened and who did it.
    pub(crate) fn open(log: LogOptions, policy: Option<&Path>) -> Result<Self, AuditError> {
        let policy = policy.map_or_else(|| Ok(Policy::everything()), Policy::read)?;
        let name = log.path.display().to_string();
        let log = Log::open(log).map_err(|error| AuditError::Log(name, error))?;
        Ok(Self(Some(Arc::new(Inner { policy, log }))))
    }

    /// A request that has come, of whoever it turns out to be.
    pub(crate) fn begin(
        &self,
        parts: &Parts,
        info: &RequestInfo,
        who: Option<(&Identity, &Identity)>,
    ) -> Option<Audited> {
        let inner = self.0.as_ref()?;
        let wanted = &info.attributes();
        let nobody = Identity::default();
        let (user, acting) = who.unwrap_or((&nobody, &nobody));
        let Decision { level, omit_stages, omit_managed_fields } =
            inner.policy.decide(user, wanted);
        if level == Level::None {
            return None;
        }
        let given = parts.headers.get(AUDIT_ID).and_then(|id| id.to_str().ok());
        let id = given.filter(|id| !id.is_empty() && id.len() <= LONGEST_ID);
        let id = id.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": level.text(),
            "auditID": id,
            "requestURI": parts.uri.path_and_query().map_or("", |it| it.as_str()),
            "verb": wanted.verb,
            "user": user_info(user),
            "sourceIPs": parts.extensions.get::<PeerAddress>().map(|it| it.0.to_string()).as_slice(),
            "requestReceivedTimestamp": now(),
        });
        if user != acting {
            event["impersonatedUser"] = user_info(acting);
        }
        if let Some(agent) = parts.headers.get(USER_AGENT).and_then(|it| it.to_str().ok()) {
            event["userAgent"] = agent.into();
        }
        if !wanted.resource.is_empty() {
            event["objectRef"] = reference(wanted);
        }
        let audited =
            Audited { inner: inner.clone(), event, level, omit_stages, omit_managed_fields, id };
        audited.write(Stage::RequestReceived, "RequestReceived");
        Some(audited)
    }
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn user_info(who: &Identity) -> Value {
    let mut user = json!({});
    for (field, value) in [("username", &who.user), ("uid", &who.uid)] {
        if !value.is_empty() {
            user[field] = value.as_str().into();
        }
    }
    if !who.groups.is_empty() {
        user["groups"] = json!(who.groups);
    }
    if !who.extra.is_empty() {
        user["extra"] = json!(who.extra);
    }
    user
}

fn reference(wanted: &Attributes) -> Value {
    let mut out = json!({"resource": wanted.resource, "apiVersion": wanted.version});
    for (field, value) in [
        ("namespace", &wanted.namespace),
        ("name", &wanted.name),
        ("apiGroup", &wanted.group),
        ("subresource", &wanted.subresource),
    ] {
        if !value.is_empty() {
            out[field] = value.as_str().into();
        }
    }
    out
}

/// A request under way.
pub(crate) struct Audited {
    inner: Arc<Inner>,
    event: Value,
    level: Level,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
    id: String,
}

impl Audited {
    /// Whether the request has a body that is to be noted.
    pub(crate) fn wants_request(&self, info: &RequestInfo) -> bool {
        let writes =
            matches!(info.verb, "create" | "update" | "patch" | "delete" | "deletecollection");
        self.level >= Level::Request && info.is_resource && writes
    }

    /// What the client has sent; gives it back.
    pub(crate) fn request(&mut self, headers: &HeaderMap, body: Bytes) -> Body {
        if let Some(object) = self.object(headers, &body) {
            self.event["requestObject"] = object;
        }
        Body::from(body)
    }

    /// Whether it was allowed.
    pub(crate) fn decided(&mut self, allowed: bool) {
        let decision = if allowed { "allow" } else { "forbid" };
        self.event["annotations"]["authorization.k8s.io/decision"] = decision.into();
    }

    /// What admission noted about it, by key.
    pub(crate) fn annotate(&mut self, notes: &[(String, String)]) {
        for (key, value) in notes {
            self.event["annotations"][key] = value.as_str().into();
        }
    }

    /// It is answered: what is long is said to have begun now, and to be over once it is.
    pub(crate) async fn answer(mut self, mut answer: Response, is_long: bool) -> Response {
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            answer.headers_mut().insert(AUDIT_ID, id);
        }
        let code = answer.status().as_u16();
        self.event["responseStatus"] = json!({"metadata": {}, "code": code});
        if is_long {
            self.write(Stage::ResponseStarted, "ResponseStarted");
            let end = End(self);
            return answer.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _ = &end;
                    frame
                }))
            });
        }
        let whole = self.level == Level::RequestResponse || code >= 400;
        let is_small = answer.body().size_hint().exact().is_some_and(|size| size <= LARGEST);
        if whole && is_small {
            let (parts, body) = answer.into_parts();
            // An answer of known size is in memory.
            let body = axum::body::to_bytes(body, LARGEST as usize).await.unwrap_or_default();
            let object = self.object(&parts.headers, &body);
            if let Some(status) = object.as_ref().filter(|it| it["kind"] == "Status") {
                for field in ["status", "message", "reason", "details"] {
                    if let Some(value) = status.get(field) {
                        self.event["responseStatus"][field] = value.clone();
                    }
                }
            }
            if let Some(object) = object.filter(|_| self.level == Level::RequestResponse) {
                self.event["responseObject"] = object;
            }
            answer = Response::from_parts(parts, Body::from(body));
        }
        self.write(Stage::ResponseComplete, "ResponseComplete");
        answer
    }

    /// What a body holds.
    fn object(&self, headers: &HeaderMap, body: &[u8]) -> Option<Value> {
        let media = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let mut tree: Value = match media.split(';').next().unwrap_or_default().trim() {
            protobuf::MEDIA_TYPE => {
                let envelope = protobuf::Envelope::parse(body).ok()?;
                let (group, version) =
                    envelope.api_version.split_once('/').unwrap_or(("", envelope.api_version));
                envelope.decode(schema::builtin().by_gvk(group, version, envelope.kind)?).ok()?
            }
            media if media.contains("yaml") => serde_saphyr::from_slice(body).ok()?,
            _ => serde_json::from_slice(body).ok()?,
        };
        if self.omit_managed_fields {
            drop_managed_fields(&mut tree);
            let items = tree.get_mut("items").and_then(Value::as_array_mut);
            items.into_iter().flatten().for_each(drop_managed_fields);
        }
        Some(tree)
    }

    fn write(&self, stage: Stage, name: &str) {
        if self.omit_stages.contains(&stage) {
            return;
        }
        let mut event = self.event.clone();
        event["stage"] = name.into();
        event["stageTimestamp"] = now().into();
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        if let Err(error) = self.inner.log.write(&line) {
            tracing::error!(%error, audit_id = %self.id, "an audit event could not be written");
        }
    }
}

fn drop_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// What goes on for long, until it is over.
struct End(Audited);

impl Drop for End {
    fn drop(&mut self) {
        self.0.write(Stage::ResponseComplete, "ResponseComplete");
    }
}
