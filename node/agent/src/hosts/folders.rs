//! Where the Pods of one host have their logs and volumes. Hosts of different groups share no folder, so that what a
//! host may reach is said once, when it starts.

use std::path::PathBuf;

use crate::logs;

/// The folders of one group of Pods.
#[derive(Debug, Clone)]
pub struct Folders {
    /// Logs, a folder a Pod.
    pub logs: PathBuf,
    /// Volumes, a folder a Pod.
    pub volumes: PathBuf,
}

impl Folders {
    /// Those of the group whose things lie in `base`.
    pub(super) fn new(base: PathBuf) -> Self {
        Self { logs: base.join("logs"), volumes: base.join("volumes") }
    }

    /// Folder of a Pod's logs.
    pub fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        logs::pod_dir(&self.logs, namespace, name, uid)
    }

    /// Folder of a Pod's volumes.
    pub fn pod_volumes(&self, uid: &str) -> PathBuf {
        self.volumes.join(uid)
    }
}
