//! ServiceAccount tokens in projected volumes (`authentication.k8s.io TokenRequest`).
//!
//! A token is bound to its Pod, kept nowhere but in the volume, and replaced when 80 % of its lifetime, or a day, is
//! over. When that is, is read from the token itself, so that an agent that was restarted knows it too.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection, Volume};
use kube::Api;
use kube::api::PostParams;
use serde::Deserialize;

use super::error::{MountError, SetUpError};
use super::{Volumes, atomic, payload};

/// Lifetime of tokens that name none.
const HOUR: i64 = 3600;
/// Oldest that a token becomes.
const DAY: i64 = 24 * 3600;

/// Tokens at hand, by volume and path.
pub(super) struct Tokens(HashMap<(String, String), Vec<u8>>);

impl Tokens {
    pub(super) fn get(
        &self,
        volume: &Volume,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<Vec<u8>, SetUpError> {
        let key = (volume.name.clone(), wanted.path.clone());
        let missing = || SetUpError::Token(format!("no token for {}", wanted.path));
        self.0.get(&key).cloned().ok_or_else(missing)
    }
}

#[derive(Deserialize)]
struct Claims {
    iat: i64,
    exp: i64,
}

/// When a token is to be replaced.
fn due(token: &[u8]) -> Option<Timestamp> {
    let payload = std::str::from_utf8(token).ok()?.split('.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let lifetime = claims.exp.checked_sub(claims.iat).filter(|l| *l > 0)?;
    Timestamp::from_second(claims.iat + (lifetime / 5 * 4).min(DAY)).ok()
}

impl Volumes {
    /// The tokens that the volumes show: those that lie there while they are young, else new ones.
    pub(super) async fn tokens(
        &self,
        uid: &str,
        pod: &Arc<Pod>,
        volumes: impl Iterator<Item = &Volume>,
    ) -> Result<Tokens, MountError> {
        let mut found = HashMap::new();
        let mut next: Option<Timestamp> = None;
        let now = Timestamp::now();
        for volume in volumes {
            for wanted in payload::tokens(volume) {
                let path = self.dir(uid).join(&volume.name);
                let old = atomic::read(&path, Path::new(&wanted.path));
                let young = old.filter(|token| due(token).is_some_and(|due| due > now));
                let token = match young {
                    Some(token) => token,
                    None => {
                        let issued = self.request(pod, wanted).await;
                        issued.map_err(|why| SetUpError::Token(why).of(&volume.name))?
                    }
                };
                let due = due(&token).unwrap_or(now + SignedDuration::from_secs(HOUR / 2));
                next = Some(next.map_or(due, |next| next.min(due)));
                found.insert((volume.name.clone(), wanted.path.clone()), token);
            }
        }
        if let Some(at) = next {
            self.token_due(uid, at);
        }
        Ok(Tokens(found))
    }

    /// Has the Pod's tokens looked at when it is time.
    pub(super) fn token_due(&self, uid: &str, at: Timestamp) {
        let mut table = self.table();
        let Some((uid, mounted)) = table.pods.get_key_value(uid) else { return };
        let known = mounted.token_due.lock().unwrap_or_else(|e| e.into_inner()).replace(at);
        if known != Some(at) {
            let uid = uid.clone();
            table.tokens.push(Reverse((at, uid)));
            self.inner.wake.notify_one();
        }
    }

    async fn request(
        &self,
        pod: &Pod,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<Vec<u8>, String> {
        let meta = &pod.metadata;
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref());
        let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: wanted.audience.clone().filter(|a| !a.is_empty()).map(|a| vec![a]),
                expiration_seconds: Some(wanted.expiration_seconds.unwrap_or(HOUR)),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: meta.name.clone(),
                    uid: meta.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.inner.client.clone(), namespace);
        let answer = api.create_token_request(account, &PostParams::default(), &request).await;
        let status = answer.map_err(|e| e.to_string())?.status;
        let token = status.and_then(|status| status.token).ok_or("no token in the answer")?;
        Ok(token.into_bytes())
    }
}
