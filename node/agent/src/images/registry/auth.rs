//! How a registry asks who we are: `WWW-Authenticate`, with a password or with a token from a third party.
//!
//! The token comes from the `realm` that the registry names (Docker's token specification). A registry reached by TLS
//! may only name a realm reached by TLS, since the password goes there.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::Deserialize;

use super::chain;
use super::clients::Clients;
use super::session::{HEADERS, RegistryError};
use crate::images::credentials::Credential;

/// Largest answer of a token service, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// What a registry wants.
#[derive(Debug, PartialEq)]
pub(super) enum Challenge {
    /// A user and a password.
    Basic,
    /// A token, to be had from `realm`.
    Bearer {
        /// URL.
        realm: String,
        /// Whom the token is for.
        service: String,
        /// What it allows.
        scope: String,
    },
}

impl Challenge {
    /// The challenge in an answer's headers that is worth most; `None` if there is none that is understood.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let all = headers.get_all(http::header::WWW_AUTHENTICATE).iter();
        let mut basic = None;
        for text in all.filter_map(|value| value.to_str().ok()) {
            let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                let mut found = [String::new(), String::new(), String::new()];
                for (key, value) in parameters(rest) {
                    let keys = ["realm", "service", "scope"];
                    if let Some(at) = keys.iter().position(|k| key.eq_ignore_ascii_case(k)) {
                        found[at] = value;
                    }
                }
                let [realm, service, scope] = found;
                if !realm.is_empty() {
                    return Some(Self::Bearer { realm, service, scope });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Self::Basic);
            }
        }
        basic
    }
}

/// `key=value` and `key="value"`, separated by commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim().trim_start_matches(',').trim().to_owned();
        let value = match after.strip_prefix('"') {
            Some(quoted) => {
                let mut value = String::new();
                let mut characters = quoted.char_indices();
                let mut end = quoted.len();
                while let Some((at, c)) = characters.next() {
                    match c {
                        '"' => {
                            end = at + 1;
                            break;
                        }
                        '\\' => value.extend(characters.next().map(|(_, c)| c)),
                        c => value.push(c),
                    }
                }
                rest = &quoted[end..];
                value
            }
            None => {
                let (value, after) = after.split_once(',').unwrap_or((after, ""));
                rest = after;
                value.trim().to_owned()
            }
        };
        found.push((key, value));
    }
    found
}

/// The header that answers a challenge.
pub(super) async fn answer(
    challenge: &Challenge,
    credential: Option<&Credential>,
    scope: &str,
    plain: bool,
    clients: &Clients,
) -> Result<HeaderValue, RegistryError> {
    let secret = |text: String| {
        let mut value = HeaderValue::try_from(text)
            .map_err(|_| RegistryError::Refused("its token is not usable".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    };
    match challenge {
        Challenge::Basic => match credential {
            Some(credential) => secret(credential.header()),
            None => Err(RegistryError::Unauthorized("authentication required".to_owned())),
        },
        Challenge::Bearer { realm, service, scope: wanted } => {
            let scope = if wanted.is_empty() { scope } else { wanted };
            let token = token(realm, service, scope, credential, plain, clients).await?;
            secret(format!("Bearer {token}"))
        }
    }
}

async fn token(
    realm: &str,
    service: &str,
    scope: &str,
    credential: Option<&Credential>,
    plain: bool,
    clients: &Clients,
) -> Result<String, RegistryError> {
    let refused = |why: String| RegistryError::Refused(format!("token service {realm}: {why}"));
    let uri: http::Uri = realm.parse().map_err(|e| refused(format!("{e}")))?;
    let host = uri.authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
    if host.is_empty() || host.contains('@') || uri.scheme_str() != Some("https") && !plain {
        return Err(refused("a registry reached by https may only name an https URL".to_owned()));
    }
    let query = format!("service={}&scope={}", encode(service), encode(scope));
    let request = match credential.and_then(Credential::refresh_token) {
        Some(refresh) => Request::builder()
            .method(Method::POST)
            .uri(realm)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(format!(
                "grant_type=refresh_token&client_id=coracle&{query}&refresh_token={}",
                encode(refresh)
            )))),
        None => {
            let separator = if realm.contains('?') { '&' } else { '?' };
            let mut request = Request::get(format!("{realm}{separator}{query}"));
            if let Some(credential) = credential {
                request = request.header(AUTHORIZATION, credential.header());
            }
            request.body(Full::default())
        }
    };
    let request = request.map_err(|e| refused(e.to_string()))?;
    let client = clients.client(&host).map_err(refused)?;
    let unreachable =
        |why: String| RegistryError::Unreachable(format!("token service {realm}: {why}"));
    let exchange = async {
        let answer = client.request(request).await.map_err(|e| unreachable(chain(&e)))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        Ok((status, body.map_err(|e| unreachable(e.to_string()))?.to_bytes()))
    };
    let (status, body) = tokio::time::timeout(HEADERS, exchange)
        .await
        .map_err(|_| unreachable(format!("no answer within {HEADERS:?}")))??;
    if matches!(status.as_u16(), 401 | 403) {
        return Err(RegistryError::Unauthorized(format!(
            "token service {realm} answered {status}"
        )));
    }
    if !status.is_success() {
        let why = format!("it answered {status}");
        return Err(if status.is_server_error() { unreachable(why) } else { refused(why) });
    }
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
    }
    // The error's own text might quote the token.
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| refused("its answer is not the JSON of a token".to_owned()))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() {
        return Err(refused("its answer holds no token".to_owned()));
    }
    Ok(token)
}

fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(byte.into())
            }
            // Writing to a String cannot fail.
            other => drop(write!(out, "%{other:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[&str], wanted: Option<Challenge>) {
        let mut map = HeaderMap::new();
        for text in headers {
            map.append(http::header::WWW_AUTHENTICATE, HeaderValue::from_str(text).unwrap());
        }
        assert_eq!(Challenge::of(&map), wanted, "{headers:?}");
    }

    #[test]
    fn challenges_are_understood() {
        let bearer = |realm: &str, service: &str, scope: &str| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.to_owned(),
                scope: scope.to_owned(),
            })
        };
        check(&["Basic realm=\"x\""], Some(Challenge::Basic));
        check(
            &[
                r#"Bearer realm="https://a.example/token",service="a.example",scope="repository:a,b:pull""#,
            ],
            bearer("https://a.example/token", "a.example", "repository:a,b:pull"),
        );
        check(
            &["Basic realm=x", "bearer Realm=https://a, service=b"],
            bearer("https://a", "b", ""),
        );
        check(&[r#"Bearer realm="a\"b""#], bearer("a\"b", "", ""));
        check(&[r#"Bearer realm="unended"#], bearer("unended", "", ""));
        check(&["Bearer", "Negotiate"], None);
        check(&[], None);
    }

    #[test]
    fn parameters_are_escaped() {
        assert_eq!(encode("repository:a/b:pull é"), "repository%3Aa%2Fb%3Apull%20%C3%A9");
    }
}
