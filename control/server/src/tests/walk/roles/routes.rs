//! The routes that discovery names, each with a request that would read or change the sample of its kind.

use super::*;

/// A request, and what it wants.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) media: &'static str,
    pub(super) body: String,
    pub(super) verb: &'static str,
    pub(super) group: String,
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Whether discovery names it.
    pub(super) served: bool,
    /// Whether it is answered whoever asks.
    pub(super) open: bool,
}

impl Route {
    pub(super) fn wanted(&self) -> Wanted {
        let path = if self.resource.is_empty() { self.path.clone() } else { String::new() };
        Wanted {
            verb: self.verb.to_owned(),
            group: self.group.clone(),
            resource: self.resource.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            path: path.split('?').next().unwrap_or_default().to_owned(),
        }
    }

    /// The same without an effect.
    pub(super) fn dry(&self) -> Self {
        let mut dry = self.clone();
        if !matches!(self.verb, "get" | "list" | "watch") {
            let joint = if self.path.contains('?') { '&' } else { '?' };
            dry.path = format!("{}{joint}dryRun=All", self.path);
        }
        dry
    }
}

/// A resource or subresource of discovery.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) group: String,
    version: String,
    /// `pods` or `pods/log`.
    pub(super) name: String,
    namespaced: bool,
    verbs: Vec<String>,
    /// A sample of what it takes, and its name.
    object: Value,
    object_name: String,
}

/// All verbs, with their methods.
const VERBS: [(&str, &str); 8] = [
    ("get", "GET"),
    ("list", "GET"),
    ("watch", "GET"),
    ("create", "POST"),
    ("update", "PUT"),
    ("patch", "PATCH"),
    ("delete", "DELETE"),
    ("deletecollection", "DELETE"),
];

/// What subresources take; of some it is what the object is.
fn body_of(part: &str) -> Option<Value> {
    Some(match part {
        "status" | "finalize" | "ephemeralcontainers" | "resize" | "approval" => return None,
        "scale" => {
            json!({"metadata": {"name": "walk", "namespace": "default"}, "spec": {"replicas": 3}})
        }
        "binding" => json!({"target": {"kind": "Node", "name": "walk"}}),
        "eviction" => json!({"metadata": {"name": "walk"}}),
        "token" => json!({"spec": {"expirationSeconds": 600}}),
        "log" | "exec" | "attach" | "portforward" | "proxy" => json!({}),
        other => panic!("the subresource {other} has no line here"),
    })
}

/// What is there only while it is asked for, where metrics are, and what is told of this server.
fn review(group: &str, name: &str) -> Option<Value> {
    Some(match (group, name) {
        ("authentication.k8s.io", "selfsubjectreviews") => json!({}),
        ("authentication.k8s.io", "tokenreviews") => json!({"spec": {"token": "x"}}),
        ("authorization.k8s.io", "selfsubjectrulesreviews") => {
            json!({"spec": {"namespace": "default"}})
        }
        (
            "authorization.k8s.io",
            "localsubjectaccessreviews" | "selfsubjectaccessreviews" | "subjectaccessreviews",
        ) => {
            json!({"spec": {"user": "u", "resourceAttributes": {"namespace": "default", "verb": "get", "resource": "pods"}}})
        }
        ("metrics.k8s.io", "nodes" | "pods") | ("", "componentstatuses") => json!({}),
        _ => return None,
    })
}

/// All that discovery names.
pub(super) async fn resources(it: &Fixture) -> Vec<Resource> {
    let mut paths = vec!["/api/v1".to_owned()];
    for group in it.get("/apis").await.body["groups"].as_array().into_iter().flatten() {
        let versions = group["versions"].as_array().into_iter().flatten();
        paths.extend(
            versions.map(|v| format!("/apis/{}", v["groupVersion"].as_str().unwrap_or(""))),
        );
    }
    let (samples, kinds) = (samples(), served());
    let mut all = Vec::new();
    for path in paths {
        let list = it.get(&path).await.body;
        let named = list["groupVersion"].as_str().expect("a list");
        let (group, version) = named.split_once('/').unwrap_or(("", named));
        // What the samples define is no kind of ours.
        for entry in
            list["resources"].as_array().into_iter().flatten().filter(|_| group != "example.com")
        {
            let name = entry["name"].as_str().expect("a name").to_owned();
            let plural = name.split('/').next().expect("a plural");
            let kind = kinds
                .iter()
                .find(|it| (it.group, it.version, it.kind.plural) == (group, version, plural));
            let (mut object, object_name) = match kind {
                Some(kind) => {
                    let sample = &samples[&kind.line];
                    let name = sample.name.clone().unwrap_or_else(|| "walk".to_owned());
                    (sample.object.clone(), name)
                }
                None => {
                    let body = review(group, plural);
                    (
                        body.unwrap_or_else(|| panic!("{group} {name} has no line here")),
                        "walk".to_owned(),
                    )
                }
            };
            if kind.is_some() {
                object["metadata"] = json!({"name": object_name});
            }
            if let Some((_, part)) = name.split_once('/')
                && let Some(body) = body_of(part)
            {
                object = body;
            }
            let verbs = entry["verbs"].as_array().into_iter().flatten();
            all.push(Resource {
                group: group.to_owned(),
                version: version.to_owned(),
                namespaced: entry["namespaced"] == true,
                verbs: verbs.filter_map(|v| v.as_str().map(str::to_owned)).collect(),
                name,
                object,
                object_name,
            });
        }
    }
    all
}

impl Resource {
    /// Every verb, those that are not served too, in a namespace and in all, and with what may lead around a right.
    pub(super) fn routes(&self) -> Vec<Route> {
        let root = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        let (plural, part) = match self.name.split_once('/') {
            Some((plural, part)) => (plural, format!("/{part}")),
            None => (self.name.as_str(), String::new()),
        };
        let own = plural == "namespaces" && self.group.is_empty();
        let mut all = Vec::new();
        for (verb, method) in VERBS {
            let served = self.verbs.iter().any(|known| known == verb);
            let of_one = matches!(verb, "get" | "update" | "patch" | "delete") || !part.is_empty();
            if !part.is_empty() && matches!(verb, "list" | "watch" | "deletecollection") {
                continue;
            }
            let of_one = of_one && (verb != "create" || !part.is_empty());
            let base = Route {
                method,
                path: String::new(),
                media: if verb == "patch" { MERGE } else { "application/json" },
                body: match verb {
                    "create" | "update" => self.body(verb == "create" && part.is_empty()),
                    "patch" => json!({"metadata": {"labels": {"changed": "yes"}}}).to_string(),
                    _ => String::new(),
                },
                verb,
                group: self.group.clone(),
                resource: self.name.clone(),
                namespace: String::new(),
                name: String::new(),
                served,
                open: false,
            };
            for within in if self.namespaced { &["default", ""][..] } else { &[""][..] } {
                let collection = match *within {
                    "" => format!("{root}/{plural}"),
                    namespace => format!("{root}/namespaces/{namespace}/{plural}"),
                };
                let name = if of_one { self.object_name.clone() } else { String::new() };
                let namespace = if own { name.clone() } else { (*within).to_owned() };
                let path = match of_one {
                    true => format!("{collection}/{name}{part}"),
                    false => collection.clone(),
                };
                let everywhere = within.is_empty() && self.namespaced;
                // One object is in its namespace, and nothing is created in all: the latter is a request that is wrong.
                if everywhere && verb == "create" && part.is_empty() {
                    continue;
                }
                let served = served && (!everywhere || matches!(verb, "list" | "watch"));
                let base = Route { namespace, name, served, ..base.clone() };
                let path = if verb == "watch" { format!("{path}?watch=true") } else { path };
                all.push(Route { path: path.clone(), ..base.clone() });
                if matches!(verb, "list" | "watch") && served {
                    let joint = if verb == "watch" { '&' } else { '?' };
                    let name = self.object_name.clone();
                    // About one object: a right to that one is enough.
                    for selector in
                        [format!("metadata.name%3D{name}"), format!("metadata.name%3D%3D{name}")]
                    {
                        let path = format!("{path}{joint}fieldSelector={selector}");
                        let namespace = base.namespace.clone();
                        all.push(Route { path, name: name.clone(), namespace, ..base.clone() });
                    }
                }
                if verb == "watch" && served && !everywhere {
                    let (name, namespace) = (self.object_name.clone(), base.namespace.clone());
                    let namespace = if own { name.clone() } else { namespace };
                    let old = collection.replacen(&root, &format!("{root}/watch"), 1);
                    all.push(Route {
                        path: format!("{old}/{name}"),
                        name,
                        namespace,
                        ..base.clone()
                    });
                }
            }
        }
        all
    }

    /// What is sent; a new object has a name of its own.
    fn body(&self, new: bool) -> String {
        let mut object = self.object.clone();
        if new && object["metadata"]["name"].is_string() {
            object["metadata"]["name"] = "another".into();
        }
        object.to_string()
    }
}
