//! Control groups for the processes that hold workloads: `coracle/CLUSTER/NAME` in every hierarchy that bounds
//! something, be it version 2, version 1, or both mixed.
//!
//! A machine that lets us make none (a container, an ordinary user to whom nothing was delegated) gets none: limits
//! within a host hold all the same, these are for what a host itself costs. They lie at the top, not below the agent's
//! own group: what ends the agent's service must not end workloads.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// Where version 2 is, if version 1 is at [`MOUNT`].
const UNIFIED: &str = "/sys/fs/cgroup/unified";
/// What is bounded.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Bounds of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: u64,
    /// Share of CPU against other groups, in requested millicores.
    pub cpu: u32,
    /// Most threads and processes.
    pub tasks: u32,
}

/// The groups of one cluster's node.
#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    cluster: String,
}

/// One mounted tree.
#[derive(Debug, Clone)]
struct Hierarchy {
    /// The folder in which `coracle` is made.
    base: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// All controllers in one tree.
    Two,
    /// A tree for this controller.
    One(&'static str),
}

/// A group that exists.
#[derive(Debug)]
pub struct Cgroup {
    folders: Vec<(Version, PathBuf)>,
    limits: Option<Limits>,
}

impl Cgroups {
    /// Where groups can be made on this machine; none where nowhere.
    pub fn find(cluster: &str) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let hierarchies: Vec<Hierarchy> = candidates(
            Path::new(MOUNT),
            Path::new(UNIFIED),
            &own,
            nix::unistd::geteuid().is_root(),
        )
        .into_iter()
        .filter(|h| h.prepare(cluster).is_ok())
        .collect();
        if hierarchies.is_empty() {
            tracing::info!("no cgroups can be made here; hosts are bounded by themselves only");
            return None;
        }
        Some(Self { hierarchies, cluster: cluster.to_owned() })
    }

    /// The group of this name, made or found.
    pub fn ensure(&self, name: &str) -> io::Result<Cgroup> {
        let mut folders = Vec::new();
        for hierarchy in &self.hierarchies {
            let folder = hierarchy.folder(&self.cluster).join(name);
            make(&folder)?;
            folders.push((hierarchy.version, folder));
        }
        Ok(Cgroup { folders, limits: None })
    }

    /// Names of the groups that there are.
    pub fn existing(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .hierarchies
            .iter()
            .flat_map(|h| fs::read_dir(h.folder(&self.cluster)).into_iter().flatten().flatten())
            .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Removes a group, in which no process must be any more.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            remove(&hierarchy.folder(&self.cluster).join(name))?;
        }
        Ok(())
    }

    /// Ends every process in a group and below it, and removes all that; it need not be there. A container runtime makes groups
    /// in every tree, also in such as bound nothing here.
    ///
    /// Blocks until they are gone, as long as `patience` lasts.
    pub fn destroy(&self, name: &str, patience: Duration) -> io::Result<()> {
        let started = Instant::now();
        for folder in self.everywhere() {
            let folder = folder.join(name);
            while kill_below(&folder) {
                if started.elapsed() > patience {
                    let message = format!("{}: its processes do not end", folder.display());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            remove_below(&folder)?;
        }
        Ok(())
    }

    /// Removes what there is for the cluster; every process must be gone.
    pub fn remove_all(&self) -> io::Result<()> {
        for name in self.existing() {
            self.remove(&name)?;
        }
        for folder in self.everywhere() {
            remove_below(&folder)?;
            // Other clusters of this machine have theirs in there.
            let _ = folder.parent().map(fs::remove_dir);
        }
        Ok(())
    }

    /// The cluster's folder in every tree of this machine; not all need be there.
    fn everywhere(&self) -> Vec<PathBuf> {
        let mount = Path::new(MOUNT);
        let trees = fs::read_dir(mount).into_iter().flatten().flatten().map(|entry| entry.path());
        // Below version 2 these are groups, not trees.
        let apart = !mount.join("cgroup.procs").exists();
        let trees = trees.filter(|tree| apart && tree.join("cgroup.procs").exists());
        let own = self.hierarchies.iter().map(|hierarchy| hierarchy.base.clone());
        let mut folders: Vec<PathBuf> =
            own.chain(trees).map(|tree| tree.join("coracle").join(&self.cluster)).collect();
        folders.sort();
        folders.dedup();
        folders
    }
}

/// Trees in which this process may perhaps make groups. `own` is `/proc/self/cgroup`.
fn candidates(mount: &Path, unified: &Path, own: &str, root: bool) -> Vec<Hierarchy> {
    let two = |top: &Path| {
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        // What is delegated to a user begins at some group above this process's own.
        let base = if root { top.to_owned() } else { top.join(own).parent()?.to_owned() };
        Some(Hierarchy { base, version: Version::Two })
    };
    if mount.join("cgroup.controllers").exists() {
        return two(mount).into_iter().collect();
    }
    let one = CONTROLLERS.iter().filter_map(|&controller| {
        let base = mount.join(controller);
        let there = base.join("cgroup.procs").exists();
        there.then_some(Hierarchy { base, version: Version::One(controller) })
    });
    // Beside version 1, version 2 has what is left of controllers, often none.
    let rest = fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
    let useful = rest.split_whitespace().any(|name| CONTROLLERS.contains(&name));
    one.chain(useful.then(|| two(unified)).flatten()).collect()
}

impl Hierarchy {
    fn folder(&self, cluster: &str) -> PathBuf {
        self.base.join("coracle").join(cluster)
    }

    /// Makes the cluster's folder, with controllers that reach down to its groups. All workloads together weigh as much as
    /// the machine has cores, as below the kubelet: with the weight of a single process, a machine's worth of them would
    /// have to make room for any other that is busy.
    fn prepare(&self, cluster: &str) -> io::Result<()> {
        let folder = self.folder(cluster);
        let above = self.base.join("coracle");
        for path in [&above, &folder] {
            make(path)?;
        }
        if self.version == Version::Two {
            for path in [&self.base, &above, &folder] {
                let there = fs::read_to_string(path.join("cgroup.controllers"))?;
                for name in
                    CONTROLLERS.iter().filter(|c| there.split_whitespace().any(|t| t == **c))
                {
                    fs::write(path.join("cgroup.subtree_control"), format!("+{name}"))?;
                }
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        if let Some((file, value)) = weight(self.version, cores) {
            for path in [&above, &folder].map(|folder| folder.join(file)) {
                if path.exists() {
                    fs::write(path, &value)?;
                }
            }
        }
        Ok(())
    }
}

/// The file that says what a group weighs, and what it says for so many cores: for each, what a single process or a group
/// weighs of which nothing is said.
fn weight(version: Version, cores: u64) -> Option<(&'static str, String)> {
    match version {
        Version::Two => Some(("cpu.weight", (100 * cores).min(10_000).to_string())),
        Version::One("cpu") => Some(("cpu.shares", (1024 * cores).min(262_144).to_string())),
        Version::One(_) => None,
    }
}

impl Cgroup {
    /// Puts limits in force, as far as the machine's controllers go. Nothing is written that was written before.
    pub fn limit(&mut self, limits: Limits) -> io::Result<()> {
        if self.limits == Some(limits) {
            return Ok(());
        }
        for (version, folder) in &self.folders {
            for (file, value) in settings(*version, &limits) {
                let path = folder.join(file);
                // A controller that is not there has no files; swap may not be accounted for.
                if path.exists() {
                    fs::write(path, value)?;
                }
            }
        }
        self.limits = Some(limits);
        Ok(())
    }

    /// Files to which a process writes `0` to move into the group.
    pub fn doors(&self) -> io::Result<Vec<File>> {
        let open = |(_, folder): &(Version, PathBuf)| {
            File::options().write(true).open(folder.join("cgroup.procs"))
        };
        self.folders.iter().map(open).collect()
    }
}

/// Files and what they are to say.
fn settings(version: Version, limits: &Limits) -> Vec<(&'static str, String)> {
    // As the kubelet converts millicores.
    let shares = (u64::from(limits.cpu) * 1024 / 1000).clamp(2, 262_144);
    match version {
        Version::Two => vec![
            // Swapped pages are not reported as written, which the engine relies on. In this order: a host that
            // asks finds swap forbidden from its start.
            ("memory.swap.max", "0".to_owned()),
            ("memory.max", limits.memory.to_string()),
            ("cpu.weight", (1 + (shares - 2) * 9999 / 262_142).to_string()),
            ("pids.max", limits.tasks.to_string()),
        ],
        Version::One("memory") => vec![
            ("memory.swappiness", "0".to_owned()),
            ("memory.limit_in_bytes", limits.memory.to_string()),
        ],
        Version::One("cpu") => vec![("cpu.shares", shares.to_string())],
        Version::One("pids") => vec![("pids.max", limits.tasks.to_string())],
        Version::One(_) => Vec::new(),
    }
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// A process that ends leaves its group a moment after it can no longer be seen.
fn remove(folder: &Path) -> io::Result<()> {
    const TRIES: u32 = 200;
    for _ in 0..TRIES {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && !has_groups(folder) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(()),
        }
    }
    fs::remove_dir(folder)
}

/// Kills what is in a group and below it; whether there was anything. A group that forks while it is killed is met again.
fn kill_below(folder: &Path) -> bool {
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let mut found = false;
    for pid in processes.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
        found = true;
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    groups(folder).fold(found, |found, group| kill_below(&group) || found)
}

/// Removes a group with those below it.
fn remove_below(folder: &Path) -> io::Result<()> {
    for group in groups(folder) {
        remove_below(&group)?;
    }
    remove(folder)
}

fn groups(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path())
}

fn has_groups(folder: &Path) -> bool {
    groups(folder).next().is_some()
}

#[cfg(test)]
mod tests;
