//! FlowSchemas: which priority level a request belongs to, and which flow of it.

use std::hash::{BuildHasher, Hash, Hasher};

use coracle_api::Object;
use serde::Deserialize;

use crate::auth::{Attributes, Identity};

/// One of them, read.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Name of its priority level.
    pub(crate) level: String,
    precedence: i64,
    by: Option<String>,
    rules: Vec<Rule>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Stored {
    spec: Spec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    priority_level_configuration: Named,
    matching_precedence: i64,
    distinguisher_method: Option<Method>,
    rules: Vec<Rule>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct Named {
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Method {
    r#type: String,
}

#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<PathRule>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
struct Subject {
    user: Option<Named>,
    group: Option<Named>,
    service_account: Option<Named>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
struct ResourceRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct PathRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<String>,
}

/// All that can be read, in the order in which they are tried.
pub(crate) fn read<'a>(objects: impl Iterator<Item = &'a Object>) -> Vec<Schema> {
    let mut all: Vec<Schema> = objects
        .filter_map(|object| {
            let Stored { spec } = serde_json::from_slice(object.json()).ok()?;
            Some(Schema {
                name: object.meta.name.clone(),
                uid: object.meta.uid.clone(),
                level: spec.priority_level_configuration.name,
                precedence: spec.matching_precedence,
                by: spec.distinguisher_method.map(|method| method.r#type),
                rules: spec.rules,
            })
        })
        .collect();
    all.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    all
}

impl Schema {
    /// Whether some rule of it is about that caller and that request.
    pub(crate) fn matches(&self, who: &Identity, wanted: &Attributes) -> bool {
        self.rules.iter().any(|rule| {
            rule.subjects.iter().any(|subject| subject.is(who))
                && match wanted.resource.is_empty() {
                    true => rule.non_resource_rules.iter().any(|rule| rule.covers(wanted)),
                    false => rule.resource_rules.iter().any(|rule| rule.covers(wanted)),
                }
        })
    }

    /// The flow that a request of it belongs to.
    pub(crate) fn flow(
        &self,
        hasher: &impl BuildHasher,
        who: &Identity,
        wanted: &Attributes,
    ) -> u64 {
        let mut hash = hasher.build_hasher();
        self.name.hash(&mut hash);
        match self.by.as_deref() {
            Some("ByUser") => who.user.hash(&mut hash),
            Some("ByNamespace") => wanted.namespace.hash(&mut hash),
            _ => {}
        }
        hash.finish()
    }
}

fn is_in(list: &[String], value: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == value)
}

impl Subject {
    fn is(&self, who: &Identity) -> bool {
        let named = |it: &Named, name: &str| it.name == "*" || it.name == name;
        self.user.as_ref().is_some_and(|user| named(user, &who.user))
            || self
                .group
                .as_ref()
                .is_some_and(|group| group.name == "*" || who.groups.contains(&group.name))
            || self.service_account.as_ref().is_some_and(|account| {
                let who = who.user.strip_prefix("system:serviceaccount:");
                who.and_then(|who| who.split_once(':')).is_some_and(|(namespace, name)| {
                    account.namespace == namespace && named(account, name)
                })
            })
    }
}

impl ResourceRule {
    fn covers(&self, wanted: &Attributes) -> bool {
        let resource = match wanted.subresource.as_str() {
            "" => wanted.resource.clone(),
            subresource => format!("{}/{subresource}", wanted.resource),
        };
        let place = match wanted.namespace.as_str() {
            "" => self.cluster_scope,
            namespace => is_in(&self.namespaces, namespace),
        };
        place
            && is_in(&self.verbs, &wanted.verb)
            && is_in(&self.api_groups, &wanted.group)
            && is_in(&self.resources, &resource)
    }
}

impl PathRule {
    fn covers(&self, wanted: &Attributes) -> bool {
        let path = |url: &String| match url.strip_suffix('*') {
            Some(prefix) => wanted.path.starts_with(prefix),
            None => *url == wanted.path,
        };
        is_in(&self.verbs, &wanted.verb) && self.urls.iter().any(path)
    }
}
