//! The changing part of a Service table: which elements the sets hold.
//!
//! [`State`] is a pure model of them. A change to it yields the smallest [`Delta`], for one transaction: a backend
//! that comes or goes costs a few elements, however many others there are.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::conntrack::Stale;
use super::expr::{OUTSIDE, Verdict, put_verdict};
use super::rules::{RulesConfig, Scope};
use super::ruleset::{self, BACKENDS, BALANCED, GUARDED, REFUSED, SAME, SERVICES, STUCK};
use super::wire::{Attributes, Batch, CREATE, MAX_ATTRIBUTE, Verb};
use crate::cidr::Cidr;
use crate::routes::{Protocol, RouteChange, ServiceKey, ServiceRoute};

/// What callers address: an address (0.0.0.0 for a NodePort), a protocol and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Front {
    address: Ipv4Addr,
    protocol: Protocol,
    port: u16,
    /// Whether this is what callers from outside of the cluster are led to, and nobody else.
    outside: bool,
}

/// What a `pick` chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Class {
    /// How many backends there are to pick from. Without any there is no chain: calls are dropped.
    pub(super) backends: u32,
    /// For how many seconds a client address stays with its backend.
    pub(super) sticky: Option<u32>,
    /// Whether the key has no address.
    pub(super) node_port: bool,
    /// Whether the key is for callers from outside.
    pub(super) outside: bool,
}

impl Class {
    pub(super) fn chain(self) -> String {
        let sticky = self.sticky.map(|seconds| format!("-sticky-{seconds}")).unwrap_or_default();
        let node_port = if self.node_port { "-node" } else { "" };
        let outside = if self.outside { "-outside" } else { "" };
        format!("pick{sticky}{node_port}{outside}-{}", self.backends)
    }

    fn verdict(self) -> Verdict {
        if self.backends == 0 { Verdict::Drop } else { Verdict::Goto(self.chain()) }
    }
}

/// What one front leads to. A backend keeps its number while others come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    owner: ServiceKey,
    sticky: Option<u32>,
    slots: Vec<SocketAddrV4>,
    /// From where it may be called; from everywhere if there is nothing.
    sources: Vec<Cidr>,
}

impl Target {
    fn class(&self, front: Front) -> Option<Class> {
        let node_port = front.address.is_unspecified();
        let backends = self.slots.len() as u32;
        let class = Class { backends, sticky: self.sticky, node_port, outside: front.outside };
        // Without backends it is refused; callers from outside are left to another node that has some.
        (backends > 0 || front.outside).then_some(class)
    }

    fn stuck(&self) -> BTreeSet<SocketAddrV4> {
        self.slots.iter().filter(|_| self.sticky.is_some()).copied().collect()
    }
}

/// The elements of the sets.
#[derive(Debug, Default)]
pub(super) struct State {
    targets: HashMap<Front, Target>,
    fronts: HashMap<ServiceKey, BTreeSet<Front>>,
    /// How many fronts each `pick` chain serves; none is listed that serves nobody.
    classes: HashMap<Class, usize>,
    /// The number of each `from` chain, and how many fronts it serves.
    sources: BTreeMap<Vec<Cidr>, (u32, usize)>,
    last_source: u32,
    /// Load balancers' addresses, and the Services that have each.
    balanced: BTreeMap<Ipv4Addr, BTreeSet<ServiceKey>>,
}

/// The elements and chains to remove and to add.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    new_classes: Vec<Class>,
    old_classes: Vec<Class>,
    remove_services: Vec<Front>,
    add_services: Vec<(Front, Class)>,
    remove_backends: Vec<(Front, u32)>,
    add_backends: Vec<(Front, u32, SocketAddrV4)>,
    remove_refused: Vec<Front>,
    add_refused: Vec<Front>,
    remove_stuck: Vec<(Front, SocketAddrV4)>,
    add_stuck: Vec<(Front, SocketAddrV4)>,
    new_sources: BTreeMap<u32, Vec<Cidr>>,
    old_sources: Vec<u32>,
    remove_guards: Vec<Front>,
    add_guards: Vec<(Front, u32)>,
    remove_balanced: Vec<Ipv4Addr>,
    add_balanced: Vec<Ipv4Addr>,
    /// Fronts for datagrams that may have led elsewhere before.
    moved: BTreeSet<Front>,
}

impl State {
    /// Takes changes in, and tells what differs.
    pub(super) fn update(&mut self, scope: Scope, changes: &[RouteChange]) -> Delta {
        let mut delta = Delta::default();
        let classes_before = self.classes.clone();
        // Of several changes to one Service, the last counts: the delta says what to remove and what to add, once.
        let last: BTreeMap<&ServiceKey, &RouteChange> =
            changes.iter().map(|change| (change.key(), change)).collect();
        if scope == Scope::Host {
            self.set_balanced(&mut delta, last.values().copied());
        }
        let wanted: Vec<(&ServiceKey, BTreeMap<Front, Target>)> = last
            .into_iter()
            .map(|(key, change)| match change {
                RouteChange::Set(route) => (key, targets(scope, route)),
                RouteChange::Gone(_) => (key, BTreeMap::new()),
            })
            .collect();
        // Removals come first: an address that one Service gave up may be another's in the same round.
        for (key, wanted) in &wanted {
            let fronts = self.fronts.get(*key).cloned().unwrap_or_default();
            for front in fronts.into_iter().filter(|front| !wanted.contains_key(front)) {
                self.set_target(&mut delta, front, None);
            }
            self.fronts.remove(*key);
        }
        for (key, wanted) in wanted {
            let mut fronts = BTreeSet::new();
            for (front, target) in wanted {
                if let Some(other) = self.targets.get(&front).filter(|other| other.owner != *key) {
                    tracing::warn!(service = %key, other = %other.owner, ?front, "two Services claim one address and port; the first keeps it");
                    continue;
                }
                self.set_target(&mut delta, front, Some(target));
                fronts.insert(front);
            }
            if !fronts.is_empty() {
                self.fronts.insert(key.clone(), fronts);
            }
        }
        delta.new_classes = self
            .classes
            .keys()
            .filter(|class| !classes_before.contains_key(class))
            .copied()
            .collect();
        delta.old_classes =
            classes_before.into_keys().filter(|class| !self.classes.contains_key(class)).collect();
        delta
    }

    /// Changes whose the load balancers' addresses are.
    fn set_balanced<'a>(
        &mut self,
        delta: &mut Delta,
        changes: impl Iterator<Item = &'a RouteChange>,
    ) {
        let before: BTreeSet<Ipv4Addr> = self.balanced.keys().copied().collect();
        for change in changes {
            let key = change.key();
            for owners in self.balanced.values_mut() {
                owners.remove(key);
            }
            let RouteChange::Set(route) = change else { continue };
            for address in route.balancer_ips.iter().filter_map(v4) {
                self.balanced.entry(address).or_default().insert(key.clone());
            }
        }
        self.balanced.retain(|_, owners| !owners.is_empty());
        let after: BTreeSet<Ipv4Addr> = self.balanced.keys().copied().collect();
        delta.remove_balanced = before.difference(&after).copied().collect();
        delta.add_balanced = after.difference(&before).copied().collect();
    }

    /// Load balancers' addresses.
    pub(super) fn balanced(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.balanced.keys().copied()
    }

    /// Changes what one front leads to, noting the elements that differ.
    fn set_target(&mut self, delta: &mut Delta, front: Front, mut target: Option<Target>) {
        let before = self.targets.remove(&front);
        if let (Some(before), Some(target)) = (&before, &mut target) {
            target.slots = keep_slots(&before.slots, &target.slots);
        }
        let class =
            |target: &Option<Target>| target.as_ref().and_then(|target| target.class(front));
        let (old, new) = (class(&before), class(&target));
        if old != new {
            if let Some(class) = old {
                delta.remove_services.push(front);
                if let Some(count) = self.classes.get_mut(&class) {
                    *count -= 1;
                    if *count == 0 {
                        self.classes.remove(&class);
                    }
                }
            }
            if let Some(class) = new {
                delta.add_services.push((front, class));
                *self.classes.entry(class).or_default() += 1;
            }
            match (before.is_some() && old.is_none(), target.is_some() && new.is_none()) {
                (true, false) => delta.remove_refused.push(front),
                (false, true) => delta.add_refused.push(front),
                _ => {}
            }
        } else if before.is_none() && target.is_some() {
            delta.add_refused.push(front);
        } else if before.is_some() && target.is_none() {
            delta.remove_refused.push(front);
        }
        self.set_sources(delta, front, before.as_ref(), target.as_ref());
        let stuck =
            |target: &Option<Target>| target.as_ref().map(Target::stuck).unwrap_or_default();
        let (old, new) = (stuck(&before), stuck(&target));
        delta.remove_stuck.extend(old.difference(&new).map(|backend| (front, *backend)));
        delta.add_stuck.extend(new.difference(&old).map(|backend| (front, *backend)));
        let slots = |target: &Option<Target>| {
            target.as_ref().map(|target| target.slots.clone()).unwrap_or_default()
        };
        let (old, new) = (slots(&before), slots(&target));
        let stays = |backend: &SocketAddrV4| new.contains(backend);
        if front.protocol == Protocol::Udp && (old.is_empty() || !old.iter().all(stays)) {
            delta.moved.insert(front);
        }
        for number in 0..old.len().max(new.len()) {
            let (old, new) = (old.get(number), new.get(number));
            if old == new {
                continue;
            }
            let index = number as u32;
            if old.is_some() {
                delta.remove_backends.push((front, index));
            }
            if let Some(backend) = new {
                delta.add_backends.push((front, index, *backend));
            }
        }
        if let Some(target) = target {
            self.targets.insert(front, target);
        }
    }

    /// Changes from where a front may be called.
    fn set_sources(
        &mut self,
        delta: &mut Delta,
        front: Front,
        before: Option<&Target>,
        target: Option<&Target>,
    ) {
        let sources =
            |target: Option<&Target>| target.map(|t| t.sources.clone()).unwrap_or_default();
        let (old, new) = (sources(before), sources(target));
        if old == new {
            return;
        }
        if let Some((number, count)) = self.sources.get_mut(&old) {
            delta.remove_guards.push(front);
            *count -= 1;
            if *count == 0 {
                // One that came and went within this round has no chain yet.
                if delta.new_sources.remove(number).is_none() {
                    delta.old_sources.push(*number);
                }
                self.sources.remove(&old);
            }
        }
        if !new.is_empty() {
            let (number, count) = self.sources.entry(new.clone()).or_insert_with(|| {
                self.last_source += 1;
                delta.new_sources.insert(self.last_source, new);
                (self.last_source, 0)
            });
            *count += 1;
            delta.add_guards.push((front, *number));
        }
    }

    /// What to look for among connections once the delta is in force.
    pub(super) fn stale(&self, delta: &Delta) -> Vec<Stale> {
        let stale = delta.moved.iter().map(|front| {
            let sides = [false, true].map(|outside| self.targets.get(&Front { outside, ..*front }));
            let led = sides.into_iter().flatten().flat_map(|target| target.slots.clone());
            let address = Some(front.address).filter(|address| !address.is_unspecified());
            Stale { address, port: front.port, backends: led.collect() }
        });
        stale.collect()
    }
}

/// The wanted backends in an order that changes as few numbers as possible: the last fill the gaps.
fn keep_slots(before: &[SocketAddrV4], wanted: &[SocketAddrV4]) -> Vec<SocketAddrV4> {
    let mut fresh: BTreeSet<SocketAddrV4> = wanted.iter().copied().collect();
    let mut slots: Vec<Option<SocketAddrV4>> =
        before.iter().map(|backend| fresh.remove(backend).then_some(*backend)).collect();
    let mut fresh = fresh.into_iter();
    for slot in slots.iter_mut().filter(|slot| slot.is_none()) {
        *slot = fresh.next();
    }
    slots.extend(fresh.map(Some));
    let mut number = 0;
    while number < slots.len() {
        if slots[number].is_none() {
            slots.swap_remove(number);
        } else {
            number += 1;
        }
    }
    slots.into_iter().flatten().collect()
}

/// What a route means for a table. IPv6 addresses have none yet.
fn targets(scope: Scope, route: &ServiceRoute) -> BTreeMap<Front, Target> {
    let v4s = |backends: &[SocketAddr]| -> Vec<SocketAddrV4> {
        let v4s = backends.iter().filter_map(|backend| match backend {
            SocketAddr::V4(backend) => Some(*backend),
            SocketAddr::V6(_) => None,
        });
        v4s.collect()
    };
    let sticky = route.affinity.map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    let target = |backends: &[SocketAddr], sources: &[Cidr]| Target {
        owner: route.key.clone(),
        sticky,
        slots: v4s(backends),
        sources: sources.to_vec(),
    };
    let mut result = BTreeMap::new();
    let mut put = |front: Front, target: Target| {
        // This machine's loopback is another in the Pods' namespace: the machine itself translates those, and sees to who may
        // call.
        let elsewhere = target.slots.is_empty()
            || target.slots.iter().any(|backend| backend.ip().is_loopback())
            || !target.sources.is_empty();
        if scope == Scope::Host || !elsewhere {
            result.insert(front, target);
        }
    };
    for port in &route.ports {
        let front = |address: Ipv4Addr, number: u16| Front {
            address,
            protocol: port.protocol,
            port: number,
            outside: false,
        };
        if let Some(vip) = route.cluster_ip.as_ref().and_then(v4) {
            put(front(vip, port.port), target(&port.backends, &[]));
        }
        let external = port.external.as_ref().unwrap_or(&port.backends);
        let open = route.external_ips.iter().filter_map(v4).map(|ip| (ip, port.port, &[][..]));
        let balanced = route.balancer_ips.iter().filter_map(v4);
        let balanced = balanced.map(|ip| (ip, port.port, &route.source_ranges[..]));
        let node_port = port.node_port.filter(|_| scope == Scope::Host);
        let node_port = node_port.map(|number| (Ipv4Addr::UNSPECIFIED, number, &[][..]));
        for (address, number, sources) in open.chain(balanced).chain(node_port) {
            let front = front(address, number);
            put(front, target(external, sources));
            if let Some(outside) = port.outside.as_ref().filter(|_| scope == Scope::Host) {
                put(Front { outside: true, ..front }, target(outside, &[]));
            }
        }
    }
    result
}

fn v4(ip: &IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    }
}

impl Delta {
    /// Writes chains before what leads to them, and removes elements before what takes their place.
    pub(super) fn write(&self, batch: &mut Batch, config: &RulesConfig) {
        for class in self.new_classes.iter().filter(|class| class.backends > 0) {
            ruleset::add_pick(batch, config, *class);
        }
        for (number, ranges) in &self.new_sources {
            ruleset::add_sources(batch, config, &from_chain(*number), ranges);
        }
        let table = &config.table;
        let backend_key = |front: &Front, number: u32| {
            let mut key = front.key();
            key.extend_from_slice(&number.to_ne_bytes());
            key
        };
        let stuck_key = |front: &Front, backend: &SocketAddrV4| {
            let mut key = front.key();
            key.extend_from_slice(&join(*backend.ip(), backend.port()));
            key
        };
        let nothing = |_: &mut Attributes<'_>| {};
        let leads = |verdict: Verdict| {
            move |out: &mut Attributes<'_>| out.nest(2, |out| put_verdict(out, &verdict))
        };
        let gone = Verb::DelSetElem;
        put_elements(batch, gone, table, SERVICES, &self.remove_services, |f| (f.key(), nothing));
        put_elements(batch, gone, table, GUARDED, &self.remove_guards, |f| (f.key(), nothing));
        put_elements(batch, gone, table, BACKENDS, &self.remove_backends, |(front, number)| {
            (backend_key(front, *number), nothing)
        });
        put_elements(batch, gone, table, STUCK, &self.remove_stuck, |(front, backend)| {
            (stuck_key(front, backend), nothing)
        });
        let address = |address: &Ipv4Addr| (address.octets().to_vec(), nothing);
        put_elements(batch, gone, table, BALANCED, &self.remove_balanced, address);
        put_elements(batch, gone, table, REFUSED, &self.remove_refused, |f| (f.key(), nothing));
        let new = Verb::NewSetElem;
        put_elements(
            batch,
            new,
            table,
            BACKENDS,
            &self.add_backends,
            |(front, number, backend)| {
                let value = join(*backend.ip(), backend.port());
                (backend_key(front, *number), move |out: &mut Attributes<'_>| {
                    out.nest(2, |out| out.bytes(1, &value))
                })
            },
        );
        put_elements(batch, new, table, STUCK, &self.add_stuck, |(front, backend)| {
            (stuck_key(front, backend), nothing)
        });
        put_elements(batch, new, table, SERVICES, &self.add_services, |(front, class)| {
            (front.key(), leads(class.verdict()))
        });
        put_elements(batch, new, table, GUARDED, &self.add_guards, |(front, number)| {
            (front.key(), leads(Verdict::Jump(from_chain(*number))))
        });
        put_elements(batch, new, table, BALANCED, &self.add_balanced, address);
        put_elements(batch, new, table, REFUSED, &self.add_refused, |f| (f.key(), nothing));
        for class in self.old_classes.iter().filter(|class| class.backends > 0) {
            ruleset::remove_chain(batch, config, &class.chain());
        }
        for number in &self.old_sources {
            ruleset::remove_chain(batch, config, &from_chain(*number));
        }
    }
}

fn from_chain(number: u32) -> String {
    format!("from-{number}")
}

/// Writes links whose packets may go back where they came from.
pub(super) fn put_links(batch: &mut Batch, verb: Verb, config: &RulesConfig, links: &[u32]) {
    let nothing = |_: &mut Attributes<'_>| {};
    put_elements(batch, verb, &config.table, SAME, links, |link| {
        ([link.to_ne_bytes(), link.to_ne_bytes()].concat(), nothing)
    });
}

impl Front {
    /// The element key as registers hold it: each part padded to four bytes.
    fn key(&self) -> Vec<u8> {
        let protocol = match self.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        };
        let mut key = self.address.octets().to_vec();
        let outside = if self.outside { OUTSIDE } else { 0 };
        key.extend_from_slice(&[protocol | outside, 0, 0, 0]);
        key.extend_from_slice(&join(self.address, self.port)[4..]);
        key
    }
}

/// Address and port as two registers hold them.
fn join(address: Ipv4Addr, port: u16) -> [u8; 8] {
    let (a, p) = (address.octets(), port.to_be_bytes());
    [a[0], a[1], a[2], a[3], p[0], p[1], 0, 0]
}

/// Adds or removes elements, in as many messages as their attributes' 16-bit length asks for.
fn put_elements<T, D: FnOnce(&mut Attributes<'_>)>(
    batch: &mut Batch,
    verb: Verb,
    table: &str,
    set: &str,
    items: &[T],
    encode: impl Fn(&T) -> (Vec<u8>, D),
) {
    // No element is longer: a key of 16 bytes, a verdict with a chain's name, and their headers.
    const MAX_ELEMENT: usize = 120;
    for chunk in items.chunks(MAX_ATTRIBUTE / MAX_ELEMENT) {
        let flags = if verb == Verb::NewSetElem { CREATE } else { 0 };
        batch.message(verb, flags, |out| {
            out.string(1, table);
            out.string(2, set);
            out.nest(3, |out| {
                for item in chunk {
                    let (key, data) = encode(item);
                    out.nest(1, |out| {
                        out.nest(1, |out| out.bytes(1, &key));
                        data(out);
                    });
                }
            });
        });
    }
}
