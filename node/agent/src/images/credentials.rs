//! Credentials for registries, as Secrets carry them (`imagePullSecrets`), and which of them fits an image.
//!
//! Matching follows the kubelet's keyring: an entry's key is a registry, with `*` for parts of its name, and maybe the
//! beginning of a path; of those that match, the longest is tried first, and if any matches, nothing is tried without. No
//! password leaves this module but into a request's header: neither messages nor `Debug` show one.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::hex;
use super::reference::{DOCKER_HUB, ImageName};

/// A name and what proves it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    user: String,
    password: String,
    /// A refresh token, which stands for both.
    identity: bool,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Credential {
    /// A user and a password.
    pub fn new(user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), password: password.to_owned(), identity: false }
    }

    /// A refresh token.
    pub fn identity(user: &str, token: &str) -> Self {
        Self { user: user.to_owned(), password: token.to_owned(), identity: true }
    }

    /// From `USER:PASSWORD` in base64.
    pub fn basic(text: &str) -> Option<Self> {
        let text = STANDARD.decode(text.trim()).ok()?;
        let text = String::from_utf8(text).ok()?;
        let (user, password) = text.split_once(':')?;
        // Some programs pad with zeros.
        Some(Self::new(user, password.trim_end_matches('\0')))
    }

    /// For the header `Authorization`.
    pub(super) fn header(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }

    /// The refresh token, if it is one.
    pub(super) fn refresh_token(&self) -> Option<&str> {
        self.identity.then_some(&*self.password)
    }

    /// For people.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Tells credentials apart on disk without giving them away: worth nothing without the node's `key`.
    pub(super) fn fingerprint(&self, key: &[u8]) -> String {
        let mut hash = Sha256::new();
        for part in [key, self.user.as_bytes(), self.password.as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        // Twice, so that the hash of a longer text cannot be made from that of a shorter one.
        hex(&Sha256::digest(hash.finalize()))
    }
}

/// A credential of a Secret.
#[derive(Debug, Clone)]
pub struct Entry {
    key: Key,
    /// Who it is.
    pub credential: Credential,
    /// The Secret that holds it.
    pub secret: String,
}

/// What a credential is for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    host: String,
    path: String,
}

/// All credentials that a Pod brings.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    entries: Vec<Entry>,
    /// Secrets that were looked at, for messages.
    pub secrets: Vec<String>,
}

/// A Secret that holds no credentials.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SecretError {
    /// Not of a type that does.
    #[error(
        "secret \"{name}\" is of type {found}: a pull secret is of type kubernetes.io/dockerconfigjson"
    )]
    Type {
        /// The Secret.
        name: String,
        /// Its type.
        found: String,
    },
    /// Lacks the key of its type.
    #[error("secret \"{name}\" has no key {key}")]
    Missing {
        /// The Secret.
        name: String,
        /// The key.
        key: &'static str,
    },
    /// Is not the JSON that it should be.
    #[error("secret \"{name}\": {key} is not what docker login writes: {why}")]
    Json {
        /// The Secret.
        name: String,
        /// The key.
        key: &'static str,
        /// Where it stops to be; never the text itself.
        why: String,
    },
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize, Default)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, alias = "identitytoken")]
    identity_token: String,
}

impl Auth {
    fn credential(&self) -> Option<Credential> {
        if !self.identity_token.is_empty() {
            return Some(Credential::identity(&self.username, &self.identity_token));
        }
        if !self.auth.is_empty() {
            return Credential::basic(&self.auth);
        }
        (!self.username.is_empty()).then(|| Credential::new(&self.username, &self.password))
    }
}

impl Keyring {
    /// Takes the credentials of a Secret in.
    pub fn add(&mut self, secret: &Secret) -> Result<(), SecretError> {
        let name = secret.metadata.name.clone().unwrap_or_default();
        self.secrets.push(name.clone());
        let kind = secret.type_.as_deref().unwrap_or("Opaque");
        let key = match kind {
            "kubernetes.io/dockerconfigjson" => ".dockerconfigjson",
            "kubernetes.io/dockercfg" => ".dockercfg",
            _ => return Err(SecretError::Type { name, found: kind.to_owned() }),
        };
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        let Some(data) = data else { return Err(SecretError::Missing { name, key }) };
        let auths = match key {
            ".dockercfg" => serde_json::from_slice(&data.0),
            _ => serde_json::from_slice::<DockerConfig>(&data.0).map(|config| config.auths),
        };
        // The place only: serde's own text may quote a value.
        let auths: BTreeMap<String, Auth> = auths.map_err(|e| SecretError::Json {
            name: name.clone(),
            key,
            why: format!("line {}, column {}", e.line(), e.column()),
        })?;
        for (place, auth) in auths {
            let (Some(key), Some(credential)) = (Key::parse(&place), auth.credential()) else {
                continue;
            };
            self.entries.push(Entry { key, credential, secret: name.clone() });
        }
        // Longest first; of equal ones the Pod's first.
        self.entries.sort_by_key(|e| std::cmp::Reverse((e.key.path.len(), e.key.host.len())));
        Ok(())
    }

    /// The credentials that fit, the closest first.
    pub fn lookup(&self, name: &ImageName) -> Vec<&Entry> {
        let Some(host) = &name.host else { return Vec::new() };
        let mut found: Vec<&Entry> = Vec::new();
        for entry in self.entries.iter().filter(|e| e.key.matches(host, &name.repository)) {
            if !found.iter().any(|other| other.credential == entry.credential) {
                found.push(entry);
            }
        }
        found
    }
}

impl Key {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let rest = text.strip_prefix("https://").or(text.strip_prefix("http://")).unwrap_or(text);
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() || host.contains('@') {
            return None;
        }
        // What `docker login` writes for Docker Hub, and what older programs wrote for others.
        let path = match path.split_once('/') {
            Some(("v1" | "v2", rest)) => rest,
            None if matches!(path, "v1" | "v2") => "",
            _ => path,
        };
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
            other => other,
        };
        Some(Self { host: host.to_lowercase(), path: path.trim_end_matches('/').to_owned() })
    }

    fn matches(&self, host: &str, repository: &str) -> bool {
        let split = |text: &'_ str| match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => (host.to_owned(), port.to_owned()),
            _ => (text.to_owned(), String::new()),
        };
        let ((own, own_port), (host, port)) = (split(&self.host), split(&host.to_lowercase()));
        let (own, host): (Vec<&str>, Vec<&str>) =
            (own.split('.').collect(), host.split('.').collect());
        own_port == port
            && own.len() == host.len()
            && own
                .iter()
                .zip(&host)
                .all(|(pattern, part)| glob(pattern.as_bytes(), part.as_bytes()))
            && repository.starts_with(&self.path)
    }
}

/// `*` stands for any characters, `?` for one.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests;
