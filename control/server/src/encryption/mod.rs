//! What lies on the disk: values of some kinds are encrypted between the registry and the store.
//!
//! A [`config`] lists for each kind the [`ciphers`] with which it may lie in the store: the first writes, all read. Whatever is
//! written goes through [`Encryption::seal`], whatever is read through [`Encryption::open_value`], which is once, into the watch
//! cache. Values begin as upstream's do (`k8s:enc:PROVIDER:v1:KEY:`), and AES-GCM binds them to their key in the store. The
//! configuration is a [`file`](mod@file): the operator's, or one that is made at the first start. It may be edited while the
//! server runs: [`follow`] takes it over.

mod ciphers;
mod config;
mod file;
mod follow;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use coracle_api::{ApiError, Kind};

pub use self::config::EncryptionError;
use self::config::Transformers;
pub(crate) use self::follow::follow;

/// Encryption of one server; clones share it.
#[derive(Clone)]
pub(crate) struct Encryption {
    inner: Arc<Inner>,
}

struct Inner {
    current: RwLock<Arc<Transformers>>,
    path: PathBuf,
    /// The file when it was first read.
    first: Option<file::State>,
    reloads: bool,
    fresh: bool,
}

/// A value, decrypted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened<'a> {
    /// What was written.
    pub(crate) value: Cow<'a, [u8]>,
    /// It would be written otherwise now.
    pub(crate) stale: bool,
}

impl Encryption {
    /// By the operator's `file`; without one, by the one in the folder `data`, which is made if there is none yet.
    pub(crate) fn open(
        data: &Path,
        file: Option<&Path>,
        reloads: bool,
    ) -> Result<Self, EncryptionError> {
        let (path, fresh) = match file {
            Some(file) => (file.to_owned(), false),
            None => file::own(data)?,
        };
        // Looked at before it is read: what changes meanwhile is read again.
        let first = file::state(&path);
        let transformers = Transformers::parse(&file::read(&path)?, &path)?;
        let reloads = reloads || file.is_none();
        let current = RwLock::new(Arc::new(transformers));
        Ok(Self { inner: Arc::new(Inner { current, path, first, reloads, fresh }) })
    }

    /// Nothing is encrypted.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        let current = RwLock::default();
        let inner =
            Inner { current, path: PathBuf::new(), first: None, reloads: false, fresh: false };
        Self { inner: Arc::new(inner) }
    }

    /// The value as it is to lie in the store at that key.
    pub(crate) fn seal(&self, kind: &Kind, key: &[u8], value: Bytes) -> Result<Bytes, ApiError> {
        match self.current().of(kind) {
            Some(transformer) => transformer.seal(key, value).map_err(ApiError::internal),
            None => Ok(value),
        }
    }

    /// What was written, from what lies in the store at that key.
    ///
    /// # Errors
    /// Why it cannot be read, with key and object, in upstream's words.
    pub(crate) fn open_value<'a>(
        &self,
        kind: &Kind,
        key: &[u8],
        stored: &'a [u8],
    ) -> Result<Opened<'a>, String> {
        let current = self.current();
        let opened = match current.of(kind) {
            Some(transformer) => transformer.open(key, stored),
            None => ciphers::plain(stored),
        };
        opened.map_err(|why| {
            let with = ciphers::name(stored).map(|name| format!(" (it is encrypted with {name})"));
            let with = with.unwrap_or_default();
            format!("unable to transform key \"{}\": {why}{with}", key.escape_ascii())
        })
    }

    /// Whether the value would be written otherwise now.
    pub(crate) fn is_stale(&self, kind: &Kind, key: &[u8], stored: &[u8]) -> bool {
        self.open_value(kind, key, stored).is_ok_and(|opened| opened.stale)
    }

    /// Whether a provider is named for the kind.
    pub(crate) fn covers(&self, kind: &Kind) -> bool {
        self.current().of(kind).is_some()
    }

    /// Undoes what the first start made: the store turned out to be older than the keys.
    pub(crate) fn withdraw(&self, why: String) -> Option<EncryptionError> {
        if !self.inner.fresh {
            return None;
        }
        // Left there, the next start would take it for the one that is missing.
        let _ = std::fs::remove_file(&self.inner.path);
        Some(EncryptionError::Missing { path: self.inner.path.clone(), why })
    }

    fn current(&self) -> Arc<Transformers> {
        self.inner.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, transformers: Transformers) {
        *self.inner.current.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(transformers);
    }
}
