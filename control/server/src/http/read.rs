//! GET of one object, and lists.
//!
//! Both are answered from the watch cache. Without a `resourceVersion` a read shows every write acknowledged before it;
//! with `0` whatever is there; with a number, that or newer. Only reads at an exact, past revision go to the store. Lists
//! are joined from stored bytes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use coracle_api::custom::Conversion;
use coracle_api::status::Details;
use coracle_api::{ApiError, Cluster, FieldError, FieldSelector, Kind, LabelSelector, Object};
use coracle_store::{Range, ReadError};
use hyper::body::{Frame, SizeHint};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::{Answer, body_response, bytes_response};
use super::render::Render;
use super::request::{Query, RequestInfo};
use crate::cache::Scope;
use crate::keys;
use crate::registry::Registry;

/// How long a reader waits for a revision that it knows of and this server does not, as upstream.
const FUTURE: Duration = Duration::from_secs(3);
/// Bytes of a list that are joined at a time.
const CHUNK: usize = 256 << 10;
/// Objects read from the store at a time.
const PAGE: usize = 500;

/// GET of one object.
pub(crate) async fn get(
    registry: &Registry,
    info: &RequestInfo,
    kind: &'static Kind,
    render: &Render,
) -> Answer {
    let object = fresh_object(registry, info, kind).await?;
    Ok(render.answer(200, &object))
}

/// The object that a GET addresses, as fresh as it asks for.
pub(crate) async fn fresh_object(
    registry: &Registry,
    info: &RequestInfo,
    kind: &'static Kind,
) -> Result<Arc<Object>, ApiError> {
    match info.query.get("resourceVersion") {
        None => registry.catch_up().await?,
        Some(text) => not_older_than(registry, revision(text)?).await?,
    }
    let found = registry
        .cache
        .get(kind, info.scope(kind), &info.name)
        .ok_or_else(|| ApiError::not_found(kind, &info.name))?;
    registry.show(kind, found).await
}

/// Which objects of a kind are asked for.
pub(crate) struct Selection {
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
    /// What of the fields can be told of an object as it is stored; all of them, unless another version of a custom kind, or a
    /// default, may change some.
    stored: FieldSelector,
}

impl Selection {
    pub(crate) fn of(info: &RequestInfo, kind: &'static Kind) -> Result<Self, ApiError> {
        let query = &info.query;
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default())
            .map_err(|e| ApiError::bad_request(e.to_string()))?;
        let selectable = info.custom.as_ref().map(|custom| &custom.version().selectable[..]);
        let fields = query.get("fieldSelector").unwrap_or_default();
        let stored = |path: &str| match info.other_version() {
            Some(other) => (other.field)(path),
            None => path.to_owned(),
        };
        let fields = FieldSelector::parse_as(fields, kind, selectable.unwrap_or_default(), stored)
            .map_err(|e| ApiError::bad_request(e.to_string()))?;
        // A watch of one object by its path is a selection by name.
        let fields = match info.name.as_str() {
            "" => fields,
            name if fields.is_everything() => FieldSelector::of_name(name),
            // Of two that differ, one would not be heeded.
            name if fields.exact("metadata.name") == Some(name) => fields,
            _ => {
                return Err(ApiError::bad_request(
                    "fieldSelector metadata.name doesn't match requested name",
                ));
            }
        };
        let changes = info.custom.as_ref().is_some_and(|custom| {
            matches!(*custom.definition.conversion, Conversion::Webhook(_))
                || custom.version().structure.has_defaults()
        });
        let stored = if changes { fields.of_metadata() } else { fields.clone() };
        Ok(Self { kind, namespace: info.scope(kind).to_owned(), labels, fields, stored })
    }

    /// Whether an object, as it is shown, is selected.
    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.is_within(object) && self.fields.matches(object)
    }

    /// Whether an object, as it is stored, may be selected.
    fn may_match(&self, object: &Object) -> bool {
        self.is_within(object) && self.stored.matches(object)
    }

    fn is_within(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || object.meta.namespace == self.namespace)
            && self.labels.matches(&object.meta.labels)
    }

    /// Of objects that were collected and are shown now, those that are selected.
    pub(crate) fn narrow(&self, mut shown: Vec<Arc<Object>>) -> Vec<Arc<Object>> {
        if self.stored != self.fields {
            shown.retain(|object| self.fields.matches(object));
        }
        shown
    }

    /// # Errors
    /// 500 if some object that it is about lies in the store and cannot be read.
    pub(crate) fn check_readable(&self, registry: &Registry) -> Result<(), ApiError> {
        let unreadable = registry.cache.unreadable();
        match self.fields.exact("metadata.name") {
            Some(name) if !self.kind.namespaced || !self.namespace.is_empty() => {
                unreadable.check(self.kind, &self.namespace, name)
            }
            _ => unreadable.check_all(self.kind, &self.namespace),
        }
    }

    /// No selectors, so that everything in the namespace is meant.
    fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The narrowest index that covers it.
    pub(crate) fn scope(&self) -> Scope {
        if let Some(name) = self.fields.exact("metadata.name")
            && (!self.kind.namespaced || !self.namespace.is_empty())
        {
            return Scope::Name(coracle_api::object::key(&self.namespace, name).into());
        }
        if self.kind.is_pod()
            && let Some(node) = self.fields.exact("spec.nodeName")
            && !node.is_empty()
        {
            return Scope::Node(node.into());
        }
        if self.namespace.is_empty() {
            Scope::All
        } else {
            Scope::Namespace(self.namespace.as_str().into())
        }
    }

    /// How many objects there are after a key, where everything is selected.
    fn count_after(&self, cluster: &Cluster, after: &str) -> usize {
        match self.namespace.as_str() {
            "" => cluster.list_after(self.kind, after).count(),
            namespace => {
                let all = cluster.list_in(self.kind, namespace);
                all.filter(|object| object.key().as_str() > after).count()
            }
        }
    }

    /// The objects of the cluster after a key that may be selected, in order.
    pub(crate) fn collect(&self, cluster: &Cluster, after: &str) -> Vec<Arc<Object>> {
        let everything = self.is_everything();
        let keep = |object: &&Arc<Object>| {
            (after.is_empty() || object.key().as_str() > after)
                && (everything || self.may_match(object))
        };
        match self.scope() {
            Scope::Name(key) => {
                let (namespace, name) = key.split_once('/').unwrap_or(("", &key));
                cluster.get(self.kind, namespace, name).into_iter().filter(keep).cloned().collect()
            }
            Scope::Node(node) => cluster.pods_on(&node).filter(keep).cloned().collect(),
            Scope::Namespace(namespace) => {
                cluster.list_in(self.kind, &namespace).filter(keep).cloned().collect()
            }
            Scope::All if after.is_empty() => {
                cluster.list(self.kind).filter(keep).cloned().collect()
            }
            Scope::All => cluster.list_after(self.kind, after).filter(keep).cloned().collect(),
        }
    }
}

/// Objects of a list, and where it stands.
struct Page {
    objects: Vec<Arc<Object>>,
    revision: u64,
    /// Key to go on after.
    next: Option<String>,
    remaining: Option<usize>,
}

/// `?continue=`.
#[derive(Serialize, Deserialize)]
struct Token {
    /// The revision that all pages show; 0: that is forgotten, and the rest is shown as it is when this page is asked for.
    rv: u64,
    after: String,
}

impl Token {
    fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }
}

/// GET of a collection.
pub(crate) async fn list(
    registry: &Registry,
    info: &RequestInfo,
    kind: &'static Kind,
    render: &Render,
) -> Answer {
    let selection = Selection::of(info, kind)?;
    let page = page(registry, &selection, &info.query).await?;
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some(after) = &page.next {
        let token = Token { rv: page.revision, after: after.clone() };
        metadata["continue"] = token.text().into();
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    let api_version = info.api_version();
    // A page is cut before that: one in which nothing is selected has its token all the same.
    let objects = selection.narrow(registry.show_all(kind, page.objects).await?);
    if render.is_stored() {
        return Ok(join(&render.list_kind(kind), &api_version, &metadata, objects));
    }
    let body = render.list(kind, &objects, &metadata, &api_version);
    Ok(bytes_response(200, render.media_type(), body.into()))
}

async fn page(registry: &Registry, selection: &Selection, query: &Query) -> Result<Page, ApiError> {
    check_options(query)?;
    let limit = match query.number("limit")? {
        Some(limit) if limit > 0 => usize::try_from(limit).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let wanted = query.get("resourceVersion");
    if let Some(token) = query.get("continue") {
        if wanted.is_some_and(|rv| rv != "0") {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        return go_on(registry, selection, token, limit).await;
    }
    match (query.get("resourceVersionMatch"), wanted) {
        (_, None) => registry.catch_up().await?,
        (_, Some("0")) => {}
        // Of old, a limit means that the revision is meant exactly.
        (matching, Some(text))
            if matching == Some(EXACT) || matching.is_none() && limit < usize::MAX =>
        {
            let at = revision(text)?;
            not_older_than(registry, at).await?;
            return at_revision(registry, selection, at, "", limit).await;
        }
        (_, Some(text)) => not_older_than(registry, revision(text)?).await?,
    }
    selection.check_readable(registry)?;
    Ok(current(registry, selection, "", limit))
}

/// The next page.
async fn go_on(
    registry: &Registry,
    selection: &Selection,
    token: &str,
    limit: usize,
) -> Result<Page, ApiError> {
    let token: Token = URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| ApiError::bad_request("continue key is not valid"))?;
    if token.rv == 0 {
        registry.catch_up().await?;
        selection.check_readable(registry)?;
        return Ok(current(registry, selection, &token.after, limit));
    }
    let page = at_revision(registry, selection, token.rv, &token.after, limit).await;
    page.map_err(|error| match error.code {
        410 => {
            let mut expired = ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start \
                 a new list without the continue parameter, or use the continue token in this response to \
                 retrieve the remainder of the results. Continuing with the provided token results in an \
                 inconsistent list - objects that were created, modified, or deleted between the time the \
                 first chunk was returned and now may show up in the list.",
            );
            expired.details = Some(Box::new(Details {
                go_on_with: Token { rv: 0, ..token }.text(),
                ..Details::default()
            }));
            expired
        }
        _ => error,
    })
}

const EXACT: &str = "Exact";
const NOT_OLDER_THAN: &str = "NotOlderThan";

/// Whether the options of a list fit each other (`internalversion/validation.ValidateListOptions` upstream).
fn check_options(query: &Query) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let mut forbidden = |path, why| errors.push(FieldError::forbidden(path, why));
    if let Some(matching) = query.get(MATCH) {
        let wanted = query.get("resourceVersion");
        if wanted.is_none() {
            forbidden(
                MATCH,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            );
        }
        if query.get("continue").is_some() {
            forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided");
        }
        if matching == EXACT && wanted == Some("0") {
            forbidden(
                MATCH,
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            );
        }
        if matching != EXACT && matching != NOT_OLDER_THAN {
            let known = [EXACT, NOT_OLDER_THAN, ""];
            errors.push(FieldError::not_supported(MATCH, matching, &known));
        }
    }
    if query.get("sendInitialEvents").is_some() {
        let why = "sendInitialEvents is forbidden for list";
        errors.push(FieldError::forbidden("sendInitialEvents", why));
    }
    refuse_options(&errors)
}

/// The same of a watch.
pub(crate) fn check_watch_options(query: &Query) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let matching = query.get(MATCH);
    let mut forbidden = |why| errors.push(FieldError::forbidden(MATCH, why));
    let initial = query.get("sendInitialEvents").is_some();
    if initial && matching != Some(NOT_OLDER_THAN) {
        forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if let Some(matching) = matching {
        if !initial {
            forbidden(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        if query.get("continue").is_some() {
            forbidden("resourceVersionMatch is forbidden when continue is provided");
        }
        if matching != NOT_OLDER_THAN {
            errors.push(FieldError::not_supported(MATCH, matching, &[NOT_OLDER_THAN]));
        }
    }
    refuse_options(&errors)
}

const MATCH: &str = "resourceVersionMatch";

fn refuse_options(errors: &[FieldError]) -> Result<(), ApiError> {
    match errors {
        [] => Ok(()),
        errors => Err(ApiError::invalid_as(("meta.k8s.io", "ListOptions"), "", errors)),
    }
}

/// From the cache as it is.
fn current(registry: &Registry, selection: &Selection, after: &str, limit: usize) -> Page {
    let (objects, revision) = {
        let cluster = registry.cache.read();
        (selection.collect(&cluster, after), cluster.revision())
    };
    cut(objects, revision, limit, selection)
}

fn cut(mut objects: Vec<Arc<Object>>, revision: u64, limit: usize, selection: &Selection) -> Page {
    let more = objects.len().saturating_sub(limit);
    objects.truncate(limit);
    let next = (more > 0).then(|| objects.last().map(|last| last.key())).flatten();
    let remaining = (more > 0 && selection.is_everything()).then_some(more);
    Page { objects, revision, next, remaining }
}

/// As it was at a past revision: from the cache if nothing has changed since, else from the store. What is forgotten is, either
/// way: clients of upstream's see a list expire whether or not anything happened meanwhile.
async fn at_revision(
    registry: &Registry,
    selection: &Selection,
    at: u64,
    after: &str,
    limit: usize,
) -> Result<Page, ApiError> {
    if registry.cache.unchanged_since(selection.kind, at) && at <= registry.cache.revision() {
        let kept = registry.store.get_at(keys::of_kind(selection.kind), at).await;
        kept.map_err(|error| unreadable(at, error))?;
        let page = current(registry, selection, after, limit);
        // Still unchanged, so what was read is what there was.
        if registry.cache.unchanged_since(selection.kind, at) {
            return Ok(Page { revision: at, ..page });
        }
    }
    let mut range = if selection.namespace.is_empty() {
        Range::prefix(keys::of_kind(selection.kind))
    } else {
        Range::prefix(keys::of_namespace(selection.kind, &selection.namespace))
    };
    if !after.is_empty() {
        let (namespace, name) = after.split_once('/').unwrap_or(("", after));
        range = range.after(&keys::of_object(selection.kind, namespace, name));
    }
    let mut objects = Vec::new();
    loop {
        let read = registry.store.range(range.clone(), Some(at), Some(PAGE)).await;
        let read = read.map_err(|error| unreadable(at, error))?;
        for entry in &read.entries {
            let decoder = registry.cache.decoder();
            let object = decoder
                .decode(&entry.key, &entry.value, entry.mod_revision)
                .map_err(ApiError::internal)?;
            objects.extend(object.filter(|object| selection.may_match(object)));
        }
        match read.entries.last() {
            Some(last) if read.more && objects.len() <= limit => range = range.after(&last.key),
            _ => break,
        }
    }
    let mut page = cut(objects, at, limit, selection);
    if let (Some(read), Some(next)) = (page.remaining, &page.next) {
        // Only a part was read. How many there are now is near enough: clients estimate by it.
        page.remaining = Some(read.max(selection.count_after(&registry.cache.read(), next)));
    }
    Ok(page)
}

fn unreadable(at: u64, error: ReadError) -> ApiError {
    match error {
        ReadError::Compacted { .. } => {
            ApiError::expired(format!("The resourceVersion for the provided list is too old: {at}"))
        }
        ReadError::Future { latest, .. } => too_large(at, latest),
        other => ApiError::internal(other),
    }
}

/// A resourceVersion given by a client.
pub(crate) fn revision(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        ))
    })
}

pub(crate) async fn not_older_than(registry: &Registry, at: u64) -> Result<(), ApiError> {
    registry.cache.wait_for(at, FUTURE).await.map_err(|not_yet| too_large(at, not_yet.current))
}

/// A revision that does not exist (yet), as upstream says it; clients list again.
pub(crate) fn too_large(asked: u64, current: u64) -> ApiError {
    let text = format!("Too large resource version: {asked}, current: {current}");
    let mut error = ApiError::new(504, "Timeout", format!("Timeout: {text}"));
    error.details = Some(Box::new(Details {
        causes: vec![(
            "ResourceVersionTooLarge".into(),
            "Too large resource version".into(),
            String::new(),
        )],
        retry_after_seconds: Some(1),
        ..Default::default()
    }));
    error
}

/// A list whose items are the stored bytes, joined while it is sent.
fn join(
    list_kind: &str,
    api_version: &str,
    metadata: &Value,
    objects: Vec<Arc<Object>>,
) -> Response {
    let head = format!(
        "{{\"kind\":\"{list_kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":["
    );
    let items: usize = objects.iter().map(|object| object.json().len()).sum();
    let commas = objects.len().saturating_sub(1);
    let left = (head.len() + items + commas + TAIL.len()) as u64;
    let body = Join { head: head.into(), objects, next: 0, left };
    body_response(200, "application/json", Body::new(body))
}

const TAIL: &[u8] = b"]}\n";

struct Join {
    head: Bytes,
    objects: Vec<Arc<Object>>,
    next: usize,
    left: u64,
}

impl hyper::body::Body for Join {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let size = CHUNK.min(usize::try_from(this.left).unwrap_or(CHUNK));
        let mut chunk = BytesMut::with_capacity(size + (8 << 10));
        chunk.extend_from_slice(&std::mem::take(&mut this.head));
        while let Some(object) = this.objects.get(this.next)
            && chunk.len() < CHUNK
        {
            if this.next > 0 {
                chunk.extend_from_slice(b",");
            }
            chunk.extend_from_slice(object.json());
            this.next += 1;
        }
        if this.next == this.objects.len() {
            chunk.extend_from_slice(TAIL);
        }
        this.left = this.left.saturating_sub(chunk.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(chunk.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The objects that a collection's deletion means.
pub(crate) async fn selected(
    registry: &Registry,
    selection: &Selection,
) -> Result<Vec<Arc<Object>>, ApiError> {
    registry.catch_up().await?;
    selection.check_readable(registry)?;
    let objects = selection.collect(&registry.cache.read(), "");
    if selection.stored == selection.fields {
        return Ok(objects);
    }
    let shown = registry.show_all(selection.kind, objects.clone()).await?;
    let both = objects.into_iter().zip(shown);
    Ok(both
        .filter(|(_, shown)| selection.fields.matches(shown))
        .map(|(object, _)| object)
        .collect())
}
