//! Sockets, look-ups and grants, with a guest that does what its arguments say.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use coracle_sandbox::*;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::fixture::*;

/// Starts `probe-net` as a container of a sandbox.
async fn start(
    host: &TestHost,
    sandbox: &SandboxSpec,
    container: &str,
    args: &[&str],
    change: impl FnOnce(&mut ContainerSpec),
) {
    let mut app = host.app(sandbox, example("probe-net"));
    app.name = container.into();
    app.log_path = sandbox.log_dir.join(format!("{container}.log"));
    app.args = ["probe-net"].iter().chain(args).map(|arg| arg.to_string()).collect();
    app.ports = Vec::new();
    change(&mut app);
    host.client.start_container(&sandbox.id, &app).await.unwrap();
}

fn log(sandbox: &SandboxSpec, container: &str) -> String {
    std::fs::read_to_string(sandbox.log_dir.join(format!("{container}.log"))).unwrap_or_default()
}

/// What a container says once its log holds `text`.
async fn told(sandbox: &SandboxSpec, container: &str, text: &str) -> String {
    for _ in 0..2000 {
        let log = log(sandbox, container);
        if log.contains(text) {
            return log;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{container} never said {text:?} but {:?}", log(sandbox, container));
}

/// Runs `probe-net` to its end, in a sandbox; its exit code and what it printed.
async fn run(host: &TestHost, sandbox: &SandboxSpec, name: &str, args: &[&str]) -> (i32, String) {
    start(host, sandbox, name, args, |_| {}).await;
    let code = ended(host, sandbox, name).await;
    (code, log(sandbox, name))
}

async fn ended(host: &TestHost, sandbox: &SandboxSpec, name: &str) -> i32 {
    for _ in 0..2000 {
        let status = host.client.sandbox(&sandbox.id).await.unwrap();
        let container = status.containers.iter().find(|c| c.name == name).unwrap();
        if let ContainerState::Exited { code, .. } = container.state {
            return code;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} never ended: {}", log(sandbox, name));
}

async fn echo(address: SocketAddr, text: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn route(name: &str, vip: Option<IpAddr>, port: u16, backends: Vec<SocketAddr>) -> ServiceRoute {
    ServiceRoute {
        name: name.into(),
        namespace: "test".into(),
        vip,
        ports: vec![PortRoute { port, backends, ..Default::default() }],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_listen_on_their_pods_address() {
    let host = TestHost::start().await;
    let (server, client) = (host.sandbox("server").await, host.sandbox("client").await);
    start(&host, &server, "echo", &["tcp-echo", "0.0.0.0:7007"], |_| {}).await;
    let at = SocketAddr::new(server.ips[0], 7007);
    told(&server, "echo", &format!("listening on {at}")).await;
    assert_eq!(echo(at, "ahoy").await.unwrap(), "ahoy");
    // Much more than any buffer on the way.
    let mut stream = TcpStream::connect(at).await.unwrap();
    let (mut input, mut output) = stream.split();
    let sent = vec![7_u8; 8 << 20];
    let mut came = Vec::new();
    let (written, read) = tokio::join!(
        async {
            output.write_all(&sent).await?;
            output.shutdown().await
        },
        input.read_to_end(&mut came)
    );
    written.unwrap();
    read.unwrap();
    assert_eq!(came.len(), sent.len());

    let vip = SocketAddr::new(free_ip(), 80);
    let services = vec![route("echo", Some(vip.ip()), 80, vec![at])];
    host.client.put_routes(&Routes { services, ..Default::default() }).await.unwrap();
    let (code, log) = run(&host, &client, "by-vip", &["tcp", &vip.to_string(), "hello"]).await;
    assert_eq!(code, 0, "{log}");
    let called = format!("called {vip}: hello");
    assert!(log.contains(&called) && log.contains(&format!("{}:", client.ips[0])), "{log}");
    told(&server, "echo", &format!("connection from {}:", client.ips[0])).await;
    let (code, log) = run(&host, &client, "by-ip", &["tcp", &at.to_string(), "hello"]).await;
    assert_eq!(code, 0, "{log}");

    // The same address again is taken, also in another container of the Pod.
    let (code, log) = run(&host, &server, "again", &["tcp-echo", "0.0.0.0:7007"]).await;
    assert!(code == 1 && log.contains("address-in-use"), "{log}");
    // Once its owner is gone, it is free.
    host.client.stop_container(&server.id, "echo", Stop { grace_seconds: 0 }).await.unwrap();
    ended(&host, &server, "echo").await;
    assert!(echo(at, "ahoy").await.is_err());
    start(&host, &server, "next", &["tcp-echo", "0.0.0.0:7007"], |_| {}).await;
    told(&server, "next", "listening").await;
    assert_eq!(echo(at, "ahoy").await.unwrap(), "ahoy");
    // Nobody else's address can be had.
    let other = format!("{}:7008", client.ips[0]);
    let (code, log) = run(&host, &server, "other", &["tcp-echo", &other]).await;
    assert!(code == 1 && log.contains("address-not-bindable"), "{log}");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn localhost_is_the_pod() {
    let host = TestHost::start().await;
    let (pod, other) = (host.sandbox("pod").await, host.sandbox("other").await);
    start(&host, &pod, "public", &["tcp-echo", "0.0.0.0:7001"], |_| {}).await;
    start(&host, &pod, "private", &["tcp-echo", "127.0.0.1:7002"], |_| {}).await;
    told(&pod, "public", "listening").await;
    told(&pod, "private", "listening").await;
    for port in [7001, 7002] {
        let to = format!("127.0.0.1:{port}");
        let (code, log) = run(&host, &pod, &format!("own-{port}"), &["tcp", &to, "me"]).await;
        assert!(code == 0 && log.contains(": me"), "{log}");
        let (code, log) = run(&host, &other, &format!("foreign-{port}"), &["tcp", &to, "me"]).await;
        assert!(code == 1 && log.contains("connection-refused"), "{log}");
    }
    let private = SocketAddr::new(pod.ips[0], 7002);
    assert_eq!(echo(private, "who").await.unwrap_or_default(), "", "reached a private server");

    // Services of the machine, on its own loopback and on every address, are not the Pod's.
    let machine = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = machine.local_addr().unwrap().port();
    let targets = [IpAddr::from([127, 0, 0, 1]), free_ip(), pod.ips[0]];
    for (n, ip) in targets.into_iter().enumerate() {
        let to = SocketAddr::new(ip, port).to_string();
        let (code, log) = run(&host, &pod, &format!("out-{n}"), &["tcp", &to, "x"]).await;
        assert!(code == 1 && log.contains("connection-refused"), "{to}: {log}");
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_come_and_go() {
    let host = TestHost::start().await;
    let (server, client) = (host.sandbox("server").await, host.sandbox("client").await);
    start(&host, &server, "echo", &["udp-echo", "0.0.0.0:7009"], |_| {}).await;
    let at = SocketAddr::new(server.ips[0], 7009);
    told(&server, "echo", &format!("listening on {at}")).await;
    // From the machine: whoever calls is answered.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut answer = [0; 16];
    for text in ["one", "two"] {
        socket.send_to(text.as_bytes(), at).await.unwrap();
        let (count, from) = socket.recv_from(&mut answer).await.unwrap();
        assert_eq!((&answer[..count], from), (text.as_bytes(), at));
    }
    let (code, log) = run(&host, &client, "call", &["udp", &at.to_string(), "hello"]).await;
    assert!(code == 0 && log.contains(&format!("{at} answered: hello")), "{log}");
    let (code, log) = run(&host, &server, "own", &["udp", "127.0.0.1:7009", "hello"]).await;
    assert!(code == 0 && log.contains("answered: hello"), "{log}");
    // A socket of the machine that never called.
    let machine = socket.local_addr().unwrap().to_string();
    let (code, log) = run(&host, &client, "out", &["udp", &machine, "x"]).await;
    assert!(code == 1 && log.contains("access-denied"), "{log}");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_looked_up_in_the_pods_order() {
    let host = TestHost::start().await;
    let mut pod = host.sandbox_spec("pod");
    let alias = free_ip();
    let names = vec!["db.example".to_owned(), "shadow".to_owned()];
    pod.hosts = vec![HostAlias { ip: alias, names }];
    pod.names = vec!["own.sub.test.svc.cluster.local".to_owned(), "own".to_owned()];
    host.client.put_sandbox(&pod).await.unwrap();
    let (vip, one, two) = (free_ip(), free_ip(), free_ip());
    let backends = [one, two].map(|ip| SocketAddr::new(ip, 80)).to_vec();
    let endpoint = |ip, name: Option<&str>| Endpoint { ip, hostname: name.map(str::to_owned) };
    let endpoints =
        vec![endpoint(one, Some("first")), endpoint(two, Some(&two.to_string().replace('.', "-")))];
    let other = |name: &str, target: &str| ServiceRoute {
        external_name: Some(target.to_owned()),
        ports: Vec::new(),
        ..route(name, None, 80, Vec::new())
    };
    let services = vec![
        route("web", Some(vip), 80, Vec::new()),
        route("shadow", Some(vip), 80, Vec::new()),
        // Of an agent that tells of no endpoints.
        route("headless", None, 80, backends),
        ServiceRoute { endpoints: endpoints.clone(), ..route("db", None, 80, Vec::new()) },
        ServiceRoute { endpoints, ports: Vec::new(), ..route("bare", None, 80, Vec::new()) },
        other("other", "First.db.test.svc.cluster.local."),
        other("round", "round.test.svc.cluster.local"),
    ];
    host.client.put_routes(&Routes { services, ..Default::default() }).await.unwrap();
    let local = IpAddr::from([127, 0, 0, 1]);
    let cases: &[(&str, &[IpAddr])] = &[
        ("db.example", &[alias]),
        ("DB.Example.", &[alias]),
        ("shadow", &[alias]),
        ("localhost", &[local]),
        ("pod", &[pod.ips[0]]),
        ("web", &[vip]),
        ("web.test", &[vip]),
        ("web.test.svc", &[vip]),
        ("web.test.svc.cluster.local", &[vip]),
        ("headless", &[one, two]),
        ("own", &[pod.ips[0]]),
        ("own.sub.test.svc.cluster.local", &[pod.ips[0]]),
        ("bare", &[one, two]),
        ("first.db", &[one]),
        ("first.db.test", &[one]),
        ("first.db.test.svc", &[one]),
        ("first.db.test.svc.cluster.local.", &[one]),
        (&format!("{}.db.test.svc.cluster.local", two.to_string().replace('.', "-")), &[two]),
        ("10-1-2-3.test.pod.cluster.local", &[IpAddr::from([10, 1, 2, 3])]),
        ("other", &[one]),
        ("10.1.2.3", &[IpAddr::from([10, 1, 2, 3])]),
    ];
    for (n, (name, expected)) in cases.iter().enumerate() {
        let (code, log) = run(&host, &pod, &format!("look-{n}"), &["resolve", name]).await;
        assert_eq!(code, 0, "{name}: {log}");
        for ip in *expected {
            assert!(log.contains(&format!("{name} is {ip}\n")), "{name}: {log}");
        }
        assert_eq!(log.lines().count(), expected.len(), "{name}: {log}");
    }
    let (code, log) = run(&host, &pod, "unknown", &["resolve", "no-such-host.invalid"]).await;
    assert!(code == 1 && log.contains("failed: "), "{log}");
    for (n, name) in ["round", "second.db.test.svc.cluster.local"].into_iter().enumerate() {
        let (code, log) = run(&host, &pod, &format!("none-{n}"), &["resolve", name]).await;
        assert!(code == 1 && log.contains("name-unresolvable"), "{name}: {log}");
    }
    let (code, log) = run(&host, &pod, "invalid", &["resolve", "a..b"]).await;
    assert!(code == 1 && log.contains("invalid-argument"), "{log}");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_is_refused_and_said() {
    let host = TestHost::start().await;
    let pod = host.sandbox("pod").await;
    let mut events = host.client.events(0);
    /// The grant, the guest's arguments, how it is refused, what the guest says then, and its exit code.
    type Case<'a> = (&'a str, &'a [&'a str], fn(&mut Grants), &'a str, i32);
    let cases: &[Case<'_>] = &[
        ("sockets", &["tcp", "10.0.0.1:1", "x"], |g| g.sockets = false, "access-denied", 1),
        ("sockets", &["udp-echo", "0.0.0.0:7010"], |g| g.sockets = false, "access-denied", 1),
        ("names", &["resolve", "localhost"], |g| g.names = false, "access-denied", 1),
        // The time of day is when the container started, and none passes.
        ("clocks", &["clocks"], |g| g.clocks = false, " 0\n", 0),
    ];
    for (n, (word, args, refuse, said, exit)) in cases.iter().enumerate() {
        let name = format!("probe-{n}");
        start(&host, &pod, &name, args, |app| refuse(&mut app.grants)).await;
        let code = ended(&host, &pod, &name).await;
        let log = log(&pod, &name);
        assert!(code == *exit && log.contains(said), "{args:?}: {log}");
        let way = format!("add \"{word}\" to the annotation coracle.dev/grants");
        assert_eq!(log.matches(&way).count(), 1, "{args:?}: {log}");
        let noticed = async {
            while let Some(event) = events.next().await {
                if let HostEvent::Notice(notice) = event
                    && notice.container == name
                {
                    return notice;
                }
            }
            panic!("the events ended");
        };
        let notice = tokio::time::timeout(Duration::from_secs(10), noticed).await.unwrap();
        assert_eq!((notice.kind, notice.sandbox), (NoticeKind::Denied, pod.id.clone()));
        assert!(notice.message.contains(&way), "{}", notice.message);
    }
    let (code, log) = run(&host, &pod, "granted", &["clocks"]).await;
    assert!(code == 0 && !log.contains("grants") && !log.contains(" 0\n"), "{log}");

    let caller =
        host.serve_with("caller", example("probe-http"), |app| app.grants.http = false).await;
    let (status, body) = get(caller, "/fetch?url=http://10.0.0.1/").await;
    assert!(status == 502 && body.contains("HttpRequestDenied"), "{body}");
    assert!(host.log("caller").contains("add \"http\" to"), "{}", host.log("caller"));
    host.end().await;
}
