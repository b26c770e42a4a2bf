//! A real host on a socket of its own, and a client that speaks HTTP to its Pods.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_sandbox::*;
use futures::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};

use crate::HostConfig;

pub(super) const PORT: u16 = 18080;

/// A host that ends with the test.
pub(super) struct TestHost {
    pub(super) client: Client,
    pub(super) folder: tempfile::TempDir,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl TestHost {
    pub(super) async fn start() -> TestHost {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub(super) async fn start_in(folder: tempfile::TempDir) -> TestHost {
        Self::start_as(folder, |_| {}).await
    }

    pub(super) async fn start_with(change: impl FnOnce(&mut HostConfig)) -> TestHost {
        Self::start_as(tempfile::tempdir().unwrap(), change).await
    }

    async fn start_as(folder: tempfile::TempDir, change: impl FnOnce(&mut HostConfig)) -> TestHost {
        let socket = folder.path().join("host.sock");
        let data = folder.path().join("data");
        // Tests run beside each other, and a process has only so many memory mappings.
        let mut config = HostConfig { instances: 400, ..HostConfig::new(&socket, data) };
        change(&mut config);
        let resolver = tokio::runtime::Handle::current();
        let host = crate::host::Host::start(&config, resolver).unwrap();
        let serving = tokio::spawn(serve(listen(&socket).unwrap(), host));
        let client = Client::new(socket);
        client.wait_ready(Duration::from_secs(10)).await.unwrap();
        TestHost { client, folder, serving }
    }

    /// Waits until no container has an instance or a request in service; what each has used. A request is over a moment after
    /// its client has the answer.
    pub(super) async fn idle(&self) -> Vec<ContainerUsage> {
        let start = Instant::now();
        loop {
            let all = self.client.usage().await.unwrap();
            assert!(!all.is_empty(), "there is no container");
            if all.iter().all(|it| it.usage.instances == 0 && it.usage.active_requests == 0) {
                return all;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "it goes on: {all:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the host; its folder stays for another.
    pub(super) async fn end(self) -> tempfile::TempDir {
        self.client.shutdown().await.unwrap();
        self.serving.await.unwrap().unwrap();
        self.folder
    }

    /// A sandbox of this name in the namespace `test`.
    pub(super) async fn sandbox(&self, name: &str) -> SandboxSpec {
        let spec = self.sandbox_spec(name);
        self.client.put_sandbox(&spec).await.unwrap();
        spec
    }

    pub(super) fn sandbox_spec(&self, name: &str) -> SandboxSpec {
        let labels = [(LABEL_NAMESPACE, "test"), (LABEL_NAME, name)];
        SandboxSpec {
            id: format!("id-{name}"),
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            hostname: name.into(),
            ips: vec![free_ip()],
            log_dir: self.folder.path().join("logs").join(name),
            ..Default::default()
        }
    }

    /// A container `app` of an image, to be changed as wanted.
    pub(super) fn app(&self, sandbox: &SandboxSpec, image: Image) -> ContainerSpec {
        ContainerSpec {
            name: "app".into(),
            image,
            ports: vec![PORT],
            log_path: sandbox.log_dir.join("0.log"),
            ..Default::default()
        }
    }

    /// A sandbox with a running `app`; its address.
    pub(super) async fn serve(&self, name: &str, image: Image) -> SocketAddr {
        self.serve_with(name, image, |_| {}).await
    }

    pub(super) async fn serve_with(
        &self,
        name: &str,
        image: Image,
        change: impl FnOnce(&mut ContainerSpec),
    ) -> SocketAddr {
        let sandbox = self.sandbox(name).await;
        let mut app = self.app(&sandbox, image);
        change(&mut app);
        let status = self.client.start_container(&sandbox.id, &app).await.unwrap();
        assert_eq!(status.bound, [SocketAddr::new(sandbox.ips[0], PORT)]);
        status.bound[0]
    }

    pub(super) fn log(&self, name: &str) -> String {
        // Other tests' logs are waited for as well.
        for _ in 0..1000 {
            if crate::logs::queued() == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        std::fs::read_to_string(self.folder.path().join("logs").join(name).join("0.log"))
            .unwrap_or_default()
    }

    /// The state in which `app` of a sandbox ends.
    pub(super) async fn exit(&self, name: &str) -> (i32, ExitReason, String) {
        let id = format!("id-{name}");
        let mut events = self.client.events(0);
        let waiting = async {
            while let Some(event) = events.next().await {
                if let HostEvent::Event(Event { sandbox, container, .. }) = event
                    && sandbox == id
                    && let ContainerState::Exited { code, reason, message, .. } = container.state
                {
                    return (code, reason, message);
                }
            }
            panic!("the events ended");
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it never exited")
    }
}

/// An address that no other test, nor another run, uses.
pub(super) fn free_ip() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    IpAddr::V4(Ipv4Addr::new(127, 100 + (pid >> 8 & 0x3f) as u8, pid as u8, 1 + n as u8))
}

/// A prebuilt example.
pub(super) fn example(name: &str) -> Image {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/prebuilt");
    image(folder.join(format!("{name}.wasm")))
}

/// A file as an image.
pub(super) fn image(path: PathBuf) -> Image {
    let digest = Sha256::digest(std::fs::read(&path).unwrap());
    let digest: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    Image { digest: format!("sha256:{digest}"), path, media_type: "application/wasm".into() }
}

/// A connection that is kept alive.
pub(super) struct Connection(SendRequest<Empty<Bytes>>);

/// Status, whether the connection is to be closed, body.
pub(super) type Reply = (u16, bool, String);

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Connection {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Connection(sender)
    }

    pub(super) async fn get(&mut self, path: &str) -> hyper::Result<Reply> {
        self.0.ready().await?;
        let request = http::Request::get(path).header("host", "test").body(Empty::new()).unwrap();
        let response = self.0.send_request(request).await?;
        let status = response.status().as_u16();
        let close = response.headers().get("connection").is_some_and(|value| value == "close");
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, close, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// One request on a connection of its own.
pub(super) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let (status, _, body) = Connection::open(address).await.get(path).await.unwrap();
    (status, body)
}
