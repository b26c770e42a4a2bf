//! From the store's bytes to objects, and what becomes of those that cannot be read.
//!
//! Such an object is nowhere in the cluster, and yet it is there: whoever asks for it is told why it cannot be read, its name
//! stays taken, and nothing is deleted. It comes back once it can be read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use coracle_api::{ApiError, Kind, Object};

use crate::custom::Definitions;
use crate::encryption::Encryption;
use crate::keys;

/// Decrypts and reads; clones share everything.
#[derive(Clone)]
pub(crate) struct Decoder {
    pub(super) definitions: Definitions,
    pub(super) encryption: Encryption,
}

impl Decoder {
    /// The object under a key; none if it is of no kind that there is.
    ///
    /// # Errors
    /// Why it cannot be read, with the key.
    pub(crate) fn decode(
        &self,
        key: &[u8],
        stored: &[u8],
        revision: u64,
    ) -> Result<Option<Arc<Object>>, String> {
        let Some((kind, ..)) = keys::parse(&self.definitions, key) else { return Ok(None) };
        let opened = self.encryption.open_value(kind, key, stored)?;
        match Object::from_stored(kind, &opened.value, revision) {
            Ok(object) => Ok(Some(Arc::new(object))),
            Err(error) => Err(format!("unable to decode key \"{}\": {error}", key.escape_ascii())),
        }
    }
}

/// The objects that cannot be read, by key, each with the reason.
#[derive(Default)]
pub(crate) struct Unreadable {
    all: Mutex<BTreeMap<Bytes, String>>,
    /// Whether there are any: this is asked on every read, and the answer is no.
    any: AtomicBool,
}

impl Unreadable {
    /// The object that was read, if it could be.
    pub(super) fn note(
        &self,
        key: &Bytes,
        read: Result<Option<Arc<Object>>, String>,
    ) -> Option<Arc<Object>> {
        match read {
            Ok(object) => {
                self.forget(key);
                object
            }
            Err(why) => {
                let mut all = self.lock();
                if all.get(key) != Some(&why) {
                    tracing::error!(key = %key.escape_ascii(), error = why, "unreadable object in the store");
                }
                all.insert(key.clone(), why);
                self.any.store(true, Ordering::Release);
                None
            }
        }
    }

    pub(super) fn forget(&self, key: &[u8]) {
        if self.any.load(Ordering::Acquire) {
            let mut all = self.lock();
            all.remove(key);
            self.any.store(!all.is_empty(), Ordering::Release);
        }
    }

    /// Why the first of them cannot be read.
    pub(crate) fn first(&self) -> Option<String> {
        self.lock().values().next().cloned()
    }

    /// Their keys.
    pub(crate) fn keys(&self) -> Vec<Bytes> {
        self.lock().keys().cloned().collect()
    }

    /// # Errors
    /// 500 if that object is one of them.
    pub(crate) fn check(&self, kind: &Kind, namespace: &str, name: &str) -> Result<(), ApiError> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.lock().get(&keys::of_object(kind, namespace, name)) {
            Some(why) => Err(ApiError::internal(why)),
            None => Ok(()),
        }
    }

    /// # Errors
    /// 500 if one of them is of that kind, in that namespace where one is named.
    pub(crate) fn check_all(&self, kind: &Kind, namespace: &str) -> Result<(), ApiError> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        let prefix = match namespace {
            "" => keys::of_kind(kind),
            namespace => keys::of_namespace(kind, namespace),
        };
        let all = self.lock();
        let mut from = all.range(Bytes::copy_from_slice(prefix.as_bytes())..);
        match from.next().filter(|(key, _)| key.starts_with(prefix.as_bytes())) {
            Some((_, why)) => Err(ApiError::internal(why)),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Bytes, String>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
