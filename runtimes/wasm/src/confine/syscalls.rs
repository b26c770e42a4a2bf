//! seccomp: the system calls that a host makes, or a process that compiles. Everything else fails with EPERM: there is no
//! running of programs (`execve`), no new process, no namespaces or mounts, no looking into other
//! processes, no kernel extensions, and no unix socket to another program.
//!
//! The kernel remembers for which calls the answer does not depend on arguments, and does not run
//! the filter for those again: what guests' requests are made of costs nothing measurable.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Size, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// Calls for requests, that are allowed whatever their arguments.
#[rustfmt::skip]
const NETWORK: &[libc::c_long] = &[
    libc::SYS_accept, libc::SYS_accept4, libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg,
    libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg,
    libc::SYS_shutdown, libc::SYS_bind, libc::SYS_listen, libc::SYS_connect,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt,
];

/// Other calls that are allowed whatever their arguments.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // Descriptors.
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_close,
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2, libc::SYS_pipe2, libc::SYS_ppoll, libc::SYS_pselect6,
    // Threads and time.
    libc::SYS_futex, libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_rseq,
    libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_set_tid_address,
    libc::SYS_clone3, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_restart_syscall,
    libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_clock_gettime,
    libc::SYS_clock_getres, libc::SYS_gettimeofday, libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime, libc::SYS_getcpu, libc::SYS_membarrier, libc::SYS_getrusage,
    // Memory and signals.
    libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_mremap, libc::SYS_madvise,
    libc::SYS_brk, libc::SYS_msync, libc::SYS_mincore, libc::SYS_memfd_create,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait, libc::SYS_sigaltstack,
    // Files.
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_close_range, libc::SYS_dup, libc::SYS_dup3,
    libc::SYS_fcntl, libc::SYS_flock, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_statfs, libc::SYS_fstatfs, libc::SYS_faccessat, libc::SYS_faccessat2,
    libc::SYS_lseek, libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_preadv, libc::SYS_pwritev,
    libc::SYS_preadv2, libc::SYS_pwritev2, libc::SYS_copy_file_range, libc::SYS_sendfile,
    libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_fadvise64, libc::SYS_fsync,
    libc::SYS_fdatasync, libc::SYS_sync_file_range, libc::SYS_getdents64, libc::SYS_getcwd,
    libc::SYS_mkdirat, libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2,
    libc::SYS_linkat, libc::SYS_symlinkat, libc::SYS_readlinkat, libc::SYS_utimensat,
    libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_umask,
    // Itself.
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getegid, libc::SYS_getppid, libc::SYS_uname, libc::SYS_sysinfo,
    libc::SYS_getrandom,
];

/// Older forms of the same, which not every architecture has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLDER: &[libc::c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access,
    libc::SYS_readlink, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_rename,
    libc::SYS_link, libc::SYS_symlink, libc::SYS_chmod, libc::SYS_dup2, libc::SYS_pipe,
    libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_create, libc::SYS_epoll_wait,
    libc::SYS_eventfd, libc::SYS_time, libc::SYS_getdents, libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// What a thread is made with, and what must not be made with it.
const THREAD: u64 = libc::CLONE_THREAD as u64;
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;
/// `PAGEMAP_SCAN`: which pages were written, for the engine.
const PAGEMAP_SCAN: u64 = 0xc060_6610;
/// `PR_SET_VMA`: names for memory, which allocators give.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// Which filters could not be made or put in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum SyscallsError {
    #[error("filter: {0}")]
    Filter(#[from] seccompiler::BackendError),
    #[error("{0}; the kernel must have seccomp filters")]
    Apply(#[from] seccompiler::Error),
}

/// Restricts all threads; without a network also to no sockets.
pub(super) fn restrict(network: bool) -> Result<(), SyscallsError> {
    // In this order: the second one allows no third.
    for filter in [unseen()?, allowed(network)?] {
        seccompiler::apply_filter_all_threads(&filter)?;
    }
    Ok(())
}

fn arch() -> Result<TargetArch, seccompiler::BackendError> {
    std::env::consts::ARCH.try_into()
}

fn allowed(network: bool) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> =
        ALLOWED.iter().chain(OLDER).map(|number| (*number, Vec::new())).collect();
    if network {
        rules.extend(NETWORK.iter().map(|number| (*number, Vec::new())));
    }
    let mut with = |number, argument, size: Size, is: Is, values: &[u64]| {
        let mut all = Vec::new();
        for value in values {
            let condition = SeccompCondition::new(argument, size.clone(), is.clone(), *value)?;
            all.push(SeccompRule::new(vec![condition])?);
        }
        rules.insert(number, all);
        Ok::<_, seccompiler::BackendError>(())
    };
    // Threads, but no processes and no namespaces.
    with(libc::SYS_clone, 0, Size::Qword, Is::MaskedEq(THREAD | NAMESPACES), &[THREAD])?;
    let families = [libc::AF_INET as u64, libc::AF_INET6 as u64];
    if network {
        with(libc::SYS_socket, 0, Size::Dword, Is::Eq, &families)?;
        with(libc::SYS_socketpair, 0, Size::Dword, Is::Eq, &[libc::AF_UNIX as u64])?;
    }
    // A signal to itself, as `abort` sends it; the limits of itself.
    let own = u64::from(std::process::id());
    with(libc::SYS_tgkill, 0, Size::Dword, Is::Eq, &[own])?;
    with(libc::SYS_prlimit64, 0, Size::Dword, Is::Eq, &[0])?;
    let names = [libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, PR_SET_VMA];
    with(libc::SYS_prctl, 0, Size::Dword, Is::Eq, &names)?;
    let requests = [PAGEMAP_SCAN, libc::FIONBIO, libc::FIONREAD, libc::FIOCLEX, libc::TCGETS];
    with(libc::SYS_ioctl, 1, Size::Dword, Is::Eq, &requests)?;
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch()?)?.try_into()
}

/// `clone3` has its flags where a filter cannot look. Told that there is no such call, the C
/// library makes its threads with `clone`.
fn unseen() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let refuse = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch()?)?.try_into()
}
