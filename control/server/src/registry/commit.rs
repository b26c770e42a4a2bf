//! From a checked tree to a durable object.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use coracle_api::{ApiError, Kind, Object, object};
use coracle_store::{Batch, CommitError, Expect, Retention};
use serde_json::{Map, Value};

use super::Registry;
use crate::keys;

/// Why nothing was committed.
pub(super) enum Refused {
    /// A condition did not hold: read again.
    Conflict {
        /// The key whose condition failed.
        key: Bytes,
    },
    /// Everything else; for the client.
    Error(ApiError),
}

/// A tree in the version in which it is stored.
pub(super) struct Stored<'a> {
    pub(super) kind: &'static Kind,
    pub(super) tree: Cow<'a, Value>,
}

impl Registry {
    /// From the version that was written to the one that is stored.
    pub(super) async fn to_be_stored<'a>(
        &self,
        kind: &'static Kind,
        tree: &'a Value,
    ) -> Result<Stored<'a>, ApiError> {
        if !kind.custom {
            return Ok(Stored { kind, tree: Cow::Borrowed(tree) });
        }
        let stored =
            self.cache.definitions().store(self.webhooks.clients(), kind, tree.clone()).await?;
        Ok(Stored { kind: stored.1, tree: Cow::Owned(stored.0) })
    }

    /// Puts an object under the condition, together with what else `batch` holds, and returns it as stored.
    pub(super) async fn put(
        &self,
        kind: &'static Kind,
        (namespace, name): (&str, &str),
        value: &Map<String, Value>,
        expect: Expect,
        batch: Batch,
    ) -> Result<Arc<Object>, Refused> {
        let key = keys::of_object(kind, namespace, name);
        let stored = Bytes::from(object::encode(value, false));
        let class = if kind.short_history { Retention::Short } else { Retention::Long };
        let batch = batch.expect(key.clone(), expect).put(key, stored.clone(), class);
        let committed = self.store.commit(batch).await.map_err(refused)?;
        stored_object(kind, &stored, committed.revision).map_err(Refused::Error)
    }

    /// Deletes an object under the condition; returns the revision.
    pub(super) async fn remove(
        &self,
        kind: &'static Kind,
        (namespace, name): (&str, &str),
        expect: Expect,
        batch: Batch,
    ) -> Result<u64, Refused> {
        let key = keys::of_object(kind, namespace, name);
        let batch = batch.expect(key.clone(), expect).delete(key);
        Ok(self.store.commit(batch).await.map_err(refused)?.revision)
    }

    /// The object that a write would have stored.
    pub(super) fn dry(
        kind: &'static Kind,
        value: &Map<String, Value>,
        revision: u64,
    ) -> Result<Arc<Object>, ApiError> {
        let stored = object::encode(value, false);
        if revision == 0 {
            return Object::from_json(kind, stored.into())
                .map(Arc::new)
                .map_err(ApiError::internal);
        }
        stored_object(kind, &stored, revision)
    }
}

fn stored_object(
    kind: &'static Kind,
    stored: &[u8],
    revision: u64,
) -> Result<Arc<Object>, ApiError> {
    Object::from_stored(kind, stored, revision).map(Arc::new).map_err(ApiError::internal)
}

fn refused(error: CommitError) -> Refused {
    Refused::Error(match error {
        CommitError::Conflict { key, .. } => return Refused::Conflict { key },
        CommitError::Full(why) => ApiError::new(507, "InsufficientStorage", why.to_string()),
        error @ CommitError::TooLarge { .. } => {
            ApiError::new(413, "RequestEntityTooLarge", error.to_string())
        }
        CommitError::Closed => ApiError::unavailable("the server is shutting down"),
        other => ApiError::internal(other),
    })
}
