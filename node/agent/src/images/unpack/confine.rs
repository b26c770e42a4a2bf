//! What the process that unpacks denies itself, before it looks at a stranger's layer.
//!
//! It needs one folder, and of root's rights those by which files get owners, devices and attributes. So: the folder becomes
//! its root (`chroot`), Landlock allows writing there and nothing else, all other capabilities go, and of system calls only
//! those on files that are open or below the root remain: no programs, processes, sockets, mounts or namespaces.
//!
//! All of this belongs to the calling thread and to those that it starts.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use coracle_sandbox::rights;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};
use seccompiler::{SeccompFilter, SeccompRule};

use super::{Fault, Limits, Refusal, tree};

const MIB: u64 = 1 << 20;
/// Bytes of memory: the largest window of a packed layer, names, and room.
const MEMORY: u64 = 768 * MIB;

/// Bounds the process's memory, time and files; going over one ends it by a signal.
pub(super) fn bound(limits: &Limits) -> Result<(), Errno> {
    // Bounds that are narrower already stay: only some may widen them.
    let set = |resource, most: u64| {
        let (_, hard) = getrlimit(resource)?;
        setrlimit(resource, most.min(hard), most.min(hard))
    };
    let patience = if cfg!(debug_assertions) { 10 } else { 1 };
    set(Resource::RLIMIT_DATA, MEMORY)?;
    // Unpacking 10 MiB takes far less than a second.
    set(Resource::RLIMIT_CPU, (60 + limits.bytes / (10 * MIB)) * patience)?;
    set(Resource::RLIMIT_CORE, 0)?;
    set(Resource::RLIMIT_NOFILE, 2048)
}

/// Makes `folder` all that there is. Its descriptor.
pub(super) fn enter(folder: &Path) -> Result<OwnedFd, Refusal> {
    let failed = |doing: &'static str| move |errno| Refusal::system(doing, errno);
    nix::sys::prctl::set_no_new_privs().map_err(failed("no_new_privs"))?;
    // Landlock names the folder by its path, so it comes before the root.
    if let Err(error) = landlock(folder) {
        tracing::warn!(%error, "files are not restricted by Landlock");
    }
    // Root and working folder are the process's; from here on they are this thread's own.
    unshare(CloneFlags::CLONE_FS).map_err(failed("unshare"))?;
    nix::unistd::chroot(folder).map_err(failed("make the folder the root"))?;
    nix::unistd::chdir("/").map_err(failed("make the folder the root"))?;
    let number = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
    let root =
        tree::open_root(Path::new("/")).map_err(number).map_err(failed("open the folder"))?;
    // Those that are not there to be kept will be missed by the entry that needs them.
    let kept = rights::permitted().map(|permitted| permitted & KEPT);
    kept.and_then(rights::keep).map_err(number).map_err(failed("give up rights"))?;
    restrict_calls().map_err(|message| Refusal { fault: Fault::Rights, message })?;
    Ok(root)
}

/// Whether nobody holds the other end of this pipe any more.
pub(super) fn is_abandoned(pipe: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(pipe, PollFlags::empty())];
    let hung = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled[0].revents().is_some_and(|events| events.intersects(hung))
}

/// Kernels without it have the root folder instead. The first version, which cannot allow hard links between folders, is not
/// used.
fn landlock(folder: &Path) -> Result<(), RulesetError> {
    let Ok(opened) = PathFd::new(folder) else { return Ok(()) };
    let files = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V2))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::from_all(ABI::V4))?;
    let writing = AccessFs::from_all(ABI::V5) & !(AccessFs::Execute | AccessFs::IoctlDev);
    files.create()?.add_rule(PathBeneath::new(opened, writing))?.restrict_self()?;
    Ok(())
}

/// `CAP_CHOWN`, `DAC_OVERRIDE`, `FOWNER`, `FSETID`, `SYS_ADMIN` (for `trusted.overlay.opaque`), `MKNOD` and `SETFCAP`.
const KEPT: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 21 | 1 << 27 | 1 << 31;

/// Calls that are allowed whatever their arguments.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // The layer, the answer, and files.
    libc::SYS_read, libc::SYS_readv, libc::SYS_write, libc::SYS_writev, libc::SYS_pwrite64,
    libc::SYS_lseek, libc::SYS_close, libc::SYS_dup, libc::SYS_fcntl, libc::SYS_ppoll,
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_getdents64, libc::SYS_readlinkat, libc::SYS_ftruncate,
    libc::SYS_mkdirat, libc::SYS_mknodat, libc::SYS_symlinkat, libc::SYS_linkat,
    libc::SYS_unlinkat, libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_fchmod,
    libc::SYS_fchmodat, libc::SYS_utimensat, libc::SYS_fsetxattr,
    // Memory, time, and its own end.
    libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_mremap, libc::SYS_madvise,
    libc::SYS_brk, libc::SYS_futex, libc::SYS_sched_yield, libc::SYS_clock_gettime,
    libc::SYS_getrandom, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn, libc::SYS_sigaltstack, libc::SYS_restart_syscall,
    libc::SYS_gettid, libc::SYS_getpid, libc::SYS_exit, libc::SYS_exit_group,
    libc::SYS_set_robust_list, libc::SYS_rseq,
];

/// An older form of `ppoll`, which not every architecture has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

fn restrict_calls() -> Result<(), String> {
    let filter = || {
        let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> =
            ALLOWED.iter().chain(OLDER).map(|number| (*number, Vec::new())).collect();
        // A signal to itself, as `abort` sends it.
        let own = u64::from(std::process::id());
        let own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, own)?;
        rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![own])?]);
        let refuse = SeccompAction::Errno(libc::EPERM as u32);
        let arch = std::env::consts::ARCH.try_into()?;
        SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()
    };
    let filter: Result<BpfProgram, seccompiler::BackendError> = filter();
    let filter = filter.map_err(|error| format!("seccomp filter: {error}"))?;
    seccompiler::apply_filter(&filter)
        .map_err(|error| format!("{error}; the kernel must have seccomp filters"))
}
