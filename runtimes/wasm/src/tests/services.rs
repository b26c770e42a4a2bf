use std::net::SocketAddr;

use coracle_sandbox::*;

use super::fixture::*;

fn service(
    name: &str,
    namespace: &str,
    vip: SocketAddr,
    backends: Vec<SocketAddr>,
) -> ServiceRoute {
    ServiceRoute {
        name: name.into(),
        namespace: namespace.into(),
        vip: Some(vip.ip()),
        ports: vec![PortRoute { port: vip.port(), backends, ..Default::default() }],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_forwarded_to_their_backends() {
    let host = TestHost::start().await;
    let one = host.serve("one", example("hello-v1")).await;
    let two = host.serve("two", example("hello-v1")).await;
    let dead = SocketAddr::new(free_ip(), PORT);
    let vip = SocketAddr::new(free_ip(), 18081);
    let listen =
        Listen { address: vip, namespace: "test".into(), service: "hello".into(), port: 18081 };
    let routes = |backends: &[SocketAddr], listen: &[Listen]| Routes {
        generation: 1,
        services: vec![service("hello", "test", vip, backends.to_vec())],
        listen: listen.to_vec(),
    };
    let status =
        host.client.put_routes(&routes(&[one, dead, two], std::slice::from_ref(&listen))).await;
    assert_eq!(status.unwrap().failed, []);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let (status, body) = get(vip, "/").await;
        assert_eq!(status, 200);
        seen.insert(body);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");

    let mut kept = Connection::open(vip).await;
    kept.get("/").await.unwrap();
    host.client.put_routes(&routes(&[two], std::slice::from_ref(&listen))).await.unwrap();
    assert!(get(vip, "/").await.1.contains("two"));
    assert_eq!(kept.get("/").await.unwrap().0, 200, "a connection was dropped");
    // A backend outside of this host: bytes are copied.
    let outside = TestHost::start().await;
    let three = outside.serve("three", example("hello-v1")).await;
    host.client.put_routes(&routes(&[dead, three], std::slice::from_ref(&listen))).await.unwrap();
    assert!(get(vip, "/").await.1.contains("three"));

    host.client.put_routes(&routes(&[two], &[])).await.unwrap();
    assert!(tokio::net::TcpStream::connect(vip).await.is_err(), "still listening");
    let taken = Listen { address: one, ..listen };
    let status = host.client.put_routes(&routes(&[two], &[taken])).await.unwrap();
    assert_eq!(status.failed[0].address, one);
    outside.end().await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_stay_with_their_backend() {
    let host = TestHost::start().await;
    let caller = host.serve("caller", example("probe-http")).await;
    let mut all = Vec::new();
    for name in ["one", "two", "three", "four"] {
        all.push(host.serve(name, example("hello-v1")).await);
    }
    let vip = SocketAddr::new(free_ip(), 80);
    let give = async |backends: &[SocketAddr]| {
        let sticky = ServiceRoute {
            affinity_seconds: Some(1),
            ..service("hello", "test", vip, backends.to_vec())
        };
        let routes = Routes { generation: 1, services: vec![sticky], listen: Vec::new() };
        host.client.put_routes(&routes).await.unwrap();
    };
    let ask = async || {
        let (status, body) = get(caller, "/fetch?url=http://hello/").await;
        assert!(status == 200, "{body}");
        body
    };
    give(&all).await;
    let now = ask().await;
    // Another table is no reason to leave.
    let mut turned = all.clone();
    turned.reverse();
    give(&turned).await;
    for _ in 0..6 {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(ask().await, now, "each call begins the time anew");
    }
    let mut after = std::collections::BTreeSet::new();
    for _ in 0..4 {
        tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
        after.insert(ask().await);
    }
    assert!(after.len() > 1, "sessions never end: {after:?}");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_call_services_by_name() {
    let host = TestHost::start().await;
    let outside = TestHost::start().await;
    let caller = host.serve("caller", example("probe-http")).await;
    let here = host.serve("here", example("hello-v1")).await;
    let there = outside.serve("there", example("hello-v1")).await;
    let (vip, other) = (SocketAddr::new(free_ip(), 80), SocketAddr::new(free_ip(), 8080));
    let routes = Routes {
        generation: 1,
        services: vec![
            service("hello", "test", vip, vec![here]),
            service("hello", "elsewhere", other, vec![there]),
            service("empty", "test", SocketAddr::new(free_ip(), 80), Vec::new()),
        ],
        listen: Vec::new(),
    };
    host.client.put_routes(&routes).await.unwrap();
    let check = async |url: String, expected: &str| {
        let (status, body) = get(caller, &format!("/fetch?url={url}")).await;
        let expected_status = if expected.starts_with("200") { 200 } else { 502 };
        assert_eq!(status, expected_status, "{url}: {body}");
        assert!(body.contains(expected), "{url}: {body}");
    };
    let mine = "200\nHello from Coracle (v1, here)";
    let theirs = "200\nHello from Coracle (v1, there)";
    check("http://hello/".into(), mine).await;
    check("http://hello.test/".into(), mine).await;
    check("http://hello.test.svc/".into(), mine).await;
    check("http://hello.test.svc.cluster.local/".into(), mine).await;
    check(format!("http://{}/", vip.ip()), mine).await;
    check(format!("http://{here}/"), mine).await;
    check("http://hello.elsewhere:8080/".into(), theirs).await;
    check(format!("http://{other}/"), theirs).await;
    check("http://empty/".into(), "ConnectionRefused").await;
    check("http://no-such-host.invalid/".into(), "DnsError").await;
    outside.end().await;
    host.end().await;
}
