//! Takes over a configuration that is edited while the server runs.

use std::time::Duration;

use super::config::{EncryptionError, Transformers};
use super::file;
use crate::registry::Registry;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Looks at the file for ever. One that cannot be used changes nothing; objects that a new key makes readable are written
/// again, by which everybody learns of them.
pub(crate) async fn follow(registry: Registry) {
    let encryption = registry.cache.encryption().clone();
    if !encryption.inner.reloads {
        return;
    }
    let path = encryption.inner.path.clone();
    let mut known = encryption.inner.first;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = file::state(&path);
        if now == known || now.is_none() {
            continue;
        }
        known = now;
        let read: Result<_, EncryptionError> =
            file::read(&path).and_then(|text| Transformers::parse(&text, &path));
        match read {
            Ok(transformers) => {
                encryption.replace(transformers);
                tracing::info!(path = %path.display(), "the encryption configuration was read again");
                registry.mend().await;
            }
            Err(error) => {
                tracing::error!(%error, "the encryption configuration stays as it was before");
            }
        }
    }
}
