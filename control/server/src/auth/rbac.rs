//! Role-based access control (`rbac.authorization.k8s.io/v1`): bindings grant the rules of roles to subjects.

use coracle_api::{Cluster, Kind, Object, kinds};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use super::{Attributes, Identity};

/// Whether some rule that the caller has covers what it wants.
pub fn allows(cluster: &Cluster, identity: &Identity, wanted: &Attributes) -> bool {
    let mut allowed = false;
    visit(cluster, identity, &wanted.namespace, |rule| {
        allowed = covers(rule, wanted);
        !allowed
    });
    allowed
}

/// What of `rules` the caller does not have itself in a namespace; nobody may grant that (`escalate` and `bind` aside).
pub fn missing(
    cluster: &Cluster,
    identity: &Identity,
    namespace: &str,
    rules: &[PolicyRule],
) -> Vec<Attributes> {
    let held = self::rules(cluster, identity, namespace);
    let single = rules.iter().flat_map(single_permissions);
    single.filter(|wanted| !held.iter().any(|rule| covers(rule, wanted))).collect()
}

/// A rule as the single permissions that it grants. `*` stays: it is covered by `*` alone.
fn single_permissions(rule: &PolicyRule) -> Vec<Attributes> {
    let list = |values: &Option<Vec<String>>| values.clone().unwrap_or_default();
    let mut all = Vec::new();
    for verb in &rule.verbs {
        for path in list(&rule.non_resource_urls) {
            all.push(Attributes { verb: verb.clone(), path, ..Attributes::default() });
        }
        for group in list(&rule.api_groups) {
            for resource in list(&rule.resources) {
                let mut names = list(&rule.resource_names);
                if names.is_empty() {
                    names.push(String::new());
                }
                let (resource, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
                all.extend(names.into_iter().map(|name| Attributes {
                    verb: verb.clone(),
                    group: group.clone(),
                    resource: resource.to_owned(),
                    subresource: subresource.to_owned(),
                    name,
                    ..Attributes::default()
                }));
            }
        }
    }
    all
}

/// The rules of the role that a binding in `namespace` refers to; `None` if there is no such role.
pub fn referenced(cluster: &Cluster, role: &RoleRef, namespace: &str) -> Option<Vec<PolicyRule>> {
    let get = |kind: &Kind, namespace: &str| cluster.get(kind, namespace, &role.name).cloned();
    match role.kind.as_str() {
        "ClusterRole" => {
            get(&kinds::CLUSTER_ROLE, "").map(|r| decode_cluster_role(&r).unwrap_or_default())
        }
        "Role" if !namespace.is_empty() => {
            let role = get(&kinds::ROLE, namespace)?;
            Some(role.decode::<Role>().ok()?.into_owned().rules.unwrap_or_default())
        }
        _ => None,
    }
}

/// Every rule that the caller has in a namespace (`SelfSubjectRulesReview`).
pub fn rules(cluster: &Cluster, identity: &Identity, namespace: &str) -> Vec<PolicyRule> {
    let mut rules = Vec::new();
    visit(cluster, identity, namespace, |rule| {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
        true
    });
    rules
}

/// Shows the caller's rules to `each` until it says no: those bound cluster-wide, then those bound in the namespace.
fn visit(
    cluster: &Cluster,
    identity: &Identity,
    namespace: &str,
    mut each: impl FnMut(&PolicyRule) -> bool,
) {
    for binding in cluster.list(&kinds::CLUSTER_ROLE_BINDING) {
        let Ok(binding) = binding.decode::<ClusterRoleBinding>() else { continue };
        if applies(binding.subjects.as_deref(), identity, "")
            && !role_rules(cluster, &binding.role_ref, "", &mut each)
        {
            return;
        }
    }
    if namespace.is_empty() {
        return;
    }
    for binding in cluster.list_in(&kinds::ROLE_BINDING, namespace) {
        let Ok(binding) = binding.decode::<RoleBinding>() else { continue };
        if applies(binding.subjects.as_deref(), identity, namespace)
            && !role_rules(cluster, &binding.role_ref, namespace, &mut each)
        {
            return;
        }
    }
}

fn role_rules(
    cluster: &Cluster,
    role: &RoleRef,
    namespace: &str,
    each: &mut impl FnMut(&PolicyRule) -> bool,
) -> bool {
    let rules = referenced(cluster, role, namespace);
    rules.iter().flatten().all(each)
}

fn decode_cluster_role(role: &Object) -> Option<Vec<PolicyRule>> {
    role.decode::<ClusterRole>().ok()?.into_owned().rules
}

fn applies(subjects: Option<&[Subject]>, identity: &Identity, namespace: &str) -> bool {
    subjects.unwrap_or_default().iter().any(|subject| match subject.kind.as_str() {
        "User" => subject.name == identity.user,
        "Group" => identity.groups.contains(&subject.name),
        "ServiceAccount" => {
            let namespace = subject.namespace.as_deref().unwrap_or(namespace);
            identity
                .user
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|(ns, name)| ns == namespace && name == subject.name)
        }
        _ => false,
    })
}

fn covers(rule: &PolicyRule, wanted: &Attributes) -> bool {
    let has = |list: Option<&Vec<String>>, value: &str| {
        list.into_iter().flatten().any(|entry| entry == "*" || entry == value)
    };
    if !has(Some(&rule.verbs), &wanted.verb) {
        return false;
    }
    if wanted.resource.is_empty() {
        return rule.non_resource_urls.iter().flatten().any(|url| match url.strip_suffix('*') {
            Some(prefix) => wanted.path.starts_with(prefix),
            None => *url == wanted.path,
        });
    }
    let resource = rule.resources.iter().flatten().any(|entry| {
        if entry == "*" {
            return true;
        }
        match (entry.split_once('/'), wanted.subresource.as_str()) {
            (None, "") => *entry == wanted.resource,
            (Some((resource, sub)), subresource) if !subresource.is_empty() => {
                (resource == "*" || resource == wanted.resource) && sub == subresource
            }
            _ => false,
        }
    });
    let named = match rule.resource_names.as_deref() {
        None | Some([]) => true,
        Some(names) => !wanted.name.is_empty() && names.contains(&wanted.name),
    };
    resource && named && has(rule.api_groups.as_ref(), &wanted.group)
}
