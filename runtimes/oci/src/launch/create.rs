//! Making a container and starting its first process.

use std::fs::{File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use coracle_sandbox::beneath::Found;
use coracle_sandbox::{Mount, Problem, ProblemCode, Propagation};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::first::{self, First};
use super::program::{Program, Told};
use super::{Started, Streams, Subject, give, internal};
use crate::capabilities::{self, Set};
use crate::rootfs::{self, Root};
use crate::seccomp;
use crate::spec::{self, Known, Places};
use crate::tree;
use crate::user::{self, User};
use crate::users::Users;

const WORDS: &str = "OCI runtime create failed: unable to start container process";
/// Folders that every machine has, and that a container can be made without.
const STAGES: &[&str] = &["/mnt", "/media", "/srv", "/opt", "/home", "/tmp"];

/// Makes and starts the container. What there is of it after a failure, its cgroup and its folder, is the caller's to remove.
pub(super) fn create(subject: &Subject<'_>, streams: Streams) -> Result<Started, Problem> {
    let Staged { folder: stage, mut mounts, places } = own_mounts(subject)?;
    let rootfs = &places.rootfs;
    std::fs::create_dir_all(rootfs).map_err(|e| internal("cannot make the root folder", e))?;
    let oci = subject.oci;
    let folder = subject.container.working_dir.clone().unwrap_or_else(|| "/".into());
    let mut make = || {
        let shown = subject.users.map(|users| (users, stage.as_path()));
        rootfs::mount_overlay(&oci.layers, &oci.upper, rootfs, shown)?;
        let root =
            Root::open(rootfs).map_err(|e| internal("cannot open the root file system", e))?;
        root.require_folders(&["dev", "proc", "sys"])?;
        for folder in &oci.folders {
            root.describe(folder, subject.users).map_err(|error| {
                let path = folder.path.display();
                internal(&format!("cannot give the image's {path} its attributes"), error)
            })?;
        }
        let user = user::resolve(&root, oci)?;
        subject.users.map_or(Ok(()), |users| users.require(&user))?;
        if !mounts.iter().any(|mount| folder.starts_with(&mount.guest_path)) {
            root.make_folders(&folder);
        }
        mounts.extend(image_volumes(&root, subject, &stage, &mounts)?);
        Ok(user)
    };
    let made = match subject.users {
        Some(users) => {
            users.as_root(make).map_err(|e| internal("cannot act as the Pod's root", e))?
        }
        None => make(),
    };
    let user = made?;

    let rights = Rights::of(subject)?;
    let container = coracle_sandbox::ContainerSpec { mounts, ..subject.container.clone() };
    let pid_namespace = subject.pid_namespace()?;
    let known = Known {
        container: &container,
        places: &places,
        pid_namespace: pid_namespace.as_ref().map(|(_, path)| path.as_path()),
        ..rights.known(subject, &user)
    };
    let (config, rules) = spec::config(&known)?;
    let spec = serde_json::from_value(config)
        .map_err(|e| internal("cannot read the container's configuration", e))?;
    let told = Told::new().map_err(|e| internal("cannot make a pipe", e))?;
    let program = Program {
        args: container.args.clone(),
        env: spec::environment(&known, oci.tty),
        folder,
        filter: rights.filter,
        keep: rights.keep,
        words: WORDS,
        told: told.number(),
        gate: None,
    };
    for stream in [&streams.stdin, &streams.stdout, &streams.stderr] {
        give(stream.as_ref(), subject, &user);
    }
    let pid_namespace = pid_namespace.map(|(file, _)| file);
    first::start(First {
        subject,
        user,
        spec,
        rules,
        rootfs,
        program,
        told,
        streams,
        pid_namespace,
    })
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
        // In a user namespace of its own a Pod may have all of them, which reach no further.
        let possible = match subject.users {
            Some(_) => Set::of_kernel(),
            None => Set::of_process(),
        };
        let possible = possible.map_err(|e| internal("cannot read capabilities", e))?;
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
            pid_namespace: None,
            user_namespace: subject.users.map(Users::path),
            unified: subject.group.unified().is_some(),
        }
    }
}

/// Where a container's things are in the launcher's mount namespace.
struct Staged {
    /// The container's folder, where the container's root finds it.
    folder: PathBuf,
    mounts: Vec<Mount>,
    places: Places,
}

/// A mount namespace of the launcher's own, where nothing passes to or from the machine, but for volumes that ask for it.
/// What workloads can change the path of is found here, in one step, and mounted where they cannot. So is everything that a
/// Pod with users of its own is to see: mounted with their numbers, in a place that they may enter.
fn own_mounts(subject: &Subject<'_>) -> Result<Staged, Problem> {
    let failed = |e: std::io::Error| internal("cannot make a mount namespace", e);
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| failed(e.into()))?;
    let own = File::open("/proc/self/ns/mnt").map_err(failed)?;
    let mut mounts = subject.container.mounts.clone();
    let mut places = subject.places.clone();
    let mut placed = Vec::new();
    let to_place = |m: &&mut Mount| {
        subject.users.is_some()
            || m.propagation != Propagation::None
            || !m.volume.as_os_str().is_empty()
    };
    for mount in mounts.iter_mut().filter(to_place) {
        let invalid = |why: String| Problem::new(ProblemCode::InvalidSpec, why);
        let cannot = |e: std::io::Error| {
            invalid(format!("mounts: cannot mount {}: {e}", mount.host_path.display()))
        };
        let find = || -> Result<(OwnedFd, bool), Problem> {
            let (file, is_folder) = match mount.find().map_err(cannot)? {
                Found::Folder(folder) => (folder.into_file(), true),
                Found::Other(file) => (file, false),
            };
            // A copy keeps its tie to the machine's mount when all others lose theirs.
            let copy = match subject.users {
                Some(users) => users.show(&file, &mount.host_path)?,
                None => tree::copy(&file).map_err(cannot)?,
            };
            Ok((copy, is_folder))
        };
        let (copy, is_folder) = match mount.propagation {
            Propagation::Bidirectional if subject.users.is_some() => {
                let why = "mountPropagation: Bidirectional is not possible with hostUsers: false: what a Pod with users of its own mounts does not reach the machine";
                return Err(invalid(why.into()));
            }
            // Those of the Pod's namespace only receive. A copy made in the machine's is as good as its own.
            Propagation::Bidirectional => {
                setns(subject.machine, CloneFlags::CLONE_NEWNS).map_err(|e| cannot(e.into()))?;
                let found = find();
                setns(&own, CloneFlags::CLONE_NEWNS).map_err(|e| cannot(e.into()))?;
                found?
            }
            Propagation::None | Propagation::HostToContainer => find()?,
        };
        placed.push((copy, is_folder, mount.propagation, &mut mount.host_path));
    }
    if let Some(users) = subject.users {
        for (_, path) in &mut places.files {
            let file = File::open(&*path).map_err(failed)?;
            placed.push((users.show(&file, path)?, false, Propagation::None, path));
        }
        // This is theirs already.
        let memory = File::open(&places.shm).and_then(|folder| tree::copy(&folder));
        placed.push((memory.map_err(failed)?, true, Propagation::None, &mut places.shm));
    }
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount::<str, str, str, str>(None, "/", None, private, None).map_err(|e| failed(e.into()))?;
    let folder = match subject.users {
        Some(_) => stage(subject)?,
        None => subject.folder.clone(),
    };
    for (number, (copy, is_folder, propagation, path)) in placed.into_iter().enumerate() {
        let place = folder.join(format!("mount-{number}"));
        if is_folder {
            std::fs::create_dir_all(&place).map_err(failed)?;
        } else {
            std::fs::write(&place, "").map_err(failed)?;
        }
        tree::put(&copy, &place).map_err(failed)?;
        if propagation == Propagation::None {
            mount::<str, Path, str, str>(None, &place, None, private, None)
                .map_err(|e| failed(e.into()))?;
        }
        *path = place;
    }
    places.rootfs = folder.join("rootfs");
    Ok(Staged { folder, mounts, places })
}

/// Mounts the container's folder where all users may come: its own path leads through folders that only root may enter.
/// What was there is hidden from this process alone.
fn stage(subject: &Subject<'_>) -> Result<PathBuf, Problem> {
    let needed = [&subject.folder, &subject.oci.upper].into_iter().chain(&subject.oci.layers);
    let needed: Vec<&PathBuf> = needed.collect();
    let free = |place: &&&str| {
        let is_folder = std::fs::symlink_metadata(place).is_ok_and(|found| found.is_dir());
        is_folder && !needed.iter().any(|path| path.starts_with(place))
    };
    let Some(place) = STAGES.iter().find(free) else {
        let message = format!("hostUsers: this node has none of the folders {STAGES:?} free");
        return Err(Problem::new(ProblemCode::Internal, message));
    };
    let failed = |e: std::io::Error| internal("cannot mount the container's folder", e);
    std::fs::set_permissions(&subject.folder, Permissions::from_mode(0o755)).map_err(failed)?;
    mount::<Path, str, str, str>(Some(&subject.folder), place, None, MsFlags::MS_BIND, None)
        .map_err(|e| failed(e.into()))?;
    Ok(place.into())
}

/// The image's volumes, each a mount of its own of what the image has there. It stays writable when the root file system is
/// made read-only, and what is written goes where the container writes otherwise, so it ends with the attempt.
fn image_volumes(
    root: &Root,
    subject: &Subject<'_>,
    stage: &Path,
    mounts: &[Mount],
) -> Result<Vec<Mount>, Problem> {
    let mut made = Vec::new();
    let wanted = subject.oci.volumes.iter().enumerate();
    for (number, path) in wanted.filter(|(_, path)| mounts.iter().all(|m| m.guest_path != **path)) {
        let place = stage.join(format!("volume-{number}"));
        root.make_folders(path);
        let mounted = root
            .open_folder(path)
            .and_then(|folder| tree::copy(&folder))
            .and_then(|copy| std::fs::create_dir_all(&place).map(|()| copy))
            .and_then(|copy| tree::put(&copy, &place));
        mounted.map_err(|error| {
            let message = format!("the image's volume {}: {error}", path.display());
            Problem::new(ProblemCode::InvalidSpec, message)
        })?;
        made.push(Mount { host_path: place, guest_path: path.clone(), ..Mount::default() });
    }
    Ok(made)
}
