//! CPU and memory of Pods with containers, read from their control groups: to ask every shim each second would cost more than
//! most containers use.

use std::fs;
use std::path::{Path, PathBuf};

const MOUNT: &str = "/sys/fs/cgroup";

/// Where the kernel counts on this machine.
#[derive(Debug)]
pub(super) struct Groups {
    /// The tree that counts CPU and its file, of version 1 or 2.
    cpu: (PathBuf, &'static str),
    /// The same for memory, and what in `memory.stat` can be taken back.
    memory: (PathBuf, &'static str, &'static str),
}

impl Groups {
    pub(super) fn find() -> Groups {
        let mount = Path::new(MOUNT);
        let one = |name: &str| Some(mount.join(name)).filter(|t| t.join("cgroup.procs").exists());
        Groups {
            cpu: match one("cpuacct") {
                Some(tree) => (tree, "cpuacct.usage"),
                None => (mount.to_owned(), "cpu.stat"),
            },
            memory: match one("memory") {
                Some(tree) => (tree, "memory.usage_in_bytes", "total_inactive_file"),
                None => (mount.to_owned(), "memory.current", "inactive_file"),
            },
        }
    }

    /// Nanoseconds that the processes of a group used, and of those below it; none where there is no such group.
    pub(super) fn cpu(&self, group: &Path) -> Option<u64> {
        let (tree, file) = &self.cpu;
        let text = fs::read_to_string(below(tree, group).join(file)).ok()?;
        match text.trim().parse() {
            Ok(nanoseconds) => Some(nanoseconds),
            Err(_) => keyed(&text, "usage_usec").map(|micros| micros * 1000),
        }
    }

    /// Bytes that they hold and that cannot be taken back.
    pub(super) fn memory(&self, group: &Path) -> Option<u64> {
        let (tree, file, inactive) = &self.memory;
        let folder = below(tree, group);
        let held: u64 = fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()?;
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        Some(held.saturating_sub(keyed(&stat, inactive).unwrap_or(0)))
    }

    /// Some process of a group.
    pub(super) fn process(&self, group: &Path) -> Option<u32> {
        let procs = fs::read_to_string(below(&self.cpu.0, group).join("cgroup.procs")).ok()?;
        procs.lines().find_map(|line| line.parse().ok().filter(|pid| *pid > 0))
    }
}

/// Connections that a process's network namespace has accepted since it exists, and that it has open.
pub(super) fn connections(process: u32) -> Option<(u64, u64)> {
    parse_snmp(&fs::read_to_string(format!("/proc/{process}/net/snmp")).ok()?)
}

pub(super) fn parse_snmp(text: &str) -> Option<(u64, u64)> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let of = |wanted: &str| {
        let mut pairs = names.split(' ').zip(values.split(' '));
        pairs.find(|(name, _)| *name == wanted)?.1.parse().ok()
    };
    Some((of("PassiveOpens")?, of("CurrEstab")?))
}

fn below(tree: &Path, group: &Path) -> PathBuf {
    tree.join(group.strip_prefix("/").unwrap_or(group))
}

fn keyed(text: &str, key: &str) -> Option<u64> {
    let values = text.lines().filter_map(|line| line.split_once(' '));
    values.filter(|(name, _)| *name == key).find_map(|(_, value)| value.trim().parse().ok())
}
