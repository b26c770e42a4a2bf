use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::{HeaderMap, HeaderValue, Request, Response};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

type Answer = Response<BoxBody<Bytes, std::convert::Infallible>>;

fn answer(status: u16, headers: &[(&'static str, &str)], body: &'static [u8]) -> Answer {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(Full::new(Bytes::from_static(body)).boxed()).unwrap()
}

/// What the server under test says.
fn handle(request: &Request<Incoming>) -> Answer {
    let header = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
    match request.uri().path() {
        "/ok" => answer(200, &[], b""),
        "/moved" => answer(302, &[("location", "/ok")], b""),
        "/moved-relative" => answer(302, &[("location", "ok")], b""),
        "/elsewhere" => answer(302, &[("location", "http://192.0.2.7/")], b"over there"),
        "/broken-behind" => answer(302, &[("location", "/500")], b""),
        "/loop" => answer(302, &[("location", "/loop")], b""),
        "/seen"
            if header("user-agent").as_deref() == Some("kube-probe/1.36")
                && header("accept").as_deref() == Some("*/*")
                && header("host").as_deref() == Some("shop.test")
                && header("x-token").as_deref() == Some("t") =>
        {
            answer(204, &[], b"")
        }
        "/grpc.health.v1.Health/Check" => health(request),
        _ => answer(500, &[], b"a body that nobody needs"),
    }
}

/// The service that is asked for decides; the length of the message tells which.
fn health(request: &Request<Incoming>) -> Answer {
    let length: usize = header_length(request);
    let (status, body): (&str, &'static [u8]) = match length {
        5 => ("0", b"\0\0\0\0\x02\x08\x01"),
        // "\n\x04down"
        11 => ("0", b"\0\0\0\0\x02\x08\x02"),
        _ => return answer(200, &[("grpc-status", "5"), ("grpc-message", "no such service")], b""),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_str(status).unwrap());
    let body = Full::new(Bytes::from_static(body)).with_trailers(async { Some(Ok(trailers)) });
    Response::new(body.boxed())
}

fn header_length(request: &Request<Incoming>) -> usize {
    use hyper::body::Body;
    request.body().size_hint().exact().unwrap_or_default().try_into().unwrap()
}

async fn serve(tls: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tls.then(|| {
        let made = rcgen::generate_simple_self_signed(["nobody".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    });
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let service = service_fn(async |request: Request<Incoming>| {
                    Ok::<_, std::convert::Infallible>(handle(&request))
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                // A client that has its answer closes.
                let _ = match acceptor {
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => builder.serve_connection(TokioIo::new(stream), service).await,
                        Err(error) => panic!("{error}"),
                    },
                    None => builder.serve_connection(TokioIo::new(stream), service).await,
                };
            });
        }
    });
    (address, asked)
}

/// Asks 127.0.0.1 as a Pod, whose port 80 is really `at`.
async fn ask(probe: Value, at: u16) -> Result<(), String> {
    warned(probe, at).await.map(drop)
}

/// The same, with what people are told.
async fn warned(probe: Value, at: u16) -> Result<Option<String>, String> {
    let container: Container = serde_json::from_value(
        json!({"name": "c", "ports": [{"name": "web", "containerPort": 80}]}),
    )
    .unwrap();
    let probe: Probe = serde_json::from_value(probe).unwrap();
    let port = move |port| if port == 80 { at } else { port };
    run("127.0.0.1".parse().unwrap(), &container, &probe, port).await
}

#[tokio::test]
async fn http_is_asked_as_the_kubelet_asks() {
    let (address, _) = serve(false).await;
    let failed = |code: u16| Err(format!("HTTP probe failed with statuscode: {code}"));
    for (get, expected) in [
        (json!({"path": "/ok", "port": "web"}), Ok(())),
        (json!({"path": "ok", "port": 80}), Ok(())),
        (json!({"path": "/500", "port": 80}), failed(500)),
        (json!({"port": 80}), failed(500)),
        (json!({"path": "/moved", "port": 80}), Ok(())),
        (json!({"path": "/moved-relative", "port": 80}), Ok(())),
        (json!({"path": "/elsewhere", "port": 80}), Ok(())),
        (json!({"path": "/broken-behind", "port": 80}), failed(500)),
        (
            json!({"path": "/loop", "port": 80}),
            Err("Get \"http://127.0.0.1:80/loop\": stopped after 10 redirects".to_owned()),
        ),
        (json!({"path": "/seen", "port": 80}), failed(500)),
        (
            json!({"path": "/seen", "port": 80, "httpHeaders": [
                {"name": "Host", "value": "shop.test"}, {"name": "X-Token", "value": "t"}]}),
            Ok(()),
        ),
        (json!({"path": "/ok", "port": "gone"}), Err("couldn't find port: \"gone\"".to_owned())),
    ] {
        let said = get.to_string();
        assert_eq!(ask(json!({"httpGet": get}), address.port()).await, expected, "{said}");
    }
}

#[tokio::test]
async fn a_redirect_to_elsewhere_is_told() {
    let (address, _) = serve(false).await;
    let told = "Probe terminated redirects, Response body: over there".to_owned();
    for (path, expected) in [("/elsewhere", Some(told)), ("/moved", None), ("/ok", None)] {
        let get = json!({"httpGet": {"path": path, "port": 80}});
        assert_eq!(warned(get, address.port()).await, Ok(expected), "{path}");
    }
}

#[tokio::test]
async fn certificates_are_not_looked_at() {
    let (address, asked) = serve(true).await;
    let get = json!({"httpGet": {"path": "/ok", "port": 80, "scheme": "HTTPS"}});
    assert_eq!(ask(get, address.port()).await, Ok(()));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_does_not_answer_is_told_in_gos_words() {
    // Bound and not listening: nobody else gets the port, and nobody answers.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    let got = ask(json!({"httpGet": {"port": 80}}), port).await;
    assert_eq!(got, Err(format!("Get \"http://127.0.0.1:80/\": {refused}")));
    assert_eq!(ask(json!({"tcpSocket": {"port": 80}}), port).await, Err(refused.clone()));
    let got = ask(json!({"grpc": {"port": 80}}), port).await;
    let expected = format!("error: failed to connect service at \"127.0.0.1:{port}\": {refused}");
    assert_eq!(got, Err(expected));

    // Listening, and silent.
    let silent = socket.listen(8).unwrap();
    let got = ask(json!({"httpGet": {"port": 80}, "timeoutSeconds": 1}), port).await.unwrap_err();
    assert!(got.starts_with("Get \"http://127.0.0.1:80/\": context deadline exceeded"), "{got}");
    assert_eq!(ask(json!({"tcpSocket": {"port": 80}}), port).await, Ok(()));
    let got = ask(json!({"grpc": {"port": 80}, "timeoutSeconds": 1}), port).await;
    assert_eq!(got, Err("timeout: health rpc did not complete within 1s".to_owned()));
    drop(silent);
}

#[tokio::test]
async fn grpc_health_is_checked() {
    let (address, _) = serve(false).await;
    let at = address.port();
    for (service, expected) in [
        (json!(null), Ok(())),
        (json!("down"), Err("service unhealthy (responded with \"NOT_SERVING\")")),
        (
            json!("elsewhere"),
            Err("error: health rpc probe failed: rpc error: code = 5 desc = no such service"),
        ),
    ] {
        let got = ask(json!({"grpc": {"port": 80, "service": service}}), at).await;
        assert_eq!(got, expected.map_err(str::to_owned), "{service}");
    }
}
