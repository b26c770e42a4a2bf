//! Who asks, and may they: a CA of its own, client certificates, and what they may do.
//!
//! Certificates name the user in CN and its groups in O. `system:masters` may do everything.

mod pki;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use coracle_api::{ApiError, Cluster};
use http::request::Parts;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Who makes a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User name, such as `system:node:a`.
    pub user: String,
    /// UID, where the user has one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Anything else that authenticators say.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a request wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `create`…; the lower-case HTTP method for paths that are no resources.
    pub verb: String,
    /// API group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural; empty for paths that are no resources.
    pub resource: String,
    /// Subresource, such as `status`.
    pub subresource: String,
    /// Namespace; empty for all and for cluster-scoped.
    pub namespace: String,
    /// Name; empty for collections.
    pub name: String,
    /// The path, for what is no resource.
    pub path: String,
}

/// Why authentication could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A file could not be read or written.
    #[error("{path}: {source}: check the data folder")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate could not be made or used.
    #[error("making certificates failed: {0}")]
    Certificate(String),
}

/// Authentication and authorization.
pub struct Auth {
    pki: pki::Pki,
}

impl Auth {
    /// Opens what lies in the data folder, making it on the first start.
    pub fn open(data: &Path, addresses: &[std::net::IpAddr]) -> Result<Self, AuthError> {
        Ok(Self { pki: pki::Pki::open(data, addresses)? })
    }

    /// How the server speaks TLS.
    pub fn server_tls(&self) -> Arc<ServerConfig> {
        self.pki.server.clone()
    }

    /// How the server speaks TLS to agents.
    pub fn kubelet_tls(&self) -> Arc<ClientConfig> {
        self.pki.client.clone()
    }

    /// Writes the admin's kubeconfig for a server that answers at `url`.
    pub fn write_kubeconfig(&self, data: &Path, url: &str) -> Result<(), AuthError> {
        self.pki.write_kubeconfig(data, url)
    }

    /// Who makes this request.
    pub fn authenticate(
        &self,
        _cluster: &Cluster,
        _parts: &Parts,
        peer: Option<&CertificateDer<'static>>,
    ) -> Result<Identity, ApiError> {
        let Some(peer) = peer else {
            return Ok(Identity {
                user: "system:anonymous".into(),
                groups: vec!["system:unauthenticated".into()],
                ..Identity::default()
            });
        };
        let (_, certificate) =
            X509Certificate::from_der(peer).map_err(|_| ApiError::unauthorized())?;
        let texts = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let subject = certificate.subject();
        let user = texts(subject.iter_common_name().filter_map(|n| n.as_str().ok()).collect());
        let mut groups =
            texts(subject.iter_organization().filter_map(|n| n.as_str().ok()).collect());
        groups.push("system:authenticated".into());
        let user = user.into_iter().next().ok_or_else(ApiError::unauthorized)?;
        Ok(Identity { user, groups, ..Identity::default() })
    }

    /// Whose token this is.
    pub fn authenticate_token(
        &self,
        _cluster: &Cluster,
        _token: &str,
    ) -> Result<Identity, ApiError> {
        Err(ApiError::unauthorized())
    }

    /// Whether it may.
    pub fn authorize(
        &self,
        _cluster: &Cluster,
        identity: &Identity,
        attributes: &Attributes,
    ) -> Result<(), ApiError> {
        let public = ["/healthz", "/livez", "/readyz", "/version"];
        let masters = identity.groups.iter().any(|group| group == "system:masters");
        if masters || public.contains(&attributes.path.as_str()) {
            return Ok(());
        }
        let what = if attributes.resource.is_empty() {
            format!("path \"{}\"", attributes.path)
        } else {
            format!("resource \"{}\" in API group \"{}\"", attributes.resource, attributes.group)
        };
        Err(ApiError::new(
            403,
            "Forbidden",
            format!("forbidden: User \"{}\" cannot {} {what}", identity.user, attributes.verb),
        ))
    }

    /// `SelfSubjectRulesReview.status`.
    pub fn rules(&self, _cluster: &Cluster, _identity: &Identity, _namespace: &str) -> Value {
        json!({"resourceRules": [], "nonResourceRules": [], "incomplete": true})
    }
}
