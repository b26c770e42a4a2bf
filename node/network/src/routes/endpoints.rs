//! Endpoints as their slices tell of them, and who of them gets which calls (`CategorizeEndpoints` of kube-proxy).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{Endpoint, Place, Protocol};

/// The endpoints of one slice, reduced to what routing needs.
#[derive(Clone, Debug, Default)]
pub(super) struct SliceEndpoints {
    /// Port name, protocol and number.
    ports: Vec<(String, Protocol, u16)>,
    pub(super) ready: Vec<Member>,
    /// Shutting down but still answering: used only where nothing is ready.
    draining: Vec<Member>,
}

/// One endpoint.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) endpoint: Endpoint,
    pub(super) node: Option<Arc<str>>,
    /// For whom it is meant; rarely there.
    hints: Option<Box<Hints>>,
}

#[derive(Clone, Debug)]
struct Hints {
    nodes: Vec<String>,
    zones: Vec<String>,
}

/// Whose endpoints are preferred.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topology {
    Anywhere,
    SameZone,
    SameNode,
}

/// Who answers for one port.
pub(super) struct Answering {
    /// Of the whole cluster.
    pub(super) cluster: Vec<SocketAddr>,
    /// Of this node.
    pub(super) local: Vec<SocketAddr>,
}

impl SliceEndpoints {
    pub(super) fn of(slice: &EndpointSlice) -> Self {
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let number = port.port.and_then(|n| u16::try_from(n).ok())?;
            Some((
                port.name.clone().unwrap_or_default(),
                Protocol::parse(port.protocol.as_deref())?,
                number,
            ))
        });
        let mut result = Self { ports: ports.collect(), ..Self::default() };
        for endpoint in slice.endpoints.iter().flatten() {
            // The API defines absent conditions: ready and serving count as true, terminating as false.
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
            let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
            let list = match (ready, serving && terminating) {
                (true, _) => &mut result.ready,
                (false, true) => &mut result.draining,
                (false, false) => continue,
            };
            // Consumers use the first address only: the others are the API's reserve (EndpointSlice v1).
            let ip = endpoint.addresses.first().and_then(|ip| ip.parse::<IpAddr>().ok());
            let Some(ip) = ip else { continue };
            let hostname = endpoint.hostname.clone().filter(|name| !name.is_empty());
            let hints = endpoint.hints.as_ref().map(|hints| Hints {
                nodes: hints.for_nodes.iter().flatten().map(|node| node.name.clone()).collect(),
                zones: hints.for_zones.iter().flatten().map(|zone| zone.name.clone()).collect(),
            });
            list.push(Member {
                endpoint: Endpoint { ip, hostname },
                node: endpoint.node_name.as_deref().map(Arc::from),
                hints: hints.filter(|h| !h.nodes.is_empty() || !h.zones.is_empty()).map(Box::new),
            });
        }
        result
    }

    fn ports_of(&self, name: &str, protocol: Protocol) -> impl Iterator<Item = u16> + '_ {
        let name = name.to_owned();
        let matching = self.ports.iter().filter(move |(n, p, _)| *n == name && *p == protocol);
        matching.map(|(_, _, port)| *port)
    }
}

impl Member {
    pub(super) fn is_on(&self, place: &Place) -> bool {
        self.node.as_deref() == Some(&place.node)
    }

    fn is_meant_for(&self, place: &Place, topology: Topology) -> bool {
        match (topology, &self.hints) {
            (Topology::Anywhere, _) => true,
            (_, None) => false,
            (Topology::SameNode, Some(hints)) => hints.nodes.contains(&place.node),
            (Topology::SameZone, Some(hints)) => {
                place.zone.as_ref().is_some_and(|zone| hints.zones.contains(zone))
            }
        }
    }
}

/// The closest for which every ready endpoint has hints and some endpoint is meant: hints are being written one by one, and
/// must never leave a node with nobody.
fn topology<'a>(ready: impl Iterator<Item = &'a Member>, place: &Place) -> Topology {
    let (mut all_nodes, mut all_zones) = (true, true);
    let (mut node, mut zone) = (false, false);
    for member in ready {
        let (nodes, zones) = match &member.hints {
            Some(hints) => (!hints.nodes.is_empty(), !hints.zones.is_empty()),
            None => (false, false),
        };
        all_nodes &= nodes;
        all_zones &= zones;
        node |= member.is_meant_for(place, Topology::SameNode);
        zone |= member.is_meant_for(place, Topology::SameZone);
    }
    match (all_nodes && node, all_zones && zone) {
        (true, _) => Topology::SameNode,
        (_, true) => Topology::SameZone,
        _ => Topology::Anywhere,
    }
}

/// The ready endpoints of a port; where there are none, those that shut down but still serve.
pub(super) fn answering<'a>(
    slices: impl Iterator<Item = &'a SliceEndpoints> + Clone,
    name: &str,
    protocol: Protocol,
    place: &Place,
) -> Answering {
    let of_port = || {
        let slices = slices.clone();
        slices.flat_map(move |slice| slice.ports_of(name, protocol).map(move |port| (slice, port)))
    };
    let topology = topology(of_port().flat_map(|(slice, _)| &slice.ready), place);
    let collect = |pick: fn(&SliceEndpoints) -> &Vec<Member>, wanted: &dyn Fn(&Member) -> bool| {
        let members = of_port().flat_map(|(slice, port)| {
            let members = pick(slice).iter().filter(|member| wanted(member));
            members.map(move |member| SocketAddr::new(member.endpoint.ip, port))
        });
        members.collect::<BTreeSet<_>>()
    };
    let ready_or_draining = |preferred: &dyn Fn(&Member) -> bool,
                             wanted: &dyn Fn(&Member) -> bool| {
        let mut found = collect(|slice| &slice.ready, preferred);
        if found.is_empty() {
            found = collect(|slice| &slice.draining, wanted);
        }
        found.into_iter().collect()
    };
    Answering {
        cluster: ready_or_draining(&|m| m.is_meant_for(place, topology), &|_| true),
        local: ready_or_draining(&|m| m.is_on(place), &|m| m.is_on(place)),
    }
}
