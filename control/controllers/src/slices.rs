//! EndpointSlices as all their controllers make them: whose they are, and what they are called.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::{Cluster, Object, Plan, kinds};
use serde_json::{Value, json};

use crate::names;

/// The label that says whose slice it is.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that says who writes it.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The label of slices of headless Services.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// Labels of an owner's slices: its own, and what consumers find them by.
pub(crate) fn labels(owner: &Object, manager: &str, headless: bool) -> BTreeMap<String, String> {
    let mut labels = owner.meta.labels.clone();
    labels.remove(HEADLESS);
    labels.insert(SERVICE_NAME.into(), owner.meta.name.clone());
    labels.insert(MANAGED_BY.into(), manager.into());
    if headless {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

/// Slices that `manager` wrote for an owner, but those that go away.
pub(crate) fn of<'a>(
    cluster: &'a Cluster,
    owner: &Object,
    manager: &str,
) -> impl Iterator<Item = &'a Arc<Object>> {
    cluster
        .owned_of_kind(&owner.meta.uid, &kinds::ENDPOINT_SLICE)
        .filter(|slice| !slice.is_deleting())
        .filter(move |slice| slice.meta.labels.get(MANAGED_BY).is_some_and(|by| by == manager))
}

/// Plans an owner's new slices, under names that are free.
pub(crate) struct Maker<'a> {
    cluster: &'a Cluster,
    owner: &'a Object,
    next: u64,
}

impl<'a> Maker<'a> {
    pub(crate) fn new(cluster: &'a Cluster, owner: &'a Object) -> Self {
        Self { cluster, owner, next: 0 }
    }

    /// One more; `metadata` has its labels and annotations, the endpoints are of that `address_type`.
    pub(crate) fn create(
        &mut self,
        plan: &mut Plan,
        mut metadata: Value,
        address_type: &str,
        endpoints: Value,
        ports: Value,
    ) {
        let meta = &self.owner.meta;
        let base = format!("{}-", meta.name);
        let name = loop {
            let name = names::generated(&base, &meta.uid, self.next);
            self.next += 1;
            if self.cluster.get(&kinds::ENDPOINT_SLICE, &meta.namespace, &name).is_none() {
                break name;
            }
        };
        metadata["name"] = name.into();
        metadata["generateName"] = base.into();
        metadata["namespace"] = meta.namespace.as_str().into();
        metadata["ownerReferences"] = json!([self.owner.owner_ref()]);
        plan.create(
            &kinds::ENDPOINT_SLICE,
            json!({
                "kind": "EndpointSlice",
                "apiVersion": "discovery.k8s.io/v1",
                "metadata": metadata,
                "addressType": address_type,
                "endpoints": endpoints,
                "ports": ports,
            }),
        );
    }
}
