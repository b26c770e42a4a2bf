//! HorizontalPodAutoscaler: as many replicas as its metrics ask for (`pkg/controller/podautoscaler`).
//!
//! Upstream asks for metrics every fifteen seconds. Here they are part of the view, told by nodes as they change, and whoever
//! tells wakes the autoscalers of that namespace, each once a second at most: what upstream bounds for each of its looks (to
//! twice as many replicas, unless `behavior` says otherwise) is bounded for each second here.
//!
//! What is stabilized has to be remembered: what was recommended in the last minutes, and what was done. That is no part of
//! the cluster (upstream keeps it in its process, too), so this controller is the one that asks for a [`Memory`], and remains a
//! function of what it is handed: [`decide`] takes the past and returns it, longer by one look. What was done counts once it
//! is seen to have happened, not when it was asked for. A process that begins knows nothing and takes what is in force for
//! recommended, so that its first look removes nothing.
//!
//! In reading order: [`view`] is what is read, [`calculate`] what one metric asks for, [`normalize`] what comes of all.

mod calculate;
mod normalize;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use coracle_api::plan::{Controller, Key, Memory};
use coracle_api::quantity::Format;
use coracle_api::{Cluster, LabelSelector, Object, Plan, Quantity, kinds};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value as Json, json};

use crate::patch;
use calculate::{Aim, Candidate, Proposal, Value, Values};
use normalize::{History, Normalized};
use view::{MetricSpec, Pod, Scale, Source, Tolerances, View};

/// Plans replicas of what autoscalers refer to.
#[derive(Debug, Clone, Copy)]
pub struct HorizontalPodAutoscalerController;

/// An autoscaler is looked at no more often.
const SHORTEST: SignedDuration = SignedDuration::from_secs(1);
/// And no less often: upstream's `--horizontal-pod-autoscaler-sync-period`.
const LONGEST: Duration = Duration::from_secs(15);
/// Values that change and change nothing are written so often.
const TOLD: SignedDuration = SignedDuration::from_secs(5);

/// What is remembered of an autoscaler.
#[derive(Debug, Default)]
struct Past {
    looked: Timestamp,
    generation: i64,
    /// When its status was written, and when it was warned of, last.
    told: Timestamp,
    warned: Timestamp,
    history: History,
    /// Its Pods as they were read, by UID, each with its revision.
    pods: HashMap<String, (u64, Arc<Pod>)>,
}

impl Controller for HorizontalPodAutoscalerController {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler"
    }

    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        let is_own = object.kind.resource == kinds::HORIZONTAL_POD_AUTOSCALER.resource;
        is_own.then(|| Key::of(object)).into_iter().collect()
    }

    fn wakes_by_metrics(&self) -> Option<fn(&Cluster, &str) -> Vec<Key>> {
        Some(|cluster, namespace| {
            let all = cluster.list_in(&kinds::HORIZONTAL_POD_AUTOSCALER, namespace);
            all.map(|autoscaler| Key::of(autoscaler)).collect()
        })
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        self.reconcile_with(cluster, key, None)
    }

    fn reconcile_with(&self, cluster: &Cluster, key: &Key, memory: Option<&Memory>) -> Plan {
        let kind = &kinds::HORIZONTAL_POD_AUTOSCALER;
        let Some(autoscaler) = cluster.get(kind, &key.namespace, &key.name) else {
            return Plan::none();
        };
        let past = memory.and_then(|memory| memory.downcast_ref::<Past>());
        if let Some(past) = past
            && past.generation == autoscaler.meta.generation
            && let left = SHORTEST - cluster.now.duration_since(past.looked)
            && left.is_positive()
        {
            let mut plan = Plan { memory: memory.cloned(), ..Plan::none() };
            plan.requeue(Duration::try_from(left).unwrap_or_default());
            return plan;
        }
        let Ok(view) = autoscaler.decode::<View>() else { return Plan::none() };
        decide(cluster, autoscaler, &view, past)
    }
}

/// One look.
fn decide(cluster: &Cluster, autoscaler: &Object, view: &View, past: Option<&Past>) -> Plan {
    let now = cluster.now;
    let mut look = Look {
        cluster,
        autoscaler,
        view,
        status: Status::of(&view.status, now),
        plan: Plan::none(),
        warnings: Vec::new(),
        past: Past {
            looked: now,
            generation: autoscaler.meta.generation,
            told: past.map_or(Timestamp::MIN, |past| past.told),
            warned: past.map_or(Timestamp::MIN, |past| past.warned),
            history: past.map(|past| past.history.clone()).unwrap_or_default(),
            pods: HashMap::new(),
        },
    };
    look.decide(past.map(|past| &past.pods));
    look.finish()
}

struct Look<'a> {
    cluster: &'a Cluster,
    autoscaler: &'a Object,
    view: &'a View,
    status: Status,
    plan: Plan,
    /// Reasons and messages.
    warnings: Vec<(String, String)>,
    past: Past,
}

/// What a metric asks for, by which name, and what it is.
struct Asked {
    replicas: i32,
    name: String,
    status: Json,
}

/// Why a metric asks for nothing.
struct Refused {
    reason: &'static str,
    /// As the condition has it, and as upstream's chain of errors.
    why: String,
    chain: String,
}

impl Look<'_> {
    fn decide(&mut self, pods: Option<&HashMap<String, (u64, Arc<Pod>)>>) {
        let (spec, now) = (&self.view.spec, self.cluster.now);
        let namespace = &self.autoscaler.meta.namespace;
        let scale = match spec.scale_target_ref.scale(self.cluster, namespace) {
            Ok(scale) => scale,
            Err(why) => {
                let message = format!(
                    "the HPA controller was unable to get the target's current scale: {why}"
                );
                self.status.set("AbleToScale", false, "FailedGetScale", &message);
                return self.warn("FailedGetScale", why);
            }
        };
        let got = "the HPA controller was able to get the target's current scale";
        self.status.set("AbleToScale", true, "SucceededGetScale", got);
        let current = scale.replicas();
        let behavior = spec.behavior.as_ref();
        self.past.history.see(current, behavior, now);
        self.past.history.begin(current, now);
        self.status.fields["currentReplicas"] = current.into();
        let least = spec.min_replicas.unwrap_or(1);
        let most = spec.max_replicas;
        let (desired, reason) = if current == 0 && least != 0 {
            let why = "scaling is disabled since the replica count of the target is zero";
            self.status.set("ScalingActive", false, "ScalingDisabled", why);
            self.status.fields["currentMetrics"] = Json::Null;
            (0, String::new())
        } else if current > most {
            (most, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let (asked, name) = match self.metrics(&scale, pods) {
                Ok(asked) => asked,
                Err(why) => return self.warn("FailedComputeMetricsReplicas", why),
            };
            let reason = match asked {
                _ if asked > current => format!("{name} above target"),
                _ if asked < current => "All metrics below target".to_owned(),
                _ => String::new(),
            };
            let history = &mut self.past.history;
            let bounds = (least, most);
            let normalized = history.normalize(current, asked, bounds, behavior, now);
            let Normalized { replicas, able, limited, limit } = normalized;
            self.status.set("AbleToScale", true, able.0, able.1);
            self.status.set("ScalingLimited", limited, limit.0, limit.1);
            (replicas, reason)
        };
        self.status.fields["desiredReplicas"] = desired.into();
        if desired != current {
            self.plan.patch(scale.object, scale.numbers.resize(desired));
            let message =
                format!("the HPA controller was able to update the target scale to {desired}");
            self.status.set("AbleToScale", true, "SucceededRescale", &message);
            self.status.fields["lastScaleTime"] = patch::time(now).into();
            let message = format!("New size: {desired}; reason: {reason}");
            self.plan.event(self.autoscaler, "SuccessfulRescale", message);
            self.past.history.ask(current, desired, now);
        }
    }

    /// The most that any metric asks for, and which that is.
    fn metrics(
        &mut self,
        scale: &Scale<'_>,
        known: Option<&HashMap<String, (u64, Arc<Pod>)>>,
    ) -> Result<(i32, String), String> {
        let selector = self.selector(scale)?;
        let pods = self.pods(&selector, known);
        let metrics = &self.view.spec.metrics;
        let mut statuses = Vec::new();
        let mut best: Option<(i32, String)> = None;
        let mut refused: Option<Refused> = None;
        let mut count = 0;
        for metric in metrics {
            match self.metric(metric, scale.replicas(), &pods) {
                Ok(asked) => {
                    statuses.push(asked.status);
                    if best.as_ref().is_none_or(|(most, _)| *most == 0 || asked.replicas > *most) {
                        best = Some((asked.replicas, asked.name));
                    }
                }
                Err(why) => {
                    // As upstream has it: a status that says nothing keeps the others in their places.
                    statuses.push(json!({"type": ""}));
                    self.warn(why.reason, why.why.clone());
                    count += 1;
                    refused.get_or_insert(why);
                }
            }
        }
        self.status.fields["currentMetrics"] = statuses.into();
        // What some metrics do not tell might be a reason to stay, but none to shrink.
        let decided =
            best.filter(|(replicas, _)| refused.is_none() || *replicas >= scale.replicas());
        if let Some((replicas, name)) = decided {
            let message =
                format!("the HPA was able to successfully calculate a replica count from {name}");
            self.status.set("ScalingActive", true, "ValidMetricFound", &message);
            return Ok((replicas, name));
        }
        let Some(Refused { reason, why, chain }) = refused else {
            return Err("no metrics are named".to_owned());
        };
        let message = format!("the HPA was unable to compute the replica count: {why}");
        self.status.set("ScalingActive", false, reason, &message);
        let all = metrics.len();
        Err(format!("invalid metrics ({count} invalid out of {all}), first error is: {chain}"))
    }

    /// Which Pods are meant, if they are nobody else's.
    fn selector(&mut self, scale: &Scale<'_>) -> Result<LabelSelector, String> {
        let selector = match scale.selector() {
            Some(Ok(selector)) => selector.clone(),
            Some(Err(why)) => {
                let why = format!(
                    "couldn't convert selector into a corresponding internal selector object: {why}"
                );
                self.status.set("ScalingActive", false, "InvalidSelector", &why);
                self.warn("InvalidSelector", why.clone());
                return Err(why);
            }
            None => {
                let why = "the HPA target's scale is missing a selector";
                self.status.set("ScalingActive", false, "InvalidSelector", why);
                self.warn("SelectorRequired", "selector is required".to_owned());
                return Err("selector is required".to_owned());
            }
        };
        let others = self.rivals(&selector);
        if !others.is_empty() {
            let why = format!(
                "pods by selector {selector} are controlled by more than one HPA (e.g. [{} {}])",
                self.autoscaler.key(),
                others.join(" ")
            );
            self.status.set("ScalingActive", false, "AmbiguousSelector", &why);
            self.warn("AmbiguousSelector", why.clone());
            return Err(why);
        }
        Ok(selector)
    }

    /// Another autoscaler that counts some of these Pods.
    fn rivals(&self, selector: &LabelSelector) -> Vec<String> {
        let (cluster, namespace) = (self.cluster, &self.autoscaler.meta.namespace);
        let all = cluster.list_in(&kinds::HORIZONTAL_POD_AUTOSCALER, namespace);
        let others = all.filter(|other| other.meta.name != self.autoscaler.meta.name);
        let counts = |other: &&Arc<Object>| {
            let Ok(view) = other.decode::<View>() else { return false };
            let Ok(scale) = view.spec.scale_target_ref.scale(cluster, namespace) else {
                return false;
            };
            let Some(Ok(its)) = scale.selector() else { return false };
            let both =
                |labels: &BTreeMap<String, String>| selector.matches(labels) && its.matches(labels);
            cluster.pods_where(namespace, both).next().is_some()
        };
        others.filter(counts).take(1).map(|other| other.key()).collect()
    }

    /// The Pods that are selected. Those that are as they were are not read again.
    fn pods(
        &mut self,
        selector: &LabelSelector,
        known: Option<&HashMap<String, (u64, Arc<Pod>)>>,
    ) -> Vec<(Arc<Object>, Candidate)> {
        let namespace = &self.autoscaler.meta.namespace;
        let selected = self.cluster.pods_where(namespace, |labels| selector.matches(labels));
        let mut pods = Vec::new();
        for object in selected {
            let (uid, revision) = (&object.meta.uid, object.meta.resource_version);
            let read = known.and_then(|known| known.get(uid)).filter(|(at, _)| *at == revision);
            let pod = match read {
                Some((_, pod)) => pod.clone(),
                None => Arc::new(Pod::of(object)),
            };
            self.past.pods.insert(uid.clone(), (revision, pod.clone()));
            let name = object.meta.name.clone();
            let candidate = Candidate { name, is_deleting: object.is_deleting(), pod };
            pods.push((object.clone(), candidate));
        }
        pods
    }

    /// What one metric asks for.
    fn metric(
        &self,
        metric: &MetricSpec,
        current: i32,
        pods: &[(Arc<Object>, Candidate)],
    ) -> Result<Asked, Refused> {
        match metric.kind.as_str() {
            "Resource" => self.resource(&metric.resource, current, pods).map_err(|why| Refused {
                reason: "FailedGetResourceMetric",
                chain: format!(
                    "failed to get {} resource metric value: {why}",
                    metric.resource.name
                ),
                why,
            }),
            "ContainerResource" => {
                let source = &metric.container_resource;
                self.resource(source, current, pods).map_err(|why| Refused {
                    reason: "FailedGetContainerResourceMetric",
                    chain: format!(
                        "failed to get {} container metric value: {why}",
                        source.container
                    ),
                    why,
                })
            }
            "Pods" => self.per_pod(&metric.pods, current, pods).map_err(|why| Refused {
                reason: "FailedGetPodsMetric",
                chain: format!("failed to get pods metric value: {why}"),
                why,
            }),
            "Object" => {
                let (source, namespace) = (&metric.object, &self.autoscaler.meta.namespace);
                let object = &source.described_object;
                let why = format!(
                    "unable to get metric {} on {} {namespace}/{}: {}",
                    source.metric.name, object.kind, object.name, NO_CUSTOM
                );
                let chain = format!("failed to get object metric value: {why}");
                Err(Refused { reason: "FailedGetObjectMetric", why, chain })
            }
            "External" => {
                let (name, namespace) =
                    (&metric.external.metric.name, &self.autoscaler.meta.namespace);
                let selector = metric.external.metric.selector.as_ref();
                let selector = selector.map_or("nil".to_owned(), Json::to_string);
                let why = format!(
                    "unable to get external metric {namespace}/{name}/{selector}: {NO_EXTERNAL}"
                );
                let chain = format!("failed to get {name} external metric value: {why}");
                Err(Refused { reason: "FailedGetExternalMetric", why, chain })
            }
            other => {
                let why = format!("unknown metric source type {other:?}");
                Err(Refused { reason: "InvalidMetricSourceType", chain: why.clone(), why })
            }
        }
    }

    /// CPU or memory, of whole Pods or of one of their containers.
    fn resource(
        &self,
        source: &Source,
        current: i32,
        pods: &[(Arc<Object>, Candidate)],
    ) -> Result<Asked, String> {
        let Source { name, container, target, .. } = source;
        let (aim, wanted) = match (target.average(), target.average_utilization) {
            (Some(average), _) => (Aim::Average(average), "usage"),
            (None, Some(percent)) => {
                (Aim::Utilization { percent, resource: name, container }, "utilization")
            }
            (None, None) => {
                return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned());
            }
        };
        let failed = |why: String| format!("failed to get {name} {wanted}: {why}");
        let values = self.used(name, container, pods);
        let values = values
            .map_err(|why| failed(format!("unable to get metrics for resource {name}: {why}")))?;
        let proposal = self.replicas(current, aim, name == "cpu", pods, values).map_err(failed)?;
        let average = match name.as_str() {
            "memory" => Quantity::new(proposal.average.div_euclid(1000), Format::Binary),
            _ => Quantity::from_milli(proposal.average),
        };
        let mut now = json!({"averageValue": average.to_string()});
        let is_relative = matches!(aim, Aim::Utilization { .. });
        if is_relative {
            now["averageUtilization"] = proposal.utilization.into();
        }
        let called = match (is_relative, container.is_empty()) {
            (true, true) => format!("{name} resource utilization (percentage of request)"),
            (true, false) => {
                format!("{name} container resource utilization (percentage of request)")
            }
            (false, _) => format!("{name} resource"),
        };
        let status = match container.is_empty() {
            true => json!({"type": "Resource", "resource": {"name": name, "current": now}}),
            false => json!({"type": "ContainerResource",
                "containerResource": {"name": name, "container": container, "current": now}}),
        };
        Ok(Asked { replicas: proposal.replicas, name: called, status })
    }

    /// What nodes count of each Pod.
    fn per_pod(
        &self,
        source: &Source,
        current: i32,
        pods: &[(Arc<Object>, Candidate)],
    ) -> Result<Asked, String> {
        let name = &source.metric.name;
        let failed = |why: &str| format!("unable to get metric {name}: {why}");
        let target =
            source.target.average().ok_or_else(|| failed("no target averageValue is set"))?;
        let selector = source.metric.selector.as_ref();
        let everything = match selector {
            None => true,
            Some(it) => LabelSelector::from_value(Some(it)).is_ok_and(|it| it.is_everything()),
        };
        let values = self.counted(name, pods).filter(|_| everything);
        let values = values.ok_or_else(|| {
            failed(&format!(
                "unable to fetch metrics from custom metrics API: the server could not find the metric {name} for pods"
            ))
        })?;
        if values.is_empty() {
            return Err(failed("no metrics returned from custom metrics API"));
        }
        let proposal = self.replicas(current, Aim::Average(target), false, pods, values)?;
        let mut metric = json!({"name": name});
        if let Some(selector) = selector {
            metric["selector"] = selector.clone();
        }
        let average = Quantity::from_milli(proposal.average).to_string();
        let status = json!({
            "type": "Pods",
            "pods": {"metric": metric, "current": {"averageValue": average}},
        });
        Ok(Asked { replicas: proposal.replicas, name: format!("pods metric {name}"), status })
    }

    fn replicas(
        &self,
        current: i32,
        aim: Aim<'_>,
        is_cpu: bool,
        pods: &[(Arc<Object>, Candidate)],
        values: Values,
    ) -> Result<Proposal, String> {
        let tolerances = Tolerances::of(self.view.spec.behavior.as_ref());
        let pods: Vec<Candidate> = pods.iter().map(|(_, pod)| pod.clone()).collect();
        calculate::replicas(current, aim, is_cpu, &pods, values, tolerances, self.cluster.now)
    }

    /// What Pods use of a resource, in thousandths.
    fn used(
        &self,
        resource: &str,
        container: &str,
        pods: &[(Arc<Object>, Candidate)],
    ) -> Result<Values, String> {
        let mut values = Values::new();
        for (object, _) in pods {
            let Some(sample) = self.cluster.metrics.pod(object, self.cluster.now) else { continue };
            let of = |used: coracle_api::metrics::Used| match resource {
                "cpu" => Some(used.cpu.div_ceil(1_000_000)),
                "memory" => Some(used.memory.saturating_mul(1000)),
                _ => None,
            };
            let meant = |it: &&coracle_api::metrics::ContainerUsage| {
                container.is_empty() || *it.name == *container
            };
            let mut counted = sample.containers.iter().filter(meant).peekable();
            if counted.peek().is_none() {
                let key = object.key();
                return Err(format!("container {container} not present in metrics for pod {key}"));
            }
            let sum = counted.try_fold(0_u64, |sum, it| Some(sum.saturating_add(of(it.used)?)));
            if let Some(sum) = sum {
                let value = i64::try_from(sum).unwrap_or(i64::MAX);
                let value = Value { value, at: sample.at, window: sample.window };
                values.insert(object.meta.name.clone(), value);
            }
        }
        match values.is_empty() {
            true => Err("no metrics returned from resource metrics API".to_owned()),
            false => Ok(values),
        }
    }

    /// What they serve, in thousandths; none where nobody counts that.
    fn counted(&self, name: &str, pods: &[(Arc<Object>, Candidate)]) -> Option<Values> {
        coracle_api::metrics::Traffic::NONE.metric(name)?;
        let mut values = Values::new();
        for (object, _) in pods {
            let Some(sample) = self.cluster.metrics.pod(object, self.cluster.now) else { continue };
            if let Some(Some(value)) = sample.traffic.metric(name) {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                let value = Value { value, at: sample.at, window: sample.window };
                values.insert(object.meta.name.clone(), value);
            }
        }
        Some(values)
    }

    fn warn(&mut self, reason: &str, message: String) {
        self.warnings.push((reason.to_owned(), message));
    }

    /// What is to be written and remembered.
    fn finish(self) -> Plan {
        let Look { cluster, autoscaler, status, mut plan, warnings, mut past, .. } = self;
        let now = cluster.now;
        let (changed, only_values) = status.changes();
        let due = now.duration_since(past.told) >= TOLD;
        if changed && (!only_values || due) {
            plan.patch_status(autoscaler, json!({"status": status.patch()}));
            past.told = now;
        }
        let period = SignedDuration::try_from(LONGEST).unwrap_or_default();
        if !warnings.is_empty() && now.duration_since(past.warned) >= period {
            for (reason, message) in warnings {
                plan.warning(autoscaler, &reason, message);
            }
            past.warned = now;
        }
        plan.requeue(LONGEST);
        plan.memory = Some(Arc::new(past));
        plan
    }
}

/// Nobody can bring metrics of their own yet.
const NO_CUSTOM: &str = "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered";
const NO_EXTERNAL: &str = "unable to fetch metrics from external metrics API: no external metrics API (external.metrics.k8s.io) registered";

/// A status, as it was and as it becomes.
struct Status {
    old: Json,
    fields: Json,
    now: Timestamp,
}

impl Status {
    fn of(old: &Json, now: Timestamp) -> Status {
        let old = if old.is_object() { old.clone() } else { json!({}) };
        let mut fields = old.clone();
        for field in ["currentReplicas", "desiredReplicas"] {
            if fields[field].is_null() {
                fields[field] = 0.into();
            }
        }
        Status { old, fields, now }
    }

    /// Sets a condition, which moves only if its status does.
    fn set(&mut self, kind: &str, is_true: bool, reason: &str, message: &str) {
        let status = if is_true { "True" } else { "False" };
        if !self.fields["conditions"].is_array() {
            self.fields["conditions"] = json!([]);
        }
        let Some(all) = self.fields["conditions"].as_array_mut() else { return };
        let known = all.iter_mut().find(|condition| condition["type"] == kind);
        let old = known.as_ref().filter(|c| c["status"] == status);
        let since = old.map_or(Json::Null, |c| c["lastTransitionTime"].clone());
        let since = if since.is_null() { patch::time(self.now).into() } else { since };
        let new = json!({
            "type": kind, "status": status, "lastTransitionTime": since,
            "reason": reason, "message": message,
        });
        match known {
            Some(known) => *known = new,
            None => all.push(new),
        }
    }

    /// Whether it changes, and whether that is only what metrics are.
    fn changes(&self) -> (bool, bool) {
        let without = |status: &Json| {
            let mut status = status.clone();
            if let Some(fields) = status.as_object_mut() {
                fields.remove("currentMetrics");
                fields.retain(|_, value| !value.is_null());
            }
            status
        };
        let values = |status: &Json| match &status["currentMetrics"] {
            Json::Array(values) if !values.is_empty() => values.clone(),
            _ => Vec::new(),
        };
        let only_values = without(&self.old) == without(&self.fields);
        (!only_values || values(&self.old) != values(&self.fields), only_values)
    }

    fn patch(&self) -> Json {
        patch::diff(&self.old, &self.fields).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
