//! Which nodes have a label's value in common: zones, regions, or each node by itself.

use std::collections::HashMap;

use crate::relations::Labels;

/// Names a label that somebody asked about.
pub(crate) type KeyId = usize;

/// The values of some labels, numbered, for each slot of a node.
#[derive(Debug, Default)]
pub(crate) struct Topologies {
    keys: Vec<Topology>,
    by_key: HashMap<Box<str>, KeyId>,
}

#[derive(Debug)]
struct Topology {
    key: Box<str>,
    domains: HashMap<Box<str>, u32>,
    of: Vec<u32>,
}

const NONE: u32 = u32::MAX;

impl Topologies {
    pub(crate) fn known(&self, key: &str) -> Option<KeyId> {
        self.by_key.get(key).copied()
    }

    /// Adds a label; every node is still to be [`Self::place`]d.
    pub(crate) fn add(&mut self, key: &str) -> KeyId {
        let topology = Topology { key: key.into(), domains: HashMap::new(), of: Vec::new() };
        self.keys.push(topology);
        self.by_key.insert(key.into(), self.keys.len() - 1);
        self.keys.len() - 1
    }

    /// Takes note of the labels of a slot's node; `None` if it is not there.
    pub(crate) fn place(&mut self, slot: usize, labels: Option<&Labels>) {
        for topology in &mut self.keys {
            let value = labels.and_then(|labels| labels.get(&*topology.key));
            let domain = value.map_or(NONE, |value| match topology.domains.get(value.as_str()) {
                Some(known) => *known,
                None => {
                    let number = topology.domains.len() as u32;
                    topology.domains.insert(value.as_str().into(), number);
                    number
                }
            });
            if slot >= topology.of.len() {
                topology.of.resize(slot + 1, NONE);
            }
            topology.of[slot] = domain;
        }
    }

    /// The number of a slot's value.
    pub(crate) fn domain(&self, key: KeyId, slot: usize) -> Option<usize> {
        self.keys[key].of.get(slot).filter(|domain| **domain != NONE).map(|domain| *domain as usize)
    }

    /// One more than the greatest number of a value.
    pub(crate) fn domains(&self, key: KeyId) -> usize {
        self.keys[key].domains.len()
    }
}
