//! Which runtime a Pod needs: that of each image, told by its media type, so known only once somebody has looked.
//!
//! It has to be known before the sandbox is made. What lies here already is looked at without asking anybody; the rest is
//! fetched, as it would be anyway, and what comes of that is kept for the start. An image that cannot be had holds the others
//! up for [`PATIENCE`] at most: then the Pod is made by what is known, and made anew if that was wrong.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared, select_all};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;

use super::{Workers, images};
use crate::images::{Kind, PullError, Pulled, Workload};
use crate::pod::spec;

/// How long to wait for an image before the sandbox is made without it.
const PATIENCE: Duration = Duration::from_secs(15);

/// An image on its way; what became of it is there for all that ask.
pub(super) type Fetching = Shared<BoxFuture<'static, Result<Pulled, Arc<PullError>>>>;

/// What RuntimeClasses may name here, and what the cluster's own are called.
const HANDLERS: [&str; 4] = ["oci", "wasm", "wasm-namespace", "wasm-pod"];

/// What a Pod's class insists on.
fn insists(pod: &Pod) -> Option<Kind> {
    match pod.spec.as_ref()?.runtime_class_name.as_deref()? {
        "oci" => Some(Kind::Container),
        "wasm" | "wasm-namespace" | "wasm-pod" => Some(Kind::Wasm),
        _ => None,
    }
}

impl Workers {
    /// Why the Pod must not be made here: its class promises a runtime that this node has not, and perhaps more isolation
    /// than any of its own gives.
    pub(super) async fn lacks_runtime(&self, pod: &Pod) -> Option<String> {
        let class = pod.spec.as_ref()?.runtime_class_name.as_deref()?;
        if HANDLERS.contains(&class) {
            return None;
        }
        let classes: Api<RuntimeClass> = Api::all(self.inner.parts.client.clone());
        let why = match classes.get_opt(class).await {
            Ok(Some(found)) if HANDLERS.contains(&found.handler.as_str()) => return None,
            Ok(Some(found)) => format!("no runtime for {:?} is configured", found.handler),
            Ok(None) => format!("runtimeclasses.node.k8s.io {class:?} not found"),
            Err(error) => format!("RuntimeClass {class:?}: {error}"),
        };
        Some(format!("Failed to create pod sandbox: failed to get sandbox runtime: {why}"))
    }

    /// Whether the Pod is to be made for containers.
    pub(super) async fn needs_containers(&self, uid: &str, pod: &Arc<Pod>) -> bool {
        let parts = &self.inner.parts;
        if !parts.hosts.runs_containers() {
            return false;
        }
        if let Some(kind) = insists(pod) {
            return kind == Kind::Container;
        }
        self.has(uid, pod, Kind::Container).await
    }

    /// Whether the Pod with containers has Wasm containers, too, as far as that matters: whoever makes the first file in an
    /// `emptyDir` decides for whom it is.
    pub(super) async fn mixes(&self, uid: &str, pod: &Arc<Pod>) -> bool {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let shares = volumes.into_iter().any(|volume| volume.empty_dir.is_some());
        if self.inner.parts.hosts.is_mixed(uid) {
            return true;
        }
        shares && insists(pod).is_none() && self.has(uid, pod, Kind::Wasm).await
    }

    /// Whether one of the Pod's images is of that kind.
    async fn has(&self, uid: &str, pod: &Arc<Pod>, kind: Kind) -> bool {
        let images = &self.inner.parts.images;
        let mut unknown = Vec::new();
        for (_, container) in spec::containers(pod) {
            match images.kind(images::wanted(container)) {
                Some(known) if known == kind => return true,
                Some(_) => {}
                None => unknown.push(container.name.clone()),
            }
        }
        let mut fetching: Vec<Fetching> =
            unknown.iter().filter_map(|name| self.fetch_ahead(uid, pod, name)).collect();
        let found = async {
            while !fetching.is_empty() {
                let (fetched, _, rest) = select_all(fetching).await;
                if fetched.is_ok_and(|pulled| pulled.workload.kind() == kind) {
                    return true;
                }
                fetching = rest;
            }
            false
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or(false)
    }

    /// Begins to fetch an image whose container is not to start yet.
    fn fetch_ahead(&self, uid: &str, pod: &Arc<Pod>, name: &str) -> Option<Fetching> {
        if let Some(begun) = self.table().pods.get(uid)?.fetching.get(name) {
            return Some(begun.clone());
        }
        let (workers, pod, container) = (self.clone(), pod.clone(), name.to_owned());
        let fetch = async move { workers.fetch(&pod, &container).await.map_err(Arc::new) };
        let fetching = fetch.boxed().shared();
        self.table().pods.get_mut(uid)?.fetching.insert(name.to_owned(), fetching.clone());
        tokio::spawn(fetching.clone());
        Some(fetching)
    }

    /// The container's image; what was fetched ahead counts once.
    pub(super) async fn fetched(
        &self,
        uid: &str,
        pod: &Pod,
        name: &str,
    ) -> Result<Pulled, Arc<PullError>> {
        let ahead = self.table().pods.get_mut(uid).and_then(|e| e.fetching.remove(name));
        match ahead {
            Some(fetching) => fetching.await,
            None => self.fetch(pod, name).await.map_err(Arc::new),
        }
    }

    async fn fetch(&self, pod: &Pod, name: &str) -> Result<Pulled, PullError> {
        let parts = &self.inner.parts;
        let Some(container) = spec::container(pod, name) else {
            let why = "the container is no longer in its Pod";
            return Err(PullError::InvalidName { name: name.to_owned(), why });
        };
        let wanted = images::wanted(&container);
        let pulling = || {
            let message = format!("Pulling image \"{}\"", wanted.name);
            parts.recorder.pod(pod, Some(name), false, "Pulling", message);
        };
        parts.images.ensure(wanted, self.keyring(pod), pulling).await
    }

    /// Whether this node and the Pod's class take an image of that kind.
    pub(super) fn suits(
        &self,
        pod: &Pod,
        image: &str,
        workload: &Workload,
    ) -> Result<(), (&'static str, String)> {
        let class = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref());
        let why = match (workload, insists(pod)) {
            (Workload::Container { .. }, Some(Kind::Wasm)) => format!(
                "image \"{image}\" is a container image, and runtimeClassName \"{}\" insists on Wasm; leave runtimeClassName out, or set it to \"oci\"",
                class.unwrap_or_default()
            ),
            (Workload::Wasm(_), Some(Kind::Container)) => format!(
                "image \"{image}\" is a Wasm image, and runtimeClassName \"oci\" insists on containers; leave runtimeClassName out, or set it to \"wasm\""
            ),
            (Workload::Container { .. }, _) if !self.inner.parts.hosts.runs_containers() => {
                format!(
                    "image \"{image}\" is a container image, and this node runs Wasm only: to run containers, its agent must run as root and be able to make cgroups; give the Pod runtimeClassName \"oci\" to have it put on a node that can"
                )
            }
            _ => return Ok(()),
        };
        Err(("CreateContainerError", why))
    }
}
