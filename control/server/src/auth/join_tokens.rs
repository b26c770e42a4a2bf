//! Join tokens as credentials, and the one that lives in this process alone, for the node that it has itself.

use std::path::Path;
use std::sync::Mutex;

use coracle_api::bootstrap_token::{self, JoinToken, Stored};
use coracle_api::{ApiError, Cluster, kinds};
use rand::RngExt;
use sha2::{Digest, Sha256};

use super::pki::{Pki, hex};
use super::{AUTHENTICATED, BOOTSTRAPPERS, Identity};

/// ID of this process' own token.
const LOCAL: &str = "local0";

/// Hash of this process' own token, while there is one. It is never written anywhere.
#[derive(Default)]
pub(super) struct LocalToken(Mutex<Option<String>>);

impl LocalToken {
    /// A token in place of any older one.
    pub(super) fn make(&self, pki: &Pki) -> String {
        let token = JoinToken { id: LOCAL.to_owned(), ..new(pki.ca()) };
        self.set(Some(hash(&token)));
        token.text()
    }

    /// No token from now on.
    pub(super) fn end(&self) {
        self.set(None);
    }

    fn set(&self, hash: Option<String>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = hash;
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Who shows a bearer token of this kind; `None` if it is of another kind.
///
/// # Errors
/// 401 that says what is wrong with it: the machine that shows it has nobody else to ask.
pub(super) fn authenticate(
    cluster: &Cluster,
    local: &LocalToken,
    bearer: &str,
) -> Option<Result<Identity, ApiError>> {
    let (id, _) = bootstrap_token::of_bearer(bearer)?;
    Some(verify(cluster, local, id, bearer))
}

fn verify(
    cluster: &Cluster,
    local: &LocalToken,
    id: &str,
    bearer: &str,
) -> Result<Identity, ApiError> {
    let refused = |why: &str| {
        let message = format!(
            "the join token \"{id}\" {why}; on the server, `coracle token create` prints a new one"
        );
        ApiError::new(401, "Unauthorized", message)
    };
    let name = bootstrap_token::secret_name(id);
    let stored = cluster.get(&kinds::SECRET, bootstrap_token::NAMESPACE, &name);
    let expected = match stored.and_then(|secret| Stored::of(secret)) {
        Some(token) if token.expires <= jiff::Timestamp::now() => {
            return Err(refused(&format!("expired at {}", token.expires)));
        }
        Some(token) => Some(token.hash),
        None if id == LOCAL => local.get(),
        None => None,
    };
    let expected = expected.ok_or_else(|| {
        refused("is none of this cluster's: it has expired, was deleted, or is another cluster's")
    })?;
    // Of hashes, the time that comparing takes says nothing.
    if hash_of(bearer) != expected {
        return Err(refused("is not as it was made: was it copied whole?"));
    }
    Ok(Identity {
        user: format!("system:bootstrap:{id}"),
        groups: vec![BOOTSTRAPPERS.to_owned(), AUTHENTICATED.to_owned()],
        ..Identity::default()
    })
}

/// A new token for the cluster with this CA (DER).
pub fn new(ca: &[u8]) -> JoinToken {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    let letter = |_| char::from(LETTERS[random.random_range(0..LETTERS.len())]);
    JoinToken {
        id: (0..6).map(letter).collect(),
        secret: hex(&rand::rng().random::<[u8; 16]>()),
        ca_hash: hex(&Sha256::digest(ca)),
    }
}

/// What is kept of a token.
pub fn hash(token: &JoinToken) -> String {
    hash_of(&token.bearer())
}

fn hash_of(bearer: &str) -> String {
    hex(&Sha256::digest(bearer))
}

/// Removes the one lasting token that servers once had. Whoever joined with it has certificates; who has it only noted down
/// can no longer join, which is the purpose.
pub(super) fn remove_lasting(data: &Path) {
    let path = data.join("token");
    if std::fs::remove_file(&path).is_ok() {
        tracing::warn!(
            "the lasting join token of an older version is no longer taken; `coracle token create` makes tokens that end"
        );
    }
}
