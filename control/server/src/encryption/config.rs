//! `EncryptionConfiguration` of `apiserver.config.k8s.io/v1`: read strictly, checked with upstream's words.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::{FieldError, Kind};
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::ciphers::{Algorithm, Key, Provider, Transformer};

const VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";
const ANY: &str = "*";

/// Encryption cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// The file.
    #[error("the encryption configuration {path} cannot be read: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What it says.
    #[error("the encryption configuration {path} cannot be used: {why}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it; never a key.
        why: String,
    },
    /// It is gone, and the store needs it.
    #[error(
        "the encryption configuration {path} is missing, and without its keys the store cannot be read: {why}: \
         restore the file from a backup, or name another with --encryption-provider-config"
    )]
    Missing {
        /// Which.
        path: PathBuf,
        /// The first object that cannot be read.
        why: String,
    },
}

/// What is done with which kind.
#[derive(Default)]
pub(super) struct Transformers(Vec<(Vec<Resources>, Transformer)>);

/// `secrets`, `deployments.apps`, `*.apps`, `*.`, `*.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Resources {
    resource: String,
    group: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "anything may be said there")]
    metadata: Value,
    #[serde(default)]
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<ProviderEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderEntry {
    identity: Option<Map<String, Value>>,
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    kms: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    keys: Vec<KeyEntry>,
}

#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    #[serde(default)]
    #[zeroize(skip)]
    name: String,
    #[serde(default)]
    secret: String,
}

impl Transformers {
    /// From the text of a file of YAML or JSON.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, EncryptionError> {
        let fail = |why: String| EncryptionError::Content { path: path.to_owned(), why };
        // Without the lines around it, which may hold a key.
        let file: File = serde_saphyr::from_str(text)
            .map_err(|error| fail(error.without_snippet().to_string()))?;
        if (file.api_version.as_str(), file.kind.as_str()) != (VERSION, KIND) {
            return Err(fail(format!(
                "it is a {} of {}, and must be an {KIND} of {VERSION}",
                file.kind, file.api_version
            )));
        }
        let mut problems = Vec::new();
        let all = file.read(&mut problems);
        if problems.is_empty() {
            return Ok(Self(all));
        }
        let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Err(fail(list.join(", ")))
    }

    /// What is done with values of a kind; nothing: none.
    pub(super) fn of(&self, kind: &Kind) -> Option<&Transformer> {
        let found = self.0.iter().find(|(resources, _)| resources.iter().any(|r| r.covers(kind)));
        found.map(|(_, transformer)| transformer)
    }
}

impl File {
    fn read(&self, problems: &mut Vec<FieldError>) -> Vec<(Vec<Resources>, Transformer)> {
        if self.resources.is_empty() {
            problems.push(FieldError::required("resources", "at least one resources is required"));
        }
        let mut all = Vec::new();
        for (i, entry) in self.resources.iter().enumerate() {
            let at = format!("resources[{i}].resources");
            if entry.resources.is_empty() {
                problems.push(FieldError::required(&at, format!("at least one {at} is required")));
            }
            let resources: Vec<_> = entry.resources.iter().map(|r| Resources::of(r)).collect();
            overlaps(&resources, &entry.resources, &at, problems);
            for (j, text) in entry.resources.iter().enumerate() {
                if let Some(why) = Resources::problem(text) {
                    problems.push(FieldError::invalid(format!("{at}[{j}]"), &text[..], why));
                }
            }
            let at = format!("resources[{i}].providers");
            if entry.providers.is_empty() {
                problems.push(FieldError::required(&at, format!("at least one {at} is required")));
            }
            let providers = entry.providers.iter().enumerate();
            let read = providers.filter_map(|(j, it)| it.read(&format!("{at}[{j}]"), problems));
            all.push((resources, Transformer(read.collect())));
        }
        all
    }
}

impl ProviderEntry {
    fn read(&self, at: &str, problems: &mut Vec<FieldError>) -> Option<Provider> {
        let Self { identity, aesgcm, aescbc, secretbox, kms } = self;
        let keys = [
            (Algorithm::AesGcm, aesgcm),
            (Algorithm::AesCbc, aescbc),
            (Algorithm::Secretbox, secretbox),
        ];
        let found = keys.iter().filter(|(_, keys)| keys.is_some()).count()
            + usize::from(identity.is_some())
            + usize::from(kms.is_some());
        let why = match found {
            0 => {
                "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
            }
            1 if kms.is_some() => "KMS plugins are not called by this server: use keys of its own",
            1 => {
                let one = keys.into_iter().find_map(|(a, keys)| keys.as_ref().map(|k| (a, k)));
                return match one {
                    Some((algorithm, keys)) => keys.read(algorithm, at, problems),
                    None => Some(Provider::Identity),
                };
            }
            _ => {
                "more than one provider specified in a single element, should split into different list elements"
            }
        };
        problems.push(FieldError::invalid_as_such(at, why));
        None
    }
}

impl Keys {
    fn read(
        &self,
        algorithm: Algorithm,
        at: &str,
        problems: &mut Vec<FieldError>,
    ) -> Option<Provider> {
        let at = format!("{at}.{}.keys", algorithm.name());
        if self.keys.is_empty() {
            problems.push(FieldError::required(&at, "at least one keys is required"));
        }
        let mut read = Vec::new();
        for (i, key) in self.keys.iter().enumerate() {
            read.extend(key.read(algorithm, &format!("{at}[{i}]"), problems));
        }
        Some(Provider::Keys(algorithm, read))
    }
}

impl KeyEntry {
    fn read(&self, algorithm: Algorithm, at: &str, problems: &mut Vec<FieldError>) -> Option<Key> {
        if self.name.is_empty() {
            let why = "name is a mandatory field for a key";
            problems.push(FieldError::required(format!("{at}.name"), why));
        }
        // What values begin with could not be told apart.
        if self.name.contains(':') {
            let why = "the name of a key must not contain ':'";
            problems.push(FieldError::invalid(format!("{at}.name"), &self.name[..], why));
        }
        let at = format!("{at}.secret");
        if self.secret.is_empty() {
            let why = "secret is a mandatory field for a key";
            problems.push(FieldError::required(at, why));
            return None;
        }
        let invalid = |why: String| FieldError::invalid(&at, "REDACTED", why);
        let Ok(secret) = STANDARD.decode(self.secret.as_bytes()).map(Zeroizing::new) else {
            problems.push(invalid("secrets must be base64 encoded".to_owned()));
            return None;
        };
        let key = Key::new(algorithm, &self.name, &secret);
        if key.is_none() {
            let sizes: Vec<String> = algorithm.sizes().iter().map(ToString::to_string).collect();
            problems.push(invalid(format!(
                "secret is not of the expected length, got {}, expected one of [{}]",
                secret.len(),
                sizes.join(" ")
            )));
        }
        key
    }
}

impl Resources {
    /// The group is what follows the first dot.
    fn of(text: &str) -> Self {
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        Self { resource: resource.to_owned(), group: group.to_owned() }
    }

    fn covers(&self, kind: &Kind) -> bool {
        (self.group == kind.group || (self.group == ANY && self.resource == ANY))
            && (self.resource == ANY || self.resource == kind.plural)
    }

    fn problem(text: &str) -> Option<&'static str> {
        let Self { resource, group } = Self::of(text);
        if text.chars().any(char::is_uppercase) {
            return Some("resource name should not contain capital letters");
        }
        if text == ANY {
            return Some(
                "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
            );
        }
        if ["apiserveripinfo", "serviceipallocations", "servicenodeportallocations"].contains(&text)
        {
            return Some("resources which do not have REST API/s cannot be encrypted");
        }
        match group.as_str() {
            "events.k8s.io" => Some(
                "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
            ),
            "extensions" => {
                Some("'extensions' group has been removed and cannot be used for encryption")
            }
            ANY if resource != ANY => {
                Some("encrypting the same resource across groups is not supported")
            }
            _ => None,
        }
    }
}

fn overlaps(all: &[Resources], texts: &[String], at: &str, problems: &mut Vec<FieldError>) {
    let (mut twice, mut masked) = (false, false);
    for (i, one) in all.iter().enumerate() {
        for (_, other) in all.iter().enumerate().filter(|(j, _)| *j != i) {
            if one == other {
                twice = true;
            } else if one.group == ANY && one.resource == ANY
                || one.group == other.group && (one.resource == ANY || other.resource == ANY)
            {
                masked = true;
            }
        }
    }
    if twice {
        let why = "the same resource cannot be specified multiple times";
        problems.push(FieldError::invalid(at, texts.to_vec(), why));
    }
    if masked {
        let why = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
        problems.push(FieldError::invalid(at, texts.to_vec(), why));
    }
}
