//! Nodes that pretend: they take a while to start and to stop Pods, renew their Lease, and do nothing else.

use std::collections::HashMap;

use coracle_api::plan::Propagation;
use coracle_api::{Object, kinds};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::rng::Rng;
use crate::store::{Store, stamp, tree};

/// How often a node renews its Lease.
const LEASE_PERIOD: SignedDuration = SignedDuration::from_secs(4);

/// A node and its agent.
#[derive(Debug)]
pub struct FakeNode {
    /// Its name.
    pub name: String,
    /// Its agent runs. If not, nothing happens to its Pods.
    pub alive: bool,
    /// It was taken away and does not come back.
    pub gone: bool,
    number: usize,
    renewed: Timestamp,
    /// When it will have started or (`true`) stopped the Pod of that UID.
    due: HashMap<(String, bool), Timestamp>,
    addresses: u64,
}

impl FakeNode {
    /// The node of that number.
    pub fn new(number: usize) -> Self {
        Self {
            name: format!("node-{number}"),
            alive: true,
            gone: false,
            number,
            renewed: Timestamp::MIN,
            due: HashMap::new(),
            addresses: 0,
        }
    }

    /// When it has something to do next, if not now.
    pub fn due(&self, store: &Store) -> Option<Timestamp> {
        if !self.alive || self.gone {
            return None;
        }
        let pods = self.due.values().copied().filter(|at| *at > store.now);
        pods.chain([self.renewed.saturating_add(LEASE_PERIOD).unwrap_or(Timestamp::MAX)]).min()
    }

    /// Does what is due; whether anything was. When `flaky`, Pods lose readiness or fail.
    ///
    /// # Errors
    /// A write that the store refuses.
    pub fn step(&mut self, store: &mut Store, rng: &mut Rng, flaky: bool) -> Result<bool, String> {
        if !self.alive || self.gone {
            return Ok(false);
        }
        let mut busy = self.report(store)?;
        let pods: Vec<_> = store.cluster.pods_on(&self.name).cloned().collect();
        self.due.retain(|(uid, _), _| pods.iter().any(|pod| pod.meta.uid == *uid));
        for pod in &pods {
            busy |= self.attend(pod, store, rng, flaky)?;
        }
        Ok(busy)
    }

    fn report(&mut self, store: &mut Store) -> Result<bool, String> {
        let refused = |e| format!("{e:?}");
        let ready = |at: Timestamp| {
            json!([{"type": "Ready", "status": "True", "reason": "KubeletReady",
                "lastHeartbeatTime": stamp(at), "lastTransitionTime": stamp(at)}])
        };
        let mut busy = false;
        match store.cluster.get(&kinds::NODE, "", &self.name).cloned() {
            None => {
                let node = json!({"metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name}}});
                store.create(&kinds::NODE, node).map_err(refused)?;
                busy = true;
            }
            Some(node) => {
                let value = tree(&node);
                let mut told = value["status"]["conditions"].as_array().into_iter().flatten();
                let is_ready = told.any(|c| c["type"] == "Ready" && c["status"] == "True");
                if !is_ready {
                    let status = json!({
                        "conditions": ready(store.now),
                        "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "40"},
                    });
                    store
                        .patch(&node, Some("status"), &json!({"status": status}))
                        .map_err(refused)?;
                    busy = true;
                }
            }
        }
        if store.now.duration_since(self.renewed) >= LEASE_PERIOD {
            let lease_spec = json!({
                "holderIdentity": self.name, "leaseDurationSeconds": 10,
                "renewTime": store.now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
            });
            match store.cluster.get(&kinds::LEASE, "kube-node-lease", &self.name).cloned() {
                None => {
                    let meta = json!({"name": self.name, "namespace": "kube-node-lease"});
                    store
                        .create(&kinds::LEASE, json!({"metadata": meta, "spec": lease_spec}))
                        .map_err(refused)?;
                }
                Some(lease) => {
                    store.patch(&lease, None, &json!({"spec": lease_spec})).map_err(refused)?;
                }
            }
            self.renewed = store.now;
            busy = true;
        }
        Ok(busy)
    }

    fn attend(
        &mut self,
        pod: &Object,
        store: &mut Store,
        rng: &mut Rng,
        flaky: bool,
    ) -> Result<bool, String> {
        let refused = |e| format!("{e:?}");
        let value = tree(pod);
        let phase = value["status"]["phase"].as_str().unwrap_or("Pending");
        let mut conditions = value["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.any(|c| c["type"] == "Ready" && c["status"] == "True");
        let ended = matches!(phase, "Succeeded" | "Failed");
        if ended && !pod.is_deleting() {
            return Ok(false);
        }
        if pod.is_deleting() && pod.meta.deletion_grace_period_seconds == Some(0) {
            // It was stopped; others have yet to let it go.
            return Ok(false);
        }
        if phase == "Running" && ready && !pod.is_deleting() {
            if value["spec"]["restartPolicy"] == "Never" {
                return self.run_to_end(pod, store, rng, flaky);
            }
            if !flaky || !rng.one_in(60) {
                return Ok(false);
            }
            let patch = if rng.one_in(3) {
                json!({"status": {"phase": "Failed", "reason": "Evicted", "conditions": conditions_with(&value, false, store.now)}})
            } else {
                let at = store.now + SignedDuration::from_millis(rng.range(100, 5000) as i64);
                self.due.insert((pod.meta.uid.clone(), false), at);
                json!({"status": {"conditions": conditions_with(&value, false, store.now)}})
            };
            store.patch(pod, Some("status"), &patch).map_err(refused)?;
            return Ok(true);
        }

        // Starting, getting ready or stopping: each takes its time.
        let now = store.now;
        let due = *self
            .due
            .entry((pod.meta.uid.clone(), pod.is_deleting()))
            .or_insert_with(|| now + SignedDuration::from_millis(rng.range(10, 3000) as i64));
        if due > now {
            return Ok(false);
        }
        self.due.remove(&(pod.meta.uid.clone(), pod.is_deleting()));
        if pod.is_deleting() {
            store.delete(pod, Propagation::Background, Some(0)).map_err(refused)?;
            return Ok(true);
        }
        let ip = match value["status"]["podIP"].as_str() {
            Some(ip) => ip.to_owned(),
            None => {
                self.addresses += 1;
                format!("10.{}.{}.{}", self.number, self.addresses / 250, self.addresses % 250 + 1)
            }
        };
        let status = json!({
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": conditions_with(&value, true, store.now),
        });
        store.patch(pod, Some("status"), &json!({"status": status})).map_err(refused)?;
        Ok(true)
    }
}

impl FakeNode {
    /// A Pod that is not restarted ends after a while, mostly well.
    fn run_to_end(
        &mut self,
        pod: &Object,
        store: &mut Store,
        rng: &mut Rng,
        flaky: bool,
    ) -> Result<bool, String> {
        let now = store.now;
        let due = *self
            .due
            .entry((pod.meta.uid.clone(), false))
            .or_insert_with(|| now + SignedDuration::from_millis(rng.range(10, 3000) as i64));
        if due > now {
            return Ok(false);
        }
        self.due.remove(&(pod.meta.uid.clone(), false));
        let failed = flaky && rng.one_in(5);
        let ended = json!({"exitCode": i32::from(failed), "finishedAt": stamp(now)});
        let status = json!({
            "phase": if failed { "Failed" } else { "Succeeded" },
            "conditions": conditions_with(&tree(pod), false, now),
            "containerStatuses": [{"name": "c", "image": "job", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": ended}}],
        });
        let written = store.patch(pod, Some("status"), &json!({"status": status}));
        written.map(|_| true).map_err(|e| format!("{e:?}"))
    }
}

fn conditions_with(pod: &Value, ready: bool, now: Timestamp) -> Value {
    let known = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut conditions: Vec<Value> = known.filter(|c| c["type"] != "Ready").cloned().collect();
    let status = if ready { "True" } else { "False" };
    conditions.push(json!({"type": "Ready", "status": status, "lastTransitionTime": stamp(now)}));
    conditions.into()
}
