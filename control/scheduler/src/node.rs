//! Nodes, and what is taken of them, kept up to date with every change and decision.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use coracle_api::{Object, Quantity};
use serde::Deserialize;

use crate::pod::{HostPort, Shape};
use crate::relations::Labels;
use crate::resources::{Amounts, Resources};
use crate::topology::{KeyId, Topologies};

/// The label that tells each node from all others.
pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";

/// A node and the Pods on it. One that Pods name but that is not there keeps their account until it comes.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) name: Box<str>,
    object: Option<Arc<Object>>,
    pub(crate) unschedulable: bool,
    pub(crate) ready: bool,
    pub(crate) taints: Vec<Taint>,
    pub(crate) offers: Resources,
    pub(crate) max_pods: i64,
    /// Bytes of the images that it has, by name.
    pub(crate) images: HashMap<String, i64>,

    pub(crate) pods: i64,
    pub(crate) used: Resources,
    /// CPU and memory that its Pods usually take.
    pub(crate) usual: (i64, i64),
    pub(crate) ports: Vec<HostPort>,
    /// How many Pods of each group it has.
    groups: HashMap<u64, u32>,
    /// Its Pods, by UID.
    pub(crate) uids: Vec<Arc<str>>,
    /// Pods for which others are going.
    pub(crate) nominees: Vec<Nominee>,
}

/// A Pod for which room is being made on a node: the room is not for others of its priority or less.
#[derive(Debug, Clone)]
pub(crate) struct Nominee {
    pub(crate) uid: Arc<str>,
    pub(crate) shape: Arc<Shape>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Taint {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) effect: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct View {
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    unschedulable: bool,
    taints: Vec<Taint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    allocatable: Amounts,
    capacity: Amounts,
    conditions: Vec<Condition>,
    images: Vec<Image>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Image {
    names: Vec<String>,
    size_bytes: i64,
}

impl Node {
    pub(crate) fn is_present(&self) -> bool {
        self.object.is_some()
    }

    pub(crate) fn labels(&self) -> &Labels {
        static NONE: Labels = BTreeMap::new();
        self.object.as_ref().map_or(&NONE, |object| &object.meta.labels)
    }

    pub(crate) fn group(&self, group: u64) -> u32 {
        self.groups.get(&group).copied().unwrap_or(0)
    }

    /// Pods of that priority leave room to these.
    pub(crate) fn nominees(&self, priority: i32) -> impl Iterator<Item = &Shape> {
        self.nominees.iter().map(|nominee| &*nominee.shape).filter(move |s| s.priority >= priority)
    }

    /// Takes in what the node says of itself; whether any of that is new, and whether it may change what is near what.
    fn read(&mut self, object: &Arc<Object>) -> (bool, bool) {
        let known = object_state(self);
        let labels_differ =
            self.object.as_ref().is_none_or(|old| old.meta.labels != object.meta.labels);
        self.set(object);
        let now = object_state(self);
        let differs = labels_differ || known != now;
        (differs, labels_differ || known.0 != now.0)
    }

    fn set(&mut self, object: &Arc<Object>) {
        let view: View = serde_json::from_slice(object.json()).unwrap_or_default();
        let status = view.status;
        let mut offers = status.allocatable;
        let is_bare = offers.is_empty();
        for (name, amount) in status.capacity {
            // Nobody keeps back a part of an extended resource: one that was added to the capacity by hand is there.
            if is_bare || name.contains('/') && !name.starts_with("kubernetes.io/") {
                offers.entry(name).or_insert(amount);
            }
        }
        self.object = Some(object.clone());
        self.unschedulable = view.spec.unschedulable;
        self.taints = view.spec.taints;
        self.ready = status.conditions.iter().any(|c| c.r#type == "Ready" && c.status == "True");
        self.max_pods = offers.get("pods").and_then(Quantity::of).map_or(0, |q| q.value());
        self.offers = Resources::of(&offers);
        self.images = status
            .images
            .into_iter()
            .flat_map(|image| image.names.into_iter().map(move |name| (name, image.size_bytes)))
            .collect();
    }
}

/// What of a node matters, but for its labels.
type State = ((Vec<Taint>, bool), bool, Resources, i64, HashMap<String, i64>);

fn object_state(node: &Node) -> State {
    let taints = (node.taints.clone(), node.unschedulable);
    (taints, node.ready, node.offers.clone(), node.max_pods, node.images.clone())
}

/// All nodes, in slots that keep their number while anything refers to them.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    slots: Vec<Node>,
    by_name: HashMap<Box<str>, usize>,
    free: Vec<usize>,
    /// Moves with every change: what was worked out at one version holds while it stays.
    version: u64,
    /// Slots that may fit more than before, since version `improved_from` of this list.
    improved: Vec<usize>,
    improved_from: u64,
    topologies: Topologies,
    /// Moves when nodes come and go, and with their labels and taints.
    topology_version: u64,
}

impl Nodes {
    pub(crate) fn get(&self, at: usize) -> &Node {
        &self.slots[at]
    }

    /// Number of slots; not all hold a node.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// What was worked out before does not hold any more.
    pub(crate) fn changed(&mut self) {
        self.version += 1;
    }

    /// The slot of that name, made if there is none.
    pub(crate) fn slot(&mut self, name: &str) -> usize {
        if let Some(at) = self.by_name.get(name) {
            return *at;
        }
        let node = Node { name: name.into(), ..Node::default() };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at] = node;
                at
            }
            None => {
                self.slots.push(node);
                self.slots.len() - 1
            }
        };
        self.by_name.insert(name.into(), at);
        at
    }

    /// Takes in a node; its slot, if it may fit more than before.
    pub(crate) fn put(&mut self, object: &Arc<Object>) -> Option<usize> {
        let at = self.slot(&object.meta.name);
        let (differs, places) = self.slots[at].read(object);
        if places {
            self.topologies.place(at, Some(&object.meta.labels));
            self.topology_version += 1;
        }
        self.version += u64::from(differs);
        differs.then_some(at)
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<usize> {
        let at = *self.by_name.get(name)?;
        self.slots[at].object = None;
        self.topologies.place(at, None);
        self.version += 1;
        self.topology_version += 1;
        self.reclaim(at);
        Some(at)
    }

    /// The number under which the values of a label are kept.
    pub(crate) fn topology(&mut self, key: &str) -> KeyId {
        if let Some(known) = self.topologies.known(key) {
            return known;
        }
        let id = self.topologies.add(key);
        for (at, node) in self.slots.iter().enumerate() {
            let labels = node.object.as_ref().map(|object| &object.meta.labels);
            self.topologies.place(at, labels);
        }
        id
    }

    /// The number of the value that a slot's node has of a label.
    pub(crate) fn domain(&self, key: KeyId, at: usize) -> Option<usize> {
        self.topologies.domain(key, at)
    }

    pub(crate) fn domains(&self, key: KeyId) -> usize {
        self.topologies.domains(key)
    }

    pub(crate) fn topology_version(&self) -> u64 {
        self.topology_version
    }

    /// Goes back to an earlier version, at which everything was as it is now.
    pub(crate) fn is_as_at(&mut self, version: u64) {
        self.version = version;
    }

    /// Keeps room for a Pod.
    pub(crate) fn nominate(&mut self, at: usize, nominee: Nominee) {
        self.version += 1;
        self.slots[at].nominees.push(nominee);
    }

    /// Keeps no room for a Pod any more.
    pub(crate) fn withdraw(&mut self, at: usize, uid: &str) {
        self.version += 1;
        self.slots[at].nominees.retain(|nominee| *nominee.uid != *uid);
        self.reclaim(at);
    }

    /// A Pod is on a node, by name; what it takes is told apart.
    pub(crate) fn list(&mut self, at: usize, uid: &Arc<str>) {
        self.slots[at].uids.push(uid.clone());
    }

    /// A Pod is not on a node any more.
    pub(crate) fn unlist(&mut self, at: usize, uid: &str) {
        let uids = &mut self.slots[at].uids;
        if let Some(at) = uids.iter().rposition(|known| **known == *uid) {
            uids.swap_remove(at);
        }
        self.reclaim(at);
    }

    fn reclaim(&mut self, at: usize) {
        let node = &self.slots[at];
        if !node.is_present()
            && node.pods == 0
            && node.uids.is_empty()
            && node.nominees.is_empty()
            && self.by_name.get(&node.name) == Some(&at)
        {
            self.by_name.remove(&node.name);
            self.free.push(at);
        }
    }

    /// Puts a Pod on a node.
    pub(crate) fn occupy(&mut self, at: usize, shape: &Shape) {
        self.version += 1;
        let node = &mut self.slots[at];
        node.pods += 1;
        node.used.add(&shape.requests);
        node.usual.0 += shape.usual.0;
        node.usual.1 += shape.usual.1;
        node.ports.extend(shape.ports.iter().cloned());
        if let Some(group) = shape.group {
            *node.groups.entry(group).or_default() += 1;
        }
    }

    /// Takes a Pod off a node.
    pub(crate) fn release(&mut self, at: usize, shape: &Shape) {
        self.version += 1;
        let node = &mut self.slots[at];
        node.pods -= 1;
        node.used.subtract(&shape.requests);
        node.usual.0 -= shape.usual.0;
        node.usual.1 -= shape.usual.1;
        for port in &shape.ports {
            if let Some(at) = node.ports.iter().position(|known| known == port) {
                node.ports.swap_remove(at);
            }
        }
        if let Some(group) = shape.group
            && let Some(count) = node.groups.get_mut(&group)
        {
            *count -= 1;
            if *count == 0 {
                node.groups.remove(&group);
            }
        }
        self.reclaim(at);
    }

    /// Notes that a slot may fit more than before.
    pub(crate) fn touch(&mut self, at: usize) {
        if self.improved.len() > 4 * self.slots.len() + 1024 {
            self.improved_from += self.improved.len() as u64;
            self.improved.clear();
        }
        self.improved.push(at);
    }

    /// Where the list of improved slots ends.
    pub(crate) fn mark(&self) -> u64 {
        self.improved_from + self.improved.len() as u64
    }

    /// Slots improved since a mark; `None` if that is no longer known.
    pub(crate) fn improved_since(&self, mark: u64) -> Option<&[usize]> {
        self.improved.get(usize::try_from(mark.checked_sub(self.improved_from)?).ok()?..)
    }
}
