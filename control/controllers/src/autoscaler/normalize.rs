//! From what metrics ask for to what is done: stabilization, policies, the least and the most (`horizontal.go`).

use jiff::{SignedDuration, Timestamp};

use super::view::{Behavior, Rules};

/// How long scaling down waits where nothing is said. Upstream's `--horizontal-pod-autoscaler-downscale-stabilization`.
const DOWNSCALE_WINDOW: i32 = 300;
/// Runs of equal recommendations that are kept at most.
const RUNS: usize = 4096;

/// What was recommended and done before.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    /// Runs of equal recommendations: what, from when on, until when.
    recommendations: Vec<Run>,
    /// Replicas that were added, and removed, and when.
    added: Vec<(i32, Timestamp)>,
    removed: Vec<(i32, Timestamp)>,
    /// A change that was asked for and has not been seen yet.
    asked: Option<(i32, i32, Timestamp)>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    replicas: i32,
    until: Timestamp,
}

/// A condition's reason and message.
pub(super) type Why = (&'static str, &'static str);

/// What is to be done, why it is not something else, and whether it is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Normalized {
    pub(super) replicas: i32,
    pub(super) able: Why,
    pub(super) limited: bool,
    pub(super) limit: Why,
}

const READY: Why = ("ReadyForNewScale", "recommended size matches current size");
const STABILIZED_UP: Why = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const STABILIZED_DOWN: Why = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const IN_RANGE: Why = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: Why =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: Why =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const UP_LIMIT: Why =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Why = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);

impl History {
    /// What is in force counts as recommended, if nothing else is known.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommend(current, now);
        }
    }

    /// A change is asked for; it counts from now, once it is seen.
    pub(super) fn ask(&mut self, from: i32, to: i32, now: Timestamp) {
        self.asked = Some((from, to, now));
    }

    /// What was asked for has happened if `current` says so; what no policy looks back at any more is forgotten.
    pub(super) fn see(&mut self, current: i32, behavior: Option<&Behavior>, now: Timestamp) {
        let asked = self.asked.take();
        let Some(behavior) = behavior else {
            self.added.clear();
            self.removed.clear();
            return;
        };
        match asked {
            Some((from, to, at)) if to == current && to > from => self.added.push((to - from, at)),
            Some((from, to, at)) if to == current => self.removed.push((from - to, at)),
            _ => {}
        }
        let rules = [&behavior.scale_up, &behavior.scale_down];
        let periods = rules.iter().flat_map(|rules| &rules.policies).map(|it| it.period_seconds);
        let longest = periods.max().unwrap_or(0);
        for events in [&mut self.added, &mut self.removed] {
            events.retain(|(_, at)| *at > before(now, longest));
        }
    }

    fn recommend(&mut self, replicas: i32, now: Timestamp) {
        match self.recommendations.last_mut() {
            Some(last) if last.replicas == replicas => last.until = now,
            _ => self.recommendations.push(Run { replicas, until: now }),
        }
        if self.recommendations.len() > RUNS {
            self.recommendations.remove(0);
        }
    }

    /// Recommendations after a moment.
    fn after(&self, cutoff: Timestamp) -> impl Iterator<Item = i32> {
        self.recommendations.iter().filter(move |run| run.until > cutoff).map(|run| run.replicas)
    }

    fn forget(&mut self, cutoff: Timestamp) {
        self.recommendations.retain(|run| run.until > cutoff);
    }

    /// What to do about `desired`, which metrics ask for.
    pub(super) fn normalize(
        &mut self,
        current: i32,
        desired: i32,
        (least, most): (i32, i32),
        behavior: Option<&Behavior>,
        now: Timestamp,
    ) -> Normalized {
        let (stabilized, able) = match behavior {
            None => self.stabilize(desired, now),
            Some(behavior) => self.stabilize_with(current, desired, behavior, now),
        };
        let able = if stabilized == desired { READY } else { able };
        let (replicas, limit) = match behavior {
            None => by_rules(current, stabilized, least, most),
            Some(behavior) => self.by_rate(current, stabilized, (least, most), behavior, now),
        };
        Normalized { replicas, able, limited: replicas != stabilized, limit }
    }

    fn stabilize(&mut self, desired: i32, now: Timestamp) -> (i32, Why) {
        let cutoff = before(now, DOWNSCALE_WINDOW);
        let highest = self.after(cutoff).fold(desired, i32::max);
        self.forget(cutoff);
        self.recommend(desired, now);
        (highest, STABILIZED_DOWN)
    }

    fn stabilize_with(
        &mut self,
        current: i32,
        desired: i32,
        behavior: &Behavior,
        now: Timestamp,
    ) -> (i32, Why) {
        let window = |rules: &Rules, usual| rules.stabilization_window_seconds.unwrap_or(usual);
        let up = before(now, window(&behavior.scale_up, 0));
        let down = before(now, window(&behavior.scale_down, DOWNSCALE_WINDOW));
        let lowest = self.after(up).fold(desired, i32::min);
        let highest = self.after(down).fold(desired, i32::max);
        self.forget(up.min(down));
        self.recommend(desired, now);
        let stabilized = current.max(lowest).min(highest);
        (stabilized, if desired >= current { STABILIZED_UP } else { STABILIZED_DOWN })
    }

    fn by_rate(
        &self,
        current: i32,
        desired: i32,
        (least, most): (i32, i32),
        behavior: &Behavior,
        now: Timestamp,
    ) -> (i32, Why) {
        if desired > current {
            let limit = self.limit_up(current, &behavior.scale_up, now).max(current);
            let (allowed, why) = if most > limit { (limit, UP_LIMIT) } else { (most, TOO_MANY) };
            if desired > allowed {
                return (allowed, why);
            }
        } else if desired < current {
            let limit = self.limit_down(current, &behavior.scale_down, now).min(current);
            let (allowed, why) = if least < limit { (limit, DOWN_LIMIT) } else { (least, TOO_FEW) };
            if desired < allowed {
                return (allowed, why);
            }
        }
        (desired, IN_RANGE)
    }

    /// How many replicas there were when a policy's period began.
    fn at_begin(&self, current: i32, period: i32, now: Timestamp) -> i32 {
        let within = |events: &[(i32, Timestamp)]| {
            let cutoff = before(now, period);
            events.iter().filter(|(_, at)| *at > cutoff).map(|(change, _)| change).sum::<i32>()
        };
        current - within(&self.added) + within(&self.removed)
    }

    fn limit_up(&self, current: i32, rules: &Rules, now: Timestamp) -> i32 {
        let allowed = rules.policies.iter().map(|policy| {
            let begin = self.at_begin(current, policy.period_seconds, now);
            match policy.kind.as_str() {
                "Pods" => begin.saturating_add(policy.value),
                // Rounded up: otherwise few could never become more.
                _ => (f64::from(begin) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
            }
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => allowed.min().unwrap_or(current),
            _ => allowed.max().unwrap_or(current),
        }
    }

    fn limit_down(&self, current: i32, rules: &Rules, now: Timestamp) -> i32 {
        let allowed = rules.policies.iter().map(|policy| {
            let begin = self.at_begin(current, policy.period_seconds, now);
            match policy.kind.as_str() {
                "Pods" => begin.saturating_sub(policy.value),
                _ => (f64::from(begin) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
            }
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => allowed.max().unwrap_or(current),
            _ => allowed.min().unwrap_or(current),
        }
    }
}

/// Without a behavior: to twice as many at a time, and to four in any case.
fn by_rules(current: i32, desired: i32, least: i32, most: i32) -> (i32, Why) {
    let limit = current.saturating_mul(2).max(4);
    let (allowed, why) = if most > limit { (limit, UP_LIMIT) } else { (most, TOO_MANY) };
    match desired {
        _ if desired < least => (least, TOO_FEW),
        _ if desired > allowed => (allowed, why),
        _ => (desired, IN_RANGE),
    }
}

fn before(now: Timestamp, seconds: i32) -> Timestamp {
    now.saturating_sub(SignedDuration::from_secs(seconds.into())).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests;
