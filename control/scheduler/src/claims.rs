//! PersistentVolumeClaims of Pods that wait: which nodes their volumes can be had on (upstream's plugins `VolumeBinding` and
//! `VolumeRestrictions`).
//!
//! A Pod with claims needs something of nodes, and what that is follows from claims, volumes and classes alone: [`Needs`] is
//! worked out when one of these changes, becomes part of the Pod's shape, and filters ask it. Claims of a class that waits for
//! its first consumer are given volumes with the decision; until those are seen with their claim, nobody else gets them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use coracle_api::placement::Term;
use coracle_api::{LabelSelector, Object, Quantity, json, kinds};
use serde::Deserialize;
use serde_json::Value;

use crate::node::Node;
use crate::relations::Labels;

/// On a claim that is bound for good.
const COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// What a Pod's claims ask of nodes; of most Pods nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Needs {
    /// Why no node can do, in upstream's words.
    pub(crate) blocked: Option<Box<str>>,
    /// Another Pod has a claim that is for one alone.
    pub(crate) in_use: bool,
    /// Where volumes are that are bound: any of the terms; none at all says nothing.
    bound: Vec<Place>,
    /// Claims whose volumes are chosen with the node, the smallest first.
    wanted: Vec<Wanted>,
}

type Place = Arc<Vec<Term>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Wanted {
    claim: Box<str>,
    /// Volumes that would do, the best first.
    volumes: Vec<(Box<str>, Place)>,
}

/// A volume that a claim is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeChoice {
    /// The claim, in its Pod's namespace.
    pub claim: String,
    /// The PersistentVolume.
    pub volume: String,
}

impl Needs {
    /// The volumes that are bound can be had on the node.
    pub(crate) fn reach(&self, node: &Node) -> bool {
        self.bound.iter().all(|place| is_at(place, node))
    }

    /// Volumes on that node for all claims that have none, each for one.
    pub(crate) fn choose(&self, node: &Node) -> Option<Vec<VolumeChoice>> {
        let mut taken = HashSet::new();
        let mut chosen = Vec::new();
        for wanted in &self.wanted {
            let fits =
                |(name, place): &&(Box<str>, Place)| !taken.contains(name) && is_at(place, node);
            let (name, _) = wanted.volumes.iter().find(fits)?;
            taken.insert(name.clone());
            chosen.push(VolumeChoice { claim: wanted.claim.to_string(), volume: name.to_string() });
        }
        Some(chosen)
    }
}

fn is_at(place: &[Term], node: &Node) -> bool {
    place.is_empty() || place.iter().any(|term| term.matches(&node.name, node.labels()))
}

/// All claims and volumes, and who waits for them.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    claims: HashMap<Box<str>, Claim>,
    volumes: BTreeMap<Box<str>, Volume>,
    /// Whether claims of a class wait for their first consumer.
    classes: HashMap<Box<str>, bool>,
    /// Waiting Pods by their claims, and the claims of each.
    waiting: HashMap<Box<str>, BTreeSet<Arc<str>>>,
    of_pods: HashMap<Arc<str>, Vec<Reference>>,
    /// Pods on nodes by their claims.
    users: HashMap<Box<str>, HashSet<Arc<str>>>,
    /// Volumes that were chosen for a Pod and are not seen with their claim yet.
    reserved: HashMap<Box<str>, Arc<str>>,
}

/// A claim as a Pod names it.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    key: Box<str>,
    /// Made for the Pod by its template.
    is_ephemeral: bool,
}

#[derive(Debug)]
struct Claim {
    uid: String,
    volume: Option<Box<str>>,
    is_bound: bool,
    is_lost: bool,
    is_deleting: bool,
    for_one_pod: bool,
    /// The Pod that it was made for.
    owner: Option<String>,
    wants: Wants,
}

/// What tells which volumes would do.
#[derive(Debug, Clone)]
struct Wants {
    class: String,
    mode: String,
    attributes: String,
    access: Vec<String>,
    size: Quantity,
    selector: Option<LabelSelector>,
}

#[derive(Debug)]
struct Volume {
    place: Place,
    claim: Option<(Box<str>, String)>,
    is_free: bool,
    labels: Labels,
    class: String,
    mode: String,
    attributes: String,
    access: Vec<String>,
    size: Quantity,
}

fn text(value: &Value, usual: &str) -> String {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or(usual).to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn size(value: &Value) -> Quantity {
    Quantity::of(&value["storage"]).unwrap_or(Quantity::ZERO)
}

impl Claim {
    fn read(object: &Object) -> Self {
        let tree = object.value();
        let spec = &tree["spec"];
        let access = texts(&spec["accessModes"]);
        let volume = spec["volumeName"].as_str().filter(|name| !name.is_empty());
        Self {
            uid: object.meta.uid.clone(),
            is_bound: volume.is_some() && object.meta.annotations.contains_key(COMPLETED),
            volume: volume.map(Box::from),
            is_lost: tree["status"]["phase"] == "Lost",
            is_deleting: object.is_deleting(),
            for_one_pod: access.iter().any(|mode| mode == "ReadWriteOncePod"),
            owner: object.controller().map(|owner| owner.uid.clone()),
            wants: Wants {
                class: text(&spec["storageClassName"], ""),
                mode: text(&spec["volumeMode"], "Filesystem"),
                attributes: text(&spec["volumeAttributesClassName"], ""),
                access,
                size: size(&spec["resources"]["requests"]),
                selector: spec
                    .get("selector")
                    .filter(|selector| !selector.is_null())
                    .and_then(|selector| LabelSelector::from_value(Some(selector)).ok()),
            },
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinity {
    required: Required,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Required {
    node_selector_terms: Vec<Term>,
}

impl Volume {
    fn read(object: &Object) -> Self {
        let tree = object.value();
        let spec = &tree["spec"];
        let affinity = NodeAffinity::deserialize(&spec["nodeAffinity"]).unwrap_or_default();
        let claim = spec.get("claimRef").filter(|claim| claim.is_object()).map(|claim| {
            let key = format!("{}/{}", text(&claim["namespace"], ""), text(&claim["name"], ""));
            (key.into(), text(&claim["uid"], ""))
        });
        let phase = tree["status"]["phase"].as_str().unwrap_or("Available");
        Self {
            place: Arc::new(affinity.required.node_selector_terms),
            claim,
            is_free: !object.is_deleting() && matches!(phase, "Available" | "Pending" | ""),
            labels: object.meta.labels.clone(),
            class: text(&spec["storageClassName"], ""),
            mode: text(&spec["volumeMode"], "Filesystem"),
            attributes: text(&spec["volumeAttributesClassName"], ""),
            access: texts(&spec["accessModes"]),
            size: size(&spec["capacity"]),
        }
    }

    fn suits(&self, key: &str, claim: &Claim) -> bool {
        let wants = &claim.wants;
        let is_its = match &self.claim {
            None => true,
            Some((of, uid)) => **of == *key && (uid.is_empty() || *uid == claim.uid),
        };
        self.is_free
            && is_its
            && self.class == wants.class
            && self.mode == wants.mode
            && self.attributes == wants.attributes
            && self.size >= wants.size
            && wants.access.iter().all(|mode| self.access.contains(mode))
            && wants.selector.as_ref().is_none_or(|selector| selector.matches(&self.labels))
    }
}

/// The claims that a Pod names. Most name none, and are not read for that.
pub(crate) fn of(pod: &Object) -> Vec<Reference> {
    let has =
        |json: &str| json.contains("\"persistentVolumeClaim\"") || json.contains("\"ephemeral\"");
    if !std::str::from_utf8(pod.json()).is_ok_and(has) {
        return Vec::new();
    }
    let tree = pod.value();
    let reference = |volume: &Value| {
        let named = volume["persistentVolumeClaim"]["claimName"].as_str();
        let is_ephemeral = named.is_none() && volume["ephemeral"].is_object();
        let made = || format!("{}-{}", pod.meta.name, volume["name"].as_str().unwrap_or_default());
        let name = named.map(str::to_owned).or_else(|| is_ephemeral.then(made))?;
        Some(Reference { key: format!("{}/{name}", pod.meta.namespace).into(), is_ephemeral })
    };
    tree["spec"]["volumes"].as_array().into_iter().flatten().filter_map(reference).collect()
}

impl Claims {
    /// Takes in a claim, a volume or a class, or that it is gone; the Pods whose needs may be others now.
    pub(crate) fn observe(&mut self, object: &Object, gone: bool) -> Vec<Arc<str>> {
        let resource = object.kind.resource;
        let name: Box<str> = object.meta.name.as_str().into();
        if resource == kinds::PERSISTENT_VOLUME_CLAIM.resource {
            let key: Box<str> = object.key().into();
            match gone {
                true => drop(self.claims.remove(&key)),
                false => drop(self.claims.insert(key.clone(), Claim::read(object))),
            }
            self.waiting.get(&key).into_iter().flatten().cloned().collect()
        } else if resource == kinds::PERSISTENT_VOLUME.resource {
            let volume = (!gone).then(|| Volume::read(object));
            if volume.as_ref().is_none_or(|volume| volume.claim.is_some()) {
                self.reserved.remove(&name);
            }
            let before = self.volumes.remove(&name);
            let classes = [&before, &volume].map(|v| v.as_ref().map(|v| v.class.clone()));
            let concerned = self.concerned(&name, &classes);
            if let Some(volume) = volume {
                self.volumes.insert(name, volume);
            }
            concerned
        } else if resource == kinds::STORAGE_CLASS.resource {
            let waits = json::peek(object.json(), "volumeBindingMode") == "WaitForFirstConsumer";
            match gone {
                true => drop(self.classes.remove(&name)),
                false => drop(self.classes.insert(name, waits)),
            }
            self.of_pods.keys().cloned().collect()
        } else {
            Vec::new()
        }
    }

    /// Waiting Pods with a claim that has a volume, or may yet get one of these classes.
    fn concerned(&self, volume: &str, classes: &[Option<String>]) -> Vec<Arc<str>> {
        let of_class = |class: &str| classes.iter().any(|c| c.as_deref() == Some(class));
        let is_about = |reference: &Reference| {
            let claim = self.claims.get(&reference.key);
            claim.is_some_and(|claim| match &claim.volume {
                Some(its) => **its == *volume,
                None => of_class(&claim.wants.class),
            })
        };
        let pods = self.of_pods.iter().filter(|(_, claims)| claims.iter().any(is_about));
        pods.map(|(uid, _)| uid.clone()).collect()
    }

    /// A Pod with claims waits.
    pub(crate) fn wait(&mut self, uid: &Arc<str>, claims: Vec<Reference>) {
        for claim in &claims {
            self.waiting.entry(claim.key.clone()).or_default().insert(uid.clone());
        }
        self.of_pods.insert(uid.clone(), claims);
    }

    /// A Pod with claims is on a node.
    pub(crate) fn settle(&mut self, uid: &Arc<str>, claims: &[Reference]) {
        for claim in claims {
            self.users.entry(claim.key.clone()).or_default().insert(uid.clone());
        }
    }

    /// A Pod is on a node that waited before.
    pub(crate) fn move_in(&mut self, uid: &Arc<str>) {
        if let Some(claims) = self.of_pods.get(uid).cloned() {
            self.settle(uid, &claims);
        }
    }

    /// A Pod is seen on its node: it waits no more.
    pub(crate) fn bound(&mut self, uid: &str) {
        for claim in self.of_pods.remove(uid).unwrap_or_default() {
            self.unwait(uid, &claim);
        }
    }

    fn unwait(&mut self, uid: &str, claim: &Reference) {
        if let Some(pods) = self.waiting.get_mut(&claim.key) {
            pods.remove(uid);
            if pods.is_empty() {
                self.waiting.remove(&claim.key);
            }
        }
    }

    /// A Pod that was taken for bound waits again; whom that may concern.
    pub(crate) fn move_out(&mut self, uid: &str) -> Vec<Arc<str>> {
        let mut concerned = BTreeSet::new();
        for claim in self.of_pods.get(uid).into_iter().flatten() {
            if let Some(users) = self.users.get_mut(&claim.key) {
                users.remove(uid);
                if users.is_empty() {
                    self.users.remove(&claim.key);
                }
                concerned.extend(self.waiting.get(&claim.key).into_iter().flatten().cloned());
            }
        }
        concerned.extend(self.release(uid));
        concerned.into_iter().collect()
    }

    /// A Pod is gone, or does not wait any more; those who may have what it had.
    pub(crate) fn leave(&mut self, uid: &str, claims: &[Reference]) -> Vec<Arc<str>> {
        let known = self.of_pods.remove(uid).unwrap_or_default();
        known.iter().for_each(|claim| self.unwait(uid, claim));
        let mut stirred = BTreeSet::new();
        for claim in known.iter().chain(claims) {
            if let Some(users) = self.users.get_mut(&claim.key)
                && users.remove(uid)
            {
                if users.is_empty() {
                    self.users.remove(&claim.key);
                }
                stirred.extend(self.waiting.get(&claim.key).into_iter().flatten().cloned());
            }
        }
        stirred.extend(self.release(uid));
        stirred.into_iter().collect()
    }

    /// Keeps the volumes that were chosen for a Pod; whom that may concern.
    pub(crate) fn reserve(&mut self, uid: &Arc<str>, chosen: &[VolumeChoice]) -> Vec<Arc<str>> {
        let mut others = BTreeSet::new();
        for choice in chosen {
            self.reserved.insert(choice.volume.as_str().into(), uid.clone());
            let class = self.volumes.get(choice.volume.as_str()).map(|v| v.class.clone());
            others.extend(self.concerned(&choice.volume, &[class]));
        }
        others.remove(uid);
        others.into_iter().collect()
    }

    /// What was chosen for a Pod is free again; whom that may concern.
    pub(crate) fn release(&mut self, uid: &str) -> Vec<Arc<str>> {
        let free = self.reserved.extract_if(|_, of| **of == *uid);
        let free: Vec<Box<str>> = free.map(|(volume, _)| volume).collect();
        let of = |volume: &str| {
            let class = self.volumes.get(volume).map(|v| v.class.clone());
            self.concerned(volume, &[class])
        };
        free.iter().flat_map(|volume| of(volume)).collect()
    }

    /// What a waiting Pod needs, as things are.
    pub(crate) fn needs(&self, uid: &str) -> Needs {
        let mut needs = Needs::default();
        let mut sizes = Vec::new();
        for reference in self.of_pods.get(uid).into_iter().flatten() {
            if let Err(why) = self.need(uid, reference, &mut needs, &mut sizes) {
                return Needs { blocked: Some(why.into()), ..Needs::default() };
            }
        }
        sizes.sort_by_key(|(size, _)| *size);
        needs.wanted = sizes.into_iter().map(|(_, wanted)| wanted).collect();
        needs
    }

    fn need(
        &self,
        uid: &str,
        reference: &Reference,
        needs: &mut Needs,
        sizes: &mut Vec<(Quantity, Wanted)>,
    ) -> Result<(), String> {
        let key = &*reference.key;
        let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
        let claim = self.claims.get(key).ok_or_else(|| match reference.is_ephemeral {
            false => format!("persistentvolumeclaim \"{name}\" not found"),
            true => format!(
                "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""
            ),
        })?;
        if claim.is_lost {
            let volume = claim.volume.as_deref().unwrap_or_default();
            return Err(format!(
                "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
            ));
        }
        if claim.is_deleting {
            return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        if reference.is_ephemeral && claim.owner.as_deref() != Some(uid) {
            return Err(format!("PVC {key} was not created for pod (pod is not owner)"));
        }
        let others = |users: &HashSet<Arc<str>>| users.iter().any(|user| **user != *uid);
        needs.in_use |= claim.for_one_pod && self.users.get(key).is_some_and(others);
        match &claim.volume {
            Some(volume) if claim.is_bound => {
                let volume = self
                    .volumes
                    .get(volume)
                    .ok_or_else(|| format!("persistentvolume \"{volume}\" not found"))?;
                if !volume.place.is_empty() {
                    needs.bound.push(volume.place.clone());
                }
            }
            None if self.classes.get(claim.wants.class.as_str()) == Some(&true) => {
                let free = |name: &str| self.reserved.get(name).is_none_or(|of| **of == *uid);
                let fit = self.volumes.iter().filter(|(name, v)| free(name) && v.suits(key, claim));
                let mut fit: Vec<_> = fit.collect();
                // The one that somebody kept for it, then the smallest.
                fit.sort_by_key(|(_, volume)| (volume.claim.is_none(), volume.size));
                let volumes = fit.into_iter().map(|(name, v)| (name.clone(), v.place.clone()));
                let wanted = Wanted { claim: name.into(), volumes: volumes.collect() };
                sizes.push((claim.wants.size, wanted));
            }
            _ => return Err("pod has unbound immediate PersistentVolumeClaims".to_owned()),
        }
        Ok(())
    }
}
