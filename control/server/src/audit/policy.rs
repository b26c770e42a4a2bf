//! Audit policies (`audit.k8s.io/v1 Policy`): how much is said of which request, at which stages.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::auth::{Attributes, Identity};

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    /// As events say it.
    pub(super) fn text(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// A policy cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the audit policy {file} cannot be used: {why}")]
pub struct PolicyError {
    file: String,
    why: String,
}

/// A policy, read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "anything may be said there")]
    metadata: Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What is said of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) level: Level,
    pub(crate) omit_stages: Vec<Stage>,
    pub(crate) omit_managed_fields: bool,
}

impl Policy {
    /// Of everything that it happened, and who did it.
    pub(crate) fn everything() -> Self {
        let rule = Rule {
            level: Level::Metadata,
            users: Vec::new(),
            user_groups: Vec::new(),
            verbs: Vec::new(),
            resources: Vec::new(),
            namespaces: Vec::new(),
            urls: Vec::new(),
            omit_stages: Vec::new(),
            omit_managed_fields: None,
        };
        Self {
            api_version: VERSION.into(),
            kind: "Policy".into(),
            metadata: Value::Null,
            rules: vec![rule],
            omit_stages: vec![Stage::RequestReceived],
            omit_managed_fields: false,
        }
    }

    /// From a file of YAML or JSON.
    pub(crate) fn read(file: &Path) -> Result<Self, PolicyError> {
        let fail = |why: String| PolicyError { file: file.display().to_string(), why };
        let text = std::fs::read_to_string(file).map_err(|error| fail(error.to_string()))?;
        Self::parse(&text).map_err(fail)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let policy: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != (VERSION, "Policy") {
            return Err(format!(
                "it is a {} of {}, and must be a Policy of {VERSION}",
                policy.kind, policy.api_version
            ));
        }
        if policy.rules.is_empty() {
            return Err("rules: it has none, so that nothing would be logged".into());
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if of_resources && !rule.urls.is_empty() {
                return Err(format!(
                    "rules[{i}].nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs"
                ));
            }
        }
        Ok(policy)
    }

    /// The first rule that matches decides; none: nothing is said.
    pub(crate) fn decide(&self, who: &Identity, wanted: &Attributes) -> Decision {
        let rule = self.rules.iter().find(|rule| rule.matches(who, wanted));
        Decision {
            level: rule.map_or(Level::None, |rule| rule.level),
            omit_stages: rule
                .map_or(&[][..], |rule| &rule.omit_stages)
                .iter()
                .chain(&self.omit_stages)
                .copied()
                .collect(),
            omit_managed_fields: rule
                .and_then(|rule| rule.omit_managed_fields)
                .unwrap_or(self.omit_managed_fields),
        }
    }
}

const VERSION: &str = "audit.k8s.io/v1";

impl Rule {
    fn matches(&self, who: &Identity, wanted: &Attributes) -> bool {
        let named = |list: &[String], value: &String| list.is_empty() || list.contains(value);
        let groups = self.user_groups.is_empty()
            || who.groups.iter().any(|group| self.user_groups.contains(group));
        if !named(&self.users, &who.user) || !groups || !named(&self.verbs, &wanted.verb) {
            return false;
        }
        if wanted.resource.is_empty() {
            // What is said of resources alone is not about paths.
            let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
            return !of_resources
                && (self.urls.is_empty() || self.urls.iter().any(|url| covers(url, &wanted.path)));
        }
        if !self.urls.is_empty() {
            return false;
        }
        named(&self.namespaces, &wanted.namespace)
            && (self.resources.is_empty() || self.resources.iter().any(|it| it.matches(wanted)))
    }
}

impl Resources {
    fn matches(&self, wanted: &Attributes) -> bool {
        if self.group != wanted.group {
            return false;
        }
        let Attributes { resource, subresource, name, .. } = wanted;
        let full = match subresource.as_str() {
            "" => resource.clone(),
            subresource => format!("{resource}/{subresource}"),
        };
        let is_it = |pattern: &String| {
            pattern == "*"
                || *pattern == full
                || pattern.split_once('/').is_some_and(|(of, sub)| {
                    !subresource.is_empty()
                        && (of == "*" || of == resource)
                        && (sub == "*" || sub == subresource)
                })
        };
        let named = self.resource_names.is_empty() || self.resource_names.contains(name);
        self.resources.is_empty() || (named && self.resources.iter().any(is_it))
    }
}

fn covers(url: &str, path: &str) -> bool {
    match url.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => url == path,
    }
}
