//! Files that a container has open: counted over all its instances, with its sockets.
//!
//! Each is a descriptor of the host process, which all Pods of a host share. wasmtime-wasi bounds what one instance has in its
//! table, which is not what a container with hundreds of instances has. So `open-at` is put in front of wasmtime-wasi's, and
//! takes a [`Handle`] for what it opened; nothing else of `wasi:filesystem` makes descriptors that last, but for the folders that
//! a container mounts (see [`crate::folders`]). A stream keeps its file open after the guest let go of that, so it is looked
//! at whether there still is one.

use std::collections::BTreeMap;
use std::sync::Weak;

use wasmtime::StoreContextMut;
use wasmtime::component::{Accessor, Linker, Resource, ResourceType};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::types as p2;
use wasmtime_wasi::p3::bindings::filesystem::types as p3;

use crate::handles::Handle;
use crate::instance::State;

/// The interface, as wasmtime-wasi calls it: what is defined under another version does not take its place.
const P2: &str = "wasi:filesystem/types@0.2.12";
const P3: &str = "wasi:filesystem/types@0.3.0";

/// What one instance has open.
#[derive(Default)]
pub(crate) struct Files {
    /// By number of the resource.
    open: BTreeMap<u32, Handle>,
    /// Those that only streams have open.
    streamed: Vec<(Weak<std::fs::File>, Handle)>,
}

impl State {
    /// Permission for one more file.
    pub(crate) fn file_handle(&mut self) -> Option<Handle> {
        self.files.streamed.retain(|(file, _)| file.strong_count() > 0);
        self.container.handle()
    }

    pub(crate) fn opened(&mut self, file: &Resource<Descriptor>, handle: Handle) {
        self.files.open.insert(file.rep(), handle);
    }

    fn close(&mut self, rep: u32) -> wasmtime::Result<()> {
        let handle = self.files.open.remove(&rep);
        let descriptor: Descriptor = self.table.delete(Resource::new_own(rep))?;
        if let (Some(handle), Descriptor::File(file)) = (handle, &descriptor) {
            let left = std::sync::Arc::downgrade(&file.file);
            drop(descriptor);
            if left.strong_count() > 0 {
                self.files.streamed.push((left, handle));
            }
        }
        Ok(())
    }
}

/// For WASI 0.2.
pub(crate) fn add_p2(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type Args = (Resource<Descriptor>, p2::PathFlags, String, p2::OpenFlags, p2::DescriptorFlags);
    let mut types = linker.instance(P2)?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: StoreContextMut<'_, State>, (folder, follow, path, how, flags): Args| {
            Box::new(async move {
                use p2::{Host as _, HostDescriptor as _};
                let state = store.data_mut();
                let Some(handle) = state.file_handle() else {
                    return Ok((Err(p2::ErrorCode::Quota),));
                };
                let opened = state.filesystem().open_at(folder, follow, path, how, flags).await;
                Ok((match opened {
                    Ok(file) => {
                        state.opened(&file, handle);
                        Ok(file)
                    }
                    Err(error) => Err(state.filesystem().convert_error_code(error)?),
                },))
            })
        },
    )?;
    types.resource("descriptor", ResourceType::host::<Descriptor>(), |mut store, rep| {
        store.data_mut().close(rep)
    })
}

/// For WASI 0.3.
pub(crate) fn add_p3(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type Args = (Resource<Descriptor>, p3::PathFlags, String, p3::OpenFlags, p3::DescriptorFlags);
    let mut types = linker.instance(P3)?;
    types.func_wrap_concurrent(
        "[method]descriptor.open-at",
        |accessor: &Accessor<State>, (folder, follow, path, how, flags): Args| {
            Box::pin(async move {
                use p3::HostDescriptorWithStore as _;
                let handle = accessor.with(|mut access| access.get().file_handle());
                let Some(handle) = handle else { return Ok((Err(p3::ErrorCode::Quota),)) };
                let files = accessor.with_getter::<WasiFilesystem>(State::filesystem);
                let opened =
                    WasiFilesystem::open_at(&files, folder, follow, path, how, flags).await;
                Ok((match opened {
                    Ok(file) => {
                        accessor.with(|mut access| access.get().opened(&file, handle));
                        Ok(file)
                    }
                    Err(error) => Err(error.downcast()?),
                },))
            })
        },
    )?;
    types.resource("descriptor", ResourceType::host::<Descriptor>(), |mut store, rep| {
        store.data_mut().close(rep)
    })
}
