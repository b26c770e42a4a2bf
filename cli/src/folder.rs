//! The data folder: where it is, whose it is, and what lies where.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use coracle_network::{Cidr, ClusterRanges, Mode, Neighbourhood, choose_ranges, neighbourhood};
use coracle_server::auth::NetworkFacts;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// Longest path of the folder of sockets, in bytes: the system's limit for a socket's own path is 107.
const MAX_SOCKETS_PATH: usize = 75;

/// `/var/lib/coracle` for root, the XDG data folder otherwise.
pub(crate) fn default() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/coracle");
    }
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("/tmp"))
        .join("coracle")
}

/// File in which a cluster's network is kept.
const NETWORK: &str = "network.json";

#[derive(Serialize, Deserialize)]
struct Kept {
    cluster_id: String,
    #[serde(flatten)]
    ranges: ClusterRanges,
}

/// A data folder that exists.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
}

/// Holds a part of the folder for this process.
pub(crate) struct Claim {
    _lock: Flock<File>,
}

impl Folder {
    /// Opens the folder, making it (0700) where it is missing.
    pub(crate) fn open(path: Option<PathBuf>) -> anyhow::Result<Self> {
        let path = path.unwrap_or_else(default);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        let path = made.and_then(|()| path.canonicalize()).with_context(|| {
            format!("cannot use the data folder {}; choose another with --data", path.display())
        })?;
        Ok(Self { path })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Claims the folder as `server` or as `agent`; fails at once if another process has it.
    pub(crate) fn claim(&self, role: &str) -> anyhow::Result<Claim> {
        let path = self.path.join(format!("{role}.lock"));
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.with_context(|| {
            format!("cannot write to the data folder {}; run as its owner, or choose another with --data", self.path.display())
        })?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, _)| {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            anyhow!(
                "the data folder {} is in use by another coracle (process {}); stop that one, or choose another folder with --data",
                self.path.display(),
                holder.trim()
            )
        })?;
        let pid = std::process::id();
        lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| write!(lock, "{pid}"))?;
        Ok(Claim { _lock: lock })
    }

    /// A subfolder, made where it is missing.
    pub(crate) fn sub(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// The admin's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.path.join("admin.kubeconfig")
    }

    /// Where hosts have their sockets. Where the folder's own path is too long for them, this is a private folder below
    /// `/tmp`.
    pub(crate) fn host_sockets(&self) -> anyhow::Result<PathBuf> {
        let path = self.sub("host")?;
        if path.as_os_str().len() <= MAX_SOCKETS_PATH {
            return Ok(path);
        }
        let seed = coracle_network::ranges::seed(self.path.as_os_str().as_encoded_bytes());
        let folder = PathBuf::from(format!("/tmp/coracle-{}-{seed:016x}", nix::unistd::geteuid()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                use std::os::unix::fs::MetadataExt;
                let found = std::fs::symlink_metadata(&folder)?;
                if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
                    bail!(
                        "{} belongs to somebody else; choose a data folder with a shorter path",
                        folder.display()
                    );
                }
            }
            Err(error) => return Err(error).with_context(|| folder.display().to_string()),
        }
        Ok(folder)
    }

    /// The cluster's network, chosen on the first start and kept. What is asked for (`pods`, `services`) is chosen then, and
    /// cannot be changed later.
    pub(crate) fn network(
        &self,
        pods: Option<Cidr>,
        services: Option<Cidr>,
    ) -> anyhow::Result<NetworkFacts> {
        let path = self.path.join(NETWORK);
        let kept = match self.kept_network()? {
            Some(kept) => kept,
            None => {
                let text = self.path.to_string_lossy();
                let mut ranges = match (pods, services) {
                    (Some(pods), Some(services)) => ClusterRanges { pods, services },
                    _ => choose_ranges(Mode::detect(), &text)?,
                };
                ranges.pods = pods.unwrap_or(ranges.pods);
                ranges.services = services.unwrap_or(ranges.services);
                check(&ranges)?;
                let found = neighbourhood(&self.hash())?;
                for (flag, what, range) in [
                    ("--pod-range", "Pod", ranges.pods),
                    ("--service-range", "Service", ranges.services),
                ] {
                    if let Some(way) = Neighbourhood::in_the_way(&found, range) {
                        bail!(
                            "the {what} range {range} overlaps {}, which this machine reaches by {}; choose another with {flag}",
                            way.range,
                            way.link
                        );
                    }
                }
                let kept = Kept { cluster_id: self.hash(), ranges };
                std::fs::write(&path, serde_json::to_vec_pretty(&kept)?)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                kept
            }
        };
        let asked = [("--pod-range", pods, kept.ranges.pods)];
        let asked = asked.into_iter().chain([("--service-range", services, kept.ranges.services)]);
        for (flag, asked, has) in asked {
            if asked.is_some_and(|asked| asked != has) {
                bail!(
                    "this cluster's range is {has}, which {flag} cannot change: start it without, or another one with --data"
                );
            }
        }
        Ok(NetworkFacts {
            cluster_id: kept.cluster_id,
            pod_range: kept.ranges.pods.to_string(),
            service_range: kept.ranges.services.to_string(),
        })
    }

    /// What tells what this folder's node has on this machine apart from what others have: the cluster's id, where the folder
    /// is the server's too.
    pub(crate) fn id(&self) -> anyhow::Result<String> {
        Ok(self.kept_network()?.map_or_else(|| self.hash(), |kept| kept.cluster_id))
    }

    fn kept_network(&self) -> anyhow::Result<Option<Kept>> {
        let path = self.path.join(NETWORK);
        let Ok(bytes) = std::fs::read(&path) else { return Ok(None) };
        let kept = serde_json::from_slice(&bytes);
        kept.map(Some)
            .with_context(|| format!("{} is damaged; restore it from a backup", path.display()))
    }

    fn hash(&self) -> String {
        let seed = coracle_network::ranges::seed(self.path.as_os_str().as_encoded_bytes());
        format!("{:08x}", seed as u32)
    }
}

/// Whether ranges that somebody asked for can work.
fn check(ranges: &ClusterRanges) -> anyhow::Result<()> {
    let ClusterRanges { pods, services } = ranges;
    if pods.overlaps(*services) {
        bail!(
            "the Pod range {pods} and the Service range {services} overlap; choose others with --pod-range and --service-range"
        );
    }
    if pods.prefix() > 28 {
        bail!("the Pod range {pods} of --pod-range is too small: a node has at least a /28");
    }
    if services.prefix() > 28 {
        bail!(
            "the Service range {services} of --service-range is too small: it has at least a /28"
        );
    }
    Ok(())
}
