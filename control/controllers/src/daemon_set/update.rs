//! Rolling update of a DaemonSet: node by node, either the old Pod away first or the new one beside it first.

use std::sync::Arc;

use coracle_api::{Object, kinds};

use super::{Pod, Run, Work};
use crate::pods::share;

/// What runs on a node: at most one Pod of the current template and one of an older.
struct Pair<'a> {
    new: Option<Pod<'a>>,
    old: Option<Pod<'a>>,
}

impl<'a> Pair<'a> {
    /// None if there are more; they are tidied up first.
    fn of(pods: &[Pod<'a>]) -> Option<Self> {
        let mut pair = Self { new: None, old: None };
        for pod in pods.iter().filter(|pod| !pod.object.is_deleting()) {
            let place = if pod.updated { &mut pair.new } else { &mut pair.old };
            if place.replace(pod.clone()).is_some() {
                return None;
            }
        }
        Some(pair)
    }
}

impl<'a> Run<'a> {
    pub(super) fn roll(&mut self) -> Work<'a> {
        let cluster = self.cluster;
        let nodes = cluster.list(&kinds::NODE).map(|node| (node, self.place.allows(node).0));
        let nodes: Vec<(&'a Arc<Object>, bool)> = nodes.collect();
        let wanted = nodes.iter().filter(|(_, run)| *run).count();
        let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
        let rolling = &self.spec.update_strategy.rolling_update;
        let surge = share(&rolling.max_surge, wanted, true);
        let mut unavailable = share(&rolling.max_unavailable, wanted, true);
        if surge == 0 && unavailable == 0 {
            // Nothing could ever move.
            unavailable = 1;
        }
        let nodes: Vec<_> = nodes
            .into_iter()
            .filter_map(|(node, run)| {
                let here = self.pods.get(&node.meta.name).cloned();
                (run || here.is_some()).then(|| (node, run, Pair::of(&here.unwrap_or_default())))
            })
            .collect();
        if surge == 0 {
            self.replace(nodes.into_iter().map(|(_, _, pair)| pair), unavailable)
        } else {
            self.surge(&nodes, surge, wanted)
        }
    }

    /// Deletes old Pods as long as enough others are available; the next run makes the new ones.
    fn replace(
        &mut self,
        nodes: impl Iterator<Item = Option<Pair<'a>>>,
        most_unavailable: i32,
    ) -> Work<'a> {
        let mut unavailable = 0;
        let (mut broken, mut candidates) = (Vec::new(), Vec::new());
        for pair in nodes {
            let (new, old) = pair.map_or((None, None), |pair| (pair.new, pair.old));
            match (new, old) {
                (None, Some(old)) if self.is_available(&old) => candidates.push(old.object),
                // What does not serve is replaced whatever the limit: nothing is lost.
                (None, Some(old)) => {
                    broken.push(old.object);
                    unavailable += 1;
                }
                (Some(new), None) => unavailable += i32::from(!self.is_available(&new)),
                // Something is under way, or to be tidied up.
                _ => unavailable += 1,
            }
        }
        let room = usize::try_from(most_unavailable - unavailable).unwrap_or(0);
        broken.extend(candidates.into_iter().take(room));
        Work { create_on: Vec::new(), delete: broken }
    }

    /// Creates new Pods beside old ones, and deletes the old ones once the new are available.
    fn surge(
        &mut self,
        nodes: &[(&'a Arc<Object>, bool, Option<Pair<'a>>)],
        most: i32,
        wanted: i32,
    ) -> Work<'a> {
        let mut work = Work::default();
        let (mut surging, mut available) = (0, 0);
        let (mut candidates, mut displaced) = (Vec::new(), Vec::new());
        for (node, run, pair) in nodes {
            let Some(pair) = pair else {
                surging += 1;
                continue;
            };
            if let Some(pod) = pair.old.as_ref().or(pair.new.as_ref()) {
                available += i32::from(self.is_available(pod));
            }
            let Some(old) = &pair.old else { continue };
            match &pair.new {
                None => match (self.is_available(old), *run) {
                    (false, false) => work.delete.push(old.object),
                    (false, true) => work.create_on.push(node.meta.name.as_str()),
                    (true, false) => displaced.push(old.object),
                    (true, true) => candidates.push(node.meta.name.as_str()),
                },
                Some(new) if self.is_available(new) => work.delete.push(old.object),
                Some(_) => surging += 1,
            }
        }
        // Where none should run any more, the old one serves until others do.
        let spare = usize::try_from(available - wanted).unwrap_or(0);
        work.delete.extend(displaced.into_iter().take(spare));
        let room = usize::try_from(most - surging).unwrap_or(0);
        work.create_on.extend(candidates.into_iter().take(room));
        work
    }
}
