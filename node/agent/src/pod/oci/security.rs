//! `securityContext` of Pods and containers.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use coracle_sandbox::{Capabilities, Seccomp};
use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};

use crate::images::manifest::Run;
use crate::pod::spec as pods;

/// Kernel parameters that belong to the Pod's namespaces alone and cannot harm the machine, as upstream lists them.
const SAFE: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];
/// Largest seccomp profile.
const LARGEST_PROFILE: u64 = 1 << 20;

/// The Pod's kernel parameters.
pub(super) fn sysctls(spec: &PodSpec) -> Result<BTreeMap<String, String>, String> {
    let host_network = spec.host_network == Some(true);
    let mut all = BTreeMap::new();
    if !host_network {
        // As containerd has it: ports below 1024 need no capability in a namespace of the Pod's own.
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
    }
    let context = spec.security_context.as_ref();
    for sysctl in context.and_then(|c| c.sysctls.as_ref()).into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        if !SAFE.contains(&name.as_str()) {
            return Err(format!("forbidden sysctl: {:?} not allowlisted", sysctl.name));
        }
        if host_network && name.starts_with("net.") {
            return Err(format!(
                "forbidden sysctl: {:?} not allowed with host net enabled",
                sysctl.name
            ));
        }
        if spec.host_ipc == Some(true) && name.starts_with("kernel.shm") {
            return Err(format!(
                "forbidden sysctl: {:?} not allowed with host ipc enabled",
                sysctl.name
            ));
        }
        all.insert(name, sysctl.value.clone());
    }
    Ok(all)
}

/// Who runs.
#[derive(Debug, PartialEq)]
pub(super) struct Who {
    /// `[USER][:GROUP]`.
    pub(super) user: String,
    /// Not as root, whatever the user's name turns out to mean.
    pub(super) non_root: bool,
}

/// The container's word, else the Pod's, else the image's.
pub(super) fn who(pod: &Pod, container: &Container, run: &Run) -> Result<Who, String> {
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = container.security_context.as_ref();
    let user = own.and_then(|c| c.run_as_user).or(of_pod.and_then(|c| c.run_as_user));
    let group = own.and_then(|c| c.run_as_group).or(of_pod.and_then(|c| c.run_as_group));
    let non_root = own.and_then(|c| c.run_as_non_root).or(of_pod.and_then(|c| c.run_as_non_root));
    let non_root = non_root == Some(true);
    let of_image = run.user.as_deref().unwrap_or_default();
    if non_root {
        let about = format!("(pod: {:?}, container: {})", pods::full_name(pod), container.name);
        let image_user = of_image.split(':').next().unwrap_or_default();
        match (user, image_user.parse::<i64>()) {
            (Some(0), _) => {
                return Err(format!("container's runAsUser breaks non-root policy {about}"));
            }
            (Some(_), _) => {}
            (None, Ok(0)) => {
                return Err(format!(
                    "container has runAsNonRoot and image will run as root {about}"
                ));
            }
            (None, Ok(_)) => {}
            (None, Err(_)) if image_user.is_empty() => {
                return Err(format!(
                    "container has runAsNonRoot and image will run as root {about}"
                ));
            }
            (None, Err(_)) => {
                return Err(format!(
                    "container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is non-root {about}"
                ));
            }
        }
    }
    let user = match (user, group) {
        (Some(user), Some(group)) => format!("{user}:{group}"),
        (Some(user), None) => user.to_string(),
        (None, Some(group)) => {
            format!("{}:{group}", of_image.split(':').next().unwrap_or_default())
        }
        (None, None) => of_image.to_owned(),
    };
    Ok(Who { user, non_root })
}

pub(super) fn capabilities(own: Option<&SecurityContext>) -> Capabilities {
    let list = own.and_then(|c| c.capabilities.as_ref());
    Capabilities {
        add: list.and_then(|c| c.add.clone()).unwrap_or_default(),
        drop: list.and_then(|c| c.drop.clone()).unwrap_or_default(),
    }
}

/// The profile: the container's, else the Pod's, else the runtime's usual one. `folder` has those that Pods name.
pub(super) fn seccomp(
    of_pod: Option<&PodSecurityContext>,
    own: Option<&SecurityContext>,
    privileged: bool,
    folder: &Path,
) -> Result<Seccomp, String> {
    // As upstream: a privileged container has none, whatever is asked for.
    if privileged {
        return Ok(Seccomp::Unconfined);
    }
    let own = own.and_then(|c| c.seccomp_profile.as_ref());
    let profile = own.or(of_pod.and_then(|c| c.seccomp_profile.as_ref()));
    match profile.map(|p| p.type_.as_str()) {
        Some("Unconfined") => Ok(Seccomp::Unconfined),
        Some("Localhost") => localhost(profile, folder),
        _ => Ok(Seccomp::RuntimeDefault),
    }
}

fn localhost(profile: Option<&SeccompProfile>, folder: &Path) -> Result<Seccomp, String> {
    let name = profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default();
    let plain = !name.is_empty()
        && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain {
        return Err(format!(
            "seccompProfile.localhostProfile: {name:?} must be a relative path without \"..\""
        ));
    }
    let path = folder.join(name);
    let failed = |why: String| {
        format!(
            "seccompProfile.localhostProfile: cannot load seccomp profile {:?}: {why}",
            path.display()
        )
    };
    let size = std::fs::metadata(&path).map_err(|e| failed(e.to_string()))?.len();
    if size > LARGEST_PROFILE {
        return Err(failed(format!("it is larger than {LARGEST_PROFILE} bytes")));
    }
    let profile = std::fs::read_to_string(&path).map_err(|e| failed(e.to_string()))?;
    Ok(Seccomp::Localhost { profile })
}
