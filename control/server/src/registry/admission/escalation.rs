//! Nobody grants what they do not have: who writes roles needs their rules or the verb `escalate`, who binds one needs its
//! rules or the verb `bind` (Kubernetes: RBAC, "privilege escalation prevention").

use coracle_api::json::Json;
use coracle_api::{ApiError, Cluster, Kind, kinds};
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use serde_json::Value;

use crate::auth::{Attributes, Identity, MASTERS, rbac};

const GROUP: &str = "rbac.authorization.k8s.io";
/// Permissions that a refusal lists.
const LISTED: usize = 5;

/// Refuses `object`, about to be written in the place of `old`, if it grants its writer's neighbours more than the writer has.
///
/// # Errors
/// 403, naming what is missing; 404 for a binding to a role that does not exist.
pub(super) fn check(
    cluster: &Cluster,
    kind: &'static Kind,
    namespace: &str,
    identity: &Identity,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if kind.group != GROUP || identity.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    if old.is_some_and(|old| is_for_collection_only(object, old)) {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let may = |verb: &str, resource: &str, name: &str| {
        let wanted = Attributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        rbac::allows(cluster, identity, &wanted)
    };
    let rules =
        if kind.resource == kinds::ROLE.resource || kind.resource == kinds::CLUSTER_ROLE.resource {
            if may("escalate", kind.plural, name) {
                return Ok(());
            }
            let aggregates = |role: &Value| role.has(&["aggregationRule"]);
            if aggregates(object) || old.is_some_and(aggregates) {
                // What it will grant is not known yet, and what it granted may be gone from where it was gathered.
                vec![everything()]
            } else {
                read::<Vec<PolicyRule>>(&object["rules"])
            }
        } else {
            let role = read::<RoleRef>(&object["roleRef"]);
            let of = if role.kind == "ClusterRole" { &kinds::CLUSTER_ROLE } else { &kinds::ROLE };
            if may("bind", of.plural, &role.name) {
                return Ok(());
            }
            rbac::referenced(cluster, &role, namespace)
                .ok_or_else(|| ApiError::not_found(of, &role.name))?
        };
    let missing = rbac::missing(cluster, identity, namespace, &rules);
    if missing.is_empty() {
        return Ok(());
    }
    let listed: Vec<String> = missing.iter().take(LISTED).map(describe).collect();
    let more = missing.len().saturating_sub(LISTED);
    let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
    let why = format!(
        "user \"{}\" (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}{more}",
        identity.user,
        identity.groups,
        listed.join("\n")
    );
    Err(ApiError::forbidden(kind, name, &why))
}

/// Whether nothing differs but what the garbage collector needs to change so that the object may go.
fn is_for_collection_only(new: &Value, old: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                metadata.remove(field);
            }
        }
        object
    };
    rest(new) == rest(old)
}

/// A part of the object; what cannot be read is refused by validation, and grants nothing.
fn read<T: serde::de::DeserializeOwned + Default>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn everything() -> PolicyRule {
    let all = || vec!["*".to_owned()];
    PolicyRule {
        api_groups: Some(all()),
        resources: Some(all()),
        verbs: all(),
        ..PolicyRule::default()
    }
}

fn describe(wanted: &Attributes) -> String {
    let Attributes { verb, group, resource, subresource, name, path, .. } = wanted;
    if resource.is_empty() {
        return format!("{{NonResourceURLs:[{path:?}], Verbs:[{verb:?}]}}");
    }
    let resource = match subresource.as_str() {
        "" => resource.clone(),
        subresource => format!("{resource}/{subresource}"),
    };
    let names = if name.is_empty() { String::new() } else { format!(", ResourceNames:[{name:?}]") };
    format!("{{APIGroups:[{group:?}], Resources:[{resource:?}]{names}, Verbs:[{verb:?}]}}")
}
