//! The Pod's namespaces, which are the shim's own: containers are started in them, and need not enter them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use coracle_sandbox::{OciSandbox, Problem, ProblemCode, SandboxSpec, UserMapping};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::users::Users;

/// In the Pod's folder: the `/dev/shm` of its containers.
pub(super) const SHARED_MEMORY: &str = "shm";
/// In the Pod's folder: where the files of each container are mounted while it lives, and what libcontainer leaves there. In
/// memory: it is nobody's after the shim's end, and files made and removed on a disk take longer than all the rest of a start.
pub(super) const CONTAINERS: &str = "containers";
/// Bytes of it at most.
const NOTES: u64 = 64 << 20;
/// Docker's and containerd's size of `/dev/shm`.
const SHM: u64 = 64 << 20;

/// What a Pod was given.
pub(super) struct Entered {
    /// The machine's own mount namespace, for volumes whose mounts are to reach it.
    pub(super) machine: File,
    /// Users of its own, if it is to have them.
    pub(super) users: Option<Users>,
}

/// Enters them, and makes what belongs to them. Only once in a process's life.
pub(super) fn enter(
    spec: &SandboxSpec,
    oci: &OciSandbox,
    folder: &Path,
) -> Result<Entered, Problem> {
    let machine = File::open("/proc/self/ns/mnt").map_err(|error| {
        let message = format!("cannot open the machine's mount namespace: {error}");
        Problem::new(ProblemCode::Internal, message)
    })?;
    let failed = |what: String| {
        move |error: nix::Error| Problem::new(ProblemCode::Internal, format!("{what}: {error}"))
    };
    let users = oci.users.map(|mapping| enter_users(mapping, spec, oci, folder)).transpose()?;
    let mut new = CloneFlags::CLONE_NEWNS;
    if users.is_none() && !oci.host_ipc {
        new |= CloneFlags::CLONE_NEWIPC;
    }
    if users.is_none() && !oci.host_network {
        new |= CloneFlags::CLONE_NEWUTS;
    }
    unshare(new).map_err(failed("cannot make the Pod's namespaces".into()))?;
    // The machine's later mounts arrive here; nothing goes the other way.
    let receive = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount::<str, str, str, str>(None, "/", None, receive, None)
        .map_err(failed("cannot part from the machine's mounts".into()))?;
    if let Some(path) = spec.netns.as_ref().filter(|_| users.is_none() && !oci.host_network) {
        let named = |error: std::io::Error| {
            let message = format!("netns: cannot enter {}: {error}", path.display());
            Problem::new(ProblemCode::InvalidSpec, message)
        };
        let netns = File::open(path).map_err(named)?;
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(|e| named(e.into()))?;
    }
    if !oci.host_network && !spec.hostname.is_empty() {
        nix::unistd::sethostname(&spec.hostname)
            .map_err(failed(format!("hostname: cannot set {}", spec.hostname)))?;
    }
    if users.is_none() {
        set_all(spec, oci)?;
    }
    let size = oci.shm_bytes.unwrap_or(SHM);
    let root = users.as_ref().map_or(0, |users| users.on_machine(0));
    let options = format!("mode=1777,size={size},uid={root},gid={root}");
    mount_memory(&folder.join(SHARED_MEMORY), &options)?;
    mount_memory(&folder.join(CONTAINERS), &format!("mode=700,size={NOTES}"))?;
    Ok(Entered { machine, users })
}

/// Enters those that belong to the Pod's user namespace, but for that itself: this process stays the machine's root. What is
/// set in them is set by one of the Pod's own, since numbers of users are meant as it has them.
fn enter_users(
    mapping: UserMapping,
    spec: &SandboxSpec,
    oci: &OciSandbox,
    folder: &Path,
) -> Result<Users, Problem> {
    let shared =
        [("hostNetwork", oci.host_network), ("hostPID", oci.host_pid), ("hostIPC", oci.host_ipc)];
    if let Some((field, _)) = shared.iter().find(|(_, is_shared)| *is_shared) {
        let message = format!("{field}: not possible with hostUsers: false");
        return Err(Problem::new(ProblemCode::InvalidSpec, message));
    }
    let failed = |error: io::Error| {
        let message = format!(
            "hostUsers: cannot make the Pod's user namespace ({error}); the kernel needs CONFIG_USER_NS, and room in /proc/sys/user/max_user_namespaces"
        );
        Problem::new(ProblemCode::Internal, message)
    };
    let (users, network) = Users::find(mapping, spec.netns.as_deref()).map_err(failed)?;
    users.require_mapped_mounts(folder)?;
    let unshared = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    let [ipc, uts] = users.fork(["ipc", "uts"], || {
        unshare(unshared)
            .and_then(|()| setns(&network, CloneFlags::CLONE_NEWNET))
            .map_err(|e| failed(e.into()))?;
        // All of the Pod's groups may ping; those that the network allows it are the machine's.
        if Path::new("/proc/sys/net/ipv4/ping_group_range").exists() {
            set("net.ipv4.ping_group_range", &format!("0 {}", mapping.count - 1), spec, oci)?;
        }
        set_all(spec, oci)
    })?;
    setns(&ipc, CloneFlags::CLONE_NEWIPC)
        .and_then(|()| setns(&uts, CloneFlags::CLONE_NEWUTS))
        .and_then(|()| setns(&network, CloneFlags::CLONE_NEWNET))
        .map_err(|e| failed(e.into()))?;
    Ok(users)
}

/// Sets the kernel parameters that the Pod asks for.
fn set_all(spec: &SandboxSpec, oci: &OciSandbox) -> Result<(), Problem> {
    oci.sysctls.iter().try_for_each(|(name, value)| set(name, value, spec, oci))
}

/// Takes away what keeps the Pod's folder from being removed.
pub(super) fn leave(folder: &Path) {
    for name in [SHARED_MEMORY, CONTAINERS] {
        let _ = umount2(&folder.join(name), MntFlags::MNT_DETACH);
    }
}

fn mount_memory(folder: &Path, options: &str) -> Result<(), Problem> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot mount a tmpfs at {}: {error}", folder.display());
        Problem::new(ProblemCode::Internal, message)
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some(options))
        .map_err(|error| failed(error.into()))
}

/// Sets a kernel parameter of this process's namespaces.
fn set(name: &str, value: &str, spec: &SandboxSpec, oci: &OciSandbox) -> Result<(), Problem> {
    let refuse = |why: String| {
        let message = format!("securityContext.sysctls: {name}: {why}");
        Err(Problem::new(ProblemCode::InvalidSpec, message))
    };
    // Slashes and dots may be exchanged, where a network device has a dot in its name (sysctl.d(5)).
    let slashes = name.find('/').is_some_and(|s| name.find('.').is_none_or(|d| s < d));
    let parts: Vec<&str> = name.split(if slashes { '/' } else { '.' }).collect();
    let plain = |part: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && part != ".." && part != "." && part.chars().all(good)
    };
    if parts.len() < 2 || !parts.iter().all(|part| plain(part)) {
        return refuse("not a kernel parameter's name".into());
    }
    let ipc = match parts[..] {
        ["net", ..] => false,
        ["fs", "mqueue", ..] => true,
        ["kernel", p] if p.starts_with("shm") || p.starts_with("msg") || p == "sem" => true,
        _ => {
            return refuse(
                "not a parameter of a namespace, so it would be the whole node's".into(),
            );
        }
    };
    if ipc && oci.host_ipc {
        return refuse("not possible with hostIPC".into());
    }
    if !ipc && (oci.host_network || spec.netns.is_none() && oci.users.is_none()) {
        return refuse("not possible with hostNetwork".into());
    }
    let path: PathBuf = Path::new("/proc/sys").join(parts.iter().collect::<PathBuf>());
    match fs::write(&path, value) {
        Ok(()) => Ok(()),
        Err(error) => refuse(format!("cannot set it to {value}: {error}")),
    }
}
