//! Who writes a policy must be allowed to read the objects that it names as its params: else it would tell what is in them.
//! (`authz.go` beside the strategies of `pkg/registry/admissionregistration` upstream.)

use coracle_api::json::Json;
use coracle_api::{ApiError, FieldError, Kind, kinds};
use serde_json::Value;

use crate::auth::{self, Attributes, Identity};
use crate::registry::Registry;

impl Registry {
    /// Checks what a policy or a binding says of params, where that is new.
    pub(in crate::registry::admission) fn check_params(
        &self,
        kind: &'static Kind,
        identity: &Identity,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let is = |of: &Kind| kind.resource == of.resource;
        let (field, path) =
            if is(&kinds::VALIDATING_ADMISSION_POLICY) || is(&kinds::MUTATING_ADMISSION_POLICY) {
                ("paramKind", "spec.paramKind")
            } else if is(&kinds::VALIDATING_ADMISSION_POLICY_BINDING)
                || is(&kinds::MUTATING_ADMISSION_POLICY_BINDING)
            {
                ("paramRef", "spec.paramRef")
            } else {
                return Ok(());
            };
        let Some(given) = new.at(&["spec", field]) else { return Ok(()) };
        let same = |old: &Value| {
            old.at(&["spec", field]) == Some(given)
                && (field == "paramKind"
                    || old.at(&["spec", "policyName"]) == new.at(&["spec", "policyName"]))
        };
        if old.is_some_and(same) {
            return Ok(());
        }
        let why = match field {
            "paramKind" => self.may_read_all(identity, given),
            _ => self.may_read(kind, identity, new, given),
        };
        match why {
            None => Ok(()),
            Some(why) => {
                let error = FieldError::forbidden(path, why);
                Err(ApiError::invalid(kind, new.text(&["metadata", "name"]), &[error]))
            }
        }
    }

    /// Why somebody may not read all objects of a kind.
    fn may_read_all(&self, identity: &Identity, of: &Value) -> Option<String> {
        let (version, kind) = (of.text(&["apiVersion"]), of.text(&["kind"]));
        let wanted = Attributes {
            verb: "get".into(),
            namespace: "*".into(),
            name: "*".into(),
            ..self.objects_of(Some((version, kind)))
        };
        let allowed = auth::allows(&self.cache.read(), identity, &wanted).is_ok();
        (!allowed).then(|| {
            format!(
                "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={kind}, apiVersion={version})",
                identity.user
            )
        })
    }

    /// Why somebody may not read the objects that a binding names.
    fn may_read(
        &self,
        binding: &'static Kind,
        identity: &Identity,
        new: &Value,
        named: &Value,
    ) -> Option<String> {
        let validates = binding.resource == kinds::VALIDATING_ADMISSION_POLICY_BINDING.resource;
        let policies = match validates {
            true => &kinds::VALIDATING_ADMISSION_POLICY,
            false => &kinds::MUTATING_ADMISSION_POLICY,
        };
        let policy = self.cache.get(policies, "", new.text(&["spec", "policyName"]));
        let policy = policy.map(|policy| policy.value());
        let of = policy.as_ref().and_then(|policy| policy.at(&["spec", "paramKind"]));
        let of = of.map(|of| (of.text(&["apiVersion"]), of.text(&["kind"])));
        let name = named.text(&["name"]);
        let verb = if name.is_empty() { "list" } else { "get" };
        let wanted = Attributes {
            verb: verb.into(),
            namespace: named.text(&["namespace"]).into(),
            name: name.into(),
            ..self.objects_of(of)
        };
        let allowed = auth::allows(&self.cache.read(), identity, &wanted).is_ok();
        (!allowed).then(|| {
            let user = &identity.user;
            format!("user {user} does not have \"{verb}\" permission on the object referenced by paramRef")
        })
    }

    /// Objects of a kind, as far as it is known; else any.
    fn objects_of(&self, of: Option<(&str, &str)>) -> Attributes {
        let any = || "*".to_owned();
        let Some((api_version, name)) = of else {
            return Attributes {
                group: any(),
                version: any(),
                resource: any(),
                ..Attributes::default()
            };
        };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource =
            self.kind_of(api_version, name).map_or_else(any, |kind| kind.plural.to_owned());
        let (group, version) = (group.to_owned(), version.to_owned());
        Attributes { group, version, resource, ..Attributes::default() }
    }
}
