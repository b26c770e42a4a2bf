//! An OpenID Connect issuer: where it is, what it signs with, and whether it signed a token.
//!
//! Keys are fetched ahead, and kept: an issuer that is down, or slow, is noticed only by tokens with keys that nobody has seen yet.
//! Such a token has them fetched again, once for all who wait, and not more often than [`OFTEN`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;

use super::Identity;
use super::claims::Claims;
use crate::registry::{Clients, Trust};

/// How long an issuer may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon one is asked again that did not answer, at first and at last.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// How often it is asked anew in any case: keys are also withdrawn.
const REFRESH: Duration = Duration::from_secs(3600);
/// How often tokens with unknown keys may have it asked.
const OFTEN: Duration = Duration::from_secs(1);
/// What an issuer's clock may be ahead, as upstream.
const SKEW: i64 = 5 * 60;
/// A token may have so many bytes; larger ones do not fit into headers either.
const LARGEST: usize = 64 << 10;

/// Where an issuer is, and for whom its tokens must be.
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) discovery: String,
    pub(super) ca: Vec<u8>,
    pub(super) audiences: Vec<String>,
}

/// See the module.
pub(super) struct Issuer {
    endpoint: Endpoint,
    trust: Trust,
    algorithms: Vec<Algorithm>,
    claims: Claims,
    known: Mutex<Known>,
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default, Clone)]
struct Known {
    jwks_uri: Option<String>,
    keys: Option<Arc<Vec<Key>>>,
    asked: Option<Instant>,
}

struct Key {
    id: Option<String>,
    key: DecodingKey,
}

/// Who a token says that it is from, unverified.
pub(super) fn of(token: &str) -> Option<String> {
    if token.len() > LARGEST || token.split('.').count() != 3 {
        return None;
    }
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    claims["iss"].as_str().map(str::to_owned)
}

impl Issuer {
    pub(super) fn new(endpoint: Endpoint, algorithms: Vec<Algorithm>, claims: Claims) -> Self {
        let trust = Trust { ca: endpoint.ca.clone(), ..Trust::default() };
        let (known, fetching) = Default::default();
        Self { endpoint, trust, algorithms, claims, known, fetching }
    }

    /// As it is named in tokens.
    pub(super) fn url(&self) -> &str {
        &self.endpoint.url
    }

    /// Keeps its keys current, for ever.
    pub(super) async fn follow(&self, clients: &Clients) {
        let mut retry = RETRY[0];
        loop {
            let pause = match self.discover(clients).await {
                Ok(()) => {
                    retry = RETRY[0];
                    REFRESH
                }
                Err(why) => {
                    let issuer = self.url();
                    tracing::warn!(issuer, why, "an issuer does not answer; trying again");
                    let pause = retry;
                    retry = (retry * 2).min(RETRY[1]);
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Who its token is about.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub(super) async fn authenticate(
        &self,
        clients: &Clients,
        token: &str,
    ) -> Result<Identity, String> {
        let fail = |why: String| format!("oidc: verify token: {why}");
        let Some(keys) = self.known().keys else {
            return Err(format!(
                "oidc: authenticator for issuer \"{}\" is not initialized",
                self.url()
            ));
        };
        let header = jsonwebtoken::decode_header(token)
            .map_err(|error| fail(format!("oidc: malformed jwt: {error}")))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(fail(format!(
                "oidc: id token signed with unsupported algorithm, expected {:?} got {:?}",
                self.algorithms, header.alg
            )));
        }
        let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(token)
            .map_err(|error| fail(format!("oidc: malformed jwt: {error}")))?;
        // Before the keys: what has expired anyway is no reason to ask for new ones.
        Self::check_times(&claims).map_err(fail)?;
        let id = header.kid.as_deref();
        let mut claims = verified(&keys, header.alg, id, token);
        if claims.is_none() {
            let fetched = self.fetch_again(clients, &keys).await.map_err(fail)?;
            claims = verified(&fetched, header.alg, id, token);
        }
        let claims = claims.ok_or_else(|| {
            fail("failed to verify signature: failed to verify id token signature".to_owned())
        })?;
        self.check_audience(&claims).map_err(fail)?;
        self.claims.identity(&claims)
    }

    fn check_times(claims: &Value) -> Result<(), String> {
        let now = Timestamp::now().as_second();
        let seconds = |claim: &str| claims[claim].as_f64().map(|at| at as i64);
        let shown =
            |at: i64| Timestamp::from_second(at).map_or(at.to_string(), |at| at.to_string());
        match seconds("exp") {
            Some(at) if at > now => {}
            at => {
                return Err(format!(
                    "oidc: token is expired (Token Expiry: {})",
                    shown(at.unwrap_or_default())
                ));
            }
        }
        match seconds("nbf") {
            Some(at) if at > now + SKEW => Err(format!(
                "oidc: current time {} before the nbf (not before) time: {}",
                shown(now),
                shown(at)
            )),
            _ => Ok(()),
        }
    }

    fn check_audience(&self, claims: &Value) -> Result<(), String> {
        let of = match &claims["aud"] {
            Value::String(one) => vec![one.as_str()],
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let wanted = &self.endpoint.audiences;
        if wanted.iter().any(|audience| of.contains(&audience.as_str())) {
            return Ok(());
        }
        Err(match &wanted[..] {
            [one] => format!("oidc: expected audience \"{one}\" got {of:?}"),
            many => format!("oidc: expected audience in {many:?} got {of:?}"),
        })
    }

    /// The keys after those that did not do; the same if they were asked for just now.
    async fn fetch_again(
        &self,
        clients: &Clients,
        tried: &Arc<Vec<Key>>,
    ) -> Result<Arc<Vec<Key>>, String> {
        let _alone = self.fetching.lock().await;
        let known = self.known();
        if let Some(newer) = known.keys.filter(|keys| !Arc::ptr_eq(keys, tried)) {
            return Ok(newer);
        }
        if known.asked.is_some_and(|at| at.elapsed() < OFTEN) {
            return Ok(tried.clone());
        }
        let uri = known.jwks_uri.unwrap_or_default();
        self.lock().asked = Some(Instant::now());
        let keys = self.keys(clients, &uri).await;
        let keys =
            keys.map_err(|why| format!("failed to verify signature: fetching keys {why}"))?;
        self.lock().keys = Some(keys.clone());
        Ok(keys)
    }

    async fn discover(&self, clients: &Clients) -> Result<(), String> {
        let found = self.get(clients, &self.endpoint.discovery).await?;
        let issuer = found["issuer"].as_str().unwrap_or_default();
        if issuer != self.url() {
            return Err(format!(
                "oidc: issuer URL provided to client (\"{}\") did not match the issuer URL returned by provider (\"{issuer}\")",
                self.url()
            ));
        }
        let uri = found["jwks_uri"].as_str().unwrap_or_default();
        if !uri.starts_with("https://") {
            return Err(format!("jwks_uri \"{uri}\" is no https URL"));
        }
        let _alone = self.fetching.lock().await;
        let keys = self.keys(clients, uri).await?;
        *self.lock() =
            Known { jwks_uri: Some(uri.to_owned()), keys: Some(keys), asked: Some(Instant::now()) };
        Ok(())
    }

    async fn keys(&self, clients: &Clients, uri: &str) -> Result<Arc<Vec<Key>>, String> {
        let found = self.get(clients, uri).await?;
        let list = found["keys"].as_array().ok_or_else(|| format!("{uri} has no keys"))?;
        let keys = list.iter().filter_map(|key| {
            // Of other kinds than are known here, or for other uses: not for tokens.
            let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
            if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
                return None;
            }
            let key = DecodingKey::from_jwk(&jwk).ok()?;
            Some(Key { id: jwk.common.key_id, key })
        });
        Ok(Arc::new(keys.collect()))
    }

    async fn get(&self, clients: &Clients, url: &str) -> Result<Value, String> {
        let request = http::Request::get(url).header(http::header::ACCEPT, "application/json");
        let (status, body) = clients.send(&self.trust, request, Vec::new(), PATIENCE).await?;
        if !status.is_success() {
            return Err(format!("Get \"{url}\": {status}"));
        }
        serde_json::from_slice(&body).map_err(|error| format!("Get \"{url}\": {error}"))
    }

    fn known(&self) -> Known {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The claims, if one of the keys that are meant has signed them. Times and audiences are looked at elsewhere.
fn verified(keys: &[Key], algorithm: Algorithm, id: Option<&str>, token: &str) -> Option<Value> {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let meant = |key: &&Key| id.is_none() || key.id.is_none() || key.id.as_deref() == id;
    keys.iter()
        .filter(meant)
        .find_map(|key| jsonwebtoken::decode::<Value>(token, &key.key, &validation).ok())
        .map(|verified| verified.claims)
}
