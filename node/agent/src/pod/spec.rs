//! What a Pod asks of the node, worked out from its spec: rules for its life, ports, limits. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pod::lifecycle::{ContainerRule, ProbeKind, ProbeRule, RestartPolicy};
use coracle_api::quantity::Quantity;

/// Init containers, then the others.
pub fn containers(pod: &Pod) -> impl Iterator<Item = (bool, &Container)> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let main = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
    init.iter().map(|c| (true, c)).chain(main.iter().map(|c| (false, c)))
}

/// The container of that name.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    containers(pod).map(|(_, c)| c).find(|c| c.name == name)
}

/// The rules that [`crate::pod::lifecycle`] follows for each container.
pub fn rules(pod: &Pod) -> Vec<ContainerRule> {
    let policy = match pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    };
    containers(pod)
        .map(|(init, c)| ContainerRule {
            name: c.name.clone(),
            init,
            restart: match (init, c.restart_policy.as_deref()) {
                (true, Some("Always")) => RestartPolicy::Always,
                // An init container that succeeded never runs again.
                (true, _) if policy == RestartPolicy::Always => RestartPolicy::OnFailure,
                _ => policy,
            },
            probes: [
                (ProbeKind::Startup, &c.startup_probe),
                (ProbeKind::Liveness, &c.liveness_probe),
                (ProbeKind::Readiness, &c.readiness_probe),
            ]
            .into_iter()
            .filter_map(|(kind, probe)| Some(probe_rule(kind, probe.as_ref()?)))
            .collect(),
        })
        .collect()
}

fn probe_rule(kind: ProbeKind, probe: &Probe) -> ProbeRule {
    let seconds = |value: Option<i32>, default: i32| {
        Duration::from_secs(value.unwrap_or(default).max(0) as u64)
    };
    let count = |value: Option<i32>, default: i32| value.unwrap_or(default).max(1) as u32;
    ProbeRule {
        kind,
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
        success_threshold: count(probe.success_threshold, 1),
        failure_threshold: count(probe.failure_threshold, 3),
    }
}

/// The probe of that kind in the container's spec.
pub fn probe(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    }
}

/// A port by number, or by the name of one of the container's ports.
pub fn port(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|p| *p > 0),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(name))
            .and_then(|p| u16::try_from(p.container_port).ok())
            .or_else(|| name.parse().ok()),
    }
}

/// Where a component that answers HTTP is to be served: its TCP `containerPorts`; where none is declared, every port that
/// its probes name and, for the first such container of the Pod, that Services selecting the Pod target.
pub fn http_ports<'a>(
    pod: &Pod,
    name: &str,
    services: impl Iterator<Item = &'a Service>,
) -> Vec<u16> {
    let Some(own) = container(pod, name) else { return Vec::new() };
    let declares = |c: &Container| c.ports.iter().flatten().any(is_tcp);
    let mut ports: Vec<u16> = if declares(own) {
        own.ports
            .iter()
            .flatten()
            .filter(|p| is_tcp(p))
            .filter_map(|p| u16::try_from(p.container_port).ok())
            .collect()
    } else {
        let mut ports: Vec<u16> = [&own.startup_probe, &own.liveness_probe, &own.readiness_probe]
            .into_iter()
            .flatten()
            .filter_map(|p| {
                let target = p.http_get.as_ref().map(|h| &h.port);
                port(own, target.or(p.tcp_socket.as_ref().map(|t| &t.port))?)
            })
            .collect();
        let first = containers(pod).find(|(init, c)| !init && !declares(c)).map(|(_, c)| &c.name);
        if first == Some(&own.name) {
            ports.extend(services.filter(|s| selects(s, pod)).flat_map(target_ports));
        }
        ports
    };
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn is_tcp(port: &k8s_openapi::api::core::v1::ContainerPort) -> bool {
    port.protocol.as_deref().is_none_or(|p| p == "TCP")
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()) else {
        return false;
    };
    let labels = pod.metadata.labels.as_ref();
    service.metadata.namespace == pod.metadata.namespace
        && !selector.is_empty()
        && selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

fn target_ports(service: &Service) -> Vec<u16> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    ports
        .filter(|p| p.protocol.as_deref().is_none_or(|p| p == "TCP"))
        .filter_map(|p| match &p.target_port {
            Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
            Some(IntOrString::String(name)) => name.parse().ok(),
            None => u16::try_from(p.port).ok(),
        })
        .collect()
}

/// `spec.hostname`, else the Pod's name, cut to a host name's 63 characters.
pub fn hostname(pod: &Pod) -> String {
    let name = pod.spec.as_ref().and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty());
    let name = name.or(pod.metadata.name.as_deref()).unwrap_or_default();
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// A container's CPU request and limit in millicores, and its memory limit in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Request, in millicores.
    pub cpu_request: u32,
    /// Limit, in millicores.
    pub cpu_limit: Option<u32>,
    /// Limit, in bytes.
    pub memory_limit: Option<u64>,
}

/// Reads a container's `resources`.
pub fn limits(container: &Container) -> Limits {
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let get = |list: Option<
        &BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
    >,
               name| { list?.get(name).and_then(|q| q.0.parse::<Quantity>().ok()) };
    let millis = |q: Quantity| u32::try_from(q.milli().max(0)).unwrap_or(u32::MAX);
    let cpu_limit = get(limits, "cpu").map(millis);
    Limits {
        cpu_request: get(requests, "cpu").map(millis).or(cpu_limit).unwrap_or(0),
        cpu_limit,
        memory_limit: get(limits, "memory").map(|q| u64::try_from(q.value()).unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests;
