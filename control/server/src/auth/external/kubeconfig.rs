//! The kubeconfig of a webhook: where it is, whom to trust, and who asks.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{AuthenticationError, read};
use crate::registry::Trust;

/// What to call.
pub(super) struct Target {
    pub(super) url: String,
    pub(super) trust: Trust,
    authorization: Option<HeaderValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    clusters: Vec<Named<Cluster>>,
    #[serde(default)]
    users: Vec<Named<User>>,
    #[serde(default)]
    contexts: Vec<Named<Context>>,
    #[serde(default)]
    current_context: String,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    it: T,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    proxy_url: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
    exec: Option<IgnoredAny>,
}

impl Target {
    /// What the current context says.
    pub(super) fn open(path: &Path) -> Result<Self, AuthenticationError> {
        let fail = |why: String| AuthenticationError::Content {
            what: format!("the kubeconfig {}", path.display()),
            why,
        };
        // Not with the text around it, in which a token may be.
        let file: File = serde_saphyr::from_slice(&read(path)?)
            .map_err(|error| fail(error.without_snippet().to_string()))?;
        let File { clusters, users, contexts, current_context } = file;
        let context = contexts.into_iter().find(|it| it.name == current_context);
        let context = context
            .ok_or_else(|| fail(format!("current-context \"{current_context}\" does not exist")))?
            .it;
        let cluster = clusters.into_iter().find(|it| it.name == context.cluster);
        let cluster = cluster
            .ok_or_else(|| fail(format!("cluster \"{}\" does not exist", context.cluster)))?
            .it;
        let user = users.into_iter().find(|it| it.name == context.user);
        let user = user.map(|it| it.it).unwrap_or_default();
        if cluster.insecure_skip_tls_verify || cluster.proxy_url.is_some() || user.exec.is_some() {
            return Err(fail(
                "insecure-skip-tls-verify, proxy-url and exec are not supported: name a certificate-authority, and credentials".into(),
            ));
        }
        if !cluster.server.starts_with("https://") {
            return Err(fail(format!("server \"{}\" is no https URL", cluster.server)));
        }
        // Files are named from where the kubeconfig lies.
        let folder = path.parent().unwrap_or(Path::new("."));
        let either = |data: Option<String>, file: Option<PathBuf>| match (data, file) {
            (Some(data), _) => {
                STANDARD.decode(data.trim()).map(Some).map_err(|error| fail(error.to_string()))
            }
            (None, Some(file)) => read(&folder.join(file)).map(Some),
            (None, None) => Ok(None),
        };
        let ca = either(cluster.certificate_authority_data, cluster.certificate_authority)?;
        let certificate = either(user.client_certificate_data, user.client_certificate)?;
        let key = either(user.client_key_data, user.client_key)?;
        if certificate.is_some() != key.is_some() {
            return Err(fail("a client-certificate and its client-key belong together".into()));
        }
        let token = match (user.token, user.token_file) {
            (Some(token), _) => Some(token),
            (None, Some(file)) => {
                Some(String::from_utf8_lossy(&read(&folder.join(file))?).trim().to_owned())
            }
            (None, None) => None,
        };
        let basic = user.username.map(|name| {
            let password = user.password.unwrap_or_default();
            format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
        });
        let text = token.map(|token| format!("Bearer {token}")).or(basic);
        let authorization = text
            .map(|text| {
                let mut value = HeaderValue::from_str(&text).map_err(|_| {
                    fail("the credentials have a character that no header has".into())
                })?;
                value.set_sensitive(true);
                Ok::<_, AuthenticationError>(value)
            })
            .transpose()?;
        let trust = Trust {
            ca: ca.unwrap_or_default(),
            certificate: certificate.zip(key),
            name: cluster.tls_server_name.unwrap_or_default(),
        };
        Ok(Self { url: cluster.server, trust, authorization })
    }

    /// A POST there.
    pub(super) fn post(&self) -> http::request::Builder {
        let request = Request::post(&self.url)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json, */*");
        match &self.authorization {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }
}
