//! One webhook as its configuration has it, and which requests it is for.

use std::time::Duration;

use base64::Engine as _;
use coracle_api::json::Json;
use coracle_api::{ApiError, Object};
use serde_json::Value;

use crate::registry::Registry;
use crate::registry::admission::matching::{EXEMPT, Matches};
use crate::registry::admission::policies::Conditions;
use crate::registry::admission::{Gv, Request};

/// How long one may take that does not say.
const TIMEOUT: u64 = 10;

/// See the module.
pub(in crate::registry::admission) struct Hook {
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
    matches: Matches,
    conditions: Conditions,
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
        Self {
            name: hook.text(&["name"]).to_owned(),
            url,
            ca: ca.unwrap_or_default(),
            timeout: Duration::from_secs(seconds.unwrap_or(TIMEOUT)),
            ignore: hook.text(&["failurePolicy"]) == "Ignore",
            dry: matches!(hook.text(&["sideEffects"]), "None" | "NoneOnDryRun"),
            again: hook.text(&["reinvocationPolicy"]) == "IfNeeded",
            review: review.unwrap_or("v1"),
            matches: Matches::from_value(hook, "rules"),
            conditions: Conditions::from_value(hook),
        }
    }

    /// The version of the resource to call it with, if it is to be called.
    ///
    /// # Errors
    /// 404 for a namespace that there is not; 403 for conditions that cannot be decided.
    pub(super) fn wants(
        &self,
        registry: &Registry,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<Option<Gv<'static>>, ApiError> {
        if request.kind.group == EXEMPT {
            return Ok(None);
        }
        let matched = self.matches.wants(&registry.cache, request, old, new)?;
        let Some(resource) = matched else { return Ok(None) };
        match self.conditions.hold(registry, request, old, new, self.ignore) {
            Ok(hold) => Ok(hold.then_some(resource)),
            Err(why) => Err(ApiError::forbidden(request.kind, request.name, &why)),
        }
    }
}
