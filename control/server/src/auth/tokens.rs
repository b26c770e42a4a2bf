//! ServiceAccount tokens: JSON Web Tokens in the form of Kubernetes' `TokenRequest`, signed with ES256.
//!
//! A token holds as long as its ServiceAccount (and the Pod it is bound to) exists with the same UID, which is
//! looked up on every use.

use coracle_api::{ApiError, Cluster, kinds};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::PublicKeyData;
use serde::{Deserialize, Serialize};

use super::pki::{Pki, PkiError};
use super::{AUTHENTICATED, Identity};

/// Issuer, and the audience of tokens that name none.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Shortest lifetime that is granted, in seconds, as upstream.
pub const SHORTEST: i64 = 600;
/// Longest lifetime that is granted, in seconds.
const LONGEST: i64 = 365 * 24 * 3600;

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
    /// Name and UID of the node that runs the Pod, for whoever reads the token.
    pub node: Option<(&'a str, &'a str)>,
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
}

impl ServiceAccountTokens {
    /// With the cluster's key.
    pub fn new(pki: &Pki) -> Result<Self, PkiError> {
        let pem = pki.token_key()?;
        let bad = |why: String| PkiError::Content { path: "pki/sa.key".into(), why };
        let signing = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|e| bad(e.to_string()))?;
        let pair = rcgen::KeyPair::from_pem(&pem).map_err(|e| bad(e.to_string()))?;
        let verifying = DecodingKey::from_ec_der(pair.der_bytes());
        Ok(Self { signing, verifying })
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
            },
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.signing)
            .map_err(ApiError::internal)?;
        Ok(Issued { token, expires, audiences })
    }

    /// Whose token it is, and for which of `audiences` (none: the API server); one for others alone does not hold.
    pub fn verify(
        &self,
        cluster: &Cluster,
        token: &str,
        audiences: &[String],
    ) -> Result<(Identity, Vec<String>), ApiError> {
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
        let is_asked = |audience: &String| match audiences {
            [] => audience == ISSUER,
            some => some.contains(audience),
        };
        let for_whom = claims.aud.into_iter().filter(is_asked).collect();
        let Bound { namespace, serviceaccount: account, pod, node } = claims.kubernetes;
        let exists = |kind, reference: &Reference| {
            cluster
                .get(kind, &namespace, &reference.name)
                .is_some_and(|o| o.meta.uid == reference.uid)
        };
        if !exists(&kinds::SERVICE_ACCOUNT, &account)
            || pod.as_ref().is_some_and(|pod| !exists(&kinds::POD, pod))
        {
            return Err(ApiError::unauthorized());
        }
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
        let identity = Identity {
            user: user(&namespace, &account.name),
            uid: account.uid,
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.to_owned(),
            ],
            extra,
        };
        Ok((identity, for_whom))
    }
}

fn user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}
