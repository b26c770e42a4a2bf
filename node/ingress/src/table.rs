//! Which host and path lead where: Kubernetes' rules of Ingress, and who wins where Ingresses disagree. Pure.
//!
//! It is kept up one object at a time: an Ingress that changes costs the work of its own hosts, so that thousands of them
//! are no burden. Services are not its business but by name: what a backend is at present is asked for by
//! [`Table::backends`].
//!
//! Of two Ingresses that say something about the same path of a host, or about its certificate, the older wins, then the
//! first by namespace and name.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use coracle_api::kinds::{INGRESS_CLASS_ANNOTATION, INGRESS_CONTROLLER};
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass};

use crate::config::{Host, Protocol, Rule, Target};
use crate::settings::Settings;

/// Orders Ingresses by who wins: age, namespace, name.
type Rank = (Option<Timestamp>, String, String);
type Name = (String, String);

/// A port of a Service, as an Ingress names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// By its number.
    Number(u16),
    /// By its name.
    Name(String),
}

/// What an Ingress wants to lead to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendRef {
    /// Namespace of the Ingress, and so of the Service.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// Its port.
    pub port: Port,
    /// The Ingress insists on a protocol.
    pub protocol: Option<Protocol>,
}

impl BackendRef {
    /// How the proxy is told of it.
    pub fn name(&self) -> String {
        let port = match &self.port {
            Port::Number(number) => number.to_string(),
            Port::Name(name) => name.clone(),
        };
        let how = match self.protocol {
            None => "",
            Some(Protocol::Http1) => "+http",
            Some(Protocol::H2c) => "+h2c",
            Some(Protocol::Https) => "+https",
            Some(Protocol::H2) => "+h2",
        };
        format!("{}/{}:{port}{how}", self.namespace, self.service)
    }
}

/// Something that an Ingress says and does not get.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Complaint {
    /// Namespace of the Ingress.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// What is wrong, and what to do.
    pub message: String,
}

/// An Ingress of ours, as far as it matters.
#[derive(Debug)]
struct Entry {
    rank: Rank,
    uid: String,
    settings: Arc<Settings>,
    /// Host, path, whether it is a prefix, backend.
    rules: Vec<(String, String, bool, Result<BackendRef, String>)>,
    default: Option<Result<BackendRef, String>>,
    /// Hosts that it has rules for, or all.
    hosts: BTreeSet<String>,
    /// Host and Secret.
    certificates: Vec<(String, String)>,
    complaints: Vec<String>,
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    /// All Ingresses, of whichever class, so that a class may come later.
    all: BTreeMap<Name, Arc<Ingress>>,
    classes: HashSet<String>,
    entries: BTreeMap<Name, Entry>,
    by_host: BTreeMap<String, BTreeSet<Rank>>,
    hosts: BTreeMap<String, Arc<Host>>,
}

impl Table {
    /// Takes in the classes as they are.
    pub fn classes<'a>(&mut self, classes: impl IntoIterator<Item = &'a IngressClass>) {
        let ours = |class: &&IngressClass| {
            class.spec.as_ref().and_then(|spec| spec.controller.as_deref())
                == Some(INGRESS_CONTROLLER)
        };
        let classes: HashSet<String> =
            classes.into_iter().filter(ours).filter_map(|c| c.metadata.name.clone()).collect();
        if classes == self.classes {
            return;
        }
        self.classes = classes;
        for ingress in self.all.values().cloned().collect::<Vec<_>>() {
            self.put(ingress);
        }
    }

    /// Takes in a new or changed Ingress.
    pub fn put(&mut self, ingress: Arc<Ingress>) {
        let name = name(&ingress);
        self.all.insert(name.clone(), ingress.clone());
        let entry = self.is_ours(&ingress).then(|| Entry::of(&ingress));
        self.replace(name, entry);
    }

    /// Forgets a deleted Ingress.
    pub fn remove(&mut self, namespace: &str, ingress: &str) {
        let name = (namespace.to_owned(), ingress.to_owned());
        self.all.remove(&name);
        self.replace(name, None);
    }

    /// Forgets all but these, as after a fresh list.
    pub fn retain(&mut self, listed: &HashSet<(String, String)>) {
        let gone: Vec<Name> = self.all.keys().filter(|n| !listed.contains(*n)).cloned().collect();
        for (namespace, name) in gone {
            self.remove(&namespace, &name);
        }
    }

    /// Whether nothing is to be served.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Hosts and their rules.
    pub fn hosts(&self) -> &BTreeMap<String, Arc<Host>> {
        &self.hosts
    }

    /// Every backend that some rule leads to.
    pub fn backends(&self) -> BTreeSet<&BackendRef> {
        self.entries
            .values()
            .flat_map(|e| e.rules.iter().map(|rule| &rule.3).chain(&e.default))
            .filter_map(|backend| backend.as_ref().ok())
            .collect()
    }

    /// Every Secret that is to have a certificate: namespace and name.
    pub fn secrets(&self) -> BTreeSet<(&str, &str)> {
        let all = self.entries.iter().flat_map(|((namespace, _), entry)| {
            entry.certificates.iter().map(move |(_, s)| (namespace.as_str(), s.as_str()))
        });
        all.collect()
    }

    /// Ingresses that use the Secret, as complaints with that message.
    pub fn users(&self, secret: (&str, &str), message: &str) -> Vec<Complaint> {
        let uses = |entry: &Entry| entry.certificates.iter().any(|(_, name)| name == secret.1);
        let users = self.entries.iter().filter(|((ns, _), entry)| ns == secret.0 && uses(entry));
        users.map(|(name, entry)| complaint(name, entry, message.to_owned())).collect()
    }

    /// What Ingresses say and do not get.
    pub fn complaints(&self) -> BTreeSet<Complaint> {
        let all = self.entries.iter().flat_map(|(name, entry)| {
            entry.complaints.iter().map(move |message| complaint(name, entry, message.clone()))
        });
        all.collect()
    }

    fn is_ours(&self, ingress: &Ingress) -> bool {
        let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
        let annotations = ingress.metadata.annotations.as_ref();
        let annotation =
            annotations.and_then(|all| all.get(INGRESS_CLASS_ANNOTATION)).map(String::as_str);
        class.or(annotation).is_some_and(|class| self.classes.contains(class))
    }

    fn replace(&mut self, name: Name, entry: Option<Entry>) {
        let mut touched = BTreeSet::new();
        if let Some(old) = self.entries.remove(&name) {
            for host in old.everywhere() {
                if let Some(ranks) = self.by_host.get_mut(&host) {
                    ranks.remove(&old.rank);
                }
                touched.insert(host);
            }
        }
        if let Some(entry) = entry {
            for host in entry.everywhere() {
                self.by_host.entry(host.clone()).or_default().insert(entry.rank.clone());
                touched.insert(host);
            }
            self.entries.insert(name, entry);
        }
        for host in touched {
            self.rebuild(&host);
        }
    }

    fn rebuild(&mut self, host: &str) {
        let ranks = self.by_host.get(host).filter(|ranks| !ranks.is_empty());
        let Some(ranks) = ranks else {
            self.by_host.remove(host);
            self.hosts.remove(host);
            return;
        };
        let mut built = Host::default();
        let mut taken = HashSet::new();
        for (_, namespace, name) in ranks {
            let key = (namespace.clone(), name.clone());
            let Some(entry) = self.entries.get(&key) else { continue };
            let ingress: Arc<str> = format!("{namespace}/{name}").into();
            let target = |backend: &Result<BackendRef, String>| {
                let mut settings = entry.settings.clone();
                if let Err(why) = backend {
                    settings =
                        Arc::new(Settings { refused: Some(why.clone()), ..(*settings).clone() });
                }
                let backend = backend.as_ref().map(BackendRef::name).unwrap_or_default();
                Target { ingress: ingress.clone(), backend, settings }
            };
            for (_, path, prefix, backend) in entry.rules.iter().filter(|rule| rule.0 == host) {
                if taken.insert((path.clone(), *prefix)) {
                    let rule =
                        Rule { path: path.clone(), prefix: *prefix, target: target(backend) };
                    built.rules.push(rule);
                }
            }
            if built.otherwise.is_none() && (host.is_empty() || entry.hosts.contains(host)) {
                built.otherwise = entry.default.as_ref().map(target);
            }
            let named = entry.certificates.iter().find(|(for_host, _)| for_host == host);
            if let (None, Some((_, secret))) = (&built.certificate, named) {
                built.certificate = Some(format!("{namespace}/{secret}"));
            }
        }
        if self.hosts.get(host).is_none_or(|old| **old != built) {
            self.hosts.insert(host.to_owned(), Arc::new(built));
        }
    }
}

fn complaint((namespace, name): &Name, entry: &Entry, message: String) -> Complaint {
    let (namespace, name, uid) = (namespace.clone(), name.clone(), entry.uid.clone());
    Complaint { namespace, name, uid, message }
}

fn name(ingress: &Ingress) -> Name {
    let metadata = &ingress.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

impl Entry {
    fn of(ingress: &Ingress) -> Entry {
        let (namespace, own) = name(ingress);
        let none = BTreeMap::new();
        let annotations = ingress.metadata.annotations.as_ref().unwrap_or(&none);
        let (settings, mut complaints) = Settings::parse(annotations);
        let protocol = settings.protocol;
        let mut backend_of = |backend: &IngressBackend| {
            let found = backend_ref(&namespace, backend, protocol);
            complaints.extend(found.clone().err());
            found
        };
        let spec = ingress.spec.clone().unwrap_or_default();
        let default = spec.default_backend.as_ref().map(&mut backend_of);
        let (mut rules, mut hosts) = (Vec::new(), BTreeSet::new());
        for rule in spec.rules.iter().flatten() {
            let host = rule.host.clone().unwrap_or_default();
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                let text = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
                let prefix = path.path_type != "Exact";
                let text = if prefix { text.trim_end_matches('/') } else { text };
                rules.push((host.clone(), text.to_owned(), prefix, backend_of(&path.backend)));
            }
            hosts.insert(host);
        }
        let mut certificates = Vec::new();
        for tls in spec.tls.iter().flatten() {
            let Some(secret) = tls.secret_name.as_ref().filter(|name| !name.is_empty()) else {
                continue;
            };
            let named: Vec<String> = match tls.hosts.as_deref() {
                None | Some([]) if hosts.is_empty() => vec![String::new()],
                None | Some([]) => hosts.iter().cloned().collect(),
                Some(named) => named.to_vec(),
            };
            certificates.extend(named.into_iter().map(|host| (host, secret.clone())));
        }
        let created = ingress.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Entry {
            rank: (created, namespace, own),
            uid: ingress.metadata.uid.clone().unwrap_or_default(),
            settings: Arc::new(settings),
            rules,
            default,
            hosts,
            certificates,
            complaints,
        }
    }

    /// Hosts that it says something about.
    fn everywhere(&self) -> BTreeSet<String> {
        let certified = self.certificates.iter().map(|(host, _)| host.clone());
        let mut all: BTreeSet<String> = self.hosts.iter().cloned().chain(certified).collect();
        if self.default.is_some() {
            all.insert(String::new());
        }
        all
    }
}

fn backend_ref(
    namespace: &str,
    backend: &IngressBackend,
    protocol: Option<Protocol>,
) -> Result<BackendRef, String> {
    let Some(service) = &backend.service else {
        let resource = backend.resource.clone().unwrap_or_default();
        return Err(format!(
            "resource backends are not supported ({} \"{}\"): name a Service",
            resource.kind, resource.name
        ));
    };
    let port = service.port.clone().unwrap_or_default();
    let port = match (port.name.filter(|name| !name.is_empty()), port.number) {
        (Some(name), _) => Port::Name(name),
        (None, number) => Port::Number(number.and_then(|n| u16::try_from(n).ok()).unwrap_or(0)),
    };
    Ok(BackendRef {
        namespace: namespace.to_owned(),
        service: service.name.clone(),
        port,
        protocol,
    })
}
