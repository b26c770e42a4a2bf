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
        let sealed = self.cache.encryption().seal(kind, &key, stored.clone());
        let sealed = sealed.map_err(Refused::Error)?;
        let batch = batch.expect(key.clone(), expect).put(key, sealed, class);
        let committed = self.store.commit(batch).await.map_err(refused)?;
        stored_object(kind, &stored, committed.revision).map_err(Refused::Error)
    }

    /// Whether the object, which is as the cache has it, would lie otherwise in the store if it were written now.
    pub(super) async fn is_stale(&self, object: &Object) -> bool {
        let (kind, meta) = (object.kind, &object.meta);
        if !self.cache.encryption().covers(kind) {
            return false;
        }
        let key = keys::of_object(kind, &meta.namespace, &meta.name);
        match self.store.get(&key).await {
            Ok(Some(entry)) => self.cache.encryption().is_stale(kind, &key, &entry.value),
            _ => false,
        }
    }

    /// The kinds of objects that cannot be read, as Go names them: `*v1.Secret`.
    pub(crate) fn unreadable_kinds(&self) -> Vec<String> {
        let mut kinds: Vec<String> = Vec::new();
        for key in self.cache.unreadable().keys() {
            let found = keys::parse(self.cache.definitions(), &key);
            let name = found.map(|(kind, ..)| format!("*{}.{}", kind.version, kind.kind));
            kinds.extend(name.filter(|name| !kinds.contains(name)));
        }
        kinds
    }

    /// Writes objects again that could not be read and now can, with what encrypts today: so everybody learns of them.
    pub(crate) async fn mend(&self) {
        for key in self.cache.unreadable().keys() {
            let Ok(Some(entry)) = self.store.get(&key).await else { continue };
            let Some((kind, ..)) = keys::parse(self.cache.definitions(), &key) else { continue };
            let encryption = self.cache.encryption();
            let Ok(opened) = encryption.open_value(kind, &key, &entry.value) else { continue };
            let sealed = encryption.seal(kind, &key, opened.value.into_owned().into());
            let Ok(sealed) = sealed else { continue };
            let class = if kind.short_history { Retention::Short } else { Retention::Long };
            let expect = Expect::Revision(entry.mod_revision);
            let batch = Batch::new().expect(key.clone(), expect).put(key.clone(), sealed, class);
            // Somebody else's write does as well.
            if let Err(error) = self.store.commit(batch).await {
                tracing::warn!(key = %key.escape_ascii(), %error, "an object could not be written again");
            }
        }
    }

    /// Deletes what lies at an object's key and cannot be read.
    pub(crate) async fn remove_unreadable(
        &self,
        kind: &'static Kind,
        (namespace, name): (&str, &str),
    ) -> Result<(), ApiError> {
        let key = keys::of_object(kind, namespace, name);
        let entry = self.store.get(&key).await.map_err(ApiError::internal)?;
        let entry = entry.ok_or_else(|| ApiError::not_found(kind, name))?;
        let expect = Expect::Revision(entry.mod_revision);
        match self.remove(kind, (namespace, name), expect, Batch::new()).await {
            Ok(_) => Ok(()),
            Err(Refused::Error(error)) => Err(error),
            Err(Refused::Conflict { .. }) => Err(ApiError::modified(kind, name)),
        }
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
