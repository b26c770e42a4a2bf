//! Control groups of a Pod and its containers: limits, use, and the end of everything in them.
//!
//! Version 1, version 2, or both mixed: whatever is mounted. libcontainer could do part of this, but looks for every group
//! anew and moves processes in the way that waits for all of the machine's.

mod devices;
mod limits;
mod mounts;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_sandbox::{Resources, Usage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub(crate) use mounts::Mounts;

/// Where hierarchies are mounted.
pub(crate) const TOP: &str = "/sys/fs/cgroup";
/// How deep groups within a container's own are looked for.
const DEPTH: usize = 16;

/// One group, in all hierarchies.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    folders: Vec<Folder>,
}

/// A group in one hierarchy.
#[derive(Clone, Debug)]
struct Folder {
    path: PathBuf,
    /// Where the hierarchy is mounted.
    top: PathBuf,
    /// Of version 1; none: version 2.
    controllers: Option<Vec<String>>,
}

impl Group {
    /// The group at this absolute path in every hierarchy; it need not exist.
    pub(crate) fn at(mounts: &Mounts, path: &Path) -> Group {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let folders = mounts.0.iter().map(|mount| Folder {
            path: mount.path.join(relative),
            top: mount.path.clone(),
            controllers: mount.controllers.clone(),
        });
        Group { folders: folders.collect() }
    }

    /// Makes the group where limits are, and sets them.
    pub(crate) fn limit(&self, resources: &Resources) -> io::Result<()> {
        for folder in &self.folders {
            limits::apply(folder, resources)?;
        }
        Ok(())
    }

    /// Makes it in every hierarchy.
    pub(crate) fn make(&self) -> io::Result<()> {
        self.folders.iter().try_for_each(limits::make)
    }

    /// Allows its processes the devices of these rules, in the OCI runtime specification's words, of which the last that
    /// fits counts.
    pub(crate) fn restrict_devices(&self, rules: &[Value]) -> io::Result<()> {
        self.folders.iter().try_for_each(|folder| devices::restrict(folder, rules))
    }

    /// Moves this process, which must have one thread, into it, in every hierarchy in which it exists.
    pub(crate) fn join(&self) -> io::Result<()> {
        for folder in self.folders.iter().filter(|folder| folder.path.exists()) {
            // A thread that moves itself need not wait until no process of the machine forks or ends, which takes
            // milliseconds. Version 2 has no such file for groups that bound memory.
            let file = if folder.controllers.is_some() { "tasks" } else { "cgroup.procs" };
            fs::write(folder.path.join(file), "0")?;
        }
        Ok(())
    }

    /// What its processes used. What cannot be read counts as nothing.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for folder in &self.folders {
            if folder.has("memory") {
                let (total, inactive) = match folder.controllers {
                    Some(_) => ("memory.usage_in_bytes", "total_inactive_file"),
                    None => ("memory.current", "inactive_file"),
                };
                let inactive = folder.keyed("memory.stat", inactive).unwrap_or(0);
                if let Some(total) = folder.number(total) {
                    usage.memory_bytes = total.saturating_sub(inactive);
                }
            }
            if folder.controllers.is_none() {
                if let Some(micros) = folder.keyed("cpu.stat", "usage_usec") {
                    usage.cpu_nanoseconds = usage.cpu_nanoseconds.max(micros * 1000);
                }
            } else if folder.has("cpuacct") {
                usage.cpu_nanoseconds = folder.number("cpuacct.usage").unwrap_or(0);
            }
            if folder.has("pids") {
                usage.pids = folder.number("pids.current").unwrap_or(usage.pids);
            }
        }
        usage
    }

    /// How often the kernel killed one of its processes for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let counts = self.folders.iter().filter(|f| f.has("memory")).map(|folder| {
            let file =
                if folder.controllers.is_some() { "memory.oom_control" } else { "memory.events" };
            folder.keyed(file, "oom_kill").unwrap_or(0)
        });
        counts.max().unwrap_or(0)
    }

    /// Whether no process is in it, nor in groups below it.
    pub(crate) fn is_empty(&self) -> bool {
        self.folders.iter().all(|folder| processes(&folder.path, DEPTH).is_empty())
    }

    /// Sends SIGKILL to all processes in it and below it, once.
    pub(crate) fn kill(&self) {
        for folder in &self.folders {
            if folder.controllers.is_none()
                && fs::write(folder.path.join("cgroup.kill"), "1").is_ok()
            {
                continue;
            }
            for pid in processes(&folder.path, DEPTH) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// As [`Group::kill`], for processes that multiply faster than they are found: they are stopped first.
    pub(crate) fn kill_frozen(&self) {
        let freezer = self.folders.iter().find(|f| {
            f.controllers.as_ref().is_some_and(|c| c.iter().any(|name| name == "freezer"))
        });
        let Some(freezer) = freezer else { return self.kill() };
        let _ = fs::write(freezer.path.join("freezer.state"), "FROZEN");
        self.kill();
        let _ = fs::write(freezer.path.join("freezer.state"), "THAWED");
    }

    /// Removes the group and those below it; whether nothing of it is left. Processes that are ending hold it for a moment.
    pub(crate) fn remove(&self) -> bool {
        // All are tried, whatever becomes of the first.
        self.folders.iter().filter(|folder| !remove(&folder.path, DEPTH)).count() == 0
    }

    /// Kills and removes, waiting for at most `patience`; whether all is gone.
    pub(crate) fn destroy(&self, patience: Duration) -> bool {
        const STEP: Duration = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        loop {
            if waited < 10 * STEP {
                self.kill()
            } else {
                self.kill_frozen()
            }
            if self.remove() {
                return true;
            }
            if waited >= patience {
                return false;
            }
            std::thread::sleep(STEP);
            waited += STEP;
        }
    }

    /// Its folders of version 1, by where programs look for them.
    pub(crate) fn shown(&self) -> Vec<(PathBuf, PathBuf)> {
        let mut shown = Vec::new();
        for folder in &self.folders {
            // Several controllers may be one hierarchy, which is found under each of their names.
            let names = folder.controllers.iter().flatten().map(Path::new);
            let mut places: Vec<PathBuf> = names.map(|name| Path::new(TOP).join(name)).collect();
            if !places.is_empty() && !places.contains(&folder.top) {
                places.push(folder.top.clone());
            }
            shown.extend(places.into_iter().map(|place| (place, folder.path.clone())));
        }
        shown
    }

    /// The folder of version 2, if that is all there is.
    pub(crate) fn unified(&self) -> Option<&Path> {
        match &self.folders[..] {
            [Folder { path, controllers: None, .. }] => Some(path),
            _ => None,
        }
    }
}

impl Folder {
    /// Whether this controller is in force here.
    fn has(&self, controller: &str) -> bool {
        match &self.controllers {
            Some(names) => names.iter().any(|name| name == controller),
            None => fs::read_to_string(self.path.join("cgroup.controllers"))
                .is_ok_and(|names| names.split_whitespace().any(|name| name == controller)),
        }
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.path.join(file)).ok()?.trim().parse().ok()
    }

    fn keyed(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.path.join(file)).ok()?;
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            if name == key { value.trim().parse().ok() } else { None }
        })
    }
}

fn folders_in(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path())
}

fn processes(path: &Path, depth: usize) -> Vec<i32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    // Processes of other pid namespaces are numbered 0.
    let mut all: Vec<i32> =
        text.lines().filter_map(|l| l.parse().ok()).filter(|p| *p > 0).collect();
    if depth > 0 {
        folders_in(path).for_each(|folder| all.extend(processes(&folder, depth - 1)));
    }
    all
}

fn remove(path: &Path, depth: usize) -> bool {
    match fs::remove_dir(path) {
        Ok(()) => return true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
        Err(_) => {}
    }
    if depth > 0 {
        for folder in folders_in(path) {
            remove(&folder, depth - 1);
        }
    }
    fs::remove_dir(path).is_ok()
}

#[cfg(test)]
mod tests;
