//! Debian's `docker-registry` on loopback, content for it, and a line to it that breaks.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use coracle_test_cluster::eventually;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// User of the private registry.
pub(crate) const USER: &str = "ann";
/// Her password.
pub(crate) const PASSWORD: &str = "s3cret";
/// The same, as `htpasswd -B` writes it.
const HASH: &str = "$2b$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK";

/// The program, where this machine has it.
pub(crate) fn program() -> Option<PathBuf> {
    let found = ["docker-registry", "registry"].iter().flat_map(|name| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(name)).collect::<Vec<_>>()
    });
    found.into_iter().find(|path| path.is_file())
}

/// Two registries over one folder: a plain one to push to, and a private one behind TLS and a password.
pub(crate) struct Registry {
    folder: tempfile::TempDir,
    children: Vec<Child>,
    /// The plain one.
    pub(crate) plain: SocketAddr,
    /// The private one.
    pub(crate) private: SocketAddr,
}

impl Drop for Registry {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Registry {
    pub(crate) async fn start(program: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("coracle-registry-").tempdir()?;
        // An ordinary user's agent reads the certificate.
        std::fs::set_permissions(
            folder.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        let path = |name: &str| folder.path().join(name);
        let key = rcgen::KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = rcgen::CertificateParams::new(names)?.self_signed(&key)?;
        std::fs::write(path("ca.pem"), certificate.pem())?;
        std::fs::write(path("key.pem"), key.serialize_pem())?;
        std::fs::write(path("htpasswd"), format!("{USER}:{HASH}\n"))?;
        let storage = path("storage");
        let (plain, private) = (free_port()?, free_port()?);
        let base = |address| {
            json!({
                "version": "0.1",
                "log": {"level": "error"},
                "storage": {"filesystem": {"rootdirectory": storage}},
                "http": {"addr": address, "secret": "of this test"},
            })
        };
        let mut guarded = base(private.to_string());
        guarded["http"]["tls"] = json!({"certificate": path("ca.pem"), "key": path("key.pem")});
        guarded["auth"] = json!({"htpasswd": {"realm": "test", "path": path("htpasswd")}});
        let mut children = Vec::new();
        for (name, config) in [("plain", base(plain.to_string())), ("private", guarded)] {
            // JSON is YAML.
            let file = path(&format!("{name}.yml"));
            std::fs::write(&file, config.to_string())?;
            let log = std::fs::File::create(path(&format!("{name}.log")))?;
            let child = Command::new(program)
                .args(["serve".as_ref(), file.as_os_str()])
                .env("OTEL_TRACES_EXPORTER", "none")
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| program.display().to_string())?;
            children.push(child);
        }
        let registry = Self { folder, children, plain, private };
        for address in [plain, private] {
            eventually(Duration::from_secs(20), "the registry listens", async || {
                TcpStream::connect(address).await.map(drop).map_err(anyhow::Error::from)
            })
            .await?;
        }
        Ok(registry)
    }

    /// The certificate to trust.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Pushes an image to both.
    pub(crate) async fn push(&self, name: &str, image: &Image) -> anyhow::Result<()> {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let send = async |request: http::request::Builder, body: Vec<u8>| {
            let request = request.body(Full::new(Bytes::from(body)))?;
            let answer = client.request(request).await?;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            if !parts.status.is_success() {
                bail!("{}: {}", parts.status, String::from_utf8_lossy(&body));
            }
            Ok(parts.headers)
        };
        image.push(&format!("http://{}", self.plain), name, send).await
    }
}

/// A port that was free just now.
fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// An image in parts: blobs, and manifests of which the last is tagged.
#[derive(Default, Clone)]
pub(crate) struct Image {
    blobs: Vec<Vec<u8>>,
    manifests: Vec<(String, Vec<u8>)>,
}

/// Media type, digest and size of some content.
pub(crate) fn describe(media_type: &str, content: &[u8]) -> Value {
    let hex: String = Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect();
    json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": content.len()})
}

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Path and content of a file in a layer.
pub(crate) type File<'a> = (&'a str, &'a [u8]);

impl Image {
    /// With a config and layers, each with its media type.
    pub(crate) fn new(manifest: &str, config: (&str, Value), layers: &[(&str, Vec<u8>)]) -> Self {
        let content = config.1.to_string().into_bytes();
        let described: Vec<Value> = layers.iter().map(|(t, l)| describe(t, l)).collect();
        let text = json!({
            "schemaVersion": 2, "mediaType": manifest,
            "config": describe(config.0, &content), "layers": described,
        });
        let mut blobs: Vec<Vec<u8>> = layers.iter().map(|(_, layer)| layer.clone()).collect();
        blobs.push(content);
        Self { blobs, manifests: vec![(manifest.to_owned(), text.to_string().into_bytes())] }
    }

    /// The CNCF artifact of a component.
    pub(crate) fn artifact(component: Vec<u8>) -> Self {
        let config = json!({"architecture": "wasm", "os": "wasip2"});
        let config = ("application/vnd.wasm.config.v0+json", config);
        Self::new(OCI_MANIFEST, config, &[("application/wasm", component)])
    }

    /// An ordinary image: tar archives of (path, content), packed by their media type's ending.
    pub(crate) fn files(
        manifest: &str,
        platform: (&str, &str),
        run: Value,
        layers: &[(&str, &[File<'_>])],
    ) -> anyhow::Result<Self> {
        let mut packed = Vec::new();
        let mut diff_ids = Vec::new();
        for (media_type, files) in layers {
            let mut tar = tar::Builder::new(Vec::new());
            for (path, content) in *files {
                let mut header = tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                header.set_mode(0o755);
                tar.append_data(&mut header, path, *content)?;
            }
            let tar = tar.into_inner()?;
            diff_ids.push(describe("", &tar)["digest"].clone());
            let layer = if media_type.ends_with("gzip") {
                let level = flate2::Compression::fast();
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
                std::io::Write::write_all(&mut gzip, &tar)?;
                gzip.finish()?
            } else if media_type.ends_with("zstd") {
                zstd::encode_all(&tar[..], 1)?
            } else {
                tar
            };
            packed.push((*media_type, layer));
        }
        let config = json!({
            "os": platform.0, "architecture": platform.1, "config": run,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let kind = match manifest.contains("docker") {
            true => "application/vnd.docker.container.image.v1+json",
            false => "application/vnd.oci.image.config.v1+json",
        };
        Ok(Self::new(manifest, (kind, config), &packed))
    }

    /// An index of images by platform.
    pub(crate) fn index(images: &[(Self, &str, &str)]) -> Self {
        let mut all = Self::default();
        let mut named = Vec::new();
        for (image, os, architecture) in images {
            all.blobs.extend(image.blobs.clone());
            all.manifests.extend(image.manifests.clone());
            if let Some((media_type, content)) = image.manifests.last() {
                let mut descriptor = describe(media_type, content);
                descriptor["platform"] = json!({"os": os, "architecture": architecture});
                named.push(descriptor);
            }
        }
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": named});
        all.manifests.push((OCI_INDEX.to_owned(), index.to_string().into_bytes()));
        all
    }

    /// Pushes by the protocol, `name` being `REPOSITORY:TAG`.
    pub(crate) async fn push(
        &self,
        base: &str,
        name: &str,
        send: impl AsyncFn(http::request::Builder, Vec<u8>) -> anyhow::Result<http::HeaderMap>,
    ) -> anyhow::Result<()> {
        use http::{Request, header};
        let (repository, tag) = name.split_once(':').context("a name with a tag")?;
        for blob in &self.blobs {
            let begin = Request::post(format!("{base}/v2/{repository}/blobs/uploads/"));
            let headers = send(begin, Vec::new()).await?;
            let place = headers.get(header::LOCATION).context("no Location")?.to_str()?;
            let place = match place.starts_with('/') {
                true => format!("{base}{place}"),
                false => place.to_owned(),
            };
            let digest = describe("", blob)["digest"].as_str().unwrap_or_default().to_owned();
            let separator = if place.contains('?') { '&' } else { '?' };
            let finish = Request::put(format!("{place}{separator}digest={digest}"))
                .header(header::CONTENT_TYPE, "application/octet-stream");
            send(finish, blob.clone()).await?;
        }
        for (index, (media_type, content)) in self.manifests.iter().enumerate() {
            let digest = describe("", content)["digest"].as_str().unwrap_or_default().to_owned();
            let last = index + 1 == self.manifests.len();
            let reference = if last { tag.to_owned() } else { digest };
            let put = Request::put(format!("{base}/v2/{repository}/manifests/{reference}"))
                .header(header::CONTENT_TYPE, media_type);
            send(put, content.clone()).await?;
        }
        Ok(())
    }
}

/// A component with a few megabytes of noise that mean nothing, so that it takes a while to arrive.
pub(crate) fn padded(component: &[u8], bytes: usize) -> Vec<u8> {
    let mut noise = 88172645463325252_u64;
    let mut content = vec![3];
    content.extend_from_slice(b"pad");
    content.extend(
        std::iter::repeat_with(|| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise as u8
        })
        .take(bytes),
    );
    let mut padded = component.to_vec();
    // A custom section: its size in LEB128, then its name and content.
    padded.push(0);
    let mut size = content.len();
    while size >= 0x80 {
        padded.push(size as u8 | 0x80);
        size >>= 7;
    }
    padded.push(size as u8);
    padded.extend(content);
    padded
}

/// A line to a registry that breaks after `limit` bytes of every connection's answers, or falls silent there.
pub(crate) struct BadLine {
    pub(crate) address: SocketAddr,
    counts: Arc<Counts>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    limit: AtomicU64,
    is_silent: AtomicBool,
    broken: AtomicU64,
    resumed: AtomicU64,
    bytes: AtomicU64,
}

impl Drop for BadLine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl BadLine {
    pub(crate) async fn to(registry: SocketAddr, limit: u64) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        counts.limit.store(limit, Relaxed);
        let shared = counts.clone();
        let task = tokio::spawn(async move {
            let mut lines = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                lines.spawn(carry(client, registry, shared.clone()));
            }
        });
        Ok(Self { address, counts, task })
    }

    /// Instead of breaking, it stays open and carries nothing more.
    pub(crate) fn falls_silent(self) -> Self {
        self.counts.is_silent.store(true, Relaxed);
        self
    }

    /// From now on it holds.
    pub(crate) fn mend(&self) {
        self.counts.limit.store(u64::MAX, Relaxed);
    }

    /// Connections that broke, requests that went on where another had ended, and bytes that went through.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let Counts { broken, resumed, bytes, .. } = &*self.counts;
        (broken.load(Relaxed), resumed.load(Relaxed), bytes.load(Relaxed))
    }
}

async fn carry(client: TcpStream, registry: SocketAddr, counts: Arc<Counts>) {
    let Ok(server) = TcpStream::connect(registry).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let questions = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            let text = String::from_utf8_lossy(&buffer[..count]).to_lowercase();
            counts.resumed.fetch_add(text.matches("range: bytes=").count() as u64, Relaxed);
            if to_server.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    };
    let answers = async {
        let mut buffer = vec![0; 16 << 10];
        let mut carried = 0;
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            let limit = counts.limit.load(Relaxed);
            if to_client.write_all(&buffer[..count]).await.is_err() {
                break;
            }
            counts.bytes.fetch_add(count as u64, Relaxed);
            carried += count as u64;
            if carried >= limit {
                counts.broken.fetch_add(1, Relaxed);
                if counts.is_silent.load(Relaxed) {
                    std::future::pending::<()>().await;
                }
                break;
            }
        }
    };
    tokio::select! {
        () = questions => {}
        () = answers => {}
    }
}
