//! What a container finds mounted.

use std::path::{Path, PathBuf};

use coracle_sandbox::Problem;
use serde_json::{Value, json};

use super::{Known, require_plain};
use crate::cgroup::TOP;

/// Places on the machine that go into a container.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Where its root file system is mounted.
    pub(crate) rootfs: PathBuf,
    /// The Pod's shared memory.
    pub(crate) shm: PathBuf,
    /// Files made for the Pod, by their path in the container.
    pub(crate) files: Vec<(PathBuf, PathBuf)>,
    /// Its control groups, by their path in the container; none where there is only version 2.
    pub(crate) groups: Vec<(PathBuf, PathBuf)>,
}

/// The container's own control groups. Those of version 1 are given one by one: libcontainer would find them by a process
/// number that means another process where the container is not the first of its pid namespace, and leave them writable.
fn groups(known: &Known<'_>, writable: &str) -> Vec<Value> {
    let options = |own| ["nosuid", "noexec", "nodev", "relatime", own];
    if known.unified {
        return vec![json!({"destination": TOP, "type": "cgroup", "source": "cgroup",
            "options": options(writable)})];
    }
    let top = json!({"destination": TOP, "type": "tmpfs", "source": "tmpfs",
        "options": options("mode=755")});
    let each = known.places.groups.iter().map(|(place, group)| {
        json!({"destination": place, "type": "bind", "source": group,
            "options": ["rbind", "nosuid", "noexec", "nodev", "relatime", writable]})
    });
    std::iter::once(top).chain(each).collect()
}

/// In the order in which they are mounted: targets above others first.
pub(super) fn of(known: &Known<'_>) -> Result<Vec<Value>, Problem> {
    let writable = if known.oci.privileged { "rw" } else { "ro" };
    let mut all = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", writable]}),
        json!({"destination": "/dev/shm", "type": "bind", "source": known.places.shm, "options": ["rbind", "rw"]}),
    ];
    all.extend(groups(known, writable));
    let given = &known.container.mounts;
    let replaced = |path: &Path| given.iter().any(|mount| mount.guest_path == path);
    for mount in given {
        // What people mount over the usual mounts takes their place.
        all.retain(|usual| usual["destination"].as_str().map(Path::new) != Some(&mount.guest_path));
    }
    for (path, file) in known.places.files.iter().filter(|(path, _)| !replaced(path)) {
        let access = if known.oci.read_only { "ro" } else { "rw" };
        all.push(json!({"destination": path, "type": "bind", "source": file, "options": ["rbind", access]}));
    }
    for mount in given {
        require_plain(&mount.guest_path, "mounts.guest_path")?;
        require_plain(&mount.host_path, "mounts.host_path")?;
        let mut options = vec!["rbind"];
        match (mount.read_only, mount.recursive_read_only) {
            (true, true) => options.extend(["ro", "rro"]),
            (true, false) => options.push("ro"),
            (false, _) => options.push("rw"),
        }
        all.push(json!({"destination": mount.guest_path, "type": "bind", "source": mount.host_path, "options": options}));
    }
    all.sort_by_key(|m| m["destination"].as_str().map_or(0, |p| Path::new(p).components().count()));
    Ok(all)
}
