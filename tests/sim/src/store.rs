//! The API server's registry in little: defaults, validation, generations, preconditions, graceful deletion, finalizers.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use coracle_api::kinds::{self, Generation, Prepare};
use coracle_api::plan::Propagation;
use coracle_api::{Change, Cluster, Kind, Object, Write};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// Everything there is, and how it came to be.
#[derive(Debug)]
pub struct Store {
    /// The present state.
    pub cluster: Cluster,
    /// Every change, in order.
    pub log: Vec<Change>,
    /// The time.
    pub now: Timestamp,
    revision: u64,
    uids: u64,
}

/// Why a write was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The precondition does not hold (any more).
    Conflict,
    /// The namespace is going away.
    Terminating,
    /// No server would take it: a mistake of whoever wrote.
    Invalid(String),
}

/// The revision of the write, or of the state that it would not have changed.
pub type Outcome = Result<u64, Refusal>;

impl Store {
    /// Nothing, at that time.
    pub fn new(now: Timestamp) -> Self {
        Self { cluster: Cluster::new(now), log: Vec::new(), now, revision: 0, uids: 0 }
    }

    /// Performs a write of a plan.
    pub fn perform(&mut self, write: &Write) -> Outcome {
        match write {
            Write::Create { kind, object } => self.create(kind, object.clone()),
            Write::Patch { kind, namespace, name, revision, subresource, patch } => {
                let seen = self.cluster.get(kind, namespace, name).cloned();
                let seen = seen.filter(|seen| seen.meta.resource_version == *revision);
                let seen = seen.ok_or(Refusal::Conflict)?;
                self.patch(&seen, *subresource, patch)
            }
            Write::Delete { kind, namespace, name, uid, revision, propagation, grace_seconds } => {
                let seen = self.cluster.get(kind, namespace, name).cloned();
                let seen = seen.filter(|seen| {
                    seen.meta.uid == *uid
                        && revision.is_none_or(|r| r == seen.meta.resource_version)
                });
                let seen = seen.ok_or(Refusal::Conflict)?;
                self.delete(&seen, *propagation, *grace_seconds)
            }
        }
    }

    /// Creates an object.
    pub fn create(&mut self, kind: &'static Kind, mut object: Value) -> Outcome {
        object["kind"] = kind.kind.into();
        object["apiVersion"] = kind.api_version().into();
        self.uids += 1;
        object["metadata"]["uid"] = format!("uid-{}", self.uids).into();
        (kind.default)(&mut object);
        (kind.prepare)(Prepare::Create(&mut object));
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        if kind.namespaced {
            match self.cluster.get(&kinds::NAMESPACE, "", &namespace) {
                Some(found) if !found.is_deleting() => {}
                _ => return Err(Refusal::Terminating),
            }
        }
        if self.cluster.get(kind, &namespace, &name).is_some() {
            return Err(Refusal::Conflict);
        }
        object["metadata"]["creationTimestamp"] = stamp(self.now).into();
        if kind.generation == Generation::Spec {
            object["metadata"]["generation"] = 1.into();
        }
        if kind.is_pod() {
            object["status"]["phase"] = "Pending".into();
        }
        self.check(kind, &object, None)?;
        self.put(kind, object, None)
    }

    /// Changes an object as it is now.
    pub fn patch(
        &mut self,
        seen: &Object,
        subresource: Option<&'static str>,
        patch: &Value,
    ) -> Outcome {
        let old = tree(seen);
        let mut new = old.clone().into_owned();
        merge(&mut new, patch);
        match subresource {
            None => {
                (seen.kind.prepare)(Prepare::Update { new: &mut new, old: &old });
                if seen.kind.generation == Generation::Spec && new["spec"] != old["spec"] {
                    new["metadata"]["generation"] = (seen.meta.generation + 1).into();
                }
            }
            Some("status") => (seen.kind.prepare)(Prepare::Status { new: &mut new, old: &old }),
            Some("finalize") => {}
            Some(other) => return Err(Refusal::Invalid(format!("no subresource {other}"))),
        }
        (seen.kind.default)(&mut new);
        self.check(seen.kind, &new, Some(&old))?;
        if new == *old {
            return Ok(self.revision);
        }
        let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
        let is_namespace = seen.kind.resource == kinds::NAMESPACE.resource;
        let gone = seen.is_deleting()
            && empty(&new["metadata"]["finalizers"])
            && seen.meta.deletion_grace_period_seconds.unwrap_or(0) == 0
            && (!is_namespace || empty(&new["spec"]["finalizers"]));
        if gone { self.remove(seen) } else { self.put(seen.kind, new, Some(seen)) }
    }

    /// Asks for an object's deletion.
    pub fn delete(
        &mut self,
        seen: &Object,
        propagation: Propagation,
        grace: Option<i64>,
    ) -> Outcome {
        let mut new = tree(seen).into_owned();
        let finished = matches!(new["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let own = new["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
        let known = seen.meta.deletion_grace_period_seconds;
        let grace = match (seen.node_name.is_some() && !finished, known) {
            (false, _) => 0,
            (true, None) => grace.unwrap_or(own),
            (true, Some(known)) => grace.unwrap_or(known).min(known),
        };
        let mut finalizers = seen.meta.finalizers.clone();
        finalizers.retain(|f| f != "foregroundDeletion" && f != "orphan");
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => finalizers.push("foregroundDeletion".into()),
            Propagation::Orphan => finalizers.push("orphan".into()),
        }
        let held = new["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        if finalizers.is_empty() && grace == 0 && !held {
            return self.remove(seen);
        }
        if seen.is_deleting() && finalizers == seen.meta.finalizers && known == Some(grace) {
            return Ok(self.revision);
        }
        new["metadata"]["finalizers"] = json!(finalizers);
        if !seen.is_deleting() {
            let at = self.now + SignedDuration::from_secs(grace);
            new["metadata"]["deletionTimestamp"] = stamp(at).into();
        }
        new["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        if seen.kind.resource == kinds::NAMESPACE.resource {
            new["status"]["phase"] = "Terminating".into();
        }
        self.put(seen.kind, new, Some(seen))
    }

    /// Binds a Pod that is still the one seen.
    pub fn bind(&mut self, pod: &Object, node: &str) -> Outcome {
        let now = self.cluster.get(&kinds::POD, &pod.meta.namespace, &pod.meta.name).cloned();
        let pod = now
            .filter(|now| now.meta.uid == pod.meta.uid && now.node_name.is_none())
            .ok_or(Refusal::Conflict)?;
        let mut new = tree(&pod).into_owned();
        new["spec"]["nodeName"] = node.into();
        self.put(&kinds::POD, new, Some(&pod))
    }

    fn check(&self, kind: &Kind, new: &Value, old: Option<&Value>) -> Result<(), Refusal> {
        let mut errors = (kind.validate)(new);
        if let Some(old) = old {
            errors.extend((kind.validate_update)(new, old));
        }
        if errors.is_empty() {
            return Ok(());
        }
        let errors: Vec<_> = errors.iter().map(|e| format!("{}: {}", e.path, e.body())).collect();
        Err(Refusal::Invalid(format!(
            "{} {}: {}",
            kind.kind,
            new["metadata"]["name"],
            errors.join("; ")
        )))
    }

    fn put(&mut self, kind: &'static Kind, mut value: Value, old: Option<&Object>) -> Outcome {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Object::from_value(kind, &value);
        let new = Arc::new(object.map_err(|e| Refusal::Invalid(e.to_string()))?);
        let was = self.cluster.put(new.clone());
        debug_assert_eq!(was.is_some(), old.is_some());
        self.log.push(Change { revision: self.revision, old: was, new: Some(new) });
        Ok(self.revision)
    }

    fn remove(&mut self, seen: &Object) -> Outcome {
        self.revision += 1;
        let (namespace, name) = (&seen.meta.namespace, &seen.meta.name);
        let old = self.cluster.remove(seen.kind, namespace, name, self.revision);
        self.log.push(Change { revision: self.revision, old, new: None });
        Ok(self.revision)
    }

    /// What is there, for people.
    pub fn describe(&self) -> String {
        let mut text = format!("at {}\n", self.now);
        for kind in [
            &kinds::NAMESPACE,
            &kinds::NODE,
            &kinds::DEPLOYMENT,
            &kinds::REPLICA_SET,
            &kinds::DAEMON_SET,
            &kinds::STATEFUL_SET,
            &kinds::CONTROLLER_REVISION,
            &kinds::CRON_JOB,
            &kinds::JOB,
            &kinds::POD,
            &kinds::SERVICE,
            &kinds::ENDPOINT_SLICE,
        ] {
            for object in self.cluster.list(kind) {
                let value = object.value();
                let spec = &value["spec"];
                let _ = writeln!(
                    text,
                    "{object:?} deleting {} finalizers {:?} owners {:?} labels {:?} annotations {:?}\n    replicas {} node {} taints {} paused {}\n    status {}",
                    object.is_deleting(),
                    object.meta.finalizers,
                    object.meta.owner_references.iter().map(|o| &o.uid).collect::<Vec<_>>(),
                    object.meta.labels,
                    object.meta.annotations,
                    spec["replicas"],
                    spec["nodeName"],
                    spec["taints"],
                    spec["paused"],
                    value["status"],
                );
            }
        }
        text
    }
}

/// An object's JSON, parsed once.
pub fn tree(object: &Object) -> Cow<'_, Value> {
    object.decode::<Value>().unwrap_or_default()
}

/// RFC 7386.
pub fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    if let Value::Object(into) = into {
        for (key, value) in patch {
            if value.is_null() {
                into.remove(key);
            } else {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

/// A time as the API writes it.
pub fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
