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
}

impl FileDisk {
    /// Opens or creates the file and locks it against other processes.
    pub(super) fn open(path: &Path) -> Result<FileDisk, OpenError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|e| open_error(folder, e))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| open_error(path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.into() }),
            Err(TryLockError::Error(e)) => return Err(open_error(path, e)),
        }
        let mut reserve_path = path.as_os_str().to_owned();
        reserve_path.push(".reserve");
        Ok(FileDisk { file, reserve_path: reserve_path.into(), reserved: Mutex::new(false) })
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
        fstatvfs(&self.file)
            .map_or(u64::MAX, |fs| fs.blocks_available() as u64 * fs.fragment_size() as u64)
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
