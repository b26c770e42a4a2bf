//! Limits, as files of groups. Numbers are converted as the kubelet does it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use coracle_sandbox::Resources;

use super::Folder;

/// The kubelet's `cpuCFSQuotaPeriod`, in microseconds.
const PERIOD: u64 = 100_000;
/// The kernel's least quota, in microseconds.
const LEAST_QUOTA: u64 = 1000;
/// Controllers that version 2 has to hand down.
const HANDED_DOWN: &[&str] = &["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// Makes the group, unless this hierarchy has nothing to do with limits, and sets them.
pub(super) fn apply(folder: &Folder, resources: &Resources) -> io::Result<()> {
    let settings = match &folder.controllers {
        Some(controllers) => {
            let all = controllers.iter().flat_map(|name| version_1(name, resources));
            all.collect::<Vec<_>>()
        }
        None => version_2(resources),
    };
    if settings.is_empty() {
        return Ok(());
    }
    make(folder)?;
    let mut failed = Vec::new();
    for (file, value) in &settings {
        if let Err(error) = set(&folder.path, file, value) {
            failed.push((file, value, error));
        }
    }
    // Memory and swap bound each other: which comes first depends on whether they grow.
    for (file, value, _) in failed {
        set(&folder.path, file, value)?;
    }
    Ok(())
}

fn set(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = folder.join(file);
    // Never created: that would be denied, where it is to be found missing.
    let written =
        File::options().write(true).open(&path).and_then(|mut f| f.write_all(value.as_bytes()));
    match written {
        // The kernel is built without it, or does not account for it. Limits that are asked for have to be there.
        Err(e) if e.kind() == io::ErrorKind::NotFound && is_optional(file, value) => Ok(()),
        Err(e) => {
            let message = format!("cannot set {} to {value}: {e}", path.display());
            Err(io::Error::new(e.kind(), message))
        }
        Ok(()) => Ok(()),
    }
}

fn is_optional(file: &str, value: &str) -> bool {
    matches!(value, "max" | "-1")
        || matches!(file, "memory.memsw.limit_in_bytes" | "memory.swap.max" | "memory.oom.group")
        || value.starts_with("max ")
        || file == "cpu.shares"
        || file == "cpu.weight"
}

/// `cpu.shares` of version 1, from requested millicores.
fn shares(millicores: u32) -> u64 {
    (u64::from(millicores) * 1024 / 1000).clamp(2, 262_144)
}

fn quota(millicores: u32) -> u64 {
    (u64::from(millicores) * PERIOD / 1000).max(LEAST_QUOTA)
}

fn version_1(controller: &str, wanted: &Resources) -> Vec<(String, String)> {
    let or_none = |limit: Option<u64>, none: &str| limit.map_or(none.into(), |l| l.to_string());
    let own = |file: &str, value: String| (file.to_owned(), value);
    match controller {
        "memory" => {
            let limit = or_none(wanted.memory_limit, "-1");
            vec![
                own("memory.limit_in_bytes", limit.clone()),
                own("memory.memsw.limit_in_bytes", limit),
            ]
        }
        "cpu" => vec![
            own("cpu.shares", shares(wanted.cpu_weight).to_string()),
            own("cpu.cfs_period_us", PERIOD.to_string()),
            own("cpu.cfs_quota_us", or_none(wanted.cpu_limit.map(quota), "-1")),
        ],
        "pids" => vec![own("pids.max", or_none(wanted.pids_limit, "max"))],
        "hugetlb" => {
            let sizes = wanted.hugepages.iter();
            sizes
                .map(|(size, l)| (format!("hugetlb.{size}.limit_in_bytes"), l.to_string()))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn version_2(wanted: &Resources) -> Vec<(String, String)> {
    let or_max = |limit: Option<u64>| limit.map_or("max".into(), |l| l.to_string());
    let own = |file: &str, value: String| (file.to_owned(), value);
    let quota = or_max(wanted.cpu_limit.map(quota));
    let mut all = vec![
        // The whole container goes when memory runs out, as the kubelet has it.
        own("memory.oom.group", "1".into()),
        own("memory.max", or_max(wanted.memory_limit)),
        own("memory.swap.max", if wanted.memory_limit.is_some() { "0" } else { "max" }.into()),
        own("cpu.weight", (1 + (shares(wanted.cpu_weight) - 2) * 9999 / 262_142).to_string()),
        own("cpu.max", format!("{quota} {PERIOD}")),
        own("pids.max", or_max(wanted.pids_limit)),
    ];
    let sizes = wanted.hugepages.iter();
    all.extend(sizes.map(|(size, limit)| (format!("hugetlb.{size}.max"), limit.to_string())));
    all
}

/// Makes a group and those above it; in version 2, controllers reach down to it.
pub(super) fn make(folder: &Folder) -> io::Result<()> {
    if let Some(controllers) = &folder.controllers {
        fs::create_dir_all(&folder.path)?;
        if controllers.iter().any(|name| name == "cpuset") {
            inherit(&folder.path, &folder.top, "cpuset.cpus")?;
            inherit(&folder.path, &folder.top, "cpuset.mems")?;
        }
        return Ok(());
    }
    let Ok(relative) = folder.path.strip_prefix(&folder.top) else {
        return Err(io::Error::other("a group outside its hierarchy"));
    };
    let mut path = folder.top.clone();
    for part in relative.components() {
        for name in HANDED_DOWN {
            // Not every kernel has every controller; limits that need a missing one fail later.
            let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{name}"));
        }
        path.push(part);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Gives a new group of version 1 what the one above it has: it takes no process before.
fn inherit(group: &Path, top: &Path, file: &str) -> io::Result<()> {
    let Some(above) = group.parent().filter(|_| group != top) else { return Ok(()) };
    let place = group.join(file);
    if !fs::read_to_string(&place)?.trim().is_empty() {
        return Ok(());
    }
    inherit(above, top, file)?;
    fs::write(place, fs::read_to_string(above.join(file))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kubelets() {
        let wanted = Resources { cpu_weight: 250, cpu_limit: Some(500), ..Resources::default() };
        let cpu = version_1("cpu", &wanted);
        let values: Vec<&str> = cpu.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["256", "100000", "50000"]);
        let two = version_2(&wanted);
        let get = |file: &str| two.iter().find(|(f, _)| f == file).unwrap().1.clone();
        assert_eq!(get("cpu.weight"), "10");
        assert_eq!(get("cpu.max"), "50000 100000");
        assert_eq!(get("memory.max"), "max");
        assert_eq!(version_1("cpu", &Resources::default())[0].1, "2");
        let least = Resources { cpu_limit: Some(1), ..Resources::default() };
        assert_eq!(version_1("cpu", &least)[2].1, "1000");
    }
}
