//! What the process that compiles denies itself, before it looks at a stranger's file.
//!
//! It needs no more than that file, which is open by then, a folder for the result, memory and time. So, as root: a root folder
//! of its own, in which there is that folder and nothing else, and a user of its own. In any case: `no_new_privs` and no
//! capability; Landlock, by which it can write into the folder, and neither connect nor listen; seccomp, by which it makes no
//! sockets and no processes; limits on memory, CPU time and file size that grow with the size of the image. Whoever started it bounds
//! its wall time. Going over a limit ends it by a signal, which tells them enough.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::fstat;

use super::Job;
use crate::confine;

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

/// Applies to this process, for an image of so many bytes; as root it becomes `user`. Call it from its first thread, before
/// others are started.
///
/// # Errors
/// When it cannot be confined. A kernel without Landlock is no error: it gets a line in the log.
pub(crate) fn confine(job: &Job, size: u64, user: Option<u32>) -> anyhow::Result<()> {
    let limits = Limits::of(size);
    // An instance's pool reserves address space beyond what it uses; memory that is written counts as data.
    let set = |resource, most| setrlimit(resource, most, most);
    set(Resource::RLIMIT_DATA, limits.memory)?;
    set(Resource::RLIMIT_AS, limits.memory + (64 << 30))?;
    // At the first one comes a signal that says why; where both are the same, it is one that does not.
    setrlimit(Resource::RLIMIT_CPU, limits.seconds, limits.seconds + 5)?;
    set(Resource::RLIMIT_FSIZE, limits.file)?;
    set(Resource::RLIMIT_CORE, 0)?;
    set(Resource::RLIMIT_NOFILE, 64)?;
    nix::sys::prctl::set_no_new_privs()?;
    confine::hide_all_but(&job.out, user)?;
    match restrict(job) {
        Ok(RulesetStatus::NotEnforced) => {
            tracing::warn!("this kernel has no Landlock: files are not restricted");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "files are not restricted"),
    }
    confine::disarm_compiler(user)
}

/// Whoever waits for the result holds the other end of this process's standard input. If they die, nobody else will end it.
pub(crate) fn end_with_parent() {
    let mut input = std::io::stdin();
    let is_pipe = fstat(&input).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO);
    if !is_pipe {
        return;
    }
    let watch = move || {
        let _ = std::io::copy(&mut input, &mut std::io::sink());
        std::process::exit(1);
    };
    let _ = std::thread::Builder::new().stack_size(64 << 10).spawn(watch);
}

fn restrict(job: &Job) -> Result<RulesetStatus, landlock::RulesetError> {
    let abi = ABI::V4;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .create()?;
    if let Ok(folder) = PathFd::new(&job.out) {
        ruleset = ruleset.add_rule(PathBeneath::new(folder, AccessFs::from_all(abi)))?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}
