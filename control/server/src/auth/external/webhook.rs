//! Asks a webhook whose a token is (`authentication.k8s.io/v1 TokenReview`), and remembers what it said for a while.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::kubeconfig::Target;
use super::{AuthenticationError, Identity};
use crate::auth::tokens::ISSUER;
use crate::registry::Clients;

/// How long answers are taken for true, as upstream.
const CACHE: Duration = Duration::from_secs(120);
/// How long the webhook may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked that does not answer, and the first pause between, as upstream.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// Answers that are remembered; when there are more, all that are old go.
const REMEMBERED: usize = 8192;

/// See the module.
pub(super) struct Webhook {
    target: Target,
    cache: Duration,
    /// By the hash of the token, which itself is not kept.
    known: Mutex<HashMap<[u8; 32], Known>>,
}

/// What was said, and when.
type Known = (Instant, Option<Identity>);

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
    error: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct User {
    username: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Webhook {
    pub(super) fn open(path: &Path, cache: Option<Duration>) -> Result<Self, AuthenticationError> {
        let target = Target::open(path)?;
        Ok(Self { target, cache: cache.unwrap_or(CACHE), known: Mutex::default() })
    }

    /// Whose token it is; none if it is nobody's.
    ///
    /// # Errors
    /// Why the webhook cannot say.
    pub(super) async fn authenticate(
        &self,
        clients: &Clients,
        token: &str,
    ) -> Result<Option<Identity>, String> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.remembered(&hash) {
            return Ok(known);
        }
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "metadata": {"creationTimestamp": null},
            "spec": {"token": token, "audiences": [ISSUER]},
            "status": {"user": {}},
        });
        let status = self.ask(clients, review.to_string().into_bytes()).await?;
        let status: Status = serde_json::from_value(status)
            .map_err(|error| format!("the webhook's answer is no TokenReview: {error}"))?;
        let answer = match status.authenticated {
            // One that knows no audiences says none.
            true if status.audiences.is_empty() || status.audiences.iter().any(|a| a == ISSUER) => {
                let User { username, uid, groups, extra } = status.user;
                Some(Identity { user: username, uid, groups, extra })
            }
            true => None,
            false if !status.error.is_empty() => return Err(status.error),
            false => None,
        };
        self.remember(hash, answer.clone());
        Ok(answer)
    }

    /// The `status` of the answer.
    async fn ask(&self, clients: &Clients, body: Vec<u8>) -> Result<Value, String> {
        let mut pause = PAUSE;
        let mut tries = 1;
        loop {
            let sent = clients.send(&self.target.trust, self.target.post(), body.clone(), PATIENCE);
            let why = match sent.await {
                Ok((code, answer)) if code.is_success() => {
                    let mut answer: Value = serde_json::from_slice(&answer)
                        .map_err(|error| format!("the webhook's answer is no JSON: {error}"))?;
                    return Ok(answer["status"].take());
                }
                Ok((code, _)) if !code.is_server_error() && code.as_u16() != 429 => {
                    return Err(format!("the webhook answered {code}"));
                }
                Ok((code, _)) => format!("the webhook answered {code}"),
                Err(why) => why,
            };
            if tries == TRIES {
                return Err(why);
            }
            tracing::debug!(why, "the token webhook is asked again");
            tokio::time::sleep(pause).await;
            tries += 1;
            pause = pause.mul_f64(1.5);
        }
    }

    fn remembered(&self, hash: &[u8; 32]) -> Option<Option<Identity>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, identity) = known.get(hash)?;
        (at.elapsed() < self.cache).then(|| identity.clone())
    }

    fn remember(&self, hash: [u8; 32], answer: Option<Identity>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, (at, _)| at.elapsed() < self.cache);
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(hash, (Instant::now(), answer));
    }
}
