//! Objects that every cluster has from the start.

use std::net::SocketAddr;
use std::sync::Arc;

use coracle_api::{ApiError, Kind, Object, kinds};
use coracle_controllers::{AUTOMANAGED, ON_START};
use serde_json::{Value, json};

use crate::auth::bootstrap::AUTOUPDATE;
use crate::registry::{Part, Registry, WriteOptions};
use crate::{auth, http};

/// Where what belongs to the cluster itself is.
const SYSTEM: &str = "kube-system";
const NAMESPACES: [&str; 4] = ["default", SYSTEM, "kube-public", "kube-node-lease"];
/// Each is the name of its handler too. The longer ones also say who shares a process with whom.
const RUNTIME_CLASSES: [&str; 4] = ["wasm", "wasm-namespace", "wasm-pod", "oci"];
const PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

/// Creates what is missing, and points the `kubernetes` Service at this server.
pub(crate) async fn bootstrap(registry: &Registry, serving: SocketAddr) -> Result<(), ApiError> {
    let mut objects: Vec<(&'static Kind, Value)> = Vec::new();
    for name in NAMESPACES {
        objects.push((&kinds::NAMESPACE, json!({"metadata": {"name": name}})));
    }
    for (name, value, what) in PRIORITY_CLASSES {
        let class = json!({"metadata": {"name": name}, "value": value, "description": what});
        objects.push((&kinds::PRIORITY_CLASS, class));
    }
    for name in RUNTIME_CLASSES {
        let mut class = json!({"metadata": {"name": name}, "handler": name});
        if name == "oci" {
            // As agents label their nodes.
            class["scheduling"] = json!({"nodeSelector": {"coracle.dev/runtime-oci": "true"}});
        }
        objects.push((&kinds::RUNTIME_CLASS, class));
    }
    // Manifests that name no class are served, until somebody makes another class the default.
    objects.push((
        &kinds::INGRESS_CLASS,
        json!({
            "metadata": {
                "name": "coracle",
                "annotations": {kinds::DEFAULT_INGRESS_CLASS_ANNOTATION: "true"},
            },
            "spec": {"controller": kinds::INGRESS_CONTROLLER},
        }),
    ));
    let flow_control = kinds::flow_control::levels()
        .into_iter()
        .map(|level| (&kinds::PRIORITY_LEVEL_CONFIGURATION, level))
        .chain(kinds::flow_control::schemas().into_iter().map(|it| (&kinds::FLOW_SCHEMA, it)));
    objects.extend(flow_control.map(|(kind, (name, spec))| {
        let annotations = json!({"apf.kubernetes.io/autoupdate-spec": "true"});
        (kind, json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec}))
    }));
    objects.push((
        &kinds::SERVICE_CIDR,
        json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [registry.service_range()]}}),
    ));
    let roles = auth::bootstrap::cluster_roles();
    objects.extend(roles.into_iter().map(|role| (&kinds::CLUSTER_ROLE, role)));
    let bindings = auth::bootstrap::cluster_role_bindings();
    objects.extend(bindings.into_iter().map(|binding| (&kinds::CLUSTER_ROLE_BINDING, binding)));
    // All at once, so that they share a few commits to disk.
    let writes = objects.into_iter().map(|(kind, object)| registry.ensure(kind, "", object));
    futures::future::try_join_all(writes).await?;
    registry.ensure(&kinds::ROLE, SYSTEM, auth::bootstrap::authentication_reader()).await?;
    complete_roles(registry).await;
    kubernetes_service(registry, serving).await
}

/// The APIServices of this server's own groups and versions, in the order of discovery, the first of a group's versions before
/// the others.
pub(crate) fn api_services() -> Vec<Value> {
    let groups = http::served_groups();
    let count = groups.len();
    let all = groups.into_iter().enumerate().map(|(i, (group, version))| {
        json!({
            "metadata": {
                "name": format!("{version}.{group}"),
                "labels": {AUTOMANAGED: ON_START},
            },
            "spec": {
                "group": group,
                "version": version,
                "groupPriorityMinimum": 17_000 + 10 * (count - i),
                "versionPriority": count - i,
            },
        })
    });
    all.collect()
}

/// Creates what is missing of them: nobody waits for them when the server starts.
pub(crate) async fn ensure_api_services(registry: Registry) {
    let writes =
        api_services().into_iter().map(|api| registry.ensure(&kinds::API_SERVICE, "", api));
    if let Err(error) = futures::future::try_join_all(writes).await {
        tracing::error!(%error, "not all APIServices could be made; they are when the server starts again");
    }
}

/// Gives the roles and bindings of an older start what they lack now; what somebody has added stays (upstream's
/// auto-reconciliation).
async fn complete_roles(registry: &Registry) {
    let lists = [
        (&kinds::CLUSTER_ROLE, "rules", auth::bootstrap::cluster_roles()),
        (&kinds::CLUSTER_ROLE_BINDING, "subjects", auth::bootstrap::cluster_role_bindings()),
    ];
    for (kind, list, wanted) in lists {
        for wanted in wanted {
            let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
            let complete = |_: &Arc<Object>, mut known: Value| {
                if known["metadata"]["annotations"][AUTOUPDATE] == "false" {
                    return Ok(known);
                }
                for field in ["labels", "annotations"] {
                    for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten()
                    {
                        if known["metadata"][field].get(key).is_none() {
                            known["metadata"][field][key] = value.clone();
                        }
                    }
                }
                if let Some(rule) = wanted.get("aggregationRule") {
                    // The rules of such a role are its parts'.
                    known["aggregationRule"] = rule.clone();
                    return Ok(known);
                }
                let mut all = known[list].as_array().cloned().unwrap_or_default();
                let lacking = wanted[list].as_array().into_iter().flatten();
                all.extend(lacking.filter(|item| !all.contains(item)).cloned().collect::<Vec<_>>());
                known[list] = all.into();
                Ok(known)
            };
            let place = ("", name);
            let written =
                registry.update(kind, place, Part::Main, WriteOptions::default(), complete);
            // One that somebody has made unusable is no reason not to start.
            if let Err(error) = written.await {
                tracing::error!(role = name, %error, "a role or binding stays as it was");
            }
        }
    }
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
