//! Namespaces' annotations, for those that are defaults of their Pods: one watch a node, no request per Pod.
//!
//! Only annotations of [`PREFIX`] are kept. A Pod may arrive before the watch tells of its new Namespace: one that is not
//! known yet is asked for, once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use crate::pod::annotations::{Annotations, PREFIX};

/// What is known of Namespaces; cheap to clone.
#[derive(Clone)]
pub struct Namespaces {
    client: kube::Client,
    known: Arc<Mutex<HashMap<String, Arc<Annotations>>>>,
}

impl Namespaces {
    /// Knows nothing yet; see [`Namespaces::watch`].
    pub fn new(client: kube::Client) -> Self {
        Self { client, known: Arc::default() }
    }

    /// The annotations that concern Pods; none for a Namespace that is gone.
    pub async fn annotations(&self, name: &str) -> Result<Arc<Annotations>, kube::Error> {
        if let Some(known) = self.known().get(name) {
            return Ok(known.clone());
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        match api.get_opt(name).await? {
            // What the watch has told meanwhile is at least as new.
            Some(namespace) => {
                let found = concerning_pods(&namespace);
                Ok(self.known().entry(name.to_owned()).or_insert(found).clone())
            }
            None => Ok(Arc::default()),
        }
    }

    /// Follows them for ever.
    pub async fn watch(self) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let mut events = watcher(api, watcher::Config::default()).boxed();
        let mut listed = HashMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(namespace)) => {
                    listed.insert(namespace.name_any(), concerning_pods(&namespace));
                }
                Ok(watcher::Event::InitDone) => *self.known() = std::mem::take(&mut listed),
                Ok(watcher::Event::Apply(namespace)) => {
                    let found = concerning_pods(&namespace);
                    self.known().insert(namespace.name_any(), found);
                }
                Ok(watcher::Event::Delete(namespace)) => {
                    self.known().remove(&namespace.name_any());
                }
                // The watcher backs off and tries again by itself when polled.
                Err(error) => {
                    tracing::debug!(%error, "watch of Namespaces interrupted");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Annotations>>> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn concerning_pods(namespace: &Namespace) -> Arc<Annotations> {
    let all = namespace.metadata.annotations.iter().flatten();
    let ours = all.filter(|(key, _)| key.starts_with(PREFIX));
    Arc::new(ours.map(|(key, value)| (key.clone(), value.clone())).collect())
}
