//! `wasi:filesystem/preopens`: the folders that a container mounts, opened when a guest asks which there are.
//!
//! An instance that never asks costs no system call. A part of a volume is opened once, when its container starts, and stays the
//! same as a bind mount would: whoever mounts the whole volume may put another folder, or a link, in its place.

use std::sync::Arc;

use coracle_sandbox::{Mount, Problem, ProblemCode};
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::FsPerms;
use wasmtime_wasi::filesystem::{Descriptor, Dir, OpenMode};
use wasmtime_wasi::{p2, p3};

use crate::instance::State;

/// What a container mounts; a descriptor for each part of a volume.
pub(crate) struct Folders {
    mounts: Vec<(Mount, Option<Dir>)>,
}

impl Folders {
    /// Opens what is to stay the same.
    pub(crate) fn of(mounts: &[Mount]) -> Result<Arc<Folders>, Problem> {
        let open = |mount: &Mount| {
            let pinned = match mount.volume.as_os_str().is_empty() {
                true => None,
                false => Some(open(mount).map_err(|e| {
                    let message =
                        format!("{e:#}; whoever writes to the volume may have replaced it");
                    Problem::new(ProblemCode::InvalidSpec, message)
                })?),
            };
            Ok((mount.clone(), pinned))
        };
        Ok(Arc::new(Folders { mounts: mounts.iter().map(open).collect::<Result<_, Problem>>()? }))
    }
}

fn open(mount: &Mount) -> wasmtime::Result<Dir> {
    let folder = mount.open().map_err(|error| {
        wasmtime::format_err!(
            "cannot open {}, mounted at {}: {error}",
            mount.host_path.display(),
            mount.guest_path.display()
        )
    })?;
    let (perms, mode) = match mount.read_only {
        true => (FsPerms::ReadOnly, OpenMode::READ),
        false => (FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE),
    };
    Ok(Dir::new(folder.into_file(), perms, mode, false))
}

impl State {
    fn folders(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let folders = self.container.folders.clone();
        let mut found = Vec::with_capacity(folders.mounts.len());
        for (mount, pinned) in &folders.mounts {
            let handle = match pinned {
                Some(_) => None,
                None => Some(self.file_handle().ok_or_else(|| {
                    wasmtime::format_err!(
                        "the container has too many files open to open its folders"
                    )
                })?),
            };
            let folder = pinned.clone().map_or_else(|| open(mount), Ok)?;
            let resource = self.table.push(Descriptor::Dir(folder))?;
            if let Some(handle) = handle {
                self.opened(&resource, handle);
            }
            found.push((resource, mount.guest_path.to_string_lossy().into_owned()));
        }
        Ok(found)
    }
}

impl p2::bindings::filesystem::preopens::Host for State {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        self.folders()
    }
}

impl p3::bindings::filesystem::preopens::Host for State {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        self.folders()
    }
}

/// Puts these in the place of wasmtime-wasi's, which opens everything for every instance.
pub(crate) fn add_p2(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    p2::bindings::filesystem::preopens::add_to_linker::<State, HasSelf<State>>(linker, |s| s)
}

/// The same for WASI 0.3.
pub(crate) fn add_p3(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    p3::bindings::filesystem::preopens::add_to_linker::<State, HasSelf<State>>(linker, |s| s)
}
