//! Watches: the initial state where asked for, then every change of what is selected, one JSON document a line, or framed
//! protobuf.
//!
//! An event is written once for all who watch in the same form, and its bytes are shared.
//!
//! An object that comes to match is `ADDED`, one that ceases to match is `DELETED`, whatever happened to it. Changes come
//! from a [`Source`], which cannot lose any; a revision that is forgotten ends the stream with a `410`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use coracle_api::schema::protobuf::encode;
use coracle_api::{ApiError, Change, Kind, Object};
use futures::stream;
use rand::RngExt;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::accept::{Encoding, Form, meta_version};
use super::answer::{Answer, body_response};
use super::read::{self, Selection};
use super::render::Render;
use super::request::RequestInfo;
use crate::cache::{Event, Initial, Source, SourceError};
use crate::registry::Registry;

/// A watch without `timeoutSeconds` ends after this to twice this, as upstream.
const SHORTEST: Duration = Duration::from_secs(1800);
/// However long is asked for: time has an end, beyond which there is nothing to wait for.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// How often a bookmark says how far a quiet watch is.
const BOOKMARK: Duration = Duration::from_secs(60);
/// Bytes that are joined into one write when many changes are ready; at first less, twice as much each time: one write waits for
/// each of those who read nothing, and they may be thousands.
const CHUNK: usize = 64 << 10;
const FIRST_CHUNK: usize = 4 << 10;

struct Watch {
    registry: Registry,
    selection: Selection,
    render: Render,
    initial: Initial,
    /// The bookmark that ends the initial state, at this revision.
    initial_end: Option<u64>,
    source: Source,
    bookmarks: bool,
    next_bookmark: Instant,
    ends: Instant,
    shutdown: watch::Receiver<bool>,
    columns_sent: bool,
    /// Bytes from which on the next write is full.
    most: usize,
    done: bool,
}

/// What is sent at once.
#[derive(Default)]
struct Chunk {
    /// A single event goes out as it is, without a copy for each watcher.
    only: Option<Bytes>,
    joined: BytesMut,
}

impl Chunk {
    fn push(&mut self, bytes: Bytes) {
        if self.is_empty() {
            self.only = Some(bytes);
        } else {
            self.joined().extend_from_slice(&bytes);
        }
    }

    /// Where more may be written.
    fn joined(&mut self) -> &mut BytesMut {
        if let Some(only) = self.only.take() {
            self.joined.extend_from_slice(&only);
        }
        &mut self.joined
    }

    fn len(&self) -> usize {
        self.only.as_ref().map_or(self.joined.len(), Bytes::len)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn done(self) -> Option<Bytes> {
        let bytes = self.only.unwrap_or_else(|| self.joined.freeze());
        (!bytes.is_empty()).then_some(bytes)
    }
}

/// Opens a watch.
pub(crate) async fn watch(
    registry: &Registry,
    info: &RequestInfo,
    kind: &'static Kind,
    render: &Render,
    shutdown: watch::Receiver<bool>,
) -> Answer {
    let selection = Selection::of(info, kind)?;
    let query = &info.query;
    let bookmarks = query.flag("allowWatchBookmarks");
    let send_initial = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
    read::check_watch_options(query)?;
    let wanted = query.get("resourceVersion").map(read::revision).transpose()?;
    let since = match (send_initial, wanted) {
        // Old clients: no revision, or 0, means the state now and what follows.
        (None, None | Some(0)) | (Some(true), _) => None,
        (Some(false), None | Some(0)) => {
            registry.catch_up().await?;
            Some(registry.cache.revision())
        }
        (_, Some(revision)) => Some(revision),
    };
    match (since, wanted) {
        (Some(revision), _) | (None, Some(revision)) if revision > 0 => {
            read::not_older_than(registry, revision).await?;
        }
        (None, Some(_)) => {}
        _ => registry.catch_up().await?,
    }
    let (initial, after) = match since {
        Some(revision) => (Vec::new(), revision),
        None => {
            selection.check_readable(registry)?;
            let cluster = registry.cache.read();
            (selection.collect(&cluster, ""), cluster.revision())
        }
    };
    let timeout = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()).min(LONGEST),
        _ => SHORTEST + SHORTEST.mul_f64(rand::rng().random_range(0.0..1.0)),
    };
    let source =
        Source::new(registry.cache.clone(), registry.store.clone(), kind, selection.scope(), after);
    let now = Instant::now();
    let initial = selection.narrow(registry.show_all(kind, initial).await?);
    let initial = registry.cache.begin(kind, &selection.namespace, initial);
    let watch = Watch {
        registry: registry.clone(),
        selection,
        render: render.clone(),
        initial,
        initial_end: (send_initial == Some(true)).then_some(after),
        source,
        bookmarks,
        next_bookmark: now + BOOKMARK,
        ends: now + timeout,
        shutdown,
        columns_sent: false,
        most: FIRST_CHUNK,
        done: false,
    };
    let body = Body::from_stream(stream::unfold(watch, |mut watch| async move {
        let chunk = watch.chunk().await?;
        Some((Ok::<_, Infallible>(chunk), watch))
    }));
    let media = match render.encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Encoding::Json | Encoding::Yaml => "application/json",
    };
    Ok(body_response(200, media, body))
}

impl Watch {
    /// The next bytes to send; `None` ends the stream.
    async fn chunk(&mut self) -> Option<Bytes> {
        let mut out = Chunk::default();
        while !self.done && out.is_empty() {
            if self.initial(&mut out) {
                break;
            }
            let wake = self.ends.min(self.next_bookmark);
            tokio::select! {
                biased;
                event = self.source.next() => match event {
                    Ok(event) => self.changes(event, &mut out).await,
                    Err(error) => self.fail(error, &mut out),
                },
                _ = self.shutdown.changed() => self.done = true,
                () = tokio::time::sleep_until(wake) => {
                    let over = Instant::now() >= self.ends;
                    self.next_bookmark = Instant::now() + BOOKMARK;
                    if self.bookmarks && let Some(revision) = self.source.progress() {
                        self.bookmark(revision, false, &mut out);
                    }
                    self.done |= over;
                }
            }
        }
        self.most = (2 * self.most).min(CHUNK);
        out.done()
    }

    /// Sends of the initial state what fits; false once it is all sent.
    fn initial(&mut self, out: &mut Chunk) -> bool {
        while out.len() < self.most
            && let Some(object) = self.initial.next()
        {
            self.event("ADDED", &object, out);
        }
        if self.initial.is_over()
            && let Some(revision) = self.initial_end.take()
        {
            self.bookmark(revision, true, out);
        }
        !out.is_empty()
    }

    async fn changes(&mut self, first: Arc<Event>, out: &mut Chunk) {
        let mut next = Some(first);
        while let Some(event) = next {
            match shown(&self.registry, self.selection.kind, event).await {
                Ok(event) => self.change(&event, out),
                Err(error) => return self.end(&error, out),
            }
            next = if out.len() < self.most { self.source.try_next() } else { None };
        }
    }

    fn change(&mut self, event: &Event, out: &mut Chunk) {
        let selected = |object: &Option<Arc<Object>>| {
            object.as_ref().is_some_and(|o| self.selection.matches(o))
        };
        let (name, object) = match (selected(&event.old), selected(&event.new)) {
            (false, false) => return,
            (false, true) => ("ADDED", &event.new),
            (true, true) => ("MODIFIED", &event.new),
            (true, false) => ("DELETED", &event.old),
        };
        let Some(object) = object else { return };
        let object = || match name {
            // Shown as it last was within the selection, at the revision at which it left.
            "DELETED" => at_revision(object, event.revision),
            _ => object.clone(),
        };
        match self.render.wire() {
            Some(wire) => out.push(event.written(wire, name, || {
                let mut bytes = BytesMut::new();
                self.write(name, &self.render.object(&object(), false), &mut bytes);
                bytes.freeze()
            })),
            None => self.event(name, &object(), out),
        }
    }

    fn event(&mut self, kind: &str, object: &Arc<Object>, out: &mut Chunk) {
        let columns = !std::mem::replace(&mut self.columns_sent, true);
        self.write(kind, &self.render.object(object, columns), out.joined());
    }

    fn write(&self, kind: &str, object: &[u8], out: &mut BytesMut) {
        if self.render.encoding == Encoding::Protobuf {
            return encode::frame(kind, object, out);
        }
        out.reserve(object.len() + 40);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        out.extend_from_slice(object);
        out.extend_from_slice(b"}\n");
    }

    fn bookmark(&mut self, revision: u64, ends_initial: bool, out: &mut Chunk) {
        let kind = self.selection.kind;
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.render.form {
            Form::Plain => {
                let version = self.render.api_version(kind);
                json!({"kind": kind.kind, "apiVersion": version, "metadata": metadata})
            }
            Form::Metadata { v1 } => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": meta_version(v1),
                "metadata": metadata,
            }),
            Form::Table { v1 } => json!({
                "kind": "Table",
                "apiVersion": meta_version(v1),
                "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": [],
                "rows": [{"cells": [], "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": meta_version(v1),
                    "metadata": metadata,
                }}],
            }),
        };
        self.write("BOOKMARK", &self.render.tree(&object), out.joined());
    }

    fn fail(&mut self, error: SourceError, out: &mut Chunk) {
        let error = match error {
            SourceError::Compacted => {
                ApiError::expired("too old resource version: list again and watch from there")
            }
            SourceError::Failed(why) => ApiError::internal(why),
        };
        self.end(&error, out);
    }

    fn end(&mut self, error: &ApiError, out: &mut Chunk) {
        self.done = true;
        self.write("ERROR", &self.render.tree(&error.status()), out.joined());
    }
}

/// The event in the version that is watched.
async fn shown(
    registry: &Registry,
    kind: &'static Kind,
    event: Arc<Event>,
) -> Result<Arc<Event>, ApiError> {
    if !kind.custom {
        return Ok(event);
    }
    let (mut old, mut new) = (event.old.clone(), event.new.clone());
    let mut is_same = true;
    for object in [&mut old, &mut new].into_iter().flatten() {
        let shown = registry.show(kind, object.clone()).await?;
        is_same &= Arc::ptr_eq(&shown, object);
        *object = shown;
    }
    // As it is stored, it is one that others watch, too.
    if is_same {
        return Ok(event);
    }
    Ok(Event::of(Arc::new(Change { revision: event.revision, old, new })))
}

/// The object, saying that it is at `revision`.
fn at_revision(object: &Arc<Object>, revision: u64) -> Arc<Object> {
    if object.meta.resource_version == revision {
        return object.clone();
    }
    let mut tree = object.value();
    tree["metadata"]["resourceVersion"] = revision.to_string().into();
    match Object::from_value(object.kind, &tree) {
        Ok(moved) => Arc::new(moved),
        Err(_) => object.clone(),
    }
}
