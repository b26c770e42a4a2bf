//! ServiceAccount tokens: JSON Web Tokens in the form of Kubernetes' `TokenRequest`, signed with ES256.
//!
//! A token holds as long as its ServiceAccount (and what it is bound to: a Pod, a Secret or a Node) exists with the same UID,
//! which is looked up on every use. Tokens that [`super::legacy_tokens`] puts into Secrets have an older form, and no end.

use coracle_api::{ApiError, Cluster, Kind, Object, kinds};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::PublicKeyData;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::pki::{Pki, PkiError};
use super::{AUTHENTICATED, Identity};

/// Issuer, and the audience of tokens that name none.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Shortest lifetime that is granted, in seconds, as upstream.
pub const SHORTEST: i64 = 600;
/// Longest lifetime that is granted, in seconds.
const LONGEST: i64 = 365 * 24 * 3600;

/// Issuer of tokens in Secrets.
const LASTING_ISSUER: &str = "kubernetes/serviceaccount";
/// Marks Secrets whose tokens hold no more, as upstream.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// How long tokens still hold of what is being deleted, after its grace period, as upstream.
const GRACE: i64 = 60;

/// What to issue.
#[derive(Debug)]
pub struct Issue<'a> {
    /// The ServiceAccount's namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// For whom; empty: the API server.
    pub audiences: Vec<String>,
    /// Lifetime in seconds, brought within the limits.
    pub seconds: i64,
    /// Name and UID of the Pod it is bound to, if any.
    pub pod: Option<(&'a str, &'a str)>,
    /// Name and UID of the node that runs the Pod, for whoever reads the token; without a Pod, of that which it is bound to.
    pub node: Option<(&'a str, &'a str)>,
    /// Name and UID of the Secret that it is bound to, if any.
    pub secret: Option<(&'a str, &'a str)>,
}

/// An issued token.
#[derive(Debug)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// When it ends.
    pub expires: Timestamp,
    /// For whom it is.
    pub audiences: Vec<String>,
}

/// Whose a token is.
#[derive(Debug)]
pub struct Verified {
    /// Who.
    pub identity: Identity,
    /// For which of the audiences that were asked about it is.
    pub audiences: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct LastingClaims {
    iss: String,
    sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    iss: String,
    jti: String,
    sub: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

#[derive(Serialize, Deserialize)]
struct Bound {
    namespace: String,
    serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
}

#[derive(Serialize, Deserialize)]
struct Reference {
    name: String,
    uid: String,
}

/// Issues and verifies.
pub struct ServiceAccountTokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    /// For others, who verify tokens themselves: a JSON Web Key.
    public: Value,
}

impl ServiceAccountTokens {
    /// With the cluster's key.
    pub fn new(pki: &Pki) -> Result<Self, PkiError> {
        let pem = pki.token_key()?;
        let bad = |why: String| PkiError::Content { path: "pki/sa.key".into(), why };
        let signing = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|e| bad(e.to_string()))?;
        let pair = rcgen::KeyPair::from_pem(&pem).map_err(|e| bad(e.to_string()))?;
        let verifying = DecodingKey::from_ec_der(pair.der_bytes());
        let public = public_key(pair.der_bytes());
        Ok(Self { signing, verifying, public })
    }

    /// The key that verifies tokens, as JSON Web Key.
    pub fn public(&self) -> &Value {
        &self.public
    }

    /// The head of tokens, which names their key.
    fn header(&self) -> Header {
        let kid = self.public["kid"].as_str().map(str::to_owned);
        Header { kid, ..Header::new(Algorithm::ES256) }
    }

    /// A token for a ServiceAccount.
    pub fn issue(&self, request: &Issue<'_>) -> Result<Issued, ApiError> {
        let now = Timestamp::now();
        let seconds = request.seconds.clamp(SHORTEST, LONGEST);
        let expires = now + SignedDuration::from_secs(seconds);
        let audiences = match request.audiences.is_empty() {
            true => vec![ISSUER.to_owned()],
            false => request.audiences.clone(),
        };
        let reference =
            |(name, uid): (&str, &str)| Reference { name: name.into(), uid: uid.into() };
        let claims = Claims {
            aud: audiences.clone(),
            exp: expires.as_second(),
            iat: now.as_second(),
            nbf: now.as_second(),
            iss: ISSUER.to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: user(request.namespace, request.name),
            kubernetes: Bound {
                namespace: request.namespace.to_owned(),
                serviceaccount: Reference {
                    name: request.name.to_owned(),
                    uid: request.uid.to_owned(),
                },
                pod: request.pod.map(reference),
                node: request.node.map(reference),
                secret: request.secret.map(reference),
            },
        };
        let token = jsonwebtoken::encode(&self.header(), &claims, &self.signing)
            .map_err(ApiError::internal)?;
        Ok(Issued { token, expires, audiences })
    }

    /// Whose token it is, and for which of `audiences` (none: the API server); one for others alone does not hold.
    pub fn verify(
        &self,
        cluster: &Cluster,
        token: &str,
        audiences: &[String],
    ) -> Result<Verified, ApiError> {
        if let Some(found) = self.verify_lasting(cluster, token, audiences) {
            return found;
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        match audiences {
            [] => validation.set_audience(&[ISSUER]),
            some => validation.set_audience(some),
        }
        validation.validate_nbf = true;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation)
            .map_err(|_| ApiError::unauthorized())?
            .claims;
        let Bound { namespace, serviceaccount: account, pod, node, secret } = claims.kubernetes;
        let holds = |kind: &Kind, reference: &Reference| {
            let namespace = if kind.namespaced { namespace.as_str() } else { "" };
            let found = cluster.get(kind, namespace, &reference.name);
            found.is_some_and(|it| it.meta.uid == reference.uid && !is_gone(it))
        };
        // Of a Pod's token, the node is told; without a Pod, it is what the token is bound to.
        let machine = node.as_ref().filter(|_| pod.is_none() && secret.is_none());
        if !holds(&kinds::SERVICE_ACCOUNT, &account)
            || pod.as_ref().is_some_and(|pod| !holds(&kinds::POD, pod))
            || secret.as_ref().is_some_and(|secret| !holds(&kinds::SECRET, secret))
            || machine.is_some_and(|node| !holds(&kinds::NODE, node))
        {
            return Err(ApiError::unauthorized());
        }
        let audiences = match audiences {
            [] => vec![ISSUER.to_owned()],
            asked => asked.iter().filter(|it| claims.aud.contains(it)).cloned().collect(),
        };
        let mut extra = std::collections::BTreeMap::new();
        extra.insert(
            "authentication.kubernetes.io/credential-id".to_owned(),
            vec![format!("JTI={}", claims.jti)],
        );
        if let Some(pod) = pod {
            extra.insert("authentication.kubernetes.io/pod-name".to_owned(), vec![pod.name]);
            extra.insert("authentication.kubernetes.io/pod-uid".to_owned(), vec![pod.uid]);
        }
        if let Some(node) = node {
            extra.insert("authentication.kubernetes.io/node-name".to_owned(), vec![node.name]);
            extra.insert("authentication.kubernetes.io/node-uid".to_owned(), vec![node.uid]);
        }
        let identity = Identity { extra, ..identity(&namespace, &account.name, account.uid) };
        Ok(Verified { identity, audiences })
    }

    /// A token without an end, for a ServiceAccount, which the Secret is to hold.
    pub(super) fn issue_lasting(
        &self,
        secret: &Object,
        account: &Object,
    ) -> Result<String, ApiError> {
        let (namespace, name) = (account.meta.namespace.clone(), account.meta.name.clone());
        let claims = LastingClaims {
            iss: LASTING_ISSUER.to_owned(),
            sub: user(&namespace, &name),
            namespace,
            secret: secret.meta.name.clone(),
            account: name,
            uid: account.meta.uid.clone(),
        };
        jsonwebtoken::encode(&self.header(), &claims, &self.signing).map_err(ApiError::internal)
    }

    /// The same for tokens in Secrets; none if it is no such token.
    fn verify_lasting(
        &self,
        cluster: &Cluster,
        token: &str,
        audiences: &[String],
    ) -> Option<Result<Verified, ApiError>> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[LASTING_ISSUER]);
        validation.set_required_spec_claims(&["iss", "sub"]);
        (validation.validate_exp, validation.validate_aud) = (false, false);
        let read = jsonwebtoken::decode::<LastingClaims>(token, &self.verifying, &validation);
        let LastingClaims { namespace, secret, account, uid, .. } = read.ok()?.claims;
        let found = cluster.get(&kinds::SERVICE_ACCOUNT, &namespace, &account);
        let is_account = found.is_some_and(|it| it.meta.uid == uid && !is_gone(it));
        let secret = cluster.get(&kinds::SECRET, &namespace, &secret);
        let holds = secret.is_some_and(|secret| {
            use base64::Engine;
            let kept = secret.value()["data"]["token"].as_str().map(str::to_owned);
            let kept = base64::engine::general_purpose::STANDARD.decode(kept.unwrap_or_default());
            kept.is_ok_and(|kept| kept == token.as_bytes())
                && !secret.meta.labels.contains_key(INVALID_SINCE)
                && secret.meta.deletion_timestamp.is_none()
        });
        let own = audiences.is_empty() || audiences.iter().any(|it| it == ISSUER);
        if !is_account || !holds || !own {
            return Some(Err(ApiError::unauthorized()));
        }
        let identity = identity(&namespace, &account, uid);
        Some(Ok(Verified { identity, audiences: vec![ISSUER.to_owned()] }))
    }
}

/// A key on P-256 from its point: an octet that says that it is written in full, and the two numbers.
fn public_key(point: &[u8]) -> Value {
    use base64::Engine;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let (x, y) = point.get(1..).unwrap_or_default().split_at(point.len() / 2);
    json!({
        "use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256",
        "kid": encode(&Sha256::digest(point)), "x": encode(x), "y": encode(y),
    })
}

fn identity(namespace: &str, name: &str, uid: String) -> Identity {
    Identity {
        user: user(namespace, name),
        uid,
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            AUTHENTICATED.to_owned(),
        ],
        ..Identity::default()
    }
}

/// Its deletion was asked for, and should be over by now.
fn is_gone(object: &Object) -> bool {
    let ends = object.meta.deletion_timestamp;
    ends.is_some_and(|ends| ends + SignedDuration::from_secs(GRACE) < Timestamp::now())
}

fn user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}
