//! What the host denies itself before it runs anybody's code. A component that breaks out of the
//! engine is still inside this process: the less it may do, the better.
//!
//! - `no_new_privs`: no program that it starts can gain rights;
//! - Landlock: only the given folders can be written, and what a resolver and the engine read can
//!   be read. Kernels without Landlock get a line in the log;
//! - as many open files as the system allows, since every connection is one.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Folders that the host may use, besides its data folder and its socket's.
#[derive(Clone, Debug, Default)]
pub struct Folders {
    /// May be read: images, for instance.
    pub read: Vec<PathBuf>,
    /// May be read and written: logs, volumes.
    pub write: Vec<PathBuf>,
}

/// What name resolution, the engine's pool and namespaces need to read.
const SYSTEM: &[&str] = &["/etc", "/lib", "/lib64", "/usr", "/proc", "/sys", "/run", "/dev"];

/// Applies to this thread and to all that it starts: call it before there are others.
pub(crate) fn confine(folders: Option<&Folders>) {
    raise_files();
    if let Err(error) = nix::sys::prctl::set_no_new_privs() {
        tracing::warn!(%error, "no_new_privs is not set");
    }
    let Some(folders) = folders else { return };
    match restrict(folders) {
        Ok(RulesetStatus::NotEnforced) => {
            tracing::warn!("this kernel has no Landlock: files are not restricted");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "files are not restricted"),
    }
}

fn raise_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

fn restrict(folders: &Folders) -> Result<RulesetStatus, landlock::RulesetError> {
    let abi = ABI::V3;
    let (read, all) = (AccessFs::from_read(abi), AccessFs::from_all(abi));
    let ruleset =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?;
    let mut ruleset = ruleset.create()?;
    let system = SYSTEM.iter().map(Path::new);
    let rules = system
        .chain(folders.read.iter().map(PathBuf::as_path))
        .map(|path| (path, read))
        .chain(folders.write.iter().map(|path| (path.as_path(), all)));
    for (path, access) in rules {
        // What does not exist needs no permission.
        if let Ok(folder) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(folder, access))?;
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}
