//! What libcontainer is told of a container: the OCI runtime specification's `config.json`.

mod devices;
mod mounts;

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use coracle_sandbox::{
    ContainerSpec, Mount, OciContainer, Problem, ProblemCode, Propagation, SandboxSpec,
};
use serde_json::{Value, json};

use crate::capabilities::Set;
use crate::user::User;

pub(crate) use mounts::Places;

/// Where programs are looked for if neither image nor Pod says.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Hidden from containers: containerd's list.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Not to be written by containers: containerd's list.
const READ_ONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What is known when a container is made.
pub(crate) struct Known<'a> {
    pub(crate) sandbox: &'a SandboxSpec,
    pub(crate) container: &'a ContainerSpec,
    pub(crate) oci: &'a OciContainer,
    pub(crate) user: &'a User,
    /// What it has; more than it keeps, where its filter is yet to be installed.
    pub(crate) at_first: Set,
    pub(crate) places: &'a Places,
    /// The pid namespace that it joins.
    pub(crate) pid_namespace: Option<&'a Path>,
    /// The user namespace that it joins, if the Pod has one.
    pub(crate) user_namespace: Option<PathBuf>,
    /// Whether there is only version 2.
    pub(crate) unified: bool,
}

/// The whole configuration, and the rules of its devices as version 2 wants them.
pub(crate) fn config(known: &Known<'_>) -> Result<(Value, Vec<Value>), Problem> {
    let Known { oci, sandbox, .. } = known;
    let devices = devices::of(oci)?;
    let mut namespaces = vec![json!({"type": "mount"})];
    if let Some(path) = &known.user_namespace {
        namespaces.push(json!({"type": "user", "path": path}));
    }
    let shared = sandbox.oci.as_ref().is_some_and(|o| o.host_pid);
    if let Some(path) = known.pid_namespace {
        namespaces.push(json!({"type": "pid", "path": path}));
    } else if !shared {
        namespaces.push(json!({"type": "pid"}));
    }
    if known.unified && !oci.privileged {
        namespaces.push(json!({"type": "cgroup"}));
    }
    // Only in a tree that is shared do mounts of the container's pass on to whoever shares the volume.
    let shares = |mount: &Mount| mount.propagation == Propagation::Bidirectional;
    let propagation = match known.container.mounts.iter().any(shares) {
        true => "shared",
        false => "slave",
    };
    let hidden =
        |paths: &[&str]| if oci.privileged || oci.unmasked { json!([]) } else { json!(paths) };
    let config = json!({
        "ociVersion": "1.0.2",
        "process": process(known),
        "root": {"path": known.places.rootfs, "readonly": oci.read_only},
        "mounts": mounts::of(known)?,
        "linux": {
            "namespaces": namespaces,
            "rootfsPropagation": propagation,
            "devices": devices.nodes,
            "maskedPaths": hidden(MASKED),
            "readonlyPaths": hidden(READ_ONLY),
        },
    });
    Ok((config, devices.rules))
}

fn process(known: &Known<'_>) -> Value {
    let Known { container, oci, .. } = known;
    let names: BTreeSet<String> = known.at_first.names();
    let User { uid, gid, groups, .. } = known.user;
    let mut user = json!({"uid": uid, "gid": gid, "additionalGids": groups});
    // Whatever the agent's own is.
    user["umask"] = json!(oci.umask.unwrap_or(0o022));
    json!({
        "terminal": oci.tty,
        "user": user,
        "args": container.args,
        "env": environment(known, oci.tty),
        // The program's own process goes to its folder, once it is who it is to be.
        "cwd": "/",
        "capabilities": {
            "bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": [],
        },
        "noNewPrivileges": oci.no_new_privileges,
    })
}

/// `NAME=value`, in order, each name once: the last counts.
pub(crate) fn environment(known: &Known<'_>, tty: bool) -> Vec<String> {
    let mut all: Vec<(&str, &str)> = Vec::new();
    let given = known.container.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let hostname =
        Some(("HOSTNAME", known.sandbox.hostname.as_str())).filter(|(_, h)| !h.is_empty());
    let usual = [("PATH", PATH), ("HOME", known.user.home.as_str())].into_iter().chain(hostname);
    let terminal = tty.then_some(("TERM", "xterm"));
    for (name, value) in usual.chain(terminal).chain(given) {
        match all.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = value,
            None => all.push((name, value)),
        }
    }
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The wanted score, or the nearest that this process may give: only a right that not every node has lowers it.
pub(crate) fn possible_score(wanted: i32) -> i32 {
    let wanted = wanted.clamp(-1000, 1000);
    let own = std::fs::read_to_string("/proc/self/oom_score_adj");
    let own: i32 = own.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    if wanted >= own || Set::of_process().is_ok_and(|set| set.has("SYS_RESOURCE")) {
        wanted
    } else {
        own
    }
}

/// An absolute path without `..`, as a mount's target has to be.
fn require_plain(path: &Path, field: &str) -> Result<(), Problem> {
    let plain = path.is_absolute()
        && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if plain {
        return Ok(());
    }
    let message = format!("{field}: {} is not an absolute path without \"..\"", path.display());
    Err(Problem::new(ProblemCode::InvalidSpec, message))
}

#[cfg(test)]
mod tests;
