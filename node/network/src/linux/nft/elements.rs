//! The changing part of a Service table: which elements the sets hold.
//!
//! [`State`] is a pure model of them. A change to it yields the smallest [`Delta`], for one transaction: a backend
//! that comes or goes costs a few elements, however many others there are.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::expr::{Verdict, put_verdict};
use super::rules::{RulesConfig, Scope};
use super::ruleset::{self, BACKENDS, REFUSED, SAME, SERVICES};
use super::wire::{Attributes, Batch, CREATE, MAX_ATTRIBUTE, Verb};
use crate::routes::{Protocol, RouteChange, ServiceKey, ServiceRoute};

/// What callers address: an address (0.0.0.0 for a NodePort), a protocol and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Front {
    address: Ipv4Addr,
    protocol: Protocol,
    port: u16,
}

/// What a `pick` chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Class {
    /// How many backends there are to pick from.
    pub(super) backends: u32,
    /// Whether a client address stays with its backend, as long as their number stays.
    pub(super) sticky: bool,
    /// Whether the key has no address.
    pub(super) node_port: bool,
}

impl Class {
    pub(super) fn chain(self) -> String {
        let sticky = if self.sticky { "-sticky" } else { "" };
        let node_port = if self.node_port { "-node" } else { "" };
        format!("pick{sticky}{node_port}-{}", self.backends)
    }
}

/// What one front leads to. A backend keeps its number while others come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    owner: ServiceKey,
    sticky: bool,
    slots: Vec<SocketAddrV4>,
}

impl Target {
    fn class(&self, front: Front) -> Option<Class> {
        let node_port = front.address.is_unspecified();
        let backends = self.slots.len() as u32;
        (backends > 0).then_some(Class { backends, sticky: self.sticky, node_port })
    }
}

/// The elements of the sets.
#[derive(Debug, Default)]
pub(super) struct State {
    targets: HashMap<Front, Target>,
    fronts: HashMap<ServiceKey, BTreeSet<Front>>,
    /// How many fronts each `pick` chain serves; none is listed that serves nobody.
    classes: HashMap<Class, usize>,
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
}

impl State {
    /// Takes changes in, and tells what differs.
    pub(super) fn update(&mut self, scope: Scope, changes: &[RouteChange]) -> Delta {
        let mut delta = Delta::default();
        let classes_before = self.classes.clone();
        // Of several changes to one Service, the last counts: the delta says what to remove and what to add, once.
        let last: BTreeMap<&ServiceKey, &RouteChange> =
            changes.iter().map(|change| (change.key(), change)).collect();
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
        let slots = |target: &Option<Target>| {
            target.as_ref().map(|target| target.slots.clone()).unwrap_or_default()
        };
        let (old, new) = (slots(&before), slots(&target));
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
    let v4 = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    };
    let addresses: Vec<Ipv4Addr> =
        route.cluster_ip.iter().chain(&route.external_ips).filter_map(v4).collect();
    let mut result = BTreeMap::new();
    for port in &route.ports {
        let slots: Vec<SocketAddrV4> = port
            .backends
            .iter()
            .filter_map(|backend| match backend {
                SocketAddr::V4(backend) => Some(*backend),
                SocketAddr::V6(_) => None,
            })
            .collect();
        // This machine's loopback is another in the Pods' namespace: the machine itself translates those.
        if scope == Scope::Pods
            && (slots.is_empty() || slots.iter().any(|backend| backend.ip().is_loopback()))
        {
            continue;
        }
        let target = Target { owner: route.key.clone(), sticky: route.affinity.is_some(), slots };
        for address in &addresses {
            let front = Front { address: *address, protocol: port.protocol, port: port.port };
            result.insert(front, target.clone());
        }
        if let Some(node_port) = port.node_port.filter(|_| scope == Scope::Host) {
            let front =
                Front { address: Ipv4Addr::UNSPECIFIED, protocol: port.protocol, port: node_port };
            result.insert(front, target);
        }
    }
    result
}

impl Delta {
    /// Writes chains before what leads to them, and removes elements before what takes their place.
    pub(super) fn write(&self, batch: &mut Batch, config: &RulesConfig) {
        for class in &self.new_classes {
            ruleset::add_pick(batch, config, *class);
        }
        let table = &config.table;
        let backend_key = |front: &Front, number: u32| {
            let mut key = front.key();
            key.extend_from_slice(&number.to_ne_bytes());
            key
        };
        let nothing = |_: &mut Attributes<'_>| {};
        put_elements(batch, Verb::DelSetElem, table, SERVICES, &self.remove_services, |front| {
            (front.key(), nothing)
        });
        put_elements(
            batch,
            Verb::DelSetElem,
            table,
            BACKENDS,
            &self.remove_backends,
            |(front, number)| (backend_key(front, *number), nothing),
        );
        put_elements(batch, Verb::DelSetElem, table, REFUSED, &self.remove_refused, |front| {
            (front.key(), nothing)
        });
        put_elements(
            batch,
            Verb::NewSetElem,
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
        put_elements(
            batch,
            Verb::NewSetElem,
            table,
            SERVICES,
            &self.add_services,
            |(front, class)| {
                let verdict = Verdict::Goto(class.chain());
                (front.key(), move |out: &mut Attributes<'_>| {
                    out.nest(2, |out| put_verdict(out, &verdict))
                })
            },
        );
        put_elements(batch, Verb::NewSetElem, table, REFUSED, &self.add_refused, |front| {
            (front.key(), nothing)
        });
        for class in &self.old_classes {
            ruleset::remove_pick(batch, config, *class);
        }
    }
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
        key.extend_from_slice(&[protocol, 0, 0, 0]);
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
