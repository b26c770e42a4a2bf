//! What a Pod with containers asks of a container runtime, in the runtime's words: `PodSpec` and image configuration to
//! [`OciSandbox`] and [`OciContainer`]. Pure, but for profiles that are read from the node's folder.
//!
//! As the kubelet and containerd have it. One default differs: without a `seccompProfile` a container has the runtime's usual
//! one, as with the kubelet's `--seccomp-default`.

mod resources;
mod security;

use std::path::{Component, Path, PathBuf};

use coracle_sandbox::{FolderAttributes, OciContainer, OciSandbox};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::images::manifest::Run;
use crate::pod::spec as pods;

/// Where a container's files are.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// Its image's layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Folders of it that are otherwise than the highest layer has them.
    pub folders: Vec<FolderAttributes>,
    /// What this attempt writes.
    pub upper: PathBuf,
}

/// What the node adds.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Bytes of memory that Pods may have.
    pub memory: u64,
    /// Folder of `Localhost` seccomp profiles.
    pub seccomp: PathBuf,
}

/// An image's path as an absolute one; none where it leads elsewhere, or to the whole root.
fn plain(path: &str) -> Option<PathBuf> {
    let path = Path::new("/").join(path);
    let inside = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    (inside && path != Path::new("/")).then(|| path.components().collect())
}

/// Whether the Pod uses the machine's network.
pub fn is_on_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true))
}

/// Whether the Pod's users are to be others than the machine's. Which, is said when it is put somewhere.
pub fn has_own_users(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_users == Some(false))
}

/// Whether the Pod may have the kernel parameters that it asks for.
///
/// # Errors
/// The kubelet's words for what it may not.
pub fn allowed_sysctls(pod: &Pod) -> Result<(), String> {
    pod.spec.as_ref().map_or(Ok(()), |spec| security::sysctls(spec).map(drop))
}

/// What the Pod's containers share.
///
/// # Errors
/// What cannot be honoured, with the field's name.
pub fn sandbox(pod: &Pod, cgroup: PathBuf) -> Result<OciSandbox, String> {
    let Some(spec) = &pod.spec else { return Err("the Pod has no spec".to_owned()) };
    let on = |flag: Option<bool>| flag == Some(true);
    Ok(OciSandbox {
        sysctls: security::sysctls(spec)?,
        share_pids: on(spec.share_process_namespace),
        host_pid: on(spec.host_pid),
        host_ipc: on(spec.host_ipc),
        host_network: on(spec.host_network),
        users: None,
        cgroup,
        pids_limit: None,
        hugepages: resources::hugepages_of_pod(spec),
        shm_bytes: None,
    })
}

/// What a container is besides its arguments, environment and mounts.
///
/// # Errors
/// What cannot be honoured, in the kubelet's words where it has some, and what it calls that.
pub fn container(
    pod: &Pod,
    container: &Container,
    run: &Run,
    files: Files,
    facts: &Facts,
) -> Result<OciContainer, (&'static str, String)> {
    let config = |message: String| ("CreateContainerConfigError", message);
    let Some(spec) = &pod.spec else { return Err(config("the Pod has no spec".to_owned())) };
    let on = |flag: Option<bool>| flag == Some(true);
    let of_pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let who = security::who(pod, container, run).map_err(config)?;
    let privileged = on(own.and_then(|c| c.privileged));
    let narrow = |group: i64| {
        u32::try_from(group).map_err(|_| config(format!("supplementalGroups: {group} is no group")))
    };
    let groups = of_pod.and_then(|c| c.supplemental_groups.as_ref()).into_iter().flatten();
    let fs_group = of_pod.and_then(|c| c.fs_group).map(narrow).transpose()?;
    let strict = of_pod.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict");
    Ok(OciContainer {
        layers: files.layers,
        folders: files.folders,
        upper: files.upper,
        volumes: run.volumes.iter().filter_map(|path| plain(path)).collect(),
        user: who.user,
        run_as_non_root: who.non_root,
        groups: groups.copied().map(narrow).collect::<Result<_, _>>()?,
        fs_group,
        strict_groups: strict,
        umask: None,
        capabilities: security::capabilities(own),
        privileged,
        no_new_privileges: own.and_then(|c| c.allow_privilege_escalation) == Some(false),
        seccomp: security::seccomp(of_pod, own, privileged, &facts.seccomp)
            .map_err(|message| ("CreateContainerError", message))?,
        read_only: on(own.and_then(|c| c.read_only_root_filesystem)),
        unmasked: privileged || own.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked"),
        devices: Vec::new(),
        pids_limit: None,
        hugepages: resources::hugepages(container),
        oom_score_adj: Some(resources::oom_score_adj(pod, container, facts.memory)),
        target: pods::target(pod, &container.name).map(str::to_owned),
        rlimits: Vec::new(),
        stdin: on(container.stdin),
        stdin_once: on(container.stdin_once),
        tty: on(container.tty),
    })
}

#[cfg(test)]
mod tests;
