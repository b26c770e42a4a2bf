//! `/api`, `/apis` and below: what is served, from the table of kinds. Plain and aggregated.

use std::borrow::Cow;
use std::cmp::Ordering::Equal;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_api::custom::Definition;
use coracle_api::json::Json as _;
use coracle_api::kinds::{self, Subresource};
use coracle_api::{ApiError, Kind};
use http::HeaderMap;
use http::header::{ACCEPT, VARY};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::aggregation::Remotes;
use crate::custom::{self, Table};

use super::answer::{bytes_response, json_response};
use super::components;
use super::other_versions;
use super::request::not_found_here;
use super::reviews::{self, Review};
use super::usage;

/// Of what definitions define, as their APIServices say.
const GROUP_PRIORITY: i64 = 1000;
const VERSION_PRIORITY: i64 = 100;

const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];

/// Group, version and kind.
type GroupVersionKind = (&'static str, &'static str, &'static str);

/// One served resource or subresource, in neutral form.
struct Served {
    name: &'static str,
    singular: &'static str,
    /// Group, version and kind of what it takes and gives.
    kind: GroupVersionKind,
    namespaced: bool,
    verbs: Vec<&'static str>,
    short_names: Vec<Cow<'static, str>>,
    categories: Vec<Cow<'static, str>>,
    /// Stands for how it is stored, if it is.
    storage_hash: String,
    /// Name, what it takes and gives, and its verbs.
    subresources: Vec<(&'static str, GroupVersionKind, Vec<&'static str>)>,
}

/// Groups with each of their versions, core first, then in the order of the table; of a group's versions the preferred one
/// first.
pub(crate) fn groups(custom: &Table) -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<(&str, &str)> = Vec::new();
    let kinds = kinds::ALL.iter().map(|kind| (kind.group, kind.version));
    let reviews = reviews::ALL.iter().map(|review| (review.group, "v1"));
    for group in kinds
        .chain(other_versions::ALL.iter().map(|other| (other.group, other.version)))
        .chain(reviews)
        .chain([(usage::GROUP, usage::VERSION)])
        .chain(custom.groups())
    {
        if !all.contains(&group) {
            all.push(group);
        }
    }
    all
}

fn served(custom: &Table, group: &str, version: &str) -> Vec<Served> {
    let mut all: Vec<Served> = kinds::ALL
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .map(|kind| of_kind(kind))
        .collect();
    all.extend(other_versions::in_group(group, version).map(|other| Served {
        kind: (other.group, other.version, other.kind.kind),
        ..of_kind(other.kind)
    }));
    if (group, version) == (usage::GROUP, usage::VERSION) {
        all.extend(usage::ALL.iter().map(of_usage));
    }
    if (group, version) == ("", "v1") {
        all.push(of_components());
    }
    all.extend(reviews::ALL.iter().filter(|r| r.group == group && version == "v1").map(of_review));
    all.extend(custom.in_group(group, version).iter().map(of_custom));
    all
}

fn of_custom(custom: &custom::Served) -> Served {
    let definition = &custom.definition;
    Served {
        short_names: definition.short_names.iter().cloned().map(Into::into).collect(),
        categories: definition.categories.iter().cloned().map(Into::into).collect(),
        storage_hash: definition.storage().map(|version| hash(version.kind)).unwrap_or_default(),
        ..of_kind(custom.kind())
    }
}

fn of_kind(kind: &'static Kind) -> Served {
    let own = (kind.group, kind.version, kind.kind);
    let mut verbs = VERBS.to_vec();
    if kind.resource == kinds::NAMESPACE.resource {
        verbs.retain(|verb| *verb != "deletecollection");
    }
    let subresources = kind
        .subresources
        .iter()
        .map(|subresource| match subresource {
            Subresource::Status => ("status", own, vec!["get", "patch", "update"]),
            Subresource::Scale => {
                ("scale", ("autoscaling", "v1", "Scale"), vec!["get", "patch", "update"])
            }
            Subresource::Log => ("log", own, vec!["get"]),
            Subresource::Binding => ("binding", ("", "v1", "Binding"), vec!["create"]),
            Subresource::Eviction => ("eviction", ("policy", "v1", "Eviction"), vec!["create"]),
            Subresource::EphemeralContainers => {
                ("ephemeralcontainers", own, vec!["get", "patch", "update"])
            }
            Subresource::Resize => ("resize", own, vec!["get", "patch", "update"]),
            Subresource::Exec => ("exec", ("", "v1", "PodExecOptions"), vec!["create", "get"]),
            Subresource::Attach => {
                ("attach", ("", "v1", "PodAttachOptions"), vec!["create", "get"])
            }
            Subresource::PortForward => {
                ("portforward", ("", "v1", "PodPortForwardOptions"), vec!["create", "get"])
            }
            Subresource::Finalize => ("finalize", own, vec!["update"]),
            Subresource::Approval => ("approval", own, vec!["get", "patch", "update"]),
            Subresource::Token => {
                ("token", ("authentication.k8s.io", "v1", "TokenRequest"), vec!["create"])
            }
        })
        .chain(proxied(kind).map(|options| ("proxy", ("", "v1", options), PROXY_VERBS.to_vec())))
        .collect();
    Served {
        name: kind.plural,
        singular: kind.singular,
        kind: own,
        namespaced: kind.namespaced,
        verbs,
        short_names: kind.short_names.iter().map(|name| (*name).into()).collect(),
        categories: kind.categories.iter().map(|name| (*name).into()).collect(),
        storage_hash: hash(kind),
        subresources,
    }
}

/// As upstream has it, so that clients that remember it see a change where there is one.
fn hash(kind: &Kind) -> String {
    let digest = Sha256::digest(format!("{}/{}/{}", kind.group, kind.version, kind.kind));
    STANDARD.encode(&digest[..8])
}

/// What `proxy` takes, of a kind that has it.
fn proxied(kind: &Kind) -> Option<&'static str> {
    match kind.resource {
        "nodes" => Some("NodeProxyOptions"),
        "pods" => Some("PodProxyOptions"),
        "services" => Some("ServiceProxyOptions"),
        _ => None,
    }
}

fn of_usage(it: &(&'static str, &'static str, &'static str, bool)) -> Served {
    let (name, singular, kind, namespaced) = *it;
    Served {
        name,
        singular,
        kind: (usage::GROUP, usage::VERSION, kind),
        namespaced,
        verbs: vec!["get", "list"],
        short_names: Vec::new(),
        categories: Vec::new(),
        storage_hash: String::new(),
        subresources: Vec::new(),
    }
}

fn of_components() -> Served {
    Served {
        name: components::RESOURCE,
        singular: components::SINGULAR,
        kind: ("", "v1", components::KIND),
        namespaced: false,
        verbs: vec!["get", "list"],
        short_names: vec![components::SHORT_NAME.into()],
        categories: Vec::new(),
        storage_hash: String::new(),
        subresources: Vec::new(),
    }
}

fn of_review(review: &Review) -> Served {
    Served {
        name: review.resource,
        singular: review.singular,
        kind: (review.group, "v1", review.kind),
        namespaced: review.namespaced,
        verbs: vec!["create"],
        short_names: Vec::new(),
        categories: Vec::new(),
        storage_hash: String::new(),
        subresources: Vec::new(),
    }
}

/// `/api`.
pub(crate) fn core_versions(custom: &Table, remotes: &Remotes, headers: &HeaderMap) -> Response {
    aggregated(custom, remotes, headers, |group| group.is_empty()).unwrap_or_else(|| {
        json_response(
            200,
            &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        )
    })
}

/// Groups with all their versions: built-in ones, then those of definitions and of other API servers as their APIServices'
/// priorities have it.
fn versions(custom: &Table, remotes: &Remotes) -> Vec<(String, Vec<String>)> {
    struct Group {
        name: String,
        priority: i64,
        /// With their priorities; without, the versions are in their order already.
        versions: Vec<(Option<i64>, String)>,
    }
    let of_definitions = custom.groups();
    let mut all: Vec<Group> = Vec::new();
    let mut add = |group: &str, version: &str, priority: i64, of_version: Option<i64>| {
        let known = all.iter().position(|known| known.name == group);
        let at = known.unwrap_or_else(|| {
            all.push(Group { name: group.to_owned(), priority, versions: Vec::new() });
            all.len() - 1
        });
        let known = &mut all[at];
        known.priority = known.priority.max(priority);
        if !known.versions.iter().any(|(_, known)| known == version) {
            known.versions.push((of_version, version.to_owned()));
        }
    };
    for (group, version) in groups(custom) {
        match of_definitions.contains(&(group, version)) {
            true => add(group, version, GROUP_PRIORITY, Some(VERSION_PRIORITY)),
            false => add(group, version, i64::MAX, None),
        }
    }
    for remote in remotes.all() {
        let (of_group, of_version) = (remote.group_priority, remote.version_priority);
        add(&remote.group, &remote.version, of_group, Some(of_version));
    }
    // Built-in groups keep their order, as these sorts are stable.
    all.sort_by(|a, b| {
        let order = b.priority.cmp(&a.priority);
        order.then_with(|| if a.priority == i64::MAX { Equal } else { a.name.cmp(&b.name) })
    });
    let versions = |mut group: Group| {
        group.versions.sort_by(|(a, one), (b, other)| match (a, b) {
            (Some(a), Some(b)) => b.cmp(a).then_with(|| Definition::by_maturity(one, other)),
            (a, b) => a.is_some().cmp(&b.is_some()),
        });
        (group.name, group.versions.into_iter().map(|(_, version)| version).collect())
    };
    all.into_iter().map(versions).collect()
}

/// `/apis`.
pub(crate) fn group_list(custom: &Table, remotes: &Remotes, headers: &HeaderMap) -> Response {
    aggregated(custom, remotes, headers, |group| !group.is_empty()).unwrap_or_else(|| {
        let groups: Vec<Value> = versions(custom, remotes)
            .iter()
            .filter(|(group, _)| !group.is_empty())
            .map(plain_group)
            .collect();
        json_response(200, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
    })
}

/// `/apis/G`.
pub(crate) fn group(custom: &Table, remotes: &Remotes, name: &str) -> Result<Response, ApiError> {
    let found =
        versions(custom, remotes).into_iter().find(|(group, _)| *group == name && !name.is_empty());
    let mut group = plain_group(&found.ok_or_else(not_found_here)?);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Ok(json_response(200, &group))
}

/// `/api/v1` and `/apis/G/V`.
pub(crate) fn resources(custom: &Table, group: &str, version: &str) -> Result<Response, ApiError> {
    let served = served(custom, group, version);
    if served.is_empty() {
        return Err(not_found_here());
    }
    let mut list = Vec::new();
    for it in &served {
        let mut entry = json!({
            "name": it.name,
            "singularName": it.singular,
            "namespaced": it.namespaced,
            "kind": it.kind.2,
            "verbs": it.verbs,
        });
        if !it.short_names.is_empty() {
            entry["shortNames"] = json!(it.short_names);
        }
        if !it.categories.is_empty() {
            entry["categories"] = json!(it.categories);
        }
        if !it.storage_hash.is_empty() {
            entry["storageVersionHash"] = it.storage_hash.as_str().into();
        }
        list.push(entry);
        for (name, kind, verbs) in &it.subresources {
            let mut entry = json!({
                "name": format!("{}/{name}", it.name),
                "singularName": "",
                "namespaced": it.namespaced,
                "kind": kind.2,
                "verbs": verbs,
            });
            if (kind.0, kind.1) != (group, version) {
                entry["group"] = kind.0.into();
                entry["version"] = kind.1.into();
            }
            list.push(entry);
        }
    }
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json_response(
        200,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": list}),
    ))
}

fn plain_group((group, versions): &(String, Vec<String>)) -> Value {
    let one = |version: &String| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let versions: Vec<Value> = versions.iter().map(one).collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

/// The aggregated document, if the client asks for it.
fn aggregated(
    custom: &Table,
    remotes: &Remotes,
    headers: &HeaderMap,
    wanted: impl Fn(&str) -> bool,
) -> Option<Response> {
    let version = headers.get_all(ACCEPT).iter().find_map(|header| {
        header.to_str().ok()?.split(',').find_map(|clause| {
            if !clause.contains("as=APIGroupDiscoveryList") {
                return clause.trim().starts_with("application/json").then_some("");
            }
            ["v2", "v2beta1"]
                .into_iter()
                .find(|v| clause.split(';').any(|part| part.trim().strip_prefix("v=") == Some(v)))
        })
    });
    let media = match version? {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        "v2beta1" => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        _ => return None,
    };
    let items: Vec<Value> = versions(custom, remotes)
        .into_iter()
        .filter(|(group, _)| wanted(group))
        .map(|(group, versions)| {
            let one = |version: &String| {
                if let Some(remote) = remotes.of(&group, version) {
                    let resources = remote.resources.as_deref().map(Vec::as_slice);
                    let resources = of_remote(&group, version, resources.unwrap_or_default());
                    let freshness = if remote.available { "Current" } else { "Stale" };
                    return json!({"version": version, "resources": resources, "freshness": freshness});
                }
                let served = served(custom, &group, version);
                let resources: Vec<Value> = served.iter().map(aggregated_resource).collect();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            };
            json!({
                "metadata": {"name": group, "creationTimestamp": null},
                "versions": versions.iter().map(one).collect::<Vec<_>>(),
            })
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{}", version?),
        "metadata": {},
        "items": items,
    });
    let mut response = bytes_response(200, media, serde_json::to_vec(&list).ok()?.into());
    response.headers_mut().insert(VARY, http::HeaderValue::from_static("Accept"));
    Some(response)
}

/// An `APIResourceList`'s resources in the aggregated form.
fn of_remote(group: &str, version: &str, resources: &[Value]) -> Vec<Value> {
    let kind = |of: &Value| {
        let or = |field: &str, usual: &str| match of.text(&[field]) {
            "" => usual.to_owned(),
            said => said.to_owned(),
        };
        json!({"group": or("group", group), "version": or("version", version), "kind": of["kind"]})
    };
    let mut all: Vec<Value> = Vec::new();
    for of in resources {
        let name = of.text(&["name"]);
        if let Some((main, sub)) = name.split_once('/') {
            let entry = json!({"subresource": sub, "responseKind": kind(of), "verbs": of["verbs"]});
            if let Some(main) = all.iter_mut().find(|known| known["resource"] == main) {
                match main["subresources"].as_array_mut() {
                    Some(known) => known.push(entry),
                    None => main["subresources"] = json!([entry]),
                }
            }
            continue;
        }
        let mut entry = json!({
            "resource": name,
            "responseKind": kind(of),
            "scope": if of.flag(&["namespaced"]) { "Namespaced" } else { "Cluster" },
            "singularResource": of.text(&["singularName"]),
            "verbs": of["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if !of.list(&[field]).is_empty() {
                entry[field] = of[field].clone();
            }
        }
        all.push(entry);
    }
    all
}

fn aggregated_resource(it: &Served) -> Value {
    let kind = |(group, version, kind): (&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": it.name,
        "responseKind": kind(it.kind),
        "scope": if it.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": it.singular,
        "verbs": it.verbs,
    });
    if !it.short_names.is_empty() {
        entry["shortNames"] = json!(it.short_names);
    }
    if !it.categories.is_empty() {
        entry["categories"] = json!(it.categories);
    }
    if !it.subresources.is_empty() {
        entry["subresources"] = it
            .subresources
            .iter()
            .map(|(name, of, verbs)| {
                json!({"subresource": name, "responseKind": kind(*of), "verbs": verbs})
            })
            .collect();
    }
    entry
}
