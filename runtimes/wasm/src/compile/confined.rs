//! What the process that compiles denies itself, before it looks at a stranger's file.
//!
//! It needs no more than that file, a folder for the result, memory and time. So: `no_new_privs`; Landlock, by which it can read
//! the file, write into the folder, and neither connect nor listen; limits on memory, CPU time and file size that grow with the
//! size of the image. Whoever started it bounds its wall time. Going over a limit ends it by a signal, which tells them enough.

use std::fs;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};
use nix::sys::resource::{Resource, setrlimit};

use super::Job;

const MIB: u64 = 1 << 20;

/// Bounds on compiling an image of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: u64,
    /// Seconds of CPU time, of all threads; also a bound for the wall time.
    pub seconds: u64,
    /// Bytes of code.
    pub file: u64,
}

impl Limits {
    /// With room for interpreters compiled to Wasm, of 13 to 18 MB, in a debug build too: the end-to-end tests compile two.
    pub fn of(size: u64) -> Limits {
        let mib = size.div_ceil(MIB).min(256);
        let patience = if cfg!(debug_assertions) { 3 } else { 1 };
        Limits {
            memory: (1024 + 128 * mib).min(8 << 10) * MIB,
            seconds: (20 + 8 * mib) * patience,
            file: (64 + 40 * mib) * MIB,
        }
    }
}

/// Applies to this process. Call it from its first thread, before others are started.
///
/// # Errors
/// When a limit cannot be set. A kernel without Landlock is no error: it gets a line in the log.
pub(crate) fn confine(job: &Job) -> anyhow::Result<()> {
    let limits = Limits::of(fs::metadata(&job.wasm).map_or(0, |file| file.len()));
    // An instance's pool reserves address space beyond what it uses; memory that is written counts as data.
    let set = |resource, most| setrlimit(resource, most, most);
    set(Resource::RLIMIT_DATA, limits.memory)?;
    set(Resource::RLIMIT_AS, limits.memory + (64 << 30))?;
    set(Resource::RLIMIT_CPU, limits.seconds)?;
    set(Resource::RLIMIT_FSIZE, limits.file)?;
    set(Resource::RLIMIT_CORE, 0)?;
    set(Resource::RLIMIT_NOFILE, 64)?;
    nix::sys::prctl::set_no_new_privs()?;
    match restrict(job) {
        Ok(RulesetStatus::NotEnforced) => {
            tracing::warn!("this kernel has no Landlock: files are not restricted");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "files are not restricted"),
    }
    Ok(())
}

fn restrict(job: &Job) -> Result<RulesetStatus, landlock::RulesetError> {
    let abi = ABI::V4;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .create()?;
    if let Ok(file) = PathFd::new(&job.wasm) {
        ruleset = ruleset.add_rule(PathBeneath::new(file, AccessFs::ReadFile))?;
    }
    if let Ok(folder) = PathFd::new(&job.out) {
        ruleset = ruleset.add_rule(PathBeneath::new(folder, AccessFs::from_all(abi)))?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}
