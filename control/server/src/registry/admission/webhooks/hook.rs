//! One webhook as its configuration has it, and which requests it is for.

use std::time::Duration;

use base64::Engine as _;
use coracle_api::json::Json;
use coracle_api::selector::LabelSelector;
use coracle_api::{ApiError, Cluster, Object, kinds};
use serde_json::Value;

use crate::registry::admission::{Gv, Operation, Request};

/// The kinds that no webhook sees: else one could make itself impossible to remove.
const EXEMPT: &str = "admissionregistration.k8s.io";
/// How long one may take that does not say.
const TIMEOUT: u64 = 10;

/// See the module.
pub(super) struct Hook {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) ca: Vec<u8>,
    pub(super) timeout: Duration,
    /// Whether a request goes on when it cannot be called.
    pub(super) ignore: bool,
    /// Whether it may be called for a dry run.
    pub(super) dry: bool,
    /// Whether it is called again after others have changed what it saw.
    pub(super) again: bool,
    /// The version of `admission.k8s.io` that it is asked in.
    pub(super) review: &'static str,
    exact: bool,
    rules: Vec<Rule>,
    of_namespace: LabelSelector,
    of_object: LabelSelector,
}

struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

/// The webhooks of a configuration, in its order.
pub(super) fn of_configuration(configuration: &Object) -> Vec<Hook> {
    configuration.value().list(&["webhooks"]).iter().map(Hook::from_value).collect()
}

impl Hook {
    fn from_value(hook: &Value) -> Self {
        let client = hook.at(&["clientConfig"]).cloned().unwrap_or_default();
        let service = client.at(&["service"]);
        let url = match service {
            None => client.text(&["url"]).to_owned(),
            Some(service) => {
                let path = service.text(&["path"]).trim_start_matches('/');
                let port = service.int(&["port"]).unwrap_or(443);
                let (name, namespace) = (service.text(&["name"]), service.text(&["namespace"]));
                format!("https://{name}.{namespace}.svc:{port}/{path}")
            }
        };
        let ca = base64::engine::general_purpose::STANDARD.decode(client.text(&["caBundle"]));
        let seconds = hook.int(&["timeoutSeconds"]).and_then(|s| s.try_into().ok());
        let versions = hook.list(&["admissionReviewVersions"]);
        let review = versions.iter().find_map(|version| match version.as_str() {
            Some("v1") => Some("v1"),
            Some("v1beta1") => Some("v1beta1"),
            _ => None,
        });
        // Written ones are valid; what cannot be read all the same selects nothing.
        let selector =
            |field| LabelSelector::from_value(hook.at(&[field])).unwrap_or(LabelSelector::NOTHING);
        Self {
            name: hook.text(&["name"]).to_owned(),
            url,
            ca: ca.unwrap_or_default(),
            timeout: Duration::from_secs(seconds.unwrap_or(TIMEOUT)),
            ignore: hook.text(&["failurePolicy"]) == "Ignore",
            dry: matches!(hook.text(&["sideEffects"]), "None" | "NoneOnDryRun"),
            again: hook.text(&["reinvocationPolicy"]) == "IfNeeded",
            review: review.unwrap_or("v1"),
            exact: hook.text(&["matchPolicy"]) == "Exact",
            rules: hook.list(&["rules"]).iter().map(Rule::from_value).collect(),
            of_namespace: selector("namespaceSelector"),
            of_object: selector("objectSelector"),
        }
    }

    /// The version of the resource to call it with, if it is to be called.
    ///
    /// # Errors
    /// 404 for a namespace that there is not.
    pub(super) fn wants(
        &self,
        cluster: &Cluster,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<Option<Gv<'static>>, ApiError> {
        if request.kind.group == EXEMPT {
            return Ok(None);
        }
        let Some(resource) = self.matched(request) else { return Ok(None) };
        let labelled = |tree: Option<&Value>| {
            tree.is_some_and(|tree| self.of_object.matches_value(tree.at(&["metadata", "labels"])))
        };
        if !self.of_object.is_everything() && !labelled(new) && !labelled(old) {
            return Ok(None);
        }
        Ok(self.in_namespace(cluster, request, old, new)?.then_some(resource))
    }

    fn matched(&self, request: &Request<'_>) -> Option<Gv<'static>> {
        let (asked, stored) = (request.asked(), request.resource());
        let any =
            |resource: &Gv<'static>| self.rules.iter().any(|rule| rule.matches(request, *resource));
        let equivalent = (!self.exact).then_some(stored);
        [Some(asked), equivalent].into_iter().flatten().find(any)
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

impl Rule {
    fn from_value(rule: &Value) -> Self {
        let texts = |field: &str| {
            rule.list(&[field]).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources"),
            scope: rule.text(&["scope"]).to_owned(),
        }
    }

    fn matches(&self, request: &Request<'_>, resource: Gv<'_>) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|v| v == "*" || v == value);
        let in_scope = match self.scope.as_str() {
            "Namespaced" => request.kind.namespaced,
            "Cluster" => !request.kind.namespaced,
            _ => true,
        };
        let named = |pattern: &String| {
            let (of, sub) = pattern.split_once('/').unwrap_or((pattern, ""));
            (of == "*" || of == resource.name) && (sub == "*" || sub == request.subresource)
        };
        in_scope
            && has(&self.operations, Operation::name(request.operation))
            && has(&self.groups, resource.group)
            && has(&self.versions, resource.version)
            && self.resources.iter().any(named)
    }
}
