//! Capabilities: which ones a container has, and giving up those that it has not.

use std::collections::BTreeSet;
use std::io;

use coracle_sandbox::{Capabilities, Problem, ProblemCode, rights};

/// Names by number, without `CAP_` (capabilities(7)).
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE",
    "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
    "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
];

/// What containers have where nothing is said: containerd's and Docker's set.
#[rustfmt::skip]
const USUAL: &[&str] = &[
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "NET_RAW",
    "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP",
];

/// What installing a system call filter and giving up rights afterwards takes.
const TO_CONFINE: &[&str] = &["SYS_ADMIN", "SETPCAP"];

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set(u64);

impl Set {
    fn of(names: &[&str]) -> Set {
        Set(names.iter().filter_map(|name| number(name)).fold(0, |set, n| set | 1 << n))
    }

    /// What this process may hand on: its bounding set.
    pub(crate) fn of_process() -> io::Result<Set> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
        bits.map(Set).ok_or_else(|| io::Error::other("/proc/self/status names no CapBnd"))
    }

    /// All that this kernel knows.
    pub(crate) fn of_kernel() -> io::Result<Set> {
        let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")?;
        let last: usize = last.trim().parse().map_err(io::Error::other)?;
        Ok(Set((1 << NAMES.len().min(last + 1)) - 1))
    }

    /// As the OCI runtime specification names them.
    pub(crate) fn names(self) -> BTreeSet<String> {
        let all = NAMES.iter().enumerate().filter(|(n, _)| self.0 & 1 << n != 0);
        all.map(|(_, name)| format!("CAP_{name}")).collect()
    }

    pub(crate) fn has(self, name: &str) -> bool {
        number(name).is_some_and(|n| self.0 & 1 << n != 0)
    }

    /// With what it takes to install a filter and to come back to this set.
    pub(crate) fn to_confine(self) -> Set {
        Set(self.0 | Set::of(TO_CONFINE).0)
    }

    /// As [`Set::keep_only`], for a process that has changed its user and was to keep its rights.
    pub(crate) fn keep_of_permitted(self) -> io::Result<()> {
        rights::keep(rights::permitted()?)?;
        self.keep_only()
    }

    /// Gives up all others, for good. Needs `CAP_SETPCAP`.
    pub(crate) fn keep_only(self) -> io::Result<()> {
        rights::bound(self.0)?;
        rights::keep(self.0)
    }
}

fn number(name: &str) -> Option<usize> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    NAMES.iter().position(|known| *known == name)
}

/// What a container has, in containerd's order: `ALL` first, then what is added, then what is dropped. `possible` is what
/// this machine can give.
pub(crate) fn of(change: &Capabilities, privileged: bool, possible: Set) -> Result<Set, Problem> {
    if privileged {
        return Ok(possible);
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let bit = |name: &String| {
        let upper = name.to_ascii_uppercase();
        number(&upper).map(|n| 1u64 << n).ok_or_else(|| {
            let message = format!("securityContext.capabilities: there is no capability {name:?}");
            Problem::new(ProblemCode::InvalidSpec, message)
        })
    };
    let mut set = if change.add.iter().any(is_all) { possible.0 } else { Set::of(USUAL).0 };
    if change.drop.iter().any(is_all) {
        set = 0;
    }
    for name in change.add.iter().filter(|name| !is_all(name)) {
        let bit = bit(name)?;
        if possible.0 & bit == 0 {
            let message = format!(
                "securityContext.capabilities.add: this node cannot give {name}, which it does not have itself"
            );
            return Err(Problem::new(ProblemCode::InvalidSpec, message));
        }
        set |= bit;
    }
    for name in change.drop.iter().filter(|name| !is_all(name)) {
        set &= !bit(name)?;
    }
    Ok(Set(set & possible.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expected: Result<&[&str], &str>) {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let change = Capabilities { add: owned(add), drop: owned(drop) };
        let possible = Set(((1 << NAMES.len()) - 1) & !(1 << 24));
        match (of(&change, false, possible), expected) {
            (Ok(set), Ok(names)) => assert_eq!(set, Set::of(names), "{add:?} {drop:?}"),
            (Err(problem), Err(word)) => assert!(problem.message.contains(word), "{problem}"),
            (got, _) => panic!("{add:?} {drop:?}: {got:?}"),
        }
    }

    #[test]
    fn additions_and_removals_meet() {
        check(&[], &[], Ok(USUAL));
        check(&[], &["ALL"], Ok(&[]));
        check(&["NET_ADMIN"], &["all"], Ok(&["NET_ADMIN"]));
        check(&["CAP_SYS_PTRACE"], &["ALL"], Ok(&["SYS_PTRACE"]));
        check(&["CHOWN"], &["ALL", "CHOWN"], Ok(&[]));
        check(&["WARP_DRIVE"], &[], Err("WARP_DRIVE"));
        check(&["SYS_RESOURCE"], &[], Err("cannot give SYS_RESOURCE"));
    }
}
