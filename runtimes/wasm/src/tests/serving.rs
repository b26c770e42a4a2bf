use std::time::Duration;

use coracle_sandbox::*;

use super::fixture::*;

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_each_by_a_fresh_instance() {
    let host = TestHost::start().await;
    let hello = host
        .serve_with("hello", example("hello-v1"), |app| {
            app.env = vec![("GREETING".into(), "no".into()), ("GREETING".into(), "Ahoy".into())];
        })
        .await;
    let (status, body) = get(hello, "/").await;
    assert_eq!((status, body.as_str()), (200, "Ahoy (v1, hello)\n"));

    let probe = host.serve("probe", example("probe-http")).await;
    let mut connection = Connection::open(probe).await;
    for _ in 0..3 {
        assert_eq!(connection.get("/count").await.unwrap(), (200, false, "1\n".into()));
    }
    let (status, body) = get(probe, "/stream?chunks=3&ms=5").await;
    assert_eq!((status, body.as_str()), (200, "chunk 1\nchunk 2\nchunk 3\n"));

    let status = host.client.sandbox("id-probe").await.unwrap();
    let app = &status.containers[0];
    assert!(matches!(app.state, ContainerState::Running { .. }));
    assert_eq!(app.usage.requests, 4);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://test/health")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(
        (response.status(), response.version()),
        (200.try_into().unwrap(), http::Version::HTTP_2)
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_is_told_to_the_log_only() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    let mut connection = Connection::open(address).await;
    let (status, _, body) = connection.get("/trap").await.unwrap();
    assert_eq!((status, body.as_str()), (500, "the component failed\n"));
    assert_eq!(connection.get("/health").await.unwrap().0, 200);
    assert_eq!(connection.get("/silent").await.unwrap().0, 500);

    let log = host.log("probe");
    assert!(log.contains(" stderr F ") && log.contains("unreachable"), "{log}");
    assert!(log.contains("wasm backtrace"), "{log}");
    let status = host.client.sandbox("id-probe").await.unwrap();
    assert_eq!(status.containers[0].usage.failed_requests, 2);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_prints_is_in_the_log() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    assert!(host.log("probe").is_empty());
    get(address, "/log?lines=2").await;
    let log = host.log("probe");
    let lines: Vec<_> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    let expected = [
        "stdout F stdout line 1",
        "stderr F stderr line 1",
        "stdout F stdout line 2",
        "stderr F stderr line 2",
    ];
    assert_eq!(lines, expected);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_drops_no_request() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;

    // Clients under constant load, with kept connections, until they are told to go elsewhere.
    let clients: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                let mut answered = 0;
                loop {
                    let (status, close, _) = connection.get("/sleep?ms=3").await.unwrap();
                    assert_eq!(status, 200);
                    answered += 1;
                    if close {
                        return answered;
                    }
                }
            })
        })
        .collect();
    let slow = tokio::spawn(async move { get(address, "/sleep?ms=1500").await.0 });
    let mut idle = Connection::open(address).await;
    assert_eq!(idle.get("/health").await.unwrap().0, 200);
    tokio::time::sleep(Duration::from_millis(200)).await;
    host.client.stop_container("id-probe", "app", Stop { grace_seconds: 10 }).await.unwrap();
    for client in clients {
        assert!(client.await.unwrap() > 1);
    }
    // New connections are still welcome: not everybody knows yet.
    assert_eq!(get(address, "/health").await.0, 200);
    assert_eq!(slow.await.unwrap(), 200);
    let (code, reason, _) = host.exit("probe").await;
    assert_eq!((code, reason), (0, ExitReason::Completed));
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "still listening");
    assert!(idle.get("/health").await.is_err());
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grace_ends() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    let slow =
        tokio::spawn(async move { Connection::open(address).await.get("/sleep?ms=60000").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = std::time::Instant::now();
    host.client.stop_container("id-probe", "app", Stop { grace_seconds: 30 }).await.unwrap();
    host.client.stop_container("id-probe", "app", Stop { grace_seconds: 1 }).await.unwrap();
    let (code, reason, message) = host.exit("probe").await;
    assert_eq!((code, reason), (137, ExitReason::Error));
    assert!(message.contains("1 requests"), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(slow.await.unwrap().is_err());
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_returns_finds_everything() {
    let host = TestHost::start().await;
    let sandbox = host.sandbox("probe").await;
    let app = host.app(&sandbox, example("probe-http"));
    host.client.start_container(&sandbox.id, &app).await.unwrap();

    let agent = Client::new(host.client.socket());
    let found = agent.sandboxes().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].spec, sandbox);
    assert_eq!(found[0].containers[0].attempt, 0);
    // Asking again for what is there changes nothing.
    agent.put_sandbox(&sandbox).await.unwrap();
    let again = agent.start_container(&sandbox.id, &app).await.unwrap();
    assert_eq!(again.state, found[0].containers[0].state);

    let next = ContainerSpec { attempt: 1, ..app.clone() };
    let error = agent.start_container(&sandbox.id, &next).await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, ProblemCode::Conflict);
    agent.stop_container(&sandbox.id, "app", Stop { grace_seconds: 0 }).await.unwrap();
    host.exit("probe").await;
    let status = agent.start_container(&sandbox.id, &next).await.unwrap();
    assert_eq!((status.attempt, status.bound.len()), (1, 1));
    assert_eq!(get(status.bound[0], "/health").await.0, 200);
    agent.delete_sandbox(&sandbox.id).await.unwrap();
    assert!(agent.sandboxes().await.unwrap().is_empty());
    agent.delete_sandbox(&sandbox.id).await.unwrap();
    host.end().await;
}
