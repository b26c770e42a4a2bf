//! Volumes of PersistentVolumeClaims: a claim's PersistentVolume is a folder of this machine (`hostPath` or `local`), or none
//! that can be mounted here.
//!
//! Claim and volume are asked for when they are needed, once for a Pod, since neither can change then. What they say is written
//! into a copy of the Pod as if it were a `hostPath` of its own, so that everything else that looks at paths of the machine
//! looks at these too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};
use kube::Api;

use super::error::{MountError, SetUpError};

/// A Pod whose claims were looked up.
pub(crate) struct Resolved {
    /// The Pod, with folders in the place of claims.
    pub pod: Arc<Pod>,
    /// Volumes that are only to be read.
    pub read_only: BTreeSet<String>,
}

/// What is known of a Pod's claims: folders by the names of their volumes.
pub(super) type Known = BTreeMap<String, HostPathVolumeSource>;

/// Looks the claims of a Pod's volumes up, of those that `wanted` names and that are not `known`; without any, the Pod is as it
/// was.
pub(super) async fn resolve(
    client: &kube::Client,
    pod: &Arc<Pod>,
    wanted: impl Fn(&Volume) -> bool,
    known: &mut Known,
) -> Result<Resolved, MountError> {
    let mut resolved = Resolved { pod: pod.clone(), read_only: BTreeSet::new() };
    if !super::all(pod).any(|volume| claim_of(pod, volume).is_some() && wanted(volume)) {
        return Ok(resolved);
    }
    let mut copy = Pod::clone(pod);
    let volumes = copy.spec.iter_mut().flat_map(|spec| spec.volumes.iter_mut().flatten());
    for volume in volumes {
        let Some(claim) = claim_of(pod, volume).filter(|_| wanted(volume)) else { continue };
        let path = match known.get(&volume.name) {
            Some(path) => path.clone(),
            None => {
                let found = folder(client, pod, &claim, volume.ephemeral.is_some()).await;
                let path = found.map_err(|why| why.of(&volume.name))?;
                known.insert(volume.name.clone(), path.clone());
                path
            }
        };
        let claimed = volume.persistent_volume_claim.take();
        if claimed.is_some_and(|claim| claim.read_only == Some(true)) {
            resolved.read_only.insert(volume.name.clone());
        }
        volume.ephemeral = None;
        volume.host_path = Some(path);
    }
    resolved.pod = Arc::new(copy);
    Ok(resolved)
}

/// The claim that a volume is of: one that is named, or the one that was made for the Pod.
fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            Some(format!("{pod}-{}", volume.name))
        }
        (None, None) => None,
    }
}

async fn folder(
    client: &kube::Client,
    pod: &Pod,
    name: &str,
    is_ephemeral: bool,
) -> Result<HostPathVolumeSource, SetUpError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let failed =
        |why: String| SetUpError::Sync(format!("error processing PVC {namespace}/{name}: {why}"));
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = claims.get(name).await;
    let claim = claim.map_err(|e| failed(format!("failed to fetch PVC from API server: {e}")))?;
    let owners = claim.metadata.owner_references.iter().flatten();
    if is_ephemeral && !owners.into_iter().any(|o| Some(&o.uid) == pod.metadata.uid.as_ref()) {
        return Err(failed(format!(
            "PVC {namespace}/{name} was not created for pod (pod is not owner)"
        )));
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let Some(volume) = volume.filter(|name| !name.is_empty() && phase == Some("Bound")) else {
        return Err(failed("PVC is not bound".to_owned()));
    };
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let found = volumes.get(volume).await;
    let found =
        found.map_err(|e| failed(format!("failed to fetch PV {volume} from API server: {e}")))?;
    let spec = found.spec.unwrap_or_default();
    let of = spec.claim_ref.as_ref().and_then(|claim| claim.uid.as_ref());
    if of != claim.metadata.uid.as_ref() {
        let why = format!("PV {volume} spec.claimRef.uid does not match PVC UID");
        return Err(failed(why));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(SetUpError::Unsupported("volumeMode Block"));
    }
    match (spec.host_path, spec.local) {
        (Some(path), _) => Ok(path),
        // What is to be there already is not made.
        (None, Some(local)) => {
            let type_ = Some("Directory".to_owned());
            Ok(HostPathVolumeSource { path: local.path, type_ })
        }
        (None, None) => {
            Err(SetUpError::Unsupported("PersistentVolumes other than hostPath and local"))
        }
    }
}
