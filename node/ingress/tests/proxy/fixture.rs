//! A running proxy, and clients that say exactly what they are told to.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coracle_ingress::config::{
    Applied, Backend, Certificate, Config, Host, Protocol, Rule, Target, Update,
};
use coracle_ingress::settings::Settings;
use coracle_ingress::{Limits, Options};
use coracle_sandbox::Client;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A proxy that ends with it.
pub(crate) struct Proxy {
    pub(crate) client: Client,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) logs: std::path::PathBuf,
    generation: AtomicU64,
    thread: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
    _folder: tempfile::TempDir,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = Options {
            socket: folder.path().join("s"),
            http: any,
            https: any,
            sockets: None,
            logs: folder.path().to_owned(),
            netns: None,
            limits,
        };
        let client = Client::new(options.socket.clone());
        let run = move || coracle_ingress::run(options, || Ok(()), || Ok(()));
        let thread = std::thread::spawn(run);
        client.wait_ready(Duration::from_secs(20)).await.expect("it answers");
        let told: Applied = client
            .put("/v1/config", &Update { generation: 1, ..Update::default() })
            .await
            .expect("told");
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            client,
            http: at(told.http),
            https: at(told.https),
            logs: folder.path().to_owned(),
            generation: AtomicU64::new(1),
            thread: Some(thread),
            _folder: folder,
        }
    }

    /// Makes it serve that and nothing else.
    pub(crate) async fn serve(&self, config: &Config) {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let update = Update { generation, ..config.since(&Config::default()) };
        let told: Applied = self.client.put("/v1/config", &update).await.expect("told");
        assert_eq!(told.generation, generation);
    }

    pub(crate) async fn end(mut self) {
        self.client.shutdown().await.expect("told to end");
        let thread = self.thread.take().expect("once");
        let ended = tokio::task::spawn_blocking(move || thread.join()).await.expect("joined");
        ended.expect("no panic").expect("a good end");
    }
}

/// `host` leads to these endpoints, whatever the path.
pub(crate) fn leads_to(host: &str, endpoints: &[SocketAddr], protocol: Protocol) -> Config {
    leads(host, endpoints, protocol, Settings::default())
}

pub(crate) fn leads(
    host: &str,
    endpoints: &[SocketAddr],
    protocol: Protocol,
    settings: Settings,
) -> Config {
    let target =
        Target { ingress: "ns/i".into(), backend: "b".to_owned(), settings: Arc::new(settings) };
    let rule = Rule { path: String::new(), prefix: true, target };
    let host_rules = Host { rules: vec![rule], ..Host::default() };
    let backend = Backend { protocol, endpoints: endpoints.to_vec(), problem: None };
    Config {
        hosts: BTreeMap::from([(host.to_owned(), Arc::new(host_rules))]),
        backends: BTreeMap::from([("b".to_owned(), Arc::new(backend))]),
        certificates: BTreeMap::new(),
    }
}

/// The same with a certificate for the host.
pub(crate) fn certified(mut config: Config, host: &str, certificate: &Certificate) -> Config {
    let mut rules = config.hosts.get(host).map(|host| (**host).clone()).unwrap_or_default();
    rules.certificate = Some(format!("ns/{host}"));
    config.hosts.insert(host.to_owned(), Arc::new(rules));
    config.certificates.insert(format!("ns/{host}"), Arc::new(certificate.clone()));
    config
}

/// What is answered to these bytes until the connection is closed.
pub(crate) async fn say(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let _ = stream.write_all(bytes).await;
    let mut said = Vec::new();
    let patience = Duration::from_secs(30);
    let read = tokio::time::timeout(patience, stream.read_to_end(&mut said)).await;
    let start = String::from_utf8_lossy(&said[..said.len().min(500)]).into_owned();
    assert!(read.is_ok(), "the connection stays open after {start:?}");
    String::from_utf8_lossy(&said).into_owned()
}

pub(crate) type Reply = http::Response<Bytes>;

/// One request on a connection of its own.
pub(crate) async fn ask(address: SocketAddr, request: http::Request<Bytes>) -> Reply {
    let stream = TcpStream::connect(address).await.expect("connected");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    let answer = sender.send_request(request.map(Full::new)).await.expect("an answer");
    let (parts, body) = answer.into_parts();
    http::Response::from_parts(parts, body.collect().await.expect("a body").to_bytes())
}

pub(crate) fn get(host: &str, path: &str) -> http::Request<Bytes> {
    http::Request::get(path).header("host", host).body(Bytes::new()).expect("a request")
}
