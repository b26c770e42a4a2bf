//! Who calls, and whether they may.
//!
//! Authentication is a client certificate of the cluster's CA, a ServiceAccount token (as a bearer token, or as the
//! password of Basic authentication, which registry clients speak), or a token with which machines join; whom these do not make known,
//! [`external`] may know. Authorization is `system:masters`, then the Node authorizer, then RBAC. There is no anonymous access unless it
//! is configured: health endpoints are served before this is asked.

pub mod bootstrap;
pub(crate) mod external;
mod join_tokens;
pub(crate) mod legacy_tokens;
pub mod node;
pub mod pki;
pub mod rbac;
pub(crate) mod signer;
pub mod tokens;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use coracle_api::kinds::CERTIFICATE_SIGNING_REQUEST;
use coracle_api::{ApiError, Cluster, Object};
use coracle_controllers::Requester;
use http::HeaderMap;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

pub use self::external::{AuthenticationError, AuthenticationOptions, OidcOptions};
pub use self::join_tokens::{hash as join_token_hash, new as new_join_token};
pub use self::pki::{Pki, PkiError};
use self::tokens::ServiceAccountTokens;

/// Every authenticated caller is in this group.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of machines that join.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers";
/// The group of all nodes.
pub const NODES: &str = "system:nodes";

/// What a node must know of the cluster's network.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NetworkFacts {
    /// Tells clusters on one machine apart.
    pub cluster_id: String,
    /// The cluster's Pod range, of which that of every node is a part.
    pub pod_range: String,
    /// The cluster's Service range.
    pub service_range: String,
}

/// An authenticated caller (`authentication/v1 UserInfo`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User name.
    pub user: String,
    /// UID of the user, where known.
    pub uid: String,
    /// Groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// More, by key.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a request wants to do (`authorization/v1 ResourceAttributes` and `NonResourceAttributes`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `create`…
    pub verb: String,
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural; empty for a path that is no resource.
    pub resource: String,
    /// Subresource; empty if none.
    pub subresource: String,
    /// Namespace; empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
    /// Name; empty for collections.
    pub name: String,
    /// The path, where it is no resource.
    pub path: String,
}

/// Authentication and authorization of one cluster; cheap to clone.
#[derive(Clone)]
pub struct Auth {
    inner: Arc<Inner>,
}

struct Inner {
    pki: Pki,
    tokens: ServiceAccountTokens,
    local_token: join_tokens::LocalToken,
    network: NetworkFacts,
}

impl Auth {
    /// Keys from `data/pki`, made on the first start; `network` is told to joining nodes. The server's own certificates last
    /// `lifetime` seconds.
    pub fn open(
        data: &Path,
        names: &pki::ServingNames,
        network: NetworkFacts,
        lifetime: u64,
    ) -> Result<Self, PkiError> {
        let pki = Pki::open(&data.join("pki"), names, lifetime)?;
        let tokens = ServiceAccountTokens::new(&pki)?;
        join_tokens::remove_lasting(data);
        let local_token = join_tokens::LocalToken::default();
        Ok(Self { inner: Arc::new(Inner { pki, tokens, local_token, network }) })
    }

    /// Keys and certificates.
    pub fn pki(&self) -> &Pki {
        &self.inner.pki
    }

    /// The key that verifies ServiceAccounts' tokens, for others who do.
    pub(crate) fn token_key(&self) -> &serde_json::Value {
        self.inner.tokens.public()
    }

    /// A token with which this process' own node joins, until [`Auth::end_local_token`]; it is written nowhere.
    pub fn local_token(&self) -> String {
        self.inner.local_token.make(&self.inner.pki)
    }

    /// Ends it.
    pub fn end_local_token(&self) {
        self.inner.local_token.end();
    }

    /// Who sends these headers over a connection with that (verified) client certificate.
    ///
    /// # Errors
    /// 401 where there are no credentials, or none that hold.
    pub fn authenticate(
        &self,
        cluster: &Cluster,
        headers: &HeaderMap,
        certificate: Option<&CertificateDer<'_>>,
    ) -> Result<Identity, ApiError> {
        if let Some(certificate) = certificate {
            return pki::identity(certificate).ok_or_else(ApiError::unauthorized);
        }
        let token = credentials(headers).ok_or_else(ApiError::unauthorized)?;
        let joining = join_tokens::authenticate(cluster, &self.inner.local_token, &token);
        joining.unwrap_or_else(|| {
            self.inner.tokens.verify(cluster, &token, &[]).map(|verified| verified.identity)
        })
    }

    /// Whether that caller may do that.
    ///
    /// # Errors
    /// 403 in the words kubectl users know.
    pub fn authorize(
        &self,
        cluster: &Cluster,
        identity: &Identity,
        attributes: &Attributes,
    ) -> Result<(), ApiError> {
        allows(cluster, identity, attributes).map_err(|why| forbidden(identity, attributes, why))
    }

    /// A token for a ServiceAccount (`TokenRequest`), with its expiry.
    pub fn issue(&self, request: &tokens::Issue<'_>) -> Result<tokens::Issued, ApiError> {
        self.inner.tokens.issue(request)
    }

    /// A token without an end, which its Secret is to hold.
    pub(crate) fn issue_lasting(
        &self,
        secret: &Object,
        account: &Object,
    ) -> Result<String, ApiError> {
        self.inner.tokens.issue_lasting(secret, account)
    }

    /// Whose token this is, and for which of the audiences (`TokenReview`); none are those of the API server.
    pub fn review(
        &self,
        cluster: &Cluster,
        token: &str,
        audiences: &[String],
    ) -> Result<tokens::Verified, ApiError> {
        self.inner.tokens.verify(cluster, token, audiences)
    }

    /// What joining nodes are told of the network.
    pub fn network(&self) -> &NetworkFacts {
        &self.inner.network
    }
}

/// Whether that caller may do that; if not, what stands against it beyond that nothing grants it.
pub(crate) fn allows(
    cluster: &Cluster,
    identity: &Identity,
    attributes: &Attributes,
) -> Result<(), Option<String>> {
    if identity.groups.iter().any(|g| g == MASTERS) {
        return Ok(());
    }
    match node::authorize(cluster, identity, attributes) {
        node::Decision::Allow => Ok(()),
        node::Decision::Deny(why) => Err(Some(why)),
        node::Decision::NoOpinion if rbac::allows(cluster, identity, attributes) => Ok(()),
        node::Decision::NoOpinion => Err(None),
    }
}

/// Whether who asked for a certificate may create that subresource of certificatesigningrequests: what a
/// SubjectAccessReview would say.
pub(crate) fn may_request(cluster: &Cluster, who: &Requester, subresource: &str) -> bool {
    let Requester { username, uid, groups, extra } = who.clone();
    let identity = Identity { user: username, uid, groups, extra };
    let attributes = Attributes {
        verb: "create".to_owned(),
        group: CERTIFICATE_SIGNING_REQUEST.group.to_owned(),
        version: CERTIFICATE_SIGNING_REQUEST.version.to_owned(),
        resource: CERTIFICATE_SIGNING_REQUEST.plural.to_owned(),
        subresource: subresource.to_owned(),
        ..Attributes::default()
    };
    allows(cluster, &identity, &attributes).is_ok()
}

/// A bearer token, or the password of Basic authentication.
fn credentials(headers: &HeaderMap) -> Option<String> {
    if let Some(token) = bearer(headers) {
        return Some(token.to_owned());
    }
    let basic = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(basic.trim()).ok()?;
    let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(password.to_owned())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let header = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|t| !t.is_empty())
}

fn forbidden(identity: &Identity, attributes: &Attributes, why: Option<String>) -> ApiError {
    let user = &identity.user;
    let because = why.map(|why| format!(": {why}")).unwrap_or_default();
    let Attributes { verb, group, resource, subresource, namespace, name, path, .. } = attributes;
    if resource.is_empty() {
        let message = format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\"{because}");
        return ApiError::new(403, "Forbidden", message);
    }
    let full = match subresource.as_str() {
        "" => resource.clone(),
        subresource => format!("{resource}/{subresource}"),
    };
    let scope = match namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let named = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
    let qualified = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
    let mut error = ApiError::new(
        403,
        "Forbidden",
        format!(
            "{qualified}{named} is forbidden: User \"{user}\" cannot {verb} resource \"{full}\" in API group \"{group}\" {scope}{because}"
        ),
    );
    error.details = Some(Box::new(coracle_api::status::Details {
        name: name.clone(),
        group: group.clone(),
        kind: resource.clone(),
        ..Default::default()
    }));
    error
}

#[cfg(test)]
mod tests;
