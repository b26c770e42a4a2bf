use bytes::Bytes;
use coracle_ingress::config::{Config, Protocol};
use coracle_ingress::settings::Settings;

use super::backends::Endpoint;
use super::fixture::{Proxy, ask, get, leads, leads_to, say};

fn text(reply: &super::fixture::Reply) -> String {
    String::from_utf8_lossy(reply.body()).into_owned()
}

#[tokio::test]
async fn endpoints_hear_where_requests_come_from() {
    let (proxy, endpoint) = (Proxy::start().await, Endpoint::start().await);
    proxy.serve(&leads_to("a.example.com", &[endpoint.address], Protocol::Http1)).await;
    let request = http::Request::post("/x?y=1")
        .header("host", "A.example.com")
        .header("x-forwarded-for", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6")
        .header("connection", "x-own")
        .header("x-own", "1")
        .header("x", "y")
        .body(Bytes::from("body"))
        .expect("a request");
    let reply = ask(proxy.http, request).await;
    assert_eq!(
        (reply.status().as_u16(), &reply.headers()["x-endpoint"]),
        (200, &"yes".parse().expect("a value"))
    );
    assert!(!reply.headers().contains_key("keep-alive"), "{reply:?}");
    let heard = text(&reply);
    assert!(heard.starts_with("POST /x?y=1 HTTP/1.1\n"), "{heard}");
    for line in [
        "host: A.example.com",
        "x-forwarded-for: 127.0.0.1",
        "x-real-ip: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: A.example.com",
        &format!("x-forwarded-port: {}", proxy.http.port()),
        "x: y",
        "content-length: 4",
        "\nbody",
    ] {
        assert!(heard.contains(line), "{line} is not in {heard}");
    }
    assert!(!heard.contains("x-own") && !heard.contains("6.6.6.6"), "{heard}");
    proxy.end().await;
}

#[tokio::test]
async fn what_nobody_serves_is_said_so() {
    let (proxy, endpoint) = (Proxy::start().await, Endpoint::start().await);
    assert_eq!(ask(proxy.http, get("a", "/")).await.status(), 404);
    let mut config = leads_to("a", &[endpoint.address], Protocol::Http1);
    proxy.serve(&config).await;
    assert_eq!(ask(proxy.http, get("a", "/")).await.status(), 200);
    assert_eq!(ask(proxy.http, get("b", "/")).await.status(), 404);
    let problem = "Service \"ns/s\" does not exist".to_owned();
    let backend = coracle_ingress::config::Backend { problem: Some(problem), ..Default::default() };
    config.backends.insert("b".to_owned(), backend.into());
    proxy.serve(&config).await;
    let reply = ask(proxy.http, get("a", "/")).await;
    assert_eq!(
        (reply.status().as_u16(), text(&reply).as_str()),
        (503, "503 Service \"ns/s\" does not exist\n")
    );
    proxy.serve(&Config::default()).await;
    assert_eq!(ask(proxy.http, get("a", "/")).await.status(), 404);
    proxy.end().await;
}

#[tokio::test]
async fn connections_are_kept_and_endpoints_share_the_work() {
    let proxy = Proxy::start().await;
    let endpoints = [Endpoint::start().await, Endpoint::start().await, Endpoint::start().await];
    let addresses = endpoints.each_ref().map(|endpoint| endpoint.address);
    proxy.serve(&leads_to("a", &addresses, Protocol::Http1)).await;
    let one = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(29);
    let said = say(
        proxy.http,
        format!("{one}GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes(),
    )
    .await;
    assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 30, "{said}");
    for endpoint in &endpoints {
        assert_eq!(endpoint.requests(), 10);
        assert_eq!(endpoint.heard.connections.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
    proxy.end().await;
}

#[tokio::test]
async fn requests_go_where_connections_are_taken() {
    let proxy = Proxy::start().await;
    let gone = Endpoint::start().await.address;
    let endpoint = Endpoint::start().await;
    proxy.serve(&leads_to("a", &[gone, endpoint.address], Protocol::Http1)).await;
    for _ in 0..10 {
        assert_eq!(ask(proxy.http, get("a", "/")).await.status(), 200);
        let post =
            http::Request::post("/").header("host", "a").body(Bytes::from("x")).expect("a request");
        assert_eq!(ask(proxy.http, post).await.status(), 200);
    }
    proxy.serve(&leads_to("a", &[gone], Protocol::Http1)).await;
    let reply = ask(proxy.http, get("a", "/")).await;
    assert_eq!(
        (reply.status().as_u16(), text(&reply).as_str()),
        (502, "502 no endpoint takes a connection\n")
    );
    let metrics = proxy.client.metrics().await.expect("metrics");
    assert!(
        metrics.contains("coracle_ingress_requests_total{ingress=\"ns/i\",code=\"2xx\"} 20\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("coracle_ingress_requests_total{ingress=\"ns/i\",code=\"5xx\"} 1\n"),
        "{metrics}"
    );
    proxy.end().await;
}

/// An endpoint that takes one request a connection and closes it without a word now and then, as servers do whose patience
/// with an idle connection ends in the moment that it is used.
#[tokio::test]
async fn what_was_not_heard_is_said_again() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let proxy = Proxy::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut piece = [0; 4096];
                let _ = stream.read(&mut piece).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                // The next request is read, and not answered.
                let _ = stream.read(&mut piece).await;
            });
        }
    });
    proxy.serve(&leads_to("a", &[address], Protocol::Http1)).await;
    for _ in 0..20 {
        assert_eq!(ask(proxy.http, get("a", "/")).await.status(), 200);
    }
    let metrics = proxy.client.metrics().await.expect("metrics");
    assert!(!metrics.contains("coracle_ingress_retries_total{ingress=\"ns/i\"} 0\n"), "{metrics}");
    server.abort();
    proxy.end().await;
}

#[tokio::test]
async fn annotations_are_obeyed() {
    let (proxy, endpoint) = (Proxy::start().await, Endpoint::start().await);
    let settings = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        leads("a", &[endpoint.address], Protocol::Http1, settings)
    };
    proxy.serve(&settings(|s| s.rewrite_target = Some("/new".to_owned()))).await;
    assert!(
        text(&ask(proxy.http, get("a", "/old?q=1")).await).starts_with("GET /new?q=1 HTTP/1.1")
    );
    proxy.serve(&settings(|s| s.force_ssl_redirect = true)).await;
    let reply = ask(proxy.http, get("a", "/x?y")).await;
    let to = format!("https://a:{}/x?y", proxy.https.port());
    assert_eq!(
        (reply.status().as_u16(), reply.headers()["location"].to_str().expect("text")),
        (308, to.as_str())
    );
    proxy.serve(&settings(|s| s.read_timeout = 1)).await;
    assert_eq!(ask(proxy.http, get("a", "/never")).await.status(), 504);
    proxy.serve(&settings(|s| s.refused = Some("it may not be".to_owned()))).await;
    assert_eq!(text(&ask(proxy.http, get("a", "/")).await), "503 it may not be\n");
    proxy.serve(&settings(|s| s.access_log = true)).await;
    ask(proxy.http, get("a", "/logged?x=1")).await;
    let line = loop {
        let log = std::fs::read_to_string(proxy.logs.join("access.log")).unwrap_or_default();
        if let Some(line) = log.lines().next() {
            break serde_json::from_str::<serde_json::Value>(line).expect("JSON");
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert_eq!(
        (&line["ingress"], &line["path"], &line["status"]),
        (&"ns/i".into(), &"/logged?x=1".into(), &200.into())
    );
    assert_eq!(line["endpoint"], endpoint.address.to_string());
    proxy.end().await;
}

#[tokio::test]
async fn an_end_waits_for_requests() {
    let (proxy, endpoint) = (Proxy::start().await, Endpoint::start().await);
    proxy.serve(&leads_to("a", &[endpoint.address], Protocol::Http1)).await;
    let (address, slow) = (proxy.http, get("a", "/slow"));
    let asked = tokio::spawn(async move { ask(address, slow).await });
    while endpoint.requests() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    proxy.end().await;
    let reply = asked.await.expect("asked");
    assert_eq!((reply.status().as_u16(), text(&reply).as_str()), (200, "slow"));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
