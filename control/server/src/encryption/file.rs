//! The file with the keys: the one that the server makes for itself, and how any is read.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt;
use zeroize::Zeroizing;

use super::config::EncryptionError;
use crate::auth::pki::hex;

/// The server's own, in the data folder.
const OWN: &str = "encryption.yaml";
/// Configurations are some KiB.
const LARGEST: u64 = 1 << 20;

/// Where the server's own is; true if it was made just now.
pub(super) fn own(data: &Path) -> Result<(PathBuf, bool), EncryptionError> {
    let path = data.join(OWN);
    let fail = |source| EncryptionError::File { path: path.clone(), source };
    if path.try_exists().map_err(fail)? {
        return Ok((path, false));
    }
    make(data, &path).map_err(fail)?;
    Ok((path, true))
}

/// Writes it with a new key, whole or not at all, and durably: it must not be younger than what is encrypted with it.
fn make(data: &Path, path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(data)?;
    let key = Zeroizing::new(rand::rng().random::<[u8; 32]>());
    let secret = Zeroizing::new(STANDARD.encode(key.as_slice()));
    // Not the name that every other cluster has: a value tells by it which key it needs.
    let name = format!("key-{}", hex(&rand::rng().random::<[u8; 4]>()));
    let text = Zeroizing::new(format!(
        "# Keys of what is encrypted in the store. Keep a copy in a safe place, apart from the store's: without it, what is\n\
         # encrypted is lost. To rotate: put a new key first, write every Secret again, then remove the old key.\n\
         apiVersion: apiserver.config.k8s.io/v1\n\
         kind: EncryptionConfiguration\n\
         resources:\n\
         - resources: [secrets]\n  providers:\n  - aesgcm:\n      keys:\n      - name: {name}\n        secret: {}\n  - identity: {{}}\n",
        *secret
    ));
    let temporary = path.with_extension("part");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(data)?.sync_all()
}

/// The text of a configuration.
pub(super) fn read(path: &Path) -> Result<Zeroizing<String>, EncryptionError> {
    let fail = |source| EncryptionError::File { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(fail)?.len() > LARGEST {
        return Err(fail(ErrorKind::FileTooLarge.into()));
    }
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(fail)
}

/// What changes when a file is written or replaced.
pub(super) type State = (u64, i64, i64, u64);

/// That of a file; none if there is no such file.
pub(super) fn state(path: &Path) -> Option<State> {
    let it = std::fs::metadata(path).ok()?;
    Some((it.ino(), it.mtime(), it.mtime_nsec(), it.size()))
}
