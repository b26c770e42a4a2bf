//! Instances that serve several requests.

use std::time::Duration;

use coracle_sandbox::*;

use super::crafted::crafted;
use super::fixture::*;

fn reuse(max_requests: u32, idle_milliseconds: u32) -> impl FnOnce(&mut ContainerSpec) {
    move |app| app.http.reuse = Some(Reuse { max_requests, idle_milliseconds })
}

async fn count(connection: &mut Connection, path: &str) -> String {
    let (status, _, body) = connection.get(path).await.unwrap();
    assert_eq!(status, 200, "{body}");
    body.trim().to_owned()
}

async fn instances(host: &TestHost) -> u64 {
    host.client.usage().await.unwrap()[0].usage.instances
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_serve_again_within_bounds() {
    let host = TestHost::start().await;
    let address = host.serve_with("probe", example("probe-http"), reuse(3, 60_000)).await;
    let mut connection = Connection::open(address).await;
    for expected in ["1", "2", "3", "1"] {
        assert_eq!(count(&mut connection, "/count").await, expected);
    }
    assert_eq!(instances(&host).await, 1);
    let usage = host.client.usage().await.unwrap()[0].usage;
    assert!(usage.memory_bytes > 0, "{usage:?}");

    // One request at a time: while it serves one, another instance serves the next.
    let slow = tokio::spawn(get(address, "/sleep?ms=400"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(count(&mut connection, "/count").await, "1");
    slow.await.unwrap();
    assert_eq!(instances(&host).await, 2);

    // What failed serves no more; what grew neither.
    assert_eq!(connection.get("/trap").await.unwrap().0, 500);
    assert_eq!(instances(&host).await, 1);
    assert_eq!(connection.get("/silent").await.unwrap().0, 500);
    assert_eq!(instances(&host).await, 0);
    assert_eq!(count(&mut connection, "/count").await, "1");
    assert_eq!(count(&mut connection, "/grow?mib=20").await, "20 MiB");
    assert_eq!(instances(&host).await, 0);
    // The connection is all that is left.
    assert_eq!(host.client.usage().await.unwrap()[0].usage.memory_bytes, 16 << 10);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_instances_end_and_so_do_those_of_a_container_that_exits() {
    let host = TestHost::start().await;
    let address = host.serve_with("probe", example("probe-http"), reuse(100, 300)).await;
    get(address, "/count").await;
    let begun = std::time::Instant::now();
    while instances(&host).await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() > Duration::from_millis(200), "{:?}", begun.elapsed());
    assert_eq!(get(address, "/count").await.1, "1\n");
    host.client.stop_container("id-probe", "app", Stop { grace_seconds: 0 }).await.unwrap();
    host.exit("probe").await;
    assert_eq!(instances(&host).await, 0);
    host.end().await;
}

/// Idle instances hold slots; whoever needs one must get it.
#[tokio::test(flavor = "multi_thread")]
async fn idle_instances_make_room() {
    let host = TestHost::start_with(|config| config.instances = 2).await;
    let first = host.serve_with("first", example("probe-http"), reuse(100, 60_000)).await;
    let both =
        [tokio::spawn(get(first, "/sleep?ms=200")), tokio::spawn(get(first, "/sleep?ms=200"))];
    for answer in both {
        assert_eq!(answer.await.unwrap().0, 200);
    }
    let other = host.serve("other", example("probe-http")).await;
    let answer = tokio::time::timeout(Duration::from_secs(5), get(other, "/count")).await;
    assert_eq!(answer.expect("it waited for an idle instance").0, 200);
    host.end().await;
}

/// An instance that leaves its answer open is not free, and its client is not kept waiting for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_left_open_ends_with_its_time() {
    let host = TestHost::start().await;
    let open = "(call $begin (local.get $out)) (local.set $stream) (local.set $body)
                (call $say (local.get $stream))";
    let address = host
        .serve_with("open", crafted(&host, "open", open), |app| {
            app.http.timeout_seconds = Some(1);
            reuse(100, 60_000)(app);
        })
        .await;
    let said = super::front::say(address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(said.contains("part\n") && !said.ends_with("0\r\n\r\n"), "{said}");
    assert_eq!(instances(&host).await, 0);
    host.end().await;
}
