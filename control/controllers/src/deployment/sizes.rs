//! How large each ReplicaSet may and should be: never more Pods than replicas + maxSurge, never fewer available than
//! replicas − maxUnavailable.

use std::cmp::Reverse;

use serde_json::Value;

use super::{Rollout, Spec};
use crate::pods::share;

pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";

impl Spec {
    /// maxSurge and maxUnavailable as counts; (0, 0) unless rolling.
    pub(super) fn fenceposts(&self) -> (i32, i32) {
        if !self.is_rolling() {
            return (0, 0);
        }
        let replicas = self.replicas();
        let rolling = self.strategy.rolling_update.as_ref();
        let quarter = Value::from("25%");
        let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
        let surge = share(surge, replicas, true);
        let mut unavailable = share(unavailable, replicas, false);
        if surge == 0 && unavailable == 0 {
            // Nothing could ever move.
            unavailable = 1;
        }
        (surge, unavailable.min(replicas))
    }
}

impl Rollout<'_> {
    fn total(&self) -> i32 {
        self.sets.iter().map(|set| set.size).sum()
    }

    /// Pods that shrunk ReplicaSets have not deleted yet, or are still making. They still count: upstream would go beyond maxSurge.
    fn lingering(&self) -> i32 {
        self.sets.iter().map(|set| (set.view.status.at_most() - set.size).max(0)).sum()
    }

    fn active(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|i| self.sets[*i].declared() > 0).collect()
    }

    /// Sets a planned size, and the annotations that tell which Deployment size it was meant for.
    pub(super) fn resize(&mut self, i: usize, size: i32) {
        let set = &mut self.sets[i];
        if set.size == size {
            return;
        }
        set.size = size;
        self.annotate_sizes(i);
    }

    fn annotate_sizes(&mut self, i: usize) {
        let replicas = self.spec.replicas();
        let max = replicas.saturating_add(self.spec.fenceposts().0);
        self.sets[i].annotate(DESIRED, replicas.to_string());
        self.sets[i].annotate(MAX, max.to_string());
    }

    /// The Deployment was scaled since its ReplicaSets were last sized.
    pub(super) fn is_scaling(&self) -> bool {
        let replicas = self.spec.replicas();
        self.active()
            .into_iter()
            .any(|i| self.sets[i].number(DESIRED).is_some_and(|desired| desired != replicas))
    }

    /// Brings the ReplicaSets to the Deployment's size: all of it into the only one, or shares in proportion, so that
    /// scaling in the middle of a rollout does not decide the rollout.
    pub(super) fn scale(&mut self) {
        let replicas = self.spec.replicas();
        let active = self.active();
        let only = match active[..] {
            [] => self.new.or(self.sets.len().checked_sub(1)),
            [only] => Some(only),
            _ => None,
        };
        let grows = match only {
            Some(only) => replicas > self.sets[only].size,
            None => replicas.saturating_add(self.spec.fenceposts().0) > self.total(),
        };
        if grows && self.lingering() > 0 {
            // Their places are not free yet. Their ReplicaSets' statuses wake this again.
            return;
        }
        if let Some(only) = only {
            self.resize(only, replicas);
            return self.annotate_sizes(only);
        }
        if self.is_saturated() {
            for i in self.old().collect::<Vec<_>>() {
                self.resize(i, 0);
            }
            if let Some(new) = self.new {
                self.annotate_sizes(new);
            }
            return;
        }
        if self.spec.is_rolling() {
            self.scale_in_proportion(active);
        }
    }

    /// The new ReplicaSet alone holds what is wanted.
    fn is_saturated(&self) -> bool {
        let replicas = self.spec.replicas();
        self.new.is_some_and(|new| {
            let set = &self.sets[new];
            set.declared() == replicas
                && set.number(DESIRED) == Some(replicas)
                && set.view.status.available_replicas == replicas
        })
    }

    fn scale_in_proportion(&mut self, mut active: Vec<usize>) {
        let replicas = self.spec.replicas();
        let max = replicas.saturating_add(self.spec.fenceposts().0);
        let allowed = if replicas > 0 { max } else { 0 };
        let to_add = allowed - active.iter().map(|i| self.sets[*i].size).sum::<i32>();
        // Largest first; among equals the newest grows and the oldest shrinks. `sets` is ordered by age.
        active.sort_by_key(|i| {
            let age = *i as i64;
            (Reverse(self.sets[*i].size), if to_add > 0 { -age } else { age })
        });
        let mut added = 0;
        let mut shares = Vec::new();
        for i in &active {
            let set = &self.sets[*i];
            let room = to_add - added;
            let share = if set.size == 0 || room == 0 {
                0
            } else {
                // The fraction that this ReplicaSet had of the Deployment's greatest size so far.
                let before =
                    set.number(MAX).filter(|m| *m != 0).unwrap_or(self.old_status.replicas);
                let ideal = if replicas == 0 {
                    0
                } else {
                    (f64::from(set.size) * f64::from(max) / f64::from(before.max(1))).round() as i32
                };
                let fraction = ideal - set.size;
                if to_add > 0 { fraction.min(room) } else { fraction.max(room) }
            };
            added += share;
            shares.push(share);
        }
        if let Some(first) = shares.first_mut() {
            *first += to_add - added;
        }
        for (i, share) in active.into_iter().zip(shares) {
            let size = (self.sets[i].size + share).max(0);
            self.resize(i, size);
            self.annotate_sizes(i);
        }
    }

    /// How large the new ReplicaSet, now of `size`, may be.
    pub(super) fn new_size(&self, size: i32) -> i32 {
        let replicas = self.spec.replicas();
        if !self.spec.is_rolling() {
            return replicas;
        }
        let there = self.total() + self.lingering();
        let room = replicas.saturating_add(self.spec.fenceposts().0) - there;
        if room <= 0 { size } else { size + room.min(replicas - size) }
    }

    /// Grows (or shrinks) the new ReplicaSet as far as allowed; whether it changed.
    pub(super) fn resize_new(&mut self) -> bool {
        let Some(new) = self.new else { return false };
        let size = self.sets[new].size;
        let replicas = self.spec.replicas();
        let target = if size >= replicas { replicas } else { self.new_size(size) };
        self.resize(new, target);
        target != size
    }

    /// Shrinks old ReplicaSets as far as availability allows, Pods that are not available first; whether any changed.
    pub(super) fn shrink_old(&mut self) -> bool {
        let old: Vec<usize> = self.old().collect();
        if old.iter().all(|i| self.sets[*i].size == 0) {
            return false;
        }
        let min_available = self.spec.replicas() - self.spec.fenceposts().1;
        let new_unavailable = self.new.map_or(0, |i| {
            let set = &self.sets[i];
            set.size - set.available()
        });
        let most = self.total() - min_available - new_unavailable;
        if most <= 0 {
            return false;
        }

        let mut gone = 0;
        for i in &old {
            let set = &self.sets[*i];
            let sick = (set.size - set.available()).min(most - gone);
            if sick > 0 {
                let size = set.size - sick;
                gone += sick;
                self.resize(*i, size);
            }
        }
        // Upstream trusts statuses here that may still count Pods of a ReplicaSet just shrunk; `available` and `most`
        // bound what may go to what will really be left.
        let available: i32 = self.sets.iter().map(|set| set.available()).sum();
        let mut spare = (available - min_available).min(most - gone);
        for i in old {
            if spare <= 0 {
                break;
            }
            let size = self.sets[i].size;
            let down = size.min(spare);
            spare -= down;
            gone += down;
            self.resize(i, size - down);
        }
        gone > 0
    }
}
