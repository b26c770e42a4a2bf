//! What volumes made of objects hold: `configMap`, `secret`, `downwardAPI` and `projected`. Pure: objects, facts and
//! tokens were fetched before.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume,
};

use super::atomic::{File, Payload};
use super::error::SetUpError;
use crate::objects::References;
use crate::pod::env::{self, NodeFacts, Sources};
use crate::pod::spec;

/// Mode of files whose volume names none.
const MODE: i32 = 0o644;

/// Finds the ServiceAccount's token that a projection asks for.
pub(super) type Tokens<'a> =
    dyn Fn(&Volume, &ServiceAccountTokenProjection) -> Result<Vec<u8>, SetUpError> + 'a;

/// What is needed to fill volumes.
pub(super) struct Inputs<'a> {
    /// The Pod.
    pub pod: &'a Pod,
    /// Objects.
    pub sources: &'a Sources,
    /// The node's part of the downward API.
    pub facts: &'a NodeFacts,
    /// Tokens, by the path under which the volume shows them.
    pub tokens: &'a Tokens<'a>,
}

/// Objects that the volume is made of.
pub(super) fn references(volume: &Volume) -> References {
    let mut found = References::default();
    found.config_maps.extend(volume.config_map.as_ref().map(|m| m.name.clone()));
    found.secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
    for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
        found.config_maps.extend(source.config_map.as_ref().map(|m| m.name.clone()));
        found.secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
    }
    found
}

/// The tokens that the volume shows.
pub(super) fn tokens(volume: &Volume) -> impl Iterator<Item = &ServiceAccountTokenProjection> {
    let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
    sources.filter_map(|source| source.service_account_token.as_ref())
}

/// Whether the volume shows what may change with the Pod's metadata.
pub(super) fn follows_metadata(volume: &Volume) -> bool {
    volume.downward_api.is_some()
        || volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten())
            .any(|s| s.downward_api.is_some())
}

/// The volume's files; `None` for a volume that is not made of objects.
pub(super) fn payload(volume: &Volume, inputs: &Inputs<'_>) -> Result<Option<Payload>, SetUpError> {
    let mut payload = Payload::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(MODE);
        config_map(
            &mut payload,
            (&source.name, source.optional),
            source.items.as_deref(),
            mode,
            inputs,
        )?;
    } else if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        secret(&mut payload, (name, source.optional), source.items.as_deref(), mode, inputs)?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(MODE);
        downward(&mut payload, source.items.as_deref().unwrap_or_default(), mode, inputs)?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode.unwrap_or(MODE);
        for source in projected.sources.iter().flatten() {
            if let Some(map) = &source.config_map {
                let items = map.items.as_deref();
                config_map(&mut payload, (&map.name, map.optional), items, mode, inputs)?;
            } else if let Some(from) = &source.secret {
                let items = from.items.as_deref();
                secret(&mut payload, (&from.name, from.optional), items, mode, inputs)?;
            } else if let Some(from) = &source.downward_api {
                downward(&mut payload, from.items.as_deref().unwrap_or_default(), mode, inputs)?;
            } else if let Some(token) = &source.service_account_token {
                let bytes = (inputs.tokens)(volume, token)?;
                put(&mut payload, &token.path, bytes, mode)?;
            } else if source.cluster_trust_bundle.is_some() {
                return Err(SetUpError::Unsupported("projected clusterTrustBundle"));
            } else if source.pod_certificate.is_some() {
                return Err(SetUpError::Unsupported("projected podCertificate"));
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some(payload))
}

/// What a volume is made from; None if it may be missing, and is.
fn find<'a, T>(
    all: &'a BTreeMap<String, Arc<T>>,
    kind: &'static str,
    name: &str,
    optional: bool,
) -> Result<Option<&'a T>, SetUpError> {
    match all.get(name) {
        Some(found) => Ok(Some(found)),
        None if optional => Ok(None),
        None => Err(SetUpError::Missing { kind, name: name.to_owned() }),
    }
}

fn config_map(
    payload: &mut Payload,
    (name, optional): (&str, Option<bool>),
    items: Option<&[KeyToPath]>,
    mode: i32,
    inputs: &Inputs<'_>,
) -> Result<(), SetUpError> {
    let optional = optional == Some(true);
    let maps = &inputs.sources.config_maps;
    let Some(map) = find(maps, "configmap", name, optional)? else { return Ok(()) };
    let keys = || {
        let text = map.data.iter().flat_map(|d| d.keys());
        text.chain(map.binary_data.iter().flat_map(|d| d.keys()))
    };
    let get = |key: &str| value_of(map, key);
    choose(payload, keys(), get, items, optional, mode, SetUpError::ConfigKey)
}

fn value_of(map: &ConfigMap, key: &str) -> Option<Vec<u8>> {
    let text = map.data.as_ref().and_then(|d| d.get(key)).map(|v| v.as_bytes().to_vec());
    text.or_else(|| map.binary_data.as_ref()?.get(key).map(|v| v.0.clone()))
}

fn secret(
    payload: &mut Payload,
    (name, optional): (&str, Option<bool>),
    items: Option<&[KeyToPath]>,
    mode: i32,
    inputs: &Inputs<'_>,
) -> Result<(), SetUpError> {
    let optional = optional == Some(true);
    let secrets = &inputs.sources.secrets;
    let Some(secret) = find(secrets, "secret", name, optional)? else { return Ok(()) };
    let data = |secret: &Secret, key: &str| secret.data.as_ref()?.get(key).map(|v| v.0.clone());
    let keys = secret.data.iter().flat_map(|d| d.keys());
    let get = |key: &str| data(secret, key);
    choose(payload, keys, get, items, optional, mode, SetUpError::SecretKey)
}

/// All keys, or those that `items` choose.
fn choose<'a>(
    payload: &mut Payload,
    keys: impl Iterator<Item = &'a String>,
    get: impl Fn(&str) -> Option<Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: i32,
    missing: fn(String) -> SetUpError,
) -> Result<(), SetUpError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for key in keys {
            put(payload, key, get(key).unwrap_or_default(), mode)?;
        }
        return Ok(());
    };
    for item in items {
        match get(&item.key) {
            Some(bytes) => put(payload, &item.path, bytes, item.mode.unwrap_or(mode))?,
            None if optional => {}
            None => return Err(missing(item.key.clone())),
        }
    }
    Ok(())
}

fn downward(
    payload: &mut Payload,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    inputs: &Inputs<'_>,
) -> Result<(), SetUpError> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            let unknown = || SetUpError::Field(field.field_path.clone());
            env::field(inputs.pod, &field.field_path, inputs.facts).ok_or_else(unknown)?
        } else if let Some(wanted) = &item.resource_field_ref {
            let unknown = || SetUpError::Field(wanted.resource.clone());
            let name = wanted.container_name.as_deref().unwrap_or_default();
            let container = spec::container(inputs.pod, name).ok_or_else(unknown)?;
            let divisor = wanted.divisor.as_ref().and_then(|d| d.0.parse::<Quantity>().ok());
            env::resource(&container, &wanted.resource, divisor, inputs.facts)
                .ok_or_else(unknown)?
        } else {
            continue;
        };
        put(payload, &item.path, text.into_bytes(), item.mode.unwrap_or(mode))?;
    }
    Ok(())
}

fn put(payload: &mut Payload, path: &str, bytes: Vec<u8>, mode: i32) -> Result<(), SetUpError> {
    payload.insert(relative(path)?, File { bytes, mode: mode as u32 });
    Ok(())
}

/// A path below a volume, which the API has validated; checked again, since it is about to be written to.
fn relative(path: &str) -> Result<PathBuf, SetUpError> {
    let parsed = Path::new(path);
    let fine = parsed.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !fine || path.is_empty() || path.starts_with("..") {
        return Err(SetUpError::Path(path.to_owned()));
    }
    Ok(parsed.components().filter(|c| matches!(c, Component::Normal(_))).collect())
}
