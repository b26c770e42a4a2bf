//! Whom a container's requests believe over TLS, by the rules of client libraries in containers:
//!
//! - the Kubernetes API, by the CA that is mounted beside the ServiceAccount's token
//!   (`rest.InClusterConfig` of client-go), where it is mounted;
//! - others, by `SSL_CERT_FILE` and `SSL_CERT_DIR` of the container's environment, where it has
//!   them (OpenSSL, Go): paths in its own mounts (others are passed over);
//! - else by the machine's store and Mozilla's.
//!
//! Files are read when they are first needed, and again when they are older than [`FRESH`]: a
//! ConfigMap's change is seen by running guests. Guests may write into some of their mounts, so
//! nothing outside of a mount is ever read, whatever symbolic links say. Configurations are shared
//! by all containers that trust the same.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use coracle_sandbox::Mount;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::container::Container;
use crate::logs::Stream;

/// Where clients in a cluster look for its CA.
const CLUSTER_CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
/// How long what was read is taken to be true.
const FRESH: Duration = Duration::from_secs(10);
/// Bytes of all of a container's certificates.
const MOST_BYTES: usize = 4 << 20;
/// Files of one folder that are looked at.
const MOST_FILES: usize = 1024;

/// What a container's requests believe; empty until the first of them.
#[derive(Default)]
pub(crate) struct Trust {
    api: tokio::sync::Mutex<Option<Kept>>,
    others: tokio::sync::Mutex<Option<Kept>>,
}

struct Kept {
    read: Instant,
    config: Arc<ClientConfig>,
    /// Of what was read.
    digest: [u8; 32],
}

/// Certificates, named by the container.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    Folder(PathBuf),
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Source::File(path) | Source::Folder(path) => path,
        }
    }
}

/// What to believe on a connection to the Kubernetes API, or (`api` is false) to anybody else.
pub(super) async fn config(container: &Arc<Container>, api: bool) -> Arc<ClientConfig> {
    let (sources, kept) = match sources(container, api) {
        None => return machine(),
        Some((sources, true)) => (sources, &container.trust.api),
        Some((sources, false)) => (sources, &container.trust.others),
    };
    let mut kept = kept.lock().await;
    if let Some(known) = &*kept
        && known.read.elapsed() < FRESH
    {
        return known.config.clone();
    }
    let reader = container.clone();
    let read = tokio::task::spawn_blocking(move || read(&reader, &sources)).await;
    let (pem, problems) = read.unwrap_or_else(|error| (Vec::new(), vec![error.to_string()]));
    let digest: [u8; 32] = Sha256::digest(&pem).into();
    match &mut *kept {
        Some(known) if known.digest == digest => known.read = Instant::now(),
        kept => {
            let (config, more) = shared(digest, &pem);
            for problem in problems.iter().chain(&more) {
                container.log.write(Stream::Err, &format!("TLS: {problem}"));
            }
            *kept = Some(Kept { read: Instant::now(), config, digest });
        }
    }
    kept.as_ref().map_or_else(machine, |known| known.config.clone())
}

/// Where the container says that its certificates are, and whether they are the API's; None if it
/// says nothing.
fn sources(container: &Container, api: bool) -> Option<(Vec<Source>, bool)> {
    if api && locate(container, Path::new(CLUSTER_CA)).is_some() {
        return Some((vec![Source::File(CLUSTER_CA.into())], true));
    }
    let variable = |name| {
        let found = container.env.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    let file = variable("SSL_CERT_FILE").map(|path| Source::File(path.into()));
    let folders = variable("SSL_CERT_DIR").unwrap_or_default().split(':');
    let folders = folders.filter(|path| !path.is_empty()).map(|path| Source::Folder(path.into()));
    let mut sources: Vec<Source> = file.into_iter().chain(folders).collect();
    // Images' own environments name such paths; there is nothing of an image's in a container here.
    sources.retain(|source| locate(container, source.path()).is_some());
    (!sources.is_empty()).then_some((sources, false))
}

/// The innermost mount that holds a path, and the path from there.
fn locate<'a>(container: &'a Container, path: &Path) -> Option<(&'a Mount, PathBuf)> {
    let mounts = container.spec.mounts.iter().filter_map(|mount| {
        let rest = path.strip_prefix(&mount.guest_path).ok()?;
        Some((mount, rest.to_owned()))
    });
    mounts.min_by_key(|(_, rest)| rest.components().count())
}

/// All certificates as PEM, and what could not be read.
fn read(container: &Container, sources: &[Source]) -> (Vec<u8>, Vec<String>) {
    let (mut pem, mut problems) = (Vec::new(), Vec::new());
    for source in sources {
        let (name, path, result) = match source {
            Source::File(path) => ("SSL_CERT_FILE", path, add_file(container, path, &mut pem)),
            Source::Folder(path) => ("SSL_CERT_DIR", path, add_folder(container, path, &mut pem)),
        };
        if let Err(error) = result {
            let name = if path == Path::new(CLUSTER_CA) { "the cluster's CA" } else { name };
            problems.push(format!("{name}: {}: {error}", path.display()));
        }
    }
    (pem, problems)
}

fn add_file(container: &Container, path: &Path, pem: &mut Vec<u8>) -> io::Result<()> {
    let nowhere = || io::Error::new(io::ErrorKind::NotFound, "no volume is mounted there");
    let (mount, rest) = locate(container, path).ok_or_else(nowhere)?;
    let file = open_beneath(mount, &rest)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let room = MOST_BYTES.saturating_sub(pem.len());
    let before = pem.len();
    if file.take(room as u64 + 1).read_to_end(pem)? > room {
        pem.truncate(before);
        let message = format!("there are more than {MOST_BYTES} bytes of certificates");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    pem.push(b'\n');
    Ok(())
}

/// As OpenSSL and Go do, what is no certificate is passed over.
fn add_folder(container: &Container, path: &Path, pem: &mut Vec<u8>) -> io::Result<()> {
    let nowhere = || io::Error::new(io::ErrorKind::NotFound, "no volume is mounted there");
    let (mount, rest) = locate(container, path).ok_or_else(nowhere)?;
    // Only names are taken from here; each file is then looked for beneath the mount.
    let entries = fs::read_dir(mount.host_path.join(&rest))?.take(MOST_FILES).flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        match add_file(container, &path.join(name), pem) {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn open_beneath(mount: &Mount, rest: &Path) -> io::Result<File> {
    let folder = mount.open()?.into_file();
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if !rest.components().all(is_plain) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it may not have `..` in it"));
    }
    let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
    let how = OpenHow::new()
        // A guest may have put a pipe there.
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(&folder, rest, how)?.into())
}

/// A configuration that trusts these; the same one for all who do. And what is wrong with them.
fn shared(digest: [u8; 32], pem: &[u8]) -> (Arc<ClientConfig>, Vec<String>) {
    static ALL: LazyLock<Mutex<HashMap<[u8; 32], Weak<ClientConfig>>>> =
        LazyLock::new(Mutex::default);
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(config) = all.get(&digest).and_then(Weak::upgrade) {
        return (config, Vec::new());
    }
    let mut problems = Vec::new();
    let certificates = CertificateDer::pem_slice_iter(pem).filter_map(|certificate| {
        certificate
            .map_err(|error| problems.push(format!("a certificate is unreadable: {error}")))
            .ok()
    });
    let mut roots = RootCertStore::empty();
    let (_, unfit) = roots.add_parsable_certificates(certificates);
    if unfit > 0 {
        problems.push(format!("{unfit} certificates cannot be used"));
    }
    if roots.is_empty() {
        problems.push("there is no certificate: no server will be believed".to_owned());
    }
    let config = believing(roots);
    all.retain(|_, config| config.strong_count() > 0);
    all.insert(digest, Arc::downgrade(&config));
    (config, problems)
}

/// What the machine believes: its own store (which heeds the host process's `SSL_CERT_FILE` and
/// `SSL_CERT_DIR`), and Mozilla's.
fn machine() -> Arc<ClientConfig> {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let own = rustls_native_certs::load_native_certs();
        for error in own.errors {
            tracing::warn!(%error, "a certificate of the machine's store is passed over");
        }
        roots.add_parsable_certificates(own.certs);
        believing(roots)
    });
    CONFIG.clone()
}

fn believing(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}
