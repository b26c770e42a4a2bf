//! What a Pod asks of the node, worked out from its spec: rules for its life, ports, limits. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use coracle_network::HostPort;
use coracle_network::routes::Protocol;
use k8s_openapi::api::core::v1::{
    Container, EphemeralContainer, LifecycleHandler, Pod, Probe, Service,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pod::lifecycle::{
    ContainerRule, HookKind, ProbeKind, ProbeRule, RestartPolicy, RestartRule, Role,
};
use coracle_api::quantity::Quantity;

/// Init containers, then the others.
pub fn containers(pod: &Pod) -> impl Iterator<Item = (bool, &Container)> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let main = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
    init.iter().map(|c| (true, c)).chain(main.iter().map(|c| (false, c)))
}

/// Those that were added to the Pod to look at it, each as the container that it is otherwise.
pub fn ephemeral(pod: &Pod) -> impl Iterator<Item = Container> {
    ephemerals(pod).map(|added| Container {
        args: added.args.clone(),
        command: added.command.clone(),
        env: added.env.clone(),
        env_from: added.env_from.clone(),
        image: added.image.clone(),
        image_pull_policy: added.image_pull_policy.clone(),
        name: added.name.clone(),
        security_context: added.security_context.clone(),
        stdin: added.stdin,
        stdin_once: added.stdin_once,
        termination_message_path: added.termination_message_path.clone(),
        termination_message_policy: added.termination_message_policy.clone(),
        tty: added.tty,
        volume_mounts: added.volume_mounts.clone(),
        working_dir: added.working_dir.clone(),
        // Validation lets them have nothing else.
        ..Container::default()
    })
}

fn ephemerals(pod: &Pod) -> impl Iterator<Item = &EphemeralContainer> {
    pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten())
}

/// Whether the container of that name is an ephemeral one.
pub fn is_ephemeral(pod: &Pod, name: &str) -> bool {
    ephemerals(pod).any(|added| added.name == name)
}

/// The container whose processes an ephemeral container is to see.
pub fn target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let added = ephemerals(pod).find(|added| added.name == name)?;
    added.target_container_name.as_deref().filter(|target| !target.is_empty())
}

/// The container of that name.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let own = containers(pod).map(|(_, c)| c).find(|c| c.name == name);
    own.map(Cow::Borrowed)
        .or_else(|| ephemeral(pod).find(|added| added.name == name).map(Cow::Owned))
}

/// The rules that [`crate::pod::lifecycle`] follows for each container.
pub fn rules(pod: &Pod) -> Vec<ContainerRule> {
    let policy = match pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    };
    let added = ephemeral(pod)
        .map(|c| ContainerRule { role: Role::Ephemeral, ..rule(false, &c, RestartPolicy::Never) });
    containers(pod).map(|(init, c)| rule(init, c, policy)).chain(added).collect()
}

fn rule(init: bool, container: &Container, policy: RestartPolicy) -> ContainerRule {
    let (role, restart) = match (init, container.restart_policy.as_deref()) {
        (true, Some("Always")) => (Role::Sidecar, RestartPolicy::Always),
        (false, Some("Always")) => (Role::Main, RestartPolicy::Always),
        (_, Some("OnFailure")) => (Role::of(init), RestartPolicy::OnFailure),
        (_, Some("Never")) => (Role::of(init), RestartPolicy::Never),
        // An init container that succeeded never runs again.
        (true, _) if policy == RestartPolicy::Always => (Role::Init, RestartPolicy::OnFailure),
        _ => (Role::of(init), policy),
    };
    let rules = container.restart_policy_rules.iter().flatten();
    let rules = rules.filter(|r| r.action == "Restart").filter_map(|r| r.exit_codes.as_ref());
    let probes = [
        (ProbeKind::Startup, &container.startup_probe),
        (ProbeKind::Liveness, &container.liveness_probe),
        (ProbeKind::Readiness, &container.readiness_probe),
    ];
    let probes = probes.into_iter().filter_map(|(k, probe)| Some(probe_rule(k, probe.as_ref()?)));
    let lifecycle = container.lifecycle.as_ref();
    ContainerRule {
        name: container.name.as_str().into(),
        role,
        restart,
        restart_rules: rules
            .map(|on| RestartRule {
                among: on.operator == "In",
                codes: on.values.clone().unwrap_or_default().into(),
            })
            .collect(),
        probes: probes.collect(),
        post_start: lifecycle.is_some_and(|l| l.post_start.is_some()),
        pre_stop: lifecycle.is_some_and(|l| l.pre_stop.is_some()),
    }
}

fn probe_rule(kind: ProbeKind, probe: &Probe) -> ProbeRule {
    let seconds = |value: Option<i32>, default: u32| {
        value.map_or(default, |seconds| seconds.max(0).unsigned_abs())
    };
    ProbeRule {
        kind,
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10).max(1),
        success_threshold: seconds(probe.success_threshold, 1).max(1),
        failure_threshold: seconds(probe.failure_threshold, 3).max(1),
        grace_seconds: probe.termination_grace_period_seconds.map(small),
    }
}

/// `terminationGracePeriodSeconds` of the Pod.
pub fn grace(pod: &Pod) -> u32 {
    let spec = pod.spec.as_ref();
    small(spec.and_then(|s| s.termination_grace_period_seconds).unwrap_or(30))
}

/// `activeDeadlineSeconds`.
pub fn active_deadline(pod: &Pod) -> Option<u32> {
    pod.spec.as_ref().and_then(|s| s.active_deadline_seconds).map(small)
}

fn small(seconds: i64) -> u32 {
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

/// The containers whose image is another one in the later of two versions of a Pod.
pub fn other_images(before: &Pod, after: &Pod) -> Vec<String> {
    let changed = containers(after)
        .map(|(_, c)| c)
        .filter(|c| container(before, &c.name).is_some_and(|before| before.image != c.image));
    changed.map(|c| c.name.clone()).collect()
}

/// The Pod as the kubelet names it in messages: `NAME_NAMESPACE(UID)`.
pub fn full_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}_{}({})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default()
    )
}

/// Why the container cannot be started here whatever the cluster holds: a component has no programs to execute.
pub fn unfit_for_wasm(container: &Container) -> Option<String> {
    let probes = [
        ("startupProbe", &container.startup_probe),
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
    ];
    let probe = probes.into_iter().find(|(_, p)| p.as_ref().is_some_and(|p| p.exec.is_some()));
    if let Some((field, _)) = probe {
        return Some(format!(
            "{field}.exec: a Wasm component holds no programs to execute; use httpGet, tcpSocket or grpc"
        ));
    }
    let lifecycle = container.lifecycle.as_ref()?;
    let hooks = [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)];
    let (field, _) =
        hooks.into_iter().find(|(_, h)| h.as_ref().is_some_and(|h| h.exec.is_some()))?;
    Some(format!(
        "lifecycle.{field}.exec: a Wasm component holds no programs to execute; use httpGet or sleep"
    ))
}

/// The hook of that kind in the container's spec.
pub fn hook(container: &Container, kind: HookKind) -> Option<&LifecycleHandler> {
    let lifecycle = container.lifecycle.as_ref()?;
    match kind {
        HookKind::PostStart => lifecycle.post_start.as_ref(),
        HookKind::PreStop => lifecycle.pre_stop.as_ref(),
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

/// Whether any of its containers is asked now and then how it is, for as long as it runs.
pub fn is_probed(pod: &Pod) -> bool {
    containers(pod).any(|(_, c)| c.liveness_probe.is_some() || c.readiness_probe.is_some())
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
    let own = own.as_ref();
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

/// Ports of the machine that lead to the Pod; none where it uses the machine's network itself.
pub fn host_ports(pod: &Pod, ip: Ipv4Addr) -> Vec<HostPort> {
    if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
        return Vec::new();
    }
    let ports = containers(pod).flat_map(|(_, c)| c.ports.iter().flatten());
    let led = ports.filter_map(|port| {
        let number = |port: i32| u16::try_from(port).ok().filter(|port| *port > 0);
        Some(HostPort {
            address: port.host_ip.as_ref().and_then(|ip| ip.parse().ok()),
            port: number(port.host_port?)?,
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
            target: SocketAddrV4::new(ip, number(port.container_port)?),
        })
    });
    led.collect()
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
