//! ClusterIPs and NodePorts, those on which load balancers ask for a Service's health among them.
//!
//! Each one in use is a key of its own in the store, written in the batch of its Service under the condition that it did
//! not exist and deleted in the batch that lets go of it. So uniqueness holds across crashes and across servers, and
//! nothing leaks. The watch cache only tells which ones are worth trying.

use std::cell::LazyCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use coracle_api::{ApiError, FieldError, Kind, Object, kinds};
use coracle_store::{Batch, Expect, Retention};
use rand::RngExt;
use serde_json::{Value, json};

use super::Registry;

/// Left for explicit requests, such as that of the `kubernetes` Service.
const STATIC_ADDRESSES: u32 = 16;

/// From where Services get addresses and ports; more ranges of addresses may be declared by ServiceCIDRs.
#[derive(Debug, Clone)]
pub(crate) struct ServiceRanges {
    pub(crate) network: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) node_ports: RangeInclusive<u16>,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    network: Ipv4Addr,
    prefix: u8,
}

/// What Services hold, as the watch cache has it: read anew only of those that changed, for there may be thousands.
#[derive(Default)]
pub(super) struct Taken {
    /// By UIDs: the revision that was read, and what it held.
    services: HashMap<String, (u64, BTreeSet<Bytes>)>,
    /// How many Services hold a key; for a moment it may be two.
    keys: HashMap<Bytes, usize>,
}

impl Taken {
    fn has(&self, key: &Bytes) -> bool {
        self.keys.contains_key(key)
    }

    /// Takes notice of what changed; how many Services were read for that.
    fn follow(&mut self, services: &[Arc<Object>]) -> usize {
        let mut read = 0;
        for service in services {
            let revision = service.meta.resource_version;
            if self.services.get(&service.meta.uid).is_some_and(|(read, _)| *read == revision) {
                continue;
            }
            let keys = held(&service.value());
            read += 1;
            for key in &keys {
                *self.keys.entry(key.clone()).or_default() += 1;
            }
            let before = self.services.insert(service.meta.uid.clone(), (revision, keys));
            self.give_back(before.map(|(_, keys)| keys).unwrap_or_default());
        }
        if self.services.len() > services.len() {
            let there: HashSet<&str> = services.iter().map(|s| s.meta.uid.as_str()).collect();
            let gone = self.services.extract_if(|uid, _| !there.contains(uid.as_str()));
            let gone: Vec<BTreeSet<Bytes>> = gone.map(|(_, (_, keys))| keys).collect();
            gone.into_iter().for_each(|keys| self.give_back(keys));
        }
        read
    }

    fn give_back(&mut self, keys: BTreeSet<Bytes>) {
        for key in keys {
            if let Some(count) = self.keys.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.keys.remove(&key);
                }
            }
        }
    }
}

/// What one write of a Service takes and gives back.
#[derive(Default)]
pub(super) struct Claims {
    take: Vec<Claim>,
    give_back: Vec<Bytes>,
}

struct Claim {
    key: Bytes,
    /// What a client gets to read if it asked for this one and it is taken.
    explicit: Option<FieldError>,
}

impl Claims {
    /// Adds the claims to the batch that writes the Service.
    pub(super) fn batch(&self, mut batch: Batch, namespace: &str, name: &str) -> Batch {
        for claim in &self.take {
            batch = batch.expect(claim.key.clone(), Expect::Absent).put(
                claim.key.clone(),
                format!("{namespace}/{name}"),
                Retention::Short,
            );
        }
        for key in &self.give_back {
            batch = batch.delete(key.clone());
        }
        batch
    }

    /// Whether a key is one of these.
    pub(super) fn claims(&self, key: &Bytes) -> bool {
        self.take.iter().any(|claim| claim.key == key)
    }

    /// The error if the key was asked for explicitly; otherwise another one may be tried.
    pub(super) fn taken(&self, kind: &Kind, name: &str, key: &Bytes) -> Result<(), ApiError> {
        let explicit = self.take.iter().find(|c| c.key == key).and_then(|c| c.explicit.clone());
        explicit.map_or(Ok(()), |error| Err(ApiError::invalid(kind, name, &[error])))
    }
}

impl Range {
    /// First address and number of addresses, the network's own and the broadcast address left out.
    fn addresses(self) -> (u32, u32) {
        let size = 1u32.checked_shl(32 - u32::from(self.prefix)).unwrap_or(u32::MAX);
        (u32::from(self.network) + 1, size.saturating_sub(2).max(1))
    }

    fn contains(self, ip: Ipv4Addr) -> bool {
        let (first, count) = self.addresses();
        (first..first.saturating_add(count)).contains(&u32::from(ip))
    }

    /// A range that a ServiceCIDR declares and that is in force.
    fn declared(object: &Object) -> Option<Self> {
        let value = object.value();
        let mut conditions = value["status"]["conditions"].as_array().into_iter().flatten();
        if object.is_deleting()
            || !conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
        {
            return None;
        }
        let cidrs = value["spec"]["cidrs"].as_array().into_iter().flatten();
        cidrs.filter_map(Value::as_str).find_map(|cidr| {
            let (network, prefix) = cidr.split_once('/')?;
            let (network, prefix): (Ipv4Addr, u8) = (network.parse().ok()?, prefix.parse().ok()?);
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let network = Ipv4Addr::from(u32::from(network) & mask);
            (1..=30).contains(&prefix).then_some(Self { network, prefix })
        })
    }
}

impl ServiceRanges {
    fn own(&self) -> Range {
        Range { network: self.network, prefix: self.prefix }
    }

    /// The address of the `kubernetes` Service.
    pub(crate) fn first(&self) -> Ipv4Addr {
        self.own().addresses().0.into()
    }
}

impl Registry {
    /// Fills in addresses and ports of a Service that is about to be written; nothing for other kinds.
    pub(super) fn allocate(
        &self,
        tree: &mut Value,
        kind: &Kind,
        old: Option<&Value>,
    ) -> Result<Claims, ApiError> {
        if kind.resource != "services" {
            return Ok(Claims::default());
        }
        let name = tree["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let invalid = |error| ApiError::invalid(kind, &name, &[error]);
        let before: BTreeSet<Bytes> = old.map(held).unwrap_or_default();
        let mut take = Vec::new();
        // Most writes ask for nothing new.
        let in_use = LazyCell::new(|| self.in_use());

        match wanted_address(&tree["spec"]) {
            Wanted::None => {}
            Wanted::Headless => {
                tree["spec"]["clusterIP"] = "None".into();
                tree["spec"]["clusterIPs"] = json!(["None"]);
            }
            Wanted::This(text) => {
                let list = json!([text]);
                let refuse = |why: String| {
                    FieldError::invalid(
                        "spec.clusterIPs",
                        list.clone(),
                        format!("failed to allocate IP {text}: {why}"),
                    )
                };
                let ip: Ipv4Addr = text.parse().map_err(|_| {
                    invalid(FieldError::invalid(
                        "spec.clusterIPs[0]",
                        text.as_str(),
                        "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    ))
                })?;
                let key = address_key(ip);
                if !before.contains(&key) {
                    if !self.address_ranges().any(|range| range.contains(ip)) {
                        return Err(invalid(refuse(format!(
                            "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}/{}",
                            self.ranges.network, self.ranges.prefix
                        ))));
                    }
                    let explicit = Some(refuse("provided IP is already allocated".into()));
                    take.push(Claim { key, explicit });
                }
                tree["spec"]["clusterIPs"] = list;
            }
            Wanted::Any => {
                let mut ranges = self.address_ranges();
                let free = ranges.find_map(|range| free_address(range, |key| in_use.has(key)));
                let ip = free.ok_or_else(|| {
                    ApiError::internal("failed to allocate a serviceIP: range is full")
                })?;
                tree["spec"]["clusterIP"] = ip.to_string().into();
                tree["spec"]["clusterIPs"] = json!([ip.to_string()]);
                take.push(Claim { key: address_key(ip), explicit: None });
            }
        }
        if tree["spec"]["clusterIPs"].is_array() {
            let spec = &mut tree["spec"];
            if spec.get("ipFamilies").is_none() {
                spec["ipFamilies"] = json!(["IPv4"]);
            }
            if spec.get("ipFamilyPolicy").is_none() {
                spec["ipFamilyPolicy"] = "SingleStack".into();
            }
        }
        let in_use = |key: &Bytes| in_use.has(key);
        let ports = self.allocate_ports(tree, old.is_none(), &before, &in_use, &mut take);
        ports.map_err(invalid)?;
        let after = held(tree);
        let give_back = before.into_iter().filter(|key| !after.contains(key)).collect();
        Ok(Claims { take, give_back })
    }

    fn allocate_ports(
        &self,
        tree: &mut Value,
        is_new: bool,
        before: &BTreeSet<Bytes>,
        in_use: &dyn Fn(&Bytes) -> bool,
        take: &mut Vec<Claim>,
    ) -> Result<(), FieldError> {
        let (any, check) = (wants_node_ports(&tree["spec"]), wants_health_check(&tree["spec"]));
        let may = any || tree["spec"]["type"] == "LoadBalancer";
        let mut mine = BTreeSet::new();
        if may && let Some(ports) = tree["spec"]["ports"].as_array_mut() {
            if is_new && any {
                share_node_ports(ports);
            }
            // Of a new Service, protocols of one port have one node port, too.
            let mut known = HashSet::new();
            let mut wanting = Vec::new();
            for (i, port) in ports.iter_mut().enumerate() {
                let is_given = node_port(port) != 0;
                let is_first = known.insert(port["port"].as_u64()) || !is_new;
                if is_given || (any && is_first) {
                    wanting.push((port, "nodePort", format!("spec.ports[{i}].nodePort")));
                }
            }
            self.allocate_each(wanting, before, in_use, take, &mut mine)?;
            if is_new && any {
                share_node_ports(ports);
            }
        }
        if check {
            let field = "healthCheckNodePort";
            let wanting = vec![(&mut tree["spec"], field, format!("spec.{field}"))];
            self.allocate_each(wanting, before, in_use, take, &mut mine)?;
        }
        Ok(())
    }

    /// A port for each of these fields: of what, its name, and as errors name it.
    fn allocate_each(
        &self,
        wanting: Vec<(&mut Value, &str, String)>,
        before: &BTreeSet<Bytes>,
        in_use: &dyn Fn(&Bytes) -> bool,
        take: &mut Vec<Claim>,
        mine: &mut BTreeSet<Bytes>,
    ) -> Result<(), FieldError> {
        for (port, field, path) in wanting {
            let given = port[field].as_u64().unwrap_or_default();
            if given == 0 {
                let taken = |key: &Bytes| in_use(key) || mine.contains(key);
                let free = self.free_port(taken).ok_or_else(|| {
                    FieldError::invalid(path, 0, "failed to allocate a nodePort: range is full")
                })?;
                port[field] = free.into();
                mine.insert(port_key(free));
                take.push(Claim { key: port_key(free), explicit: None });
                continue;
            }
            let range = &self.ranges.node_ports;
            let inside = u16::try_from(given).ok().filter(|p| range.contains(p));
            let Some(number) = inside else {
                return Err(FieldError::invalid(
                    path,
                    given,
                    format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        range.start(),
                        range.end()
                    ),
                ));
            };
            let key = port_key(number);
            if !before.contains(&key) && mine.insert(key.clone()) {
                let explicit =
                    Some(FieldError::invalid(path, given, "provided port is already allocated"));
                take.push(Claim { key, explicit });
            }
        }
        Ok(())
    }

    fn in_use(&self) -> MutexGuard<'_, Taken> {
        let services: Vec<_> = self.cache.read().list(&kinds::SERVICE).cloned().collect();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let read = taken.follow(&services);
        tracing::trace!(read, of = services.len(), "looked what Services hold");
        taken
    }

    /// The cluster's own range, then those that are declared.
    fn address_ranges(&self) -> impl Iterator<Item = Range> {
        let own = self.ranges.own();
        let cluster = self.cache.read();
        let declared: Vec<Range> =
            cluster.list(&kinds::SERVICE_CIDR).filter_map(|cidr| Range::declared(cidr)).collect();
        std::iter::once(own).chain(declared.into_iter().filter(move |range| *range != own))
    }

    fn free_port(&self, taken: impl Fn(&Bytes) -> bool) -> Option<u16> {
        let (first, last) = (*self.ranges.node_ports.start(), *self.ranges.node_ports.end());
        let count = u32::from(last - first) + 1;
        let start = rand::rng().random_range(0..count);
        (0..count)
            .map(|i| first + ((start + i) % count) as u16)
            .find(|port| !taken(&port_key(*port)))
    }

    /// What a Service that goes away gives back.
    pub(super) fn release(object: &Object) -> Claims {
        let give_back = match object.kind.resource {
            "services" => held(&object.value()).into_iter().collect(),
            _ => Vec::new(),
        };
        Claims { take: Vec::new(), give_back }
    }
}

/// An update that leaves addresses and ports out means the ones that are there.
pub(super) fn keep_allocated(kind: &Kind, new: &mut Value, old: &Value) {
    if kind.resource != "services" {
        return;
    }
    let external = |v: &Value| v["spec"]["type"] == "ExternalName";
    if !external(new)
        && !external(old)
        && new["spec"]["clusterIP"].as_str().unwrap_or("").is_empty()
    {
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old["spec"].get(field) {
                new["spec"][field] = value.clone();
            }
        }
    }
    if wants_node_ports(&new["spec"]) && wants_node_ports(&old["spec"]) {
        let empty = Vec::new();
        let known = old["spec"]["ports"].as_array().unwrap_or(&empty);
        for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
            if port["nodePort"].as_u64().unwrap_or_default() != 0 {
                continue;
            }
            let same = |k: &&Value| k["port"] == port["port"] && k["protocol"] == port["protocol"];
            if let Some(number) = known.iter().find(same).and_then(|k| k.get("nodePort")) {
                port["nodePort"] = number.clone();
            }
        }
    } else if !wants_node_ports(&new["spec"]) && new["spec"]["type"] != "LoadBalancer" {
        for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
            let number = port.get("nodePort").cloned();
            // Left over from the type before: upstream clears them when they did not change.
            if number.is_some()
                && old["spec"]["ports"]
                    .as_array()
                    .is_some_and(|ports| ports.iter().any(|k| k.get("nodePort") == number.as_ref()))
                && let Some(port) = port.as_object_mut()
            {
                port.remove("nodePort");
            }
        }
    }
    if external(new)
        && !external(old)
        && new["spec"]["clusterIP"] == old["spec"]["clusterIP"]
        && let Some(spec) = new["spec"].as_object_mut()
    {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
    }
}

fn node_port(port: &Value) -> u64 {
    port["nodePort"].as_u64().unwrap_or_default()
}

/// Gives ports that have no node port the one of the same port in another protocol.
fn share_node_ports(ports: &mut [Value]) {
    let given: HashMap<u64, u64> = ports
        .iter()
        .rev()
        .filter(|port| node_port(port) != 0)
        .filter_map(|port| Some((port["port"].as_u64()?, node_port(port))))
        .collect();
    for port in ports.iter_mut().filter(|port| node_port(port) == 0) {
        if let Some(number) = port["port"].as_u64().and_then(|port| given.get(&port)) {
            port["nodePort"] = (*number).into();
        }
    }
}

enum Wanted {
    None,
    Headless,
    Any,
    This(String),
}

fn wanted_address(spec: &Value) -> Wanted {
    if spec["type"] == "ExternalName" {
        return Wanted::None;
    }
    let first = spec["clusterIPs"][0].as_str().unwrap_or_default();
    match spec["clusterIP"].as_str().filter(|ip| !ip.is_empty()).unwrap_or(first) {
        "" => Wanted::Any,
        "None" => Wanted::Headless,
        ip => Wanted::This(ip.to_owned()),
    }
}

fn wants_node_ports(spec: &Value) -> bool {
    match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn wants_health_check(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// The keys that a Service holds.
fn held(service: &Value) -> BTreeSet<Bytes> {
    let spec = &service["spec"];
    let list = |field: &str| spec[field].as_array().cloned().unwrap_or_default();
    let addresses = list("clusterIPs")
        .iter()
        .filter_map(|ip| ip.as_str()?.parse().ok())
        .map(address_key)
        .collect::<Vec<_>>();
    let health = spec["healthCheckNodePort"].as_u64();
    let ports = list("ports")
        .iter()
        .map(|port| port["nodePort"].as_u64())
        .chain([health])
        .filter_map(|port| u16::try_from(port?).ok())
        .filter(|port| *port != 0)
        .map(port_key)
        .collect::<Vec<_>>();
    addresses.into_iter().chain(ports).collect()
}

fn free_address(range: Range, taken: impl Fn(&Bytes) -> bool) -> Option<Ipv4Addr> {
    let (first, count) = range.addresses();
    let skip = if count > 2 * STATIC_ADDRESSES { STATIC_ADDRESSES } else { 0 };
    let start = rand::rng().random_range(0..count - skip);
    (0..count - skip)
        .map(|i| Ipv4Addr::from(first + skip + (start + i) % (count - skip)))
        .find(|ip| !taken(&address_key(*ip)))
}

fn address_key(ip: Ipv4Addr) -> Bytes {
    format!("/allocations/cluster-ips/{ip}").into()
}

fn port_key(port: u16) -> Bytes {
    format!("/allocations/node-ports/{port}").into()
}

#[cfg(test)]
mod tests;
