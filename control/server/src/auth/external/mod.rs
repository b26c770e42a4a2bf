//! Callers whom others vouch for: OpenID Connect issuers, a webhook, a file of tokens. The cluster's own credentials are asked
//! first ([`super::Auth`]); who shows none at all may be anonymous, where that is configured.
//!
//! Whatever is wrong with a token, its bearer is told `Unauthorized`; a TokenReview, and this server's log, say more.

mod claims;
mod config;
mod issuer;
mod kubeconfig;
mod token_file;
mod webhook;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::ApiError;
use http::HeaderMap;

use self::config::{Anonymous, Configuration};
use self::issuer::Issuer;
use self::token_file::TokenFile;
use self::webhook::Webhook;
use super::{AUTHENTICATED, Identity, credentials};
use crate::registry::Clients;

/// What says who else is known.
#[derive(Debug, Clone, Default)]
pub struct AuthenticationOptions {
    /// An AuthenticationConfiguration.
    pub config: Option<PathBuf>,
    /// One issuer, without such a file.
    pub oidc: Option<OidcOptions>,
    /// A file of tokens: `token,user,uid,"group1,group2"`.
    pub token_file: Option<PathBuf>,
    /// A kubeconfig that says where to ask about tokens.
    pub webhook: Option<PathBuf>,
    /// How long its answers are taken for true; none: two minutes.
    pub webhook_cache: Option<Duration>,
}

/// What upstream's `--oidc-*` flags say.
#[derive(Debug, Clone, Default)]
pub struct OidcOptions {
    /// Where the issuer is.
    pub issuer_url: String,
    /// For whom tokens must be.
    pub client_id: String,
    /// What holds the user's name; none: `sub`.
    pub username_claim: Option<String>,
    /// What is put before it; none: the issuer, except for `email`; `-`: nothing.
    pub username_prefix: Option<String>,
    /// What holds the groups.
    pub groups_claim: Option<String>,
    /// What is put before them.
    pub groups_prefix: Option<String>,
    /// Claims that must have these values.
    pub required_claims: Vec<(String, String)>,
    /// Algorithms of signatures; none: RS256.
    pub signing_algs: Vec<String>,
    /// Certificates of who may have signed the issuer's; none: those that the machine trusts.
    pub ca_file: Option<PathBuf>,
}

/// Authentication by others cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// A file.
    #[error("{path} cannot be read: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What it, or a flag, says.
    #[error("{what} cannot be used: {why}")]
    Content {
        /// Which.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

/// All of them; clones share them.
#[derive(Clone)]
pub(crate) struct External {
    inner: Arc<Inner>,
}

struct Inner {
    clients: Clients,
    issuers: Vec<Issuer>,
    webhook: Option<Webhook>,
    tokens: Option<TokenFile>,
    anonymous: Anonymous,
}

impl External {
    /// As the options say.
    pub(crate) fn open(
        options: &AuthenticationOptions,
        clients: Clients,
    ) -> Result<Self, AuthenticationError> {
        let Configuration { issuers, anonymous } = Configuration::of(options)?;
        let webhook = match &options.webhook {
            Some(file) => Some(Webhook::open(file, options.webhook_cache)?),
            None => None,
        };
        let tokens = options.token_file.as_deref().map(TokenFile::open).transpose()?;
        Ok(Self { inner: Arc::new(Inner { clients, issuers, webhook, tokens, anonymous }) })
    }

    /// Finds out what issuers sign with, and goes on finding out, for ever.
    pub(crate) async fn run(self) {
        let all = self.inner.issuers.iter().map(|issuer| issuer.follow(&self.inner.clients));
        futures::future::join_all(all).await;
    }

    /// Who sends these headers, when the cluster itself does not know; `refused` if nobody does.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
        path: &str,
        refused: ApiError,
    ) -> Result<Identity, ApiError> {
        let Some(token) = credentials(headers) else {
            let shows_none = !headers.contains_key(http::header::AUTHORIZATION);
            return match shows_none && self.inner.anonymous.admits(path) {
                true => Ok(anonymous()),
                false => Err(refused),
            };
        };
        match self.review(&token).await {
            Ok(Some(identity)) => Ok(identity),
            Ok(None) => Err(refused),
            Err(why) => {
                tracing::warn!(why, "a token is not accepted");
                Err(refused)
            }
        }
    }

    /// Whose token this is, if any of them knows.
    ///
    /// # Errors
    /// Why those did not take it that it concerned.
    pub(crate) async fn review(&self, token: &str) -> Result<Option<Identity>, String> {
        if let Some(identity) = self.inner.tokens.as_ref().and_then(|tokens| tokens.find(token)) {
            return Ok(Some(authenticated(identity)));
        }
        let mut problems = Vec::new();
        if let Some(of) = issuer::of(token) {
            for issuer in self.inner.issuers.iter().filter(|issuer| issuer.url() == of) {
                match issuer.authenticate(&self.inner.clients, token).await {
                    Ok(identity) => return Ok(Some(authenticated(identity))),
                    Err(why) => problems.push(why),
                }
            }
        }
        if let Some(webhook) = &self.inner.webhook {
            match webhook.authenticate(&self.inner.clients, token).await {
                Ok(Some(identity)) => return Ok(Some(authenticated(identity))),
                Ok(None) => {}
                Err(why) => problems.push(why),
            }
        }
        match problems.is_empty() {
            true => Ok(None),
            false => Err(format!("[invalid bearer token, {}]", problems.join(", "))),
        }
    }
}

/// Nobody in particular.
fn anonymous() -> Identity {
    Identity {
        user: "system:anonymous".to_owned(),
        groups: vec!["system:unauthenticated".to_owned()],
        ..Identity::default()
    }
}

/// As a member of the group that all of them are in.
fn authenticated(mut identity: Identity) -> Identity {
    if !identity.groups.iter().any(|group| group == AUTHENTICATED) {
        identity.groups.push(AUTHENTICATED.to_owned());
    }
    identity
}

/// The content of a file that a flag or another file names.
fn read(path: &std::path::Path) -> Result<Vec<u8>, AuthenticationError> {
    std::fs::read(path)
        .map_err(|source| AuthenticationError::File { path: path.to_owned(), source })
}
