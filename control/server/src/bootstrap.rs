//! Objects that every cluster has from the start.

use std::net::SocketAddr;

use coracle_api::{ApiError, kinds};
use serde_json::json;

use crate::registry::{Part, Registry, WriteOptions};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates what is missing, and points the `kubernetes` Service at this server.
pub(crate) async fn bootstrap(registry: &Registry, serving: SocketAddr) -> Result<(), ApiError> {
    for name in NAMESPACES {
        registry.ensure(&kinds::NAMESPACE, "", json!({"metadata": {"name": name}})).await?;
    }
    for (name, value, what) in [
        (
            "system-cluster-critical",
            2_000_000_000_i64,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        let class = json!({"metadata": {"name": name}, "value": value, "description": what});
        registry.ensure(&kinds::PRIORITY_CLASS, "", class).await?;
    }
    for name in ["wasm", "oci"] {
        let class = json!({"metadata": {"name": name}, "handler": name});
        registry.ensure(&kinds::RUNTIME_CLASS, "", class).await?;
    }
    kubernetes_service(registry, serving).await
}

async fn kubernetes_service(registry: &Registry, serving: SocketAddr) -> Result<(), ApiError> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": registry.first_service_address().to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": serving.port()}],
        },
    });
    registry.ensure(&kinds::SERVICE, "default", service).await?;
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [serving.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": serving.port(), "protocol": "TCP"}],
    });
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": [{"ip": serving.ip().to_string()}],
            "ports": [{"name": "https", "port": serving.port(), "protocol": "TCP"}],
        }],
    });
    for (kind, wanted) in [(&kinds::ENDPOINT_SLICE, slice), (&kinds::ENDPOINTS, endpoints)] {
        registry.ensure(kind, "default", wanted.clone()).await?;
        // The port may have changed since the last start.
        registry
            .update(
                kind,
                ("default", "kubernetes"),
                Part::Main,
                WriteOptions::default(),
                |_, mut tree| {
                    for field in ["endpoints", "ports", "subsets"] {
                        if let Some(value) = wanted.get(field) {
                            tree[field] = value.clone();
                        }
                    }
                    Ok(tree)
                },
            )
            .await?;
    }
    Ok(())
}
