//! What a cluster leaves on a machine: processes, its namespace with the mount that names it, its nftables table.

use std::fs;
use std::path::{Path, PathBuf};

use coracle_network::linux::NetNs;
use coracle_network::linux::nft::{Rules, RulesConfig, Scope};
use coracle_network::{Cidr, ClusterRanges};
use serde_json::Value;

use crate::process;

/// Where to look for what a cluster leaves.
pub(crate) struct Leftovers {
    folder: PathBuf,
    network: Option<RulesConfig>,
}

impl Leftovers {
    /// Of the cluster with this data folder. `root`: whether it administers the machine's network.
    pub(crate) fn of(folder: &Path, root: bool) -> Self {
        let network = root.then(|| rules(folder)).flatten();
        Self { folder: folder.to_owned(), network }
    }

    /// What there is.
    pub(crate) fn list(&self) -> Vec<String> {
        let processes = process::of_folder(&self.folder);
        let mut found: Vec<String> =
            processes.into_iter().map(|(pid, line)| format!("process {pid}: {line}")).collect();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut words = vec![self.folder.to_string_lossy().into_owned()];
        if let Some(config) = &self.network {
            if netns(config).exists() {
                found.push(format!("network namespace {}", config.table));
            }
            if Rules::open(config.clone()).and_then(|rules| rules.exists()).unwrap_or(false) {
                found.push(format!("nftables table {}", config.table));
            }
            // Isolation groups have networks whose names begin as the cluster's own.
            let named = |folder: &str, name: &str| {
                let all = fs::read_dir(folder).into_iter().flatten().flatten();
                let names = all.filter_map(|entry| entry.file_name().into_string().ok());
                names.filter(|found| found.starts_with(name)).collect::<Vec<_>>()
            };
            for link in named("/sys/class/net", &config.link) {
                found.push(format!("network link {link}"));
            }
            for group in named("/run/netns", &format!("{}-", config.table)) {
                found.push(format!("network namespace {group}"));
            }
            words.push(netns(config).to_string_lossy().into_owned());
        }
        let ours = mounts.lines().filter(|line| words.iter().any(|word| line.contains(word)));
        found.extend(ours.map(|line| format!("mount {line}")));
        found
    }

    /// Removes all of it.
    pub(crate) fn remove(&self) {
        // A supervisor may start a host anew while others are being killed.
        for _ in 0..3 {
            for (pid, _) in process::of_folder(&self.folder) {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        if let Some(config) = &self.network {
            if let Ok(mut rules) = Rules::open(config.clone()) {
                let _ = rules.delete();
            }
            if netns(config).exists()
                && let Ok(namespace) = NetNs::ensure(&netns(config))
            {
                let _ = namespace.remove();
            }
        }
    }
}

fn netns(config: &RulesConfig) -> PathBuf {
    Path::new("/run/netns").join(&config.table)
}

/// The cluster's network, as its data folder remembers it.
fn rules(folder: &Path) -> Option<RulesConfig> {
    let kept: Value = serde_json::from_slice(&fs::read(folder.join("network.json")).ok()?).ok()?;
    let id = kept["cluster_id"].as_str()?.to_owned();
    let ranges: ClusterRanges = serde_json::from_value(kept).ok()?;
    let (pods, services): (Cidr, Cidr) = (ranges.pods, ranges.services);
    Some(RulesConfig {
        table: format!("coracle-{id}"),
        scope: Scope::Host,
        link: format!("cor-{id}"),
        pods,
        services,
    })
}
