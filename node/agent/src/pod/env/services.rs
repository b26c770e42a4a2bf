//! Variables that tell a container of Services: `{SVC}_SERVICE_HOST` and those of Docker's links.

use k8s_openapi::api::core::v1::Service;

/// The API server's own Service, which every Pod is told of.
const MASTER: (&str, &str) = ("default", "kubernetes");

/// For a Pod of `namespace`; `own` are that namespace's Services, wanted unless `enableServiceLinks` is false.
pub fn service_variables<'a>(
    namespace: &str,
    links: bool,
    own: impl Iterator<Item = &'a Service>,
    master: Option<&'a Service>,
) -> Vec<(String, String)> {
    let name = |s: &Service| s.metadata.name.clone().unwrap_or_default();
    let is_master =
        |s: &Service| s.metadata.namespace.as_deref() == Some(MASTER.0) && name(s) == MASTER.1;
    let mut services: Vec<&Service> = own.filter(|s| links && !is_master(s)).collect();
    // A Service of the Pod's own namespace that is called `kubernetes` hides the API server's.
    if namespace == MASTER.0 || !services.iter().any(|s| name(s) == MASTER.1) {
        services.extend(master);
    }
    let mut variables = Vec::new();
    for service in services {
        add(service, &name(service), &mut variables);
    }
    variables
}

fn add(service: &Service, name: &str, variables: &mut Vec<(String, String)>) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    if ip.is_empty() || ip == "None" {
        return;
    }
    let name = variable(name);
    let mut set = |suffix: &str, value: String| variables.push((format!("{name}_{suffix}"), value));
    set("SERVICE_HOST", ip.to_owned());
    set("SERVICE_PORT", first.port.to_string());
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            set(&format!("SERVICE_PORT_{}", variable(port_name)), port.port.to_string());
        }
    }
    for (i, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if i == 0 {
            set("PORT", url.clone());
        }
        let prefix = format!("PORT_{}_{protocol}", port.port);
        set(&prefix, url);
        set(&format!("{prefix}_PROTO"), protocol.to_lowercase());
        set(&format!("{prefix}_PORT"), port.port.to_string());
        set(&format!("{prefix}_ADDR"), ip.to_owned());
    }
}

fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}
