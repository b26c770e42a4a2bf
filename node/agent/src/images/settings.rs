//! How this node reaches registries: mirrors, credentials and TLS, as `registries.yaml` gives them.
//!
//! The format is k3s's, which many people have lying about already. Only one thing of it is narrower: a `rewrite` may
//! replace a beginning (`^old/(.*)` by `new/$1`), no other pattern. What is read here is checked when the agent starts, so
//! that a mistake is told then and not by the first Pod.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use super::credentials::Credential;
use super::reference::DOCKER_HUB;

/// A whole `registries.yaml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// By registry, `*` being every one that has no entry of its own.
    #[serde(default)]
    mirrors: BTreeMap<String, Mirror>,
    /// By host (and port) that is really asked.
    #[serde(default)]
    configs: BTreeMap<String, Config>,
}

/// Where images of a registry are looked for before the registry itself is asked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// URLs, in the order to ask.
    #[serde(default)]
    endpoint: Vec<String>,
    /// How repositories are named there.
    #[serde(default)]
    rewrite: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    auth: Option<Auth>,
    #[serde(default)]
    tls: Option<Tls>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    /// `username:password` in base64.
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identity_token: String,
}

/// How a host proves who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Trusted besides the system's certificate authorities.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The node's own certificate.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Believe anybody.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What is wrong with a `registries.yaml`.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SettingsError {
    /// No URL of a registry.
    #[error(
        "mirrors: \"{registry}\": endpoint \"{endpoint}\" is no URL like https://HOST[:PORT][/PATH]"
    )]
    Endpoint {
        /// The mirrored registry.
        registry: String,
        /// As it was given.
        endpoint: String,
    },
    /// A pattern that is not understood.
    #[error(
        "mirrors: \"{registry}\": rewrite \"{pattern}\": \"{to}\": only a beginning can be replaced, as in \"^old/(.*)\": \"new/$1\""
    )]
    Rewrite {
        /// The mirrored registry.
        registry: String,
        /// The pattern.
        pattern: String,
        /// Its replacement.
        to: String,
    },
    /// Credentials that cannot be read.
    #[error(
        "configs: \"{host}\": auth: give username and password, or auth as base64 of USERNAME:PASSWORD"
    )]
    Auth {
        /// The host.
        host: String,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("configs: \"{host}\": tls: cert_file and key_file belong together")]
    Certificate {
        /// The host.
        host: String,
    },
}

/// One host to ask, and how a repository is called there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether without TLS.
    pub plain: bool,
    /// Host, and port if it is not the scheme's.
    pub authority: String,
    /// What comes before `/v2/` (or is `/v2/…` itself), without a slash at its end.
    pub prefix: String,
    /// The repository there.
    pub repository: String,
    /// The registry that it stands in for, if it does.
    pub stands_for: Option<String>,
}

impl Settings {
    /// Says what is wrong, if something is.
    pub fn check(&self) -> Result<(), SettingsError> {
        for (registry, mirror) in &self.mirrors {
            for endpoint in &mirror.endpoint {
                parse_url(endpoint).ok_or_else(|| SettingsError::Endpoint {
                    registry: registry.clone(),
                    endpoint: endpoint.clone(),
                })?;
            }
            for (pattern, to) in &mirror.rewrite {
                rewrite(pattern, to, "").ok_or_else(|| SettingsError::Rewrite {
                    registry: registry.clone(),
                    pattern: pattern.clone(),
                    to: to.clone(),
                })?;
            }
        }
        for (host, config) in &self.configs {
            if config.auth.as_ref().is_some_and(|auth| auth.credential().is_none()) {
                return Err(SettingsError::Auth { host: host.clone() });
            }
            if config.tls.as_ref().is_some_and(|t| t.cert_file.is_some() != t.key_file.is_some()) {
                return Err(SettingsError::Certificate { host: host.clone() });
            }
        }
        Ok(())
    }

    /// Where `repository` of the registry `host` is looked for: its mirrors, then itself.
    pub fn endpoints(&self, host: &str, repository: &str) -> Vec<Endpoint> {
        let mut all = Vec::new();
        if let Some(mirror) = self.mirrors.get(host).or_else(|| self.mirrors.get("*")) {
            let renamed = mirror.rewrite.iter().find_map(|(p, to)| rewrite(p, to, repository)?);
            let renamed = renamed.unwrap_or_else(|| repository.to_owned());
            for (plain, authority, prefix) in mirror.endpoint.iter().filter_map(|e| parse_url(e)) {
                // A registry among its own endpoints says only how it is reached.
                let own = authority == host;
                all.push(Endpoint {
                    plain,
                    authority,
                    prefix,
                    repository: renamed.clone(),
                    stands_for: (!own).then(|| host.to_owned()),
                });
            }
        }
        if !all.iter().any(|e: &Endpoint| e.stands_for.is_none()) {
            let authority = if host == DOCKER_HUB { "registry-1.docker.io" } else { host };
            // A registry on this machine is commonly plain HTTP, as other container tools assume too.
            let plain = is_loopback(host) && self.tls(host).is_none();
            all.push(Endpoint {
                plain,
                authority: authority.to_owned(),
                prefix: String::new(),
                repository: repository.to_owned(),
                stands_for: None,
            });
        }
        all
    }

    /// The node's own credentials for a host.
    pub fn credential(&self, host: &str) -> Option<Credential> {
        self.config(host)?.auth.as_ref()?.credential()
    }

    /// How a host proves who it is, where that is not as usual.
    pub fn tls(&self, host: &str) -> Option<&Tls> {
        self.config(host)?.tls.as_ref()
    }

    fn config(&self, host: &str) -> Option<&Config> {
        let hub = || self.configs.get(DOCKER_HUB).filter(|_| host == "registry-1.docker.io");
        self.configs.get(host).or_else(hub).or_else(|| self.configs.get("*"))
    }
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

/// Whether plain, host and port, and the path.
fn parse_url(text: &str) -> Option<(bool, String, String)> {
    let (plain, rest) = match text.strip_prefix("http://") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("https://")?),
    };
    let uri: http::Uri = text.parse().ok()?;
    let authority = uri.authority()?;
    if authority.as_str().contains('@') || uri.query().is_some() || rest.contains('#') {
        return None;
    }
    Some((plain, authority.to_string(), uri.path().trim_end_matches('/').to_owned()))
}

/// `None`: the pattern is not understood; `Some(None)`: it does not match.
fn rewrite(pattern: &str, to: &str, repository: &str) -> Option<Option<String>> {
    let from = pattern.strip_prefix('^')?;
    let from = from.strip_suffix('$').unwrap_or(from).strip_suffix("(.*)")?;
    let to = to.strip_suffix("$1").or_else(|| to.strip_suffix("${1}"))?;
    let literal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '.');
    // A dot stands for itself here, escaped or not: nothing else can be meant in a repository's name.
    let from = from.replace("\\.", ".");
    if !from.chars().all(literal) || !to.chars().all(literal) {
        return None;
    }
    Some(repository.strip_prefix(&from).map(|rest| format!("{to}{rest}")))
}

fn is_loopback(host: &str) -> bool {
    if let Ok(address) = host.parse::<std::net::SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host.split(':').next().unwrap_or_default();
    name == "localhost"
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        || host == "[::1]"
}

#[cfg(test)]
mod tests;
