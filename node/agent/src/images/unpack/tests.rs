//! Layers as they should be, and as somebody who means harm would make them, against the real unpacker: on a thread that is
//! confined as the process is, and on one that is not, so that each of the two walls is seen to hold by itself.

mod hostile;
mod ordinary;
mod random;

use std::io::Write as _;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::*;
use crate::images::hex;

/// One entry of a layer to be made, by raw parts: writers of archives refuse what a hostile one holds.
#[derive(Clone)]
struct Raw {
    path: Vec<u8>,
    kind: u8,
    link: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
    device: (u32, u32),
    content: Vec<u8>,
    /// What the header says, if not the content's.
    size: Option<u64>,
}

fn raw(path: impl AsRef<[u8]>, kind: u8) -> Raw {
    Raw {
        path: path.as_ref().to_vec(),
        kind,
        link: Vec::new(),
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        owner: (0, 0),
        device: (0, 0),
        content: Vec::new(),
        size: None,
    }
}

fn file(path: impl AsRef<[u8]>, content: &[u8]) -> Raw {
    Raw { content: content.to_vec(), ..raw(path, b'0') }
}

fn folder(path: impl AsRef<[u8]>) -> Raw {
    raw(path, b'5')
}

fn symlink(path: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Raw {
    Raw { link: to.as_ref().to_vec(), ..raw(path, b'2') }
}

fn hard_link(path: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Raw {
    Raw { link: to.as_ref().to_vec(), ..raw(path, b'1') }
}

/// A PAX header with these records.
fn pax(records: &[(&str, &[u8])]) -> Raw {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        content.extend_from_slice(format!("{length} {key}=").as_bytes());
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    Raw { content, ..raw("pax", b'x') }
}

impl Raw {
    /// The header, and the content, padded.
    fn bytes(&self) -> Vec<u8> {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.path[..self.path.len().min(100)]);
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        put(108, format!("{:07o}\0", self.owner.0).as_bytes());
        put(116, format!("{:07o}\0", self.owner.1).as_bytes());
        let size = self.size.unwrap_or(self.content.len() as u64);
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, b"14000000000\0");
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0", self.device.0).as_bytes());
        put(337, format!("{:07o}\0", self.device.1).as_bytes());
        seal(&mut block);
        let mut bytes = block.to_vec();
        bytes.extend_from_slice(&self.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

/// Puts the checksum into a header.
fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn tar(entries: &[Raw]) -> Vec<u8> {
    let mut tar: Vec<u8> = entries.iter().flat_map(Raw::bytes).collect();
    tar.extend_from_slice(&[0; 1024]);
    tar
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        let _ = writeln!(io::stderr(), "images::unpack: skipped: needs root");
    }
    root
}

/// A folder for layers, beside one that no layer may touch.
struct Place {
    dir: tempfile::TempDir,
    limits: Limits,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Self { dir, limits: Limits { bytes: 64 << 20, entries: 20_000 } }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    fn outside(&self) -> std::path::PathBuf {
        self.dir.path().join("outside")
    }

    fn job(&self, packing: Packing, diff_id: String) -> Job {
        let into = self.root();
        let _ = std::fs::remove_dir_all(&into);
        std::fs::create_dir(&into).unwrap();
        Job { into, packing, diff_id, limits: self.limits }
    }

    /// Unpacks into a fresh folder, confined.
    fn confined(
        &self,
        packing: Packing,
        packed: Vec<u8>,
        diff_id: String,
    ) -> Result<Unpacked, Refusal> {
        let job = self.job(packing, diff_id);
        on_thread(move || {
            let root = confine::enter(&job.into)?;
            super::unpack(&job, root, io::Cursor::new(packed), || true)
        })
    }

    /// The same, without the confinement.
    fn bare(
        &self,
        packing: Packing,
        packed: Vec<u8>,
        diff_id: String,
    ) -> Result<Unpacked, Refusal> {
        let job = self.job(packing, diff_id);
        let root = tree::open_root(&job.into).unwrap();
        super::unpack(&job, root, io::Cursor::new(packed), || true)
    }

    fn unpack(&self, entries: &[Raw]) -> Result<Unpacked, Refusal> {
        let tar = tar(entries);
        let bare = self.bare(Packing::Plain, tar.clone(), digest(&tar));
        self.assert_outside();
        let confined = self.confined(Packing::Plain, tar.clone(), digest(&tar));
        self.assert_outside();
        assert_eq!(bare, confined);
        confined
    }

    /// Fails, by the layer's fault, with a message that says all of this.
    fn refuses(&self, entries: &[Raw], parts: &[&str]) {
        let refusal = self.unpack(entries).unwrap_err();
        assert_refusal(&refusal, parts);
    }

    fn assert_outside(&self) {
        let left: Vec<_> = std::fs::read_dir(self.outside()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(std::fs::read_to_string(self.outside().join("secret")).unwrap(), "secret");
        let modified = std::fs::metadata(self.outside().join("secret")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&modified), 1);
    }
}

fn assert_refusal(refusal: &Refusal, parts: &[&str]) {
    assert_eq!(refusal.fault, Fault::Layer, "{refusal}");
    for part in parts {
        assert!(refusal.message.contains(part), "{part:?} is not in {refusal}");
    }
}

fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(work).join().unwrap()
}

/// An extended attribute of a file, no link followed.
fn xattr(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut value = vec![0_u8; 256];
    // SAFETY: the strings are C strings, and the buffer is as long as is said.
    let length = unsafe {
        libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}
