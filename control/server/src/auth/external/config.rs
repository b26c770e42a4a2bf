//! `AuthenticationConfiguration` of `apiserver.config.k8s.io`, and the flags that say the same of one issuer.

use std::path::Path;

use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::Value;

use super::claims::{self, Claims, Mapping, Rule};
use super::issuer::{Endpoint, Issuer};
use super::{AuthenticationError, AuthenticationOptions, OidcOptions, read};

const VERSIONS: [&str; 3] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1alpha1",
];
const KIND: &str = "AuthenticationConfiguration";
/// Issuers that one configuration may name, as upstream.
const MOST: usize = 64;
/// What tokens may be signed with. Upstream has ES512 beside them.
const ALGORITHMS: [(&str, Algorithm); 8] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
];

/// What is configured.
#[derive(Default)]
pub(super) struct Configuration {
    pub(super) issuers: Vec<Issuer>,
    pub(super) anonymous: Anonymous,
}

/// Whether callers may be nobody.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Anonymous {
    #[serde(default)]
    enabled: bool,
    /// Only there; nothing: everywhere.
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "anything may be said there")]
    metadata: Value,
    #[serde(default)]
    jwt: Vec<Jwt>,
    anonymous: Option<Anonymous>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Jwt {
    issuer: IssuerEntry,
    claim_validation_rules: Vec<ClaimRule>,
    claim_mappings: Mappings,
    user_validation_rules: Vec<UserRule>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct IssuerEntry {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: Option<String>,
    certificate_authority: String,
    audiences: Vec<String>,
    audience_match_policy: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ClaimRule {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct UserRule {
    expression: String,
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Mappings {
    username: Prefixed,
    groups: Prefixed,
    uid: Prefixed,
    extra: Vec<Extra>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Prefixed {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Extra {
    key: String,
    value_expression: String,
}

impl Anonymous {
    pub(super) fn admits(&self, path: &str) -> bool {
        self.enabled
            && (self.conditions.is_empty() || self.conditions.iter().any(|it| it.path == path))
    }
}

impl Configuration {
    /// From the file, or from the flags.
    pub(super) fn of(options: &AuthenticationOptions) -> Result<Self, AuthenticationError> {
        let fail = |what: String| move |why| AuthenticationError::Content { what, why };
        match (&options.config, &options.oidc) {
            (Some(_), Some(_)) => {
                let why = "it says the same as the --oidc-* flags: use one or the other";
                Err(fail("--authentication-config".into())(why.into()))
            }
            (Some(path), None) => Self::read(path),
            (None, Some(oidc)) => {
                let ca = oidc.ca_file.as_deref().map(read).transpose()?.unwrap_or_default();
                let issuer = flags(oidc, ca).map_err(fail("--oidc-issuer-url".into()))?;
                Ok(Self { issuers: vec![issuer], ..Self::default() })
            }
            (None, None) => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> Result<Self, AuthenticationError> {
        let fail = |why: String| AuthenticationError::Content {
            what: format!("the authentication configuration {}", path.display()),
            why,
        };
        let text = String::from_utf8(read(path)?).map_err(|error| fail(error.to_string()))?;
        Self::parse(&text).map_err(fail)
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if file.kind != KIND || !VERSIONS.contains(&file.api_version.as_str()) {
            return Err(format!(
                "it is a {} of {}, and must be an {KIND} of {}",
                file.kind, file.api_version, VERSIONS[0]
            ));
        }
        if file.jwt.len() > MOST {
            return Err(format!(
                "jwt: Too many: {}: must have at most {MOST} items",
                file.jwt.len()
            ));
        }
        let mut issuers: Vec<Issuer> = Vec::new();
        for (i, jwt) in file.jwt.into_iter().enumerate() {
            let at = format!("jwt[{i}]");
            let url = jwt.issuer.url.clone();
            if issuers.iter().any(|known| known.url() == url) {
                return Err(format!("{at}.issuer.url: Duplicate value: \"{url}\""));
            }
            issuers.push(jwt.compile(&at)?);
        }
        let anonymous = file.anonymous.unwrap_or_default();
        if !anonymous.enabled && !anonymous.conditions.is_empty() {
            return Err(
                "anonymous.conditions: Invalid value: enabled should be set to true when conditions are defined"
                    .into(),
            );
        }
        if let Some(i) = anonymous.conditions.iter().position(|it| it.path.is_empty()) {
            return Err(format!("anonymous.conditions[{i}].path: Required value"));
        }
        Ok(Self { issuers, anonymous })
    }
}

impl Jwt {
    fn compile(self, at: &str) -> Result<Issuer, String> {
        let endpoint = self.issuer.check(&format!("{at}.issuer"))?;
        let mut required = Vec::new();
        let mut claim_rules = Vec::new();
        let email =
            ["claims.email_verified", "claims[\"email_verified\"]", "claims['email_verified']"];
        let mut verifies_email = false;
        for (i, rule) in self.claim_validation_rules.into_iter().enumerate() {
            let at = format!("{at}.claimValidationRules[{i}]");
            match (rule.claim.is_empty(), rule.expression.is_empty()) {
                (true, true) => {
                    return Err(format!("{at}: Required value: claim or expression is required"));
                }
                (false, false) => {
                    return Err(format!(
                        "{at}: Invalid value: \"{}\": claim and expression can't both be set",
                        rule.claim
                    ));
                }
                (false, true) if !rule.message.is_empty() => {
                    return Err(format!(
                        "{at}.message: Invalid value: \"{}\": message can't be set when claim is set",
                        rule.message
                    ));
                }
                (false, true) => required.push((rule.claim, rule.required_value)),
                (true, false) if !rule.required_value.is_empty() => {
                    return Err(format!(
                        "{at}.requiredValue: Invalid value: \"{}\": requiredValue can't be set when expression is set",
                        rule.required_value
                    ));
                }
                (true, false) => {
                    verifies_email |= email.iter().any(|it| rule.expression.contains(it));
                    let compiled = Rule::of_claims(rule.expression, rule.message);
                    claim_rules.push(compiled.map_err(|why| format!("{at}.expression: {why}"))?);
                }
            }
        }
        let user_rules = self.user_validation_rules.into_iter().enumerate();
        let user_rules = user_rules.map(|(i, rule)| {
            let at = format!("{at}.userValidationRules[{i}].expression");
            if rule.expression.is_empty() {
                return Err(format!("{at}: Required value: expression is required"));
            }
            Rule::of_user(rule.expression, rule.message).map_err(|why| format!("{at}: {why}"))
        });
        let user_rules = user_rules.collect::<Result<Vec<_>, _>>()?;

        let at = format!("{at}.claimMappings");
        let Mappings { username, groups, uid, extra } = self.claim_mappings;
        verifies_email |= email.iter().any(|it| username.expression.contains(it))
            || extra.iter().any(|e| email.iter().any(|it| e.value_expression.contains(it)));
        if username.expression.contains("claims.email") && !verifies_email {
            return Err(format!(
                "{at}.username.expression: Invalid value: {:?}: claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
                username.expression
            ));
        }
        let username = username.compile(&format!("{at}.username"), true)?.ok_or_else(|| {
            format!("{at}.username: Required value: claim or expression is required")
        })?;
        let groups = groups.compile(&format!("{at}.groups"), true)?;
        let uid = uid.compile(&format!("{at}.uid"), false)?;
        let mut extras: Vec<(String, coracle_cel::Program)> = Vec::new();
        for (i, Extra { key, value_expression }) in extra.into_iter().enumerate() {
            let at = format!("{at}.extra[{i}]");
            check_key(&key, extras.iter().any(|(known, _)| *known == key))
                .map_err(|why| format!("{at}.key: {why}"))?;
            let program = claims::compile(&value_expression)
                .map_err(|why| format!("{at}.valueExpression: {why}"))?;
            extras.push((key, program));
        }
        let algorithms = ALGORITHMS.map(|(_, algorithm)| algorithm).to_vec();
        let claims =
            Claims { username, groups, uid, extra: extras, required, claim_rules, user_rules };
        Ok(Issuer::new(endpoint, algorithms, claims))
    }
}

/// Keys of `extra` are domain-prefixed, and in lower case.
fn check_key(key: &str, known: bool) -> Result<(), String> {
    if key.is_empty() {
        return Err("Required value".into());
    }
    if key != key.to_lowercase() {
        return Err(format!("Invalid value: \"{key}\": key must be lowercase"));
    }
    let Some((domain, path)) = key.split_once('/') else {
        return Err(format!(
            "Invalid value: \"{key}\": must be a domain-prefixed path (such as \"acme.io/foo\")"
        ));
    };
    if ["kubernetes.io", "k8s.io"]
        .iter()
        .any(|own| domain == *own || domain.ends_with(&format!(".{own}")))
    {
        return Err(format!(
            "Invalid value: \"{key}\": k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use"
        ));
    }
    if domain.is_empty() || path.is_empty() {
        return Err(format!(
            "Invalid value: \"{key}\": must be a domain-prefixed path (such as \"acme.io/foo\")"
        ));
    }
    if known {
        return Err(format!("Duplicate value: \"{key}\""));
    }
    Ok(())
}

impl IssuerEntry {
    fn check(self, at: &str) -> Result<Endpoint, String> {
        let url = https(&self.url).map_err(|why| format!("{at}.url: {why}"))?;
        let discovery = match self.discovery_url.filter(|url| !url.is_empty()) {
            None => format!("{}/.well-known/openid-configuration", url.trim_end_matches('/')),
            Some(other) if other.trim_end_matches('/') == url.trim_end_matches('/') => {
                return Err(format!(
                    "{at}.discoveryURL: Invalid value: \"{other}\": discoveryURL must be different from URL"
                ));
            }
            Some(other) => https(&other).map_err(|why| format!("{at}.discoveryURL: {why}"))?,
        };
        if self.audiences.is_empty() {
            return Err(format!(
                "{at}.audiences: Required value: at least one {at}.audiences is required"
            ));
        }
        if let Some(i) = self.audiences.iter().position(String::is_empty) {
            return Err(format!("{at}.audiences[{i}]: Required value: audience can't be empty"));
        }
        match self.audience_match_policy.as_str() {
            "MatchAny" => {}
            "" if self.audiences.len() == 1 => {}
            other => {
                return Err(format!(
                    "{at}.audienceMatchPolicy: Invalid value: \"{other}\": audienceMatchPolicy must be MatchAny for multiple audiences"
                ));
            }
        }
        let ca = self.certificate_authority.into_bytes();
        Ok(Endpoint { url, discovery, ca, audiences: self.audiences })
    }
}

fn https(url: &str) -> Result<String, String> {
    if url.is_empty() {
        return Err("Required value: URL is required".into());
    }
    let parsed: http::Uri =
        url.parse().map_err(|error| format!("Invalid value: \"{url}\": {error}"))?;
    if parsed.scheme_str() != Some("https") {
        return Err(format!("Invalid value: \"{url}\": URL scheme must be https"));
    }
    if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(format!(
            "Invalid value: \"{url}\": URL must not contain a username or password"
        ));
    }
    if parsed.query().is_some() {
        return Err(format!("Invalid value: \"{url}\": URL must not contain a query"));
    }
    Ok(url.to_owned())
}

impl Prefixed {
    fn compile(self, at: &str, prefixed: bool) -> Result<Option<Mapping>, String> {
        match (self.claim.is_empty(), self.expression.is_empty()) {
            (true, true) if self.prefix.is_some() => Err(format!(
                "{at}.prefix: Invalid value: prefix can't be set when claim is not set"
            )),
            (true, true) => Ok(None),
            (false, false) => {
                Err(format!("{at}: Invalid value: \"\": claim and expression can't both be set"))
            }
            (false, true) => match self.prefix {
                None if prefixed => Err(format!(
                    "{at}.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing"
                )),
                prefix => Ok(Some(Mapping::Claim {
                    claim: self.claim,
                    prefix: prefix.unwrap_or_default(),
                })),
            },
            (true, false) if self.prefix.as_ref().is_some_and(|prefix| !prefix.is_empty()) => Err(
                format!("{at}.prefix: Invalid value: prefix can't be set when expression is set"),
            ),
            (true, false) => {
                let program = claims::compile(&self.expression);
                let program = program.map_err(|why| format!("{at}.expression: {why}"))?;
                Ok(Some(Mapping::Expression(program)))
            }
        }
    }
}

/// One issuer, as the flags have it.
fn flags(oidc: &OidcOptions, ca: Vec<u8>) -> Result<Issuer, String> {
    let url = https(&oidc.issuer_url)?;
    if oidc.client_id.is_empty() {
        return Err("oidc-issuer-url and oidc-client-id must be specified together if any oidc-* flags are set".into());
    }
    let claim = oidc.username_claim.clone().unwrap_or_else(|| "sub".to_owned());
    let prefix = match oidc.username_prefix.as_deref() {
        Some("-") => String::new(),
        Some(prefix) => prefix.to_owned(),
        None if claim == "email" => String::new(),
        None => format!("{url}#"),
    };
    let mut algorithms = Vec::new();
    for name in &oidc.signing_algs {
        let known = ALGORITHMS.iter().find(|(known, _)| known == name);
        let (_, algorithm) = known.ok_or_else(|| format!("unsupported signing alg: {name:?}"))?;
        algorithms.push(*algorithm);
    }
    if algorithms.is_empty() {
        algorithms.push(Algorithm::RS256);
    }
    let groups = oidc.groups_claim.clone().map(|claim| Mapping::Claim {
        claim,
        prefix: oidc.groups_prefix.clone().unwrap_or_default(),
    });
    let claims = Claims {
        username: Mapping::Claim { claim, prefix },
        groups,
        uid: None,
        extra: Vec::new(),
        required: oidc.required_claims.clone(),
        claim_rules: Vec::new(),
        user_rules: Vec::new(),
    };
    let discovery = format!("{}/.well-known/openid-configuration", url.trim_end_matches('/'));
    let endpoint = Endpoint { url, discovery, ca, audiences: vec![oidc.client_id.clone()] };
    Ok(Issuer::new(endpoint, algorithms, claims))
}
