//! Which requests a webhook, policy or binding is for: rules and selectors (`admissionregistration/v1 MatchResources`).

use coracle_api::json::Json;
use coracle_api::selector::LabelSelector;
use coracle_api::{ApiError, Cluster, Kind, kinds};
use serde_json::Value;

use super::{Gv, Operation, Request, Requested};
use crate::cache::Cache;

/// The group whose kinds neither webhooks nor policies see: else one could make itself impossible to remove.
pub(super) const EXEMPT: &str = "admissionregistration.k8s.io";

/// See the module.
pub(super) struct Matches {
    pub(super) rules: Vec<Rule>,
    exclude: Vec<Rule>,
    of_namespace: LabelSelector,
    of_object: LabelSelector,
    exact: bool,
}

pub(super) struct Rule {
    names: Vec<String>,
    operations: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) versions: Vec<String>,
    pub(super) resources: Vec<String>,
    scope: String,
}

impl Matches {
    /// Reads them; `rules` is the field that lists what is meant.
    pub(super) fn from_value(resources: &Value, rules: &str) -> Self {
        let read = |field| resources.list(&[field]).iter().map(Rule::from_value).collect();
        // Written ones are valid; what cannot be read all the same selects nothing.
        let selector = |field| match resources.at(&[field]) {
            None => LabelSelector::EVERYTHING,
            given => LabelSelector::from_value(given).unwrap_or(LabelSelector::NOTHING),
        };
        Self {
            rules: read(rules),
            exclude: read("excludeResourceRules"),
            of_namespace: selector("namespaceSelector"),
            of_object: selector("objectSelector"),
            exact: resources.text(&["matchPolicy"]) == "Exact",
        }
    }

    /// Those of a binding, which may do without rules: then all requests are meant that its policy is for.
    pub(super) fn of_binding(resources: &Value) -> Self {
        let mut read = Self::from_value(resources, "resourceRules");
        if read.rules.is_empty() {
            read.rules.push(Rule::all());
        }
        read
    }

    /// The version of the resource in which the request is one of these.
    ///
    /// # Errors
    /// 404 for a namespace that there is not.
    pub(super) fn wants(
        &self,
        cache: &Cache,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<Option<Gv<'static>>, ApiError> {
        let name = match request.name {
            "" => new.map_or("", |new| new.text(&["metadata", "name"])),
            name => name,
        };
        let matched = |rules: &[Rule]| {
            let (asked, stored) = (request.asked(), request.resource());
            let any = |gv: &Gv<'static>| rules.iter().any(|rule| rule.matches(request, *gv, name));
            if any(&asked) {
                return Some(asked);
            }
            // The same objects under other versions.
            let equivalent = || [stored].into_iter().chain(others(cache, request));
            if self.exact { None } else { equivalent().find(any) }
        };
        if matched(&self.exclude).is_some() {
            return Ok(None);
        }
        let Some(resource) = matched(&self.rules) else { return Ok(None) };
        let labelled = |tree: Option<&Value>| {
            tree.is_some_and(|tree| self.of_object.matches_value(tree.at(&["metadata", "labels"])))
        };
        if !self.of_object.is_everything() && !labelled(new) && !labelled(old) {
            return Ok(None);
        }
        Ok(self.in_namespace(&cache.read(), request, old, new)?.then_some(resource))
    }

    fn in_namespace(
        &self,
        cluster: &Cluster,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<bool, ApiError> {
        if self.of_namespace.is_everything() {
            return Ok(true);
        }
        if request.kind.resource == kinds::NAMESPACE.resource {
            let labels = new.or(old).and_then(|tree| tree.at(&["metadata", "labels"]));
            return Ok(self.of_namespace.matches_value(labels));
        }
        if !request.kind.namespaced {
            return Ok(true);
        }
        match cluster.get(&kinds::NAMESPACE, "", request.namespace) {
            Some(namespace) => Ok(self.of_namespace.matches(&namespace.meta.labels)),
            None => Err(ApiError::not_found(&kinds::NAMESPACE, request.namespace)),
        }
    }
}

/// Other versions that are served.
fn others(cache: &Cache, request: &Request<'_>) -> Vec<Gv<'static>> {
    if let Some(other) = Requested::other_of(request.kind) {
        return vec![other.resource];
    }
    let custom = request.kind.custom.then(|| cache.definitions().of(request.kind).ok().flatten());
    let versions = custom.flatten().map(|custom| custom.definition.versions.clone());
    let gv = |kind: &Kind| Gv { group: kind.group, version: kind.version, name: kind.plural };
    let served = versions.iter().flat_map(|versions| versions.iter().filter(|it| it.served));
    served.map(|version| gv(version.kind)).collect()
}

impl Rule {
    fn all() -> Self {
        let all = || vec!["*".to_owned()];
        Self {
            names: Vec::new(),
            operations: all(),
            groups: all(),
            versions: all(),
            resources: vec!["*/*".to_owned()],
            scope: String::new(),
        }
    }

    fn from_value(rule: &Value) -> Self {
        let texts = |field: &str| {
            rule.list(&[field]).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        Self {
            names: texts("resourceNames"),
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources"),
            scope: rule.text(&["scope"]).to_owned(),
        }
    }

    fn matches(&self, request: &Request<'_>, resource: Gv<'_>, name: &str) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|v| v == "*" || v == value);
        let in_scope = match self.scope.as_str() {
            "Namespaced" => request.kind.namespaced,
            "Cluster" => !request.kind.namespaced,
            _ => true,
        };
        let of_resource = |pattern: &String| {
            let (of, sub) = pattern.split_once('/').unwrap_or((pattern, ""));
            (of == "*" || of == resource.name) && (sub == "*" || sub == request.subresource)
        };
        in_scope
            && has(&self.operations, Operation::name(request.operation))
            && has(&self.groups, resource.group)
            && has(&self.versions, resource.version)
            && self.resources.iter().any(of_resource)
            && (self.names.is_empty() || self.names.iter().any(|n| n == name))
    }
}
