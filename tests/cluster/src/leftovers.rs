//! What a cluster leaves on a machine: processes, network namespaces with the mounts that name them, links, nftables tables,
//! cgroups, mounts in its folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use coracle_network::linux::nft::{Rules, RulesConfig, Scope};
use coracle_network::{Cidr, ClusterRanges};
use nix::mount::{MntFlags, umount2};
use serde_json::Value;

use crate::process;

/// Where network namespaces have their names.
const NAMESPACES: &str = "/run/netns";
/// Where cgroups are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Where to look for what a cluster leaves.
pub(crate) struct Leftovers {
    folder: PathBuf,
    id: Option<String>,
    network: Option<RulesConfig>,
}

impl Leftovers {
    /// Of the cluster with this data folder. `root`: whether it administers the machine's network.
    pub(crate) fn of(folder: &Path, root: bool) -> Self {
        let found = network(folder);
        let id = found.as_ref().map(|(id, _)| id.clone());
        let network = found.filter(|_| root).map(|(_, rules)| rules);
        Self { folder: folder.to_owned(), id, network }
    }

    /// Of a machine that is a node alone, with this data folder. What of it is in its own network namespace goes with that.
    pub(crate) fn of_node(folder: &Path) -> Self {
        let seed = coracle_network::ranges::seed(folder.as_os_str().as_encoded_bytes());
        let id = format!("{:08x}", seed as u32);
        let nowhere = Cidr::new(std::net::Ipv4Addr::UNSPECIFIED, 32);
        let ranges = ClusterRanges { pods: nowhere, services: nowhere };
        let network = Some(rules(&id, ranges));
        Self { folder: folder.to_owned(), id: Some(id), network }
    }

    /// What there is.
    pub(crate) fn list(&self) -> Vec<String> {
        let processes = process::of_folder(&self.folder);
        let mut found: Vec<String> =
            processes.into_iter().map(|(pid, line)| format!("process {pid}: {line}")).collect();
        if let Some(config) = &self.network {
            if Rules::open(config.clone()).and_then(|rules| rules.exists()).unwrap_or(false) {
                found.push(format!("nftables table {}", config.table));
            }
            for link in named("/sys/class/net", &config.link) {
                found.push(format!("network link {link}"));
            }
            found.extend(
                self.namespaces()
                    .iter()
                    .map(|path| format!("network namespace {}", path.display())),
            );
        }
        found.extend(self.cgroups().iter().map(|path| format!("cgroup {}", path.display())));
        found.extend(self.mounts().iter().map(|path| format!("mount {}", path.display())));
        found
    }

    /// Processes in the cluster's cgroups.
    fn contained(&self) -> Vec<i32> {
        self.processes_in("")
    }

    /// Processes in those of the cluster's cgroups whose path has these words in it.
    pub(crate) fn processes_in(&self, words: &str) -> Vec<i32> {
        let groups = self.cgroups().into_iter();
        let groups = groups.filter(|group| group.to_string_lossy().contains(words));
        let lists = groups.map(|group| group.join("cgroup.procs"));
        let texts = lists.map(|list| fs::read_to_string(list).unwrap_or_default());
        let texts: String = texts.collect::<Vec<_>>().join("\n");
        // Each is in a group of every hierarchy.
        let found: BTreeSet<i32> =
            texts.lines().filter_map(|line| line.trim().parse().ok()).collect();
        found.into_iter().filter(|pid| *pid > 1).collect()
    }

    /// Names of the cluster's network namespaces, those of its isolation groups included.
    fn namespaces(&self) -> Vec<PathBuf> {
        let Some(config) = &self.network else { return Vec::new() };
        let all = named(NAMESPACES, &config.table).into_iter();
        all.map(|name| Path::new(NAMESPACES).join(name)).collect()
    }

    /// Its cgroups in all hierarchies, inner ones first.
    fn cgroups(&self) -> Vec<PathBuf> {
        let Some(id) = &self.id else { return Vec::new() };
        let mut found = Vec::new();
        for hierarchy in [CGROUPS.into()].into_iter().chain(folders(Path::new(CGROUPS))) {
            let cluster = hierarchy.join("coracle").join(id);
            if cluster.is_dir() {
                below(&cluster, &mut found);
            }
        }
        found
    }

    /// Mounts in its folder, and of its network namespaces; inner ones first.
    fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
        let names = self.namespaces();
        let ours = points.filter(|path| path.starts_with(&self.folder) || names.contains(path));
        let mut found: Vec<PathBuf> = ours.collect();
        found.reverse();
        found
    }

    /// Ends all processes by force.
    pub(crate) fn kill(&self) {
        // A supervisor may start a host anew while others are being killed.
        for _ in 0..3 {
            let ours = process::of_folder(&self.folder).into_iter().map(|(pid, _)| pid);
            // What runs in containers has any name.
            for pid in ours.chain(self.contained()) {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Removes all of it.
    pub(crate) fn remove(&self) {
        self.kill();
        if let Some(config) = &self.network {
            if let Ok(mut rules) = Rules::open(config.clone()) {
                let _ = rules.delete();
            }
            // Links go with the namespaces that their other ends are in.
            for path in self.namespaces() {
                let _ = umount2(&path, MntFlags::MNT_DETACH);
                let _ = fs::remove_file(&path);
            }
        }
        for path in self.mounts() {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
        // A process that was killed leaves its cgroup a moment later.
        for _ in 0..50 {
            let left = self.cgroups();
            left.iter().for_each(|path| drop(fs::remove_dir(path)));
            if left.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        // What all clusters' are in stays as long as another has some there.
        for hierarchy in [CGROUPS.into()].into_iter().chain(folders(Path::new(CGROUPS))) {
            let _ = fs::remove_dir(hierarchy.join("coracle"));
        }
    }
}

/// A group and those below it, the inner ones first.
fn below(group: &Path, found: &mut Vec<PathBuf>) {
    folders(group).into_iter().for_each(|inner| below(&inner, found));
    found.push(group.to_owned());
}

/// What in a folder has a name that begins so.
fn named(folder: &str, name: &str) -> Vec<String> {
    let all = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = all.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|found| found.starts_with(name)).collect()
}

fn folders(of: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(of).into_iter().flatten().flatten();
    let all = all.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    all.map(|entry| entry.path()).collect()
}

/// The cluster's network, as its data folder remembers it.
fn network(folder: &Path) -> Option<(String, RulesConfig)> {
    let kept: Value = serde_json::from_slice(&fs::read(folder.join("network.json")).ok()?).ok()?;
    let id = kept["cluster_id"].as_str()?.to_owned();
    let ranges: ClusterRanges = serde_json::from_value(kept).ok()?;
    let rules = rules(&id, ranges);
    Some((id, rules))
}

fn rules(id: &str, ranges: ClusterRanges) -> RulesConfig {
    let ClusterRanges { pods, services } = ranges;
    RulesConfig {
        table: format!("coracle-{id}"),
        scope: Scope::Host,
        link: format!("cor-{id}"),
        pods,
        cluster: pods,
        services,
    }
}
