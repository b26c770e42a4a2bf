//! What must hold: the limits of rollouts at every moment, the declared state in the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use coracle_api::plan::Key;
use coracle_api::{LabelSelector, Object, kinds};
use serde_json::Value;

use crate::store::{Store, tree};
use crate::user::User;

/// The limits of rolling updates, watched write by write.
#[derive(Debug)]
pub struct Limits {
    /// Checked at all: only where nothing but rollouts moves Pods.
    strict: bool,
    seen: usize,
    deployments: HashMap<String, Limit>,
    /// The largest parallelism of each Job.
    jobs: HashMap<String, i64>,
}

#[derive(Debug, Default)]
struct Limit {
    /// Replicas + maxSurge, the most that was ever declared: a larger size may still be in the works.
    ceiling: i64,
    /// Replicas − maxUnavailable, the least declared since all were available.
    floor: Option<i64>,
}

impl Limits {
    /// None seen yet.
    pub fn new(strict: bool) -> Self {
        Self { strict, seen: 0, deployments: HashMap::new(), jobs: HashMap::new() }
    }

    /// Checks the present state, if it changed.
    ///
    /// # Errors
    /// Which Deployment has too many or too few Pods.
    pub fn check(&mut self, store: &Store) -> Result<(), String> {
        if !self.strict || store.log.len() == self.seen {
            return Ok(());
        }
        let moves = |object: &Arc<Object>| {
            let kinds = [kinds::DEPLOYMENT.resource, kinds::JOB.resource];
            object.kind.is_pod() || kinds.contains(&object.kind.resource)
        };
        let news = &store.log[self.seen..];
        let relevant = news.iter().any(|change| change.object().is_some_and(moves));
        self.seen = store.log.len();
        if !relevant {
            return Ok(());
        }
        for deployment in store.cluster.list(&kinds::DEPLOYMENT) {
            let limit = self.deployments.entry(deployment.meta.uid.clone()).or_default();
            limit.check(store, deployment)?;
        }
        for job in store.cluster.list(&kinds::JOB) {
            let most = self.jobs.entry(job.meta.uid.clone()).or_default();
            check_parallelism(store, job, most)?;
        }
        Ok(())
    }
}

impl Limit {
    fn check(&mut self, store: &Store, deployment: &Object) -> Result<(), String> {
        let value = tree(deployment);
        let spec = &value["spec"];
        let replicas = spec["replicas"].as_i64().unwrap_or(1);
        let rolling = &spec["strategy"]["rollingUpdate"];
        let share = |field: &str, up: bool| match &rolling[field] {
            Value::String(percent) => {
                let percent: i64 = percent.trim_end_matches('%').parse().unwrap_or(0);
                (percent * replicas + if up { 99 } else { 0 }) / 100
            }
            number => number.as_i64().unwrap_or(0),
        };
        let surge = share("maxSurge", true);
        let mut unavailable = share("maxUnavailable", false);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        let generation = |object: &Object| {
            tree(object)["status"]["observedGeneration"].as_i64() == Some(object.meta.generation)
        };
        let (mut active, mut ready, mut sized, mut told) = (0, 0, 0, 0);
        let mut at_rest = generation(deployment);
        for set in store.cluster.owned_of_kind(&deployment.meta.uid, &kinds::REPLICA_SET) {
            at_rest &= generation(set);
            sized += size(set);
            told += tree(set)["status"]["availableReplicas"].as_i64().unwrap_or(0);
            for pod in store.cluster.owned_of_kind(&set.meta.uid, &kinds::POD) {
                if !pod.is_deleting() {
                    active += 1;
                    ready += i64::from(is_ready(pod));
                }
            }
        }
        self.ceiling = self.ceiling.max(replicas + surge);
        self.floor = self.floor.map(|floor| floor.min(replicas - unavailable));
        if active > self.ceiling {
            let ceiling = self.ceiling;
            return Err(format!(
                "{deployment:?} has {active} Pods, {ceiling} are the most\n{}",
                store.describe()
            ));
        }
        if let Some(floor) = self.floor.filter(|floor| ready < *floor) {
            return Err(format!(
                "{deployment:?} has {ready} ready Pods, {floor} are the least\n{}",
                store.describe()
            ));
        }
        let min_ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
        // Not while a smaller size that was declared before is still being carried out, nor before it is known that they
        // are available: until then Pods may be replaced as not available.
        at_rest &= active == sized;
        if ready.min(told) >= replicas && min_ready == 0 && at_rest {
            self.floor = Some(replicas - unavailable);
        }
        Ok(())
    }
}

fn is_ready(pod: &Object) -> bool {
    let value = tree(pod);
    let mut conditions = value["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn has_ended(pod: &Object) -> bool {
    matches!(tree(pod)["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// Checks that the declared state is reached; `hasted` are the keys that at times did not wait to see what they had written.
///
/// # Errors
/// What is not as declared.
pub fn settled(store: &Store, user: &User, hasted: &BTreeSet<Key>) -> Result<(), String> {
    for deployment in store.cluster.list(&kinds::DEPLOYMENT) {
        check_deployment(store, deployment).map_err(|why| format!("{deployment:?}: {why}"))?;
    }
    for set in store.cluster.list(&kinds::REPLICA_SET) {
        check_set(store, set).map_err(|why| format!("{set:?}: {why}"))?;
    }
    for set in store.cluster.list(&kinds::DAEMON_SET) {
        check_daemon_set(store, set, hasted).map_err(|why| format!("{set:?}: {why}"))?;
    }
    for set in store.cluster.list(&kinds::STATEFUL_SET) {
        check_stateful_set(store, set, hasted).map_err(|why| format!("{set:?}: {why}"))?;
    }
    for job in store.cluster.list(&kinds::JOB) {
        check_job(store, job, hasted).map_err(|why| format!("{job:?}: {why}"))?;
    }
    for cron_job in store.cluster.list(&kinds::CRON_JOB) {
        check_cron_job(store, cron_job).map_err(|why| format!("{cron_job:?}: {why}"))?;
    }
    for service in store.cluster.list(&kinds::SERVICE) {
        check_service(store, service).map_err(|why| format!("{service:?}: {why}"))?;
    }
    for pod in store.cluster.list(&kinds::POD) {
        if let Some(node) = &pod.node_name
            && store.cluster.get(&kinds::NODE, "", node).is_none()
        {
            return Err(format!("{pod:?} is on {node}, which is gone"));
        }
        if !has_ended(pod) && !is_ready(pod) {
            return Err(format!("{pod:?} is not ready"));
        }
    }
    for node in store.cluster.list(&kinds::NODE) {
        let taints = &tree(node)["spec"]["taints"];
        if taints.as_array().is_some_and(|taints| !taints.is_empty()) {
            return Err(format!("{node:?} still has taints {taints}"));
        }
    }
    for namespace in store.cluster.list(&kinds::NAMESPACE) {
        if store.cluster.get(&kinds::SERVICE_ACCOUNT, &namespace.meta.name, "default").is_none() {
            return Err(format!("{namespace:?} has no default ServiceAccount"));
        }
    }
    check_owners(store, user)
}

/// Nothing that was deleted is left, nothing outlives its owners or its namespace, nothing is half deleted.
fn check_owners(store: &Store, user: &User) -> Result<(), String> {
    let all = || kinds::ALL.iter().flat_map(|kind| store.cluster.list(kind));
    let uids: BTreeSet<&str> = all().map(|object| object.meta.uid.as_str()).collect();
    for object in all() {
        if object.is_deleting() {
            return Err(format!("{object:?} is still being deleted"));
        }
        if user.deleted.contains(&object.meta.uid) {
            return Err(format!("{object:?} was deleted and is still there"));
        }
        if let Some(owner) =
            object.meta.owner_references.iter().find(|o| !uids.contains(o.uid.as_str()))
        {
            return Err(format!("{object:?} outlived its owner {owner:?}"));
        }
        let namespace = &object.meta.namespace;
        if object.kind.namespaced && store.cluster.get(&kinds::NAMESPACE, "", namespace).is_none() {
            return Err(format!("{object:?} outlived its namespace"));
        }
    }
    Ok(())
}

/// A Pod of the template on every node, and nothing else; and its status says so.
fn check_daemon_set(store: &Store, set: &Object, hasted: &BTreeSet<Key>) -> Result<(), String> {
    let value = tree(set);
    let pods: Vec<_> = store.cluster.owned_of_kind(&set.meta.uid, &kinds::POD).collect();
    let on: BTreeSet<&str> = pods.iter().filter_map(|pod| pod.node_name.as_deref()).collect();
    let nodes: BTreeSet<&str> =
        store.cluster.list(&kinds::NODE).map(|node| node.meta.name.as_str()).collect();
    if on != nodes || pods.len() != nodes.len() {
        return Err(format!("Pods {pods:?} on {on:?}, nodes are {nodes:?}"));
    }
    check_images(&value, &pods)?;
    let wanted = nodes.len() as i64;
    check_counts(
        &value,
        wanted,
        &[
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "numberAvailable",
            "updatedNumberScheduled",
        ],
    )?;
    check_history(store, set, hasted)
}

/// The Pods that are numbered so, of the template; and its status says so.
fn check_stateful_set(store: &Store, set: &Object, hasted: &BTreeSet<Key>) -> Result<(), String> {
    let value = tree(set);
    let wanted = value["spec"]["replicas"].as_i64().unwrap_or(1);
    let pods: Vec<_> = store.cluster.owned_of_kind(&set.meta.uid, &kinds::POD).collect();
    let names: BTreeSet<String> = pods.iter().map(|pod| pod.meta.name.clone()).collect();
    let expected = (0..wanted).map(|n| format!("{}-{n}", set.meta.name)).collect();
    if names != expected {
        return Err(format!("{names:?} instead of {expected:?}"));
    }
    check_images(&value, &pods)?;
    check_counts(
        &value,
        wanted,
        &["replicas", "readyReplicas", "availableReplicas", "currentReplicas", "updatedReplicas"],
    )?;
    if value["status"]["currentRevision"] != value["status"]["updateRevision"] {
        return Err(format!("its update never ended: {}", value["status"]));
    }
    check_history(store, set, hasted)
}

fn check_images(set: &Value, pods: &[&Arc<Object>]) -> Result<(), String> {
    let image = |spec: &Value| spec["containers"][0]["image"].clone();
    let wanted = image(&set["spec"]["template"]["spec"]);
    match pods.iter().find(|pod| image(&tree(pod)["spec"]) != wanted) {
        Some(pod) => Err(format!("{pod:?} is not of {wanted}")),
        None => Ok(()),
    }
}

fn check_counts(set: &Value, wanted: i64, fields: &[&str]) -> Result<(), String> {
    let told = |field: &&&str| set["status"][**field].as_i64().unwrap_or(0) != wanted;
    match fields.iter().find(told) {
        Some(field) => Err(format!("{field} is not {wanted}: {}", set["status"])),
        None => Ok(()),
    }
}

fn key_of(object: &Object) -> Key {
    Key::new(&*object.meta.namespace, &*object.meta.name)
}

/// Revisions are numbered, and not more than may stay. Each number is one revision's alone, unless a second one was
/// made by who did not wait to see the first.
fn check_history(store: &Store, set: &Object, hasted: &BTreeSet<Key>) -> Result<(), String> {
    let history = store.cluster.owned_of_kind(&set.meta.uid, &kinds::CONTROLLER_REVISION);
    let numbers: Vec<_> = history.map(|revision| tree(revision)["revision"].as_i64()).collect();
    let once: BTreeSet<_> = numbers.iter().collect();
    let limit = tree(set)["spec"]["revisionHistoryLimit"].as_u64().unwrap_or(10) + 1;
    let shared = !hasted.contains(&key_of(set)) && once.len() != numbers.len();
    if shared || numbers.is_empty() || numbers.len() as u64 > limit {
        return Err(format!("revisions {numbers:?}, {limit} may stay"));
    }
    Ok(())
}

/// A Job comes to its end, and every Pod of it was counted once. Who does not wait to see the Pods it made makes too many, and more
/// may then succeed than were wanted: they only have to be counted.
fn check_job(store: &Store, job: &Object, hasted: &BTreeSet<Key>) -> Result<(), String> {
    let value = tree(job);
    let status = &value["status"];
    let is = |kind: &str| {
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        conditions.any(|c| c["type"] == kind && c["status"] == "True")
    };
    if !is("Complete") && !is("Failed") {
        return Err(format!("it never ended: {status}"));
    }
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    if count("active") + count("terminating") + count("ready") > 0 {
        return Err(format!("Pods that are left: {status}"));
    }
    let held = |pod: &&Arc<Object>| {
        pod.meta.finalizers.iter().any(|f| f == "batch.kubernetes.io/job-tracking")
    };
    if let Some(pod) = store.cluster.owned_of_kind(&job.meta.uid, &kinds::POD).find(held) {
        return Err(format!("{pod:?} waits to be counted"));
    }
    // Who succeeded while the Job held them, by the history of everything: one that it told to go may succeed all the same.
    let mut succeeded = BTreeSet::new();
    for pod in store.log.iter().filter_map(|change| change.new.as_ref()) {
        let owned = pod.controller().is_some_and(|owner| owner.uid == job.meta.uid);
        if pod.kind.is_pod() && owned && held(&pod) && tree(pod)["status"]["phase"] == "Succeeded" {
            let index =
                &tree(pod)["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"];
            succeeded.insert(index.as_str().unwrap_or(&pod.meta.uid).to_owned());
        }
    }
    let (wanted, told) = (value["spec"]["completions"].as_i64(), count("succeeded"));
    let right = if is("Complete") {
        told == succeeded.len() as i64
    } else {
        told <= succeeded.len() as i64
    };
    let missed = wanted
        .is_some_and(|wanted| told < wanted || (told > wanted && !hasted.contains(&key_of(job))));
    if !right || (is("Complete") && missed) {
        return Err(format!("{told} of {wanted:?} counted, {succeeded:?} succeeded: {status}"));
    }
    Ok(())
}

fn check_cron_job(store: &Store, cron_job: &Object) -> Result<(), String> {
    let value = tree(cron_job);
    if value["status"]["active"].as_array().is_some_and(|active| !active.is_empty()) {
        return Err(format!("active: {}", value["status"]));
    }
    for (kind, limit) in
        [("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")]
    {
        let ended = |job: &&Arc<Object>| {
            let value = tree(job);
            let mut conditions = value["status"]["conditions"].as_array().into_iter().flatten();
            conditions.any(|c| c["type"] == kind && c["status"] == "True")
        };
        let kept =
            store.cluster.owned_of_kind(&cron_job.meta.uid, &kinds::JOB).filter(ended).count();
        let limit = value["spec"][limit].as_u64().unwrap_or(0);
        if kept as u64 > limit {
            return Err(format!("{kept} {kind} Jobs, {limit} may stay"));
        }
    }
    Ok(())
}

/// Never more Pods at a time than declared: the most that were, since a larger number may still be in the works.
fn check_parallelism(store: &Store, job: &Object, most: &mut i64) -> Result<(), String> {
    let value = tree(job);
    *most = (*most).max(value["spec"]["parallelism"].as_i64().unwrap_or(1));
    let pods = store.cluster.owned_of_kind(&job.meta.uid, &kinds::POD);
    let active = pods.filter(|pod| !pod.is_deleting() && !has_ended(pod)).count() as i64;
    if active > *most {
        return Err(format!(
            "{job:?} has {active} Pods, {most} are the most\n{}",
            store.describe()
        ));
    }
    Ok(())
}

fn check_set(store: &Store, set: &Object) -> Result<(), String> {
    let value = tree(set);
    let pods = store.cluster.owned_of_kind(&set.meta.uid, &kinds::POD);
    let active: Vec<_> = pods.filter(|pod| !has_ended(pod)).collect();
    let wanted = value["spec"]["replicas"].as_i64().unwrap_or(1);
    if active.len() as i64 != wanted {
        return Err(format!("{} Pods instead of {wanted}", active.len()));
    }
    let status = &value["status"];
    for field in ["replicas", "readyReplicas", "availableReplicas", "fullyLabeledReplicas"] {
        let told = status[field].as_i64().unwrap_or(0);
        if told != wanted {
            return Err(format!("{field} is {told} instead of {wanted}"));
        }
    }
    let selector = LabelSelector::from_value(Some(&value["spec"]["selector"]))
        .map_err(|error| error.to_string())?;
    let orphan = |pod: &&Arc<Object>| {
        pod.controller().is_none() && !has_ended(pod) && selector.matches(&pod.meta.labels)
    };
    match store.cluster.list_in(&kinds::POD, &set.meta.namespace).find(orphan) {
        Some(pod) => Err(format!("{pod:?} was not adopted")),
        None => Ok(()),
    }
}

fn check_deployment(store: &Store, deployment: &Object) -> Result<(), String> {
    let value = tree(deployment);
    let (spec, status) = (&value["spec"], &value["status"]);
    let replicas = spec["replicas"].as_i64().unwrap_or(1);
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let mut expected = vec![
        ("observedGeneration", deployment.meta.generation),
        ("replicas", replicas),
        ("readyReplicas", replicas),
        ("availableReplicas", replicas),
        ("unavailableReplicas", 0),
    ];
    let paused = spec["paused"] == true;
    if !paused {
        expected.push(("updatedReplicas", replicas));
    }
    let sets: Vec<_> =
        store.cluster.owned_of_kind(&deployment.meta.uid, &kinds::REPLICA_SET).collect();
    if paused && sets.is_empty() {
        return Ok(());
    }
    if paused && sets.iter().map(|set| size(set)).sum::<i64>() > replicas {
        // Paused in the middle: what is in surge stays.
        return Ok(());
    }
    for (field, expected) in expected {
        if number(field) != expected {
            return Err(format!("{field} is {} instead of {expected}", number(field)));
        }
    }
    if paused {
        return Ok(());
    }

    let image = |of: &Value| of["template"]["spec"]["containers"][0]["image"].clone();
    let (new, old): (Vec<&Object>, Vec<&Object>) =
        sets.iter().map(|set| &***set).partition(|set| image(&tree(set)["spec"]) == image(spec));
    let [new] = new[..] else { return Err(format!("{} ReplicaSets of its template", new.len())) };
    if size(new) != replicas || old.iter().any(|set| size(set) != 0) {
        return Err("Pods of other templates".to_owned());
    }
    let limit = spec["revisionHistoryLimit"].as_u64().unwrap_or(10);
    if old.len() as u64 > limit {
        return Err(format!("{} old ReplicaSets, {limit} may stay", old.len()));
    }
    let revision = |object: &Object| {
        let text = object.meta.annotations.get("deployment.kubernetes.io/revision")?;
        text.parse::<i64>().ok()
    };
    let mut revisions: Vec<_> = sets.iter().map(|set| revision(set)).collect();
    revisions.sort();
    revisions.dedup();
    let newest = revisions.last().copied().flatten();
    if revisions.len() != sets.len() || revision(new) != newest || revision(deployment) != newest {
        return Err(format!("revisions {revisions:?}, of itself {:?}", revision(deployment)));
    }
    let reasons: BTreeMap<&str, &str> = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| Some((c["type"].as_str()?, c["reason"].as_str()?)))
        .collect();
    let wanted =
        [("Available", "MinimumReplicasAvailable"), ("Progressing", "NewReplicaSetAvailable")];
    match wanted.into_iter().find(|(kind, reason)| reasons.get(kind) != Some(reason)) {
        Some((kind, reason)) => Err(format!("{kind} is not for {reason}: {reasons:?}")),
        None => Ok(()),
    }
}

fn size(set: &Object) -> i64 {
    tree(set)["spec"]["replicas"].as_i64().unwrap_or(0)
}

fn check_service(store: &Store, service: &Object) -> Result<(), String> {
    let value = tree(service);
    let labels: BTreeMap<String, String> =
        serde_json::from_value(value["spec"]["selector"].clone()).unwrap_or_default();
    let serves = |pod: &&Arc<Object>| {
        labels.iter().all(|(key, value)| pod.meta.labels.get(key) == Some(value)) && !has_ended(pod)
    };
    let expected: BTreeSet<String> = store
        .cluster
        .list_in(&kinds::POD, &service.meta.namespace)
        .filter(serves)
        .map(|pod| tree(pod)["status"]["podIP"].as_str().unwrap_or("none").to_owned())
        .collect();

    let mut listed = Vec::new();
    for slice in store.cluster.owned_of_kind(&service.meta.uid, &kinds::ENDPOINT_SLICE) {
        let value = tree(slice);
        for endpoint in value["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] == true {
                listed.push(endpoint["addresses"][0].as_str().unwrap_or_default().to_owned());
            }
        }
    }
    compare("EndpointSlices list", &listed, &expected)?;

    let endpoints =
        store.cluster.get(&kinds::ENDPOINTS, &service.meta.namespace, &service.meta.name);
    let Some(endpoints) = endpoints else { return Err("it has no Endpoints".to_owned()) };
    let value = tree(endpoints);
    let subsets = value["subsets"].as_array().into_iter().flatten();
    let addresses = subsets.flat_map(|subset| subset["addresses"].as_array().into_iter().flatten());
    let listed: Vec<_> =
        addresses.map(|a| a["ip"].as_str().unwrap_or_default().to_owned()).collect();
    compare("Endpoints list", &listed, &expected)
}

fn compare(who: &str, listed: &[String], expected: &BTreeSet<String>) -> Result<(), String> {
    let once: BTreeSet<String> = listed.iter().cloned().collect();
    if once.len() != listed.len() || once != *expected {
        return Err(format!("{who} {listed:?} instead of {expected:?}"));
    }
    Ok(())
}
