//! Who shares a process with whom: the isolation group of a Pod. Pure.
//!
//! In this order: the Pod's annotation `coracle.dev/isolation`, its Namespace's, the RuntimeClass `wasm-namespace` or
//! `wasm-pod`. A Namespace's word is a floor: its Pods may ask for more, not for less. A Pod that mounts folders of the
//! machine has a process to itself whatever it says, so that no other Pod's process may open those.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::pod::annotations::{self, AnnotationError, Annotations, Isolation, Source};

/// Pods that share a host process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Group {
    /// Everybody who asked for nothing else.
    Shared,
    /// The Pods of this namespace that asked for it.
    Namespace(String),
    /// The Pod of this UID.
    Pod(String),
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Group::Shared => f.write_str("shared"),
            Group::Namespace(name) => write!(f, "namespace {name}"),
            Group::Pod(uid) => write!(f, "pod {uid}"),
        }
    }
}

/// A Pod that cannot be put anywhere.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsolationError {
    /// An annotation says something else.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// The Pod asks for less than its Namespace demands.
    #[error(
        "annotation \"coracle.dev/isolation\" of the Pod: {asked:?} is weaker than {demanded:?}, which the Namespace demands; remove the annotation from the Pod, or ask for {demanded:?} or more"
    )]
    Weaker {
        /// What the Pod asks for.
        asked: &'static str,
        /// What its Namespace does.
        demanded: &'static str,
    },
}

/// The Pod's group; `namespace` are the annotations of its Namespace.
pub fn group(pod: &Pod, namespace: &Annotations) -> Result<Group, IsolationError> {
    let none = Annotations::new();
    let own = pod.metadata.annotations.as_ref().unwrap_or(&none);
    let of_pod = annotations::isolation(Source { pod: own, namespace: &none })?;
    let demanded = annotations::isolation(Source { pod: &none, namespace })?;
    let says = own.contains_key("coracle.dev/isolation");
    if says && of_pod < demanded {
        return Err(IsolationError::Weaker { asked: name(of_pod), demanded: name(demanded) });
    }
    let spec = pod.spec.as_ref();
    let of_class = match spec.and_then(|s| s.runtime_class_name.as_deref()) {
        Some("wasm-namespace") => Isolation::Namespace,
        Some("wasm-pod") => Isolation::Pod,
        _ => Isolation::Shared,
    };
    let mut chosen = if says { of_pod } else { demanded.max(of_class) };
    if host_paths(pod).next().is_some() {
        chosen = Isolation::Pod;
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Ok(match chosen {
        Isolation::Shared => Group::Shared,
        Isolation::Namespace => Group::Namespace(text(&pod.metadata.namespace)),
        Isolation::Pod => Group::Pod(text(&pod.metadata.uid)),
    })
}

/// Folders and files of the machine that the Pod mounts.
pub fn host_paths(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|v| Some(v.host_path.as_ref()?.path.as_str()))
}

fn name(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::Shared => "shared",
        Isolation::Namespace => "namespace",
        Isolation::Pod => "pod",
    }
}

#[cfg(test)]
mod tests;
