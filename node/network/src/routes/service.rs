//! What a Service says of where it leads, apart from its endpoints.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::endpoints::{Member, SliceEndpoints, answering};
use super::{Endpoint, HealthCheck, Place, PortRoute, Protocol, ServiceKey, ServiceRoute};

/// Labels of Services that are led by somebody else than the usual proxy, or by nobody; they keep their address and names.
const LED_BY_OTHERS: [&str; 2] =
    ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

/// A Service's route without backends.
#[derive(Clone, Debug)]
pub(super) struct Skeleton {
    route: ServiceRoute,
    /// `internalTrafficPolicy: Local`.
    internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    external_local: bool,
}

impl Skeleton {
    pub(super) fn of(key: &ServiceKey, service: &Service) -> Self {
        let mut route = ServiceRoute { key: key.clone(), ..ServiceRoute::default() };
        let (mut internal_local, mut external_local) = (false, false);
        match &service.spec {
            Some(spec) if spec.type_.as_deref() == Some("ExternalName") => {
                route.external_name = spec.external_name.clone();
            }
            Some(spec) => {
                let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
                internal_local = is_local(&spec.internal_traffic_policy);
                external_local = is_local(&spec.external_traffic_policy);
                fill(&mut route, spec, service);
            }
            None => {}
        }
        Self { route, internal_local, external_local }
    }

    /// The whole route, as it is for a node at `place`.
    pub(super) fn with<'a>(
        &self,
        slices: impl Iterator<Item = &'a SliceEndpoints> + Clone,
        place: &Place,
    ) -> ServiceRoute {
        let mut route = self.route.clone();
        // What is left of the time before a Service's type became `ExternalName` leads nowhere.
        if route.external_name.is_some() {
            return route;
        }
        let ready = || slices.clone().flat_map(|slice| &slice.ready);
        if route.cluster_ip.is_none() {
            let ready: BTreeSet<&Endpoint> = ready().map(|member| &member.endpoint).collect();
            route.endpoints = ready.into_iter().cloned().collect();
        }
        let is_external = !route.external_ips.is_empty() || !route.balancer_ips.is_empty();
        for port in &mut route.ports {
            let answering = answering(slices.clone(), &port.name, port.protocol, place);
            let is_external = is_external || port.node_port.is_some();
            if is_external && self.external_local && answering.local != answering.cluster {
                port.outside = Some(answering.local.clone());
            }
            if !self.internal_local {
                port.backends = answering.cluster;
            } else {
                port.external = is_external.then_some(answering.cluster);
                port.backends = answering.local;
            }
        }
        if let Some(check) = &mut route.health_check {
            let here = ready().filter(|member| member.is_on(place)).map(|m| m.endpoint.ip);
            check.local_endpoints = here.collect::<BTreeSet<_>>().len();
        }
        if self.external_local && !route.balancer_ips.is_empty() {
            let nodes = ready().filter_map(|member: &Member| member.node.clone());
            route.nodes = Some(nodes.collect::<BTreeSet<Arc<str>>>());
        }
        route
    }
}

fn fill(route: &mut ServiceRoute, spec: &ServiceSpec, service: &Service) {
    let port_number = |n: i32| u16::try_from(n).ok().filter(|n| *n != 0);
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(PortRoute {
            name: port.name.clone().unwrap_or_default(),
            port: port_number(port.port)?,
            node_port: port.node_port.and_then(port_number),
            protocol: Protocol::parse(port.protocol.as_deref())?,
            ..PortRoute::default()
        })
    });
    let labels = service.metadata.labels.as_ref();
    let is_led = !LED_BY_OTHERS.iter().any(|label| labels.is_some_and(|l| l.contains_key(*label)));
    // One without an address is not led in any case, and its ports have names.
    let has_address = spec.cluster_ip.as_deref() != Some("None");
    route.ports = if is_led || !has_address { ports.collect() } else { Vec::new() };
    // "None" marks a headless Service; it does not parse as an address.
    route.cluster_ip = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok());
    let externals = spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok());
    route.external_ips = externals.collect::<BTreeSet<IpAddr>>().into_iter().collect();
    if spec.type_.as_deref() == Some("LoadBalancer") {
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
        // Behind a proxy's address calls are for the proxy (KEP-1860).
        let ingress = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
        let addresses = ingress.filter_map(|ingress| ingress.ip.as_ref()?.parse().ok());
        route.balancer_ips = addresses.collect::<BTreeSet<IpAddr>>().into_iter().collect();
        let ranges = spec.load_balancer_source_ranges.iter().flatten();
        let ranges: BTreeSet<_> = ranges.filter_map(|range| range.trim().parse().ok()).collect();
        route.source_ranges = ranges.into_iter().collect();
        let port = spec.health_check_node_port.and_then(port_number);
        let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
        route.health_check =
            port.filter(|_| is_local).map(|port| HealthCheck { port, local_endpoints: 0 });
    }
    route.affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref();
        let config = config.and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|client| client.timeout_seconds).unwrap_or(10_800);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(10_800))
    });
}
