//! The file below redb: its lock, its free space, and a reserve for hard times.
//!
//! redb refuses all work after one failed write, until the file is opened again, and opening
//! repairs, which writes. So a full disk is noticed before redb does (`room`), and a few
//! megabytes are set aside (`hold_reserve`) that are given up for the repair when it is not.

use crate::OpenError;
use nix::{
    fcntl::{FallocateFlags, fallocate},
    sys::statvfs::fstatvfs,
};
use redb::StorageBackend;
use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// What the engine needs of a disk beyond reading and writing; tests put failing ones here.
pub(super) trait Disk: StorageBackend {
    /// Bytes that may still be written.
    fn room(&self) -> u64;
    /// Bytes that the store takes up.
    fn allocated(&self) -> u64;
    /// Sets the reserve aside, if it is not yet. Returns whether it is there.
    fn hold_reserve(&self) -> bool;
    /// Gives the reserve up.
    fn drop_reserve(&self);
    /// What may wait until after opening but not until after the first commit.
    fn prepare(&self) {
        self.hold_reserve();
    }
    /// Lets other processes open the store.
    fn release(&self);
}

/// Enough for redb to repair a file, and for compaction to free pages.
const RESERVE: i64 = 4 << 20;

/// A locked file.
#[derive(Debug)]
pub(super) struct FileDisk {
    file: File,
    reserve_path: PathBuf,
    reserved: Mutex<bool>,
    /// Where the file is new and its name not yet durable.
    unsynced_folder: Option<PathBuf>,
}

impl FileDisk {
    /// Opens the file and locks it against other processes, or calls `init` to make a new one.
    ///
    /// That happens under another name: so a crash leaves a whole store or none, and one sync is
    /// enough where redb, making a file grow, would do many.
    pub(super) fn open(
        path: &Path,
        init: impl FnOnce(Draft) -> Result<(), OpenError>,
    ) -> Result<FileDisk, OpenError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|e| open_error(folder, e))?;
        match lock(path, false) {
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            file => return Ok(FileDisk::new(path, file?, None)),
        }
        let draft_path = sibling(path, ".new");
        let draft = lock(&draft_path, true).map_err(|e| match e {
            OpenError::InUse { .. } => OpenError::InUse { path: path.into() },
            other => other,
        })?;
        if path.exists() {
            // Another process was faster and has released both locks again.
            return Ok(FileDisk::new(path, lock(path, false)?, None));
        }
        let fail = |e| open_error(path, e);
        draft.set_len(0).map_err(fail)?;
        let disk = FileDisk::new(path, draft, Some(folder.into()));
        let disk = Arc::new(disk);
        init(Draft(disk.clone()))?;
        disk.file.sync_data().map_err(fail)?;
        fs::rename(&draft_path, path).map_err(fail)?;
        Arc::into_inner(disk).ok_or_else(|| OpenError::InUse { path: path.into() })
    }

    fn new(path: &Path, file: File, unsynced_folder: Option<PathBuf>) -> FileDisk {
        let reserve_path = sibling(path, ".reserve");
        FileDisk { file, reserve_path, reserved: Mutex::new(false), unsynced_folder }
    }
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn lock(path: &Path, create: bool) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false).mode(0o600);
    let file = options.open(path).map_err(|e| open_error(path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.into() }),
        Err(TryLockError::Error(e)) => Err(open_error(path, e)),
    }
}

/// The open error that an I/O error is.
pub(super) fn open_error(path: &Path, error: io::Error) -> OpenError {
    let path = path.to_path_buf();
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::Permission { path }
        }
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            OpenError::Corrupt { path, reason: error.to_string() }
        }
        _ if is_full(&error) => OpenError::Full { path },
        _ => OpenError::Io { path, source: error },
    }
}

/// Whether an error means that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl Disk for FileDisk {
    fn room(&self) -> u64 {
        // Where the file system cannot say, only trying tells.
        fstatvfs(&self.file).map_or(u64::MAX, |fs| fs.blocks_available() * fs.fragment_size())
    }

    fn allocated(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.blocks() * 512)
    }

    fn hold_reserve(&self) -> bool {
        let mut reserved = self.reserved.lock().expect("no panics under this lock");
        if !*reserved {
            *reserved = match reserve(&self.reserve_path) {
                Ok(()) => true,
                // Not every file system can set space aside; `room` is then all there is.
                Err(error) => !is_full(&error),
            };
            if !*reserved {
                let _ = fs::remove_file(&self.reserve_path);
            }
        }
        *reserved
    }

    fn drop_reserve(&self) {
        let mut reserved = self.reserved.lock().expect("no panics under this lock");
        *reserved = false;
        let _ = fs::remove_file(&self.reserve_path);
    }

    fn prepare(&self) {
        if let Some(folder) = &self.unsynced_folder
            && let Err(error) = File::open(folder).and_then(|folder| folder.sync_all())
        {
            tracing::warn!(folder = %folder.display(), %error, "the new store's name may not last");
        }
        self.hold_reserve();
    }

    fn release(&self) {
        let _ = self.file.unlock();
    }
}

fn reserve(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, RESERVE)?)
}

impl StorageBackend for FileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

/// A disk as redb takes it: by value, though it outlives each opening by redb. Locking is ours,
/// so that the file stays locked while it is opened again.
#[derive(Debug)]
pub(super) struct Lent(pub(super) Arc<dyn Disk>);

impl StorageBackend for Lent {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// A disk for making a new file: syncing is left to the end.
#[derive(Debug)]
pub(super) struct Draft(Arc<FileDisk>);

impl StorageBackend for Draft {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}
