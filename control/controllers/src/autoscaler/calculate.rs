//! How many replicas a metric asks for (`pkg/controller/podautoscaler/replica_calculator.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::view::{Pod, Tolerances};

/// For so long after a Pod's start its CPU counts only once a whole window was measured while it was ready: starting costs.
/// Upstream's `--horizontal-pod-autoscaler-cpu-initialization-period`.
const INITIALIZATION: Duration = Duration::from_secs(300);
/// A Pod that was unready from so soon after its start has never been ready. Upstream's
/// `--horizontal-pod-autoscaler-initial-readiness-delay`.
const READINESS_DELAY: Duration = Duration::from_secs(30);

/// A Pod that is behind what is scaled.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) is_deleting: bool,
    pub(super) pod: Arc<Pod>,
}

/// One Pod's value of a metric, in thousandths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value {
    pub(super) value: i64,
    pub(super) at: Timestamp,
    pub(super) window: Duration,
}

/// Values by the Pods' names.
pub(super) type Values = BTreeMap<String, Value>;

/// What is aimed at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Aim<'a> {
    /// So many percent of what the Pods request of a resource; of one container if one is named.
    Utilization {
        /// Percent.
        percent: i32,
        /// The resource.
        resource: &'a str,
        /// The container, or empty.
        container: &'a str,
    },
    /// So many thousandths for each Pod.
    Average(i64),
}

/// What a metric asks for, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// Percent of the requests; 0 where that is not asked for.
    pub(super) utilization: i32,
    /// Thousandths for each Pod.
    pub(super) average: i64,
}

/// What a metric asks for. `is_cpu`: values of Pods that start are not to be believed.
pub(super) fn replicas(
    current: i32,
    aim: Aim<'_>,
    is_cpu: bool,
    pods: &[Candidate],
    mut values: Values,
    tolerances: Tolerances,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = Groups::of(pods, &values, is_cpu, now);
    for name in groups.ignored.iter().chain(&groups.unready) {
        values.remove(*name);
    }
    if values.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let requests = match aim {
        Aim::Utilization { resource, container, .. } => {
            let mut requests = BTreeMap::new();
            for it in pods {
                let request = it.pod.request(&it.name, resource, container)?;
                requests.insert(it.name.as_str(), request);
            }
            requests
        }
        Aim::Average(_) => BTreeMap::new(),
    };
    let seen = ratio(&values, aim, &requests)?;
    let proposal = |replicas: i32| Proposal { replicas, ..seen.proposal };
    let grows_with_unready = !groups.unready.is_empty() && seen.ratio > 1.0;
    if !grows_with_unready && groups.missing.is_empty() {
        return Ok(proposal(match tolerances.cover(seen.ratio) {
            true => current,
            false => (seen.ratio * groups.ready as f64).ceil() as i32,
        }));
    }
    let mut suppose = |name: &str, value: i64| {
        values.insert(name.to_owned(), Value { value, at: now, window: Duration::ZERO });
    };
    for name in &groups.missing {
        if seen.ratio < 1.0 {
            // They may do all that they may do.
            suppose(
                name,
                match aim {
                    Aim::Average(target) => target,
                    Aim::Utilization { percent, .. } => {
                        requests.get(name).copied().unwrap_or(0) * i64::from(percent.max(100)) / 100
                    }
                },
            );
        } else if seen.ratio > 1.0 {
            suppose(name, 0);
        }
    }
    if grows_with_unready {
        groups.unready.iter().for_each(|name| suppose(name, 0));
    }
    let supposed = ratio(&values, aim, &requests)?.ratio;
    let turned = seen.ratio < 1.0 && supposed > 1.0 || seen.ratio > 1.0 && supposed < 1.0;
    if tolerances.cover(supposed) || turned {
        return Ok(proposal(current));
    }
    let replicas = (supposed * values.len() as f64).ceil() as i32;
    let against = supposed < 1.0 && replicas > current || supposed > 1.0 && replicas < current;
    Ok(proposal(if against { current } else { replicas }))
}

struct Seen {
    ratio: f64,
    proposal: Proposal,
}

/// How the values are to what is aimed at. In whole percent and whole thousandths, as upstream has it.
fn ratio(values: &Values, aim: Aim<'_>, requests: &BTreeMap<&str, i64>) -> Result<Seen, String> {
    match aim {
        Aim::Average(target) => {
            let total: i64 = values.values().map(|it| it.value).fold(0, i64::saturating_add);
            let average = total / values.len() as i64;
            let ratio = average as f64 / target as f64;
            Ok(Seen { ratio, proposal: Proposal { replicas: 0, utilization: 0, average } })
        }
        Aim::Utilization { percent, .. } => {
            let known =
                values.iter().filter_map(|(name, it)| Some((it.value, *requests.get(&**name)?)));
            let (used, requested, count) =
                known.fold((0_i64, 0_i64, 0_i64), |(used, requested, count), (value, request)| {
                    (used.saturating_add(value), requested + request, count + 1)
                });
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let utilization = (used.saturating_mul(100) / requested) as i32;
            Ok(Seen {
                ratio: f64::from(utilization) / f64::from(percent),
                proposal: Proposal { replicas: 0, utilization, average: used / count },
            })
        }
    }
}

/// Pods by how their values count.
struct Groups<'a> {
    ready: usize,
    unready: BTreeSet<&'a str>,
    missing: BTreeSet<&'a str>,
    ignored: BTreeSet<&'a str>,
}

impl<'a> Groups<'a> {
    fn of(pods: &'a [Candidate], values: &Values, is_cpu: bool, now: Timestamp) -> Groups<'a> {
        let (unready, missing, ignored) = Default::default();
        let mut groups = Groups { ready: 0, unready, missing, ignored };
        for it in pods {
            let name = it.name.as_str();
            let status = &it.pod.status;
            if it.is_deleting || matches!(&*status.phase, "Succeeded" | "Failed") {
                groups.ignored.insert(name);
            } else if status.phase.is_empty() || &*status.phase == "Pending" {
                groups.unready.insert(name);
            } else {
                match values.get(name) {
                    None => {
                        groups.missing.insert(name);
                    }
                    Some(value) if is_cpu && is_starting(&it.pod, value, now) => {
                        groups.unready.insert(name);
                    }
                    Some(_) => groups.ready += 1,
                }
            }
        }
        groups
    }
}

/// Whether a Pod's CPU says more of its start than of its work.
fn is_starting(pod: &Pod, value: &Value, now: Timestamp) -> bool {
    let ready = pod.status.conditions.iter().find(|condition| &*condition.kind == "Ready");
    let (Some(ready), Some(started)) = (ready, pod.status.start_time) else { return true };
    let since = ready.last_transition_time.unwrap_or_default();
    let is_unready = &*ready.status == "False";
    if started + INITIALIZATION > now {
        is_unready || value.at < since + value.window
    } else {
        is_unready && started + READINESS_DELAY > since
    }
}

#[cfg(test)]
mod tests;
