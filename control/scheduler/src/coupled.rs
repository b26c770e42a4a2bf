//! Pods whose place depends on where other Pods are: by constraints and affinities of their own, or by those that other
//! Pods carry.
//!
//! A Pod that is placed makes nodes better or worse that it is not on, so [`crate::candidates`] cannot keep them in order:
//! nodes are looked at anew for each Pod, as many as upstream would, from where the last Pod's search ended. What that
//! takes is a few sums by domain, kept for as long as the shape is being placed, which catch up with the log of
//! [`crate::counts`]: looking at a node costs some additions and never a look at a Pod.

use std::collections::BTreeMap;

use crate::counts::{Bond, Counted, CounterId, Counts, Moved};
use crate::filters::{self, Reason};
use crate::node::{HOSTNAME, Nodes};
use crate::pod::Shape;
use crate::relations::Spread;
use crate::scores::{self, MAX};
use crate::topology::KeyId;

/// Nodes that fit, at most, of which the best is taken.
const MOST: usize = 200;
/// Weights of the two scores, as upstream has them.
const SPREAD: i64 = 2;
const AFFINITY: i64 = 2;
/// What another Pod's required affinity for this one counts.
const HARD_AFFINITY: i64 = 1;

/// What a shape has to know of other Pods.
#[derive(Debug)]
pub(crate) struct Coupled {
    hard: Vec<Even>,
    soft: Vec<Even>,
    near: Vec<Tally>,
    /// It is among those that it wants to be near: the first of them may go anywhere.
    own_company: bool,
    away: Vec<Tally>,
    /// What other Pods keep it away from.
    kept_away: Vec<Tally>,
    liked: Vec<(i64, Tally)>,
    /// The counters of others' affinities.
    carried: Vec<CounterId>,
    /// Up to date with these.
    mark: u64,
    topology: u64,
    bonds: u64,
    /// Where the next search begins.
    start: usize,
}

/// The counts of a counter, by domain.
#[derive(Debug)]
struct Tally {
    counter: CounterId,
    key: KeyId,
    by_domain: Vec<i64>,
    total: i64,
}

/// A spread constraint.
#[derive(Debug)]
struct Even {
    tally: Tally,
    max_skew: i64,
    min_domains: usize,
    /// The Pod itself counts.
    own: i64,
    by_host: bool,
    /// Slots of nodes that count.
    eligible: Vec<bool>,
    /// How many nodes that count each domain has.
    nodes: Vec<u32>,
    domains: usize,
    /// How many domains have each count.
    counts: BTreeMap<i64, usize>,
}

/// Gets a counter for something; it is filled when this returns.
pub(crate) type Acquire<'a> = dyn FnMut(Counted) -> CounterId + 'a;

impl Coupled {
    /// Reads everything; [`Self::counters`] are to be released in the end.
    pub(crate) fn new(
        shape: &Shape,
        nodes: &mut Nodes,
        bonds: Vec<(CounterId, Counted)>,
        acquire: &mut Acquire<'_>,
        start: usize,
    ) -> Self {
        let relations = &shape.relations;
        let mut tally = |what: Counted, key: &str, nodes: &mut Nodes| {
            let key = nodes.topology(key);
            Tally { counter: acquire(what), key, by_domain: Vec::new(), total: 0 }
        };
        let mut even = |spread: &Spread, nodes: &mut Nodes| {
            let selection =
                crate::relations::Selection::within(shape.namespace(), spread.selector.clone());
            let what = Counted::Meant { all: vec![selection], staying: true };
            Even {
                tally: tally(what, &spread.key, nodes),
                max_skew: spread.max_skew,
                min_domains: spread.min_domains,
                own: i64::from(spread.selector.matches(shape.labels())),
                by_host: *spread.key == *HOSTNAME,
                eligible: Vec::new(),
                nodes: Vec::new(),
                domains: 0,
                counts: BTreeMap::new(),
            }
        };
        let of = |hard: bool| relations.spread.iter().filter(move |s| s.hard == hard);
        let hard = of(true).map(|s| even(s, nodes)).collect();
        let soft = of(false).map(|s| even(s, nodes)).collect();
        let all: Vec<_> = relations.near.iter().map(|near| near.selection.clone()).collect();
        let near = relations.near.iter().map(|near| {
            let what = Counted::Meant { all: all.clone(), staying: false };
            tally(what, &near.key, nodes)
        });
        let near = near.collect();
        let one = |near: &crate::relations::Near| Counted::Meant {
            all: vec![near.selection.clone()],
            staying: false,
        };
        let away = relations.away.iter().map(|near| tally(one(near), &near.key, nodes)).collect();
        let liked = relations.preferred.iter();
        let mut liked: Vec<_> =
            liked.map(|(weight, near)| (*weight, tally(one(near), &near.key, nodes))).collect();
        let mut kept_away = Vec::new();
        let carried = bonds.iter().map(|(id, _)| *id).collect();
        for (_, what) in bonds {
            let Counted::Carrying(bond, term) = &what else { continue };
            let (bond, key) = (*bond, term.key.clone());
            let tally = tally(what, &key, nodes);
            match bond {
                Bond::Away => kept_away.push(tally),
                Bond::Liked(weight) => liked.push((weight, tally)),
            }
        }
        Self {
            hard,
            soft,
            near,
            own_company: false,
            away,
            kept_away,
            liked,
            carried,
            mark: 0,
            topology: u64::MAX,
            bonds: 0,
            start,
        }
    }

    /// The counters that it holds.
    pub(crate) fn counters(&self) -> impl Iterator<Item = CounterId> {
        self.tallies().map(|tally| tally.counter)
    }

    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Whether the affinities that others carry may be other ones than it knows.
    pub(crate) fn may_be_outdated(&self, counts: &Counts) -> bool {
        self.bonds != counts.bonds()
    }

    /// Whether these, of all that others carry now, are those that it knows.
    pub(crate) fn knows(
        &mut self,
        carried: impl Iterator<Item = CounterId>,
        counts: &Counts,
    ) -> bool {
        let same = carried.eq(self.carried.iter().copied());
        if same {
            self.bonds = counts.bonds();
        }
        same
    }

    fn tallies(&self) -> impl Iterator<Item = &Tally> {
        let even = self.hard.iter().chain(&self.soft).map(|even| &even.tally);
        let liked = self.liked.iter().map(|(_, tally)| tally);
        even.chain(&self.near).chain(&self.away).chain(&self.kept_away).chain(liked)
    }

    fn each_tally(&mut self, mut f: impl FnMut(&mut Tally)) {
        let plain = self.near.iter_mut().chain(&mut self.away).chain(&mut self.kept_away);
        plain.chain(self.liked.iter_mut().map(|(_, tally)| tally)).for_each(&mut f);
    }

    fn each_even(&mut self, f: impl FnMut(&mut Even)) {
        self.hard.iter_mut().chain(&mut self.soft).for_each(f);
    }

    /// Takes in what has changed.
    pub(crate) fn catch_up(&mut self, shape: &Shape, nodes: &Nodes, counts: &Counts) {
        let moved = counts.since(self.mark).filter(|_| self.topology == nodes.topology_version());
        match moved {
            Some(moved) => {
                for moved in moved {
                    self.each_even(|even| even.apply(moved, nodes));
                    self.each_tally(|tally| {
                        tally.apply(moved, nodes);
                    });
                }
            }
            None => self.read(shape, nodes, counts),
        }
        self.mark = counts.mark();
    }

    fn read(&mut self, shape: &Shape, nodes: &Nodes, counts: &Counts) {
        self.topology = nodes.topology_version();
        self.bonds = counts.bonds();
        let all = |tally: &Tally| {
            let counter = counts.get(tally.counter);
            let counter = counter.map(|c| (c.on.iter(), tally.counter)).into_iter();
            counter.flat_map(|(on, counter)| {
                on.map(move |(slot, by)| Moved { counter, slot: *slot, by: *by })
            })
        };
        self.each_tally(|tally| {
            (tally.by_domain, tally.total) = (vec![0; nodes.domains(tally.key)], 0);
            for moved in all(tally).collect::<Vec<_>>() {
                tally.apply(&moved, nodes);
            }
        });
        let keys = |evens: &[Even]| evens.iter().map(|even| even.tally.key).collect::<Vec<_>>();
        let spread = &shape.relations.spread;
        for (hard, keys) in [(true, keys(&self.hard)), (false, keys(&self.soft))] {
            let evens = if hard { &mut self.hard } else { &mut self.soft };
            for (even, spread) in evens.iter_mut().zip(spread.iter().filter(|s| s.hard == hard)) {
                even.survey(spread, shape, &keys, nodes);
                for moved in all(&even.tally).collect::<Vec<_>>() {
                    even.apply(&moved, nodes);
                }
            }
        }
        let own = |near: &crate::relations::Near| {
            let what = Counted::Meant { all: vec![near.selection.clone()], staying: false };
            counts.means(&what, shape.namespace(), shape.labels())
        };
        self.own_company = shape.relations.near.iter().all(own);
    }

    /// What stands against a slot's node, of what other Pods have to do with.
    pub(crate) fn reason(&self, slot: usize, nodes: &Nodes) -> Option<Reason<'static>> {
        for even in &self.hard {
            let Some(domain) = nodes.domain(even.tally.key, slot) else {
                return Some(Reason::NoTopology);
            };
            if even.tally.at(domain) + even.own - even.least() > even.max_skew {
                return Some(Reason::Skewed);
            }
        }
        let mut company = true;
        for tally in &self.near {
            match nodes.domain(tally.key, slot) {
                None => return Some(Reason::NotNear),
                Some(domain) => company &= tally.at(domain) > 0,
            }
        }
        let first = self.own_company && self.near.iter().all(|tally| tally.total == 0);
        if !company && !first {
            return Some(Reason::NotNear);
        }
        let any = |tallies: &[Tally]| tallies.iter().any(|tally| tally.on(slot, nodes) > 0);
        if any(&self.away) {
            return Some(Reason::TooNear);
        }
        any(&self.kept_away).then_some(Reason::KeptAway)
    }

    /// The slot of the best node that fits, among enough of them.
    pub(crate) fn best(&mut self, shape: &Shape, nodes: &Nodes) -> Option<usize> {
        let slots = nodes.len();
        let wanted = crate::candidates::sample(slots).min(MOST);
        let mut fitting = Vec::new();
        let mut seen = 0;
        while seen < slots && fitting.len() < wanted {
            let slot = (self.start + seen) % slots;
            seen += 1;
            let node = nodes.get(slot);
            if node.is_present() && filters::fits(shape, node) && self.reason(slot, nodes).is_none()
            {
                fitting.push(slot);
            }
        }
        self.start = (self.start + seen) % slots.max(1);
        if let [only] = fitting[..] {
            return Some(only);
        }
        let spread = self.spread_scores(&fitting, nodes);
        let affinity = self.affinity_scores(&fitting, nodes);
        let score = |(i, slot): (usize, &usize)| {
            scores::score(shape, nodes.get(*slot)) + SPREAD * spread[i] + AFFINITY * affinity[i]
        };
        let scored = fitting.iter().enumerate().map(|(i, slot)| (score((i, slot)), *slot));
        // The first of equals, which is another one for each Pod.
        scored.rev().max_by_key(|(score, _)| *score).map(|(_, slot)| slot)
    }

    /// The fewer Pods the domains of a node have, the better; domains of few values weigh more.
    fn spread_scores(&self, fitting: &[usize], nodes: &Nodes) -> Vec<i64> {
        if self.soft.is_empty() {
            return vec![0; fitting.len()];
        }
        let counted = |slot: &usize| {
            self.soft.iter().all(|even| nodes.domain(even.tally.key, *slot).is_some())
        };
        let counted: Vec<bool> = fitting.iter().map(counted).collect();
        let weights = self.soft.iter().map(|even| {
            let here = fitting.iter().zip(&counted).filter(|(_, counted)| **counted);
            let size = if even.by_host {
                here.count()
            } else {
                let mut domains: Vec<_> =
                    here.filter_map(|(slot, _)| nodes.domain(even.tally.key, *slot)).collect();
                domains.sort_unstable();
                domains.dedup();
                domains.len()
            };
            ((size + 2) as f64).ln()
        });
        let weights: Vec<f64> = weights.collect();
        let raw = fitting.iter().zip(&counted).map(|(slot, counted)| {
            let each = self.soft.iter().zip(&weights).map(|(even, weight)| {
                even.tally.on(*slot, nodes) as f64 * weight + (even.max_skew - 1) as f64
            });
            counted.then(|| each.sum::<f64>().round() as i64)
        });
        let raw: Vec<Option<i64>> = raw.collect();
        let known = || raw.iter().flatten().copied();
        let (least, most) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
        let normal = |raw: &Option<i64>| match raw {
            None => 0,
            Some(_) if most == 0 => MAX,
            Some(raw) => MAX * (most + least - raw) / most,
        };
        raw.iter().map(normal).collect()
    }

    fn affinity_scores(&self, fitting: &[usize], nodes: &Nodes) -> Vec<i64> {
        let raw = |slot: &usize| {
            self.liked.iter().map(|(weight, tally)| weight * tally.on(*slot, nodes)).sum::<i64>()
        };
        let raw: Vec<i64> = fitting.iter().map(raw).collect();
        let least = raw.iter().copied().min().unwrap_or(0);
        let range = raw.iter().copied().max().unwrap_or(0) - least;
        raw.iter().map(|raw| if range == 0 { 0 } else { MAX * (raw - least) / range }).collect()
    }
}

/// How a Pod's own terms bind others.
pub(crate) fn bonds(shape: &Shape) -> Vec<Counted> {
    let relations = &shape.relations;
    let carrying = |bond, near: &crate::relations::Near| Counted::Carrying(bond, near.clone());
    let away = relations.away.iter().map(|near| carrying(Bond::Away, near));
    let near = relations.near.iter().map(|near| carrying(Bond::Liked(HARD_AFFINITY), near));
    let liked = relations.preferred.iter().map(|(by, near)| carrying(Bond::Liked(*by), near));
    away.chain(near).chain(liked).collect()
}

impl Tally {
    fn at(&self, domain: usize) -> i64 {
        self.by_domain.get(domain).copied().unwrap_or(0)
    }

    /// The count of a slot's domain.
    fn on(&self, slot: usize, nodes: &Nodes) -> i64 {
        nodes.domain(self.key, slot).map_or(0, |domain| self.at(domain))
    }

    /// The domain that has changed.
    fn apply(&mut self, moved: &Moved, nodes: &Nodes) -> Option<usize> {
        if moved.counter != self.counter {
            return None;
        }
        let domain = nodes.domain(self.key, moved.slot)?;
        if domain >= self.by_domain.len() {
            self.by_domain.resize(domain + 1, 0);
        }
        self.by_domain[domain] += moved.by;
        self.total += moved.by;
        Some(domain)
    }
}

impl Even {
    /// Which nodes count, and so which domains there are; all of them empty.
    fn survey(&mut self, spread: &Spread, shape: &Shape, keys: &[KeyId], nodes: &Nodes) {
        let domains = nodes.domains(self.tally.key);
        (self.tally.by_domain, self.tally.total) = (vec![0; domains], 0);
        self.nodes = vec![0; domains];
        self.eligible = vec![false; nodes.len()];
        for slot in 0..nodes.len() {
            let node = nodes.get(slot);
            let counts = node.is_present()
                && keys.iter().all(|key| nodes.domain(*key, slot).is_some())
                && (!spread.honours_affinity || filters::affinity_allows(shape, node))
                && (!spread.honours_taints || filters::untolerated(shape, node).is_none());
            self.eligible[slot] = counts;
            if let Some(domain) = nodes.domain(self.tally.key, slot).filter(|_| counts) {
                self.nodes[domain] += 1;
            }
        }
        self.domains = self.nodes.iter().filter(|nodes| **nodes > 0).count();
        self.counts = BTreeMap::from([(0, self.domains)]);
    }

    fn apply(&mut self, moved: &Moved, nodes: &Nodes) {
        if !self.eligible.get(moved.slot).is_some_and(|counts| *counts) {
            return;
        }
        if let Some(domain) = self.tally.apply(moved, nodes) {
            let now = self.tally.at(domain);
            let before = now - moved.by;
            if let Some(domains) = self.counts.get_mut(&before) {
                *domains -= 1;
                if *domains == 0 {
                    self.counts.remove(&before);
                }
            }
            *self.counts.entry(now).or_default() += 1;
        }
    }

    /// The fewest Pods that a domain has; none if there are fewer domains than there should be.
    fn least(&self) -> i64 {
        if self.domains < self.min_domains {
            return 0;
        }
        self.counts.keys().next().copied().unwrap_or(0)
    }
}
