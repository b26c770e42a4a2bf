//! Load balancers' addresses: which machine answers for each on the wire, and what other load balancers are told.
//!
//! Every agent sees the same Nodes and decides alike, so nobody has to be asked: of the machines that may, the one whose name and
//! the address make the highest number. A machine that is lost gives up its own addresses only. One that is cut off from the server alone
//! goes on answering, beside the one that has taken over: either leads to the same endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use coracle_network::{HealthCheck, RouteChange, ServiceKey, ServiceRoute};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The label that says which zone a Node is in.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
/// Nodes with this label get no calls from load balancers.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What Services need to know of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// It may answer for load balancers' addresses.
    pub(crate) announces: bool,
    /// Its zone.
    pub(crate) zone: Option<String>,
}

impl Standing {
    /// As the Node says.
    pub(crate) fn of(node: &Node) -> Self {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut ready = conditions.filter(|c| c.type_ == "Ready" && c.status == "True");
        let label = |name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        Self {
            announces: ready.next().is_some() && label(EXCLUDED).is_none(),
            zone: label(ZONE).cloned(),
        }
    }
}

/// The addresses that fall to `own`, one of `nodes`.
pub(crate) fn announced<'a>(
    routes: impl Iterator<Item = &'a Arc<ServiceRoute>>,
    own: &str,
    nodes: &BTreeSet<String>,
) -> BTreeSet<Ipv4Addr> {
    let mut addresses = BTreeSet::new();
    for route in routes {
        for address in &route.balancer_ips {
            // Calls are answered only where there are endpoints (`externalTrafficPolicy: Local`).
            let serves = |node: &&String| {
                route.nodes.as_ref().is_none_or(|serving| serving.contains(node.as_str()))
            };
            let chosen = nodes.iter().filter(serves).max_by_key(|node| rank(node, *address));
            if let (Some(chosen), IpAddr::V4(address)) = (chosen, *address)
                && chosen == own
            {
                addresses.insert(address);
            }
        }
    }
    addresses
}

/// FNV-1a, and then mixed: names that differ in their last letter must not rank alike for all addresses.
fn rank(node: &str, address: IpAddr) -> u64 {
    let text = format!("{address} {node}");
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

/// What is answered on `healthCheckNodePort`s, as kube-proxy does.
#[derive(Default)]
pub(crate) struct HealthChecks(BTreeMap<ServiceKey, Check>);

struct Check {
    port: u16,
    endpoints: watch::Sender<usize>,
    serving: JoinHandle<()>,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl HealthChecks {
    /// Takes a change in.
    pub(crate) fn follow(&mut self, change: &RouteChange) {
        match change {
            RouteChange::Gone(key) => self.set(key, None),
            RouteChange::Set(route) => self.set(&route.key, route.health_check),
        }
    }

    /// Takes in what there is.
    pub(crate) fn replace<'a>(&mut self, routes: impl Iterator<Item = &'a Arc<ServiceRoute>>) {
        let mut gone: BTreeSet<ServiceKey> = self.0.keys().cloned().collect();
        for route in routes {
            gone.remove(&route.key);
            self.set(&route.key, route.health_check);
        }
        for key in gone {
            self.0.remove(&key);
        }
    }

    fn set(&mut self, key: &ServiceKey, wanted: Option<HealthCheck>) {
        let Some(wanted) = wanted else {
            self.0.remove(key);
            return;
        };
        if let Some(check) = self.0.get(key).filter(|check| check.port == wanted.port) {
            check.endpoints.send_replace(wanted.local_endpoints);
            return;
        }
        // The port may be the same under another name: first it is given up.
        self.0.remove(key);
        let (endpoints, seen) = watch::channel(wanted.local_endpoints);
        let serving = tokio::spawn(serve(key.clone(), wanted.port, seen));
        self.0.insert(key.clone(), Check { port: wanted.port, endpoints, serving });
    }
}

async fn serve(key: ServiceKey, port: u16, endpoints: watch::Receiver<usize>) {
    let listener = match TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(service = %key, port, %error, "the Service's health cannot be asked for on this node");
            return;
        }
    };
    let answer = get(async move || answer(&key, *endpoints.borrow()));
    // Whatever the path, as kube-proxy has it.
    let router = Router::new().fallback_service(answer);
    let _ = axum::serve(listener, router).await;
}

fn answer(key: &ServiceKey, endpoints: usize) -> Response {
    let status = if endpoints == 0 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = json!({
        "service": {"namespace": key.namespace, "name": key.name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": true,
    });
    let weight = HeaderName::from_static("x-load-balancing-endpoint-weight");
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (weight, endpoints.to_string()),
    ];
    (status, headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(address: [u8; 4], serving: Option<&[&str]>) -> Arc<ServiceRoute> {
        Arc::new(ServiceRoute {
            balancer_ips: vec![address.into()],
            nodes: serving.map(|nodes| nodes.iter().map(|node| Arc::from(*node)).collect()),
            ..ServiceRoute::default()
        })
    }

    #[test]
    fn each_address_is_one_machines() {
        let names = |names: &[&str]| -> BTreeSet<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        let all = ["node-1", "node-2", "node-3"];
        let routes: Vec<_> = (0..60).map(|n| route([192, 0, 2, n], None)).collect();
        let share = |own: &str, nodes: &[&str]| announced(routes.iter(), own, &names(nodes));
        let shares = all.map(|own| share(own, &all));
        assert_eq!(shares.iter().map(BTreeSet::len).sum::<usize>(), 60);
        for share in &shares {
            assert!((10..30).contains(&share.len()), "{shares:?}");
        }
        // Of a lost machine's addresses each goes to another; nothing else moves.
        let left = ["node-1", "node-3"];
        for (own, before) in [("node-1", &shares[0]), ("node-3", &shares[2])] {
            assert!(share(own, &left).is_superset(before));
        }
        assert_eq!(share("node-1", &left).len() + share("node-3", &left).len(), 60);
        assert_eq!(share("node-1", &[]).len(), 0);
    }

    #[test]
    fn only_machines_with_endpoints_are_asked() {
        let nodes = ["one".to_owned(), "two".to_owned()].into();
        for (serving, expected) in [
            (Some(&["two"][..]), [0, 1]),
            (Some(&["one"]), [1, 0]),
            (Some(&["three"]), [0, 0]),
            (Some(&[]), [0, 0]),
        ] {
            let routes = [route([192, 0, 2, 1], serving)];
            let found = ["one", "two"].map(|own| announced(routes.iter(), own, &nodes).len());
            assert_eq!(found, expected, "{serving:?}");
        }
    }
}
