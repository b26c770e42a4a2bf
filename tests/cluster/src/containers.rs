//! Container images, made without a container engine, as OCI layouts for `coracle push` and skopeo.
//!
//! An [`Image`] is put together of [`Layer`]s and a configuration, and written to a folder. [`busybox`] is one with a shell
//! and its tools, from this machine's `busybox`; [`program`] one with nothing but a program compiled for the test; [`twin`]
//! one that does what an example component does; [`debian`] one of Debian's packages with the libraries that they need, as
//! their server images have them.

mod sources;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub use sources::{Missing, busybox, debian, program, twin};

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Tar,
    /// With gzip, as most are.
    Gzip,
    /// With zstd.
    Zstd,
}

/// A layer that is being made: an archive of files. All belong to root unless said otherwise.
pub struct Layer {
    builder: tar::Builder<Vec<u8>>,
    packing: Packing,
}

impl Default for Layer {
    fn default() -> Self {
        Self { builder: tar::Builder::new(Vec::new()), packing: Packing::Gzip }
    }
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(1_700_000_000);
    header
}

impl Layer {
    /// Packs it otherwise than with gzip.
    pub fn packed(mut self, packing: Packing) -> Self {
        self.packing = packing;
        self
    }

    /// A folder.
    pub fn folder(self, path: &str, mode: u32) -> anyhow::Result<Self> {
        self.owned_folder(path, mode, (0, 0))
    }

    /// A folder that belongs to this user and group.
    pub fn owned_folder(
        mut self,
        path: &str,
        mode: u32,
        owner: (u64, u64),
    ) -> anyhow::Result<Self> {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        self.builder.append_data(&mut header, path, &[][..])?;
        Ok(self)
    }

    /// A file.
    pub fn file(
        mut self,
        path: &str,
        mode: u32,
        content: impl AsRef<[u8]>,
    ) -> anyhow::Result<Self> {
        let content = content.as_ref();
        let mut header = header(tar::EntryType::Regular, mode, content.len());
        self.builder.append_data(&mut header, path, content)?;
        Ok(self)
    }

    /// A symbolic link.
    pub fn symlink(mut self, path: &str, to: &str) -> anyhow::Result<Self> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        self.builder.append_link(&mut header, path, to)?;
        Ok(self)
    }

    /// A file by another name.
    pub fn hard_link(mut self, path: &str, to: &str) -> anyhow::Result<Self> {
        let mut header = header(tar::EntryType::Link, 0o644, 0);
        self.builder.append_link(&mut header, path, to)?;
        Ok(self)
    }

    /// Hides a file of the layers below.
    pub fn whiteout(self, path: &str) -> anyhow::Result<Self> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let slash = if folder.is_empty() { "" } else { "/" };
        self.file(&format!("{folder}{slash}.wh.{name}"), 0, b"")
    }

    /// All that lies in a folder of this machine, as root's.
    pub fn tree(mut self, from: &Path) -> anyhow::Result<Self> {
        let mut todo = vec![from.to_owned()];
        while let Some(folder) = todo.pop() {
            let mut entries: Vec<PathBuf> =
                fs::read_dir(&folder)?.map(|e| Ok(e?.path())).collect::<anyhow::Result<_>>()?;
            entries.sort();
            for path in entries {
                let found = fs::symlink_metadata(&path)?;
                let name = path.strip_prefix(from)?.to_string_lossy().into_owned();
                let mode = std::os::unix::fs::MetadataExt::mode(&found) & 0o7777;
                self = if found.is_dir() {
                    todo.push(path);
                    self.folder(&name, mode)?
                } else if found.is_symlink() {
                    self.symlink(&name, &fs::read_link(&path)?.to_string_lossy())?
                } else {
                    self.file(&name, mode, fs::read(&path)?)?
                };
            }
        }
        Ok(self)
    }

    /// Media type, the packed bytes, and the digest of what they unpack to.
    fn finish(self) -> anyhow::Result<Packed> {
        let tar = self.builder.into_inner()?;
        let diff_id = digest(&tar);
        let (suffix, bytes) = match self.packing {
            Packing::Tar => ("", tar),
            Packing::Zstd => ("+zstd", zstd::encode_all(&tar[..], 3)?),
            Packing::Gzip => {
                let mut gzip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(&tar)?;
                ("+gzip", gzip.finish()?)
            }
        };
        Ok(Packed {
            media_type: format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
            bytes,
            diff_id,
        })
    }
}

/// A layer that is made.
#[derive(Debug, Clone)]
struct Packed {
    media_type: String,
    bytes: Vec<u8>,
    diff_id: String,
}

/// A container image.
#[derive(Debug, Clone)]
pub struct Image {
    layers: Vec<Packed>,
    config: Value,
    platform: (String, String),
}

/// Go's name of this machine's architecture, as images have it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Image {
    /// Of this machine's platform, with the `config` section of an image's configuration: `Entrypoint`, `Cmd`, `Env`, ….
    pub fn new(config: Value) -> Self {
        let platform = ("linux".to_owned(), architecture().to_owned());
        Self { layers: Vec::new(), config, platform }
    }

    /// For another system or architecture.
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.platform = (os.to_owned(), architecture.to_owned());
        self
    }

    /// With another configuration.
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// With a layer more, above the others.
    ///
    /// # Errors
    /// When it cannot be packed.
    pub fn layer(mut self, layer: Layer) -> anyhow::Result<Self> {
        self.layers.push(layer.finish()?);
        Ok(self)
    }

    /// Writes it as an OCI layout, whose image is called `latest`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        write(folder, std::slice::from_ref(self))
    }
}

/// Writes images for several platforms as one, called `latest`, with an index of them; of one alone its manifest.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path, images: &[Image]) -> anyhow::Result<()> {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let blob = |media_type: &str, bytes: &[u8]| {
        let digest = digest(bytes);
        fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes)?;
        Ok::<_, std::io::Error>(
            json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}),
        )
    };
    let mut manifests = Vec::new();
    for image in images {
        let config = json!({
            "os": image.platform.0, "architecture": image.platform.1, "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": image.layers.iter().map(|l| &l.diff_id).collect::<Vec<_>>()},
        });
        let layers = image.layers.iter().map(|layer| blob(&layer.media_type, &layer.bytes));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?,
            "layers": layers.collect::<Result<Vec<_>, _>>()?,
        });
        let mut descriptor =
            blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes())?;
        descriptor["platform"] = json!({"os": image.platform.0, "architecture": image.platform.1});
        manifests.push(descriptor);
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    let mut top = match &manifests[..] {
        [only] => only.clone(),
        _ => {
            let index =
                json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
            blob(media_type, index.to_string().as_bytes())?
        }
    };
    top["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [top]});
    fs::write(folder.join("index.json"), index.to_string())?;
    fs::write(folder.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
