//! The cluster as one process sees it: every object, indexed the ways that readers ask.
//!
//! The server's watch cache, the controllers, the scheduler and the simulator all read this one type, so that a
//! controller's decision is a pure function of it. Writers feed it [`Change`]s in revision order.
//! Controllers answer with a [`crate::Plan`].

mod references;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use jiff::Timestamp;

use self::references::References;
use crate::custom;
use crate::extensions::Extensions;
use crate::kinds::{self, Kind};
use crate::metrics::Metrics;
use crate::object::{Object, key};

/// One object's move from one state to the next, at a revision.
#[derive(Debug, Clone)]
pub struct Change {
    /// The store's revision of the write. For a deletion, the deletion's revision.
    pub revision: u64,
    /// The object before; `None` when it was created.
    pub old: Option<Arc<Object>>,
    /// The object after; `None` when it was deleted.
    pub new: Option<Arc<Object>>,
}

impl Change {
    /// The object after the change, or the last one there was.
    pub fn object(&self) -> Option<&Arc<Object>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// What one owner owns, by kind and key.
type Dependents = BTreeMap<(&'static str, Box<str>), Arc<Object>>;
type Objects = BTreeMap<Box<str>, Arc<Object>>;
type Labels = BTreeMap<String, String>;

/// An indexed set of objects at one revision. Cheap to read, not to clone.
#[derive(Debug, Default)]
pub struct Cluster {
    /// The time that controllers see.
    pub now: Timestamp,
    /// What nodes told of CPU, memory and traffic.
    pub metrics: Metrics,
    /// What other API servers have in namespaces that are being deleted.
    pub extensions: Extensions,
    since: Timestamp,
    revision: u64,
    kinds: HashMap<&'static str, Objects>,
    orphans: HashMap<&'static str, Objects>,
    owned: HashMap<Box<str>, Dependents>,
    pods_by_node: HashMap<Box<str>, Objects>,
    /// Pods by namespace and by all their labels: those made from one template are alike in these.
    pods_by_labels: HashMap<Box<str>, BTreeMap<Labels, Objects>>,
    references: References,
    /// Kinds that CustomResourceDefinitions define, by the definition's name.
    custom: BTreeMap<Box<str>, &'static Kind>,
}

impl Cluster {
    /// An empty cluster.
    pub fn new(now: Timestamp) -> Self {
        Self { now, since: now, ..Self::default() }
    }

    /// When this view began: nobody can have been heard of before, so silence is measured from here.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// The newest revision applied.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Moves the revision without a change (a write of a kind not held here).
    pub fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// The object of that kind, namespace (empty if cluster-scoped) and name.
    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.kinds.get(kind.resource)?.get(key(namespace, name).as_str())
    }

    /// All objects of a kind, ordered by namespace and name.
    pub fn list(&self, kind: &Kind) -> impl Iterator<Item = &Arc<Object>> + use<'_> {
        self.kinds.get(kind.resource).into_iter().flat_map(|objects| objects.values())
    }

    /// How many objects of the kind with that [`Kind::resource`] are in one namespace.
    pub fn count_in(&self, resource: &str, namespace: &str) -> usize {
        let start = key(namespace, "");
        let Some(objects) = self.kinds.get(resource) else { return 0 };
        let from = objects.range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded));
        from.take_while(|(key, _)| key.starts_with(&start)).count()
    }

    /// Objects of a kind in one namespace, ordered by name.
    pub fn list_in(
        &self,
        kind: &Kind,
        namespace: &str,
    ) -> impl Iterator<Item = &Arc<Object>> + use<'_> {
        let start = format!("{namespace}/");
        // '0' follows '/': the first key after every `namespace/…`.
        let end = format!("{namespace}0");
        self.kinds.get(kind.resource).into_iter().flat_map(move |objects| {
            objects
                .range::<str, _>((Bound::Included(start.as_str()), Bound::Excluded(end.as_str())))
                .map(|(_, object)| object)
                .collect::<Vec<_>>()
        })
    }

    /// Objects of a kind whose [`Object::key`] sorts after `after`, for paging.
    pub fn list_after(
        &self,
        kind: &Kind,
        after: &str,
    ) -> impl Iterator<Item = &Arc<Object>> + use<'_> {
        let after: Box<str> = after.into();
        self.kinds.get(kind.resource).into_iter().flat_map(move |objects| {
            objects
                .range::<str, _>((Bound::Excluded(&*after), Bound::Unbounded))
                .map(|(_, o)| o)
                .collect::<Vec<_>>()
        })
    }

    /// Every kind there may be objects of: the built-in ones, then those that are defined here.
    pub fn kinds(&self) -> impl Iterator<Item = &'static Kind> + use<'_> {
        kinds::ALL.iter().copied().chain(self.custom.values().copied())
    }

    /// The kind of that group and name, in whichever version it is stored.
    pub fn kind(&self, group: &str, kind: &str) -> Option<&'static Kind> {
        self.kinds().find(|known| known.group == group && known.kind == kind)
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: &Kind) -> usize {
        self.kinds.get(kind.resource).map_or(0, BTreeMap::len)
    }

    /// Objects of any kind with an owner reference to `uid`.
    pub fn owned_by(&self, uid: &str) -> impl Iterator<Item = &Arc<Object>> + use<'_> {
        self.owned.get(uid).into_iter().flat_map(|objects| objects.values())
    }

    /// Objects of one kind with an owner reference to `uid`.
    pub fn owned_of_kind(
        &self,
        uid: &str,
        kind: &Kind,
    ) -> impl Iterator<Item = &Arc<Object>> + use<'_> {
        let resource = kind.resource;
        self.owned_by(uid).filter(move |object| object.kind.resource == resource)
    }

    /// Objects of a namespace that no controller manages and one could adopt (Pods, ReplicaSets and ControllerRevisions), so that
    /// looking for some does not cost a walk over the namespace.
    pub fn orphans_in(
        &self,
        kind: &Kind,
        namespace: &str,
    ) -> impl Iterator<Item = &Arc<Object>> + use<'_> {
        let start = format!("{namespace}/");
        let prefix = start.clone();
        self.orphans.get(kind.resource).into_iter().flat_map(move |objects| {
            objects
                .range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded))
                .take_while(|(key, _)| key.starts_with(&prefix))
                .map(|(_, object)| object)
                .collect::<Vec<_>>()
        })
    }

    /// Pods bound to a node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Object>> + use<'_> {
        self.pods_by_node.get(node).into_iter().flat_map(|pods| pods.values())
    }

    /// Whether a Pod bound to the node refers to that object, by the plural of its kind: `configmaps`, `secrets`,
    /// `persistentvolumeclaims`, `serviceaccounts`, or the controller that owns the Pod (`replicasets`, `statefulsets`, `daemonsets`).
    pub fn is_referred_to(
        &self,
        node: &str,
        resource: &'static str,
        namespace: &str,
        name: &str,
    ) -> bool {
        self.references.has(node, resource, namespace, name)
    }

    /// Whether some Ingress names that Secret, which every node then reads.
    pub fn is_certificate(&self, namespace: &str, name: &str) -> bool {
        self.references.has_certificate(namespace, name)
    }

    /// Pods of a namespace whose labels are `selected`, which is asked once for all Pods with the same labels.
    pub fn pods_where(
        &self,
        namespace: &str,
        selected: impl Fn(&BTreeMap<String, String>) -> bool,
    ) -> impl Iterator<Item = &Arc<Object>> {
        self.pods_by_labels
            .get(namespace)
            .into_iter()
            .flatten()
            .filter(move |(labels, _)| selected(labels))
            .flat_map(|(_, pods)| pods.values())
    }

    /// Puts an object in place of any of the same kind and key; returns the one it replaced.
    pub fn put(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        self.advance(object.meta.resource_version);
        let key: Box<str> = object.key().into();
        let old =
            self.kinds.entry(object.kind.resource).or_default().insert(key.clone(), object.clone());
        if let Some(old) = &old {
            self.unindex(old, &key);
        }
        if is_ingress(object.kind) {
            self.references.replace_ingress(old.as_deref(), Some(&object));
        }
        if is_definition(object.kind)
            && let Some(kind) = custom::kind_of(&object)
        {
            self.custom.insert(object.meta.name.as_str().into(), kind);
        }
        if object.kind.is_pod() {
            self.references.replace(old.as_deref(), &object);
            let namespace =
                self.pods_by_labels.entry(object.meta.namespace.as_str().into()).or_default();
            match namespace.get_mut(&object.meta.labels) {
                Some(pods) => {
                    pods.insert(key.clone(), object.clone());
                }
                None => {
                    let pods = Objects::from([(key.clone(), object.clone())]);
                    namespace.insert(object.meta.labels.clone(), pods);
                }
            }
        }
        for owner in &object.meta.owner_references {
            self.owned
                .entry(owner.uid.as_str().into())
                .or_default()
                .insert((object.kind.resource, key.clone()), object.clone());
        }
        if is_adoptable(object.kind) && object.controller().is_none() {
            self.orphans
                .entry(object.kind.resource)
                .or_default()
                .insert(key.clone(), object.clone());
        }
        if let Some(node) = &object.node_name {
            self.pods_by_node.entry(node.clone()).or_default().insert(key, object.clone());
        }
        old
    }

    /// Takes an object away at `revision`; returns it.
    pub fn remove(
        &mut self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        revision: u64,
    ) -> Option<Arc<Object>> {
        self.advance(revision);
        let key = key(namespace, name);
        let old = self.kinds.get_mut(kind.resource)?.remove(key.as_str())?;
        self.unindex(&old, &key);
        if old.kind.is_pod() {
            self.references.remove(&old);
        } else if is_ingress(old.kind) {
            self.references.replace_ingress(Some(&old), None);
        } else if old.kind.resource == kinds::NODE.resource {
            self.metrics.forget(name);
        } else if old.kind.resource == kinds::NAMESPACE.resource {
            self.extensions.forget(&old.meta.uid);
        } else if is_definition(old.kind) {
            self.custom.remove(name);
        }
        Some(old)
    }

    fn unindex(&mut self, old: &Object, key: &str) {
        for owner in &old.meta.owner_references {
            if let Some(owned) = self.owned.get_mut(owner.uid.as_str()) {
                owned.remove(&(old.kind.resource, Box::from(key)));
                if owned.is_empty() {
                    self.owned.remove(owner.uid.as_str());
                }
            }
        }
        if is_adoptable(old.kind)
            && let Some(orphans) = self.orphans.get_mut(old.kind.resource)
        {
            orphans.remove(key);
        }
        if old.kind.is_pod()
            && let Some(namespace) = self.pods_by_labels.get_mut(old.meta.namespace.as_str())
            && let Some(pods) = namespace.get_mut(&old.meta.labels)
        {
            pods.remove(key);
            if pods.is_empty() {
                namespace.remove(&old.meta.labels);
                if namespace.is_empty() {
                    self.pods_by_labels.remove(old.meta.namespace.as_str());
                }
            }
        }
        if let Some(node) = &old.node_name
            && let Some(pods) = self.pods_by_node.get_mut(node)
        {
            pods.remove(key);
            if pods.is_empty() {
                self.pods_by_node.remove(node);
            }
        }
    }
}

fn is_ingress(kind: &Kind) -> bool {
    kind.resource == kinds::INGRESS.resource
}

fn is_definition(kind: &Kind) -> bool {
    kind.resource == kinds::CUSTOM_RESOURCE_DEFINITION.resource
}

fn is_adoptable(kind: &Kind) -> bool {
    matches!(kind.resource, "pods" | "replicasets.apps" | "controllerrevisions.apps")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, app: &str, owner: Option<&str>, node: &str) -> Arc<Object> {
        let owners = owner.map(|uid| {
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true}])
        });
        let value = json!({
            "metadata": {"name": name, "namespace": "ns", "labels": {"app": app}, "ownerReferences": owners.unwrap_or(json!([]))},
            "spec": {"nodeName": node},
        });
        Arc::new(Object::from_value(&kinds::POD, &value).expect("a Pod"))
    }

    #[test]
    fn indexes_follow_changes() {
        let mut cluster = Cluster::new(Timestamp::UNIX_EPOCH);
        let look = |cluster: &Cluster| {
            let names = |pods: Vec<&Arc<Object>>| {
                pods.iter().map(|pod| pod.meta.name.as_str()).collect::<Vec<_>>().join(" ")
            };
            [
                names(cluster.orphans_in(&kinds::POD, "ns").collect()),
                names(cluster.owned_of_kind("set", &kinds::POD).collect()),
                names(cluster.pods_on("n1").collect()),
                names(cluster.pods_where("ns", |labels| labels["app"] == "web").collect()),
            ]
        };
        cluster.put(pod("a", "web", None, ""));
        cluster.put(pod("b", "web", Some("set"), "n1"));
        cluster.put(pod("c", "api", Some("set"), "n1"));
        assert_eq!(look(&cluster), ["a", "b c", "b c", "a b"]);
        cluster.put(pod("a", "web", Some("set"), "n1"));
        cluster.put(pod("b", "api", None, "n2"));
        assert_eq!(look(&cluster), ["b", "a c", "a c", "a"]);
        for name in ["a", "b", "c"] {
            cluster.remove(&kinds::POD, "ns", name, 1);
        }
        assert_eq!(look(&cluster), ["", "", "", ""]);
        assert!(cluster.owned.is_empty() && cluster.pods_by_node.is_empty());
        assert!(cluster.pods_by_labels.is_empty());
    }

    #[test]
    fn references_last_as_long_as_a_pod_of_the_node_makes_them() {
        let pod = |name: &str, node: &str, phase: &str, set: &str| {
            let named = |name: &str| json!({"name": name});
            let value = json!({
                "metadata": {"name": name, "namespace": "ns", "uid": name, "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "uid": set, "controller": true}]},
                "spec": {
                    "nodeName": node,
                    "serviceAccountName": "account",
                    "imagePullSecrets": [named("pull")],
                    "initContainers": [{"name": "i", "envFrom": [{"secretRef": named("init")}]}],
                    "containers": [{"name": "c", "env": [
                        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "key", "key": "k"}}},
                        {"name": "B", "value": "unrelated"}]}],
                    "volumes": [
                        {"name": "s", "secret": {"secretName": "mounted"}},
                        {"name": "v", "persistentVolumeClaim": {"claimName": "claimed"}},
                        {"name": "p", "projected": {"sources": [{"configMap": named("projected")}]}}],
                },
                "status": {"phase": phase},
            });
            Arc::new(Object::from_value(&kinds::POD, &value).expect("a Pod"))
        };
        let mut cluster = Cluster::new(Timestamp::UNIX_EPOCH);
        let all = [
            ("serviceaccounts", "account"),
            ("secrets", "pull"),
            ("secrets", "init"),
            ("secrets", "mounted"),
            ("configmaps", "key"),
            ("configmaps", "projected"),
            ("persistentvolumeclaims", "claimed"),
            ("replicasets", "set"),
        ];
        let count = |cluster: &Cluster, node: &str| {
            let has = |(resource, name): &(&'static str, &str)| {
                cluster.is_referred_to(node, resource, "ns", name)
            };
            all.iter().filter(|wanted| has(wanted)).count()
        };
        cluster.put(pod("a", "", "Pending", "set"));
        assert_eq!(count(&cluster, ""), 0);
        cluster.put(pod("a", "n1", "Pending", "set"));
        cluster.put(pod("b", "n1", "Pending", "set"));
        cluster.put(pod("a", "n1", "Running", "set"));
        assert_eq!((count(&cluster, "n1"), count(&cluster, "n2")), (all.len(), 0));
        assert!(!cluster.is_referred_to("n1", "configmaps", "ns", "unrelated"));
        assert!(!cluster.is_referred_to("n1", "secrets", "other", "pull"));
        cluster.remove(&kinds::POD, "ns", "a", 5);
        assert_eq!(count(&cluster, "n1"), all.len());
        // Released by its ReplicaSet, and taken by another.
        cluster.put(pod("b", "n1", "Running", "other"));
        assert_eq!(count(&cluster, "n1"), all.len() - 1);
        assert!(cluster.is_referred_to("n1", "replicasets", "ns", "other"));
        cluster.remove(&kinds::POD, "ns", "b", 7);
        assert!(cluster.references.is_empty());
    }

    #[test]
    fn certificates_are_those_that_ingresses_name() {
        let ingress = |name: &str, secrets: &[&str]| {
            let tls: Vec<_> = secrets.iter().map(|name| json!({"secretName": name})).collect();
            let value =
                json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"tls": tls}});
            Arc::new(Object::from_value(&kinds::INGRESS, &value).expect("an Ingress"))
        };
        let mut cluster = Cluster::new(Timestamp::UNIX_EPOCH);
        cluster.put(ingress("a", &["x", "y", ""]));
        cluster.put(ingress("b", &["x"]));
        let known =
            |cluster: &Cluster| ["x", "y", "z", ""].map(|s| cluster.is_certificate("ns", s));
        assert_eq!(known(&cluster), [true, true, false, false]);
        assert!(!cluster.is_certificate("other", "x"));
        cluster.put(ingress("a", &["z"]));
        assert_eq!(known(&cluster), [true, false, true, false]);
        cluster.remove(&kinds::INGRESS, "ns", "b", 3);
        cluster.remove(&kinds::INGRESS, "ns", "a", 4);
        assert_eq!(known(&cluster), [false; 4]);
        assert!(cluster.references.is_empty());
    }
}
