//! Where hierarchies are mounted.

use std::io;
use std::path::PathBuf;

/// All hierarchies of the machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mounts(pub(super) Vec<Mount>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) path: PathBuf,
    /// Of version 1; none: version 2.
    pub(super) controllers: Option<Vec<String>>,
}

/// Controllers of version 1 that libcontainer makes groups in.
const CONTROLLERS: &[&str] = &[
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

impl Mounts {
    /// As this process sees them.
    pub(crate) fn find() -> io::Result<Mounts> {
        let mounts = Mounts::read(&std::fs::read_to_string("/proc/self/mountinfo")?);
        if mounts.0.is_empty() {
            let message = "no cgroups are mounted; containers need them at /sys/fs/cgroup";
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        Ok(mounts)
    }

    /// From `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
    pub(super) fn read(text: &str) -> Mounts {
        let mut mounts: Vec<Mount> = Vec::new();
        for line in text.lines() {
            let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
            let path = mount.split(' ').nth(4).unwrap_or_default();
            // Only the hierarchies' usual place: others have them mounted for themselves.
            if !path.starts_with(super::TOP) {
                continue;
            }
            let mut words = filesystem.split(' ');
            let found = match words.next() {
                Some("cgroup2") => Mount { path: path.into(), controllers: None },
                Some("cgroup") => {
                    let options = words.nth(1).unwrap_or_default().split(',');
                    let known = options.filter(|name| CONTROLLERS.contains(name));
                    let controllers: Vec<String> = known.map(str::to_owned).collect();
                    if controllers.is_empty() {
                        continue;
                    }
                    Mount { path: path.into(), controllers: Some(controllers) }
                }
                _ => continue,
            };
            let again = mounts.iter().any(|m| m.controllers == found.controllers);
            if !again {
                mounts.push(found);
            }
        }
        // Beside version 1, version 2 is left alone, as libcontainer does.
        if mounts.iter().any(|m| m.controllers.is_some()) {
            mounts.retain(|m| m.controllers.is_some());
        }
        Mounts(mounts)
    }
}
