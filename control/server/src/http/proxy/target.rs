//! Who is meant by `[SCHEME:]NAME[:PORT]` in the path of a proxied request.

use coracle_api::json::Json as _;
use coracle_api::{ApiError, Kind, kinds};
use http::Uri;

use crate::http::App;
use crate::http::logs;
use crate::http::request::RequestInfo;
use crate::reach::Port;

/// Where a request is passed on to.
pub(super) enum Target {
    /// A port of a Pod, or an endpoint of a Service.
    Endpoint {
        /// The name of the Pod or Service.
        name: String,
        options: &'static str,
        scheme: &'static str,
        /// As [`crate::reach::Reach`] knows it.
        host: String,
        /// As the cluster knows it.
        address: String,
    },
    /// A node's agent.
    Kubelet { node: String, address: String },
}

/// Scheme, name and port.
struct Named<'a> {
    scheme: &'static str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Named<'a> {
    /// `NAME`, `NAME:PORT`, or `SCHEME:NAME:PORT`, where the port may be empty.
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => "http",
            "https" => "https",
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { scheme, name, port })
    }
}

impl Target {
    /// Finds it.
    ///
    /// # Errors
    /// In upstream's words, if it is not there or cannot be called.
    pub(super) fn of(app: &App, kind: &'static Kind, info: &RequestInfo) -> Result<Self, ApiError> {
        let what = match kind.resource {
            "pods" => "pod",
            "services" => "service",
            _ => "node",
        };
        let invalid = || ApiError::bad_request(format!("invalid {what} request \"{}\"", info.name));
        let named = Named::parse(&info.name).ok_or_else(invalid)?;
        match what {
            "pod" => pod(app, &info.namespace, &named),
            "service" => service(app, &info.namespace, &named),
            _ => {
                let (ip, port) = logs::kubelet_address(&app.registry.cache, named.name)?;
                let address = format!("{}:{port}", logs::in_authority(ip));
                match named.port {
                    "" => Ok(Self::Kubelet { node: named.name.to_owned(), address }),
                    other if other == port.to_string() => {
                        Ok(Self::Kubelet { node: named.name.to_owned(), address })
                    }
                    other => {
                        let port: u16 = other.parse().map_err(|_| invalid())?;
                        let address = format!("{}:{port}", logs::in_authority(ip));
                        Ok(Self::Endpoint {
                            name: named.name.to_owned(),
                            options: "NodeProxyOptions",
                            scheme: named.scheme,
                            host: address.clone(),
                            address,
                        })
                    }
                }
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Endpoint { name, .. } => name,
            Self::Kubelet { node, .. } => node,
        }
    }

    /// What admission is shown of the request.
    pub(super) fn options(&self) -> &'static str {
        match self {
            Self::Endpoint { options, .. } => options,
            Self::Kubelet { .. } => "NodeProxyOptions",
        }
    }

    /// What it calls itself, where it names places of its own.
    pub(super) fn address(&self) -> Option<String> {
        match self {
            Self::Endpoint { address, .. } | Self::Kubelet { address, .. } => Some(address.clone()),
        }
    }

    pub(super) fn uri(&self, path_and_query: &str) -> Result<Uri, http::uri::InvalidUri> {
        match self {
            Self::Endpoint { scheme, host, .. } => {
                format!("{scheme}://{host}{path_and_query}").parse()
            }
            Self::Kubelet { node, address } => {
                let port = address.rsplit(':').next().unwrap_or_default();
                format!("https://{node}:{port}{path_and_query}").parse()
            }
        }
    }
}

fn pod(app: &App, namespace: &str, named: &Named<'_>) -> Result<Target, ApiError> {
    let pod = app.registry.cache.get(&kinds::POD, namespace, named.name);
    let pod = pod.ok_or_else(|| ApiError::not_found(&kinds::POD, named.name))?.value();
    let containers = pod.list(&["spec", "containers"]);
    let mut ports = containers.iter().flat_map(|container| container.list(&["ports"]));
    let port = match named.port {
        "" => Some(match ports.next().and_then(|port| port.int(&["containerPort"])) {
            Some(port) => u16::try_from(port).ok(),
            None if named.scheme == "https" => Some(443),
            None => Some(80),
        }),
        text => Some(text.parse::<u16>().ok().filter(|port| *port > 0).or_else(|| {
            let port = ports.find(|port| port.text(&["name"]) == text)?;
            port.int(&["containerPort"]).and_then(|port| u16::try_from(port).ok())
        })),
    };
    let port = port.flatten().ok_or_else(|| {
        ApiError::bad_request(format!("invalid pod request \"{}:{}\"", named.name, named.port))
    })?;
    let ip = pod.text(&["status", "podIP"]);
    if ip.is_empty() {
        return Err(ApiError::bad_request("address not allowed"));
    }
    Ok(Target::Endpoint {
        name: named.name.to_owned(),
        options: "PodProxyOptions",
        scheme: named.scheme,
        host: format!("{}.{namespace}.pod:{port}", named.name),
        address: format!("{ip}:{port}"),
    })
}

fn service(app: &App, namespace: &str, named: &Named<'_>) -> Result<Target, ApiError> {
    if app.registry.cache.get(&kinds::SERVICE, namespace, named.name).is_none() {
        return Err(ApiError::not_found(&kinds::SERVICE, named.name));
    }
    let port = match named.port.parse() {
        Ok(number) => Port::Number(number),
        Err(_) => Port::Name(named.port),
    };
    let endpoint = app.registry.reach.service_pod(namespace, named.name, port);
    let endpoint = endpoint.map_err(|why| ApiError::new(503, "ServiceUnavailable", why))?;
    let pod = endpoint.pod.as_ref().map_or("", |(_, pod)| pod);
    Ok(Target::Endpoint {
        name: named.name.to_owned(),
        options: "ServiceProxyOptions",
        scheme: named.scheme,
        host: format!("{pod}.{namespace}.pod:{}", endpoint.address.port()),
        address: endpoint.address.to_string(),
    })
}
