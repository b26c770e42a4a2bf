//! Flags that say who else is known than whom the cluster knows itself.

use std::path::PathBuf;

use coracle_server::{AuthenticationOptions, OidcOptions};
use jiff::SignedDuration;

use crate::token;

/// Upstream's flags, by upstream's names.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct AuthenticationArgs {
    /// Who is known by OpenID Connect, and whether callers may be nobody: an AuthenticationConfiguration of
    /// apiserver.config.k8s.io/v1
    #[arg(long, value_name = "FILE", conflicts_with = "oidc_issuer_url")]
    pub authentication_config: Option<PathBuf>,
    /// URL of an OpenID Connect issuer whose tokens are taken
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    pub oidc_issuer_url: Option<String>,
    /// For whom its tokens must be
    #[arg(long, value_name = "ID", requires = "oidc_issuer_url")]
    pub oidc_client_id: Option<String>,
    /// Claim that is the user's name [default: sub]
    #[arg(long, value_name = "CLAIM", requires = "oidc_issuer_url")]
    pub oidc_username_claim: Option<String>,
    /// What is put before it; - is nothing [default: the issuer's URL and #, but nothing before email]
    #[arg(long, value_name = "TEXT", requires = "oidc_issuer_url", allow_hyphen_values = true)]
    pub oidc_username_prefix: Option<String>,
    /// Claim that lists the user's groups
    #[arg(long, value_name = "CLAIM", requires = "oidc_issuer_url")]
    pub oidc_groups_claim: Option<String>,
    /// What is put before them
    #[arg(long, value_name = "TEXT", requires = "oidc_issuer_url")]
    pub oidc_groups_prefix: Option<String>,
    /// A claim that must have that value; may be given several times
    #[arg(long, value_name = "CLAIM=VALUE", requires = "oidc_issuer_url", value_parser = pair)]
    pub oidc_required_claim: Vec<(String, String)>,
    /// Algorithms of signatures that are taken [default: RS256]
    #[arg(long, value_name = "ALGORITHMS", requires = "oidc_issuer_url", value_delimiter = ',')]
    pub oidc_signing_algs: Vec<String>,
    /// Certificates that the issuer's must be signed with [default: those that this machine trusts]
    #[arg(long, value_name = "FILE", requires = "oidc_issuer_url")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Kubeconfig of a webhook that is asked, by TokenReview, whose a token is
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long its answers hold
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = token::parse_duration)]
    pub authentication_token_webhook_cache_ttl: SignedDuration,
    /// File of tokens that are taken: token,user,uid,"group1,group2"
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
}

impl AuthenticationArgs {
    /// As the server takes them.
    pub(crate) fn options(&self) -> AuthenticationOptions {
        let oidc = self.oidc_issuer_url.clone().map(|issuer_url| OidcOptions {
            issuer_url,
            client_id: self.oidc_client_id.clone().unwrap_or_default(),
            username_claim: self.oidc_username_claim.clone(),
            username_prefix: self.oidc_username_prefix.clone(),
            groups_claim: self.oidc_groups_claim.clone(),
            groups_prefix: self.oidc_groups_prefix.clone(),
            required_claims: self.oidc_required_claim.clone(),
            signing_algs: self.oidc_signing_algs.clone(),
            ca_file: self.oidc_ca_file.clone(),
        });
        AuthenticationOptions {
            config: self.authentication_config.clone(),
            oidc,
            token_file: self.token_auth_file.clone(),
            webhook: self.authentication_token_webhook_config_file.clone(),
            webhook_cache: Some(self.authentication_token_webhook_cache_ttl.unsigned_abs()),
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (claim, value) = text.split_once('=').ok_or("write it as CLAIM=VALUE")?;
    Ok((claim.to_owned(), value.to_owned()))
}
