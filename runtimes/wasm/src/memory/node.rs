//! What containers without a memory limit may take: what the node has, but for a reserve.
//!
//! The kernel would kill the whole host for one guest. So growth is watched: after each so many bytes, the kernel is asked
//! what is left, the more often the less that is. Once only the reserve is left, whoever holds much and wants more is
//! refused, as the kernel's OOM killer picks the large ones; the others go on.

use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// A container that holds no more than this may grow when little is left.
const SMALL: u64 = 128 << 20;
/// What is never given to those without limits: a twentieth of the machine, and at least this.
const RESERVE: u64 = 256 << 20;

/// Bytes that may be taken before the kernel is asked again.
static LEFT: AtomicI64 = AtomicI64::new(0);

/// Whether a container that holds `used` may take more.
pub(super) fn may_grow(bytes: u64, used: u64) -> bool {
    let wanted = i64::try_from(bytes).unwrap_or(i64::MAX);
    if LEFT.fetch_sub(wanted, Relaxed) >= wanted || used.saturating_add(bytes) <= SMALL {
        return true;
    }
    let spare = available().saturating_sub(reserve());
    if bytes > spare {
        tracing::warn!(bytes, used, spare, "the node is short of memory");
        return false;
    }
    LEFT.store(i64::try_from((spare - bytes) / 2).unwrap_or(i64::MAX), Relaxed);
    true
}

fn reserve() -> u64 {
    static TOTAL: LazyLock<u64> = LazyLock::new(|| meminfo("MemTotal:").unwrap_or(0));
    (*TOTAL / 20).max(RESERVE)
}

/// What the kernel could give: of the machine's, and of this process's cgroup's.
fn available() -> u64 {
    let machine = meminfo("MemAvailable:").unwrap_or(u64::MAX);
    machine.min(in_cgroup().unwrap_or(u64::MAX))
}

fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
}

fn in_cgroup() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let read = |file| fs::read_to_string(format!("/sys/fs/cgroup{path}/{file}")).ok();
    let most: u64 = read("memory.max")?.trim().parse().ok()?;
    let current: u64 = read("memory.current")?.trim().parse().ok()?;
    Some(most.saturating_sub(current))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_has_not_is_refused_to_the_large() {
        let machine = meminfo("MemTotal:").unwrap();
        assert!(may_grow(1 << 20, 0));
        assert!(may_grow(SMALL, 0));
        assert!(!may_grow(machine, SMALL));
        // A refusal leaves the others as they were.
        assert!(may_grow(1 << 20, SMALL));
    }
}
