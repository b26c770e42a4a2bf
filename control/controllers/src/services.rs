//! Which Pods serve a Service and on which ports: what EndpointSlices and Endpoints both list.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::plan::Key;
use coracle_api::{Cluster, Object, kinds};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::pods::{self, PodView};

/// What controllers read of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct View {
    pub(crate) spec: Spec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    selector: BTreeMap<String, String>,
    ports: Vec<ServicePort>,
    publish_not_ready_addresses: bool,
    traffic_distribution: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServicePort {
    name: Option<String>,
    port: i32,
    target_port: Option<Value>,
    protocol: Option<String>,
    app_protocol: Option<String>,
}

/// Whose endpoints are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distribution {
    SameZone,
    SameNode,
}

/// A port of a slice or subset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Port {
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) port: i32,
    #[serde(default = "tcp")]
    pub(crate) protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) app_protocol: Option<String>,
}

/// A reference to the Pod behind an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TargetRef {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// A Pod with an address that a Service selects.
pub(crate) struct Member<'a> {
    pub(crate) pod: &'a Arc<Object>,
    pub(crate) view: Cow<'a, PodView>,
    pub(crate) ip: String,
    pub(crate) ports: Vec<Port>,
    /// Traffic may be sent to it.
    pub(crate) ready: bool,
    /// Only if the Service's own subdomain gives it that name.
    pub(crate) hostname: Option<String>,
}

fn tcp() -> String {
    "TCP".to_owned()
}

impl Member<'_> {
    pub(crate) fn target_ref(&self) -> TargetRef {
        TargetRef {
            kind: "Pod".to_owned(),
            namespace: self.pod.meta.namespace.clone(),
            name: self.pod.meta.name.clone(),
            uid: self.pod.meta.uid.clone(),
        }
    }
}

impl Spec {
    /// Its endpoints are for controllers to list.
    pub(crate) fn is_selective(&self) -> bool {
        self.has_selector() && !self.is_external_name()
    }

    pub(crate) fn has_selector(&self) -> bool {
        !self.selector.is_empty()
    }

    pub(crate) fn is_external_name(&self) -> bool {
        self.r#type.as_deref() == Some("ExternalName")
    }

    /// Whom its endpoints are meant for (`spec.trafficDistribution`); everybody if it does not say.
    pub(crate) fn distribution(&self) -> Option<Distribution> {
        match self.traffic_distribution.as_deref()? {
            // The older name of the same.
            "PreferSameZone" | "PreferClose" => Some(Distribution::SameZone),
            "PreferSameNode" => Some(Distribution::SameNode),
            _ => None,
        }
    }

    pub(crate) fn is_headless(&self) -> bool {
        self.cluster_ip.as_deref() == Some("None")
    }

    pub(crate) fn publishes_not_ready(&self) -> bool {
        self.publish_not_ready_addresses
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    fn ports_of(&self, pod: &PodView) -> Vec<Port> {
        self.ports
            .iter()
            .filter_map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(tcp);
                Some(Port {
                    name: port.name.clone().unwrap_or_default(),
                    port: port.number_in(pod, &protocol)?,
                    protocol,
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect()
    }
}

impl ServicePort {
    /// The port of the Pod that this leads to; `None` if the Pod has none of that name.
    fn number_in(&self, pod: &PodView, protocol: &str) -> Option<i32> {
        let name = match &self.target_port {
            None | Some(Value::Null) => return Some(self.port),
            Some(Value::String(name)) => name,
            Some(number) => {
                let number = number.as_i64().and_then(|n| i32::try_from(n).ok());
                return Some(number.filter(|n| *n != 0).unwrap_or(self.port));
            }
        };
        let sidecars = pod
            .spec
            .init_containers
            .iter()
            .filter(|c| c.restart_policy.as_deref() == Some("Always"));
        pod.spec
            .containers
            .iter()
            .chain(sidecars)
            .flat_map(|container| &container.ports)
            .find(|port| {
                port.name.as_deref() == Some(name.as_str())
                    && port.protocol.as_deref().unwrap_or("TCP") == protocol
            })
            .map(|port| port.container_port)
    }
}

/// The Service of a key, with what is read of it.
pub(crate) fn get<'a>(cluster: &'a Cluster, key: &Key) -> Option<(&'a Arc<Object>, Cow<'a, View>)> {
    let service = cluster.get(&kinds::SERVICE, &key.namespace, &key.name)?;
    Some((service, service.decode::<View>().ok()?))
}

/// The Pods with addresses that a Service selects, unless they ended, ordered by name.
pub(crate) fn members<'a>(
    cluster: &'a Cluster,
    namespace: &str,
    name: &str,
    spec: &Spec,
) -> Vec<Member<'a>> {
    let mut members: Vec<_> = cluster
        .pods_where(namespace, |labels| spec.selects(labels))
        .filter_map(|pod| {
            let view = pods::view(pod);
            let ip = view.status.pod_ip.as_deref().filter(|ip| !ip.is_empty())?.to_owned();
            if view.is_finished() {
                return None;
            }
            let hostname = view
                .spec
                .hostname
                .as_deref()
                .filter(|_| view.spec.subdomain.as_deref() == Some(name));
            Some(Member {
                pod,
                ip,
                ports: spec.ports_of(&view),
                ready: spec.publish_not_ready_addresses || (view.is_ready() && !pod.is_deleting()),
                hostname: hostname.map(str::to_owned),
                view,
            })
        })
        .collect();
    members.sort_by(|a, b| a.pod.meta.name.cmp(&b.pod.meta.name));
    members
}

/// The keys of the Services that select a Pod. A Pod without an address is in no Service's endpoints.
pub(crate) fn of_pod(cluster: &Cluster, pod: &Object) -> Vec<Key> {
    if pod.meta.labels.is_empty() || pods::view(pod).status.pod_ip.is_none() {
        return Vec::new();
    }
    cluster
        .list_in(&kinds::SERVICE, &pod.meta.namespace)
        .filter(|service| {
            service
                .decode::<View>()
                .is_ok_and(|view| view.spec.is_selective() && view.spec.selects(&pod.meta.labels))
        })
        .map(|service| Key::of(service))
        .collect()
}
