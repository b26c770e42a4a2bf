//! Where a Service, or a Pod, is answered.

use std::net::SocketAddr;

use coracle_api::json::Json as _;
use coracle_api::{Cluster, kinds};
use serde_json::Value;

/// The label that says whose a slice is.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// One place where a port is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Its address, as the cluster knows it.
    pub(crate) address: SocketAddr,
    /// Namespace and name of the Pod that it is.
    pub(crate) pod: Option<(String, String)>,
}

/// Which of a Service's ports is meant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Port<'a> {
    Number(u16),
    /// By its name, which is empty of one that has none.
    Name(&'a str),
}

impl Port<'_> {
    fn is(self, port: &Value) -> bool {
        match self {
            Port::Number(number) => port.int(&["port"]) == Some(number.into()),
            Port::Name(name) => port.text(&["name"]) == name,
        }
    }
}

/// The ready endpoints of a Service's port.
///
/// # Errors
/// In upstream's words, if there is no such Service, port or endpoint.
pub(crate) fn of_service(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    port: Port<'_>,
) -> Result<Vec<Endpoint>, String> {
    let service = cluster.get(&kinds::SERVICE, namespace, name);
    let service = service.ok_or_else(|| format!("service \"{name}\" not found"))?.value();
    let ports = service.list(&["spec", "ports"]);
    let wanted = ports.iter().find(|known| port.is(known)).ok_or_else(|| match port {
        Port::Number(port) => format!("no service port {port} found for service \"{name}\""),
        Port::Name(_) => format!("no endpoints available for service \"{name}\""),
    })?;
    let mut found = Vec::new();
    for slice in cluster.list_in(&kinds::ENDPOINT_SLICE, namespace) {
        if slice.meta.labels.get(SERVICE_NAME).is_none_or(|of| of != name) {
            continue;
        }
        let slice = slice.value();
        let of_port = |p: &&Value| p.text(&["name"]) == wanted.text(&["name"]);
        let Some(port) = slice.list(&["ports"]).iter().find(of_port) else { continue };
        let Some(port) = port.int(&["port"]).and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in slice.list(&["endpoints"]) {
            // Absent means ready.
            if endpoint.at(&["conditions", "ready"]) == Some(&Value::Bool(false)) {
                continue;
            }
            let pod = endpoint.at(&["targetRef"]).filter(|target| target.text(&["kind"]) == "Pod");
            let pod = pod.map(|pod| (namespace.to_owned(), pod.text(&["name"]).to_owned()));
            let addresses = endpoint.list(&["addresses"]).iter().filter_map(Value::as_str);
            found.extend(addresses.filter_map(|address| {
                let address = SocketAddr::new(address.parse().ok()?, port);
                Some(Endpoint { address, pod: pod.clone() })
            }));
        }
    }
    if found.is_empty() {
        return Err(format!("no endpoints available for service \"{name}\""));
    }
    Ok(found)
}

/// Whether the Pod that an endpoint is said to be has that address.
pub(super) fn is_pods(cluster: &Cluster, endpoint: &Endpoint) -> bool {
    let Some((namespace, name)) = &endpoint.pod else { return false };
    let Some(pod) = cluster.get(&kinds::POD, namespace, name) else { return false };
    let status = &pod.value()["status"];
    let addresses = status.list(&["podIPs"]).iter().map(|one| one.text(&["ip"]));
    let mut addresses = addresses.chain([status.text(&["podIP"])]);
    addresses.any(|one| one.parse() == Ok(endpoint.address.ip()))
}

/// A port of a Pod.
///
/// # Errors
/// If it is not there, or has no address yet.
pub(super) fn of_pod(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<Endpoint, String> {
    let pod = cluster.get(&kinds::POD, namespace, name);
    let pod = pod.ok_or_else(|| format!("pods \"{name}\" not found"))?.value();
    let address = pod.text(&["status", "podIP"]).parse();
    let address = address.map_err(|_| "address not allowed".to_owned())?;
    let pod = Some((namespace.to_owned(), name.to_owned()));
    Ok(Endpoint { address: SocketAddr::new(address, port), pod })
}
