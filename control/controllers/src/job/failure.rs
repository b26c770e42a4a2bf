//! What a Pod's failure means: `podFailurePolicy`, limits and delays for each index, back-off.

use std::collections::{BTreeMap, HashSet};

use coracle_api::{Object, kinds};
use jiff::SignedDuration;
use serde::Deserialize;

use super::{Pod, Run, number};

/// How often Pods of an index failed before this one.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Likewise, but failures that the policy ignores.
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// The wait after a first failure, and the longest.
const FIRST_DELAY: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_DELAY: SignedDuration = SignedDuration::from_mins(10);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct FailurePolicy {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    action: Action,
    on_exit_codes: Option<OnExitCodes>,
    on_pod_conditions: Vec<Pattern>,
}

/// What to do about a failed Pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Action {
    /// It counts, as without a policy.
    #[default]
    Count,
    /// It does not count.
    Ignore,
    /// Its index is given up.
    FailIndex,
    /// The Job is.
    FailJob,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OnExitCodes {
    container_name: Option<String>,
    operator: String,
    values: Vec<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Pattern {
    r#type: String,
    status: String,
}

/// The first rule that a Pod meets.
pub(super) struct Verdict {
    pub(super) action: Action,
    pub(super) message: String,
}

/// What rules are about. Read of failed Pods alone, so nothing of it is kept.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FailedPod {
    status: FailedStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FailedStatus {
    conditions: Vec<Pattern>,
    container_statuses: Vec<Container>,
    init_container_statuses: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    state: State,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    terminated: Option<Terminated>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Terminated {
    exit_code: i64,
}

impl FailurePolicy {
    /// What the policy says of a failed Pod; `None` if no rule is about it.
    pub(super) fn verdict(&self, pod: &Object) -> Option<Verdict> {
        let status = serde_json::from_slice::<FailedPod>(pod.json()).unwrap_or_default().status;
        let who = pod.key();
        self.rules.iter().enumerate().find_map(|(i, rule)| {
            let action = rule.action;
            let met = match &rule.on_exit_codes {
                Some(codes) => {
                    let (name, code) = codes.met_by(&status)?;
                    format!("Container {name} for pod {who} failed with exit code {code}")
                }
                None => {
                    let met = |c: &&Pattern| rule.on_pod_conditions.contains(c);
                    let kind = &status.conditions.iter().find(met)?.r#type;
                    format!("Pod {who} has condition {kind}")
                }
            };
            let message = format!("{met} matching {action:?} rule at index {i}");
            Some(Verdict { action, message })
        })
    }
}

impl OnExitCodes {
    /// Name and exit code of a container that failed so.
    fn met_by<'s>(&self, status: &'s FailedStatus) -> Option<(&'s str, i64)> {
        let all = status.container_statuses.iter().chain(&status.init_container_statuses);
        all.filter(|c| self.container_name.as_ref().is_none_or(|name| *name == c.name))
            .filter_map(|c| Some((c.name.as_str(), c.state.terminated.as_ref()?.exit_code)))
            .find(|(_, code)| {
                let listed = self.values.contains(code);
                *code != 0 && if self.operator == "NotIn" { !listed } else { listed }
            })
    }
}

impl Run<'_> {
    /// Whether a failed Pod was its index's last chance.
    pub(super) fn fails_index(&self, pod: &Pod<'_>, limit: i64) -> bool {
        match self.action(pod) {
            Some(super::Action::FailIndex) => true,
            Some(super::Action::Ignore) => false,
            _ => number(pod.object, FAILURES).unwrap_or(0) >= limit,
        }
    }

    /// The last failed Pod of each index that is to be tried again, by index: where the next one reads how often.
    pub(super) fn hold(&mut self) {
        if self.job.is_deleting() || self.old.is("SuccessCriteriaMet") {
            return;
        }
        // Nothing is made in a namespace that goes, and it goes once its Pods are gone.
        let namespace = self.cluster.get(&kinds::NAMESPACE, "", &self.job.meta.namespace);
        if namespace.is_some_and(|namespace| namespace.is_deleting()) {
            return;
        }
        let running: HashSet<_> = self.active().filter_map(|at| self.pods[at].index).collect();
        let mut held = BTreeMap::new();
        for (at, pod) in self.pods.iter().enumerate().filter(|(_, p)| p.failed && p.tracked) {
            let Some(index) = pod.index else { continue };
            let given_up = self.failed_indexes.as_ref().is_some_and(|failed| failed.has(index));
            if given_up || self.succeeded_indexes.has(index) || running.contains(&index) {
                continue;
            }
            let known = held.entry(index).or_insert(at);
            let rank = |pod: &Pod<'_>| (failures(pod.object), pod.finished_at());
            if rank(&self.pods[*known]) < rank(pod) {
                *known = at;
            }
        }
        self.held = held;
    }

    /// The annotations of the Pod that takes another's place in its index.
    pub(super) fn failure_counts(&self, replaced: Option<&Pod<'_>>) -> [(&'static str, i64); 2] {
        let of = |annotation| replaced.and_then(|pod| number(pod.object, annotation)).unwrap_or(0);
        let counted = replaced.map(|pod| i64::from(self.counts(pod)));
        let ignored = counted.map_or(0, |counted| 1 - counted);
        [(FAILURES, of(FAILURES) + counted.unwrap_or(0)), (IGNORED, of(IGNORED) + ignored)]
    }

    /// How long until a Pod may be tried again in the place of this one.
    pub(super) fn wait_for_index(&self, replaced: Option<&Pod<'_>>) -> SignedDuration {
        let Some(pod) = replaced else { return SignedDuration::ZERO };
        let since = self.cluster.now.duration_since(pod.finished_at());
        delay(failures(pod.object) + 1) - since
    }

    /// How long until Pods may be created again: longer with every failure since the last success.
    pub(super) fn wait(&self) -> SignedDuration {
        let ended = |wanted: fn(&Pod<'_>) -> bool| {
            self.pods.iter().filter(move |pod| wanted(pod)).map(Pod::finished_at)
        };
        let success = ended(|pod| pod.has_succeeded()).max();
        let failures = || ended(|pod| pod.failed).filter(|at| success.is_none_or(|s| *at > s));
        match failures().max() {
            Some(last) => delay(failures().count() as i64) - self.cluster.now.duration_since(last),
            None => SignedDuration::ZERO,
        }
    }
}

/// How often Pods of its index failed before this one.
fn failures(pod: &Object) -> i64 {
    [FAILURES, IGNORED].iter().map(|count| number(pod, count).unwrap_or(0)).sum()
}

/// 10 s, 20 s, 40 s and so on.
fn delay(failures: i64) -> SignedDuration {
    let doublings = u32::try_from(failures - 1).unwrap_or(0).min(10);
    (FIRST_DELAY * 2i32.pow(doublings)).min(LONGEST_DELAY)
}
