//! Who answers for an Ingress's backend: a Service's endpoints or, where it stands for another name, whoever has that.

use std::net::SocketAddr;
use std::sync::Arc;

use coracle_ingress::config::Backend;
use coracle_ingress::table::{BackendRef, Port};
use coracle_network::Protocol;
use k8s_openapi::api::core::v1::ServicePort;

use super::{Inner, State};

/// Services that stand for Services that stand for others.
const ALIASES: usize = 4;

impl Inner {
    /// Who answers for a Service that stands for another name: another Service's endpoints, or addresses outside of the cluster.
    pub(super) fn backend(
        self: &Arc<Self>,
        state: &State,
        wanted: &BackendRef,
    ) -> Result<Backend, String> {
        let mut wanted = wanted.clone();
        for _ in 0..=ALIASES {
            let Some(name) = state.external_name(&wanted) else { return state.backend(&wanted) };
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            if let Some((service, namespace)) =
                name.strip_suffix(".svc.cluster.local").and_then(|name| name.split_once('.'))
            {
                wanted.service = service.to_owned();
                wanted.namespace = namespace.to_owned();
                continue;
            }
            let who = format!("Service \"{}/{}\"", wanted.namespace, wanted.service);
            let (number, said) = state.external_port(&wanted, &who)?;
            let (inner, other) = (Arc::clone(self), Arc::clone(self));
            let found = self.externals.addresses(
                &name,
                move |name| inner.state.read().unwrap_or_else(|e| e.into_inner()).stands_for(name),
                move || {
                    other.news.send_replace(());
                },
            );
            let addresses =
                found.map_err(|why| format!("{who} stands for \"{name}\", and {why}"))?;
            return Ok(Backend {
                protocol: protocol(wanted.protocol, &said),
                endpoints: addresses.into_iter().map(|ip| SocketAddr::new(ip, number)).collect(),
                problem: None,
            });
        }
        let BackendRef { namespace, service, .. } = &wanted;
        Err(format!(
            "Service \"{namespace}/{service}\" stands for a Service that stands for others, and so on"
        ))
    }
}

/// How to speak to a backend: as the Ingress insists, or as the Service says.
fn protocol(
    insists: Option<coracle_ingress::config::Protocol>,
    said: &str,
) -> coracle_ingress::config::Protocol {
    use coracle_ingress::config::Protocol;
    match (insists, said) {
        (Some(protocol), _) => protocol,
        (None, "kubernetes.io/h2c" | "h2c" | "grpc") => Protocol::H2c,
        (None, "https" | "kubernetes.io/wss") => Protocol::Https,
        (None, _) => Protocol::Http1,
    }
}

impl State {
    /// The name that a Service stands for.
    fn external_name(&self, wanted: &BackendRef) -> Option<&str> {
        let service = self.by_namespace.get(&wanted.namespace)?.get(&wanted.service)?;
        let spec = service.spec.as_ref()?;
        let is_external = spec.type_.as_deref() == Some("ExternalName");
        spec.external_name.as_deref().filter(|_| is_external)
    }

    /// Some Service stands for that name.
    fn stands_for(&self, name: &str) -> bool {
        let mut specs =
            self.by_namespace.values().flat_map(|all| all.values()).filter_map(|s| s.spec.as_ref());
        specs.any(|spec| {
            spec.type_.as_deref() == Some("ExternalName")
                && spec
                    .external_name
                    .as_deref()
                    .is_some_and(|its| its.trim_end_matches('.').eq_ignore_ascii_case(name))
        })
    }

    /// The port of such a Service, and what it says of its protocol. Most list no ports: then a number is what it is.
    fn external_port(&self, wanted: &BackendRef, who: &str) -> Result<(u16, String), String> {
        let service =
            self.by_namespace.get(&wanted.namespace).and_then(|all| all.get(&wanted.service));
        let spec = service.and_then(|service| service.spec.as_ref());
        let mut ports = spec.into_iter().flat_map(|spec| spec.ports.iter().flatten());
        let listed = ports.find(|p| match &wanted.port {
            Port::Number(number) => p.port == i32::from(*number),
            Port::Name(name) => p.name.as_ref() == Some(name),
        });
        let number = match (listed, &wanted.port) {
            (Some(listed), _) => u16::try_from(listed.port).ok(),
            (None, Port::Number(number)) => Some(*number),
            (None, Port::Name(_)) => None,
        };
        let said = listed.and_then(|port| port.app_protocol.clone()).unwrap_or_default();
        let number =
            number.ok_or_else(|| format!("{who} has no such port as {}", wanted.name()))?;
        Ok((number, said))
    }

    fn backend(&self, wanted: &BackendRef) -> Result<Backend, String> {
        let BackendRef { namespace, service: name, port, protocol: insists } = wanted;
        let service = self.by_namespace.get(namespace).and_then(|all| all.get(name));
        let service =
            service.ok_or_else(|| format!("Service \"{namespace}/{name}\" does not exist"))?;
        let spec = service.spec.as_ref();
        let is_it = |p: &&ServicePort| match port {
            Port::Number(number) => p.port == i32::from(*number),
            Port::Name(name) => p.name.as_ref() == Some(name),
        };
        let tcp = |p: &&ServicePort| p.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let ports = spec.into_iter().flat_map(|spec| spec.ports.iter().flatten());
        let found = ports.filter(tcp).find(is_it).ok_or_else(|| {
            format!("Service \"{namespace}/{name}\" has no such port as {}", wanted.name())
        })?;
        let said = found.app_protocol.as_deref().unwrap_or_default();
        let protocol = protocol(*insists, said);
        let route = self.table.get(namespace, name);
        let mut ports = route.into_iter().flat_map(|route| &route.ports);
        let port = ports.find(|p| p.protocol == Protocol::Tcp && i32::from(p.port) == found.port);
        // The proxy of an Ingress is no client on this node: who may answer those alone does not bound it.
        let endpoints = port.map(|p| p.external.as_ref().unwrap_or(&p.backends).clone());
        let endpoints = endpoints.unwrap_or_default();
        let problem = endpoints
            .is_empty()
            .then(|| format!("Service \"{namespace}/{name}\" has no ready endpoints"));
        Ok(Backend { protocol, endpoints, problem })
    }
}
