//! Making a container and starting its first process.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use coracle_sandbox::beneath::Found;
use coracle_sandbox::{Mount, Problem, ProblemCode, Propagation};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::console::Console;
use super::program::{Program, Told};
use super::{Started, Streams, Subject, give, internal};
use crate::capabilities::{self, Set};
use crate::rootfs::{self, Root};
use crate::seccomp;
use crate::spec::{self, Known};
use crate::user::{self, User};

const WORDS: &str = "OCI runtime create failed: unable to start container process";

/// Makes and starts the container. What there is of it after a failure, its cgroup and its folder, is the caller's to remove.
pub(super) fn create(subject: &Subject<'_>, streams: Streams) -> Result<Started, Problem> {
    let rootfs = subject.places.rootfs.clone();
    std::fs::create_dir_all(&rootfs).map_err(|e| internal("cannot make the root folder", e))?;
    let mut mounts = own_mounts(subject)?;
    let oci = subject.oci;
    rootfs::mount_overlay(&oci.layers, &oci.upper, &rootfs)?;
    let root = Root::open(&rootfs).map_err(|e| internal("cannot open the root file system", e))?;
    root.require_folders(&["dev", "proc", "sys"])?;
    for folder in &oci.folders {
        root.describe(folder).map_err(|error| {
            let path = folder.path.display();
            internal(&format!("cannot give the image's {path} its attributes"), error)
        })?;
    }
    let user = user::resolve(&root, oci)?;
    let folder = subject.container.working_dir.clone().unwrap_or_else(|| "/".into());
    if !mounts.iter().any(|mount| folder.starts_with(&mount.guest_path)) {
        root.make_folders(&folder);
    }
    mounts.extend(image_volumes(&root, subject, &mounts)?);
    drop(root);

    let rights = Rights::of(subject)?;
    let container = coracle_sandbox::ContainerSpec { mounts, ..subject.container.clone() };
    let known = Known { container: &container, ..rights.known(subject, &user) };
    let (config, rules) = spec::config(&known)?;
    std::fs::write(subject.folder.join("config.json"), config.to_string())
        .map_err(|e| internal("cannot write the container's configuration", e))?;

    let told = Told::new().map_err(|e| internal("cannot make a pipe", e))?;
    let program = Program {
        args: container.args.clone(),
        env: spec::environment(&known, oci.tty),
        folder,
        filter: rights.filter,
        keep: rights.keep,
        words: WORDS,
        told: told.number(),
    };
    let console = match oci.tty {
        true => Some(
            Console::listen(&subject.folder, "console.sock")
                .map_err(|e| internal("cannot wait for the terminal", e))?,
        ),
        false => None,
    };
    let run = subject.folder.join("run");
    std::fs::create_dir_all(&run).map_err(|e| internal("cannot make a folder", e))?;
    let builder = || {
        let mut builder = ContainerBuilder::new(subject.id(), SyscallType::default())
            .with_root_path(&run)?
            .with_executor(program)
            .with_console_socket(console.as_ref().map(Console::path));
        for stream in [&streams.stdin, &streams.stdout, &streams.stderr] {
            give(stream.as_ref(), &user);
        }
        if let Some(stdin) = streams.stdin {
            builder = builder.with_stdin(stdin);
        }
        if let Some(stdout) = streams.stdout {
            builder = builder.with_stdout(stdout);
        }
        if let Some(stderr) = streams.stderr {
            builder = builder.with_stderr(stderr);
        }
        builder
            .validate_id()?
            .as_init(&subject.folder)
            .with_systemd(false)
            .with_detach(true)
            .build()
    };
    let mut made = match builder() {
        Ok(made) => made,
        Err(error) => return Err(told.failure_by_now().unwrap_or_else(|| failed(&error))),
    };
    let Some(pid) = made.pid().map(|pid| pid.as_raw()) else {
        return Err(Problem::new(ProblemCode::Internal, "the container has no process"));
    };
    let terminal = match &console {
        Some(console) => Some(take_terminal(console, pid, &user)?),
        None => None,
    };
    if let Some(folder) = subject.group.unified() {
        crate::device_filter::attach(folder, &rules)
            .map_err(|e| internal("cannot restrict the container's devices", e))?;
    }
    if let Err(error) = made.start() {
        return Err(told.failure_by_now().unwrap_or_else(|| failed(&error)));
    }
    match told.failure() {
        Some(problem) => Err(problem),
        None => Ok(Started { pid, user, terminal }),
    }
}

/// The terminal, whose other end becomes the user's.
pub(super) fn take_terminal(console: &Console, pid: i32, user: &User) -> Result<OwnedFd, Problem> {
    let terminal = console.receive().map_err(|e| internal("no terminal came", e))?;
    let path = format!("/proc/{pid}/fd/0");
    let _ = nix::unistd::chown(path.as_str(), Some(user.uid.into()), None);
    Ok(terminal)
}

/// An error of libcontainer's with its causes, which it does not say itself.
pub(super) fn failed(error: &dyn std::error::Error) -> Problem {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    Problem::new(ProblemCode::StartFailed, format!("OCI runtime create failed: {text}"))
}

/// What a container's processes may do.
pub(super) struct Rights {
    pub(super) at_first: Set,
    pub(super) keep: Option<Set>,
    pub(super) filter: Option<seccomp::Filter>,
}

impl Rights {
    pub(super) fn of(subject: &Subject<'_>) -> Result<Rights, Problem> {
        let oci = subject.oci;
        let possible = Set::of_process().map_err(|e| internal("cannot read capabilities", e))?;
        let capabilities = capabilities::of(&oci.capabilities, oci.privileged, possible)?;
        let filter = seccomp::filter(&oci.seccomp, capabilities)?;
        // Without no_new_privs, the right to install a filter is needed until it is.
        let lend = filter.is_some() && !oci.no_new_privileges;
        let at_first = if lend { capabilities.to_confine() } else { capabilities };
        Ok(Rights { at_first, keep: lend.then_some(capabilities), filter })
    }

    pub(super) fn known<'a>(&self, subject: &'a Subject<'a>, user: &'a User) -> Known<'a> {
        Known {
            sandbox: subject.sandbox,
            container: subject.container,
            oci: subject.oci,
            user,
            at_first: self.at_first,
            places: &subject.places,
            pid_namespace: subject.pid_namespace.as_deref(),
            cgroup: &subject.cgroup,
            unified: subject.group.unified().is_some(),
        }
    }
}

/// A mount namespace of the launcher's own, where nothing passes to or from the machine, but for volumes that ask for it.
/// What workloads can change the path of is found here, in one step, and mounted where they cannot.
fn own_mounts(subject: &Subject<'_>) -> Result<Vec<Mount>, Problem> {
    let folder = &subject.folder;
    let failed = |e: std::io::Error| internal("cannot make a mount namespace", e);
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| failed(e.into()))?;
    let own = File::open("/proc/self/ns/mnt").map_err(failed)?;
    let mut mounts = subject.container.mounts.clone();
    let mut placed = Vec::new();
    let to_place =
        |m: &&mut Mount| m.propagation != Propagation::None || !m.volume.as_os_str().is_empty();
    for mount in mounts.iter_mut().filter(to_place) {
        let find = || -> std::io::Result<(OwnedFd, bool)> {
            let (fd, is_folder) = match mount.find()? {
                Found::Folder(folder) => (folder.into_file(), true),
                Found::Other(file) => (file, false),
            };
            // A copy keeps its tie to the machine's mount when all others lose theirs.
            Ok((open_tree(&fd)?, is_folder))
        };
        let found = match mount.propagation {
            // Those of the Pod's namespace only receive. A copy made in the machine's is as good as its own.
            Propagation::Bidirectional => (|| {
                setns(subject.machine, CloneFlags::CLONE_NEWNS)?;
                let found = find();
                setns(&own, CloneFlags::CLONE_NEWNS)?;
                found
            })(),
            Propagation::None | Propagation::HostToContainer => find(),
        };
        let (tree, is_folder) = found.map_err(|e| {
            let path = mount.host_path.display();
            Problem::new(ProblemCode::InvalidSpec, format!("mounts: cannot mount {path}: {e}"))
        })?;
        placed.push((tree, is_folder, mount));
    }
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount::<str, str, str, str>(None, "/", None, private, None).map_err(|e| failed(e.into()))?;
    for (number, (tree, is_folder, wanted)) in placed.into_iter().enumerate() {
        let place = folder.join(format!("mount-{number}"));
        if is_folder {
            std::fs::create_dir_all(&place).map_err(failed)?;
        } else {
            std::fs::write(&place, "").map_err(failed)?;
        }
        put_tree(&tree, &place).map_err(failed)?;
        if wanted.propagation == Propagation::None {
            mount::<str, Path, str, str>(None, &place, None, private, None)
                .map_err(|e| failed(e.into()))?;
        }
        wanted.host_path = place;
    }
    Ok(mounts)
}

/// The image's volumes, each a mount of its own of what the image has there. It stays writable when the root file system is
/// made read-only, and what is written goes where the container writes otherwise, so it ends with the attempt.
fn image_volumes(
    root: &Root,
    subject: &Subject<'_>,
    mounts: &[Mount],
) -> Result<Vec<Mount>, Problem> {
    let mut made = Vec::new();
    let wanted = subject.oci.volumes.iter().enumerate();
    for (number, path) in wanted.filter(|(_, path)| mounts.iter().all(|m| m.guest_path != **path)) {
        let place = subject.folder.join(format!("volume-{number}"));
        root.make_folders(path);
        let mounted = root
            .open_folder(path)
            .and_then(|folder| open_tree(&folder))
            .and_then(|tree| std::fs::create_dir_all(&place).map(|()| tree))
            .and_then(|tree| put_tree(&tree, &place));
        mounted.map_err(|error| {
            let message = format!("the image's volume {}: {error}", path.display());
            Problem::new(ProblemCode::InvalidSpec, message)
        })?;
        made.push(Mount { host_path: place, guest_path: path.clone(), ..Mount::default() });
    }
    Ok(made)
}

fn open_tree(found: &File) -> std::io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | (libc::AT_RECURSIVE | libc::AT_EMPTY_PATH) as libc::c_uint;
    // SAFETY: the string ends with NUL; the descriptor that comes is fresh.
    unsafe {
        let fd = libc::syscall(libc::SYS_open_tree, found.as_raw_fd(), c"".as_ptr(), flags);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

fn put_tree(tree: &OwnedFd, place: &Path) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    const FROM_EMPTY: libc::c_uint = 4;
    let place = std::ffi::CString::new(place.as_os_str().as_bytes())?;
    // SAFETY: strings end with NUL and live until the call returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            place.as_ptr(),
            FROM_EMPTY,
        )
    };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
